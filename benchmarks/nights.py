"""What a night costs around the engines: rows by the thousand on null engines, workers, servers and stores that fail.

Everything is the command itself, in processes of its own and folders that vanish.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import fsum
from pathlib import Path
from typing import Any

from avatarlab import journal
from avatarlab.artifacts import STAGES
from avatarlab.errors import WorkerError
from avatarlab.manifest import write_manifest

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-c", "from flows.cli import main; main()", "render"]
WORDS = "light moon plan water stone river energy heat cold simple answer question teacher student number line".split()
LECTURE = "The moon is a cold and quiet place. We can learn much from its old stones."


@dataclass(frozen=True)
class Night:
    """One command. `engine_seconds` is what engines and encoders took by the store's own records, each unit once.

    `working_seconds` goes from the first unit begun to the last one finished.
    """

    seconds: float
    report: Mapping[str, Any]
    engine_seconds: Mapping[str, float]
    working_seconds: float
    units: int

    @property
    def peak_megabytes(self) -> float:
        """Of the command, without its workers."""
        return float(self.report["peak_memory_mb"])


@dataclass(frozen=True)
class Scale:
    rows: int
    workers: int
    cold: Night
    warm: Night

    @property
    def bookkeeping_seconds(self) -> float:
        """Wall-clock seconds of the cold run in which the workers, all together, were not at engines and encoders."""
        return self.cold.seconds - fsum(self.cold.engine_seconds.values()) / self.workers

    @property
    def rows_per_second(self) -> float:
        return self.rows / self.bookkeeping_seconds


def write_rows(path: Path, count: int, seed: int = 0) -> None:
    """Rows of two short sentences each, for small videos of the bundled presenters."""
    drawn = random.Random(seed)

    def sentence() -> str:
        return " ".join(drawn.choice(WORDS) for _ in range(drawn.randint(3, 6))).capitalize() + "."

    small = {"width": 64, "height": 64}
    presenters = ("ada", "ben", "carl")
    rows = [
        {"id": f"lecture-{n:06d}", "script": f"{sentence()} {sentence()}", "avatar": presenters[n % 3], **small}
        for n in range(count)
    ]
    write_manifest(path, rows)


def measure_scale(rows: int, workers: int = 2) -> Scale:
    """A cold night of null engines into a folder, and the same command again."""
    with tempfile.TemporaryDirectory(prefix="avatarlab-scale-") as name:
        folder = Path(name)
        write_rows(folder / "manifest.parquet", rows)
        options = ["--models", "null", "--workers", str(workers)]
        return Scale(rows, workers, run(folder, options), run(folder, options))


def measure_overhead(rows: int) -> tuple[float, float]:
    """Seconds at engines and encoders, and seconds from first to last, of a real run by one worker."""
    with tempfile.TemporaryDirectory(prefix="avatarlab-overhead-") as name:
        _lectures(Path(name), rows)
        night = run(Path(name), ["--workers", "1"])
        return fsum(night.engine_seconds.values()), night.working_seconds


def measure_two_workers(rows: int) -> tuple[float, float]:
    """Seconds from first to last of a real run by one worker on one core, and by two workers on two cores."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise WorkerError("two workers need two cores", "measure on another machine")
    seconds = []
    for count in (1, 2):
        with tempfile.TemporaryDirectory(prefix="avatarlab-workers-") as name:
            _lectures(Path(name), rows)
            seconds.append(run(Path(name), ["--workers", str(count)], cores[:count]).working_seconds)
    return seconds[0], seconds[1]


def measure_recording(batches: int) -> int:
    """How many of as many task runs a server of our own has on record when the flow ends; the batches do nothing."""
    with tempfile.TemporaryDirectory(prefix="avatarlab-recording-") as name:
        done = subprocess.run(
            [sys.executable, "-c", _RECORDING, str(batches)],
            env=_environment(Path(name)),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise WorkerError(f"the flow ended with {done.returncode}", done.stderr.strip().splitlines()[-1])
        return int(done.stdout.split()[-1])


def measure_outage(rows: int, gone_seconds: float) -> tuple[Night, float]:
    """A night of null engines into an S3 server (rclone) that is gone for a while in the middle; and for how long it was."""
    with tempfile.TemporaryDirectory(prefix="avatarlab-outage-") as name:
        folder = Path(name)
        write_rows(folder / "manifest.parquet", rows)
        (folder / "s3/lectures").mkdir(parents=True)
        port = _free_port()
        access = {
            "AVATARLAB_S3_ENDPOINT": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "benchmark",
            "AWS_SECRET_ACCESS_KEY": "benchmark-secret",
        }
        with _served(folder / "s3", port) as server:
            command = _start(folder, ["--models", "null", "--workers", "2", "--no-prefect"], "s3://lectures/x", access)
            try:
                _wait_for_units(folder, rows)
                server.kill()
                gone = time.monotonic()
                time.sleep(gone_seconds)
                with _served(folder / "s3", port):
                    away = time.monotonic() - gone
                    return _ended(folder, command), away
            finally:
                command.kill()
                command.communicate()


def measure_deadly(rows: int) -> tuple[Night, int, int]:
    """A night in which one row ends every worker: the run, the most starts of one unit, and units made more than once."""
    with tempfile.TemporaryDirectory(prefix="avatarlab-deadly-") as name:
        folder = Path(name)
        models = (ROOT / "avatarlab/weights/null/models.toml").read_text()
        (folder / "models").mkdir()
        deadly = models.replace("[small_e.settings]\n", '[small_e.settings]\ndeadly = "kettle"\n')
        (folder / "models/models.toml").write_text(deadly)
        lecture = {"avatar": "ada", "width": 64, "height": 64}
        write_manifest(
            folder / "manifest.parquet",
            [{"id": "deadly", "script": "Mind the kettle.", **lecture}]
            + [{"id": f"row-{n}", "script": f"{WORDS[n % 16]} and {WORDS[n // 16]}.", **lecture} for n in range(rows)],
        )
        night = run(folder, ["--models", str(folder / "models"), "--workers", "2", "--no-prefect"], fails=True)
        begun, made = journal.counts(folder / "journal")
        return night, max(begun.values()), sum(count - 1 for count in made.values())


def measure_soak(kills: int, rows: int) -> Mapping[str, Any]:
    """What `make soak` sums up of a folder store. Raises WorkerError where a promise did not hold."""
    with tempfile.TemporaryDirectory(prefix="avatarlab-soak-") as name:
        summary = Path(name) / "summary"
        chosen = {"SUMMARY": summary, "KILLS": kills, "ROWS": rows}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-m", "soak", "tests/test_soak.py", "-k", "folder"],
            env={**os.environ, **{f"AVATARLAB_SOAK_{key}": str(value) for key, value in chosen.items()}},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode or not summary.exists():
            raise WorkerError("a promise did not hold, see `make soak`", done.stdout.strip().splitlines()[-1])
        found: Mapping[str, Any] = json.loads(summary.read_text())
        return found


def run(folder: Path, options: Sequence[str], cores: Sequence[int] = (), *, fails: bool = False) -> Night:
    """Renders folder/manifest.parquet into folder/out, on some cores only. Raises WorkerError where the command fails."""
    return _ended(folder, _start(folder, options, str(folder / "out"), {}, cores), fails=fails)


def _start(
    folder: Path, options: Sequence[str], store: str, more: Mapping[str, str], cores: Sequence[int] = ()
) -> "subprocess.Popen[str]":
    (folder / "journal").unlink(missing_ok=True)
    (folder / "started").write_text(str(time.time()))
    confined = ["taskset", "-c", ",".join(map(str, cores))] if cores else []
    return subprocess.Popen(
        [*confined, *COMMAND, str(folder / "manifest.parquet"), "--json", "--store", store, *options],
        env={**_environment(folder), **more},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _ended(folder: Path, command: "subprocess.Popen[str]", *, fails: bool = False) -> Night:
    out, err = command.communicate()
    seconds = time.time() - float((folder / "started").read_text())
    if command.returncode != int(fails):
        last = err.strip().splitlines()[-1:] or ["no message"]
        raise WorkerError(f"the night ended with {command.returncode}: {last[0]}", "run it by hand")
    entries = list(journal.entries(folder / "journal")) if (folder / "journal").exists() else []
    times = [entry.time for entry in entries]
    return Night(
        seconds=seconds,
        report=json.loads(out),
        engine_seconds=_engine_seconds(folder / "out"),
        working_seconds=max(times, default=0.0) - min(times, default=0.0),
        units=sum(entry.event == "done" for entry in entries),
    )


def _engine_seconds(store: Path) -> dict[str, float]:
    return {
        stage: fsum(json.loads(path.read_bytes())["seconds"] for path in (store / "actions" / stage).rglob("*.json"))
        for stage in STAGES
    }


def _lectures(folder: Path, rows: int) -> None:
    """Rows of three sentences for the real engines, no two rows with the same video."""
    presenters = ("ada", "ben", "carl")
    write_manifest(
        folder / "manifest.parquet",
        [
            {
                "id": f"lecture-{n}",
                "script": f"This is lecture number {n + 1}. {LECTURE}",
                "avatar": presenters[n % 3],
                "seed": n,
            }
            for n in range(rows)
        ],
    )


def _environment(folder: Path) -> dict[str, str]:
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "AVATARLAB"))}
    return {**outside, journal.VARIABLE: str(folder / "journal"), "AVATARLAB_PREFECT_HOME": str(folder / "prefect")}


def _wait_for_units(folder: Path, units: int) -> None:
    path = folder / "journal"
    while not path.exists() or path.read_bytes().count(b"done ") < units:
        time.sleep(0.1)


@contextmanager
def _served(folder: Path, port: int) -> "Iterator[subprocess.Popen[bytes]]":
    server = subprocess.Popen(
        [str(Path(sys.executable).with_name("rclone")), "serve", "s3", "--addr", f"127.0.0.1:{port}"]
        + ["--config", os.devnull, "--vfs-cache-mode", "off", str(folder)],
        env={**os.environ, "RCLONE_AUTH_KEY": '"benchmark,benchmark-secret"'},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield server
    finally:
        server.send_signal(signal.SIGKILL)
        server.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


_RECORDING = """
import sys
from flows.server import prefect_server

with prefect_server() as server:
    server.wait()
    import flows.render as render
    from avatarlab.graph import Batch
    from prefect import flow
    from prefect.runtime import flow_run

    class Nothing:
        slots = 4

        def run(self, batch):
            return []

    @flow(task_runner=render.ThreadPoolTaskRunner(max_workers=8))
    def many(count):
        own = str(flow_run.id)
        starter = render.PrefectStarter(Nothing(), own)
        for future in [starter.start(Batch(number, "tokens", ())) for number in range(count)]:
            future.result()
        return render.wait_until_recorded(own, count, render.RECORD_SECONDS)

    print(many(int(sys.argv[1])))
"""
