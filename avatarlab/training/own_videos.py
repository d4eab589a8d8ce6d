"""Anyone's own talking-head videos as training data for the renderer and for motion (spec diffdub 4).

    OUT/own/clip-<digest>.npz     up to 12 s of one face      OUT/own/video-<digest>.json   which clips a video gave
    OUT/faces/own-NNN.npz         windows and references of those clips, in the format of the face corpus
    OUT/faces/held-own-NNN.npz    the same of clips that are never trained on

A clip holds

    windows     uint8 (f,168,168,3)   RGB, `CORPUS_MARGIN` wider than the window the renderer draws
    landmarks   float32 (f,68,2)      window pixels; where no face was seen, those of the nearest frame
    found       bool (f,)             a face was seen
    opening     float32 (f,)          gap between the lips over the width of the mouth at rest
    frame       int32 (f,)            number of the frame in its video, at 25 fps
    waveform    int16 (s,)            16 kHz, s = 640 f, on the clock of the frames; empty where there is no sound
    source, video                     name and content digest of the video

What a folder may hold: videos with sound, each with or without its landmarks in NAME.landmarks.npy (float (f,68,2) in
pixels of the picture, a row for each frame; zeros or nan where there is no face); and the layout of DiffDub's published
training samples, raw_frames_25fps/CLIP/CLIP_N.png beside landmarks/CLIP/CLIP_N.txt (68 lines "x y"), which has no sound
and so serves the renderer alone. Two passes over each video, so memory does not grow with its length: the first finds
scene changes and samples faces, the second tracks landmarks and cuts windows, clip by clip.
"""

import hashlib
import json
import os
import re
import struct
import zipfile
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Int16, UInt8
from torch import Tensor

from avatarlab import FPS, SAMPLES_PER_VIDEO_FRAME
from avatarlab.errors import AvatarLabError, InputError, SettingsError
from avatarlab.lips import face
from avatarlab.lips.diffdub import Renderer
from avatarlab.lips.features import log_mel
from avatarlab.lips.mask import CORPUS_MARGIN, cut_window, mouth_windows, smoothed, to_window
from avatarlab.media import probe, read_frames, read_image, stream_audio
from avatarlab.training.face_corpus import WINDOW_PX
from avatarlab.training.loop import Progress
from avatarlab.training.mouth_latents import encode_windows
from avatarlab.training.mouth_opening import measure_mouth_opening

VERSION = 1  # of what is cut from a video: raise it when clips change
SUFFIXES = (".mp4", ".mov", ".webm", ".mkv", ".avi")
SHORTEST_FRAMES = 2 * FPS
CLIP_FRAMES = 12 * FPS
SMALLEST_EYE_PX = 32.0  # between the eyes; windows are drawn at 72
SEEN_SHARE = 0.5  # of the frames of a clip, sampled and tracked
CROP_RATIO = 2.0  # of the box of the landmarks: wider than the published 1.6, for the window reaches below the chin
CROP_PX = 384
STEADY_FRAMES = 1.0
WINDOW_EVERY = 5  # frames between windows that the renderer is trained on
REFERENCE_FRAMES = 3 * FPS  # a reference is at most so far from its window
CLIPS_PER_SHARD = 16
FIRST_OWN_IDENTITY, FIRST_HELD_OWN_IDENTITY = 1_000_000, 2_000_000

_SCENE_LEVELS = 12.0  # of 255: mean shift of the brightness histograms at a scene change
_SCENE_RATIO = 4.0  # and against what the frames before changed
_SILENT_LEVEL = 1e-3  # peak of a sound track that nobody speaks in
_LIPS_STILL = 0.03  # inner gap over mouth width: landmarks that vary less do not see the lips
_LOWER = (*range(5, 12), *range(55, 60), *range(65, 68))  # jaw and lower lip move together
_FRAME_NUMBER = re.compile(r"(\d+)\.png$")

Frame = UInt8[np.ndarray, "h w 3"]
Points = Float[np.ndarray, "n 68 2"]


@dataclass(frozen=True)
class Refused:
    name: str
    reason: str


@dataclass(frozen=True)
class Prepared:
    """What became of a folder. `left_out` are parts of videos that were used otherwise; `made` counts new clips."""

    videos: int
    clips: int
    made: int
    held_out: int
    frames: int
    frames_without_face: int
    refused: tuple[Refused, ...]
    left_out: tuple[Refused, ...]


@dataclass(frozen=True)
class OwnClip:
    """One clip; `windows` stay on disk until they are looked at."""

    waveform: Float32[np.ndarray, "s"]
    windows: UInt8[np.ndarray, "f side side 3"]
    landmarks: Float32[np.ndarray, "f 68 2"]
    found: Bool[np.ndarray, "f"]
    opening: Float32[np.ndarray, "f"]
    frame: Int[np.ndarray, "f"]
    source: str
    video: str


@dataclass(frozen=True)
class OwnSpeech:
    """What motion learns from a clip: hear `features`, tell `latents`, with `references` as memory."""

    features: Float[Tensor, "t50 80"]  # two for each video frame
    latents: Float[Tensor, "f z"]  # between seen frames where no face was seen
    references: Float[Tensor, "r z"]  # the most closed mouths
    found: Bool[Tensor, "f"]


class _Refusal(Exception):
    """Why a video, or a part of one, cannot be used."""


# --- what a folder holds ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Source:
    """A video, or a folder of pictures with landmarks. `number` is empty where frames follow one another."""

    content: str  # sha256 of the pictures
    frames: Callable[[], Generator[Frame, None, None]]
    sound: Path | None
    native_frames: int
    number: Sequence[int] = ()
    given: tuple[Points, Bool[np.ndarray, "n"]] | None = None
    landmarks: str = ""  # sha256 of the landmarks given


def _names(folder: Path) -> list[Path]:
    """Videos and folders of pictures, sorted; hidden files and links to folders are passed over."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        here = Path(parent)
        if here.parent.name == "raw_frames_25fps":
            found.append(here)
        found += [here / name for name in files if not name.startswith(".") and name.lower().endswith(SUFFIXES)]
    return sorted(path for path in found if path.is_dir() or path.is_file())


def _shown(path: Path, folder: Path) -> str:
    """A name that can be printed, whatever bytes it has."""
    return _printable(path.relative_to(folder).as_posix())


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _digest(paths: Sequence[Path]) -> str:
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def _open(path: Path) -> _Source:
    """Raises _Refusal, MediaError or OSError for what cannot be read."""
    return _open_pictures(path) if path.is_dir() else _open_video(path)


def _open_video(path: Path) -> _Source:
    info = probe(path)
    if not info.frame_count:
        raise _Refusal("it has no picture")
    if not info.has_audio:
        raise _Refusal("it has no sound")
    if not info.whole:
        raise _Refusal("the file ends early: copy it again")
    side_file = path.with_name(f"{path.stem}.landmarks.npy")
    has_landmarks = side_file.is_file()

    def frames() -> Generator[Frame, None, None]:
        yield from read_frames(path, FPS, on_clock=True)

    return _Source(
        _digest([path]),
        frames,
        path,
        info.frame_count,
        given=_read_landmarks(side_file) if has_landmarks else None,
        landmarks=_digest([side_file]) if has_landmarks else "",
    )


def _read_landmarks(path: Path) -> tuple[Points, Bool[np.ndarray, "n"]]:
    try:
        values = np.asarray(np.load(path, allow_pickle=False), np.float32)
    except (ValueError, TypeError, OSError, EOFError) as error:
        raise _Refusal(f"its landmarks cannot be read: {error}") from error
    if values.ndim != 3 or values.shape[1:] != (68, 2):
        raise _Refusal(f"its landmarks have the shape {values.shape}, not (frames, 68, 2)")
    return _completed(values)


def _completed(values: Points) -> tuple[Points, Bool[np.ndarray, "n"]]:
    """Landmarks with those of the nearest seen frame where there are none, and where there were some."""
    found = np.isfinite(values).all(axis=(1, 2)) & values.any(axis=(1, 2))
    if not found.any():
        return np.zeros_like(values), found
    return values[_nearest(found)], found


def _nearest(found: Bool[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    seen = np.flatnonzero(found)
    after = np.searchsorted(seen, np.arange(len(found))).clip(max=len(seen) - 1)
    before = (after - 1).clip(min=0)
    index = np.arange(len(found))
    return np.where(np.abs(index - seen[before]) <= np.abs(seen[after] - index), seen[before], seen[after])


def _open_pictures(folder: Path) -> _Source:
    numbered = sorted(
        (int(match[1]), path)
        for path in folder.iterdir()
        if not path.name.startswith(".") and path.is_file() and (match := _FRAME_NUMBER.search(path.name))
    )
    if len(numbered) < 2:
        raise _Refusal("it has fewer than two numbered PNG pictures")
    pictures = [path for _, path in numbered]
    marks = folder.parent.parent / "landmarks" / folder.name
    texts = [marks / f"{path.stem}.txt" for path in pictures]
    there = [path for path in texts if path.is_file()]

    def frames() -> Generator[Frame, None, None]:
        shape = None
        for path in pictures:
            image = read_image(path)
            if shape not in (None, image.shape):
                raise _Refusal("its pictures differ in size")
            shape = image.shape
            yield image

    return _Source(
        _digest(pictures),
        frames,
        None,
        len(pictures),
        [number for number, _ in numbered],
        _completed(np.stack([_read_text(path) for path in texts])) if there else None,
        _digest(there) if there else "",
    )


def _read_text(path: Path) -> Float32[np.ndarray, "68 2"]:
    """68 lines "x y"; zeros where there is no file."""
    if not path.is_file():
        return np.zeros((68, 2), np.float32)
    try:
        values = np.array([line.split() for line in path.read_text().split("\n") if line.strip()], np.float32)
    except ValueError:
        values = np.zeros(0, np.float32)
    if values.shape != (68, 2):
        raise _Refusal(f"its landmarks {path.name} are not 68 lines of x and y")
    return values


# --- first pass: scenes, sampled faces, length of the sound ----------------------------------------------------------


@dataclass(frozen=True)
class _Survey:
    count: int  # frames that can be used: there is sound to them
    size: tuple[int, int]  # width and height
    cuts: tuple[int, ...]  # first frames of new scenes
    sampled: Int[np.ndarray, "k"]
    points: Points  # (k, 68, 2), of the sampled frames
    seen: Bool[np.ndarray, "k"]


def _survey(source: _Source) -> _Survey:
    heard = -1 if source.sound is None else _sound_frames(source.sound)
    changes, count, size = SceneChanges(), 0, (0, 0)
    cuts, sampled, shapes = [], [], []
    with closing(source.frames()) as frames:
        for index, image in enumerate(frames):
            count, size = index + 1, (image.shape[1], image.shape[0])
            if not source.number and changes.begins(image):
                cuts.append(index)
            if source.given is None and index % FPS == 0:
                shape = face.find_landmarks(image)
                sampled.append(index)
                shapes.append(np.zeros((68, 2), np.float32) if shape is None else shape)
    if source.given is None:
        at, points = np.array(sampled), np.stack(shapes)
        seen = np.asarray(points.any(axis=(1, 2)))
    else:
        at = np.arange(count)
        points, seen = _at_frames(source.given, count, source.native_frames)
    if source.sound is not None:
        count = min(count, heard)
        if count < SHORTEST_FRAMES:
            raise _Refusal(f"it is shorter than {SHORTEST_FRAMES // FPS} s")
    return _Survey(count, size, tuple(cuts), at, points, seen)


def _sound_frames(path: Path) -> int:
    """How many video frames the sound lasts, the last one begun; raises _Refusal for a silent one."""
    samples, peak = 0, 0.0
    with closing(_pieces(path)) as pieces:
        for piece in pieces:
            samples += len(piece)
            peak = max(peak, float(np.abs(piece).max(initial=0)))
    if peak < _SILENT_LEVEL:
        raise _Refusal("its sound is silent")
    return -(-samples // SAMPLES_PER_VIDEO_FRAME)


def _at_frames(
    given: tuple[Points, Bool[np.ndarray, "n"]], count: int, native: int
) -> tuple[Points, Bool[np.ndarray, "count"]]:
    """Given landmarks at `count` frames of 25 fps: they are for those frames, or for the `native` ones of the file."""
    points, found = given
    if abs(len(points) - count) <= 1:
        at = np.arange(count).clip(max=len(points) - 1)
    elif len(points) == native:
        at = np.linspace(0, native - 1, count).round().astype(int)
    else:
        raise _Refusal(f"it has landmarks for {len(points)} frames, and {count} frames")
    return points[at], found[at]


class SceneChanges:
    """Tells, frame by frame, where a new scene begins: the histograms of nine parts of the picture jump."""

    def __init__(self) -> None:
        self._last: np.ndarray | None = None
        self._usual: list[float] = []

    def begins(self, image: Frame) -> bool:
        small = cv2.resize(image, (48, 48), interpolation=cv2.INTER_AREA).astype(np.float32)
        parts = small.reshape(3, 16, 3, 16, 3).transpose(0, 2, 4, 1, 3).reshape(27, 256)
        # The mean distance of sorted values is how far one histogram has to be moved to become the other.
        now = np.sort(parts, axis=1)
        if self._last is None:
            self._last = now
            return False
        change = float(np.abs(now - self._last).mean())
        self._last = now
        usual = float(np.median(self._usual)) if self._usual else 0.0
        if change > max(_SCENE_LEVELS, _SCENE_RATIO * usual):
            self._usual = []
            return True
        self._usual = [*self._usual[1 - FPS // 2 :], change]
        return False


# --- second pass: clips ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """Frames [first, last) of a video, and the rectangle around the face that is kept of them all."""

    first: int
    last: int
    x: slice
    y: slice
    scale: float  # of the pixels kept


def _parts(survey: _Survey, shortest: int) -> Iterator[tuple[int, int, _Part | str]]:
    """Shots cut into equal parts of at most CLIP_FRAMES: how to cut each, or why it is left out."""
    for begin, end in zip((0, *survey.cuts), (*survey.cuts, survey.count), strict=True):
        end = min(end, survey.count)
        if begin >= end:
            continue
        edges = np.linspace(begin, end, -(-(end - begin) // CLIP_FRAMES) + 1).round().astype(int).tolist()
        for first, last in pairwise(edges):
            if last - first < shortest:
                yield first, last, f"the scene is shorter than {SHORTEST_FRAMES // FPS} s"
                continue
            inside = (survey.sampled >= first) & (survey.sampled < last)
            yield first, last, _placed(first, last, survey.points[inside], survey.seen[inside], survey.size)


def _placed(first: int, last: int, points: Points, seen: Bool[np.ndarray, "n"], size: tuple[int, int]) -> _Part | str:
    """One fixed crop from the median box of the sampled faces; of several people, the one seen most often."""
    if not seen.any():
        return "no face was found"
    if seen.mean() <= SEEN_SHARE:
        return f"a face in only {int(seen.sum())} of {len(seen)} frames looked at"
    shapes = _one_person(points[seen])
    eyes = shapes[:, 42:48].mean(axis=1) - shapes[:, 36:42].mean(axis=1)
    distance = float(np.median(np.linalg.norm(eyes, axis=1)))
    if distance < SMALLEST_EYE_PX:
        return f"the eyes are {distance:.0f} pixels apart, and {SMALLEST_EYE_PX:.0f} are needed"
    low, high = np.median(shapes.min(axis=1), axis=0), np.median(shapes.max(axis=1), axis=0)
    side = CROP_RATIO * float((high - low).max())
    width, height = size
    spans = []
    for middle, limit in zip((low + high) / 2, (width, height), strict=True):
        spans.append(slice(max(0, int(middle - side / 2)), min(limit, int(np.ceil(middle + side / 2)))))
        if spans[-1].stop - spans[-1].start < SMALLEST_EYE_PX:
            return "the face lies outside the picture"
    return _Part(first, last, spans[0], spans[1], min(1.0, CROP_PX / side))


def _one_person(shapes: Points) -> Float[np.ndarray, "m 68 2"]:
    """The faces whose boxes overlap with that of the face which most others overlap with; of equals the widest."""
    low, high = shapes.min(axis=1), shapes.max(axis=1)
    shared = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)
    common = shared.clip(min=0).prod(axis=2)
    area = (high - low).prod(axis=1)
    same = common > 0.2 * (area[:, None] + area - common)
    best = np.lexsort(((high - low)[:, 0], same.sum(axis=1)))[-1]
    return shapes[same[best]]


def _cut_part(
    source: _Source, survey: _Survey, part: _Part, crops: UInt8[np.ndarray, "f h w 3"]
) -> dict[str, np.ndarray]:
    """Everything a clip holds but its sound; raises _Refusal where the face is hidden too often."""
    if source.given is None:
        tracked, found = face.track_landmarks(crops)
        points = steady = smoothed(tracked, STEADY_FRAMES)
    else:
        corner = np.array([part.x.start, part.y.start])
        inside = slice(part.first, part.last)
        points = ((survey.points[inside] + 0.5 - corner) * part.scale - 0.5).astype(np.float32)
        found = survey.seen[inside]
        steady = smoothed(points, STEADY_FRAMES)
    if found.mean() <= SEEN_SHARE:
        raise _Refusal(f"a face in only {int(found.sum())} of {len(found)} frames")
    centers, side = mouth_windows(steady)
    side *= CORPUS_MARGIN
    places = [(float(x), float(y)) for x, y in centers]
    windows = np.stack([cut_window(image, at, side, WINDOW_PX) for image, at in zip(crops, places, strict=True)])
    marks = np.stack([to_window(shape, at, side, WINDOW_PX) for shape, at in zip(points, places, strict=True)])
    marks, opening = mouth_openings(windows, marks, found)
    number = np.asarray(source.number or range(survey.count), np.int32)[part.first : part.last]
    return {"windows": windows, "landmarks": marks, "found": found, "opening": opening, "frame": number}


def mouth_openings(
    windows: UInt8[np.ndarray, "f side side 3"], landmarks: Float32[np.ndarray, "f 68 2"], found: Bool[np.ndarray, "f"]
) -> tuple[Float32[np.ndarray, "f 68 2"], Float32[np.ndarray, "f"]]:
    """Landmarks and the gap between the lips over the width of the mouth at rest.

    It is told by the inner lip landmarks. Where these do not move all through the clip, as those of a mean face do not,
    it is measured from the pixels, and the landmarks of lower lip and jaw are moved down by as much.
    """
    gap = np.linalg.norm(landmarks[:, 65:68] - landmarks[:, 63:60:-1], axis=2).mean(axis=1)
    width = np.linalg.norm(landmarks[:, 54] - landmarks[:, 48], axis=1)
    share = gap / np.maximum(width, 1e-6)
    if np.ptp(share[found]) >= _LIPS_STILL:
        closed = found & (share <= np.quantile(share[found], 0.25))
        return landmarks, (gap / max(float(np.median(width[closed])), 1e-6)).astype(np.float32)
    opening = np.array([measure_mouth_opening(image, marks) for image, marks in zip(windows, landmarks, strict=True)])
    across = landmarks[:, 42:48].mean(axis=1) - landmarks[:, 36:42].mean(axis=1)
    down = np.stack([-across[:, 1], across[:, 0]], axis=1) / np.maximum(np.linalg.norm(across, axis=1), 1e-6)[:, None]
    moved = landmarks.copy()
    moved[:, _LOWER] += ((opening * width)[:, None] * down)[:, None]
    return moved.astype(np.float32), opening.astype(np.float32)


class _Sound:
    """The samples of frames that are asked for in their order."""

    def __init__(self, pieces: Iterator[Float32[np.ndarray, "s"]]) -> None:
        self._pieces, self._rest, self._start = pieces, np.zeros(0, np.float32), 0

    def of(self, first: int, last: int) -> Int16[np.ndarray, "s"]:
        begin, end = first * SAMPLES_PER_VIDEO_FRAME, last * SAMPLES_PER_VIDEO_FRAME
        while self._start + len(self._rest) < end and (piece := next(self._pieces, None)) is not None:
            if (passed := begin - self._start) > 0:
                self._rest, self._start = self._rest[passed:], self._start + min(passed, len(self._rest))
            self._rest = np.concatenate([self._rest, piece])
        samples = self._rest[begin - self._start : end - self._start]
        samples = np.pad(samples, (0, end - begin - len(samples)))
        return np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)


# --- the folder ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Video:
    """The record of a video: its clips, their frames, frames without a face, and what was left out."""

    clips: Mapping[str, Sequence[int]]
    left_out: Sequence[str]
    made: int = 0


def prepare(folder: Path, out_dir: Path, progress: Progress = lambda _: None) -> Prepared:
    """Makes training data in OUT_DIR of every video in FOLDER and below; see the head of this file.

    Videos that cannot be used are refused by name and the rest goes on. Clips that exist are kept, so an interrupted
    call goes on where it stopped, and a second folder adds to the first. Raises InputError where FOLDER holds no video.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}", "name the folder that holds the videos")
    paths = _names(folder)
    if not paths:
        raise InputError(f"there is no video in {folder}", f"put files there that end in {', '.join(SUFFIXES)}")
    _folder(out_dir / "own")
    _folder(out_dir / "faces")
    used: dict[str, _Video] = {}
    names: dict[str, str] = {}
    refused, left_out = [], []
    for number, path in enumerate(paths, 1):
        name = _shown(path, folder)
        place = f"{number} of {len(paths)}: {name}: "
        try:
            source = _open(path)
            if source.content in names:
                raise _Refusal(f"it is the same as {names[source.content]}")
            video = _prepare_one(source, name, out_dir / "own")
        except InputError:
            raise
        except (_Refusal, AvatarLabError, OSError) as error:
            reason = _printable(error.message if isinstance(error, AvatarLabError) else str(error))
            refused.append(Refused(name, reason))
            progress(f"{place}refused: {reason}")
            continue
        names[source.content], used[source.content] = name, video
        left_out += [Refused(name, reason) for reason in video.left_out]
        frames, missing = (sum(column) for column in zip(*video.clips.values(), strict=True))
        kept = "" if video.made else ", kept"
        progress(f"{place}{len(video.clips)} clips{kept}, {frames} frames, {missing} without a face")
    held = _write_shards(out_dir, progress)
    clips = {clip: counts for video in used.values() for clip, counts in video.clips.items()}
    return Prepared(
        videos=len(used),
        clips=len(clips),
        made=sum(video.made for video in used.values()),
        held_out=len(held & set(clips)),
        frames=sum(frames for frames, _ in clips.values()),
        frames_without_face=sum(missing for _, missing in clips.values()),
        refused=tuple(refused),
        left_out=tuple(left_out),
    )


def _prepare_one(source: _Source, name: str, folder: Path) -> _Video:
    """The clips of a video, made or found; raises _Refusal where it gives none."""
    settings = f"{VERSION} {face.VERSION} {WINDOW_PX} {CORPUS_MARGIN:.6f} {source.landmarks}"
    video = source.content[:12]
    record_path = folder / f"video-{video}.json"
    record: dict[str, Any] = {"settings": "", "clips": {}}
    if record_path.exists():
        record = json.loads(record_path.read_text())
    if record["settings"] == settings and all((folder / clip).exists() for clip in record["clips"]):
        return _Video(record["clips"], record["left_out"])
    survey = _survey(source)
    clips: dict[str, Sequence[int]] = {}
    reasons, left_out, made, position = Counter[str](), [], 0, 0
    with closing(source.frames()) as frames, closing(_pieces(source.sound)) as pieces:
        sound = _Sound(pieces)
        for first, last, part in _parts(survey, 2 if source.number else SHORTEST_FRAMES):
            path = folder / f"clip-{_clip_digest(source.content, settings, first, last)}.npz"
            try:
                if isinstance(part, str):
                    raise _Refusal(part)
                if not path.exists():
                    crops = np.stack(
                        [_crop(image, part) for image in islice(frames, first - position, last - position)]
                    )
                    position = last
                    arrays = _cut_part(source, survey, part, crops)
                    wave = sound.of(first, last) if source.sound is not None else np.zeros(0, np.int16)
                    _write(path, {**arrays, "waveform": wave, "source": np.array(name), "video": np.array(video)})
                    made += 1
            except _Refusal as refusal:
                reasons[str(refusal)] += 1
                left_out.append(f"{first / FPS:.1f} to {last / FPS:.1f} s: {refusal}")
                continue
            with np.load(path) as clip:
                clips[path.name] = (last - first, int((~clip["found"]).sum()))
    if not clips:
        raise _Refusal(reasons.most_common(1)[0][0])
    content = {"settings": settings, "source": name, "clips": clips, "left_out": left_out}
    _replace(record_path, lambda partial: partial.write_text(json.dumps(content, indent=1)))
    for old in set(record["clips"]) - set(clips):
        (folder / old).unlink(missing_ok=True)
    return _Video(clips, left_out, made)


def _pieces(sound: Path | None) -> Generator[Float32[np.ndarray, "s"], None, None]:
    if sound is not None:
        yield from stream_audio(sound)


def _crop(image: Frame, part: _Part) -> UInt8[np.ndarray, "rows columns 3"]:
    cut = image[part.y, part.x]
    if part.scale == 1:
        return cut.copy()
    size = [max(1, round(length * part.scale)) for length in cut.shape[1::-1]]
    return cv2.resize(cut, size, interpolation=cv2.INTER_AREA)


def _clip_digest(*what: object) -> str:
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]


def _folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be made: {error.strerror}", "choose another folder with --out") from error


def _write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    _replace(path, lambda partial: np.savez(partial, allow_pickle=False, **arrays))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Complete or not at all."""
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        write(partial)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(f"{path} cannot be written: {error.strerror}", "free disk space, then run it again") from error


# --- shards for the renderer -----------------------------------------------------------------------------------------


def _write_shards(out_dir: Path, progress: Progress) -> set[str]:
    """Shards of all clips in OUT_DIR/own; those whose clips are the same are kept. Returns the held-out clips."""
    videos = {}
    for path in sorted((out_dir / "own").glob("clip-*.npz")):
        with np.load(path) as clip:
            videos[path.name] = str(clip["video"])
    held = held_out(videos)
    plan: dict[str, tuple[int, list[str]]] = {}
    for prefix, identity, names in (
        ("own", FIRST_OWN_IDENTITY, [name for name in videos if name not in held]),
        ("held-own", FIRST_HELD_OWN_IDENTITY, sorted(held)),
    ):
        for number, start in enumerate(range(0, len(names), CLIPS_PER_SHARD)):
            plan[f"{prefix}-{number:03d}.npz"] = (identity + start, names[start : start + CLIPS_PER_SHARD])
    faces, record_path = out_dir / "faces", out_dir / "own" / "shards.json"
    record = json.loads(record_path.read_text()) if record_path.exists() else {}
    wanted = {shard: names for shard, (_, names) in plan.items()}
    if record == wanted and all((faces / shard).exists() for shard in wanted):
        return held
    record_path.unlink(missing_ok=True)  # until all shards are there again, none is known
    for shard, (identity, names) in plan.items():
        if record.get(shard) != names or not (faces / shard).exists():
            parts = [_shard_part(_load(out_dir / "own" / name), identity + k) for k, name in enumerate(names)]
            _write(faces / shard, _joined(parts))
            progress(f"{shard}: windows of {len(names)} clips")
    for path in (*faces.glob("own-*.npz"), *faces.glob("held-own-*.npz")):
        if path.name not in plan:
            path.unlink()
    _replace(record_path, lambda partial: partial.write_text(json.dumps(wanted, indent=1)))
    return held


def held_out(videos: Mapping[str, str]) -> set[str]:
    """Of clips (name -> its video), those never trained on: a tenth of the videos, or of the clips where there are
    fewer than five videos; at least one of five. Names are digests, so most stay what they are when others come.
    """
    for units in (videos, {name: name for name in videos}):
        ordered = sorted(set(units.values()))
        if len(ordered) >= 5:
            chosen = ordered[: max(1, len(ordered) // 10)]
            return {name for name, unit in units.items() if unit in chosen}
    return set()


def _shard_part(clip: OwnClip, identity: int) -> dict[str, np.ndarray]:
    """Five windows a second, each with the most closed mouth within three seconds of it."""
    seen = np.flatnonzero(clip.found)
    shown = seen[np.unique(clip.frame[seen] // WINDOW_EVERY, return_index=True)[1]]
    closed = []
    for target in shown:
        away = np.abs(clip.frame[seen] - clip.frame[target])
        near = seen[away <= REFERENCE_FRAMES]
        level = np.round(clip.opening[near] / 0.02)
        closed.append(near[np.lexsort((away[away <= REFERENCE_FRAMES], level))[0]])
    references, owner = np.unique(closed, return_inverse=True)
    return {
        "windows": clip.windows[shown],
        "landmarks": clip.landmarks[shown],
        "opening": clip.opening[shown],
        "states": np.zeros((len(shown), 5), np.float32),
        "presenter": owner.astype(np.int32),
        "reference_windows": clip.windows[references],
        "reference_landmarks": clip.landmarks[references],
        "reference_identity": np.full(len(references), identity, np.int32),
    }


def _joined(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    offsets = np.cumsum([0, *(len(part["reference_windows"]) for part in parts)])
    shifted = [
        {**part, "presenter": (part["presenter"] + offset).astype(np.int32)}
        for part, offset in zip(parts, offsets, strict=False)
    ]
    return {name: np.concatenate([part[name] for part in shifted]) for name in parts[0]}


# --- clips for motion ------------------------------------------------------------------------------------------------


def load_own_clips(out_dir: Path, without_held_out: bool = False) -> list[OwnClip]:
    """The clips in OUT_DIR that have sound, in the order of their names; none where nothing was prepared."""
    clips = {path.name: _load(path) for path in sorted((out_dir / "own").glob("clip-*.npz"))}
    left_out = held_out({name: clip.video for name, clip in clips.items()}) if without_held_out else set()
    return [clip for name, clip in clips.items() if len(clip.waveform) and name not in left_out]


def _load(path: Path) -> OwnClip:
    with np.load(path) as clip:
        return OwnClip(
            waveform=clip["waveform"].astype(np.float32) / 32768,
            windows=_mapped(path, "windows"),
            landmarks=clip["landmarks"],
            found=clip["found"],
            opening=clip["opening"],
            frame=clip["frame"],
            source=str(clip["source"]),
            video=str(clip["video"]),
        )


def _mapped(path: Path, name: str) -> np.ndarray:
    """An array of an uncompressed .npz that is read from disk where it is looked at."""
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo(f"{name}.npy").header_offset
    with path.open("rb") as file:
        file.seek(offset + 26)  # of the local header: lengths of the name and of the extra field, then both
        file.seek(sum(struct.unpack("<HH", file.read(4))), os.SEEK_CUR)
        np.lib.format.read_magic(file)
        shape, _, kind = np.lib.format.read_array_header_1_0(file)
        return np.memmap(path, kind, "r", file.tell(), shape)


@torch.inference_mode()
def own_speech(clip: OwnClip, renderer: Renderer, references: int = 8) -> OwnSpeech:
    """A clip as motion is trained on it, encoded by the renderer's lip encoder. Raises SettingsError for a renderer
    that does not draw windows.
    """
    if renderer.config.window is None:
        raise SettingsError("this renderer does not draw mouth windows", "use one that `avatarlab train renderer` made")
    latents = encode_windows(renderer, clip.windows)
    seen = np.flatnonzero(clip.found)
    index = np.arange(len(latents))
    whole = np.stack([np.interp(index, seen, column) for column in latents[seen].T], axis=1).astype(np.float32)
    closed: list[int] = []
    for frame in seen[np.argsort(clip.opening[seen], kind="stable")]:
        if all(abs(frame - other) >= FPS // 2 for other in closed):
            closed.append(int(frame))
        if len(closed) == references:
            break
    features = log_mel(torch.from_numpy(clip.waveform))[0]
    return OwnSpeech(features, torch.from_numpy(whole), torch.from_numpy(latents[closed]), torch.from_numpy(clip.found))
