"""The work of each stage, with the real networks at toy sizes: faults stay with their item, nothing is done twice."""

import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import cartoon
import numpy as np
import pytest
import tiny

from avatarlab.artifacts import Action, Artifacts
from avatarlab.avatars import Avatar, load_avatar
from avatarlab.errors import (
    AvatarError,
    DamagedArtifact,
    DeviceLost,
    MediaError,
    ScriptError,
    SettingsError,
    StoreUnreachable,
)
from avatarlab.execute import drawing, run_batch
from avatarlab.media import probe
from avatarlab.models import ModelSet
from avatarlab.speech.generate import Sampling
from avatarlab.speech.word_times import word_times
from avatarlab.stages import (
    Item,
    Line,
    Outcome,
    Recipe,
    Silence,
    StageContext,
    TokensItem,
    audio_item,
    face_item,
    failed,
    motion_item,
    recipe,
    spoken_part,
    tokens_item,
    video_item,
)
from avatarlab.store import open_store
from avatarlab.text import WordSpan, units
from tasks.work import DEVICE_LOST


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> ModelSet:
    return tiny.tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def avatar(tmp_path_factory: pytest.TempPathFactory) -> Avatar:
    root = tmp_path_factory.mktemp("avatars")
    cartoon.write_bundle(root, size=128)
    return load_avatar([root], "cartoon")


@pytest.fixture(scope="module")
def made_with(models: ModelSet) -> Recipe:
    return recipe(models, "cpu")


@pytest.fixture
def context(tmp_path: Path, models: ModelSet, avatar: Avatar) -> StageContext:
    return StageContext(str(tmp_path / "store"), models.path, models.set_digest, (avatar.folder.parent,))


def line(spoken: str) -> Line:
    return Line(units(spoken), spoken, "cartoon", "cartoon")


def action(outcome: Outcome) -> Action:
    assert outcome.action is not None, outcome.error
    return outcome.action


def content(outcomes: list[Outcome]) -> list[dict[str, str]]:
    return [{name: blob.sha256 for name, blob in action(outcome).outputs.items()} for outcome in outcomes]


def load(context: StageContext, made: Action, name: str) -> np.ndarray:
    path = Path(context.store_uri) / made.outputs[name].name
    return np.load(path)


def test_a_sentence_goes_through_every_stage_in_whole_video_frames(
    context: StageContext, avatar: Avatar, made_with: Recipe, tmp_path: Path
) -> None:
    spoken = [line("good morning."), line("this is a test of the voice.")]
    tokens = run_batch("tokens", [tokens_item(each, avatar, made_with) for each in spoken], context)
    audio = run_batch("audio", [audio_item(action(each), made_with) for each in tokens], context)
    motion = run_batch("motion", [motion_item(action(each), avatar, made_with) for each in audio], context)
    face = run_batch("face", [face_item(action(each), avatar, made_with) for each in motion], context)
    frames = [load(context, action(each), "codes.npy").shape[1] for each in tokens]
    assert [len(load(context, action(each), "audio.npy")) for each in audio] == [640 * count for count in frames]
    assert [load(context, action(each), "latents.npy").shape for each in motion] == [
        (count, tiny.STYLE) for count in frames
    ]
    assert [load(context, action(each), "emphasis.npy").shape for each in motion] == [(count,) for count in frames]
    assert [load(context, action(each), "corners.npy").shape for each in face] == [(count, 2) for count in frames]

    parts = [
        spoken_part(text, action(tokens[index]), action(audio[index]), action(face[index]))
        for index, text in enumerate(["Good morning.", "This is a test <of> the voice."])
    ]
    item = video_item(
        (parts[0], Silence(6), parts[1]),
        avatar,
        background="#203040",
        background_digest="#203040",
        layout="full",
        width=None,
        height=None,
        title="A title",
    )
    video = action(run_batch("video", [item], context)[0])
    file = tmp_path / "video.mp4"
    Artifacts(open_store(context.store_uri)).fetch(video.outputs["video.mp4"], file)
    info = probe(file)
    assert video.inputs["frame_count"] == info.frame_count == sum(frames) + 6
    assert abs(info.audio_seconds - info.video_seconds) < 1 / 25
    captions = Path(context.store_uri, video.outputs["captions.vtt"].name).read_text()
    assert f"{(frames[0] + 6) / 25:06.3f} -->" in captions
    assert "&lt;of&gt;" in captions


def test_a_batch_says_what_each_of_its_sentences_says_alone(
    context: StageContext, avatar: Avatar, made_with: Recipe, tmp_path: Path
) -> None:
    items: list[Item] = [tokens_item(line(text), avatar, made_with) for text in ("one.", "two and three.", "four.")]
    together = run_batch("tokens", items, context)
    alone = replace(context, store_uri=str(tmp_path / "other"))
    assert content(together) == content([run_batch("tokens", [item], alone)[0] for item in items])


def test_an_item_that_cannot_be_made_is_an_outcome_and_leaves_its_neighbours_alone(
    context: StageContext, avatar: Avatar, made_with: Recipe
) -> None:
    good = [tokens_item(line(text), avatar, made_with) for text in ("one.", "two.")]
    unspeakable = TokensItem("f" * 64, (9999,), "nine", "cartoon", avatar.voice_digest, 0)
    unknown = replace(good[0], key="e" * 64, voice="nobody")
    outcomes = run_batch("tokens", [good[0], unspeakable, unknown, good[1]], context)
    assert [outcome.action is not None for outcome in outcomes] == [True, False, False, True]
    assert "outside the alphabet" in outcomes[1].error
    assert outcomes[2].kind == "AvatarError"
    assert "nobody" in outcomes[2].error
    assert not outcomes[2].retryable


def test_what_is_in_the_store_is_found_and_not_made_again(
    context: StageContext, avatar: Avatar, made_with: Recipe
) -> None:
    item = tokens_item(line("one."), avatar, made_with)
    first = run_batch("tokens", [item], context)[0]
    again = run_batch("tokens", [item], context)[0]
    assert not first.found
    assert again.found
    assert content([again]) == content([first])


def test_a_damaged_upstream_artifact_is_set_aside_and_can_be_tried_again(
    context: StageContext, avatar: Avatar, made_with: Recipe
) -> None:
    tokens = action(run_batch("tokens", [tokens_item(line("one."), avatar, made_with)], context)[0])
    blob = Path(context.store_uri) / tokens.outputs["codes.npy"].name
    blob.chmod(0o644)
    blob.write_bytes(bytes(len(blob.read_bytes())))
    outcome = run_batch("audio", [audio_item(tokens, made_with)], context)[0]
    assert outcome.kind == "DamagedArtifact"
    assert outcome.retryable
    assert not Artifacts(open_store(context.store_uri)).find("tokens", [tokens.key])


@pytest.mark.parametrize("changed", ["voice", "picture", "models"])
def test_nothing_is_made_from_files_that_have_changed_since_the_plan(
    context: StageContext, avatar: Avatar, made_with: Recipe, changed: str
) -> None:
    item: Item = tokens_item(line("one."), avatar, made_with)
    stage = "tokens"
    match changed:
        case "voice":
            item = replace(item, voice_digest="0" * 64)
        case "models":
            context = replace(context, models_digest="0" * 64)
        case "picture":
            audio = action(
                run_batch("audio", [audio_item(action(run_batch(stage, [item], context)[0]), made_with)], context)[0]
            )
            stage, item = "motion", replace(motion_item(audio, avatar, made_with), picture_digest="0" * 64)
    outcome = run_batch(stage, [item], context)[0]
    assert outcome.action is None
    assert "changed since the run was planned" in outcome.error
    assert outcome.remedy == "run the same command again"


@pytest.mark.parametrize(
    ("error", "kind", "retryable"),
    [
        (ScriptError("nothing to say", "write something"), "ScriptError", False),
        (DamagedArtifact("damaged", "again"), "DamagedArtifact", True),
        (StoreUnreachable("nobody there", "wait"), "StoreUnreachable", True),
        (MediaError("no frames", "look"), "MediaError", False),
        (AvatarError("no face", "look"), "AvatarError", False),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError", False),
    ],
)
def test_a_failure_says_what_it_was_and_whether_a_retry_helps(error: Exception, kind: str, retryable: bool) -> None:
    outcome = failed("tokens", "k", error)
    assert (outcome.kind, outcome.retryable) == (kind, retryable)
    assert outcome.error
    assert outcome.remedy


def test_settings_of_the_speech_engine_are_read_strictly() -> None:
    assert drawing({"top_k": 3, "draws": 4}) == (Sampling(top_k=3), 4)
    with pytest.raises(SettingsError, match="topk"):
        drawing({"topk": 3})


def attention(*units_attended: int, count: int = 6) -> np.ndarray:
    return np.eye(count, dtype=np.float32)[list(units_attended)]


SPANS = [WordSpan("one", 0, 2), WordSpan("two", 2, 4), WordSpan("three", 5, 6)]


def test_a_word_lasts_from_the_step_that_reaches_it_to_the_step_that_reaches_the_next() -> None:
    times = word_times(attention(0, 0, 1, 2, 3, 3, 4, 5, 5), SPANS)
    assert [(word.word, word.start_seconds, word.end_seconds) for word in times] == [
        ("one", 0.0, 0.12),
        ("two", 0.12, 0.28),
        ("three", 0.28, 0.36),
    ]


def test_word_times_never_run_backwards_and_fill_the_sentence() -> None:
    rng = np.random.default_rng(0)
    for steps in (0, 1, 7, 40):
        times = word_times(rng.random((steps, 6), dtype=np.float32), SPANS)
        edges = [0.0, *(edge for word in times for edge in (word.start_seconds, word.end_seconds)), steps / 25]
        assert edges == sorted(edges)
        assert times[0].start_seconds == 0.0
        assert times[-1].end_seconds == steps / 25


def test_a_device_that_is_none_is_refused_before_anything_is_planned(models: ModelSet) -> None:
    with pytest.raises(SettingsError, match="no device 'gpu'"):
        recipe(models, "gpu")


def test_after_a_fault_of_the_gpu_nothing_more_is_tried_in_this_process(
    context: StageContext, avatar: Avatar, made_with: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def broken(items: Iterable[Item], _: object) -> Iterator[None]:
        asked.append(len(list(items)))
        raise RuntimeError("CUDA error: device-side assert triggered\nCompile with TORCH_USE_CUDA_DSA")

    monkeypatch.setattr("avatarlab.execute.STAGES", {"tokens": broken})
    lines = [Line(units(text), text, "cartoon", "cartoon") for text in ("one", "two")]
    with pytest.raises(DeviceLost, match="device-side assert triggered"):
        run_batch("tokens", [tokens_item(line, avatar, made_with) for line in lines], context)
    assert asked == [2]


def test_a_worker_whose_gpu_is_lost_ends_so_that_another_takes_its_place() -> None:
    code = (
        "import tasks.work as work; from avatarlab.errors import DeviceLost\n"
        "def lost(*_): raise DeviceLost('the GPU: CUDA error', 'see the log')\n"
        "work.run_batch = lost; work.run_on_worker('tokens', (), None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == DEVICE_LOST
    assert "CUDA error" in done.stderr
