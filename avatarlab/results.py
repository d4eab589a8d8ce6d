"""Results out: one row per manifest row, whatever became of it (design section 3.8).

A run writes them in parts while it goes on, and one table of all parts in the end.
"""

import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from avatarlab.artifacts import STAGES
from avatarlab.columns import ARROW_TYPES, RESULT_COLUMNS
from avatarlab.errors import Problem, StoreError
from avatarlab.manifest import PORTION_ROWS, InvalidRow, Manifest
from avatarlab.store import Store, open_store
from avatarlab.tables import portions_to, write_table

STATUSES = ("done", "cached", "failed", "quarantined")


@dataclass(frozen=True)
class ResultRow:
    """What became of one row. `seconds` and `cached` are by stage. Raises ValueError for an unknown status or stage."""

    id: str
    status: str
    video_uri: str | None = None
    version: str | None = None
    duration_seconds: float | None = None
    error: str | None = None
    remedy: str | None = None
    notes: tuple[str, ...] = ()
    attempts: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    cached: Mapping[str, int] = field(default_factory=dict)
    peak_memory_mb: float | None = None
    device: str | None = None
    models_digest: str | None = None

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"{self.status!r} is not a status; the statuses are {', '.join(STATUSES)}")
        unknown = ({*self.seconds} | {*self.cached}) - {*STAGES}
        if unknown:
            raise ValueError(f"{sorted(unknown)} are not stages; the stages are {', '.join(STAGES)}")


def write_results(
    target: Path | Store, rows: Iterable[ResultRow], manifest: Manifest, name: str = "results.parquet"
) -> None:
    """Write results as Parquet to a file, or under `name` in a store, in the order of the manifest.

    Invalid rows of the manifest are answered as `failed` with their problems. Unknown manifest columns are copied; one
    that bears the name of a result column becomes `manifest_<name>`. Raises ValueError for an id that is not there.
    """
    by_number = _by_number(rows, manifest)
    ordered = sorted(by_number)
    records = [_as_result(by_number[number]) for number in ordered]
    columns = {
        column.name: pa.array([record[column.name] for record in records], ARROW_TYPES[column.type])
        for column in RESULT_COLUMNS
    }
    for extra, values in manifest.kept_extras(ordered).items():
        columns[f"manifest_{extra}" if extra in columns else extra] = values
    write_table(target, name, pa.table(columns))


def read_results(store: Store, name: str) -> Iterator[ResultRow]:
    """The rows of a results table, some at a time. Raises NotFound, StoreError."""
    for record in _records(store, name):
        texts = {part.name: record[part.name] for part in fields(ResultRow) if part.name in record}
        texts["notes"] = tuple(str(record["notes"]).split("; ")) if record["notes"] else ()
        for kind in ("seconds", "cached"):
            by_stage = {stage: record.get(f"{kind}_{stage}") for stage in STAGES}
            texts[kind] = {stage: value for stage, value in by_stage.items() if value is not None}
        yield ResultRow(**texts)


def _records(store: Store, name: str) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="avatarlab-results-") as folder:
        path = Path(folder) / "results.parquet"
        store.get_file(name, path)
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=PORTION_ROWS):
                    yield from batch.to_pylist()
        except pa.ArrowException:
            raise StoreError(f"{name} is no results table", "delete it and render again") from None


class Ledger:
    """The answers of a run: a part of the results is written when all rows of a portion are answered, `close` joins them.

    Parts are kept on this machine and, as far as the store takes them, in the store, where a run that is killed leaves
    them. Not thread-safe. `trouble` says why the store did not take the whole, where it did not.
    """

    def __init__(self, store: Store, folder: str) -> None:
        self.trouble = ""
        self._store = store
        self._folder = folder
        self._here = Path(tempfile.mkdtemp(prefix="avatarlab-results-"))
        self._parts: list[str] = []
        self._open: dict[str, tuple[Manifest, dict[str, ResultRow]]] = {}
        self._part_of: dict[str, str] = {}
        self._counts = dict.fromkeys(STATUSES, 0)
        self._tidy = weakref.finalize(self, shutil.rmtree, self._here, ignore_errors=True)

    def expect(self, portion: Manifest) -> None:
        """The rows of a portion will be answered; its invalid ones are answered herewith."""
        part = f"results-{len(self._parts):06d}.part.parquet"
        self._parts.append(part)
        self._open[part] = portion, {}
        self._part_of.update((row.id, part) for row in portion.rows)
        self._counts["failed"] += len(portion.invalid)
        self._write_if_complete(part)

    def answer(self, row: ResultRow) -> None:
        """Takes what became of a row. Raises ValueError for one that is not expected, or was answered before."""
        part = self._part_of.pop(row.id, None)
        if part is None:
            raise ValueError(f"{row.id!r} is not expected, or was answered before")
        self._open[part][1][row.id] = row
        self._counts[row.status] += 1
        self._write_if_complete(part)

    def close(self, unanswered: Callable[[str], ResultRow]) -> tuple[Store, str]:
        """Answers what is left and joins the parts: the store that holds the results, and their name there.

        That is a folder on this machine, which stays, where the run's own store does not take them.
        """
        for id in list(self._part_of):
            self.answer(unanswered(id))
        whole = self._here / "results.parquet"
        with portions_to(whole) as table:
            for part in self._parts:
                table.write(pq.read_table(self._here / part))
        name = f"{self._folder}/results.parquet"
        try:
            self._store.put_file(name, whole)
        except StoreError as error:
            self.trouble = error.message
            self._tidy.detach()
            return open_store(str(self._here)), "results.parquet"
        for part in self._parts:
            with suppress(StoreError):  # superfluous, but not wrong
                self._store.delete(f"{self._folder}/{part}")
        return self._store, name

    @property
    def counts(self) -> dict[str, int]:
        """Rows by status, so far."""
        return {status: count for status, count in self._counts.items() if count}

    def _write_if_complete(self, part: str) -> None:
        portion, answers = self._open[part]
        if len(answers) < len(portion.rows):
            return
        write_results(self._here / part, answers.values(), portion)
        if len(self._part_of) > 0 or len(self._parts) > 1:  # of a short run the whole comes at once
            with suppress(StoreError):
                self._store.put_file(f"{self._folder}/{part}", self._here / part)
        del self._open[part]


def _by_number(rows: Iterable[ResultRow], manifest: Manifest) -> dict[int, ResultRow]:
    numbers = {row.id: row.number for row in manifest.rows}
    by_number = {row.number: _invalid_result(row, manifest.problems) for row in manifest.invalid}
    for row in rows:
        if row.id not in numbers or numbers[row.id] in by_number:
            raise ValueError(f"{row.id!r} is not a row of the manifest, or was answered twice")
        by_number[numbers[row.id]] = row
    return by_number


def _as_result(row: ResultRow) -> dict[str, object]:
    record = {part.name: getattr(row, part.name) for part in fields(row) if part.name not in ("seconds", "cached")}
    record["notes"] = "; ".join(row.notes) or None
    for stage in STAGES:
        record[f"seconds_{stage}"] = row.seconds.get(stage)
        record[f"cached_{stage}"] = row.cached.get(stage)
    return record


def _invalid_result(row: InvalidRow, problems: Iterable[Problem]) -> ResultRow:
    own = [problem for problem in problems if problem.row in (0, row.number)]
    error = "; ".join(f"{problem.column}: {problem.message}" if problem.column else problem.message for problem in own)
    remedy = "; ".join(dict.fromkeys(problem.remedy for problem in own))
    return ResultRow(row.id, "failed", error=error, remedy=remedy)
