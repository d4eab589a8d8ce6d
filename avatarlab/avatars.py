"""Avatar bundles: the folder `<id>/` with everything a presenter is made of (DESIGN 3.2).

    avatar.toml     name, licence, background; [consent] who, when, purpose; [voice] transcript; [life] see `lips.life`
    picture.mp4     an idle clip with a closed mouth, played forwards and backwards; or picture.png, .jpg, .webp
    voice.wav       3 to 15 seconds, one voice, saying the transcript and nothing else
    voice_state.safetensors   optional: the voice as `avatarlab voices tune` has learned it (see `speech.voice_state`)
    landmarks.npy   optional: float (n, 68, 2), one row per frame of the picture; found by `lips.face` when missing
    matte.mp4       optional: grey, white where the presenter is; or matte.png; or the opacity of picture.png

Clips count 25 frames per second; others are converted when they are read.
"""

import hashlib
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from avatarlab import FPS, SAMPLE_RATE_HZ
from avatarlab.errors import AvatarError, InputError, MediaError, SettingsError
from avatarlab.lips import face
from avatarlab.lips.life import LifeSettings
from avatarlab.media import probe, read_alpha, read_audio, read_frames, read_grey_frames, read_image
from avatarlab.text import normalise

if TYPE_CHECKING:
    from avatarlab.speech.heard import Listener

BUNDLED = Path(__file__).parent / "presenters"
DEFAULT_BACKGROUND = "#20304a"

SHORTEST_VOICE_SECONDS, LONGEST_VOICE_SECONDS = 3.0, 15.0
SILENT, QUIET = -50.0, -36.0  # dB of the loudest tenth
CLIPPED, NEARLY_CLIPPED = 0.005, 0.0002  # shares of samples
NOISY, NEARLY_NOISY = (
    14.0,
    20.0,
)  # dB from the quietest moments to the loudest: 4 more than the signal has over the noise
WORDS_A_SECOND = 0.5, 6.0
# What `speech.heard` measures, set on 20 sentences each in 3 trained and 5 unknown voices; wrong: another text as long.
LEAST_EVIDENCE = 4.0  # right: 14 and more in trained voices, 7 in the median of unknown ones; wrong: 3.7 and less
LEAST_SECOND = 0.4  # right: 0.7 and more in trained voices, 0.6 in the median of unknown ones
MOST_UNREAD = 3  # right: 0 to 2; with three words too many: 7 and more
MOST_UNWRITTEN_SECONDS = 0.2  # right: 0.12 and less; without the last two words: 0.3 in the median
MOST_WORD_ERRORS = 0.6
VOICE_STATE = "voice_state.safetensors"
MAX_STATE_BYTES = 64 << 20
SMALLEST_SIDE, LARGEST_SIDE = 128, 4096
COVERED = 250  # opacity from which a pixel shows nothing but the presenter
BLURRED = 8.0  # a photograph scores 35 and more, the same one blurred by a tenth of the eye distance 2
MAX_CLIP_BYTES = 400 << 20  # of decoded frames, all in memory while a face is drawn

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
_CLIPS = ("picture.mp4", "picture.mov", "picture.webm")
_STILLS = ("picture.png", "picture.jpg", "picture.jpeg", "picture.webp")
_KEYS = {"": {"name", "licence", "background"}, "consent": {"who", "when", "purpose"}, "voice": {"transcript"}}
_KEYS["life"] = {"blinks", "sway", "breath", "expression"}


@dataclass(frozen=True)
class Consent:
    """Who agreed to be this presenter, when, and for what."""

    who: str
    when: str
    purpose: str


@dataclass(frozen=True)
class Avatar:
    """A bundle as its folder says; nothing but `avatar.toml` was understood yet.

    `background` is `#rrggbb` or the path of an image in the bundle. The digests are sha256 over what a stage uses:
    `voice_digest` the voice clip and its transcript; `state_digest` the tuned voice, "" without one; `picture_digest`
    what the living presenter is made of: picture, landmarks (or the version of the code that finds them), matte, life;
    `matte_digest` the matte file alone, "" without one. `state_tuned_for` is the sha256 of the Small-E weights that the
    tuned voice fits."""

    id: str
    folder: Path
    name: str
    licence: str
    background: str
    consent: Consent
    transcript: str
    picture: Path
    is_clip: bool
    landmarks: Path | None
    matte: Path | None
    voice: Path
    voice_digest: str
    picture_digest: str
    matte_digest: str
    state_digest: str = ""
    state_tuned_for: str = ""
    life: LifeSettings = field(default_factory=LifeSettings)


@dataclass(frozen=True)
class Finding:
    """One result of `check_avatar`: `what` was looked at, and what was seen."""

    level: Literal["ok", "warning", "error"]
    what: str
    message: str
    remedy: str = ""


@dataclass(frozen=True, eq=False)
class AvatarFrames:
    """The picture as frames of even height and width (n = 1 for a still), and where the face is in them.

    `matte` is the opacity of the presenter. Where `face_found` is false the landmarks are the nearest frame's."""

    frames: UInt8[np.ndarray, "n h w 3"]
    matte: UInt8[np.ndarray, "n h w"] | None
    landmarks: Float32[np.ndarray, "n 68 2"]
    face_found: Bool[np.ndarray, "n"]


# --- finding and reading bundles -------------------------------------------------------------------------------------


def load_avatar(roots: Sequence[Path], id: str) -> Avatar:
    """Read `avatar.toml` and name the files of the bundle `id`; the first root that has it wins, the bundled avatars
    come last.

    Raises `AvatarError` for an id that is not one, an unknown avatar, missing files, and an `avatar.toml` that cannot
    be read or holds unknown keys."""
    if not _ID.fullmatch(id):
        raise AvatarError(f"{id[:80]!r} is not the id of an avatar", "use letters, digits, '.', '_' and '-'")
    for root in _with_bundled(roots):
        if (root / id / "avatar.toml").is_file():
            return _load(root / id, id)
    known = ", ".join(list_avatars(roots)) or "none"
    raise AvatarError(f"there is no avatar {id!r}", f"there are: {known}; or name a folder of avatars with --avatars")


def list_avatars(roots: Sequence[Path]) -> tuple[str, ...]:
    """The ids of all bundles, sorted, those that come with Avatar Lab included."""
    return tuple(
        sorted(
            {
                folder.name
                for root in _with_bundled(roots)
                if root.is_dir()
                for folder in root.iterdir()
                if _ID.fullmatch(folder.name) and (folder / "avatar.toml").is_file()
            }
        )
    )


def _with_bundled(roots: Sequence[Path]) -> list[Path]:
    for root in roots:
        if not root.is_dir():
            raise AvatarError(f"there is no folder of avatars {root}", "check --avatars")
    return [*roots, BUNDLED]


def _load(folder: Path, id: str) -> Avatar:
    try:
        with (folder / "avatar.toml").open("rb") as file:
            told = tomllib.load(file)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise AvatarError(f"avatar.toml of {id} cannot be read: {error}", "see the README for its form") from error
    sections = {"": {key: value for key, value in told.items() if not isinstance(value, dict)}}
    sections |= {key: value for key, value in told.items() if isinstance(value, dict)}
    for section, content in sections.items():
        place = f"[{section}] in avatar.toml of {id}" if section else f"avatar.toml of {id}"
        if section not in _KEYS:
            raise AvatarError(
                f"avatar.toml of {id} has an unknown section [{section}]", "use [consent], [voice] and [life]"
            )
        for key in sorted(set(content) - _KEYS[section]):
            raise AvatarError(f"{place} has an unknown key {key!r}", f"use {', '.join(sorted(_KEYS[section]))}")
    text, life = _texts(id, sections), LifeSettings.of(sections.get("life", {}))
    picture = next((folder / name for name in (*_CLIPS, *_STILLS) if (folder / name).is_file()), None)
    if picture is None:
        raise AvatarError(f"avatar {id} has no picture", "put picture.mp4 or picture.png into its folder")
    voice = folder / "voice.wav"
    if not voice.is_file():
        raise AvatarError(f"avatar {id} has no voice", "put voice.wav, 3 to 15 seconds, into its folder")
    background = text("", "background", DEFAULT_BACKGROUND)
    if not _COLOUR.fullmatch(background):
        if Path(background).name != background or not (folder / background).is_file():
            raise AvatarError(
                f"background {background!r} of avatar {id} is neither #rrggbb nor an image in its folder",
                "write a colour as in #20304a",
            )
        background = str((folder / background).resolve())
    landmarks = _if_there(folder / "landmarks.npy")
    matte = _if_there(folder / "matte.mp4") or _if_there(folder / "matte.png")
    transcript = " ".join(text("voice", "transcript", "").split())
    state = _if_there(folder / VOICE_STATE)
    return Avatar(
        id=id,
        folder=folder,
        name=text("", "name"),
        licence=text("", "licence"),
        background=background,
        consent=Consent(text("consent", "who"), text("consent", "when"), text("consent", "purpose")),
        transcript=transcript,
        picture=picture,
        is_clip=picture.name in _CLIPS,
        landmarks=landmarks,
        matte=matte,
        voice=voice,
        voice_digest=_digest(transcript.encode(), voice),
        # the matte decides the colours along the presenter's edge, so it belongs to the picture
        picture_digest=_digest(picture, landmarks or f"face {face.VERSION}".encode(), matte or b"", life.digest_part()),
        matte_digest=_digest(matte) if matte else "",
        state_digest=_digest(state) if state else "",
        state_tuned_for=_tuned_for(id, state) if state else "",
        life=life,
    )


def _texts(id: str, sections: Mapping[str, Mapping[str, object]]) -> Callable[..., str]:
    def text(section: str, key: str, default: str | None = None) -> str:
        value = sections.get(section, {}).get(key, default)
        place = f"[{section}] {key}" if section else key
        if value is None or (default is None and not str(value).strip()):
            raise AvatarError(f"avatar.toml of {id} does not say {place}", f'add {key} = "..."')
        if isinstance(value, (dict, list)):
            raise AvatarError(f"{place} in avatar.toml of {id} is not a text", f'write {key} = "..."')
        return str(value)

    return text


def _tuned_for(id: str, state: Path) -> str:
    """What the header of a tuned voice says; no tensor is read."""
    from safetensors import SafetensorError, safe_open

    again = f"run `avatarlab voices tune {id}` again, or remove the file"
    if state.stat().st_size > MAX_STATE_BYTES:
        raise AvatarError(f"{state.name} of {id} has more than {MAX_STATE_BYTES >> 20} MiB", again)
    try:
        with safe_open(state, framework="numpy") as file:
            told = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise AvatarError(f"{state.name} of {id} cannot be read: {error}", again) from error
    if "small_e" not in told:
        raise AvatarError(f"{state.name} of {id} does not say which speech model it was tuned for", again)
    return told["small_e"]


def _if_there(path: Path) -> Path | None:
    return path if path.is_file() else None


def _digest(*parts: Path | bytes) -> str:
    """sha256 over the parts, each after its length."""
    whole = hashlib.sha256()
    for part in parts:
        content = part if isinstance(part, bytes) else part.read_bytes()
        whole.update(len(content).to_bytes(8, "big"))
        whole.update(content)
    return whole.hexdigest()


# --- pictures --------------------------------------------------------------------------------------------------------


def avatar_frames(avatar: Avatar) -> AvatarFrames:
    """Decode the picture, its matte and its landmarks; odd last rows and columns are cut off.

    Where a matte file says that the presenter covers a pixel in part, the picture shows a mixture with its own
    background there; those pixels get the colour of the presenter beside them, or a rim would be seen before any other
    background. (In a picture with opacity of its own, colours are unmixed already.)
    Raises `AvatarError` where they do not fit together or hold no face, `MediaError` for files that cannot be read."""
    _clip_frame_count(avatar)
    frames = _even(_stack(_picture_frames(avatar), avatar.picture.name))
    count, height, width = frames.shape[:3]
    matte = _matte(avatar)
    if matte is not None:
        matte = np.ascontiguousarray(matte[:, :height, :width])
        if matte.shape[1:] != (height, width) or len(matte) not in (1, count):
            raise AvatarError(
                f"the matte of {avatar.id} has {len(matte)} frames of {matte.shape[2]}x{matte.shape[1]}, the picture "
                f"{count} of {width}x{height}",
                "make both alike, or remove the matte",
            )
        matte = np.broadcast_to(matte, (count, height, width))
        if avatar.matte is not None:
            for frame, opacity in zip(frames, matte, strict=True):
                _clean_edges(frame, opacity)
    if avatar.landmarks is not None:
        landmarks, found = _read_landmarks(avatar, count), np.ones(count, bool)
    else:
        landmarks, found = face.track_landmarks(frames)
        if not found.any():
            raise _no_face(avatar)
    return AvatarFrames(frames=frames, matte=matte, landmarks=landmarks, face_found=found)


def _picture_frames(avatar: Avatar) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    return read_frames(avatar.picture, fps=FPS) if avatar.is_clip else iter([read_image(avatar.picture)])


def _stack(frames: Iterator[np.ndarray], name: str) -> np.ndarray:
    kept: list[np.ndarray] = []
    for frame in frames:
        kept.append(frame)
        if len(kept) * frame.nbytes > MAX_CLIP_BYTES:
            raise AvatarError(f"{name} is too long for its size", "scale it down, or cut it to a few seconds")
    return np.stack(kept)


def _even(frames: np.ndarray) -> np.ndarray:
    height, width = frames.shape[1] // 2 * 2, frames.shape[2] // 2 * 2
    return np.ascontiguousarray(frames[:, :height, :width])


def _matte(avatar: Avatar) -> UInt8[np.ndarray, "n h w"] | None:
    if avatar.matte is None:
        alpha = None if avatar.is_clip else read_alpha(avatar.picture)
        return None if alpha is None else alpha[None]
    if avatar.matte.suffix == ".png":
        return read_image(avatar.matte)[None, :, :, 1]
    return _stack(read_grey_frames(avatar.matte, fps=FPS), avatar.matte.name)


def _clean_edges(frame: UInt8[np.ndarray, "h w 3"], opacity: UInt8[np.ndarray, "h w"]) -> None:
    """Replace, in place, the colours of half-covered pixels by the mean of the covered ones within 5 pixels."""
    covered = (opacity >= COVERED).astype(np.uint8)
    sums = cv2.boxFilter(
        frame * covered[:, :, None], cv2.CV_16U, (11, 11), normalize=False, borderType=cv2.BORDER_CONSTANT
    )
    counts = cv2.boxFilter(covered, cv2.CV_16U, (11, 11), normalize=False, borderType=cv2.BORDER_CONSTANT)
    at = np.nonzero((opacity > 0) & (covered == 0) & (counts > 0))
    frame[at] = (sums[at] + counts[at][:, None] // 2) // counts[at][:, None]


def _read_landmarks(avatar: Avatar, count: int) -> Float32[np.ndarray, "n 68 2"]:
    assert avatar.landmarks is not None
    try:
        points = np.load(avatar.landmarks, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise AvatarError(
            f"landmarks.npy of {avatar.id} cannot be read: {error}", "remove it or save it anew"
        ) from error
    if points.shape == (68, 2):
        points = points[None]
    if points.shape != (count, 68, 2) or points.dtype.kind not in "fiu" or not np.isfinite(points).all():
        raise AvatarError(
            f"landmarks.npy of {avatar.id} is {points.dtype} {points.shape}, not ({count}, 68, 2) of numbers",
            "remove it, then the landmarks are found",
        )
    return points.astype(np.float32)


def _clip_frame_count(avatar: Avatar) -> int:
    """Frames that the picture will have; what would not fit into memory is refused before a frame is decoded."""
    if not avatar.is_clip:
        return 1
    info = probe(avatar.picture)
    if 3 * info.width * info.height * info.video_seconds * FPS > MAX_CLIP_BYTES:
        raise AvatarError(
            f"{avatar.picture.name} of {avatar.id}, {info.video_seconds:.1f} s of {info.width}x{info.height}, is too "
            f"large",
            "scale it down, or cut it to a few seconds",
        )
    return round(info.video_seconds * FPS)


def _no_face(avatar: Avatar) -> AvatarError:
    return AvatarError(
        f"no face was found in {avatar.picture.name} of {avatar.id}", "use a picture of one person who looks at us"
    )


# --- checking --------------------------------------------------------------------------------------------------------


def check_avatar(avatar: Avatar, listener: "Listener | None" = None) -> list[Finding]:
    """Look at the first frame of the picture and at the voice, in seconds and without an engine.

    With a `listener` its speech model also hears whether the voice clip says the transcript, in another second."""
    return [*_found("picture", _check_picture(avatar)), *check_voice(avatar, listener)]


def check_voice(avatar: Avatar, listener: "Listener | None" = None) -> list[Finding]:
    """The half of `check_avatar` that is about the voice clip and its transcript."""
    return _found("voice", _check_voice(avatar, listener))


def _found(what: str, findings: Iterator[Finding]) -> list[Finding]:
    """What was found before an error stays."""
    kept: list[Finding] = []
    try:
        for finding in findings:
            kept.append(finding)
    except (InputError, MediaError) as error:
        kept.append(Finding("error", what, error.message, error.remedy))
    return kept


def validate_avatar(avatar: Avatar) -> None:
    """Raise `AvatarError` for the first error that `check_avatar` finds."""
    _raise_first(avatar, check_avatar(avatar))


def validate_voice(avatar: Avatar) -> None:
    """Raise `AvatarError` for the first error that `check_voice` finds."""
    _raise_first(avatar, check_voice(avatar))


def _raise_first(avatar: Avatar, findings: Sequence[Finding]) -> None:
    for finding in findings:
        if finding.level == "error":
            raise AvatarError(f"avatar {avatar.id}: {finding.message}", finding.remedy)


def _check_picture(avatar: Avatar) -> Iterator[Finding]:
    count = _clip_frame_count(avatar)
    frame = next(islice(_picture_frames(avatar), 1))
    height, width = frame.shape[:2]
    size = f"{count} frames of {width}x{height}" if avatar.is_clip else f"{width}x{height}"
    if min(height, width) < SMALLEST_SIDE or max(height, width) > LARGEST_SIDE:
        yield Finding(
            "error",
            "picture",
            f"{avatar.picture.name} is {size}",
            f"use sides of {SMALLEST_SIDE} to {LARGEST_SIDE} pixels, best about 512",
        )
        return
    yield Finding("ok", "picture", size)
    if avatar.matte is not None and avatar.matte.suffix == ".mp4":
        matte = probe(avatar.matte)
        if (matte.width, matte.height) != (width, height) or round(matte.video_seconds * FPS) != count:
            yield Finding("error", "matte", "the matte is not as long and as large as the picture", "make both alike")
            return
    if avatar.landmarks is not None:
        points = _read_landmarks(avatar, count)
        finding = _check_landmarks(points, frame)
        yield finding
        if finding.level == "error":
            return
        landmarks = points[0]
    else:
        seen = face.find_landmarks(frame)
        if seen is None:
            error = _no_face(avatar)
            yield Finding("error", "face", error.message, error.remedy)
            return
        yield Finding("ok", "face", "a face was found")
        landmarks = seen
    yield from _check_pose(landmarks, frame)


def _check_landmarks(points: Float32[np.ndarray, "n 68 2"], frame: UInt8[np.ndarray, "h w 3"]) -> Finding:
    inner = points[:, 17:]  # the jaw may leave the picture
    inside = (inner >= 0).all() and (inner < [frame.shape[1], frame.shape[0]]).all()
    upright = bool((points[:, 60:68, 1].mean(1) > points[:, 36:48, 1].mean(1)).all())
    if not inside or not upright:
        return Finding(
            "error",
            "landmarks",
            "landmarks.npy does not describe an upright face inside the picture",
            "give x and y in pixels of the picture, in iBUG order; or remove it",
        )
    box = face.find_face(frame)
    x, y = points[0, 27:48].mean(0)
    if box is not None and not (box.x <= x <= box.x + box.width and box.y <= y <= box.y + box.height):
        return Finding("warning", "landmarks", "a face was seen elsewhere than landmarks.npy says", "check them")
    return Finding("ok", "landmarks", f"{len(points)} frames of 68 points")


def _check_pose(landmarks: Float32[np.ndarray, "68 2"], frame: UInt8[np.ndarray, "h w 3"]) -> Iterator[Finding]:
    across = landmarks[42:48].mean(0) - landmarks[36:42].mean(0)
    distance = float(np.hypot(*across))
    if distance < 24:
        yield Finding(
            "error", "face", f"the eyes are {distance:.0f} pixels apart", "use a larger picture, or cut it closer"
        )
        return
    if distance < 48:
        yield Finding("warning", "face", f"the face is small: {distance:.0f} pixels between the eyes", "cut it closer")
    roll, yaw = float(np.degrees(np.arctan2(across[1], across[0]))), face.yaw_degrees(landmarks)
    if abs(yaw) > 20 or abs(roll) > 20:
        yield Finding(
            "warning",
            "pose",
            f"the head is turned by about {yaw:.0f} and tilted by about {roll:.0f} degrees",
            "use a frontal, upright picture",
        )
    else:
        yield Finding("ok", "pose", f"frontal: turned by about {yaw:.0f}, tilted by about {roll:.0f} degrees")
    sharp = face.sharpness(frame, landmarks)
    if sharp < BLURRED:
        yield Finding("warning", "sharpness", f"the face is blurred ({sharp:.0f})", "use a sharper picture")
    else:
        yield Finding("ok", "sharpness", f"{sharp:.0f}")


def _check_voice(avatar: Avatar, listener: "Listener | None") -> Iterator[Finding]:
    seconds = probe(avatar.voice).audio_seconds
    shortest, longest = SHORTEST_VOICE_SECONDS, LONGEST_VOICE_SECONDS
    if not shortest <= seconds <= longest:
        limit = f"at least {shortest:.0f} s are needed" if seconds < shortest else f"{longest:.0f} s is the most"
        yield Finding(
            "error", "voice", f"voice.wav is {seconds:.1f} s long; {limit}", "record one person speaking for 5 to 10 s"
        )
        return
    waveform = read_audio(avatar.voice, SAMPLE_RATE_HZ)
    loudness = _frame_loudness(waveform)
    loud, quiet = float(np.percentile(loudness, 90)), float(np.percentile(loudness, 5))
    if loud < SILENT:
        yield Finding(
            "error",
            "voice",
            f"voice.wav is silent: {loud:.0f} dB where it is loudest; at least {SILENT:.0f} dB is needed",
            "record it again",
        )
        return
    yield Finding("ok", "voice", f"{seconds:.1f} s")
    if loud < QUIET:
        yield Finding(
            "warning",
            "voice",
            f"voice.wav is quiet: {loud:.0f} dB; {QUIET:.0f} dB is better",
            "record it closer to the microphone",
        )
    clipped = _clipped_share(waveform)
    if clipped > NEARLY_CLIPPED:
        yield Finding(
            "error" if clipped > CLIPPED else "warning",
            "clipping",
            f"{clipped:.2%} of voice.wav is clipped; {CLIPPED if clipped > CLIPPED else NEARLY_CLIPPED:.2%} is the limit",
            "record it again, less loud",
        )
    above = loud - quiet
    if above < NEARLY_NOISY:
        yield Finding(
            "error" if above < NOISY else "warning",
            "noise",
            f"speech is only {above:.0f} dB above the noise; {NOISY if above < NOISY else NEARLY_NOISY:.0f} dB is the limit",
            "record in a quiet room",
        )
    yield _check_transcript(avatar, waveform, listener)
    if listener is not None and avatar.state_digest and avatar.state_tuned_for != listener.small_e_sha256:
        yield Finding(
            "warning",
            "tuned voice",
            f"{VOICE_STATE} was tuned for other speech weights and is not used",
            f"run `avatarlab voices tune {avatar.id}` again, or remove it",
        )


def _check_transcript(avatar: Avatar, waveform: Float32[np.ndarray, "s"], listener: "Listener | None") -> Finding:
    exactly = "write exactly what is heard in voice.wav under [voice] transcript, or give another clip"
    if not avatar.transcript:
        return Finding("error", "transcript", "the voice has no transcript", exactly)
    try:
        words = len(normalise(avatar.transcript).spoken.split())
    except InputError as error:
        return Finding("error", "transcript", error.message, exactly)
    seconds = len(waveform) / SAMPLE_RATE_HZ
    slowest, fastest = WORDS_A_SECOND
    if not slowest <= words / seconds <= fastest:
        said = f"the transcript has {words} words for {seconds:.1f} s, {words / seconds:.1f} a second"
        return Finding("error", "transcript", f"{said}; people speak {slowest} to {fastest}", exactly)
    if listener is None:
        return Finding("ok", "transcript", f"{words} words")
    heard = listener.hear(waveform, avatar.transcript)
    if heard.evidence < LEAST_EVIDENCE:
        return _second_opinion(avatar, waveform, f"evidence {heard.evidence:.1f}; at least {LEAST_EVIDENCE} is needed")
    if heard.unread_units > MOST_UNREAD:
        said = f"voice.wav ends {heard.unread_units} sounds before its transcript does; {MOST_UNREAD} is the limit"
        return Finding("error", "transcript", said, exactly)
    if heard.unwritten_seconds > MOST_UNWRITTEN_SECONDS:
        said = f"voice.wav goes on for {heard.unwritten_seconds:.2f} s after the last word of its transcript"
        return Finding("error", "transcript", f"{said}; {MOST_UNWRITTEN_SECONDS} s is the limit", exactly)
    if heard.weakest_second < LEAST_SECOND:
        said = f"a second of voice.wav does not fit its transcript: {heard.weakest_second:.2f} of the mean evidence"
        return Finding("error", "transcript", f"{said}; at least {LEAST_SECOND} is needed", exactly)
    return Finding("ok", "transcript", f"{words} words, evidence {heard.evidence:.0f} of at least {LEAST_EVIDENCE:.0f}")


def _second_opinion(avatar: Avatar, waveform: Float32[np.ndarray, "s"], measured: str) -> Finding:
    """Of the recogniser, where it is installed: the speech model may not know this voice."""
    from avatarlab.training.recognise import transcribe, word_error_rate

    remedy = (
        "write exactly what is heard; where it is, the voice is unlike those the speech model knows: give another clip"
    )
    said = f"voice.wav does not seem to say its transcript: {measured}"
    try:
        rate = word_error_rate(normalise(avatar.transcript).spoken, transcribe(waveform))
    except SettingsError:
        return Finding("error", "transcript", said, remedy)
    if rate > MOST_WORD_ERRORS:
        return Finding("error", "transcript", f"{said}; a recogniser hears {rate:.0%} of its words wrong", remedy)
    return Finding(
        "warning",
        "transcript",
        f"the speech model does not know this voice ({measured}), though a recogniser hears the transcript in it",
        "expect a poor likeness; tune the voice, or give another clip",
    )


def _frame_loudness(waveform: Float32[np.ndarray, "s"]) -> Float32[np.ndarray, "k"]:
    """Decibels below full scale of every 20 ms."""
    size = SAMPLE_RATE_HZ // 50
    pieces = waveform[: len(waveform) // size * size].reshape(-1, size)
    return (10 * np.log10(np.square(pieces).mean(1) + 1e-10)).astype(np.float32)


def _clipped_share(waveform: Float32[np.ndarray, "s"]) -> float:
    """The share of samples that stand at full scale with both their neighbours."""
    top = np.abs(waveform) >= 0.985
    return float((top[:-2] & top[1:-1] & top[2:]).mean()) if len(top) > 2 else 0.0
