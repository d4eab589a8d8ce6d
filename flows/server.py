"""One Prefect server for a run: the one PREFECT_API_URL names, or our own on loopback with a private home.

Nothing of Prefect may be imported before `prefect_environment` has been applied: it reads its settings at import.
"""

import ctypes
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from avatarlab.errors import SettingsError, WorkerError

START_SECONDS = 300.0
STOP_SECONDS = 10.0

QUIET: Mapping[str, str] = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}
OWN: Mapping[str, str] = {
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
}
PR_SET_PDEATHSIG = 1


def home() -> Path:
    """Where our own server keeps its database: $AVATARLAB_PREFECT_HOME, else a folder under the user's cache."""
    chosen = os.environ.get("AVATARLAB_PREFECT_HOME")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(chosen) if chosen else cache / "avatarlab" / "prefect"


@dataclass
class Server:
    """A server that answers, or will: `wait` before the first use."""

    url: str
    process: "subprocess.Popen[bytes] | None" = None
    log: Path | None = None

    def wait(self) -> None:
        """Returns when the server answers. Raises SettingsError or WorkerError with the remedy when it does not."""
        patience = START_SECONDS if self.process else 5.0
        deadline = time.monotonic() + patience
        while not _healthy(self.url):
            if self.process and self.process.poll() is not None:
                raise WorkerError(f"the Prefect server stopped at start: {self._last_words()}", "use --no-prefect")
            if time.monotonic() > deadline:
                if self.process:
                    raise WorkerError(f"the Prefect server did not start in {patience:.0f} s", "use --no-prefect")
                raise SettingsError(
                    f"no Prefect server answers at {_without_password(self.url)}",
                    "start it, unset PREFECT_API_URL, or use --no-prefect",
                )
            time.sleep(0.2)

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log else []
        return lines[-1].strip() if lines else "it said nothing"


@contextmanager
def prefect_server() -> Iterator[Server]:
    """Finds or starts the server and points this process at it. It may not answer yet: call `wait`.

    Raises SettingsError where our own home cannot be written.
    """
    os.environ.update(QUIET)
    given = os.environ.get("PREFECT_API_URL")
    if given:
        yield Server(given)
        return
    with _private_home() as folder:
        port = _free_port()
        url = f"http://127.0.0.1:{port}/api"
        environment = {**OWN, "PREFECT_HOME": str(folder), "PREFECT_API_URL": url}
        log = folder / "server.log"
        with log.open("wb") as out:
            process = _start(port, {**os.environ, **environment}, out)
        before = {name: os.environ.get(name) for name in environment}
        os.environ.update(environment)
        try:
            yield Server(url, process, log)
        finally:
            _stop(process)
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


@contextmanager
def _private_home() -> Iterator[Path]:
    """Our home, held by a lock; while another run holds it, a home of this run's own beside it."""
    folder = home()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (folder / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            folder = folder / f"beside-{os.getpid()}"
            folder.mkdir(exist_ok=True, mode=0o700)
            lock = (folder / "lock").open("w")
    except OSError as error:
        raise SettingsError(
            f"the Prefect home {folder} cannot be written: {error.strerror}",
            "set AVATARLAB_PREFECT_HOME to a folder that can, or use --no-prefect",
        ) from error
    with lock:
        yield folder


def _start(port: int, environment: Mapping[str, str], out: IO[bytes]) -> "subprocess.Popen[bytes]":
    """A session of its own, so that Ctrl-C in the terminal reaches us alone and the last states are still recorded."""
    command = [
        sys.executable,
        "-m",
        "prefect",
        "server",
        "start",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--no-ui",
    ]
    return subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=_end_with_parent if sys.platform == "linux" else None,
    )


def _end_with_parent() -> None:
    """A command that is killed outright leaves no server behind."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _without_password(url: str) -> str:
    """
    >>> _without_password("http://user:secret@host:4200/api")
    'http://host:4200/api'
    """
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}" if separator else url.rpartition("@")[2]


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError):
        return False
