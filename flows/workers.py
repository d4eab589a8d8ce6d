"""Dask workers: processes on this machine, or those of a scheduler that is running already.

A worker process has one thread and declares one slot: the resource `CPU`, or `GPU` with one device each. A worker that
dies is started again under the same name with the same device.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import dask
from distributed import Nanny, Scheduler, SpecCluster, Worker
from distributed.diagnostics.plugin import WorkerPlugin

from avatarlab.errors import SettingsError, WorkerError
from avatarlab.stages import StageContext
from tasks.cluster import ALLOWED_FAILURES, NO_WORKERS_SECONDS, Cluster
from tasks.pool import DaskPool

START_SECONDS = 300
KEEP_FREED_BYTES, LARGE_BLOCK_BYTES = 1 << 30, 1 << 25
DASK_SETTINGS = {
    "distributed.scheduler.allowed-failures": ALLOWED_FAILURES,
    "distributed.deploy.lost-worker-timeout": "1 hour",  # of 15 s: a slow restart would be taken for a loss
    "distributed.worker.daemon": True,
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
    "distributed.shuffle",
)


class LocalWorker(WorkerPlugin):
    """Takes a worker out of the terminal's process group: Ctrl-C is for the command, which lets running work finish.

    Dask's own messages are silenced there as here: what matters is told by outcomes and by our own log.
    """

    name = "avatarlab-local-worker"

    def setup(self, worker: Worker) -> None:  # noqa: ARG002
        _silence()
        with suppress(PermissionError):  # it leads a session already
            os.setsid()


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
    context: StageContext, workers: int, scheduler: str | None, *, patience_seconds: float = NO_WORKERS_SECONDS
) -> Iterator[DaskPool]:
    """A pool on `workers` local processes, or on the workers of the scheduler at tcp://HOST:PORT.

    When all workers are gone for `patience_seconds`, the run ends. Raises SettingsError when nobody answers there, when
    no worker there declares the slot that the device needs, or when one has other code or models or no store.
    """
    resource = slot_of(context.device)
    with dask.config.set(DASK_SETTINGS), ExitStack() as stack:
        address = scheduler or stack.enter_context(_local_cluster(workers, resource))
        cluster = Cluster(address, resource, patience_seconds)
        cluster.connect()
        stack.callback(cluster.close)
        if scheduler is None:
            client = cluster.client()
            client.register_plugin(LocalWorker())
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
def _local_cluster(count: int, resource: str) -> Iterator[str]:
    _silence()
    devices = _devices(count) if resource == "GPU" else [""] * count
    specs = {
        index: {
            "cls": Nanny,
            "options": {
                "nthreads": 1,
                "resources": {resource: 1},
                "dashboard_address": None,
                "env": _environment(devices[index]),
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


def _silence() -> None:
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _devices(count: int) -> list[str]:
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name for name in visible.split(",") if name] or [str(i) for i in range(torch.cuda.device_count())]
    if not names:
        raise SettingsError("there is no CUDA device on this machine", "use --device cpu, or --scheduler")
    return [names[index % len(names)] for index in range(count)]


def _environment(device: str) -> dict[str, str]:
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return threads | ({"CUDA_VISIBLE_DEVICES": device} if device else {})
