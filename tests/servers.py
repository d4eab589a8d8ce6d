"""Prefect servers of our own in tests, on SQLite or PostgreSQL: started, killed and started again on one port."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from s3_server import free_port

START_SECONDS = 180.0


class PrefectServer:
    """`prefect server start` in a process of its own."""

    def __init__(self, home: Path, database: str = "") -> None:
        self.home = home
        self.port = free_port()
        self._database = {"PREFECT_API_DATABASE_CONNECTION_URL": database} if database else {}
        self._process: subprocess.Popen[bytes] | None = None
        home.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to reach this server and no other."""
        return {
            "PREFECT_API_URL": self.url,
            "PREFECT_HOME": str(self.home),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }

    def start(self) -> None:
        log = (self.home / "server.log").open("ab")
        recorder = "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER"
        with log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--no-ui"]
                + ["--port", str(self.port)],
                env={
                    **os.environ,
                    **self.environment,
                    **self._database,
                    f"{recorder}_BATCH_SIZE": "200",
                    f"{recorder}_FLUSH_INTERVAL": "1",
                },
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._healthy():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.home / "server.log").read_text()[-2000:])
            time.sleep(0.2)

    def kill(self) -> None:
        """Outright, with the process that serves."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def prefect(self, *arguments: str, folder: Path) -> str:
        """The `prefect` command against this server."""
        done = subprocess.run(
            [sys.executable, "-m", "prefect", *arguments],
            env={**os.environ, **self.environment},
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@contextmanager
def prefect_server(home: Path, database: str = "") -> Iterator[PrefectServer]:
    server = PrefectServer(home, database)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def recorded(home: Path, query: str) -> list[tuple[str, ...]]:
    """An SQLite server's own tables."""
    with sqlite3.connect(home / "prefect.db") as database:
        return database.execute(query).fetchall()


def postgres_binaries() -> Path | None:
    """Where Debian keeps the newest server, or None."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


@contextmanager
def postgres(folder: Path, binaries: Path) -> Iterator[str]:
    """A PostgreSQL cluster in a folder; gives the URL that Prefect takes. The server refuses to run as root."""
    as_owner = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    folder.mkdir(parents=True)
    if as_owner:
        shutil.chown(folder, "postgres")
    data, port = folder / "data", free_port()
    subprocess.run(
        [*as_owner, str(binaries / "initdb"), "-D", str(data), "-A", "trust", "-U", "prefect"],
        check=True,
        capture_output=True,
        cwd="/",
    )
    options = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}", "-c", "fsync=off"]
    server = subprocess.Popen(
        [*as_owner, str(binaries / "postgres"), "-D", str(data), "-p", str(port), *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            ready = subprocess.run(
                [str(binaries / "pg_isready"), "-h", "127.0.0.1", "-p", str(port)], capture_output=True, check=False
            )
            if ready.returncode == 0:
                break
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("PostgreSQL did not start")
            time.sleep(0.1)
        yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
