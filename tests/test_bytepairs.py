"""The text front-end of the published models: their layout and their cutting, and text of any kind without an error."""

import json
import random
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avatarlab.errors import ScriptError, SettingsError, WeightsError
from avatarlab.models import read_model_set, write_model_set
from avatarlab.text import normalise, units, word_spans
from avatarlab.text.bytepairs import CHARACTERS, FIRST_MERGED, SIZE, SPECIALS, BytePairs
from avatarlab.text.front_end import front_end

# Merges that the check vectors of the specification tell (section 1.1), at their ids; the file itself is not ours to ship.
KNOWN = {
    55: ("t", "h"), 56: ("th", "e"), 57: ("i", "n"), 71: ("in", "g"), 72: ("o", "r"), 73: ("i", "t"), 74: ("h", "e"),
    76: ("e", "s"), 77: ("l", "l"), 120: ("a", "c"), 215: ("w", "o"),
}  # fmt: skip


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> BytePairs:
    """A file of the published layout with the merges that are known; the others are pairs no English word has."""
    fillers = iter(
        [(a, b) for a in "qxzjv" for b in "bcdfghjkmpqrstvxyz"] + [(a, b) for b in "qxzj" for a in "bcdfghkmprstw"]
    )
    merges = [KNOWN[id] if id in KNOWN else next(fillers) for id in range(FIRST_MERGED, 200)]
    rest = iter([(a, b) for a in "æèéêñôœ" for b in "æèéêñôœ"] + [(a, b) for a in "æèéêñôœ" for b in "bcd"])
    merges += [KNOWN[id] if id in KNOWN else next(rest) for id in range(200, SIZE)]
    pieces = [*SPECIALS, *CHARACTERS, *("".join(merge) for merge in merges)]
    path = tmp_path_factory.mktemp("text") / "bpe.json"
    model = {
        "type": "BPE",
        "vocab": {piece: id for id, piece in enumerate(pieces)},
        "merges": [" ".join(m) for m in merges],
    }
    path.write_text(json.dumps({"version": "1.0", "model": model}), encoding="utf-8")
    return BytePairs.read(path)


@pytest.fixture(scope="module")
def trained() -> BytePairs:
    drawn = random.Random(0)
    return BytePairs.train("".join(drawn.choices("etaoinshrdlu", k=drawn.randint(1, 7))) for _ in range(600))


class TestTheSpecification:
    def test_ids_follow_the_published_layout(self, trained: BytePairs) -> None:
        assert len(CHARACTERS) == 52 and FIRST_MERGED == 55 and trained.size == 256
        names = trained.unit_names(range(256))
        assert names[:3] == ("[PAD]", "[BOS]", "[EOS]")
        assert "".join(names[3:55]) == CHARACTERS
        assert (names[3], names[18], names[43], names[54]) == (" ", "a", "z", "—")
        assert all(len(name) > 1 for name in names[55:])

    @pytest.mark.parametrize(
        ("text", "ids"),
        [
            ("Hello, it's the King's horses.", (74, 77, 32, 9, 3, 73, 6, 36, 3, 56, 3, 28, 71, 6, 36, 3, 25, 72, 36, 76, 11)),
            ("the king", (56, 3, 28, 71)),
            (" two  spaces ", (3, 37, 215, 3, 3, 36, 33, 120, 76, 3)),
        ],
    )  # fmt: skip
    def test_text_is_cut_as_the_check_vectors_say(self, known: BytePairs, text: str, ids: tuple[int, ...]) -> None:
        assert known.units(text) == ids

    def test_no_text_can_write_a_special_unit(self, known: BytePairs) -> None:
        assert min(known.units("[BOS][EOS][PAD]")) > 2
        assert known.unit_names(known.units("[BOS]")) == ("[", "b", "o", "s", "]")

    def test_one_space_stands_between_prompt_and_sentence(self, known: BytePairs) -> None:
        assert known.prompt_units("the king.") == (*known.units("the king."), 3)
        assert known.prompt_units("the king. ") == known.prompt_units("the king.")


class TestAnyText:
    @given(st.text())
    def test_any_text_has_units_and_none_raises(self, trained: BytePairs, text: str) -> None:
        ids = trained.units(text)
        assert all(3 <= id < 256 for id in ids)
        assert set("".join(trained.unit_names(ids))) <= set(CHARACTERS)

    @pytest.mark.parametrize(
        ("text", "read"),
        [("Åse’s naïve café", "ases naive café"), ("a\nb\t c", "a b  c"), ("12 中文 ok", "  ok"), ("read/R-EH1-D/ it", "read it")],
    )  # fmt: skip
    def test_what_has_no_character_is_folded_or_left_out(self, trained: BytePairs, text: str, read: str) -> None:
        assert "".join(trained.unit_names(trained.units(text))) == read

    @settings(deadline=None)  # the dictionary is read at the first word
    @given(st.text(max_size=80))
    def test_words_lie_where_their_letters_are(self, trained: BytePairs, text: str) -> None:
        spoken = normalise(text).spoken
        names = trained.unit_names(trained.units(spoken))
        spans = trained.word_spans(spoken)
        assert ["".join(names[span.start : span.end]) for span in spans] == [span.word for span in spans]
        assert [span.word for span in spans] == [span.word.partition("/")[0] for span in word_spans(spoken)]
        assert all(a.end <= b.start for a, b in pairwise(spans))

    def test_an_id_outside_the_alphabet_is_refused(self, trained: BytePairs) -> None:
        for unit in (-1, 256):
            with pytest.raises(ScriptError, match="outside the alphabet"):
                trained.unit_names([unit])


class TestFiles:
    def test_what_is_written_is_read(self, trained: BytePairs, tmp_path: Path) -> None:
        trained.write(tmp_path / "text.json")
        again = BytePairs.read(tmp_path / "text.json")
        assert again.units("to listen is the rule.") == trained.units("to listen is the rule.")
        assert not again.is_published

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"", "not JSON"),
            (b"\xff\xfe", "not JSON"),
            (b"[" * 100_000, "no pieces and merges|not JSON"),
            (b"[]", "no pieces and merges"),
            (b"{}", "no pieces and merges"),
            (b'{"model": {"vocab": {}, "merges": []}}', "not in the order"),
            (b'{"model": {"vocab": {}, "merges": ["a b"]}}', "56 different pieces"),
            (b'{"model": {"vocab": {}, "merges": [1]}}', "no pieces and merges"),
            (b" " * (2 << 20), "too large"),
        ],
    )
    def test_another_file_is_refused_with_the_reason(self, tmp_path: Path, content: bytes, words: str) -> None:
        (tmp_path / "x.json").write_bytes(content)
        with pytest.raises(WeightsError, match=words) as caught:
            BytePairs.read(tmp_path / "x.json")
        assert caught.value.remedy

    def test_pieces_in_another_order_are_refused(self, trained: BytePairs, tmp_path: Path) -> None:
        trained.write(tmp_path / "x.json")
        content = json.loads((tmp_path / "x.json").read_text())
        vocab = content["model"]["vocab"]
        vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
        (tmp_path / "x.json").write_text(json.dumps(content))
        with pytest.raises(WeightsError, match="not in the order"):
            BytePairs.read(tmp_path / "x.json")


class TestTheModelSetChooses:
    def test_phones_are_the_default(self) -> None:
        chosen = front_end(read_model_set())
        assert chosen.units("hello") == units("hello") == chosen.prompt_units("hello")
        assert chosen.word_spans("hello you") == word_spans("hello you")

    def test_byte_pairs_come_with_their_file(self, trained: BytePairs, tmp_path: Path) -> None:
        trained.write(tmp_path / "text.json")
        models = write_model_set(tmp_path, "tiny", {"text": {"units": "bytepairs"}})
        assert front_end(models).units("it is so") == trained.units("it is so")

    def test_a_missing_or_changed_file_is_said(self, trained: BytePairs, tmp_path: Path) -> None:
        without = write_model_set(tmp_path, "tiny", {"text": {"units": "bytepairs"}})
        with pytest.raises(WeightsError, match="lacks the tokenizer") as caught:
            front_end(without)
        assert "--tokenizer" in caught.value.remedy
        trained.write(tmp_path / "text.json")
        models = write_model_set(tmp_path, "tiny", {"text": {"units": "bytepairs"}})
        (tmp_path / "text.json").write_text("{}")
        with pytest.raises(WeightsError, match="damaged"):
            front_end(models)

    def test_any_other_choice_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="'syllables'"):
            front_end(write_model_set(tmp_path, "tiny", {"text": {"units": "syllables"}}))
