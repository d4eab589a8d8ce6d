"""The loop of a render, the same with and without Prefect: start what can be started, hand over what is finished.

A bounded number of batches is under way. Failures that may pass (a store that did not answer, a damaged artifact that
was set aside, a lost worker) are tried again after everything else, in a new pass that finds what the last one made.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Protocol

from avatarlab.plan import Batch, Find, Finished, PlannedRow, RenderGraph
from avatarlab.stages import Outcome, failed

PASSES = 3
WINDOW_PER_SLOT = 2
POLL_SECONDS = 0.5


class Starter(Protocol):
    """Starts batches somewhere and gives futures of their outcomes; `slots` of them are worked on at once."""

    @property
    def slots(self) -> int: ...

    def start(self, batch: Batch, /) -> "Future[list[Outcome]]": ...


class Listener(Protocol):
    """Hears how far each stage is, from the loop's own thread."""

    def progress(self, settled: Mapping[str, int], totals: Mapping[str, int]) -> None: ...


def drive(
    graph: RenderGraph,
    replan: Callable[[Sequence[PlannedRow]], RenderGraph],
    find: Find,
    starter: Starter | None,
    stop: threading.Event,
    listener: Listener,
) -> Iterator[tuple[Finished, int]]:
    """Yields every finished row once, with the number of the pass that finished it.

    `graph` is resolved; `starter` may be None where nothing is missing. Once `stop` is set nothing new is started, what
    runs is waited for, and rows that are cut off are not yielded.
    """
    for number in range(1, PASSES + 1):
        again: list[PlannedRow] = []
        for finished in _one_pass(graph, find, starter, stop, listener):
            passing = finished.failure is not None and finished.failure.retryable
            if passing and number < PASSES and not stop.is_set():
                again.append(finished.planned)
            else:
                yield finished, number
        if not again or stop.is_set():
            return
        graph = replan(again)
        graph.resolve(find)


def _one_pass(
    graph: RenderGraph, find: Find, starter: Starter | None, stop: threading.Event, listener: Listener
) -> Iterator[Finished]:
    running: dict[Future[list[Outcome]], Batch] = {}
    listener.progress(graph.settled, graph.totals)
    yield from graph.finished()
    while True:
        while starter and not stop.is_set() and len(running) < WINDOW_PER_SLOT * starter.slots:
            batch = graph.next_batch(starter.slots)
            if batch is None:
                break
            running[starter.start(batch)] = batch
        if not running:
            return
        done, _ = wait(running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
        for future in done:
            graph.report(_outcomes(future, running.pop(future)))
        if done:
            graph.resolve(find)
            listener.progress(graph.settled, graph.totals)
            yield from graph.finished()


def _outcomes(future: "Future[list[Outcome]]", batch: Batch) -> list[Outcome]:
    try:
        return future.result()
    except Exception as error:  # whatever broke a batch as a whole is the answer for each of its items
        return [failed(batch.stage, item.key, error) for item in batch.items]
