"""What avatarlab.compose promises: nothing jumps, nothing drifts, and what is not a mouth stays as it is."""

import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cartoon import speechlike, sway
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from avatarlab import compose as module
from avatarlab.avatars import AvatarFrames
from avatarlab.compose import (
    LAYOUTS,
    Segment,
    VideoSettings,
    background_digest,
    check_background,
    compose,
    draw_frames,
    idle_path,
    output_size,
)
from avatarlab.errors import AvatarLabError, MediaError, SettingsError
from avatarlab.lips import life
from avatarlab.lips.life import EMPHASIS_LEVELS, LifeSettings, Living
from avatarlab.media import VideoWriter, probe, read_audio, read_frames, read_image, write_lossless, write_wav

quick = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

PICTURE_SIDE = 128
WINDOW = (40, 44)  # rows, columns
STILL = LifeSettings(blinks=False, sway=0.0, breath=0.0, expression=0.0)


def avatar(matte: bool = False, count: int = 6) -> AvatarFrames:
    frames, mattes, landmarks = sway(count, PICTURE_SIDE)
    return AvatarFrames(frames, mattes if matte else None, landmarks, np.ones(count, bool))


def alive(face: AvatarFrames, settings: LifeSettings = STILL) -> Living:
    return Living(face, settings, seed=0)


def mouths(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Windows of noise, so that a misplaced pixel shows, and corners that wander over the picture."""
    rng = np.random.default_rng(seed)
    windows = rng.integers(0, 256, (count, *WINDOW, 3), np.uint8)
    corners = rng.integers(0, [PICTURE_SIDE - WINDOW[1] + 1, PICTURE_SIDE - WINDOW[0] + 1], (count, 2))
    return windows, corners


def speaking(folder: Path, count: int, seed: int = 0, emphasis: np.ndarray | None = None) -> Segment:
    windows, corners = mouths(count, seed)
    path = folder / f"windows-{count}-{seed}.mkv"
    if not path.exists():
        write_lossless(path, windows)
    return Segment(count, speechlike(count / 25, seed=seed), path, corners, emphasis)


def nods(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, EMPHASIS_LEVELS, count).astype(np.uint8)


def drawn(
    face: AvatarFrames | Living,
    segments: Sequence[Segment],
    looks: VideoSettings = VideoSettings(),  # noqa: B008
) -> np.ndarray:
    living = face if isinstance(face, Living) else alive(face)
    return np.stack([frame.copy() for frame in draw_frames(living, segments, looks)])


class TestIdlePath:
    @quick
    @given(frame_count=st.integers(1, 2000), clip_length=st.integers(1, 300))
    def test_it_moves_by_at_most_one_frame_of_the_clip_and_stays_inside_it(
        self, frame_count: int, clip_length: int
    ) -> None:
        path = idle_path(frame_count, clip_length)
        assert path.shape == (frame_count,)
        assert path.min() >= 0
        assert path.max() < clip_length
        assert np.abs(np.diff(path)).max(initial=0) <= 1

    @quick
    @given(frame_counts=st.lists(st.integers(1, 400), min_size=1, max_size=6), clip_length=st.integers(1, 120))
    def test_segments_join_without_a_jump_in_any_order(self, frame_counts: list[int], clip_length: int) -> None:
        path = np.concatenate([idle_path(count, clip_length) for count in frame_counts])
        assert path[0] == 0
        assert path[-1] <= 1
        assert np.abs(np.diff(path)).max(initial=0) <= 1

    @quick
    @given(clip_length=st.integers(2, 120), swings=st.integers(1, 5))
    def test_a_long_segment_shows_the_whole_clip(self, clip_length: int, swings: int) -> None:
        path = idle_path(swings * (2 * clip_length - 2), clip_length)
        assert path.max() == clip_length - 1

    def test_a_still_picture_stays_still_and_no_frame_needs_no_frame(self) -> None:
        assert idle_path(5, 1).tolist() == [0, 0, 0, 0, 0]
        assert idle_path(0, 7).tolist() == []


class TestPictures:
    @pytest.mark.parametrize("count", [6, 1], ids=["clip", "photograph"])
    def test_at_the_pictures_size_pixels_outside_the_mouth_are_those_of_the_living_picture(
        self, tmp_path: Path, count: int
    ) -> None:
        living, levels = alive(avatar(count=count), LifeSettings()), nods(20)
        windows, corners = mouths(20)
        shown = drawn(living, [speaking(tmp_path, 20, emphasis=levels)])
        for frame, window, (x, y), index, level in zip(
            shown, windows, corners, idle_path(20, len(living)).tolist(), levels.tolist(), strict=True
        ):
            expected = living.picture(index, level).copy()
            expected[y : y + WINDOW[0], x : x + WINDOW[1]] = window
            np.testing.assert_array_equal(frame, expected)

    def test_without_emphasis_a_clip_is_shown_as_it_is(self) -> None:
        face = avatar()
        shown = drawn(alive(face, LifeSettings()), [Segment(20)])
        np.testing.assert_array_equal(shown, face.frames[idle_path(20, len(face.frames))])

    def test_emphasis_is_seen_in_silence_too_and_only_where_it_is(self) -> None:
        face, levels = avatar(), np.array([0, 0, 3, 5, 0, 0], np.uint8)
        shown = drawn(alive(face, LifeSettings()), [Segment(6, emphasis=levels)])
        moved = (shown != face.frames[idle_path(6, len(face.frames))]).any((1, 2, 3))
        assert moved.tolist() == (levels > 0).tolist()

    @quick
    @given(
        width=st.integers(32, 150).map(lambda half: 2 * half),
        height=st.integers(32, 150).map(lambda half: 2 * half),
        layout=st.sampled_from(LAYOUTS),
        matte=st.booleans(),
        seed=st.integers(0, 5),
    )
    def test_redrawing_the_mouth_alone_gives_the_pixels_of_redrawing_everything(
        self, tmp_path: Path, width: int, height: int, layout: str, matte: bool, seed: int
    ) -> None:
        count = 4
        face, looks = avatar(matte, count), VideoSettings(width, height, layout=layout)
        living, levels = alive(face, LifeSettings()), nods(count, seed)
        windows, corners = mouths(count, seed)
        moments = zip(idle_path(count, count).tolist(), levels.tolist(), strict=True)
        for window, (x, y), moment, shown in zip(
            windows, corners, moments, drawn(living, [speaking(tmp_path, count, seed, levels)], looks), strict=True
        ):
            pasted = living.picture(*moment).copy()
            pasted[y : y + WINDOW[0], x : x + WINDOW[1]] = window
            alpha = living.matte(*moment)
            whole = AvatarFrames(
                pasted[None], None if alpha is None else alpha[None], face.landmarks[:1], face.face_found[:1]
            )
            np.testing.assert_array_equal(shown, drawn(whole, [Segment(1)], looks)[0])

    def test_where_the_matte_is_empty_the_background_is_seen_and_where_it_is_full_the_presenter(self) -> None:
        face = avatar(matte=True)
        (shown,) = drawn(face, [Segment(1)], VideoSettings(background="#0a141e"))
        assert face.matte is not None
        np.testing.assert_array_equal(shown[face.matte[0] == 255], face.frames[0][face.matte[0] == 255])
        assert (shown[face.matte[0] == 0] == (10, 20, 30)).all()

    def test_half_opacity_mixes_presenter_and_background_in_halves(self) -> None:
        grey, half = np.full((1, 64, 64, 3), 200, np.uint8), np.full((1, 64, 64), 128, np.uint8)
        face = AvatarFrames(grey, half, np.zeros((1, 68, 2), np.float32), np.ones(1, bool))
        assert (drawn(face, [Segment(1)], VideoSettings(background="#646464")) == 150).all()

    def test_a_cut_out_presenter_stands_in_the_middle_of_the_lower_edge(self) -> None:
        face = avatar(matte=True, count=1)
        (shown,) = drawn(face, [Segment(1)], VideoSettings(480, 256, "#00ff00"))
        presenter = (shown != (0, 255, 0)).any(2)
        assert presenter[-1].any()
        columns = np.flatnonzero(presenter.any(0))
        assert abs((columns[0] + columns[-1]) / 2 - 240) < 4
        assert np.ptp(columns) > 170  # twice the size of the picture

    def test_a_whole_picture_hangs_in_the_middle_between_bars_of_background(self) -> None:
        (shown,) = drawn(avatar(), [Segment(1)], VideoSettings(300, 128, "#00ff00"))
        np.testing.assert_array_equal(shown[:, 86:214], avatar().frames[0])
        assert (shown[:, :86] == (0, 255, 0)).all()
        assert (shown[:, 214:] == (0, 255, 0)).all()

    @pytest.mark.parametrize("layout", LAYOUTS[1:])
    def test_in_a_corner_the_presenter_is_small_and_leaves_a_margin(self, layout: str) -> None:
        (shown,) = drawn(avatar(), [Segment(1)], VideoSettings(320, 180, "#00ff00", layout))
        rows, columns = (np.flatnonzero((shown != (0, 255, 0)).any(2).any(axis)) for axis in (1, 0))
        assert 60 <= len(rows) <= 70
        assert len(columns) == len(rows)
        assert (rows[0] < 20) == ("top" in layout)
        assert (columns[0] < 20) == ("left" in layout)
        assert min(rows[0], columns[0], 179 - rows[-1], 319 - columns[-1]) >= 4

    def test_an_image_covers_the_background_without_being_stretched(self, tmp_path: Path) -> None:
        picture = np.zeros((100, 100, 3), np.uint8)
        picture[:, 50:] = 255
        Image.fromarray(picture).save(tmp_path / "slide.png")
        looks = VideoSettings(320, 180, str(tmp_path / "slide.png"), "pip-top-left")
        (shown,) = drawn(avatar(), [Segment(1)], looks)
        assert (shown[120:, :158] == 0).all()
        assert (shown[120:, 162:] == 255).all()

    def test_an_image_is_decoded_once_for_many_videos_and_anew_when_it_has_changed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path, decoded = tmp_path / "wall.png", 0

        def counted(path: Path) -> np.ndarray:
            nonlocal decoded
            decoded += 1
            return read_image(path)

        monkeypatch.setattr(module, "read_image", counted)
        looks = VideoSettings(width=160, height=160, background=str(path), layout="pip-top-left")
        corners = []
        for colour in ((10, 20, 30), (10, 20, 30), (200, 100, 50)):
            if not corners or corners[-1] != colour:
                Image.new("RGB", (160, 160), colour).save(path)
            (frame,) = drawn(avatar(), [Segment(1)], looks)
            corners.append(tuple(frame[-1, -1].tolist()))
        assert corners == [(10, 20, 30), (10, 20, 30), (200, 100, 50)]
        assert decoded == 2

    def test_a_video_in_the_background_plays_and_starts_over(self, tmp_path: Path) -> None:
        with VideoWriter(tmp_path / "loop.mp4", 64, 64) as writer:
            for level in (0, 80, 160, 240):
                writer.write_frame(np.full((64, 64, 3), level, np.uint8))
        face = avatar(matte=True)
        shown = drawn(face, [speaking(tmp_path, 10)], VideoSettings(background=str(tmp_path / "loop.mp4")))
        levels = shown[:, 2, 2].astype(int).mean(1)  # the matte is empty there
        seen = [np.argmin([abs(level - step) for step in (0, 80, 160, 240)]) for level in levels]
        windows, corners = mouths(10)
        covered = [bool(x <= 2 < x + WINDOW[1] and y <= 2 < y + WINDOW[0]) for x, y in corners]
        assert not any(covered)
        assert seen == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
        assert face.matte is not None
        window, (x, y), index = windows[3], corners[3], idle_path(10, 6)[3]
        full = face.matte[index, y : y + WINDOW[0], x : x + WINDOW[1]] == 255
        np.testing.assert_array_equal(shown[3, y : y + WINDOW[0], x : x + WINDOW[1]][full], window[full])

    @pytest.mark.parametrize("room", [1, 10**9])
    def test_what_is_kept_in_memory_does_not_change_the_picture(
        self, tmp_path: Path, room: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        segments, looks = [speaking(tmp_path, 9, emphasis=nods(9)), Segment(5)], VideoSettings(200, 160)
        expected = drawn(alive(avatar(matte=True), LifeSettings()), segments, looks)
        for place in (module, life):
            monkeypatch.setattr(place, "CACHE_BYTES", room)
        np.testing.assert_array_equal(drawn(alive(avatar(matte=True), LifeSettings()), segments, looks), expected)


class TestVideo:
    def test_sound_and_picture_last_as_long_as_their_segments(self, tmp_path: Path) -> None:
        segments = [speaking(tmp_path, 20), Segment(6), speaking(tmp_path, 13, 1), Segment(15)]
        counted: list[int] = []
        made = compose(
            alive(avatar(True)),
            segments,
            VideoSettings(title="A"),
            tmp_path / "v.mp4",
            tmp_path / "p.jpg",
            progress=counted.append,
        )
        assert (made.frame_count, made.width, made.height) == (54, 128, 128)
        assert made.duration_seconds == pytest.approx(54 / 25)
        info = probe(tmp_path / "v.mp4", decode=True)
        assert info.frame_count == 54
        assert abs(info.audio_seconds - info.video_seconds) < 0.04
        assert counted == [25, 50]

    def test_speech_is_heard_in_its_segment_and_silence_in_the_others(self, tmp_path: Path) -> None:
        compose(
            alive(avatar()),
            [Segment(10), speaking(tmp_path, 20), Segment(10)],
            VideoSettings(),
            tmp_path / "v.mp4",
            tmp_path / "p.jpg",
        )
        heard = read_audio(tmp_path / "v.mp4")
        assert np.corrcoef(heard[6400:-6400], speechlike(20 / 25))[0, 1] > 0.98
        assert np.abs(heard[:6200]).max() < 0.02
        assert np.abs(heard[-6200:]).max() < 0.02

    def test_sound_too_loud_is_lowered_not_clipped(self, tmp_path: Path) -> None:
        loud = 4 * speechlike(1.0)
        compose(alive(avatar()), [Segment(25, loud)], VideoSettings(), tmp_path / "v.mp4", tmp_path / "p.jpg")
        heard = read_audio(tmp_path / "v.mp4")
        assert np.corrcoef(heard, loud)[0, 1] > 0.995

    @pytest.mark.parametrize("kind", ["wav", "npy"])
    def test_a_waveform_may_wait_in_a_file(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / f"speech.{kind}"
        write_wav(path, speechlike(1.0)) if kind == "wav" else np.save(path, speechlike(1.0))
        compose(alive(avatar()), [Segment(25, path)], VideoSettings(), tmp_path / "v.mp4", tmp_path / "p.jpg")
        assert np.corrcoef(read_audio(tmp_path / "v.mp4"), speechlike(1.0))[0, 1] > 0.98

    def test_the_poster_is_a_frame_from_the_middle_of_a_sentence(self, tmp_path: Path) -> None:
        segments = [Segment(20), speaking(tmp_path, 8), Segment(30)]
        compose(alive(avatar()), segments, VideoSettings(), tmp_path / "v.mp4", tmp_path / "p.jpg")
        expected = drawn(avatar(), segments, VideoSettings())[24]
        assert np.abs(read_image(tmp_path / "p.jpg").astype(int) - expected).mean() < 12

    def test_the_same_segments_make_the_same_pictures(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            compose(
                alive(avatar(True)),
                [speaking(tmp_path, 12)],
                VideoSettings(160, 90),
                tmp_path / f"{name}.mp4",
                tmp_path / f"{name}.jpg",
            )
        for first, second in zip(read_frames(tmp_path / "a.mp4"), read_frames(tmp_path / "b.mp4"), strict=True):
            np.testing.assert_array_equal(first, second)

    def test_memory_does_not_grow_with_length(self, tmp_path: Path) -> None:
        def peak(seconds: int) -> int:
            tracemalloc.start()
            compose(alive(avatar()), [Segment(25)] * seconds, VideoSettings(), tmp_path / "v.mp4", tmp_path / "p.jpg")
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            return most

        peak(2)
        assert peak(12) - peak(2) < 200_000

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            (lambda good: Segment(11, good.waveform, good.windows, good.corners), "samples for 11 video frames"),
            (lambda good: Segment(10, None, good.windows, good.corners[:9]), "9 corners"),
            (lambda good: Segment(10, None, good.windows), "0 corners"),
            (lambda good: Segment(10, None, good.windows, good.corners + 500), "outside the picture"),
            (lambda good: Segment(9, None, good.windows, good.corners[:9]), "too many mouth windows"),
            (lambda good: Segment(11, None, good.windows, np.concatenate([good.corners, good.corners[:1]])), "too few"),
            (lambda good: Segment(10, None, Path("nowhere.mkv"), good.corners), "no file"),
            (lambda _: Segment(0), "without a single frame"),
            (lambda _: Segment(5, emphasis=nods(4)), "4 levels of emphasis for 5"),
            (lambda _: Segment(2, emphasis=np.array([0, 6], np.uint8)), "no level 6"),
        ],
    )
    def test_parts_that_do_not_fit_together_are_refused_and_leave_nothing_behind(
        self, tmp_path: Path, wrong: Any, message: str
    ) -> None:
        out = tmp_path / "out"
        with pytest.raises(MediaError, match=message) as caught:
            compose(alive(avatar()), [wrong(speaking(tmp_path, 10))], VideoSettings(), out / "v.mp4", out / "p.jpg")
        assert caught.value.remedy
        assert not out.exists() or list(out.iterdir()) == []


class TestSettings:
    @pytest.mark.parametrize(
        "looks",
        [{"layout": "left"}, {"width": 641}, {"height": 62}, {"width": 5000}, {"background": "#12"}, {"height": -2}],
    )
    def test_what_cannot_be_made_is_refused_with_a_remedy(self, looks: dict[str, Any]) -> None:
        with pytest.raises(SettingsError) as caught:
            VideoSettings(**looks)
        assert caught.value.remedy

    @pytest.mark.parametrize(
        ("looks", "size"),
        [
            (VideoSettings(), (128, 128)),
            (VideoSettings(width=640), (640, 640)),
            (VideoSettings(height=90), (90, 90)),
            (VideoSettings(640, 360), (640, 360)),
        ],
    )
    def test_one_side_is_enough(self, looks: VideoSettings, size: tuple[int, int]) -> None:
        assert output_size(alive(avatar()), looks) == size

    def test_a_background_is_known_by_its_content(self, tmp_path: Path) -> None:
        for name, colour in (("a.png", "red"), ("b.png", "red"), ("c.png", "blue")):
            Image.new("RGB", (64, 64), colour).save(tmp_path / name)
        a, b, c = (background_digest(str(tmp_path / name)) for name in ("a.png", "b.png", "c.png"))
        assert a == b != c
        assert background_digest("#ABCDEF") == "#abcdef"

    @pytest.mark.parametrize("background", ["#12345", "nowhere.png", "nowhere.mp4", "text.png", "text.mp4", "tone.wav"])
    def test_a_background_that_cannot_be_used_is_refused_before_rendering(
        self, tmp_path: Path, background: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for name in ("text.png", "text.mp4"):
            Path(name).write_text("neither image nor video")
        write_wav(Path("tone.wav"), speechlike(0.2))
        with pytest.raises(AvatarLabError) as caught:
            check_background(background)
        assert caught.value.remedy

    def test_backgrounds_that_can_be_used_are_accepted(self, tmp_path: Path) -> None:
        Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
        write_lossless(tmp_path / "a.mkv", avatar().frames)
        for background in ("#00ff7F", str(tmp_path / "a.png"), str(tmp_path / "a.mkv")):
            check_background(background)


def test_mouths_may_be_drawn_while_the_video_is_written(tmp_path: Path) -> None:
    stored = speaking(tmp_path, 5)
    windows, corners = mouths(5)

    @dataclass(frozen=True)
    class Drawn:
        window: np.ndarray
        corner: tuple[int, int]

    def draw() -> Iterator[Drawn]:
        return (Drawn(window, (x, y)) for window, (x, y) in zip(windows, corners.tolist(), strict=True))

    assert np.array_equal(drawn(avatar(), [stored]), drawn(avatar(), [Segment(5, None, draw)]))
    with pytest.raises(MediaError, match="5 mouth windows for 6 video frames"):
        drawn(avatar(), [Segment(6, None, draw)])
