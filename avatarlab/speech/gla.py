"""Gated linear attention: the operator in three forms that agree, and the block built on it (spec small-e, section 3).

Per head the memory is a matrix S of shape (k, v), zero at the start:

    S_t = diag(exp a_t) S_{t-1} + k_t v_t^T        o_t = k^{-1/2} S_t^T q_t

`recurrent_gla` is that line and is the specification. `chunked_gla` computes the same numbers in parallel over time
and is what training and prefill use. `MixingBlock` takes this or another time mixer (`rwkv6`, `mamba2`); `BlockStep`
holds the weights of a block fused for one step at a time.

Extra letters in the shapes of this file: n heads, k and v channels per head of keys and values, c convolution channels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

NORM_EPS = 1e-5
DECAY_NORMALISER = 16.0
DECAY_RANK = 16
CONV_WIDTH = 4
CHUNK = 32
SAFE_CHUNK_DECAY = (
    80.0  # e^40 on either side of a chunk's middle keeps 25 orders of magnitude below overflow in float32
)


def recurrent_gla(
    q: Float[Tensor, "b t n k"],
    k: Float[Tensor, "b t n k"],
    v: Float[Tensor, "b t n v"],
    log_decay: Float[Tensor, "b t n k"],
    state: Float[Tensor, "b n k v"] | None = None,
) -> tuple[Float[Tensor, "b t n v"], Float[Tensor, "b n k v"]]:
    """The definition, step after step (spec 3.2): the old memory decays, the new pair is added, then it is read."""
    batch, steps, heads, width = q.shape
    if state is None:
        state = q.new_zeros(batch, heads, width, v.shape[-1])
    outputs = []
    for t in range(steps):
        state = state * log_decay[:, t].exp()[..., None] + k[:, t, :, :, None] * v[:, t, :, None, :]
        outputs.append((q[:, t, :, :, None] * state).sum(-2) * width**-0.5)
    return torch.stack(outputs, dim=1), state


def chunked_gla(
    q: Float[Tensor, "b t n k"],
    k: Float[Tensor, "b t n k"],
    v: Float[Tensor, "b t n v"],
    log_decay: Float[Tensor, "b t n k"],
    state: Float[Tensor, "b n k v"] | None = None,
    chunk: int = CHUNK,
) -> tuple[Float[Tensor, "b t n v"], Float[Tensor, "b n k v"]]:
    """`recurrent_gla` by matrix products within chunks and one update between them (spec 3.3).

    Where no channel forgets more than `SAFE_CHUNK_DECAY` within a chunk, the pairwise decay e^{b_t - b_s} is split into
    two factors about the chunk's middle; otherwise the differences are formed before the exponential, which no log
    decay <= 0 can overflow but which costs a (chunk, chunk, k) tensor per chunk.

    On a GPU with flash-linear-attention installed its kernel does the same; products are then of tf32 precision.
    """
    if q.is_cuda and (kernel := _gla_kernel()) is not None:
        # The kernel wants its start state in float32 and gives outputs in the type of q.
        start = None if state is None else state.float()
        return kernel(q, k, v, log_decay, initial_state=start, output_final_state=True)
    steps, width = q.shape[1], q.shape[3]
    padding = -steps % chunk

    def chunks(x: Tensor) -> Tensor:  # (b, t, n, x) -> (b, n, chunks, chunk, x)
        x = F.pad(x, (0, 0, 0, 0, 0, padding)) if padding else x
        return x.unflatten(1, (-1, chunk)).permute(0, 3, 1, 2, 4)

    q, k, v, log_decay = chunks(q * width**-0.5), chunks(k), chunks(v).contiguous(), chunks(log_decay)
    decay = log_decay.double().cumsum(-2)  # float32 would lose digits of small differences between large sums
    total = decay[..., -1:, :]
    later = torch.ones(chunk, chunk, dtype=torch.bool, device=q.device).triu(1)
    if bool(total.detach().amin() > -SAFE_CHUNK_DECAY):
        # Any constant reference cancels between the factors, so its gradient is zero and it is detached.
        middle = decay[..., chunk // 2 : chunk // 2 + 1, :].detach()
        from_middle = (decay - middle).to(q.dtype)
        read, write = q * from_middle.exp(), k * (-from_middle).exp()
        weights = (read @ write.transpose(-1, -2)).masked_fill(later, 0.0)
        into, out_of = middle, total - middle
    else:
        difference = (decay.unsqueeze(-2) - decay.unsqueeze(-3)).to(q.dtype).masked_fill(later[..., None], -torch.inf)
        weights = torch.einsum("...tk,...sk,...tsk->...ts", q, k, difference.exp())
        read = q * decay.to(q.dtype).exp()
        write = k * (total - decay).to(q.dtype).exp()
        into, out_of = torch.zeros_like(total), torch.zeros_like(total)
    additions = (write * out_of.to(q.dtype).exp()).transpose(-1, -2) @ v  # (b, n, chunks, k, v)
    keep = total.to(q.dtype).exp().transpose(-1, -2)
    carried = [] if state is not None else [torch.zeros_like(additions[:, :, 0])]
    if state is not None:
        carried.append(state)
    for index in range(additions.shape[2]):
        carried.append(carried[-1] * keep[:, :, index] + additions[:, :, index])
    before = torch.stack(carried[:-1], dim=2) * into.to(q.dtype).exp().transpose(-1, -2)
    output = weights @ v + read @ before  # (b, n, chunks, chunk, v)
    return output.permute(0, 2, 3, 1, 4).flatten(1, 2)[:, :steps], carried[-1]


@cache
def _gla_kernel() -> Callable[..., tuple[Tensor, Tensor]] | None:
    """`chunk_gla` of flash-linear-attention (MIT), or None where it is not installed."""
    try:
        from fla.ops.gla import chunk_gla
    except ImportError:
        return None
    return chunk_gla


def log_decay(z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Logarithm of the decay of every key channel: logsigmoid(z) / 16, so about -0.043 at z = 0 (spec 3.2)."""
    return F.logsigmoid(z) / DECAY_NORMALISER


class _CausalDepthwise(torch.autograd.Function):
    """Convolution by shifted sums: autograd of the same sums fills a zero tensor per tap, twice the time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        y = x * weight[:, -1]
        for shift in range(1, min(weight.shape[1], x.shape[1])):
            y[:, shift:].addcmul_(x[:, :-shift], weight[:, -1 - shift])
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        steps = x.shape[1]
        x_gradient, weight_gradient = gradient * weight[:, -1], torch.zeros_like(weight)
        for shift in range(min(weight.shape[1], steps)):
            if shift:
                x_gradient[:, :-shift].addcmul_(gradient[:, shift:], weight[:, -1 - shift])
            weight_gradient[:, -1 - shift] = (gradient[:, shift:] * x[:, : steps - shift]).sum((0, 1))
        return x_gradient, weight_gradient


def short_convolution(
    x: Float[Tensor, "b t c"], weight: Float[Tensor, "c w"], bias: Float[Tensor, "c"] | None = None
) -> Float[Tensor, "b t c"]:
    """Causal depthwise convolution, zeros before the start, last tap on this step, then SiLU (spec 3.2, point 2)."""
    y = _CausalDepthwise.apply(x, weight)
    return F.silu(y if bias is None else y + bias)


class SwiGLU(nn.Module):
    """Gated feed-forward with hidden width floor(4 d / 3): first half gate, second half value (spec 1.2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = 4 * width // 3
        self.p_in = nn.Linear(width, 2 * hidden)
        self.p_out = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        gate, value = self.p_in(x).chunk(2, dim=-1)
        return self.p_out(F.silu(gate) * value)


class HeadNorm(nn.Module):
    """RMS norm of every head with one weight vector shared by all heads, times SiLU of the gate (spec 3.2, point 5)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "*b v"], gate: Float[Tensor, "*b v"]) -> Float[Tensor, "*b v"]:
        return F.rms_norm(x, (x.shape[-1],), self.weight, NORM_EPS) * F.silu(gate)


@dataclass
class MixerState:
    """What one block remembers between steps: the memory matrix, and the last inputs of what looks a few steps back.

    All time mixers use it: `tail` serves the short convolutions of GLA and Mamba2 and the token shift of RWKV6.
    """

    matrix: Float[Tensor, "b n k v"]
    tail: Float[Tensor, "b p c"] | None

    def select(self, rows: Int[Tensor, "r"]) -> "MixerState":
        return MixerState(self.matrix[rows], None if self.tail is None else self.tail[rows])


@runtime_checkable
class MixerStep(Protocol):
    """A time mixer in evaluation for one step at a time, its weights fused when it is made."""

    def initial_state(self, batch: int) -> MixerState: ...

    def __call__(self, u: Float[Tensor, "b d"], state: MixerState) -> Float[Tensor, "b d"]:
        """One step; `state` is changed in place."""
        ...


@runtime_checkable
class TimeMixer(Protocol):
    """What mixes over time in a `MixingBlock`: a module whose parallel form and step form compute the same."""

    def __call__(
        self,
        u: Float[Tensor, "b t d"],
        lengths: Int[Tensor, "b"] | None = None,
        state: Float[Tensor, "b n k v"] | None = None,
    ) -> tuple[Float[Tensor, "b t d"], MixerState]:
        """The whole sequence at once, from the memory `state` (zeros if None).

        With `lengths` the returned state is each row's state after that many steps.
        """
        ...

    def step(self, dtype: torch.dtype = torch.float32) -> MixerStep:
        """With its large matrices in this type."""
        ...


class GatedLinearAttention(nn.Module):
    """Time mixing (spec 3.2)."""

    def __init__(self, width: int, heads: int, expand_k: float, expand_v: float, short_conv: bool) -> None:
        super().__init__()
        self.heads = heads
        self.key_width, self.value_width = round(width * expand_k), round(width * expand_v)
        self.q_proj = nn.Linear(width, self.key_width, bias=False)
        self.k_proj = nn.Linear(width, self.key_width, bias=False)
        self.v_proj = nn.Linear(width, self.value_width, bias=False)
        self.g_proj = nn.Linear(width, self.value_width, bias=False)
        self.gk_proj = nn.Sequential(nn.Linear(width, DECAY_RANK, bias=False), nn.Linear(DECAY_RANK, self.key_width))
        self.o_proj = nn.Linear(self.value_width, width, bias=False)
        self.g_norm_swish_gate = HeadNorm(self.value_width // heads)
        self.short_conv = short_conv
        if short_conv:
            self.q_conv1d = depthwise(self.key_width)
            self.k_conv1d = depthwise(self.key_width)
            self.v_conv1d = depthwise(self.value_width)
        for module in (self.q_proj, self.k_proj, self.v_proj, self.g_proj, self.o_proj, *self.gk_proj):
            nn.init.xavier_uniform_(module.weight, gain=2**-2.5)
        nn.init.zeros_(self.gk_proj[1].bias)  # type: ignore[arg-type]

    def forward(
        self,
        u: Float[Tensor, "b t d"],
        lengths: Int[Tensor, "b"] | None = None,
        state: Float[Tensor, "b n k v"] | None = None,
    ) -> tuple[Float[Tensor, "b t d"], MixerState]:
        # One product for four projections: one pass over u forward, one over its gradient backward.
        mixed = F.linear(u, torch.cat([p.weight for p in (self.q_proj, self.k_proj, self.v_proj, self.g_proj)]))
        qkv, gate = mixed.split([2 * self.key_width + self.value_width, self.value_width], dim=-1)
        tail = last_steps(qkv, lengths, CONV_WIDTH - 1) if self.short_conv else None
        if self.short_conv:
            qkv = short_convolution(qkv, self.conv_weight())
        decay = log_decay(self.gk_proj(u))
        q, k, v = qkv.split([self.key_width, self.key_width, self.value_width], dim=-1)
        if lengths is not None:  # steps beyond a row's length leave its state as it is (spec 3.3, zero padding)
            inside = within(lengths, u.shape[1])
            k, decay = k * inside, decay * inside
        q, k, v, decay = (split_heads(x, self.heads) for x in (q, k, v, decay))
        output, matrix = chunked_gla(q, k, v, decay, state)
        output = self.g_norm_swish_gate(output, split_heads(gate, self.heads))
        return self.o_proj(output.flatten(2)), MixerState(matrix, tail)

    def conv_weight(self) -> Float[Tensor, "c w"]:
        """The kernels of the three short convolutions, queries then keys then values."""
        return torch.cat([p.weight for p in (self.q_conv1d, self.k_conv1d, self.v_conv1d)])[:, 0]

    def step(self, dtype: torch.dtype = torch.float32) -> "GLAStep":
        return GLAStep(self, dtype)


class MixingBlock(nn.Module):
    """x + TimeMix(LN1 x), then x + SwiGLU(LN2 x), then dropout (spec 3.1)."""

    def __init__(self, width: int, mixer: TimeMixer, dropout: float = 0.0) -> None:
        super().__init__()
        self.tmix = mixer
        self.cmix = SwiGLU(width)
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.dropout = dropout

    def forward(
        self,
        x: Float[Tensor, "b t d"],
        lengths: Int[Tensor, "b"] | None = None,
        state: Float[Tensor, "*_ n k v"] | None = None,
    ) -> tuple[Float[Tensor, "b t d"], MixerState]:
        """Output and final state; `state` is the memory before the first step, one for all rows or one per row."""
        if state is not None:
            state = state.expand(len(x), *state.shape[-3:])
        mixed, final = self.tmix(self.norm1(x), lengths, state)
        x = x + mixed
        x = x + self.cmix(self.norm2(x))
        return F.dropout(x, self.dropout, self.training), final


class Affine:
    """x W + b for a few rows, where reading W is what takes the time.

    W lies in memory with a row per input: the product of one row then runs at memory bandwidth on a CPU, 1.7 times
    faster than with a row per output. Its type is free, what goes in and comes out is float32.
    """

    def __init__(self, weight: Float[Tensor, "o i"], bias: Float[Tensor, "o"] | None, dtype: torch.dtype) -> None:
        self.weight = weight.detach().T.to(dtype).contiguous()
        self.bias = None if bias is None else bias.detach().to(dtype)

    def __call__(self, x: Float[Tensor, "b i"]) -> Float[Tensor, "b o"]:
        x = x.to(self.weight.dtype)
        return (x @ self.weight if self.bias is None else torch.addmm(self.bias, x, self.weight)).float()


class GLAStep:
    """`GatedLinearAttention` for one step at a time (spec 3.4).

    The five projections are one matrix: the two thin matrices of the decay are multiplied out, and the scale k^{-1/2}
    moves into the epsilon of the norm that follows.
    """

    def __init__(self, mix: GatedLinearAttention, dtype: torch.dtype = torch.float32) -> None:
        self.heads = mix.heads
        self.key_width, self.value_width = mix.key_width, mix.value_width
        down, up = mix.gk_proj[0].weight, mix.gk_proj[1]
        projections = [p.weight for p in (mix.q_proj, mix.k_proj, mix.v_proj, mix.g_proj)]
        projection = torch.cat([*projections, up.weight @ down])  # type: ignore[operator]
        silent = projection.new_zeros(projection.shape[0] - self.key_width)
        self.projection = Affine(projection, torch.cat([silent, up.bias]), dtype)  # type: ignore[list-item]
        self.conv = mix.conv_weight().T.contiguous().detach() if mix.short_conv else None  # (w, c)
        self.output = Affine(mix.o_proj.weight, None, dtype)
        self.head_norm = mix.g_norm_swish_gate.weight.detach()
        self.head_eps = NORM_EPS * (self.key_width // self.heads)

    def initial_state(self, batch: int) -> MixerState:
        k, v = self.key_width // self.heads, self.value_width // self.heads
        tail = None
        if self.conv is not None:
            tail = self.conv.new_zeros(batch, CONV_WIDTH - 1, self.conv.shape[1])
        return MixerState(self.head_norm.new_zeros(batch, self.heads, k, v), tail)

    def __call__(self, u: Float[Tensor, "b d"], state: MixerState) -> Float[Tensor, "b d"]:
        batch, heads, kw, vw = u.shape[0], self.heads, self.key_width, self.value_width
        qkv, gate, z = self.projection(u).split([2 * kw + vw, vw, kw], dim=1)
        if self.conv is not None:
            assert state.tail is not None
            window = torch.cat((state.tail, qkv.unsqueeze(1)), dim=1)
            state.tail = window[:, 1:]
            qkv = F.silu((window * self.conv).sum(1))
        q, k, v = qkv.split([kw, kw, vw], dim=1)
        state.matrix.mul_(log_decay(z).exp_().view(batch, heads, -1, 1))
        state.matrix.addcmul_(k.reshape(batch, heads, -1, 1), v.reshape(batch, heads, 1, -1))
        read = torch.bmm(q.reshape(batch * heads, 1, -1), state.matrix.flatten(0, 1))
        read = F.rms_norm(read, (vw // heads,), self.head_norm, self.head_eps).view(batch, vw)
        return self.output(read * F.silu(gate))


class BlockStep:
    """A `MixingBlock` in evaluation for one step at a time, its large matrices in `dtype`."""

    def __init__(self, block: MixingBlock, dtype: torch.dtype = torch.float32) -> None:
        cmix = block.cmix
        self.mix = block.tmix.step(dtype)
        self.width = block.norm1.weight.shape[0]
        self.norm1 = (block.norm1.weight.detach(), block.norm1.bias.detach())
        self.norm2 = (block.norm2.weight.detach(), block.norm2.bias.detach())
        self.p_in = Affine(cmix.p_in.weight, cmix.p_in.bias, dtype)
        self.p_out = Affine(cmix.p_out.weight, cmix.p_out.bias, dtype)

    def initial_state(self, batch: int) -> MixerState:
        return self.mix.initial_state(batch)

    def __call__(self, x: Float[Tensor, "b d"], state: MixerState) -> Float[Tensor, "b d"]:
        """One step; `state` is changed in place."""
        x = x + self.mix(F.layer_norm(x, (self.width,), *self.norm1, NORM_EPS), state)
        gate, value = self.p_in(F.layer_norm(x, (self.width,), *self.norm2, NORM_EPS)).chunk(2, dim=1)
        return x + self.p_out(F.silu(gate) * value)


def depthwise(channels: int, bias: bool = False) -> nn.Conv1d:
    """The parameters of a `short_convolution`."""
    return nn.Conv1d(channels, channels, CONV_WIDTH, groups=channels, bias=bias)


def within(lengths: Int[Tensor, "b"], steps: int) -> Bool[Tensor, "b t 1"]:
    """Which of so many steps belong to each row."""
    return (torch.arange(steps, device=lengths.device) < lengths[:, None])[..., None]


def split_heads(x: Float[Tensor, "b t d"], heads: int) -> Float[Tensor, "b t n v"]:
    return x.unflatten(-1, (heads, -1))


def last_steps(x: Float[Tensor, "b t c"], lengths: Int[Tensor, "b"] | None, count: int) -> Float[Tensor, "b p c"]:
    """The last `count` steps of every row, zeros where the row is shorter than that."""
    padded = F.pad(x, (0, 0, count, 0))
    if lengths is None:
        return padded[:, padded.shape[1] - count :]
    index = lengths[:, None] + torch.arange(count, device=x.device)
    return padded.gather(1, index[..., None].expand(-1, -1, x.shape[2]))
