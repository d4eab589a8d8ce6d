"""From recordings to what the language model learns from: text units, codes, and when each unit is heard."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from avatarlab import SAMPLE_RATE_HZ, SAMPLES_PER_VIDEO_FRAME
from avatarlab.speech.codec import Codec
from avatarlab.text import unit_names, units
from avatarlab.training.corpus import SILENCE, Phone, read_corpus, read_wav
from avatarlab.training.loop import Progress

HELD_OUT_EVERY = 50
STEP_SECONDS = SAMPLES_PER_VIDEO_FRAME / SAMPLE_RATE_HZ
_VOWELS = frozenset("aa ae ah ao aw ax ay eh er ey ih iy ow oy uh uw".split())


@dataclass(frozen=True)
class Spoken:
    """One recording: units (j,), codes int64 (q, t), and the span of each unit in seconds float32 (j, 2)."""

    voice: str
    units: Int[Tensor, "j"]
    codes: Int[Tensor, "q t"]
    spans: Float[Tensor, "j 2"]


def spoken_form(text: str) -> str:
    """The corpus sentences hold plain words only; this brings them to what `units` reads."""
    plain = re.sub(r"[^a-z',.?!;: ]", " ", text.lower())
    return " ".join(re.sub(r"(?<![a-z])'+|'+(?![a-z])", " ", plain).split())


@cache
def _substitution(unit: str, phone: str) -> float:
    if phone == SILENCE or not unit[0].isalpha():
        return 0.0 if phone == SILENCE and not unit[0].isalpha() else 3.0
    plain = unit.rstrip("012").lower()
    if plain == phone or (plain in ("ah", "ih") and phone == "ax"):
        return 0.0
    return 0.6 if plain in _VOWELS and phone in _VOWELS else 1.2


def unit_spans(names: Sequence[str], phones: Sequence[Phone]) -> Float[Tensor, "j 2"]:
    """Start and end of every unit, by the cheapest alignment of our units with the synthesiser's phones.

    Units without a phone of their own get an empty span where they would stand; phones without a unit lengthen the unit
    before them. The spans tile the recording.
    """
    skip_unit = [0.4 if not name[0].isalpha() else 0.9 for name in names]
    skip_phone = [0.5 if phone.name == SILENCE else 0.9 for phone in phones]
    above = [0.0, *itertools.accumulate(skip_phone)]
    move = [[2] * len(above)]  # 0: unit is phone, 1: unit without phone, 2: phone without unit
    for name, skip in zip(names, skip_unit, strict=True):
        row, moves = [above[0] + skip], [1]
        for j, phone in enumerate(phones):
            choices = (above[j] + _substitution(name, phone.name), above[j + 1] + skip, row[j] + skip_phone[j])
            best = min(choices)
            row.append(best)
            moves.append(choices.index(best))
        above = row
        move.append(moves)
    owner = np.zeros(len(phones), dtype=np.int64)
    i, j = len(names), len(phones)
    while j:
        if move[i][j] == 1:
            i -= 1
            continue
        owner[j - 1] = max(i - 1, 0)
        i, j = (i - 1, j - 1) if move[i][j] == 0 else (i, j - 1)
    spans = np.full((len(names), 2), np.nan)
    for phone, unit in zip(phones, owner, strict=True):
        spans[unit, 0] = np.fmin(spans[unit, 0], phone.start)
        spans[unit, 1] = np.fmax(spans[unit, 1], phone.end)
    at = 0.0
    for span in spans:
        if np.isnan(span[0]):
            span[:] = at
        at = float(span[1])
    return torch.from_numpy(spans.astype(np.float32))


def tokenise_corpus(corpus: Path, codec: Codec, path: Path, progress: Progress) -> None:
    """Encodes every recording once and writes units, codes and spans to `path` (safetensors)."""
    tensors: dict[str, Tensor] = {}
    recordings = read_corpus(corpus)
    for number, recording in enumerate(recordings):
        ids = units(spoken_form(recording.text))
        waveform = torch.from_numpy(read_wav(corpus / recording.wav).astype(np.float32) / 32768.0)
        name = f"{recording.id}/{recording.voice}"
        tensors[f"{name}/units"] = torch.tensor(ids, dtype=torch.int16)
        tensors[f"{name}/codes"] = codec.encode(waveform[None])[0].to(torch.int16).contiguous()
        tensors[f"{name}/spans"] = unit_spans(unit_names(ids), recording.phones)
        if number % 1000 == 999:
            progress(f"{number + 1} of {len(recordings)} recordings encoded")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial)
    partial.replace(path)


def recording_names(tensors: Mapping[str, Tensor]) -> list[str]:
    """`<id>/<voice>` of every recording of a tokenised corpus, in order."""
    return sorted({key.rsplit("/", 1)[0] for key in tensors})


def spoken_of(tensors: Mapping[str, Tensor], name: str) -> Spoken:
    units, codes, spans = (tensors[f"{name}/{part}"] for part in ("units", "codes", "spans"))
    return Spoken(name.split("/")[1], units.long(), codes.long(), spans)


def load_spoken(path: Path) -> tuple[list[Spoken], list[Spoken]]:
    """Training and held-out recordings of a tokenised corpus."""
    tensors = load_file(path)
    training: list[Spoken] = []
    held_out: list[Spoken] = []
    for name in recording_names(tensors):
        (training if int(name.split("/")[0]) % HELD_OUT_EVERY else held_out).append(spoken_of(tensors, name))
    return training, held_out


def chain(parts: Sequence[Spoken]) -> Spoken:
    """Recordings one after the other, as prompt and continuation stand at inference."""
    lengths = [part.codes.shape[1] * STEP_SECONDS for part in parts]
    starts = np.concatenate([[0.0], np.cumsum(lengths)[:-1]])
    return Spoken(
        parts[0].voice,
        torch.cat([part.units for part in parts]),
        torch.cat([part.codes for part in parts], dim=1),
        torch.cat([part.spans + start for part, start in zip(parts, starts.tolist(), strict=True)]),
    )
