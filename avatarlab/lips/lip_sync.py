"""Speech to lip latents for utterances of any length: overlapping windows, and a mouth that closes in silence."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from avatarlab import FPS, SAMPLES_PER_VIDEO_FRAME
from avatarlab.errors import InputError, SettingsError
from avatarlab.lips.diffdub import Motion
from avatarlab.lips.features import BANDS, log_mel

WINDOW_FRAMES = 10 * FPS
OVERLAP_FRAMES = FPS
SILENCE_BELOW_SPEECH_DB = 36.0
SILENCE_DBFS = -58.0
SHORTEST_SILENCE_FRAMES = 6  # a stop consonant is silent for less
CLOSING_FRAMES = 3  # 120 ms


def lip_latents(
    motion: Motion,
    waveform: Float[np.ndarray, "s"],
    references: Float[np.ndarray, "r z"],
    closed: Float[np.ndarray, "z"] | None = None,
) -> Float[np.ndarray, "f z"]:
    """One latent for each video frame of a 16 kHz waveform; f = s / 640.

    `references` are latents of the avatar at rest (paint.lip_references); `closed` is the mouth shown in silence, by
    default the reference nearest to their median. Raises InputError where the waveform is not a whole number of video
    frames, SettingsError where the network wants other features than log-mel.
    """
    if len(waveform) == 0 or len(waveform) % SAMPLES_PER_VIDEO_FRAME:
        raise InputError(
            f"{len(waveform)} samples are not a whole number of video frames",
            "pad the audio to a multiple of 640 samples",
        )
    if (motion.config.layers, motion.config.features) != (1, BANDS):
        raise SettingsError(
            f"this motion network listens to {motion.config.layers} x {motion.config.features} features, not to log-mel",
            "use the bundled motion weights",
        )
    device = motion.out_proj.weight.device
    shown = resting(references) if closed is None else closed
    with torch.inference_mode():
        audio = log_mel(torch.from_numpy(np.asarray(waveform, dtype=np.float32))).to(device)  # (1, 2f, c)
        memory = torch.from_numpy(np.asarray(references, dtype=np.float32)).to(device)
        spoken = windowed(motion, audio, memory).cpu().numpy()
    closing = silence_weights(waveform)[:, None]
    return ((1 - closing) * spoken + closing * shown).astype(np.float32)


def resting(references: Float[np.ndarray, "r z"]) -> Float[np.ndarray, "z"]:
    """The reference nearest to the median of all: a mouth that exists, not an average of several."""
    distance = np.square(references - np.median(references, axis=0)).sum(axis=1)
    return references[int(distance.argmin())]


def windowed(motion: Motion, audio: Float[Tensor, "l t50 c"], references: Float[Tensor, "r z"]) -> Float[Tensor, "f z"]:
    """Latents of any length from windows of 10 s that overlap by 1 s and are cross-faded there."""
    frames = audio.shape[1] // 2
    if frames <= WINDOW_FRAMES:
        return motion(audio[None], references[None])[0]
    step = WINDOW_FRAMES - OVERLAP_FRAMES
    total = torch.zeros(frames, motion.config.style, device=audio.device)
    weight = torch.zeros(frames, 1, device=audio.device)
    rise = (torch.arange(WINDOW_FRAMES, device=audio.device) + 1.0).clamp(max=OVERLAP_FRAMES)
    fade = torch.minimum(rise, rise.flip(0))[:, None] / OVERLAP_FRAMES
    # The last window ends with the audio, so every window is a full one.
    for start in [*range(0, frames - WINDOW_FRAMES, step), frames - WINDOW_FRAMES]:
        latents = motion(audio[None, :, 2 * start : 2 * (start + WINDOW_FRAMES)], references[None])[0]
        total[start : start + WINDOW_FRAMES] += fade * latents
        weight[start : start + WINDOW_FRAMES] += fade
    return total / weight


def silence_weights(waveform: Float[np.ndarray, "s"]) -> Float[np.ndarray, "f"]:
    """0 while there is speech, 1 in silence, a soft step of 120 ms between, inside the silence.

    Silent is a video frame 36 dB below the loud frames of the clip, or below -58 dBFS, in a run of at least 240 ms.
    """
    frames = np.asarray(waveform, dtype=np.float64).reshape(-1, SAMPLES_PER_VIDEO_FRAME)
    level = 10 * np.log10(np.square(frames).mean(axis=1) + 1e-12)
    threshold = max(SILENCE_DBFS, float(np.quantile(level, 0.95)) - SILENCE_BELOW_SPEECH_DB)
    silent = _long_runs(level < threshold, SHORTEST_SILENCE_FRAMES)
    # Distance in frames from the nearest speech before or after, as a raised cosine over the closing time.
    index = np.arange(len(silent), dtype=np.float64)
    before = np.maximum.accumulate(np.where(silent, -np.inf, index))
    after = np.minimum.accumulate(np.where(silent, np.inf, index)[::-1])[::-1]
    distance = np.minimum(index - before, after - index)
    progress = np.clip(distance / (CLOSING_FRAMES + 1), 0, 1)
    return np.asarray(0.5 - 0.5 * np.cos(np.pi * progress))


def _long_runs(flags: Bool[np.ndarray, "f"], shortest: int) -> Bool[np.ndarray, "f"]:
    """True only where a run of True is long enough. Silence before the first and after the last sound counts longer."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(int)))
    kept = np.zeros(len(flags), dtype=bool)
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        if end - start >= shortest or start == 0 or end == len(flags):
            kept[start:end] = True
    return kept
