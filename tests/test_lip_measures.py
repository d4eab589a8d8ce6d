"""The measures of lips, tested by faults: a wrong ruler must not be able to flatter the networks."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from avatarlab.errors import InputError
from avatarlab.lips.diffdub import Motion, MotionConfig, Renderer, RendererConfig
from avatarlab.lips.paint import PaintSettings
from avatarlab.training.articulation import articulate
from avatarlab.training.corpus import Phone, Recording, write_wav
from avatarlab.training.evaluate_lips import (
    Lips,
    Painted,
    Sitter,
    clip_masks,
    evaluate_lips,
    pause_frames,
    picture_error,
    unseen_presenters,
    unseen_windows,
)
from avatarlab.training.lip_reading import Ear, shifted, sync
from avatarlab.training.presenters import BUNDLED, mouth_opening
from benchmarks.lip_speed import dub_peak, measure_lip_speed, voice_over
from benchmarks.lips import (
    bench_ear,
    flicker,
    held_out_voice,
    leak,
    measure_outside,
    pasted,
    paused,
    silences,
    tell_apart,
    vowel,
    wrongly_fitting,
)
from benchmarks.sheet import CLOSE_UP_PX, LABEL_PX, chosen_frames, contact_sheet

needs_flite = pytest.mark.skipif(shutil.which("flite") is None, reason="the flite synthesiser is not installed")
VOWELS = ("aa", "iy", "uw")


@pytest.fixture(scope="module")
def lips() -> Lips:
    torch.manual_seed(0)
    renderer = RendererConfig(
        base=32, widths=(32, 32), encoder_widths=(32, 32), blocks=1, attention_levels=(), encoder_attention_levels=(),
        time=32, style=16, patch=8, window=(96, 32),
    )  # fmt: skip
    motion = MotionConfig(
        width=16, style=16, layers=1, features=80, reference_blocks=1, speech_blocks=1, decoder_blocks=1, heads=2,
        inner=16, kernel=3, residual=True,
    )  # fmt: skip
    return Lips(Renderer(renderer).eval(), Motion(motion).eval(), PaintSettings(batch_size=4))


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recording, Path]:
    folder = tmp_path_factory.mktemp("speech")
    phones = (Phone("pau", 0.0, 0.1), Phone("m", 0.1, 0.25), Phone("aa", 0.25, 0.5), Phone("pau", 0.5, 1.0))
    sound = np.concatenate([np.zeros(1600), 3000 * vowel("aa", 0.4), np.zeros(8000)]).astype(np.int16)
    write_wav(folder / "one.wav", sound)
    return Recording("one", "slt", "ma", "one.wav", phones), folder


def babble(seed: int, syllables: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Loud vowels of random length between quiet closures, and a mouth that opens for the vowels."""
    rng = np.random.default_rng(seed)
    sounds, mouths = [], []
    for number in range(syllables):
        shut, opened = int(rng.integers(1, 5)), int(rng.integers(2, 6))
        voiced = vowel(VOWELS[number % 3], opened / 25)
        sounds += [0.01 * rng.normal(size=640 * shut), voiced * rng.uniform(0.7, 1.3)]
        mouths += [np.zeros(shut), np.full(opened, 0.3)]
    return np.concatenate(sounds).astype(np.float32), np.concatenate(mouths)


@pytest.fixture(scope="module")
def ear() -> Ear:
    sounds, mouths = zip(*(babble(100 + seed) for seed in range(6)), strict=True)
    return Ear.fitted(sounds, mouths)


# Telling apart


def test_the_right_sound_fits_a_mouth_and_every_fault_is_told(ear: Ear) -> None:
    sounds, mouths = zip(*(babble(seed) for seed in range(20)), strict=True)
    told = tell_apart(ear, mouths, sounds)
    assert (told.utterances, told.late, told.early, told.other) == (20, 20, 20, 20)
    assert told.correlation > 0.8


@pytest.mark.parametrize("lag", [-4, 0, 4])
def test_sync_tells_by_how_many_frames_the_lips_are_late(ear: Ear, lag: int) -> None:
    sound, mouth = babble(1)
    found = sync(ear, mouth, shifted(sound, -lag))
    assert found.lag_frames == lag
    assert found.fits == (lag == 0)


def test_a_mouth_that_rests_and_one_that_moves_at_random_fit_no_sound(ear: Ear) -> None:
    rng = np.random.default_rng(0)
    for seed in range(10):
        sound, mouth = babble(seed)
        assert not sync(ear, np.zeros(len(mouth)), sound).fits
        assert not sync(ear, rng.random(len(mouth)), sound).fits


def test_an_ear_needs_sounds_and_their_mouths() -> None:
    with pytest.raises(InputError, match="0 sounds"):
        Ear.fitted([], [])


def test_shifting_a_sound_keeps_its_length_and_comes_back() -> None:
    sound = np.arange(640 * 12, dtype=np.float32)
    assert len(shifted(sound, 4)) == len(shifted(sound, -4)) == len(sound)
    np.testing.assert_array_equal(shifted(shifted(sound, -4), 4)[2560:], sound[2560:])


@pytest.mark.slow
@needs_flite
def test_the_bench_ear_makes_no_mistake_on_true_mouths_in_voices_it_never_heard(tmp_path: Path) -> None:
    from avatarlab.training.evaluate_lips import Utterance
    from avatarlab.training.face_corpus import mouth_tracks
    from avatarlab.training.hearings import load_spoken
    from benchmarks.lips import recorded
    from benchmarks.speech import LECTURE, lines_of

    said = []
    for number, text in enumerate(lines_of(LECTURE)[:20]):
        one = recorded(tmp_path, str(number), text, held_out_voice(number))
        truth = np.array([mouth_opening(BUNDLED["ben"], state) for state in mouth_tracks(one, tmp_path)])
        said.append(Utterance(one, "ben", load_spoken(one, tmp_path).waveform, truth, truth))
    told = tell_apart(bench_ear(), [one.truth for one in said], [one.waveform for one in said])
    assert told.fewest == 20
    assert wrongly_fitting(bench_ear(), said) == (0, 0)


# Following


def test_utterances_are_scored_by_voice_and_presenter(lips: Lips, record: tuple[Recording, Path]) -> None:
    (score,) = evaluate_lips(lips, [record[0]], record[1], {"ada": BUNDLED["ada"]})
    assert (score.recording, score.presenter, score.voice) == ("one", "ada", "slt")
    assert abs(score.correlation) <= 1


def test_equal_latents_are_drawn_once_and_look_as_if_drawn_each(lips: Lips) -> None:
    sitter = Sitter.of(lips, BUNDLED["ada"], 256)
    latents = np.stack([sitter.references[0], sitter.references[0] + 1, sitter.references[0]])
    painted = sitter.paint(lips, latents)
    alone = sitter.paint(lips, latents[1:2])
    assert painted.windows.shape[0] == 3
    assert np.array_equal(painted.windows[0], painted.windows[2])
    assert np.array_equal(painted.windows[1], alone.windows[0])


def test_every_presenter_meets_every_voice() -> None:
    assert len({(number % 3, held_out_voice(number)) for number in range(18)}) == 18


def test_unseen_presenters_are_always_the_same_and_no_two_alike() -> None:
    people = unseen_presenters(20)
    assert people == unseen_presenters(20)
    assert len(set(people.values())) == 20


# Silence


def test_a_pause_counts_in_its_middle_only_and_a_short_one_not_at_all() -> None:
    phones = (Phone("pau", 0.0, 0.28), Phone("aa", 0.28, 1.0), Phone("pau", 1.0, 2.0), Phone("aa", 2.0, 2.4))
    middle = pause_frames(Recording("a", "slt", "a", "", phones), 60)
    assert np.flatnonzero(middle).tolist() == list(range(29, 46))


def test_a_leak_is_the_share_of_frames_over_the_published_ratio() -> None:
    found = leak(np.array([0.0, 0.05, 0.2, 0.25, 0.26, 0.6, 0.0, 0.0]))
    assert (found.frames, found.wide, found.a_little) == (8, 0.25, 0.5)


def test_sounds_nobody_speaks_in_have_the_levels_they_are_named_after() -> None:
    for name, sound in silences(0).items():
        assert len(sound) == 640 * 25
        if "dBFS" in name:
            level = float(name.split()[-2])
            assert 20 * np.log10(sound.std()) == pytest.approx(level, abs=0.2)
    assert not silences(0)["digital silence"].any()


@needs_flite
def test_two_sentences_have_a_long_pause_between_whose_middle_is_quiet(tmp_path: Path) -> None:
    record, waveform = paused(tmp_path, 0)
    middle = pause_frames(record, len(waveform) // 640)
    assert 12 <= middle.sum() <= 25
    assert np.abs(waveform.reshape(-1, 640)[middle]).max() < 0.01
    assert all(left.end <= right.start + 1e-6 for left, right in zip(record.phones, record.phones[1:], strict=False))


# Pixels and flicker


@needs_flite
def test_pixels_outside_the_mask_are_those_of_the_clip_in_frames_and_video(tmp_path: Path) -> None:
    found = measure_outside(str(tiny.tiny_models(tmp_path).path), "ada", first=8)
    assert found.frames == 8
    assert found.pixels > 0
    assert (found.changed, found.changed_composed) == (0, 0)
    assert found.changed_inside > 0.1


def test_the_mask_of_a_clip_holds_the_mouth_and_not_the_eyes(lips: Lips) -> None:
    sitter = Sitter.of(lips, BUNDLED["ben"], 256)
    (mask,) = clip_masks(lips, sitter.landmarks[None], 256, 256)
    inside = [mask[round(float(y)), round(float(x))] for x, y in sitter.landmarks]
    assert all(inside[48:])
    assert not any(inside[36:48])


def test_flicker_is_the_change_from_frame_to_frame_inside_the_mask() -> None:
    windows = np.zeros((3, 10, 10, 3), np.uint8)
    windows[1, :5] = 8
    mask = np.zeros((20, 20), bool)
    mask[4:14, 4:14] = True
    mean, liveliest = flicker(Painted(windows, np.full((3, 2), 4)), mask)
    assert mean == pytest.approx(4.0)
    assert liveliest == pytest.approx(8.0)
    assert flicker(Painted(windows[:1].repeat(3, axis=0), np.full((3, 2), 4)), mask) == (0.0, 0.0)


def test_a_window_is_pasted_where_its_corner_says() -> None:
    painted = Painted(np.full((1, 2, 2, 3), 9, np.uint8), np.array([[3, 1]]))
    (whole,) = pasted(painted, np.zeros((1, 6, 6, 3), np.uint8))
    assert np.argwhere(whole[..., 0]).tolist() == [[1, 3], [1, 4], [2, 3], [2, 4]]


def test_a_held_vowel_is_steady() -> None:
    sound = vowel("aa").reshape(-1, 640)
    level = np.sqrt(np.square(sound).mean(axis=1))
    assert np.ptp(level) < 0.25 * level.mean()


# Steps, speed, memory, and what people look at


def test_the_error_of_a_drawing_is_taken_where_the_mouth_changed_the_picture(lips: Lips) -> None:
    faces = unseen_windows(lips.renderer, [articulate([Phone("aa", 0.0, 0.5)], 12)], people=2, mouths=2)
    assert faces.windows.shape == (4, 112, 112, 3)
    assert faces.owner.tolist() == [0, 0, 1, 1]
    drawn, left = picture_error(lips.renderer, faces, 1)
    assert 5 < left < 100
    assert drawn > 0


@pytest.mark.slow
def test_two_processes_draw_and_tell_how_fast(tmp_path: Path) -> None:
    speed = measure_lip_speed(str(tiny.tiny_models(tmp_path).path), frames=8)
    assert (speed.workers, speed.window_px, speed.picture_px) == (2, 32, 512)
    assert 0 < speed.stored < speed.drawn
    assert speed.stored < speed.network


@pytest.mark.slow
@needs_flite
def test_a_voice_over_of_any_length_is_dubbed_and_its_peak_told(tmp_path: Path) -> None:
    models = str(tiny.tiny_models(tmp_path).path)
    peak, seconds = dub_peak(voice_over(tmp_path / "short.wav", 0.05, ["Good morning."]), "ada", models)
    assert peak > 100
    assert seconds > 0


def test_a_contact_sheet_shows_drawing_and_truth_of_chosen_sounds(lips: Lips, record: tuple[Recording, Path]) -> None:
    assert [name for _, name in chosen_frames(record[0])] == ["pau", "m", "aa", "pau"]
    sheet = contact_sheet(lips, record[0], record[1], [BUNDLED["ada"]])
    assert sheet.shape == (LABEL_PX + 2 * CLOSE_UP_PX, 4 * CLOSE_UP_PX, 3)
