"""The Prefect flow: the run of `flows.session`, seen by Prefect as one task run for each batch.

The command hands over what it has planned and the workers it has started; a deployment gives plain parameters and the
flow does both itself.
"""

import threading
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

from prefect import flow
from prefect.artifacts import create_table_artifact
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
from flows.records import ProgressArtifact, mark_dead_runs, sign, wait_until_recorded
from flows.session import Report, carry_out
from flows.signals import stopping_on_signals
from flows.workers import default_workers, open_pool
from tasks.pool import Pool
from tasks.render import Work, make_batch, report_cached

MOST_THREADS = 256
TABLE_ROWS = 1000
MOST_UNRECORDED = 1000  # task runs: the server's queue holds 10,000 events, three for each
CATCH_UP_SECONDS = 30.0
RECORD_SECONDS = 60.0
FLOW_NAME = "render"


@dataclass
class Handover:
    """What the command gives the flow, and where the flow leaves its answer."""

    prepared: Prepared
    pool: Pool | None
    stop: threading.Event
    listener: Listener
    report: Report | None = None
    failure: BaseException | None = None
    task_runs: int = 0
    recorded: int = 0


handover: ContextVar[Handover | None] = ContextVar("handover", default=None)


@dataclass
class PrefectStarter:
    """Every batch is one task run, in a thread that waits for its Dask future.

    A server that falls behind drops what it cannot queue, so starting waits for it now and then.
    """

    pool: Pool
    flow_run_id: str
    started: int = 0
    recorded: int = 0

    @property
    def slots(self) -> int:
        return self.pool.slots

    def start(self, batch: Batch) -> "Future[list[Outcome]]":
        self._let_the_server_catch_up()
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

    def _let_the_server_catch_up(self) -> None:
        if self.started - self.recorded < MOST_UNRECORDED:
            return
        enough = self.started - MOST_UNRECORDED // 2
        # A server that does not catch up in time is given up on for these: rendering goes first.
        self.recorded = max(enough, wait_until_recorded(self.flow_run_id, enough, CATCH_UP_SECONDS))


class Silent:
    def progress(self, settled: Mapping[str, int]) -> None:
        pass


@flow(
    name=FLOW_NAME,
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
    own, prepared = str(flow_run.id), given.prepared
    mark_dead_runs(FLOW_NAME, own)
    sign(own, prepared.run_id)
    for stage, hits in prepared.survey.found.items():
        if hits:
            report_cached.submit(stage, hits).wait()
            given.task_runs += 1
    starter = PrefectStarter(given.pool, own) if given.pool else None
    told = ProgressArtifact(given.listener, prepared.survey.totals)
    with stopping_on_signals(given.stop):  # Prefect's own handler would crash the flow and lose what runs
        report = carry_out(prepared, starter, given.stop, told)
    told.close()
    given.report = report
    given.task_runs += starter.started if starter else 0
    with suppress(Exception):  # the results are in the store; a server that is gone must not undo them
        _tell_results(report)
    given.recorded = wait_until_recorded(own, given.task_runs, RECORD_SECONDS)
    counts = dict(report.counts)
    if report.interrupted:
        return Cancelled(message=f"interrupted: {counts}", data=counts)
    if report.exit_code:
        return Failed(message=f"some rows failed: {counts}", data=counts)
    if set(counts) == {"cached"}:
        return Completed(name="Cached", message=f"{counts}", data=counts)
    return Completed(message=f"{counts}", data=counts)


def _tell_results(report: Report) -> None:
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
        description=f"{dict(report.counts)}; all rows: {report.results_uri}",
    )
