"""Tuned voices: a start memory is learned with frozen weights, written, checked, keyed, and spoken from."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cartoon
import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from avatarlab.avatars import VOICE_STATE, Avatar, load_avatar
from avatarlab.errors import AvatarError, SettingsError
from avatarlab.execute import run_batch
from avatarlab.media import write_wav
from avatarlab.models import ModelSet, write_model_set
from avatarlab.speech.delay import delay
from avatarlab.speech.generate import Sampling, VoicePrompt, generate, prefill
from avatarlab.speech.small_e import BOS, EOS, SmallE, SmallEConfig
from avatarlab.speech.voice_state import (
    StartMemories,
    memory_shapes,
    read_voice_state,
    untuned_state,
    write_voice_state,
)
from avatarlab.stages import Line, StageContext, foreign_states, recipe, tokens_item
from avatarlab.text import units
from avatarlab.training.voices import tune_avatar, tune_voice

CONFIG = SmallEConfig(
    width=24, text_layers=1, text_heads=2, encoder_blocks=1, decoder_blocks=2, heads=2, expand_k=0.5, expand_v=1.0,
    position_width=8, codebooks=2, codebook_size=12, dropout_attention=0.3,
)  # fmt: skip
FREE = Sampling(top_k=6, temperature=1.0, max_steps=12, end_guard_units=0)


@pytest.fixture(scope="module")
def model() -> SmallE:
    torch.manual_seed(3)
    network = SmallE(CONFIG)
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1 and "embed" not in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return network.eval()


def loud_state(model: SmallE, seed: int = 0) -> StartMemories:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(shape, generator=generator) for shape in memory_shapes(model))


def clip(seed: int, frames: int = 30) -> VoicePrompt:
    rng = np.random.default_rng(seed)
    return VoicePrompt(tuple(rng.integers(3, 90, 9).tolist()), rng.integers(0, 12, (2, frames)).astype(np.int16))


class TestFile:
    def test_it_holds_two_thin_tensors_for_every_encoder_and_decoder_block(self, model: SmallE, tmp_path: Path) -> None:
        tensors = untuned_state(model, 3, torch.Generator().manual_seed(0))
        path = tmp_path / VOICE_STATE
        write_voice_state(path, tensors, "f" * 64)
        stored = load_file(path)
        assert {name: tuple(tensor.shape) for name, tensor in stored.items()} == {
            f"layer{i}_{part}": shape
            for i in range(3)
            for part, shape in {"k": (1, 3, 2, 6, 1), "v": (1, 3, 2, 1, 12)}.items()
        }
        assert path.stat().st_size < 4096
        for index, memory in enumerate(read_voice_state(path, model)):
            keys, values = stored[f"layer{index}_k"][0, ..., 0], stored[f"layer{index}_v"][0, :, :, 0]
            torch.testing.assert_close(memory, 0.02 * torch.einsum("rnk,rnv->nkv", keys, values))

    def test_a_whole_matrix_may_stand_in_the_place_of_the_two(self, model: SmallE, tmp_path: Path) -> None:
        whole = loud_state(model)
        write_voice_state(tmp_path / "s", {f"layer{i}": memory[None] for i, memory in enumerate(whole)}, "f" * 64)
        for read, written in zip(read_voice_state(tmp_path / "s", model), whole, strict=True):
            torch.testing.assert_close(read, written)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda t: t.pop("layer1_k"), "not a tuned voice: 'layer1_k'"),
            (lambda t: t.update(other=torch.zeros(1)), "not a tuned voice"),
            (lambda t: (t.pop("layer2_k"), t.pop("layer2_v")), "does not have the shapes"),
            (lambda t: t.update(layer0_k=torch.zeros(1, 1, 2, 5, 1)), "does not have the shapes"),
            (lambda t: t.update(layer0_k=torch.zeros(3)), "not a tuned voice|does not have the shapes"),
            (lambda t: t["layer0_v"].fill_(torch.nan), "no numbers"),
        ],
    )
    def test_what_does_not_fit_the_model_is_refused(
        self, model: SmallE, tmp_path: Path, change: Any, message: str
    ) -> None:
        tensors = untuned_state(model, 1, torch.Generator().manual_seed(0))
        change(tensors)
        save_file(tensors, tmp_path / "state")
        with pytest.raises(AvatarError, match=message) as caught:
            read_voice_state(tmp_path / "state", model)
        assert "voices tune" in caught.value.remedy

    def test_what_is_no_safetensors_file_is_refused(self, model: SmallE, tmp_path: Path) -> None:
        (tmp_path / "state").write_bytes(b"\xff" * 40)
        with pytest.raises(AvatarError, match="not a tuned voice"):
            read_voice_state(tmp_path / "state", model)


class TestSpeaking:
    def test_a_state_of_zeros_is_no_state(self, model: SmallE) -> None:
        zeros = tuple(torch.zeros(shape) for shape in memory_shapes(model))
        prompt = clip(1)
        plain, zeroed = generate(model, [[5, 6, 7]] * 2, [prompt, replace(prompt, state=zeros)], [0, 0], FREE)
        np.testing.assert_array_equal(plain.codes, zeroed.codes)

    def test_stepping_from_a_state_is_the_parallel_network_from_that_state(self, model: SmallE) -> None:
        state, text = loud_state(model), [5, 6, 7, 8]
        silent = VoicePrompt((), np.zeros((2, 0), np.int16), state)
        (spoken,) = generate(model, [text], [silent], [0], replace(FREE, top_k=1))
        ids, columns = torch.tensor([[BOS, *text, EOS]]), delay(torch.from_numpy(spoken.codes.astype(np.int64)))[None]
        everything = [torch.ones(x.shape[:2], dtype=torch.bool) for x in (ids, columns)]
        with torch.inference_mode():
            logits, _ = model.forward_train(ids, everything[0], columns, everything[1], states=state)
        first = logits[0, : spoken.codes.shape[1], 0, EOS + 1 :].argmax(-1)
        np.testing.assert_array_equal(first[1:].numpy(), spoken.codes[0, 1:])  # it may not end at the first step
        (untuned,) = generate(model, [text], [replace(silent, state=None)], [0], replace(FREE, top_k=1))
        assert not np.array_equal(untuned.codes, spoken.codes)

    def test_a_row_with_a_state_is_the_same_beside_rows_without(self, model: SmallE) -> None:
        prompts = [clip(1), clip(2, 17), replace(clip(3, 8), state=loud_state(model))]
        texts = [[5, 6, 7], [8, 9], [10, 11, 12, 13]]
        together = generate(model, texts, prompts, [0, 1, 2], FREE)
        for row in range(3):
            (alone,) = generate(model, texts[row : row + 1], prompts[row : row + 1], [row], FREE)
            np.testing.assert_array_equal(together[row].codes, alone.codes)

    def test_the_memory_of_posnet_starts_at_zero(self, model: SmallE) -> None:
        ids = torch.tensor([[BOS, 5, 6, EOS]])
        mask = torch.ones_like(ids, dtype=torch.bool)
        columns = [torch.ones(1, 2, dtype=torch.int64)]
        state = [memory[None] for memory in loud_state(model)]
        with torch.inference_mode():
            _, _, tuned = prefill(model, ids, mask, columns, state)
            _, _, plain = prefill(model, ids, mask, columns)
        for index, (one, other) in enumerate(zip(tuned.blocks, plain.blocks, strict=True)):
            if index != CONFIG.encoder_blocks:
                assert not torch.allclose(one.matrix, other.matrix)
        # one outer product of what this step selected, nothing carried over
        heads = tuned.blocks[CONFIG.encoder_blocks].matrix[0]
        assert all(torch.linalg.matrix_rank(head) == 1 for head in heads)


class TestTuning:
    def test_the_loss_falls_and_the_weights_stay(self, model: SmallE) -> None:
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        start = untuned_state(model, 2, torch.Generator().manual_seed(5))
        tuned = tune_voice(model, [clip(1), clip(2, 21)], steps=12, rank=2, seed=5)
        assert tuned.loss_after < tuned.loss_before - 0.05
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        assert all(parameter.grad is None for parameter in model.parameters())
        assert not model.training
        assert all((tuned.tensors[name] - start[name]).abs().max() > 0.1 for name in start)

    def test_the_seed_decides_everything(self, model: SmallE) -> None:
        clips = [clip(number, 12) for number in range(10)]
        one, same, other = (tune_voice(model, clips, steps=3, seed=seed).tensors for seed in (0, 0, 1))
        assert all(torch.equal(one[name], same[name]) for name in one)
        assert not torch.equal(one["layer0_k"], other["layer0_k"])

    def test_every_clip_is_learned_from(self, model: SmallE) -> None:
        """Nine clips do not fit into one step of eight."""
        clips = [clip(number, 12) for number in range(9)]
        changed = [*clips[:-1], clip(99, 12)]
        one, other = (tune_voice(model, given, steps=2).tensors for given in (clips, changed))
        assert not torch.equal(one["layer0_v"], other["layer0_v"])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> ModelSet:
    return tiny.tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def avatar(tmp_path: Path) -> Avatar:
    cartoon.write_bundle(tmp_path / "avatars", size=128, still=True)
    return load_avatar([tmp_path / "avatars"], "cartoon")


def again(avatar: Avatar) -> Avatar:
    return load_avatar([avatar.folder.parent], avatar.id)


class TestBundle:
    def test_tuning_writes_the_state_into_the_bundle_pinned_to_its_weights(
        self, avatar: Avatar, models: ModelSet
    ) -> None:
        lines: list[str] = []
        path, tuned = tune_avatar(avatar, models, steps=10, progress=lines.append)
        assert path == avatar.folder / VOICE_STATE
        assert tuned.loss_after < tuned.loss_before
        assert lines == [f"step 10 of 10: cross-entropy {lines[0].split()[-1]}"]
        found = again(avatar)
        assert found.state_tuned_for == models.file("small_e").sha256
        assert found.state_digest
        assert (found.voice_digest, found.picture_digest) == (avatar.voice_digest, avatar.picture_digest)

    def test_more_recordings_change_what_is_learned(self, avatar: Avatar, models: ModelSet, tmp_path: Path) -> None:
        clips = tmp_path / "clips"
        clips.mkdir()
        write_wav(clips / "a.wav", cartoon.speechlike(2.0, seed=4))
        (clips / "a.txt").write_text("nine ten")
        _, alone = tune_avatar(avatar, models, steps=2, out=tmp_path / "alone")
        _, more = tune_avatar(avatar, models, steps=2, out=tmp_path / "more", clips=clips)
        assert not torch.equal(alone.tensors["layer0_v"], more.tensors["layer0_v"])

    @pytest.mark.parametrize(
        ("files", "message"),
        [
            ({}, "no clips"),
            ({"a.wav": cartoon.speechlike(2.0)}, "a.txt cannot be read"),
            ({"a.wav": cartoon.speechlike(2.0), "a.txt": b"\xff\xfe"}, "a.txt cannot be read"),
            ({"a.wav": cartoon.speechlike(2.0), "a.txt": b"x" * 10_001}, "too long for one clip"),
            ({"a.wav": cartoon.speechlike(2.0), "a.txt": b""}, "a.wav"),
            ({"a.wav": cartoon.speechlike(0.5), "a.txt": b"one"}, r"a.wav is 0\.5 s long; 1 to 30 s"),
            ({"a.wav": b"RIFF", "a.txt": b"one"}, r"a\.wav"),
        ],
    )
    def test_recordings_that_cannot_be_learned_from_are_named(
        self, avatar: Avatar, models: ModelSet, tmp_path: Path, files: dict[str, Any], message: str
    ) -> None:
        clips = tmp_path / "clips"
        clips.mkdir()
        for name, content in files.items():
            if isinstance(content, bytes):
                (clips / name).write_bytes(content)
            else:
                write_wav(clips / name, content)
        with pytest.raises(AvatarError, match=message) as caught:
            tune_avatar(avatar, models, steps=1, clips=clips)
        assert caught.value.remedy
        assert not (avatar.folder / VOICE_STATE).exists()

    def test_a_bundle_that_cannot_be_written_is_an_error_with_the_way_out(
        self, avatar: Avatar, models: ModelSet, tmp_path: Path
    ) -> None:
        with pytest.raises(AvatarError, match="cannot be written") as caught:
            tune_avatar(avatar, models, steps=1, out=tmp_path / "nowhere" / "state")
        assert "--out" in caught.value.remedy

    @pytest.mark.parametrize("content", [b"", b'\x08\0\0\0\0\0\0\0{"a": 1', b"{}" * 100])
    def test_a_state_that_cannot_be_read_is_refused_with_the_bundle(self, avatar: Avatar, content: bytes) -> None:
        (avatar.folder / VOICE_STATE).write_bytes(content)
        with pytest.raises(AvatarError, match=r"voice_state\.safetensors of cartoon"):
            again(avatar)

    def test_a_state_that_names_no_model_is_refused(self, avatar: Avatar) -> None:
        save_file({"layer0": torch.zeros(1)}, avatar.folder / VOICE_STATE)
        with pytest.raises(AvatarError, match="does not say which speech model"):
            again(avatar)


def line(avatar: Avatar, spoken: str = "one two") -> Line:
    return Line(units(spoken), spoken, avatar.id, avatar.id)


def with_use(models: ModelSet, folder: Path, use: str) -> ModelSet:
    shutil.copytree(models.path.parent, folder)
    settings = {stage: dict(file.settings) for stage, file in models.files.items()}
    settings["small_e"]["voice_state"] = use
    return write_model_set(folder, "tiny", settings)


class TestKeys:
    def test_a_tuned_voice_enters_the_tokens_key_of_that_voice_only(self, avatar: Avatar, models: ModelSet) -> None:
        other = Path(shutil.copytree(avatar.folder, avatar.folder.with_name("other")))
        write_wav(other / "voice.wav", cartoon.speechlike(4.0, seed=9))
        made_with = recipe(models, "cpu")
        before = [tokens_item(line(a), a, made_with).key for a in (avatar, load_avatar([other.parent], "other"))]
        tune_avatar(avatar, models, steps=1)
        tuned = again(avatar)
        after = [tokens_item(line(a), a, made_with).key for a in (tuned, load_avatar([other.parent], "other"))]
        assert before[0] != after[0]
        assert before[1] == after[1]
        tune_avatar(avatar, models, steps=2)
        assert tokens_item(line(avatar), again(avatar), made_with).key not in (before[0], after[0])

    def test_a_state_for_other_weights_is_passed_over_and_said(
        self, avatar: Avatar, models: ModelSet, tmp_path: Path
    ) -> None:
        tune_avatar(avatar, models, steps=1)
        other = recipe(tiny.tiny_models(tmp_path / "others", seed=1), "cpu")
        tuned = again(avatar)
        assert tokens_item(line(tuned), tuned, other) == tokens_item(line(avatar), avatar, other)
        (note,) = foreign_states([tuned], other)
        assert "cartoon" in note
        assert "voices tune" in note
        assert foreign_states([tuned], recipe(models, "cpu")) == ()

    def test_the_setting_may_leave_tuned_voices_unused(self, avatar: Avatar, models: ModelSet, tmp_path: Path) -> None:
        tune_avatar(avatar, models, steps=1)
        unused = recipe(with_use(models, tmp_path / "unused", "unused"), "cpu")
        tuned = again(avatar)
        assert tokens_item(line(tuned), tuned, unused) == tokens_item(line(avatar), avatar, unused)
        assert foreign_states([tuned], unused) == ()
        with pytest.raises(SettingsError, match=r"voice_state is 'now and then'"):
            recipe(with_use(models, tmp_path / "wrong", "now and then"), "cpu")


def outspoken(models: ModelSet, folder: Path) -> ModelSet:
    """Toy models whose memories have a say in what comes out."""
    shutil.copytree(models.path.parent, folder)
    tensors = load_file(folder / "small_e.safetensors")
    save_file({k: 30 * v if "o_proj" in k else v for k, v in tensors.items()}, folder / "small_e.safetensors")
    return tiny.write_tiny_set(folder)


class TestStage:
    def codes(self, avatar: Avatar, models: ModelSet, store: Path) -> np.ndarray:
        context = StageContext(str(store), models.path, models.set_digest, (avatar.folder.parent,))
        item = tokens_item(line(avatar), avatar, recipe(models, "cpu"))
        (outcome,) = run_batch("tokens", [item], context)
        assert outcome.action is not None, outcome.error
        (path,) = (store / "blobs").rglob(outcome.action.outputs["codes.npy"].sha256)
        return np.asarray(np.load(path))

    def test_speech_starts_from_the_tuned_voice_with_the_prompt_or_without(
        self, avatar: Avatar, models: ModelSet, tmp_path: Path
    ) -> None:
        models = outspoken(models, tmp_path / "outspoken")
        plain = self.codes(avatar, models, tmp_path / "plain")
        network = SmallE.from_state_dict(models.load_tensors("small_e"))
        tensors = {f"layer{i}": 1e3 * memory[None] for i, memory in enumerate(loud_state(network))}
        write_voice_state(avatar.folder / VOICE_STATE, tensors, str(models.file("small_e").sha256))
        tuned = again(avatar)
        alone = with_use(models, tmp_path / "alone", "alone")
        spoken = [plain, self.codes(tuned, models, tmp_path / "a"), self.codes(tuned, alone, tmp_path / "b")]
        assert len({codes.tobytes() for codes in spoken}) == 3

    def test_a_state_that_changed_since_the_plan_is_refused(
        self, avatar: Avatar, models: ModelSet, tmp_path: Path
    ) -> None:
        tune_avatar(avatar, models, steps=1)
        item = tokens_item(line(avatar), again(avatar), recipe(models, "cpu"))
        tune_avatar(avatar, models, steps=2)
        context = StageContext(str(tmp_path / "s"), models.path, models.set_digest, (avatar.folder.parent,))
        (outcome,) = run_batch("tokens", [item], context)
        assert outcome.action is None
        assert "has changed since the run was planned" in outcome.error
