"""One written word to spoken words: letters folded, acronyms spelled, camelCase opened, endless strings cut."""

import functools
import re
import unicodedata

from avatarlab.text import lexicon, numbers
from avatarlab.text.phones import is_known

_LONGEST_WORD = 28
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_GROUP_SPACE = re.compile(r"(?<=[0-9])\u202f(?=[0-9]{3}(?![0-9]))")  # 10 000 with a narrow space
_PIECE = 15  # letters; a longer string is not a word, and is read in pieces

_SAME = {
    **dict.fromkeys("‘’‚‛ʼ′`´", "'"),
    **dict.fromkeys("“”„‟«»″‹›", '"'),
    **dict.fromkeys("‐‑", "-"),
    "‒": "–",
    "―": "—",
    "\u00b5": "\u03bc",
}


@functools.lru_cache(maxsize=4096)
def plain_character(character: str) -> str:
    if character in _SAME:
        return _SAME[character]
    if character in lexicon.SYMBOLS or character in SUPERSCRIPTS or character in lexicon.VULGAR or character == "…":
        return character
    digit = unicodedata.decimal(character, None)
    if digit is not None:
        return str(digit)
    if unicodedata.category(character) == "Zs":
        return " "
    same = unicodedata.normalize("NFKC", character)
    return same if len(same) == 1 and same.isascii() else character


SUPERSCRIPTS = {character: str(value) for value, character in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")} | {"⁻": "-", "ⁿ": "n"}


def plain_text(text: str) -> str:
    """One line with quotes, dashes, spaces and digits unified, character for character."""
    return _NOT_ASCII.sub(lambda match: plain_character(match.group()), _GROUP_SPACE.sub(",", text))


@functools.lru_cache(maxsize=4096)
def fold(character: str) -> str | None:
    """One letter as ASCII letters, a Greek letter as its name between spaces; None where it has no reading."""
    if character.isascii():
        return character
    lower = character.lower()
    if lower in lexicon.GREEK:
        return f" {lexicon.GREEK[lower]} "
    if lower in lexicon.LATIN_FOLDS:
        folded = lexicon.LATIN_FOLDS[lower]
        return folded if character == lower else folded.upper()
    folded = "".join(letter for letter in unicodedata.normalize("NFKD", character) if not unicodedata.combining(letter))
    return folded if folded.isascii() and folded.isalpha() else None


@functools.lru_cache(maxsize=32_768)
def read_word(written: str, shouted: bool) -> str:
    """One written word of ASCII letters and inner apostrophes as spoken words."""
    written = written.strip("'")
    lower = written.lower()
    special = lexicon.SPECIAL_WORDS.get(written) or lexicon.SHORT_FORMS.get(lower)
    if special:
        return special
    if written.islower() or (written[1:].islower() and written[:1].isupper()):
        return _pieces(lower)
    plural = re.fullmatch(r"([A-Z]{2,})('?s)", written)
    initials = plural.group(1) if plural else written
    if initials.isupper() and initials.isalpha() and not _is_acronym_word(initials, shouted):
        return spell(initials) + ("'s" if plural else "")
    if is_known(lower) or initials.isupper():
        return _pieces(lower)
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[A-Z]|'[a-z]+", written)  # camelCase
    if len(parts) < 2 or "'" in written:
        return _pieces(lower)
    return " ".join(read_word(part, False) for part in parts)


def _is_acronym_word(capitals: str, shouted: bool) -> bool:
    lower = capitals.lower()
    if len(capitals) == 1:
        return lower == "i"
    if lower in lexicon.SPOKEN_ACRONYMS or lower in lexicon.EMPHASISED:
        return True
    if shouted and is_known(lower):
        return True
    return len(capitals) >= 6 or (len(capitals) >= 4 and is_known(lower))


def spell(letters: str) -> str:
    """Names of letters; `ay` for a, which alone would be the article."""
    return " ".join("ay" if letter == "a" else letter for letter in letters.lower())


def _pieces(word: str) -> str:
    if len(word) <= _LONGEST_WORD:
        return word
    cut = (word[start : start + _PIECE].strip("'") for start in range(0, len(word), _PIECE))
    return " ".join(piece for piece in cut if piece)


def is_shouted(line: str) -> bool:
    words = re.findall(r"[A-Za-z]{2,}", line[:2000])
    return len(words) >= 3 and sum(word.isupper() for word in words) > 0.8 * len(words)


def code(digits: str) -> str:
    """Digits in a name: x264, RTX4090."""
    if digits.startswith("0") or len(digits) > 4:
        return numbers.digits(digits)
    if len(digits) <= 2 or digits.endswith("00"):
        return numbers.cardinal(digits)
    head, tail = digits[:-2], digits[-2:]
    return f"{numbers.cardinal(head)} {'oh ' if tail[0] == '0' else ''}{numbers.cardinal(tail.lstrip('0'))}"
