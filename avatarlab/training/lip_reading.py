"""Does a mouth belong to a sound? Told from pictures and sound alone, by an ear that shares nothing with the lips.

The ear is a ridge regression from loudness in a few bands, some frames before and after, to the opening of a mouth.
It explains about two thirds of what a mouth does, which is enough to tell the right sound from a late one.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from avatarlab import SAMPLE_RATE_HZ, SAMPLES_PER_VIDEO_FRAME
from avatarlab.errors import InputError
from avatarlab.training.evaluate_lips import best_lag

BAND_EDGES_HZ = (100, 200, 300, 450, 600, 800, 1000, 1300, 1700, 2200, 2800, 3500, 4500, 6000, 7600)
CONTEXT_FRAMES = 4
LOUD_SHARE = 0.9
FLOOR = 1e-4  # of the power of the loud frames
RIDGE = 10.0
IN_SYNC = 0.5  # least correlation; see `Sync`
LARGEST_OFFSET_FRAMES = 1


@dataclass(frozen=True)
class Sync:
    """How the opening of a mouth fits a sound: the best correlation with what the ear expects, and at which lag.

    With true mouths and trained voices (75 sentences, cross-validated) every right sound correlates with 0.59 or more;
    of other sentences' sounds one in sixty fits, of sounds four frames early or late none.
    """

    correlation: float
    lag_frames: int

    @property
    def fits(self) -> bool:
        return abs(self.lag_frames) <= LARGEST_OFFSET_FRAMES and self.correlation >= IN_SYNC


@dataclass(frozen=True, eq=False)
class Ear:
    """Expects a mouth opening for every video frame of a sound."""

    weights: Float[np.ndarray, "k"]

    @staticmethod
    def fitted(waveforms: Sequence[Float[np.ndarray, "_"]], mouths: Sequence[Float[np.ndarray, "_"]]) -> "Ear":
        """From sounds and the true openings that belong to them. Raises InputError where there are none."""
        if not waveforms or len(waveforms) != len(mouths):
            raise InputError(f"{len(waveforms)} sounds and {len(mouths)} mouths", "give one mouth for each sound")
        x = np.concatenate([_features(waveform) for waveform in waveforms])
        y = np.concatenate(list(mouths))
        return Ear(np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ y))

    def expect(self, waveform: Float[np.ndarray, "s"]) -> Float[np.ndarray, "f"]:
        return _features(waveform) @ self.weights


def sync(ear: Ear, mouth: Float[np.ndarray, "f"], waveform: Float[np.ndarray, "s"]) -> Sync:
    """`mouth` is the opening in every video frame, measured from pixels; `waveform` the sound they are shown with."""
    return Sync(*best_lag(mouth, ear.expect(waveform)))


def shifted(waveform: Float[np.ndarray, "s"], frames: int) -> Float[np.ndarray, "s"]:
    """The sound so many video frames later (earlier where negative), silence moving in, as long as before."""
    samples = frames * SAMPLES_PER_VIDEO_FRAME
    if samples >= 0:
        return np.pad(waveform, (samples, 0))[: len(waveform)]
    return np.pad(waveform[-samples:], (0, -samples))


def _features(waveform: Float[np.ndarray, "s"]) -> Float[np.ndarray, "f k"]:
    """Log power in bands around the middle of each video frame, without the clip's mean; neighbours beside it."""
    count, size = len(waveform) // SAMPLES_PER_VIDEO_FRAME, 1024
    padded = np.pad(np.asarray(waveform, np.float64), (size - SAMPLES_PER_VIDEO_FRAME) // 2)
    starts = SAMPLES_PER_VIDEO_FRAME * np.arange(count)
    pieces = padded[starts[:, None] + np.arange(size)] * np.hanning(size)
    power = np.square(np.abs(np.fft.rfft(pieces)))
    hz = np.fft.rfftfreq(size, 1 / SAMPLE_RATE_HZ)
    edges = itertools.pairwise(BAND_EDGES_HZ)
    bands = np.stack([power[:, (hz >= low) & (hz < high)].sum(axis=1) for low, high in edges], axis=1)
    level = max(float(np.quantile(bands.sum(axis=1), LOUD_SHARE)), 1e-12)
    heard = np.log(bands / level + FLOOR)
    heard -= heard.mean(axis=0)
    around = np.pad(heard, ((CONTEXT_FRAMES, CONTEXT_FRAMES), (0, 0)), mode="edge")
    columns = [around[k : k + count] for k in range(2 * CONTEXT_FRAMES + 1)]
    return np.concatenate([*columns, np.ones((count, 1))], axis=1)
