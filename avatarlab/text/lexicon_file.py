"""`lexicon.csv`: how the names and terms of a course are said. CSV with a header and the columns

word       as it is written, say Kubernetes, C++ or Nguyen; a word in lower case stands for any case of it, one with
           capitals for itself alone
spoken     ordinary words (`koo burr netties`), or phones between slashes (`/K UW2 B ER0 N EH1 T IY0 Z/`: ARPAbet,
           vowels with their stress 0, 1 or 2)
language   a BCP-47 tag, or empty for every language; the column may be left out
"""

import csv
import io
import re
from pathlib import Path

from avatarlab.errors import LexiconError, Problem
from avatarlab.text.normalise import normalise
from avatarlab.text.phones import CONSONANTS, VOWELS, Phones, unit_names, units
from avatarlab.text.pronunciations import Entry, Lexicon
from avatarlab.text.words import plain_text

COLUMNS = ("word", "spoken", "language")
LONGEST_WORD = 64
LONGEST_PRONUNCIATION = 40  # phones
MOST_ROWS = 10_000
LARGEST_FILE = 4_000_000  # bytes
_PHONES = frozenset(CONSONANTS) | {vowel + stress for vowel in VOWELS for stress in "012"}
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*")


def read_lexicon(path: Path) -> Lexicon:
    """Every row of a lexicon. Raises LexiconError with each row that cannot be spoken, by its line in the file."""
    problems: list[Problem] = []

    def refuse(line: int, message: str, remedy: str) -> None:
        where = f"{path.name}, line {line}: " if line else f"the lexicon {path.name} "
        problems.append(Problem(0, "", "", where + message, remedy))

    rows = _rows(path)
    header = [name.strip().lower() for name in rows[0][1]]
    if not {"word", "spoken"} <= set(header) or not set(header) <= set(COLUMNS) or len(set(header)) != len(header):
        refuse(rows[0][0], f"the header is {','.join(header)[:80]!r}", "start the file with word,spoken,language")
        raise LexiconError(problems)
    entries: dict[tuple[str, str], Entry] = {}
    lines: dict[tuple[str, str], int] = {}
    for line, row in rows[1:]:
        if len(row) != len(header):
            refuse(line, f"{len(row)} fields, and the header has {len(header)}", "put text with commas in quotes")
            continue
        fields = dict(zip(header, (field.strip() for field in row), strict=True))
        word, language = " ".join(plain_text(fields["word"]).split()), fields.get("language", "")
        wrong = _wrong_word(word) or _wrong_language(language)
        phones, problem = _phones(fields["spoken"])
        for message, remedy in filter(None, (wrong, problem)):
            refuse(line, message, remedy)
        key = (word, language.lower())
        if key in lines:
            refuse(line, f"{word!r} stands in line {lines[key]} already", "keep one of them")
        lines.setdefault(key, line)
        entries[key] = Entry(word, phones, language)
    if problems:
        raise LexiconError(problems)
    return Lexicon(tuple(entries.values()))


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """The rows that hold something, each with its line in the file; the header is the first."""
    try:
        size = path.stat().st_size
        text = path.read_text(encoding="utf-8-sig") if size <= LARGEST_FILE else ""
    except OSError as error:
        raise _unreadable(path, f"cannot be read: {error.strerror}", "check --lexicon") from None
    except UnicodeDecodeError as error:
        raise _unreadable(path, f"is not UTF-8 text (byte {error.start})", "save it as UTF-8") from None
    if size > LARGEST_FILE:
        raise _unreadable(path, f"has {size:,} bytes", f"use at most {LARGEST_FILE:,}")
    rows: list[tuple[int, list[str]]] = []
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        started = 1
        for row in reader:
            if any(field.strip() for field in row):
                rows.append((started, row))
            started = reader.line_num + 1
    except csv.Error as error:
        raise _unreadable(path, f"is not CSV: {error} (line {reader.line_num})", "close every quote") from None
    if not rows:
        raise _unreadable(path, "is empty", "start it with word,spoken,language")
    if len(rows) - 1 > MOST_ROWS:
        raise _unreadable(path, f"has {len(rows) - 1:,} rows", f"use at most {MOST_ROWS:,}")
    return rows


def _unreadable(path: Path, message: str, remedy: str) -> LexiconError:
    return LexiconError([Problem(0, "", "", f"the lexicon {path.name} {message}", remedy)])


def _wrong_word(word: str) -> tuple[str, str] | None:
    if not any(character.isalnum() for character in word):
        return f"the word {word!r} has no letter", "write the word as it stands in scripts"
    if len(word) > LONGEST_WORD:
        return f"the word has {len(word)} characters", f"use at most {LONGEST_WORD}"
    return None


def _wrong_language(language: str) -> tuple[str, str] | None:
    if language and not _LANGUAGE.fullmatch(language):
        return f"{language[:40]!r} is not a BCP-47 language tag", "write say en or en-GB, or leave it empty"
    return None


def _phones(spoken: str) -> tuple[Phones, tuple[str, str] | None]:
    """Phones of a spoken form, or what is wrong with it and the remedy."""
    if not spoken:
        return (), ("the spoken form is empty", "write ordinary words, or phones between slashes")
    if spoken.startswith("/") and spoken.endswith("/") and len(spoken) > 1:
        phones = tuple(spoken.strip("/").split())
        unknown = next((phone for phone in phones if phone not in _PHONES), None)
        if unknown is not None:
            return (), (_unknown_phone(unknown), "use ARPAbet phones, such as /N W IY1 N/")
    else:
        said = normalise(spoken)
        if said.dropped:
            return (), (f"{spoken[:40]!r} cannot be spoken: {' '.join(said.dropped)[:40]}", "use words or /PHONES/")
        phones = tuple(name for name in unit_names(units(said.spoken)) if name in _PHONES)
    if not any(phone[-1].isdigit() for phone in phones):
        return (), (f"{spoken[:40]!r} has no vowel to be spoken", "write ordinary words, or phones between slashes")
    if len(phones) > LONGEST_PRONUNCIATION:
        return (), (f"{spoken[:40]!r} has {len(phones)} phones", f"use at most {LONGEST_PRONUNCIATION}")
    return phones, None


def _unknown_phone(phone: str) -> str:
    bare = phone.rstrip("012")
    if bare in VOWELS:
        return f"the vowel {phone!r} needs its stress: {bare}0, {bare}1 or {bare}2"
    return f"{phone[:20]!r} is no phone"
