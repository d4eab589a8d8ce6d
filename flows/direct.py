"""`speak` and `dub`: a few stages in this process, over a store that vanishes afterwards."""

import io
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from avatarlab import FPS, SAMPLE_RATE_HZ, SAMPLES_PER_VIDEO_FRAME
from avatarlab.artifacts import Action, Artifacts
from avatarlab.avatar_checks import validate_avatar
from avatarlab.avatars import Avatar, avatar_frames, load_avatar
from avatarlab.compose import Segment, VideoSettings, check_background, compose
from avatarlab.errors import MediaError, WorkerError
from avatarlab.execute import run_batch, store_recording, stream_tokens
from avatarlab.keys import seed_from
from avatarlab.lips.life import Living
from avatarlab.media import read_audio, wav_stream, write_wav
from avatarlab.models import read_model_set
from avatarlab.stages import (
    Item,
    Line,
    Recipe,
    StageContext,
    audio_item,
    face_item,
    motion_item,
    recipe,
    tokens_item,
)
from avatarlab.store import open_store
from avatarlab.text import NO_LEXICON, Pause, Script, Sentence, read_lexicon, split_script
from avatarlab.text.front_end import front_end

SENTENCES_AT_ONCE = 16
LONGEST_PIECE_SECONDS = 10.0
SHORTEST_PIECE_SECONDS = 4.0
LOUDNESS_FRAMES = 5


def speak(
    text: str,
    voice: str,
    out: Path,
    *,
    models: str | None = None,
    avatars: Sequence[Path] = (),
    device: str = "cpu",
    seed: int | None = None,
    lexicon: Path | None = None,
) -> float:
    """Writes `text` in the voice of an avatar to a WAV file; returns its length in seconds.

    Memory does not grow with the text: `SENTENCES_AT_ONCE` are spoken and written before the next.

    Raises ScriptError, LexiconError, AvatarError, WeightsError, or WorkerError where a sentence could not be made.
    """
    avatar = _avatar(avatars, voice)
    script, units = _script(text, models, lexicon), front_end(read_model_set(models)).units
    with _workshop(models, avatars, device) as (context, made_with):

        def say(sentences: Sequence[Sentence]) -> Iterator[Float32[np.ndarray, "s"]]:
            lines = [Line(units(sentence.spoken), sentence.spoken, voice, voice, seed) for sentence in sentences]
            tokens = _run("tokens", [tokens_item(line, avatar, made_with) for line in lines], context)
            for audio in _run("audio", [audio_item(action, made_with) for action in tokens], context):
                yield _waveform(context, audio)

        sentences = [part for part in script.parts if isinstance(part, Sentence)]
        batches = [sentences[at : at + SENTENCES_AT_ONCE] for at in range(0, len(sentences), SENTENCES_AT_ONCE)]
        speech = chain.from_iterable(map(say, batches))
        return write_wav(out, _sound(script, lambda _: [next(speech)])) / SAMPLE_RATE_HZ


def stream(
    text: str,
    voice: str,
    out: Path | None,
    *,
    models: str | None = None,
    avatars: Sequence[Path] = (),
    device: str = "cpu",
    seed: int | None = None,
    lexicon: Path | None = None,
) -> float:
    """Writes `text` in the voice of an avatar to a growing WAV file, or to stdout if None, while it is being said.

    What has been heard cannot be drawn again: a sentence is what its first draw makes of it. Returns the length in
    seconds. Raises as `speak` does, and MediaError where nobody reads `out` any longer.
    """
    avatar = _avatar(avatars, voice)
    script, units = _script(text, models, lexicon), front_end(read_model_set(models)).units
    samples = 0
    with wav_stream(out) as append, _workshop(models, avatars, device) as (context, made_with):

        def say(sentence: Sentence) -> Iterator[Float32[np.ndarray, "s"]]:
            line = Line(units(sentence.spoken), sentence.spoken, voice, voice, seed)
            return stream_tokens(tokens_item(line, avatar, made_with), context)

        for piece in _sound(script, say):
            append(piece)
            samples += len(piece)
    return samples / SAMPLE_RATE_HZ


def dub(
    audio: Path,
    avatar_id: str,
    out: Path,
    *,
    models: str | None = None,
    avatars: Sequence[Path] = (),
    device: str = "cpu",
    background: str | None = None,
) -> float:
    """Writes a video of an avatar saying a recording; returns its length in seconds.

    The recording is cut where it is quiet, into pieces of 4 to 10 seconds, so that memory stays flat. Raises MediaError
    where it cannot be read.
    """
    avatar = _avatar(avatars, avatar_id)
    chosen = background or avatar.background
    check_background(chosen)
    waveform = read_audio(audio)
    if not len(waveform):
        raise MediaError(f"{audio.name} holds no sound", "give a recording")
    waveform = np.pad(waveform, (0, -len(waveform) % SAMPLES_PER_VIDEO_FRAME))
    with _workshop(models, avatars, device) as (context, made_with), tempfile.TemporaryDirectory() as name:
        artifacts = Artifacts(open_store(context.store_uri))
        cuts = quiet_pieces(waveform)
        pieces = [store_recording(artifacts, waveform[start:end]) for start, end in cuts]
        motion = _run("motion", [motion_item(piece, avatar, made_with) for piece in pieces], context)
        faces = _run("face", [face_item(action, avatar, made_with) for action in motion], context)
        segments = []
        for index, ((start, end), face) in enumerate(zip(cuts, faces, strict=True)):
            windows = Path(name) / f"{index}.mkv"
            artifacts.fetch(face.outputs["windows.mkv"], windows)
            corners = np.load(io.BytesIO(artifacts.read(face.outputs["corners.npy"])), allow_pickle=False)
            frame_count = (end - start) // SAMPLES_PER_VIDEO_FRAME
            segments.append(Segment(frame_count, waveform[start:end], windows, corners))
        settings = VideoSettings(background=chosen, title=audio.stem)
        living = Living(avatar_frames(avatar), avatar.life, seed_from(avatar.picture_digest))
        composed = compose(living, segments, settings, out, Path(name) / "poster.jpg")
    return composed.duration_seconds


def quiet_pieces(waveform: Float32[np.ndarray, "s"]) -> list[tuple[int, int]]:
    """Cuts a waveform of whole video frames into pieces of 4 to 10 seconds, each at its quietest place.

    Returns sample ranges that tile it; the last piece may be shorter than 4 seconds.
    """
    frames = len(waveform) // SAMPLES_PER_VIDEO_FRAME
    energy = np.square(waveform[: frames * SAMPLES_PER_VIDEO_FRAME]).reshape(frames, -1).mean(axis=1)
    smooth = np.convolve(energy, np.ones(LOUDNESS_FRAMES) / LOUDNESS_FRAMES, mode="same") if frames else energy
    longest, shortest = round(LONGEST_PIECE_SECONDS * FPS), round(SHORTEST_PIECE_SECONDS * FPS)
    cuts = [0]
    while frames - cuts[-1] > longest:
        window = smooth[cuts[-1] + shortest : cuts[-1] + longest]
        cuts.append(cuts[-1] + shortest + int(window.argmin()))
    cuts.append(frames)
    return [(start * SAMPLES_PER_VIDEO_FRAME, end * SAMPLES_PER_VIDEO_FRAME) for start, end in pairwise(cuts)]


def _script(text: str, models: str | None, lexicon: Path | None) -> Script:
    known = read_lexicon(lexicon) if lexicon else NO_LEXICON
    return split_script(text, languages=read_model_set(models).languages, lexicon=known)


def _sound(
    script: Script, say: Callable[[Sentence], Iterable[Float32[np.ndarray, "s"]]]
) -> Iterator[Float32[np.ndarray, "s"]]:
    """What is heard of a script, in order."""
    for part in script.parts:
        if isinstance(part, Pause):
            yield np.zeros(round(part.seconds * SAMPLE_RATE_HZ), np.float32)
        else:
            yield from say(part)


def _avatar(roots: Sequence[Path], id: str) -> Avatar:
    avatar = load_avatar(roots, id)
    validate_avatar(avatar)
    return avatar


@contextmanager
def _workshop(models: str | None, avatars: Sequence[Path], device: str) -> Iterator[tuple[StageContext, Recipe]]:
    model_set = read_model_set(models)
    for problem in model_set.verify():
        raise problem
    with tempfile.TemporaryDirectory(prefix="avatarlab-") as folder:
        context = StageContext(
            store_uri=folder,
            models=model_set.path,
            models_digest=model_set.set_digest,
            avatar_roots=tuple(root.absolute() for root in avatars),
            device=device,
        )
        yield context, recipe(model_set, device)


def _run(stage: str, items: Sequence[Item], context: StageContext) -> list[Action]:
    actions = []
    distinct = {item.key: item for item in items}
    outcomes = {outcome.key: outcome for outcome in run_batch(stage, list(distinct.values()), context)}
    for item in items:
        outcome = outcomes[item.key]
        if outcome.action is None:
            raise WorkerError(f"{stage}: {outcome.error}", outcome.remedy)
        actions.append(outcome.action)
    return actions


def _waveform(context: StageContext, audio: Action) -> Float32[np.ndarray, "s"]:
    data = Artifacts(open_store(context.store_uri)).read(audio.outputs["audio.npy"])
    waveform: Float32[np.ndarray, "s"] = np.load(io.BytesIO(data), allow_pickle=False)
    return waveform
