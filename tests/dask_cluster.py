"""A Dask cluster of separate processes: a scheduler and `avatarlab worker`, killed and started again by tests."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
from distributed import Client
from s3_server import free_port

START_SECONDS = 120.0
WORK = {"PYTHONPATH": str(Path(__file__).parent)}  # where work functions of tests are found


class DaskCluster:
    """Everything it has started ends with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._scheduler: subprocess.Popen[bytes] | None = None
        self._workers: list[subprocess.Popen[bytes]] = []

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def start_scheduler(self) -> None:
        options = ["--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard"]
        self._scheduler = self._start(
            [sys.executable, "-m", "distributed.cli.dask_scheduler", *options], WORK, "scheduler"
        )

    def kill_scheduler(self) -> None:
        assert self._scheduler is not None
        self._scheduler.kill()
        self._scheduler.wait()

    def start_worker(
        self, *options: str, environment: Mapping[str, str] | None = None, wait: bool = True
    ) -> "subprocess.Popen[bytes]":
        """`avatarlab worker` with one worker and a --name; returns its supervisor, once the worker has joined."""
        code = "from flows.cli import main; main()"
        worker = self._start(
            [sys.executable, "-c", code, "worker", self.address, "--count", "1", *options],
            {**WORK, **(environment or {})},
            "workers",
        )
        self._workers.append(worker)
        name = options[options.index("--name") + 1]
        deadline = time.monotonic() + START_SECONDS
        while wait and not any(found.startswith(f"{name}-") for found in self.names()):
            assert time.monotonic() < deadline, self.log[-2000:]
            time.sleep(0.2)
        return worker

    def names(self) -> list[str]:
        """Of the workers that the scheduler has now."""
        with Client(self.address, timeout=START_SECONDS, set_as_default=False) as client:
            return sorted(str(worker["name"]) for worker in client.scheduler_info(n_workers=-1)["workers"].values())

    def wait_for_workers(self, count: int) -> None:
        deadline = time.monotonic() + START_SECONDS
        while len(self.names()) != count:
            assert time.monotonic() < deadline, (self.folder / "workers.log").read_text()[-2000:]
            time.sleep(0.2)

    @property
    def log(self) -> str:
        return (self.folder / "workers.log").read_text()

    def close(self) -> None:
        for process in [*self._workers, *([self._scheduler] if self._scheduler else [])]:
            try:
                family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
            except psutil.NoSuchProcess:
                family = []
            for member in family:
                try:
                    member.send_signal(signal.SIGKILL)
                except psutil.NoSuchProcess:
                    continue
            process.wait()

    def _start(self, command: list[str], environment: Mapping[str, str], log: str) -> "subprocess.Popen[bytes]":
        with (self.folder / f"{log}.log").open("ab") as out:
            return subprocess.Popen(
                command, env={**os.environ, **environment}, stdout=out, stderr=out, start_new_session=True
            )


@contextmanager
def dask_cluster(folder: Path, workers: int = 0, environment: Mapping[str, str] | None = None) -> Iterator[DaskCluster]:
    folder.mkdir(exist_ok=True)
    cluster = DaskCluster(folder)
    try:
        cluster.start_scheduler()
        for number in range(workers):
            cluster.start_worker("--name", f"w{number}", environment=environment, wait=False)
        cluster.wait_for_workers(workers)
        yield cluster
    finally:
        cluster.close()
