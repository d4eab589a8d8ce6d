"""Runs under real Prefect servers: on SQLite and PostgreSQL, gone for a while, with a full disk, and by schedule."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from night import Night, small_disk
from servers import PrefectServer, postgres, postgres_binaries, prefect_server, recorded

ROOT = Path(__file__).parents[1]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PrefectServer]:
    with prefect_server(tmp_path / "server") as started:
        yield started


def task_states(server: PrefectServer) -> dict[str, int]:
    return dict(recorded(server.home, "select state_type, count(*) from task_run group by state_type"))  # type: ignore[arg-type]


def test_a_server_that_is_gone_for_a_while_costs_the_run_nothing(server: PrefectServer, tmp_path: Path) -> None:
    night = Night.make(tmp_path, 12, seconds=0.3).with_environment(**server.environment)
    with night.running("--workers", "2", prefect=True) as running:
        running.wait_for_made(6)
        server.kill()
        before = night.made.total()
        running.wait_for(lambda: night.made.total() >= before + 20)  # work goes on without it
        server.start()
        done = running.end()
    assert done.code == 0, done.err
    assert "Traceback" not in done.err
    assert done.statuses == {"done": 12}
    assert night.repeated == 0
    assert set(task_states(server)) == {"COMPLETED"}
    assert [state for (state,) in recorded(server.home, "select state_type from flow_run")] == ["COMPLETED"]


def test_a_run_that_was_killed_is_marked_crashed_by_the_next_and_loses_nothing(
    server: PrefectServer, tmp_path: Path
) -> None:
    night = Night.make(tmp_path, 6, seconds=0.3).with_environment(**server.environment)
    with night.running("--workers", "1", prefect=True) as running:
        running.wait_for_made(5)
        running.process.kill()
        running.process.wait()
    assert recorded(server.home, "select state_type from flow_run") == [("RUNNING",)]
    done = night.run("--workers", "1", prefect=True)
    assert done.code == 0, done.err
    assert night.repeated == 0
    states = recorded(server.home, "select state_type, state_name from flow_run order by start_time")
    assert states == [("CRASHED", "Crashed"), ("COMPLETED", "Completed")]
    assert set(task_states(server)) <= {"COMPLETED", "CRASHED"}


def fill(folder: Path) -> None:
    """Until nothing more can be written there."""
    with (folder / "filler").open("wb", buffering=0) as filler:
        while True:
            try:
                filler.write(bytes(1 << 16))
            except OSError:
                return


def test_a_full_disk_under_the_server_leaves_the_results_complete_and_the_exit_code_honest(tmp_path: Path) -> None:
    with small_disk(tmp_path / "prefect", "24m") as home:
        night = Night.make(tmp_path, 8, seconds=0.4)
        with night.running("--workers", "2", prefect=True) as running:
            running.wait_for_made(4)
            fill(home)
            done = running.end(600)
        assert done.statuses == {"done": 8}
        assert done.code == 1, done.err
        assert done.report["unrecorded"]
        assert "Prefect" in done.err
        assert "Traceback" not in done.err
        (home / "filler").unlink()
        again = night.run("--workers", "2", prefect=True)
    assert (again.code, again.statuses) == (0, {"cached": 8})
    assert night.repeated == 0


def test_a_server_that_falls_behind_is_waited_for_and_gets_every_task_run(server: PrefectServer) -> None:
    script = """
import threading
from concurrent.futures import Future
import flows.render as render
from avatarlab.graph import Batch
from prefect import flow
from prefect.runtime import flow_run
render.MOST_UNRECORDED = 60

class Nothing:
    slots = 4
    def run(self, batch):
        return []

@flow(task_runner=render.ThreadPoolTaskRunner(max_workers=32))
def many():
    own = str(flow_run.id)
    starter = render.PrefectStarter(Nothing(), own)
    most, futures = 0, []
    for number in range(400):
        futures.append(starter.start(Batch(number, "tokens", ())))
        most = max(most, starter.started - starter.recorded)
    for future in futures:
        future.result()
    print(most, render.wait_until_recorded(own, 400, 120))

many()
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **server.environment, "PREFECT_LOGGING_LEVEL": "CRITICAL"},
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    most, count = map(int, done.stdout.split())
    assert count == 400
    assert most <= 61
    assert task_states(server) == {"COMPLETED": 400}


def deployment(folder: Path, night: Night) -> None:
    """The shipped prefect.yaml, pointed at this checkout and this night."""
    shipped: dict[str, Any] = yaml.safe_load((ROOT / "infra/prefect.yaml").read_text())
    shipped["pull"] = [{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}]
    (nightly,) = shipped["deployments"]
    nightly["entrypoint"] = f"{ROOT}/{nightly['entrypoint']}"
    parameters: Mapping[str, object] = {
        "manifest": str(night.folder / "manifest.parquet"),
        "store": night.store,
        "models": str(night.folder / "models"),
        "avatars": [str(night.folder / "avatars")],
        "workers": 1,
        "skip_invalid": True,
    }
    nightly["parameters"] = dict(parameters)
    (folder / "prefect.yaml").write_text(yaml.safe_dump(shipped))


def test_the_nightly_deployment_runs_by_a_process_worker_one_at_a_time(server: PrefectServer, tmp_path: Path) -> None:
    night = Night.make(tmp_path, 3, seconds=0.2).with_environment(**server.environment)
    deployment(tmp_path, night)
    server.prefect("work-pool", "create", "avatarlab", "--type", "process", folder=tmp_path)
    server.prefect("--no-prompt", "deploy", "--all", "--prefect-file", "prefect.yaml", folder=tmp_path)
    schedules = recorded(server.home, "select schedule from deployment_schedule")
    assert len(schedules) == 1
    assert '"0 2 * * *"' in schedules[0][0]
    for _ in range(2):
        server.prefect("deployment", "run", "render/nightly", folder=tmp_path)
    worker = subprocess.Popen(
        [sys.executable, "-m", "prefect", "worker", "start", "--pool", "avatarlab", "--type", "process"],
        env={**night.full_environment, "PREFECT_WORKER_QUERY_SECONDS": "2"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 240
        wanted = {"COMPLETED", "CANCELLED"}
        while {state for (state,) in run_states(server)} != wanted:
            assert time.monotonic() < deadline, run_states(server)
            time.sleep(0.5)
    finally:
        os.killpg(worker.pid, signal.SIGTERM)
        try:
            worker.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
    assert not night.half_published()
    assert len([name for name, _ in night.artifacts.store.list("videos/") if name.endswith("current.json")]) == 3
    assert night.repeated == 0
    assert set(task_states(server)) == {"COMPLETED"}


def run_states(server: PrefectServer) -> list[tuple[str, ...]]:
    """Of the runs that were asked for by hand: the schedule has made some for the coming nights."""
    query = "select state_type from flow_run where state_type != 'SCHEDULED' or auto_scheduled = 0"
    return recorded(server.home, query)


@pytest.mark.skipif(postgres_binaries() is None, reason="PostgreSQL is not installed")
def test_a_server_on_postgresql_records_a_run_as_one_on_sqlite(tmp_path: Path) -> None:
    binaries = postgres_binaries()
    assert binaries is not None
    folder = Path("/tmp") / f"avatarlab-postgres-{os.getpid()}"  # its owner must be able to reach it
    try:
        with postgres(folder, binaries) as database, prefect_server(tmp_path / "server", database) as server:
            night = Night.make(tmp_path, 4).with_environment(**server.environment)
            first = night.run("--workers", "1", prefect=True)
            again = night.run("--workers", "1", prefect=True)
            assert (first.code, first.statuses) == (0, {"done": 4}), first.err
            assert (again.code, again.statuses) == (0, {"cached": 4}), again.err
            assert "recorded" not in first.err + again.err  # the command says so where a task run is not
            url = database.replace("+asyncpg", "")
            asked = subprocess.run(
                [
                    str(binaries / "psql"),
                    url,
                    "-Atc",
                    "select state_name, count(*) from task_run group by 1 order by 1",
                ],
                capture_output=True,
                text=True,
                check=True,
            )
            states = dict(line.split("|") for line in asked.stdout.split())
            assert states["Cached"] == "5"
            assert set(states) == {"Cached", "Completed"}
    finally:
        subprocess.run(["rm", "-rf", str(folder)], check=True)


def test_the_progress_artifact_holds_nothing_up_when_no_server_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    from flows import records

    heard: list[Mapping[str, int]] = []

    class Listener:
        def progress(self, settled: Mapping[str, int]) -> None:
            heard.append(settled)

    asked = threading.Event()
    waits = threading.Event()

    def never(*_: object, **__: object) -> None:
        asked.set()
        waits.wait(20)
        raise OSError

    monkeypatch.setattr(records, "create_progress_artifact", never)
    told = records.ProgressArtifact(Listener(), {"video": 2})
    started = time.monotonic()
    for number in range(100):
        told.progress({"video": number % 3})
        if number == 50:
            assert asked.wait(10)
    assert time.monotonic() - started < 10
    assert len(heard) == 100
    waits.set()
    told.close()
