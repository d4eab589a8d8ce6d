"""The command: what it prints, what it returns, and what bad input gets, before anything is computed."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cartoon
import numpy as np
import pytest
import tiny
from tiny import World

from avatarlab.avatars import BUNDLED, load_avatar
from avatarlab.media import probe, read_audio, write_wav
from flows.cli import main

ROW = {"id": "one", "script": "Good morning."}


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Said]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr("flows.cli.terminate_as_interrupt", lambda: None)

    def run(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["avatarlab", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capfd.readouterr()
        return Said(int(caught.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World.make(tmp_path_factory.mktemp("cli"))
    report, _ = tiny.render_inline(world.request(ROW))
    assert report.exit_code == 0, report.rows
    return world


def options(world: World, *more: object) -> list[object]:
    return ["--store", world.store, "--models", world.folder / "models", "--avatars", world.folder / "avatars", *more]


def test_a_good_manifest_is_checked_in_one_line(run: Run, world: World) -> None:
    said = run("check", world.manifest(ROW), "--avatars", world.folder / "avatars")
    assert (said.code, said.out, said.err) == (0, "1 rows can be rendered, 0 cannot\n", "")


def test_check_lists_every_problem_with_row_id_column_and_remedy(run: Run, world: World) -> None:
    manifest = world.manifest(ROW, {"id": "b/d", "script": "🙂"}, {"id": "c", "script": "Hi.", "avatar": "nobody"})
    said = run("check", manifest, "--avatars", world.folder / "avatars")
    assert said.code == 2
    assert len(said.err.splitlines()) >= 2
    assert "row 3, id c, avatar: there is no avatar 'nobody'" in said.err
    assert "row 2, id b/d, id: " in said.err
    as_json = run("check", manifest, "--avatars", world.folder / "avatars", "--json")
    assert as_json.code == 2
    assert {problem["column"] for problem in as_json.json["problems"]} >= {"id", "avatar"}


def test_the_plan_says_what_is_there_and_what_is_missing(run: Run, world: World) -> None:
    manifest = world.manifest(ROW, {"id": "two", "script": "Good morning. And more."})
    said = run("plan", manifest, *options(world, "--json"))
    assert said.code == 0
    assert said.json["stages"]["tokens"] == {"units": 2, "in_store": 1, "to_make": 1}
    table = run("plan", manifest, *options(world)).out
    assert "tokens" in table
    assert "to make" in table


def test_render_with_everything_in_the_store_starts_nothing_and_prints_one_json_object(run: Run, world: World) -> None:
    said = run("render", world.manifest(ROW), *options(world, "--json"))
    assert said.code == 0
    assert len(said.out.splitlines()) == 1
    assert said.json["counts"] == {"cached": 1}
    assert said.json["rows"][0]["id"] == "one"
    assert "no worker, engine or Prefect server is started" in said.err


def test_render_prints_a_table_for_people(run: Run, world: World) -> None:
    said = run("render", world.manifest(ROW), *options(world))
    assert said.code == 0
    assert "cached" in said.out
    assert "results: " in said.err


def test_only_the_rows_asked_for_are_rendered(run: Run, world: World) -> None:
    manifest = world.manifest(ROW, {**ROW, "id": "two"}, {**ROW, "id": "three"})
    said = run("render", manifest, *options(world, "--json", "--only", "one,three"))
    assert [row["id"] for row in said.json["rows"]] == ["one", "three"]
    assert run("render", manifest, *options(world, "--only", "nobody")).code == 2


def test_a_run_has_the_name_it_is_given(run: Run, world: World) -> None:
    said = run("render", world.manifest(ROW), *options(world, "--json", "--run-id", "nightly"))
    assert said.json["run_id"] == "nightly"
    assert (world.store / "runs/nightly/results.parquet").exists()


BAD_ROWS: dict[str, tuple[dict[str, object], str]] = {
    "an empty script": ({"script": "  "}, "script"),
    "a script of signs": ({"script": "🙂 \u0007 ~"}, "script"),
    "an id with a slash": ({"id": "a/b"}, "id"),
    "an id that climbs": ({"id": "a..b"}, "id"),
    "an avatar that is not there": ({"avatar": "nobody"}, "avatar"),
    "a voice that is not there": ({"voice": "nobody"}, "voice"),
    "an odd width": ({"width": 641, "height": 360}, "width"),
    "a huge height": ({"width": 640, "height": 100_000}, "height"),
    "a background that is no colour": ({"background": "#12345"}, "background"),
    "a background that is not there": ({"background": "nowhere.png"}, "background"),
    "a background that is no picture": ({"background": "text.png"}, "background"),
    "a language it cannot speak": ({"language": "fr"}, "language"),
}


@pytest.mark.parametrize("what", BAD_ROWS)
def test_a_bad_row_gets_one_line_naming_row_id_column_and_remedy(run: Run, world: World, what: str) -> None:
    changes, column = BAD_ROWS[what]
    (world.folder / "text.png").write_text("no picture")
    said = run("render", world.manifest(ROW, {**ROW, "id": "bad", **changes}), *options(world, "--no-prefect"))
    assert said.code == 2
    assert said.out == ""
    (line,) = [line for line in said.err.splitlines() if line.startswith("row 2")]
    assert f", {column}: " in line
    assert line.endswith(")")
    assert "(" in line
    assert "Traceback" not in said.err


def test_an_id_used_twice_names_both_rows(run: Run, world: World) -> None:
    said = run("render", world.manifest(ROW, ROW), *options(world))
    assert said.code == 2
    assert "row 2, id one, id: " in said.err
    assert "row 1" in said.err


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "no such file"), (b"", "empty"), (b"PAR1 and no more", "Parquet"), (b"\x00\x01\x02", "")],
)
def test_a_manifest_that_cannot_be_read_is_one_line(run: Run, world: World, content: bytes | None, words: str) -> None:
    path = world.folder / "broken.parquet"
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content)
    said = run("render", path, *options(world))
    assert said.code == 2
    assert "Traceback" not in said.err
    assert words.lower() in said.err.lower() or content is None


def test_a_missing_column_is_named(run: Run, world: World) -> None:
    path = world.folder / "columns.csv"
    path.write_text("id,script\none,Hello.\n")
    said = run("render", path, *options(world))
    assert said.code == 2
    assert "avatar" in said.err


BAD_VOICES = {
    "too short": cartoon.speechlike(0.2),
    "silent": np.zeros(5 * 16_000, np.float32),
}


@pytest.mark.parametrize("what", BAD_VOICES)
def test_a_voice_clip_that_cannot_be_cloned_stops_the_run(run: Run, world: World, what: str, tmp_path: Path) -> None:
    cartoon.write_bundle(tmp_path, "mute", size=128, voice=BAD_VOICES[what])
    manifest = world.manifest({**ROW, "avatar": "mute"})
    said = run("render", manifest, *options(world, "--avatars", tmp_path))
    assert said.code == 2
    assert "row 1, id one, avatar: " in said.err
    assert "voice.wav" in said.err


def test_damaged_weights_are_named_with_the_way_out(run: Run, world: World, tmp_path: Path) -> None:
    tiny.tiny_models(tmp_path / "models", seed=1)
    path = tmp_path / "models/small_e.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    arguments = ["render", world.manifest(ROW), "--store", world.store, "--models", tmp_path / "models"]
    said = run(*arguments, "--avatars", world.folder / "avatars")
    assert said.code == 2
    assert "small_e" in said.err
    assert "models verify" in said.err
    assert run("models", "verify", tmp_path / "models").code == 2
    assert run("models", "verify", world.folder / "models").out == "tiny: whole\n"


def test_a_store_that_cannot_be_written_stops_the_run(run: Run, world: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    arguments = ["render", world.manifest(ROW), "--store", tmp_path / "file/out", "--models", world.folder / "models"]
    said = run(*arguments, "--avatars", world.folder / "avatars")
    assert said.code == 2
    assert "Traceback" not in said.err


def test_a_store_that_does_not_answer_stops_the_run(run: Run, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    arguments = ["render", world.manifest(ROW), "--store", "s3://bucket/prefix", "--models", world.folder / "models"]
    said = run(*arguments, "--avatars", world.folder / "avatars", "--json")
    assert said.code == 2
    assert said.json["kind"] == "StoreUnreachable"
    assert said.json["remedy"]


def test_errors_are_one_json_object_too(run: Run, world: World) -> None:
    said = run("render", world.manifest({**ROW, "avatar": "nobody"}), *options(world, "--json"))
    assert said.code == 2
    assert said.json["kind"] == "ManifestError"
    assert said.json["problems"][0]["column"] == "avatar"


def test_avatars_are_listed_and_checked(run: Run, world: World) -> None:
    listed = run("avatars", "list", "--avatars", world.folder / "avatars", "--json").json
    assert "cartoon" in [avatar["id"] for avatar in listed["avatars"]]
    checked = run("avatars", "check", "ada", "--json")
    assert checked.code == 0
    assert {finding["what"] for finding in checked.json["ada"]} >= {"picture", "voice", "transcript"}
    cartoon_check = ["avatars", "check", "cartoon", "--avatars", world.folder / "avatars"]
    buzzing = run(*cartoon_check, "--models", world.folder / "models", "--json")
    assert buzzing.code == 2
    refused = [finding for finding in buzzing.json["cartoon"] if finding["level"] == "error"]
    assert [finding["what"] for finding in refused] == ["transcript"]
    assert run("avatars", "check", "nobody", "--avatars", world.folder / "avatars").code == 2


def test_an_avatar_is_added_from_a_photograph_and_a_clip(run: Run, tmp_path: Path, golden: Path) -> None:
    voice, shelf = BUNDLED / "ada/voice.wav", tmp_path / "shelf"
    arguments = ["avatars", "add", golden / "astronaut.jpg", "--voice", voice, "--avatars", shelf]
    words = ["--transcript", load_avatar([], "ada").transcript, "--licence", "public domain"]
    consent = ["--consent-who", "NASA", "--consent-purpose", "tests", "--consent-when", "1999"]
    forgotten = run(*arguments, *words)
    assert forgotten.code == 2
    assert "--consent-who, --consent-purpose, --consent-when are missing" in forgotten.err
    added = run(*arguments, *words, *consent, "--json")
    assert added.code == 0, added.err
    assert (added.json["id"], added.json["folder"]) == ("astronaut", str(shelf / "astronaut"))
    assert Path(added.json["preview"]).is_file()
    assert {finding["what"] for finding in added.json["findings"]} >= {"face", "picture", "voice", "transcript"}
    assert "astronaut" in run("avatars", "list", "--avatars", shelf).out
    again = run(*arguments, *words, *consent)
    assert again.code == 2
    assert "there is an avatar 'astronaut'" in again.err
    said = run(*arguments, *words, *consent, "--id", "two", "--eyes", "124,101.6,166.6,103.2", "--mouth", "144,144.5")
    assert said.code == 0, said.err
    assert "preview.png" in said.out
    assert "warning: face: the face is small" in said.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--eyes", "1,2,3,4"], "--eyes and --mouth go together"),
        (["--eyes", "1,2,3", "--mouth", "1,2"], "--eyes 1,2,3 is not 4 numbers"),
        (["--face", "left"], "--face left is not 2 numbers"),
        (["--face", "1", "--landmarks", "a.npy"], "more than one way"),
    ],
)
def test_a_face_named_wrongly_is_one_line(run: Run, golden: Path, options: list[str], words: str) -> None:
    said = run("avatars", "add", golden / "astronaut.jpg", "--voice", "voice.wav", *options)
    assert said.code == 2
    assert words in said.err
    assert "Traceback" not in said.err


def test_a_voice_is_tuned_into_a_file_that_the_bundle_can_hold(run: Run, world: World, tmp_path: Path) -> None:
    out = tmp_path / "voice_state.safetensors"
    arguments = [
        "voices",
        "tune",
        "cartoon",
        "--models",
        world.folder / "models",
        "--avatars",
        world.folder / "avatars",
    ]
    tuned = run(*arguments, "--out", out, "--steps", 10, "--json")
    assert tuned.code == 0
    assert tuned.json["path"] == str(out)
    assert tuned.json["loss_after"] < tuned.json["loss_before"]
    assert "step 10 of 10" in tuned.err
    said = run(*arguments, "--out", tmp_path / "again", "--steps", 10)
    assert f"{tuned.json['loss_before']} before, {tuned.json['loss_after']} after" in said.out.replace("\n", " ")
    assert out.read_bytes() == (tmp_path / "again").read_bytes()
    assert run(*arguments, "--clips", tmp_path / "nowhere").code == 2


def test_a_text_is_spoken_into_a_wav_file(run: Run, world: World, tmp_path: Path) -> None:
    out = tmp_path / "speech.wav"
    arguments = ["--models", world.folder / "models", "--avatars", world.folder / "avatars", "--voice", "cartoon"]
    said = run("speak", "Good morning. [pause 0.4] Bye.", "-o", out, *arguments, "--json")
    assert said.code == 0, said.err
    assert len(read_audio(out)) / 16_000 == pytest.approx(said.json["seconds"], abs=0.01)
    assert said.json["seconds"] > 0.4
    assert run("speak", "🙂", "-o", out, *arguments).code == 2


def test_a_recording_is_dubbed_onto_an_avatar(run: Run, world: World, tmp_path: Path) -> None:
    write_wav(tmp_path / "voice.wav", cartoon.speechlike(2.01))
    arguments = ["--models", world.folder / "models", "--avatars", world.folder / "avatars", "--avatar", "cartoon"]
    said = run("dub", tmp_path / "voice.wav", "-o", tmp_path / "out.mp4", *arguments)
    assert said.code == 0, said.err
    info = probe(tmp_path / "out.mp4")
    assert info.frame_count == 51
    assert abs(info.audio_seconds - info.video_seconds) < 1 / 25
    assert run("dub", tmp_path / "nothing.wav", "-o", tmp_path / "out.mp4", *arguments).code == 2
