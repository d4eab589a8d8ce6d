"""What a recogniser understands of speech: the measure behind every number about words.

pocketsphinx in its default settings carries its own acoustic and language model, so nothing is downloaded.
"""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float

from avatarlab import SAMPLE_RATE_HZ
from avatarlab.errors import SettingsError

_REMEDY = "pip install 'avatarlab[evaluate]'"


def transcribe(waveform: Float[np.ndarray, "s"]) -> str:
    """The words heard in a waveform of -1..1 at 16 kHz: lower case, single spaces, "" where none is heard.

    Each call is heard on its own: neither the model nor the loudness of an earlier recording carries over.
    Raises SettingsError where pocketsphinx is not installed.
    """
    if not len(waveform):
        return ""
    samples = (np.clip(np.asarray(waveform, np.float64), -1, 1) * 32767).astype(np.int16)
    decoder = _decoder()
    decoder.reinit_feat()  # the running mean of the cepstra starts afresh
    decoder.start_utt()
    decoder.process_raw(samples.tobytes(), full_utt=True)
    decoder.end_utt()
    heard = decoder.hyp()
    return " ".join(words(heard.hypstr)) if heard is not None else ""


def words(text: str) -> list[str]:
    """The words that are counted: lower case, without punctuation.

    >>> words("It's ten, isn't it?")
    ["it's", 'ten', "isn't", 'it']
    """
    return re.findall(r"[a-z]+(?:'[a-z]+)*", text.lower())


def word_error_rate(reference: str | Sequence[str], hypothesis: str | Sequence[str]) -> float:
    """Words wrong, missing and too many over the words of the reference; of several texts over all their words.

    Raises ValueError where the references hold no word or the two are not as many, SettingsError without jiwer.
    """
    expected = [reference] if isinstance(reference, str) else list(reference)
    heard = [hypothesis] if isinstance(hypothesis, str) else list(hypothesis)
    if len(expected) != len(heard) or not all(words(text) for text in expected):
        raise ValueError("every reference needs a word and a hypothesis")
    try:
        import jiwer
    except ImportError:
        raise SettingsError("jiwer is not installed", _REMEDY) from None
    return float(jiwer.wer([" ".join(words(text)) for text in expected], [" ".join(words(text)) for text in heard]))


@cache
def _decoder() -> Any:
    try:
        from pocketsphinx import Decoder
    except ImportError:
        raise SettingsError("pocketsphinx is not installed", _REMEDY) from None
    return Decoder(samprate=SAMPLE_RATE_HZ, loglevel="FATAL")
