"""Pronunciations that a course brings along: words of a lexicon, found in written text.

What such a word sounds like becomes part of the spoken sentence (`word/PHONES/`), so it enters the keys of the
sentences that hold the word and of no others, and workers need no lexicon. Captions show the written word.
`avatarlab.text.lexicon_file` reads lexicons.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from avatarlab.text.phones import Phones, plural, with_phones


@dataclass(frozen=True)
class Entry:
    """`word` as it is written: in lower case it stands for any case, with capitals for itself alone. `language` is a
    BCP-47 tag, or empty for every language."""

    word: str
    phones: Phones
    language: str = ""


@dataclass(frozen=True)
class Lexicon:
    """Entries; where several fit a script, the one for the more exact language counts, then the more exact case."""

    entries: tuple[Entry, ...] = ()

    def for_language(self, language: str) -> "Lexicon":
        """The entries for scripts of a language: `en` is for `en-GB` too, and an entry without a language for all."""
        wanted = _parts(language)
        fitting = [entry for entry in self.entries if wanted[: len(_parts(entry.language))] == _parts(entry.language)]
        fitting.sort(key=lambda entry: len(_parts(entry.language)))
        return Lexicon(tuple({entry.word: entry for entry in fitting}.values()))

    def find(self, line: str) -> Iterator[tuple[int, int, str]]:
        """The entries in one line (unified by `plain_text`): start, end, the word with its phones.

        A word stands between characters that are neither letters nor digits; a possessive ('s) is part of it, the
        longest entry wins.
        """
        position = 0
        for start in _WORD_STARTS.finditer(line) if self.entries else ():
            if start.start() < position:
                continue
            entry = self._entry_at(line, start.start())
            if entry is None:
                continue
            end = start.start() + len(entry.word)
            possessive = _POSSESSIVE.match(line, end) is not None
            position = end + 2 if possessive else end
            phones = plural(entry.phones) if possessive else entry.phones
            yield start.start(), position, with_phones(_label(line[start.start() : position]), phones)

    def _entry_at(self, line: str, start: int) -> Entry | None:
        """The longest entry that stands whole at a place; of two as long, the one with capitals."""
        beginning = line[start : start + _BEGINNING].lower()
        for length in range(len(beginning), 0, -1):
            for entry in self._by_beginning.get(beginning[:length], ()):
                written = line[start : start + len(entry.word)]
                same = entry.word in {written, written.lower()}
                if same and not line[start + len(entry.word) : start + len(entry.word) + 1].isalnum():
                    return entry
        return None

    @cached_property
    def _by_beginning(self) -> dict[str, list[Entry]]:
        """Entries by their first characters in lower case: those of more characters first, then those with capitals."""
        found: dict[str, list[Entry]] = {}
        for entry in sorted(self.entries, key=lambda entry: (-len(entry.word), entry.word == entry.word.lower())):
            found.setdefault(entry.word[:_BEGINNING].lower(), []).append(entry)
        return found


_BEGINNING = 4  # characters by which entries are looked up
_WORD_STARTS = re.compile(r"(?<![^\W_])\S")
_POSSESSIVE = re.compile(r"'s(?![^\W_])")
NO_LEXICON = Lexicon()


def _parts(language: str) -> list[str]:
    return [part for part in re.split(r"[-_]", language.strip().lower()) if part]


def _label(written: str) -> str:
    """The letters and digits of a word, by which captions find it again."""
    return "".join(character for character in written.lower() if character.isalnum())
