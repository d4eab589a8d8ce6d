"""One's own talking-head videos as training data: what is cut from them, what is refused, and that it trains."""

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import cartoon  # noqa: F401  (one OpenCV thread)
import cv2
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_lips_training import TINY

from avatarlab.errors import InputError, SettingsError
from avatarlab.lips.diffdub import Motion, MotionConfig, Renderer, RendererConfig
from avatarlab.media import VideoWriter, probe, read_frames, stream_audio
from avatarlab.training.face_corpus import draw_window
from avatarlab.training.motion import filmed_loss
from avatarlab.training.own_videos import (
    SMALLEST_EYE_PX,
    OwnClip,
    OwnSpeech,
    Prepared,
    SceneChanges,
    held_out,
    load_own_clips,
    mouth_openings,
    own_speech,
    prepare,
)
from avatarlab.training.presenters import BUNDLED, FaceState, draw
from avatarlab.training.renderer import load_faces, train_renderer, training_shards
from flows.cli import main

JAWS = (0.0, 0.3, 0.6, 0.9)
MOUTHS = np.array([0, 0, 1, 2, 3, 3, 2, 1, 0, 1, 2, 1] * 6)[:60]  # which drawing each frame of a video shows


@dataclass(frozen=True)
class Drawings:
    """A presenter at 256 pixels, the jaw opening from drawing to drawing."""

    images: np.ndarray
    landmarks: np.ndarray
    opening: np.ndarray


@pytest.fixture(scope="module")
def drawings() -> Drawings:
    drawn = [draw(BUNDLED["ben"], FaceState(jaw=jaw), 256) for jaw in JAWS]
    return Drawings(
        np.stack([one.image for one in drawn]),
        np.stack([one.landmarks for one in drawn]),
        np.array([one.mouth_opening for one in drawn]),
    )


def tone(frames: int) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * 200 * np.arange(frames * 640) / 16_000)).astype(np.float32)


def write_video(path: Path, images: np.ndarray, sound: np.ndarray | None, landmarks: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, images.shape[2], images.shape[1], crf=10, preset="ultrafast") as writer:
        for image in images:
            writer.write_frame(image)
        if sound is not None:
            writer.write_audio(sound)
    if landmarks is not None:
        np.save(path.with_name(f"{path.stem}.landmarks.npy"), landmarks)
    return path


def write_talk(path: Path, drawings: Drawings, first: int = 0) -> Path:
    shown = np.roll(MOUTHS, first)
    return write_video(path, drawings.images[shown], tone(60), drawings.landmarks[shown])


def only_clip(out: Path) -> OwnClip:
    (clip,) = load_own_clips(out)
    return clip


@pytest.fixture(scope="module")
def few(drawings: Drawings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips out of pictures with their landmarks: no ffmpeg is waited for."""
    folder = tmp_path_factory.mktemp("few")
    for number in range(2):
        write_pictures(folder, f"Clip_{number}", drawings, (0, 1, 2, 5, 6, 9), number)
    return folder


def write_pictures(root: Path, name: str, drawings: Drawings, numbers: tuple[int, ...], darker: int = 0) -> None:
    """The layout of the published training samples; `darker` by some levels, so that clips differ."""
    pictures, texts = root / "raw_frames_25fps" / name, root / "landmarks" / name
    pictures.mkdir(parents=True)
    texts.mkdir(parents=True)
    for k, number in enumerate(numbers):
        cv2.imwrite(
            str(pictures / f"{name}_{number}.png"),
            np.maximum(drawings.images[k % len(JAWS), ..., ::-1], darker) - darker,
        )
        lines = [f"{round(x)} {round(y)}\n" for x, y in drawings.landmarks[k % len(JAWS)].tolist()]
        (texts / f"{name}_{number}.txt").write_text("".join(lines))


@dataclass(frozen=True)
class Made:
    folder: Path
    out: Path
    prepared: Prepared


@pytest.fixture(scope="module")
def made(drawings: Drawings, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A folder of two videos that can be used and of many that cannot."""
    root = tmp_path_factory.mktemp("own")
    folder = root / "videos"
    talk = write_talk(folder / "talk.mp4", drawings)
    write_talk(folder / "deeper" / "-i $(touch x)\n%d;.MOV", drawings, 3)
    still = np.repeat(drawings.images[:1], 60, axis=0)
    write_video(folder / "mute.mp4", still, np.zeros(60 * 640, np.float32))
    write_video(folder / "soundless.mp4", still[:50], None)
    write_video(folder / "short.mp4", still[:40], tone(40))
    write_video(folder / "faceless.mp4", np.full((55, 96, 128, 3), 120, np.uint8), tone(55))
    tiny = np.stack([cv2.resize(image, (96, 96), interpolation=cv2.INTER_AREA) for image in drawings.images])
    write_video(folder / "far.mp4", tiny[MOUTHS], tone(60), drawings.landmarks[MOUTHS] * 96 / 256)
    write_video(folder / "other.mp4", still, tone(60), np.zeros((60, 5, 2)))
    write_video(folder / "longer.mp4", still, 0.5 * tone(60), np.ones((90, 68, 2)))
    (folder / "torn.mp4").write_bytes(talk.read_bytes()[: talk.stat().st_size * 7 // 10])
    (folder / "twin.mp4").write_bytes(talk.read_bytes())
    (folder / "text.webm").write_text("no video")
    (folder / "empty.avi").touch()
    (folder / ".hidden.mp4").touch()
    (folder / "notes.txt").write_text("nothing")
    return Made(folder, root / "out", prepare(folder, root / "out"))


def test_every_video_that_cannot_be_used_is_refused_by_name_and_the_rest_goes_on(made: Made) -> None:
    reasons = {item.name: item.reason for item in made.prepared.refused}
    expected = {
        "mute.mp4": "silent",
        "soundless.mp4": "no sound",
        "short.mp4": "shorter than 2 s",
        "faceless.mp4": "no face",
        "far.mp4": f"and {SMALLEST_EYE_PX:.0f} are needed",
        "other.mp4": "(60, 5, 2)",
        "longer.mp4": "landmarks for 90 frames, and 60 frames",
        "torn.mp4": "ends early",
        "twin.mp4": "the same as talk.mp4",
        "text.webm": "cannot be read",
        "empty.avi": "cannot be read",
    }
    assert reasons.keys() == expected.keys()
    assert all(words in reasons[name] for name, words in expected.items()), reasons
    assert (made.prepared.videos, made.prepared.clips, made.prepared.frames) == (2, 2, 120)
    assert made.prepared.frames_without_face == 0


def test_clips_have_the_geometry_of_drawn_windows_and_640_samples_a_frame(made: Made, drawings: Drawings) -> None:
    clips = {clip.source: clip for clip in load_own_clips(made.out)}
    clip = clips["talk.mp4"]
    assert clip.windows.shape == (60, 168, 168, 3)
    assert clip.landmarks.shape == (60, 68, 2)
    assert clip.found.all()
    assert len(clip.waveform) == 60 * 640
    np.testing.assert_allclose(clip.waveform[2000:-2000], tone(60)[2000:-2000], atol=0.05)
    for jaw, shown in ((0.0, 0), (0.9, 4)):
        window, landmarks, _ = draw_window(BUNDLED["ben"], FaceState(jaw=jaw))
        # a window hangs from the middles of pixels, which are larger at 256 than in the corpus at 512
        np.testing.assert_allclose(clip.landmarks[shown], landmarks, atol=0.5)
        assert np.abs(clip.windows[shown].astype(int) - window.astype(int)).mean() < 5
    np.testing.assert_allclose(clip.opening, drawings.opening[MOUTHS], atol=0.03)
    (hostile,) = set(clips) - {"talk.mp4"}
    assert hostile.isprintable() and hostile.startswith("deeper/-i $(touch x)")


def test_running_twice_makes_nothing_again_and_an_interrupted_call_goes_on(few: Path, tmp_path: Path) -> None:
    def all_files() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}

    first = prepare(few, tmp_path)
    before = all_files()
    again = prepare(few, tmp_path)
    assert (first.made, again.made) == (2, 0)
    assert again.frames == first.frames
    assert all_files() == before
    files = sorted(before)
    lost = next(path for path in files if path.name.startswith("clip-"))
    lost.unlink()
    (tmp_path / "own/shards.json").unlink()
    assert prepare(few, tmp_path).made == 1
    after = all_files()
    assert sorted(after) == files
    kept = {path for path in files if path.name.startswith("clip-") and path != lost}
    assert all(after[path] == before[path] for path in kept)


def test_better_landmarks_replace_the_clips_of_a_video(drawings: Drawings, tmp_path: Path) -> None:
    write_talk(tmp_path / "videos/talk.mp4", drawings)
    prepare(tmp_path / "videos", tmp_path / "out")
    first = only_clip(tmp_path / "out")
    np.save(tmp_path / "videos/talk.landmarks.npy", drawings.landmarks[MOUTHS] + 2)
    assert prepare(tmp_path / "videos", tmp_path / "out").made == 1
    second = only_clip(tmp_path / "out")
    assert not np.array_equal(first.windows, second.windows)
    with np.load(tmp_path / "out/faces/own-000.npz") as shard:
        assert any(np.array_equal(shard["windows"][0], window) for window in second.windows)


def test_shards_have_the_format_of_drawn_faces_with_closed_mouths_as_references(made: Made) -> None:
    with np.load(made.out / "faces/own-000.npz") as shard:
        kinds = {name: (shard[name].dtype, shard[name].shape[1:]) for name in shard.files}
        faces = {name: shard[name] for name in shard.files}
    assert kinds == {
        "windows": (np.uint8, (168, 168, 3)),
        "landmarks": (np.float32, (68, 2)),
        "opening": (np.float32, ()),
        "states": (np.float32, (5,)),
        "presenter": (np.int32, ()),
        "reference_windows": (np.uint8, (168, 168, 3)),
        "reference_landmarks": (np.float32, (68, 2)),
        "reference_identity": (np.int32, ()),
    }
    assert len(faces["windows"]) == 24
    assert len(np.unique(faces["reference_identity"])) == 2
    # both people are one drawing, whose closed mouth every reference shows
    gaps = np.linalg.norm(faces["reference_landmarks"][:, 62] - faces["reference_landmarks"][:, 66], axis=1)
    assert gaps.max() < 0.5
    assert faces["opening"].max() > 0.2
    moved = np.abs(faces["windows"].astype(int) - faces["reference_windows"][faces["presenter"]])
    assert moved[:, :40].mean() < 1


def test_own_clips_alone_train_a_renderer_whose_weights_load(made: Made, tmp_path: Path) -> None:
    faces = made.out / "faces"
    assert [path.name for path in training_shards(faces)] == ["own-000.npz"]
    path = train_renderer(faces, tmp_path, 0.02, config=TINY, batch_size=2)
    assert Renderer.from_state_dict(load_file(path)).config == TINY


def test_drawn_and_own_shards_are_read_together_if_their_windows_agree(made: Made, tmp_path: Path) -> None:
    own = made.out / "faces/own-000.npz"
    with np.load(own) as shard:
        arrays = {name: shard[name] for name in shard.files}
    np.savez(tmp_path / "faces-000.npz", allow_pickle=False, **arrays)
    both = load_faces([tmp_path / "faces-000.npz", own])
    assert len(both.windows) == 2 * len(arrays["windows"])
    assert both.owner.max() == len(both.reference_windows) - 1
    smaller = {name: values[:, 20:-20, 20:-20] if "windows" in name else values for name, values in arrays.items()}
    np.savez(tmp_path / "faces-000.npz", allow_pickle=False, **smaller)
    with pytest.raises(InputError, match="128"):
        load_faces([tmp_path / "faces-000.npz", own])


def test_without_landmarks_the_face_is_found_and_its_mouth_measured(drawings: Drawings, tmp_path: Path) -> None:
    write_video(tmp_path / "videos/talk.mp4", drawings.images[MOUTHS], tone(60))
    prepared = prepare(tmp_path / "videos", tmp_path / "out")
    assert (prepared.clips, prepared.frames_without_face) == (1, 0)
    clip = only_clip(tmp_path / "out")
    _, truth, _ = draw_window(BUNDLED["ben"], FaceState())
    eyes = [marks[36:48].reshape(2, 6, 2).mean(axis=1) for marks in (clip.landmarks[0], truth)]
    assert np.abs(eyes[0] - eyes[1]).max() < 10
    assert np.corrcoef(clip.opening, drawings.opening[MOUTHS])[0, 1] > 0.95


def test_landmarks_of_a_mean_face_are_opened_by_what_the_pixels_show() -> None:
    windows, landmarks, openings = zip(*[draw_window(BUNDLED["ben"], FaceState(jaw=jaw)) for jaw in JAWS], strict=True)
    mean_face = np.stack([landmarks[0]] * len(JAWS))
    opened, opening = mouth_openings(np.stack(windows), mean_face, np.ones(len(JAWS), bool))
    np.testing.assert_allclose(opening, openings, atol=0.08)
    gaps = opened[:, 66, 1] - opened[:, 62, 1]
    true_gaps = np.stack(landmarks)[:, 66, 1] - np.stack(landmarks)[:, 62, 1]
    assert np.corrcoef(gaps, true_gaps)[0, 1] > 0.95
    still = [*range(5), *range(12, 55), *range(60, 65)]
    np.testing.assert_array_equal(opened[:, still], mean_face[:, still])


def test_frames_without_a_face_are_counted_and_serve_nobody(drawings: Drawings, tmp_path: Path) -> None:
    landmarks = drawings.landmarks[MOUTHS].copy()
    landmarks[10:20] = np.nan
    landmarks[40:44] = 0
    images = drawings.images[MOUTHS].copy()
    images[10:20, 130:170, 110:150] = (0, 255, 0)
    write_video(tmp_path / "videos/a.mp4", images, tone(60), landmarks)
    prepared = prepare(tmp_path / "videos", tmp_path / "out")
    assert (prepared.frames, prepared.frames_without_face) == (60, 14)
    clip = only_clip(tmp_path / "out")
    assert np.flatnonzero(~clip.found).tolist() == [*range(10, 20), *range(40, 44)]
    assert np.isfinite(clip.landmarks).all()
    with np.load(tmp_path / "out/faces/own-000.npz") as shard:
        used = shard["windows"].astype(int)
    green = [(images[..., 1] - images[..., 0]).max() for images in (used, clip.windows.astype(int))]
    assert green[0] < 100 < green[1]


def test_a_face_in_too_few_frames_is_refused_with_the_count(drawings: Drawings, tmp_path: Path) -> None:
    landmarks = drawings.landmarks[MOUTHS].copy()
    landmarks[20:] = np.nan
    write_video(tmp_path / "videos/a.mp4", drawings.images[MOUTHS], tone(60), landmarks)
    prepared = prepare(tmp_path / "videos", tmp_path / "out")
    assert prepared.clips == 0
    assert prepared.refused[0].reason == "a face in only 20 of 60 frames looked at"
    assert load_own_clips(tmp_path / "out") == []


def test_the_crop_stays_with_the_person_seen_most(drawings: Drawings, tmp_path: Path) -> None:
    images = np.full((60, 256, 600, 3), 128, np.uint8)
    images[:, :, :256] = drawings.images[MOUTHS]
    landmarks = drawings.landmarks[MOUTHS]
    write_video(tmp_path / "one/a.mp4", images, tone(60), landmarks)
    passing = landmarks.copy()
    passing[50:] = landmarks[50:] * 0.5 + [400, 60]
    write_video(tmp_path / "two/a.mp4", images, tone(60), passing)
    for name in ("one", "two"):
        prepare(tmp_path / name, tmp_path / f"out-{name}")
    one, two = (only_clip(tmp_path / f"out-{name}") for name in ("one", "two"))
    np.testing.assert_array_equal(one.windows[:40], two.windows[:40])


def test_a_new_scene_begins_a_new_clip_and_a_short_one_is_left_out(drawings: Drawings, tmp_path: Path) -> None:
    talk, slide = drawings.images[MOUTHS], np.full((10, 256, 256, 3), 20, np.uint8)
    images = np.concatenate([talk, slide, 255 - talk[:55]])
    landmarks = np.concatenate([drawings.landmarks[MOUTHS], np.zeros((10, 68, 2)), drawings.landmarks[MOUTHS[:55]]])
    write_video(tmp_path / "videos/a.mp4", images, tone(125), landmarks)
    prepared = prepare(tmp_path / "videos", tmp_path / "out")
    assert sorted(len(clip.windows) for clip in load_own_clips(tmp_path / "out")) == [55, 60]
    assert {int(clip.frame[0]) for clip in load_own_clips(tmp_path / "out")} == {0, 70}
    (left_out,) = prepared.left_out
    assert left_out.name == "a.mp4"
    assert left_out.reason.startswith("2.4 to 2.8 s: ")


def test_movement_and_flicker_are_no_scene_change() -> None:
    rng = np.random.default_rng(0)
    wide = cv2.GaussianBlur(rng.integers(0, 256, (120, 400, 3), np.uint8), (0, 0), 4)
    wide = cv2.normalize(wide, None, 0, 255, cv2.NORM_MINMAX)
    changes = SceneChanges()
    for index in range(60):
        frame = wide[:, 2 * index : 2 * index + 160] * (0.97 + 0.03 * np.sin(index))
        assert not changes.begins(frame.astype(np.uint8)), index
    assert changes.begins(255 - wide[:, 120:280])


def test_sound_and_picture_share_one_clock_where_one_begins_late(drawings: Drawings, tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mp4", drawings.images[MOUTHS], tone(60))

    def late(name: str, *maps: str) -> Path:
        inputs = ["-itsoffset", "0.4", "-i", source, "-i", source]
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", *inputs, *maps, "-c", "copy", tmp_path / name]
        subprocess.run(command, check=True)
        return tmp_path / name

    sound_late = late("sound.mkv", "-map", "1:v", "-map", "0:a")
    samples = np.concatenate(list(stream_audio(sound_late)))
    assert abs(int(np.flatnonzero(np.abs(samples) > 0.05)[0]) - 6400) < 20
    picture_late = late("picture.mkv", "-map", "0:v", "-map", "1:a")
    frames = list(read_frames(picture_late, 25, on_clock=True))
    assert len(frames) == 70
    assert sum(1 for _ in read_frames(picture_late, 25)) == 60
    assert all(np.array_equal(frames[0], frame) for frame in frames[:11])


def test_a_file_that_ends_before_its_index_is_not_whole(made: Made) -> None:
    assert probe(made.folder / "talk.mp4").whole
    assert not probe(made.folder / "torn.mp4").whole


def test_pictures_with_text_landmarks_train_the_renderer_and_not_motion(drawings: Drawings, tmp_path: Path) -> None:
    root = tmp_path / "videos/training_samples"
    write_pictures(root, "WDA_One_000", drawings, (9, 10, 100, 140))
    (root / "raw_frames_25fps/WDA_Two_000").mkdir()
    prepared = prepare(tmp_path / "videos", tmp_path / "out")
    assert [item.name for item in prepared.refused] == ["training_samples/raw_frames_25fps/WDA_Two_000"]
    assert (prepared.clips, prepared.frames) == (1, 4)
    assert load_own_clips(tmp_path / "out") == []
    faces = load_faces(training_shards(tmp_path / "out/faces"))
    assert len(faces.windows) == 4
    assert (
        len(faces.reference_windows) == 2
    )  # the closed mouth of frame 9 is more than 3 s away from frames 100 and 140
    (root / "landmarks/WDA_One_000/WDA_One_000_10.txt").write_text("1 2\n" * 67)
    again = prepare(tmp_path / "videos", tmp_path / "out")
    assert "WDA_One_000_10.txt" in again.refused[0].reason


def test_a_tenth_of_the_videos_is_held_out_and_at_least_one_clip_of_five() -> None:
    def clips(videos: int, each: int) -> dict[str, str]:
        return {
            f"{(7 * k + 3) % 101:03d}-{part}": f"v{(7 * k) % 101:03d}" for k in range(videos) for part in range(each)
        }

    assert held_out({}) == held_out(clips(1, 4)) == set()
    assert len(held_out(clips(1, 5))) == 1
    assert len(held_out(clips(2, 20))) == 4
    for videos in (5, 19, 40):
        held = held_out(clips(videos, 3))
        assert len(held) == 3 * max(1, videos // 10)
        of_held = {video for name, video in clips(videos, 3).items() if name in held}
        assert all(name in held for name, video in clips(videos, 3).items() if video in of_held)


def test_held_out_clips_are_in_shards_of_their_own(drawings: Drawings, tmp_path: Path) -> None:
    for number in range(5):
        write_pictures(tmp_path / "videos", f"Clip_{number}", drawings, (0, 5, 10), number)
    prepared = prepare(tmp_path / "videos", tmp_path / "out")
    assert (prepared.clips, prepared.held_out) == (5, 1)
    shards = {path.name: load_faces([path]) for path in sorted((tmp_path / "out/faces").glob("*.npz"))}
    assert {name: len(faces.windows) for name, faces in shards.items()} == {"held-own-000.npz": 3, "own-000.npz": 12}
    identities = [set(faces.reference_identity.tolist()) for faces in shards.values()]
    assert [len(found) for found in identities] == [1, 4]
    assert not identities[0] & identities[1]


def test_a_clip_becomes_features_latents_and_references_for_motion(made: Made) -> None:
    torch.manual_seed(0)
    renderer = Renderer(TINY).eval()
    clip = load_own_clips(made.out)[0]
    speech = own_speech(clip, renderer, references=3)
    assert speech.features.shape == (2 * len(clip.windows), 80)
    assert speech.latents.shape == (60, TINY.style)
    assert bool(speech.found.all())
    closed = [k for k in range(60) if clip.opening[k] < 0.01]
    assert len(speech.references) == 3
    for reference in speech.references:
        assert (speech.latents[closed] - reference).abs().amax(dim=1).min() < 1e-5
    found = clip.found.copy()
    found[20:23] = False
    hidden = OwnClip(**{**vars(clip), "found": found})
    between = own_speech(hidden, renderer).latents
    torch.testing.assert_close(between[21], (speech.latents[19] + speech.latents[23]) / 2)


def test_a_published_renderer_does_not_encode_windows(made: Made) -> None:
    config = RendererConfig(
        base=32, widths=(32, 32), encoder_widths=(32, 32), blocks=1, attention_levels=(), encoder_attention_levels=(),
        time=32, style=16,
    )  # fmt: skip
    with pytest.raises(SettingsError, match="windows"):
        own_speech(load_own_clips(made.out)[0], Renderer(config))


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("flows.cli.terminate_as_interrupt", lambda: None)
    monkeypatch.setattr(sys, "argv", ["avatarlab", "train", "prepare", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


def test_the_command_says_what_was_used_and_what_was_refused(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    videos, out = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    (videos / "text.mp4").write_text("no video")
    assert run(monkeypatch, videos, "--out", out, "--json") == 1
    assert json.loads(capfd.readouterr().out)["refused"][0]["name"] == "text.mp4"
    (few / "text.mp4").write_text("no video")
    assert run(monkeypatch, few, "--out", out, "--json") == 0
    said = json.loads(capfd.readouterr().out)
    assert (said["clips"], said["made"], said["frames"], len(said["refused"])) == (2, 2, 12, 1)
    assert run(monkeypatch, few, "--out", out) == 0
    captured = capfd.readouterr()
    assert "2 clips (0 held out) of 2 videos: 12 frames, 0 without a face; 1 refused" in captured.out
    assert "text.mp4: refused: text.mp4 cannot be read as sound or video" in captured.err


def test_a_folder_without_videos_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, tmp_path / "nowhere", "--out", tmp_path / "out") == 2
    with pytest.raises(InputError, match="no video in"):
        prepare(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "a.mp4").touch()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be made"):
        prepare(tmp_path, tmp_path / "file")


def test_motion_learns_from_filmed_clips_where_a_face_was_seen() -> None:
    torch.manual_seed(0)
    config = MotionConfig(width=64, style=8, layers=1, features=80, reference_blocks=1, speech_blocks=1,
                          decoder_blocks=1, heads=2, inner=64, kernel=5, residual=True)  # fmt: skip
    motion = Motion(config)
    found = torch.ones(60, dtype=torch.bool)
    found[20:30] = False
    latents = torch.randn(60, 8)
    clip = OwnSpeech(torch.randn(120, 80), latents, torch.randn(5, 8), found)
    loss = filmed_loss(motion, [clip, clip], 1.0, np.random.default_rng(0))
    spoilt = latents.clone()
    spoilt[21:29] = 1e6
    unseen = replace(clip, latents=spoilt)
    assert filmed_loss(motion, [unseen, unseen], 1.0, np.random.default_rng(0)) == loss
    optimiser = torch.optim.Adam(motion.parameters(), lr=3e-3)
    for step in range(30):
        optimiser.zero_grad()
        now = filmed_loss(motion, [clip, clip], 1.0, np.random.default_rng(step))
        now.backward()
        optimiser.step()
    assert float(now.detach()) < 0.7 * float(loss.detach())
