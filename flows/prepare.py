"""Everything a run knows before it computes: rows read, checked and cut, and what of them is in the store.

A manifest of any length goes through in portions, three times: checked, looked up, and then rendered (`flows.session`).
"""

import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from avatarlab import FPS
from avatarlab.artifacts import ID_PATTERN, STAGES, Action, Artifacts
from avatarlab.avatars import Avatar
from avatarlab.errors import ManifestError, Problem, SettingsError
from avatarlab.graph import RenderGraph
from avatarlab.identity import software
from avatarlab.manifest import InvalidRow, Manifest, read_portions, refuse_unknown
from avatarlab.models import ModelSet, read_model_set
from avatarlab.plan import PlannedRow, Planner
from avatarlab.spool import Spool
from avatarlab.stages import (
    LINE_STAGES,
    Recipe,
    Said,
    StageContext,
    foreign_states,
    recipe,
)
from avatarlab.store import open_store
from avatarlab.text import NO_LEXICON, read_lexicon
from avatarlab.text.front_end import front_end
from flows.progress import NowAndThen


@dataclass(frozen=True)
class Request:
    """What the command, or a deployment, asks for. Plain values, so that Prefect can store them."""

    manifest: str
    store: str
    models: str | None = None
    avatars: tuple[str, ...] = ()
    device: str = "cpu"
    only: tuple[str, ...] = ()
    skip_invalid: bool = False
    run_id: str | None = None
    workers: int | None = None
    scheduler: str | None = None
    lexicon: str | None = None


@dataclass(frozen=True)
class Portion:
    """Some rows of the manifest in their order: as read, as planned, and what was in the store when the run asked."""

    manifest: Manifest
    rows: tuple[PlannedRow, ...]
    known: tuple[Action, ...] = ()


@dataclass
class Survey:
    """What a whole manifest needs, counted portion by portion. Equal lines count once, whichever rows they stand in."""

    rows: int = 0
    sentences: int = 0
    pause_frames: int = 0
    units: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    in_store: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    found: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    totals: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    missing: bool = False
    _lines: set[int] = field(default_factory=set)

    def take(self, rows: Sequence[PlannedRow], graph: RenderGraph) -> None:
        """Counts rows whose graph has asked the store for all that can be asked."""
        self.rows += len(rows)
        for planned in rows:
            self.sentences += sum(isinstance(part, Said) for part in planned.parts)
            self.pause_frames += sum(part.frame_count for part in planned.parts if not isinstance(part, Said))
        for line, actions in graph.line_actions.items():
            if hash(line) in self._lines:
                continue
            self._lines.add(hash(line))
            for stage in LINE_STAGES:
                self.units[stage] += 1
                self.in_store[stage] += stage in actions
        self.units["video"] += len(rows)
        self.in_store["video"] += graph.rows_with_video
        for action in graph.known:
            self.found[action.stage] += 1
        for stage, units in graph.totals.items():
            self.totals[stage] += units
        self.missing = self.missing or bool(graph.missing)

    @property
    def to_make(self) -> dict[str, int]:
        """Units by stage that a run has to make, if nothing later is found."""
        return {stage: self.units[stage] - self.in_store[stage] for stage in STAGES}


@dataclass(frozen=True)
class Prepared:
    """Everything a run knows before it computes."""

    request: Request
    run_id: str
    models: ModelSet
    made_with: Recipe
    cast: Mapping[str, Avatar]
    artifacts: Artifacts
    portions: Spool[Portion]
    survey: Survey
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def missing(self) -> bool:
        return self.survey.missing

    @property
    def context(self) -> StageContext:
        return StageContext(
            store_uri=self.artifacts.store.uri,
            models=self.models.path,
            models_digest=self.models.set_digest,
            avatar_roots=tuple(Path(root).absolute() for root in self.request.avatars),
            device=self.request.device,
            software=software(),
        )

    def graph(self, rows: Sequence[PlannedRow] = ()) -> RenderGraph:
        return RenderGraph(rows, self.cast, self.made_with)


def prepare(request: Request, say: Callable[[str], object] = lambda text: None) -> Prepared:
    """Reads and checks everything, splits every script, and asks the store what exists. `say` hears how far that is.

    Memory does not grow with the manifest, but for a few bytes for every id and line. Raises ManifestError with every
    problem unless `skip_invalid`, and SettingsError, WeightsError or StoreError. Weights are verified only where
    something is missing, since only then are they used.
    """
    run_id = request.run_id or f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    if not re.fullmatch(ID_PATTERN, run_id) or ".." in run_id:
        raise SettingsError(f"{run_id!r} cannot name a run", "use letters, digits, '.', '_' and '-', at most 128")
    models = read_model_set(request.models)
    made_with = recipe(models, request.device)
    planner = planner_of(request, models)
    checked: Spool[Portion] = Spool()
    problems: list[Problem] = []
    told = NowAndThen(say)
    rows = 0
    for portion in checked_portions(request, planner):
        checked.append(portion)
        problems += portion.manifest.problems
        rows += len(portion.rows)
        told(f"{rows:,} rows read and checked")
    if problems and (not request.skip_invalid or any(problem.row == 0 for problem in problems)):
        raise ManifestError(problems)
    store = open_store(request.store)
    notes, passed_over = store.check(), foreign_states(planner.cast.values(), made_with)
    artifacts = Artifacts(store)
    survey = Survey()
    portions: Spool[Portion] = Spool()
    for portion in checked:
        graph = RenderGraph(portion.rows, planner.cast, made_with)
        graph.resolve(artifacts.find)
        survey.take(portion.rows, graph)
        portions.append(replace(portion, known=tuple(graph.known)))
        told(f"{survey.rows:,} of {rows:,} rows looked up in the store")
    if survey.missing:
        for problem in models.verify():
            raise problem
    return Prepared(
        request,
        run_id,
        models,
        made_with,
        planner.cast,
        artifacts,
        portions,
        survey,
        tuple(problems),
        (*notes, *passed_over),
    )


def planner_of(request: Request, models: ModelSet) -> Planner:
    """Raises LexiconError where the lexicon has a row that cannot be spoken."""
    return Planner(
        [Path(root) for root in request.avatars],
        Path(request.manifest).absolute().parent,
        languages=models.languages,
        lexicon=read_lexicon(Path(request.lexicon)) if request.lexicon else NO_LEXICON,
        units=front_end(models).units,
    )


def checked_portions(request: Request, planner: Planner) -> Iterator[Portion]:
    """The rows that can be rendered, with what avatars, texts and pictures add to the problems of the manifest.

    Raises SettingsError, at the end, for an id of `only` that no row has.
    """
    wanted = set(request.only)
    for read in read_portions(request.manifest):
        manifest = read.among(request.only) if request.only else read
        wanted -= read.ids
        planned = planner.plan(manifest)
        valid = {item.row.id for item in planned.rows}
        refused = tuple(InvalidRow(row.number, row.id) for row in manifest.rows if row.id not in valid)
        rows = tuple(row for row in manifest.rows if row.id in valid)
        invalid = (*manifest.invalid, *refused)
        yield Portion(replace(manifest, rows=rows, problems=planned.problems, invalid=invalid), planned.rows)
    refuse_unknown(wanted)


def describe(prepared: Prepared) -> dict[str, object]:
    """The plan as plain data: what exists and what is missing, by stage."""
    survey = prepared.survey
    return {
        "run_id": prepared.run_id,
        "software": f"avatarlab {software()}",
        "manifest": Path(prepared.request.manifest).name,
        "device": prepared.request.device,
        "models": models_used(prepared),
        "rows": survey.rows,
        "sentences": survey.sentences,
        "pause_seconds": round(survey.pause_frames / FPS, 2),
        "stages": {
            stage: {"units": survey.units[stage], "in_store": survey.in_store[stage], "to_make": to_make}
            for stage, to_make in survey.to_make.items()
        },
        "problems": [asdict(problem) for problem in prepared.problems],
    }


def models_used(prepared: Prepared) -> dict[str, object]:
    models = prepared.models
    return {
        "name": models.name,
        "description": models.description,
        "digest": models.set_digest,
        "weights": {stage: file.sha256 for stage, file in models.files.items() if file.sha256},
    }
