"""The journal of executions: what was made, by whom, and how often."""

import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import cartoon
import pytest
import tiny

from avatarlab import journal
from avatarlab.artifacts import Blob
from avatarlab.avatars import load_avatar
from avatarlab.execute import run_batch
from avatarlab.journal import counts, entries
from avatarlab.models import read_model_set
from avatarlab.stages import Line, StageContext, audio_item, recipe, tokens_item
from avatarlab.text import units
from flows.prepare import Request

MADE = {"tokens": 1, "audio": 1, "motion": 1, "face": 1, "video": 1}


@pytest.fixture
def world(tmp_path: Path) -> tiny.World:
    cartoon.write_bundle(tmp_path / "avatars", size=128)
    return tiny.World(tmp_path)


def request(world: tiny.World, *rows: Mapping[str, object]) -> Request:
    return replace(world.request(*({"width": 64, "height": 64, **row} for row in rows)), models="null")


def by_stage(events: Mapping[tuple[str, str], int]) -> dict[str, int]:
    stages: dict[str, int] = {}
    for (stage, _), times in events.items():
        stages[stage] = stages.get(stage, 0) + times
    return stages


def test_every_unit_that_was_made_is_told_once_and_what_was_found_is_not(
    world: tiny.World, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = world.folder / "journal.txt"
    monkeypatch.setenv(journal.VARIABLE, str(path))
    tiny.render_inline(request(world, {"id": "one", "script": "Good."}))
    begun, finished = counts(path)
    assert begun == finished
    assert by_stage(begun) == MADE
    assert {entry.pid for entry in entries(path)} == {os.getpid()}
    assert [entry.time for entry in entries(path)] == sorted(entry.time for entry in entries(path))

    tiny.render_inline(request(world, {"id": "one", "script": "Good."}))
    assert counts(path) == (begun, finished)
    tiny.render_inline(request(world, {"id": "one", "script": "Good.", "background": "#102030"}))
    begun, finished = counts(path)
    assert by_stage(begun) == by_stage(finished) == {**MADE, "video": 2}
    assert set(begun.values()) == {1}


def test_work_that_fails_was_begun_and_not_finished(world: tiny.World, monkeypatch: pytest.MonkeyPatch) -> None:
    path = world.folder / "journal.txt"
    monkeypatch.setenv(journal.VARIABLE, str(path))
    models = read_model_set("null")
    context = StageContext(str(world.store), models.path, models.set_digest, (world.folder / "avatars",))
    avatar, made_with = load_avatar(context.avatar_roots, "cartoon"), recipe(models, "cpu")
    item = tokens_item(Line(units("good"), "good", "cartoon", "cartoon"), avatar, made_with)
    (tokens,) = run_batch("tokens", [item], context)
    assert tokens.action is not None
    sound = audio_item(tokens.action, made_with)
    lost = replace(sound, key="0" * 64, codes=Blob("1" * 64, 1, "application/x-npy"))
    outcomes = run_batch("audio", [lost, sound], context)
    assert [outcome.action is not None for outcome in outcomes] == [False, True]
    begun, finished = counts(path)
    assert finished == {("tokens", item.key): 1, ("audio", sound.key): 1}
    assert begun["audio", sound.key] == 1, "it had not begun when its neighbour failed"
    assert begun["audio", lost.key] == 2, "once among its neighbours, once alone"


APPEND = """
import sys
from avatarlab import journal
for index in range(200):
    journal.note("start", "tokens", f"{sys.argv[1]}-{index}")
"""


def test_several_processes_share_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.txt"
    environment = {**os.environ, journal.VARIABLE: str(path)}
    processes = [subprocess.Popen([sys.executable, "-c", APPEND, str(n)], env=environment) for n in range(3)]
    try:
        assert [process.wait(60) for process in processes] == [0, 0, 0]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    begun, finished = counts(path)
    assert begun == {("tokens", f"{number}-{index}"): 1 for number in range(3) for index in range(200)}
    assert not finished
    assert len({entry.pid for entry in entries(path)}) == 3


def test_a_journal_that_cannot_be_written_fails_nothing_and_is_told_once(
    world: tiny.World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(journal.VARIABLE, str(world.folder / "no/such/folder/journal.txt"))
    with caplog.at_level(logging.WARNING, "avatarlab.journal"):
        report, _ = tiny.render_inline(request(world, {"id": "one", "script": "Good."}))
    assert [row.status for row in report.rows] == ["done"]
    assert len(caplog.records) == 1
    assert "cannot be written" in caplog.text


def test_a_line_that_was_cut_short_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "journal.txt"
    path.write_bytes(b"start tokens a 1 2.5\nstart tokens\ndone tok\xff\xfe\n\ndone tokens a 1 3.5\nstart tokens b 1")
    begun, finished = counts(path)
    assert (begun, finished) == ({("tokens", "a"): 1}, {("tokens", "a"): 1})


def test_without_the_variable_nothing_is_written(world: tiny.World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(journal.VARIABLE, raising=False)
    before = set(world.folder.iterdir())
    journal.note("start", "tokens", "a")
    assert set(world.folder.iterdir()) == before
