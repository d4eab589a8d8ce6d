"""Manifests in, results out: one row per lecture video (design sections 3.1 and 3.8).

`read_manifest` collects every problem of a manifest before anything is computed; `write_results` answers with one row
per manifest row. The two tables of columns below are the contract; `manifests/COLUMNS.md` is generated from them by
`python -m avatarlab.manifest`.
"""

import csv
import io
import json
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from avatarlab.artifacts import ID_PATTERN, STAGES
from avatarlab.errors import ManifestError, Problem, SettingsError
from avatarlab.keys import seed_from
from avatarlab.store import Store, local_file, os_fault

STATUSES = ("done", "cached", "failed", "quarantined")
LAYOUTS = ("full", "pip-top-left", "pip-top-right", "pip-bottom-left", "pip-bottom-right")
BACKGROUND_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".mp4", ".mov", ".webm", ".mkv")
LONGEST_SCRIPT = 200_000
LONGEST_TITLE = 1_000
SMALLEST_SIDE = 64
LARGEST_WIDTH, LARGEST_HEIGHT = 3840, 2160
LARGEST_SEED = (1 << 63) - 1
EXACT_FLOAT = 2.0**53  # whole numbers from here on share their floats
DEFAULT_LANGUAGE = "en"
SHOWN = 80  # characters of a bad value that a message quotes


@dataclass(frozen=True)
class Column:
    name: str
    type: str  # string, int64 or double
    needed: bool
    meaning: str


MANIFEST_COLUMNS = (
    Column(
        "id",
        "string",
        True,
        "Names the video and its folder. `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`, without `..`, unique in the manifest.",
    ),
    Column(
        "script",
        "string",
        True,
        "What is said: UTF-8 text, up to 200,000 characters. A blank line is a paragraph, `[pause 1.5]` or "
        '`<break time="1.5s"/>` is silence in seconds. Markdown is read; any other markup is refused with its place.',
    ),
    Column("avatar", "string", True, "Id of the avatar bundle that says it."),
    Column("voice", "string", False, "Id of an avatar bundle whose voice is used instead."),
    Column(
        "language", "string", False, "BCP-47 tag of the script, of a language that the model set speaks. Default `en`."
    ),
    Column("title", "string", False, "Title for players and captions, up to 1,000 characters."),
    Column(
        "background",
        "string",
        False,
        "Colour `#rrggbb`, or the path of an image or video. Default: what the avatar bundle says.",
    ),
    Column(
        "layout",
        "string",
        False,
        "`full` (default), or the presenter small in a corner: `pip-top-left`, `pip-top-right`, `pip-bottom-left`, "
        "`pip-bottom-right`.",
    ),
    Column("width", "int64", False, "Pixels, even, 64 to 3840. Given together with `height`, or neither."),
    Column("height", "int64", False, "Pixels, even, 64 to 2160. Given together with `width`, or neither."),
    Column("seed", "int64", False, "Seed of everything random, 0 to 2^63 - 1. Default: derived from `id`."),
)

RESULT_COLUMNS = (
    Column("id", "string", True, "As in the manifest."),
    Column(
        "status",
        "string",
        True,
        "`done` made in this run, `cached` everything was in the store, `failed` see `error`, "
        "`quarantined` made but held back by a quality gate.",
    ),
    Column("video_uri", "string", False, "Where the video is: a path, or `s3://bucket/...`."),
    Column("version", "string", False, "First 16 hex digits of the video key: what made it."),
    Column("duration_seconds", "double", False, "Length of the video."),
    Column("error", "string", False, "What went wrong."),
    Column("remedy", "string", False, "What to do about it."),
    Column("notes", "string", False, "What was dropped, replaced or set aside, separated by `; `."),
    Column("attempts", "int64", True, "How often work on this row was started in this run."),
    *(
        column
        for stage in STAGES
        for column in (
            Column(f"seconds_{stage}", "double", False, f"Seconds of computing in stage `{stage}` for this row."),
            Column(f"cached_{stage}", "int64", False, f"Units of stage `{stage}` that were found in the store."),
        )
    ),
    Column("peak_memory_mb", "double", False, "Largest memory of a worker while it worked on this row."),
    Column("device", "string", False, "What computed it: `cpu`, `cuda`, ..."),
    Column("models_digest", "string", False, "Digest of the model set."),
)

_KNOWN = {column.name: column for column in MANIFEST_COLUMNS}
_ARROW = {"string": pa.string(), "int64": pa.int64(), "double": pa.float64()}


@dataclass(frozen=True)
class Row:
    """One valid row. `extra` holds the unknown columns as JSON can hold them."""

    id: str
    script: str
    avatar: str
    voice: str | None = None
    language: str = DEFAULT_LANGUAGE
    title: str | None = None
    background: str | None = None
    layout: str = "full"
    width: int | None = None
    height: int | None = None
    seed: int = 0
    extra: Mapping[str, object] = field(default_factory=dict)
    number: int = 0  # row number in the manifest, from 1
    seed_given: bool = False  # False: the seed was derived from the id


@dataclass(frozen=True)
class InvalidRow:
    """A row with problems: enough to answer for it in the results, and the bundles it names, by column, to check those too."""

    number: int
    id: str
    bundles: tuple[tuple[str, str], ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Manifest:
    """`rows` are the valid ones; `problems` holds everything wrong, row 0 speaking of the file as a whole."""

    rows: tuple[Row, ...]
    problems: tuple[Problem, ...]
    extra_columns: tuple[str, ...]
    invalid: tuple[InvalidRow, ...] = ()
    extras: pa.Table | None = field(default=None, repr=False, compare=False)  # unknown columns of every row, as read

    @property
    def unreadable(self) -> bool:
        """Whether the file as a whole is wrong, so that skipping rows does not help."""
        return any(problem.row == 0 for problem in self.problems)

    def require_valid(self) -> None:
        """Raises ManifestError holding every problem, where there is one."""
        if self.problems:
            raise ManifestError(self.problems)

    def only(self, ids: Sequence[str]) -> "Manifest":
        """The rows and problems of these ids. Raises SettingsError for an id that is not in the manifest."""
        wanted = set(ids)
        unknown = wanted - {row.id for row in self.rows} - {row.id for row in self.invalid}
        if unknown:
            raise SettingsError(
                f"the manifest has no row with id {', '.join(sorted(map(_shown, unknown)))}", "correct --only"
            )
        invalid = tuple(row for row in self.invalid if row.id in wanted)
        numbers = {0} | {row.number for row in invalid}
        return replace(
            self,
            rows=tuple(row for row in self.rows if row.id in wanted),
            problems=tuple(problem for problem in self.problems if problem.row in numbers),
            invalid=invalid,
        )


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


def read_manifest(path: Path | str) -> Manifest:
    """Read Parquet (known by its content), CSV or JSON lines and check every row. Raises nothing for bad input: every
    problem is in the result, with row number from 1, id, column, message and remedy."""
    path = Path(path)
    try:
        source = _read(path)
    except _Unreadable as error:
        return Manifest((), (Problem(0, "", "", error.message, error.remedy),), ())
    problems = list(source.problems)
    for column in MANIFEST_COLUMNS:
        if column.needed and column.name not in source.values and column.name not in source.refused:
            problems.append(
                Problem(0, "", column.name, f"the column {column.name!r} is missing", _missing_remedy(column, source))
            )
    if source.count == 0:
        problems.append(Problem(0, "", "", "the manifest has no rows", "write at least one row"))
    unreadable = any(problem.row == 0 for problem in problems)
    rows: list[Row] = []
    invalid: list[InvalidRow] = []
    first_use: dict[str, int] = {}
    for index in range(source.count):
        number = index + 1
        checks = _Checks(number, {name: values[index] for name, values in source.values.items()}, source.refused)
        broken = number in source.broken
        row = None if broken else checks.row()
        own = checks.names.get("id")
        if own is not None and first_use.setdefault(own, number) != number:
            checks.add("id", f"the id {own!r} is already that of row {first_use[own]}", "give every row its own id")
        problems += checks.problems
        if row is None or checks.problems or unreadable:
            bundles = tuple((name, value) for name, value in checks.names.items() if name != "id")
            invalid.append(InvalidRow(number, checks.id, bundles))
        else:
            rows.append(replace(row, extra={name: column[index] for name, column in source.extra_values.items()}))
    problems.sort(key=lambda problem: problem.row)
    return Manifest(tuple(rows), tuple(problems), tuple(source.extra_values), tuple(invalid), source.extras)


def write_manifest(
    target: Path | Store, rows: Iterable[Row | Mapping[str, object]], name: str = "manifest.parquet"
) -> None:
    """Write rows as Parquet to a file, or under `name` in a store. Unknown names become columns of their own.

    Rows given as mappings are written as they are, unchecked: `read_manifest` checks.
    """
    records = [_as_columns(row) if isinstance(row, Row) else dict(row) for row in rows]
    names = dict.fromkeys(name for record in records for name in record)
    ordered = [name for name in _KNOWN if name in names or _KNOWN[name].needed]
    ordered += [name for name in names if name not in _KNOWN]
    columns = {
        name: pa.array([record.get(name) for record in records], _ARROW[_KNOWN[name].type])
        if name in _KNOWN
        else _inferred([record.get(name) for record in records])
        for name in ordered
    }
    _write(target, name, pa.table(columns))


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
        column.name: pa.array([record[column.name] for record in records], _ARROW[column.type])
        for column in RESULT_COLUMNS
    }
    if manifest.extras is not None and manifest.extra_columns:
        kept = manifest.extras.take(pa.array([number - 1 for number in ordered], pa.int64()))
        for extra in manifest.extra_columns:
            columns[f"manifest_{extra}" if extra in columns else extra] = kept.column(extra)
    _write(target, name, pa.table(columns))


def answered(rows: Iterable[ResultRow], manifest: Manifest) -> tuple[ResultRow, ...]:
    """The results of valid rows together with a `failed` one for every invalid row, in the order of the manifest.

    Raises ValueError for an id that is not there or is answered twice.
    """
    by_number = _by_number(rows, manifest)
    return tuple(by_number[number] for number in sorted(by_number))


def columns_markdown() -> str:
    """The description of both tables, for people: the content of manifests/COLUMNS.md."""
    manifest = "\n".join(
        f"| `{column.name}` | {column.type} | {'yes' if column.needed else 'no'} | {column.meaning} |"
        for column in MANIFEST_COLUMNS
    )
    results = "\n".join(f"| `{column.name}` | {column.type} | {column.meaning} |" for column in RESULT_COLUMNS)
    return f"""# Columns

Generated by `python -m avatarlab.manifest` from the tables in `avatarlab/manifest.py`.

## Manifest: one row per video

Parquet, known by its content. CSV with a header and JSON lines are accepted too. Every problem is reported with row
number, id, column and remedy before anything is computed.

| column | type | needed | meaning |
|---|---|---|---|
{manifest}

Columns with other names are kept and copied to the results.

## Results: one row per manifest row, in the same order

| column | type | meaning |
|---|---|---|
{results}

The manifest's own further columns follow, unchanged; one that bears the name of a result column becomes
`manifest_<name>`.
"""


class _Unreadable(Exception):
    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


@dataclass(frozen=True)
class _Source:
    """A manifest as read: Python values of the known columns, the others as Arrow and as JSON can hold them."""

    count: int
    values: Mapping[str, Sequence[object]]
    extras: pa.Table
    extra_values: Mapping[str, Sequence[object]]
    problems: tuple[Problem, ...] = ()
    refused: frozenset[str] = frozenset()  # known columns whose type is wrong as a whole: said once, not per row
    broken: frozenset[int] = frozenset()  # numbers of rows that could not be read


class _Checks:
    """The problems of one row, collected while its values are read."""

    def __init__(self, number: int, values: Mapping[str, object], refused: frozenset[str]) -> None:
        self.number = number
        self.values = values
        self.refused = refused
        self.problems: list[Problem] = []
        self.id = _shown(_decoded(values.get("id")))
        self.names: dict[str, str] = {}

    def add(self, column: str, message: str, remedy: str) -> None:
        self.problems.append(Problem(self.number, self.id, column, message, remedy))

    def row(self) -> Row | None:
        id = self._name("id", needed=True)
        script = self._script()
        avatar = self._name("avatar", needed=True)
        voice = self._name("voice", needed=False)
        language = self._text("language") or DEFAULT_LANGUAGE
        if not re.fullmatch(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*", language):
            self.add("language", f"{_shown(language)!r} is not a BCP-47 language tag", "write say en or en-GB")
        title = self._text("title")
        if title is not None and len(title) > LONGEST_TITLE:
            self.add("title", f"the title has {len(title):,} characters", f"use at most {LONGEST_TITLE:,}")
        background = self._background()
        layout = self._text("layout") or "full"
        if layout not in LAYOUTS:
            self.add("layout", f"there is no layout {_shown(layout)!r}", f"use one of {', '.join(LAYOUTS)}")
        width, height = self._size()
        seed = self._whole("seed")
        if seed is not None and not 0 <= seed <= LARGEST_SEED:
            self.add("seed", f"the seed {seed} is out of range", "use 0 to 2^63 - 1, or leave it empty")
        if self.problems or id is None or script is None or avatar is None:
            return None
        given = seed is not None
        seed = seed if seed is not None else default_seed(id)
        return Row(
            id,
            script,
            avatar,
            voice,
            language,
            title,
            background,
            layout,
            width,
            height,
            seed,
            number=self.number,
            seed_given=given,
        )

    def _text(self, column: str) -> str | None:
        """The value as text; None where it is absent, blank or wrong (which is reported)."""
        value = self.values.get(column)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return None
        try:
            text = value.decode("utf-8") if isinstance(value, bytes) else value
            if not isinstance(text, str):
                self.add(column, f"{_shown(str(text))} is not text", "write it as text")
                return None
            text.encode("utf-8")
        except UnicodeError:
            self.add(column, "the text is not valid Unicode", "save it again as UTF-8")
            return None
        return text if text.strip() else None

    def _needed_text(self, column: str, empty: str, remedy: str) -> str | None:
        before = len(self.problems)
        text = self._text(column)
        if text is None and len(self.problems) == before and column in self.values and column not in self.refused:
            self.add(column, empty, remedy)
        return text

    def _name(self, column: str, needed: bool) -> str | None:
        """An id that is safe as a folder name."""
        rule = "use letters, digits, '.', '_' and '-', starting with a letter or digit, at most 128"
        name = self._needed_text(column, f"the {column} is empty", rule) if needed else self._text(column)
        if name is None:
            return None
        if re.fullmatch(ID_PATTERN, name) and ".." not in name:
            self.names[column] = name
            return name
        if "/" in name or "\\" in name or ".." in name:
            self.add(column, f"{_shown(name)!r} could leave its folder ('/', '\\' or '..')", rule)
        elif len(name) > 128:
            self.add(column, f"the {column} has {len(name):,} characters", rule)
        else:
            self.add(column, f"{_shown(name)!r} cannot name a folder", rule)
        return None

    def _script(self) -> str | None:
        script = self._needed_text("script", "the script is empty", "write what shall be said, or delete the row")
        if script is not None and len(script) > LONGEST_SCRIPT:
            self.add(
                "script",
                f"the script has {len(script):,} characters; the most is {LONGEST_SCRIPT:,}",
                "split the lecture into several rows",
            )
        return script

    def _background(self) -> str | None:
        background = self._text("background")
        if background is None:
            return None
        if background.startswith("#"):
            if not re.fullmatch(r"#[0-9a-fA-F]{6}", background):
                self.add("background", f"{_shown(background)!r} is not a colour", "write a colour as #rrggbb")
        elif not background.lower().endswith(BACKGROUND_SUFFIXES) or not background.isprintable():
            self.add(
                "background",
                f"{_shown(background)!r} is neither a colour nor an image or video",
                f"write a colour as #rrggbb, or a path that ends in {' '.join(BACKGROUND_SUFFIXES)}",
            )
        return background

    def _size(self) -> tuple[int | None, int | None]:
        width, height = self._whole("width"), self._whole("height")
        for column, side, largest in (("width", width, LARGEST_WIDTH), ("height", height, LARGEST_HEIGHT)):
            if side is None:
                continue
            if not SMALLEST_SIDE <= side <= largest:
                self.add(
                    column, f"the {column} {side} is not {SMALLEST_SIDE} to {largest}", "use for example 1280 x 720"
                )
            elif side % 2:
                self.add(column, f"the {column} {side} is odd", f"use {side - 1} or {side + 1}: H.264 needs even sides")
        wrong = any(problem.column in ("width", "height") for problem in self.problems)
        if (width is None) != (height is None) and not wrong and not {"width", "height"} & self.refused:
            missing, given = ("width", "height") if width is None else ("height", "width")
            self.add(missing, f"the {given} is given without the {missing}", "give both, or neither")
        return width, height

    def _whole(self, column: str) -> int | None:
        value = self.values.get(column)
        if isinstance(value, bytes):
            value = _decoded(value)
        match value:
            case None:
                return None
            case bool():
                pass
            case int():
                return value
            case float() if math.isnan(value):
                return None
            case float() if value.is_integer() and abs(value) < EXACT_FLOAT:
                return int(value)
            case float() if value.is_integer():
                self.add(column, f"{value:.0f} was stored as a float and is not exact", 'use astype("Int64")')
                return None
            case str() if not value.strip():
                return None
            case str() if re.fullmatch(r"\s*[+-]?[0-9]{1,19}(\.0*)?\s*", value):
                return int(value.strip().partition(".")[0])
        self.add(column, f"{_shown(str(value))!r} is not a whole number", "write digits only, or leave it empty")
        return None


def default_seed(id: str) -> int:
    """The seed of a row whose manifest gives none, by hash of its id."""
    return seed_from("row", id)


def _read(path: Path) -> _Source:
    try:
        with path.open("rb") as file:
            head = file.read(4)
        if head == b"PAR1":
            return _read_parquet(path)
        data = b"" if path.suffix.lower() in (".parquet", ".pq") else path.read_bytes()
    except FileNotFoundError:
        raise _Unreadable(f"there is no manifest {path}", "check the path") from None
    except IsADirectoryError:
        raise _Unreadable(f"{path} is a folder", "give the path of a Parquet, CSV or JSON lines file") from None
    except OSError as error:
        raise _Unreadable(f"{path} cannot be read: {error.strerror}", "check its mode and owner") from None
    if not data:
        raise _Unreadable(
            f"{path} is not a Parquet file" if head else f"{path} is empty",
            "write it with pandas.DataFrame.to_parquet, or give a .csv or .jsonl file",
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _Unreadable(
            f"{path} is neither Parquet nor UTF-8 text (byte {error.start})", "save it as Parquet, or as UTF-8"
        ) from None
    if "\0" in text:
        raise _Unreadable(f"{path} is neither Parquet nor text", "save it as Parquet, CSV or JSON lines")
    if text.lstrip().startswith("{"):
        return _read_json_lines(text)
    if text.lstrip().startswith("["):
        raise _Unreadable(f"{path} is one JSON list", "write one JSON object per line, or Parquet")
    return _read_csv(path, text)


def _read_parquet(path: Path) -> _Source:
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise _Unreadable(f"the column {twice[0]!r} stands there twice", "rename one of them")
            table = file.read()
    except (pa.ArrowException, OSError) as error:
        why = _shown(str(error).splitlines()[0]) if str(error) else type(error).__name__
        raise _Unreadable(f"{path} is a damaged or truncated Parquet file: {why}", "write it again") from None
    values: dict[str, Sequence[object]] = {}
    problems = []
    refused = set()
    for name in table.column_names:
        if name not in _KNOWN:
            continue
        found = _python_values(table.column(name), _KNOWN[name])
        if found is None:
            refused.add(name)
            message, remedy = f"the column {name!r} holds {table.schema.field(name).type}", "convert it with astype"
            if _KNOWN[name].type == "string":
                problems.append(Problem(0, "", name, f"{message}, not text", f'{remedy}("str")'))
            else:
                problems.append(Problem(0, "", name, f"{message}, not whole numbers", f'{remedy}("Int64")'))
        else:
            values[name] = found
    extras = table.select([name for name in table.column_names if name not in _KNOWN])
    extra_values = {name: [_scalar_value(item) for item in extras.column(name)] for name in extras.column_names}
    return _Source(table.num_rows, values, extras, extra_values, tuple(problems), frozenset(refused))


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
    except (TypeError, ValueError, pa.ArrowException):
        return str(item)


def _json_value(value: object) -> object:
    """The value itself where metadata.json can hold it, else its JSON text or NaN's name."""
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode("utf-8")
    except ValueError:
        return json.dumps(value)
    return value


def _read_csv(path: Path, text: str) -> _Source:
    before = csv.field_size_limit(max(len(text), 1))  # the module's own limit is shorter than a script may be
    try:
        lines = [line for line in csv.reader(io.StringIO(text, newline=""), strict=True) if line]
    except csv.Error as error:
        raise _Unreadable(f"{path} is neither Parquet nor CSV: {error}", "save it as Parquet") from None
    finally:
        csv.field_size_limit(before)
    names = [name.strip() for name in lines[0]] if lines else []
    if not names or len(set(names)) != len(names) or not all(name.isprintable() and name for name in names):
        raise _Unreadable(
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


def _read_json_lines(text: str) -> _Source:
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
) -> _Source:
    values = {name: [record.get(name) for record in records] for name in names}
    unknown = {name: column for name, column in values.items() if name not in _KNOWN}
    extras = pa.table({name: _inferred(column) for name, column in unknown.items()})
    extra_values = {name: [_json_value(value) for value in column] for name, column in unknown.items()}
    known = {name: column for name, column in values.items() if name in _KNOWN}
    return _Source(len(records), known, extras, extra_values, tuple(problems), frozenset(), frozenset(broken))


def _inferred(values: Sequence[object]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, TypeError, OverflowError, UnicodeError):
        return pa.array([None if value is None else json.dumps(value, default=str) for value in values], pa.string())


def _missing_remedy(column: Column, source: _Source) -> str:
    close = [name for name in source.extra_values if name.strip().lower() == column.name]
    return f"rename the column {close[0]!r}" if close else f"add it ({column.type}); see manifests/COLUMNS.md"


def _by_number(rows: Iterable[ResultRow], manifest: Manifest) -> dict[int, ResultRow]:
    numbers = {row.id: row.number for row in manifest.rows}
    by_number = {row.number: _invalid_result(row, manifest.problems) for row in manifest.invalid}
    for row in rows:
        if row.id not in numbers or numbers[row.id] in by_number:
            raise ValueError(f"{row.id!r} is not a row of the manifest, or was answered twice")
        by_number[numbers[row.id]] = row
    return by_number


def _as_columns(row: Row) -> dict[str, object]:
    known = {name: getattr(row, name) for name in _KNOWN}
    if not row.seed_given:
        known["seed"] = None
    return {name: value for name, value in known.items() if value is not None} | dict(row.extra)


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


def _write(target: Path | Store, name: str, table: pa.Table) -> None:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    if not isinstance(target, Path):
        target.put(name, buffer.getvalue())
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with local_file(target) as file:
            file.write(buffer.getvalue())
    except OSError as error:
        raise os_fault(error, str(target)) from None


def _decoded(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return "" if value is None else str(value)


def _shown(text: str) -> str:
    """Text fit for a message: one line, printable, not long."""
    shown = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text[: SHOWN + 1])
    return shown if len(text) <= SHOWN else shown[:SHOWN] + "..."


def _main(arguments: Iterator[str]) -> None:
    target = Path(next(arguments, "manifests/COLUMNS.md"))
    target.write_text(columns_markdown(), encoding="utf-8")


if __name__ == "__main__":
    _main(iter(sys.argv[1:]))
