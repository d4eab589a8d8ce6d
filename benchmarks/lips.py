"""Lips that follow speech, measured: mouth openings from rendered pixels against what the phone times ask for.

The speech is the synthesiser's, whose phone times are known, so the truth is exact; the sentences were trained on by no
network, and the voices (styles.HELD_OUT) and the unseen presenters by none either.
"""

import functools
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8

from avatarlab import FPS, SAMPLE_RATE_HZ, SAMPLES_PER_VIDEO_FRAME
from avatarlab.avatars import AvatarFrames, avatar_frames, load_avatar
from avatarlab.compose import Segment, VideoSettings, draw_frames, idle_path
from avatarlab.lips.diffdub import Motion, Renderer
from avatarlab.lips.lip_images import lip_references
from avatarlab.lips.lip_sync import lip_latents
from avatarlab.lips.paint import PaintSettings
from avatarlab.media import write_lossless
from avatarlab.models import read_model_set
from avatarlab.training.articulation import articulate
from avatarlab.training.bundles import CAST
from avatarlab.training.corpus import SILENCE, Phone, Recording, read_wav, synthesise, write_wav
from avatarlab.training.evaluate_lips import (
    OPEN_RATIO,
    Lips,
    Painted,
    Sitter,
    Utterance,
    as_filmed,
    clip_masks,
    paint_clip,
    pause_frames,
    picture_error,
    speak_recordings,
    unseen_presenters,
    unseen_windows,
)
from avatarlab.training.lip_reading import Ear, Sync, shifted, sync
from avatarlab.training.presenters import BUNDLED, Presenter, mouth_opening
from avatarlab.training.styles import HELD_OUT, TRAINED
from benchmarks.speech import LECTURE, READING, lines_of
from benchmarks.workshop import bench_threads

UTTERANCES = 20
UNSEEN_PRESENTERS = 20
EAR_SENTENCES = 60
SILENCE_FRAMES = FPS
PAUSE_SECONDS = 0.8
SHIFT_FRAMES = 4
Waveform = Float[np.ndarray, "_"]


@functools.cache
def load_lips(models: str | None) -> Lips:
    """Raises WeightsError where the model set has no renderer or motion."""
    model_set = read_model_set(models)
    return Lips(
        Renderer.from_state_dict(model_set.load_tensors("renderer")).eval(),
        Motion.from_state_dict(model_set.load_tensors("motion")).eval(),
        PaintSettings.of(model_set.settings("renderer")),
    )


def trained_presenters() -> dict[str, Presenter]:
    return {id: BUNDLED[id] for id in CAST}


# --- following -------------------------------------------------------------------------------------------------------


@functools.cache
def said_by(models: str | None, unseen: bool, utterances: int = UTTERANCES) -> tuple[Utterance, ...]:
    """Lecture sentences in held-out voices, said by the trained or by unseen presenters, who take turns.

    Raises WeightsError where the model set has no renderer or motion, SettingsError when flite is not installed.
    """
    presenters = unseen_presenters(UNSEEN_PRESENTERS) if unseen else trained_presenters()
    with tempfile.TemporaryDirectory(prefix="avatarlab-bench-") as name, bench_threads():
        folder = Path(name)
        recordings = [
            recorded(folder, str(number), text, held_out_voice(number))
            for number, text in enumerate(lines_of(LECTURE)[:utterances])
        ]
        return tuple(speak_recordings(load_lips(models), recordings, folder, presenters))


def held_out_voice(number: int) -> str:
    """Voices in turn, out of step with three presenters in turn, so that every presenter gets every voice."""
    voices = list(HELD_OUT)
    return voices[(number + number // len(voices)) % len(voices)]


def recorded(folder: Path, name: str, text: str, voice: str) -> Recording:
    waveform, phones = synthesise(text, voice)
    write_wav(folder / f"{name}.wav", waveform)
    return Recording(name, voice, text, f"{name}.wav", phones)


# --- telling apart ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ToldApart:
    """Of `utterances` mouths, how many the ear calls right with their own sound and wrong with the fault's."""

    utterances: int
    late: int
    early: int
    other: int
    correlation: float  # of the right sound, mean

    @property
    def fewest(self) -> int:
        return min(self.late, self.early, self.other)


@functools.cache
def bench_ear() -> Ear:
    """Fitted to the trained voices reading sentences that no measurement here uses."""
    voices = list(TRAINED)
    waveforms, mouths = [], []
    for number, text in enumerate(lines_of(READING)[:EAR_SENTENCES]):
        waveform, phones = synthesise(text, voices[number % len(voices)])
        padded = whole_frames(waveform.astype(np.float32) / 32768)
        states = articulate(phones, len(padded) // SAMPLES_PER_VIDEO_FRAME)
        waveforms.append(padded)
        mouths.append(np.array([mouth_opening(BUNDLED["ada"], state) for state in states]))
    return Ear.fitted(waveforms, mouths)


def tell_apart(ear: Ear, mouths: Sequence[Float[np.ndarray, "_"]], waveforms: Sequence[Waveform]) -> ToldApart:
    """Every mouth with its own sound, with that sound `SHIFT_FRAMES` late and early, and with the next one's sound."""
    right, late, early, other = [], 0, 0, 0
    for number, (mouth, waveform) in enumerate(zip(mouths, waveforms, strict=True)):
        own: Sync = sync(ear, mouth, waveform)
        foreign = waveforms[(number + 1) % len(waveforms)]
        foreign = np.pad(foreign, (0, max(0, len(waveform) - len(foreign))))[: len(waveform)]
        right.append(own.correlation)
        late += own.fits and not sync(ear, mouth, shifted(waveform, SHIFT_FRAMES)).fits
        early += own.fits and not sync(ear, mouth, shifted(waveform, -SHIFT_FRAMES)).fits
        other += own.fits and not sync(ear, mouth, foreign).fits
    return ToldApart(len(mouths), late, early, other, float(np.mean(right)))


def measure_sync(models: str | None) -> dict[str, ToldApart]:
    """For the true mouths, which test the measure itself, and for those drawn by trained and unseen presenters."""
    ear, trained, unseen = bench_ear(), said_by(models, False), said_by(models, True)
    sounds = [said.waveform for said in trained]
    return {
        "true": tell_apart(ear, [said.truth for said in trained], sounds),
        "trained": tell_apart(ear, [said.measured for said in trained], sounds),
        "unseen": tell_apart(ear, [said.measured for said in unseen], sounds),
    }


def wrongly_fitting(ear: Ear, said: Sequence[Utterance]) -> tuple[int, int]:
    """How many mouths that do not move, and how many that move at random (as fast as a real one), seem to fit."""
    still = sum(sync(ear, np.zeros(len(one.truth)), one.waveform).fits for one in said)
    random = 0
    for number, one in enumerate(said):
        noise = np.random.default_rng(number).random(len(one.truth) + 2)
        random += sync(ear, np.convolve(noise, np.ones(3) / 3, mode="valid"), one.waveform).fits
    return still, random


# --- silence ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Leak:
    """Share of frames with the mouth open, by what is heard; `wide` by more than the published ratio of 0.25, `a_little`
    by more than 0.1.
    """

    frames: int
    wide: float
    a_little: float


def silences(seed: int, frames: int = SILENCE_FRAMES) -> dict[str, Waveform]:
    """Sounds nobody speaks in."""
    count = frames * SAMPLES_PER_VIDEO_FRAME
    rng = np.random.default_rng([4_711, seed])
    hiss = rng.normal(size=count)
    time = np.arange(count) / SAMPLE_RATE_HZ
    hum = np.sqrt(2) * np.sin(2 * np.pi * 50 * time + rng.uniform(0, 2 * np.pi))
    spectrum = np.fft.rfft(rng.normal(size=count))
    spectrum /= np.sqrt(1 + np.square(np.fft.rfftfreq(count, 1 / SAMPLE_RATE_HZ) / 200))
    room = np.fft.irfft(spectrum, count)
    sounds = {
        "digital silence": 0 * hiss,
        **{f"hiss {level} dBFS": hiss * 10 ** (level / 20) for level in (-60, -50, -40)},
        "hum -40 dBFS": hum * 10 ** (-40 / 20),
        "room -45 dBFS": room / room.std() * 10 ** (-45 / 20),
    }
    return {name: sound.astype(np.float32) for name, sound in sounds.items()}


def measure_silence(models: str | None) -> dict[str, Leak]:
    """What the mouths of twenty presenters, three of them trained, do while nobody speaks, and in pauses of speech."""
    lips = load_lips(models)
    people = trained_presenters() | unseen_presenters(UNSEEN_PRESENTERS - len(CAST))
    heard: dict[str, list[Float[np.ndarray, "f"]]] = {}
    with bench_threads(), tempfile.TemporaryDirectory(prefix="avatarlab-bench-") as name:
        for number, person in enumerate(people.values()):
            sitter = Sitter.of(lips, person)
            sounds = silences(number)
            latents = {sound: lip_latents(lips.motion, wave, sitter.references) for sound, wave in sounds.items()}
            record, waveform = paused(Path(name), number)
            spoken = lip_latents(lips.motion, waveform, sitter.references)
            latents["pauses in speech"] = spoken[pause_frames(record, len(spoken))]
            opened = sitter.openings(lips, np.concatenate(list(latents.values())))
            ends = np.cumsum([len(part) for part in latents.values()])
            for sound, part in zip(latents, np.split(opened, ends[:-1]), strict=True):
                heard.setdefault(sound, []).append(part)
    return {sound: leak(np.concatenate(parts)) for sound, parts in heard.items()}


def leak(opened: Float[np.ndarray, "f"]) -> Leak:
    return Leak(len(opened), float((opened > OPEN_RATIO).mean()), float((opened > 0.1).mean()))


def paused(folder: Path, number: int) -> tuple[Recording, Waveform]:
    """Two sentences with `PAUSE_SECONDS` between them, hiss all over: none, or at -60, -50 or -40 dBFS."""
    sentences, voice = lines_of(LECTURE), held_out_voice(number)
    first = recorded(folder, f"{number}a", sentences[-1 - 2 * number % 40], voice)
    second = recorded(folder, f"{number}b", sentences[-2 - 2 * number % 40], voice)
    left, right = (read_wav(folder / part.wav).astype(np.float32) / 32768 for part in (first, second))
    gap = np.zeros(round(PAUSE_SECONDS * SAMPLE_RATE_HZ), np.float32)
    late = (len(left) + len(gap)) / SAMPLE_RATE_HZ
    # The last phone of one and the first of the other are silence too.
    silence = Phone(SILENCE, _spoken(first.phones)[-1].end, late + _spoken(second.phones)[0].start)
    moved = [replace(phone, start=phone.start + late, end=phone.end + late) for phone in _spoken(second.phones)]
    joined = whole_frames(np.concatenate([left, gap, right]))
    level = (0.0, 1e-3, 10**-2.5, 1e-2)[number % 4]
    joined += (level * np.random.default_rng(number).normal(size=len(joined))).astype(np.float32)
    text = f"{first.text} {second.text}"
    return Recording(str(number), voice, text, "", (*_spoken(first.phones), silence, *moved)), joined


def _spoken(phones: Sequence[Phone]) -> list[Phone]:
    """Without the silence before and after."""
    last = max(index for index, phone in enumerate(phones) if phone.name != SILENCE)
    first = min(index for index, phone in enumerate(phones) if phone.name != SILENCE)
    return list(phones[first : last + 1])


def whole_frames(waveform: Waveform) -> Waveform:
    return np.pad(waveform, (0, -len(waveform) % SAMPLES_PER_VIDEO_FRAME))


# --- pixels ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outside:
    """A whole idle clip spoken over: pixels outside the mask that changed, in the frames and in the composed video before
    it is encoded, of so many; and the share of those inside that did.
    """

    frames: int
    pixels: int
    changed: int
    changed_composed: int
    changed_inside: float


def measure_outside(models: str | None, id: str, first: int | None = None) -> Outside:
    """Speech over every frame of a bundled avatar's clip, or over the `first` of them."""
    lips, whole_clip = load_lips(models), avatar_frames(load_avatar((), id))
    matte = None if whole_clip.matte is None else whole_clip.matte[:first]
    pictures = AvatarFrames(
        whole_clip.frames[:first], matte, whole_clip.landmarks[:first], whole_clip.face_found[:first]
    )
    count = len(pictures.frames)
    waveform, _ = synthesise(" ".join(lines_of(LECTURE)[:2]), CAST[id].voice)
    spoken = np.resize(waveform.astype(np.float32) / 32768, count * SAMPLES_PER_VIDEO_FRAME)
    with bench_threads():
        references = lip_references(lips.renderer, pictures.frames, pictures.landmarks)
        latents = lip_latents(lips.motion, spoken, references)
        painted = paint_clip(lips, pictures, np.arange(count), latents)
    masks = clip_masks(lips, pictures.landmarks, *pictures.frames.shape[1:3])
    changed, inside, composed = 0, 0.0, 0
    for whole, frame, mask in zip(pasted(painted, pictures.frames), pictures.frames, masks, strict=True):
        moved = (whole != frame).any(axis=2)
        changed += int((moved & ~mask).sum())
        inside += float(moved[mask].mean()) / count
    for index, plain, drawn in _composed(pictures, painted):
        composed += int(((plain != drawn).any(axis=2) & ~masks[index]).sum())
    return Outside(count, int((~masks).sum()), changed, composed, inside)


def pasted(painted: Painted, frames: UInt8[np.ndarray, "f h w 3"]) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Every frame with its window in place."""
    for frame, window, (x, y) in zip(frames, painted.windows, painted.corners, strict=True):
        whole = frame.copy()
        whole[y : y + window.shape[0], x : x + window.shape[1]] = window
        yield whole


def _composed(
    pictures: AvatarFrames, painted: Painted
) -> Iterator[tuple[int, UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w 3"]]]:
    """The whole clip there and back as a video at the picture's own size: which frame of the clip, without and with the
    mouth.
    """
    height, width = pictures.frames.shape[1:3]
    settings = VideoSettings(width=width, height=height)
    living = as_filmed(pictures)
    count = 2 * len(pictures.frames) - 1
    path = idle_path(count, len(pictures.frames))
    with tempfile.TemporaryDirectory(prefix="avatarlab-bench-") as name:
        file = Path(name) / "windows.mkv"
        write_lossless(file, painted.windows[path])
        still = draw_frames(living, [Segment(count)], settings)
        spoken = draw_frames(living, [Segment(count, None, file, painted.corners[path])], settings)
        yield from zip(path.tolist(), still, spoken, strict=True)


# --- flicker ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flicker:
    """Mean change from frame to frame in levels of 255, the worst presenter's: inside the mask, and of the tenth of its
    pixels that change most.
    """

    presenters: int
    mask: float
    liveliest: float


VOWELS = {"aa": (730, 1090, 2440), "iy": (270, 2290, 3010), "uw": (300, 870, 2240)}  # formants in Hz
VOWEL_SECONDS = 3.0
PITCH_HZ = 120.0


def vowel(name: str, seconds: float = VOWEL_SECONDS) -> Waveform:
    """A perfectly steady vowel: harmonics of one pitch, weighted by three resonances (Peterson and Barney 1952)."""
    time = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    sound = np.zeros_like(time)
    for harmonic in np.arange(PITCH_HZ, 5000, PITCH_HZ):
        gain = 1 / harmonic  # of the glottis and the lips together
        for formant, width in zip(VOWELS[name], (80, 100, 140), strict=True):
            gain *= formant**2 / np.hypot(formant**2 - harmonic**2, width * harmonic)
        sound += gain * np.sin(2 * np.pi * harmonic * time)
    return (0.1 * sound / sound.std()).astype(np.float32)


def measure_flicker(models: str | None) -> dict[str, Flicker]:
    """Still pictures of the trained and three unseen presenters in silence, in hiss, and holding a vowel: the second in
    the middle of each.
    """
    lips = load_lips(models)
    people = trained_presenters() | unseen_presenters(3)
    found: dict[str, list[tuple[float, float]]] = {}
    with bench_threads():
        for number, person in enumerate(people.values()):
            sitter = Sitter.of(lips, person)
            noises = silences(number, round(VOWEL_SECONDS * FPS))
            sounds = {name: noises[name] for name in ("digital silence", "hiss -50 dBFS")}
            sounds |= {f"held /{name}/": vowel(name) for name in VOWELS}
            for name, sound in sounds.items():
                latents = lip_latents(lips.motion, sound, sitter.references)
                middle = (len(latents) - FPS) // 2
                painted = sitter.paint(lips, latents[middle : middle + FPS])
                (mask,) = clip_masks(lips, sitter.landmarks[None], *sitter.image.shape[:2])
                found.setdefault(name, []).append(flicker(painted, mask))
    return {name: Flicker(len(people), *map(max, zip(*rows, strict=True))) for name, rows in found.items()}


def flicker(painted: Painted, mask: Bool[np.ndarray, "h w"]) -> tuple[float, float]:
    """Mean change from one frame to the next inside the mask, and of its liveliest tenth; every window at one place."""
    (x, y), box = painted.corners[0], painted.windows.shape[1]
    change = np.abs(np.diff(painted.windows.astype(np.float32), axis=0)).mean(axis=(0, 3))
    inside = np.sort(change[mask[y : y + box, x : x + box]])
    return float(inside.mean()), float(inside[-len(inside) // 10 :].mean())


# --- drawing in few steps --------------------------------------------------------------------------------------------


def measure_steps(models: str | None, counts: Sequence[int] = (1, 2, 3, 4)) -> tuple[float, dict[int, float]]:
    """Mean absolute error where the picture changed, in levels of 255: of the reference left as it is, and drawn in so
    many steps; windows of twenty unseen presenters.
    """
    tracks = []
    for number, text in enumerate(lines_of(LECTURE)[:UTTERANCES]):
        waveform, phones = synthesise(text, held_out_voice(number))
        tracks.append(articulate(phones, len(waveform) // SAMPLES_PER_VIDEO_FRAME))
    lips = load_lips(models)
    faces = unseen_windows(lips.renderer, tracks)
    with bench_threads():
        errors = {steps: picture_error(lips.renderer, faces, steps) for steps in counts}
    return errors[counts[0]][1], {steps: drawn for steps, (drawn, _) in errors.items()}
