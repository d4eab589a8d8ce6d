"""Audio features the bundled motion network hears: log-mel at 50 Hz, two frames for each video frame."""

from functools import cache
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from avatarlab import AUDIO_FEATURE_HZ, SAMPLE_RATE_HZ

BANDS = 80
HOP = SAMPLE_RATE_HZ // AUDIO_FEATURE_HZ
FFT = 512
MARGIN = (FFT - HOP) // 2  # samples that a frame sees before and after its own
BLOCK_FRAMES = 60 * AUDIO_FEATURE_HZ
LOWEST_HZ, HIGHEST_HZ = 50.0, 7600.0
NATS_PER_UNIT = 3.0
LOUD_SHARE = 0.9  # of the frames, by loudness, lie below the level every clip is brought to
QUIETEST_LEVEL = 0.0  # nats; a clip that stays below it is silence and is not raised to speech
DEEPEST = -4.0


@cache
def mel_bank() -> Float[Tensor, "80 257"]:
    """Triangles evenly spaced in mel (2595 log10(1 + f / 700)), each with a peak of 1."""

    def mel(hz: Tensor) -> Tensor:
        return 2595 * torch.log10(1 + hz / 700)

    low, high = mel(torch.tensor([LOWEST_HZ, HIGHEST_HZ], dtype=torch.float64))
    edges = torch.linspace(float(low), float(high), BANDS + 2, dtype=torch.float64)
    bins = mel(torch.linspace(0, SAMPLE_RATE_HZ / 2, FFT // 2 + 1, dtype=torch.float64))
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp(min=0).float()


@runtime_checkable
class Features(Protocol):
    """What a motion network hears of a recording, given piece by piece so that memory does not grow with its length."""

    @property
    def frames(self) -> int:
        """How many feature frames the recording has: two for each video frame."""

    def between(self, first: int, last: int) -> Float[Tensor, "l t50 c"]:
        """The frames `first` to `last` - 1."""


class LogMel:
    """`log_mel` of a recording in pieces: its level first, block by block, then whatever frames are asked for."""

    def __init__(self, waveform: Float[np.ndarray, "s"]) -> None:
        """Only slices of `waveform` are read."""
        self.waveform = waveform
        self.frames = -(-len(waveform) // HOP)
        blocks = range(0, self.frames, BLOCK_FRAMES)
        loudness = [self._energy(at, min(at + BLOCK_FRAMES, self.frames)).logsumexp(dim=1) for at in blocks]
        self.level = _level(torch.cat(loudness))

    def between(self, first: int, last: int) -> Float[Tensor, "1 t50 80"]:
        """The frames `first` to `last` - 1."""
        return _scaled(self._energy(first, last), self.level)[None]

    def _energy(self, first: int, last: int) -> Float[Tensor, "t50 80"]:
        start, end = first * HOP - MARGIN, last * HOP + MARGIN
        inside = self.waveform[max(0, start) : end]
        before = max(0, -start)
        padded = np.pad(inside, (before, end - start - before - len(inside))).astype(np.float32, copy=False)
        return _band_energy(torch.from_numpy(padded))


def log_mel(waveform: Float[Tensor, "s"]) -> Float[Tensor, "1 t50 80"]:
    """Log-mel of 16 kHz samples in [-1, 1]: one layer, t50 = ceil(s / 320) frames, frame i centred on sample 320 i +
    160.

    The loudness of the clip is taken out (the level that 90 % of its frames stay under becomes 0), so that quiet and
    loud recordings look alike; silence stays at the bottom.
    """
    frames = -(-len(waveform) // HOP)
    energy = _band_energy(F.pad(waveform, (MARGIN, MARGIN + frames * HOP - len(waveform))))
    return _scaled(energy, _level(energy.logsumexp(dim=1)))[None]


def _band_energy(padded: Float[Tensor, "s"]) -> Float[Tensor, "t50 80"]:
    """Nats in each band; `padded` reaches MARGIN samples beyond the frames on either side."""
    pieces = padded.unfold(0, FFT, HOP) * torch.hann_window(FFT, device=padded.device)  # (t50, 512)
    power = torch.fft.rfft(pieces).abs().square()
    return (power @ mel_bank().to(padded.device).T + 1e-6).log()


def _level(loudness: Float[Tensor, "t50"]) -> Float[Tensor, ""]:
    return torch.quantile(loudness, LOUD_SHARE).clamp(min=QUIETEST_LEVEL)


def _scaled(energy: Float[Tensor, "t50 80"], level: Float[Tensor, ""]) -> Float[Tensor, "t50 80"]:
    # Bands of a voice at that level lie 3 to 4 nats below its sum over all bands.
    return ((energy - level + 4) / NATS_PER_UNIT).clamp(min=DEEPEST)
