"""The workers of a Dask scheduler, as they come and go. No Prefect here.

A scheduler that was killed and started again is found again; its workers are counted anew all the time, so that one that
joins late gets work and one that leaves is not waited for.
"""

import logging
import threading
import time
from contextlib import suppress
from typing import Any

from distributed import Client

from avatarlab.errors import NoWorkersLeft, SettingsError
from avatarlab.identity import Fitness, examine
from avatarlab.stages import StageContext

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
COUNT_SECONDS = 1.0
NO_WORKERS_SECONDS = 300.0
ALLOWED_FAILURES = 1  # a task that has ended two workers is not given to a third


class Cluster:
    """Thread-safe. `resource` is what a worker must declare to be one of ours."""

    def __init__(self, address: str, resource: str, patience_seconds: float = NO_WORKERS_SECONDS) -> None:
        self.address = address
        self.resource = resource
        self.patience_seconds = patience_seconds
        self._client: Client | None = None
        self._closed = False
        self._lock = threading.RLock()
        self._counting = threading.Lock()
        self._counted = -COUNT_SECONDS
        self._workers: dict[str, int] = {}
        self._unfit: set[str] = set()

    def client(self) -> Client:
        """A client that is connected, made anew where the last one was lost.

        Raises NoWorkersLeft where no scheduler answers for `patience_seconds`, and once the run is over.
        """
        with self._lock:
            self.refuse_if_closed()
            deadline = time.monotonic() + self.patience_seconds
            while self._client is None:
                self.refuse_if_closed()
                try:
                    self.connect()
                except SettingsError as error:
                    if time.monotonic() > deadline:
                        raise NoWorkersLeft(
                            f"the Dask scheduler at {self.address} is gone", "start it and the workers, then run again"
                        ) from error
                    time.sleep(0.5)
            return self._client

    def connect(self) -> None:
        """Raises SettingsError where no scheduler answers within `CONNECT_SECONDS`."""
        try:
            client = Client(self.address, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"no Dask scheduler answers at {self.address}", "start `dask scheduler`, or leave out --scheduler"
            ) from error
        client.run_on_scheduler(_give_up_early)
        with self._lock:
            self._client = client

    def lost(self, client: Client) -> None:
        """Says that a client has lost its scheduler."""
        with self._lock:
            if self._client is client:
                self._client = None
                logger.warning("the connection to the Dask scheduler at %s was lost; connecting again", self.address)
        with suppress(Exception):
            client.close(timeout=1)

    def refuse_if_closed(self) -> None:
        """Raises NoWorkersLeft: threads that still wait for an answer need not wait any more."""
        if self._closed:
            raise NoWorkersLeft("the run was ended", "run the same command again; what is finished is kept")

    def close(self) -> None:
        self._closed = True
        with self._lock:
            if self._client is not None:
                self._client.close(timeout=5)
                self._client = None

    def workers(self) -> dict[str, int]:
        """Slots by the address of each worker that declares the resource, as counted within the last second."""
        with self._counting:
            if time.monotonic() - self._counted >= COUNT_SECONDS:
                client = self._client
                try:
                    found = client.scheduler_info(n_workers=-1)["workers"] if client else {}
                except Exception:  # in the middle of a loss: whoever waits for an answer notices
                    found = {}
                self._workers = {
                    address: slots
                    for address, worker in found.items()
                    if (slots := int(worker["resources"].get(self.resource, 0))) > 0 and address not in self._unfit
                }
                self._counted = time.monotonic()
            return self._workers

    @property
    def slots(self) -> int:
        return sum(self.workers().values())

    def examine(self, context: StageContext) -> None:
        """Asks every worker whether it can do the work of a run. Raises SettingsError for each that cannot, by name."""
        unfit = self._examined(context)
        if unfit:
            raise SettingsError("; ".join(text for text, _ in unfit.values()), next(iter(unfit.values()))[1])

    def leave_out_unfit(self, context: StageContext) -> None:
        """Workers that cannot do the work of the run get none: one may have joined since it began."""
        for address, (text, remedy) in self._examined(context).items():
            logger.warning("%s; it gets no work (%s)", text, remedy)
            self._unfit.add(address)
        self._counted = -COUNT_SECONDS

    @property
    def chosen(self) -> list[str] | None:
        """The addresses that may be used, where there are others that may not."""
        return list(self.workers()) if self._unfit else None

    def _examined(self, context: StageContext) -> dict[str, tuple[str, str]]:
        client = self.client()
        names = {address: info["name"] for address, info in client.scheduler_info(n_workers=-1)["workers"].items()}
        chosen = list(self.workers())
        answers = client.run(examine, context, workers=chosen, on_error="return") if chosen else {}
        found = ((address, _unfit(names.get(address), address, answers[address], context)) for address in chosen)
        return {address: unfit for address, unfit in found if unfit is not None}


def _unfit(name: object, address: str, answer: Any, context: StageContext) -> tuple[str, str] | None:
    worker = f"worker {name} at {address}"
    if not isinstance(answer, Fitness):
        return (
            f"{worker} has another version of avatarlab: it cannot say what it is ({type(answer).__name__})",
            f"install avatarlab {context.software} there and start it again",
        )
    if answer.software != context.software:
        return (
            f"{worker} on {answer.host} has avatarlab {answer.software}, and this is {context.software}",
            "install the same version there and start it again",
        )
    if answer.lacks:
        return f"{worker} on {answer.host}: {answer.lacks}", answer.remedy
    return None


def _give_up_early(dask_scheduler: Any) -> None:
    """However the scheduler was started. Runs there."""
    dask_scheduler.allowed_failures = ALLOWED_FAILURES
