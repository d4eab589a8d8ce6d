"""The work of each stage: load what an item names, call the library once for a batch, store what comes out.

Engines are loaded once for each process and weights digest. A failure of one item is data, not an exception: a batch
that raises as a whole is done again item by item, so that one bad item never fails its neighbours.
"""

import io
import json
import logging
import resource
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from jaxtyping import Float32, Int16, Integer

from avatarlab import FPS, journal, null
from avatarlab.artifacts import Artifacts, Blob
from avatarlab.avatars import VOICE_STATE, Avatar, AvatarFrames, avatar_frames, load_avatar
from avatarlab.captions import SpokenSentence, SpokenWord, cues_for, to_srt, to_webvtt
from avatarlab.compose import Segment, VideoSettings, background_digest, compose, idle_path
from avatarlab.errors import (
    AvatarError,
    AvatarLabError,
    DeviceLost,
    ForeignWorker,
    MediaError,
    ScriptError,
    SettingsError,
    WeightsError,
)
from avatarlab.identity import software
from avatarlab.keys import seed_from
from avatarlab.lips.life import Living
from avatarlab.media import read_audio, write_lossless, write_wav
from avatarlab.models import ModelSet, read_model_set
from avatarlab.null import NullSettings, null_settings
from avatarlab.recording import Recording, quiet_pieces
from avatarlab.stages import (
    AudioItem,
    FaceItem,
    Item,
    MotionItem,
    Outcome,
    Silence,
    SpokenPart,
    StageContext,
    TokensItem,
    VideoItem,
    failed,
    voice_state_use,
)
from avatarlab.store import open_store
from avatarlab.text import normalise
from avatarlab.text.front_end import FrontEnd, front_end

if TYPE_CHECKING:
    from avatarlab.lips.diffdub import Motion, Renderer
    from avatarlab.lips.hubert import Hubert
    from avatarlab.lips.mask import PaintedFrame
    from avatarlab.lips.paint import Painter
    from avatarlab.speech.codecs import AnyCodec
    from avatarlab.speech.generate import Sampling, Utterance, VoicePrompt
    from avatarlab.speech.reading import Reading
    from avatarlab.speech.small_e import SmallE

    M = TypeVar("M", SmallE, AnyCodec, Motion, Hubert, Renderer)

logger = logging.getLogger(__name__)

AVATARS_IN_MEMORY = 4
PIECES_AT_ONCE = 8  # of a recording, for which motion is made together
CONTEXT_FRAMES = 2 * FPS  # that motion hears before and after them
NPY, JSON = "application/x-npy", "application/json"


@dataclass(frozen=True)
class Made:
    """What came out for one item, before it is stored."""

    outputs: Mapping[str, tuple[bytes | Path, str]]
    inputs: Mapping[str, object]
    seconds: float
    notes: tuple[str, ...] = ()


def run_batch(stage: str, items: Sequence[Item], context: StageContext) -> list[Outcome]:
    """One outcome for each item, in order. What another run has stored meanwhile is not made again.

    Raises only what no item can be blamed for alone: an unreachable store at the start, ForeignWorker where this process
    has other code than the run was planned with, DeviceLost after a fault of the GPU.
    """
    if context.software and context.software != software():
        raise ForeignWorker(
            f"a worker on {socket.gethostname()} has avatarlab {software()}, and the run was planned with {context.software}",
            "install the same version there and start it again",
        )
    artifacts = _artifacts(context.store_uri, context.local_cache)
    found = artifacts.find(stage, [item.key for item in items])
    outcomes = {key: Outcome(stage, key, action, found=True) for key, action in found.items()}
    missing = [item for item in items if item.key not in found]
    outcomes |= _make(stage, missing, context, artifacts)
    return [outcomes[item.key] for item in items]


def _make(stage: str, items: Sequence[Item], context: StageContext, artifacts: Artifacts) -> dict[str, Outcome]:
    outcomes: dict[str, Outcome] = {}
    if not items:
        return outcomes
    try:
        with tempfile.TemporaryDirectory(prefix=f"avatarlab-{stage}-") as folder:
            bench = Bench(context, artifacts, Path(folder))
            for item, made in zip(items, STAGES[stage](_begun(stage, items), bench), strict=True):
                outcomes[item.key] = _store(stage, item.key, made, context, artifacts)
    except Exception as error:  # any fault of one item must leave its neighbours alone
        if _is_fault_of_the_gpu(error):
            raise DeviceLost(
                f"the GPU: {str(error).splitlines()[0]}", "see the worker's log, then run again"
            ) from error
        left = [item for item in items if item.key not in outcomes]
        if len(left) > 1:
            logger.warning("%s of %d items failed as one (%s); trying one by one", stage, len(left), error)
        if len(left) == 1 and len(items) == 1:
            logger.warning("%s %s failed: %s", stage, left[0].key[:12], error, exc_info=not _expected(error))
            return {left[0].key: failed(stage, left[0].key, error)}
        for item in left:
            outcomes |= _make(stage, [item], context, artifacts)
    return outcomes


def _begun(stage: str, items: Iterable[Item]) -> Iterator[Item]:
    """The items; what a stage takes up is journalled as it takes it."""
    for item in items:
        journal.note("start", stage, item.key)
        yield item


def _is_fault_of_the_gpu(error: Exception) -> bool:
    """After one, every further call of the same process fails. Running out of memory is none."""
    return type(error).__name__ == "AcceleratorError" or "CUDA error" in str(error)


def _expected(error: Exception) -> bool:
    return isinstance(error, AvatarLabError)


def _store(stage: str, key: str, made: Made, context: StageContext, artifacts: Artifacts) -> Outcome:
    try:
        action = artifacts.commit(
            stage, key, made.outputs, made.inputs, seconds=made.seconds, device=context.device, notes=made.notes
        )
    except AvatarLabError as error:
        return failed(stage, key, error)
    journal.note("done", stage, key)
    return Outcome(
        stage, key, action, seconds=made.seconds, device=context.device, peak_memory_mb=_peak_memory_mb(context.device)
    )


@dataclass(frozen=True)
class Bench:
    """Where a batch is worked on: the context, the artifacts, and a folder for files that vanishes afterwards."""

    context: StageContext
    artifacts: Artifacts
    folder: Path

    def array(self, blob: Blob) -> np.ndarray:
        return np.load(io.BytesIO(self.artifacts.read(blob)), allow_pickle=False)


def make_tokens(batch: Iterable[Item], bench: Bench) -> Iterator[Made]:
    """Sentences -> `codes.npy` int16 (q, t) and `words.json`, all sentences in one call.

    A sentence whose alignment shows a fault (see `speech.reading`) is drawn again with further seeds; the best is kept.
    """
    from avatarlab.speech.word_times import word_times

    items = list(cast("Iterable[TokensItem]", batch))
    text = front_end(_models(bench.context))
    started = time.perf_counter()
    settings = _null(bench.context)
    best = _best_readings(items, bench.context) if settings is None else _null_readings(items, text, settings)
    share = (time.perf_counter() - started) / len(items)
    for item, (codes, frames, reading, draw) in zip(items, best, strict=True):
        if codes.shape[1] == 0:
            raise ScriptError(f"no speech came out of {item.spoken[:60]!r}", "reword the sentence, or change the seed")
        words = [asdict(word) for word in word_times(frames, text.word_spans(item.spoken))]
        notes = (f"{item.spoken[:60]!r} {', '.join(reading.faults)}",) if reading.faults else ()
        yield Made(
            {
                "codes.npy": (_npy(codes.astype(np.int16)), NPY),
                "words.json": (json.dumps(words).encode(), JSON),
            },
            {
                "spoken": item.spoken,
                "voice": item.voice_digest,
                "voice_state": item.voice_state,
                "seed": item.seed,
                "draws": draw,
                "reading": asdict(reading),
                "frame_count": len(frames),
            },
            share,
            notes,
        )


def make_audio(items: Iterable[Item], bench: Bench) -> Iterator[Made]:
    """Codes -> `audio.npy` float32 (s,), s = 640 samples for each video frame."""
    decode = _decoder(bench.context)
    for item in cast("Iterable[AudioItem]", items):
        codes = bench.array(item.codes)
        started = time.perf_counter()
        waveform = decode(codes)
        if not np.isfinite(waveform).all():
            raise MediaError("the codec gave samples that are no numbers", "check the codec's weights")
        yield Made({"audio.npy": (_npy(waveform), NPY)}, {"codes": item.codes.sha256}, time.perf_counter() - started)


def make_motion(items: Iterable[Item], bench: Bench) -> Iterator[Made]:
    """Waveforms -> `latents.npy` float32 (f, z), led by the avatar's own lips at rest, and `emphasis.npy` uint8 (f,)."""
    from avatarlab.lips.expression import emphasis

    for item in cast("Iterable[MotionItem]", items):
        waveform = bench.array(item.audio)
        started = time.perf_counter()
        lips = _lips(bench.context, item.avatar, item.picture_digest)
        latents = lips(waveform)
        if not np.isfinite(latents).all():
            raise MediaError("the motion network gave latents that are no numbers", "check its weights")
        yield Made(
            {"latents.npy": (_npy(latents), NPY), "emphasis.npy": (_npy(emphasis(waveform)), NPY)},
            {"audio": item.audio.sha256, "picture": item.picture_digest},
            time.perf_counter() - started,
        )


def make_face(items: Iterable[Item], bench: Bench) -> Iterator[Made]:
    """Latents -> `windows.mkv`, finished mouth windows, `corners.npy` int (f, 2): where they go, and `emphasis.npy`.

    Frames go to the encoder, a process of its own, while the next are drawn.
    """
    for number, item in enumerate(cast("Iterable[FaceItem]", items)):
        latents, levels = bench.array(item.motion), bench.array(item.emphasis)
        _, living = _living(bench.context, item.avatar, item.picture_digest)
        painter = _painter(bench.context, item.avatar, item.picture_digest)
        started = time.perf_counter()
        corners: list[tuple[int, int]] = []
        faceless = 0

        def windows(frames: Iterator["PaintedFrame"], corners: list[tuple[int, int]]) -> Iterator[np.ndarray]:
            nonlocal faceless
            for frame in frames:
                corners.append(frame.corner)
                faceless += not frame.drawn
                yield frame.window

        file = bench.folder / f"{number}.mkv"
        write_lossless(file, windows(painter.paint(idle_path(len(latents), len(living)), levels, latents), corners))
        yield Made(
            {
                "windows.mkv": (file, "video/x-matroska"),
                "corners.npy": (_npy(np.array(corners, np.int32)), NPY),
                "emphasis.npy": (_npy(levels), NPY),
            },
            {
                "motion": item.motion.sha256,
                "picture": item.picture_digest,
                "frame_count": len(latents),
                "frames_without_face": faceless,
            },
            time.perf_counter() - started,
            (f"{faceless} of {len(latents)} frames show no face, or one turned away, and were left as they are",)
            if faceless
            else (),
        )


def make_video(items: Iterable[Item], bench: Bench) -> Iterator[Made]:
    """Sentences and pauses -> `video.mp4`, `captions.vtt`, `captions.srt` and `poster.jpg`, one row after another."""
    for number, item in enumerate(cast("Iterable[VideoItem]", items)):
        started = time.perf_counter()
        avatar, living = _living(bench.context, item.avatar, item.picture_digest)
        if avatar.matte_digest != item.matte_digest:
            raise AvatarError(
                f"avatar {avatar.id!r} has changed since the run was planned", "run the same command again"
            )
        if background_digest(item.background) != item.background_digest:
            raise AvatarError("the background has changed since the run was planned", "run the same command again")
        folder = bench.folder / str(number)
        folder.mkdir()
        segments, spoken, position = [], [], 0
        for index, part in enumerate(item.parts):
            segment = (
                Segment(part.frame_count) if isinstance(part, Silence) else _segment(bench, part, folder / str(index))
            )
            if isinstance(part, SpokenPart):
                spoken.append(_sentence(bench, part, position / FPS, segment.frame_count))
            segments.append(segment)
            position += segment.frame_count
        settings = VideoSettings(item.width, item.height, item.background, item.layout, item.title)
        composed = compose(living, segments, settings, folder / "video.mp4", folder / "poster.jpg")
        cues = cues_for(spoken)
        yield Made(
            {
                "video.mp4": (folder / "video.mp4", "video/mp4"),
                "captions.vtt": (to_webvtt(cues).encode(), "text/vtt"),
                "captions.srt": (to_srt(cues).encode(), "application/x-subrip"),
                "poster.jpg": (folder / "poster.jpg", "image/jpeg"),
            },
            {
                "frame_count": composed.frame_count,
                "width": composed.width,
                "height": composed.height,
                "picture": item.picture_digest,
                "background": item.background_digest,
                "starts_seconds": [str(sentence.start_seconds) for sentence in spoken],
            },
            time.perf_counter() - started,
        )
        shutil.rmtree(folder)


STAGES: Mapping[str, Callable[[Iterable[Item], Bench], Iterator[Made]]] = {
    "tokens": make_tokens,
    "audio": make_audio,
    "motion": make_motion,
    "face": make_face,
    "video": make_video,
}


def stream_tokens(item: TokensItem, context: StageContext) -> Iterator[Float32[np.ndarray, "s"]]:
    """One sentence as 16 kHz sound while it is being said: the first draw, whatever it is like. Nothing is stored."""
    from avatarlab.speech.streaming import stream_speech

    settings = _null(context)
    if settings is not None:
        yield null.speech(null.speak(item.units, item.spoken, settings)[0])
        return
    place = _of(context)
    sampling, _ = drawing(_models(context).settings("small_e"))
    prompt = _voice_prompt(context, item.voice, item.voice_digest, item.voice_state)
    yield from stream_speech(_small_e(*place), _codec(*place), item.units, prompt, item.seed, sampling)


def dub_segments(
    recording: Recording, avatar: Avatar, context: StageContext, folder: Path
) -> tuple[Living, list[Segment]]:
    """An avatar saying a recording: the presenter, and its segments, whose mouths are drawn when they are asked for.

    Sound is cut at quiet places; motion hears about a minute at a time, with some context on either side, so that memory
    does not grow with the length and no seam shows. FOLDER keeps the sound of the pieces.
    """
    from avatarlab.lips.expression import emphasis

    _, living = _living(context, avatar.id, avatar.picture_digest)
    lips = _lips(context, avatar.id, avatar.picture_digest)
    painter = _painter(context, avatar.id, avatar.picture_digest)

    @lru_cache(maxsize=1)
    def latents(first: int, last: int) -> Float32[np.ndarray, "f z"]:
        heard = recording.waveform(first - CONTEXT_FRAMES, last + CONTEXT_FRAMES)
        return lips(heard)[CONTEXT_FRAMES:-CONTEXT_FRAMES]

    def windows(piece: tuple[int, int], span: tuple[int, int], levels: np.ndarray) -> Iterator["PaintedFrame"]:
        said = latents(*span)[piece[0] - span[0] : piece[1] - span[0]]
        return painter.paint(idle_path(len(said), len(living)), levels, said)

    segments = []
    pieces = quiet_pieces(recording.energy())
    for at in range(0, len(pieces), PIECES_AT_ONCE):
        together = pieces[at : at + PIECES_AT_ONCE]
        span = together[0][0], together[-1][1]
        for piece in together:
            sound, path = recording.waveform(*piece), folder / f"{piece[0]}.wav"
            write_wav(path, sound)
            levels = emphasis(sound)
            segments.append(Segment(piece[1] - piece[0], path, partial(windows, piece, span, levels), emphasis=levels))
    return living, segments


def warm_up(context: StageContext) -> None:
    """Loads every engine of a worker before the first item comes."""
    if _null(context) is not None:
        return
    place = _of(context)
    for load in (_small_e, _codec, _motion, _hubert, _renderer):
        load(*place)


def _segment(bench: Bench, part: SpokenPart, stem: Path) -> Segment:
    waveform, windows = stem.with_suffix(".npy"), stem.with_suffix(".mkv")
    bench.artifacts.fetch(part.audio, waveform)
    bench.artifacts.fetch(part.windows, windows)
    corners = bench.array(part.corners)
    return Segment(len(corners), waveform, windows, corners, bench.array(part.emphasis))


def _sentence(bench: Bench, part: SpokenPart, start_seconds: float, frame_count: int) -> SpokenSentence:
    words = tuple(
        SpokenWord(word["word"], start_seconds + word["start_seconds"], start_seconds + word["end_seconds"])
        for word in json.loads(bench.artifacts.read(part.words))
    )
    return SpokenSentence(part.text, start_seconds, start_seconds + frame_count / FPS, words)


# codes, their alignment by video frame, its judgement, and which draw it was, counted from 1
Read = tuple[Int16[np.ndarray, "q t"], Float32[np.ndarray, "f j"], "Reading", int]


def _null_readings(items: Sequence[TokensItem], text: FrontEnd, settings: NullSettings) -> list[Read]:
    from avatarlab.speech.reading import judge

    spoken = [null.speak(item.units, item.spoken, settings) for item in items]
    return [
        (codes, frames, judge(frames, text.unit_names(item.units), stopped=True), 1)
        for item, (codes, frames) in zip(items, spoken, strict=True)
    ]


def _best_readings(items: Sequence[TokensItem], context: StageContext) -> list[Read]:
    """Of every sentence the best reading."""
    from avatarlab.speech.codecs import by_video_frame, steps_per_video_frame
    from avatarlab.speech.generate import generate
    from avatarlab.speech.reading import judge

    model = _small_e(*_of(context))
    sampling, draws = drawing(_models(context).settings("small_e"))
    prompts = [_voice_prompt(context, item.voice, item.voice_digest, item.voice_state) for item in items]
    text = front_end(_models(context))
    names = [text.unit_names(item.units) for item in items]
    step_seconds = 1 / _codec(*_of(context)).frame_rate
    best: dict[int, tuple[Utterance, Reading, int]] = {}
    open_rows = list(range(len(items)))
    for draw in range(draws):
        seeds = [items[row].seed if draw == 0 else seed_from(str(items[row].seed), str(draw)) for row in open_rows]
        texts, voices = [items[row].units for row in open_rows], [prompts[row] for row in open_rows]
        for row, utterance in zip(open_rows, generate(model, texts, voices, seeds, sampling), strict=True):
            reading = judge(utterance.alignment, names[row], utterance.stopped, step_seconds)
            if row not in best or reading.rank < best[row][1].rank:
                best[row] = utterance, reading, draw + 1
        open_rows = [row for row in open_rows if best[row][1].faults]
        if not open_rows:
            break
    steps = steps_per_video_frame(_codec(*_of(context)))
    return [
        (utterance.codes, by_video_frame(utterance.alignment, steps), reading, draw)
        for utterance, reading, draw in (best[row] for row in range(len(items)))
    ]


def drawing(settings: Mapping[str, Any]) -> tuple["Sampling", int]:
    """How tokens are drawn, and how often at most a sentence is."""
    from avatarlab.speech.generate import Sampling

    known = {field.name for field in fields(Sampling)}
    unknown = settings.keys() - known - {"draws", "voice_state"}
    if unknown:
        raise SettingsError(f"unknown settings of small_e: {', '.join(sorted(unknown))}", "correct models.toml")
    sampling = Sampling(**{name: value for name, value in settings.items() if name in known})
    return sampling, max(1, int(settings.get("draws", 1)))


Place = tuple[Path, str, str]  # models.toml, digest of the set, device


def _of(context: StageContext) -> Place:
    return context.models, context.models_digest, context.device


def _models(context: StageContext) -> ModelSet:
    return _model_set(context.models, context.models_digest)


@cache
def _model_set(path: Path, digest: str) -> ModelSet:
    models = read_model_set(path)
    if models.set_digest != digest:
        raise WeightsError(f"{path} has changed since the run was planned", "run the same command again")
    return models


def _null(context: StageContext) -> NullSettings | None:
    """How the null engines work, where the model set has these and no networks."""
    return null_settings(_models(context))


@cache
def _small_e(path: Path, digest: str, device: str) -> "SmallE":
    from avatarlab.speech.small_e import SmallE

    return _on(device, SmallE.from_state_dict(_model_set(path, digest).load_tensors("small_e")))


@cache
def _codec(path: Path, digest: str, device: str) -> "AnyCodec":
    from avatarlab.speech.codecs import load_codec

    return _on(device, load_codec(_model_set(path, digest).load_tensors("codec")))


@cache
def _motion(path: Path, digest: str, device: str) -> "Motion":
    from avatarlab.lips.diffdub import Motion

    return _on(device, Motion.from_state_dict(_model_set(path, digest).load_tensors("motion")))


@cache
def _hubert(path: Path, digest: str, device: str) -> "Hubert | None":
    """What the motion network listens with; None where that is log-mel, which has no weights."""
    from avatarlab.lips.lip_sync import hears_log_mel

    motion, models = _motion(path, digest, device), _model_set(path, digest)
    if hears_log_mel(motion):
        return None
    from avatarlab.lips.hubert import Hubert

    if models.file("audio_features").path is None:
        raise WeightsError(
            f"the motion network of {path} listens to HuBERT ({motion.config.layers} x {motion.config.features} features), "
            "and [audio_features] has no weights",
            "run `avatarlab models import` with --audio-features, or use a set whose motion network hears log-mel",
        )
    return _on(device, Hubert.from_state_dict(models.load_tensors("audio_features")))


@cache
def _renderer(path: Path, digest: str, device: str) -> "Renderer":
    from avatarlab.lips.diffdub import Renderer

    return _on(device, Renderer.from_state_dict(_model_set(path, digest).load_tensors("renderer")))


def _on(device: str, model: "M") -> "M":
    """One thread: sums are then the same on every machine, and the workers share the cores."""
    import torch

    torch.set_num_threads(1)
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise SettingsError(f"there is no device {device} here", "use --device cpu, or workers with a GPU")
    return model.to(device).eval()


@lru_cache(maxsize=64)
def _voice_prompt(context: StageContext, id: str, voice_digest: str, voice_state: str) -> "VoicePrompt":
    import torch

    from avatarlab.speech.generate import VoicePrompt
    from avatarlab.speech.voice_state import read_voice_state

    avatar = load_avatar(context.avatar_roots, id)
    if avatar.voice_digest != voice_digest or (voice_state and avatar.state_digest != voice_state):
        raise AvatarError(
            f"the voice of avatar {id!r} has changed since the run was planned", "run the same command again"
        )
    codec = _codec(*_of(context))
    waveform = torch.from_numpy(read_audio(avatar.voice, codec.sample_rate_hz))[None].to(context.device)
    codes = codec.encode(waveform)[0].cpu().numpy().astype(np.int16)
    state = None
    if voice_state:
        state = read_voice_state(avatar.folder / VOICE_STATE, _small_e(*_of(context)))
        if voice_state_use(_models(context)) == "alone":
            return VoicePrompt((), codes[:, :0], state)
    said = front_end(_models(context)).prompt_units(normalise(avatar.transcript).spoken)
    return VoicePrompt(said, codes, state)


@lru_cache(maxsize=AVATARS_IN_MEMORY)
def _avatar_frames(context: StageContext, id: str, picture_digest: str) -> tuple[Avatar, AvatarFrames]:
    avatar = load_avatar(context.avatar_roots, id)
    if avatar.picture_digest != picture_digest:
        raise AvatarError(
            f"the picture of avatar {id!r} has changed since the run was planned", "run the same command again"
        )
    return avatar, avatar_frames(avatar)


@lru_cache(maxsize=AVATARS_IN_MEMORY)
def _living(context: StageContext, id: str, picture_digest: str) -> tuple[Avatar, Living]:
    avatar, frames = _avatar_frames(context, id, picture_digest)
    return avatar, Living(frames, avatar.life, seed_from(picture_digest))


def _decoder(context: StageContext) -> Callable[[Integer[np.ndarray, "q t"]], Float32[np.ndarray, "s"]]:
    """What makes 16 kHz sound of codes."""
    if _null(context) is not None:
        return null.speech
    import torch

    from avatarlab.speech.codecs import decode_speech

    codec = _codec(*_of(context))

    def decode(codes: Integer[np.ndarray, "q t"]) -> Float32[np.ndarray, "s"]:
        stacked = torch.from_numpy(codes.astype(np.int64))[None].to(context.device)
        return decode_speech(codec, stacked)[0].float().cpu().numpy()

    return decode


def _lips(
    context: StageContext, id: str, picture_digest: str
) -> Callable[[Float32[np.ndarray, "s"]], Float32[np.ndarray, "f z"]]:
    """What makes lip latents of sound for one avatar."""
    if _null(context) is not None:
        return null.lip_latents
    from avatarlab.lips.lip_sync import lip_latents

    references = _lip_references(context, id, picture_digest)
    return partial(lip_latents, _motion(*_of(context)), references=references, hubert=_hubert(*_of(context)))


@lru_cache(maxsize=AVATARS_IN_MEMORY)
def _painter(context: StageContext, id: str, picture_digest: str) -> "Painter | null.StillPainter":
    _, living = _living(context, id, picture_digest)
    if _null(context) is not None:
        return null.StillPainter(living)
    from avatarlab.lips.paint import Painter, PaintSettings

    settings = PaintSettings.of(_models(context).settings("renderer"))
    return Painter(_renderer(*_of(context)), settings, living)


@lru_cache(maxsize=64)
def _lip_references(context: StageContext, id: str, picture_digest: str) -> Float32[np.ndarray, "r z"]:
    from avatarlab.lips.lip_images import lip_references

    _, frames = _avatar_frames(context, id, picture_digest)
    return lip_references(_renderer(*_of(context)), frames.frames, frames.landmarks)


@cache
def _artifacts(store_uri: str, local_cache: Path | None) -> Artifacts:
    return Artifacts(open_store(store_uri), local_cache)


def _peak_memory_mb(device: str) -> float:
    """Of this process, or of the GPU where there is one."""
    if device.startswith("cuda"):
        import torch

        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
