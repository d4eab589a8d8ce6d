"""What avatarlab.lips.expression promises: brows and head answer to stress in the voice, and to nothing else."""

import numpy as np
import pytest
from cartoon import speechlike

from avatarlab import SAMPLE_RATE_HZ, SAMPLES_PER_VIDEO_FRAME
from avatarlab.avatars import BUNDLED
from avatarlab.lips.expression import emphasis
from avatarlab.lips.life import EMPHASIS_LEVELS
from avatarlab.media import read_audio

SYLLABLE_SECONDS, GAP_SECONDS = 0.16, 0.09


def syllables(gains_db: list[float], semitones: list[float] | None = None) -> np.ndarray:
    """Buzzes, one for each gain, after half a second of silence and before another."""
    pieces = [np.zeros(SAMPLE_RATE_HZ // 2)]
    for gain, tone in zip(gains_db, semitones or [0.0] * len(gains_db), strict=True):
        time = np.arange(round(SYLLABLE_SECONDS * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
        pitch = 120 * 2 ** (tone / 12)
        buzz = sum(np.sin(2 * np.pi * pitch * harmonic * time) / harmonic for harmonic in range(1, 10))
        pieces += [
            0.05 * 10 ** (gain / 20) * buzz * np.hanning(len(time)),
            np.zeros(round(GAP_SECONDS * SAMPLE_RATE_HZ)),
        ]
    pieces.append(np.zeros(SAMPLE_RATE_HZ // 2))
    return np.concatenate(pieces).astype(np.float32)


def frame_of(syllable: int) -> int:
    seconds = 0.5 + syllable * (SYLLABLE_SECONDS + GAP_SECONDS) + SYLLABLE_SECONDS / 2
    return int(seconds * SAMPLE_RATE_HZ) // SAMPLES_PER_VIDEO_FRAME


def tops(levels: np.ndarray) -> list[int]:
    """The middle of every run of levels above 0."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], levels > 0, [0]])))
    return [int(start + end - 1) // 2 for start, end in edges.reshape(-1, 2)]


def voices() -> list[np.ndarray]:
    return [read_audio(BUNDLED / id / "voice.wav") for id in ("ada", "ben", "carl")]


def test_the_louder_syllable_is_stressed() -> None:
    levels = emphasis(syllables([0, 0, 0, 0, 6, 0, 0, 0, 0]))
    assert len(tops(levels)) == 1
    assert abs(tops(levels)[0] - frame_of(4)) <= 1
    assert levels.max() == EMPHASIS_LEVELS - 1


def test_the_higher_syllable_is_stressed() -> None:
    levels = emphasis(syllables([0.0] * 9, [0, 0, 0, 0, 0, 4, 0, 0, 0]))
    assert len(tops(levels)) == 1
    assert abs(tops(levels)[0] - frame_of(5)) <= 1


def test_a_stronger_stress_moves_the_face_further() -> None:
    weak, strong = (emphasis(syllables([0, 0, 0, 0, gain, 0, 0, 0])).max() for gain in (2.5, 5))
    assert 0 < weak < strong


def test_a_stress_lasts_between_three_and_five_tenths_of_a_second() -> None:
    levels = emphasis(syllables([0, 0, 0, 0, 6, 0, 0, 0, 0]))
    assert 0.3 <= np.count_nonzero(levels) / 25 <= 0.5


def test_stresses_are_most_of_a_second_apart() -> None:
    levels = emphasis(syllables([0, 6, 6, 0, 0, 6, 0, 6, 6, 6, 0, 0, 0, 6, 0, 0] * 2))
    middles = tops(levels)
    assert len(middles) >= 3
    assert np.diff(middles).min() >= 20


@pytest.mark.parametrize(
    "flat",
    [
        np.zeros(SAMPLE_RATE_HZ, np.float32),
        np.zeros(0, np.float32),
        np.zeros(700, np.float32),
        speechlike(4.0),
        (0.3 * np.sin(np.arange(3 * SAMPLE_RATE_HZ) * 0.06)).astype(np.float32),
        (0.1 * np.random.default_rng(0).standard_normal(3 * SAMPLE_RATE_HZ)).astype(np.float32),
    ],
    ids=["silence", "nothing", "one frame", "even syllables", "a tone", "noise"],
)
def test_where_nothing_stands_out_the_face_stays_idle(flat: np.ndarray) -> None:
    levels = emphasis(flat)
    assert levels.shape == (len(flat) // SAMPLES_PER_VIDEO_FRAME,)
    assert not levels.any()


def test_real_voices_are_stressed_about_once_a_second_at_most_and_never_abruptly() -> None:
    for waveform in voices():
        levels = emphasis(waveform).astype(int)
        assert 1 <= len(tops(levels)) <= len(waveform) / SAMPLE_RATE_HZ
        assert np.abs(np.diff(levels)).max() <= 2
        assert levels[0] == levels[-1] == 0
        assert levels.max() < EMPHASIS_LEVELS


def test_wherever_a_voice_is_cut_its_ends_are_idle_and_no_step_is_abrupt() -> None:
    waveform = voices()[2]
    for start in range(0, len(waveform) - 16 * SAMPLES_PER_VIDEO_FRAME, 7 * SAMPLES_PER_VIDEO_FRAME + 13):
        levels = emphasis(waveform[start : start + 20 * SAMPLES_PER_VIDEO_FRAME]).astype(int)
        assert levels[0] == levels[-1] == 0
        assert np.abs(np.diff(levels)).max() <= 2


def test_silence_is_idle() -> None:
    waveform = syllables([0, 0, 0, 0, 6, 0, 0, 6])  # the last is stressed, and silence follows
    levels = emphasis(waveform)
    frames = waveform[: len(levels) * SAMPLES_PER_VIDEO_FRAME].reshape(len(levels), -1)
    silent = np.abs(frames).max(1) < 1e-6
    inner_gap = GAP_SECONDS * 25 + 2  # between syllables the bump goes on
    starts = np.flatnonzero(np.diff(np.concatenate([[0], silent, [0]]))).reshape(-1, 2)
    for start, end in starts:
        if end - start > inner_gap:
            assert not levels[start + 2 : end - 2].any()


def test_loudness_as_a_whole_does_not_matter() -> None:
    for waveform in voices():
        np.testing.assert_array_equal(emphasis(waveform), emphasis(waveform * np.float32(0.25)))
