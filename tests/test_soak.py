"""Things are killed at random moments, over and over, and the promises hold. `make soak` runs the long one.

AVATARLAB_SOAK_SEED, _KILLS and _ROWS choose another; AVATARLAB_SOAK_SUMMARY names a file for a line of JSON.
"""

import hashlib
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from night import Night, Running, script
from s3_server import free_port, s3_server
from servers import PrefectServer

from avatarlab import journal
from avatarlab.errors import StoreUnreachable
from avatarlab.manifest import write_manifest

PAUSE_SECONDS = (0.5, 6.0)
AWAY_SECONDS = (0.0, 5.0)
SECONDS_PER_SENTENCE = 0.25


@dataclass
class Soak:
    """A night that is hurt. Every command that ends early is given again, until nothing is left to do."""

    night: Night
    drawn: random.Random
    kills: int
    hurt: Counter[str] = field(default_factory=Counter)
    codes: Counter[int] = field(default_factory=Counter)
    pids: set[int] = field(default_factory=set)

    def run(self, rows: int, ways: dict[str, Callable[[Running], None]], *, prefect: bool) -> int:
        """Nights of so many rows until all kills are spent; how many nights that took. The last one is let be."""
        nights = 0
        while True:
            self._write(rows, nights)
            nights += 1
            while not self._command(ways, prefect):
                pass
            if self.hurt.total() >= self.kills:
                return nights

    def _write(self, rows: int, nights: int) -> None:
        small = {"avatar": "cartoon", "width": 64, "height": 64}
        numbers = range(nights * rows, (nights + 1) * rows)
        every = [{"id": f"row-{n:04d}", "script": script(n), **small} for n in numbers]
        write_manifest(self.night.folder / "manifest.parquet", every)

    def _command(self, ways: dict[str, Callable[[Running], None]], prefect: bool) -> bool:
        """One command and what happens to it; whether it came to its end by itself."""
        with self.night.running("--workers", "2", prefect=prefect) as running:
            while running.process.poll() is None:
                if self.hurt.total() >= self.kills:
                    break
                time.sleep(self.drawn.uniform(*PAUSE_SECONDS))
                if running.process.poll() is not None:
                    break
                way = self.drawn.choice(sorted(ways))
                ways[way](running)
                self.hurt[way] += 1
                with suppress(StoreUnreachable):
                    assert self.night.half_published() == []
            done = running.end(600)
        self.codes[done.code] += 1
        assert "Traceback" not in done.err, done.err
        if done.code == 0:
            assert set(done.statuses) <= {"done", "cached"}
            return True
        assert done.code in (-signal.SIGKILL, 130, 1, 2), (done.code, done.err)
        if done.code in (1, 2):  # a store or server was away for longer than a row could wait, or at the start
            failed = [row for row in done.report.get("rows", [done.report]) if row.get("status") != "done"]
            assert all(row["error"] and row["remedy"] for row in failed if row.get("status") != "cached"), done.report
        return False


def kill_a_worker(drawn: random.Random, count: int) -> Callable[[Running], None]:
    def act(running: Running) -> None:
        if (running.night.folder / "journal").exists():
            workers = running.workers()
            for pid in drawn.sample(workers, min(count, len(workers))):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    return act


def stop_a_worker(drawn: random.Random) -> Callable[[Running], None]:
    def act(running: Running) -> None:
        if (running.night.folder / "journal").exists() and (workers := running.workers()):
            pid = drawn.choice(workers)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                time.sleep(drawn.uniform(*AWAY_SECONDS))
                os.kill(pid, signal.SIGCONT)

    return act


def signal_the_command(number: signal.Signals, times: int) -> Callable[[Running], None]:
    def act(running: Running) -> None:
        for _ in range(times):
            running.process.send_signal(number)
            time.sleep(0.3)
        if number == signal.SIGKILL:
            running.process.wait()
            deadline = time.monotonic() + 60  # its workers notice and end
            while (running.night.folder / "journal").exists() and running.workers():
                assert time.monotonic() < deadline, "workers outlive their command"
                time.sleep(0.1)

    return act


def kill_the_server(server: PrefectServer, drawn: random.Random) -> Callable[[Running], None]:
    def act(_: Running) -> None:
        server.kill()
        time.sleep(drawn.uniform(*AWAY_SECONDS))
        server.start()

    return act


def signals() -> dict[str, Callable[[Running], None]]:
    return {
        "command killed": signal_the_command(signal.SIGKILL, 1),
        "command asked to stop": signal_the_command(signal.SIGTERM, 1),
        "command stopped": signal_the_command(signal.SIGTERM, 2),
    }


def check(soak: Soak, rows: int) -> dict[str, object]:
    """Nothing lost, nothing made twice, nothing published by half, nobody left behind."""
    night = soak.night
    store = night.artifacts.store
    published = [name for name, _ in store.list("videos/") if name.endswith("current.json")]
    assert len(published) == rows
    assert night.half_published() == []
    for name, _ in store.list("blobs/"):
        assert hashlib.sha256(store.get(name)).hexdigest() == name.rpartition("/")[2]
    assert night.repeated == 0
    deadline = time.monotonic() + 60
    while left := orphans(night):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)
    summary = {
        "kills": soak.hurt.total(),
        "rows": rows,
        "by_kind": dict(soak.hurt),
        "exit_codes": {str(code): count for code, count in soak.codes.items()},
        "begun": night.begun.total(),
        "made": night.made.total(),
        "lost": rows - len(published),
        "duplicated": night.repeated,
        "half_published": len(night.half_published()),
    }
    if path := os.environ.get("AVATARLAB_SOAK_SUMMARY"):
        with Path(path).open("a") as file:
            file.write(json.dumps(summary) + "\n")
    print(json.dumps(summary))  # noqa: T201
    return summary


def orphans(night: Night) -> list[int]:
    """Processes that have worked on this night and live."""
    last = {entry.pid: entry.time for entry in journal.entries(night.folder / "journal")}
    living = []
    for pid, when in last.items():
        with suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).create_time() < when:  # else the number is another's by now
                living.append(pid)
    return living


def chosen(name: str, default: int) -> int:
    return int(os.environ.get(f"AVATARLAB_SOAK_{name}", default))


def soak_folder(folder: Path, seed: int, kills: int, rows: int) -> None:
    drawn = random.Random(seed)
    soak = Soak(Night.make(folder, 1, seconds=SECONDS_PER_SENTENCE), drawn, kills)
    ways = {
        **signals(),
        "worker killed": kill_a_worker(drawn, 1),
        "worker killed too": kill_a_worker(drawn, 1),
        "both workers killed": kill_a_worker(drawn, 2),
        "worker stopped for a while": stop_a_worker(drawn),
    }
    nights = soak.run(rows, ways, prefect=False)
    check(soak, nights * rows)


@contextmanager
def environment_of_this_process(values: dict[str, str]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        yield


def soak_servers(folder: Path, seed: int, kills: int, rows: int) -> None:
    drawn = random.Random(seed)
    prefect = PrefectServer(folder / "server")
    port = free_port()
    with ExitStack() as stack:
        stack.callback(prefect.kill)
        prefect.start()
        store = ExitStack()
        stack.callback(lambda: store.close())
        served = store.enter_context(s3_server(folder / "s3", port))
        access = {**served.environment(), "AVATARLAB_STORE_PATIENCE_SECONDS": "60"}

        def kill_the_store(_: Running) -> None:
            store.close()
            time.sleep(drawn.uniform(*AWAY_SECONDS))
            store.enter_context(s3_server(folder / "s3", port))

        stack.enter_context(environment_of_this_process(access))
        night = Night.make(folder, 1, "s3://lectures/soak", seconds=SECONDS_PER_SENTENCE)
        soak = Soak(night.with_environment(**prefect.environment, **access), drawn, kills)
        ways = {
            **signals(),
            "worker killed": kill_a_worker(drawn, 1),
            "Prefect server killed": kill_the_server(prefect, drawn),
            "S3 server killed": kill_the_store,
        }
        nights = soak.run(rows, ways, prefect=True)
        check(soak, nights * rows)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_few_kills_at_random_moments_lose_and_repeat_nothing(tmp_path: Path) -> None:
    soak_folder(tmp_path, seed=20261126, kills=6, rows=8)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_fifty_kills_of_a_run_into_a_folder_lose_and_repeat_nothing(tmp_path: Path) -> None:
    soak_folder(tmp_path, chosen("SEED", 1), chosen("KILLS", 50), chosen("ROWS", 40))


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_kills_of_commands_workers_and_servers_on_s3_under_prefect_lose_and_repeat_nothing(tmp_path: Path) -> None:
    soak_servers(tmp_path, chosen("SEED", 2), chosen("KILLS", 50) // 2, chosen("ROWS", 40) // 2)
