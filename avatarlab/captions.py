"""Captions: sentences with times -> cues of at most two lines -> WebVTT and SubRip.

WebVTT: https://www.w3.org/TR/webvtt1/ (4.1, escapes in 4.2.2). SubRip has no specification; every player reads the form
written here. Line lengths follow the usual subtitling rule of two lines of 42 characters.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

MAX_LINE = 42
MAX_LINES = 2
SHORTEST_CUE_SECONDS = 0.12  # shorter ones cannot be seen; word times that lead to them are not believed

_CLAUSE_ENDS = tuple(",;:.?!)…—–")


@dataclass(frozen=True)
class Cue:
    """Text on the screen from start to end, in seconds of the video; lines are separated by a newline."""

    start_seconds: float
    end_seconds: float
    text: str

    def __post_init__(self) -> None:
        if not 0 <= self.start_seconds < self.end_seconds < math.inf:
            raise ValueError(f"a cue cannot last from {self.start_seconds} s to {self.end_seconds} s")


@dataclass(frozen=True)
class SpokenWord:
    """A word as it was spoken (normalised), with its times in the video."""

    text: str
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True)
class SpokenSentence:
    """A sentence as it was written, with its times in the video and, when known, those of its spoken words."""

    text: str
    start_seconds: float
    end_seconds: float
    words: tuple[SpokenWord, ...] = ()


def cues_for(sentences: Iterable[SpokenSentence]) -> tuple[Cue, ...]:
    """Cut sentences into cues of at most two lines of 42 characters.

    A sentence fills its time without gaps. A cut falls where the word after it begins: at its spoken time where the
    written word was found among the spoken ones, else in proportion to the letters between the neighbours found.
    A word longer than a line is cut. Cuts after punctuation and cues of like length are preferred."""
    return tuple(cue for sentence in sentences for cue in _sentence_cues(sentence))


def to_webvtt(cues: Sequence[Cue]) -> str:
    """WebVTT, in order of start; text is escaped, so no markup and no timing line can be smuggled in."""
    blocks = ["WEBVTT\n"]
    for cue, lines in _readable(cues):
        escaped = [line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") for line in lines]
        blocks.append("\n".join([f"{_times(cue, '.')}", *escaped]) + "\n")
    return "\n".join(blocks)


def to_srt(cues: Sequence[Cue]) -> str:
    """SubRip, numbered from 1. It knows no escapes: an arrow in the text becomes the sign of an arrow."""
    blocks = [
        "\n".join([str(number), _times(cue, ","), *(line.replace("-->", "→") for line in lines)]) + "\n"
        for number, (cue, lines) in enumerate(_readable(cues), 1)
    ]
    return "\n".join(blocks)


def _readable(cues: Sequence[Cue]) -> list[tuple[Cue, list[str]]]:
    ordered = sorted(cues, key=lambda cue: cue.start_seconds)
    return [(cue, lines) for cue in ordered if (lines := _lines(cue.text))]


def _lines(text: str) -> list[str]:
    return [line for line in (_one_line(part) for part in text.splitlines()) if line]


def _one_line(text: str) -> str:
    """Single spaces, no control characters, nothing that UTF-8 cannot carry."""
    kept = "".join(" " if letter < " " or letter == "\x7f" else letter for letter in text)
    return " ".join(kept.encode("utf-8", "replace").decode("utf-8").split())


def _times(cue: Cue, point: str) -> str:
    start = round(cue.start_seconds * 1000)
    end = max(start + 1, round(cue.end_seconds * 1000))
    return f"{_stamp(start, point)} --> {_stamp(end, point)}"


def _stamp(milliseconds: int, point: str) -> str:
    """
    >>> _stamp(3_723_004, ".")
    '01:02:03.004'
    """
    seconds, thousandths = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{point}{thousandths:03d}"


def _sentence_cues(sentence: SpokenSentence) -> list[Cue]:
    tokens = [
        word[cut : cut + MAX_LINE] for word in _one_line(sentence.text).split() for cut in range(0, len(word), MAX_LINE)
    ]
    if not tokens or not sentence.start_seconds < sentence.end_seconds:
        return []
    cuts = _cuts(tokens)
    starts = _token_starts(tokens, sentence)
    times = [sentence.start_seconds, *(starts[cut] for cut in cuts[1:-1]), sentence.end_seconds]
    if any(later - earlier < SHORTEST_CUE_SECONDS for earlier, later in itertools.pairwise(times)):
        starts = _spread(tokens, sentence.start_seconds, sentence.end_seconds)
        times = [sentence.start_seconds, *(starts[cut] for cut in cuts[1:-1]), sentence.end_seconds]
    texts = ["\n".join(_wrapped(tokens[first:end]) or []) for first, end in itertools.pairwise(cuts)]
    return [Cue(start, end, text) for start, end, text in zip(times, times[1:], texts, strict=False)]


def _cuts(tokens: Sequence[str]) -> list[int]:
    """Token indices where cues begin, and the end: fewest cues, then like lengths and cuts after punctuation."""
    total = sum(len(token) + 1 for token in tokens)
    ideal = total / max(1, math.ceil(total / (MAX_LINE * MAX_LINES)))
    best: list[tuple[float, int]] = [(math.inf, 0)] * len(tokens) + [(0.0, 0)]
    for first in range(len(tokens) - 1, -1, -1):
        for end in range(first + 1, len(tokens) + 1):
            if _wrapped(tokens[first:end]) is None:
                break
            length = sum(len(token) + 1 for token in tokens[first:end])
            cost = 1e5 + (length - ideal) ** 2 + best[end][0]
            if end < len(tokens) and not tokens[end - 1].endswith(_CLAUSE_ENDS):
                cost += 400
            best[first] = min(best[first], (cost, end))
    cuts = [0]
    while cuts[-1] < len(tokens):
        cuts.append(best[cuts[-1]][1])
    return cuts


def _wrapped(tokens: Sequence[str]) -> list[str] | None:
    """One line, or two of like length; None where they do not fit."""
    whole = " ".join(tokens)
    if len(whole) <= MAX_LINE:
        return [whole]
    if len(whole) > MAX_LINES * MAX_LINE + 1:
        return None
    pairs = [[" ".join(tokens[:cut]), " ".join(tokens[cut:])] for cut in range(1, len(tokens))]
    fitting = [pair for pair in pairs if max(map(len, pair)) <= MAX_LINE]
    return min(fitting, key=lambda pair: abs(len(pair[0]) - len(pair[1])), default=None)


def _spread(tokens: Sequence[str], start: float, end: float) -> list[float]:
    """When each token begins if letters take equal time."""
    total = sum(len(token) + 1 for token in tokens)
    starts, before = [], 0
    for token in tokens:
        starts.append(start + (end - start) * before / total)
        before += len(token) + 1
    return starts


def _token_starts(tokens: Sequence[str], sentence: SpokenSentence) -> list[float]:
    written = [_bare(token) for token in tokens]
    spoken = [_bare(word.text) for word in sentence.words]
    starts: list[float] = []
    clock = sentence.start_seconds
    for match in SequenceMatcher(None, written, spoken, autojunk=False).get_matching_blocks():
        # written words that were spoken otherwise (numbers, abbreviations) share the time between those found
        begin = sentence.words[match.b].start_seconds if match.size else sentence.end_seconds
        starts += _spread(tokens[len(starts) : match.a], clock, max(clock, begin))
        for word in sentence.words[match.b : match.b + match.size]:
            starts.append(max(clock, word.start_seconds))
            clock = max(clock, word.end_seconds)
    return [min(start, sentence.end_seconds) for start in starts]


def _bare(word: str) -> str:
    return "".join(letter for letter in word.casefold() if letter.isalnum())
