"""Conformer stacks of DiffDub stage 2: post-norm, macaron, relative positions (spec diffdub 2.3, ESPnet's layout)."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def relative_positions(length: int, width: int) -> Float[Tensor, "n width"]:
    """Sinusoids of the offsets length-1 down to -(length-1): n = 2 * length - 1 rows; even columns sine, odd cosine."""
    offsets = torch.arange(length - 1, -length, -1, dtype=torch.float32)
    frequencies = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * -(math.log(10_000) / width))
    angles = offsets[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)


class FeedForward(nn.Module):
    def __init__(self, width: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.w_1 = nn.Linear(width, inner)
        self.w_2 = nn.Linear(inner, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "b f d"]) -> Float[Tensor, "b f d"]:
        return self.w_2(self.dropout(F.silu(self.w_1(x))))


class RelativeAttention(nn.Module):
    """Full self-attention with score ((q+u).k + (q+v).p(i-j)) / sqrt(head width)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.linear_q = nn.Linear(width, width)
        self.linear_k = nn.Linear(width, width)
        self.linear_v = nn.Linear(width, width)
        self.linear_out = nn.Linear(width, width)
        self.linear_pos = nn.Linear(width, width, bias=False)
        self.pos_bias_u = nn.Parameter(torch.zeros(heads, width // heads))
        self.pos_bias_v = nn.Parameter(torch.zeros(heads, width // heads))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "b f d"], positions: Float[Tensor, "n d"]) -> Float[Tensor, "b f d"]:
        b, f, d = x.shape
        split = (b, f, self.heads, d // self.heads)
        q = self.linear_q(x).view(split)
        k = self.linear_k(x).view(split).transpose(1, 2)  # (b, heads, f, c)
        v = self.linear_v(x).view(split).transpose(1, 2)
        p = self.linear_pos(positions).view(-1, self.heads, d // self.heads).transpose(0, 1)  # (heads, 2f-1, c)
        content = (q + self.pos_bias_u).transpose(1, 2) @ k.transpose(2, 3)
        place = (q + self.pos_bias_v).transpose(1, 2) @ p.transpose(1, 2)  # (b, heads, f, 2f-1)
        # Row i needs the columns f-1-i+j: the offset i-j sits at table row f-1-(i-j).
        rows = torch.arange(f, device=x.device)
        columns = f - 1 - rows[:, None] + rows[None, :]
        place = place.gather(3, columns.expand(b, self.heads, f, f))
        weights = ((content + place) / math.sqrt(d // self.heads)).softmax(dim=3)
        mixed = self.dropout(weights) @ v
        return self.linear_out(mixed.transpose(1, 2).reshape(b, f, d))


class ConvModule(nn.Module):
    """Pointwise, GLU, depthwise over time, BatchNorm, SiLU, pointwise."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.pointwise_conv1 = nn.Conv1d(width, 2 * width, 1)
        self.depthwise_conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.BatchNorm1d(width)
        self.pointwise_conv2 = nn.Conv1d(width, width, 1)

    def forward(self, x: Float[Tensor, "b f d"]) -> Float[Tensor, "b f d"]:
        h = F.glu(self.pointwise_conv1(x.transpose(1, 2)), dim=1)  # (b, d, f)
        h = F.silu(self.norm(self.depthwise_conv(h)))
        return self.pointwise_conv2(h).transpose(1, 2)


class ConformerBlock(nn.Module):
    def __init__(self, width: int, heads: int, inner: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = RelativeAttention(width, heads, dropout)
        self.feed_forward = FeedForward(width, inner, dropout)
        self.feed_forward_macaron = FeedForward(width, inner, dropout)
        self.conv_module = ConvModule(width, kernel)
        self.norm_ff = nn.LayerNorm(width, eps=1e-12)
        self.norm_mha = nn.LayerNorm(width, eps=1e-12)
        self.norm_ff_macaron = nn.LayerNorm(width, eps=1e-12)
        self.norm_conv = nn.LayerNorm(width, eps=1e-12)
        self.norm_final = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "b f d"], positions: Float[Tensor, "n d"]) -> Float[Tensor, "b f d"]:
        x = self.norm_ff_macaron(x + 0.5 * self.dropout(self.feed_forward_macaron(x)))
        x = self.norm_mha(x + self.dropout(self.self_attn(x, positions)))
        x = self.norm_conv(x + self.dropout(self.conv_module(x)))
        x = self.norm_ff(x + 0.5 * self.dropout(self.feed_forward(x)))
        return self.norm_final(x)


class Conformer(nn.Module):
    """Blocks after scaling the input by sqrt(d); no position is added, no norm closes the stack."""

    def __init__(self, blocks: int, width: int, heads: int, inner: int, kernel: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(ConformerBlock(width, heads, inner, kernel, dropout) for _ in range(blocks))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "b f d"]) -> Float[Tensor, "b f d"]:
        positions = self.dropout(relative_positions(x.shape[1], x.shape[2]).to(x))
        x = self.dropout(x * math.sqrt(x.shape[2]))
        for block in self.encoders:
            x = block(x, positions)
        return x
