"""Times and lengths of what a render left behind, and of the render command itself."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from avatarlab.artifacts import STAGES
from avatarlab.errors import NotFound, WorkerError
from avatarlab.media import probe

ENGINES = ("torch", "avatarlab.speech.small_e", "avatarlab.lips.diffdub")
PATIENCE_SECONDS = 3600
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Timed:
    """A render from the outside: wall-clock time, the statuses of its rows, the modules of ENGINES that it imported."""

    seconds: float
    statuses: tuple[str, ...]
    engines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lengths:
    """Seconds of sound and picture of one MP4, counted by our own probe, and by ffprobe where it is installed."""

    name: str
    video: float
    audio: float
    ffprobe_video: float | None
    ffprobe_audio: float | None

    @property
    def apart(self) -> float:
        """The larger of the two differences, seconds."""
        differences = [abs(self.video - self.audio)]
        if self.ffprobe_video is not None and self.ffprobe_audio is not None:
            differences.append(abs(self.ffprobe_video - self.ffprobe_audio))
        return max(differences)


@dataclass(frozen=True)
class Compute:
    """Seconds of computing by stage for `video_seconds` of video, over the rows that were made and not found."""

    rows: int
    video_seconds: float
    seconds: dict[str, float]

    @property
    def per_second(self) -> float:
        return sum(self.seconds.values()) / self.video_seconds


def cached_render(manifest: Path, store: Path) -> Timed:
    """The render command on a store that has everything, watched for the modules it imports.

    Raises WorkerError where the command fails.
    """
    program = [sys.executable, "-X", "importtime", "-c", "from flows.cli import main; main()"]
    seconds, log = _timed([*program, "render", str(manifest), "--store", str(store)], ROOT)
    imported = {line.rpartition("|")[2].strip() for line in log.splitlines() if line.startswith("import time:")}
    return Timed(seconds, _newest_statuses(store), tuple(name for name in ENGINES if name in imported))


def fresh_demo() -> Timed:
    """`make demo` in a fresh clone of what is committed, everything installed anew. Raises WorkerError if it fails."""
    with tempfile.TemporaryDirectory(prefix="avatarlab-fresh-") as folder:
        clone = Path(folder) / "clone"
        _timed(["git", "clone", "--quiet", str(ROOT), str(clone)], ROOT)
        seconds, _ = _timed(["make", "demo"], clone)
        return Timed(seconds, _newest_statuses(clone / "out"))


def video_lengths(store: Path) -> list[Lengths]:
    """Every MP4 below `videos/` of a folder store."""
    return [
        Lengths(
            f"{path.parent.parent.name}/{path.parent.name}", info.video_seconds, info.audio_seconds, *_ffprobe(path)
        )
        for path in sorted(store.glob("videos/*/*/video.mp4"))
        for info in (probe(path),)
    ]


def compute_by_stage(store: Path) -> Compute:
    """From the results of all runs: for every row, the newest run that found none of its artifacts in the store.

    Raises NotFound where there is no such run.
    """
    chosen: dict[str, dict[str, float]] = {}
    for path in _results(store):
        for row in pq.read_table(path).to_pylist():
            found = sum(row[f"cached_{stage}"] or 0 for stage in STAGES)
            if row["status"] == "done" and not found and row["duration_seconds"]:
                times = {stage: float(row[f"seconds_{stage}"] or 0.0) for stage in STAGES}
                chosen[row["id"]] = times | {"video_seconds": float(row["duration_seconds"])}
    if not chosen:
        raise NotFound(f"no run in {store} made a video from nothing", "render into an empty store")
    rows = list(chosen.values())
    return Compute(
        rows=len(rows),
        video_seconds=sum(row["video_seconds"] for row in rows),
        seconds={stage: sum(row[stage] for row in rows) for stage in STAGES},
    )


def _results(store: Path) -> Iterator[Path]:
    """The results of all runs in a folder store, oldest first."""
    yield from sorted(store.glob("runs/*/results.parquet"), key=lambda path: path.stat().st_mtime_ns)


def _newest_statuses(store: Path) -> tuple[str, ...]:
    paths = list(_results(store))
    return tuple(pq.read_table(paths[-1]).column("status").to_pylist()) if paths else ()


def _ffprobe(path: Path) -> tuple[float | None, float | None]:
    program = shutil.which("ffprobe")
    if program is None:
        return None, None
    lengths = []
    for stream in ("v:0", "a:0"):
        options = ["-v", "error", "-select_streams", stream, "-show_entries", "stream=duration", "-of", "csv=p=0"]
        printed = subprocess.run([program, *options, str(path)], check=True, capture_output=True, text=True).stdout
        lengths.append(float(printed.strip().rstrip(",")))
    return lengths[0], lengths[1]


def _timed(command: list[str], folder: Path) -> tuple[float, str]:
    """Wall-clock seconds and what was written to stderr."""
    environment = {
        name: value for name, value in os.environ.items() if name not in {"VIRTUAL_ENV", "PYTHONPATH", "MAKEFLAGS"}
    }
    started = time.monotonic()
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, errors="replace", timeout=PATIENCE_SECONDS
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise WorkerError(f"{' '.join(command[:4])} ended with {done.returncode}: {last[0]}", "run it by hand")
    return time.monotonic() - started, done.stderr
