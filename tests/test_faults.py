"""A night's run and everything that breaks in one: nothing finished is lost or done again, nothing is published by half.

Prefect's own faults are in test_prefect.py, those of remote workers and schedulers in test_workers.py, those of stores in
test_store_faults.py. Here the command itself is run and hurt.
"""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from night import STAGES, Night, script, small_disk
from s3_server import s3_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
LARGEST_BATCH = 32


def whole(night: Night, rows: int) -> None:
    """Everything that players see is there, and no finished work was done again."""
    names = [name for name, _ in night.artifacts.store.list("videos/")]
    assert len([name for name in names if name.endswith("current.json")]) == rows
    assert night.half_published() == []
    assert night.repeated == 0


def test_a_worker_that_is_killed_costs_at_most_what_it_had_begun(tmp_path: Path) -> None:
    night = Night.make(tmp_path, 12, seconds=0.2)
    with night.running("--workers", "2") as running:
        running.wait_for_made(8)
        os.kill(running.workers()[0], signal.SIGKILL)
        done = running.end()
    assert (done.code, done.statuses) == (0, {"done": 12}), done.err
    whole(night, 12)
    assert night.begun.total() - night.made.total() <= LARGEST_BATCH


def test_workers_killed_over_and_over_cost_time_and_nothing_else(tmp_path: Path) -> None:
    night = Night.make(tmp_path, 10, seconds=0.2)
    with night.running("--workers", "2") as running:
        for kill in range(3):
            running.wait_for_made(6 * (kill + 1))
            for pid in running.workers()[: 1 + kill % 2]:
                os.kill(pid, signal.SIGKILL)
        done = running.end()
    assert (done.code, done.statuses) == (0, {"done": 10}), done.err
    whole(night, 10)


def test_a_row_that_kills_every_worker_fails_alone_after_a_bounded_number_of_starts(tmp_path: Path) -> None:
    rows = [{"id": f"row-{n}", "script": script(n)} for n in range(6)]
    rows.insert(3, {"id": "deadly", "script": "Mind the kettle here. And a second sentence."})
    night = Night.make(tmp_path, rows, deadly="kettle")
    done = night.run("--workers", "2")
    assert done.code == 1, done.err
    assert done.statuses == {"done": 6, "failed": 1}
    failed = done.row("deadly")
    assert "died" in failed["error"]
    assert failed["remedy"]
    whole(night, 6)
    assert max(night.begun.values()) <= 6
    again = night.run("--workers", "2")
    assert (again.code, again.statuses) == (1, {"cached": 6, "failed": 1})
    assert night.repeated == 0


def test_sigterm_lets_running_work_finish_and_the_next_run_goes_on_from_there(tmp_path: Path) -> None:
    night = Night.make(tmp_path, 12, seconds=0.3)
    with night.running("--workers", "2") as running:
        running.wait_for_made(6)
        running.process.send_signal(signal.SIGTERM)
        done = running.end()
    assert done.code == 130, done.err
    assert done.report["interrupted"]
    assert night.begun == night.made  # what was begun was finished
    assert sum(done.statuses.values()) == 12
    again = night.run("--workers", "2")
    assert again.code == 0, again.err
    whole(night, 12)


def test_a_second_sigterm_ends_at_once_and_loses_only_what_was_under_way(tmp_path: Path) -> None:
    night = Night.make(tmp_path, 8, seconds=1.0)
    with night.running("--workers", "2") as running:
        running.wait_for(lambda: night.begun.total() > 2)
        running.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        started = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        done = running.end()
    assert done.code == 130, done.err
    assert "Traceback" not in done.err
    assert time.monotonic() - started < 30
    assert night.run("--workers", "2").code == 0
    whole(night, 8)


def test_a_command_that_is_killed_leaves_no_worker_behind_and_the_next_finishes(tmp_path: Path) -> None:
    night = Night.make(tmp_path, 10, seconds=0.2)
    with night.running("--workers", "2") as running:
        running.wait_for_made(8)
        workers = running.workers()
        running.process.kill()
        running.process.wait()
        deadline = time.monotonic() + 60
        while any(Path(f"/proc/{pid}").exists() for pid in workers):
            assert time.monotonic() < deadline, "workers outlive their command"
            time.sleep(0.1)
    assert night.half_published() == []
    done = night.run("--workers", "2")
    assert done.code == 0, done.err
    whole(night, 10)


def test_two_runs_at_once_on_one_store_both_finish_and_agree(tmp_path: Path) -> None:
    night = Night.make(tmp_path, 8, seconds=0.1)
    with night.running("--workers", "1") as one, night.running("--workers", "1") as two:
        answers = [one.end(), two.end()]
    for done in answers:
        assert done.code == 0, done.err
        assert sum(done.statuses.values()) == 8
    versions = [[row["version"] for row in done.report["rows"]] for done in answers]
    assert versions[0] == versions[1]
    assert night.half_published() == []
    again = night.run()
    assert again.statuses == {"cached": 8}
    assert again.report["set_aside"] == []


def test_a_store_that_is_gone_in_mid_run_is_waited_for(tmp_path: Path) -> None:
    with s3_server(tmp_path / "s3") as server:
        port = int(server.endpoint.rpartition(":")[2])
        environment = {**server.environment(), "AVATARLAB_STORE_PATIENCE_SECONDS": "60"}
        night = Night.make(tmp_path, 8, "s3://lectures/night", seconds=0.2).with_environment(**environment)
        with night.running("--workers", "2") as running:
            running.wait_for_made(6)
            server.process.kill()
            server.process.wait()
            time.sleep(8)
            with s3_server(tmp_path / "s3", port):
                done = running.end()
                assert (done.code, done.statuses) == (0, {"done": 8}), done.err
                assert night.repeated == 0
                for name, value in environment.items():
                    os.environ[name] = value  # the store is looked at from here
                try:
                    assert night.half_published() == []
                finally:
                    for name in environment:
                        del os.environ[name]


def test_a_full_disk_under_the_store_fails_rows_with_a_remedy_and_more_space_finishes_them(tmp_path: Path) -> None:
    with small_disk(tmp_path / "out", "700k"):
        night = Night.make(tmp_path, 10)
        done = night.run("--workers", "2")
        assert done.code == 1, done.err
        assert "Traceback" not in done.err
        lacking = [row for row in done.report["rows"] if row["status"] == "failed"]
        assert lacking
        assert all("space" in row["error"] and row["remedy"] for row in lacking)
        assert night.half_published() == []
        assert not list((tmp_path / "out/.tmp").iterdir())
        subprocess.run(["mount", "-o", "remount,size=64m", tmp_path / "out"], check=True)
        again = night.run("--workers", "2")
        assert again.code == 0, again.err
        names = [name for name, _ in night.artifacts.store.list("videos/") if name.endswith("current.json")]
        assert len(names) == 10
        assert night.half_published() == []


def test_damaged_truncated_and_missing_artifacts_are_made_again_said_so_and_nothing_else_is(tmp_path: Path) -> None:
    night = Night.make(tmp_path, 4)
    assert night.run("--workers", "1").code == 0
    made = night.made.total()
    store = tmp_path / "out"
    records = {stage: sorted((store / "actions" / stage).rglob("*.json")) for stage in STAGES}
    records["tokens"][0].write_bytes(b"")
    records["audio"][0].write_bytes(records["audio"][0].read_bytes()[:40])
    records["motion"][0].unlink()
    videos = sorted(
        (path for path in (store / "blobs").rglob("*") if path.is_file() and path.read_bytes()[4:8] == b"ftyp"),
    )
    videos[0].write_bytes(b"short")
    done = night.run("--workers", "1")
    assert (done.code, sum(done.statuses.values())) == (0, 4), done.err
    assert len(done.report["set_aside"]) >= 3
    assert all(found["reason"] for found in done.report["set_aside"])
    assert 4 <= night.made.total() - made <= 8
    assert night.half_published() == []
    assert night.run("--workers", "1").statuses == {"cached": 4}


def test_hostile_rows_are_refused_by_number_and_the_others_are_rendered_when_asked(tmp_path: Path) -> None:
    good = [{"id": f"row-{n}", "script": script(n)} for n in range(2)]
    hostile: list[dict[str, object]] = [
        {"id": "../../escape", "script": "Hello."},
        {"id": "a/b", "script": "Hello."},
        {"id": "é", "script": "Hello."},
        {"id": "x" * 300, "script": "Hello."},
        {"id": "empty", "script": "  "},
        {"id": "nothing-speakable", "script": "🙂 🙂"},
        {"id": "control", "script": "\x07\x00"},
        {"id": "row-0", "script": "A second row of that id."},
        {"id": "klingon", "script": "Hello.", "language": "tlh"},
    ]
    night = Night.make(tmp_path, [*good, *hostile])
    refused = night.run()
    assert refused.code == 2
    assert {problem["row"] for problem in refused.report["problems"]} == set(range(3, 12))
    assert all(problem["remedy"] for problem in refused.report["problems"])
    assert not (tmp_path / "out").exists()
    done = night.run("--skip-invalid", "--workers", "1")
    assert (done.code, done.statuses) == (1, {"done": 2, "failed": 9})
    whole(night, 2)
    outside = {path.name for path in tmp_path.iterdir()}
    assert outside == {"avatars", "journal", "manifest.parquet", "models", "out"}


def test_a_home_that_cannot_be_written_is_told_with_a_remedy_and_matters_only_to_prefect(tmp_path: Path) -> None:
    night = Night.make(tmp_path, 2)
    night = night.with_environment(AVATARLAB_PREFECT_HOME="/proc/nowhere", HOME="/proc/nowhere")
    refused = night.run(prefect=True)
    assert refused.code == 2, refused.err
    assert "AVATARLAB_PREFECT_HOME" in refused.out + refused.err
    done = night.run("--workers", "1")
    assert (done.code, done.statuses) == (0, {"done": 2}), done.err


def test_locale_umask_and_time_zone_change_no_key(tmp_path: Path) -> None:
    night = Night.make(tmp_path, [{"id": "one", "script": "The café's naïve coöperation costs 3 %. Good."}])
    assert night.run("--workers", "1").code == 0
    odd = night.with_environment(LC_ALL="C", TZ="Pacific/Kiritimati", PYTHONUTF8="0")
    before = os.umask(0o077)
    try:
        again = odd.run()
    finally:
        os.umask(before)
    assert again.statuses == {"cached": 1}, again.err
