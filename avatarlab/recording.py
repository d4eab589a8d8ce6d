"""A recording of a voice as plain samples on disk, read piece by piece: an hour takes no more memory than a minute."""

import wave
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32

from avatarlab import FPS, SAMPLE_RATE_HZ, SAMPLES_PER_VIDEO_FRAME
from avatarlab.errors import MediaError
from avatarlab.media import stream_audio, write_wav

LONGEST_PIECE_FRAMES = 10 * FPS
SHORTEST_PIECE_FRAMES = 4 * FPS
LOUDNESS_FRAMES = 5
READ_FRAMES = 60 * FPS  # at a time


class Recording:
    """16 kHz mono in whole video frames; the last is filled up with silence."""

    def __init__(self, path: Path) -> None:
        """`path` is a file that `decoded` has written."""
        self.path = path
        with wave.open(str(path), "rb") as file:
            self._samples = file.getnframes()
        self.frame_count = -(-self._samples // SAMPLES_PER_VIDEO_FRAME)

    @staticmethod
    def decoded(source: Path, path: Path) -> "Recording":
        """Any sound or video file, decoded to `path`. Raises MediaError where it cannot be read or holds no sound."""
        if not write_wav(path, stream_audio(source, SAMPLE_RATE_HZ), SAMPLE_RATE_HZ):
            raise MediaError(f"{source.name} holds no sound", "give a recording")
        return Recording(path)

    def waveform(self, first: int, last: int) -> Float32[np.ndarray, "s"]:
        """The samples of the video frames from `first` up to `last`; before the start and after the end is silence."""
        start, end = first * SAMPLES_PER_VIDEO_FRAME, last * SAMPLES_PER_VIDEO_FRAME
        low, high = min(max(start, 0), self._samples), min(max(end, 0), self._samples)
        with wave.open(str(self.path), "rb") as file:
            file.setpos(low)
            content = np.frombuffer(file.readframes(high - low), "<i2")
        before = min(max(-start, 0), end - start)
        after = end - start - before - len(content)
        return np.pad(content.astype(np.float32) / np.float32(32768), (before, after))

    def energy(self) -> Float[np.ndarray, "f"]:
        """The mean square of every video frame."""
        found = []
        for first in range(0, self.frame_count, READ_FRAMES):
            part = self.waveform(first, min(first + READ_FRAMES, self.frame_count)).astype(np.float64)
            found.append(np.square(part).reshape(-1, SAMPLES_PER_VIDEO_FRAME).mean(axis=1))
        return np.concatenate(found)


def quiet_pieces(energy: Float[np.ndarray, "f"]) -> list[tuple[int, int]]:
    """Cuts a recording into pieces of 4 to 10 seconds, each at its quietest place, told by the energy of its video frames.

    Returns ranges of video frames that tile it; the last piece may be shorter than 4 seconds.
    """
    frames = len(energy)
    smooth = np.convolve(energy, np.ones(LOUDNESS_FRAMES) / LOUDNESS_FRAMES, mode="same") if frames else energy
    cuts = [0]
    while frames - cuts[-1] > LONGEST_PIECE_FRAMES:
        window = smooth[cuts[-1] + SHORTEST_PIECE_FRAMES : cuts[-1] + LONGEST_PIECE_FRAMES]
        cuts.append(cuts[-1] + SHORTEST_PIECE_FRAMES + int(window.argmin()))
    return list(pairwise([*cuts, frames]))
