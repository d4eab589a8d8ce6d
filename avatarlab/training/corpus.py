"""The speech corpus: the flite synthesiser reading English, with the time of every phone.

    OUT/utterances.jsonl   one line each: id, voice, text, wav, phones [[name, start_seconds, end_seconds], ...]
    OUT/wav/<id>.wav       16 kHz mono, silence trimmed to LEAD_SECONDS before and TAIL_SECONDS after the speech

Made from a seed; interrupted, it goes on where it stopped.
"""

import json
import random
import shutil
import subprocess
import tempfile
import wave
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torchaudio.functional import resample

from avatarlab import SAMPLE_RATE_HZ
from avatarlab.errors import SettingsError
from avatarlab.training.prose import training_sentences
from avatarlab.training.styles import PLAIN, PLAIN_SHARE, STYLES, TRAINED

LEAD_SECONDS = 0.04
TAIL_SECONDS = 0.12
SILENCE = "pau"
OWN_DURATION = {"kal16": 1.1}  # the synthesiser's own stretch, which a given one replaces


@dataclass(frozen=True)
class Phone:
    """One phone of the synthesiser (CMU set, `pau` is silence), seconds from the start of the recording."""

    name: str
    start: float
    end: float


@dataclass(frozen=True)
class Recording:
    """One utterance of the corpus in the style named `voice`; `wav` is relative to the corpus folder."""

    id: str
    voice: str
    text: str
    wav: str
    phones: tuple[Phone, ...]


def synthesise(text: str, voice: str) -> tuple[np.ndarray, tuple[Phone, ...]]:
    """Reads `text` in a style (see styles.py): waveform int16 (s,) at 16 kHz, trimmed, and its phones.

    Raises SettingsError when flite is not installed or there is no such style.
    """
    if voice not in STYLES:
        raise SettingsError(f"there is no style {voice!r}", f"use one of {', '.join(STYLES)}")
    style = STYLES[voice]
    if shutil.which("flite") is None:
        raise SettingsError("the flite synthesiser is not installed", "apt-get install flite")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        own = OWN_DURATION.get(style.voice, 1.0)
        length = own * style.duration * float(style.formants)  # resampling shortens it again
        changes = ["--setf", f"duration_stretch={length:.4f}", "--setf", f"f0_shift={style.pitch}"]
        command = ["flite", "-psdur", "-voice", style.voice, *changes, "-t", text, "-o", str(path)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        with wave.open(str(path)) as file:
            rate = file.getframerate()
            waveform = np.frombuffer(file.readframes(file.getnframes()), dtype=np.int16)
    if rate != SAMPLE_RATE_HZ:
        raise SettingsError(f"flite voice {style.voice!r} speaks at {rate} Hz", "install flite 2.2 or newer")
    waveform, factor = _with_formants(waveform, style.formants), float(style.formants)
    names_and_ends = [(name, float(end) / factor) for name, end in (item.rsplit(":", 1) for item in printed.split())]
    starts = [0.0, *(end for _, end in names_and_ends)]
    return _trim(waveform, [Phone(n, s, e) for (n, e), s in zip(names_and_ends, starts, strict=False)])


def _with_formants(waveform: np.ndarray, factor: Fraction) -> np.ndarray:
    """Played `factor` times as fast: everything in the spectrum moves up by it."""
    if factor == 1:
        return waveform
    moved = resample(torch.from_numpy(waveform.astype(np.float32)), factor.numerator, factor.denominator).numpy()
    return np.clip(moved, -32768, 32767).astype(np.int16)


def _trim(waveform: np.ndarray, phones: Sequence[Phone]) -> tuple[np.ndarray, tuple[Phone, ...]]:
    spoken = [phone for phone in phones if phone.name != SILENCE]
    if not spoken:
        return waveform[:0], ()
    first = max(0.0, spoken[0].start - LEAD_SECONDS)
    last = min(len(waveform) / SAMPLE_RATE_HZ, spoken[-1].end + TAIL_SECONDS)
    moved = [
        Phone(phone.name, round(max(phone.start, first) - first, 4), round(min(phone.end, last) - first, 4))
        for phone in phones
        if phone.end > first and phone.start < last
    ]
    return waveform[round(first * SAMPLE_RATE_HZ) : round(last * SAMPLE_RATE_HZ)], tuple(moved)


def write_wav(path: Path, waveform: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE_HZ)
        file.writeframes(waveform.tobytes())


def read_wav(path: Path) -> np.ndarray:
    """int16 (s,) at 16 kHz."""
    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), dtype=np.int16)


def make_corpus(
    folder: Path,
    utterances: int,
    seed: int,
    *,
    threads: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Reads `utterances` sentences, each in a style drawn from the seed, into `folder`; what is there already is kept.

    Raises SettingsError when flite is not installed.
    """
    (folder / "wav").mkdir(parents=True, exist_ok=True)
    index = folder / "utterances.jsonl"
    done = 1 + max((int(recording.id) for recording in read_corpus(folder)), default=-1) if index.exists() else 0
    sentences = list(islice(training_sentences(seed), utterances))

    def record(number: int) -> Recording | None:
        voice = style_of(number, seed)
        waveform, phones = synthesise(sentences[number], voice)
        if not phones:
            return None
        name = f"{number:06d}"
        write_wav(folder / "wav" / f"{name}.wav", waveform)
        return Recording(name, voice, sentences[number], f"wav/{name}.wav", phones)

    with ThreadPoolExecutor(threads) as pool, index.open("a", encoding="utf-8") as file:
        for number, recording in enumerate(pool.map(record, range(done, utterances)), start=done + 1):
            if recording is not None:
                line = asdict(recording) | {"phones": [[p.name, p.start, p.end] for p in recording.phones]}
                file.write(json.dumps(line) + "\n")
                file.flush()
            progress(number, utterances)


def style_of(number: int, seed: int) -> str:
    """The style of one recording: the plain voices share PLAIN_SHARE of all, the others the rest."""
    rng = random.Random(f"{seed} {number}")
    return rng.choice(PLAIN if rng.random() < PLAIN_SHARE else [name for name in TRAINED if name not in PLAIN])


def read_corpus(folder: Path) -> list[Recording]:
    """Every recording of a corpus, in order. Raises SettingsError when there is none."""
    index = folder / "utterances.jsonl"
    if not index.exists():
        raise SettingsError(f"no speech corpus in {folder}", "make one with `avatarlab train corpus`")
    with index.open(encoding="utf-8") as file:
        return [
            Recording(**{**line, "phones": tuple(Phone(*phone) for phone in line["phones"])})
            for line in (json.loads(text) for text in file if text.endswith("\n"))
        ]
