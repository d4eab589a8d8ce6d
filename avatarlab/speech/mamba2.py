"""Mamba2 time mixing (Dao and Gu, arXiv 2405.21060): a state space whose decay is one number per head and step.

Per head the memory is a matrix S of shape (k, v), with key B and query C shared by all heads and a step width dt > 0:

    S_t = exp(a_t) S_{t-1} + B_t (dt_t x_t)^T        y_t = S_t^T C_t + D x_t,        a_t = -exp(A) dt_t

`recurrent_ssd` is that line (without the D x_t) and is the specification. Letters of the shapes as in `gla`.
"""

from math import log

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from avatarlab.speech.gla import (
    CHUNK,
    CONV_WIDTH,
    NORM_EPS,
    Affine,
    MixerState,
    depthwise,
    last_steps,
    short_convolution,
    split_heads,
    within,
)

SHORTEST_STEP, LONGEST_STEP = 1e-3, 1e-1
LARGEST_RATE = 16.0


def recurrent_ssd(
    queries: Float[Tensor, "b t k"],
    keys: Float[Tensor, "b t k"],
    values: Float[Tensor, "b t n v"],
    log_decay: Float[Tensor, "b t n"],
    state: Float[Tensor, "b n k v"] | None = None,
) -> tuple[Float[Tensor, "b t n v"], Float[Tensor, "b n k v"]]:
    """The definition, step after step: the old memory decays, the new pair is added, then it is read."""
    batch, steps, heads, width = values.shape
    if state is None:
        state = values.new_zeros(batch, heads, keys.shape[-1], width)
    outputs = []
    for t in range(steps):
        state = state * log_decay[:, t, :, None, None].exp() + keys[:, t, None, :, None] * values[:, t, :, None]
        outputs.append((queries[:, t, None, :, None] * state).sum(-2))
    return torch.stack(outputs, dim=1), state


def chunked_ssd(
    queries: Float[Tensor, "b t k"],
    keys: Float[Tensor, "b t k"],
    values: Float[Tensor, "b t n v"],
    log_decay: Float[Tensor, "b t n"],
    state: Float[Tensor, "b n k v"] | None = None,
    chunk: int = CHUNK,
) -> tuple[Float[Tensor, "b t n v"], Float[Tensor, "b n k v"]]:
    """`recurrent_ssd` by matrix products within chunks and one update between them (section 6 of the paper).

    No exponent is above zero, so no decay overflows.
    """
    steps = values.shape[1]

    def chunks(x: Tensor) -> Tensor:  # (b, t, ...) -> (b, chunks, chunk, ...)
        return F.pad(x, (0, 0) * (x.ndim - 2) + (0, -steps % chunk)).unflatten(1, (-1, chunk))

    queries, keys = chunks(queries)[:, :, None], chunks(keys)[:, :, None]  # (b, chunks, 1, chunk, k)
    values = chunks(values).transpose(2, 3)  # (b, chunks, n, chunk, v)
    decay = chunks(log_decay).transpose(2, 3).double().cumsum(-1)[..., None]  # (b, chunks, n, chunk, 1)
    total = decay[..., -1:, :]
    later = torch.ones(chunk, chunk, dtype=torch.bool, device=values.device).triu(1)
    between = (decay - decay.transpose(-1, -2)).masked_fill(later, -torch.inf).to(values.dtype).exp()
    weights = (queries @ keys.transpose(-1, -2)) * between
    additions = keys.transpose(-1, -2) @ (values * (total - decay).to(values.dtype).exp())  # (b, chunks, n, k, v)
    keep = total.to(values.dtype).exp()
    carried = [torch.zeros_like(additions[:, 0]) if state is None else state]
    for index in range(additions.shape[1]):
        carried.append(carried[-1] * keep[:, index] + additions[:, index])
    before = torch.stack(carried[:-1], dim=1)
    output = weights @ values + (queries @ before) * decay.to(values.dtype).exp()  # (b, chunks, n, chunk, v)
    return output.transpose(2, 3).flatten(1, 2)[:, :steps], carried[-1]


class Mamba2(nn.Module):
    """The block of section 7 of the paper with one group: parallel projections, one short convolution, gated RMS norm.

    The state of a head has the size it has in the other mixers: `width * expand_k / heads` channels of the shared keys
    by `width * expand_v / heads` channels of its values.
    """

    def __init__(self, width: int, heads: int, expand_k: float, expand_v: float) -> None:
        super().__init__()
        self.heads = heads
        self.state_width, self.value_width = round(width * expand_k) // heads, round(width * expand_v)
        convolved = self.value_width + 2 * self.state_width
        self.in_proj = nn.Linear(width, self.value_width + convolved + heads, bias=False)
        self.conv1d = depthwise(convolved, bias=True)
        step = nn.init.uniform_(torch.empty(heads), log(SHORTEST_STEP), log(LONGEST_STEP)).exp()
        self.dt_bias = nn.Parameter(step + (-torch.expm1(-step)).log())  # softplus of it is `step`
        self.A_log = nn.Parameter(nn.init.uniform_(torch.empty(heads), 1.0, LARGEST_RATE).log())
        self.D = nn.Parameter(torch.ones(heads))
        self.norm = nn.RMSNorm(self.value_width, eps=NORM_EPS)
        self.out_proj = nn.Linear(self.value_width, width, bias=False)

    def forward(
        self,
        u: Float[Tensor, "b t d"],
        lengths: Int[Tensor, "b"] | None = None,
        state: Float[Tensor, "b n k v"] | None = None,
    ) -> tuple[Float[Tensor, "b t d"], MixerState]:
        width, keys = self.value_width, self.state_width
        gate, convolved, dt = self.in_proj(u).split([width, width + 2 * keys, self.heads], dim=-1)
        tail = last_steps(convolved, lengths, CONV_WIDTH - 1)
        convolved = short_convolution(convolved, self.conv1d.weight[:, 0], self.conv1d.bias)
        x, key, query = convolved.split([width, keys, keys], dim=-1)
        dt = F.softplus(dt + self.dt_bias)
        if lengths is not None:  # steps beyond a row's length last no time
            dt = dt * within(lengths, u.shape[1])
        x = split_heads(x, self.heads)
        output, matrix = chunked_ssd(query, key, x * dt[..., None], -self.A_log.exp() * dt, state)
        output = (output + self.D[:, None] * x).flatten(2)
        return self.out_proj(self.norm(output * F.silu(gate))), MixerState(matrix, tail)

    def step(self, dtype: torch.dtype = torch.float32) -> "Mamba2Step":
        return Mamba2Step(self, dtype)


class Mamba2Step:
    """`Mamba2` for one step at a time."""

    def __init__(self, mix: Mamba2, dtype: torch.dtype = torch.float32) -> None:
        self.heads, self.state_width, self.value_width = mix.heads, mix.state_width, mix.value_width
        self.projection = Affine(mix.in_proj.weight, None, dtype)
        self.output = Affine(mix.out_proj.weight, None, dtype)
        self.conv = mix.conv1d.weight[:, 0].T.contiguous().detach()  # (w, c)
        assert mix.conv1d.bias is not None
        self.conv_bias = mix.conv1d.bias.detach()
        self.dt_bias, self.rate, self.through = mix.dt_bias.detach(), -mix.A_log.detach().exp(), mix.D.detach()[:, None]
        self.norm = mix.norm.weight.detach()

    def initial_state(self, batch: int) -> MixerState:
        matrix = self.conv.new_zeros(batch, self.heads, self.state_width, self.value_width // self.heads)
        return MixerState(matrix, self.conv.new_zeros(batch, CONV_WIDTH - 1, self.conv.shape[1]))

    def __call__(self, u: Float[Tensor, "b d"], state: MixerState) -> Float[Tensor, "b d"]:
        assert state.tail is not None
        batch, heads, width, keys = u.shape[0], self.heads, self.value_width, self.state_width
        gate, convolved, dt = self.projection(u).split([width, width + 2 * keys, heads], dim=1)
        window = torch.cat((state.tail, convolved[:, None]), dim=1)
        state.tail = window[:, 1:]
        x, key, query = F.silu((window * self.conv).sum(1) + self.conv_bias).split([width, keys, keys], dim=1)
        dt = F.softplus(dt + self.dt_bias)
        x = x.view(batch, heads, -1)
        state.matrix.mul_((self.rate * dt).exp_()[..., None, None])
        state.matrix.addcmul_(key[:, None, :, None], (x * dt[..., None])[:, :, None])
        read = (query[:, None, None] @ state.matrix)[:, :, 0] + self.through * x
        read = F.rms_norm(read.flatten(1) * F.silu(gate), (width,), self.norm, NORM_EPS)
        return self.output(read)
