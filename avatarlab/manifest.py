"""Manifests in: one row per lecture video (design section 3.1).

`read_portions` reads a manifest of any length, some rows at a time; `read_manifest` all of it. Every problem is collected
before anything is computed.
"""

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa

from avatarlab.artifacts import ID_PATTERN
from avatarlab.columns import ARROW_TYPES, MANIFEST_COLUMNS, MANIFEST_TYPES, Column
from avatarlab.errors import ManifestError, Problem, SettingsError
from avatarlab.keys import seed_from
from avatarlab.manifest_files import Source, Unreadable, inferred, read_sources, shown
from avatarlab.store import Store
from avatarlab.tables import write_table

LAYOUTS = ("full", "pip-top-left", "pip-top-right", "pip-bottom-left", "pip-bottom-right")
BACKGROUND_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".mp4", ".mov", ".webm", ".mkv")
LONGEST_SCRIPT = 200_000
LONGEST_TITLE = 1_000
SMALLEST_SIDE = 64
LARGEST_WIDTH, LARGEST_HEIGHT = 3840, 2160
LARGEST_SEED = (1 << 63) - 1
EXACT_FLOAT = 2.0**53  # whole numbers from here on share their floats
DEFAULT_LANGUAGE = "en"
PORTION_ROWS = 500
PORTION_LETTERS = 1_000_000  # of script


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
    """A manifest, or a portion of one: some rows in their order.

    `rows` are the valid ones; `problems` holds everything wrong, row 0 speaking of the file as a whole.
    """

    rows: tuple[Row, ...]
    problems: tuple[Problem, ...]
    extra_columns: tuple[str, ...]
    invalid: tuple[InvalidRow, ...] = ()
    extras: pa.Table | None = field(default=None, repr=False, compare=False)  # unknown columns of every row, as read
    first: int = 1  # number of the first row that was read: a portion begins later than the file

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
        chosen = self.among(ids)
        refuse_unknown(set(ids) - chosen.ids)
        return chosen

    def among(self, ids: Collection[str]) -> "Manifest":
        """The rows and problems of those of these ids that are here."""
        wanted = set(ids)
        invalid = tuple(row for row in self.invalid if row.id in wanted)
        numbers = {0} | {row.number for row in invalid}
        return replace(
            self,
            rows=tuple(row for row in self.rows if row.id in wanted),
            problems=tuple(problem for problem in self.problems if problem.row in numbers),
            invalid=invalid,
        )

    @property
    def ids(self) -> set[str]:
        return {row.id for row in self.rows} | {row.id for row in self.invalid}

    def kept_extras(self, numbers: Sequence[int]) -> dict[str, pa.ChunkedArray]:
        """The unknown columns of the rows with these numbers, by name."""
        if self.extras is None:
            return {}
        kept = self.extras.take(pa.array([number - self.first for number in numbers], pa.int64()))
        return {name: kept.column(name) for name in self.extra_columns}


def refuse_unknown(ids: Collection[str]) -> None:
    """Raises SettingsError where `--only` asks for ids that no row has."""
    if ids:
        raise SettingsError(f"the manifest has no row with id {', '.join(sorted(map(shown, ids)))}", "correct --only")


def read_manifest(path: Path | str) -> Manifest:
    """Read Parquet (known by its content), CSV or JSON lines and check every row. Raises nothing for bad input: every
    problem is in the result, with row number from 1, id, column, message and remedy."""
    (whole,) = read_portions(path, None)
    return whole


def read_portions(path: Path | str, rows: int | None = PORTION_ROWS) -> Iterator[Manifest]:
    """The same, portion by portion: at most `rows` rows or about a million letters of script at a time.

    A portion holds the problems of its rows; the first also those of the file. Where the file breaks off in the middle, the
    last portion says so. The portions of an unreadable file hold no valid row.
    """
    first_use: dict[str, int] = {}
    unreadable = False
    try:
        for source in read_sources(Path(path), rows, PORTION_LETTERS):
            portion = _portion(source, first_use, unreadable)
            unreadable = unreadable or portion.unreadable
            yield portion
    except Unreadable as error:
        yield Manifest((), (Problem(0, "", "", error.message, error.remedy),), ())


def _portion(source: Source, first_use: dict[str, int], unreadable: bool) -> Manifest:
    problems = list(source.problems)
    for column in MANIFEST_COLUMNS if source.first == 1 else ():
        if column.needed and column.name not in source.values and column.name not in source.refused:
            problems.append(
                Problem(0, "", column.name, f"the column {column.name!r} is missing", _missing_remedy(column, source))
            )
    if source.count == 0:
        problems.append(Problem(0, "", "", "the manifest has no rows", "write at least one row"))
    unreadable = unreadable or any(problem.row == 0 for problem in problems)
    rows: list[Row] = []
    invalid: list[InvalidRow] = []
    for index in range(source.count):
        number = source.first + index
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
    return Manifest(
        tuple(rows), tuple(problems), tuple(source.extra_values), tuple(invalid), source.extras, source.first
    )


def manifest_table(portion: Manifest) -> pa.Table:
    """The valid rows of a portion as Parquet holds them: every column of the contract, then the unknown ones as read."""
    records = [_as_columns(row) for row in portion.rows]
    columns: dict[str, object] = {
        name: pa.array([record.get(name) for record in records], ARROW_TYPES[column.type])
        for name, column in MANIFEST_TYPES.items()
    }
    return pa.table(columns | portion.kept_extras([row.number for row in portion.rows]))


def write_manifest(
    target: Path | Store, rows: Iterable[Row | Mapping[str, object]], name: str = "manifest.parquet"
) -> None:
    """Write rows as Parquet to a file, or under `name` in a store. Unknown names become columns of their own.

    Rows given as mappings are written as they are, unchecked: `read_manifest` checks.
    """
    records = [_as_columns(row) if isinstance(row, Row) else dict(row) for row in rows]
    names = dict.fromkeys(name for record in records for name in record)
    ordered = [name for name in MANIFEST_TYPES if name in names or MANIFEST_TYPES[name].needed]
    ordered += [name for name in names if name not in MANIFEST_TYPES]
    columns = {
        name: pa.array([record.get(name) for record in records], ARROW_TYPES[MANIFEST_TYPES[name].type])
        if name in MANIFEST_TYPES
        else inferred([record.get(name) for record in records])
        for name in ordered
    }
    write_table(target, name, pa.table(columns))


class _Checks:
    """The problems of one row, collected while its values are read."""

    def __init__(self, number: int, values: Mapping[str, object], refused: frozenset[str]) -> None:
        self.number = number
        self.values = values
        self.refused = refused
        self.problems: list[Problem] = []
        self.id = shown(_decoded(values.get("id")))
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
            self.add("language", f"{shown(language)!r} is not a BCP-47 language tag", "write say en or en-GB")
        title = self._text("title")
        if title is not None and len(title) > LONGEST_TITLE:
            self.add("title", f"the title has {len(title):,} characters", f"use at most {LONGEST_TITLE:,}")
        background = self._background()
        layout = self._text("layout") or "full"
        if layout not in LAYOUTS:
            self.add("layout", f"there is no layout {shown(layout)!r}", f"use one of {', '.join(LAYOUTS)}")
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
                self.add(column, f"{shown(str(text))} is not text", "write it as text")
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
            self.add(column, f"{shown(name)!r} could leave its folder ('/', '\\' or '..')", rule)
        elif len(name) > 128:
            self.add(column, f"the {column} has {len(name):,} characters", rule)
        else:
            self.add(column, f"{shown(name)!r} cannot name a folder", rule)
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
                self.add("background", f"{shown(background)!r} is not a colour", "write a colour as #rrggbb")
        elif not background.lower().endswith(BACKGROUND_SUFFIXES) or not background.isprintable():
            self.add(
                "background",
                f"{shown(background)!r} is neither a colour nor an image or video",
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
        self.add(column, f"{shown(str(value))!r} is not a whole number", "write digits only, or leave it empty")
        return None


def default_seed(id: str) -> int:
    """The seed of a row whose manifest gives none, by hash of its id."""
    return seed_from("row", id)


def _missing_remedy(column: Column, source: Source) -> str:
    close = [name for name in source.extra_values if name.strip().lower() == column.name]
    return f"rename the column {close[0]!r}" if close else f"add it ({column.type}); see manifests/COLUMNS.md"


def _as_columns(row: Row) -> dict[str, object]:
    known = {name: getattr(row, name) for name in MANIFEST_TYPES}
    if not row.seed_given:
        known["seed"] = None
    return {name: value for name, value in known.items() if value is not None} | dict(row.extra)


def _decoded(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return "" if value is None else str(value)
