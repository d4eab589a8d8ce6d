"""Which languages and which writing a model set can speak."""

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence

from avatarlab.errors import ScriptError

DEFAULT_LANGUAGES = ("en",)
_LETTERS = re.compile(r"[^\W\d_]+")
# What the first word of a character's Unicode name says of its writing.
_WRITINGS = {"CJK": "Chinese", "HIRAGANA": "Japanese", "KATAKANA": "Japanese", "HANGUL": "Korean"}


def languages_of(settings: Mapping[str, object]) -> tuple[str, ...]:
    """The languages that the `[text.settings]` of a model set name; English where they name none."""
    named = settings.get("languages")
    return tuple(str(language) for language in named) if isinstance(named, list) and named else DEFAULT_LANGUAGES


def check_language(language: str, languages: Sequence[str]) -> None:
    """Raises ScriptError where a BCP-47 tag names none of the languages; a region makes no difference."""
    if _base(language) not in {_base(known) for known in languages}:
        raise ScriptError(f"the language {language[:40]!r} cannot be spoken", _remedy(languages))


def check_writing(script: str, languages: Sequence[str]) -> None:
    """Raises ScriptError where most letters of a script are of another writing system than Latin.

    A Greek letter that stands alone is a symbol, and is not counted.
    """
    counts: Counter[str] = Counter()
    for word in _LETTERS.findall(script):
        writings = [_writing(letter) for letter in word]
        if writings != ["Greek"]:
            counts.update(writings)
    latin = counts["Latin"]
    foreign = Counter({writing: count for writing, count in counts.items() if writing not in {"", "Latin"}})
    if foreign.total() > latin:
        writing, count = foreign.most_common(1)[0]
        raise ScriptError(
            f"the script is mostly in {writing} writing ({count:,} of {latin + foreign.total():,} letters), "
            "which cannot be spoken",
            _remedy(languages),
        )


def _remedy(languages: Sequence[str]) -> str:
    return f"the model set speaks {', '.join(languages)}: write the script in one of these, or give other --models"


def _base(language: str) -> str:
    return re.split(r"[-_]", language.strip().lower())[0]


@functools.lru_cache(maxsize=16_384)
def _writing(letter: str) -> str:
    """Latin, Greek, Cyrillic, Chinese, ...; empty for letters that belong to none."""
    plain = unicodedata.normalize("NFKC", letter)[0]
    name = unicodedata.name(plain, "").split(" ")[0]
    if name in {"MODIFIER", "FEMININE", "MASCULINE"} or not name:
        return ""
    return _WRITINGS.get(name, name.capitalize())
