"""Manifest files as columns of values, a portion at a time: Parquet streams, CSV and JSON lines are read whole.

What the values mean is checked by `avatarlab.manifest`.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from avatarlab.columns import MANIFEST_TYPES, Column
from avatarlab.errors import Problem

SHOWN = 80  # characters of a bad value that a message quotes


class Unreadable(Exception):
    """The file as a whole is none that rows can be read from."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


@dataclass(frozen=True)
class Source:
    """Rows as read: Python values of the known columns, the others as Arrow and as JSON can hold them.

    `first` is the number of the first row, counted from 1.
    """

    count: int
    values: Mapping[str, Sequence[object]]
    extras: pa.Table
    extra_values: Mapping[str, Sequence[object]]
    problems: tuple[Problem, ...] = ()
    refused: frozenset[str] = frozenset()  # known columns whose type is wrong as a whole: said once, not per row
    broken: frozenset[int] = frozenset()  # numbers of rows that could not be read
    first: int = 1

    def part(self, start: int, end: int) -> "Source":
        """Rows `start` to `end`, counted from 0. What is wrong with the file as a whole is told with its first rows."""
        return replace(
            self,
            count=end - start,
            values={name: column[start:end] for name, column in self.values.items()},
            extras=self.extras.slice(start, end - start),
            extra_values={name: column[start:end] for name, column in self.extra_values.items()},
            problems=tuple(
                found for found in self.problems if start <= found.row - self.first < end or (found.row == 0 == start)
            ),
            first=self.first + start,
        )


def read_sources(path: Path, rows: int | None, letters: int) -> Iterator[Source]:
    """At most `rows` rows and about `letters` bytes of script at a time; everything at once where `rows` is None.

    At least one portion comes, empty where the file has no rows. Raises Unreadable, at first or in the middle.
    """
    try:
        with path.open("rb") as file:
            head = file.read(4)
        if head == b"PAR1":
            whole = _read_parquet(path, rows)
        else:
            data = b"" if path.suffix.lower() in (".parquet", ".pq") else path.read_bytes()
            whole = iter([_read_text(path, data, empty=not head)])
    except FileNotFoundError:
        raise Unreadable(f"there is no manifest {path}", "check the path") from None
    except IsADirectoryError:
        raise Unreadable(f"{path} is a folder", "give the path of a Parquet, CSV or JSON lines file") from None
    except OSError as error:
        raise Unreadable(f"{path} cannot be read: {error.strerror}", "check its mode and owner") from None
    for source in whole:
        yield from [source] if rows is None else _cut(source, rows, letters)


def _cut(source: Source, rows: int, letters: int) -> Iterator[Source]:
    scripts = source.values.get("script", [None] * source.count)
    start, seen = 0, 0
    for index, script in enumerate(scripts):
        seen += len(script) if isinstance(script, bytes | str) else 0
        if index - start >= rows or (seen > letters and index > start):
            yield source.part(start, index)
            start, seen = index, len(script) if isinstance(script, bytes | str) else 0
    if start < source.count or source.count == 0:
        yield source.part(start, source.count)


def _read_text(path: Path, data: bytes, empty: bool) -> Source:
    if not data:
        raise Unreadable(
            f"{path} is empty" if empty else f"{path} is not a Parquet file",
            "write it with pandas.DataFrame.to_parquet, or give a .csv or .jsonl file",
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(
            f"{path} is neither Parquet nor UTF-8 text (byte {error.start})", "save it as Parquet, or as UTF-8"
        ) from None
    if "\0" in text:
        raise Unreadable(f"{path} is neither Parquet nor text", "save it as Parquet, CSV or JSON lines")
    if text.lstrip().startswith("{"):
        return _read_json_lines(text)
    if text.lstrip().startswith("["):
        raise Unreadable(f"{path} is one JSON list", "write one JSON object per line, or Parquet")
    return _read_csv(path, text)


def _read_parquet(path: Path, rows: int | None) -> Iterator[Source]:
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise Unreadable(f"the column {twice[0]!r} stands there twice", "rename one of them")
            if rows is None or file.metadata.num_rows == 0:
                yield _from_table(file.read(), 1)
                return
            first = 1
            for batch in file.iter_batches(batch_size=rows):
                yield _from_table(pa.Table.from_batches([batch]), first)
                first += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        why = shown(str(error).splitlines()[0]) if str(error) else type(error).__name__
        raise Unreadable(f"{path} is a damaged or truncated Parquet file: {why}", "write it again") from None


def _from_table(table: pa.Table, first: int) -> Source:
    values: dict[str, Sequence[object]] = {}
    problems = []
    refused = set()
    for name in table.column_names:
        if name not in MANIFEST_TYPES:
            continue
        found = _python_values(table.column(name), MANIFEST_TYPES[name])
        if found is None:
            refused.add(name)
            message, remedy = f"the column {name!r} holds {table.schema.field(name).type}", "convert it with astype"
            if MANIFEST_TYPES[name].type == "string":
                problems.append(Problem(0, "", name, f"{message}, not text", f'{remedy}("str")'))
            else:
                problems.append(Problem(0, "", name, f"{message}, not whole numbers", f'{remedy}("Int64")'))
        else:
            values[name] = found
    extras = table.select([name for name in table.column_names if name not in MANIFEST_TYPES])
    extra_values = {name: [_scalar_value(item) for item in extras.column(name)] for name in extras.column_names}
    told = tuple(problems) if first == 1 else ()
    return Source(table.num_rows, values, extras, extra_values, told, frozenset(refused), first=first)


def _python_values(column: pa.ChunkedArray, wanted: Column) -> list[object] | None:
    """Texts as bytes (so that a bad one spoils its row only) or numbers; None where the type is wrong."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_null(kind):
        return [None] * len(column)
    if wanted.type == "string":
        if pa.types.is_string_view(kind):
            column = column.cast(pa.large_string())
        elif not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            return None
        return list(column.cast(pa.large_binary()).to_pylist())
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):  # pandas turns whole numbers with gaps into floats
        return list(column.to_pylist())
    return None


def _scalar_value(item: pa.Scalar) -> object:
    try:
        return _json_value(item.as_py())
    except (TypeError, ValueError, OverflowError, pa.ArrowException):
        with suppress(ValueError, OverflowError):  # of a time that only Arrow can hold
            return str(item)
        return f"{item.type} beyond measure"


def _json_value(value: object) -> object:
    """The value itself where metadata.json can hold it, else its JSON text or NaN's name."""
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode("utf-8")
    except ValueError:
        return json.dumps(value)
    return value


def _read_csv(path: Path, text: str) -> Source:
    before = csv.field_size_limit(max(len(text), 1))  # the module's own limit is shorter than a script may be
    try:
        lines = [line for line in csv.reader(io.StringIO(text, newline=""), strict=True) if line]
    except csv.Error as error:
        raise Unreadable(f"{path} is neither Parquet nor CSV: {error}", "save it as Parquet") from None
    finally:
        csv.field_size_limit(before)
    names = [name.strip() for name in lines[0]] if lines else []
    if not names or len(set(names)) != len(names) or not all(name.isprintable() and name for name in names):
        raise Unreadable(
            f"{path} is neither Parquet nor CSV with a header of distinct column names",
            "start it with a line of column names separated by commas",
        )
    problems = []
    broken = set()
    records: list[dict[str, object]] = []
    for number, line in enumerate(lines[1:], start=1):
        if len(line) != len(names):
            broken.add(number)
            message = f"the row has {len(line)} fields and the header {len(names)}"
            problems.append(Problem(number, "", "", message, "put text with commas in double quotes"))
            line = []
        records.append({name: value or None for name, value in zip(names, line, strict=False)})
    return _from_records(names, records, problems, broken)


def _read_json_lines(text: str) -> Source:
    problems = []
    broken = set()
    records: list[dict[str, object]] = []
    lines = (line for line in text.split("\n") if line.strip())
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict) or not all(name.isprintable() for name in record):
            broken.add(number)
            message = "the line is not a JSON object with printable names"
            problems.append(Problem(number, "", "", message, "write one object per line"))
            record = {}
        records.append(record)
    names = list(dict.fromkeys(name for record in records for name in record))
    return _from_records(names, records, problems, broken)


def _from_records(
    names: Sequence[str], records: Sequence[Mapping[str, object]], problems: Iterable[Problem], broken: Iterable[int]
) -> Source:
    values = {name: [record.get(name) for record in records] for name in names}
    unknown = {name: column for name, column in values.items() if name not in MANIFEST_TYPES}
    extras = pa.table({name: inferred(column) for name, column in unknown.items()})
    extra_values = {name: [_json_value(value) for value in column] for name, column in unknown.items()}
    known = {name: column for name, column in values.items() if name in MANIFEST_TYPES}
    return Source(len(records), known, extras, extra_values, tuple(problems), frozenset(), frozenset(broken))


def inferred(values: Sequence[object]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, TypeError, OverflowError, UnicodeError):
        return pa.array([None if value is None else json.dumps(value, default=str) for value in values], pa.string())


def shown(text: str) -> str:
    """Text fit for a message: one line, printable, not long."""
    shown = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text[: SHOWN + 1])
    return shown if len(text) <= SHOWN else shown[:SHOWN] + "..."
