"""From rows to work: what each row needs, what exists, what is missing, what can be done next (design section 5).

Pure: the store is asked through a function given by the caller; nothing is computed and nothing is written.

Keys hold the content of what came before, so the key of a later stage is known only once the earlier artifact exists.
`RenderGraph` therefore moves every line stage by stage, whether its artifact was found or has just been made:

    graph = RenderGraph(rows, cast, recipe)
    graph.resolve(artifacts.find)                    # bulk look-ups, as far as the store knows
    while batch := graph.next_batch(slots):          # missing, and can be made now
        graph.report(run_batch(batch))               # made, found meanwhile, or failed
        graph.resolve(artifacts.find)
        for finished in graph.finished(): ...        # rows whose video exists, or never will
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from heapq import heappop, heappush
from itertools import count
from math import fsum
from pathlib import Path

from avatarlab import FPS, stages
from avatarlab.artifacts import STAGES, Action
from avatarlab.avatar_checks import validate_avatar
from avatarlab.avatars import Avatar, load_avatar
from avatarlab.compose import background_digest, check_background
from avatarlab.errors import AvatarError, AvatarLabError, MediaError, Problem, ScriptError, SettingsError
from avatarlab.manifest import Manifest, Row
from avatarlab.stages import LINE_STAGES, Item, Line, Outcome, Recipe, Said, Silence, SpokenPart, TokensItem
from avatarlab.text import DEFAULT_LANGUAGES, NO_LEXICON, Lexicon, Pause, check_language, split_script, units

BATCH_LIMITS: Mapping[str, int] = {"tokens": 16, "audio": 32, "motion": 32, "face": 16, "video": 4}

Find = Callable[[str, list[str]], Mapping[str, Action]]
Units = Callable[[str], tuple[int, ...]]  # spoken words to text ids
Node = tuple[str, str]  # stage, key


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
    """What `plan_rows` found: rows that can be rendered, the avatars they need by id, what is wrong with the others."""

    rows: tuple[PlannedRow, ...]
    cast: Mapping[str, Avatar]
    problems: tuple[Problem, ...]


def plan_rows(
    manifest: Manifest,
    avatar_roots: Sequence[Path],
    folder: Path,
    *,
    languages: Sequence[str] = DEFAULT_LANGUAGES,
    lexicon: Lexicon = NO_LEXICON,
    units: Units = units,
) -> Planned:
    """Checks what needs avatars, text and pictures, and splits every script. No engine is loaded, nothing is computed.

    Relative backgrounds are looked for in `folder`, where the manifest lies. `languages` and `units` are those of the model set.
    Every problem is listed, none is raised.
    """

    @cache
    def avatar(id: str) -> Avatar | AvatarError:
        try:
            found = load_avatar(avatar_roots, id)
            validate_avatar(found)
        except AvatarError as error:
            return error
        return found

    @cache
    def background(name: str) -> tuple[str, str] | AvatarLabError:
        chosen = name.lower() if name.startswith("#") else str((folder / name).resolve())
        try:
            check_background(chosen)
            return chosen, background_digest(chosen)
        except (MediaError, SettingsError) as error:
            return error

    rows, problems, cast = [], list(manifest.problems), {}
    for refused in manifest.invalid:
        for column, id in refused.bundles:
            found = avatar(id)
            if isinstance(found, AvatarError):
                problems.append(Problem(refused.number, refused.id, column, found.message, found.remedy))
    for row in manifest.rows:
        before = len(problems)
        ids = dict.fromkeys([("avatar", row.avatar), ("voice", row.voice or row.avatar)])
        for column, id in ids:
            if column == "voice" and id == row.avatar:
                continue
            found = avatar(id)
            if isinstance(found, AvatarError):
                problems.append(Problem(row.number, row.id, column, found.message, found.remedy))
            else:
                cast[id] = found
        parts: tuple[Said | Silence, ...] = ()
        notes: tuple[str, ...] = ()
        column = "language"
        try:
            check_language(row.language, languages)
            column = "script"
            parts, notes = _parts(row, languages, lexicon, units)
        except ScriptError as error:
            problems.append(Problem(row.number, row.id, column, error.message, error.remedy))
        if len(problems) > before:
            continue
        chosen = background(row.background or cast[row.avatar].background)
        if isinstance(chosen, AvatarLabError):
            problems.append(Problem(row.number, row.id, "background", chosen.message, chosen.remedy))
            continue
        rows.append(PlannedRow(row, parts, *chosen, notes))
    return Planned(tuple(rows), cast, tuple(problems))


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


@dataclass(frozen=True)
class Batch:
    """Work of one stage that one worker does in one go."""

    number: int
    stage: str
    items: tuple[Item, ...]

    @property
    def name(self) -> str:
        return f"{self.stage}-{self.number}"


@dataclass(frozen=True)
class Finished:
    """A row that needs nothing more: `video` is its action, or `failure` says why there will be none.

    `seconds` (by stage) counts work done in this run that the row uses, also where other rows share it; `cached` counts
    units that were in the store when the run asked.
    """

    planned: PlannedRow
    video: Action | None
    failure: Outcome | None
    found: bool
    seconds: Mapping[str, float]
    cached: Mapping[str, int]
    peak_memory_mb: float
    device: str
    actions: Mapping[Line, Mapping[str, Action]]


@dataclass
class _RowState:
    planned: PlannedRow
    open_lines: int
    node: Node | None = None
    delivered: bool = False


@dataclass
class _LineState:
    rows: list[int] = field(default_factory=list)
    nodes: dict[str, Node] = field(default_factory=dict)
    actions: dict[str, Action] = field(default_factory=dict)


class RenderGraph:
    """The work of a run and what is known about it. Not thread-safe: one loop owns it.

    Distinct keys are distinct work: equal lines, and different lines that meet in equal content, are done once.
    """

    def __init__(self, rows: Sequence[PlannedRow], cast: Mapping[str, Avatar], made_with: Recipe) -> None:
        self._cast = cast
        self._made_with = made_with
        self._items: dict[Node, Item] = {}
        self._unresolved: dict[str, dict[str, None]] = {stage: {} for stage in STAGES}
        self._ready: dict[str, list[tuple[int, int, str]]] = {stage: [] for stage in STAGES}  # heaps: row, number, key
        self._numbers = count()
        self._outcomes: dict[Node, Outcome] = {}
        self._line_waiters: dict[Node, list[Line]] = {}
        self._row_waiters: dict[Node, list[int]] = {}
        self._done_rows: list[int] = []
        self._settled = dict.fromkeys(STAGES, 0)
        self._batches = 0
        self._lines: dict[Line, _LineState] = {}
        self._rows: list[_RowState] = []
        for index, planned in enumerate(rows):
            self._rows.append(_RowState(planned, len(planned.lines)))
            for line in planned.lines:
                self._lines.setdefault(line, _LineState()).rows.append(index)
        for line in self._lines:
            self._enter_line(line, "tokens")

    def resolve(self, find: Find) -> None:
        """Looks up every key nobody has asked for yet, in bulk, until the store has no more to tell."""
        while any(self._unresolved.values()):
            for stage in STAGES:
                keys = list(self._unresolved[stage])
                if not keys:
                    continue
                self._unresolved[stage].clear()
                found = find(stage, keys)
                for key in keys:
                    if key in found:
                        self._settle(Outcome(stage, key, found[key], found=True))
                    else:
                        heappush(self._ready[stage], (self._first_row((stage, key)), next(self._numbers), key))

    def next_batch(self, slots: int) -> Batch | None:
        """The next work to start, or None when nothing can be started now.

        Later stages and earlier rows go first, so that rows are finished one after another; a batch is small when
        little is ready, so that `slots` workers all have work. Lines about as long as the first one go with it.
        """
        for stage in reversed(STAGES):
            ready = self._ready[stage]
            if not ready:
                continue
            limit = BATCH_LIMITS[stage]
            waiting = [heappop(ready) for _ in range(min(len(ready), limit * slots))]
            sizes = [self._size((stage, key)) for _, _, key in waiting]
            alike = sorted(range(len(waiting)), key=lambda index: abs(sizes[index] - sizes[0]))
            taken = set(alike[: min(limit, -(-len(waiting) // slots))])
            for index, entry in enumerate(waiting):
                if index not in taken:
                    heappush(ready, entry)
            self._batches += 1
            items = tuple(self._items[stage, key] for index, (_, _, key) in enumerate(waiting) if index in taken)
            return Batch(self._batches, stage, items)
        return None

    def report(self, outcomes: Iterable[Outcome]) -> None:
        """Takes what became of a batch."""
        for outcome in outcomes:
            self._settle(outcome)

    def finished(self) -> list[Finished]:
        """Rows that came to their end since the last call, each once."""
        done, self._done_rows = self._done_rows, []
        return [self._finish(index) for index in done]

    @property
    def missing(self) -> dict[str, int]:
        """Units by stage known to be missing now. Later stages of the same lines are not known before these exist."""
        return {stage: len(keys) for stage, keys in self._ready.items() if keys}

    @property
    def found(self) -> dict[str, list[Outcome]]:
        """What was in the store when the run asked, by stage."""
        hits: dict[str, list[Outcome]] = {stage: [] for stage in STAGES}
        for outcome in self._outcomes.values():
            if outcome.found:
                hits[outcome.stage].append(outcome)
        return hits

    @property
    def at_least(self) -> dict[str, int]:
        """Units by stage that this run still has to make, if nothing later is found: what `avatarlab plan` prints."""
        waiting = dict.fromkeys(STAGES, 0)
        for state in self._lines.values():
            for stage in LINE_STAGES:
                waiting[stage] += stage not in state.actions
        waiting["video"] = sum(1 for state in self._rows if state.node is None or state.node not in self._outcomes)
        return waiting

    @property
    def totals(self) -> dict[str, int]:
        """How many units each stage has, when every line is different."""
        return {**dict.fromkeys(LINE_STAGES, len(self._lines)), "video": len(self._rows)}

    @property
    def settled(self) -> dict[str, int]:
        """Units by stage that are there or have failed, counted in lines and rows."""
        return dict(self._settled)

    def _first_row(self, node: Node) -> int:
        """The earliest row that waits for this: its number in the run."""
        lines = self._line_waiters.get(node, [])
        return min([*self._row_waiters.get(node, []), *(self._lines[line].rows[0] for line in lines)])

    def _size(self, node: Node) -> int:
        item = self._items[node]
        return len(item.units) if isinstance(item, TokensItem) else 0

    def _enter_line(self, line: Line, stage: str) -> None:
        state = self._lines[line]
        item = self._line_item(line, stage, state.actions)
        state.nodes[stage] = (stage, item.key)
        self._wait_for(item, stage, lines=[line])

    def _line_item(self, line: Line, stage: str, actions: Mapping[str, Action]) -> Item:
        match stage:
            case "tokens":
                return stages.tokens_item(line, self._cast[line.voice], self._made_with)
            case "audio":
                return stages.audio_item(actions["tokens"], self._made_with)
            case "motion":
                return stages.motion_item(actions["audio"], self._cast[line.avatar], self._made_with)
            case _:
                return stages.face_item(actions["motion"], self._cast[line.avatar], self._made_with)

    def _enter_row(self, index: int) -> None:
        state = self._rows[index]
        row = state.planned.row
        item = stages.video_item(
            tuple(self._part(part) for part in state.planned.parts),
            self._cast[row.avatar],
            background=state.planned.background,
            background_digest=state.planned.background_digest,
            layout=row.layout,
            width=row.width,
            height=row.height,
            title=row.title or "",
        )
        state.node = ("video", item.key)
        self._wait_for(item, "video", rows=[index])

    def _part(self, part: Said | Silence) -> SpokenPart | Silence:
        if isinstance(part, Silence):
            return part
        actions = self._lines[part.line].actions
        return stages.spoken_part(part.text, actions["tokens"], actions["audio"], actions["face"])

    def _wait_for(self, item: Item, stage: str, lines: Sequence[Line] = (), rows: Sequence[int] = ()) -> None:
        node = (stage, item.key)
        self._line_waiters.setdefault(node, []).extend(lines)
        self._row_waiters.setdefault(node, []).extend(rows)
        if node in self._outcomes:
            self._pass_on(node)
        elif node not in self._items:
            self._items[node] = item
            self._unresolved[stage][item.key] = None

    def _settle(self, outcome: Outcome) -> None:
        node = (outcome.stage, outcome.key)
        self._outcomes[node] = outcome
        self._pass_on(node)

    def _pass_on(self, node: Node) -> None:
        outcome = self._outcomes[node]
        for line in self._line_waiters.pop(node, []):
            if outcome.action is None:
                for index in self._lines[line].rows:
                    self._end_row(index)
                continue
            self._settled[outcome.stage] += outcome.stage not in self._lines[line].actions
            self._lines[line].actions[outcome.stage] = outcome.action
            following = STAGES[STAGES.index(outcome.stage) + 1]
            if following != "video":
                self._enter_line(line, following)
                continue
            for index in self._lines[line].rows:
                self._rows[index].open_lines -= 1
                if self._rows[index].open_lines == 0:
                    self._enter_row(index)
        for index in self._row_waiters.pop(node, []):
            self._end_row(index)

    def _end_row(self, index: int) -> None:
        if not self._rows[index].delivered:
            self._rows[index].delivered = True
            self._settled["video"] += 1
            self._done_rows.append(index)

    def _finish(self, index: int) -> Finished:
        state = self._rows[index]
        nodes = [node for line in state.planned.lines for node in self._lines[line].nodes.values()]
        if state.node is not None:
            nodes.append(state.node)
        outcomes = [self._outcomes[node] for node in dict.fromkeys(nodes) if node in self._outcomes]
        made = [outcome for outcome in outcomes if not outcome.found]
        video = self._outcomes.get(state.node) if state.node else None
        failure = next((outcome for outcome in outcomes if outcome.action is None), None)
        return Finished(
            planned=state.planned,
            video=video.action if video and failure is None else None,
            failure=failure,
            found=video is not None and video.found,
            seconds={stage: round(fsum(o.seconds for o in made if o.stage == stage), 3) for stage in STAGES},
            cached={stage: sum(o.found for o in outcomes if o.stage == stage) for stage in STAGES},
            peak_memory_mb=max((o.peak_memory_mb for o in made), default=0.0),
            device=next((o.device for o in made if o.device), ""),
            actions={line: dict(self._lines[line].actions) for line in state.planned.lines},
        )
