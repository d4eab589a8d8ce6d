"""How each kind of written piece sounds: one pattern and one handler a kind, the first that matches wins.

A handler takes its match and the line it stands in, and returns words and marks separated by spaces, or nothing.
"""

import datetime
import re
import unicodedata
from collections.abc import Callable, Iterable
from typing import NamedTuple

from avatarlab.text import lexicon, numbers
from avatarlab.text.words import SUPERSCRIPTS, code, fold, read_word, spell

_TITLES = frozenset({"dr.", "mr.", "mrs.", "ms.", "prof.", "rev.", "gen.", "capt.", "lt.", "sgt.", "gov.", "sen."})


class Line(NamedTuple):
    """`plain` is `original` with quotes, dashes, spaces and digits unified, character for character; `shouted`: in
    capitals; `dropped` collects the characters that have no sound."""

    plain: str
    original: str
    shouted: bool
    dropped: dict[str, None]


Handler = Callable[[re.Match[str], Line], str]


def _word(match: re.Match[str], line: Line) -> str:
    letters = []
    for character in match.group():
        folded = "'" if character == "'" else fold(character)
        if folded is None:
            line.dropped[character] = None
            folded = " "
        letters.append(folded)
    words = []
    for written in "".join(letters).split():
        if written == "A":
            words.append(_capital_a(match, line))
        else:
            words.append(read_word(written, line.shouted))
    return " ".join(words)


def _plain_word(match: re.Match[str], _: Line) -> str:
    return read_word(match.group(), False)


def _capital_a(match: re.Match[str], line: Line) -> str:
    """The article before a word, the letter elsewhere: "A model", "option A"."""
    return "a" if re.match(r" [^\W\d_]", line.plain[match.end() : match.end() + 2]) else "ay"


def _alphanumeric(match: re.Match[str], line: Line) -> str:
    parts = re.findall(r"[A-Za-z]+|[0-9]+", match.group())
    return " ".join(code(part) if part.isdigit() else read_word(part, line.shouted) for part in parts)


def _roman(match: re.Match[str], line: Line) -> str:
    value = numbers.roman(match.group())
    if value is None or match.group() in {"XX", "XXX"}:
        return read_word(match.group(), line.shouted)
    return numbers.cardinal(str(value))


def _abbreviation(match: re.Match[str], line: Line) -> str:
    key = match.group().lower()
    words = lexicon.ABBREVIATIONS[key]
    return words + " ." if key in lexicon.MAY_CLOSE and _closes(line.plain, match.end()) else words


def _numbered_abbreviation(match: re.Match[str], _: Line) -> str:
    return lexicon.NUMBERED[match.group().lower()]


def _month_abbreviation(match: re.Match[str], _: Line) -> str:
    return lexicon.MONTH_ABBREVIATIONS[match.group().rstrip(".")]


def _saint(match: re.Match[str], line: Line) -> str:
    if re.match(r" [A-Z]", line.plain[match.end() : match.end() + 2]):
        return "saint"
    return "street ." if _closes(line.plain, match.end()) else "street"


def _initials(match: re.Match[str], line: Line) -> str:
    """U.S., J.R.R. The last full stop also ends the sentence where nothing follows."""
    words = spell(re.sub(r"[^A-Za-z]", "", match.group()))
    last = match.group().endswith(".") and re.fullmatch(r"[\"')\] ]*", line.plain[match.end() : match.end() + 8])
    return words + " ." if last else words


def _initial(match: re.Match[str], line: Line) -> str:
    """J. in a name: at the start, after a title, a capitalised word or an initial; else the letter ends a sentence."""
    letter = match.group()[0]
    before = re.findall(r"[^\s\"'(]+", line.plain[max(0, match.start() - 30) : match.start()])
    if letter != "I" and (not before or before[-1][0].isupper() or before[-1].lower() in _TITLES):
        return spell(letter)
    return ("i" if letter == "I" else spell(letter)) + " ."


def _closes(plain: str, end: int) -> bool:
    """Whether a sentence may end here: nothing follows, or a capital after white space."""
    rest = plain[end : end + 6].lstrip("\"')]")
    return not rest or re.match(r"\s+[\"'(]*[A-Z]", rest) is not None


_N = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
# Superscripts and fractions are "word" characters to `re`, but neither letters nor digits to us.
_SMALL = "⁰¹²³⁴⁵⁶⁷⁸⁹½⅓⅔¼¾"
_ALNUM = rf"[^\W_{_SMALL}]"
_LETTER = rf"[^\W\d_{_SMALL}]"
_START, _END = rf"(?<!{_ALNUM})", rf"(?!{_ALNUM})"
_MONTH = "|".join(month.capitalize() for month in lexicon.MONTHS)
_MONTH_SHORT = "|".join(lexicon.MONTH_ABBREVIATIONS)
_MEASURE_BY_SPELLING = {
    spelling: words
    for measure, words in lexicon.MEASURES.items()
    for spelling in {measure.replace("\u00b5", "\u03bc"), measure.replace("²", "^2").replace("³", "^3")}
}
_ATTACHED_ONLY = frozenset({"us"})


def _quantity(match: re.Match[str], line: Line) -> str:
    low, high, unit = match["low"], match["high"], match["unit"]
    if unit in _ATTACHED_ONLY and match["gap"]:
        return f"{_number(low, match, line)} {unit}"
    if high:
        words = f"{_number(low, match, line)} to {_number(high, match, line)}"
    elif unit or match["magnitude"] or match["times"]:
        words = numbers.cardinal(low)
    else:
        words = _number(low, match, line)
    if match["magnitude"]:
        return f"{words} {lexicon.MAGNITUDES[match['magnitude']]}"
    if match["times"]:
        return f"{words} times"
    if unit:
        singular, plural = _MEASURE_BY_SPELLING[unit]
        one = match["gap"] == "-" or (numbers.is_one(low) and not high)
        return f"{words} {singular if one else plural}"
    return words


def _number(written: str, match: re.Match[str], line: Line) -> str:
    if re.fullmatch(r"1[1-9][0-9]{2}|20[0-9]{2}", written) and not match["unit"] and _is_year(match, line):
        return numbers.year(int(written))
    return numbers.cardinal(written)


def _is_year(match: re.Match[str], line: Line) -> bool:
    """Four digits are a year unless they count something: a plural noun follows, or an operator stands beside them."""
    before = re.findall(r"[a-z]+|[=<>*/^+]", line.plain[max(0, match.start() - 16) : match.start()].lower())
    after = re.match(r"\s*([a-z]+|[=<>*/^+×])", line.plain[match.end() : match.end() + 24])
    if (before and before[-1] in "=<>*/^+") or (after and after.group(1) in "=<>*/^+×"):
        return False
    counts = after is not None and after.group(1).endswith("s") and after.group(1) not in lexicon.NOT_PLURAL
    if counts:
        return False
    return int(match["low"].split(".")[0].replace(",", "")) >= 1500 or (
        bool(before) and before[-1] in lexicon.YEAR_BEFORE
    )


def _ordinal(match: re.Match[str], _: Line) -> str:
    return numbers.ordinal(match.group()[:-2])


def _decade(match: re.Match[str], _: Line) -> str:
    value = re.sub(r"[^0-9]", "", match.group())
    return numbers.decade(int(value)) if len(value) == 4 else numbers.decade(1900 + int(value)).split(" ", 1)[1]


def _iso_date(match: re.Match[str], _: Line) -> str:
    return _date(match["iy"], match["im"], match["id"])


def _slash_date(match: re.Match[str], _: Line) -> str:
    first, second, year = match["s1"], match["s2"], match["sy"]
    return _date(year, first, second) if int(first) <= 12 else _date(year, second, first)


def _date(year: str, month: str, day: str) -> str:
    try:
        datetime.date(int(year), int(month), int(day))
    except ValueError:
        return " ".join(numbers.cardinal(part) for part in (year, month, day))
    return numbers.date(int(year), int(month), int(day))


def _month_day(match: re.Match[str], _: Line) -> str:
    month = match["mm"].rstrip(".")
    return f"{lexicon.MONTH_ABBREVIATIONS.get(month, month.lower())} {numbers.ordinal(match['md'])}"


def _day_month(match: re.Match[str], _: Line) -> str:
    return f"{numbers.ordinal(match['dd'])} of {match['dm'].lower()}"


def _clock(match: re.Match[str], line: Line) -> str:
    half = (match["half"] or match["half2"] or "").lower()
    words = numbers.clock(int(match["hours"] or match["hours2"]), int(match["minutes"] or 0), half)
    if match["seconds"]:
        words += f" and {numbers.cardinal(match['seconds'].lstrip('0') or '0')} seconds"
    return words + " ." if match.group().endswith(".") and _closes(line.plain, match.end()) else words


def _ratio(match: re.Match[str], _: Line) -> str:
    return " to ".join(numbers.cardinal(part) for part in match.group().split(":"))


def _money(match: re.Match[str], _: Line) -> str:
    symbol = match["sign"] or match["sign2"]
    amount = match["amount"] or match["amount2"]
    magnitude = lexicon.MAGNITUDES.get(match["many"] or "", "")
    return numbers.money(amount, lexicon.CURRENCIES[symbol], magnitude)


def _fraction(match: re.Match[str], _: Line) -> str:
    if match.group() == "24/7":
        return "twenty four seven"
    part = numbers.fraction(match["top"], match["bottom"])
    if not match["whole"]:
        return part
    return f"{numbers.cardinal(match['whole'])} and {re.sub('^one ', 'a ', part)}"


def _phone_number(match: re.Match[str], _: Line) -> str:
    groups = re.findall(r"[0-9]+", match.group())
    return ("plus " if match.group().startswith("+") else "") + " , ".join(numbers.digits(group) for group in groups)


def _version(match: re.Match[str], _: Line) -> str:
    words = " point ".join(numbers.cardinal(part) for part in match.group().lstrip("vV").split("."))
    return f"version {words}" if match.group()[0] in "vV" else words


def _scientific(match: re.Match[str], _: Line) -> str:
    return numbers.scientific(match["mantissa"], match["exponent"])


def _dimensions(match: re.Match[str], _: Line) -> str:
    word = " times " if " × " in match.group() else " by "
    return word.join(numbers.cardinal(part) for part in re.findall(_N, match.group()))


def _digit_run(match: re.Match[str], _: Line) -> str:
    return numbers.cardinal(match.group())


_OPERATORS = {
    "<=": "is at most",
    ">=": "is at least",
    "!=": "is not equal to",
    "==": "equals",
    "->": "to",
    "=>": "implies",
    "<-": "from",
    "+/-": "plus or minus",
    ":=": "is defined as",
    "&&": "and",
    "||": "or",
    "w/o": "without",
    "w/": "with",
}


def _operator(match: re.Match[str], _: Line) -> str:
    return _OPERATORS[match.group()]


def _power(match: re.Match[str], _: Line) -> str:
    text = match.group()
    exponent = "".join(SUPERSCRIPTS.get(character, character) for character in text).strip("^{} ")
    negative, exponent = exponent.startswith("-"), exponent.lstrip("-")
    if not negative and exponent in {"2", "3"}:
        return "squared" if exponent == "2" else "cubed"
    return f"to the power of {'minus ' if negative else ''}{numbers.cardinal(exponent)}"


def _url(match: re.Match[str], line: Line) -> str:
    address = re.split(r"[?#]", re.sub(r"^(?:https?://|mailto:)?(?:www\.)?", "", match.group()))[0].rstrip("/")
    words = []
    for part in re.findall(r"[A-Za-z]+|[0-9]+|[./@]", address):
        if part in "./@":
            words.append({".": "dot", "/": "slash", "@": "at"}[part])
        else:
            words.append(code(part) if part.isdigit() else read_word(part, line.shouted))
    return " ".join(words)


def _language(match: re.Match[str], _: Line) -> str:
    return f"{match.group()[0].lower()} {'sharp' if match.group().endswith('#') else 'plus plus'}"


def _function(match: re.Match[str], _: Line) -> str:
    return f"{spell(match['f'])} of {spell(match['x'])}"


def _hash(match: re.Match[str], line: Line) -> str:
    following = line.plain[match.end() : match.end() + 1]
    return "number" if following.isdigit() else "hashtag" if following.isalpha() else "hash"


def _ellipsis(match: re.Match[str], line: Line) -> str:
    return "." if _closes(line.plain, match.end()) else ","


def _inner_dot(match: re.Match[str], line: Line) -> str:
    """Between letters without a space: a name (data.csv), or a forgotten space (one.Two)."""
    before, after = line.plain[match.start() - 1], line.plain[match.end()]
    return "." if before.islower() and after.isupper() else "dot"


def _star(match: re.Match[str], line: Line) -> str:
    around = (
        line.plain[max(0, match.start() - 2) : match.start()].strip(),
        line.plain[match.end() : match.end() + 2].strip(),
    )
    return "times" if all(part and (part[0].isalnum() or part[0] in "()") for part in around) else ""


def _symbol(match: re.Match[str], _: Line) -> str:
    return lexicon.SYMBOLS[match.group()]


def _other(match: re.Match[str], line: Line) -> str:
    character = line.original[match.start()]
    if unicodedata.category(character) not in {"Mn", "Me", "Sk"}:
        line.dropped[character] = None
    return ""


def _as(words: str) -> Handler:
    return lambda _match, _line: words


def _mark(match: re.Match[str], _: Line) -> str:
    return match.group()[0]


def _any_of(spellings: Iterable[str]) -> str:
    return "|".join(re.escape(spelling) for spelling in sorted(spellings, key=len, reverse=True))


_CAPITALISED = [
    key for key in lexicon.ABBREVIATIONS if key in _TITLES or key in {"inc.", "ltd.", "corp.", "jr.", "sr."}
]
_ANY_CASE = [key for key in lexicon.ABBREVIATIONS if key not in _CAPITALISED]

RULES: tuple[tuple[str, str, Handler], ...] = (
    ("space", r"\s+", _as("")),
    ("plain", r"[a-z]{2,}(?=[\s,;?!]|:\s|:?$)", _plain_word),  # most words; spares them the search below
    ("url", r"(?:https?://|mailto:|www\.)[^\s<>\"]{0,2000}[^\s<>\".,;:!?)\]']", _url),
    ("iso", r"(?<![\w-])(?P<iy>[12][0-9]{3})-(?P<im>[0-9]{2})-(?P<id>[0-9]{2})(?![\w-])", _iso_date),
    ("slash", r"(?<![\w/])(?P<s1>[0-9]{1,2})/(?P<s2>[0-9]{1,2})/(?P<sy>[12][0-9]{3})(?![\w/])", _slash_date),
    (
        "monthday",
        rf"{_START}(?P<mm>{_MONTH}|(?:{_MONTH_SHORT})\.?) (?P<md>[0-9]{{1,2}})(?:st|nd|rd|th)?(?![\w:/-]|[.,][0-9])",
        _month_day,
    ),
    ("daymonth", rf"(?<![\w.,/-])(?P<dd>[0-9]{{1,2}})(?:st|nd|rd|th)? (?P<dm>{_MONTH}){_END}", _day_month),
    ("month", rf"{_START}(?:{_MONTH_SHORT})\.?(?=\s[0-9])", _month_abbreviation),
    (
        "clock",
        r"(?<![\w:.])(?:(?P<hours>[01]?[0-9]|2[0-3]):(?P<minutes>[0-5][0-9])(?::(?P<seconds>[0-5][0-9]))?(?![0-9:])"
        rf"(?:\s?(?P<half>[apAP])(?:\.m\.|[mM]{_END}))?{_END}"
        rf"|(?P<hours2>1[0-2]|[1-9])\s?(?P<half2>[apAP])(?:\.m\.|[mM]{_END}))",
        _clock,
    ),
    ("listnumber", r"^[0-9]{1,3}[.)](?=\s)", lambda match, _: numbers.cardinal(match.group()[:-1]) + " ,"),
    (
        "money",
        rf"(?P<sign>[$€£¥₹])\s?(?P<amount>{_N})(?:\s?(?P<many>thousand|million|billion|trillion|bn|mn|[kKMmBT]){_END})?{_END}"
        rf"|(?P<amount2>{_N})\s?(?P<sign2>[€£¥₹])",
        _money,
    ),
    ("fraction", r"(?<![\w/.])(?:(?P<whole>[0-9]+) )?(?P<top>[0-9]+)/(?P<bottom>[0-9]+)(?![\w/]|\.[0-9])", _fraction),
    (
        "phone",
        r"\+[0-9]{1,3}(?:[- ]\(?[0-9]{1,4}\)?){2,5}(?![\w-])|(?<![\w-])\(?[0-9]{2,4}\)?(?:-[0-9]{2,4}){2,4}(?![\w-])"
        r"|(?<![\w-])[0-9]{3}-[0-9]{4}(?![\w-])",
        _phone_number,
    ),
    ("version", rf"{_START}(?:[vV]?[0-9]+(?:\.[0-9]+){{2,}}|[vV][0-9]+(?:\.[0-9]+)*){_END}", _version),
    ("decade", r"(?<![\w.])(?:(?:1[1-9]|20)[0-9]0|'[1-9]0)'?s" + _END, _decade),
    (
        "scientific",
        rf"(?<![\w.])(?P<mantissa>[0-9]+(?:\.[0-9]+)?)[eE](?P<exponent>[-+]?[0-9]{{1,4}}){_END}",
        _scientific,
    ),
    ("ratio", r"(?<![\w:.])[0-9]+:[0-9]+(?![\w:])", _ratio),
    ("dimensions", rf"(?<![\w.])(?:{_N})(?:\s?[x×]\s?(?:{_N})){{1,4}}{_END}", _dimensions),
    ("resolution", rf"(?<![\w.])[48]K{_END}", _alphanumeric),
    ("ordinal", rf"(?<![\w.])(?:[0-9]{{1,3}}(?:,[0-9]{{3}})+|[0-9]+)(?:st|nd|rd|th){_END}", _ordinal),
    (
        "quantity",
        rf"{_START}(?P<low>{_N})(?:(?:[-–]|\s–\s)(?P<high>{_N}))?"
        rf"(?:(?P<magnitude>[kKMBT]){_END}|(?P<times>[xX×]){_END}"
        rf"|(?P<gap>[\s-])?(?P<unit>{_any_of(_MEASURE_BY_SPELLING)})(?!'?{_ALNUM}|/{_ALNUM})|{_END})",
        _quantity,
    ),
    ("language", rf"{_START}(?:[CF]#|[Cc]\+\+)(?!\w)", _language),
    ("function", rf"{_START}(?P<f>[A-Za-z])\((?P<x>[A-Za-z])\)", _function),
    ("operator", rf"{_START}w/o(?!\w)|{_START}w/|<=|>=|!=|==|->|=>|<-|\+/-|:=|&&|\|\|", _operator),
    ("saint", rf"{_START}St\.", _saint),
    (
        "abbreviation",
        rf"{_START}(?:(?i:{_any_of(_ANY_CASE)})|{_any_of([key.capitalize() for key in _CAPITALISED])}){_END}",
        _abbreviation,
    ),
    ("numbered", rf"{_START}(?i:{_any_of(lexicon.NUMBERED)})(?=\s?\(?[0-9])", _numbered_abbreviation),
    ("initials", rf"{_START}(?:[A-Za-z]\.){{2,}}[A-Za-z]?{_END}", _initials),
    ("initial", r"(?<![\w'])[A-Z]\.(?=\s[A-Z])", _initial),
    ("alphanumeric", r"[A-Za-z]+[0-9][A-Za-z0-9]*|[0-9]+[A-Za-z][A-Za-z0-9]*", _alphanumeric),
    ("roman", rf"{_START}[IVX]{{2,5}}{_END}(?!')", _roman),
    ("word", rf"{_LETTER}+(?:'{_LETTER}+)*", _word),
    ("digits", r"[0-9]+", _digit_run),
    ("power", r"\^\{?-?[0-9]{1,4}\}?|[⁰¹²³⁴⁵⁶⁷⁸⁹]+", _power),
    ("ellipsis", r"\.\s?\.[. ]*\.?(?!\w)|…", _ellipsis),
    ("innerdot", rf"(?<={_ALNUM})\.(?={_ALNUM})", _inner_dot),
    ("hash", r"\#", _hash),
    ("star", r"\*", _star),
    ("about", r"~(?=[$€£]?\.?[0-9])", _as("about")),
    ("minus", r"(?<![\w)\]])[-–](?=[$€£]?\.?[0-9])|(?<=[0-9)] )-(?= [0-9(])", _as("minus")),
    ("dash", r"--+|—|(?<=\s)[-–](?=\s)|–(?=\s)|(?<=\s)–", _as(",")),
    ("bracket", r"[()\[\]{}|]", _as(",")),
    ("mark", r"[,.?!;:]", _mark),
    ("andor", r"(?<=\band)/(?=or\b)", _as("")),
    ("silent", r"[\"'_`~–-]", _as("")),
    ("symbol", "[" + re.escape("".join(lexicon.SYMBOLS)) + "]", _symbol),
    ("other", r".", _other),
)
SCANNER = re.compile("|".join(f"(?P<{name}>{pattern})" for name, pattern, _ in RULES), re.DOTALL)
HANDLERS = {name: handler for name, _, handler in RULES}
