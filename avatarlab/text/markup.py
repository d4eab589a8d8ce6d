"""Markdown, HTML tags and invisible characters out of a script. What is left is what captions show."""

import html
import re
import unicodedata
from typing import NamedTuple

# Every pattern runs in time linear in the text: no repeat is nested in another or reaches past a bound.
_PARAGRAPH_BREAK = re.compile(r"\n[ \t]*(?:\n[ \t]*)+")
_HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+|[ \t]+#{1,6}[ \t]*$")
_BULLET = re.compile(r"^[ \t]*[-*+•‣◦▪●][ \t]+(?:\[[ xX]\][ \t]+)?")
_NUMBERED = re.compile(r"^[ \t]*[0-9]{1,3}[.)][ \t]+")
_QUOTE = re.compile(r"^[ \t]*(?:>[ \t]?)+")
_RULE = re.compile(r"^[ \t|:=*_-]*$")
_FENCE = re.compile(r"^[ \t]*(?:```|~~~)[\w+-]*[ \t]*$")
_LINK = re.compile(r"!?\[([^\[\]]{1,400})\]\([^()\s]{0,2000}(?:\s\"[^\"]{0,200}\")?\)")
_AUTOLINK = re.compile(r"<((?:https?://|mailto:)[^<>\s]{1,2000})>")
_COMMENT = re.compile(r"<!--.{0,2000}?-->", re.DOTALL)
_TAG = re.compile(r"</?([A-Za-z][A-Za-z0-9:-]{0,30})(?:[\s/][^<>]{0,400})?>")
_INLINE_TAGS = frozenset(
    {"a", "abbr", "b", "code", "em", "i", "mark", "s", "small", "span", "strong", "sub", "sup", "u"}
)
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});")
_EMPHASIS = re.compile(r"(?<![\w*_`])[*_`]{1,3}(?=[^\s*_`])|(?<=[^\s*_`])[*_`]{1,3}(?![\w*_`])|`{1,3}|~~")
_INLINE_MATH = re.compile(r"\$([^$\n0-9\s][^$\n]{0,200})\$|\$\$([^$\n]{1,200})\$\$")
_UNUSUAL = re.compile(r"[^\x20-\x7e\n\t]")
_SPACES = re.compile(r"[^\S\n]+")


class Shown(NamedTuple):
    """`text`: what captions show, one hard line a line; `notes`: what was taken out, in words."""

    text: str
    notes: tuple[str, ...]


def paragraphs(script: str) -> list[str]:
    """The script cut at blank lines."""
    unified = re.sub(r"\r\n?|[\x0b\x0c\x85\u2028]", "\n", script).replace("\u2029", "\n\n")
    return [piece for piece in _PARAGRAPH_BREAK.split(unified) if piece.strip()]


def shown(text: str) -> Shown:
    """Markup and control characters removed, entities replaced, soft line breaks joined.

    Headings, list items and table rows keep a line of their own; such a line is a sentence.
    """
    notes: dict[str, None] = {}

    def drop_tag(match: re.Match[str]) -> str:
        notes[f"tag <{match.group(1)}>"] = None
        return "" if match.group(1).lower() in _INLINE_TAGS else " "

    text = unicodedata.normalize("NFC", text)
    text = _COMMENT.sub(" ", text)
    text = _AUTOLINK.sub(r"\1", text)
    text = _TAG.sub(drop_tag, text)
    text = _ENTITY.sub(lambda match: html.unescape(match.group()), text)
    text = re.sub(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]", "\n", text)
    text = _UNUSUAL.sub(lambda match: _visible(match.group(), notes), text)
    text = _LINK.sub(r"\1", text)
    text = _INLINE_MATH.sub(lambda match: match.group(1) or match.group(2), text)
    return Shown(_joined(text.split("\n")), tuple(notes))


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
