"""Speech tokens from text: batched, prompted, one step at a time (spec small-e, section 6).

A row of a batch is one sentence with its own voice prompt, seed and length. Texts and prompts are padded and masked,
every row draws from its own generator, and rows that have ended leave the batch: a row does not depend on the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Int, Int16
from torch import Tensor

from avatarlab.errors import InputError, SettingsError
from avatarlab.speech.delay import align, delay
from avatarlab.speech.gla import NORM_EPS, Affine, BlockStep, MixerState
from avatarlab.speech.small_e import BOS, EOS, FIRST_CODE, SmallE, TextMemory, pad_rows, rotate
from avatarlab.speech.voice_state import StartMemories, stacked

FEWER_ROWS = 0.9  # a batch is made smaller once at most this share of its rows is left
GRAPH_WARM_UP_STEPS = 3
GRAPH_CHECK_STEPS = 16  # how often the host waits for a GPU to see whether all rows have ended


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn and when a row must end.

    top_k, temperature: keep the top_k largest logits, then sharpen (below 1) or flatten them; top_k = 1 is greedy.
    sampled_codebooks: only so many codebooks are drawn, the others take their largest logit (1 in the published
        models' own inference); None draws all.
    max_steps, max_steps_per_unit: a row that has not ended after min(max_steps, max_steps_per_unit * (units + 4))
        steps is cut, with `stopped=False`.
    end_guard_units: the end is forbidden until the alignment has reached one of the last so many units; 0 turns it off.
    precision: of the network's large matrices while it steps; bfloat16 halves what a step reads, for GPUs.
    """

    top_k: int = 20
    temperature: float = 0.8
    sampled_codebooks: int | None = None
    max_steps: int = 2000
    max_steps_per_unit: float = 12.0
    end_guard_units: int = 3
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.top_k < 1 or not self.temperature > 0:
            raise SettingsError(
                f"top_k {self.top_k}, temperature {self.temperature}", "top_k is at least 1, temperature above 0"
            )
        if self.max_steps < 1 or not self.max_steps_per_unit > 0 or self.end_guard_units < 0:
            raise SettingsError("a sampling limit is zero or negative", "give positive limits")
        if self.precision not in ("float32", "bfloat16"):
            raise SettingsError(f"precision {self.precision!r}", "give float32 or bfloat16")

    def limit(self, units: int) -> int:
        """Most steps that a text of so many units may last."""
        return max(1, min(self.max_steps, ceil(self.max_steps_per_unit * (units + 4))))


@dataclass(frozen=True, eq=False)
class VoicePrompt:
    """What a voice said and how: text ids without BOS and EOS, and the codec's raw codes.

    `state` is the voice's tuned start memory (see `voice_state`), None for zeros; with it both others may be empty.
    """

    text_ids: tuple[int, ...]
    codes: Int16[np.ndarray, "q t"]
    state: StartMemories | None = None


@dataclass(frozen=True, eq=False)
class Utterance:
    """Raw codes; the alignment A2 of every step over the target's units; whether the model ended by itself."""

    codes: Int16[np.ndarray, "q t"]
    alignment: Float32[np.ndarray, "t j"]
    stopped: bool


def generate(
    model: SmallE,
    texts: Sequence[Sequence[int]],
    prompts: Sequence[VoicePrompt | None],
    seeds: Sequence[int],
    sampling: Sampling,
) -> list[Utterance]:
    """Speaks every text (ids without BOS and EOS) in the voice of its prompt, all rows at once.

    Raises InputError for an empty text, unknown ids, or a prompt whose codes do not belong to this model.
    """
    if not len(texts) == len(prompts) == len(seeds):
        raise InputError("texts, prompts and seeds differ in number", "give one prompt (or None) and one seed per text")
    if not texts:
        return []
    decoding = Decoding(model, texts, prompts, seeds, sampling)
    while decoding.advance():
        pass
    return [decoding.finished[row] for row in range(len(texts))]


def sample_top_k(
    logits: Float[Tensor, "*b c"], uniform: Float[Tensor, "*b"], top_k: int, temperature: float
) -> Int[Tensor, "*b"]:
    """Index of one of the top_k largest logits, by inverse distribution function of uniform numbers in [0, 1)."""
    values, indices = logits.topk(min(top_k, logits.shape[-1]), dim=-1)
    if values.shape[-1] == 1:
        return indices[..., 0]
    cumulative = (values / temperature).softmax(-1).cumsum(-1)
    chosen = (cumulative <= (uniform[..., None] * cumulative[..., -1:])).sum(-1, keepdim=True)
    return indices.gather(-1, chosen.clamp(max=values.shape[-1] - 1))[..., 0]


@dataclass
class StepState:
    """What a batch carries from step to step: `blocks` in call order, `position` the audio step of every row."""

    blocks: list[MixerState]
    keys: Float[Tensor, "b d j"]
    values: Float[Tensor, "b j d"]
    positions: Float[Tensor, "b j p"]
    position_keys: Float[Tensor, "b p j"]
    bias: Float[Tensor, "b 1 j"]
    position: Int[Tensor, "b"]

    @classmethod
    def start(cls, memory: TextMemory, blocks: list[MixerState], position: Int[Tensor, "b"]) -> "StepState":
        keys, positions = memory.keys, memory.positions
        bias = torch.zeros_like(keys[..., 0]).masked_fill(~memory.mask, -torch.inf)[:, None]
        return cls(
            blocks=blocks,
            keys=(keys * keys.shape[-1] ** -0.5).transpose(1, 2).contiguous(),
            values=memory.values,
            positions=positions,
            position_keys=(positions * positions.shape[-1] ** -0.5).transpose(1, 2).contiguous(),
            bias=bias,
            position=position,
        )

    def select(self, rows: Int[Tensor, "r"]) -> "StepState":
        return StepState(
            [block.select(rows) for block in self.blocks],
            self.keys[rows],
            self.values[rows],
            self.positions[rows],
            self.position_keys[rows],
            self.bias[rows],
            self.position[rows],
        )

    def moving(self) -> list[Tensor]:
        """The tensors that a step changes or replaces."""
        tensors = [tensor for block in self.blocks for tensor in (block.matrix, block.tail) if tensor is not None]
        return [*tensors, self.position]


class SmallEStep:
    """The network in evaluation, one column at a time, with weights fused when it is made.

    `dtype` is that of the large matrices; all else, the memories above all, stays float32.
    """

    def __init__(self, model: SmallE, dtype: torch.dtype = torch.float32) -> None:
        rnn, attention = model.attentive_rnn, model.attentive_rnn.cross_att
        self.encoder = [BlockStep(block, dtype) for block in rnn.encoder]  # type: ignore[arg-type]
        self.pos_net = BlockStep(attention.pos_net, dtype)
        self.decoder = [BlockStep(block, dtype) for block in rnn.decoder]  # type: ignore[arg-type]
        self.query = Affine(attention.q.weight, attention.q.bias, dtype)
        self.query_norm = (attention.ln_q.weight.detach(), attention.ln_q.bias.detach())
        self.freqs = attention.rotary.freqs if attention.rotary is not None else None
        self.config = model.config
        self.table = model.rvq_embed.weight.detach().flatten(0, 1)
        self.table_start = torch.arange(model.config.codebooks, device=self.table.device) * model.config.vocabulary
        self.head = Affine(model.logits_head.weight.flatten(0, 1), None, dtype)

    def __call__(
        self, column: Int[Tensor, "b q"], state: StepState
    ) -> tuple[Float[Tensor, "b q c"], Float[Tensor, "b j"]]:
        """Logits of the next column and the alignment A2 at this one; `state` is changed in place."""
        x = self.table[column + self.table_start].sum(1)
        blocks = iter(state.blocks)
        for block in self.encoder:
            x = block(x, next(blocks))
        q = F.layer_norm(self.query(x), (self.config.width,), *self.query_norm, NORM_EPS)
        if self.freqs is not None:
            q = rotate(q, state.position[:, None] * self.freqs)
        selected = torch.baddbmm(state.bias, q[:, None], state.keys).softmax(-1)
        moved = self.pos_net((selected @ state.positions)[:, 0], next(blocks))
        alignment = torch.baddbmm(state.bias, moved[:, None], state.position_keys).softmax(-1)
        x = x + (alignment @ state.values)[:, 0]
        for block in self.decoder:
            x = block(x, next(blocks))
        state.position = state.position + 1
        return self.head(x).view(x.shape[0], self.config.codebooks, -1), alignment[:, 0]


class CapturedStep:
    """A `SmallEStep` for one batch as a CUDA graph: one launch in the place of hundreds.

    The graph works on the tensors of `state` where they lie; what a call returns, the next call overwrites.
    """

    def __init__(self, step: SmallEStep, state: StepState) -> None:
        batch, device = len(state.position), state.position.device
        self.state = state
        self.step = step  # the graph reads its fused weights where they lie: freed, they would be overwritten
        self.column = torch.full((batch, step.config.codebooks), BOS, device=device)
        aside = torch.cuda.Stream(device)
        aside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(aside):
            scratch = state.select(torch.arange(batch, device=device))
            for _ in range(GRAPH_WARM_UP_STEPS):
                step(self.column, scratch)
        torch.cuda.current_stream(device).wait_stream(aside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            moved = replace(state, blocks=[replace(block) for block in state.blocks])
            self.logits, self.alignment = step(self.column, moved)
            for there, now in zip(state.moving(), moved.moving(), strict=True):
                if now is not there:
                    there.copy_(now)

    def __call__(
        self, column: Int[Tensor, "b q"], state: StepState
    ) -> tuple[Float[Tensor, "b q c"], Float[Tensor, "b j"]]:
        assert state is self.state
        self.column.copy_(column)
        self.graph.replay()
        return self.logits, self.alignment


def prefill(
    model: SmallE,
    text_ids: Int[Tensor, "b j"],
    text_mask: Bool[Tensor, "b j"],
    columns: Sequence[Int[Tensor, "_ q"]],
    states: Sequence[Float[Tensor, "b n k v"]] | None = None,
) -> tuple[Float[Tensor, "b q c"], Float[Tensor, "b j"], StepState]:
    """Reads texts and prompt columns in parallel: logits and alignment at each row's last column, and its state.

    `states` are the start memories of the encoder and decoder blocks, zeros if None.
    """
    audio, audio_mask = pad_rows(columns)
    lengths = audio_mask.sum(1)
    memory = model.read_text(text_ids, text_mask)
    x, attention, blocks = model.attentive_rnn(model.embed_audio(audio), memory, lengths, states=states)
    rows = torch.arange(len(columns), device=audio.device)
    logits = model.head(x[rows, lengths - 1][:, None])[:, 0]
    return logits, attention[rows, 1, lengths - 1], StepState.start(memory, blocks, lengths)


class Decoding:
    """A batch of utterances under way; arguments as for `generate`, at least one text.

    finished: what is complete, by number of the text.
    steps: columns drawn up to now.
    """

    def __init__(
        self,
        model: SmallE,
        texts: Sequence[Sequence[int]],
        prompts: Sequence[VoicePrompt | None],
        seeds: Sequence[int],
        sampling: Sampling,
    ) -> None:
        voices = [prompt or _silent(model) for prompt in prompts]
        for row, (text, prompt) in enumerate(zip(texts, voices, strict=True)):
            _check(model, row, text, prompt)
        self.sampling, self.codebooks = sampling, model.config.codebooks
        self.steps = 0
        self.finished: dict[int, Utterance] = {}
        self._targets = [
            slice(1 + len(p.text_ids), 1 + len(p.text_ids) + len(t)) for t, p in zip(texts, voices, strict=True)
        ]
        training = model.training
        model.eval()
        try:
            with torch.inference_mode():
                self._begin(model, texts, voices, seeds)
        finally:
            model.train(training)

    def _begin(
        self, model: SmallE, texts: Sequence[Sequence[int]], prompts: Sequence[VoicePrompt], seeds: Sequence[int]
    ) -> None:
        device, codebooks, guard = model.rvq_embed.weight.device, self.codebooks, self.sampling.end_guard_units
        text_ids, text_mask = pad_rows(
            [torch.tensor([BOS, *p.text_ids, *t, EOS], device=device) for t, p in zip(texts, prompts, strict=True)]
        )
        delayed = [delay(torch.from_numpy(p.codes.astype(np.int64)).to(device)) for p in prompts]
        known = [p.codes.shape[1] + 1 for p in prompts]  # columns in which every codebook is known
        heard = [d[:n] for d, n in zip(delayed, known, strict=True)]
        states = stacked([p.state for p in prompts], device)
        self._logits, self._alignment, self._state = prefill(model, text_ids, text_mask, heard, states)
        step = SmallEStep(model, getattr(torch, self.sampling.precision))
        self._step = CapturedStep(step, self._state) if device.type == "cuda" else step

        # In the first q - 1 new columns the late codebooks are still inside the prompt (or before their first code).
        self._late = torch.stack([d[n : n + codebooks - 1] for d, n in zip(delayed, known, strict=True)])
        limits = [self.sampling.limit(len(text)) for text in texts]
        self._longest = max(limits) + codebooks
        noise = [_uniform(s, n + codebooks, self._longest, codebooks) for s, n in zip(seeds, limits, strict=True)]
        self._noise = torch.stack(noise).to(device)
        self._rows = list(range(len(texts)))  # which text each row of the tensors is of
        self._ended = torch.tensor(limits, device=device)  # the step at which codebook 0 ends: the number of frames
        self._stopped = torch.zeros_like(self._ended, dtype=torch.bool)
        self._reached = torch.zeros_like(self._ended)
        last = [min(guard, len(text)) for text in texts]
        self._may_end_from = (text_mask.sum(1) - 1 - torch.tensor(last, device=device)) * bool(guard)
        self._behind = torch.arange(codebooks, device=device)
        self._columns = torch.zeros(len(texts), self._longest, codebooks, dtype=torch.int64, device=device)
        self._alignments = torch.zeros(len(texts), self._longest, text_ids.shape[1], device=device)

    @torch.inference_mode()
    def advance(self) -> bool:
        """Draws one more column of every row; false once all rows are finished."""
        now, codebooks = self.steps, self.codebooks
        self._reached = torch.maximum(self._reached, self._alignment.argmax(-1))
        self._alignments[:, now] = self._alignment
        may_end = self._reached >= self._may_end_from if now else torch.zeros_like(self._stopped)
        column = _draw(self._logits, may_end, self._noise[:, now], self.sampling)
        if now < codebooks - 1:
            column[:, now + 1 :] = self._late[:, now, now + 1 :]
        ends = (column[:, 0] == EOS) & (self._ended >= now)
        self._stopped |= ends
        self._ended.masked_fill_(ends, now)
        column.masked_fill_(self._ended[:, None] + self._behind <= now, EOS)
        self._columns[:, now] = column
        self.steps = now + 1
        captured = isinstance(self._step, CapturedStep)
        if not captured or now % GRAPH_CHECK_STEPS == 0 or self.steps == self._longest:
            done = self._ended <= now - max(codebooks - 2, 0)  # the last codebook has given its last code
            if bool(done.any()):
                left = (~done).nonzero()[:, 0]
                if len(left) == 0:
                    self._finish(range(len(self._rows)))
                    return False
                if not captured and len(left) <= FEWER_ROWS * len(done):
                    self._finish(done.nonzero()[:, 0].tolist())
                    self._keep(left)
                    column = column[left]
        self._logits, self._alignment = self._step(column, self._state)
        return True

    def codes(self, text: int) -> Int16[np.ndarray, "q t"]:
        """Raw codes of the frames of a text that are complete up to now."""
        if text in self.finished:
            return self.finished[text].codes
        row = self._rows.index(text)
        frames = max(0, min(int(self._ended[row]), self.steps - self.codebooks + 1))
        return _raw_codes(self._columns[row, : frames + self.codebooks - 1])

    def _finish(self, rows: Sequence[int]) -> None:
        for row in rows:
            text, frames = self._rows[row], int(self._ended[row])
            alignment = (
                self._alignments[row, :frames, self._targets[text]].to("cpu", torch.float32).contiguous().numpy()
            )
            codes = _raw_codes(self._columns[row, : frames + self.codebooks - 1])
            self.finished[text] = Utterance(codes, alignment, bool(self._stopped[row]))

    def _keep(self, left: Int[Tensor, "r"]) -> None:
        self._rows = [self._rows[row] for row in left.tolist()]
        self._state = self._state.select(left)
        self._ended, self._stopped, self._reached = self._ended[left], self._stopped[left], self._reached[left]
        self._may_end_from, self._noise, self._late = self._may_end_from[left], self._noise[left], self._late[left]
        self._columns, self._alignments = self._columns[left], self._alignments[left]


def _draw(
    logits: Float[Tensor, "b q c"], may_end: Bool[Tensor, "b"], uniform: Float[Tensor, "b q"], sampling: Sampling
) -> Int[Tensor, "b q"]:
    """One id per codebook: a code, or EOS in codebook 0 where the row may end; the other codebooks end by rule."""
    candidates = logits[..., EOS:]
    candidates[:, 1:, 0] = -torch.inf
    candidates[:, 0, 0].masked_fill_(~may_end, -torch.inf)
    sampled = sampling.sampled_codebooks
    ids = sample_top_k(candidates[:, :sampled], uniform[:, :sampled], sampling.top_k, sampling.temperature)
    if sampled is not None:
        ids = torch.cat((ids, candidates[:, sampled:].argmax(-1)), dim=1)
    return ids + EOS


def _raw_codes(columns: Int[Tensor, "s q"]) -> Int16[np.ndarray, "q t"]:
    return (align(columns) - FIRST_CODE).to("cpu", torch.int16).numpy()


def _uniform(seed: int, steps: int, longest: int, codebooks: int) -> Float[Tensor, "s q"]:
    """All random numbers a row may need, from its own generator on the CPU; zeros, never read, beyond its steps."""
    drawn = torch.rand(steps, codebooks, generator=torch.Generator().manual_seed(seed))
    return F.pad(drawn, (0, 0, 0, longest - steps))


def _silent(model: SmallE) -> VoicePrompt:
    return VoicePrompt((), np.zeros((model.config.codebooks, 0), dtype=np.int16))


def _check(model: SmallE, row: int, text: Sequence[int], prompt: VoicePrompt) -> None:
    config = model.config
    ids = [*prompt.text_ids, *text]
    if not text:
        raise InputError(f"text {row} is empty", "leave it out or give it units")
    if min(ids) <= EOS or max(ids) >= config.text_vocabulary:
        raise InputError(
            f"text {row} has ids outside {EOS + 1}..{config.text_vocabulary - 1}", "use this model's text units"
        )
    if config.positions == "convolutional" and len(ids) + 2 > config.position_rows:
        raise InputError(f"text {row} has more than {config.position_rows - 2} units", "split it")
    codes = prompt.codes
    if codes.shape[0] != config.codebooks or (
        codes.size and not 0 <= codes.min() <= codes.max() < config.codebook_size
    ):
        raise InputError(
            f"prompt {row} has codes {codes.shape} that are not {config.codebooks} codebooks of {config.codebook_size}",
            "encode the voice with this model's codec",
        )
