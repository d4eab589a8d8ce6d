"""Roman numerals: which capitals are one, and how it is read: of a chapter, a king, a century or a year.

I, V and X alone are numerals only after a word that numbers something ("Part V", "World War I") or the name of a ruler
("Charles I"), and so are those with an L, C, D or M ("Volume XLII"). `IV`, `XI` and the like are numerals anywhere, and
long ones that begin with M are years.
"""

import re

from avatarlab.text import numbers

_REGULAR = re.compile(r"M{0,3}(?:CM|CD|D?C{0,3})(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})")
_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
_NOT_NUMERALS = frozenset({"XX", "XXX"})
_PRONOUN_AFTER = frozenset("am think have had do did know believe say said want".split())
NUMBERING = frozenset(
    """
    Act Annex Appendix Article Axiom Book Bowl Canto Case Chapter Class Clause Corollary Division Episode Exhibit Factor
    Figure Group Law Layer Lecture Lemma Lesson Level Mark Module Movement Number Olympiad Part Phase Plate Proposition
    Question Rule Scene Schedule Section Series Stage Step Table Theorem Title Tome Type Unit Vol. Volume War
    """.split()
)
RULERS = frozenset(
    """
    Alexander Alfonso Albert Amenhotep Augustus Baudouin Benedict Boniface Carlos Catherine Charles Christian Clement
    Constantine Cyrus Darius Edward Elizabeth Emmanuel Felipe Ferdinand Francis Franz Frederick Friedrich Georg George
    Gregory Gustav Gustavus Haakon Harald Henri Henry Innocent Isabella Ivan James Joseph Juan Julius Justinian Karl Leo
    Leopold Louis Ludwig Margaret Maria Mary Maximilian Mehmed Michael Napoleon Nicholas Olaf Oscar Otto Paul Pedro
    Peter Philip Pius Ptolemy Ramesses Ramses Rama Richard Robert Rudolf Selim Sigismund Sixtus Stephen Suleiman
    Theodosius Thutmose Umberto Urban Victoria Vittorio Wilhelm William Xerxes
    """.split()
)


def value(text: str) -> int | None:
    """The value of a Roman numeral in its regular form, or None.

    >>> value("XIV"), value("IIX"), value("MCMXCIV")
    (14, None, 1994)
    """
    if not text or not _REGULAR.fullmatch(text):
        return None
    values = [_VALUES[letter] for letter in text]
    return sum(-one if any(one < other for other in values[at + 1 : at + 2]) else one for at, one in enumerate(values))


def read(text: str, before: str, after: str) -> str | None:
    """Words for capitals of I, V, X, L, C, D and M between two stretches of a line; None where they are no numeral.

    >>> read("VIII", "Henry ", " was"), read("I", "Part ", ""), read("I", "and ", " think"), read("XIX", "the ", " century")
    ('the eighth', 'one', None, 'nineteenth')
    """
    number = value(text)
    if number is None or text in _NOT_NUMERALS or text in {"L", "C", "D", "M"}:
        return None
    words = before.split()
    previous = words[-1] if words and before[-1:] == " " else ""
    following = re.match(r"\s+([A-Za-z']+)", after)
    next_word = following.group(1) if following else ""
    if previous in RULERS and not (text == "I" and next_word in _PRONOUN_AFTER):
        return f"the {numbers.ordinal(str(number))}"
    if next_word in {"century", "centuries", "dynasty"}:
        return numbers.ordinal(str(number))
    if previous in NUMBERING or (previous.capitalize() in NUMBERING and len(text) > 1):
        return numbers.cardinal(str(number))
    if len(text) >= 5 and text[0] == "M":
        return numbers.year(number)
    return numbers.cardinal(str(number)) if len(text) > 1 and set(text) <= set("IVX") else None
