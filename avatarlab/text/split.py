"""Scripts to sentences and pauses, in the order they are heard."""

import functools
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from avatarlab.errors import ScriptError
from avatarlab.text.languages import DEFAULT_LANGUAGES, check_language, check_writing
from avatarlab.text.markup import Mark, marks, paragraphs, place, shown, unified
from avatarlab.text.normalise import Token, join, tokenise
from avatarlab.text.phones import is_known, units
from avatarlab.text.pronunciations import NO_LEXICON, Lexicon

MAX_UNITS = 120
PAUSE_STEP_SECONDS = 0.04  # one video frame
SENTENCE_PAUSE_SECONDS = 0.24
PARAGRAPH_PAUSE_SECONDS = 0.6
LONGEST_PAUSE_SECONDS = 30.0
MARKS_NAMED = 5

_LIMIT = MAX_UNITS - 1  # a piece cut between words is closed with a comma
_SHORTEST_PIECE = 20  # units; a cut leaves at least so much on both sides where it can
_MARKS = frozenset(",.?!;:")
_CLOSERS = re.compile(r"[\"'”’»)\]}*_]*")
_CONJUNCTIONS = frozenset(
    {
        "and",
        "but",
        "or",
        "because",
        "which",
        "that",
        "when",
        "while",
        "so",
        "if",
        "although",
        "where",
        "who",
        "as",
        "then",
    }
)


@dataclass(frozen=True)
class Sentence:
    """One unit of speech: `text` as captions show it, `spoken` as `units` reads it, the paragraph counted from 0."""

    text: str
    spoken: str
    paragraph: int


@dataclass(frozen=True)
class Pause:
    """Silence; a whole number of video frames."""

    seconds: float


@dataclass(frozen=True)
class Script:
    """What is heard, in order, and what was left out: characters without a sound, tags, sentences of such only."""

    parts: tuple[Sentence | Pause, ...]
    dropped: tuple[str, ...]


def split_script(
    script: str,
    language: str = "en",
    *,
    languages: Sequence[str] = DEFAULT_LANGUAGES,
    lexicon: Lexicon = NO_LEXICON,
) -> Script:
    """Sentences of at most MAX_UNITS text units with the pauses between them.

    A blank line starts a paragraph. `[pause 1.5]` and `<break time="1.5s"/>` are silence (0.04 to 30 s, whole video
    frames), in the place of the pause that would stand there by rule. A longer sentence is cut at ; : and commas,
    then before conjunctions, then between words; its pieces follow one another without a pause, and their texts, put
    together, are the text of the sentence. `languages` are those of the model set.

    Raises ScriptError where the language is not one of these, most letters are of another writing system, there is
    markup of another kind (see `avatarlab.text.markup`), or nothing can be spoken.
    """
    check_language(language, languages)
    text = unified(script)
    found = marks(text)
    _refuse_markup(text, [mark for mark in found if mark.refused])
    check_writing(text, languages)
    own = lexicon.for_language(language)
    dropped: dict[str, None] = {}
    heard: list[tuple[Sentence | Pause, int]] = []  # with the number of the sentence it is a piece of
    number = 0
    for index, (start, end) in enumerate(paragraphs(text)):
        for passage in _passages(text, start, end, found):
            if isinstance(passage, Pause):
                heard.append((passage, -1))
                continue
            for sentence in _sentences(passage, own, dropped):
                number += 1
                heard += [(Sentence(text, spoken, index), number) for text, spoken in _pieces(*sentence)]
    if not any(isinstance(part, Sentence) for part, _ in heard):
        what = f"; dropped: {' '.join(list(dropped)[:5])}" if dropped else ""
        raise ScriptError(
            f"the script has nothing to speak{what}", "write at least one word in Latin letters or a number"
        )
    return Script(tuple(_with_pauses(heard)), tuple(dropped))


def pause(seconds: float) -> Pause:
    """Silence of the nearest whole number of video frames, within 0.04 and 30 seconds."""
    bounded = min(max(seconds, PAUSE_STEP_SECONDS), LONGEST_PAUSE_SECONDS)
    return Pause(round(int(bounded / PAUSE_STEP_SECONDS + 0.5) * PAUSE_STEP_SECONDS, 2))


def _with_pauses(heard: list[tuple[Sentence | Pause, int]]) -> Iterator[Sentence | Pause]:
    for (part, number), (following, next_number) in pairwise(heard):
        yield part
        if isinstance(part, Sentence) and isinstance(following, Sentence) and number != next_number:
            same = part.paragraph == following.paragraph
            yield pause(SENTENCE_PAUSE_SECONDS if same else PARAGRAPH_PAUSE_SECONDS)
    yield heard[-1][0]


def _refuse_markup(text: str, refused: Sequence[Mark]) -> None:
    if not refused:
        return
    named = [f"{text[mark.start : mark.end][:40]!r} in {place(text, mark.start)}" for mark in refused[:MARKS_NAMED]]
    more = f"; and {len(refused) - MARKS_NAMED} more" if len(refused) > MARKS_NAMED else ""
    raise ScriptError(
        f"markup that is not obeyed: {'; '.join(named)}{more}",
        'delete it; silence is [pause 1.5] or <break time="1.5s"/>; what shall be read out stands between backticks',
    )


def _passages(text: str, start: int, end: int, found: Sequence[Mark]) -> Iterator[str | Pause]:
    """The text between pauses, and the pauses, of the paragraph `text[start:end]`."""
    first = bisect_left(found, start, key=lambda mark: mark.start)
    for mark in found[first:]:
        if mark.start >= end:
            break
        yield text[start : mark.start]
        yield pause(PARAGRAPH_PAUSE_SECONDS if mark.seconds is None else mark.seconds)
        start = mark.end
    yield text[start:end]


def _sentences(passage: str, lexicon: Lexicon, dropped: dict[str, None]) -> Iterator[tuple[str, list[Token]]]:
    """The shown text and the tokens of each sentence that has a word in it."""
    visible = shown(passage)
    tokens, unspeakable = tokenise(visible.text, lexicon)
    dropped.update(dict.fromkeys(visible.notes + unspeakable))
    group: list[Token] = []
    open_end = False  # a sentence has ended; quotes and brackets that close it may still follow
    for index, token in enumerate(tokens):
        if open_end and not _CLOSERS.fullmatch(visible.text[token.start : token.end]):
            yield from _spoken_only(visible.text, group, dropped)
            group, open_end = [], False
        group.append(token)
        open_end = open_end or _ends_sentence(visible.text, tokens, index)
    yield from _spoken_only(visible.text, group, dropped)


def _spoken_only(text: str, group: list[Token], dropped: dict[str, None]) -> Iterator[tuple[str, list[Token]]]:
    if join(token.spoken for token in group):
        yield text, group
    elif group and (silent := text[group[0].start : group[-1].end].strip()):
        dropped[f"sentence {silent[:40]!r}"] = None


def _ends_sentence(text: str, tokens: list[Token], index: int) -> bool:
    token = tokens[index]
    if token.spoken[-1:] not in {".", "?", "!"}:
        return False
    end = token.end
    if text[token.start] == "\n" or end == len(text):
        return True
    closers = _CLOSERS.match(text, end)
    after = closers.end() if closers else end
    following = text[after : after + 2]
    if not following:
        return True
    if not following[0].isspace():
        return token.spoken == "." and following[0].isupper()  # a forgotten space: "one.Two"
    if not following[1:].islower():
        return True
    if after > end:
        return False  # "Why?" he asked
    if token.spoken != ".":
        return True
    earlier = (tokens[place].spoken for place in range(index - 1, -1, -1) if tokens[place].spoken)
    word = next(earlier, "").split()[-1:]
    return not word or "/" in word[0] or is_known(word[0])  # else an unknown short form: "the res. was low"


def _pieces(text: str, tokens: list[Token]) -> Iterator[tuple[str, str]]:
    """(shown text, spoken) of one sentence, cut so that none is longer than MAX_UNITS."""
    tokens = [part for token in tokens for part in _parts(token)]
    ends = _unit_positions(tokens)
    first = 0
    while ends[-1] - ends[first] > _LIMIT:
        last = _cut(text, tokens, ends, first)
        yield _piece(text, tokens[first:last], ",")
        first = last
    yield _piece(text, tokens[first:], ".")


def _piece(text: str, tokens: list[Token], close: str) -> tuple[str, str]:
    spoken = join(token.spoken for token in tokens)
    if spoken[-1] not in ".?!" and not (close == "," and spoken[-1] in ",;:"):
        spoken = spoken.rstrip(",;:") + close
    return " ".join(text[tokens[0].start : tokens[-1].end].split()), spoken


def _cut(text: str, tokens: list[Token], ends: list[int], first: int) -> int:
    """Index of the token that starts the next piece: the best place, and the last such, in two thirds of the room.

    `ends[i]` is the number of units before token i.
    """
    room = min(_LIMIT, ends[-1] - ends[first] - _SHORTEST_PIECE)
    furthest = max(bisect_right(ends, ends[first] + room) - 1, first + 1)
    nearest = max(bisect_right(ends, ends[first] + room // 3), first + 1)
    best = max(range(min(nearest, furthest), furthest + 1), key=lambda index: (_rank(tokens, index), index))
    while best < furthest and ends[best] == ends[best + 1] and not text[tokens[best].start].isspace():
        best += 1  # a closing quote or bracket stays with what it closes
    return best


def _rank(tokens: list[Token], index: int) -> int:
    """How good a place to cut lies before `tokens[index]`."""
    before = tokens[index - 1].spoken[-1:]
    if before and before in ";:.?!":
        return 4
    if before == ",":
        return 3
    if tokens[index].spoken in _CONJUNCTIONS:
        return 2
    return 0 if before else 1


def _unit_positions(tokens: list[Token]) -> list[int]:
    """Units before each token, and in all; of several marks in a row one is heard."""
    positions = [0]
    after_mark = True
    for token in tokens:
        length = _length(token.spoken)
        if token.spoken in _MARKS and token.spoken:
            length, after_mark = (0 if after_mark else 1), True
        elif token.spoken:
            after_mark = token.spoken[-1] in _MARKS
        positions.append(positions[-1] + length)
    return positions


@functools.lru_cache(maxsize=65_536)
def _length(spoken: str) -> int:
    return len(units(spoken))


def _parts(token: Token) -> list[Token]:
    """A token of very many words (an address, a number of 200 digits) as several, with its characters shared out."""
    if _length(token.spoken) <= _LIMIT // 2:
        return [token]
    words = token.spoken.split()
    wanted = min(len(words), token.end - token.start, _length(token.spoken) // (_LIMIT // 4) + 1)
    edges = [round(step * len(words) / wanted) for step in range(wanted + 1)]
    places = [token.start + round(step * (token.end - token.start) / wanted) for step in range(wanted + 1)]
    return [
        Token(places[step], places[step + 1], " ".join(words[edges[step] : edges[step + 1]])) for step in range(wanted)
    ]
