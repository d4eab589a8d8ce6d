"""Audio features the bundled motion network hears: log-mel at 50 Hz, two frames for each video frame."""

from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from avatarlab import AUDIO_FEATURE_HZ, SAMPLE_RATE_HZ

BANDS = 80
HOP = SAMPLE_RATE_HZ // AUDIO_FEATURE_HZ
FFT = 512
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


def log_mel(waveform: Float[Tensor, "s"]) -> Float[Tensor, "1 t50 80"]:
    """Log-mel of 16 kHz samples in [-1, 1]: one layer, t50 = ceil(s / 320) frames, frame i centred on sample 320 i +
    160.

    The loudness of the clip is taken out (the level that 90 % of its frames stay under becomes 0), so that quiet and
    loud recordings look alike; silence stays at the bottom.
    """
    frames = -(-len(waveform) // HOP)
    margin = (FFT - HOP) // 2
    padded = F.pad(waveform, (margin, margin + frames * HOP - len(waveform)))
    pieces = padded.unfold(0, FFT, HOP) * torch.hann_window(FFT, device=waveform.device)  # (t50, 512)
    power = torch.fft.rfft(pieces).abs().square()
    energy = (power @ mel_bank().to(waveform.device).T + 1e-6).log()
    loudness = energy.logsumexp(dim=1)
    level = torch.quantile(loudness, LOUD_SHARE).clamp(min=QUIETEST_LEVEL)
    # Bands of a voice at that level lie 3 to 4 nats below its sum over all bands.
    return ((energy - level + 4) / NATS_PER_UNIT).clamp(min=DEEPEST)[None]
