"""The pitch of a voice, by autocorrelation of short windows (Boersma 1993)."""

import numpy as np
from jaxtyping import Float64

from avatarlab import SAMPLE_RATE_HZ

HOP = SAMPLE_RATE_HZ // 100
_PITCH_WINDOW = 4 * HOP
_LOWEST_HZ, _HIGHEST_HZ = 70, 400
_VOICED = 0.5  # autocorrelation from which a window has a pitch


def semitones(sound: Float64[np.ndarray, "s"], hops: np.ndarray) -> Float64[np.ndarray, "n"]:
    """The pitch around each hop of 16 kHz sound in semitones above 1 Hz: the median of five windows; NaN without one."""
    starts = (hops[:, None] + np.arange(-2, 3)) * HOP + (HOP - _PITCH_WINDOW) // 2
    padded = np.pad(sound, _PITCH_WINDOW)
    windows = padded[starts.reshape(-1, 1) + _PITCH_WINDOW + np.arange(_PITCH_WINDOW)]
    windows = (windows - windows.mean(1, keepdims=True)) * np.hanning(_PITCH_WINDOW)
    size = 2 * _PITCH_WINDOW
    correlation = np.fft.irfft(np.square(np.abs(np.fft.rfft(windows, size))), size)
    # a window correlates with itself less the farther it is moved, without having less of a pitch
    taper = np.fft.irfft(np.square(np.abs(np.fft.rfft(np.hanning(_PITCH_WINDOW), size))), size)
    lags = np.arange(SAMPLE_RATE_HZ // _HIGHEST_HZ, SAMPLE_RATE_HZ // _LOWEST_HZ + 1)
    share = correlation[:, lags] / np.maximum(correlation[:, :1], 1e-9) / (taper[lags] / taper[0])
    # of nearly equal peaks the shortest period is meant
    best = np.argmax(share >= 0.9 * share.max(1, keepdims=True, initial=0.0), axis=1)
    rows = np.arange(len(best))
    for _ in range(len(lags)):
        right = np.minimum(best + 1, len(lags) - 1)
        climbs = share[rows, right] > share[rows, best]
        if not climbs.any():
            break
        best = np.where(climbs, right, best)
    pitch = 12 * np.log2(SAMPLE_RATE_HZ / lags[best])
    pitch[share[rows, best] < _VOICED] = np.nan
    per_hop = pitch.reshape(-1, 5)
    voiced = (~np.isnan(per_hop)).sum(1) >= 2
    result = np.full(len(hops), np.nan)
    result[voiced] = np.nanmedian(per_hop[voiced], axis=1)
    return result
