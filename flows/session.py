"""A render from what is prepared to the results, without a word about Prefect: drive, publish, answer.

prepared = prepare(request)                            # reads, checks and plans everything; computes nothing
if prepared.missing: ...                               # only then are workers and a server worth starting
report = carry_out(prepared, starter, stop, listener)
"""

import json
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING

from avatarlab.artifacts import Action, SetAside
from avatarlab.errors import StoreError
from avatarlab.graph import Batch, Finished
from avatarlab.manifest import manifest_table
from avatarlab.plan import PlannedRow
from avatarlab.results import Ledger, ResultRow, read_results
from avatarlab.stages import (
    Outcome,
)
from avatarlab.store import Store
from avatarlab.tables import table_in_portions
from flows.drive import WINDOW_PER_SLOT, Drive, Listener, Starter
from flows.metadata import duration_of, metadata
from flows.prepare import Prepared, describe

if TYPE_CHECKING:
    from tasks.pool import Pool

PUBLISHERS = 8
MOST_UNPUBLISHED = 64


@dataclass(frozen=True)
class Report:
    """What a run came to. `given_up` says why it ended before its end, where it did; `not_stored` why the store did not take
    the results, which are then on this machine.

    `unrecorded` is true where the Prefect server could not take the end of the run, and so shows it wrongly.
    """

    run_id: str
    store: Store
    results_name: str
    counts: Mapping[str, int]
    interrupted: bool
    seconds: float
    set_aside: tuple[SetAside, ...] = ()
    given_up: str = ""
    not_stored: str = ""
    unrecorded: bool = False

    @property
    def exit_code(self) -> int:
        if self.interrupted:
            return 130
        return (
            1
            if self.unrecorded or self.not_stored or self.counts.get("failed") or self.counts.get("quarantined")
            else 0
        )

    @property
    def results_uri(self) -> str:
        return self.store.public_uri(self.results_name)

    @property
    def rows(self) -> Iterator[ResultRow]:
        """Every row of the manifest, in its order, read from the results."""
        return read_results(self.store, self.results_name)


class ThreadStarter(AbstractContextManager["ThreadStarter"]):
    """Batches without Prefect: a thread waits for each one that is under way."""

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self._threads = ThreadPoolExecutor(WINDOW_PER_SLOT * pool.slots, thread_name_prefix="batch")

    @property
    def slots(self) -> int:
        return self._pool.slots

    def start(self, batch: Batch) -> "Future[list[Outcome]]":
        return self._threads.submit(self._pool.run, batch)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=kind is None, cancel_futures=True)


def carry_out(prepared: Prepared, starter: Starter | None, stop: threading.Event, listener: Listener) -> Report:
    """Makes what is missing, publishes each row as soon as its video exists, and writes the results last.

    Rows are taken in as the workers get through them, and results are written in parts. When publishing is slower than
    the workers, the workers wait.
    """
    started = time.monotonic()
    store = prepared.artifacts.store
    folder = f"runs/{prepared.run_id}"
    with table_in_portions(store, f"{folder}/manifest.parquet") as table:
        for portion in prepared.portions:
            table.write(manifest_table(portion.manifest))
    store.put(f"{folder}/plan.json", _json(describe(prepared)))
    ledger = Ledger(store, folder)
    known: dict[tuple[str, str], Action] = {}

    def rows() -> Iterator[Sequence[PlannedRow]]:
        for portion in prepared.portions:
            ledger.expect(portion.manifest)
            known.clear()
            known.update(((action.stage, action.key), action) for action in portion.known)
            yield portion.rows

    def find(stage: str, keys: list[str]) -> Mapping[str, Action]:
        found = {key: known.pop((stage, key)) for key in keys if (stage, key) in known}
        unknown = [key for key in keys if key not in found]
        return {**found, **prepared.artifacts.find(stage, unknown)} if unknown else found

    supply = rows()
    run = Drive(prepared.graph(), supply, find, starter, stop, listener)
    with ThreadPoolExecutor(PUBLISHERS, thread_name_prefix="publish") as publishers:
        answers: deque[Future[ResultRow]] = deque()
        for finished, attempts in run.finished():
            answers.append(publishers.submit(_answer, prepared, finished, attempts))
            while answers and (answers[0].done() or len(answers) >= MOST_UNPUBLISHED):
                ledger.answer(answers.popleft().result())
        for answer in answers:
            ledger.answer(answer.result())
    for _ in supply:  # what was never begun is answered too
        pass
    kept_in, name = ledger.close(lambda id: _cut_off(prepared, id, run.hopeless))
    return Report(
        run_id=prepared.run_id,
        store=kept_in,
        results_name=name,
        counts=ledger.counts,
        interrupted=stop.is_set(),
        seconds=time.monotonic() - started,
        set_aside=tuple(prepared.artifacts.set_aside),
        given_up=run.hopeless.error if run.hopeless else "",
        not_stored=ledger.trouble,
    )


def _answer(prepared: Prepared, finished: Finished, attempts: int) -> ResultRow:
    """Publishes a finished row and says what became of it."""
    planned = finished.planned
    answer = ResultRow(
        id=planned.row.id,
        status="failed",
        notes=planned.notes,
        attempts=attempts,
        seconds=finished.seconds,
        cached=finished.cached,
        peak_memory_mb=finished.peak_memory_mb or None,
        device=finished.device or None,
        models_digest=prepared.models.set_digest,
    )
    if finished.video is None:
        failure = finished.failure
        assert failure is not None
        return replace(answer, error=f"{failure.stage}: {failure.error}", remedy=failure.remedy)
    try:
        published = prepared.artifacts.publish_video(planned.row.id, finished.video, metadata(prepared, finished))
    except StoreError as error:
        return replace(answer, error=f"publishing: {error.message}", remedy=error.remedy)
    told = [note for line in planned.lines for action in finished.actions[line].values() for note in action.notes]
    notes = (*planned.notes, *told, *finished.video.notes)
    if not published.is_current:
        notes = (*notes, "another version was made current by hand and stays current")
    return replace(
        answer,
        status="cached" if finished.found else "done",
        video_uri=published.video_uri,
        version=published.version,
        duration_seconds=duration_of(finished),
        notes=notes,
    )


def _cut_off(prepared: Prepared, id: str, hopeless: Outcome | None) -> ResultRow:
    return ResultRow(
        id=id,
        status="failed",
        error=f"not begun: {hopeless.error}" if hopeless else "interrupted before this row was finished",
        remedy=hopeless.remedy if hopeless else "run the same command again; what is finished is kept",
        models_digest=prepared.models.set_digest,
    )


def _json(value: Mapping[str, object]) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode()
