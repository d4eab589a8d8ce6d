"""Keys are the same everywhere and differ where what made the artifact differs."""

import json
import os
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avatarlab.keys import canonical_json, content_key, quantised, seed_from, video_version

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcé", max_size=3), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(VALUES)
def test_canonical_json_is_json_and_reads_back_in_nfc(value: object) -> None:
    text = canonical_json(value).decode("utf-8")
    assert canonical_json(json.loads(text)) == text.encode("utf-8")
    assert unicodedata.is_normalized("NFC", text)


@settings(deadline=None)
@given(st.dictionaries(st.text("abcd", max_size=3), st.integers(), min_size=2, max_size=5))
def test_the_order_of_names_does_not_matter(value: dict[str, int]) -> None:
    backwards = dict(reversed(value.items()))
    assert canonical_json(backwards) == canonical_json(value)


def test_two_spellings_of_one_text_are_one_key() -> None:
    assert canonical_json("caf\u00e9") == canonical_json("cafe\u0301")


@pytest.mark.parametrize("value", [0.5, float("nan"), {"a": [1.0]}, b"x", object(), {1: 2}, {"a"}])
def test_what_has_no_single_spelling_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        canonical_json(value)


def test_names_that_differ_only_in_unicode_form_are_refused() -> None:
    with pytest.raises(ValueError, match="Unicode form"):
        canonical_json({"\u00e9": 1, "e\u0301": 2})


def test_text_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(UnicodeEncodeError):
        canonical_json("\ud800")


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (0.1 + 0.2, 6, "0.300000"),
        (-0.0, 2, "0.00"),
        (-1.5, 1, "-1.5"),
        (1e20, 1, "100000000000000000000.0"),
        (3.0, 0, "3"),
    ],
)
def test_a_float_enters_a_key_with_a_fixed_number_of_decimals(value: float, decimals: int, text: str) -> None:
    assert quantised(value, decimals) == text


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_what_is_no_number_cannot_enter_a_key(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        quantised(value)


def test_a_key_changes_with_stage_version_and_every_input() -> None:
    keys = {
        content_key("tokens", 1, text=[1, 2]),
        content_key("audio", 1, text=[1, 2]),
        content_key("tokens", 2, text=[1, 2]),
        content_key("tokens", 1, text=[2, 1]),
        content_key("tokens", 1, text=["1", "2"]),
        content_key("tokens", 1, text=[[1], 2]),
        content_key("tokens", 1, text=[1, 2], seed=None),
    }
    assert len(keys) == 7


def test_keys_never_move_without_a_version() -> None:
    assert content_key("tokens", 1, text=[3, 4, 5], weights="00ff", temperature=quantised(0.8)) == (
        "7dddef49032f0ca84f1ea3c5f93b4f0502fda5b9593e45e373e85a0bde273981"
    )
    assert video_version("0123456789abcdef" * 4) == "0123456789abcdef"


def test_a_key_is_the_same_in_every_process_and_locale() -> None:
    program = "from avatarlab.keys import *; print(content_key('audio', 1, b='ü', a={'x': 1}), seed_from('row', 'ü'))"
    answers = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "LC_ALL": locale, "TZ": zone},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed, locale, zone in [("1", "C", "UTC"), ("2", "C.UTF-8", "Asia/Tokyo")]
    }
    assert answers == {f"{content_key('audio', 1, b='ü', a={'x': 1})} {seed_from('row', 'ü')}\n"}


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=3))
def test_a_seed_fits_a_signed_64_bit_column(parts: list[str]) -> None:
    assert 0 <= seed_from(*parts) < 2**63
