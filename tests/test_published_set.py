"""Model sets of both published dialects, tiny and random, through the stages: whole video frames, word times, one voice."""

import json
from itertools import pairwise
from pathlib import Path

import cartoon
import numpy as np
import pytest
import torch
from published import Published, lightning, random_weights
from test_published_codecs import DECODER, TINY, encodec_shapes, random_like, vocos_shapes

from avatarlab.artifacts import Action, Artifacts
from avatarlab.avatars import load_avatar
from avatarlab.execute import run_batch
from avatarlab.imports import SAMPLING, import_models
from avatarlab.media import read_audio
from avatarlab.models import ModelSet, write_model_set
from avatarlab.speech.wavtokenizer import WavTokenizer
from avatarlab.stages import Line, StageContext, audio_item, recipe, tokens_item
from avatarlab.store import open_store
from avatarlab.text.bytepairs import BytePairs
from avatarlab.text.front_end import front_end
from flows.direct import speak

SPOKEN = "the rules are read to a listener."


@pytest.fixture(scope="module", params=["Small-E", "Lina"])
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelSet:
    folder = tmp_path_factory.mktemp(request.param)
    BytePairs.train(
        [Path(__file__).read_text(encoding="utf-8"), (Path(__file__).parent / "published.py").read_text()]
    ).write(folder / "bpe.json")
    torch.manual_seed(0)
    if request.param == "Lina":
        torch.save(lightning(random_weights(Published(32, 1, 2, 1, 2, 1, 1, 64, 32, lina=True))), folder / "speech.pt")
        torch.save({"state_dict": WavTokenizer(TINY).published_state_dict()}, folder / "codec.ckpt")
        codec = [folder / "codec.ckpt"]
    else:
        torch.save(
            {"model": random_weights(Published(32, 1, 2, 1, 2, 2, 4, 1024, 16, lina=False))}, folder / "speech.pt"
        )
        torch.save(random_like(encodec_shapes(2, 16, levels=4)), folder / "encodec.th")
        torch.save(random_like(vocos_shapes(DECODER, 16 * 1024)), folder / "vocos.bin")
        codec = [folder / "encodec.th", folder / "vocos.bin"]
    made = import_models(folder / "speech.pt", folder / "set", codec=codec, tokenizer=folder / "bpe.json")
    assert made.lacking == ()
    stages = {stage: made.models.settings(stage) for stage in made.models.files}
    short = {**SAMPLING, "max_steps": 40, "draws": 1}
    return write_model_set(folder / "set", made.models.name, {**stages, "small_e": short})


@pytest.fixture(scope="module")
def avatars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("avatars")
    cartoon.write_bundle(folder, size=128)
    return folder


def tokens_and_audio(models: ModelSet, avatars: Path, store: Path) -> tuple[Action, Action]:
    context = StageContext(str(store), models.path, models.set_digest, (avatars,))
    made_with = recipe(models, "cpu")
    line = Line(front_end(models).units(SPOKEN), SPOKEN, "cartoon", "cartoon")
    item = tokens_item(line, load_avatar([avatars], "cartoon"), made_with)
    (tokens,) = run_batch("tokens", [item], context)
    assert tokens.action is not None, tokens.error
    (audio,) = run_batch("audio", [audio_item(tokens.action, made_with)], context)
    assert audio.action is not None, audio.error
    return tokens.action, audio.action


def test_a_sentence_lasts_whole_video_frames_and_its_words_lie_within(
    models: ModelSet, avatars: Path, tmp_path: Path
) -> None:
    tokens, audio = tokens_and_audio(models, avatars, tmp_path)
    artifacts = Artifacts(open_store(str(tmp_path)))
    artifacts.fetch(tokens.outputs["codes.npy"], tmp_path / "codes.npy")
    artifacts.fetch(audio.outputs["audio.npy"], tmp_path / "audio.npy")
    codes, waveform = np.load(tmp_path / "codes.npy"), np.load(tmp_path / "audio.npy")
    frames = -(-codes.shape[1] // 3)
    assert 1 <= codes.shape[1] <= 40 and codes.dtype == np.int16
    assert waveform.shape == (640 * frames,) and waveform.dtype == np.float32
    assert tokens.inputs["frame_count"] == frames
    words = json.loads(artifacts.read(tokens.outputs["words.json"]))
    assert [word["word"] for word in words] == ["the", "rules", "are", "read", "to", "a", "listener"]
    assert words[0]["start_seconds"] == 0 and words[-1]["end_seconds"] == pytest.approx(frames / 25)
    for before, after in pairwise(words):
        assert before["end_seconds"] == after["start_seconds"]
        assert round(after["start_seconds"] * 25, 6).is_integer()


def test_the_front_end_is_part_of_what_made_a_sentence(models: ModelSet, avatars: Path, tmp_path: Path) -> None:
    voice, line = load_avatar([avatars], "cartoon"), Line((20, 21), "ab", "cartoon", "cartoon")
    before = tokens_item(line, voice, recipe(models, "cpu")).key
    stages = {stage: models.settings(stage) for stage in models.files}
    folder = tmp_path / "set"
    folder.mkdir()
    for file in models.path.parent.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "models.toml").unlink()
    (folder / "text.json").unlink()
    BytePairs.train([Path(cartoon.__file__).read_text(encoding="utf-8")]).write(folder / "text.json")
    other = write_model_set(folder, models.name, stages)
    assert tokens_item(line, voice, recipe(other, "cpu")).key != before


def test_a_text_is_spoken_by_the_command_s_own_path(models: ModelSet, avatars: Path, tmp_path: Path) -> None:
    seconds = speak(
        "It is 5 o'clock. Listen!", "cartoon", tmp_path / "x.wav", models=str(models.path), avatars=[avatars]
    )
    waveform = read_audio(tmp_path / "x.wav")
    assert len(waveform) == round(seconds * 16_000) and len(waveform) % 640 == 0 and len(waveform) > 0
