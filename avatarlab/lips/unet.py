"""DiffDub stage 1 networks: the conditioned UNet and the semantic encoder (spec diffdub 1.1-1.3).

Module names spell the published state-dict keys. Layout is (b, c, h, w) throughout.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

GROUPS = 32
NORM_EPS = 1e-5
Resample = Literal["none", "down", "up"]


def time_features(t: Int[Tensor, "b"], width: int) -> Float[Tensor, "b width"]:
    """Cosines, then sines, of the integer step at `width / 2` geometric frequencies from 1 to 1/10000 (spec 1.2)."""
    half = width // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class Norm(nn.GroupNorm):
    """GroupNorm of 32 groups, computed in float32 where the network runs in less."""

    def __init__(self, channels: int) -> None:
        super().__init__(GROUPS, channels, eps=NORM_EPS)

    def forward(self, x: Float[Tensor, "b c *n"]) -> Float[Tensor, "b c *n"]:
        wide = x if x.dtype == torch.float64 else x.float()
        weight, bias = self.weight.to(wide.dtype), self.bias.to(wide.dtype)
        return F.group_norm(wide, GROUPS, weight, bias, self.eps).to(x.dtype)


def resampled(x: Float[Tensor, "b c h w"], resample: Resample) -> Float[Tensor, "b c h2 w2"]:
    """Nearest neighbour up, or averaged down, by two."""
    if resample == "up":
        return F.interpolate(x, scale_factor=2, mode="nearest")
    return F.avg_pool2d(x, 2) if resample == "down" else x


def _conv(inputs: int, outputs: int, zero: bool = False) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1)
    if zero:
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


def _skip(inputs: int, outputs: int) -> nn.Module:
    return nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)


class ResidualBlock(nn.Module):
    """Norm, resample, conv; scale and shift by time, scale by style; conv; skip (spec 1.2)."""

    def __init__(
        self, inputs: int, outputs: int, time: int, style: int, resample: Resample = "none", dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.resample: Resample = resample
        self.in_layers = nn.Sequential(Norm(inputs), nn.SiLU(), _conv(inputs, outputs))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time, 2 * outputs))
        self.cond_emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(style, outputs))
        self.out_layers = nn.Sequential(
            Norm(outputs), nn.SiLU(), nn.Dropout(dropout), _conv(outputs, outputs, zero=True)
        )
        self.skip_connection = _skip(inputs, outputs)

    def forward(
        self, x: Float[Tensor, "b c h w"], e: Float[Tensor, "b time"], z: Float[Tensor, "b style"]
    ) -> Float[Tensor, "b c2 h2 w2"]:
        h = resampled(F.silu(self.in_layers[0](x)), self.resample)
        h = self.in_layers[2](h)
        scale, shift = self.emb_layers(e)[:, :, None, None].chunk(2, dim=1)
        style_scale = self.cond_emb_layers(z)[:, :, None, None]
        h = self.out_layers[0](h) * (1 + scale) + shift
        h = h * (1 + style_scale)
        h = self.out_layers[3](self.out_layers[2](F.silu(h)))
        return self.skip_connection(resampled(x, self.resample)) + h


class EncoderBlock(nn.Module):
    """The semantic encoder's residual block: norm, resample, conv, skip; no second conv, no conditioning."""

    def __init__(self, inputs: int, outputs: int, resample: Resample = "none") -> None:
        super().__init__()
        self.resample: Resample = resample
        self.in_layers = nn.Sequential(Norm(inputs), nn.SiLU(), _conv(inputs, outputs))
        self.skip_connection = _skip(inputs, outputs)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        h = self.in_layers[2](resampled(F.silu(self.in_layers[0](x)), self.resample))
        return self.skip_connection(resampled(x, self.resample)) + h


class Attention(nn.Module):
    """Single-head self-attention over all positions, added to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = Norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)  # type: ignore[arg-type]

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        tokens = x.flatten(2)  # (b, c, n)
        q, k, v = self.qkv(self.norm(tokens)).transpose(1, 2).chunk(3, dim=2)  # (b, n, c) each
        mixed = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(mixed.transpose(1, 2)).view_as(x)


class TimeEmbedding(nn.Module):
    def __init__(self, base: int, width: int) -> None:
        super().__init__()
        self.base = base
        self.time_embed = nn.Sequential(nn.Linear(base, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Int[Tensor, "b"]) -> Float[Tensor, "b width"]:
        return self.time_embed(time_features(t, self.base).to(next(self.parameters()).dtype))


class UNet(nn.Module):
    """The denoiser. `blocks` residual blocks a level going down, one more going up (spec 1.1, 1.3)."""

    def __init__(
        self,
        *,
        inputs: int,
        outputs: int,
        widths: Sequence[int],
        blocks: int,
        attention_levels: Sequence[int],
        base: int,
        time: int,
        style: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.time_embed = TimeEmbedding(base, time)

        def residual(c_in: int, c_out: int, resample: Resample = "none") -> ResidualBlock:
            return ResidualBlock(c_in, c_out, time, style, resample, dropout)

        width = widths[0]
        self.input_blocks = nn.ModuleList([nn.ModuleList([_conv(inputs, width)])])
        skips = [width]
        for level, level_width in enumerate(widths):
            for _ in range(blocks):
                block: list[nn.Module] = [residual(width, level_width)]
                width = level_width
                if level in attention_levels:
                    block.append(Attention(width))
                self.input_blocks.append(nn.ModuleList(block))
                skips.append(width)
            if level + 1 < len(widths):
                self.input_blocks.append(nn.ModuleList([residual(width, width, "down")]))
                skips.append(width)
        self.middle_block = nn.ModuleList([residual(width, width), Attention(width), residual(width, width)])
        self.output_blocks = nn.ModuleList()
        for level, level_width in reversed(list(enumerate(widths))):
            for index in range(blocks + 1):
                block = [residual(width + skips.pop(), level_width)]
                width = level_width
                if level in attention_levels:
                    block.append(Attention(width))
                if level > 0 and index == blocks:
                    block.append(residual(width, width, "up"))
                self.output_blocks.append(nn.ModuleList(block))
        self.out = nn.Sequential(Norm(width), nn.SiLU(), _conv(width, outputs, zero=True))

    def forward(
        self, x: Float[Tensor, "b c h w"], t: Int[Tensor, "b"], z: Float[Tensor, "b style"]
    ) -> Float[Tensor, "b c2 h w"]:
        """Input picture channels, integer steps 0..999 and style latent -> output channels."""
        e = self.time_embed(t)
        h = self.input_blocks[0][0](x)  # type: ignore[index]
        skips = [h]
        for block in self.input_blocks[1:]:
            h = _through(block, h, e, z)
            skips.append(h)
        h = _through(self.middle_block, h, e, z)
        for block in self.output_blocks:
            h = _through(block, torch.cat([h, skips.pop()], dim=1), e, z)
        return self.out(h)


def _through(block: nn.Module, h: Tensor, e: Tensor, z: Tensor) -> Tensor:
    for layer in block:  # type: ignore[attr-defined]
        h = layer(h, e, z) if isinstance(layer, ResidualBlock) else layer(h)
    return h


class SemanticEncoder(nn.Module):
    """Lip image -> style latent: an encoder half, global average pool, 1x1 conv."""

    def __init__(self, *, widths: Sequence[int], blocks: int, attention_levels: Sequence[int], style: int) -> None:
        super().__init__()
        width = widths[0]
        self.input_blocks = nn.ModuleList([nn.ModuleList([_conv(3, width)])])
        for level, level_width in enumerate(widths):
            for _ in range(blocks):
                block: list[nn.Module] = [EncoderBlock(width, level_width)]
                width = level_width
                if level in attention_levels:
                    block.append(Attention(width))
                self.input_blocks.append(nn.ModuleList(block))
            if level + 1 < len(widths):
                self.input_blocks.append(nn.ModuleList([EncoderBlock(width, width, "down")]))
        self.middle_block = nn.ModuleList([EncoderBlock(width, width), Attention(width), EncoderBlock(width, width)])
        self.out = nn.Sequential(Norm(width), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, style, 1))

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b style"]:
        h = image
        for block in [*self.input_blocks, self.middle_block]:
            for layer in block:
                h = layer(h)
        return self.out(h).flatten(1)
