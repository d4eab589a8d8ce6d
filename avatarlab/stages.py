"""The five stages as data: what one piece of work is, and the key of what comes out (design sections 3.5 and 3.6).

Work travels as small frozen references (digests, ids, text units), never as arrays. Nothing here loads an engine:
`avatarlab.execute` does the work these items describe.

A key holds the content digests of what the stage reads and the digests of the weights it uses, so
- the same sentence in the same voice is spoken once, whichever rows and avatars it stands in;
- identical audio from new speech weights keeps its lips;
- a new renderer leaves tokens, audio and motion valid, as long as its lip encoder (the latent space that motion speaks)
  is the same; `lip_space` says so from the bytes of that part of the weights.
"""

import hashlib
import json
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from avatarlab.artifacts import Action, Blob
from avatarlab.errors import AvatarLabError, SettingsError, WeightsError
from avatarlab.keys import content_key, seed_from
from avatarlab.null import null_settings

if TYPE_CHECKING:
    from avatarlab.avatars import Avatar
    from avatarlab.models import ModelSet

VERSIONS: Mapping[str, int] = {"tokens": 2, "audio": 1, "motion": 2, "face": 2, "video": 2}
"""Raised by hand when the code of a stage makes different bytes from the same inputs."""

LINE_STAGES = ("tokens", "audio", "motion", "face")
LIP_IMAGE = "sample_window"
VOICE_STATE_USES = ("with_prompt", "alone", "unused")
"""How a tuned voice is used: before the prompt, instead of the prompt, or not at all; the first is the default."""


@dataclass(frozen=True)
class Line:
    """One sentence said by one avatar in one voice. Equal lines are the same work, whichever rows they stand in.

    `voice` is the id of the avatar bundle whose voice speaks. `seed` is None unless a row asks for one.
    """

    units: tuple[int, ...]
    spoken: str
    avatar: str
    voice: str
    seed: int | None = None


@dataclass(frozen=True)
class Said:
    """A line where it stands in a script; `text` is what the captions show."""

    line: Line
    text: str


@dataclass(frozen=True)
class Silence:
    frame_count: int


@dataclass(frozen=True)
class TokensItem:
    key: str
    units: tuple[int, ...]
    spoken: str
    voice: str
    voice_digest: str
    seed: int
    voice_state: str = ""


@dataclass(frozen=True)
class AudioItem:
    key: str
    codes: Blob


@dataclass(frozen=True)
class MotionItem:
    key: str
    audio: Blob
    avatar: str
    picture_digest: str


@dataclass(frozen=True)
class FaceItem:
    key: str
    motion: Blob
    emphasis: Blob
    avatar: str
    picture_digest: str


@dataclass(frozen=True)
class SpokenPart:
    """One sentence of a video, by reference."""

    text: str
    audio: Blob
    words: Blob
    windows: Blob
    corners: Blob
    emphasis: Blob


@dataclass(frozen=True)
class VideoItem:
    key: str
    avatar: str
    picture_digest: str
    matte_digest: str
    parts: tuple[SpokenPart | Silence, ...]
    background: str
    background_digest: str
    layout: str
    width: int | None
    height: int | None
    title: str


Item = TokensItem | AudioItem | MotionItem | FaceItem | VideoItem


@dataclass(frozen=True)
class StageContext:
    """Where a worker finds everything, on its own machine.

    `models_digest` holds it to the models of the plan and `software` to its code; "" asks for no particular one.
    """

    store_uri: str
    models: Path
    models_digest: str
    avatar_roots: tuple[Path, ...] = ()
    device: str = "cpu"
    local_cache: Path | None = None
    software: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of one item. `action` is None where it failed; then `error`, `remedy` and `kind` say why.

    `kind` is the class name of the error. `found` is true where the artifact was in the store already.
    """

    stage: str
    key: str
    action: Action | None
    found: bool = False
    error: str = ""
    remedy: str = ""
    kind: str = ""
    retryable: bool = False
    seconds: float = 0.0
    device: str = ""
    peak_memory_mb: float = 0.0


def failed(stage: str, key: str, error: BaseException) -> Outcome:
    """The outcome of an item whose making raised `error`; what is not ours is told with its class."""
    if isinstance(error, AvatarLabError):
        return Outcome(
            stage,
            key,
            None,
            error=error.message,
            remedy=error.remedy,
            kind=type(error).__name__,
            retryable=error.retryable,
        )
    message = " ".join(str(error).split())
    return Outcome(
        stage,
        key,
        None,
        error=f"{type(error).__name__}: {message}" if message else type(error).__name__,
        remedy="this is a defect or a machine in trouble; the worker's log has the details",
        kind=type(error).__name__,
    )


@dataclass(frozen=True)
class Recipe:
    """What enters keys from the model set and the machine: digests of weights with their settings, numerics class.

    `tuned_for` is the sha256 of the Small-E weights alone, "" where the settings leave tuned voices unused.
    `text` is the digest of the text front-end where it has a file, else "": units alone say what the rules made of words.
    """

    small_e: str
    codec: str
    audio_features: str
    motion: str
    renderer: str
    lip_space: str
    numerics: str
    tuned_for: str = ""
    text: str = ""


def recipe(models: "ModelSet", device: str) -> Recipe:
    """Reads no weights but the lip encoder's bytes.

    Raises SettingsError for a device that is none, WeightsError where the renderer's file cannot be read.
    """
    if not re.fullmatch(r"cpu|cuda(:[0-9]+)?", device):
        raise SettingsError(f"there is no device {device!r}", "use cpu or cuda")
    renderer = models.file("renderer")
    if null_settings(models) is not None:
        lips = models.digest("renderer")
    elif renderer.path is None or renderer.sha256 is None:
        raise WeightsError(f"the model set {models.path} has no weights for its renderer", "give a uri and a sha256")
    else:
        lips = lip_space(renderer.path) if renderer.path.suffix == ".safetensors" else renderer.sha256
    return Recipe(
        small_e=models.digest("small_e"),
        codec=models.digest("codec"),
        audio_features=models.digest("audio_features"),
        motion=models.digest("motion"),
        renderer=models.digest("renderer"),
        lip_space=lips,
        numerics=f"{device.partition(':')[0]}-float32",
        tuned_for="" if voice_state_use(models) == "unused" else models.file("small_e").sha256 or "",
        text=models.digest("text") if "text" in models.files and models.file("text").sha256 else "",
    )


def voice_state_use(models: "ModelSet") -> str:
    """The setting `voice_state` of small_e: how a tuned voice is used by the avatars that have one."""
    use = models.settings("small_e").get("voice_state", VOICE_STATE_USES[0])
    if use not in VOICE_STATE_USES:
        raise SettingsError(f"the setting small_e.voice_state is {use!r}", f"use one of {', '.join(VOICE_STATE_USES)}")
    return str(use)


def lip_space(renderer: Path) -> str:
    """Digest of what encodes lips in a renderer's safetensors file: `encoder.*` and the size of the lip image.

    Of a published file the averaged half counts, which is the half that is used. No engine is loaded.

    Raises WeightsError where the file is missing or is not safetensors.
    """
    digest = hashlib.sha256()
    try:
        with renderer.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
            if not isinstance(header, dict):
                raise ValueError("its header is no table")
            averaged = "ema_model." if any(name.startswith("ema_model.") for name in header) else ""
            for name in sorted(header):
                if not name.startswith((f"{averaged}encoder.", LIP_IMAGE)):
                    continue
                entry = header[name]
                start, end = entry["data_offsets"]
                digest.update(json.dumps([name, entry["dtype"], entry["shape"]]).encode())
                file.seek(8 + length + start)
                digest.update(file.read(end - start))
    except (
        OSError,
        ValueError,
        struct.error,
        KeyError,
        TypeError,
        MemoryError,
        OverflowError,
        RecursionError,
    ) as error:
        raise WeightsError(
            f"the renderer {renderer.name} cannot be read: {error}", "restore it, then `avatarlab models verify`"
        ) from error
    return digest.hexdigest()


def used_state(voice: "Avatar", made_with: Recipe) -> str:
    """The digest of the tuned voice of an avatar; "" where it has none, or one for other weights, or none is used."""
    return voice.state_digest if made_with.tuned_for and voice.state_tuned_for == made_with.tuned_for else ""


def foreign_states(cast: Iterable["Avatar"], made_with: Recipe) -> tuple[str, ...]:
    """A note for every avatar whose tuned voice is passed over because it was tuned for other weights."""
    return tuple(
        f"the tuned voice of {avatar.id} is for other speech weights and is not used; run `avatarlab voices tune`"
        for avatar in cast
        if made_with.tuned_for and avatar.state_digest and not used_state(avatar, made_with)
    )


def tokens_item(line: Line, voice: "Avatar", made_with: Recipe) -> TokensItem:
    """A tuned voice enters the key where it is used: it was tuned for these very weights."""
    seed = line.seed
    if seed is None:
        seed = seed_from("tokens", voice.voice_digest, ",".join(map(str, line.units)))
    state = used_state(voice, made_with)
    further = {"voice_state": state} if state else {}
    if made_with.text:
        further["text"] = made_with.text
    key = content_key(
        "tokens",
        VERSIONS["tokens"],
        units=line.units,
        words=line.spoken,
        voice=voice.voice_digest,
        small_e=made_with.small_e,
        codec=made_with.codec,
        seed=seed,
        numerics=made_with.numerics,
        **further,
    )
    return TokensItem(key, line.units, line.spoken, line.voice, voice.voice_digest, seed, state)


def audio_item(tokens: Action, made_with: Recipe) -> AudioItem:
    codes = tokens.outputs["codes.npy"]
    key = content_key(
        "audio", VERSIONS["audio"], codes=codes.sha256, codec=made_with.codec, numerics=made_with.numerics
    )
    return AudioItem(key, codes)


def motion_item(audio: Action, avatar: "Avatar", made_with: Recipe) -> MotionItem:
    speech = audio.outputs["audio.npy"]
    key = content_key(
        "motion",
        VERSIONS["motion"],
        audio=speech.sha256,
        picture=avatar.picture_digest,
        audio_features=made_with.audio_features,
        motion=made_with.motion,
        lip_space=made_with.lip_space,
        numerics=made_with.numerics,
    )
    return MotionItem(key, speech, avatar.id, avatar.picture_digest)


def face_item(motion: Action, avatar: "Avatar", made_with: Recipe) -> FaceItem:
    latents, emphasis = motion.outputs["latents.npy"], motion.outputs["emphasis.npy"]
    key = content_key(
        "face",
        VERSIONS["face"],
        motion=latents.sha256,
        emphasis=emphasis.sha256,
        picture=avatar.picture_digest,
        renderer=made_with.renderer,
        numerics=made_with.numerics,
    )
    return FaceItem(key, latents, emphasis, avatar.id, avatar.picture_digest)


def spoken_part(text: str, tokens: Action, audio: Action, face: Action) -> SpokenPart:
    return SpokenPart(
        text,
        audio.outputs["audio.npy"],
        tokens.outputs["words.json"],
        face.outputs["windows.mkv"],
        face.outputs["corners.npy"],
        face.outputs["emphasis.npy"],
    )


def video_item(
    parts: tuple[SpokenPart | Silence, ...],
    avatar: "Avatar",
    *,
    background: str,
    background_digest: str,
    layout: str,
    width: int | None,
    height: int | None,
    title: str,
) -> VideoItem:
    key = content_key(
        "video",
        VERSIONS["video"],
        parts=[_part_inputs(part) for part in parts],
        picture=avatar.picture_digest,
        matte=avatar.matte_digest,
        background=background_digest,
        layout=layout,
        width=width,
        height=height,
        title=title,
    )
    return VideoItem(
        key,
        avatar.id,
        avatar.picture_digest,
        avatar.matte_digest,
        parts,
        background,
        background_digest,
        layout,
        width,
        height,
        title,
    )


def _part_inputs(part: SpokenPart | Silence) -> dict[str, object]:
    if isinstance(part, Silence):
        return {"silence_frames": part.frame_count}
    return {
        "text": part.text,
        "audio": part.audio.sha256,
        "words": part.words.sha256,
        "windows": part.windows.sha256,
        "corners": part.corners.sha256,
        "emphasis": part.emphasis.sha256,
    }
