"""How far a run is, for people: bars on a terminal, a line now and then elsewhere. Always on stderr."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from avatarlab.artifacts import STAGES
from flows.drive import Listener

LINE_SECONDS = 10.0


class Bars:
    """A bar for each stage."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[str, TaskID] = {stage: progress.add_task(stage, total=None) for stage in STAGES}

    def progress(self, settled: Mapping[str, int], totals: Mapping[str, int]) -> None:
        for stage, bar in self._bars.items():
            self._progress.update(bar, completed=settled[stage], total=totals[stage])


class Lines:
    """One line at the start, at the end, and every few seconds in between."""

    def __init__(self) -> None:
        self._told = -LINE_SECONDS

    def progress(self, settled: Mapping[str, int], totals: Mapping[str, int]) -> None:
        if time.monotonic() - self._told < LINE_SECONDS and dict(settled) != dict(totals):
            return
        self._told = time.monotonic()
        text = ", ".join(f"{stage} {settled[stage]}/{totals[stage]}" for stage in STAGES)
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


@contextmanager
def progress_for_people() -> Iterator[Listener]:
    if not sys.stderr.isatty():
        yield Lines()
        return
    columns = (TextColumn("{task.description:>8}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield Bars(progress)
