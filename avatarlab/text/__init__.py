"""Scripts to sentences, sentences to spoken words, spoken words to text units.

    split_script(script)   the front door: sentences and pauses, in the order they are heard
    read_lexicon(path)     how the names and terms of a course are said
    normalise(text)        words a-z and , . ? ! ; : only
    units(spoken)          text ids for the speech engine
    word_spans(spoken)     which units make which word

Importing this package loads no dictionary and no engine; the pronouncing dictionary is read at the first look-up.
"""

from avatarlab.text.languages import DEFAULT_LANGUAGES, check_language, languages_of
from avatarlab.text.lexicon_file import read_lexicon
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
from avatarlab.text.pronunciations import NO_LEXICON, Lexicon
from avatarlab.text.split import MAX_UNITS, Pause, Script, Sentence, pause, split_script

__all__ = [
    "BOS",
    "DEFAULT_LANGUAGES",
    "EOS",
    "FIRST_UNIT",
    "MAX_UNITS",
    "NO_LEXICON",
    "PAD",
    "UNITS",
    "UNIT_COUNT",
    "Lexicon",
    "Normalised",
    "Pause",
    "Script",
    "Sentence",
    "WordSpan",
    "check_language",
    "is_known",
    "languages_of",
    "normalise",
    "pause",
    "pronounce",
    "read_lexicon",
    "split_script",
    "unit_names",
    "units",
    "word_spans",
]
