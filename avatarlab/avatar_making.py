"""Making a bundle out of a photograph or a video, a voice clip and what its person agreed to."""

import json
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from avatarlab import FPS, SAMPLE_RATE_HZ
from avatarlab import avatars as bundles
from avatarlab.avatar_checks import LARGEST_SIDE, SMALLEST_SIDE, Finding, check_avatar, face_place
from avatarlab.avatar_preview import draw_preview
from avatarlab.avatars import DEFAULT_BACKGROUND, Avatar, Consent, check_id, read_bundle
from avatarlab.errors import AvatarError, MediaError
from avatarlab.lips import face
from avatarlab.media import (
    VideoWriter,
    probe,
    read_alpha,
    read_alpha_frames,
    read_audio,
    read_frames,
    read_image,
    write_lossless,
    write_png,
    write_wav,
)

if TYPE_CHECKING:
    from avatarlab.speech.heard import Listener

PREVIEW = "preview.png"
SHORTEST_CUT_SECONDS = 3.0  # a clip that would be cut shorter than this for its size is scaled down instead
HIGHEST_VOICE_HZ = 48_000
CLIP_CRF = 15  # the picture is compressed once more in every video made of it
_PICTURE_STARTS = (b"\x89PNG", b"\xff\xd8\xff")
_BY_HAND = (
    "mark it by hand with --eyes X,Y,X,Y --mouth X,Y (eye centres, the one on the left first, and the middle between the "
    "lips) or --landmarks FILE (68 lines of x,y or an .npy, iBUG order), all in pixels of the picture"
)


@dataclass(frozen=True)
class FaceChoice:
    """Which face of the picture is meant, all in pixels of the upright picture; without any of them, the largest.

    `number` counts from the largest, 1. `at` is a point in the face. `points` are both eye centres, the one on the left
    of the picture first, and the middle of the line between the lips. `landmarks` is a file of 68 points, or 68 for each
    frame of a clip. The last two are of the first frame and need no face to be found."""

    number: int | None = None
    at: tuple[float, float] | None = None
    points: tuple[tuple[float, float], tuple[float, float], tuple[float, float]] | None = None
    landmarks: Path | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.number, self.at, self.points, self.landmarks) if value is not None]
        if len(given) > 1:
            raise AvatarError("the face is named in more than one way", "give one of --face, --eyes and --landmarks")


@dataclass(frozen=True)
class Words:
    """What a bundle says about its person. Everything but `name` and `background` has to be said."""

    transcript: str
    licence: str
    consent: Consent
    name: str = ""
    background: str = DEFAULT_BACKGROUND


@dataclass(frozen=True)
class Added:
    avatar: Avatar
    preview: Path
    findings: list[Finding]


@dataclass(eq=False)
class _Picture:
    """The picture while it becomes a bundle's."""

    frames: UInt8[np.ndarray, "n h w 3"]
    is_clip: bool
    matte: UInt8[np.ndarray, "n h w"] | None
    scale: float = 1.0  # of what was given; points given by hand are in pixels of that
    notes: list[Finding] = field(default_factory=list)


def add_avatar(
    root: Path,
    id: str,
    picture: Path,
    voice: Path,
    words: Words,
    *,
    choice: FaceChoice = FaceChoice(),
    preview_folder: Path = Path(),
    listener: "Listener | None" = None,
) -> Added:
    """Make the bundle `id` in the folder `root`, complete or not at all.

    A picture with opacity keeps it, one that was taken sideways is turned, a clip gets 25 frames a second and loses its
    sound; what is longer or larger than a bundle may be is cut or scaled, and said so among the findings. The bundle
    holds landmarks.npy and preview.png.

    Raises `AvatarError` for an id that is taken, words that are missing and everything that `check_avatar` calls an
    error. Where that is about the face, `<id>-preview.png` in `preview_folder` shows the picture as it was seen. Raises
    `MediaError` for files that cannot be read."""
    check_id(id)
    _check_words(words)
    if (root / id).exists():
        raise AvatarError(f"there is an avatar {id!r} in {root} already", "choose another name with --id")
    with _new_folder(root, id) as folder:
        read = _read_picture(picture)
        try:
            landmarks, found, chosen, boxes = _locate(read, picture.name, choice)
        except AvatarError as error:
            path = preview_folder / f"{id}-{PREVIEW}"
            write_png(path, draw_preview(read.frames[0], face.find_faces(read.frames[0])))
            raise AvatarError(f"{error.message}; {path} shows the picture as it was seen", error.remedy) from error
        _write_picture(folder, read, words.name or id)
        np.save(folder / "landmarks.npy", np.where(found[:, None, None], landmarks, np.nan).astype(np.float32))
        seen = int(found.argmax())
        preview = draw_preview(read.frames[seen], boxes, chosen, landmarks[seen])
        write_png(folder / PREVIEW, preview)
        _write_voice(folder, voice)
        (folder / "avatar.toml").write_text(_toml(id, words), "utf-8")
        findings = [*read.notes, *check_avatar(read_bundle(folder, id), listener)]
        for finding in findings:
            if finding.level == "error":
                where = ""
                if finding.what in ("face", "landmarks", "frames"):
                    path = preview_folder / f"{id}-{PREVIEW}"
                    write_png(path, preview)
                    where = f"; {path} shows what was seen"
                raise AvatarError(f"{finding.message}{where}", finding.remedy)
    return Added(read_bundle(root / id, id), root / id / PREVIEW, findings)


def id_of(picture: Path) -> str:
    """An id made of a file's name."""
    letters = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in picture.stem.lower())
    return "-".join(part for part in letters.split("-") if part)[:64]


@contextmanager
def _new_folder(root: Path, id: str) -> Iterator[Path]:
    """A folder under a temporary name; it gets its own when the block ends without an exception, else it goes."""
    temporary = root / f".{id}.{secrets.token_hex(4)}.tmp"
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise AvatarError(f"{root} cannot be written: {error}", "name another folder with --avatars") from error
    try:
        yield temporary
        try:
            temporary.rename(root / id)
        except OSError as error:  # another command was faster
            raise AvatarError(f"{root / id} cannot be made: {error}", "choose another name with --id") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_words(words: Words) -> None:
    consent = words.consent
    needed = {
        "--transcript": words.transcript,
        "--licence": words.licence,
        "--consent-who": consent.who,
        "--consent-purpose": consent.purpose,
        "--consent-when": consent.when,
    }
    missing = [flag for flag, value in needed.items() if not value.strip()]
    if missing:
        raise AvatarError(
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing",
            "say what the voice clip says, under which licence the picture is, and who agreed to what and when",
        )


def _toml(id: str, words: Words) -> str:
    def said(value: str) -> str:
        return json.dumps("".join(letter for letter in " ".join(value.split()) if letter.isprintable()))

    return (
        f"name = {said(words.name or id)}\n"
        f"licence = {said(words.licence)}\n"
        f"background = {said(words.background)}\n\n"
        f"[consent]\n"
        f"who = {said(words.consent.who)}\n"
        f"when = {said(words.consent.when)}\n"
        f"purpose = {said(words.consent.purpose)}\n\n"
        f"[voice]\n"
        f"transcript = {said(words.transcript)}\n"
    )


# --- picture ---------------------------------------------------------------------------------------------------------


def _read_picture(path: Path) -> _Picture:
    if not path.is_file():
        raise MediaError(f"there is no file {path}", "check the name")
    with path.open("rb") as file:
        start = file.read(16)
    if not start:
        raise MediaError(f"{path.name} is empty", "copy the file again")
    still = start.startswith(_PICTURE_STARTS) or (start[:4], start[8:12]) == (b"RIFF", b"WEBP")
    read = _read_still(path) if still else _read_clip(path)
    height, width = read.frames.shape[1:3]
    if min(height, width) < SMALLEST_SIDE:
        raise AvatarError(
            f"{path.name} has {width}x{height} pixels", f"use at least {SMALLEST_SIDE} on each side, best 512 and more"
        )
    return read


def _read_still(path: Path) -> _Picture:
    image, alpha = read_image(path), read_alpha(path)
    height, width = image.shape[:2]
    scale = min(1.0, LARGEST_SIDE / max(height, width))
    read = _Picture(image[None], False, None if alpha is None else alpha[None], scale)
    if scale < 1:
        size = (round(width * scale), round(height * scale))
        read.frames = cv2.resize(image, size, interpolation=cv2.INTER_AREA)[None]
        read.matte = None if alpha is None else cv2.resize(alpha, size, interpolation=cv2.INTER_AREA)[None]
        read.notes.append(
            Finding(
                "warning", "picture", f"scaled from {width}x{height} to {size[0]}x{size[1]} pixels, the most there is"
            )
        )
    read.frames = _even(read.frames)
    read.matte = None if read.matte is None else _even(read.matte)
    return read


def _read_clip(path: Path) -> _Picture:
    try:
        info = probe(path)
    except MediaError as error:
        raise MediaError(
            f"{path.name} is neither a picture (PNG, JPEG, WebP) nor a video that can be read",
            "save it as PNG, JPEG or MP4",
        ) from error
    if not info.frame_count and not info.has_audio:
        raise MediaError(f"{path.name} is damaged: not one frame is in it", "copy the file again")
    if not info.frame_count:
        raise AvatarError(f"{path.name} holds sound but no picture", "give a photograph or a video of a face")
    first = next(read_frames(path))  # turned as its metadata say, unlike what `info` counts
    height, width = first.shape[0] // 2 * 2, first.shape[1] // 2 * 2
    wanted = max(1, round(info.video_seconds * FPS))
    least = min(wanted, round(SHORTEST_CUT_SECONDS * FPS))
    limit = bundles.MAX_CLIP_BYTES
    scale = min(1.0, LARGEST_SIDE / max(height, width), (limit / (3 * height * width * least)) ** 0.5)
    size = (width, height) if scale == 1 else (int(width * scale) // 2 * 2, int(height * scale) // 2 * 2)
    most = max(1, limit // (3 * size[0] * size[1]))

    def kept(frames: Iterator[np.ndarray]) -> np.ndarray:
        taken = (frame[:height, :width] for frame in islice(frames, most))
        return np.stack([f if scale == 1 else cv2.resize(f, size, interpolation=cv2.INTER_AREA) for f in taken])

    fps = FPS if info.video_seconds * FPS >= 1 else None  # of less than a frame, none would be left
    frames, matte = kept(read_frames(path, fps)), kept(read_alpha_frames(path, fps))
    read = _Picture(frames, True, None if bool((matte == 255).all()) else matte, scale)
    if scale < 1:
        read.notes.append(
            Finding(
                "warning", "picture", f"scaled from {width}x{height} to {size[0]}x{size[1]} pixels, to fit into memory"
            )
        )
    if wanted > len(frames) + 1:
        read.notes.append(
            Finding(
                "warning",
                "picture",
                f"cut to its first {len(frames) / FPS:.1f} of {wanted / FPS:.1f} seconds, to fit into memory",
                "scale it down to keep more",
            )
        )
    return read


def _even(frames: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2])


def _write_picture(folder: Path, read: _Picture, name: str) -> None:
    if not read.is_clip:
        shown = read.frames[0] if read.matte is None else np.dstack([read.frames[0], read.matte[0]])
        write_png(folder / "picture.png", shown)
        return
    height, width = read.frames.shape[1:3]
    with VideoWriter(folder / "picture.mp4", width, height, title=name, crf=CLIP_CRF, comment="") as writer:
        for frame in read.frames:
            writer.write_frame(frame)
    if read.matte is not None:
        write_lossless(folder / "matte.mp4", read.matte)


def _write_voice(folder: Path, voice: Path) -> None:
    info = probe(voice)
    if not info.has_audio:
        raise AvatarError(f"{voice.name} holds no sound", "give a recording of one person speaking for 5 to 10 s")
    rate = min(max(info.sample_rate_hz, SAMPLE_RATE_HZ), HIGHEST_VOICE_HZ)
    write_wav(folder / "voice.wav", read_audio(voice, rate), rate)


# --- face ------------------------------------------------------------------------------------------------------------


def _locate(
    read: _Picture, name: str, choice: FaceChoice
) -> tuple[Float32[np.ndarray, "n 68 2"], Bool[np.ndarray, "n"], face.FaceBox | None, Sequence[face.FaceBox]]:
    """Landmarks of every frame, where they were found, the box that was taken, and all boxes of that frame."""
    count = len(read.frames)
    if choice.landmarks is not None or choice.points is not None:
        given = _given_landmarks(choice, count) * np.float32(read.scale)
        boxes = face.find_faces(read.frames[0])
        if len(given) == count:
            return given, np.ones(count, bool), None, boxes
        landmarks, found = face.track_landmarks(read.frames, start=given[0])
        return landmarks, found, None, boxes
    near = None if choice.at is None else (choice.at[0] * read.scale, choice.at[1] * read.scale)
    if choice.number is not None:
        boxes = _first_boxes(read.frames, choice.number)
        if not boxes:
            raise AvatarError(f"no frame of {name} has {choice.number} faces", "look at the numbers in the preview")
        near = boxes[choice.number - 1].center
    landmarks, found = face.track_landmarks(read.frames, near=near)
    if not found.any():
        if choice.at is not None:
            raise AvatarError(f"no face was found at {choice.at[0]:.0f},{choice.at[1]:.0f} in {name}", _BY_HAND)
        raise AvatarError(f"no face was found in {name}", _BY_HAND)
    seen = int(found.argmax())
    boxes = face.find_faces(read.frames[seen])
    read.notes.append(Finding("ok", "face", f"found by {face.finder()}"))
    x, y = (float(value) for value in landmarks[seen, 27:48].mean(0))
    number = next((number for number, box in enumerate(boxes, 1) if box.holds(x, y)), None)
    if number is not None and len(boxes) > 1 and near is None:
        read.notes.append(
            Finding(
                "warning",
                "faces",
                f"there are {len(boxes)} faces; the largest is taken: {face_place(boxes, number)}",
                "name another one with --face",
            )
        )
    return landmarks, found, None if number is None else boxes[number - 1], boxes


def _first_boxes(frames: UInt8[np.ndarray, "n h w 3"], number: int) -> list[face.FaceBox]:
    """Of the first frame looked at that has as many faces."""
    for frame in frames[:: face.SEARCH_EVERY]:
        boxes = face.find_faces(frame)
        if len(boxes) >= number >= 1:
            return boxes
    return []


def _given_landmarks(choice: FaceChoice, count: int) -> Float32[np.ndarray, "m 68 2"]:
    if choice.points is not None:
        try:
            return face.fit_landmarks(*choice.points)[None]
        except ValueError as error:
            raise AvatarError(f"--eyes and --mouth are no face: {error}", _BY_HAND) from error
    path = choice.landmarks
    assert path is not None
    try:
        with path.open("rb") as file:
            is_array = file.read(6) == b"\x93NUMPY"
        points = np.load(path, allow_pickle=False) if is_array else np.loadtxt(path, delimiter=",", ndmin=2)
    except FileNotFoundError as error:
        raise AvatarError(f"there is no file {path}", "check --landmarks") from error
    except (ValueError, OSError, EOFError) as error:
        raise AvatarError(f"{path.name} cannot be read as landmarks: {error}", _BY_HAND) from error
    points = points[None] if points.ndim == 2 else points
    if points.shape not in ((1, 68, 2), (count, 68, 2)) or points.dtype.kind not in "fiu":
        raise AvatarError(f"{path.name} is {points.dtype} {points.shape}, not (68, 2) of numbers", _BY_HAND)
    if not np.isfinite(points).all():
        raise AvatarError(f"{path.name} has points that are not numbers", _BY_HAND)
    across = points[:, 42:48].mean(1) - points[:, 36:42].mean(1)
    if np.hypot(*across.T).min() < 2:
        raise AvatarError(f"{path.name} has both eyes in one place", _BY_HAND)
    return np.asarray(points, np.float32)
