"""`speak` and `dub`: a few stages in this process, over a store that vanishes afterwards."""

import io
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from avatarlab import SAMPLE_RATE_HZ
from avatarlab.artifacts import Action, Artifacts
from avatarlab.avatar_checks import validate_avatar
from avatarlab.avatars import Avatar, load_avatar
from avatarlab.compose import VideoSettings, check_background, compose
from avatarlab.errors import WorkerError
from avatarlab.execute import dub_segments, run_batch, stream_tokens
from avatarlab.media import wav_stream, write_wav
from avatarlab.models import read_model_set
from avatarlab.recording import Recording
from avatarlab.stages import (
    Item,
    Line,
    Recipe,
    StageContext,
    audio_item,
    recipe,
    tokens_item,
)
from avatarlab.store import open_store
from avatarlab.text import NO_LEXICON, Pause, Script, Sentence, read_lexicon, split_script
from avatarlab.text.front_end import front_end

SENTENCES_AT_ONCE = 16


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

    Memory does not grow with the recording: mouths are drawn while the video is being written. Raises MediaError where it
    cannot be read.
    """
    avatar = _avatar(avatars, avatar_id)
    chosen = background or avatar.background
    check_background(chosen)
    with _workshop(models, avatars, device) as (context, _), tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recording = Recording.decoded(audio, folder / "recording.wav")
        living, segments = dub_segments(recording, avatar, context, folder)
        settings = VideoSettings(background=chosen, title=audio.stem)
        composed = compose(living, segments, settings, out, folder / "poster.jpg")
    return composed.duration_seconds


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
