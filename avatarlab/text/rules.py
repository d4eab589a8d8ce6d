"""How each kind of written piece sounds: one pattern and one handler a kind, the first that matches wins.

A handler takes its match and the line it stands in, and returns words and marks separated by spaces, or nothing.
"""

import datetime
import re
import unicodedata
from collections.abc import Callable, Iterable
from typing import NamedTuple

from avatarlab.text import lexicon, numbers, roman
from avatarlab.text.phones import PUNCTUATION, UNITS
from avatarlab.text.words import SUPERSCRIPTS, code, fold, read_word, spell

_TITLES = frozenset({"dr.", "mr.", "mrs.", "ms.", "prof.", "rev.", "gen.", "capt.", "lt.", "sgt.", "gov.", "sen."})


_FORMULA = re.compile(
    r"(?:(?:A[cglstu]|B[aeir]?|C[adelorsu]?|Dy|E[rsu]|F[er]?|G[ade]|H[efgo]?|I[nr]?|Kr?|L[aiu]|M[gno]|N[abdei]?|Os?|P[bdtu]?|R[abehnu]"
    r"|S[bceimnr]?|T[ehil]|U|V|W|Xe|Yb?|Z[nr])[0-9]{0,3}){2,12}"
)


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
        elif written == "a" and _in_formula(match, line):
            words.append("ay")
        else:
            words.append(read_word(written, line.shouted))
    return " ".join(words)


def _pronounced(match: re.Match[str], _: Line) -> str:
    return match.group()


def _plain_word(match: re.Match[str], _: Line) -> str:
    return read_word(match.group(), False)


def _capital_a(match: re.Match[str], line: Line) -> str:
    """The article before a word, the letter elsewhere: "A model", "option A", "A is"."""
    before = re.findall(r"[a-z]+", line.plain[max(0, match.start() - 16) : match.start()].lower())
    after = re.match(r" ([^\W_]+)", line.plain[match.end() : match.end() + 10])
    letter = after is None or after.group(1) in lexicon.AFTER_LETTER or (before and before[-1] in lexicon.LETTERED)
    return "ay" if letter else "a"


def _in_formula(match: re.Match[str], line: Line) -> bool:
    """Whether an operator stands beside a letter, and no word after it."""
    before, after = (
        line.plain[max(0, match.start() - 3) : match.start()].rstrip()[-1:],
        line.plain[match.end() : match.end() + 3],
    )
    beside = before in _OPERATOR_SIGNS - {"-", "/", "("} or re.match(r"\s?[+=<>*^²³≤≥≠≈×]", after) is not None
    return beside and re.match(r" [^\W\d_]{2}", after) is None


def _alphanumeric(match: re.Match[str], line: Line) -> str:
    if _FORMULA.fullmatch(match.group()) and re.search("[0-9]", match.group()):
        return " ".join(
            code(part) if part.isdigit() else spell(part) for part in re.findall("[A-Za-z]|[0-9]+", match.group())
        )
    if century := re.fullmatch(r"([IVX]+)(?:st|nd|rd|th)", match.group()):
        value = roman.value(century.group(1))
        return numbers.ordinal(str(value)) if value else read_word(match.group(), line.shouted)
    parts = re.findall(r"[A-Za-z]+|[0-9]+", match.group())
    return " ".join(_code_or_word(part, line.shouted) for part in parts)


def _code_or_word(part: str, shouted: bool) -> str:
    if part.isdigit():
        return code(part)
    return spell(part) if len(part) == 1 else read_word(part, shouted)


def _roman(match: re.Match[str], line: Line) -> str:
    words = roman.read(
        match.group(),
        line.plain[max(0, match.start() - 30) : match.start()],
        line.plain[match.end() : match.end() + 20],
    )
    return words or read_word(match.group(), line.shouted)


def _abbreviation(match: re.Match[str], line: Line) -> str:
    key = match.group().lower()
    words = lexicon.ABBREVIATIONS[key]
    return words + " ." if key in lexicon.MAY_CLOSE and _closes(line.plain, match.end()) else words


def _fixed(match: re.Match[str], _: Line) -> str:
    return lexicon.FIXED[match.group().lower()]


def _capitals_together(match: re.Match[str], line: Line) -> str:
    """AT&T, R&D, I/O, TCP/IP: the parts are spelled where they are no words."""
    first, sign, second = re.split(r"([&/])", match.group(), maxsplit=1)
    middle = " and " if sign == "&" else " "
    return middle.join(spell(part) if len(part) < 3 else read_word(part, line.shouted) for part in (first, second))


def _weekday(match: re.Match[str], _: Line) -> str:
    return {"Wed": "wednesday", "Sat": "saturday", "Sun": "sunday"}[match.group().rstrip(".")]


def _numbered_abbreviation(match: re.Match[str], _: Line) -> str:
    return lexicon.NUMBERED[match.group().lower()]


def _month_abbreviation(match: re.Match[str], _: Line) -> str:
    return lexicon.MONTH_ABBREVIATIONS[match.group().rstrip(".")]


def _saint(match: re.Match[str], line: Line) -> str:
    if re.match(r" [A-Z]", line.plain[match.end() : match.end() + 2]):
        return "saint" if match.group() == "St." else "mount"
    return "street ." if _closes(line.plain, match.end()) else "street"


def _initials(match: re.Match[str], line: Line) -> str:
    """U.S., J.R.R. The last full stop also ends the sentence where nothing or an opening word follows."""
    words = spell(re.sub(r"[^A-Za-z]", "", match.group()))
    rest = line.plain[match.end() : match.end() + 12]
    last = match.group().endswith(".") and (re.fullmatch(r"[\"')\] ]*", rest[:8]) or _opens(rest))
    return words + " ." if last else words


def _initial(match: re.Match[str], line: Line) -> str:
    """J. in a name: at the start, after a title, a capitalised word or an initial; else the letter ends a sentence, as
    it does after "Plan" and before words like "Then"."""
    letter = match.group()[0]
    earlier = line.plain[max(0, match.start() - 30) : match.start()]
    before = re.findall(r"[^\s\"'(]+", earlier)
    if numeral := roman.read(letter, earlier, ""):
        return numeral + " ."
    if letter == "I" and not before and line.plain[-1] not in ".?!":
        return "one ."  # a heading: "I. Introduction"
    if before and (_opens(line.plain[match.end() : match.end() + 12]) or before[-1].lower() in lexicon.LETTERED):
        return ("i" if letter == "I" else spell(letter)) + " ."
    if letter != "I" and (not before or before[-1][0].isupper() or before[-1].lower() in _TITLES):
        return spell(letter)
    return ("i" if letter == "I" else spell(letter)) + " ."


def _opens(rest: str) -> bool:
    """Whether a word follows that begins a sentence and is no name."""
    following = re.match(r"\s+([A-Za-z]+)", rest)
    return following is not None and following.group(1) in lexicon.OPENERS


def _closes(plain: str, end: int) -> bool:
    """Whether a sentence may end here: nothing follows, or a capital after white space."""
    rest = plain[end : end + 6].lstrip("\"')]")
    return not rest or re.match(r"\s+[\"'(]*[A-Z]", rest) is not None


_N = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
# Superscripts and fractions are "word" characters to `re`, but neither letters nor digits to us.
_VULGAR = "".join(lexicon.VULGAR)
_SMALL = f"⁰¹²³⁴⁵⁶⁷⁸⁹ⁿ{_VULGAR}"
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
_PHONE = "(?:" + "|".join(sorted(UNITS[: -len(PUNCTUATION)], key=len, reverse=True)) + ")"
_ATTACHED_ONLY = frozenset({"us"})


def _quantity(match: re.Match[str], line: Line) -> str:
    low, high, unit = match["low"], match["high"], match["unit"]
    after = line.plain[match.end() : match.end() + 3]
    if unit in _ATTACHED_ONLY and match["gap"]:
        return f"{_number(low, match, line)} {unit}"
    if high and re.match(r"\s*=", after):
        words = f"{numbers.cardinal(low)} minus {numbers.cardinal(high)}"
    elif high:
        words = f"{_number(low, match, line)} to {_to_number(high, low, match, line)}"
    elif unit or match["magnitude"] or match["times"]:
        words = numbers.cardinal(low)
    else:
        words = _number(low, match, line)
    if match["magnitude"]:
        return f"{words} {lexicon.MAGNITUDES[match['magnitude']]}"
    if match["times"]:
        before = line.plain[max(0, match.start() - 3) : match.start()].rstrip()[-1:]
        is_product = before in _OPERATOR_SIGNS or re.match(r"\s?[-+=*/^<>²³)]", after)
        return f"{words} x" if (before and is_product) or re.match(r"\s?[+=*/^<>²³]", after) else f"{words} times"
    if unit:
        singular, plural = _MEASURE_BY_SPELLING[unit]
        angle = unit == "°" and re.match(
            r" (?:angle|turn|rotation|arc|bend|view)", line.plain[match.end() : match.end() + 9]
        )
        one = match["gap"] == "-" or angle or (numbers.is_one(low) and not high)
        per = f" per {_per(match['per'])}" if match["per"] else ""
        end = " ." if unit.endswith(".") and _closes(line.plain, match.end()) else ""
        return f"{words} {singular if one else plural}{per}{end}"
    return words


def _list_letter(match: re.Match[str], _: Line) -> str:
    letters = match.group().strip("()")
    number = roman.value(letters.upper()) if len(letters) > 1 else None
    return f"{numbers.cardinal(str(number)) if number else spell(letters)} ,"


def _per(unit: str) -> str:
    return lexicon.PER.get(unit) or _MEASURE_BY_SPELLING[unit][0]


def _to_number(high: str, low: str, match: re.Match[str], line: Line) -> str:
    """The end of a range: "1939-45" ends in 45, which a year's "nineteen" comes before."""
    return _number(high, match, line) if len(high) >= len(low) else numbers.cardinal(high)


def _number(written: str, match: re.Match[str], line: Line) -> str:
    before = re.findall(r"[A-Za-z]+", line.plain[max(0, match.start() - 16) : match.start()])
    label = before[-1].lower() if before and line.plain[match.start() - 1] == " " else ""
    if match["unit"] or match["magnitude"]:
        return numbers.cardinal(written)
    if label in lexicon.VERSIONED and re.fullmatch(r"[0-9]{1,3}\.[0-9]{2}", written):
        return " point ".join(numbers.cardinal(part) for part in written.split("."))
    if label in lexicon.SPELT_AFTER and re.fullmatch(r"[0-9]{3,}", written):
        counted = re.match(r" ([a-z]+)", line.plain[match.end() : match.end() + 20])
        if counted is None or counted.group(1) in lexicon.AFTER_CODE:
            return numbers.digits(written)
    if label in lexicon.CODED_AFTER and re.fullmatch(r"[0-9]{3,4}", written):
        return code(written)
    if re.fullmatch(r"1[0-9]{3}|20[0-9]{2}", written) and _is_year(match, line):
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
    value, previous = int(match["low"].split(".")[0].replace(",", "")), before[-1] if before else ""
    return value >= 1500 or previous in (lexicon.YEAR_BEFORE if value >= 1100 else {"in", "since", "circa"})


def _ordinal(match: re.Match[str], _: Line) -> str:
    return numbers.ordinal(match.group()[:-2])


def _decade(match: re.Match[str], _: Line) -> str:
    value = re.sub(r"[^0-9]", "", match.group())
    return numbers.decade(int(value)) if len(value) == 4 else numbers.decade(1900 + int(value)).split(" ", 1)[1]


def _iso_date(match: re.Match[str], _: Line) -> str:
    words = _date(match["iy"], match["im"], match["id"])
    return f"{words} , {numbers.clock(int(match['ih']), int(match['imin']))}" if match["ih"] else words


def _dotted_date(match: re.Match[str], line: Line) -> str:
    day, month, year = (int(match[name]) for name in ("dday", "dmonth", "dyear"))
    return f"{_the(match, line)}{numbers.ordinal(str(day))} of {lexicon.MONTHS[month - 1]} {numbers.year(year)}"


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


def _day_month(match: re.Match[str], line: Line) -> str:
    month = (match["dm"] or match["dms"]).rstrip(".")
    named = lexicon.MONTH_ABBREVIATIONS.get(month, month.lower())
    return f"{_the(match, line)}{numbers.ordinal(match['dd'])} of {named}"


def _the(match: re.Match[str], line: Line) -> str:
    """The article of a date, unless it stands there."""
    return (
        ""
        if re.search(r"\b(?:the|each|every|a) $", line.plain[max(0, match.start() - 8) : match.start()].lower())
        else "the "
    )


def _clock(match: re.Match[str], line: Line) -> str:
    half = (match["half"] or match["half2"] or "").lower()
    words = numbers.clock(int(match["hours"] or match["hours2"]), int(match["minutes"] or match["minutes2"] or 0), half)
    if match["seconds"]:
        words += f" and {numbers.cardinal(match['seconds'].lstrip('0') or '0')} seconds"
    return words + " ." if match.group().endswith(".") and _closes(line.plain, match.end()) else words


def _feet_and_inches(match: re.Match[str], _: Line) -> str:
    feet, inches = match["ft"], match["inches"]
    return (
        f"{numbers.cardinal(feet)} {'foot' if feet == '1' else 'feet'} "
        f"{numbers.cardinal(inches)} {'inch' if inches == '1' else 'inches'}"
    )


def _ratio(match: re.Match[str], _: Line) -> str:
    return " to ".join(numbers.cardinal(part) for part in match.group().split(":"))


def _money(match: re.Match[str], _: Line) -> str:
    symbol = match["sign"] or match["sign2"] or match["code"] or match["code2"]
    amount = match["amount"] or match["amount2"] or match["amount3"]
    magnitude = lexicon.MAGNITUDES.get(match["many"] or match["many2"] or "", "")
    currency = lexicon.CURRENCIES.get(symbol) or lexicon.CURRENCY_CODES[symbol]
    if match["nation"]:
        one, many, *small = currency
        nation = lexicon.DOLLARS[match["nation"]]
        currency = (f"{nation} {one}", f"{nation} {many}", small[0], small[1])
    if match["upto"]:
        return f"{numbers.cardinal(amount)} to {numbers.money(match['upto'], currency, magnitude)}"
    return numbers.money(amount, currency, magnitude)


def _fraction(match: re.Match[str], _: Line) -> str:
    top, bottom = match["top"], match["bottom"]
    if re.fullmatch("1[5-9]..|20..", top) and len(bottom) == 2 and (int(top) + 1) % 100 == int(bottom):
        return f"{numbers.year(int(top))} to {numbers.cardinal(bottom)}"  # a season: 2024/25
    part = numbers.fraction(match["top"], match["bottom"])
    if not match["whole"]:
        return part
    return f"{numbers.cardinal(match['whole'])} and {re.sub('^one ', 'a ', part)}"


def _vulgar_fraction(match: re.Match[str], _: Line) -> str:
    part, unit = lexicon.VULGAR[match["vulgar"]], match["vulgarunit"]
    if match["vulgarwhole"]:
        words = f"{numbers.cardinal(match['vulgarwhole'])} and {re.sub('^one ', 'a ', part)}"
        return f"{words} {_MEASURE_BY_SPELLING[unit][1]}" if unit else words
    return f"{part} {_MEASURE_BY_SPELLING[unit][0]}" if unit else part


def _grouped(match: re.Match[str], _: Line) -> str:
    return numbers.cardinal(re.sub("[ .]", "", match.group()))


def _chain(match: re.Match[str], _: Line) -> str:
    return " ".join(numbers.cardinal(part) for part in match.group().split("-"))


def _book_number(match: re.Match[str], _: Line) -> str:
    return " , ".join(spell(part) if part == "X" else numbers.digits(part) for part in match.group().split("-"))


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


_OPERATOR_SIGNS = frozenset("+-=<>*/^(×−≤≥≠≈")
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
    "+=": "plus equals",
    "§§": "sections",
}


def _operator(match: re.Match[str], _: Line) -> str:
    return _OPERATORS[match.group()]


def _power(match: re.Match[str], _: Line) -> str:
    text = match.group()
    exponent = "".join(SUPERSCRIPTS.get(character, character) for character in text).strip("^{} ")
    if exponent.isalpha():
        return f"to the power of {spell(exponent)}"
    negative, exponent = exponent.startswith("-"), exponent.lstrip("-")
    if not negative and exponent in {"2", "3"}:
        return "squared" if exponent == "2" else "cubed"
    return f"to the power of {'minus ' if negative else ''}{numbers.cardinal(exponent)}"


def _url(match: re.Match[str], line: Line) -> str:
    address = re.split(r"[?#]", re.sub(r"^(?:https?://|mailto:)?(?:www\.)?", "", match.group()))[0].rstrip("/")
    return _address(address, line)


def _email(match: re.Match[str], line: Line) -> str:
    return _address(match.group(), line)


_SIGNS = {".": "dot", "/": "slash", "@": "at", "-": "dash", "_": "underscore", "+": "plus", "%": "percent"}


def _address(address: str, line: Line) -> str:
    """Signs by name; a part of two letters after a dot is a country or a suffix, and is spelled."""
    words: list[str] = []
    for part in re.findall(r"[A-Za-z]+|[0-9]+|[./@_%+-]", address):
        if part in _SIGNS:
            words.append(_SIGNS[part])
        elif len(part) == 2 and words[-1:] == ["dot"] and part.isalpha() and part not in {"co", "me", "to"}:
            words.append(spell(part))
        else:
            words.append(_code_or_word(part, line.shouted))
    return " ".join(words)


def _language(match: re.Match[str], _: Line) -> str:
    return f"{match.group()[0].lower()} {'sharp' if match.group().endswith('#') else 'plus plus'}"


def _function(match: re.Match[str], line: Line) -> str:
    """f(x), O(n log n), P(A|B), sin(x)."""
    name, arguments = match["f"], match["arguments"]
    said = lexicon.FUNCTIONS.get(name.lower()) or (spell(name) if name.isascii() else (fold(name) or "").strip())
    primes = ("", " prime", " double prime", " triple prime")[len(match["primes"])]
    return f"{said}{primes} of {' given '.join(_nested(part, line) for part in arguments.split('|'))}"


def _applied(match: re.Match[str], _: Line) -> str:
    return lexicon.FUNCTIONS[match.group().lower()]


def _latex_fraction(match: re.Match[str], line: Line) -> str:
    return f"{_nested(match['over'], line)} over {_nested(match['under'], line)}"


def _big_operator(match: re.Match[str], line: Line) -> str:
    """∑_{i=1}^{n}: the sum from i equals one to n of."""
    name = lexicon.SYMBOLS.get(match["big"]) or lexicon.COMMANDS[match["big"][1:]]
    lower, upper = match["lower"] or match["lower1"], match["upper"] or match["upper1"]
    return f"{name.removesuffix(' of')} from {_nested(lower, line)} to {_nested(upper, line)} of"


def _script(match: re.Match[str], line: Line) -> str:
    """x_{i+1} and e^{x}."""
    power = "to the power of " if match.group().startswith("^") else ""
    exponent = match["inner"]
    if power and exponent in {"2", "3"}:
        return "squared" if exponent == "2" else "cubed"
    return power + _nested(exponent, line)


def _command(match: re.Match[str], _: Line) -> str:
    name = match.group()[1:]
    return lexicon.COMMANDS[name] if name in lexicon.COMMANDS else name.lower()


def _nested(text: str, line: Line) -> str:
    """A part of a formula; a letter that stands alone there is no article."""
    text = re.sub(r"(?<=[0-9])x(?!\w)", " x", text)  # no "times" here
    part = Line(text, text, False, line.dropped)
    return " ".join(
        "ay" if match.group() in {"a", "A"} else HANDLERS[match.lastgroup or ""](match, part)
        for match in SCANNER.finditer(text)
    )


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

_MONTHS_AND_SHORT = rf"(?:{_MONTH})|(?:{_MONTH_SHORT})\.?"
_UNIT = _any_of(_MEASURE_BY_SPELLING)
_CODE = "|".join(lexicon.CURRENCY_CODES)
_MANY = "thousand|million|billion|trillion|bn|mn|[kKMmBT]"
_ARGUMENT = r"(?:[A-Za-z](?![A-Za-z])|log|ln|sin|cos|exp|[0-9]|[ ,.+*^|/²³−=<>≤≥≠-]|[α-ω](?![α-ω]))"
_COMMANDS = _any_of([*lexicon.COMMANDS, *lexicon.GREEK_NAMES, *(name.capitalize() for name in lexicon.GREEK_NAMES)])

RULES: tuple[tuple[str, str, Handler], ...] = (
    ("space", r"\s+", _as("")),
    ("pronounced", rf"[^\W_]{{1,80}}/(?=[A-Z0-2-]*[0-2]){_PHONE}(?:-{_PHONE})*/", _pronounced),
    ("plain", r"(?!(?:sin|cos|tan|log|ln|exp|sqrt|et)\b)[a-z]{2,}(?=[\s,;?!]|:\s|:?$)", _plain_word),  # most words
    ("url", r"(?:https?://|mailto:|www\.)[^\s<>\"]{0,2000}[^\s<>\".,;:!?)\]']", _url),
    (
        "email",
        rf"{_START}[A-Za-z0-9][\w.%+-]{{0,63}}@[A-Za-z0-9][A-Za-z0-9-]{{0,62}}(?:\.[A-Za-z0-9-]{{1,63}}){{1,5}}",
        _email,
    ),
    ("fixed", rf"(?<![\w/])(?i:{_any_of(lexicon.FIXED)})(?![\w/])", _fixed),
    ("emoticon", r"(?<!\S)[:;]-?[()DPp](?!\w)", _as("")),
    (
        "iso",
        r"(?<![\w-])(?P<iy>[12][0-9]{3})-(?P<im>[0-9]{2})-(?P<id>[0-9]{2})"
        r"(?:[T ](?P<ih>[01][0-9]|2[0-3]):(?P<imin>[0-5][0-9])(?::[0-5][0-9](?:\.[0-9]{1,6})?)?Z?)?(?![\w-])",
        _iso_date,
    ),
    ("slash", r"(?<![\w/])(?P<s1>[0-9]{1,2})/(?P<s2>[0-9]{1,2})/(?P<sy>[12][0-9]{3})(?![\w/])", _slash_date),
    (
        "dotted",
        r"(?<![\w.])(?P<dday>3[01]|[12][0-9]|0?[1-9])\.(?P<dmonth>1[0-2]|0?[1-9])\.(?P<dyear>(?:19|20)[0-9]{2})(?![\w]|\.[0-9])",
        _dotted_date,
    ),
    (
        "monthday",
        rf"{_START}(?P<mm>{_MONTH}|(?:{_MONTH_SHORT})\.?) (?P<md>[0-9]{{1,2}})(?:st|nd|rd|th)?(?![\w:/-]|[.,][0-9])",
        _month_day,
    ),
    (
        "daymonth",
        rf"(?<![\w.,/-])(?P<dd>[0-9]{{1,2}})(?:st|nd|rd|th)? "
        rf"(?:(?P<dm>{_MONTH}){_END}|(?P<dms>(?:{_MONTH_SHORT}))\.?(?= [0-9]{{4}}))",
        _day_month,
    ),
    ("month", rf"{_START}(?:{_MONTH_SHORT})\.?(?=\s[0-9])", _month_abbreviation),
    (
        "weekday",
        rf"{_START}(?:Wed|Sat|Sun)(?:\.(?= ?[0-9])|{_END}"
        rf"(?=,? (?:[0-9]|{_MONTH}|{_MONTH_SHORT})|[-–](?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)))"
        rf"|(?<=[eunti][-–])(?:Wed|Sat|Sun){_END}",
        _weekday,
    ),
    (
        "clock",
        r"(?<![\w:.])(?:(?P<hours>[01]?[0-9]|2[0-3]):(?P<minutes>[0-5][0-9])(?::(?P<seconds>[0-5][0-9]))?(?![0-9:])"
        rf"(?:\s?(?P<half>[apAP])(?:\.m\.|[mM]{_END}))?{_END}"
        rf"|(?P<hours2>1[0-2]|[1-9])(?:\.(?P<minutes2>[0-5][0-9]))?\s?(?P<half2>[apAP])(?:\.m\.|[mM]{_END}))",
        _clock,
    ),
    (
        "until",
        r"(?:(?<=:[0-5][0-9])|(?<=[apAP][mM])|(?<=\.m\.))\s?[-–]\s?(?=[0-9]{1,2}(?::|\s?[apAP]\.?[mM]))",
        _as("to"),
    ),
    ("feet", rf"(?<![\w.])(?P<ft>[0-9]{{1,2}})'(?P<inches>[0-9]{{1,2}})\"{_END}", _feet_and_inches),
    ("listnumber", r"^[0-9]{1,3}[.)](?=\s)", lambda match, _: numbers.cardinal(match.group()[:-1]) + " ,"),
    ("listletter", r"^[a-z]\)(?=\s)|^[ivx]{2,4}\)(?=\s)|(?<!\w)\((?:[a-z]|[ivx]{2,4})\)(?!\w)", _list_letter),
    (
        "money",
        rf"(?:{_START}(?P<nation>{_any_of(lexicon.DOLLARS)})(?=\$))?(?P<sign>[$€£¥₹])\s?(?P<amount>{_N})"
        rf"(?:\s?[-–]\s?(?P=sign)?(?P<upto>{_N}))?(?:\s?(?P<many>{_MANY}){_END})?{_END}"
        rf"|{_START}(?P<amount2>{_N})(?:\s?(?P<many2>{_MANY}))?\s?(?:(?P<sign2>[€£¥₹])|(?P<code>{_CODE}){_END})"
        rf"|{_START}(?P<code2>{_CODE})\s?(?P<amount3>{_N}){_END}",
        _money,
    ),
    (
        "vulgarfraction",
        rf"(?:(?<![\w.])(?P<vulgarwhole>[0-9]+) ?)?(?P<vulgar>[{_VULGAR}])(?:\s?(?P<vulgarunit>{_UNIT})(?!'?{_ALNUM}|/{_ALNUM}))?",
        _vulgar_fraction,
    ),
    ("fraction", r"(?<![\w/.])(?:(?P<whole>[0-9]+) )?(?P<top>[0-9]+)/(?P<bottom>[0-9]+)(?![\w/]|\.[0-9])", _fraction),
    ("booknumber", r"(?<=ISBN )(?:97[89]-)?[0-9]{1,5}-[0-9]{1,7}-[0-9]{1,7}-[0-9X]", _book_number),
    (
        "phone",
        r"\+[0-9]{1,3}(?:[- ]\(?[0-9]{1,6}\)?){2,5}(?![\w-])"
        r"|(?<![\w.,-])0[0-9]{2,4}(?:[ /-][0-9]{2,8}){1,4}(?![\w-])|(?<![\w-])\(?[0-9]{2,4}\)?(?:-[0-9]{2,4}){2,4}(?![\w-])"
        r"|(?<!\w)\([0-9]{3}\) ?[0-9]{3}-[0-9]{4}(?![\w-])|(?<![\w-])[0-9]{3}-[0-9]{4}(?![\w-])",
        _phone_number,
    ),
    ("chain", r"(?<![\w-])[0-9](?:-[0-9]){2,5}(?![\w-])", _chain),
    (
        "grouped",
        r"(?<![\w.,])[1-9][0-9]{0,2}(?: [0-9]{3}){2,4}(?![\w]|[.,][0-9]| [0-9])"
        r"|(?<![\w.,])[1-9][0-9]{0,2}(?:\.[0-9]{3}){2,4}(?![\w]|\.[0-9])",
        _grouped,
    ),
    ("version", rf"{_START}(?:[vV]?[0-9]+(?:\.[0-9]+){{2,}}|[vV][0-9]+(?:\.[0-9]+)*){_END}", _version),
    (
        "decade",
        rf"(?:(?<![\w.])(?:(?:1[1-9]|20)[0-9]0|'[1-9]0)|(?:(?<=\bthe )|(?<=early )|(?<=late )|(?<=mid-))[2-9]0)'?s{_END}",
        _decade,
    ),
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
        rf"(?:(?P<magnitude>[kKMBT]){_END}(?!\()|(?P<times>[xX×]){_END}"
        rf"|(?P<gap>[\s-])?(?P<unit>{_UNIT})(?:/(?P<per>{_any_of([*lexicon.PER, *_MEASURE_BY_SPELLING])}))?"
        rf"(?!'?{_ALNUM}|/{_ALNUM})|{_END})",
        _quantity,
    ),
    ("language", rf"{_START}(?:[CF]#|[Cc]\+\+)(?!\w)", _language),
    (
        "function",
        rf"{_START}(?P<f>[fghpqruvwyDEFGHJKLOPQSTVWΘΩΦΨθφψσρ]|[xyz](?=\([tn]\))|{_any_of(lexicon.FUNCTIONS)}|Var|Cov)"
        rf"(?P<primes>'{{0,3}})\((?P<arguments>{_ARGUMENT}{{1,30}})\)",
        _function,
    ),
    ("applied", rf"{_START}(?i:sin|cos|tan|log|ln|exp|sqrt)(?=\(| [xXθαβφω0-9](?!\w))", _applied),
    (
        "bigoperator",
        r"(?P<big>[∑∏∫]|\\(?:sum|prod|int))_?(?:\{(?P<lower>[^{}]{1,20})\}|(?P<lower1>[A-Za-z0-9]))"
        r"\^(?:\{(?P<upper>[^{}]{1,20})\}|(?P<upper1>[A-Za-z0-9∞]))",
        _big_operator,
    ),
    ("script", r"(?:(?<=\w)_?|\^)\{(?P<inner>[A-Za-z0-9+ ,−=-]{1,20})\}", _script),
    ("latexfraction", r"\\d?frac\{(?P<over>[^{}\\]{1,40})\}\{(?P<under>[^{}\\]{1,40})\}", _latex_fraction),
    ("command", rf"\\(?:{_COMMANDS})(?![A-Za-z])", _command),
    ("operator", rf"{_START}w/o(?!\w)|{_START}w/|<=|>=|!=|==|->|=>|<-|\+/-|\+=|:=|&&|\|\||§§", _operator),
    ("saint", rf"{_START}(?:St\.|Mt\.(?= [A-Z]))", _saint),
    (
        "abbreviation",
        rf"{_START}(?:(?i:{_any_of(_ANY_CASE)})|{_any_of([key.capitalize() for key in _CAPITALISED])}){_END}",
        _abbreviation,
    ),
    (
        "numbered",
        rf"{_START}(?i:{_any_of(lexicon.NUMBERED)})(?=\s?\(?[0-9]|\s[IVXLC]{{2,6}}{_END})",
        _numbered_abbreviation,
    ),
    ("circa", rf"{_START}c\.(?=\s?[0-9]{{3,4}}(?![0-9]))", _as("around")),
    ("together", rf"{_START}(?:[A-Z]{{1,3}}&[A-Z]{{1,3}}|[A-Z]{{1,4}}/[A-Z]{{1,4}}){_END}(?!/)", _capitals_together),
    ("initials", rf"{_START}(?:[A-Za-z]\.){{2,}}[A-Za-z]?{_END}", _initials),
    ("initial", r"(?<![\w'])[A-Z]\.(?=\s[A-Z])", _initial),
    (
        "alphanumeric",
        r"[A-Za-z]+[0-9][A-Za-z0-9]*|[0-9]+[A-Za-z][A-Za-z0-9]*|[IVX]{2,6}(?:st|nd|rd|th)(?!\w)",
        _alphanumeric,
    ),
    ("roman", rf"{_START}[IVXLCDM]{{1,15}}{_END}(?!')", _roman),
    ("word", rf"{_LETTER}+(?:'{_LETTER}+)*", _word),
    ("digits", r"[0-9]+", _digit_run),
    ("power", r"\^\{?-?[0-9]{1,4}\}?|⁻?[⁰¹²³⁴⁵⁶⁷⁸⁹]+|ⁿ", _power),
    ("ellipsis", r"\.\s?\.[. ]*\.?(?!\w)|…", _ellipsis),
    ("innerdot", rf"(?<={_ALNUM})\.(?={_ALNUM})", _inner_dot),
    ("factorial", r"(?<=[0-9A-Za-z)])!(?=\s?[=+*/×÷<>^-])", _as("factorial")),
    ("hash", r"\#", _hash),
    ("star", r"\*", _star),
    ("about", r"~(?=[$€£]?\.?[0-9])", _as("about")),
    ("minus", r"(?<![\w)\]])[-–](?=[$€£]?\.?[0-9])|(?<=[0-9)] )-(?= [0-9(])", _as("minus")),
    ("dash", r"--+|—|(?<=\s)[-–](?=\s)|–(?=\s)|(?<=\s)–", _as(",")),
    ("bracket", r"[()\[\]{}|]", _as(",")),
    ("mark", r"[,.?!;:]", _mark),
    ("divided", r"(?<=[0-9)] )/(?= [0-9(])", _as("divided by")),
    ("silent", r"[\"'_`~–-]", _as("")),
    ("symbol", "[" + re.escape("".join(lexicon.SYMBOLS)) + "]", _symbol),
    ("other", r".", _other),
)
SCANNER = re.compile("|".join(f"(?P<{name}>{pattern})" for name, pattern, _ in RULES), re.DOTALL)
HANDLERS = {name: handler for name, _, handler in RULES}
