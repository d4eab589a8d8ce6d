"""What `make bench` prints: every promise with what was measured, or why it was not."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from avatarlab.errors import NotFound
from avatarlab.manifest import read_manifest, write_manifest
from avatarlab.media import VideoWriter
from avatarlab.results import ResultRow, write_results
from avatarlab.text import is_known, normalise
from benchmarks.bench import MEASURES, Row, main, table
from benchmarks.runs import compute_by_stage, video_lengths
from benchmarks.speech import LECTURE, READING, lines_of, longest_loss


def write_run(store: Path, name: str, rows: list[ResultRow]) -> None:
    manifest = store / "manifest.parquet"
    write_manifest(manifest, [{"id": row.id, "script": "Hello.", "avatar": "ada"} for row in rows])
    folder = store / "runs" / name
    folder.mkdir(parents=True)
    write_results(folder / "results.parquet", rows, read_manifest(manifest))


def made(id: str, duration: float, **seconds: float) -> ResultRow:
    return ResultRow(id, "done", duration_seconds=duration, seconds=seconds, cached={"tokens": 0}, attempts=1)


def test_the_lecture_sentences_are_forty_plain_ones_of_known_words() -> None:
    sentences = lines_of(LECTURE)
    assert len(set(sentences)) == 40
    for sentence in sentences:
        words = re.findall(r"[a-z']+", normalise(sentence).spoken)
        assert 6 <= len(words) <= 14
        assert all(is_known(word) for word in words)


def test_the_reading_sentences_are_a_hundred_of_5_to_40_words() -> None:
    lengths = [len(sentence.split()) for sentence in lines_of(READING)]
    assert len(set(lines_of(READING))) == 100
    assert (min(lengths), max(lengths)) == (5, 40)


def test_a_passage_is_lost_where_words_in_a_row_are_missing_or_too_many() -> None:
    said = "the ship left the harbor at dawn".split()
    assert longest_loss(said, said) == 0
    assert longest_loss(said, "the ship at dawn".split()) == 3
    assert longest_loss(said, "the ship left the ship left the harbor at dawn".split()) == 3
    assert longest_loss(said, "a chip leapt a harbour or gone".split()) == 0
    assert longest_loss(said, []) >= 6


def test_compute_is_counted_where_nothing_was_found_in_the_store(tmp_path: Path) -> None:
    write_run(tmp_path, "first", [made("one", 10.0, tokens=20.0, face=5.0), made("two", 5.0, tokens=10.0)])
    write_run(
        tmp_path,
        "second",
        [
            ResultRow("one", "cached", duration_seconds=10.0, cached={"tokens": 2}),
            ResultRow("two", "done", duration_seconds=5.0, seconds={"video": 1.0}, cached={"tokens": 1}),
        ],
    )
    found = compute_by_stage(tmp_path)
    assert (found.rows, found.video_seconds) == (2, 15.0)
    assert found.seconds == {"tokens": 30.0, "audio": 0.0, "motion": 0.0, "face": 5.0, "video": 0.0}
    assert found.per_second == pytest.approx(35 / 15)


def test_without_a_run_from_nothing_compute_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="from nothing"):
        compute_by_stage(tmp_path)


def test_lengths_of_every_video_are_measured(tmp_path: Path) -> None:
    path = tmp_path / "videos" / "one" / "0123456789abcdef" / "video.mp4"
    path.parent.mkdir(parents=True)
    with VideoWriter(path, 64, 64, title="one") as video:
        for _ in range(10):
            video.write_frame(np.zeros((64, 64, 3), np.uint8))
        video.write_audio(np.zeros(10 * 640, np.float32))
    (lengths,) = video_lengths(tmp_path)
    assert lengths.name == "one/0123456789abcdef"
    assert lengths.video == pytest.approx(0.4, abs=1e-3)
    assert lengths.apart < 0.04


def test_the_table_is_aligned_and_tells_the_verdict() -> None:
    lines = table(
        [Row("a", "under 1", "0.5", True), Row("bb", "over 2", "1", False), Row("c", "", "2", None)]
    ).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert [line.split("|")[-2].strip() for line in lines] == ["verdict", "-" * 9, "pass", "FAIL", "-"]


def test_what_cannot_be_measured_is_told_and_fails_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "cached,lengths,compute", "--store", str(tmp_path / "none"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["passed"] for row in rows] == [None] * 3
    assert all("not measured" in row["measured"] and "make demo" in row["measured"] for row in rows[:2])


def test_an_unknown_measure_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--only", "beauty"])
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert all(name in told for name in MEASURES)
