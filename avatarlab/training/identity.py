"""Whose voice it is: the measure behind every number about cloning.

The speaker encoder is GE2E (Wan, Wang, Papir, Moreno, arXiv 1710.10467) as trained for the package `resemblyzer`: three
LSTM layers over 1.6 s of mel power give a unit vector, and voices are alike as their vectors are. The package carries
the weights, and only they are read: its own code needs a compiler and a stack of audio libraries for a filter bank.
Long silences are not cut out, as its voice activity detector would: what is compared here is speech from end to end.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor, nn

from avatarlab.errors import InputError, SettingsError, WeightsError
from avatarlab.speech.codec import mel_filters

WIDTH = 256
MEL_BANDS = 40
MEL_WINDOW, MEL_HOP = 400, 160
PART_FRAMES = 160
PART_STEP = 77  # 1.3 parts a second
LEAST_OF_A_PART = 0.75
QUIETEST_DECIBELS = -30.0


class SpeakerEncoder(nn.Module):
    """(b, n, 40) mel power frames of 10 ms -> (b, 256) unit vectors, no entry negative."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(MEL_BANDS, WIDTH, num_layers=3, batch_first=True)
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, mel: Float[Tensor, "b n bands"]) -> Float[Tensor, "b e"]:
        _, (hidden, _) = self.lstm(mel)
        return F.normalize(F.relu(self.linear(hidden[-1])), dim=1)


def embed(waveform: Float[np.ndarray, "s"]) -> Float32[np.ndarray, "e"]:
    """The voice in a waveform of -1..1 at 16 kHz: a unit vector (256,), the mean over windows of 1.6 s.

    Quiet recordings are raised to -30 dB first. Raises InputError for silence, SettingsError where resemblyzer is not
    installed.
    """
    encoder = _encoder()
    samples = torch.from_numpy(np.ascontiguousarray(waveform, np.float32))
    level = samples.square().mean().sqrt() if len(samples) else torch.tensor(0.0)
    if not torch.isfinite(level) or level < 1e-5:
        raise InputError("there is no voice in a silent recording", "give a recording of speech")
    samples = samples * max(1.0, 10 ** (QUIETEST_DECIBELS / 20) / float(level))
    frames = -(-(len(samples) + 1) // MEL_HOP)
    starts = list(range(0, max(1, frames - PART_FRAMES + PART_STEP + 1), PART_STEP))
    if len(starts) > 1 and len(samples) / MEL_HOP - starts[-1] < LEAST_OF_A_PART * PART_FRAMES:
        starts.pop()
    missing = (starts[-1] + PART_FRAMES) * MEL_HOP - len(samples)
    mel = _mel_power(F.pad(samples, (0, max(0, missing))))
    with torch.inference_mode():
        parts = encoder(torch.stack([mel[start : start + PART_FRAMES] for start in starts]))
        voice: Float32[np.ndarray, "e"] = F.normalize(parts.mean(0), dim=0).numpy()
    return voice


def pick(candidates: Float[np.ndarray, "c e"], references: Float[np.ndarray, "r e"]) -> list[int]:
    """For each candidate the index of the reference voice nearest to it, by the cosine of unit vectors."""
    return [int(index) for index in (candidates @ references.T).argmax(1)]


def share_picked_right(
    generated: Sequence[tuple[str, Float[np.ndarray, "_"]]], references: Mapping[str, Float[np.ndarray, "_"]]
) -> float:
    """Share of the generated utterances whose nearest reference voice is the one they were meant to have.

    `generated` pairs the name of the intended voice with a waveform, `references` is a recording of each voice, all at
    16 kHz. Chance is one over the number of references. Raises InputError where nothing is given or a name is unknown.
    """
    names = list(references)
    unknown = {name for name, _ in generated} - set(names)
    if unknown or not generated:
        raise InputError(
            f"no recording of the voices {sorted(unknown)}" if unknown else "no utterance to identify",
            "give a reference for every voice, and an utterance",
        )
    picked = pick(
        np.stack([embed(waveform) for _, waveform in generated]),
        np.stack([embed(references[name]) for name in names]),
    )
    return float(np.mean([names[index] == name for index, (name, _) in zip(picked, generated, strict=True)]))


def _mel_power(samples: Float[Tensor, "s"]) -> Float[Tensor, "n bands"]:
    spectrum = torch.stft(
        samples, MEL_WINDOW, MEL_HOP, window=torch.hann_window(MEL_WINDOW), pad_mode="constant", return_complex=True
    )
    return (mel_filters(MEL_WINDOW // 2 + 1, MEL_BANDS).T @ spectrum.abs().square()).T


@cache
def _encoder() -> SpeakerEncoder:
    package = find_spec("resemblyzer")  # found, not imported: importing it would need what is not installed
    if package is None or package.origin is None:
        raise SettingsError("resemblyzer is not installed", "pip install 'avatarlab[evaluate]'")
    stored = torch.load(Path(package.origin).with_name("pretrained.pt"), map_location="cpu", weights_only=True)
    encoder = SpeakerEncoder()
    kept = {name: tensor for name, tensor in stored["model_state"].items() if not name.startswith("similarity_")}
    if kept.keys() != encoder.state_dict().keys():
        raise WeightsError(f"the weights of resemblyzer hold {', '.join(sorted(kept)[:5])}", "install version 0.1.4")
    encoder.load_state_dict(kept)
    return encoder.eval()
