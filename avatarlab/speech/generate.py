"""Speech tokens from text: batched, prompted, one step at a time (spec small-e, section 6).

A row of a batch is one sentence with its own voice prompt, seed and length. Texts and prompts are padded and masked,
every row draws from its own generator, and rows that have ended leave the batch: a row does not depend on the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Int, Int16
from torch import Tensor

from avatarlab.errors import InputError, SettingsError
from avatarlab.speech.delay import align, delay
from avatarlab.speech.gla import NORM_EPS, BlockStep, GLAState
from avatarlab.speech.small_e import BOS, EOS, FIRST_CODE, SmallE, TextMemory, pad_rows, rotate


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn and when a row must end.

    top_k, temperature: keep the top_k largest logits, then sharpen (below 1) or flatten them; top_k = 1 is greedy.
    sampled_codebooks: only so many codebooks are drawn, the others take their largest logit (1 in the published
        models' own inference); None draws all.
    max_steps, max_steps_per_unit: a row that has not ended after min(max_steps, max_steps_per_unit * (units + 4))
        steps is cut, with `stopped=False`.
    end_guard_units: the end is forbidden until the alignment has reached one of the last so many units; 0 turns it off.
    """

    top_k: int = 20
    temperature: float = 0.8
    sampled_codebooks: int | None = None
    max_steps: int = 2000
    max_steps_per_unit: float = 12.0
    end_guard_units: int = 3

    def __post_init__(self) -> None:
        if self.top_k < 1 or not self.temperature > 0:
            raise SettingsError(
                f"top_k {self.top_k}, temperature {self.temperature}", "top_k is at least 1, temperature above 0"
            )
        if self.max_steps < 1 or not self.max_steps_per_unit > 0 or self.end_guard_units < 0:
            raise SettingsError("a sampling limit is zero or negative", "give positive limits")

    def limit(self, units: int) -> int:
        """Most steps that a text of so many units may last."""
        return max(1, min(self.max_steps, ceil(self.max_steps_per_unit * (units + 4))))


@dataclass(frozen=True, eq=False)
class VoicePrompt:
    """What a voice said and how: text ids without BOS and EOS, and the codec's raw codes."""

    text_ids: tuple[int, ...]
    codes: Int16[np.ndarray, "q t"]


@dataclass(frozen=True, eq=False)
class Utterance:
    """Raw codes; the alignment A2 of every step over the target's units; whether the model ended by itself.

    `score` is `monotonicity_penalty`: of several candidates the lowest reads the text most evenly.
    """

    codes: Int16[np.ndarray, "q t"]
    alignment: Float32[np.ndarray, "t j"]
    stopped: bool
    score: float


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
    voices = [prompt or _silent(model) for prompt in prompts]
    for row, (text, prompt) in enumerate(zip(texts, voices, strict=True)):
        _check(model, row, text, prompt)
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            return _generate(model, texts, voices, seeds, sampling)
    finally:
        model.train(training)


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


def monotonicity_penalty(attention: Float[Tensor, "t j"]) -> float:
    """How often the expected text position e falls back or stands still: sum of max(0, e_i - e_{i+1} + 0.01 / t).

    After Regotron (arXiv 2204.13437), as in spec 6.4.
    """
    expected = attention @ torch.arange(attention.shape[1], dtype=attention.dtype, device=attention.device)
    return float((expected[:-1] - expected[1:] + 0.01 / max(1, len(expected))).clamp(min=0).sum())


@dataclass
class StepState:
    """What a batch carries from step to step: `blocks` in call order, `position` the audio step of every row."""

    blocks: list[GLAState]
    keys: Float[Tensor, "b d j"]
    values: Float[Tensor, "b j d"]
    positions: Float[Tensor, "b j p"]
    position_keys: Float[Tensor, "b p j"]
    bias: Float[Tensor, "b 1 j"]
    position: Int[Tensor, "b"]

    @classmethod
    def start(cls, memory: TextMemory, blocks: list[GLAState], position: Int[Tensor, "b"]) -> "StepState":
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


class SmallEStep:
    """The network in evaluation, one column at a time, with weights fused when it is made."""

    def __init__(self, model: SmallE) -> None:
        rnn, attention = model.attentive_rnn, model.attentive_rnn.cross_att
        self.encoder = [BlockStep(block) for block in rnn.encoder]  # type: ignore[arg-type]
        self.pos_net = BlockStep(attention.pos_net)
        self.decoder = [BlockStep(block) for block in rnn.decoder]  # type: ignore[arg-type]
        self.query = (attention.q.weight.detach(), attention.q.bias.detach())
        self.query_norm = (attention.ln_q.weight.detach(), attention.ln_q.bias.detach())
        self.freqs = attention.rotary.freqs if attention.rotary is not None else None
        self.config = model.config
        self.table = model.rvq_embed.weight.detach().flatten(0, 1)
        self.table_start = torch.arange(model.config.codebooks, device=self.table.device) * model.config.vocabulary
        self.head = model.logits_head.weight.detach().flatten(0, 1)

    def __call__(
        self, column: Int[Tensor, "b q"], state: StepState
    ) -> tuple[Float[Tensor, "b q c"], Float[Tensor, "b j"]]:
        """Logits of the next column and the alignment A2 at this one; `state` is changed in place."""
        x = self.table[column + self.table_start].sum(1)
        blocks = iter(state.blocks)
        for block in self.encoder:
            x = block(x, next(blocks))
        q = F.layer_norm(F.linear(x, *self.query), (self.config.width,), *self.query_norm, NORM_EPS)
        if self.freqs is not None:
            q = rotate(q, state.position[:, None] * self.freqs)
        selected = torch.baddbmm(state.bias, q[:, None], state.keys).softmax(-1)
        moved = self.pos_net((selected @ state.positions)[:, 0], next(blocks))
        alignment = torch.baddbmm(state.bias, moved[:, None], state.position_keys).softmax(-1)
        x = x + (alignment @ state.values)[:, 0]
        for block in self.decoder:
            x = block(x, next(blocks))
        state.position = state.position + 1
        return F.linear(x, self.head).view(x.shape[0], self.config.codebooks, -1), alignment[:, 0]


def prefill(
    model: SmallE, text_ids: Int[Tensor, "b j"], text_mask: Bool[Tensor, "b j"], columns: Sequence[Int[Tensor, "_ q"]]
) -> tuple[Float[Tensor, "b q c"], Float[Tensor, "b j"], StepState]:
    """Reads texts and prompt columns in parallel: logits and alignment at each row's last column, and its state."""
    audio, audio_mask = pad_rows(columns)
    lengths = audio_mask.sum(1)
    memory = model.read_text(text_ids, text_mask)
    x, attention, blocks = model.attentive_rnn(model.embed_audio(audio), memory, lengths)
    rows = torch.arange(len(columns), device=audio.device)
    logits = model.head(x[rows, lengths - 1][:, None])[:, 0]
    return logits, attention[rows, 1, lengths - 1], StepState.start(memory, blocks, lengths)


def _generate(
    model: SmallE,
    texts: Sequence[Sequence[int]],
    prompts: Sequence[VoicePrompt],
    seeds: Sequence[int],
    sampling: Sampling,
) -> list[Utterance]:
    device, codebooks = model.rvq_embed.weight.device, model.config.codebooks
    text_ids, text_mask = pad_rows(
        [torch.tensor([BOS, *p.text_ids, *t, EOS], device=device) for t, p in zip(texts, prompts, strict=True)]
    )
    delayed = [delay(torch.from_numpy(p.codes.astype(np.int64)).to(device)) for p in prompts]
    known = [p.codes.shape[1] + 1 for p in prompts]  # columns in which every codebook is known
    logits, alignment, state = prefill(model, text_ids, text_mask, [d[:n] for d, n in zip(delayed, known, strict=True)])
    step = SmallEStep(model)

    # In the first q - 1 new columns the late codebooks are still inside the prompt (or before their first code).
    late = torch.stack([d[n : n + codebooks - 1] for d, n in zip(delayed, known, strict=True)])
    limits = [sampling.limit(len(text)) for text in texts]
    longest = max(limits) + codebooks
    noise = torch.stack([_uniform(s, n + codebooks, longest, codebooks) for s, n in zip(seeds, limits, strict=True)])
    noise = noise.to(device)
    limit = torch.tensor(limits, device=device)
    may_end_from = (
        text_mask.sum(1) - 1 - torch.tensor([min(sampling.end_guard_units, len(t)) for t in texts], device=device)
    )
    if sampling.end_guard_units == 0:
        may_end_from.zero_()
    reached = torch.zeros_like(limit)
    ended = torch.full_like(limit, longest)  # the step at which codebook 0 ends: the number of frames
    stopped = torch.zeros_like(limit, dtype=torch.bool)
    behind = torch.arange(codebooks, device=device)

    columns = torch.zeros(len(texts), longest, codebooks, dtype=torch.int64, device=device)
    alignments = torch.zeros(len(texts), longest, text_ids.shape[1], device=device)
    frames, finished_itself = torch.zeros_like(limit), torch.zeros_like(stopped)
    rows = torch.arange(len(texts), device=device)
    for now in range(longest):
        reached = torch.maximum(reached, alignment.argmax(-1))
        alignments[rows, now] = alignment
        column = _draw(logits, (reached >= may_end_from) & (now > 0), noise[:, now], sampling)
        if now < codebooks - 1:
            column[:, now + 1 :] = late[:, now, now + 1 :]
        running = ended == longest
        ends = running & ((column[:, 0] == EOS) | (limit <= now))
        stopped = stopped | (ends & (column[:, 0] == EOS))
        ended = ended.masked_fill(ends, now)
        column = column.masked_fill(ended[:, None] + behind <= now, EOS)
        columns[rows, now] = column
        done = ended + max(codebooks - 2, 0) <= now  # the last codebook has given its last code
        if bool(done.any()):
            frames[rows], finished_itself[rows] = ended, stopped
            left = (~done).nonzero()[:, 0]
            if len(left) == 0:
                break
            if len(left) <= 0.75 * len(done):
                rows, limit, may_end_from, reached = rows[left], limit[left], may_end_from[left], reached[left]
                ended, stopped, noise, late, column = ended[left], stopped[left], noise[left], late[left], column[left]
                state = state.select(left)
        logits, alignment = step(column, state)
    return [
        _utterance(
            columns[row, : int(n) + codebooks - 1],
            alignments[row, : int(n)],
            slice(1 + len(prompts[row].text_ids), 1 + len(prompts[row].text_ids) + len(texts[row])),
            bool(finished_itself[row]),
        )
        for row, n in enumerate(frames)
    ]


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


def _utterance(columns: Int[Tensor, "s q"], attention: Float[Tensor, "t i"], target: slice, stopped: bool) -> Utterance:
    codes = (align(columns) - FIRST_CODE).to("cpu", torch.int16).numpy()
    alignment = attention[:, target].to("cpu", torch.float32).contiguous().numpy()
    return Utterance(codes, alignment, stopped, monotonicity_penalty(attention))


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
