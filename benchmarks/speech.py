"""Words understood: the bundled voices and the synthesiser that taught them, heard by the same recogniser."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from avatarlab.avatars import load_avatar
from avatarlab.stages import Line, audio_item, tokens_item
from avatarlab.text import normalise, units
from avatarlab.training.bundles import CAST
from avatarlab.training.corpus import synthesise
from avatarlab.training.recognise import transcribe, word_error_rate
from benchmarks.workshop import workshop

SENTENCES = Path(__file__).parent / "lecture_sentences.txt"


@dataclass(frozen=True)
class Understood:
    """Word error rates of one bundled voice; `source` is that of the flite voice behind it, None without flite."""

    avatar: str
    source_voice: str
    error_rate: float
    source: float | None


def lecture_sentences() -> list[str]:
    """Twenty plain sentences that no network was trained on."""
    return SENTENCES.read_text(encoding="utf-8").split("\n")[:-1]


def measure_words(models: str | None, avatar_ids: Sequence[str], sentences: Sequence[str]) -> list[Understood]:
    """Every sentence in every voice, through the stages that a render uses."""
    has_flite = shutil.which("flite") is not None
    found = []
    for id in avatar_ids:
        heard = [transcribe(waveform) for waveform in spoken(sentences, id, models)]
        source = None
        if has_flite:
            read = [synthesise(text, CAST[id].voice)[0].astype(np.float32) / 32768 for text in sentences]
            source = word_error_rate(sentences, [transcribe(waveform) for waveform in read])
        found.append(Understood(id, CAST[id].voice, word_error_rate(sentences, heard), source))
    return found


def spoken(texts: Sequence[str], voice: str, models: str | None) -> list[Float32[np.ndarray, "s"]]:
    """Waveforms at 16 kHz of texts in the voice of a bundled avatar. Raises WorkerError where one could not be made."""
    avatar = load_avatar((), voice)
    lines = [Line(units(words), words, voice, voice) for words in (normalise(text).spoken for text in texts)]
    with workshop(models) as shop:
        codes = shop.make("tokens", [tokens_item(line, avatar, shop.made_with) for line in lines])
        audio = shop.make("audio", [audio_item(action, shop.made_with) for action in codes])
        return [shop.array(action.outputs["audio.npy"]) for action in audio]
