"""How the bundled voice is trained: alignment of units with phones, chains, delayed batches, resuming on time."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from avatarlab.errors import SettingsError
from avatarlab.speech.codec import Codec, CodecConfig
from avatarlab.speech.small_e import BOS, EOS, FIRST_CODE, SmallE, SmallEConfig
from avatarlab.text import UNIT_COUNT, unit_names, units
from avatarlab.training.corpus import Phone, style_of, synthesise, write_wav
from avatarlab.training.loop import learning_rate, take_over, train_loop
from avatarlab.training.prose import _is_plain, training_sentences
from avatarlab.training.small_e import (
    Batch,
    attention_loss,
    batches,
    code_loss,
    corrupt,
    train_small_e,
)
from avatarlab.training.speech_data import Spoken, chain, load_spoken, spoken_form, tokenise_corpus, unit_spans
from avatarlab.training.styles import HELD_OUT, PLAIN, TRAINED


def _phones(*items: tuple[str, float]) -> list[Phone]:
    starts = [0.0, *(end for _, end in items)]
    return [Phone(name, start, end) for (name, end), start in zip(items, starts, strict=False)]


def _spoken(text: str, steps: int, voice: str = "slt", code: int = 0) -> Spoken:
    ids = torch.tensor(units(text))
    edges = torch.linspace(0, steps * 0.04, len(ids) + 1)
    codes = (torch.arange(2 * steps).reshape(2, steps) + code) % 8
    return Spoken(voice, ids, codes, torch.stack((edges[:-1], edges[1:]), dim=1))


def test_units_get_the_times_of_the_phones_they_are() -> None:
    names = unit_names(units("the cat."))
    spans = unit_spans(
        names, _phones(("pau", 0.04), ("dh", 0.1), ("ax", 0.2), ("k", 0.3), ("ae", 0.4), ("t", 0.5), ("pau", 0.6))
    )
    assert names == ("DH", "AH0", "K", "AE1", "T", ".")
    expected = [[0.0, 0.1], [0.1, 0.2], [0.2, 0.3], [0.3, 0.4], [0.4, 0.5], [0.5, 0.6]]
    assert torch.allclose(spans, torch.tensor(expected))


def test_a_phone_too_many_lengthens_its_neighbour_and_a_unit_too_many_gets_no_time() -> None:
    spans = unit_spans(("K", ",", "AE1", "T"), _phones(("k", 0.1), ("ae", 0.2), ("ax", 0.3), ("t", 0.4)))
    assert torch.allclose(spans, torch.tensor([[0.0, 0.1], [0.1, 0.1], [0.1, 0.3], [0.3, 0.4]]))


def test_spans_tile_the_recording_whatever_the_synthesiser_said() -> None:
    names = unit_names(units(spoken_form("A-quite odd, story?")))
    spans = unit_spans(names, _phones(("pau", 0.1), ("zh", 0.2), ("oy", 0.35), ("pau", 0.5), ("s", 0.9)))
    assert float(spans[0, 0]) == 0.0
    assert float(spans[-1, 1]) == pytest.approx(0.9)
    assert torch.equal(spans[1:, 0], spans[:-1, 1])


def test_training_sentences_are_plain_and_the_same_for_a_seed() -> None:
    def first(seed: int) -> list[str]:
        return [sentence for sentence, _ in zip(training_sentences(seed), range(30), strict=False)]

    assert first(3) == first(3) != first(4)
    assert all(units(spoken_form(sentence)) for sentence in first(3))
    assert not _is_plain("x = 3 raises.") and not _is_plain("Too short.")


def test_many_styles_are_trained_and_those_held_out_are_not_among_them() -> None:
    assert len(TRAINED) > 20 and len(HELD_OUT) >= 4
    assert not TRAINED.keys() & HELD_OUT.keys() and not set(TRAINED.values()) & set(HELD_OUT.values())
    drawn = [style_of(number, 11) for number in range(2000)]
    assert set(drawn) == TRAINED.keys()
    assert 0.35 < sum(name in PLAIN for name in drawn) / len(drawn) < 0.45


@pytest.mark.skipif(shutil.which("flite") is None, reason="the flite synthesiser is not installed")
def test_a_style_lasts_as_long_as_it_says_and_its_phones_fill_it() -> None:
    plain, _ = synthesise("a good plan has three parts.", "slt")
    for name in ("slt-f80-p80-d110", "slt-f125-p80"):
        waveform, phones = synthesise("a good plan has three parts.", name)
        assert len(waveform) / len(plain) == pytest.approx(TRAINED[name].duration, rel=0.03)
        assert phones[-1].end == pytest.approx(len(waveform) / 16_000, abs=0.02)
    with pytest.raises(SettingsError, match="no style"):
        synthesise("a plan.", "nobody")


def test_a_chain_is_its_parts_one_after_the_other() -> None:
    first, second = _spoken("a cat.", 10), _spoken("the dog.", 15, code=3)
    whole = chain([first, second])
    assert torch.equal(whole.codes[:, 10:], second.codes)
    assert torch.equal(whole.units[len(first.units) :], second.units)
    assert torch.allclose(whole.spans[len(first.units) :], second.spans + 0.4)


def test_a_batch_holds_delayed_codes_between_bos_and_eos() -> None:
    item = _spoken("a cat.", 3)
    batch = Batch([item, _spoken("the dog.", 5)])
    assert batch.text_ids[0, : len(item.units) + 2].tolist() == [BOS, *item.units.tolist(), EOS]
    rows = (item.codes + FIRST_CODE).tolist()
    assert batch.audio_ids[0, :6, 0].tolist() == [BOS, *rows[0], EOS, EOS]
    assert batch.audio_ids[0, :6, 1].tolist() == [BOS, BOS, *rows[1], EOS]
    assert batch.audio_mask.sum(1).tolist() == [6, 8]


def test_each_step_is_told_to_look_at_what_it_is_about_to_say() -> None:
    item = _spoken("a cat.", 20)
    target = Batch([item]).target[0]
    assert torch.allclose(target.sum(1), torch.ones(len(target)))
    looked_at = target.argmax(1)
    assert (looked_at[1:] >= looked_at[:-1]).all()
    assert looked_at[0] == 1 and looked_at[-1] == len(item.units) + 1


def test_attention_on_target_costs_less_than_attention_off_target() -> None:
    batch = Batch([_spoken("a cat.", 20)])
    mask = batch.audio_mask[:, 1:]
    right = batch.target[:, None].expand(-1, 2, -1, -1)
    assert attention_loss(right, batch.target, mask) < 0.5 < attention_loss(right.flip(-1), batch.target, mask)


def test_noise_never_touches_special_ids() -> None:
    ids = Batch([_spoken("a cat.", 50)]).audio_ids
    noisy = corrupt(ids, 1.0, 8, torch.Generator().manual_seed(0))
    assert torch.equal(noisy[ids < FIRST_CODE], ids[ids < FIRST_CODE])
    assert not torch.equal(noisy, ids) and int(noisy.max()) < 8 + FIRST_CODE


def test_each_level_has_its_own_loss() -> None:
    logits, targets = torch.zeros(1, 3, 4, 8), torch.full((1, 3, 4), 5)
    logits[:, :, :2, 5] = 50.0  # the first level is sure and right, the second knows nothing
    first, second = code_loss(logits, targets, torch.ones(1, 3, dtype=torch.bool), 2)
    assert float(first) == pytest.approx(0.0, abs=1e-5) and float(second) == pytest.approx(np.log(8))


def test_an_earlier_network_hands_over_what_still_fits() -> None:
    def network(codebooks: int) -> SmallE:
        return SmallE(
            SmallEConfig(
                width=16, text_vocabulary=UNIT_COUNT, text_layers=1, text_heads=2, encoder_blocks=1, decoder_blocks=1,
                heads=2, position_width=8, codebooks=codebooks, codebook_size=8,
            )
        )  # fmt: skip

    earlier, later = network(2), network(4)
    tables = later.rvq_embed.weight.clone()
    take_over(later, earlier.state_dict())
    assert torch.equal(later.txt_embed.weight, earlier.txt_embed.weight)
    assert torch.equal(later.rvq_embed.weight, tables)


def test_batches_keep_one_voice_to_a_sequence() -> None:
    recordings = [_spoken("a cat.", 10, "slt", code=0), _spoken("a cat.", 10, "rms", code=1)]
    batch = next(batches(recordings, 60, torch.Generator().manual_seed(0)))
    first_codes = {tuple(row[1:2, 0].tolist()) for row in batch.audio_ids}
    assert first_codes <= {(FIRST_CODE,), (FIRST_CODE + 1,)}


def test_the_rate_rises_stays_and_falls() -> None:
    assert learning_rate(1.0, 0.0, 0, 10) == pytest.approx(0.1)
    assert learning_rate(1.0, 0.3, 100, 10) == 1.0
    assert learning_rate(1.0, 0.7, 100, 10) == pytest.approx(0.5)
    assert learning_rate(1.0, 1.0, 100, 10) == pytest.approx(0.02)


def test_a_recorded_corpus_becomes_units_codes_and_spans(tmp_path: Path) -> None:
    (tmp_path / "wav").mkdir()
    lines = []
    for number, text in enumerate(("A cat.", "The 'odd' dog.")):
        write_wav(tmp_path / "wav" / f"{number:06d}.wav", (np.sin(np.arange(9000) / 9) * 9000).astype(np.int16))
        lines.append({"id": f"{number:06d}", "voice": "slt", "text": text, "wav": f"wav/{number:06d}.wav",
                      "phones": [["ax", 0.0, 0.2], ["k", 0.2, 0.5]]})  # fmt: skip
    (tmp_path / "utterances.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    codec = Codec(CodecConfig(width=16, latent=4, codes=8, encoder_blocks=1, decoder_blocks=1)).eval()
    tokenise_corpus(tmp_path, codec, tmp_path / "tokens.safetensors", lambda line: None)
    training, held_out = load_spoken(tmp_path / "tokens.safetensors")
    assert [len(held_out), len(training)] == [1, 1]
    assert training[0].codes.shape == (4, 15)
    assert unit_names(training[0].units.tolist()) == unit_names(units("the odd dog."))
    assert training[0].spans[-1, 1] == pytest.approx(0.5)


def test_training_goes_on_where_it_stopped_and_keeps_to_its_minutes(tmp_path: Path) -> None:
    seen: list[int] = []

    class Stopped(Exception):
        pass

    def step(number: int, fraction: float) -> dict[str, float]:
        assert 0.0 <= fraction < 1.0
        seen.append(number)
        if len(seen) == 40:
            raise Stopped
        return {"loss": 1.0}

    module = torch.nn.Linear(1, 1)
    options = {"minutes": 0.02, "progress": lambda line: None, "report_every": 5, "checkpoint_seconds": 0.0}
    with pytest.raises(Stopped):
        train_loop(tmp_path, {"module": module}, step, **options)  # type: ignore[arg-type]
    train_loop(tmp_path, {"module": module}, step, **options)  # type: ignore[arg-type]
    assert seen[40] == 39
    lines = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert lines[-1]["minutes"] <= 0.03 and lines[0]["loss"] == 1.0


def test_a_small_network_learns_its_corpus_and_is_written_where_it_can_be_loaded(tmp_path: Path) -> None:
    tensors = {}
    for number in range(1, 5):
        item = _spoken("a cat sat.", 12, code=number)
        name = f"{number:06d}/slt"
        tensors |= {
            f"{name}/units": item.units.short(),
            f"{name}/codes": item.codes.short(),
            f"{name}/spans": item.spans,
        }
    save_file(tensors, tmp_path / "tokens.safetensors")
    save_file({"codebook": torch.randn(1, 8, 4)}, tmp_path / "codec.safetensors")
    config = SmallEConfig(
        width=16, text_vocabulary=UNIT_COUNT, text_layers=1, text_heads=2, encoder_blocks=1, decoder_blocks=1, heads=2,
        position_width=8, codebooks=2, codebook_size=8,
    )  # fmt: skip
    path = train_small_e(
        tmp_path / "tokens.safetensors", tmp_path / "codec.safetensors", tmp_path / "out", minutes=0.05,
        config=config, progress=lambda line: None,
    )  # fmt: skip
    assert SmallE.from_state_dict(load_file(path)).config.width == 16
    assert (tmp_path / "out" / "held_out.jsonl").exists()
