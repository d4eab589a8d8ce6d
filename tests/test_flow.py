"""From a manifest to videos with the real networks at toy sizes: in this process, on Dask, and under Prefect."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import cloudpickle
import pyarrow.parquet as pq
import pytest
import tiny
from tiny import World, render_inline, rows_of

from avatarlab.artifacts import Action
from avatarlab.errors import ManifestError, SettingsError, StoreUnreachable, WeightsError, WorkerError
from avatarlab.graph import Batch, Finished
from avatarlab.media import probe
from avatarlab.stages import Item, Outcome, StageContext, TokensItem
from flows.drive import PASSES
from flows.metadata import metadata
from flows.prepare import Prepared, Request, prepare
from flows.server import prefect_server
from flows.session import ThreadStarter, carry_out
from flows.workers import default_workers, open_pool, slot_of
from tasks.pool import DaskPool, Slots

ONE = {"id": "one", "script": "Good morning. This is [pause 1.0] a test.", "title": "A title", "course": "physics"}
TWO = {"id": "two", "script": "Good morning. And goodbye."}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A rendered world, copied for every test that changes it."""
    world = World.make(tmp_path_factory.mktemp("world"))
    report, made = render_inline(world.request(ONE, TWO))
    assert report.exit_code == 0, report.rows
    assert made == {"tokens": 4, "audio": 4, "motion": 4, "face": 4, "video": 2}
    return world


@pytest.fixture
def world(template: World, tmp_path: Path) -> World:
    subprocess.run(["cp", "-a", f"{template.folder}/.", tmp_path], check=True)
    return World(tmp_path)


@pytest.fixture
def fresh(template: World, tmp_path: Path) -> World:
    """The same models and avatar over an empty store."""
    subprocess.run(["cp", "-a", template.folder / "models", template.folder / "avatars", tmp_path], check=True)
    return World(tmp_path)


def found(prepared: Prepared) -> list[Finished]:
    """The rows whose videos are in the store."""
    graph = prepared.graph([row for portion in prepared.portions for row in portion.rows])
    graph.resolve(prepared.artifacts.find)
    return graph.finished()


def test_every_row_is_published_with_captions_poster_metadata_and_a_current_version(template: World) -> None:
    current = json.loads((template.store / "videos/one/current.json").read_text())
    folder = template.store / "videos/one" / current["version"]
    names = {path.name for path in folder.iterdir()}
    assert names == {"video.mp4", "captions.vtt", "captions.srt", "poster.jpg", "metadata.json"}
    info = probe(folder / "video.mp4")
    assert abs(info.audio_seconds - info.video_seconds) < 1 / 25
    told = json.loads((folder / "metadata.json").read_text())
    assert told["synthetic"] is True
    assert told["script"] == ONE["script"]
    assert told["frame_count"] == info.frame_count
    assert told["avatar"]["consent"]["purpose"] == "tests"
    assert [sentence["text"] for sentence in told["sentences"]] == ["Good morning.", "This is", "a test."]
    assert told["extra"] == {"course": "physics"}
    assert str(template.folder) not in json.dumps(told)


def test_a_run_leaves_its_manifest_its_plan_and_its_results(template: World) -> None:
    (run,) = (template.store / "runs").iterdir()
    assert {path.name for path in run.iterdir()} == {"manifest.parquet", "plan.json", "results.parquet"}
    results = pq.read_table(run / "results.parquet").to_pylist()
    assert [(row["id"], row["status"], row["course"]) for row in results] == [
        ("one", "done", "physics"),
        ("two", "done", None),
    ]
    assert all(Path(row["video_uri"].removeprefix("file://")).is_file() for row in results)
    assert all(row["duration_seconds"] > 0 and row["seconds_face"] > 0 for row in results)
    plan = json.loads((run / "plan.json").read_text())
    assert plan["stages"]["tokens"] == {"units": 4, "in_store": 0, "to_make": 4}


@pytest.mark.parametrize("run_id", ["../x", "a/b", "", "x" * 129, "a..b"])
def test_a_run_cannot_be_named_out_of_its_folder(template: World, run_id: str) -> None:
    with pytest.raises(SettingsError, match="cannot name a run"):
        prepare(template.request(ONE, run_id=run_id or "."))


def test_the_same_command_again_computes_nothing_and_finds_every_row_cached(world: World) -> None:
    before = sorted(path for path in (world.store / "videos").rglob("*") if path.is_file())
    times = [path.stat().st_mtime_ns for path in before]
    report, made = render_inline(world.request(ONE, TWO))
    assert made == {}
    assert [(row.id, row.status) for row in report.rows] == [("one", "cached"), ("two", "cached")]
    assert all(sum(row.seconds.values()) == 0 for row in report.rows)
    assert [path.stat().st_mtime_ns for path in before] == times


def test_a_new_renderer_leaves_tokens_audio_and_motion_valid(world: World) -> None:
    tiny.change(world.folder / "models", "renderer", "out")
    report, made = render_inline(world.request(ONE, TWO))
    assert made == {"face": 4, "video": 2}
    assert [row.status for row in report.rows] == ["done", "done"]
    versions = {path.name for path in (world.store / "videos/one").iterdir() if path.is_dir()}
    assert len(versions) == 2
    assert json.loads((world.store / "videos/one/current.json").read_text())["version"] == rows_of(report)[0].version


def test_a_renderer_that_encodes_lips_otherwise_makes_motion_again_too(world: World) -> None:
    tiny.change(world.folder / "models", "renderer", "encoder")
    assert render_inline(world.request(TWO))[1] == {"motion": 2, "face": 2, "video": 1}


def test_an_edited_sentence_recomputes_that_sentence_only(world: World) -> None:
    edited = {**ONE, "script": "Good morning. This is [pause 1.0] another test."}
    report, made = render_inline(world.request(edited, TWO))
    assert made == {"tokens": 1, "audio": 1, "motion": 1, "face": 1, "video": 1}
    assert [row.status for row in report.rows] == ["done", "cached"]
    assert rows_of(report)[0].cached == {"tokens": 2, "audio": 2, "motion": 2, "face": 2, "video": 0}


def test_a_longer_pause_and_a_new_background_only_compose_again(world: World) -> None:
    changed = {**ONE, "script": "Good morning. This is [pause 2.0] a test.", "background": "#ffffff"}
    assert render_inline(world.request(changed, TWO))[1] == {"video": 1}


def test_a_damaged_artifact_is_made_again_in_the_same_run_and_said_so(world: World) -> None:
    prepared = prepare(world.request(ONE))
    (finished,) = found(prepared)
    line = finished.planned.lines[0]
    blob = world.store / finished.actions[line]["motion"].outputs["latents.npy"].name
    blob.chmod(0o644)
    blob.write_bytes(bytes(blob.stat().st_size))
    tiny.change(world.folder / "models", "renderer", "out")
    report, made = render_inline(world.request(ONE))
    assert rows_of(report)[0].status == "done"
    assert rows_of(report)[0].attempts == 2
    assert made["motion"] == 1
    assert [found.name for found in report.set_aside] or list((world.store / "quarantine").rglob("*"))


def test_rows_with_the_same_content_are_rendered_once_and_published_under_both_names(world: World) -> None:
    report, made = render_inline(world.request(TWO, {**TWO, "id": "three"}))
    assert made == {}
    assert [row.version for row in report.rows] == [rows_of(report)[0].version] * 2
    assert (world.store / "videos/three/current.json").exists()


def test_invalid_rows_stop_everything_before_anything_is_computed(fresh: World) -> None:
    request = fresh.request(
        ONE, {"id": "bad", "script": "🙂 🙂"}, {"id": "worse", "script": "Hello.", "avatar": "nobody"}
    )
    with pytest.raises(ManifestError) as caught:
        prepare(request)
    assert [(problem.row, problem.column) for problem in caught.value.problems] == [(2, "script"), (3, "avatar")]
    assert not fresh.store.exists()


def test_with_skip_invalid_they_fail_alone_with_their_reason(world: World) -> None:
    request = world.request(ONE, {"id": "bad", "script": "🙂 🙂"}, skip_invalid=True)
    report, made = render_inline(request)
    assert made == {}
    assert [(row.id, row.status) for row in report.rows] == [("one", "cached"), ("bad", "failed")]
    assert report.exit_code == 1
    results = pq.read_table(world.store / "runs" / report.run_id / "results.parquet").to_pylist()
    assert results[1]["error"].startswith("script: ")
    assert results[1]["remedy"]


def test_dropped_characters_are_told_in_the_results(world: World) -> None:
    report, _ = render_inline(world.request({"id": "one", "script": "Good morning 🙂."}))
    assert rows_of(report)[0].status in ("done", "cached")
    assert any("🙂" in note for note in rows_of(report)[0].notes)


def test_damaged_weights_stop_a_run_that_would_use_them_and_no_other(world: World) -> None:
    path = world.folder / "models/codec.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    assert rows_of(render_inline(world.request(ONE))[0])[0].status == "cached"
    with pytest.raises(WeightsError, match="codec"):
        prepare(world.request({"id": "new", "script": "Something new."}))


def test_a_run_asked_to_stop_keeps_what_is_finished_and_the_next_one_goes_on(fresh: World) -> None:
    prepared = prepare(fresh.request(ONE, TWO))
    stop = threading.Event()

    class StopAfter(tiny.Inline):
        def start(self, batch: Batch):  # type: ignore[no-untyped-def]
            if len(self.batches) == 4:
                stop.set()
            return super().start(batch)

    starter = StopAfter(prepared.context)
    report = carry_out(prepared, starter, stop, tiny.Quiet())
    assert report.interrupted
    assert report.exit_code == 130
    assert all(row.error and "interrupted" in row.error for row in report.rows if row.status == "failed")
    again, made = render_inline(fresh.request(ONE, TWO))
    assert again.exit_code == 0
    for stage, count in {"tokens": 4, "audio": 4, "motion": 4, "face": 4, "video": 2}.items():
        assert made.get(stage, 0) + starter.made.get(stage, 0) == count


def test_failures_that_may_pass_are_tried_again_and_given_up_in_the_end(fresh: World) -> None:
    prepared = prepare(fresh.request(TWO))

    class Flaky(tiny.Inline):
        def __init__(self, context: StageContext, failures: int) -> None:
            super().__init__(context)
            self.failures = failures

        def start(self, batch: Batch):  # type: ignore[no-untyped-def]
            if batch.stage == "motion" and self.failures:
                self.failures -= 1
                raise_from = tiny.Future()
                raise_from.set_exception(StoreUnreachable("nobody answered", "wait"))
                return raise_from
            return super().start(batch)

    report = carry_out(prepared, Flaky(prepared.context, 100), threading.Event(), tiny.Quiet())
    assert rows_of(report)[0].status == "failed"
    assert rows_of(report)[0].attempts == PASSES
    assert rows_of(report)[0].remedy == "wait"
    prepared = prepare(fresh.request(TWO))
    flaky = Flaky(prepared.context, 1)
    report = carry_out(prepared, flaky, threading.Event(), tiny.Quiet())
    assert (rows_of(report)[0].status, rows_of(report)[0].attempts) == ("done", 2)
    assert "tokens" not in flaky.made


def test_metadata_is_the_same_in_every_run_that_finds_the_video(world: World) -> None:
    told = []
    for _ in range(2):
        prepared = prepare(world.request(ONE))
        told.append(metadata(prepared, found(prepared)[0]))
    assert told[0] == told[1]


# --- Dask ------------------------------------------------------------------------------------------------------------


def act(stage: str, items: tuple[Item, ...], context: StageContext) -> list[Outcome]:
    """Work that keeps a ledger of its starts in the store's folder, and dies as an item's words say."""
    outcomes = []
    for item in items:
        assert isinstance(item, TokensItem)
        with (Path(context.store_uri) / "ledger").open("a") as ledger:
            ledger.write(f"{item.spoken}\n")
        once = Path(context.store_uri) / "died"
        if item.spoken == "poison" or (item.spoken == "once" and not once.exists()):
            once.touch()
            os._exit(1)
        outcomes.append(Outcome(stage, item.key, Action(stage, item.key, {})))
    return outcomes


def item(spoken: str) -> TokensItem:
    return TokensItem(spoken, (), spoken, "", "", 0)


@pytest.fixture(scope="module")
def pool(template: World) -> Iterator[DaskPool]:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with open_pool(prepare(template.request(ONE)).context, 2, None) as opened:
        yield opened


def starts(folder: Path) -> list[str]:
    return (folder / "ledger").read_text().split("\n")[:-1]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_an_item_that_kills_every_worker_fails_alone(pool: DaskPool, template: World, tmp_path: Path) -> None:
    deadly = pool.doing(act, replace(prepare(template.request(ONE)).context, store_uri=str(tmp_path)))
    batches = [Batch(n, "tokens", tuple(item(f"{n}{letter}") for letter in "abc")) for n in range(3)]
    batches.append(Batch(9, "tokens", (item("good"), item("poison"), item("better"))))
    with ThreadStarter(deadly) as starter:
        futures = [starter.start(batch) for batch in batches]
        outcomes = {outcome.key: outcome for future in futures for outcome in future.result()}
    bad = [key for key, outcome in outcomes.items() if outcome.action is None]
    assert bad == ["poison"]
    assert len(outcomes) == 12
    assert outcomes["poison"].kind == "WorkerError"
    assert "died" in outcomes["poison"].error
    assert starts(tmp_path).count("poison") == 6  # twice with its neighbours, four times alone


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_worker_that_dies_once_costs_only_what_it_was_doing(pool: DaskPool, template: World, tmp_path: Path) -> None:
    deadly = pool.doing(act, replace(prepare(template.request(ONE)).context, store_uri=str(tmp_path)))
    with ThreadStarter(deadly) as starter:
        futures = [
            starter.start(Batch(n, "tokens", (item(name),))) for n, name in enumerate(["a", "b", "once", "c", "d"])
        ]
        assert all(outcome.action for future in futures for outcome in future.result())
    assert sorted(starts(tmp_path)) == ["a", "b", "c", "d", "once", "once"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_dask_workers_make_the_same_videos_as_this_process(pool: DaskPool, fresh: World, template: World) -> None:
    prepared = prepare(fresh.request(ONE, TWO))
    with ThreadStarter(pool.doing(pool.work, prepared.context)) as starter:
        report = carry_out(prepared, starter, threading.Event(), tiny.Quiet())
    assert [row.status for row in report.rows] == ["done", "done"]
    for row in report.rows:
        assert json.loads((template.store / f"videos/{row.id}/current.json").read_text())["version"] == row.version


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_slot_that_no_worker_declares_fails_at_once_with_a_remedy(pool: DaskPool, template: World) -> None:
    context = replace(prepare(template.request(ONE)).context, device="cuda")
    started = time.monotonic()
    with (
        pytest.raises(Exception, match="declares the resource GPU") as caught,
        open_pool(context, 1, pool.cluster.address),
    ):
        pass
    assert time.monotonic() - started < 30
    assert "avatarlab worker tcp://127.0.0.1" in str(caught.value)


def test_a_scheduler_that_is_not_there_is_an_error_with_a_remedy(
    template: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.cluster.CONNECT_SECONDS", 1)
    context = prepare(template.request(ONE)).context
    with pytest.raises(Exception, match="no Dask scheduler answers"), open_pool(context, 1, "tcp://127.0.0.1:9"):
        pass


def test_a_suspect_runs_with_nobody_beside_it() -> None:
    slots = Slots(2)
    running: list[str] = []
    seen: list[tuple[str, ...]] = []

    def work(name: str, alone: bool) -> None:
        with slots.alone() if alone else slots.one():
            running.append(name)
            seen.append(tuple(running))
            time.sleep(0.01)
            running.remove(name)

    threads = [threading.Thread(target=work, args=(f"{n}{'!' * (n % 4 == 0)}", n % 4 == 0)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(seen) == 16
    assert all(len(names) == 1 for names in seen if any("!" in name for name in names))
    assert max(map(len, seen)) == 2


def test_a_device_needs_its_slot_and_a_worker_for_each() -> None:
    assert (slot_of("cpu"), slot_of("cuda"), slot_of("cuda:1")) == ("CPU", "GPU", "GPU")
    assert default_workers("cpu") >= 2


# --- Prefect ---------------------------------------------------------------------------------------------------------


def render_command(request: Request) -> list[str]:
    command = [sys.executable, "-c", "from flows.cli import main; main()", "render", request.manifest, "--json"]
    command += ["--store", request.store, "--models", str(request.models), "--avatars", request.avatars[0]]
    return [*command, "--workers", "1"]


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "AVATARLAB_PREFECT_HOME": str(home)}


def recorded(home: Path, query: str) -> list[tuple[str, ...]]:
    with sqlite3.connect(home / "prefect.db") as database:
        return database.execute(query).fetchall()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_an_interrupted_command_records_it_keeps_what_is_finished_and_goes_on_when_given_again(
    fresh: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    rows = [{"id": f"row-{n}", "script": f"This is number {n}. It says {n} times {n}. Bye."} for n in range(8)]
    request = fresh.request(*rows)
    home = fresh.folder / "prefect"
    with subprocess.Popen(
        render_command(request),
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while process.poll() is None and not (fresh.store / "actions/motion").exists():
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=1000)
    assert process.returncode == 130, err
    assert json.loads(out)["interrupted"]
    assert "Traceback" not in err
    assert recorded(home, "select state_type from flow_run") == [("CANCELLED",)]
    assert {state for (state,) in recorded(home, "select state_type from task_run")} == {"COMPLETED"}

    kept = len(list((fresh.store / "actions").rglob("*.json")))
    after, made = render_inline(request)
    assert after.exit_code == 0
    assert kept > 0
    assert kept + sum(made.values()) == len(list((fresh.store / "actions").rglob("*.json")))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_flow_runs_from_the_command_and_as_a_deployment_and_tells_prefect_the_truth(
    fresh: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    home = fresh.folder / "prefect"
    monkeypatch.setenv("AVATARLAB_PREFECT_HOME", str(home))
    request = fresh.request(ONE, TWO)
    with prefect_server() as server:
        server.wait()
        for counts in ({"done": 2}, {"cached": 2}):
            done = subprocess.run(render_command(request), capture_output=True, text=True, check=False, timeout=1000)
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["counts"] == counts
            assert "Traceback" not in done.stderr
        parameters = asdict(fresh.request(ONE, {"id": "three", "script": "Good morning. And more."}, workers=1))
        code = f"from flows.render import render; print(render(**{parameters!r}))"
        deployed = subprocess.run(
            [sys.executable, "-c", f"if __name__ == '__main__': {code}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=1000,
        )
        assert deployed.stdout == "{'done': 1, 'cached': 1}\n", deployed.stderr
    assert server.process is not None
    assert server.process.poll() is not None
    runs = recorded(home, "select id, state_name from flow_run order by start_time")
    assert [state for _, state in runs] == ["Completed", "Cached", "Completed"]
    by_run = [recorded(home, f"select name, state_name from task_run where flow_run_id = '{id}'") for id, _ in runs]
    stages = {"tokens", "audio", "motion", "face", "video"}
    assert {name.partition("-")[0] for name, _ in by_run[0]} == stages
    assert {state for _, state in by_run[0]} == {"Completed"}
    assert {(name, state) for name, state in by_run[1]} == {(f"{stage}-cached", "Cached") for stage in stages}
    assert {state for _, state in by_run[2]} == {"Completed", "Cached"}


def test_a_batch_without_an_answer_is_a_failure_of_its_items() -> None:
    from flows.drive import _outcomes

    future: tiny.Future[list[Outcome]] = tiny.Future()
    future.set_exception(WorkerError("no worker is left", "start some"))
    (outcome,) = _outcomes(future, Batch(1, "tokens", (item("a"),)))
    assert (outcome.kind, outcome.retryable, outcome.remedy) == ("WorkerError", True, "start some")
