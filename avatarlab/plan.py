"""From rows to what will be heard: avatars, backgrounds and languages are checked, scripts cut (design section 5).

What exists of that and what must be made is `avatarlab.graph`. No engine is loaded and nothing is computed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from avatarlab import FPS
from avatarlab.avatar_checks import validate_avatar
from avatarlab.avatars import Avatar, load_avatar
from avatarlab.compose import background_digest, check_background
from avatarlab.errors import AvatarError, AvatarLabError, MediaError, Problem, ScriptError, SettingsError
from avatarlab.manifest import Manifest, Row
from avatarlab.stages import Line, Said, Silence
from avatarlab.text import DEFAULT_LANGUAGES, NO_LEXICON, Lexicon, Pause, check_language, split_script, units

Units = Callable[[str], tuple[int, ...]]  # spoken words to text ids


@dataclass(frozen=True)
class PlannedRow:
    """A row of the manifest, cut into what will be heard. `background` is a colour or an absolute path."""

    row: Row
    parts: tuple[Said | Silence, ...]
    background: str
    background_digest: str
    notes: tuple[str, ...] = ()

    @property
    def lines(self) -> tuple[Line, ...]:
        """The distinct lines, in the order they are first heard."""
        return tuple(dict.fromkeys(part.line for part in self.parts if isinstance(part, Said)))


@dataclass(frozen=True)
class Planned:
    """Rows that can be rendered, and everything that is wrong with the manifest they come from."""

    rows: tuple[PlannedRow, ...]
    problems: tuple[Problem, ...]


@dataclass
class Planner:
    """Checks what needs avatars, text and pictures, and splits every script. Avatars and backgrounds are read once.

    Relative backgrounds are looked for in `folder`, where the manifest lies. `languages` and `units` are those of the model
    set. `cast` holds the avatars of all rows planned so far.
    """

    avatar_roots: Sequence[Path]
    folder: Path
    languages: Sequence[str] = DEFAULT_LANGUAGES
    lexicon: Lexicon = NO_LEXICON
    units: Units = units
    cast: dict[str, Avatar] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._avatar = cache(self._read_avatar)
        self._background = cache(self._read_background)

    def plan(self, manifest: Manifest) -> Planned:
        """The rows of a manifest or of a portion of one. Every problem is listed, none is raised."""
        rows, problems = [], list(manifest.problems)
        for refused in manifest.invalid:
            for column, id in refused.bundles:
                found = self._avatar(id)
                if isinstance(found, AvatarError):
                    problems.append(Problem(refused.number, refused.id, column, found.message, found.remedy))
        for row in manifest.rows:
            planned = self._row(row)
            if isinstance(planned, PlannedRow):
                rows.append(planned)
            else:
                problems += planned
        return Planned(tuple(rows), tuple(sorted(problems, key=lambda problem: problem.row)))

    def _row(self, row: Row) -> "PlannedRow | list[Problem]":
        problems: list[Problem] = []

        def add(column: str, error: AvatarLabError) -> None:
            problems.append(Problem(row.number, row.id, column, error.message, error.remedy))

        ids = dict.fromkeys([("avatar", row.avatar), ("voice", row.voice or row.avatar)])
        for column, id in ids:
            if column == "voice" and id == row.avatar:
                continue
            found = self._avatar(id)
            if isinstance(found, AvatarError):
                add(column, found)
            else:
                self.cast[id] = found
        column = "language"
        try:
            check_language(row.language, self.languages)
            column = "script"
            parts, notes = _parts(row, self.languages, self.lexicon, self.units)
        except ScriptError as error:
            add(column, error)
        if problems:
            return problems
        chosen = self._background(row.background or self.cast[row.avatar].background)
        if isinstance(chosen, AvatarLabError):
            add("background", chosen)
            return problems
        return PlannedRow(row, parts, *chosen, notes)

    def _read_avatar(self, id: str) -> Avatar | AvatarError:
        try:
            found = load_avatar(self.avatar_roots, id)
            validate_avatar(found)
        except AvatarError as error:
            return error
        return found

    def _read_background(self, name: str) -> tuple[str, str] | AvatarLabError:
        chosen = name.lower() if name.startswith("#") else str((self.folder / name).resolve())
        try:
            check_background(chosen)
            return chosen, background_digest(chosen)
        except (MediaError, SettingsError) as error:
            return error


def _parts(
    row: Row, languages: Sequence[str], lexicon: Lexicon, units: Units
) -> tuple[tuple[Said | Silence, ...], tuple[str, ...]]:
    script = split_script(row.script, row.language, languages=languages, lexicon=lexicon)
    voice = row.voice or row.avatar
    seed = row.seed if row.seed_given else None
    parts: list[Said | Silence] = []
    for part in script.parts:
        if isinstance(part, Pause):
            parts.append(Silence(round(part.seconds * FPS)))
        else:
            parts.append(Said(Line(units(part.spoken), part.spoken, row.avatar, voice, seed), part.text))
    notes = (f"not spoken: {' '.join(script.dropped)}",) if script.dropped else ()
    return tuple(parts), notes
