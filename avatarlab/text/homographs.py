"""Words that are written alike and said otherwise: the reading that the neighbouring words decide.

Only rules that one word before or after settles are here. `record`, say, is a verb after "to", "we" or "will" and a
noun elsewhere. What no rule knows keeps its usual reading. Phones are those of the CMU dictionary, ARPAbet.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from avatarlab.text.phones import pronounce, with_phones

_ADVERBS = frozenset("also always first just never not now often only please quickly simply still then usually".split())
_BEFORE_VERB = frozenset(
    """
    to will would can could shall should may might must do does did don't doesn't didn't can't cannot won't i you we they
    i'll you'll we'll they'll let's who
    """.split()
)
_BEFORE_VERB_IN_S = frozenset("it he she this that which who what".split())
_BEFORE_NOUN = frozenset(
    """
    a an the this that these those my your his her its our their each every no any some another one two three four many
    several of new old
    """.split()
)
_AUXILIARIES = frozenset("do does did can could will would shall should may might must let to".split())


class Reading(NamedTuple):
    """These phones where the word before is in `before` or the word after is in `after`."""

    phones: str
    before: frozenset[str] = frozenset()
    after: frozenset[str] = frozenset()


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# The readings are tried in turn; the last one is the usual one.
_READINGS: dict[str, tuple[Reading, ...]] = {
    "read": (
        Reading("R EH1 D", _set("have has had was were is are be been being i've you've we've they've he she it who")),
        Reading("R IY1 D"),
    ),
    "lead": (
        Reading(
            "L EH1 D",
            _set("molten contains containing"),
            _set("pipe pipes paint poisoning acid oxide acetate atom atoms ion ions shot isotope isotopes exposure"),
        ),
        Reading("L IY1 D"),
    ),
    "live": (
        Reading("L IH1 V", _BEFORE_VERB),
        Reading(
            "L AY1 V",
            _set("a the this our your my go goes going went streamed streaming broadcast recorded performed"),
            _set(
                "stream streams streaming music show shows concert concerts broadcast data demo demos video coding "
                "session sessions event events performance audience chat update updates recording television tv"
            ),
        ),
        Reading("L IH1 V"),
    ),
    "lives": (
        Reading(
            "L AY1 V Z",
            _set("our their your my his her the of own human many daily everyday private whose save saves saved lost")
            | _set("million thousand hundred nine people's day"),
        ),
        Reading("L IH1 V Z"),
    ),
    "wind": (Reading("W AY1 N D", _BEFORE_VERB), Reading("W IH1 N D")),
    "winds": (Reading("W AY1 N D Z", _set("it he she"), _set("up through around")), Reading("W IH1 N D Z")),
    "wound": (Reading("W AW1 N D", after=_set("up around through round tightly")), Reading("W UW1 N D")),
    "tear": (Reading("T IH1 R", after=_set("drop drops duct ducts gas film fluid")), Reading("T EH1 R")),
    "tears": (Reading("T EH1 R Z", _set("it he she"), _set("apart down off up out at")), Reading("T IH1 R Z")),
    "bass": (Reading("B AE1 S", _set("sea striped"), _set("fishing")), Reading("B EY1 S")),
    "minute": (
        Reading("M AY0 N UW1 T", after=_set("detail details difference differences amount amounts quantities traces")),
        Reading("M IH1 N AH0 T"),
    ),
    "axes": (Reading("AE1 K S IY2 Z"),),
    "close": (
        Reading("K L OW1 Z", _BEFORE_VERB),
        Reading(
            "K L OW1 S",
            _set("very too so as quite how pretty fairly extremely is are was were be being come comes came get gets")
            | _set("stay stays remarkably relatively sufficiently"),
            _set("to enough by friend friends look attention proximity range match relationship relative relatives")
            | _set("connection contact"),
        ),
        Reading("K L OW1 Z"),
    ),
    "use": (
        Reading("Y UW1 Z", _BEFORE_VERB),
        Reading(
            "Y UW1 S",
            _BEFORE_NOUN | _set("in make makes made making for common practical everyday daily such land energy"),
            _set("of case cases"),
        ),
        Reading("Y UW1 Z"),
    ),
    "uses": (
        Reading("Y UW1 Z AH0 Z", _BEFORE_VERB_IN_S),
        Reading("Y UW1 S AH0 Z", _BEFORE_NOUN | _set("common practical other various different"), _set("of")),
        Reading("Y UW1 Z AH0 Z"),
    ),
    "excuse": (Reading("IH0 K S K Y UW1 S", _BEFORE_NOUN), Reading("IH0 K S K Y UW1 Z")),
    "abuse": (Reading("AH0 B Y UW1 Z", _BEFORE_VERB), Reading("AH0 B Y UW1 S")),
}
# word: as noun or adjective | as verb; the star marks the usual reading
_NOUN_OR_VERB = """
    aggregate *AE1 G R AH0 G AH0 T | AE1 G R AH0 G EY2 T
    alternate *AO1 L T ER0 N AH0 T | AO1 L T ER0 N EY2 T
    animate AE1 N AH0 M AH0 T | *AE1 N AH0 M EY2 T
    appropriate *AH0 P R OW1 P R IY0 AH0 T | AH0 P R OW1 P R IY0 EY2 T
    approximate *AH0 P R AA1 K S AH0 M AH0 T | AH0 P R AA1 K S AH0 M EY2 T
    articulate AA0 R T IH1 K Y AH0 L AH0 T | *AA0 R T IH1 K Y AH0 L EY2 T
    associate AH0 S OW1 S IY0 AH0 T | *AH0 S OW1 S IY0 EY2 T
    attribute *AE1 T R AH0 B Y UW2 T | AH0 T R IH1 B Y UW2 T
    attributes *AE1 T R AH0 B Y UW2 T S | AH0 T R IH1 B Y UW2 T S
    combine K AA1 M B AY0 N | *K AH0 M B AY1 N
    compound *K AA1 M P AW0 N D | K AH0 M P AW1 N D
    compress K AA1 M P R EH0 S | *K AH0 M P R EH1 S
    conduct K AA1 N D AH0 K T | *K AH0 N D AH1 K T
    conflict *K AA1 N F L IH0 K T | K AH0 N F L IH1 K T
    conflicts *K AA1 N F L IH0 K T S | K AH0 N F L IH1 K T S
    console *K AA1 N S OW0 L | K AH0 N S OW1 L
    construct K AA1 N S T R AH0 K T | *K AH0 N S T R AH1 K T
    contract *K AA1 N T R AE2 K T | K AH0 N T R AE1 K T
    contracts *K AA1 N T R AE2 K T S | K AH0 N T R AE1 K T S
    contrast *K AA1 N T R AE0 S T | K AH0 N T R AE1 S T
    contrasts *K AA1 N T R AE0 S T S | K AH0 N T R AE1 S T S
    convert K AA1 N V ER0 T | *K AH0 N V ER1 T
    coordinate *K OW0 AO1 R D AH0 N AH0 T | K OW0 AO1 R D AH0 N EY2 T
    coordinates *K OW0 AO1 R D AH0 N AH0 T S | K OW0 AO1 R D AH0 N EY2 T S
    decrease D IY1 K R IY2 S | *D IH0 K R IY1 S
    delegate D EH1 L AH0 G AH0 T | *D EH1 L AH0 G EY2 T
    deliberate *D IH0 L IH1 B ER0 AH0 T | D IH0 L IH1 B ER0 EY2 T
    digest D AY1 JH EH0 S T | *D AY0 JH EH1 S T
    discount *D IH1 S K AW0 N T | D IH0 S K AW1 N T
    duplicate *D UW1 P L AH0 K AH0 T | D UW1 P L AH0 K EY2 T
    elaborate *IH0 L AE1 B R AH0 T | IH0 L AE1 B ER0 EY2 T
    estimate *EH1 S T AH0 M AH0 T | EH1 S T AH0 M EY2 T
    estimates *EH1 S T AH0 M AH0 T S | EH1 S T AH0 M EY2 T S
    export EH1 K S P AO0 R T | *IH0 K S P AO1 R T
    extract EH1 K S T R AE2 K T | *IH0 K S T R AE1 K T
    graduate *G R AE1 JH AH0 W AH0 T | G R AE1 JH AH0 W EY2 T
    import IH1 M P AO2 R T | *IH2 M P AO1 R T
    increase IH1 N K R IY2 S | *IH2 N K R IY1 S
    increases IH1 N K R IY2 S IH0 Z | *IH2 N K R IY1 S IH0 Z
    insert IH1 N S ER2 T | *IH2 N S ER1 T
    moderate *M AA1 D ER0 AH0 T | M AA1 D ER0 EY2 T
    object *AA1 B JH EH0 K T | AH0 B JH EH1 K T
    objects *AA1 B JH EH0 K T S | AH0 B JH EH1 K T S
    perfect *P ER1 F IH2 K T | P ER0 F EH1 K T
    permit P ER1 M IH2 T | *P ER0 M IH1 T
    present *P R EH1 Z AH0 N T | P R IY0 Z EH1 N T
    presents *P R EH1 Z AH0 N T S | P R IY0 Z EH1 N T S
    produce P R OW1 D UW0 S | *P R AH0 D UW1 S
    progress *P R AA1 G R EH2 S | P R AH0 G R EH1 S
    project *P R AA1 JH EH0 K T | P R AH0 JH EH1 K T
    projects *P R AA1 JH EH0 K T S | P R AH0 JH EH1 K T S
    protest *P R OW1 T EH2 S T | P R AH0 T EH1 S T
    rebel *R EH1 B AH0 L | R IH0 B EH1 L
    record *R EH1 K ER0 D | R AH0 K AO1 R D
    records *R EH1 K ER0 D Z | R AH0 K AO1 R D Z
    refuse R EH1 F Y UW2 Z | *R AH0 F Y UW1 Z
    reject R IY1 JH EH0 K T | *R IH0 JH EH1 K T
    separate *S EH1 P ER0 IH0 T | S EH1 P ER0 EY2 T
    subject *S AH1 B JH IH0 K T | S AH0 B JH EH1 K T
    suspect S AH1 S P EH2 K T | *S AH0 S P EH1 K T
    transfer T R AE1 N S F ER0 | *T R AE0 N S F ER1
    transport T R AE1 N S P AO0 R T | *T R AE0 N S P AO1 R T
    update AH1 P D EY2 T | *AH0 P D EY1 T
    upgrade AH1 P G R EY1 D | *AH0 P G R EY1 D
"""


def _pairs(text: str) -> Iterator[tuple[str, tuple[Reading, ...]]]:
    lines = {word: phones for word, _, phones in (line.strip().partition(" ") for line in text.strip().splitlines())}
    for word, phones in lines.items():
        noun, verb = (part.strip() for part in phones.split("|"))
        before_verb = _BEFORE_VERB_IN_S if word[-1] == "s" and word[:-1] in lines else _BEFORE_VERB
        readings = [Reading(verb.strip("*"), before_verb), Reading(noun.strip("*"), _BEFORE_NOUN)]
        yield word, (*readings, Reading((noun if noun.startswith("*") else verb).strip("*")))


_READINGS |= dict(_pairs(_NOUN_OR_VERB))


def with_readings(pieces: Sequence[str]) -> list[str]:
    """Spoken pieces (words and marks) in which each word of several readings has the one that its neighbours decide.

    A word whose reading is the first of the dictionary stays as it is; others bring their phones along.
    """
    words = [word for piece in pieces for word in piece.split()]
    plain = [word.partition("/")[0] for word in words]
    chosen = [_with_reading(plain, place) if word in _READINGS else word for place, word in enumerate(words)]
    if chosen == words:
        return list(pieces)
    rest = iter(chosen)
    return [" ".join(next(rest) for _ in piece.split()) for piece in pieces]


def _with_reading(words: Sequence[str], place: int) -> str:
    before = place - 1
    while before > 0 and (words[before] in _ADVERBS or words[before].endswith("ly")):
        before -= 1
    previous, earlier = (words[at] if at >= 0 else "" for at in (before, before - 1))
    following = words[place + 1] if place + 1 < len(words) else ""
    phones = tuple(_chosen(words[place], earlier, previous, following).split())
    return words[place] if phones == pronounce(words[place]) else with_phones(words[place], phones)


def _chosen(word: str, earlier: str, previous: str, following: str) -> str:
    *special, usual = _READINGS[word]
    if word == "read" and earlier in _AUXILIARIES:
        return usual.phones  # did she read
    return next(
        (reading.phones for reading in special if previous in reading.before or following in reading.after),
        usual.phones,
    )
