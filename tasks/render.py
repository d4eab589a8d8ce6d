"""The Prefect tasks of a render: one run for each batch of missing work, one for each stage of found work.

States are told from outcomes. A batch with a failed item is `Failed` even though its neighbours are done and stored;
what was found in the store is `Completed(name="Cached")`, once for each stage, never one task run for each artifact.
"""

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Completed, Failed

from avatarlab.errors import AvatarLabError
from avatarlab.graph import Batch
from avatarlab.stages import Outcome
from tasks.pool import Pool


class Work:
    """A batch and where it is done, opaque to Prefect, which would otherwise walk through every item."""

    __slots__ = ("batch", "pool")

    def __init__(self, batch: Batch, pool: Pool) -> None:
        self.batch = batch
        self.pool = pool

    def __str__(self) -> str:
        return self.batch.name


def retry_can_help(_task: Any, _run: TaskRun, state: State[Any]) -> bool:
    """Only a batch that raised is started again: failed items are data, and `drive` decides about those."""
    if isinstance(state.data, Outcome | list):
        return False
    error = state.result(raise_on_failure=False)
    return isinstance(error, AvatarLabError) and error.retryable


@task(
    task_run_name="{work}",
    persist_result=False,
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=2,
    retry_jitter_factor=0.5,
    retry_condition_fn=retry_can_help,
)
def make_batch(work: Work) -> State[list[Outcome]]:
    outcomes = work.pool.run(work.batch)
    failed = [outcome for outcome in outcomes if outcome.action is None]
    found = sum(outcome.found for outcome in outcomes)
    made = len(outcomes) - len(failed) - found
    message = f"{made} made, {found} found, {len(failed)} failed"
    if failed:
        return Failed(message=f"{message}: {failed[0].error}", data=outcomes)
    if found == len(outcomes):
        return Completed(name="Cached", message=message, data=outcomes)
    return Completed(message=message, data=outcomes)


@task(task_run_name="{stage}-cached", persist_result=False, cache_policy=NO_CACHE)
def report_cached(stage: str, count: int) -> State[int]:
    """The found work of one stage, as one task run."""
    return Completed(name="Cached", message=f"{count} {stage} in the store already", data=count)
