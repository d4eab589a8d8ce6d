"""Where the voice stresses a word: one level of emphasis for each video frame, for brows and head (`lips.life`).

A stressed syllable is louder and higher than the other syllables around it. What is compared are peaks of loudness with
one another, not with pauses, so a steady voice has none that stands out.
"""

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from avatarlab import FPS, SAMPLE_RATE_HZ, SAMPLES_PER_VIDEO_FRAME
from avatarlab.lips.life import EMPHASIS_LEVELS
from avatarlab.lips.pitch import HOP, semitones

_SILENT_BELOW_PEAK_DB, _SILENT_DB = 32.0, -55.0
_SHORTEST_PAUSE_FRAMES = 5  # shorter gaps belong to the speech around them
_SYLLABLE_SECONDS = 0.05  # standard deviation of the smoothing that leaves one peak for a syllable
_NEIGHBOURHOOD_SECONDS = 1.5
_ONE_DB, _ONE_SEMITONE = 1 / 4, 1 / 3  # what one more is worth
_LEAST_STRESS = 0.4
_SECONDS_APART = 0.9
_HALF_BUMP_FRAMES = 6  # 11 frames, 440 ms, are not 0


def emphasis(waveform: Float32[np.ndarray, "s"]) -> UInt8[np.ndarray, "f"]:
    """Levels 0 .. `EMPHASIS_LEVELS` - 1 of every whole video frame of 16 kHz sound.

    At most about one stress a second, each a smooth bump; 0 in silence and in the first and last frame, so that
    segments join; neighbours differ by at most 2. A voice in which nothing stands out gives zeros."""
    frame_count = len(waveform) // SAMPLES_PER_VIDEO_FRAME
    levels = np.zeros(frame_count)
    if frame_count < 2 * _HALF_BUMP_FRAMES:
        return levels.astype(np.uint8)
    sound = waveform[: frame_count * SAMPLES_PER_VIDEO_FRAME].astype(np.float64)
    loudness = _loudness(sound)
    speaks = _speaks(loudness)
    bump = 0.5 + 0.5 * np.cos(np.pi * np.arange(1 - _HALF_BUMP_FRAMES, _HALF_BUMP_FRAMES) / _HALF_BUMP_FRAMES)
    for frame, strength in _stresses(sound, loudness, speaks):
        first = frame - len(bump) // 2
        inside = slice(max(0, first), min(frame_count, first + len(bump)))
        part = strength * bump[inside.start - first : inside.stop - first]
        levels[inside] = np.maximum(levels[inside], part)
    return np.minimum(np.rint(levels), 2 * _frames_to_silence(speaks)).astype(np.uint8)


def _loudness(sound: Float64[np.ndarray, "s"]) -> Float64[np.ndarray, "k"]:
    """Decibels below full scale of every 10 ms, smoothed to syllables."""
    power = np.square(sound.reshape(-1, HOP)).mean(1)
    return np.asarray(10 * np.log10(_gaussian(power, _SYLLABLE_SECONDS * SAMPLE_RATE_HZ / HOP) + 1e-10))


def _gaussian(values: Float64[np.ndarray, "k"], deviation: float) -> Float64[np.ndarray, "k"]:
    reach = int(3 * deviation)
    weights = np.exp(-0.5 * np.square(np.arange(-reach, reach + 1) / deviation))
    return np.convolve(np.pad(values, reach, mode="edge"), weights / weights.sum(), mode="valid")


def _speaks(loudness: Float64[np.ndarray, "k"]) -> Bool[np.ndarray, "f"]:
    """The video frames that are not silent; short gaps are filled."""
    of_frames = loudness.reshape(-1, SAMPLES_PER_VIDEO_FRAME // HOP).max(1)
    speaks = of_frames > max(_SILENT_DB, float(of_frames.max()) - _SILENT_BELOW_PEAK_DB)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], ~speaks, [False]]).astype(np.int8)))
    for start, end in edges.reshape(-1, 2).tolist():
        if start > 0 and end < len(speaks) and end - start < _SHORTEST_PAUSE_FRAMES:
            speaks[start:end] = True
    return speaks


def _frames_to_silence(speaks: Bool[np.ndarray, "f"]) -> Float64[np.ndarray, "f"]:
    """Distance to the nearest silent frame; the first and the last frame count as silent."""
    distance = np.where(speaks, float(len(speaks)), 0.0)
    distance[[0, -1]] = 0
    steps = np.arange(len(speaks))
    before = np.minimum.accumulate(distance - steps) + steps
    after = np.minimum.accumulate((distance + steps)[::-1])[::-1] - steps
    return np.minimum(before, after)


def _stresses(
    sound: Float64[np.ndarray, "s"], loudness: Float64[np.ndarray, "k"], speaks: Bool[np.ndarray, "f"]
) -> list[tuple[int, float]]:
    """Video frames of stressed syllables and their levels, the strongest first."""
    inner = loudness[1:-1]
    peaks = np.flatnonzero((inner > loudness[:-2]) & (inner >= loudness[2:])) + 1
    per_frame = SAMPLES_PER_VIDEO_FRAME // HOP
    pitch = semitones(sound, peaks)
    peaks, pitch = peaks[~np.isnan(pitch)], pitch[~np.isnan(pitch)]
    heard = speaks[peaks // per_frame]
    peaks, pitch = peaks[heard], pitch[heard]
    reach = _NEIGHBOURHOOD_SECONDS * SAMPLE_RATE_HZ / HOP
    stress = np.zeros(len(peaks))
    for k, peak in enumerate(peaks):
        near = np.abs(peaks - peak) <= reach
        louder = loudness[peak] - float(np.median(loudness[peaks[near]]))
        higher = float(np.clip(pitch[k] - np.median(pitch[near]), -6, 6))  # more is an octave misheard
        stress[k] = _ONE_DB * louder + _ONE_SEMITONE * higher
    chosen: list[tuple[int, float]] = []
    for k in np.argsort(-stress, kind="stable"):
        frame = int(peaks[k]) // per_frame
        if stress[k] < _LEAST_STRESS:
            break
        if all(abs(frame - other) >= _SECONDS_APART * FPS for other, _ in chosen):
            chosen.append((frame, min(EMPHASIS_LEVELS - 1.0, 2.0 + 2.5 * float(stress[k]))))
    return chosen
