"""Words of several readings: the neighbouring words decide."""

import re

import pytest

from avatarlab.text import normalise, unit_names, units, word_spans
from avatarlab.text.homographs import _READINGS
from avatarlab.text.phones import UNITS

READINGS = [
    # (text, word, phones)
    ("We read the paper.", "read", "R IY1 D"),
    ("I have read it.", "read", "R EH1 D"),
    ("It was widely read.", "read", "R EH1 D"),
    ("She read it yesterday.", "read", "R EH1 D"),
    ("Did she read it?", "read", "R IY1 D"),
    ("They lead the field.", "lead", "L IY1 D"),
    ("Old lead pipes.", "lead", "L EH1 D"),
    ("We live in Rome.", "live", "L IH1 V"),
    ("A live demo.", "live", "L AY1 V"),
    ("It changed our lives.", "lives", "L AY1 V Z"),
    ("She lives here.", "lives", "L IH1 V Z"),
    ("The wind is strong.", "wind", "W IH1 N D"),
    ("You wind the clock.", "wind", "W AY1 N D"),
    ("She was in tears.", "tears", "T IH1 R Z"),
    ("Do not tear it.", "tear", "T EH1 R"),
    ("Tear gas was used.", "tear", "T IH1 R"),
    ("Close the door.", "close", "K L OW1 Z"),
    ("It is close to zero.", "close", "K L OW1 S"),
    ("A close look.", "close", "K L OW1 S"),
    ("The use of force.", "use", "Y UW1 S"),
    ("We use a model.", "use", "Y UW1 Z"),
    ("Many uses exist.", "uses", "Y UW1 S AH0 Z"),
    ("The method uses data.", "uses", "Y UW1 Z AH0 Z"),
    ("The x and y axes.", "axes", "AE1 K S IY2 Z"),
    ("To record a song.", "record", "R AH0 K AO1 R D"),
    ("A new record.", "record", "R EH1 K ER0 D"),
    ("At present, no.", "present", "P R EH1 Z AH0 N T"),
    ("I will now present it.", "present", "P R IY0 Z EH1 N T"),
    ("It presents a problem.", "presents", "P R IY0 Z EH1 N T S"),
    ("We object to it.", "object", "AH0 B JH EH1 K T"),
    ("The object moves.", "object", "AA1 B JH EH0 K T"),
    ("We estimate it.", "estimate", "EH1 S T AH0 M EY2 T"),
    ("An estimate of it.", "estimate", "EH1 S T AH0 M AH0 T"),
    ("Convert it.", "convert", "K AH0 N V ER1 T"),
    ("A separate file.", "separate", "S EH1 P ER0 IH0 T"),
    ("They separate it.", "separate", "S EH1 P ER0 EY2 T"),
]


@pytest.mark.parametrize(("text", "word", "phones"), READINGS)
def test_the_words_around_decide_the_reading(text: str, word: str, phones: str) -> None:
    spoken = normalise(text).spoken
    (span,) = (span for span in word_spans(spoken) if span.word == word)
    assert " ".join(unit_names(units(spoken))[span.start : span.end]) == phones


def test_the_end_of_a_sentence_is_no_neighbour() -> None:
    assert "record/R-EH1-K-ER0-D/" in normalise("That is what we listen to. Record sales.").spoken


def test_every_reading_is_of_known_phones_and_has_a_vowel() -> None:
    for word, readings in _READINGS.items():
        for reading in readings:
            assert set(reading.phones.split()) <= set(UNITS), word
            assert re.search("[0-2]", reading.phones), word
