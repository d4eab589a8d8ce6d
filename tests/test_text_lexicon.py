"""Pronunciation lexicons: which words they reach, what is refused, and which keys they change."""

from collections.abc import Mapping
from pathlib import Path

import cartoon
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from avatarlab.avatars import load_avatar
from avatarlab.captions import SpokenSentence, SpokenWord, cues_for
from avatarlab.errors import LexiconError
from avatarlab.manifest import read_manifest, write_manifest
from avatarlab.plan import Planned, Planner
from avatarlab.stages import Recipe, Said, tokens_item
from avatarlab.text import (
    MAX_UNITS,
    NO_LEXICON,
    Lexicon,
    Sentence,
    WordSpan,
    pronounce,
    read_lexicon,
    split_script,
    unit_names,
    units,
    word_spans,
)
from avatarlab.text.pronunciations import Entry
from flows.cli import app


@pytest.fixture
def lexicon_file(tmp_path: Path) -> Path:
    return tmp_path / "lexicon.csv"


def read(file: Path, text: str) -> Lexicon:
    file.write_text(text, encoding="utf-8")
    return read_lexicon(file)


def spoken(script: str, lexicon: Lexicon, language: str = "en") -> str:
    parts = split_script(script, language, lexicon=lexicon).parts
    return " ".join(part.spoken for part in parts if isinstance(part, Sentence))


NEWEN = Entry("newen", ("N", "UW1", "AH0", "N"))
SAID = "/N-UW1-AH0-N/"


@pytest.mark.parametrize(
    ("word", "script", "expected"),
    [
        # an entry in lower case stands for any case, one with capitals for itself
        ("nguyen", "Nguyen and NGUYEN and nguyen", f"nguyen{SAID} and nguyen{SAID} and nguyen{SAID}."),
        ("Nguyen", "Nguyen and NGUYEN and nguyen", f"nguyen{SAID} and nguyen and nguyen."),
        ("US", "the US told us", f"the us{SAID} told us."),
        # whole words, with their possessive
        ("nguyen", "Nguyens, unnguyen, nguyen2", "nguyens, unnguyen, nguyen two."),
        ("nguyen", "Nguyen's (Nguyen) Nguyen-like.", f"nguyens/N-UW1-AH0-N-Z/, nguyen{SAID}, nguyen{SAID} like."),
        ("nguyen", "“Nguyen!” she said", f"nguyen{SAID}! she said."),
        # words of other characters
        ("C++", "C++ and c++ and C", f"c{SAID} and c plus plus and c."),
        ("k8s", "K8s runs", f"k8s{SAID} runs."),
        ("GPT-4o", "GPT-4o wins", f"gpt4o{SAID} wins."),
        ("straße", "Die Straße", f"die straße{SAID}."),
        ("北京", "Go to 北京 now", f"go to 北京{SAID} now."),
        ("New York", "New York is big", f"newyork{SAID} is big."),
        ("l'hôpital", "L’Hôpital’s rule", "lhôpitals/N-UW1-AH0-N-Z/ rule."),
        # before every rule, but not inside what is read as a whole
        ("dr", "Dr. No", f"dr{SAID}. no."),
        ("example", "https://example.com/x", "example dot com slash x."),
    ],
)  # fmt: skip
def test_a_lexicon_reaches_whole_words_in_the_written_text(word: str, script: str, expected: str) -> None:
    assert spoken(script, Lexicon((Entry(word, NEWEN.phones),))) == expected


def test_the_longest_entry_and_the_exact_case_win() -> None:
    lexicon = Lexicon((Entry("c", ("S", "IY1")), Entry("c++", ("B", "IY1")), Entry("C", ("D", "IY1"))))
    assert spoken("c, C, c++ and C++", lexicon) == "c/S-IY1/, c/D-IY1/, c/B-IY1/ and c/B-IY1/."


def test_rows_of_a_language_count_for_scripts_in_it() -> None:
    lexicon = Lexicon(
        (Entry("data", ("D", "AE1")), Entry("data", ("D", "AA1"), "en-GB"), Entry("kind", ("K", "IY1"), "de"))
    )
    assert spoken("data kind", lexicon, "en") == "data/D-AE1/ kind."
    assert spoken("data kind", lexicon, "en-GB") == "data/D-AA1/ kind."


def test_spoken_forms_are_ordinary_words_or_phones(lexicon_file: Path) -> None:
    lexicon = read(
        lexicon_file,
        'word,spoken,language\nKubernetes,koo burr netties,\nNginx, engine X ,en\n"Ng, Lee",/EH1 N JH IY1/,\nk8s,Kate\'s,\n',
    )
    phones = {entry.word: entry.phones for entry in lexicon.entries}
    assert phones["Kubernetes"] == pronounce("koo") + pronounce("burr") + pronounce("netties")
    assert phones["Nginx"] == pronounce("engine") + pronounce("x")
    assert phones["Ng, Lee"] == ("EH1", "N", "JH", "IY1")
    assert phones["k8s"] == pronounce("kate's")


def test_every_row_that_cannot_be_spoken_is_refused_with_its_line(lexicon_file: Path) -> None:
    text = (
        "word,spoken,language\n"
        "good,gud,\n"
        "one,😀,\n"
        "two,,\n"
        "\n"
        "three,/N EW1/,\n"
        "four,/N UW/,\n"
        "five,/N T/,\n"
        ",six,\n"
        "seven,sev en,english language\n"
        "good,good,\n"
        "eight\n"
        '"ni\nne",'
        f"{'na ' * 30},\n"
        "ten,漢字,\n"
    )
    with pytest.raises(LexiconError) as caught:
        read(lexicon_file, text)
    told = [problem.message for problem in caught.value.problems]
    lines = [message.split(": ")[0].removeprefix("lexicon.csv, line ") for message in told]
    assert lines == ["3", "4", "6", "7", "8", "9", "10", "11", "12", "13", "15"]
    assert "needs its stress: UW0, UW1 or UW2" in told[3]
    assert "line 2 already" in told[7]
    assert "60 phones" in told[9]
    assert all(problem.remedy for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"word;spoken\n", "the header is"),
        (b"kubernetes,koo burr netties\n", "the header is"),
        (b"word,spoken,voice\na,b,c\n", "the header is"),
        (b"word,spoken,spoken\na,b,c\n", "the header is"),
        (b"word,spoken\n\xff,b\n", "not UTF-8"),
        (b'word,spoken\n"a,b\n', "not CSV"),
        (b"word,spoken\n" + b"a,b\n" * 10_001, "10,001 rows"),
    ],
)
def test_a_file_that_is_no_lexicon_is_refused(lexicon_file: Path, content: bytes, words: str) -> None:
    lexicon_file.write_bytes(content)
    with pytest.raises(LexiconError, match=words):
        read_lexicon(lexicon_file)
    with pytest.raises(LexiconError, match="cannot be read"):
        read_lexicon(lexicon_file.parent / "nothing.csv")


MADE_WITH = Recipe(
    small_e="s1", codec="c1", audio_features="a1", motion="m1", renderer="r1", lip_space="l1", numerics="cpu-float32"
)
SCRIPT = "Kubernetes is a system. It runs pods. KUBERNETES's pods are small. It ends."


@pytest.fixture(scope="module")
def avatars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("avatars")
    cartoon.write_bundle(folder, "ada", size=128)
    return folder


def planned(avatars: Path, lexicon: Lexicon, script: str = SCRIPT) -> Planned:
    path = avatars / "manifest.parquet"
    write_manifest(path, [{"id": "one", "script": script, "avatar": "ada"}])
    return Planner([avatars], avatars, lexicon=lexicon).plan(read_manifest(path))


def keys(avatars: Path, found: Planned) -> Mapping[str, str]:
    ada = load_avatar([avatars], "ada")
    parts = [part for part in found.rows[0].parts if isinstance(part, Said)]
    return {part.text: tokens_item(part.line, ada, MADE_WITH).key for part in parts}


def test_a_lexicon_changes_the_keys_of_the_sentences_with_the_word_and_of_no_others(avatars: Path) -> None:
    without = keys(avatars, planned(avatars, NO_LEXICON))
    lexicon = Lexicon((Entry("kubernetes", NEWEN.phones), Entry("pod", ("P", "AO1", "D"))))
    with_it = keys(avatars, planned(avatars, lexicon))
    changed = {text for text in without if without[text] != with_it[text]}
    assert changed == {"Kubernetes is a system.", "KUBERNETES's pods are small."}
    further = Lexicon((*lexicon.entries, Entry("system", ("S", "IH1"))))
    again = keys(avatars, planned(avatars, further))
    assert {text for text in again if again[text] != with_it[text]} == {"Kubernetes is a system."}


def test_what_a_worker_gets_needs_no_lexicon_and_captions_show_the_written_word(avatars: Path) -> None:
    found = planned(avatars, Lexicon((Entry("kubernetes", NEWEN.phones),)), "We use Kubernetes a lot.")
    (part,) = (part for part in found.rows[0].parts if isinstance(part, Said))
    item = tokens_item(part.line, load_avatar([avatars], "ada"), MADE_WITH)
    assert item.units == units(item.spoken)
    spans = word_spans(item.spoken)
    assert [span.word for span in spans] == ["we", "use", "kubernetes", "a", "lot"]
    assert unit_names(item.units)[spans[2].start : spans[2].end] == NEWEN.phones
    words = tuple(SpokenWord(span.word, span.start / 10, span.end / 10) for span in spans)
    (cue,) = cues_for([SpokenSentence(part.text, 0.0, 2.0, words)])
    assert cue.text == "We use Kubernetes a lot."


def test_a_word_with_its_phones_is_one_span_of_exactly_these() -> None:
    assert word_spans("see k8s/K-EY1-T-S/, now.") == [
        WordSpan("see", 0, 2),
        WordSpan("k8s", 2, 6),
        WordSpan("now", 7, 9),
    ]


ENTRIES = st.tuples(
    st.sampled_from(["the", "C++", "fox", "Fox", "fox's", "3.5", "1999", "a b", "é", "E", "x²", "Dr.", "'n'", "漢"]),
    st.lists(st.sampled_from(["N", "AH0", "UW1", "S"]), min_size=1, max_size=40).map(lambda phones: ("AA1", *phones)[:40]),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    st.lists(ENTRIES, max_size=4),
    st.lists(
        st.sampled_from(
            ["the", "The fox's", "C++", "c++", "fox,", "3.5 km", "in 1999", "Dr. E", "é.", "see 漢", "a b"]
        ),
        min_size=1,
        max_size=60,
    ).map(" ".join),
)
def test_no_lexicon_makes_a_sentence_too_long_or_loses_text(
    entries: list[tuple[str, tuple[str, ...]]], script: str
) -> None:
    lexicon = Lexicon(tuple(Entry(word, phones) for word, phones in entries))
    parts = split_script(f"Go. {script}", lexicon=lexicon).parts
    sentences = [part for part in parts if isinstance(part, Sentence)]
    assert all(0 < len(units(part.spoken)) <= MAX_UNITS for part in sentences)
    assert "".join("".join(part.text.split()) for part in sentences) == "".join(f"Go.{script}".split())


def test_the_command_reads_a_lexicon_and_lists_what_is_wrong_with_it(avatars: Path, lexicon_file: Path) -> None:
    manifest = avatars / "manifest.parquet"
    write_manifest(manifest, [{"id": "one", "script": SCRIPT, "avatar": "ada"}])
    lexicon_file.write_text("word,spoken\nKubernetes,koo burr netties\n", encoding="utf-8")
    said = CliRunner().invoke(app, ["check", str(manifest), "--avatars", str(avatars), "--lexicon", str(lexicon_file)])
    assert said.exit_code == 0, said.output
    lexicon_file.write_text("word,spoken\nKubernetes,/K UW/\nx,\n", encoding="utf-8")
    refused = CliRunner().invoke(
        app, ["check", str(manifest), "--avatars", str(avatars), "--lexicon", str(lexicon_file)]
    )
    assert isinstance(refused.exception, LexiconError)
    assert [problem.message.split(":")[0] for problem in refused.exception.problems] == [
        "lexicon.csv, line 2",
        "lexicon.csv, line 3",
    ]
