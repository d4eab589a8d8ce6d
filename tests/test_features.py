"""The log-mel features of the bundled motion network."""

import numpy as np
import pytest
import torch

from avatarlab.lips.features import BANDS, BLOCK_FRAMES, DEEPEST, HIGHEST_HZ, LOWEST_HZ, LogMel, log_mel, mel_bank


def voice(seconds: float = 1.0, pitch_hz: float = 120.0) -> torch.Tensor:
    time = torch.arange(int(seconds * 16_000)) / 16_000
    harmonics = sum(torch.sin(2 * torch.pi * pitch_hz * k * time) / k for k in range(1, 20))
    return 0.1 * harmonics * (0.6 + 0.4 * torch.sin(2 * torch.pi * 3 * time))  # type: ignore[operator]


@pytest.mark.parametrize("frames", [1, 2, 25, 251])
def test_there_are_exactly_two_feature_frames_for_each_video_frame(frames: int) -> None:
    assert log_mel(torch.zeros(640 * frames)).shape == (1, 2 * frames, BANDS)


def test_loudness_of_the_recording_does_not_matter() -> None:
    assert (log_mel(voice()) - log_mel(voice() * 0.2)).abs().max() < 0.1


def test_silence_stays_at_the_bottom_instead_of_being_raised_to_speech() -> None:
    generator = torch.Generator().manual_seed(0)
    hiss = 1e-5 * torch.randn(16_000, generator=generator)
    assert log_mel(torch.zeros(6400)).max() < -2
    assert log_mel(hiss).max() < -1
    assert log_mel(voice()).max() > 0
    assert log_mel(hiss).min() >= DEEPEST


def test_a_click_is_heard_in_the_frame_it_is_in() -> None:
    waveform = torch.zeros(640 * 10)
    waveform[320 * 7 + 160] = 1.0
    assert int(log_mel(waveform)[0].mean(1).argmax()) == 7


def test_a_tone_lights_the_band_at_its_pitch() -> None:
    time = torch.arange(16_000) / 16_000
    mel = np.linspace(*(2595 * np.log10(1 + np.array([LOWEST_HZ, HIGHEST_HZ]) / 700)), BANDS + 2)[1:-1]
    centres = 700 * (10 ** (mel / 2595) - 1)
    for hz in (500.0, 2000.0, 6000.0):
        found = int(log_mel(0.3 * torch.sin(2 * torch.pi * hz * time))[0, 20].argmax())
        assert abs(centres[found] - hz) / hz < 0.06


def test_every_band_hears_something() -> None:
    assert (mel_bank().sum(1) > 0).all()


@pytest.mark.parametrize("samples", [1, 320, 640 * 3, 640 * 250, 640 * 250 + 7])
def test_a_short_recording_in_one_piece_is_the_whole_to_the_bit(samples: int) -> None:
    waveform = voice(11)[:samples]
    pieces = LogMel(waveform.numpy())
    assert pieces.frames == -(-samples // 320)
    assert torch.equal(pieces.between(0, pieces.frames), log_mel(waveform))


def test_pieces_of_a_long_recording_are_pieces_of_the_whole() -> None:
    loud = voice(70)
    loud[: 16_000 * 65] *= 0.1  # the level is that of the whole, not of a piece
    whole, pieces = log_mel(loud), LogMel(loud.numpy())
    assert pieces.frames > BLOCK_FRAMES
    for first, last in ((0, 500), (1, 2), (2999, 3100), (pieces.frames - 500, pieces.frames)):
        assert torch.allclose(pieces.between(first, last), whole[:, first:last], atol=1e-5)
