"""How far a run is, said in words."""

import pytest

from flows.progress import Lines, Pace

TOTALS = {"tokens": 20, "audio": 20, "motion": 20, "face": 20, "video": 10}


def test_the_pace_is_that_of_the_last_minutes() -> None:
    now = 0.0
    pace = Pace(1000, lambda: now)
    assert pace.told(0) == ""
    now = 60.0
    assert pace.told(30) == "30.0 rows a minute, 0:32:20 left"
    for minute in range(2, 12):
        now = 60.0 * minute
        told = pace.told(30 + 60 * (minute - 1))
    assert told == "60.0 rows a minute, 0:06:10 left"


def test_nothing_is_said_of_the_pace_before_it_is_known_and_after_the_end() -> None:
    now = 0.0
    pace = Pace(10, lambda: now)
    assert pace.told(0) == pace.told(0) == ""
    now = 5.0
    assert pace.told(10) == ""


def test_lines_come_now_and_then_and_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines(TOTALS)
    for done in range(20):
        lines.progress({stage: min(done, total) for stage, total in TOTALS.items()})
    lines.progress(TOTALS)
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "tokens 0/20, audio 0/20, motion 0/20, face 0/20, video 0/10"
    assert told[1].startswith("tokens 20/20, audio 20/20, motion 20/20, face 20/20, video 10/10")
    assert len(told) == 2
