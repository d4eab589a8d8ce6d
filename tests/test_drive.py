"""The loop of a run over many portions: what is in memory, what is made once, when it gives up."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

import pytest
from test_plan import CAST, RECIPE, planned, work

from avatarlab.artifacts import STAGES, Artifacts
from avatarlab.errors import StoreUnreachable
from avatarlab.graph import Batch, RenderGraph
from avatarlab.plan import PlannedRow
from avatarlab.stages import Outcome, TokensItem, failed
from avatarlab.store import open_store
from flows.drive import HOPELESS_BATCHES, PASSES, Drive


class Workers:
    """Does batches at once; `poison` cannot be spoken, and the first `lost` batches find no store."""

    slots = 2

    def __init__(self, artifacts: Artifacts, poison: str = "", lost: int = 0) -> None:
        self.artifacts = artifacts
        self.poison = poison
        self.lost = lost
        self.started = dict.fromkeys(STAGES, 0)

    def start(self, batch: Batch) -> "Future[list[Outcome]]":
        answer: Future[list[Outcome]] = Future()
        if self.lost:
            self.lost -= 1
            answer.set_exception(StoreUnreachable("nobody answers", "wait"))
            return answer
        self.started[batch.stage] += len(batch.items)
        bad = {
            item.key
            for item in batch.items
            if isinstance(item, TokensItem) and self.poison and self.poison in item.spoken
        }
        good = Batch(batch.number, batch.stage, tuple(item for item in batch.items if item.key not in bad))
        broken = [failed(batch.stage, key, RuntimeError("poison")) for key in bad]
        answer.set_result([*broken, *work(self.artifacts, good)])
        return answer


class Heard:
    def __init__(self) -> None:
        self.settled: Mapping[str, int] = {}

    def progress(self, settled: Mapping[str, int]) -> None:
        self.settled = settled


class Supply:
    """Portions of rows, counted as they are asked for."""

    def __init__(self, portions: Sequence[Sequence[PlannedRow]]) -> None:
        self.portions = iter(portions)
        self.taken = 0

    def __iter__(self) -> Iterator[Sequence[PlannedRow]]:
        return self

    def __next__(self) -> Sequence[PlannedRow]:
        portion = next(self.portions)
        self.taken += 1
        return portion


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(open_store(str(tmp_path / "store")))


def drive(supply: Supply, workers: Workers, heard: Heard | None = None) -> Drive:
    graph = RenderGraph([], CAST, RECIPE)
    return Drive(graph, supply, workers.artifacts.find, workers, threading.Event(), heard or Heard())


def letters(number: int) -> str:
    return "".join(chr(ord("a") + int(digit)) for digit in str(number))


def rows(count: int, first: int = 0) -> list[PlannedRow]:
    return [planned(f"r{n}", f"good {letters(n)}.", "shared.") for n in range(first, first + count)]


def test_every_row_of_every_portion_is_finished_once_and_equal_lines_are_made_once(artifacts: Artifacts) -> None:
    workers = Workers(artifacts)
    run = drive(Supply([rows(10), rows(10, 10), rows(5, 20)]), workers)
    finished = [found.planned.row.id for found, _ in run.finished()]
    assert sorted(finished) == sorted(f"r{n}" for n in range(25))
    assert (workers.started["tokens"], workers.started["video"]) == (26, 25)


def test_rows_are_taken_in_only_as_workers_get_through_them(artifacts: Artifacts) -> None:
    supply = Supply([rows(40, first) for first in range(0, 240, 40)])
    run = drive(supply, Workers(artifacts))
    finishing = run.finished()
    for _ in range(10):
        next(finishing)
    assert supply.taken <= 4
    assert len(list(finishing)) == 230
    assert supply.taken == 6


def test_a_finished_row_leaves_nothing_in_memory(artifacts: Artifacts) -> None:
    run = drive(
        Supply([rows(20), [*rows(5), planned("bad", "poison.", "good a.")]]), Workers(artifacts, poison="poison")
    )
    assert len(list(run.finished())) == 26
    empty = vars(RenderGraph([], CAST, RECIPE))
    held = {name: value for name, value in vars(run.graph).items() if isinstance(value, dict | list | set)}
    counted = ("_settled", "_ready", "_cast")
    assert {name: value for name, value in held.items() if name not in counted} == {
        name: value for name, value in empty.items() if name in held and name not in counted
    }


def test_progress_comes_to_the_total_also_where_rows_fail_and_are_tried_again(artifacts: Artifacts) -> None:
    every = [*rows(7), planned("bad", "poison.", "shared.", "never said.")]
    total = RenderGraph(every, CAST, RECIPE).totals
    heard = Heard()
    run = drive(Supply([every[:4], every[4:]]), Workers(artifacts, poison="poison", lost=2), heard)
    list(run.finished())
    assert heard.settled == total == {"tokens": 17, "audio": 17, "motion": 17, "face": 17, "video": 8}


def test_other_sentences_of_a_row_that_failed_are_not_made_for_it(artifacts: Artifacts) -> None:
    sentences = [f"good {letters(n)}." for n in range(100)]
    workers = Workers(artifacts, poison="poison")
    (answer,) = list(drive(Supply([[planned("bad", "poison.", *sentences)]]), workers).finished())
    assert answer[0].failure is not None
    assert workers.started["tokens"] < 101


def test_a_run_whose_store_is_gone_ends_and_says_why(artifacts: Artifacts) -> None:
    supply = Supply([rows(100, first) for first in range(0, 1000, 100)])
    run = drive(supply, Workers(artifacts, lost=10_000))
    finished = list(run.finished())
    assert run.hopeless is not None
    assert (run.hopeless.error, run.hopeless.remedy) == ("nobody answers", "wait")
    assert all(found.failure is not None for found, _ in finished)
    assert supply.taken < 10


def test_a_store_that_comes_back_costs_another_pass_and_nothing_else(artifacts: Artifacts) -> None:
    workers = Workers(artifacts, lost=HOPELESS_BATCHES - 1)
    run = drive(Supply([rows(100)]), workers)
    answers = list(run.finished())
    assert run.hopeless is None
    assert all(found.video is not None for found, _ in answers)
    assert 1 < max(attempts for _, attempts in answers) <= PASSES
    assert workers.started["tokens"] == 101
