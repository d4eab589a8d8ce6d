"""Speech to lip latents for utterances of any length: overlapping windows, and a mouth that closes in silence."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from avatarlab import FPS, SAMPLES_PER_VIDEO_FRAME
from avatarlab.errors import InputError, SettingsError
from avatarlab.lips.diffdub import Motion
from avatarlab.lips.features import BANDS, Features, LogMel
from avatarlab.lips.lip_images import PUBLISHED_REFERENCES
from avatarlab.lips.pitch import HOP, semitones

if TYPE_CHECKING:
    from avatarlab.lips.hubert import Hubert

WINDOW_FRAMES = 10 * FPS
OVERLAP_FRAMES = FPS
SILENCE_BELOW_SPEECH_DB = 36.0
SILENCE_DBFS = -58.0
SHORTEST_SILENCE_FRAMES = 6  # a stop consonant is silent for less
STEADY_DB = 12.0  # a louder range than this is no steady noise
LOOKED_AT_FRAMES = 60 * FPS
SHORTEST_NOISE_FRAMES = 20  # less is too short to be called steady
LEAST_VOICED = 0.2  # share of frames with a pitch from which a steady sound may be a voice
CLOSING_FRAMES = 3  # 120 ms


def lip_latents(
    motion: Motion,
    waveform: Float[np.ndarray, "s"],
    references: Float[np.ndarray, "r z"],
    closed: Float[np.ndarray, "z"] | None = None,
    hubert: "Hubert | None" = None,
) -> Float[np.ndarray, "f z"]:
    """One latent for each video frame of a 16 kHz waveform; f = s / 640.

    `references` are latents of the avatar at rest (paint.lip_references); `closed` is the mouth shown in silence, by
    default the reference nearest to their median. `hubert` is heard by motion networks that do not hear log-mel.
    Of `waveform`, which may be a memory map, only pieces are read, and nothing but the result grows with its length.
    Raises InputError where the waveform is not a whole number of video frames, SettingsError where the network wants
    other features than are there.
    """
    if len(waveform) == 0 or len(waveform) % SAMPLES_PER_VIDEO_FRAME:
        raise InputError(
            f"{len(waveform)} samples are not a whole number of video frames",
            "pad the audio to a multiple of 640 samples",
        )
    device = motion.out_proj.weight.device
    shown = resting(references) if closed is None else closed
    with torch.inference_mode():
        heard = _heard(motion, waveform, hubert)
        memory = torch.from_numpy(np.asarray(_remembered(motion, references), dtype=np.float32)).to(device)
        latents = _in_windows(motion, heard.frames // 2, lambda *ends: heard.between(*ends).to(device), memory)
        spoken = latents.cpu().numpy()
    closing = silence_weights(waveform)[:, None]
    for first in range(0, len(spoken), WINDOW_FRAMES):
        rows = slice(first, first + WINDOW_FRAMES)
        spoken[rows] = (1 - closing[rows]) * spoken[rows] + closing[rows] * shown
    return spoken


def hears_log_mel(motion: Motion) -> bool:
    """Whether log-mel is what the network was made for, as the bundled one; else it needs HuBERT."""
    return (motion.config.layers, motion.config.features) == (1, BANDS)


def _heard(motion: Motion, waveform: Float[np.ndarray, "s"], hubert: "Hubert | None") -> Features:
    if hears_log_mel(motion):
        return LogMel(waveform)
    wanted = f"{motion.config.layers} x {motion.config.features} features"
    if hubert is None:
        raise SettingsError(
            f"this motion network listens to {wanted}, not to log-mel",
            "give HuBERT, or use the bundled motion weights",
        )
    if (hubert.config.states, hubert.config.width) != (motion.config.layers, motion.config.features):
        raise SettingsError(
            f"this motion network listens to {wanted}, HuBERT gives {hubert.config.states} x {hubert.config.width}",
            "use the audio features the network was trained with",
        )
    return hubert.features(waveform)


def _remembered(motion: Motion, references: Float[np.ndarray, "r z"]) -> Float[np.ndarray, "m z"]:
    """What the network attends to. The published one was trained with 3 s of references and gets as many: those of a
    shorter clip over and over, one picture 75 times (spec diffdub 3.4)."""
    if motion.config.residual:
        return references
    return references[np.arange(PUBLISHED_REFERENCES) % len(references)]


def resting(references: Float[np.ndarray, "r z"]) -> Float[np.ndarray, "z"]:
    """The reference nearest to the median of all: a mouth that exists, not an average of several."""
    distance = np.square(references - np.median(references, axis=0)).sum(axis=1)
    return references[int(distance.argmin())]


def windowed(motion: Motion, audio: Float[Tensor, "l t50 c"], references: Float[Tensor, "r z"]) -> Float[Tensor, "f z"]:
    """Latents of any length from windows of 10 s that overlap by 1 s and are cross-faded there."""
    return _in_windows(motion, audio.shape[1] // 2, lambda first, last: audio[:, first:last], references)


def _in_windows(
    motion: Motion,
    frames: int,
    hear: Callable[[int, int], Float[Tensor, "l t50 c"]],
    references: Float[Tensor, "r z"],
) -> Float[Tensor, "f z"]:
    if frames <= WINDOW_FRAMES:
        return motion(hear(0, 2 * frames)[None], references[None])[0]
    step = WINDOW_FRAMES - OVERLAP_FRAMES
    device = references.device
    total = torch.zeros(frames, motion.config.style, device=device)
    weight = torch.zeros(frames, 1, device=device)
    rise = (torch.arange(WINDOW_FRAMES, device=device) + 1.0).clamp(max=OVERLAP_FRAMES)
    fade = torch.minimum(rise, rise.flip(0))[:, None] / OVERLAP_FRAMES
    # The last window ends with the audio, so every window is a full one.
    for start in [*range(0, frames - WINDOW_FRAMES, step), frames - WINDOW_FRAMES]:
        latents = motion(hear(2 * start, 2 * (start + WINDOW_FRAMES))[None], references[None])[0]
        total[start : start + WINDOW_FRAMES] += fade * latents
        weight[start : start + WINDOW_FRAMES] += fade
    return total.div_(weight)


def silence_weights(waveform: Float[np.ndarray, "s"]) -> Float[np.ndarray, "f"]:
    """0 while there is speech, 1 in silence, a soft step of 120 ms between, inside the silence.

    Silent is a video frame 36 dB below the loud frames of the clip, or below -58 dBFS, in a run of at least 240 ms; and all
    of a clip in which there is only a steady noise.
    """
    block = WINDOW_FRAMES * SAMPLES_PER_VIDEO_FRAME
    level = np.concatenate([_decibels(waveform[at : at + block]) for at in range(0, len(waveform), block)])
    if _steady_noise(waveform, level):
        return np.ones(len(level))
    threshold = max(SILENCE_DBFS, float(np.quantile(level, 0.95)) - SILENCE_BELOW_SPEECH_DB)
    silent = _long_runs(level < threshold, SHORTEST_SILENCE_FRAMES)
    # Distance in frames from the nearest speech before or after, as a raised cosine over the closing time.
    index = np.arange(len(silent), dtype=np.float64)
    before = np.maximum.accumulate(np.where(silent, -np.inf, index))
    after = np.minimum.accumulate(np.where(silent, np.inf, index)[::-1])[::-1]
    distance = np.minimum(index - before, after - index)
    progress = np.clip(distance / (CLOSING_FRAMES + 1), 0, 1)
    return np.asarray(0.5 - 0.5 * np.cos(np.pi * progress))


def _steady_noise(waveform: Float[np.ndarray, "s"], level: Float[np.ndarray, "f"]) -> bool:
    """Speech comes and goes; what neither does nor has a pitch, as a held vowel has, is a fan or a room.

    Pitch is looked for in the first minute.
    """
    heard = np.flatnonzero(level > SILENCE_DBFS)
    if len(heard) < SHORTEST_NOISE_FRAMES or np.ptp(np.quantile(level[heard], [0.05, 0.95])) > STEADY_DB:
        return False
    first = waveform[: LOOKED_AT_FRAMES * SAMPLES_PER_VIDEO_FRAME]
    middles = heard[heard < LOOKED_AT_FRAMES] * (SAMPLES_PER_VIDEO_FRAME // HOP) + SAMPLES_PER_VIDEO_FRAME // HOP // 2
    pitch = semitones(np.asarray(first, dtype=np.float64), middles)
    return bool(np.isfinite(pitch).sum() <= LEAST_VOICED * len(pitch))


def _decibels(waveform: Float[np.ndarray, "s"]) -> Float[np.ndarray, "f"]:
    frames = np.asarray(waveform, dtype=np.float64).reshape(-1, SAMPLES_PER_VIDEO_FRAME)
    return np.asarray(10 * np.log10(np.square(frames).mean(axis=1) + 1e-12))


def _long_runs(flags: Bool[np.ndarray, "f"], shortest: int) -> Bool[np.ndarray, "f"]:
    """True only where a run of True is long enough. Silence before the first and after the last sound counts longer."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(int)))
    kept = np.zeros(len(flags), dtype=bool)
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        if end - start >= shortest or start == 0 or end == len(flags):
            kept[start:end] = True
    return kept
