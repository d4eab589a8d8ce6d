"""Written English to spoken words: one pass of a scanner over each line.

Every piece of the text is matched by exactly one rule of `rules.RULES`, which says how it sounds. Each token keeps its
place in the text, so that a long sentence can be cut where its written form can be cut too.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from avatarlab.text.markup import shown
from avatarlab.text.rules import HANDLERS, SCANNER, Line
from avatarlab.text.words import is_shouted, plain_character

_MARKS = frozenset(",.?!;:")
_RANK = {mark: rank for rank, mark in enumerate(",;:.!?")}
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")


class Normalised(NamedTuple):
    """`spoken`: words of a-z and inner apostrophes, single spaces, marks , . ? ! ; : after words; `dropped`: the rest,
    each unspeakable character once, and notes such as "tag <b>"."""

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


def tokenise(text: str) -> tuple[list[Token], tuple[str, ...]]:
    """Tokens that tile the text (what captions show), and the characters that have no sound, each once."""
    dropped: dict[str, None] = {}
    tokens: list[Token] = []
    offset = 0
    for line in text.split("\n"):
        if offset:
            tokens.append(Token(offset - 1, offset, "."))
        plain = _NOT_ASCII.sub(lambda match: plain_character(match.group()), line)
        scan = Line(plain, line, is_shouted(plain), dropped)
        for match in SCANNER.finditer(plain):
            spoken = HANDLERS[match.lastgroup or ""](match, scan)
            tokens.append(Token(offset + match.start(), offset + match.end(), spoken))
        offset += len(line) + 1
    return tokens, tuple(dropped)


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
