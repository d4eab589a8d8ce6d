"""What the motion network hears in training: recordings of the speech corpus as features, with their mouths and phones.

Every recording is heard in several ways: as it is, in other rooms and voices (`varied`), and through the codec, which is
how the product speaks. Clips are cut out of these features, with pauses, noise and the length of the vocal tract changed
on the features themselves, where it costs nothing.
"""

import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from avatarlab import FPS, SAMPLES_PER_VIDEO_FRAME
from avatarlab.lips.features import BANDS, DEEPEST, NATS_PER_UNIT, log_mel
from avatarlab.speech.codec import Codec
from avatarlab.training.articulation import POSTURES, SILENCE
from avatarlab.training.corpus import Phone, Recording
from avatarlab.training.face_corpus import mouth_tracks
from avatarlab.training.loop import Progress
from avatarlab.training.presenters import FaceState

POSTURE = ("jaw", "width", "round", "press", "tuck", "tongue")
PHONES = tuple(sorted(POSTURES))
LONGEST_PAUSE_FRAMES = 20
NOISE_ALONE = 0.06  # share of clips in which nobody speaks
WARP = 0.07  # spread of the logarithm of the vocal tract's length

Posture = Float[np.ndarray, "f 6"]


def posture(states: Sequence[FaceState]) -> Posture:
    """What the mouth does, as numbers in the order of POSTURE."""
    return np.array([[getattr(state, name) for name in POSTURE] for state in states], dtype=np.float32).reshape(-1, 6)


@dataclass(frozen=True)
class Spoken:
    """A recording in whole video frames: its sound, its mouth, and the index in PHONES of what is said in each frame."""

    waveform: Float[np.ndarray, "s"]
    track: Posture
    phones: Integer[np.ndarray, "f"]


def load_spoken(record: Recording, speech_dir: Path) -> Spoken:
    """A recording padded with silence to whole video frames, and its mouth."""
    with wave.open(str(speech_dir / record.wav)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype=np.int16).astype(np.float32) / 32768
    track = posture(mouth_tracks(record, speech_dir))
    padded = np.pad(samples, (0, len(track) * SAMPLES_PER_VIDEO_FRAME - len(samples)))
    return Spoken(padded, track, phones_at(record.phones, len(track)))


def phones_at(phones: Sequence[Phone], frame_count: int) -> Integer[np.ndarray, "f"]:
    """Which phone sounds in the middle of each video frame, as its index in PHONES."""
    found = np.full(frame_count, PHONES.index(SILENCE))
    for phone in phones:
        first, last = (int(np.ceil(seconds * FPS - 0.5)) for seconds in (phone.start, phone.end))
        found[max(0, first) : max(0, last)] = PHONES.index(phone.name)
    return found


def varied(spoken: Spoken, rng: np.random.Generator) -> Spoken:
    """Another voice in another room: resampled (pitch, formants and tempo together), tilted, made noisy."""
    rate = float(np.exp(rng.normal(0, 0.09)))
    count = max(4, round(len(spoken.track) / rate))
    samples = count * SAMPLES_PER_VIDEO_FRAME
    at = (np.arange(samples) + 0.5) * (len(spoken.waveform) / samples) - 0.5
    waveform = np.interp(at, np.arange(len(spoken.waveform)), spoken.waveform)
    frames = (np.arange(count) + 0.5) * (len(spoken.track) / count) - 0.5
    known = np.arange(len(spoken.track))
    track = np.stack([np.interp(frames, known, spoken.track[:, k]) for k in range(6)], axis=1)
    tilt = rng.uniform(-0.5, 0.5)
    waveform = waveform + tilt * np.concatenate([[0.0], waveform[:-1]])
    loudness = np.sqrt(np.square(waveform).mean()) + 1e-6
    noise = rng.normal(size=len(waveform)) * loudness * 10 ** (-rng.uniform(25, 60) / 20)
    nearest = np.clip(np.rint(frames), 0, known[-1]).astype(int)
    return Spoken((waveform + noise).astype(np.float32), track.astype(np.float32), spoken.phones[nearest])


@torch.inference_mode()
def through_codec(spoken: Spoken, codec: Codec) -> Spoken:
    """The same recording as the codec gives it back."""
    sound = codec.decode(codec.encode(torch.from_numpy(spoken.waveform)[None]))[0].numpy()
    short = max(0, len(spoken.waveform) - len(sound))
    return Spoken(np.pad(sound, (0, short))[: len(spoken.waveform)], spoken.track, spoken.phones)


@dataclass(frozen=True)
class Heard:
    """One hearing of one recording: log-mel, two frames a video frame; posture and phone of every video frame."""

    features: Float[np.ndarray, "t50 80"]
    track: Posture
    phones: Integer[np.ndarray, "f"]


def hear(spoken: Spoken) -> Heard:
    features = log_mel(torch.from_numpy(spoken.waveform))[0].numpy().astype(np.float16)
    return Heard(features, spoken.track.astype(np.float16), spoken.phones.astype(np.uint8))


def hear_all(
    records: Sequence[Recording], speech_dir: Path, codec: Codec | None, seed: int, progress: Progress
) -> list[Heard]:
    """Three hearings of every recording: plain or, with a codec, as it speaks; and varied twice."""
    heard = []
    for number, record in enumerate(records):
        rng = np.random.default_rng([seed, 6, number])
        spoken = load_spoken(record, speech_dir)
        spoke = spoken if codec is None or number % 2 else through_codec(spoken, codec)
        heard += [hear(spoke), hear(varied(spoke, rng)), hear(varied(spoken, rng))]
        if number % 1000 == 999:
            progress(f"heard {number + 1} of {len(records)} recordings")
    return heard


@dataclass(frozen=True)
class Clip:
    """What one training sequence holds, `frames` video frames of it."""

    features: Float[Tensor, "t50 80"]
    track: Posture
    phones: Integer[np.ndarray, "f"]


def cut_clip(heard: Sequence[Heard], frames: int, rng: np.random.Generator) -> Clip:
    """A stretch of recordings one after another, pauses between and around them, in a changed voice and with noise."""
    features, tracks, phones, length = [], [], [], 0
    silence = PHONES.index(SILENCE)
    while length < 1.5 * frames:
        one = heard[int(rng.integers(len(heard)))]
        pause = int(rng.integers(0, LONGEST_PAUSE_FRAMES))
        features += [one.features.astype(np.float32), np.full((2 * pause, BANDS), DEEPEST, np.float32)]
        tracks += [one.track.astype(np.float32), np.zeros((pause, 6), np.float32)]
        phones += [one.phones.astype(np.int64), np.full(pause, silence)]
        length += len(one.track) + pause
    first = int(rng.integers(length - frames + 1))
    sound = np.concatenate(features)[2 * first : 2 * (first + frames)]
    track, said = np.concatenate(tracks)[first : first + frames], np.concatenate(phones)[first : first + frames]
    if rng.random() < NOISE_ALONE:
        # Nobody speaks: the features' own level raises whatever noise there is to that of speech.
        sound, track, said = np.full_like(sound, DEEPEST), np.zeros_like(track), np.full_like(said, silence)
        return Clip(torch.from_numpy(with_noise(sound, rng, (-1.5, 0.0))), track, said)
    sound = warped(sound, float(np.exp(rng.normal(0, WARP)))) + np.float32(rng.normal(0, 0.15))
    sound = sound + _smooth_curve(rng, 0.25)
    if rng.random() < 0.7:
        sound = with_noise(sound, rng, (-4.5, -1.1))
    return Clip(torch.from_numpy(sound.clip(min=DEEPEST).astype(np.float32)), track, said)


def warped(features: Float[np.ndarray, "t50 80"], factor: float) -> Float[np.ndarray, "t50 80"]:
    """The spectrum stretched along its bands, as a shorter or longer vocal tract does."""
    bands = np.arange(BANDS)
    at = np.clip(bands * factor, 0, BANDS - 1)
    low = np.minimum(at.astype(int), BANDS - 2)
    share = (at - low).astype(np.float32)
    return features[:, low] * (1 - share) + features[:, low + 1] * share


def with_noise(
    features: Float[np.ndarray, "t50 80"], rng: np.random.Generator, level: tuple[float, float]
) -> Float[np.ndarray, "t50 80"]:
    """A steady noise of random colour laid under the features; `level` is the range of its level, in their units."""
    colour = rng.uniform(*level) + _smooth_curve(rng, 0.5)
    noise = colour + rng.normal(0, 0.25 / NATS_PER_UNIT, features.shape)
    return (np.logaddexp(NATS_PER_UNIT * features, NATS_PER_UNIT * noise) / NATS_PER_UNIT).astype(np.float32)


def _smooth_curve(rng: np.random.Generator, spread: float) -> Float[np.ndarray, "80"]:
    """A random curve over the bands, straight between five points."""
    return np.interp(np.arange(BANDS), np.linspace(0, BANDS - 1, 5), rng.normal(0, spread, 5)).astype(np.float32)
