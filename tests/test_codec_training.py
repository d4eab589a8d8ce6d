"""The codec's recipe in miniature: codes are made, frozen and kept; the decoder goes on against the discriminators."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from avatarlab.speech.codec import Codec, CodecConfig
from avatarlab.speech.small_e import SmallE, SmallEConfig
from avatarlab.text import UNIT_COUNT
from avatarlab.training import codec as recipe
from avatarlab.training import decoder
from avatarlab.training.adversary import Adversary
from avatarlab.training.codec import train_codec
from avatarlab.training.corpus import write_wav
from avatarlab.training.decoder import predict_codes, train_decoder
from avatarlab.training.speech_data import tokenise_corpus

TINY = CodecConfig(
    width=16, latent=4, levels=2, codes=8, encoder_blocks=1, decoder_blocks=1, fine_blocks=1, expansion=2
)
SECONDS = np.arange(20_000) / 16_000


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "wav").mkdir()
    lines = []
    for number in range(4):
        tone = np.sin(2 * np.pi * 200 * (number + 1) * SECONDS) * np.sin(6 * SECONDS) * 9000
        write_wav(folder / "wav" / f"{number:06d}.wav", tone.astype(np.int16))
        lines.append({"id": f"{number:06d}", "voice": "slt", "text": "A tone.", "wav": f"wav/{number:06d}.wav",
                      "phones": [["ax", 0.0, 1.0]]})  # fmt: skip
    (folder / "utterances.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_codes_are_learned_and_a_later_decoder_keeps_them(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"WARM_STEPS": 2, "START_DRAWS": 1}.items():
        monkeypatch.setattr(recipe, name, value)
    said: list[str] = []
    first = train_codec(corpus, tmp_path / "first", minutes=0.04, batch=2, config=TINY, progress=said.append)
    assert said[-1].startswith("held-out log-mel L1")

    tokens = tmp_path / "tokens.safetensors"
    tokenise_corpus(corpus, Codec.from_state_dict(load_file(first)), tokens, said.append)
    for name, value in {"JUDGED": 1, "JUDGED_SAMPLES": 2000}.items():
        monkeypatch.setattr(decoder, name, value)
    again = train_decoder(
        corpus, tokens, first, tmp_path / "again", minutes=0.03, batch=2, config=TINY, progress=said.append
    )
    before, after = load_file(first), load_file(again)
    assert all(torch.equal(before[key], after[key]) for key in before if not key.startswith("decoder."))
    assert not torch.equal(before["decoder.head.weight"], after["decoder.head.weight"])
    assert Codec.from_state_dict(after).config == TINY


def test_later_levels_are_predicted_and_the_first_is_kept(corpus: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    codec = Codec(TINY).eval()
    tokens, predicted = tmp_path / "tokens.safetensors", tmp_path / "predicted.safetensors"
    tokenise_corpus(corpus, codec, tokens, lambda line: None)
    small_e = SmallE(
        SmallEConfig(
            width=16, text_vocabulary=UNIT_COUNT, text_layers=1, text_heads=2, encoder_blocks=1, decoder_blocks=1,
            heads=2, position_width=8, codebooks=4, codebook_size=8,
        )
    )  # fmt: skip
    save_file(small_e.state_dict(), tmp_path / "small_e.safetensors")
    predict_codes(tokens, tmp_path / "small_e.safetensors", predicted, 3, lambda line: None)
    true, guessed = load_file(tokens), load_file(predicted)
    assert len(guessed) == 3
    for name, codes in guessed.items():
        assert torch.equal(codes[:2], true[name][:2])
        assert codes.shape == true[name].shape and int(codes.min()) >= 0 and int(codes.max()) < 8
    assert any(not torch.equal(codes[2:], true[name][2:]) for name, codes in guessed.items())


def test_discriminators_learn_to_tell_noise_from_a_tone() -> None:
    torch.manual_seed(0)
    adversary = Adversary()
    optimiser = torch.optim.Adam(adversary.parameters(), lr=3e-3)
    tone = torch.sin(torch.arange(2000) / 5)[None]
    noise = torch.randn(1, 2000, requires_grad=True)
    first = adversary.own_loss(tone, noise).item()
    for _ in range(20):
        optimiser.zero_grad()
        loss = adversary.own_loss(tone, noise)
        loss.backward()
        optimiser.step()
    assert first > 1.8 and loss.item() < 1.0
    found_out, apart = adversary.losses_of(tone, noise)
    (found_out + apart).backward()
    assert found_out.item() > 1.0 and noise.grad is not None and float(noise.grad.abs().sum()) > 0
    assert adversary.losses_of(tone, tone.clone())[1].item() == 0.0
