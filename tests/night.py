"""A night's run as its users start it: the command in a process of its own, over the null engines and a journal."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cartoon
import pytest

from avatarlab import journal
from avatarlab.artifacts import Artifacts
from avatarlab.manifest import write_manifest
from avatarlab.models import Setting, write_model_set
from avatarlab.null import REPLACED
from avatarlab.store import open_store

CLI = [sys.executable, "-c", "from flows.cli import main; main()"]
STAGES = ("tokens", "audio", "motion", "face", "video")
WORDS = (
    "moon",
    "stone",
    "water",
    "light",
    "paper",
    "river",
    "garden",
    "window",
    "number",
    "answer",
    "winter",
    "summer",
)


def script(number: int, sentences: int = 2) -> str:
    """Sentences that no other number has."""
    digits = [WORDS[int(digit)] for digit in str(number)]
    return " ".join(f"{WORDS[-1 - n % 2].title()} {n} {' '.join(digits)}." for n in range(sentences))


@dataclass(frozen=True)
class Done:
    """A command that has ended. `report` is what it printed with --json."""

    code: int
    out: str
    err: str

    @property
    def report(self) -> dict[str, Any]:
        return json.loads(self.out)

    @property
    def statuses(self) -> Counter[str]:
        return Counter(row["status"] for row in self.report["rows"])

    def row(self, id: str) -> dict[str, Any]:
        return next(row for row in self.report["rows"] if row["id"] == id)


@dataclass(frozen=True)
class Night:
    """A folder with a manifest, an avatar, null engines, a store and a journal of what was really made."""

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    store: str = ""

    @staticmethod
    def make(folder: Path, rows: int | Iterable[Mapping[str, object]], store: str = "", **speech: Setting) -> "Night":
        """Rows of two sentences each, or the rows given; `speech` are settings of the null engine."""
        if isinstance(rows, int):
            rows = [{"id": f"row-{n:03d}", "script": script(n)} for n in range(rows)]
        small = {"avatar": "cartoon", "width": 64, "height": 64}
        write_manifest(folder / "manifest.parquet", [{**small, **row} for row in rows])
        cartoon.write_bundle(folder / "avatars", size=128)
        settings: dict[str, Mapping[str, Setting]] = {stage: {"engine": "null"} for stage in REPLACED}
        (folder / "models").mkdir()
        write_model_set(folder / "models", "null", {**settings, "small_e": {"engine": "null", **speech}})
        return Night(folder, {}, store or str(folder / "out"))

    def with_environment(self, **more: str) -> "Night":
        return Night(self.folder, {**self.environment, **more}, self.store)

    @property
    def full_environment(self) -> dict[str, str]:
        """Nothing of the caller's own Prefect, and a journal."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
        own = {
            journal.VARIABLE: str(self.folder / "journal"),
            "AVATARLAB_PREFECT_HOME": str(self.folder / "prefect"),
            "OMP_NUM_THREADS": "1",
        }
        return {**inherited, **own, **self.environment}

    def command(self, *options: str, prefect: bool = False) -> list[str]:
        given = ["render", str(self.folder / "manifest.parquet"), "--json", "--store", self.store]
        given += ["--models", str(self.folder / "models"), "--avatars", str(self.folder / "avatars")]
        return [*CLI, *given, *([] if prefect else ["--no-prefect"]), *options]

    @contextmanager
    def running(self, *options: str, prefect: bool = False) -> Iterator["Running"]:
        """The command under way; it is killed at the end of the block if it has not ended."""
        process = subprocess.Popen(
            self.command(*options, prefect=prefect),
            env=self.full_environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield Running(self, process)
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()

    def run(self, *options: str, prefect: bool = False, seconds: float = 240) -> Done:
        with self.running(*options, prefect=prefect) as running:
            return running.end(seconds)

    @property
    def begun(self) -> Counter[journal.Unit]:
        return journal.counts(self.folder / "journal")[0] if (self.folder / "journal").exists() else Counter()

    @property
    def made(self) -> Counter[journal.Unit]:
        return journal.counts(self.folder / "journal")[1] if (self.folder / "journal").exists() else Counter()

    @property
    def repeated(self) -> int:
        """Units that were finished more than once."""
        return sum(count - 1 for count in self.made.values())

    @property
    def artifacts(self) -> Artifacts:
        return Artifacts(open_store(self.store))

    def half_published(self) -> list[str]:
        """What is wrong with what players see: versions that lack a file, pointers to versions that are not there."""
        names = dict(self.artifacts.store.list("videos/"))
        wrong = []
        for name in names:
            folder, _, file = name.rpartition("/")
            if file == "current.json":
                version = json.loads(self.artifacts.store.get(name))["version"]
                needed = ("video.mp4", "captions.vtt", "captions.srt", "poster.jpg", "metadata.json")
                wrong += [f"{name}: no {need}" for need in needed if not names.get(f"{folder}/{version}/{need}")]
            elif names[name] == 0:
                wrong.append(f"{name} is empty")
        return wrong


@dataclass(frozen=True)
class Running:
    night: Night
    process: "subprocess.Popen[str]"

    def wait_for(self, happened: Callable[[], bool], seconds: float = 120) -> None:
        """Returns when it has happened. Raises AssertionError when the command ends first, or the time is over."""
        deadline = time.monotonic() + seconds
        while not happened():
            if self.process.poll() is not None:
                out, err = self.process.communicate()
                raise AssertionError(
                    f"ended with {self.process.returncode} before it happened: {out[-500:]} {err[-2000:]}"
                )
            assert time.monotonic() < deadline, "it did not happen in time"
            time.sleep(0.05)

    def wait_for_made(self, units: int, seconds: float = 120) -> None:
        self.wait_for(lambda: self.night.made.total() >= units, seconds)

    def workers(self) -> list[int]:
        """The processes that have made something and live."""
        pids = {entry.pid for entry in journal.entries(self.night.folder / "journal")}
        return sorted(pid for pid in pids if Path(f"/proc/{pid}").exists())

    def end(self, seconds: float = 240) -> Done:
        out, err = self.process.communicate(timeout=seconds)
        return Done(self.process.returncode, out, err)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A new folder on a disk of its own; the test is skipped where none can be mounted."""
    folder.mkdir()
    if (
        os.getuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("a small disk needs the right to mount one")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
