"""Written English to spoken words: one pass of a scanner over each line.

Every piece of the text is matched by exactly one rule of `rules.RULES`, which says how it sounds. Each token keeps its
place in the text, so that a long sentence can be cut where its written form can be cut too.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from avatarlab.text import homographs
from avatarlab.text.markup import shown
from avatarlab.text.pronunciations import NO_LEXICON, Lexicon
from avatarlab.text.rules import HANDLERS, SCANNER, Line
from avatarlab.text.words import is_shouted, plain_text

_MARKS = frozenset(",.?!;:")
_RANK = {mark: rank for rank, mark in enumerate(",;:.!?")}


class Normalised(NamedTuple):
    """`spoken`: words of a-z and inner apostrophes, single spaces, marks , . ? ! ; : after words; a word whose sound
    depends on its neighbours brings its phones along (`read/R-EH1-D/`). `dropped`: the rest, each unspeakable character
    once, and notes such as "tag <b>"."""

    spoken: str
    dropped: tuple[str, ...]


class Token(NamedTuple):
    """`text[start:end]` sounds as `spoken`: words and marks separated by spaces, or nothing."""

    start: int
    end: int
    spoken: str


def normalise(text: str) -> Normalised:
    """Spoken words of any text, and what was dropped. Never raises; its own output stays as it is.

    >>> normalise("Dr. Smith paid $5.20 in 1999.").spoken
    'doctor smith paid five dollars and twenty cents in nineteen ninety nine.'
    """
    plain = shown(text)
    tokens, dropped = tokenise(plain.text)
    return Normalised(join(token.spoken for token in tokens), plain.notes + dropped)


def tokenise(text: str, lexicon: Lexicon = NO_LEXICON) -> tuple[list[Token], tuple[str, ...]]:
    """Tokens that tile the text (what captions show), and the characters that have no sound, each once.

    Words of the lexicon come before every rule; inside a piece that is read as a whole, such as an address or a date,
    they are not looked for.
    """
    dropped: dict[str, None] = {}
    tokens: list[Token] = []
    offset = 0
    for line in text.split("\n"):
        if offset:
            tokens.append(Token(offset - 1, offset, "."))
        plain = plain_text(line)
        scan = Line(plain, line, is_shouted(plain), dropped)
        tokens += (Token(offset + start, offset + end, spoken) for start, end, spoken in _scanned(scan, lexicon))
        offset += len(line) + 1
    spoken = homographs.with_readings([token.spoken for token in tokens])
    return [token._replace(spoken=words) for token, words in zip(tokens, spoken, strict=True)], tuple(dropped)


def _scanned(line: Line, lexicon: Lexicon) -> Iterator[tuple[int, int, str]]:
    position = 0
    for found in (*lexicon.find(line.plain), (len(line.plain), len(line.plain), "")):
        start, end, spoken = found
        while position < start:
            match = SCANNER.match(line.plain, position)
            assert match is not None  # the last rule matches anything
            yield position, match.end(), HANDLERS[match.lastgroup or ""](match, line)
            position = match.end()
        if position == start and spoken:
            yield start, end, spoken
            position = end


def join(pieces: Iterable[str]) -> str:
    """Spoken pieces as one text: of several marks in a row the strongest stays, none stands first."""
    out: list[str] = []
    for piece in pieces:
        for word in piece.split():
            if word not in _MARKS:
                out.append(word)
            elif out and out[-1][-1] not in _MARKS:
                out[-1] += word
            elif out and _RANK[word] > _RANK[out[-1][-1]]:
                out[-1] = out[-1][:-1] + word
    return " ".join(out)
