"""Ctrl-C and SIGTERM: the first asks to stop, and running work is finished; the second stops at once."""

import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stopping_on_signals(stop: threading.Event) -> Iterator[None]:
    """The first signal sets `stop`, the next raises KeyboardInterrupt.

    Outside the main thread, where Python installs no handlers, signals are left alone.
    """

    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        if stop.is_set():
            ignore_signals()  # what follows is bounded, and a third one would only break it off
            raise KeyboardInterrupt
        stop.set()
        sys.stderr.write("\nstopping: running batches are finished first; once more to stop at once\n")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[signal.Signals, Any] = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield
    except KeyboardInterrupt:  # on the way out every further one stays ignored
        raise
    except BaseException:
        _install(before)
        raise
    else:
        _install(before)


def _install(handlers: Mapping[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


def terminate_as_interrupt() -> None:
    """SIGTERM ends this process as Ctrl-C does, so that servers and workers it started are stopped."""

    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        ignore_signals()
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, handle)


def ignore_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
