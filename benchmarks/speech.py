"""Words understood and voices recognised: the bundled speech models beside the synthesiser that taught them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32

from avatarlab.avatars import load_avatar
from avatarlab.execute import drawing
from avatarlab.models import read_model_set
from avatarlab.speech.codec import Codec
from avatarlab.speech.generate import Sampling, VoicePrompt, generate
from avatarlab.speech.small_e import SmallE
from avatarlab.stages import Line, audio_item, tokens_item
from avatarlab.text import Sentence, normalise, split_script, units
from avatarlab.training.bundles import CAST
from avatarlab.training.corpus import synthesise
from avatarlab.training.identity import share_picked_right
from avatarlab.training.recognise import transcribe, word_error_rate, words
from avatarlab.training.styles import Style
from benchmarks.workshop import workshop

LECTURE, READING = (Path(__file__).parent / f"{name}_sentences.txt" for name in ("lecture", "reading"))
CLIP = "The first lesson is about water and stone, and the second one is about fire and air. Please listen with care."
REFERENCE = "Every child in the village knew the story of the old tower, but nobody could say who had built it."
LOST_WORDS = 3  # so many words in a row that the recogniser does not find are a passage that was not said

Waveform = Float32[np.ndarray, "s"]


@dataclass(frozen=True)
class Understood:
    """Word error rates of one bundled voice: of the synthesiser, of its sound through the codec, of the model."""

    avatar: str
    source_voice: str
    source: float
    codec: float
    model: float


@dataclass(frozen=True)
class ReadThrough:
    """Sentences with a fault, by what shows it: the alignment, or a passage that the recogniser misses."""

    sentences: int
    faults: tuple[str, ...]
    lost_passages: int


def lines_of(path: Path) -> list[str]:
    """Sentences that no network was trained on."""
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def measure_words(models: str | None, avatar_ids: Sequence[str], sentences: Sequence[str]) -> list[Understood]:
    """Every sentence in every voice, through the stages that a render uses. Raises SettingsError without flite."""
    codec = _codec(models)
    found = []
    for id in avatar_ids:
        voice = CAST[id].voice
        source = [_source(text, voice) for text in sentences]
        coded = [codec.decode(codec.encode(_batch(waveform)))[0].numpy() for waveform in source]
        said = spoken(sentences, id, models)
        rates = [
            word_error_rate(sentences, [transcribe(waveform) for waveform in row]) for row in (source, coded, said)
        ]
        found.append(Understood(id, voice, *rates))
    return found


def measure_reading(models: str | None, avatar_ids: Sequence[str], sentences: Sequence[str]) -> ReadThrough:
    """Sentences of many lengths, each as a script of its own, voices in turn; a fault of any piece counts once."""
    faults, lost = [], 0
    for place, id in enumerate(avatar_ids):
        own = sentences[place :: len(avatar_ids)]
        pieces = [[part for part in split_script(text).parts if isinstance(part, Sentence)] for text in own]
        with workshop(models) as shop:
            avatar = load_avatar((), id)
            lines = [Line(units(piece.spoken), piece.spoken, id, id) for row in pieces for piece in row]
            made = shop.make("tokens", [tokens_item(line, avatar, shop.made_with) for line in lines])
            audio = shop.make("audio", [audio_item(action, shop.made_with) for action in made])
            for text, row in zip(own, pieces, strict=True):
                actions, made = made[: len(row)], made[len(row) :]
                sounds, audio = audio[: len(row)], audio[len(row) :]
                faults += [f"{id}: {note}" for action in actions for note in action.notes]
                heard = transcribe(np.concatenate([shop.array(sound.outputs["audio.npy"]) for sound in sounds]))
                lost += longest_loss(words(text), words(heard)) >= LOST_WORDS
    return ReadThrough(len(sentences), tuple(faults), lost)


def longest_loss(said: Sequence[str], heard: Sequence[str]) -> int:
    """The most words in a row that are missing from what was heard, or that were heard and never written.

    Words heard as others are neither.
    """
    import jiwer

    chunks = jiwer.process_words(" ".join(said), " ".join(heard) or "-").alignments[0]
    lengths = [
        max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
        for chunk in chunks
        if chunk.type in ("delete", "insert")
    ]
    return max(lengths, default=0)


def measure_identity(models: str | None, styles: Mapping[str, Style], sentences: Sequence[str]) -> float:
    """Share of utterances, cloned from one clip of each style, whose nearest of all these styles is their own."""
    codec, model = _codec(models), _small_e(models)
    said = []
    for number, name in enumerate(styles):
        prompt = _prompt(codec, name)
        own = [sentences[(2 * number + index) % len(sentences)] for index in range(2)]
        texts = [units(normalise(text).spoken) for text in own]
        utterances = generate(model, texts, [prompt] * len(own), range(len(own)), _sampling(models))
        said += [(name, codec.decode(_batch(utterance.codes, torch.int64))[0].numpy()) for utterance in utterances]
    return share_picked_right(said, {name: _source(REFERENCE, name) for name in styles})


def spoken(texts: Sequence[str], voice: str, models: str | None) -> list[Waveform]:
    """Waveforms at 16 kHz of texts in the voice of a bundled avatar. Raises WorkerError where one could not be made."""
    avatar = load_avatar((), voice)
    lines = [Line(units(words), words, voice, voice) for words in (normalise(text).spoken for text in texts)]
    with workshop(models) as shop:
        codes = shop.make("tokens", [tokens_item(line, avatar, shop.made_with) for line in lines])
        audio = shop.make("audio", [audio_item(action, shop.made_with) for action in codes])
        return [shop.array(action.outputs["audio.npy"]) for action in audio]


@cache
def _source(text: str, style: str) -> Waveform:
    return synthesise(text, style)[0].astype(np.float32) / 32768


def _batch(array: np.ndarray, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.from_numpy(array)[None].to(dtype)


def _prompt(codec: Codec, style: str) -> VoicePrompt:
    codes = codec.encode(_batch(_source(CLIP, style)))[0].numpy().astype(np.int16)
    return VoicePrompt(units(normalise(CLIP).spoken), codes)


@cache
def _codec(models: str | None) -> Codec:
    return Codec.from_state_dict(read_model_set(models).load_tensors("codec"))


@cache
def _small_e(models: str | None) -> SmallE:
    return SmallE.from_state_dict(read_model_set(models).load_tensors("small_e"))


def _sampling(models: str | None) -> Sampling:
    return drawing(read_model_set(models).settings("small_e"))[0]
