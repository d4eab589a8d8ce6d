"""What avatarlab.lips.life promises: a portrait moves a little, smoothly, and nothing else does."""

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from cartoon import TOML, draw, sway, write_bundle

from avatarlab import FPS
from avatarlab.avatars import BUNDLED, AvatarFrames, load_avatar
from avatarlab.compose import idle_path
from avatarlab.errors import AvatarError
from avatarlab.lips import face, life
from avatarlab.lips.life import EMPHASIS_LEVELS, PHOTOGRAPH_POSES, LifeSettings, Living, blinks, wander
from avatarlab.media import read_frames, read_image

GOLDEN = Path(__file__).parent / "golden"
TOP = EMPHASIS_LEVELS - 1
OFF = LifeSettings(blinks=False, sway=0.0, breath=0.0, expression=0.0)
SWAY = dataclasses.replace(OFF, sway=1.0)
SKIN = np.r_[3:14, 27:36, 48:68]  # landmarks of jaw, nose and mouth


def photograph(size: int = 256, matte: bool = False) -> AvatarFrames:
    picture, alpha, points = draw(size=size)
    return AvatarFrames(picture[None], alpha[None] if matte else None, points[None], np.ones(1, bool))


def clip(count: int = 8, size: int = 256) -> AvatarFrames:
    frames, mattes, points = sway(count, size)
    return AvatarFrames(frames, mattes, points, np.ones(count, bool))


def real(name: str) -> AvatarFrames:
    picture = read_image(GOLDEN / name)
    points = face.find_landmarks(picture)
    assert points is not None
    return AvatarFrames(picture[None], None, points[None], np.ones(1, bool))


def changed(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.abs(first.astype(int) - second).max(-1)


def marked(avatar: AvatarFrames, index: int) -> AvatarFrames:
    """The same face with nothing to be seen but a spot at one landmark."""
    height, width = avatar.frames.shape[1:3]
    y, x = np.mgrid[:height, :width]
    at = avatar.landmarks[0, index]
    spot = 255 * np.exp(-0.5 * (np.square(x - at[0]) + np.square(y - at[1])) / 9)
    return dataclasses.replace(avatar, frames=np.repeat(np.rint(spot).astype(np.uint8)[None, :, :, None], 3, axis=3))


def center(picture: np.ndarray) -> np.ndarray:
    weights = picture[..., 0].astype(float)
    y, x = np.indices(weights.shape)
    return np.array([(x * weights).sum(), (y * weights).sum()]) / weights.sum()


class TestPhotographs:
    def test_the_first_pose_is_the_photograph_itself(self) -> None:
        avatar = photograph(matte=True)
        living = Living(avatar, LifeSettings(), seed=1)
        assert len(living) == PHOTOGRAPH_POSES
        assert living.shape == (256, 256)
        assert living.has_matte
        assert avatar.matte is not None
        np.testing.assert_array_equal(living.picture(0, 0), avatar.frames[0])
        np.testing.assert_array_equal(living.matte(0, 0), avatar.matte[0])
        np.testing.assert_array_equal(living.landmarks(0, 0), avatar.landmarks[0])

    def test_with_everything_off_every_pose_is_the_photograph(self) -> None:
        avatar = photograph()
        living = Living(avatar, OFF, seed=1)
        for index in range(len(living)):
            np.testing.assert_array_equal(living.picture(index, TOP), avatar.frames[0])
            np.testing.assert_array_equal(living.landmarks(index, TOP), avatar.landmarks[0])

    def test_the_same_seed_gives_the_same_bytes_whatever_was_asked_for_before_and_another_seed_others(self) -> None:
        avatar = photograph(128, matte=True)
        forwards, backwards, other = (Living(avatar, LifeSettings(), seed) for seed in (3, 3, 4))
        moments = [(index, level) for index in (5, 40, 77) for level in (0, 3)]
        shown = {moment: forwards.picture(*moment).tobytes() for moment in moments}
        assert {moment: backwards.picture(*moment).tobytes() for moment in reversed(moments)} == shown
        assert all(other.picture(*moment).tobytes() != pixels for moment, pixels in shown.items())

    def test_any_number_of_threads_gives_the_same_bytes(self) -> None:
        avatar, shown = photograph(), []
        for threads in (1, 2):
            cv2.setNumThreads(threads)
            shown.append(Living(avatar, LifeSettings(), seed=3).picture(50, 2))
        cv2.setNumThreads(1)
        np.testing.assert_array_equal(*shown)

    def test_the_head_moves_and_what_is_far_from_the_person_does_not(self) -> None:
        avatar = photograph(512)
        wide = np.pad(avatar.frames, ((0, 0), (0, 0), (300, 300), (0, 0)), mode="reflect")
        noise = np.random.default_rng(0).integers(0, 60, wide.shape, np.uint8)
        points = avatar.landmarks + np.array([300, 0], np.float32)
        avatar = dataclasses.replace(avatar, frames=wide // 2 + noise, landmarks=points)
        living = Living(avatar, LifeSettings(), seed=2)
        shifts = np.linalg.norm([living.landmarks(k, 0)[30] - avatar.landmarks[0, 30] for k in range(100)], axis=1)
        assert 2 < shifts.max() < 12
        moved = changed(living.picture(int(shifts.argmax()), TOP), avatar.frames[0])
        assert (moved[120:300, 500:600] > 8).mean() > 0.5
        assert moved[:, :70].max() == 0
        assert moved[:, -70:].max() == 0

    def test_neighbouring_poses_differ_by_less_than_a_pixel_and_a_half(self) -> None:
        living = Living(photograph(512), LifeSettings(), seed=2)
        points = np.stack([living.landmarks(index, 0) for index in range(50)])
        assert np.linalg.norm(np.diff(points, axis=0), axis=2).max() < 1.5

    @pytest.mark.parametrize("index", [8, 33, 48, 57])
    @pytest.mark.parametrize("level", [0, TOP])
    def test_a_mark_on_the_skin_moves_where_its_landmark_moves(self, index: int, level: int) -> None:
        avatar = photograph(384)
        living = Living(marked(avatar, index), dataclasses.replace(LifeSettings(sway=2.0), blinks=False), seed=5)
        for pose in (30, 60, 99):
            moved = living.landmarks(pose, level)[index]
            assert np.linalg.norm(moved - avatar.landmarks[0, index]) > 1
            assert np.linalg.norm(center(living.picture(pose, level)) - moved) < 0.2

    @pytest.mark.parametrize("index", [19, 24])
    def test_brows_rise_more_than_the_head_sinks_with_their_landmarks(self, index: int) -> None:
        avatar = photograph(512)
        living = Living(marked(avatar, index), LifeSettings(), seed=0)
        moved, nose = living.landmarks(0, TOP), avatar.landmarks[0, 30, 1]
        assert np.linalg.norm(center(living.picture(0, TOP)) - moved[index]) < 0.7
        sunk = float(moved[30, 1] - nose)
        risen = sunk - float(moved[index, 1] - avatar.landmarks[0, index, 1])
        assert 2 < sunk < 6
        assert 2 < risen < 5

    def test_mouth_and_chin_move_as_one_rigid_piece(self) -> None:
        avatar = photograph(512)
        living = Living(avatar, LifeSettings(sway=2.0), seed=5)
        for pose in (30, 60, 99):
            moved = living.landmarks(pose, TOP)[SKIN].astype(np.float64)
            fit, _ = cv2.estimateAffinePartial2D(avatar.landmarks[0][SKIN], moved, method=cv2.LMEDS)
            assert np.abs(cv2.transform(avatar.landmarks[0][SKIN][None], fit)[0] - moved).max() < 0.05

    def test_the_matte_moves_with_the_head(self) -> None:
        avatar = photograph(matte=True)
        assert avatar.matte is not None
        living = Living(dataclasses.replace(avatar, frames=np.repeat(avatar.matte[..., None], 3, 3)), SWAY, seed=4)
        moved = living.matte(60, 0)
        assert moved is not None
        assert (moved != avatar.matte[0]).sum() > 100
        assert np.abs(moved.astype(int) - living.picture(60, 0)[..., 0]).max() < 40

    def test_shoulders_rise_and_fall_with_the_breath_and_nothing_else(self) -> None:
        avatar = photograph(512)
        living = Living(avatar, dataclasses.replace(OFF, breath=1.0), seed=0)
        middle = living.picture(PHOTOGRAPH_POSES // 2, 0)
        assert (changed(middle, avatar.frames[0])[400:, 60:450] > 5).sum() > 200
        lift = avatar.landmarks[0, 30, 1] - living.landmarks(PHOTOGRAPH_POSES // 2, 0)[30, 1]
        assert 0.2 < lift < 2
        np.testing.assert_allclose(living.landmarks(99, 0), avatar.landmarks[0], atol=0.01)

    def test_the_eyes_blink_and_the_landmarks_do_not(self) -> None:
        avatar = photograph(512)
        living = Living(avatar, dataclasses.replace(OFF, blinks=True), seed=1)
        x, y = np.rint(avatar.landmarks[0, 36:42].mean(0)).astype(int)
        white = [int((living.picture(k, 0)[y - 12 : y + 13, x - 22 : x + 23].min(-1) > 230).sum()) for k in range(100)]
        shut = int(np.argmin(white))
        assert white[0] > 100 > 5 > white[shut]
        moved = changed(living.picture(shut, 0), avatar.frames[0])
        assert moved[: y - 60].max() == moved[y + 30 :].max() == 0
        np.testing.assert_array_equal(living.landmarks(shut, 0), avatar.landmarks[0])

    def test_a_real_face_blinks_and_one_behind_spectacles_does_not(self) -> None:
        blink = dataclasses.replace(OFF, blinks=True)
        bare, rimmed = (real(name) for name in ("astronaut.jpg", "grace_hopper.jpg"))
        assert any(changed(Living(bare, blink, 1).picture(k, 0), bare.frames[0]).max() > 60 for k in range(45))
        assert all(changed(Living(rimmed, blink, 1).picture(k, 0), rimmed.frames[0]).max() == 0 for k in range(45))

    def test_what_is_no_face_stays_still(self) -> None:
        avatar = dataclasses.replace(photograph(), landmarks=np.zeros((1, 68, 2), np.float32))
        np.testing.assert_array_equal(Living(avatar, LifeSettings(), 0).picture(50, TOP), avatar.frames[0])

    def test_a_face_at_the_edge_of_the_picture_is_moved_all_the_same(self) -> None:
        picture, _, points = draw((-90.0, 80.0))
        avatar = AvatarFrames(picture[None], None, points[None], np.ones(1, bool))
        living = Living(avatar, LifeSettings(sway=2.0), seed=5)
        assert all(living.picture(pose, level).shape == picture.shape for pose in range(0, 45, 4) for level in (0, TOP))

    def test_memory_is_bounded_in_bytes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        avatar = photograph(128)
        monkeypatch.setattr(life, "CACHE_BYTES", 4 * avatar.frames.nbytes)
        living = Living(avatar, LifeSettings(), seed=1)
        first = living.picture(10, 0)
        assert living.picture(10, 0) is first
        for index in range(11, 14):
            living.picture(index, 0)
        assert living.picture(10, 0) is first
        for index in range(11, 15):
            living.picture(index, 0)
        assert living.picture(10, 0) is not first
        np.testing.assert_array_equal(living.picture(10, 0), first)


class TestClips:
    def test_an_idle_clip_is_its_own_frames_without_a_copy(self) -> None:
        avatar = clip()
        living = Living(avatar, LifeSettings(), seed=1)
        assert len(living) == 8
        for index in range(8):
            assert np.shares_memory(living.picture(index, 0), avatar.frames)
            np.testing.assert_array_equal(living.picture(index, 0), avatar.frames[index])
            np.testing.assert_array_equal(living.landmarks(index, 0), avatar.landmarks[index])

    def test_emphasis_nods_the_head_further_with_every_level(self) -> None:
        avatar = clip(size=512)
        living = Living(avatar, LifeSettings(), seed=1)
        depths = [float(living.landmarks(3, level)[57, 1]) for level in range(EMPHASIS_LEVELS)]
        assert (np.diff(depths) > 0.3).all()
        assert 2 < depths[-1] - depths[0] < 6
        corner = changed(living.picture(3, TOP), avatar.frames[3])[-40:, -40:]
        assert corner.max() == 0

    def test_emphasis_can_be_switched_off(self) -> None:
        avatar = clip()
        living = Living(avatar, dataclasses.replace(LifeSettings(), expression=0.0), seed=1)
        assert np.shares_memory(living.picture(3, TOP), avatar.frames)

    def test_a_frame_without_a_face_is_left_alone(self) -> None:
        avatar = clip()
        avatar.face_found[3] = False
        living = Living(avatar, LifeSettings(), seed=1)
        assert [living.face_found(index) for index in (2, 3)] == [True, False]
        assert np.shares_memory(living.picture(3, TOP), avatar.frames)
        np.testing.assert_array_equal(living.landmarks(3, TOP), avatar.landmarks[3])

    @pytest.mark.parametrize("id", ["ada", "ben", "carl"])
    def test_the_bundled_presenters_loop_without_a_visible_jump(self, id: str) -> None:
        frames = np.stack([frame[::4, ::4].astype(np.float32) for frame in read_frames(BUNDLED / id / "picture.mp4")])
        steps = np.square(np.diff(frames, axis=0)).mean((1, 2, 3)) ** 0.5
        path = np.concatenate([idle_path(count, len(frames)) for count in (90, 31, 500, 1, 77)])
        seen = np.square(np.diff(frames[path], axis=0)).mean((1, 2, 3)) ** 0.5
        assert seen.max() <= 1.5 * np.percentile(steps, 99)


class TestMovements:
    def test_blinks_are_apart_and_not_at_the_start(self) -> None:
        lids = blinks(2000, np.random.default_rng(2))
        shut = np.flatnonzero(lids == 1.0)
        assert shut[0] > 10
        assert np.diff(shut).min() >= 1.2 * FPS - 1
        assert len(shut) > 10

    def test_a_wander_begins_at_rest_and_stands_still_where_it_is_turned_back(self) -> None:
        path = wander(100, np.random.default_rng(2))
        assert path[0] == 0
        assert np.abs(path).max() == pytest.approx(1)
        steps = np.abs(np.diff(path))
        assert max(steps[0], steps[-1]) < 0.2 * steps.max()


class TestSettings:
    def test_they_are_all_on_unless_told_otherwise(self) -> None:
        assert LifeSettings.of({}) == LifeSettings(True, 1.0, 1.0, 1.0)
        told = LifeSettings.of({"blinks": False, "sway": 0, "expression": 0.5})
        assert told == LifeSettings(False, 0.0, 1.0, 0.5)

    @pytest.mark.parametrize(
        "told", [{"blinks": 1}, {"sway": True}, {"breath": -0.1}, {"expression": 2.5}, {"sway": "x"}, {"nods": 1.0}]
    )
    def test_what_is_none_is_refused_by_name(self, told: dict[str, Any]) -> None:
        with pytest.raises(AvatarError, match=next(iter(told))) as caught:
            LifeSettings.of(told)
        assert caught.value.remedy

    def test_every_setting_enters_the_digest_of_the_picture(self, tmp_path: Path) -> None:
        folder = write_bundle(tmp_path, still=True, landmarks=False)
        digests = set()
        sections = ("", "blinks = false", "sway = 0.5", "breath = 2", "expression = 0", "sway = 1.0")
        for section in sections:
            (folder / "avatar.toml").write_text(f"{TOML}\n[life]\n{section}\n")
            digests.add(load_avatar([tmp_path], "cartoon").picture_digest)
        assert len(digests) == 5  # the last says what holds anyway
        assert load_avatar([tmp_path], "cartoon").life == LifeSettings()

    def test_an_avatar_with_a_life_that_is_none_is_refused(self, tmp_path: Path) -> None:
        folder = write_bundle(tmp_path, still=True, landmarks=False)
        (folder / "avatar.toml").write_text(f"{TOML}\n[life]\nblink = true\n")
        with pytest.raises(AvatarError, match=r"\[life\].*unknown key 'blink'"):
            load_avatar([tmp_path], "cartoon")
