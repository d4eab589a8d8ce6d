"""How far a run is, for people: bars on a terminal, a line now and then elsewhere, and a sentence for Prefect.

Always on stderr. Rate and remaining time are those of the rows, over the last minutes.
"""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from avatarlab.artifacts import STAGES
from flows.drive import Listener

LINE_SECONDS = 10.0
RATE_SECONDS = 300.0


class Pace:
    """Rows a minute over the last `RATE_SECONDS`, and the time that the rest will take at that rate."""

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._total = total
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()

    def told(self, done: int) -> str:
        """`12.0 rows a minute, 0:05:00 left`; empty while nothing can be said."""
        now = self._clock()
        if not self._seen or now - self._seen[-1][0] >= 1.0:
            self._seen.append((now, done))
        while len(self._seen) > 2 and now - self._seen[0][0] > RATE_SECONDS:
            self._seen.popleft()
        start, first = self._seen[0]
        elapsed = now - start
        if done <= first or elapsed <= 0 or done >= self._total:
            return ""
        rate = (done - first) / elapsed
        left = timedelta(seconds=round((self._total - done) / rate))
        return f"{60 * rate:.1f} rows a minute, {left} left"


class Bars:
    """A bar for each stage, and the pace behind that of the rows."""

    def __init__(self, progress: Progress, totals: Mapping[str, int]) -> None:
        self._progress = progress
        self._pace = Pace(totals["video"])
        self._bars: dict[str, TaskID] = {
            stage: progress.add_task(stage, total=totals[stage], pace="") for stage in STAGES
        }

    def progress(self, settled: Mapping[str, int]) -> None:
        for stage, bar in self._bars.items():
            pace = self._pace.told(settled["video"]) if stage == "video" else ""
            self._progress.update(bar, completed=settled[stage], pace=pace)


class Lines:
    """One line at the start, at the end, and every few seconds in between."""

    def __init__(self, totals: Mapping[str, int]) -> None:
        self._totals = dict(totals)
        self._pace = Pace(totals["video"])
        self._told = -LINE_SECONDS

    def progress(self, settled: Mapping[str, int]) -> None:
        pace = self._pace.told(settled["video"])
        if time.monotonic() - self._told < LINE_SECONDS and dict(settled) != self._totals:
            return
        self._told = time.monotonic()
        text = ", ".join(f"{stage} {settled[stage]}/{self._totals[stage]}" for stage in STAGES)
        sys.stderr.write(f"{text}{f'; {pace}' if pace else ''}\n")
        sys.stderr.flush()


class NowAndThen:
    """Passes a text on at most every few seconds, and not in the first ones."""

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say
        self._told = time.monotonic()

    def __call__(self, text: str) -> None:
        if time.monotonic() - self._told >= LINE_SECONDS:
            self._told = time.monotonic()
            self._say(text)


@contextmanager
def progress_for_people(totals: Mapping[str, int]) -> Iterator[Listener]:
    """Something that hears of settled units, of `totals` by stage."""
    if not sys.stderr.isatty():
        yield Lines(totals)
        return
    columns = (
        TextColumn("{task.description:>8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[pace]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield Bars(progress, totals)
