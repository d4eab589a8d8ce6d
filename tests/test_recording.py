"""Recordings are read piece by piece and cut where they are quiet."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from avatarlab.errors import MediaError
from avatarlab.media import write_wav
from avatarlab.recording import Recording, quiet_pieces


def test_any_stretch_of_a_recording_can_be_read_and_silence_lies_around_it(tmp_path: Path) -> None:
    sound = np.random.default_rng(0).uniform(-0.9, 0.9, 640 * 70 + 100).astype(np.float32)
    write_wav(tmp_path / "voice.wav", sound)
    recording = Recording.decoded(tmp_path / "voice.wav", tmp_path / "decoded.wav")
    assert recording.frame_count == 71
    assert np.allclose(recording.waveform(3, 5), sound[3 * 640 : 5 * 640], atol=1e-4)
    around = recording.waveform(-2, 73)
    assert len(around) == 75 * 640
    assert not around[: 2 * 640].any()
    assert not around[2 * 640 + len(sound) :].any()
    assert np.allclose(around[2 * 640 : 2 * 640 + len(sound)], sound, atol=1e-4)
    assert not recording.waveform(80, 82).any()


def test_energy_is_told_for_every_video_frame(tmp_path: Path) -> None:
    sound = np.repeat(np.array([0.0, 0.5, 0.25], np.float32), 640)
    write_wav(tmp_path / "voice.wav", sound)
    assert Recording(tmp_path / "voice.wav").energy() == pytest.approx([0, 0.25, 0.0625], abs=1e-3)


def test_a_recording_without_sound_is_refused(tmp_path: Path) -> None:
    write_wav(tmp_path / "empty.wav", np.zeros(0, np.float32))
    with pytest.raises(MediaError, match="holds no sound"):
        Recording.decoded(tmp_path / "empty.wav", tmp_path / "decoded.wav")


def test_a_long_recording_is_cut_where_it_is_quiet() -> None:
    energy = np.full(25 * 25, 0.25)
    energy[25 * 7 : 25 * 7 + 5] = 0
    pieces = quiet_pieces(energy)
    assert (pieces[0][0], pieces[-1][1]) == (0, len(energy))
    assert all(end == start for (_, end), (start, _) in pairwise(pieces))
    assert all(0 < end - start <= 250 for start, end in pieces)
    assert 25 * 7 <= pieces[0][1] <= 25 * 7 + 5
    assert quiet_pieces(energy[:1]) == [(0, 1)]
