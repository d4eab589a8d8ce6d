"""Numbers to words: lower-case words a-z and spaces only."""

import functools
import re
from typing import Any

from avatarlab.text.lexicon import MONTHS

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_LONGEST_CARDINAL = 15  # digits; longer ones are codes, read digit by digit
_NAMED_PARTS = {2: "half", 4: "quarter"}


def digits(text: str) -> str:
    """
    >>> digits("007")
    'zero zero seven'
    """
    return " ".join(_DIGITS[int(character)] for character in text)


def cardinal(text: str) -> str:
    """A number written in ASCII digits, with or without thousands commas and a decimal part.

    >>> cardinal("1,234.05")
    'one thousand two hundred and thirty four point zero five'
    """
    whole, point, decimals = text.replace(",", "").partition(".")
    if len(whole) > _LONGEST_CARDINAL or (len(whole) > 1 and whole.startswith("0")):
        words = digits(whole)
    else:
        words = _num2words(int(whole or "0"), "cardinal")
        if not whole:
            words = ""
    return f"{words} point {digits(decimals)}".strip() if point else words


def ordinal(text: str) -> str:
    """
    >>> ordinal("21")
    'twenty first'
    """
    plain = text.replace(",", "")
    return _num2words(int(plain), "ordinal") if len(plain) <= _LONGEST_CARDINAL else digits(plain)


def year(value: int) -> str:
    """
    >>> year(1999), year(2026), year(1905)
    ('nineteen ninety nine', 'twenty twenty six', 'nineteen oh five')
    """
    return _num2words(value, "year")


def decade(value: int) -> str:
    """
    >>> decade(1990), decade(2000)
    ('nineteen nineties', 'two thousands')
    """
    words = year(value)
    return words[:-1] + "ies" if words.endswith("y") else words + "s"


def fraction(numerator: str, denominator: str) -> str:
    """
    >>> fraction("1", "2"), fraction("3", "4"), fraction("2", "37")
    ('one half', 'three quarters', 'two over thirty seven')
    """
    top, bottom = cardinal(numerator), denominator.lstrip("0")
    if not bottom or len(bottom) > 2 or (int(bottom) > 20 and bottom not in {"32", "64"}) or bottom == "1":
        return f"{top} over {cardinal(denominator)}"
    part = _NAMED_PARTS.get(int(bottom)) or ordinal(bottom)
    if numerator == "1":
        return f"{top} {part}"
    return f"{top} {'halves' if part == 'half' else part + 's'}"


def money(amount: str, currency: tuple[str, str, str, str], magnitude: str = "") -> str:
    """`currency` is (one, many, one hundredth, many hundredths).

    >>> money("20.05", ("dollar", "dollars", "cent", "cents"))
    'twenty dollars and five cents'
    """
    one, many, small_one, small_many = currency
    whole, _, decimals = amount.replace(",", "").partition(".")
    if magnitude:
        return f"{cardinal(amount)} {magnitude} {many}"
    if len(decimals) not in {0, 2}:
        return f"{cardinal(amount)} {many}"
    large = f"{cardinal(whole)} {one if whole == '1' else many}" if whole else ""
    if not decimals or decimals == "00":
        return large or f"zero {many}"
    small = f"{cardinal(decimals.lstrip('0'))} {small_one if decimals == '01' else small_many}"
    return f"{large} and {small}" if whole.strip("0") else small


def clock(hours: int, minutes: int, half_of_day: str = "") -> str:
    """`half_of_day` is "a", "p" or "".

    >>> clock(10, 30), clock(9, 5, "a"), clock(10, 0)
    ('ten thirty', 'nine oh five ay m', "ten o'clock")
    """
    words = cardinal(str(hours))
    if minutes:
        words += f" oh {cardinal(str(minutes))}" if minutes < 10 else f" {cardinal(str(minutes))}"
    elif not half_of_day:
        words += " o'clock" if 1 <= hours <= 12 else " hundred hours"
    return words + {"a": " ay m", "p": " p m", "": ""}[half_of_day]


def date(year_number: int, month: int, day: int) -> str:
    """
    >>> date(2026, 11, 22)
    'november twenty second twenty twenty six'
    """
    return f"{MONTHS[month - 1]} {ordinal(str(day))} {year(year_number)}"


def scientific(mantissa: str, exponent: str) -> str:
    """
    >>> scientific("1", "-5")
    'one times ten to the minus five'
    """
    sign = "minus " if exponent.startswith("-") else ""
    return f"{cardinal(mantissa)} times ten to the {sign}{cardinal(exponent.lstrip('+-').lstrip('0') or '0')}"


@functools.lru_cache(maxsize=8192)
def _num2words(value: int, form: str) -> str:
    words: str = _library().num2words(value, to=form)
    return re.sub(r"[^a-z]+", " ", words).strip()


@functools.cache
def _library() -> Any:
    import num2words  # 0.1 s: every language it knows

    return num2words


def is_one(text: str) -> bool:
    """Whether a quantity takes the singular: exactly 1.

    >>> is_one("1"), is_one("1.0")
    (True, False)
    """
    return text == "1"
