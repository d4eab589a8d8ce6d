"""The specification of the drawn presenters, of the face corpus made from them, and of the bundled avatars."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from avatarlab.avatar_checks import check_avatar
from avatarlab.avatars import avatar_frames, load_avatar
from avatarlab.training.bundles import CAST, build_bundled, lecture_room, studio_wall
from avatarlab.training.canvas import Canvas, ellipse, ribbon, spline
from avatarlab.training.corpus import Phone, write_wav
from avatarlab.training.face_corpus import CorpusPlan, draw_window, make_face_corpus, random_mouth, random_pose
from avatarlab.training.hair import HAIRCUTS
from avatarlab.training.mouth_opening import measure_mouth_opening
from avatarlab.training.presenters import (
    BEARDS,
    BUNDLED,
    CLOTHES,
    GLASSES,
    FaceState,
    Presenter,
    draw,
    landmarks,
    mouth_opening,
    sample_presenter,
)

ADA = BUNDLED["ada"]
REST = FaceState()


# The painter


def test_a_filled_shape_covers_its_area() -> None:
    canvas = Canvas(0.0, 0.0, 1.0, 100)
    canvas.fill(ellipse(0.5, 0.5, 0.3, 0.2), (1.0, 1.0, 1.0), solid=True)
    assert canvas.alpha.sum() == pytest.approx(np.pi * 30 * 20, rel=0.03)
    assert canvas.rgb[50, 50].tolist() == [1.0, 1.0, 1.0]
    assert canvas.rgb[5, 5].tolist() == [0.0, 0.0, 0.0]


def test_blur_keeps_the_weight_of_a_shape_even_across_the_border_of_the_canvas() -> None:
    for blur in (0.02, 0.06):
        whole, part = Canvas(0.0, 0.0, 1.0, 200), Canvas(0.5, 0.25, 0.5, 100)
        for canvas in (whole, part):
            canvas.fill(ellipse(0.45, 0.5, 0.1, 0.1), (1.0, 1.0, 1.0), blur=blur)
        np.testing.assert_allclose(part.rgb, whole.rgb[50:150, 100:], atol=0.02)


def test_a_spline_passes_through_its_points_and_a_ribbon_is_as_wide_as_asked() -> None:
    points = [(0.0, 0.0), (1.0, 0.5), (2.0, 0.0), (3.0, 1.0)]
    curve = spline(points, samples=5)
    np.testing.assert_allclose(curve[::5], points, atol=1e-12)
    band = ribbon(np.array([(0.0, 0.0), (1.0, 0.0), (2.0, 0.0)]), 0.5)
    np.testing.assert_allclose(band[:, 1], [0.25] * 3 + [-0.25] * 3)


# Drawings


def test_the_same_presenter_in_the_same_state_is_the_same_picture() -> None:
    first, second = (draw(ADA, FaceState(jaw=0.4), 96) for _ in range(2))
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.alpha, second.alpha)


def test_a_part_drawn_alone_shows_what_the_whole_shows_there() -> None:
    whole = draw(ADA, FaceState(jaw=0.3), 384)
    part = draw(ADA, FaceState(jaw=0.3), 192, roi=(0.25, 0.375, 0.5))
    crop = whole.image[144:336, 96:288].astype(int)
    assert np.abs(part.image.astype(int) - crop).mean() < 1.5
    np.testing.assert_allclose(part.landmarks, whole.landmarks - (96, 144), atol=1e-3)


def test_landmarks_are_in_ibug_order() -> None:
    points = landmarks(ADA, FaceState(jaw=0.5))
    x, y = points[:, 0], points[:, 1]
    assert (np.diff(x[0:17]) > 0).all()
    assert y[0:17].argmax() == 8
    for start, end in ((17, 22), (22, 27), (31, 36), (48, 55), (60, 65)):
        assert (np.diff(x[start:end]) > 0).all()
    assert (np.diff(y[27:31]) > 0).all()
    assert x[36] < x[39] < x[42] < x[45]
    assert y[37] < y[41]
    assert y[51] < y[62] < y[66] < y[57]
    assert x[48] < x[60] < x[64] < x[54]


def test_the_jaw_carries_chin_and_lower_lip_and_nothing_above_the_mouth() -> None:
    shut, opened = landmarks(ADA, REST), landmarks(ADA, FaceState(jaw=1.0))
    moved = np.abs(opened - shut).max(axis=1)
    assert moved[17:48].max() == 0.0
    assert moved[[0, 16]].max() == 0.0
    assert opened[8, 1] - shut[8, 1] > 0.04
    assert opened[57, 1] - shut[57, 1] > 0.04


def test_a_mouth_changes_no_pixel_above_the_nose_base_and_none_far_beside_it() -> None:
    for presenter in (ADA, BUNDLED["carl"]):
        rest, points, _ = draw_window(presenter, REST)
        distance = np.linalg.norm(points[42:48].mean(axis=0) - points[36:42].mean(axis=0))
        for state in (FaceState(jaw=1.0), FaceState(jaw=0.3, round=1.0), FaceState(width=1.0, jaw=0.2)):
            changed = np.abs(draw_window(presenter, state)[0].astype(int) - rest).max(axis=2) > 12
            rows, columns = np.nonzero(changed)
            assert rows.min() > points[33, 1] - 0.02 * distance
            assert np.abs(columns - points[33, 0]).max() < 1.05 * distance


def test_the_head_turns_nose_before_ears_and_tilts_clockwise() -> None:
    straight = landmarks(ADA, REST)
    turned = landmarks(ADA, FaceState(yaw=0.1)) - straight
    assert turned[30, 0] > turned[36, 0] > 0.0
    assert turned[30, 0] > 1.5 * abs(turned[0, 0])
    tilted = landmarks(ADA, FaceState(roll=0.1))
    assert tilted[45, 1] > tilted[36, 1]


def test_pressed_lips_leave_no_opening_and_the_jaw_opens_steadily() -> None:
    assert mouth_opening(ADA, FaceState(jaw=0.6, press=1.0)) == 0.0
    assert mouth_opening(ADA, REST) == 0.0
    steps = [mouth_opening(ADA, FaceState(jaw=jaw)) for jaw in np.linspace(0, 1, 11).tolist()]
    assert (np.diff(steps) > 0).all()
    assert 0.5 < steps[-1] < 0.8


def test_between_open_lips_it_is_dark_with_teeth_above() -> None:
    drawing = draw(ADA, FaceState(jaw=0.9), 384)
    upper, lower = drawing.landmarks[62], drawing.landmarks[66]
    column = drawing.image[round(upper[1]) : round(lower[1]), round(upper[0])].astype(int)
    assert column.min(axis=1).max() > 180  # teeth
    assert column.max(axis=1).min() < 60  # the cavity
    assert column.min(axis=1).argmax() < column.max(axis=1).argmin()


def test_shut_lids_hide_the_iris() -> None:
    box = (0.35, 0.38, 0.3)
    opened, shut = (draw(ADA, FaceState(blink=blink), 120, roi=box).image.min() for blink in (0.0, 1.0))
    assert opened < 25 < shut + 20
    closed = landmarks(ADA, FaceState(blink=1.0))
    assert np.abs(closed[43] - closed[47]).max() < 0.004


def test_the_matte_is_full_on_the_face_and_empty_in_the_corners() -> None:
    alpha = draw(ADA, REST, 128).alpha
    assert alpha[60, 64] == 255
    assert alpha[0, 0] == alpha[0, -1] == 0
    assert alpha[-1, 64] == 255


def test_every_haircut_garment_beard_and_pair_of_glasses_can_be_drawn() -> None:
    variants = (
        [Presenter(hair=value) for value in HAIRCUTS],
        [Presenter(clothes=value) for value in CLOTHES],
        [Presenter(beard=value) for value in BEARDS],
        [Presenter(glasses=value) for value in GLASSES],
    )
    for people in variants:
        assert len({draw(person, REST, 64).image.tobytes() for person in people}) == len(people)


def test_an_unknown_haircut_is_refused_with_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"'mohawk' is not one of short, side"):
        Presenter(hair="mohawk")


def test_random_people_repeat_with_their_generator_and_differ_from_each_other() -> None:
    people = [sample_presenter(np.random.default_rng(seed)) for seed in range(30)]
    assert people == [sample_presenter(np.random.default_rng(seed)) for seed in range(30)]
    assert len(set(people)) == 30
    assert len({p.hair for p in people}) > 5


# Mouth opening from pixels


def _measured(people: int, mouths: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    rows = []
    for index in range(people):
        presenter = list(BUNDLED.values())[index] if index < len(BUNDLED) else sample_presenter(rng)
        pose = random_pose(rng)
        _, at_rest, _ = draw_window(presenter, pose)
        for number in range(mouths):
            mouth = random_mouth(rng) if number else REST
            state = replace(
                pose, jaw=mouth.jaw, width=mouth.width, round=mouth.round, press=mouth.press, tongue=mouth.tongue
            )
            image, points, truth = draw_window(presenter, state)
            size = image.shape[:2]
            soft = cv2.resize(cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), size)
            rows.append(
                (
                    truth,
                    measure_mouth_opening(image, points),
                    measure_mouth_opening(soft, points),
                    measure_mouth_opening(soft, at_rest),
                )
            )
    truth, own, blurred, blurred_at_rest = np.array(rows).T
    return truth, own, blurred, blurred_at_rest


def test_mouth_opening_is_measured_from_pixels_over_people_and_states_sharp_or_blurred() -> None:
    truth, own, blurred, blurred_at_rest = _measured(people=20, mouths=4)
    for measured in (own, blurred, blurred_at_rest):
        assert np.corrcoef(truth, measured)[0, 1] > 0.95
        assert measured[truth == 0.0].max() < 0.08
    assert np.polyfit(truth, own, 1)[0] == pytest.approx(0.95, abs=0.15)


@pytest.mark.parametrize(
    "person",
    [BUNDLED["carl"], replace(ADA, beard="full", hair_colour=(0.86, 0.85, 0.84)), replace(ADA, beard="goatee")],
    ids=["grey beard", "white beard", "brown goatee"],
)
def test_a_beard_is_not_taken_for_teeth_or_for_an_open_mouth(person: Presenter) -> None:
    area = (0.3125, 0.3516, 0.375)
    points = draw(person, REST, 192, area).landmarks
    # Lips pressed on each other over a lowered jaw leave their place in the still picture to the moustache.
    mouths = [FaceState(jaw=jaw, press=press) for jaw in (0.0, 0.15, 0.3, 0.5, 0.8) for press in (0.0, 1.0)]
    mouths += [FaceState(jaw=0.3, width=0.8), FaceState(jaw=0.4, round=0.9)]
    truth = np.array([mouth_opening(person, mouth) for mouth in mouths])
    measured = np.array([measure_mouth_opening(draw(person, mouth, 192, area).image, points) for mouth in mouths])
    assert np.corrcoef(truth, measured)[0, 1] > 0.97
    assert measured[truth == 0].max() < 0.03
    assert np.abs(measured - truth).max() < 0.12


# The face corpus

SMALL = CorpusPlan(strangers=2, poses=1, bundled_poses=1, mouths=3, held_strangers=1)


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("speech")
    (folder / "wav").mkdir()
    write_wav(folder / "wav" / "000000.wav", np.zeros(16_000, np.int16))
    phones = [Phone("pau", 0.0, 0.1), Phone("m", 0.1, 0.3), Phone("aa", 0.3, 0.7), Phone("pau", 0.7, 1.0)]
    line = {
        "id": "000000",
        "voice": "slt",
        "text": "ma",
        "wav": "wav/000000.wav",
        "phones": [[p.name, p.start, p.end] for p in phones],
    }
    (folder / "utterances.jsonl").write_text(json.dumps(line) + "\n")
    return folder


@pytest.fixture(scope="module")
def corpus(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    calls: list[tuple[int, int]] = []
    paths = make_face_corpus(
        folder, speech, 2 * SMALL.shard_windows, 1, lambda done, total: calls.append((done, total)), plan=SMALL
    )
    assert [p.name for p in paths] == ["faces-000.npz", "held-000.npz", "faces-001.npz"]
    assert calls[-1] == (33, 33)
    return folder


def test_a_shard_holds_windows_with_landmarks_truth_and_references(corpus: Path) -> None:
    with np.load(corpus / "faces-000.npz") as shard:
        assert shard["windows"].shape == (15, 168, 168, 3)
        assert shard["windows"].dtype == np.uint8
        assert shard["landmarks"].shape == (15, 68, 2)
        assert shard["opening"].shape == (15,)
        assert shard["states"].shape == (15, 5)
        assert shard["reference_windows"].shape == (5, 168, 168, 3)
        assert shard["presenter"].tolist() == [row for row in range(5) for _ in range(3)]
        assert shard["reference_identity"].tolist() == [3, 4, 0, 1, 2]


def test_a_reference_equals_its_windows_away_from_mouth_and_jaw(corpus: Path) -> None:
    with np.load(corpus / "faces-000.npz") as shard:
        for window, row in zip(shard["windows"], shard["presenter"], strict=True):
            nose = int(shard["reference_landmarks"][row][33, 1])
            assert np.abs(window[:nose].astype(int) - shard["reference_windows"][row][:nose]).max() <= 10


def test_held_out_people_are_in_no_training_shard(corpus: Path) -> None:
    with np.load(corpus / "held-000.npz") as held, np.load(corpus / "faces-001.npz") as shard:
        assert held["reference_identity"].min() >= 10_000
        assert set(shard["reference_identity"].tolist()) == {5, 6, 0, 1, 2}


def test_the_corpus_repeats_with_its_seed_and_an_interrupted_one_is_completed(
    corpus: Path, speech: Path, tmp_path: Path
) -> None:
    shutil.copy(corpus / "faces-000.npz", tmp_path)
    shutil.copy(corpus / "held-000.npz", tmp_path)
    make_face_corpus(tmp_path, speech, 2 * SMALL.shard_windows, 1, plan=SMALL)
    with np.load(corpus / "faces-001.npz") as first, np.load(tmp_path / "faces-001.npz") as second:
        assert all(np.array_equal(first[name], second[name]) for name in first.files)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["faces-000.npz", "faces-001.npz", "held-000.npz"]


# The bundled avatars


@pytest.mark.parametrize("id", sorted(CAST))
def test_a_bundled_avatar_is_complete_small_and_passes_the_check(id: str) -> None:
    avatar = load_avatar((), id)
    assert [finding for finding in check_avatar(avatar) if finding.level == "error"] == []
    assert sum(path.stat().st_size for path in avatar.folder.iterdir()) < 4 << 20
    assert avatar.transcript == CAST[id].transcript
    assert avatar.licence == "CC0-1.0"


def test_a_bundled_clip_shows_a_shut_mouth_and_its_own_landmarks() -> None:
    pictures = avatar_frames(load_avatar((), "ben"))
    assert pictures.frames.shape[1:] == (512, 512, 3)
    assert 100 <= len(pictures.frames) <= 125
    assert pictures.matte is not None
    assert pictures.matte[0, 256, 256] > 250
    assert pictures.matte[0, 0, 0] < 5
    for frame, points in zip(pictures.frames[::20], pictures.landmarks[::20], strict=True):
        assert measure_mouth_opening(frame, points) < 0.06
    drawn = landmarks(BUNDLED["ben"], FaceState(smile=0.15)) * 512 - 0.5
    np.testing.assert_allclose(pictures.landmarks[0], drawn, atol=0.01)


@pytest.mark.skipif(shutil.which("flite") is None, reason="the flite synthesiser is not installed")
def test_bundles_are_made_from_nothing_but_code(tmp_path: Path) -> None:
    folders = build_bundled(tmp_path, frames=2, size_px=192)
    assert sorted(folder.name for folder in folders) == sorted(CAST)
    for id in CAST:
        avatar = load_avatar((tmp_path,), id)
        assert avatar.folder == tmp_path / id
        assert avatar_frames(avatar).frames.shape == (2, 192, 192, 3)
        assert [finding.what for finding in check_avatar(avatar) if finding.level == "error"] == []


def test_backgrounds_fill_the_picture_asked_for() -> None:
    assert studio_wall(ADA, 160, 90).shape == (90, 160, 3)
    room = lecture_room(320, 180)
    assert room.shape == (180, 320, 3)
    assert room.std() > 20
