"""Speech to lip latents: the networks' behaviour and the path for utterances of any length."""

import copy
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hearing import hubert_tensors

from avatarlab.errors import InputError, SettingsError
from avatarlab.lips.conformer import RelativeAttention, relative_positions
from avatarlab.lips.diffdub import PUBLISHED_MOTION, Motion, MotionConfig
from avatarlab.lips.features import BANDS, log_mel
from avatarlab.lips.hubert import Hubert
from avatarlab.lips.lip_sync import lip_latents, resting, silence_weights, windowed

SMALL = MotionConfig(32, 16, 1, BANDS, 1, 1, 1, 2, 32, 5, residual=True)
PUBLISHED = MotionConfig(32, 32, 3, 128, 1, 1, 1, 2, 32, 5)  # as published, for a HuBERT of two layers


@pytest.fixture(scope="module")
def motion() -> Motion:
    torch.manual_seed(0)
    return Motion(SMALL).eval()


@pytest.fixture(scope="module")
def published() -> Motion:
    torch.manual_seed(0)
    return Motion(PUBLISHED).eval()


@pytest.fixture(scope="module")
def hubert() -> Hubert:
    return Hubert.from_state_dict(hubert_tensors())


def speech(frames: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (0.1 * rng.normal(size=640 * frames) * (1.2 + np.sin(np.arange(640 * frames) / 2000))).astype(np.float32)


@pytest.mark.parametrize(("t50", "frames"), [(499, 250), (500, 250), (501, 251), (1, 1)])
def test_two_feature_frames_make_one_video_frame(motion: Motion, t50: int, frames: int) -> None:
    with torch.inference_mode():
        assert motion(torch.zeros(2, 1, t50, BANDS), torch.zeros(2, 3, 16)).shape == (2, frames, 16)


def test_layer_weights_start_as_the_mean_and_can_select_one_layer() -> None:
    torch.manual_seed(0)
    layered = Motion(replace(SMALL, layers=3, residual=False, style=32)).eval()
    audio, references = torch.randn(1, 3, 20, BANDS), torch.randn(1, 4, 32)
    with torch.inference_mode():
        mean = layered(audio.mean(1, keepdim=True).expand(-1, 3, -1, -1), references)
        assert torch.allclose(layered(audio, references), mean, atol=1e-5)
        layered.weights[1] = 60.0
        chosen = layered(audio[:, 1:2].expand(-1, 3, -1, -1), references)
        assert torch.allclose(layered(audio, references), chosen, atol=1e-5)


def test_relative_attention_scores_the_signed_offset_between_frames() -> None:
    torch.manual_seed(0)
    attention = RelativeAttention(8, 2, 0.0).eval()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x, length = torch.randn(1, 5, 8), 5
    with torch.inference_mode():
        q = attention.linear_q(x).view(5, 2, 4)
        k = attention.linear_k(x).view(5, 2, 4)
        v = attention.linear_v(x).view(5, 2, 4)
        scores = torch.zeros(2, 5, 5)
        for i in range(length):
            for j in range(length):
                angles = torch.tensor([(i - j) * math.exp(-2 * m * math.log(10_000) / 8) for m in range(4)])
                p = attention.linear_pos(torch.stack([angles.sin(), angles.cos()], 1).flatten()).view(2, 4)
                for h in range(2):
                    content = (q[i, h] + attention.pos_bias_u[h]) @ k[j, h]
                    scores[h, i, j] = (content + (q[i, h] + attention.pos_bias_v[h]) @ p[h]) / 2
        mixed = torch.einsum("hij,jhc->ihc", scores.softmax(-1), v).reshape(1, 5, 8)
        expected = attention.linear_out(mixed)
        assert torch.allclose(attention(x, relative_positions(5, 8)), expected, atol=1e-5)


def test_published_motion_hears_audio_through_queries_only_and_ours_also_directly() -> None:
    torch.manual_seed(0)
    audio, references = torch.randn(2, 1, 40, BANDS), torch.randn(1, 1, 16).expand(2, 6, 16)
    with torch.inference_mode():
        ours = Motion(SMALL).eval()(audio, references)
        published = Motion(replace(SMALL, residual=False, style=32, kernel=1)).eval()(
            audio, torch.randn(1, 1, 32).expand(2, 6, 32)
        )
    # With one repeated reference there is only one value to attend to, so published lips cannot follow the audio.
    assert (published[0] - published[1]).abs().max() < 1e-4
    assert (ours[0] - ours[1]).abs().max() > 0.05


def test_the_published_configuration_has_no_residual_path() -> None:
    assert not PUBLISHED_MOTION.residual


@pytest.mark.parametrize("frames", [1, 30, 260, 700])
def test_there_is_one_latent_for_each_video_frame_however_long_the_audio(motion: Motion, frames: int) -> None:
    latents = lip_latents(motion, speech(frames), np.zeros((2, 16), np.float32))
    assert latents.shape == (frames, 16)
    assert latents.dtype == np.float32
    assert np.isfinite(latents).all()


def test_audio_that_is_no_whole_number_of_frames_is_refused(motion: Motion) -> None:
    with pytest.raises(InputError, match="1000 samples"):
        lip_latents(motion, np.zeros(1000, np.float32), np.zeros((2, 16), np.float32))


def test_a_network_for_other_features_is_refused() -> None:
    torch.manual_seed(0)
    other = Motion(replace(SMALL, layers=2)).eval()
    with pytest.raises(SettingsError, match="log-mel"):
        lip_latents(other, speech(4), np.zeros((2, 16), np.float32))


def test_published_lips_hear_hubert_and_remember_75_references(published: Motion, hubert: Hubert) -> None:
    references = np.random.default_rng(1).normal(size=(4, 32)).astype(np.float32)
    sound = speech(30)
    latents = lip_latents(published, sound, references, hubert=hubert)
    assert latents.shape == (30, 32) and latents.dtype == np.float32
    with torch.inference_mode():
        heard = hubert.features(sound).between(0, 60)[None]
        cycled = torch.from_numpy(np.concatenate([references] * 19)[:75])
        assert np.allclose(latents, published(heard, cycled[None])[0].numpy(), atol=1e-5)
    many = np.random.default_rng(2).normal(size=(90, 32)).astype(np.float32)
    assert np.array_equal(
        lip_latents(published, sound, many, many[0], hubert),
        lip_latents(published, sound, many[:75], many[0], hubert),
    )
    assert not np.allclose(latents, lip_latents(published, -sound[::-1], references, hubert=hubert), atol=1e-4)


def test_published_lips_without_hubert_or_with_another_are_refused(published: Motion, hubert: Hubert) -> None:
    references = np.zeros((2, 32), np.float32)
    with pytest.raises(SettingsError, match="3 x 128 features, not to log-mel"):
        lip_latents(published, speech(4), references)
    deeper = Motion(replace(PUBLISHED, layers=25)).eval()
    with pytest.raises(SettingsError, match="25 x 128 features, HuBERT gives 3 x 128"):
        lip_latents(deeper, speech(4), references, hubert=hubert)


def test_bundled_lips_do_not_listen_to_hubert(motion: Motion, hubert: Hubert) -> None:
    references = np.zeros((2, 16), np.float32)
    plain = lip_latents(motion, speech(12), references)
    assert np.array_equal(plain, lip_latents(motion, speech(12), references, hubert=hubert))
    with torch.inference_mode():
        whole = motion(log_mel(torch.from_numpy(speech(12)))[None], torch.from_numpy(references)[None])[0].numpy()
    assert np.array_equal(plain, whole)  # no window, no silence: what it was before windows


@pytest.mark.parametrize("kind", ["bundled", "published"])
def test_no_seam_shows(motion: Motion, published: Motion, hubert: Hubert, kind: str) -> None:
    """In networks whose every frame depends on the whole window, so that two windows disagree; of a smooth sound."""
    network = copy.deepcopy(motion if kind == "bundled" else published)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "linear_v." in name or "linear_out." in name:
                parameter *= 4
    rng, time = np.random.default_rng(0), np.arange(640 * 875) / 16_000  # 35 s
    tones = np.zeros(len(time))
    for hertz in rng.uniform(100, 4000, 12):
        loudness = np.interp(time, np.arange(0, 36, 1.5), rng.uniform(0, 1, 24))
        tones += 0.03 * loudness * np.sin(2 * np.pi * hertz * time)
    sound = tones.astype(np.float32)
    references = rng.normal(size=(75, network.config.style)).astype(np.float32)

    def speed(latents: np.ndarray) -> np.ndarray:
        return np.linalg.norm(np.diff(latents, axis=0), axis=1)[12:-12]  # the ends of the sound are no seams

    with torch.inference_mode():
        heard = log_mel(torch.from_numpy(sound)) if kind == "bundled" else hubert.features(sound).between(0, 1750)
        memory = torch.from_numpy(references)[None]
        starts = (0, 225, 450, 625)
        windows = [network(heard[None, :, 2 * s : 2 * s + 500], memory)[0].numpy() for s in starts]
    joints = (0, 237, 462, 637, 875)
    cut = speed(
        np.concatenate([w[a - s : b - s] for w, s, (a, b) in zip(windows, starts, pairwise(joints), strict=True)])
    )
    faded = speed(lip_latents(network, sound, references, hubert=hubert))
    seams = np.zeros(len(faded), dtype=bool)
    for start in starts[1:]:  # each window begins inside the one before
        seams[start - 13 : start + 14] = True
    assert faded[seams].mean() < 1.5 * faded[~seams].mean()
    assert faded[seams].max() < 1.5 * faded[~seams].max()
    assert min(cut[joint - 13] for joint in joints[1:-1]) > 1.5 * cut[~seams].mean()  # windows put end to end do show


@pytest.mark.parametrize("kind", ["bundled", "published"])
def test_the_middle_of_a_window_is_as_if_the_whole_were_heard(
    motion: Motion, published: Motion, hubert: Hubert, kind: str
) -> None:
    network = motion if kind == "bundled" else published
    references = np.random.default_rng(1).normal(size=(75, network.config.style)).astype(np.float32)
    sound = speech(875)
    latents = lip_latents(network, sound, references, hubert=hubert)
    with torch.inference_mode():
        heard = log_mel(torch.from_numpy(sound)) if kind == "bundled" else hubert.features(sound).between(0, 1750)
        whole = network(heard[None], torch.from_numpy(references)[None])[0].numpy()
    for first in (0, 225, 450):
        rows = slice(first + 75, first + 175)
        assert np.abs(latents[rows] - whole[rows]).mean() < 0.1 * whole.std(axis=0).mean()


def test_a_memory_map_is_read_in_pieces_and_gives_the_same(motion: Motion, tmp_path: Path) -> None:
    np.save(tmp_path / "sound.npy", speech(700))
    mapped = np.load(tmp_path / "sound.npy", mmap_mode="r")
    references, lengths = np.zeros((2, 16), np.float32), []
    handle = motion.register_forward_pre_hook(lambda _, given: lengths.append(given[0].shape[2]))
    latents = lip_latents(motion, mapped, references)
    handle.remove()
    assert set(lengths) == {500}
    assert np.array_equal(latents, lip_latents(motion, speech(700), references))


def test_windows_are_cross_faded_without_a_jump(motion: Motion) -> None:
    torch.manual_seed(0)
    audio = torch.randn(1, 1200, BANDS)
    references = torch.randn(2, 16)
    with torch.inference_mode():
        whole = windowed(motion, audio, references)
        first = motion(audio[None, :, :500], references[None])[0]
        last = motion(audio[None, :, -500:], references[None])[0]
    assert torch.allclose(whole[:224], first[:224], atol=1e-5)
    assert torch.allclose(whole[-100:], last[-100:], atol=1e-5)


def test_the_mouth_is_exactly_closed_in_long_silence_and_untouched_in_speech(motion: Motion) -> None:
    sound = speech(60)
    sound[640 * 20 : 640 * 40] = 0
    references = np.random.default_rng(1).normal(size=(3, 16)).astype(np.float32)
    closed = references[0] + 1
    latents = lip_latents(motion, sound, references, closed)
    weights = silence_weights(sound)
    assert np.allclose(latents[24:36], closed)
    assert (weights[:20] == 0).all()
    assert (weights[40:] == 0).all()
    steps = np.abs(np.diff(weights))
    assert 0 < steps.max() < 0.45  # soft: about 120 ms from open to closed


def test_whole_silence_is_a_closed_mouth_and_a_stop_consonant_is_not(motion: Motion) -> None:
    references = np.ones((2, 16), np.float32)
    assert np.allclose(lip_latents(motion, np.zeros(640 * 30, np.float32), references), 1)
    sound = speech(40)
    sound[640 * 20 : 640 * 23] = 0
    assert (silence_weights(sound) == 0).all()


def test_the_resting_mouth_is_one_of_the_references() -> None:
    references = np.array([[0.0, 0.0], [0.1, 0.0], [9.0, 9.0]], np.float32)
    assert any(np.array_equal(resting(references), row) for row in references[:2])


@pytest.mark.parametrize("decibels", [-50, -30])
def test_the_mouth_stays_shut_in_steady_noise_however_loud_it_is_raised(decibels: int) -> None:
    rng = np.random.default_rng(0)
    hiss = rng.normal(size=640 * 50)
    spectrum = np.fft.rfft(hiss) / np.sqrt(1 + np.square(np.fft.rfftfreq(len(hiss), 1 / 16_000) / 200))
    room = np.fft.irfft(spectrum, len(hiss))
    for noise in (hiss, room):
        level = 10 ** (decibels / 20) / noise.std()
        assert (silence_weights((noise * level).astype(np.float32)) == 1).all()


def test_a_held_vowel_and_speech_in_noise_are_no_steady_noise() -> None:
    time = np.arange(640 * 50) / 16_000
    vowel = sum(np.sin(2 * np.pi * 120 * k * time) / k for k in range(1, 20))
    noise = np.random.default_rng(0).normal(size=len(time))
    syllables = vowel * (0.5 + 0.5 * np.sign(np.sin(2 * np.pi * 3 * time)))
    for sound in (vowel, vowel + 0.3 * noise, syllables + 0.5 * noise):
        assert (silence_weights((0.1 * sound).astype(np.float32)) == 0).any()
