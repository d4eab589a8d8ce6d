"""Trains the codec's decoder alone, on codes that stand fixed: first to match the sound, then against discriminators.

The codes are those of the recordings, or, for the last minutes, what the language model predicts of them: the levels after the
first are hard to predict, and a decoder that has only heard true ones makes noise of guessed ones.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from avatarlab import SAMPLE_RATE_HZ, SAMPLES_PER_VIDEO_FRAME
from avatarlab.speech.codec import STACKED, Codec, CodecConfig
from avatarlab.speech.delay import align
from avatarlab.speech.small_e import FIRST_CODE, SmallE
from avatarlab.training.adversary import Adversary
from avatarlab.training.codec import spectral_distance, write_codec
from avatarlab.training.corpus import read_corpus, read_wav
from avatarlab.training.loop import (
    Progress,
    Stateful,
    learning_rate,
    set_learning_rate,
    take_over,
    train_loop,
)
from avatarlab.training.small_e import Batch
from avatarlab.training.speech_data import HELD_OUT_EVERY, Spoken, chain, recording_names, spoken_of

PEAK_RATE = 4e-4
CROP_STEPS = 25
JUDGED = 4  # pieces of a batch that the discriminators see
JUDGED_SAMPLES = SAMPLE_RATE_HZ // 2
FOUND_OUT_WEIGHT = 0.03
FEATURE_WEIGHT = 0.1


class CodedSpeech:
    """Recordings and their codes, end to end: `samples` int16 (640 t,), `codes` int16 (q, t)."""

    def __init__(self, corpus: Path, tokens: Path) -> None:
        tensors = load_file(tokens)
        waves, codes = [], []
        self.held_out: list[tuple[Int[Tensor, "q t"], Float[Tensor, "s"]]] = []
        for recording in read_corpus(corpus):
            own = tensors.get(f"{recording.id}/{recording.voice}/codes")
            if own is None:
                continue
            wave = np.zeros(own.shape[1] * SAMPLES_PER_VIDEO_FRAME, np.int16)
            recorded = read_wav(corpus / recording.wav)
            wave[: len(recorded)] = recorded
            if int(recording.id) % HELD_OUT_EVERY:
                waves.append(wave)
                codes.append(own)
            elif len(self.held_out) < 48:
                self.held_out.append((own.long(), torch.from_numpy(wave).float() / 32768.0))
        self.samples = torch.from_numpy(np.concatenate(waves))
        self.codes = torch.cat(codes, dim=1)

    def draw(self, count: int, generator: torch.Generator) -> tuple[Int[Tensor, "b q t"], Float[Tensor, "b s"]]:
        """Random pieces of CROP_STEPS steps."""
        starts = torch.randint(0, self.codes.shape[1] - CROP_STEPS, (count,), generator=generator).tolist()
        codes = torch.stack([self.codes[:, start : start + CROP_STEPS] for start in starts]).long()
        steps, length = SAMPLES_PER_VIDEO_FRAME, CROP_STEPS * SAMPLES_PER_VIDEO_FRAME
        samples = torch.stack([self.samples[start * steps : start * steps + length] for start in starts])
        return codes, samples.float() / 32768.0


@torch.no_grad()
def held_out_distance(codec: Codec, speech: CodedSpeech) -> float:
    """Spectral distance of whole held-out recordings from what the decoder makes of their codes."""
    distances = [spectral_distance(codec.decode(codes[None]), wave[None]) for codes, wave in speech.held_out]
    return float(torch.stack(distances).mean())


def train_decoder(
    corpus: Path,
    tokens: Path,
    codec_file: Path,
    out: Path,
    *,
    minutes: float,
    seed: int = 0,
    batch: int = 8,
    adversary_from: float = 0.5,
    config: CodecConfig | None = None,
    progress: Progress = print,
) -> Path:
    """Trains the decoder of `codec_file` on the codes in `tokens`; writes OUT/codec.safetensors, whole, and returns its path.

    Encoder and codebooks stay as they are; of the decoder everything that fits `config` is trained on. `adversary_from` is the
    fraction of the time after which discriminators join in.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    speech = CodedSpeech(corpus, tokens)
    codec = Codec(config or CodecConfig())
    take_over(codec, load_file(codec_file))
    optimiser = torch.optim.AdamW(codec.decoder.parameters(), lr=PEAK_RATE, betas=(0.8, 0.99), weight_decay=1e-3)
    adversary = Adversary()
    adversary_optimiser = torch.optim.AdamW(adversary.parameters(), lr=PEAK_RATE / 2, betas=(0.8, 0.99))

    def deceive(recorded: Float[Tensor, "b s"], made: Float[Tensor, "b s"]) -> tuple[Tensor, dict[str, float]]:
        start = int(torch.randint(recorded.shape[1] - JUDGED_SAMPLES + 1, (), generator=generator))
        recorded, made = (x[:JUDGED, start : start + JUDGED_SAMPLES] for x in (recorded, made))
        own = adversary.own_loss(recorded, made)
        adversary_optimiser.zero_grad(set_to_none=True)
        own.backward()
        adversary_optimiser.step()
        found_out, apart = adversary.losses_of(recorded, made)
        metrics = {"adversary": own.item(), "found_out": found_out.item(), "features": apart.item()}
        return FOUND_OUT_WEIGHT * found_out + FEATURE_WEIGHT * apart, metrics

    def step(number: int, fraction: float) -> dict[str, float]:
        set_learning_rate(optimiser, learning_rate(PEAK_RATE, fraction, number, 100))
        codes, recorded = speech.draw(batch, generator)
        made = codec.decoder(codec.latents(codes))
        loss = spectral_distance(made, recorded)
        metrics = {"log_mel_l1": loss.item()}
        if fraction >= adversary_from:
            deception, judged = deceive(recorded, made)
            loss, metrics = loss + deception, metrics | judged
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(codec.decoder.parameters(), 1.0)
        optimiser.step()
        return metrics

    parts: dict[str, Stateful] = {
        "codec": codec,
        "optimiser": optimiser,
        "adversary": adversary,
        "adversary_optimiser": adversary_optimiser,
    }
    train_loop(out, parts, step, minutes=minutes, progress=progress)
    return write_codec(codec, held_out_distance(codec.eval(), speech), out, progress)


@torch.no_grad()
def predict_codes(tokens: Path, small_e_file: Path, path: Path, count: int, progress: Progress) -> None:
    """Writes `count` recordings of `tokens` with every level but the first as the language model predicts it.

    The network reads the true codes up to each step, after another recording of the same voice, and gives its likeliest code.
    """
    tensors = load_file(tokens)
    model = SmallE.from_state_dict(load_file(small_e_file))
    latest: dict[str, Spoken] = {}
    written: dict[str, Tensor] = {}
    for name in recording_names(tensors)[:count]:
        own = spoken_of(tensors, name)
        before, latest[own.voice] = latest.get(own.voice), own
        item = own if before is None else chain([before, own])
        batch = Batch([item])
        logits, _ = model.forward_train(
            batch.text_ids, batch.text_mask, batch.audio_ids[:, :-1], batch.audio_mask[:, :-1]
        )
        likeliest = align(logits[0, :, :, FIRST_CODE:].argmax(-1))[:, : item.codes.shape[1]]
        codes = torch.cat((item.codes[:STACKED], likeliest[STACKED:]))[:, -own.codes.shape[1] :]
        written[f"{name}/codes"] = codes.to(torch.int16).contiguous()
        if len(written) % 500 == 0:
            progress(f"{len(written)} of {count} recordings predicted")
    partial = path.with_suffix(".partial")
    save_file(written, partial)
    partial.replace(path)
