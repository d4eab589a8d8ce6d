"""Dask workers: processes on this machine, or those of a scheduler that is running already.

A worker process has one thread and declares one slot: the resource `CPU`, or `GPU` with one device each. A worker that
dies is started again under the same name with the same device.
"""

import asyncio
import logging
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import dask
import psutil
from dask.utils import parse_bytes
from distributed import Nanny, Scheduler, SpecCluster, Worker
from distributed.core import Status
from distributed.diagnostics.plugin import WorkerPlugin

from avatarlab.errors import SettingsError, WorkerError
from avatarlab.stages import StageContext
from tasks.cluster import ALLOWED_FAILURES, NO_WORKERS_SECONDS, Cluster
from tasks.pool import DaskPool

START_SECONDS = 300
PATIENCE_VARIABLE = "AVATARLAB_WORKER_PATIENCE_SECONDS"
RECYCLED_SHARE = 0.7  # of the memory limit
DELIVER_SECONDS = 0.2
LEAST_MEMORY_BYTES = 2 << 30
LEAST_LIMIT_BYTES = 200 << 20
KEEP_FREED_BYTES, LARGE_BLOCK_BYTES = 1 << 30, 1 << 25
DASK_SETTINGS = {
    "distributed.scheduler.allowed-failures": ALLOWED_FAILURES,
    "distributed.deploy.lost-worker-timeout": "1 hour",  # of 15 s: a slow restart would be taken for a loss
    "distributed.worker.daemon": True,
    # A worker over its limit is replaced (`RecycledWorker`, the nanny), never paused: paused, it would hold its batch.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    # Frames are megabytes: Dask's 64 kB would hand the memory of each back to the system, a third of the face stage's time.
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": KEEP_FREED_BYTES,
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": LARGE_BLOCK_BYTES,
    "distributed.admin.log-format": "%(levelname)s %(name)s: %(message)s",
}
QUIET = (
    "distributed.http.proxy",
    "distributed.scheduler",
    "distributed.nanny",
    "distributed.worker",
    "distributed.core",
    "distributed.batched",
    "distributed.client",
    "distributed.shuffle",
    "tornado.application",
)


class LocalWorker(WorkerPlugin):
    """Takes a worker out of the terminal's process group: Ctrl-C is for the command, which lets running work finish.

    Dask's own messages are silenced there as here: what matters is told by outcomes and by our own log.
    """

    name = "avatarlab-local-worker"

    def setup(self, worker: Worker) -> None:  # noqa: ARG002
        silence()
        with suppress(PermissionError):  # it leads a session already
            os.setsid()


class RecycledWorker(WorkerPlugin):
    """Replaces a worker that has grown: after a batch, once its answer is delivered, a new process takes its place.

    Whatever grows, grows slowly; what jumps past the limit within one batch is ended by the nanny.
    """

    name = "avatarlab-recycled-worker"

    def __init__(self, memory_bytes: int) -> None:
        self.most_bytes = int(RECYCLED_SHARE * memory_bytes)

    def setup(self, worker: Worker) -> None:
        self.worker = worker
        self.leaving = False

    def transition(self, key: object, start: str, finish: str, **_: object) -> None:  # noqa: ARG002
        if self.leaving or start != "executing" or psutil.Process().memory_info().rss < self.most_bytes:
            return
        self.leaving = True
        self.worker.loop.call_later(DELIVER_SECONDS, self._leave)

    async def _leave(self) -> None:
        self.worker.status = Status.closing_gracefully  # no new batch begins here
        while self.worker.state.executing_count:
            await asyncio.sleep(0.05)
        await self.worker.close_gracefully(restart=True, reason="it has grown")


def slot_of(device: str) -> str:
    """The Dask resource that work on `device` needs.

    >>> slot_of("cuda:0"), slot_of("cpu")
    ('GPU', 'CPU')
    """
    return "GPU" if device.startswith("cuda") else "CPU"


def default_workers(device: str) -> int:
    """Worker processes on this machine when nobody says how many: one for each GPU, or one for two cores, at least two.

    Two, because one that dies should not stop the other.
    """
    if slot_of(device) == "GPU":
        import torch

        return max(1, torch.cuda.device_count())
    return max(2, (os.cpu_count() or 2) // 2)


@contextmanager
def open_pool(
    context: StageContext, workers: int, scheduler: str | None, *, patience_seconds: float | None = None
) -> Iterator[DaskPool]:
    """A pool on `workers` local processes, or on the workers of the scheduler at tcp://HOST:PORT.

    When all workers are gone for `patience_seconds` (AVATARLAB_WORKER_PATIENCE_SECONDS, else 300), the run ends.

    Raises SettingsError when nobody answers there, when
    no worker there declares the slot that the device needs, or when one has other code or models or no store.
    """
    resource = slot_of(context.device)
    silence()
    with dask.config.set(DASK_SETTINGS), ExitStack() as stack:
        address = scheduler or stack.enter_context(_local_cluster(workers, context.device))
        cluster = Cluster(address, resource, _patience() if patience_seconds is None else patience_seconds)
        cluster.connect()
        stack.callback(cluster.close)
        if scheduler is None:
            client = cluster.client()
            client.register_plugin(LocalWorker())
            client.register_plugin(RecycledWorker(default_memory_bytes(workers)))
            try:
                client.wait_for_workers(workers, timeout=START_SECONDS)
            except TimeoutError as error:
                raise WorkerError(
                    f"{workers} local workers did not start in {START_SECONDS} s", "use fewer --workers"
                ) from error
        elif not cluster.slots:
            raise SettingsError(
                f"none of the workers at {scheduler} declares the resource {resource}",
                f"start some with `avatarlab worker {scheduler} --device {context.device}`, or change --device",
            )
        else:
            cluster.examine(context)
        yield DaskPool(cluster, context)


@contextmanager
def _local_cluster(count: int, device: str) -> Iterator[str]:
    devices = devices_of(device, count)
    specs = {
        index: {
            "cls": Nanny,
            "options": {
                "nthreads": 1,
                "resources": {slot_of(device): 1},
                "memory_limit": default_memory_bytes(count),
                "dashboard": False,
                "env": environment_of(devices[index]),
                "silence_logs": logging.ERROR,
            },
        }
        for index in range(count)
    }
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "port": 0, "dashboard_address": "127.0.0.1:0"}}
    try:
        cluster = SpecCluster(specs, scheduler, name="avatarlab", silence_logs=False, shutdown_on_close=True)
    except (OSError, RuntimeError, TimeoutError) as error:
        raise WorkerError(f"the local workers did not start: {error}", "use fewer --workers, or --scheduler") from error
    try:
        yield cluster.scheduler_address
    finally:
        cluster.close(timeout=10)


def silence() -> None:
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _patience() -> float:
    given = os.environ.get(PATIENCE_VARIABLE, "")
    if not given:
        return NO_WORKERS_SECONDS
    if not re.fullmatch(r"[0-9]{1,5}(\.[0-9]+)?", given):
        raise SettingsError(f"{PATIENCE_VARIABLE} is not a number of seconds", "set it to 300, or unset it")
    return float(given)


def devices_of(device: str, count: int | None) -> list[str]:
    """What each worker sees of the GPUs, by CUDA_VISIBLE_DEVICES; "" for workers on CPUs.

    Raises SettingsError where there is no GPU and one is asked for.
    """
    if slot_of(device) == "CPU":
        return [""] * (count or default_workers(device))
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name for name in visible.split(",") if name] or [str(i) for i in range(torch.cuda.device_count())]
    if ":" in device:
        index = int(device.partition(":")[2])
        names = names[index : index + 1]
    if not names:
        raise SettingsError(f"there is no device {device} on this machine", "use --device cpu, or --scheduler")
    return [names[index % len(names)] for index in range(count or len(names))]


def default_memory_bytes(count: int) -> int:
    """The limit of each of so many workers of this machine: together they may fill most of it."""
    return max(LEAST_MEMORY_BYTES, int(0.9 * psutil.virtual_memory().total / max(1, count)))


def bytes_of(text: str) -> int:
    """Raises SettingsError.

    >>> bytes_of("4GiB")
    4294967296
    """
    try:
        size = int(parse_bytes(text))
    except ValueError as error:
        raise SettingsError(f"{text!r} is no amount of memory", "write it as 4GiB") from error
    if size < LEAST_LIMIT_BYTES:
        raise SettingsError(f"{text} are not enough for a worker", "give it 200MiB at least")
    return size


def environment_of(device: str) -> dict[str, str]:
    """One thread for each worker: sums are then the same everywhere, and workers share the cores."""
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return threads | ({"CUDA_VISIBLE_DEVICES": device} if device else {})
