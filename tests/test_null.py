"""The null engines: silence and still faces, by the same code as real ones, quickly."""

import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import cartoon
import numpy as np
import pytest
import tiny

from avatarlab import FPS
from avatarlab.artifacts import Artifacts
from avatarlab.avatars import load_avatar
from avatarlab.compose import idle_path
from avatarlab.errors import AvatarLabError, SettingsError
from avatarlab.execute import run_batch
from avatarlab.media import probe, read_audio, read_frames
from avatarlab.models import BUNDLED, Setting, list_model_sets, read_model_set, write_model_set
from avatarlab.null import REPLACED, null_settings
from avatarlab.stages import Line, StageContext, recipe, tokens_item
from avatarlab.store import open_store
from avatarlab.text import units
from flows import direct
from flows.prepare import Request

SMALL = {"width": 64, "height": 64}


def null_set(folder: Path, **small_e: Setting) -> Path:
    """The bundled set with more settings of its speech engine."""
    folder.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Mapping[str, Setting]] = {stage: {"engine": "null"} for stage in REPLACED}
    return write_model_set(folder, "null", {**settings, "small_e": {"engine": "null", **small_e}}).path


@pytest.fixture
def world(tmp_path: Path) -> tiny.World:
    cartoon.write_bundle(tmp_path / "avatars", size=128)
    return tiny.World(tmp_path)


def request(world: tiny.World, *rows: Mapping[str, object], models: str = "null") -> Request:
    return replace(world.request(*({**SMALL, **row} for row in rows)), models=models)


def test_a_night_of_null_videos_is_silent_still_and_of_the_right_length(world: tiny.World) -> None:
    script = "Water boils at one hundred degrees. [pause 0.4] Steam is a gas."
    report, made = tiny.render_inline(request(world, {"id": "one", "script": script}))
    (row,) = report.rows
    assert (row.status, row.error, row.notes) == ("done", None, ())
    assert made == {"tokens": 2, "audio": 2, "motion": 2, "face": 2, "video": 1}
    video = world.store / f"videos/one/{row.version}/video.mp4"
    info = probe(video, decode=True)
    said = sum(-(-3 * len(units(text)) // 2) for text in ("water boils at one hundred degrees", "steam is a gas"))
    assert row.duration_seconds is not None
    assert abs(info.video_seconds - row.duration_seconds) < 1 / FPS
    assert abs(info.audio_seconds - row.duration_seconds) < 1 / FPS
    assert row.duration_seconds * FPS >= said + 10
    assert not read_audio(video).any()
    assert len(list(read_frames(video))) == info.frame_count == round(row.duration_seconds * FPS)
    assert (info.width, info.height) == (64, 64)


def test_the_windows_of_a_sentence_are_the_pixels_of_the_picture(world: tiny.World) -> None:
    tiny.render_inline(request(world, {"id": "said", "script": "Steam is a gas, and ice is a solid."}))
    artifacts = Artifacts(open_store(str(world.store)))
    names = [name for name, _ in artifacts.store.list("actions/face/")]
    (key,) = (name.rpartition("/")[2].removesuffix(".json") for name in names)
    face = artifacts.find("face", [key])[key]
    artifacts.fetch(face.outputs["windows.mkv"], world.folder / "windows.mkv")
    artifacts.fetch(face.outputs["corners.npy"], world.folder / "corners.npy")
    windows, corners = list(read_frames(world.folder / "windows.mkv")), np.load(world.folder / "corners.npy")
    avatar = load_avatar([world.folder / "avatars"], "cartoon")
    pictures = list(read_frames(avatar.picture, fps=FPS))
    assert len(windows) == len(corners) > len(pictures)
    side = len(windows[0])
    landmarks = np.load(avatar.folder / "landmarks.npy")
    # the presenter's edge has its colours cleaned, its mouth has not
    inner = np.s_[side // 3 : 2 * side // 3, side // 3 : 2 * side // 3]
    for pose, window, (x, y) in zip(idle_path(len(windows), len(pictures)), windows, corners, strict=True):
        assert (window[inner] == pictures[pose][y : y + side, x : x + side][inner]).all()
        mouth = landmarks[pose][48:] - [x, y]
        assert mouth.min() > 0 and mouth.max() < side


def test_sentences_of_equal_length_share_sound_lips_and_face(world: tiny.World) -> None:
    first, second = "Bad dogs dig.", "Red pigs tap."
    assert len(units("bad dogs dig")) == len(units("red pigs tap"))
    _, made = tiny.render_inline(
        request(world, {"id": "one", "script": first}, {"id": "two", "script": f"{second} {first}"})
    )
    assert made == {"tokens": 2, "audio": 1, "motion": 1, "face": 1, "video": 2}
    _, again = tiny.render_inline(
        request(world, {"id": "one", "script": first}, {"id": "two", "script": f"{second} {first}"})
    )
    assert again == {}


@pytest.mark.parametrize("id", ["ada", "ben", "carl"])
def test_the_bundled_presenters_can_be_used(id: str, world: tiny.World) -> None:
    report, _ = tiny.render_inline(request(world, {"id": id, "script": "Good.", "avatar": id}))
    assert [row.status for row in report.rows] == ["done"], report.rows


def test_speak_and_dub_work_too(world: tiny.World) -> None:
    roots, sound = [world.folder / "avatars"], world.folder / "said.wav"
    seconds = direct.speak("Steam is a gas.", "cartoon", sound, models="null", avatars=roots)
    streamed = direct.stream("Steam is a gas.", "cartoon", world.folder / "s.wav", models="null", avatars=roots)
    assert seconds == streamed >= 0.5
    assert not read_audio(sound).any()
    shown = direct.dub(sound, "cartoon", world.folder / "dub.mp4", models="null", avatars=roots)
    assert abs(shown - seconds) < 1


def test_the_set_is_bundled_listed_and_whole() -> None:
    assert "null" in [models.name for models in list_model_sets(BUNDLED)]
    assert read_model_set("null").verify() == ()
    assert null_settings(read_model_set("mini")) is None


def test_no_network_and_no_torch_is_loaded(world: tiny.World) -> None:
    prepared = request(world, {"id": "one", "script": "Steam is a gas."})
    code = (
        "import sys, threading; from flows.prepare import *; from flows.session import *; from avatarlab.execute import run_batch;"
        f"prepared = prepare({prepared!r}); graph = prepared.graph(next(iter(prepared.portions)).rows)\n"
        "graph.resolve(prepared.artifacts.find)\n"
        "while batch := graph.next_batch(1):\n"
        "    graph.report(run_batch(batch.stage, batch.items, prepared.context)); graph.resolve(prepared.artifacts.find)\n"
        "(row,) = graph.finished(); print(row.video is not None, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "True False\n", done.stderr


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"small_e": {"engine": "null", "second": 1}}, "unknown settings of small_e: second"),
        ({"codec": {"engine": "null", "seconds": 1}}, "unknown settings of codec: seconds"),
        ({"small_e": {"engine": "null", "seconds": -1}}, "small_e.seconds is -1"),
        ({"small_e": {"engine": "null", "seconds": True}}, "small_e.seconds is True"),
        ({"small_e": {"engine": "null", "deadly": 3}}, "small_e.deadly is 3"),
        ({"renderer": {"engine": "nul"}}, "the engine of renderer is not 'null'"),
        ({"renderer": {}}, "the engine of renderer is not 'null'"),
    ],
)
def test_settings_that_are_none_are_refused_before_anything_starts(
    settings: Mapping[str, Mapping[str, Setting]], told: str, tmp_path: Path
) -> None:
    whole: Mapping[str, Mapping[str, Setting]] = {stage: {"engine": "null"} for stage in REPLACED}
    models = write_model_set(tmp_path, "own", {**whole, **settings})
    with pytest.raises(SettingsError, match=told) as caught:
        recipe(models, "cpu")
    assert caught.value.remedy


def test_real_weights_under_a_null_engine_are_refused(tmp_path: Path) -> None:
    (tmp_path / "codec.safetensors").write_bytes(b"weights")
    models = write_model_set(tmp_path, "own", {stage: {"engine": "null"} for stage in REPLACED})
    with pytest.raises(AvatarLabError, match="codec"):
        null_settings(models)


def test_a_deadly_word_ends_the_process_that_speaks_it_and_no_other_word_does(world: tiny.World) -> None:
    models = read_model_set(null_set(world.folder / "deadly", deadly="Kettle"))
    context = StageContext(str(world.store), models.path, models.set_digest, (world.folder / "avatars",))
    avatar = load_avatar(context.avatar_roots, "cartoon")

    def item(spoken: str) -> object:
        return tokens_item(Line(units(spoken), spoken, "cartoon", "cartoon"), avatar, recipe(models, "cpu"))

    harmless = item("kettles are many")
    assert [outcome.error for outcome in run_batch("tokens", [harmless], context)] == [""]  # type: ignore[list-item]
    code = (
        "from pathlib import Path, PosixPath; from avatarlab.stages import *; from avatarlab.execute import run_batch;"
        f"run_batch('tokens', [{item('a kettle, and more')!r}], {context!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_a_sentence_takes_as_long_as_the_set_says(world: tiny.World) -> None:
    models = null_set(world.folder / "slow", seconds=0.3)
    report, _ = tiny.render_inline(request(world, {"id": "one", "script": "One. Two."}, models=str(models)))
    (row,) = report.rows
    assert row.status == "done"
    assert row.seconds["tokens"] >= 0.6
