"""Avatar bundles: the folder `<id>/` with everything a presenter is made of (DESIGN 3.2).

    avatar.toml     name, licence, background; [consent] who, when, purpose; [voice] transcript; [life] see `lips.life`
    picture.mp4     an idle clip with a closed mouth, played forwards and backwards; or picture.png, .jpg, .webp
    voice.wav       3 to 15 seconds, one voice, saying the transcript and nothing else
    voice_state.safetensors   optional: the voice as `avatarlab voices tune` has learned it (see `speech.voice_state`)
    landmarks.npy   optional: float (n, 68, 2), one row per frame of the picture, not-a-number where no face is in it;
                    found by `lips.face` when missing
    matte.mp4       optional: grey, white where the presenter is; or matte.png; or the opacity of picture.png

Clips count 25 frames per second; others are converted when they are read.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tokenize import TokenError

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from avatarlab import FPS
from avatarlab.errors import AvatarError
from avatarlab.lips import face
from avatarlab.lips.life import LifeSettings
from avatarlab.media import probe, read_alpha, read_frames, read_grey_frames, read_image
from avatarlab.toml_file import read_toml

BUNDLED = Path(__file__).parent / "presenters"
DEFAULT_BACKGROUND = "#20304a"

VOICE_STATE = "voice_state.safetensors"
MAX_STATE_BYTES = 64 << 20
COVERED = 250  # opacity from which a pixel shows nothing but the presenter
FARTHEST_PX = 100_000  # where a landmark can be
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
    what the living presenter is made of: picture, landmarks (or what finds them, and its version), matte, life;
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
    check_id(id)
    for root in _with_bundled(roots):
        if (root / id / "avatar.toml").is_file():
            return read_bundle(root / id, id)
    known = ", ".join(list_avatars(roots)) or "none"
    raise AvatarError(f"there is no avatar {id!r}", f"there are: {known}; or name a folder of avatars with --avatars")


def check_id(id: str) -> None:
    """Raise `AvatarError` for what cannot be the name of a bundle's folder."""
    if not _ID.fullmatch(id):
        raise AvatarError(f"{id[:80]!r} is not the id of an avatar", "use letters, digits, '.', '_' and '-'")


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


def read_bundle(folder: Path, id: str) -> Avatar:
    """The bundle in a folder of any name; raises as `load_avatar`."""
    try:
        told = read_toml(folder / "avatar.toml")
    except (ValueError, OSError) as error:
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
        picture_digest=_digest(
            picture, landmarks or f"face {face.finder()}".encode(), matte or b"", life.digest_part()
        ),
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
        content = part if isinstance(part, bytes) else _content(part)
        whole.update(len(content).to_bytes(8, "big"))
        whole.update(content)
    return whole.hexdigest()


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise AvatarError(f"{path} cannot be read: {error.strerror}", "replace the file") from error


# --- pictures --------------------------------------------------------------------------------------------------------


def avatar_frames(avatar: Avatar) -> AvatarFrames:
    """Decode the picture, its matte and its landmarks; odd last rows and columns are cut off.

    Where a matte file says that the presenter covers a pixel in part, the picture shows a mixture with its own
    background there; those pixels get the colour of the presenter beside them, or a rim would be seen before any other
    background. (In a picture with opacity of its own, colours are unmixed already.)
    Raises `AvatarError` where they do not fit together or hold no face, `MediaError` for files that cannot be read."""
    frames = whole_picture(avatar)
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
        landmarks, found = read_landmarks(avatar, count)
    else:
        landmarks, found = face.track_landmarks(frames)
        if not found.any():
            raise no_face(avatar)
    return AvatarFrames(frames=frames, matte=matte, landmarks=landmarks, face_found=found)


def whole_picture(avatar: Avatar) -> UInt8[np.ndarray, "n h w 3"]:
    """All frames, without odd last rows and columns. Raises `AvatarError` for more than fit into memory."""
    clip_frame_count(avatar)
    return _even(_stack(picture_frames(avatar), avatar.picture.name))


def picture_frames(avatar: Avatar) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
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


def read_landmarks(avatar: Avatar, count: int) -> tuple[Float32[np.ndarray, "n 68 2"], Bool[np.ndarray, "n"]]:
    """What landmarks.npy says of `count` frames, and in which of them it knows a face; as in `AvatarFrames`."""
    assert avatar.landmarks is not None
    try:
        # mapped: a header may claim any size; and never an archive or objects, which `np.load` would take
        points = np.array(np.lib.format.open_memmap(avatar.landmarks, mode="r"))
    except (ValueError, OSError, EOFError, SyntaxError, TokenError, TypeError, OverflowError, RecursionError) as error:
        raise AvatarError(
            f"landmarks.npy of {avatar.id} cannot be read: {error}", "remove it or save it anew"
        ) from error
    if points.shape == (68, 2):
        points = points[None]
    if points.shape != (count, 68, 2) or points.dtype.kind not in "fiu":
        raise AvatarError(
            f"landmarks.npy of {avatar.id} is {points.dtype} {points.shape}, not ({count}, 68, 2) of numbers",
            "remove it, then the landmarks are found",
        )
    known = np.isfinite(points)
    found = known.all((1, 2))
    if not found.any() or not (found | ~known.any((1, 2))).all():
        raise AvatarError(
            f"landmarks.npy of {avatar.id} has points that are not numbers",
            "a frame without a face has none that are, every other has 68; or remove the file",
        )
    farthest = points[known]
    if (farthest > FARTHEST_PX).any() or (farthest < -FARTHEST_PX).any():
        raise AvatarError(f"landmarks.npy of {avatar.id} has points far from any picture", "remove it or save it anew")
    return face.held(points.astype(np.float32), found), found


def clip_frame_count(avatar: Avatar) -> int:
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
    return max(1, round(info.video_seconds * FPS))


def no_face(avatar: Avatar) -> AvatarError:
    return AvatarError(
        f"no face was found in {avatar.picture.name} of {avatar.id}", "use a picture of one person who looks at us"
    )
