"""Where batches are done: plain Dask futures on workers with a slot. No Prefect here.

Workers need neither Prefect nor its API. A worker that dies takes nobody's finished work with it, and an item that
kills every worker it meets fails alone: its batch is taken apart, and each suspect is tried with nothing else running,
so that no neighbour is blamed for it.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol
from uuid import uuid4

from distributed import Client, Future, KilledWorker, fire_and_forget
from distributed.client import FutureCancelledError, FuturesCancelledError
from distributed.comm.core import CommClosedError
from distributed.scheduler import NoValidWorkerError, NoWorkerError

from avatarlab.errors import ForeignWorker, NoWorkersLeft, WorkerError
from avatarlab.execute import warm_up
from avatarlab.graph import Batch
from avatarlab.stages import Item, Outcome, StageContext
from tasks.cluster import Cluster
from tasks.work import run_on_worker

logger = logging.getLogger(__name__)

RESUBMISSIONS = 10
TRIES_ALONE = 2
POLL_SECONDS = 2.0
LOST = (FutureCancelledError, FuturesCancelledError, CommClosedError, NoValidWorkerError, NoWorkerError)
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

    def resize(self, count: int) -> None:
        """More permits at once; fewer as those that are held come back."""
        with self._changed:
            if count != self._count:
                self._free += count - self._count
                self._count = count
                self._changed.notify_all()

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
            taken = self._count
            self._free -= taken
        try:
            yield
        finally:
            self._give_back(taken)

    def _give_back(self, permits: int) -> None:
        with self._changed:
            self._free += permits
            self._changed.notify_all()


class DaskPool:
    """Batches as Dask futures, one for each slot: a queued neighbour would be suspected when a worker dies."""

    def __init__(
        self,
        cluster: Cluster,
        context: StageContext,
        *,
        work: Work = run_on_worker,
        permits: Slots | None = None,
        deadline_seconds: float = 3600.0,
    ) -> None:
        self.cluster = cluster
        self.context = context
        self.work = work
        self.permits = permits or Slots(max(1, cluster.slots))
        self.deadline_seconds = deadline_seconds

    @property
    def slots(self) -> int:
        """As many as the workers have now, and one while there is none."""
        count = max(1, self.cluster.slots)
        self.permits.resize(count)
        return count

    def doing(self, work: Work, context: StageContext) -> "DaskPool":
        """Other work on the same workers and slots."""
        return DaskPool(self.cluster, context, work=work, permits=self.permits, deadline_seconds=self.deadline_seconds)

    def warm_up(self) -> None:
        """Lets every worker load its engines now; nobody waits for it, and a failure shows again where it matters."""
        client = self.cluster.client()
        for address in self.cluster.workers():
            fire_and_forget(
                client.submit(
                    warm_up, self.context, workers=[address], pure=False, resources={self.cluster.resource: 1}
                )
            )

    def run(self, batch: Batch) -> list[Outcome]:
        try:
            with self.permits.one():
                return self._submit(batch.name, batch.stage, batch.items)
        except KilledWorker:
            logger.warning("%s ended its workers; its %d items are tried one by one", batch.name, len(batch.items))
        return [outcome for item in batch.items for outcome in self._suspect(batch, item)]

    def _suspect(self, batch: Batch, item: Item) -> list[Outcome]:
        """Twice, each time on two workers: those that died before may have been killed for another reason."""
        for _ in range(TRIES_ALONE):
            try:
                with self.permits.alone():
                    return self._submit(f"{batch.name}-alone", batch.stage, (item,))
            except KilledWorker as error:
                last = _last_worker(error)
        return [
            Outcome(
                batch.stage,
                item.key,
                None,
                error=f"every worker that took this item died ({last})",
                remedy="look for memory or a crash in the worker's log; the other rows are not affected",
                kind="WorkerError",
            )
        ]

    def _submit(self, name: str, stage: str, items: Sequence[Item]) -> list[Outcome]:
        for attempt in range(RESUBMISSIONS):
            self._wait_for_a_worker()
            client = self.cluster.client()
            future: "Future[Any] | None" = None
            try:
                future = client.submit(
                    self.work,
                    stage,
                    tuple(items),
                    self.context,
                    key=f"{name}-{uuid4().hex[:8]}",
                    pure=False,
                    resources={self.cluster.resource: 1},
                    workers=self.cluster.chosen,
                )
                return self._answer(client, future, name)
            except KilledWorker:
                raise
            except ForeignWorker:
                self.cluster.leave_out_unfit(self.context)
            except LOST as error:
                self._look_after(client)
                logger.warning("%s was lost (%s, attempt %d)", name, type(error).__name__, attempt + 1)
            finally:
                if future is not None:
                    future.release()
        raise WorkerError(f"the Dask scheduler lost {name} {RESUBMISSIONS} times", "see its log, then run again")

    def _wait_for_a_worker(self) -> None:
        """Raises NoWorkersLeft when none has come in time."""
        deadline = time.monotonic() + self.cluster.patience_seconds
        while not self.cluster.slots:
            self.cluster.refuse_if_closed()
            self._look_after(self.cluster.client())
            if time.monotonic() > deadline:
                raise NoWorkersLeft(
                    f"no worker with {self.cluster.resource} is left", "start workers, then run the same command again"
                )
            time.sleep(POLL_SECONDS / 4)

    def _answer(self, client: Client, future: "Future[Any]", name: str) -> list[Outcome]:
        """Raises WorkerError past the deadline, and NoWorkersLeft when every worker is gone for long."""
        deadline = time.monotonic() + self.deadline_seconds
        while True:
            try:
                outcomes: list[Outcome] = future.result(timeout=POLL_SECONDS)
                return outcomes
            except TimeoutError:
                if future.done():  # meanwhile, or the error is the work's own
                    return list(future.result())
                self.cluster.refuse_if_closed()
            if time.monotonic() > deadline:
                self._restart_worker_of(client, future)
                raise WorkerError(
                    f"{name} did not finish within {self.deadline_seconds:.0f} s",
                    "its worker was restarted; run again",
                )
            if not self.cluster.slots:
                self._wait_for_a_worker()
            elif (chosen := self.cluster.chosen) is not None and not self._is_with(client, future, chosen):
                raise CommClosedError("its workers have left")

    def _is_with(self, client: Client, future: "Future[Any]", chosen: Sequence[str]) -> bool:
        holders = client.processing()
        return any(future.key in holders.get(address, ()) for address in chosen) or future.done()

    def _look_after(self, client: Client) -> None:
        """Connects again where the scheduler does not answer."""
        try:
            client.scheduler_info(n_workers=0)
            if client.status == "running":
                return
        except Exception as error:
            logger.debug("the scheduler does not answer: %s", error)
        self.cluster.lost(client)

    def _restart_worker_of(self, client: Client, future: "Future[Any]") -> None:
        busy = [worker for worker, keys in client.processing().items() if future.key in keys]
        future.cancel()
        if busy:
            client.restart_workers(busy)


def _last_worker(error: KilledWorker) -> str:
    address = getattr(error.last_worker, "address", None)
    return f"the last was {address}" if address else "see the worker's log"
