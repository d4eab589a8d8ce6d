"""The work of a run and what is known about it: which artifact can be made next, which row is finished.

Pure: the store is asked through a function given by the caller; nothing is computed and nothing is written.

Keys hold the content of what came before, so the key of a later stage is known only once the earlier artifact exists.
`RenderGraph` therefore moves every line stage by stage, whether its artifact was found or has just been made:

    graph = RenderGraph(rows, cast, recipe)          # more may follow: graph.add(rows)
    graph.resolve(artifacts.find)                    # bulk look-ups, as far as the store knows
    while batch := graph.next_batch(slots):          # missing, and can be made now
        graph.report(run_batch(batch))               # made, found meanwhile, or failed
        graph.resolve(artifacts.find)
        for finished in graph.finished(): ...        # rows whose video exists, or never will; each is forgotten then

A finished row takes with it what no other row needs, so that memory follows the rows under way and not the manifest.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from math import fsum
from typing import TypeVar

from avatarlab import stages
from avatarlab.artifacts import STAGES, Action
from avatarlab.avatars import Avatar
from avatarlab.plan import PlannedRow
from avatarlab.stages import LINE_STAGES, Item, Line, Outcome, Recipe, Said, Silence, SpokenPart, TokensItem

BATCH_LIMITS: Mapping[str, int] = {"tokens": 16, "audio": 32, "motion": 32, "face": 16, "video": 4}

Find = Callable[[str, list[str]], Mapping[str, Action]]
Node = tuple[str, str]  # stage, key
W = TypeVar("W", int, Line)


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
    open_lines: int = 0
    node: Node | None = None
    ended: bool = False


@dataclass
class _LineState:
    """`rows` wait for this line, in their order; `holders` counts those not yet handed out, which still need its outcomes."""

    rows: dict[int, None] = field(default_factory=dict)
    holders: int = 0
    nodes: dict[str, Node] = field(default_factory=dict)
    actions: dict[str, Action] = field(default_factory=dict)
    failed: bool = False


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
        self._under_way: set[Node] = set()
        self._uses: dict[Node, int] = {}
        self._line_waiters: dict[Node, dict[Line, None]] = {}
        self._row_waiters: dict[Node, dict[int, None]] = {}
        self._ended: list[int] = []
        self._settled = dict.fromkeys(STAGES, 0)
        self._batches = 0
        self._lines: dict[Line, _LineState] = {}
        self._rows: dict[int, _RowState] = {}
        self._row_numbers = count()
        self.add(rows)

    def add(self, rows: Iterable[PlannedRow]) -> None:
        """Takes further rows; they come after those it has."""
        entered: list[Line] = []
        added: list[int] = []
        for planned in rows:
            index = next(self._row_numbers)
            row = self._rows[index] = _RowState(planned)
            added.append(index)
            for line in planned.lines:
                if line not in self._lines:
                    self._lines[line] = _LineState()
                    entered.append(line)
                state = self._lines[line]
                state.rows[index] = None
                state.holders += 1
                row.open_lines += "face" not in state.actions
                for stage in state.actions:
                    self._settled[stage] += 1
        for line in entered:
            self._enter_line(line, "tokens")
        for index in added:
            row = self._rows[index]
            if any(self._lines[line].failed for line in row.planned.lines):
                self._end_row(index)
            elif row.open_lines == 0 and row.node is None and not row.ended:
                self._enter_row(index)

    def add_again(self, rows: Iterable[PlannedRow]) -> None:
        """Takes rows a second time that were handed out as failed: what they had settled counts no more."""
        rows = list(rows)
        for planned in rows:
            for stage, units in _units_of(planned).items():
                self._settled[stage] -= units
        self.add(rows)

    def resolve(self, find: Find) -> None:
        """Looks up every key nobody has asked for yet, in bulk, until the store has no more to tell."""
        while any(self._unresolved.values()):
            for stage in STAGES:
                keys = [key for key in self._unresolved[stage] if self._wanted((stage, key))]
                self._unresolved[stage].clear()
                if not keys:
                    continue
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
            limit = BATCH_LIMITS[stage]
            waiting = self._pop_ready(stage, limit * slots)
            if not waiting:
                continue
            sizes = [self._size((stage, key)) for _, _, key in waiting]
            alike = sorted(range(len(waiting)), key=lambda index: abs(sizes[index] - sizes[0]))
            taken = set(alike[: min(limit, -(-len(waiting) // slots))])
            for index, entry in enumerate(waiting):
                if index not in taken:
                    heappush(self._ready[stage], entry)
            self._batches += 1
            nodes = [(stage, key) for index, (_, _, key) in enumerate(waiting) if index in taken]
            self._under_way.update(nodes)
            return Batch(self._batches, stage, tuple(self._items[node] for node in nodes))
        return None

    def report(self, outcomes: Iterable[Outcome]) -> None:
        """Takes what became of a batch."""
        for outcome in outcomes:
            self._settle(outcome)

    def finished(self) -> list[Finished]:
        """Rows that came to their end since the last call, each once. They are forgotten, and so is what only they use."""
        ended, self._ended = self._ended, []
        return [self._finish(index) for index in ended]

    @property
    def waiting(self) -> int:
        """How many units can be started now, at most."""
        return sum(map(len, self._ready.values()))

    @property
    def missing(self) -> dict[str, int]:
        """Units by stage known to be missing now. Later stages of the same lines are not known before these exist."""
        return {stage: len(keys) for stage, keys in self._ready.items() if keys}

    @property
    def known(self) -> list[Action]:
        """Everything found or made that a row here still uses."""
        return [outcome.action for outcome in self._outcomes.values() if outcome.action is not None]

    @property
    def totals(self) -> dict[str, int]:
        """Units by stage that the rows need, counted for each row by itself: `settled` comes to this in the end."""
        units = [_units_of(state.planned) for state in self._rows.values()]
        return {stage: sum(of_row[stage] for of_row in units) for stage in STAGES}

    @property
    def settled(self) -> dict[str, int]:
        """Units by stage that are there or will never be, counted for each row that ever was here by itself."""
        return dict(self._settled)

    @property
    def line_actions(self) -> Mapping[Line, Mapping[str, Action]]:
        """What exists of every line, by stage."""
        return {line: state.actions for line, state in self._lines.items()}

    @property
    def rows_with_video(self) -> int:
        """How many rows here have their video."""
        nodes = [state.node for state in self._rows.values() if state.node in self._outcomes]
        return sum(self._outcomes[node].action is not None for node in nodes if node is not None)

    def _wanted(self, node: Node) -> bool:
        return bool(self._line_waiters.get(node) or self._row_waiters.get(node))

    def _pop_ready(self, stage: str, most: int) -> list[tuple[int, int, str]]:
        taken: dict[str, tuple[int, int, str]] = {}
        ready = self._ready[stage]
        while ready and len(taken) < most:
            entry = heappop(ready)
            node = (stage, entry[2])
            if self._wanted(node) and node not in self._under_way:  # its rows may have failed since it was queued
                taken.setdefault(entry[2], entry)
        return list(taken.values())

    def _first_row(self, node: Node) -> int:
        """The earliest row that waits for this: its number in the run."""
        lines = self._line_waiters.get(node, {})
        return min([*self._row_waiters.get(node, {}), *(next(iter(self._lines[line].rows)) for line in lines)])

    def _size(self, node: Node) -> int:
        item = self._items[node]
        return len(item.units) if isinstance(item, TokensItem) else 0

    def _enter_line(self, line: Line, stage: str) -> None:
        state = self._lines[line]
        item = self._line_item(line, stage, state.actions)
        state.nodes[stage] = (stage, item.key)
        self._wait_for(item, stage, self._line_waiters, line)

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
        self._wait_for(item, "video", self._row_waiters, index)

    def _part(self, part: Said | Silence) -> SpokenPart | Silence:
        if isinstance(part, Silence):
            return part
        actions = self._lines[part.line].actions
        return stages.spoken_part(part.text, actions["tokens"], actions["audio"], actions["face"])

    def _wait_for(self, item: Item, stage: str, waiters: dict[Node, dict[W, None]], waiter: W) -> None:
        node = (stage, item.key)
        waiters.setdefault(node, {})[waiter] = None
        self._uses[node] = self._uses.get(node, 0) + 1
        if node in self._outcomes:
            self._pass_on(node)
        elif node not in self._items:
            self._items[node] = item
            if node not in self._under_way:
                self._unresolved[stage][item.key] = None

    def _settle(self, outcome: Outcome) -> None:
        node = (outcome.stage, outcome.key)
        self._under_way.discard(node)
        if node in self._items:  # else its rows have failed meanwhile, and nobody asks any more
            self._outcomes[node] = outcome
            self._pass_on(node)

    def _pass_on(self, node: Node) -> None:
        outcome = self._outcomes[node]
        for line in self._line_waiters.pop(node, {}):
            state = self._lines[line]
            if outcome.action is None:
                state.failed = True
                for index in list(state.rows):
                    self._end_row(index)
                continue
            state.actions[outcome.stage] = outcome.action
            self._settled[outcome.stage] += len(state.rows)
            following = STAGES[STAGES.index(outcome.stage) + 1]
            if following != "video":
                self._enter_line(line, following)
                continue
            for index in list(state.rows):
                self._rows[index].open_lines -= 1
                if self._rows[index].open_lines == 0:
                    self._enter_row(index)
        for index in list(self._row_waiters.pop(node, {})):
            self._end_row(index)

    def _end_row(self, index: int) -> None:
        row = self._rows[index]
        if row.ended:
            return
        row.ended = True
        self._ended.append(index)
        self._settled["video"] += 1
        if row.node is not None:
            self._row_waiters.get(row.node, {}).pop(index, None)
        for line in row.planned.lines:
            state = self._lines[line]
            del state.rows[index]
            for stage in LINE_STAGES:
                self._settled[stage] += stage not in state.actions
            if not state.rows:
                for node in state.nodes.values():
                    self._line_waiters.get(node, {}).pop(line, None)

    def _finish(self, index: int) -> Finished:
        row = self._rows.pop(index)
        nodes = [node for line in row.planned.lines for node in self._lines[line].nodes.values()]
        if row.node is not None:
            nodes.append(row.node)
        outcomes = [self._outcomes[node] for node in dict.fromkeys(nodes) if node in self._outcomes]
        made = [outcome for outcome in outcomes if not outcome.found]
        video = self._outcomes.get(row.node) if row.node else None
        failure = next((outcome for outcome in outcomes if outcome.action is None), None)
        finished = Finished(
            planned=row.planned,
            video=video.action if video and failure is None else None,
            failure=failure,
            found=video is not None and video.found,
            seconds={stage: round(fsum(o.seconds for o in made if o.stage == stage), 3) for stage in STAGES},
            cached={stage: sum(o.found for o in outcomes if o.stage == stage) for stage in STAGES},
            peak_memory_mb=max((o.peak_memory_mb for o in made), default=0.0),
            device=next((o.device for o in made if o.device), ""),
            actions={line: dict(self._lines[line].actions) for line in row.planned.lines},
        )
        self._forget(row)
        return finished

    def _forget(self, row: _RowState) -> None:
        released = [row.node] if row.node is not None else []
        for line in row.planned.lines:
            state = self._lines[line]
            state.holders -= 1
            if state.holders == 0:
                released += state.nodes.values()
                del self._lines[line]
        for node in released:
            self._uses[node] -= 1
            if self._uses[node] == 0:
                del self._uses[node], self._items[node]
                self._outcomes.pop(node, None)
                self._line_waiters.pop(node, None)
                self._row_waiters.pop(node, None)


def _units_of(planned: PlannedRow) -> dict[str, int]:
    return {**dict.fromkeys(LINE_STAGES, len(planned.lines)), "video": 1}
