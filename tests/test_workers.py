"""Runs on a scheduler and workers that are processes of their own, and die, leave, join late, or are not what they should be."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from dask_cluster import DaskCluster, dask_cluster
from night import Night

from avatarlab import journal
from avatarlab.errors import SettingsError, WorkerError
from avatarlab.graph import Batch
from avatarlab.identity import software
from avatarlab.models import read_model_set
from avatarlab.stages import Item, Outcome, StageContext, TokensItem
from flows.workers import bytes_of, open_pool
from tasks.pool import DaskPool

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[DaskCluster]:
    with dask_cluster(tmp_path / "cluster", 2, {journal.VARIABLE: str(tmp_path / "journal")}) as started:
        yield started


def more(cluster: DaskCluster, night: Night, name: str, **environment: str) -> "subprocess.Popen[bytes]":
    return cluster.start_worker("--name", name, environment={**night.full_environment, **environment})


def on(cluster: DaskCluster) -> tuple[str, str]:
    return "--scheduler", cluster.address


def complete(night: Night, rows: int) -> None:
    names = [name for name, _ in night.artifacts.store.list("videos/") if name.endswith("current.json")]
    assert len(names) == rows
    assert night.half_published() == []
    assert night.repeated == 0


def test_a_remote_worker_that_is_killed_comes_back_and_costs_only_what_it_was_doing(
    cluster: DaskCluster, tmp_path: Path
) -> None:
    night = Night.make(tmp_path, 10, seconds=0.2)
    with night.running(*on(cluster)) as running:
        running.wait_for_made(8)
        os.kill(running.workers()[0], signal.SIGKILL)
        done = running.end()
    assert (done.code, done.statuses) == (0, {"done": 10}), done.err
    complete(night, 10)
    cluster.wait_for_workers(2)


def test_a_scheduler_that_is_killed_and_started_again_is_found_again_by_run_and_workers(
    cluster: DaskCluster, tmp_path: Path
) -> None:
    night = Night.make(tmp_path, 10, seconds=0.3)
    with night.running(*on(cluster)) as running:
        running.wait_for_made(8)
        cluster.kill_scheduler()
        time.sleep(2)
        cluster.start_scheduler()
        done = running.end()
    assert (done.code, done.statuses) == (0, {"done": 10}), done.err
    assert "Traceback" not in done.err
    complete(night, 10)
    assert "waiting for the scheduler" in cluster.log


def test_a_run_whose_workers_are_all_gone_ends_with_a_remedy_and_the_next_goes_on(
    tmp_path: Path,
) -> None:
    night = Night.make(tmp_path, 8, seconds=0.3).with_environment(AVATARLAB_WORKER_PATIENCE_SECONDS="4")
    with dask_cluster(tmp_path / "cluster") as cluster:
        worker = more(cluster, night, "only")
        with night.running(*on(cluster)) as running:
            running.wait_for_made(5)
            os.killpg(worker.pid, signal.SIGKILL)
            for pid in running.workers():
                os.kill(pid, signal.SIGKILL)
            gone = time.monotonic()
            done = running.end()
        assert time.monotonic() - gone < 60
        assert done.code == 1, done.err
        unfinished = [row for row in done.report["rows"] if row["status"] == "failed"]
        assert unfinished
        assert all("worker" in row["error"] and "start workers" in row["remedy"] for row in unfinished)
        assert "no worker with CPU is left" in done.report["given_up"]
        more(cluster, night, "another")
        again = night.run(*on(cluster))
    assert again.code == 0, again.err
    complete(night, 8)


def test_a_worker_that_comes_within_the_patience_goes_on_with_the_run(tmp_path: Path) -> None:
    night = Night.make(tmp_path, 6, seconds=0.2)
    with dask_cluster(tmp_path / "cluster") as cluster:
        worker = more(cluster, night, "first")
        with night.running(*on(cluster)) as running:
            running.wait_for_made(5)
            os.killpg(worker.pid, signal.SIGKILL)
            for pid in running.workers():
                os.kill(pid, signal.SIGKILL)
            time.sleep(3)
            more(cluster, night, "second")
            done = running.end()
    assert (done.code, done.statuses) == (0, {"done": 6}), done.err
    complete(night, 6)


def test_a_worker_that_joins_late_gets_work_and_one_that_is_asked_to_leave_finishes_its_batch(tmp_path: Path) -> None:
    night = Night.make(tmp_path, 14, seconds=0.3)
    with dask_cluster(tmp_path / "cluster") as cluster:
        first = more(cluster, night, "first")
        with night.running(*on(cluster)) as running:
            running.wait_for_made(3)
            more(cluster, night, "second")
            running.wait_for(lambda: len(running.workers()) == 2)
            first.send_signal(signal.SIGTERM)
            assert first.wait(60) == 0
            done = running.end()
    assert (done.code, done.statuses) == (0, {"done": 14}), done.err
    assert night.begun == night.made
    complete(night, 14)


def test_two_runs_at_once_share_the_workers_and_a_killed_one_leaves_them_to_the_other(
    cluster: DaskCluster, tmp_path: Path
) -> None:
    nights = []
    for name in ("one", "two", "killed"):
        (tmp_path / name).mkdir()
        nights.append(Night.make(tmp_path / name, 4, seconds=0.2))
    one, two, killed = nights
    with one.running(*on(cluster)) as first, two.running(*on(cluster)) as second, killed.running(*on(cluster)) as third:
        third.wait_for(lambda: (tmp_path / "killed/out/actions").exists())
        third.process.kill()
        answers = [first.end(), second.end()]
    for night, done in zip((one, two), answers, strict=True):
        assert (done.code, done.statuses) == (0, {"done": 4}), done.err
        assert night.half_published() == []


def other_version(folder: Path) -> str:
    """A folder for PYTHONPATH that makes every Python process in it one of another release."""
    folder.mkdir()
    code = "import avatarlab.identity as identity\nidentity.software = lambda: '9.9.9 (tokens 77)'\n"
    (folder / "sitecustomize.py").write_text(code)
    return str(folder)


def test_a_worker_of_another_version_is_refused_by_name_before_anything_starts(
    cluster: DaskCluster, tmp_path: Path
) -> None:
    night = Night.make(tmp_path, 2)
    more(cluster, night, "stranger", PYTHONPATH=other_version(tmp_path / "other"))
    refused = night.run(*on(cluster))
    assert refused.code == 2, refused.err
    told = refused.report["error"]
    assert "stranger" in told
    assert "tcp://127.0.0.1" in told
    assert "9.9.9 (tokens 77)" in told
    assert software() in told
    assert night.begun.total() == 0


def test_a_worker_of_another_version_that_joins_in_mid_run_gets_no_work(tmp_path: Path) -> None:
    night = Night.make(tmp_path, 10, seconds=0.8)
    with dask_cluster(tmp_path / "cluster") as cluster:
        more(cluster, night, "good")
        with night.running(*on(cluster)) as running:
            running.wait_for_made(3)
            more(cluster, night, "stranger", PYTHONPATH=other_version(tmp_path / "other"))
            done = running.end()
            assert len({entry.pid for entry in journal.entries(tmp_path / "journal")}) == 1
    assert (done.code, done.statuses) == (0, {"done": 10}), done.err
    complete(night, 10)


def test_no_worker_with_the_slot_ends_within_seconds_with_the_command_that_starts_one(
    cluster: DaskCluster, tmp_path: Path
) -> None:
    night = Night.make(tmp_path, 2)
    started = time.monotonic()
    refused = night.run(*on(cluster), "--device", "cuda")
    assert time.monotonic() - started < 60
    assert refused.code == 2, refused.err
    assert f"avatarlab worker {cluster.address} --device cuda" in refused.report["remedy"]


# --- the pool itself -------------------------------------------------------------------------------------------------


def doze(stage: str, items: Sequence[Item], context: StageContext) -> list[Outcome]:  # noqa: ARG001
    """Work that takes as long as an item says."""
    for item in items:
        assert isinstance(item, TokensItem)
        time.sleep(float(item.spoken))
    return [Outcome(stage, item.key, None, error=str(os.getpid())) for item in items]


LEAKED: list[bytearray] = []


def leak(stage: str, items: Sequence[Item], context: StageContext) -> list[Outcome]:  # noqa: ARG001
    """Work that keeps so many megabytes."""
    for item in items:
        assert isinstance(item, TokensItem)
        LEAKED.append(bytearray(os.urandom(1 << 20) * int(item.spoken)))
    return [Outcome(stage, item.key, None, error=str(os.getpid())) for item in items]


def batch(number: int, spoken: str) -> Batch:
    return Batch(number, "tokens", (TokensItem(f"key-{number}", (), spoken, "", "", 0),))


def context(tmp_path: Path) -> StageContext:
    models = read_model_set("null")
    return StageContext(str(tmp_path / "out"), models.path, models.set_digest, software="")


def test_a_worker_with_other_models_is_refused_by_name(cluster: DaskCluster, tmp_path: Path) -> None:

    other = replace(context(tmp_path), models_digest="0" * 64, software=software())
    with (
        pytest.raises(SettingsError, match=r"worker w0-0 at tcp.* has another model set"),
        open_pool(other, 1, cluster.address),
    ):
        pass


def test_a_batch_that_hangs_is_given_up_and_its_worker_is_started_again(
    cluster: DaskCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    monkeypatch.setattr("tasks.pool.POLL_SECONDS", 0.5)
    with open_pool(replace(context(tmp_path), software=software()), 1, cluster.address) as opened:
        pool = DaskPool(opened.cluster, opened.context, work=doze, deadline_seconds=2.0)
        with pytest.raises(WorkerError, match="did not finish within 2 s"):
            pool.run(batch(1, "600"))
        (answer,) = pool.run(batch(2, "0"))
        assert answer.key == "key-2"


def test_a_worker_that_grows_is_replaced_after_its_answer_and_nothing_is_lost(tmp_path: Path) -> None:

    with dask_cluster(tmp_path / "cluster") as cluster:
        cluster.start_worker("--name", "small", "--memory-limit", "600MiB")
        with open_pool(replace(context(tmp_path), software=software()), 1, cluster.address) as opened:
            pool = DaskPool(opened.cluster, opened.context, work=leak)
            answers = [pool.run(batch(number, "100"))[0] for number in range(8)]
            assert [answer.key for answer in answers] == [f"key-{number}" for number in range(8)]
            assert 1 < len({answer.error for answer in answers}) < 8
            (over,) = pool.run(batch(9, "700"))  # more than the limit at once: the nanny ends it, each time
            assert "died" in over.error
            assert pool.run(batch(10, "1"))[0].key == "key-10"


def test_memory_limits_are_read_and_refused() -> None:
    assert bytes_of("1GiB") == 1 << 30
    for text in ("much", "1kB", ""):
        with pytest.raises(SettingsError):
            bytes_of(text)


def test_an_address_that_is_none_is_refused_at_once() -> None:
    code = "from flows.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "worker", "somewhere"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert "tcp://HOST:PORT" in done.stderr
