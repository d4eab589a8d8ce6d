"""The Prefect flow: the run of `flows.session`, seen by Prefect as one task run for each batch.

The command hands over what it has planned and the workers it has started; a deployment gives plain parameters and the
flow does both itself.
"""

import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

from prefect import flow
from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.client.schemas.objects import State
from prefect.futures import PrefectConcurrentFuture
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from avatarlab.errors import WorkerError
from avatarlab.graph import Batch
from avatarlab.stages import Outcome
from flows.drive import Listener
from flows.prepare import Prepared, Request, prepare
from flows.progress import Pace
from flows.session import Report, carry_out
from flows.signals import stopping_on_signals
from flows.workers import default_workers, open_pool
from tasks.pool import Pool
from tasks.render import Work, make_batch, report_cached

MOST_THREADS = 256
ARTIFACT_SECONDS = 2.0
TABLE_ROWS = 1000


@dataclass
class Handover:
    """What the command gives the flow, and where the flow leaves its answer."""

    prepared: Prepared
    pool: Pool | None
    stop: threading.Event
    listener: Listener
    report: Report | None = None
    failure: BaseException | None = None
    flow_run_id: str = ""
    task_runs: int = 0


handover: ContextVar[Handover | None] = ContextVar("handover", default=None)


@dataclass
class PrefectStarter:
    """Every batch is one task run, in a thread that waits for its Dask future."""

    pool: Pool
    started: int = 0

    @property
    def slots(self) -> int:
        return self.pool.slots

    def start(self, batch: Batch) -> "Future[list[Outcome]]":
        answer: Future[list[Outcome]] = Future()
        submitted = cast("PrefectConcurrentFuture[Any]", make_batch.submit(Work(batch, self.pool)))
        self.started += 1

        def settle(done: "Future[Any]") -> None:
            try:
                state = done.result()
                value = state.result(raise_on_failure=False)
            except BaseException as error:  # a future that is never settled would be waited for without end
                value = error
            if isinstance(value, list):
                answer.set_result(value)
            elif isinstance(value, BaseException):
                answer.set_exception(value)
            else:
                answer.set_exception(WorkerError(f"{batch.name} ended without an answer", "run the same command again"))

        submitted.wrapped_future.add_done_callback(settle)
        return answer


@dataclass
class ProgressArtifact:
    """Tells Prefect how far the run is, at most every few seconds, and passes on what it hears."""

    then: Listener
    totals: Mapping[str, int]
    id: Any = None
    told: float = 0.0

    def __post_init__(self) -> None:
        self.pace = Pace(self.totals["video"])

    def progress(self, settled: Mapping[str, int]) -> None:
        self.then.progress(settled)
        share = 100.0 * sum(settled.values()) / max(1, sum(self.totals.values()))
        if self.id is not None and time.monotonic() - self.told < ARTIFACT_SECONDS and share < 100.0:
            return
        pace = self.pace.told(settled["video"])
        text = f"{settled['video']} of {self.totals['video']} rows{f', {pace}' if pace else ''}"
        if self.id is None:
            self.id = create_progress_artifact(share, key="render-progress", description=text)
        else:
            update_progress_artifact(self.id, share, description=text)
        self.told = time.monotonic()


class Silent:
    def progress(self, settled: Mapping[str, int]) -> None:
        pass


@flow(
    name="render",
    flow_run_name="render-{run_id}",
    task_runner=cast("TaskRunner[Any]", ThreadPoolTaskRunner(max_workers=MOST_THREADS)),
    persist_result=False,
    validate_parameters=True,
)
def render(
    manifest: str,
    store: str,
    models: str | None = None,
    avatars: tuple[str, ...] = (),
    device: str = "cpu",
    only: tuple[str, ...] = (),
    skip_invalid: bool = False,
    run_id: str | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    lexicon: str | None = None,
) -> State[dict[str, int]]:
    """Renders a manifest: every row becomes a video in the store. See `avatarlab render --help` for the parameters."""
    given = handover.get()
    with ExitStack() as stack:
        if given is None:
            request = Request(
                manifest, store, models, avatars, device, only, skip_invalid, run_id, workers, scheduler, lexicon
            )
            prepared = prepare(request)
            pool = None
            if prepared.missing:
                count = workers or default_workers(device)
                pool = stack.enter_context(open_pool(prepared.context, count, scheduler))
            given = Handover(prepared, pool, threading.Event(), Silent())
        try:
            return _render(given)
        except BaseException as error:
            given.failure = error
            raise


def _render(given: Handover) -> State[dict[str, int]]:
    for stage, hits in given.prepared.survey.found.items():
        if hits:
            report_cached.submit(stage, hits).wait()
            given.task_runs += 1
    starter = PrefectStarter(given.pool) if given.pool else None
    with stopping_on_signals(given.stop):  # Prefect's own handler would crash the flow and lose what runs
        report = carry_out(
            given.prepared, starter, given.stop, ProgressArtifact(given.listener, given.prepared.survey.totals)
        )
    given.task_runs += starter.started if starter else 0
    given.flow_run_id = str(flow_run.id)
    given.report = report
    create_table_artifact(
        [
            {
                "id": row.id,
                "status": row.status,
                "video": row.video_uri,
                "seconds": row.duration_seconds,
                "error": row.error,
            }
            for row in islice(report.rows, TABLE_ROWS)
        ],
        key="render-results",
        description=f"{report.counts}; all rows: {report.results_uri}",
    )
    if report.interrupted:
        return Cancelled(message=f"interrupted: {report.counts}", data=dict(report.counts))
    if report.exit_code:
        return Failed(message=f"some rows failed: {report.counts}", data=dict(report.counts))
    if set(report.counts) == {"cached"}:
        return Completed(name="Cached", message=f"{report.counts}", data=dict(report.counts))
    return Completed(message=f"{report.counts}", data=dict(report.counts))
