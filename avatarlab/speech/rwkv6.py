"""RWKV6 time mixing, "Finch" (Peng et al., arXiv 2404.05892, section 4): decay and token shift depend on the data.

Per head the memory is a matrix S of shape (k, v). A step reads the memory before its own pair is in it, and sees that
pair through a bonus u instead:

    o_t = k^{-1/2} (S_{t-1} + diag(u) k_t v_t^T)^T r_t        S_t = diag(exp a_t) S_{t-1} + k_t v_t^T,  a_t = -exp(d_t)

`recurrent_rwkv6` is that line and is the specification. The factor k^{-1/2} only reaches the epsilon of the norm that
follows; at 64 channels per head it is the published "divisor" of 8. Letters of the shapes as in `gla`.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from avatarlab.speech.gla import NORM_EPS, Affine, MixerState, chunked_gla, last_steps, split_heads, within

MIXES = 5  # of this step with the one before: for r, k, v, the gate and the decay
MIX_RANK = 32
DECAY_RANK = 64


def recurrent_rwkv6(
    r: Float[Tensor, "b t n k"],
    k: Float[Tensor, "b t n k"],
    v: Float[Tensor, "b t n v"],
    log_decay: Float[Tensor, "b t n k"],
    bonus: Float[Tensor, "n k"],
    state: Float[Tensor, "b n k v"] | None = None,
) -> tuple[Float[Tensor, "b t n v"], Float[Tensor, "b n k v"]]:
    """The definition, step after step."""
    batch, steps, heads, width = r.shape
    if state is None:
        state = r.new_zeros(batch, heads, width, v.shape[-1])
    outputs = []
    for t in range(steps):
        pair = k[:, t, :, :, None] * v[:, t, :, None, :]
        outputs.append((r[:, t, :, :, None] * (state + bonus[..., None] * pair)).sum(-2) * width**-0.5)
        state = state * log_decay[:, t].exp()[..., None] + pair
    return torch.stack(outputs, dim=1), state


def chunked_rwkv6(
    r: Float[Tensor, "b t n k"],
    k: Float[Tensor, "b t n k"],
    v: Float[Tensor, "b t n v"],
    log_decay: Float[Tensor, "b t n k"],
    bonus: Float[Tensor, "n k"],
    state: Float[Tensor, "b n k v"] | None = None,
) -> tuple[Float[Tensor, "b t n v"], Float[Tensor, "b n k v"]]:
    """`recurrent_rwkv6` in parallel over time: gated linear attention that writes every pair one step late."""
    late_k, late_v, late_decay = (F.pad(x, (0, 0, 0, 0, 1, 0)) for x in (k, v, log_decay))
    output, final = chunked_gla(F.pad(r, (0, 0, 0, 0, 0, 1)), late_k, late_v, late_decay, state)
    own = (r * bonus * k).sum(-1, keepdim=True) * r.shape[-1] ** -0.5
    return output[:, :-1] + own * v, final


class RWKV6(nn.Module):
    """Time mixing of Finch with a head width set by `expand_k` and `expand_v` (0.5 and 1 in the published Small-E)."""

    def __init__(self, width: int, heads: int, expand_k: float, expand_v: float) -> None:
        super().__init__()
        self.heads = heads
        self.key_width, self.value_width = round(width * expand_k), round(width * expand_v)
        channel = torch.linspace(0, 1, width)
        self.mix = nn.Parameter(1 - channel.sqrt())
        self.mix_down = nn.Linear(width, MIXES * MIX_RANK, bias=False)
        self.mix_up = nn.Parameter(torch.empty(MIXES, MIX_RANK, width))
        self.mixes = nn.Parameter((1 - channel.sqrt()).repeat(MIXES, 1))
        self.r_proj = nn.Linear(width, self.key_width, bias=False)
        self.k_proj = nn.Linear(width, self.key_width, bias=False)
        self.v_proj = nn.Linear(width, self.value_width, bias=False)
        self.g_proj = nn.Linear(width, self.value_width, bias=False)
        self.decay_down = nn.Linear(width, DECAY_RANK, bias=False)
        self.decay_up = nn.Linear(DECAY_RANK, self.key_width)
        self.bonus = nn.Parameter(torch.linspace(0.5, 0, self.key_width).view(heads, -1))
        self.norm = nn.GroupNorm(heads, self.value_width, eps=NORM_EPS)
        self.o_proj = nn.Linear(self.value_width, width, bias=False)
        for module in (self.r_proj, self.k_proj, self.v_proj, self.g_proj, self.o_proj):
            nn.init.xavier_uniform_(module.weight, gain=2**-2.5)
        for down, up in ((self.mix_down.weight, self.mix_up), (self.decay_down.weight, self.decay_up.weight)):
            nn.init.zeros_(down)
            nn.init.uniform_(up, -0.01, 0.01)
        # From channels that keep for hundreds of steps (decay 0.998) to some that forget within two (0.69).
        self.decay_up.bias.data = -6 + 5 * torch.linspace(0, 1, self.key_width) ** 1.35

    def forward(
        self,
        u: Float[Tensor, "b t d"],
        lengths: Int[Tensor, "b"] | None = None,
        state: Float[Tensor, "b n k v"] | None = None,
    ) -> tuple[Float[Tensor, "b t d"], MixerState]:
        before = F.pad(u, (0, 0, 1, 0))[:, :-1] - u
        low = self.mix_down(u + before * self.mix).tanh().unflatten(-1, (MIXES, -1))
        shares = torch.einsum("btir,ird->ibtd", low, self.mix_up) + self.mixes[:, None, None]
        for_r, for_k, for_v, for_gate, for_decay = u + before * shares
        r, k, v = self.r_proj(for_r), self.k_proj(for_k), self.v_proj(for_v)
        log_decay = -self.decay_up(self.decay_down(for_decay).tanh()).exp()
        if lengths is not None:  # steps beyond a row's length leave its state as it is
            inside = within(lengths, u.shape[1])
            k, log_decay = k * inside, log_decay * inside
        r, k, v, log_decay = (split_heads(x, self.heads) for x in (r, k, v, log_decay))
        output, matrix = chunked_rwkv6(r, k, v, log_decay, self.bonus, state)
        output = self.norm(output.flatten(0, 1).flatten(1)).view(*u.shape[:2], -1)
        return self.o_proj(output * F.silu(self.g_proj(for_gate))), MixerState(matrix, last_steps(u, lengths, 1))

    def step(self, dtype: torch.dtype = torch.float32) -> "RWKV6Step":
        return RWKV6Step(self, dtype)


class RWKV6Step:
    """`RWKV6` for one step at a time; the scale k^{-1/2} moves into the epsilon of the norm."""

    def __init__(self, mix: RWKV6, dtype: torch.dtype = torch.float32) -> None:
        self.heads = mix.heads
        self.key_width, self.value_width = mix.key_width, mix.value_width
        self.mix, self.mixes = mix.mix.detach(), mix.mixes.detach()[:, None]
        self.mix_down, self.mix_up = mix.mix_down.weight.detach(), mix.mix_up.detach()
        keys, values = (mix.r_proj.weight, mix.k_proj.weight), (mix.v_proj.weight, mix.g_proj.weight)
        self.keys = torch.stack(keys).transpose(1, 2).to(dtype).contiguous().detach()
        self.values = torch.stack(values).transpose(1, 2).to(dtype).contiguous().detach()
        self.decay_down = mix.decay_down.weight.detach()
        self.decay_up = (mix.decay_up.weight.detach(), mix.decay_up.bias.detach())
        self.bonus = mix.bonus.detach()[..., None]
        self.norm = (mix.norm.weight.detach(), mix.norm.bias.detach(), NORM_EPS * (self.key_width // self.heads))
        self.output = Affine(mix.o_proj.weight, None, dtype)

    def initial_state(self, batch: int) -> MixerState:
        k, v = self.key_width // self.heads, self.value_width // self.heads
        matrix = self.mix.new_zeros(batch, self.heads, k, v)
        return MixerState(matrix, self.mix.new_zeros(batch, 1, self.mix.shape[-1]))

    def __call__(self, u: Float[Tensor, "b d"], state: MixerState) -> Float[Tensor, "b d"]:
        assert state.tail is not None
        batch, heads = u.shape[0], self.heads
        before, state.tail = state.tail[:, 0] - u, u[:, None]
        low = F.linear(u + before * self.mix, self.mix_down).tanh().view(batch, MIXES, -1).transpose(0, 1)
        inputs = u + before * torch.baddbmm(self.mixes, low, self.mix_up)  # (mixes, b, d)
        r, k = torch.bmm(inputs[:2].to(self.keys.dtype), self.keys).float().view(2, batch, heads, -1)
        v, gate = torch.bmm(inputs[2:4].to(self.values.dtype), self.values).float()
        v = v.view(batch, heads, 1, -1)
        decay = F.linear(F.linear(inputs[4], self.decay_down).tanh(), *self.decay_up).exp().neg().exp()
        pair = k[..., None] * v  # (b, n, k, v)
        read = r[:, :, None] @ (state.matrix + self.bonus * pair)
        state.matrix.mul_(decay.view(batch, heads, -1, 1)).add_(pair)
        read = F.group_norm(read.view(batch, self.value_width), heads, *self.norm)
        return self.output(read * F.silu(gate))
