"""A side file of what was really made: one line when the making of an artifact begins, one when it is stored.

Written by workers where AVATARLAB_JOURNAL names a file, for audits and for tests that prove that finished work is not done
again. What was found in the store is not made and leaves no line. A line is one short write that is appended whole, so
several processes on a machine share a file.

    start tokens 3f0c... 4711 1767225600.123
    done tokens 3f0c... 4711 1767225600.987
"""

import logging
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

VARIABLE = "AVATARLAB_JOURNAL"
Event = Literal["start", "done"]
Unit = tuple[str, str]  # stage, key

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """One line: the `event`, "start" or "done", and its `time` in seconds since 1970."""

    event: str
    stage: str
    key: str
    pid: int
    time: float


def note(event: Event, stage: str, key: str) -> None:
    """Append a line where a journal is asked for. Work goes on where it cannot be written; that is logged once."""
    path = os.environ.get(VARIABLE)
    if not path:
        return
    line = f"{event} {stage} {key} {os.getpid()} {time.time():.3f}\n".encode()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        _warn_once(path, str(error))


@cache
def _warn_once(path: str, reason: str) -> None:
    logger.warning("the journal %s cannot be written: %s", path, reason)


def entries(path: Path) -> Iterator[Entry]:
    """The lines of a journal in order; one that a full disk or a crash has cut short is passed over."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            with suppress(ValueError):
                event, stage, key, pid, when = line.removesuffix("\n").split(" ")
                yield Entry(event, stage, key, int(pid), float(when))


def counts(path: Path) -> tuple[Counter[Unit], Counter[Unit]]:
    """How often each (stage, key) was begun, and how often finished. Raises FileNotFoundError where nothing was made."""
    begun: Counter[Unit] = Counter()
    finished: Counter[Unit] = Counter()
    for entry in entries(path):
        (begun if entry.event == "start" else finished)[entry.stage, entry.key] += 1
    return begun, finished
