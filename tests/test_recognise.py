"""The measure of words: what a recogniser hears, and how it is counted."""

import doctest
import shutil

import numpy as np
import pytest

from avatarlab.training import recognise
from avatarlab.training.corpus import synthesise
from avatarlab.training.recognise import transcribe, word_error_rate


@pytest.mark.parametrize(
    ("reference", "hypothesis", "rate"),
    [
        ("One two three four.", "one two three four", 0.0),
        ("one two three four", "one too three four", 0.25),
        ("one two three four", "one three four", 0.25),
        ("one two", "one one two", 0.5),
        ("one two", "", 1.0),
        (["one two", "three four five six"], ["one two", "three four five"], 1 / 6),
    ],
)
def test_the_error_rate_counts_words_wrong_missing_and_too_many(
    reference: str | list[str], hypothesis: str | list[str], rate: float
) -> None:
    assert word_error_rate(reference, hypothesis) == pytest.approx(rate)


@pytest.mark.parametrize(("reference", "hypothesis"), [("", "one"), (["one", "..."], ["one", "two"]), (["one"], [])])
def test_an_error_rate_needs_words_and_pairs(reference: str | list[str], hypothesis: str | list[str]) -> None:
    with pytest.raises(ValueError, match="every reference"):
        word_error_rate(reference, hypothesis)


def test_the_doctest_of_recognise_holds() -> None:
    assert doctest.testmod(recognise) == doctest.TestResults(failed=0, attempted=1)


def test_an_empty_recording_says_nothing() -> None:
    assert transcribe(np.zeros(0, np.float32)) == ""


@pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")
def test_plain_speech_is_understood_whatever_was_heard_before() -> None:
    recordings = [
        synthesise(text, "slt")[0].astype(np.float32) / 32768
        for text in ("we begin with a simple question", "people have looked at the stars")
    ]
    first = transcribe(recordings[0])
    assert word_error_rate("we begin with a simple question", first) < 0.5
    transcribe(recordings[1] * 0.2)
    assert transcribe(recordings[0]) == first
