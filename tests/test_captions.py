"""What avatarlab.captions promises. A small reader of each format stands for the players."""

import html
import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avatarlab.captions import Cue, SpokenSentence, SpokenWord, cues_for, to_srt, to_webvtt

quick = settings(max_examples=60, deadline=None)
TIMING = re.compile(r"(\d{2,}):(\d\d):(\d\d)[.,](\d{3}) --> (\d{2,}):(\d\d):(\d\d)[.,](\d{3})")

LONG = (
    "In 2024, Dr. Smith measured 3.5 % more rainfall than in any other year, which, as you can see on this chart, "
    "changed the way that the whole department thought about the weather in the northern valleys."
)

ragged_text = st.lists(
    st.one_of(
        st.sampled_from(["<", ">", "&", "-", "-->", "\n", "\r", "\u2028", "\0", "\ud800", " ", "1", "&lt;"]),
        st.characters(),
    ),
    max_size=30,
).map("".join)
cue_lists = st.lists(
    st.builds(
        lambda start, length, text: Cue(start / 1000, (start + length) / 1000, text),
        st.integers(0, 400_000_000),
        st.integers(1, 10_000),
        ragged_text,
    ),
    max_size=6,
)
words_of_text = st.lists(st.text(alphabet="abcdefgh,.;", min_size=1, max_size=60), min_size=1, max_size=40)


def milliseconds(groups: tuple[str, ...]) -> int:
    hours, minutes, seconds, thousandths = (int(group) for group in groups)
    assert minutes < 60
    assert seconds < 60
    return ((hours * 60 + minutes) * 60 + seconds) * 1000 + thousandths


def read(blocks: list[str]) -> list[tuple[int, int, list[str]]]:
    cues = []
    for block in blocks:
        timing, *lines = block.strip("\n").split("\n")
        match = TIMING.fullmatch(timing)
        assert match
        cues.append((milliseconds(match.groups()[:4]), milliseconds(match.groups()[4:]), lines))
    return cues


def read_webvtt(content: str) -> list[tuple[int, int, list[str]]]:
    header, *blocks = content.split("\n\n")
    assert header.strip("\n") == "WEBVTT"
    for block in blocks:
        assert block.count("-->") == 1
        assert "<" not in block
    return [(start, end, [html.unescape(line) for line in lines]) for start, end, lines in read(blocks)]


def read_srt(content: str) -> list[tuple[int, int, list[str]]]:
    blocks = [block for block in content.split("\n\n") if block]
    for number, block in enumerate(blocks, 1):
        assert block.startswith(f"{number}\n")
        assert block.count("-->") == 1
    return read([block.partition("\n")[2] for block in blocks])


def visible(text: str) -> list[str]:
    """The lines a reader should get: no control characters, single spaces, no blank line."""
    lines = []
    for line in re.sub("[\ud800-\udfff]", "?", text).splitlines():
        words = "".join(" " if ord(letter) < 32 or ord(letter) == 127 else letter for letter in line).split()
        if words:
            lines.append(" ".join(words))
    return lines


def plain(sentence: str, start: float = 0.0, end: float = 10.0) -> SpokenSentence:
    return SpokenSentence(sentence, float(start), float(end))


class TestFormats:
    @quick
    @given(cues=cue_lists)
    def test_webvtt_gives_back_times_and_text_whatever_the_text_is(self, cues: list[Cue]) -> None:
        content = to_webvtt(cues)
        content.encode("utf-8")
        expected = [
            (round(cue.start_seconds * 1000), round(cue.end_seconds * 1000), visible(cue.text))
            for cue in sorted(cues, key=lambda cue: cue.start_seconds)
            if visible(cue.text)
        ]
        assert read_webvtt(content) == expected

    @quick
    @given(cues=cue_lists)
    def test_subrip_gives_back_times_and_text_whatever_the_text_is(self, cues: list[Cue]) -> None:
        content = to_srt(cues)
        content.encode("utf-8")
        expected = [
            (
                round(cue.start_seconds * 1000),
                round(cue.end_seconds * 1000),
                [line.replace("-->", "→") for line in visible(cue.text)],
            )
            for cue in sorted(cues, key=lambda cue: cue.start_seconds)
            if visible(cue.text)
        ]
        assert read_srt(content) == expected

    def test_webvtt_looks_like_this(self) -> None:
        assert to_webvtt([Cue(0.0, 1.5, "If a < b & b < c\nthen a < c."), Cue(3723.004, 3724.0, "Yes.")]) == (
            "WEBVTT\n\n"
            "00:00:00.000 --> 00:00:01.500\nIf a &lt; b &amp; b &lt; c\nthen a &lt; c.\n\n"
            "01:02:03.004 --> 01:02:04.000\nYes.\n"
        )

    def test_subrip_looks_like_this(self) -> None:
        assert to_srt([Cue(0.0, 1.5, "One."), Cue(1.5, 2.0, "A --> B")]) == (
            "1\n00:00:00,000 --> 00:00:01,500\nOne.\n\n2\n00:00:01,500 --> 00:00:02,000\nA → B\n"
        )

    def test_no_cue_makes_an_empty_but_readable_file(self) -> None:
        assert to_webvtt([]) == "WEBVTT\n"
        assert to_srt([]) == ""

    @pytest.mark.parametrize(
        ("start", "end"), [(1.0, 1.0), (2.0, 1.0), (-1.0, 1.0), (0.0, float("inf")), (float("nan"), 1.0)]
    )
    def test_a_cue_that_lasts_no_time_is_refused(self, start: float, end: float) -> None:
        with pytest.raises(ValueError, match="cannot last"):
            Cue(start, end, "text")


class TestCutting:
    @quick
    @given(words=words_of_text, start=st.floats(0, 1e5), length=st.floats(1, 100))
    def test_every_letter_appears_once_in_order_on_lines_that_fit_and_time_has_no_gap(
        self, words: list[str], start: float, length: float
    ) -> None:
        cues = cues_for([plain(" ".join(words), start, start + length)])
        assert "".join("".join(cue.text.split()) for cue in cues) == "".join(words)
        for cue in cues:
            assert len(cue.text.split("\n")) <= 2
            assert all(0 < len(line) <= 42 for line in cue.text.split("\n"))
        assert cues[0].start_seconds == start
        assert cues[-1].end_seconds == start + length
        for cue, following in itertools.pairwise(cues):
            assert cue.end_seconds == following.start_seconds

    def test_a_short_sentence_is_one_line_for_its_whole_time(self) -> None:
        assert cues_for([plain("Hello  there.\n", 1, 2)]) == (Cue(1.0, 2.0, "Hello there."),)

    def test_two_lines_are_of_like_length(self) -> None:
        (cue,) = cues_for([plain("This sentence is a little longer than one line can hold.")])
        first, second = cue.text.split("\n")
        assert abs(len(first) - len(second)) < 10

    def test_a_long_sentence_is_cut_after_punctuation_where_it_can_be(self) -> None:
        cues = cues_for([plain(LONG)])
        assert len(cues) == 3
        assert cues[0].text.endswith(",")

    def test_a_cut_falls_where_its_word_was_spoken_even_beside_words_spoken_otherwise(self) -> None:
        spoken = "in twenty twenty four doctor smith measured three point five percent more rainfall than in any other"
        spoken += " year which as you can see on this chart changed the way that the whole department thought about"
        spoken += " the weather in the northern valleys"
        times = [0.5 * index for index in range(len(spoken.split()) + 1)]
        words = tuple(SpokenWord(word, times[i], times[i + 1]) for i, word in enumerate(spoken.split()))
        cues = cues_for([SpokenSentence(LONG, 0.0, times[-1], words)])
        heard = {word.text: word.start_seconds for word in words}
        for cue in cues[1:]:
            first = cue.text.split()[0].strip(",.").lower()
            assert cue.start_seconds == heard[first]

    def test_without_word_times_letters_share_the_time_equally(self) -> None:
        cues = cues_for([plain("a" * 42 + " " + "b" * 42 + " " + "c" * 42 + " " + "d" * 42, 0, 8)])
        assert [(cue.start_seconds, cue.end_seconds) for cue in cues] == [(0, 4), (4, 8)]

    @pytest.mark.parametrize("collapsed", [0.0, 5.0, 10.0, 99.0])
    def test_word_times_that_make_no_sense_are_not_believed(self, collapsed: float) -> None:
        words = tuple(SpokenWord(word, collapsed, collapsed) for word in LONG.split())
        cues = cues_for([SpokenSentence(LONG, 0.0, 10.0, words)])
        assert min(cue.end_seconds - cue.start_seconds for cue in cues) > 1

    def test_sentences_keep_their_order_and_an_empty_one_makes_no_cue(self) -> None:
        cues = cues_for([plain("One.", 0, 1), plain(" \n ", 1, 2), plain("Two.", 2, 3)])
        assert [cue.text for cue in cues] == ["One.", "Two."]
