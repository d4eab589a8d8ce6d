"""What a model set can speak: languages and writing systems."""

from pathlib import Path

import pytest

from avatarlab.errors import ScriptError
from avatarlab.manifest import read_manifest, write_manifest
from avatarlab.models import read_model_set, write_model_set
from avatarlab.plan import Planner
from avatarlab.text import Sentence, languages_of, split_script


@pytest.mark.parametrize("language", ["de", "fr-FR", "", "enx"])
def test_a_language_the_set_does_not_speak_is_refused_with_the_list(language: str) -> None:
    with pytest.raises(ScriptError, match="language") as caught:
        split_script("Hallo.", language, languages=("en", "es"))
    assert "en, es" in caught.value.remedy


@pytest.mark.parametrize("language", ["en", "EN-gb", "en_US"])
def test_english_of_any_region_is_spoken(language: str) -> None:
    assert split_script("Hello.", language).parts == (Sentence("Hello.", "hello.", 0),)


@pytest.mark.parametrize(
    ("script", "writing"),
    [
        ("你好,世界", "Chinese"),
        ("Hello 欢迎来到我们的课程", "Chinese"),
        ("مرحبا بالعالم", "Arabic"),
        ("Привет, мир", "Cyrillic"),
        ("Καλημέρα κόσμε", "Greek"),
        ("こんにちは", "Japanese"),
        ("안녕하세요", "Korean"),
        ("שלום עולם", "Hebrew"),
        ("नमस्ते दुनिया", "Devanagari"),
        ("สวัสดี", "Thai"),
    ],
)
def test_a_script_mostly_in_other_letters_is_refused_with_the_languages(script: str, writing: str) -> None:
    with pytest.raises(ScriptError, match=f"mostly in {writing} writing") as caught:
        split_script(script, languages=("en",))
    assert "speaks en:" in caught.value.remedy


@pytest.mark.parametrize(
    "script",
    [
        "α + β = γ",
        "The angle θ is small.",
        "Say 你好 when you meet a friend.",
        "naïve Straße Łódź",
        "Ｆｕｌｌ ｗｉｄｔｈ",
        "1 + 1 = 2",
        "The letter Ж is Cyrillic.",
    ],
)
def test_latin_text_with_symbols_and_a_few_foreign_words_is_spoken(script: str) -> None:
    assert split_script(script).parts


def test_the_languages_come_from_the_model_set(tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    (tmp_path / "none").mkdir()
    assert write_model_set(tmp_path / "two", "two", {"text": {"languages": ["en", "de"]}}).languages == ("en", "de")
    assert write_model_set(tmp_path / "none", "none", {}).languages == ("en",)
    assert languages_of({"languages": []}) == ("en",)
    assert "en" in read_model_set().languages


def test_language_and_writing_are_problems_of_their_own_columns(tmp_path: Path) -> None:
    path = tmp_path / "manifest.parquet"
    write_manifest(
        path,
        [
            {"id": "german", "script": "Guten Tag.", "avatar": "nobody", "language": "de"},
            {"id": "chinese", "script": "你好。", "avatar": "nobody", "language": "en"},
            {"id": "tagged", "script": "Hi.\n<b>there</b>", "avatar": "nobody"},
            {"id": "good", "script": "Hello.", "avatar": "nobody"},
        ],
    )
    found = Planner([], tmp_path, languages=("en", "es")).plan(read_manifest(path)).problems
    problems = [problem for problem in found if problem.column != "avatar"]
    assert [(problem.row, problem.id, problem.column) for problem in problems] == [
        (1, "german", "language"),
        (2, "chinese", "script"),
        (3, "tagged", "script"),
    ]
    assert all("en, es" in problem.remedy for problem in problems[:2])
    assert "line 2, column 1" in problems[2].message
