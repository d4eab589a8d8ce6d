"""The bundled codec: lengths, inverse pairs, stacking, and loading that names what does not fit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avatarlab import SAMPLES_PER_VIDEO_FRAME
from avatarlab.errors import WeightsError
from avatarlab.speech.codec import HOP, Codec, CodecConfig, log_mel, overlap_add

TINY = CodecConfig(width=16, latent=4, levels=2, codes=8, encoder_blocks=1, decoder_blocks=1, expansion=2)


@pytest.fixture(scope="module")
def codec() -> Codec:
    torch.manual_seed(0)
    return Codec(TINY).eval()


@settings(max_examples=20, deadline=None)
@given(samples=st.integers(min_value=1, max_value=5000))
def test_every_waveform_becomes_whole_video_frames_and_comes_back_as_long(codec: Codec, samples: int) -> None:
    frames = -(-samples // SAMPLES_PER_VIDEO_FRAME)
    codes = codec.encode(torch.zeros(2, samples))
    assert codes.shape == (2, 4, frames)
    assert codec.decode(codes).shape == (2, frames * SAMPLES_PER_VIDEO_FRAME)


def test_the_rows_of_a_step_are_level_0_of_both_its_frames_then_level_1(codec: Codec) -> None:
    codes = torch.tensor([[[0, 2], [1, 3], [4, 6], [5, 7]]])  # level 0 in time: 0 1 2 3; level 1: 4 5 6 7
    vectors = codec.codebook[0, [0, 1, 2, 3]] + codec.codebook[1, [4, 5, 6, 7]]
    assert torch.equal(codec.decode(codes), codec.decoder(vectors[None]).clamp(-1, 1))


def test_overlap_add_of_windowed_frames_returns_the_waveform() -> None:
    waveform = torch.randn(1, 40 * HOP)
    window = 4 * HOP
    padding = (window - HOP) // 2
    frames = torch.nn.functional.pad(waveform, (padding, padding)).unfold(1, window, HOP) * torch.hann_window(window)
    assert torch.allclose(overlap_add(frames, HOP), waveform, atol=1e-5)


def test_a_tone_is_loudest_in_the_band_that_holds_it() -> None:
    seconds = torch.arange(16_000) / 16_000
    low, high = (log_mel(torch.sin(2 * torch.pi * hertz * seconds)[None])[0, :, 25].argmax() for hertz in (300, 3000))
    assert low < high
    assert log_mel(torch.zeros(1, 3 * HOP + 1)).shape == (1, 80, 3)


def test_training_may_follow_inference_in_one_process() -> None:
    bands = 13  # of no other test
    with torch.inference_mode():
        log_mel(torch.zeros(1, 2000), bands=bands)
    waveform = torch.randn(1, 2000, requires_grad=True)
    log_mel(waveform, bands=bands).sum().backward()
    assert waveform.grad is not None


def test_every_level_codes_what_the_levels_before_it_left_over(codec: Codec) -> None:
    codec.codebook.data[0] *= 10.0
    first, second = torch.arange(8), torch.arange(8).flip(0)
    latents = codec.codebook[0, first] + codec.codebook[1, second]
    assert codec.quantise(latents[None] + 1e-4).tolist() == [[first.tolist(), second.tolist()]]


def test_a_codec_is_rebuilt_from_its_tensors(codec: Codec) -> None:
    again = Codec.from_state_dict(codec.state_dict())
    assert again.config == TINY
    waveform = torch.randn(1, 2000)
    assert torch.equal(again.decode(again.encode(waveform)), codec.decode(codec.encode(waveform)))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t.pop("decoder.norm.weight"), "decoder.norm.weight"),
        (lambda t: t.update({"extra": torch.zeros(1)}), "extra"),
        (lambda t: t.update({"encoder.project.bias": torch.zeros(5)}), "encoder.project.bias"),
        (lambda t: t.pop("codebook"), "codebook"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(codec: Codec, change: object, named: str) -> None:
    tensors = dict(codec.state_dict())
    change(tensors)  # type: ignore[operator]
    with pytest.raises(WeightsError, match=named):
        Codec.from_state_dict(tensors)
