"""Trains the bundled codec: reconstruction losses only, k-means start of the codebook, then the decoder alone.

Recipe (measured in this project): 300 steps without quantiser, k-means over many latents, straight-through quantisation, and
after FREEZE_FRACTION of the time encoder and codebook stand still, so that the language model can start on the codes
while the decoder goes on learning to speak them.
"""

import json
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from vector_quantize_pytorch import VectorQuantize

from avatarlab import SAMPLE_RATE_HZ
from avatarlab.speech.codec import Codec, CodecConfig, log_mel
from avatarlab.training.corpus import read_corpus, read_wav
from avatarlab.training.loop import Progress, learning_rate, save_weights, set_learning_rate, train_loop

CROP_SAMPLES = SAMPLE_RATE_HZ
WARM_STEPS = 300
FREEZE_FRACTION = 0.74
HELD_OUT_EVERY = 50
RESOLUTIONS = ((2048, 512, 80), (1024, 256, 80), (512, 128, 40), (256, 64, 20))


def spectral_distance(spoken: Float[Tensor, "b s"], target: Float[Tensor, "b s"]) -> Tensor:
    """Mean absolute difference of log-mel spectra over four resolutions."""
    terms = [
        (log_mel(spoken, window, hop, bands) - log_mel(target, window, hop, bands)).abs().mean()
        for window, hop, bands in RESOLUTIONS
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
    progress: Progress = print,
) -> Path:
    """Trains on the recordings of `corpus`; writes OUT/codec.safetensors (also at the freeze) and returns its path."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    crops = Crops(corpus)
    codec = Codec(config or CodecConfig())
    quantiser = VectorQuantize(
        dim=codec.config.latent,
        codebook_size=codec.config.codes,
        kmeans_init=True,
        kmeans_iters=15,
        decay=0.99,
        commitment_weight=0.25,
        threshold_ema_dead_code=0.02,
    )
    optimiser = torch.optim.AdamW(
        [p for p in codec.parameters() if p.requires_grad], lr=4e-4, betas=(0.8, 0.99), weight_decay=1e-3
    )
    extra = {"frozen": False, "started": False}
    path = out / "codec.safetensors"

    def write() -> None:
        codec.codebook.data.copy_(quantiser.codebook.reshape_as(codec.codebook))
        distance = held_out_distance(codec.eval(), crops)
        codec.train()
        save_weights(codec.state_dict(), path)
        (out / "codec.score.json").write_text(json.dumps({"held_out_log_mel_l1": round(distance, 4)}))
        progress(f"held-out log-mel L1 {distance:.4f}, written to {path}")

    def start_quantiser() -> None:
        with torch.no_grad():
            latents = torch.cat([codec.encoder(crops.draw(20, generator)).flatten(0, 1) for _ in range(60)])
        quantiser.train()
        quantiser(latents[None])
        extra["started"] = True

    def freeze() -> None:
        extra["frozen"] = True
        quantiser.eval()
        write()

    def step(number: int, fraction: float) -> dict[str, float]:
        set_learning_rate(optimiser, learning_rate(4e-4, fraction, number, 100))
        if number >= WARM_STEPS and not extra["started"]:
            start_quantiser()
        if fraction >= FREEZE_FRACTION and not extra["frozen"]:
            freeze()
        target = crops.draw(batch, generator)
        commitment = torch.zeros(())
        if extra["frozen"]:
            with torch.no_grad():
                latents, _, _ = quantiser.eval()(codec.encoder(target))
        else:
            latents = codec.encoder(target)
            if extra["started"]:
                latents, _, commitment = quantiser.train()(latents)
        spoken = codec.decoder(latents)
        distance = spectral_distance(spoken, target)
        loss = distance + (spoken - target).abs().mean() + commitment.sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
        optimiser.step()
        return {"log_mel_l1": distance.item(), "commitment": commitment.sum().item()}

    parts = {"codec": codec, "quantiser": quantiser, "optimiser": optimiser}
    out.mkdir(parents=True, exist_ok=True)
    train_loop(out, parts, step, minutes=minutes, progress=progress, extra=extra)
    write()
    return path
