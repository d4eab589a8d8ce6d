"""Markup in a script: what is silence, what is refused, and what is Markdown that authors left in.

Marks of silence are `[pause 1.5]` (seconds, or with a unit: `[pause 500ms]`), `[pause]`, `<break time="1.5s"/>` and
`<break/>`. Any other markup is refused with its place, since what it asks for would silently not happen:

- a tag: `<` and a name without a space between, up to `>`: `<b>`, `</b>`, `<laugh/>`, `<prosody rate="slow">`, a
  comment `<!-- -->`, a declaration, and a tag with a quoted attribute that is never closed;
- a direction in square brackets: those that begin with a word of `_SOUNDS` (`[laughs]`, `[sigh of relief]`), those that
  are a word of `_SETTINGS`, alone or with a value (`[slow]`, `[speed: 0.8]`), and closing ones (`[/emphasis]`);
- a pause or break in any other form: `[pause x]`, `<break time="1.5">`.

Ordinary text is not markup: `a < b`, `<3`, `x[0]`, `[1]`, `[citation needed]`; types such as `List<int>`, `<T>` and
`#include <vector>`; addresses `<https://...>` and `<jane@example.com>`; Markdown, where `[pause](url)` is a link;
entities such as `&lt;b&gt;`; and whatever stands in code, between backticks or fences.
"""

import html
import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

# Every pattern runs in time linear in the text: no repeat is nested in another or reaches past a bound.
_LINE_BREAK = re.compile(r"\r\n?|[\x0b\x0c\x85\u2028]")
_PARAGRAPH_BREAK = re.compile(r"\n[ \t]*(?:\n[ \t]*)+")
_HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+|[ \t]+#{1,6}[ \t]*$")
_BULLET = re.compile(r"^[ \t]*[-*+•‣◦▪●][ \t]+(?:\[[ xX]\][ \t]+)?")
_NUMBERED = re.compile(r"^[ \t]*(?:[0-9]{1,3}[.)]|(?:[a-z]|[ivx]{2,4})\))[ \t]+")
_QUOTE = re.compile(r"^[ \t]*(?:>[ \t]?)+")
_RULE = re.compile(r"^[ \t|:=*_-]*$")
_FENCE = re.compile(r"^[ \t]*(?:```|~~~)[\w+-]*[ \t]*$")
_LINK = re.compile(r"!?\[([^\[\]]{1,400})\]\([^()\s]{0,2000}(?:\s\"[^\"]{0,200}\")?\)")
_FOOTNOTE = re.compile(r"\[\^[\w-]{1,20}\]:?")
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});")
_EMPHASIS = re.compile(r"(?<![\w*_`])[*_`]{1,3}(?=[^\s*_`])|(?<=[^\s*_`])[*_`]{1,3}(?![\w*_`])|`{1,3}|~~")
_INLINE_MATH = re.compile(r"\$([^$\n0-9\s][^$\n]{0,200})\$|\$\$([^$\n]{1,200})\$\$")
_UNUSUAL = re.compile(r"[^\x20-\x7e\n\t]")
_GROUP_SPACE = re.compile(r"(?<=[0-9])[\u00a0\u2009\u202f](?=[0-9]{3}(?![0-9]))")  # 10 000
_SPACES = re.compile(r"(?:(?<![0-9])\u202f|\u202f(?![0-9]{3})|[^\S\n\u202f])+")

_ELEMENTS = frozenset(
    """
    a abbr article aside audio b big blockquote body br break button center circle cite code dd del details dfn div dl
    dt em embed emphasis figcaption figure font footer form h1 h2 h3 h4 h5 h6 head header hr html i iframe img input ins
    kbd li link main mark meta nav object ol option p path phoneme pre prosody q s samp script section select small
    source span speak strong style sub summary sup svg table tbody td textarea tfoot th thead title tr tt u ul video
    voice wbr
    """.split()
)
_INLINE_ELEMENTS = frozenset(
    {"a", "abbr", "b", "code", "em", "i", "mark", "s", "small", "span", "strong", "sub", "sup", "u"}
)
_SOUNDS = (
    r"laugh(?:s|ed|ing|ter)?|chuckl(?:es?|ing)|giggl(?:es?|ing)|sigh(?:s|ing)?|cough(?:s|ing)?|gasp(?:s|ing)?|sniffs?"
    r"|sneezes?|yawns?|breaths?|breathe[sd]?|breathing|inhales?|exhales?|whisper(?:s|ed|ing)?|applause|clears throat"
    r"|throat clearing|cheer(?:s|ing)|beeps?|sfx"
)
_SETTINGS = (
    r"break|silence|wait|emphasis|emphasi[sz]e|strong|slow(?:er|ly)?|fast(?:er)?|speed|rate|pitch|volume|loud(?:er)?"
    r"|quiet(?:er)?|soft(?:er|ly)?|voice|style|emotion|tone|prosody|music|sound|spell|phonemes?|ipa"
)
_NAME = r"[A-Za-z][\w:-]{0,30}"
_VALUE = r"(?:\"[^\"<>\n]{0,400}\"|'[^'<>\n]{0,400}'|[^\s\"'<>=]{1,100})"
_CODE = r"^[ \t]*(?P<fence>```|~~~).*?(?:^[ \t]*(?P=fence)|\Z)|(?P<ticks>`{1,2})[^`\n]{1,400}(?P=ticks)"
_AUTOLINK = r"<(?:(?:https?://|mailto:)[^<>\s]{1,2000}|[\w.+-]{1,64}@[\w.-]{1,200})>"
_MARKUP = re.compile(
    rf"(?P<code>{_CODE})"
    rf"|(?P<autolink>{_AUTOLINK})"
    r"|(?P<pause>\[[ \t]*pause\b[^\[\]\n]{0,80}(?:\](?!\()|$)|<break\b[^<>\n]{0,120}(?:>(?:[ \t]{0,9}</break>)?)?)"
    r"|(?P<declaration><!--.{0,2000}?-->|<(?:!--|!\[CDATA\[|!DOCTYPE|\?xml)[^<>\n]{0,80}>?)"
    rf"|(?P<tag><(?P<closing>/?)(?P<name>{_NAME})"
    rf"(?:\s*/?>|(?=[^<>]{{0,400}}=)(?:\s+{_NAME}(?:\s*=\s*{_VALUE})?){{1,10}}\s*/?>|\s+[\w:-]{{1,30}}\s*=\s*[\"']))"
    rf"|(?P<direction>\[[ \t]*(?:(?:{_SOUNDS})\b[^\[\]\n]{{0,80}}|(?:{_SETTINGS})[ \t]*(?:[:=][ \t]*[^\s\[\]]{{1,40}}"
    rf"|[ \t][0-9.]{{1,6}}[ \t]*[a-z%]{{0,3}})?|/{_NAME})[ \t]*\](?!\())",
    re.IGNORECASE | re.DOTALL | re.MULTILINE,
)
_SILENCE = re.compile(
    r"\[[ \t]*pause(?:[ \t:=]+(?P<number>[0-9]{1,6}(?:\.[0-9]{0,6})?|\.[0-9]{1,6})[ \t]*"
    r"(?P<unit>ms|s|sec|seconds?)?)?[ \t]*\]"
    r"|<break(?:\s+time\s*=\s*(?P<quote>[\"'])(?P<time>[0-9]{1,6}(?:\.[0-9]{0,6})?|\.[0-9]{1,6})(?P<unit2>ms|s)"
    r"(?P=quote))?\s*/?>(?:[ \t]{0,9}</break>)?",
    re.IGNORECASE,
)


class Mark(NamedTuple):
    """Markup at `text[start:end]`: silence of `seconds`, or of the length of a paragraph where that is None; else
    `refused`."""

    start: int
    end: int
    seconds: float | None
    refused: bool


class Shown(NamedTuple):
    """`text`: what captions show, one hard line a line; `notes`: what was taken out, in words."""

    text: str
    notes: tuple[str, ...]


def unified(script: str) -> str:
    """The script with one kind of line break; a place in a line stays where it is."""
    return _LINE_BREAK.sub("\n", script).replace("\u2029", "\n\n")


def paragraphs(text: str) -> Iterator[tuple[int, int]]:
    """Where each paragraph of a unified script lies; blank lines lie between."""
    start = 0
    for gap in _PARAGRAPH_BREAK.finditer(text):
        if text[start : gap.start()].strip():
            yield start, gap.start()
        start = gap.end()
    if text[start:].strip():
        yield start, len(text)


def marks(text: str) -> list[Mark]:
    """All markup of a unified script, in its order, by the rule that the module describes."""
    found = []
    for match in _MARKUP.finditer(text):
        kind = match.lastgroup
        if kind in {"code", "autolink"} or (kind == "tag" and _is_a_type(match)):
            continue
        silence = _SILENCE.fullmatch(match.group()) if kind == "pause" else None
        if silence is None:
            found.append(Mark(*match.span(), None, True))
            continue
        written = silence["number"] or silence["time"]
        scale = 0.001 if (silence["unit"] or silence["unit2"] or "").lower() == "ms" else 1.0
        found.append(Mark(*match.span(), float(written) * scale if written else None, False))
    return found


def place(text: str, offset: int) -> str:
    """
    >>> place("one\\ntwo <b>", 8)
    'line 2, column 5'
    """
    line = text.count("\n", 0, offset)
    return f"line {line + 1}, column {offset - text.rfind(chr(10), 0, offset)}"


def shown(text: str) -> Shown:
    """Markup and control characters removed, entities replaced, soft line breaks joined.

    Headings, list items and table rows keep a line of their own; such a line is a sentence. Tags are removed with a
    note: whoever wants them refused asks `marks` first.
    """
    notes: dict[str, None] = {}
    text = _without_tags(unicodedata.normalize("NFC", unified(text)), notes)
    text = _ENTITY.sub(lambda match: html.unescape(match.group()), text)
    text = unified(text)
    text = _GROUP_SPACE.sub("\u202f", text)
    text = _UNUSUAL.sub(lambda match: _visible(match.group(), notes), text)
    text = _FOOTNOTE.sub("", _LINK.sub(r"\1", text))
    text = _INLINE_MATH.sub(lambda match: match.group(1) or match.group(2), text)
    return Shown(_joined(text.split("\n")), tuple(notes))


def _is_a_type(match: re.Match[str]) -> bool:
    """`List<int>`, `<T>`, `#include <vector>`: a name in angle brackets that is no element."""
    name = match["name"]
    if match["closing"] or match.group() != f"<{name}>":
        return False
    if len(name) == 1 and name.isupper():
        return True
    before = match.string[max(0, match.start() - 8) : match.start()]
    return name.lower() not in _ELEMENTS and (before[-1:].isalnum() or before == "include ")


def _without_tags(text: str, notes: dict[str, None]) -> str:
    pieces, position = [], 0
    for match in _MARKUP.finditer(text):
        kind = match.lastgroup
        if kind not in {"autolink", "declaration", "tag"} or (kind == "tag" and _is_a_type(match)):
            continue
        pieces.append(text[position : match.start()])
        position = match.end()
        if kind == "autolink":
            pieces.append(match.group()[1:-1])
        elif kind == "tag":
            notes[f"tag <{match['name']}>"] = None
        if kind == "declaration" or (kind == "tag" and match["name"].lower() not in _INLINE_ELEMENTS):
            pieces.append(" ")
    return "".join(pieces) + text[position:]


def _joined(lines: list[str]) -> str:
    """Lines of one block run together; a heading, a list item or a table row stands alone."""
    blocks: list[str] = []
    open_block = False
    for line in lines:
        line = _QUOTE.sub("", line)
        if _FENCE.match(line) or _RULE.match(line):
            open_block = False
            continue
        heading = _HEADING.match(line) is not None
        item = heading or _BULLET.match(line) is not None or _NUMBERED.match(line) is not None
        row = line.lstrip().startswith("|")
        line = _BULLET.sub("", _HEADING.sub("", line)) if heading else _BULLET.sub("", line)
        if row:
            line = re.sub(r"[ \t]*\|[ \t]*", ", ", line.strip().strip("|"))
        line = _SPACES.sub(" ", _EMPHASIS.sub("", line)).strip()
        if not line:
            continue
        if open_block and not item and not row:
            blocks[-1] += " " + line
        else:
            blocks.append(line)
        open_block = not heading and not row
    return "\n".join(blocks)


def _visible(character: str, notes: dict[str, None]) -> str:
    category = unicodedata.category(character)
    if category == "Cf" or 0xFE00 <= ord(character) <= 0xFE0F:
        return ""  # joiners, marks of direction, soft hyphens, emoji variants: nothing to see or to hear
    if category in {"Cc", "Cs", "Co", "Cn"}:
        notes[f"U+{ord(character):04X}"] = None
        return " "
    return character
