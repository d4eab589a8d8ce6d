"""Scripts to sentences, sentences to spoken words, spoken words to text units.

    split_script(script)   the front door: sentences and pauses, in the order they are heard
    normalise(text)        words a-z and , . ? ! ; : only
    units(spoken)          text ids for the speech engine
    word_spans(spoken)     which units make which word

Importing this package loads no dictionary and no engine; the pronouncing dictionary is read at the first look-up.
"""

from avatarlab.text.normalise import Normalised, normalise
from avatarlab.text.phones import (
    BOS,
    EOS,
    FIRST_UNIT,
    PAD,
    UNIT_COUNT,
    UNITS,
    WordSpan,
    is_known,
    pronounce,
    unit_names,
    units,
    word_spans,
)
from avatarlab.text.split import MAX_UNITS, Pause, Script, Sentence, pause, split_script

__all__ = [
    "BOS",
    "EOS",
    "FIRST_UNIT",
    "MAX_UNITS",
    "PAD",
    "UNITS",
    "UNIT_COUNT",
    "Normalised",
    "Pause",
    "Script",
    "Sentence",
    "WordSpan",
    "is_known",
    "normalise",
    "pause",
    "pronounce",
    "split_script",
    "unit_names",
    "units",
    "word_spans",
]
