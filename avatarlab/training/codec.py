"""Trains the bundled codec to keep what is said: encoder, codebooks and a first decoder. `decoder` makes it sound well.

Recipe (measured in this project): 300 steps without quantiser, k-means over many latents, then straight-through quantisation.
"""

import json
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor
from vector_quantize_pytorch import ResidualVQ

from avatarlab import SAMPLE_RATE_HZ
from avatarlab.speech.codec import Codec, CodecConfig, log_mel
from avatarlab.training.corpus import read_corpus, read_wav
from avatarlab.training.loop import (
    Progress,
    Stateful,
    learning_rate,
    save_weights,
    set_learning_rate,
    take_over,
    train_loop,
)

CROP_SAMPLES = SAMPLE_RATE_HZ
PEAK_RATE = 4e-4
WARM_STEPS = 300
START_DRAWS = 60  # of 20 seconds each, that the codebooks start from
HELD_OUT_EVERY = 50
INAUDIBLE = 1e-3  # magnitudes below it count as it
RESOLUTIONS = ((2048, 512, 80), (1024, 256, 80), (512, 128, 40), (256, 64, 20))


def spectral_distance(spoken: Float[Tensor, "b s"], target: Float[Tensor, "b s"]) -> Tensor:
    """Mean absolute difference of log-mel spectra over four resolutions."""
    terms = [
        (log_mel(spoken, *resolution, INAUDIBLE) - log_mel(target, *resolution, INAUDIBLE)).abs().mean()
        for resolution in RESOLUTIONS
    ]
    return torch.stack(terms).mean()


class Crops:
    """Random one-second pieces of the training recordings."""

    def __init__(self, corpus: Path) -> None:
        recordings = read_corpus(corpus)
        waves = [read_wav(corpus / r.wav) for r in recordings if int(r.id) % HELD_OUT_EVERY]
        self.samples = torch.from_numpy(np.concatenate(waves))
        held_out = [read_wav(corpus / r.wav) for r in recordings if not int(r.id) % HELD_OUT_EVERY]
        self.held_out = [torch.from_numpy(w.astype(np.float32) / 32768.0)[None] for w in held_out[:48]]

    def draw(self, count: int, generator: torch.Generator) -> Float[Tensor, "b s"]:
        starts = torch.randint(0, len(self.samples) - CROP_SAMPLES, (count,), generator=generator).tolist()
        return torch.stack([self.samples[start : start + CROP_SAMPLES] for start in starts]).float() / 32768.0


@torch.no_grad()
def held_out_distance(codec: Codec, crops: Crops) -> float:
    """Spectral distance of whole held-out recordings after encoding and decoding."""
    distances = []
    for waveform in crops.held_out:
        spoken = codec.decode(codec.encode(waveform))[:, : waveform.shape[1]]
        distances.append(float(spectral_distance(spoken, waveform)))
    return float(np.mean(distances))


def train_codec(
    corpus: Path,
    out: Path,
    *,
    minutes: float,
    seed: int = 0,
    batch: int = 8,
    config: CodecConfig | None = None,
    start: Path | None = None,
    progress: Progress = print,
) -> Path:
    """Trains on the recordings of `corpus`; writes OUT/codec.safetensors and returns its path.

    `start` is the file of an earlier codec, of which everything that still fits is trained on, but for the codebooks, which
    are made anew.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    crops = Crops(corpus)
    codec = Codec(config or CodecConfig())
    if start is not None:
        take_over(codec, load_file(start))
    quantiser = ResidualVQ(
        dim=codec.config.latent,
        num_quantizers=codec.config.levels,
        codebook_size=codec.config.codes,
        kmeans_init=True,
        kmeans_iters=15,
        decay=0.99,
        commitment_weight=0.25,
        threshold_ema_dead_code=0.02,
    )
    optimiser = torch.optim.AdamW(
        [p for p in codec.parameters() if p.requires_grad], lr=PEAK_RATE, betas=(0.8, 0.99), weight_decay=1e-3
    )
    extra = {"started": False}

    def start_quantiser() -> None:
        with torch.no_grad():
            latents = torch.cat([codec.encoder(crops.draw(20, generator)).flatten(0, 1) for _ in range(START_DRAWS)])
        quantiser.train()
        quantiser(latents[None])
        extra["started"] = True

    def step(number: int, fraction: float) -> dict[str, float]:
        set_learning_rate(optimiser, learning_rate(PEAK_RATE, fraction, number, 100))
        if (number >= WARM_STEPS or start is not None) and not extra["started"]:
            start_quantiser()
        target = crops.draw(batch, generator)
        latents, commitment = codec.encoder(target), torch.zeros(())
        if extra["started"]:
            latents, _, commitment = quantiser.train()(latents)
        distance = spectral_distance(codec.decoder(latents), target)
        optimiser.zero_grad(set_to_none=True)
        (distance + commitment.sum()).backward()
        torch.nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
        optimiser.step()
        return {"log_mel_l1": distance.item(), "commitment": commitment.sum().item()}

    out.mkdir(parents=True, exist_ok=True)
    parts: dict[str, Stateful] = {"codec": codec, "quantiser": quantiser, "optimiser": optimiser}
    train_loop(out, parts, step, minutes=minutes, progress=progress, extra=extra)
    codec.codebook.data.copy_(quantiser.codebooks)
    return write_codec(codec, held_out_distance(codec.eval(), crops), out, progress)


def write_codec(codec: Codec, distance: float, out: Path, progress: Progress) -> Path:
    """Writes OUT/codec.safetensors and its held-out spectral distance beside it."""
    path = out / "codec.safetensors"
    save_weights(codec.state_dict(), path)
    (out / "codec.score.json").write_text(json.dumps({"held_out_log_mel_l1": round(distance, 4)}))
    progress(f"held-out log-mel L1 {distance:.4f}, written to {path}")
    return path
