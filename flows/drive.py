"""The loop of a render, the same with and without Prefect: start what can be started, hand over what is finished.

A bounded number of batches is under way, and only as many rows are in the graph as keep the workers busy. Failures that
may pass (a store that did not answer, a damaged artifact that was set aside, a lost worker) are tried again after
everything else, in a new pass that finds what the last one made.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Protocol

from avatarlab.graph import Batch, Find, Finished, RenderGraph
from avatarlab.plan import PlannedRow
from avatarlab.stages import Outcome, failed

PASSES = 3
WINDOW_PER_SLOT = 2
UNITS_PER_SLOT = 64  # ready to be started: below that, more rows are taken in
POLL_SECONDS = 0.5
HOPELESS_BATCHES = 8  # that failed as a whole for want of a store or a worker, one after another
HOPELESS = ("StoreUnreachable", "WorkerError")
HOPELESS_AT_ONCE = ("NoWorkersLeft", "ForeignWorker")


class Starter(Protocol):
    """Starts batches somewhere and gives futures of their outcomes; `slots` of them are worked on at once."""

    @property
    def slots(self) -> int: ...

    def start(self, batch: Batch, /) -> "Future[list[Outcome]]": ...


class Listener(Protocol):
    """Hears how far each stage is, from the loop's own thread."""

    def progress(self, settled: Mapping[str, int]) -> None: ...


@dataclass
class Drive:
    """`rows` gives the rows of the run, some at a time. `starter` may be None where nothing is missing.

    Once `stop` is set nothing new is started, what runs is waited for, and rows that are cut off are not given out. The
    same happens where the run has become hopeless; then `hopeless` is the outcome that says why.
    """

    graph: RenderGraph
    rows: Iterator[Sequence[PlannedRow]]
    find: Find
    starter: Starter | None
    stop: threading.Event
    listener: Listener
    hopeless: Outcome | None = None
    _again: list[Finished] = field(default_factory=list)
    _more: bool = True
    _failures: int = 0

    def finished(self) -> Iterator[tuple[Finished, int]]:
        """Every finished row once, with the number of the pass that finished it."""
        for number in range(1, PASSES + 1):
            for finished in self._pass():
                passing = finished.failure is not None and finished.failure.retryable
                if passing and number < PASSES and not self._ending:
                    self._again.append(finished)
                else:
                    yield finished, number
            again, self._again = self._again, []
            if self._ending:
                yield from ((finished, number) for finished in again)
                return
            if not again:
                return
            self.graph.add_again(finished.planned for finished in again)
            self.graph.resolve(self.find)

    @property
    def _ending(self) -> bool:
        return self.stop.is_set() or self.hopeless is not None

    def _pass(self) -> Iterator[Finished]:
        running: dict[Future[list[Outcome]], Batch] = {}
        while True:
            yield from self._take_in()
            while self.starter and not self._ending and len(running) < WINDOW_PER_SLOT * self.starter.slots:
                batch = self.graph.next_batch(self.starter.slots)
                if batch is None:
                    break
                running[self.starter.start(batch)] = batch
            if not running:
                return
            done, _ = wait(running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            for future in done:
                outcomes = _outcomes(future, running.pop(future))
                self._judge(outcomes)
                self.graph.report(outcomes)
            if done:
                self.graph.resolve(self.find)
                yield from self._hand_over()

    def _take_in(self) -> Iterator[Finished]:
        """Takes rows in until the workers have enough to do, and gives out those that are finished at once."""
        yield from self._hand_over()
        while self._more and not self._ending and self.graph.waiting < UNITS_PER_SLOT * self._slots:
            rows = next(self.rows, None)
            if rows is None:
                self._more = False
                return
            self.graph.add(rows)
            self.graph.resolve(self.find)
            yield from self._hand_over()

    def _hand_over(self) -> Iterator[Finished]:
        self.listener.progress(self.graph.settled)
        yield from self.graph.finished()

    @property
    def _slots(self) -> int:
        return self.starter.slots if self.starter else 1

    def _judge(self, outcomes: Sequence[Outcome]) -> None:
        """Counts batches that nothing came of because the store or the workers are gone: the next would end the same."""
        beyond_help = next((outcome for outcome in outcomes if outcome.kind in HOPELESS_AT_ONCE), None)
        lost = all(outcome.action is None and outcome.retryable and outcome.kind in HOPELESS for outcome in outcomes)
        self._failures = self._failures + 1 if lost else 0
        if self._failures >= max(HOPELESS_BATCHES, WINDOW_PER_SLOT * self._slots):
            self.hopeless = outcomes[0]
        self.hopeless = beyond_help or self.hopeless


def _outcomes(future: "Future[list[Outcome]]", batch: Batch) -> list[Outcome]:
    try:
        return future.result()
    except Exception as error:  # whatever broke a batch as a whole is the answer for each of its items
        return [failed(batch.stage, item.key, error) for item in batch.items]
