"""Where batches are done: plain Dask futures on workers with a slot. No Prefect here.

Workers need neither Prefect nor its API. A worker that dies takes nobody's finished work with it, and an item that
kills every worker it meets fails alone: its batch is taken apart, and each suspect is tried with nothing else running,
so that no neighbour is blamed for it.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol
from uuid import uuid4

from distributed import Client, KilledWorker, fire_and_forget
from distributed.client import FutureCancelledError
from distributed.scheduler import NoValidWorkerError, NoWorkerError

from avatarlab.errors import WorkerError
from avatarlab.execute import run_batch, warm_up
from avatarlab.graph import Batch
from avatarlab.stages import Item, Outcome, StageContext

logger = logging.getLogger(__name__)

RESUBMISSIONS = 5
Work = Callable[[str, Sequence[Item], StageContext], list[Outcome]]


class Pool(Protocol):
    """`slots` batches are worked on at once; `run` blocks until its batch is done, and is called from many threads."""

    @property
    def slots(self) -> int: ...

    def run(self, batch: Batch) -> list[Outcome]:
        """One outcome for each item. Raises WorkerError when no worker can be had."""
        ...


class Slots:
    """Counted permits. `alone` waits until nobody holds one and keeps everybody else out."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._free = count
        self._waiting_alone = 0
        self._changed = threading.Condition()

    @contextmanager
    def one(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._free > 0 and not self._waiting_alone)
            self._free -= 1
        try:
            yield
        finally:
            self._give_back(1)

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._waiting_alone += 1
            self._changed.wait_for(lambda: self._free == self._count)
            self._waiting_alone -= 1
            self._free = 0
        try:
            yield
        finally:
            self._give_back(self._count)

    def _give_back(self, permits: int) -> None:
        with self._changed:
            self._free += permits
            self._changed.notify_all()


class DaskPool:
    """Batches as Dask futures, one for each slot: a queued neighbour would be suspected when a worker dies."""

    def __init__(
        self,
        client: Client,
        context: StageContext,
        resource: str,
        slots: int,
        *,
        work: Work = run_batch,
        permits: Slots | None = None,
        deadline_seconds: float = 3600.0,
    ) -> None:
        self.client = client
        self.context = context
        self.resource = resource
        self.slots = slots
        self.work = work
        self.permits = permits or Slots(slots)
        self.deadline_seconds = deadline_seconds

    def doing(self, work: Work, context: StageContext) -> "DaskPool":
        """Other work on the same workers and slots."""
        return DaskPool(
            self.client,
            context,
            self.resource,
            self.slots,
            work=work,
            permits=self.permits,
            deadline_seconds=self.deadline_seconds,
        )

    def warm_up(self) -> None:
        """Lets every worker load its engines now; nobody waits for it, and a failure shows again where it matters."""
        for address in self.client.scheduler_info(n_workers=-1)["workers"]:
            fire_and_forget(
                self.client.submit(warm_up, self.context, workers=[address], pure=False, resources={self.resource: 1})
            )

    def run(self, batch: Batch) -> list[Outcome]:
        try:
            with self.permits.one():
                return self._submit(batch.name, batch.stage, batch.items)
        except KilledWorker:
            logger.warning("%s ended its workers; its %d items are tried one by one", batch.name, len(batch.items))
        return [outcome for item in batch.items for outcome in self._suspect(batch, item)]

    def _suspect(self, batch: Batch, item: Item) -> list[Outcome]:
        try:
            with self.permits.alone():
                return self._submit(f"{batch.name}-alone", batch.stage, (item,))
        except KilledWorker as error:
            return [
                Outcome(
                    batch.stage,
                    item.key,
                    None,
                    error=f"every worker that took this item died ({_last_worker(error)})",
                    remedy="look for memory or a crash in the worker's log; the other rows are not affected",
                    kind="WorkerError",
                )
            ]

    def _submit(self, name: str, stage: str, items: Sequence[Item]) -> list[Outcome]:
        for attempt in range(RESUBMISSIONS):
            future = self.client.submit(
                self.work,
                stage,
                tuple(items),
                self.context,
                key=f"{name}-{uuid4().hex[:8]}",
                pure=False,
                resources={self.resource: 1},
            )
            try:
                outcomes: list[Outcome] = future.result(timeout=self.deadline_seconds)
                return outcomes
            except KilledWorker:
                raise
            except TimeoutError as error:
                self._restart_worker_of(future)
                raise WorkerError(
                    f"{name} did not finish within {self.deadline_seconds:.0f} s",
                    "its worker was restarted; run again",
                ) from error
            except (NoValidWorkerError, NoWorkerError) as error:
                raise WorkerError(
                    f"no worker with {self.resource} is left", "start workers, then run the same command again"
                ) from error
            except FutureCancelledError:
                logger.warning("the Dask scheduler lost %s (attempt %d); submitting it again", name, attempt + 1)
            finally:
                future.release()
        raise WorkerError(
            f"the Dask scheduler lost {name} {RESUBMISSIONS} times", "see the scheduler's log, then run again"
        )

    def _restart_worker_of(self, future: Any) -> None:
        busy = [worker for worker, keys in self.client.processing().items() if future.key in keys]
        future.cancel()
        if busy:
            self.client.restart_workers(busy)


def _last_worker(error: KilledWorker) -> str:
    address = getattr(error.last_worker, "address", None)
    return f"the last was {address}" if address else "see the worker's log"
