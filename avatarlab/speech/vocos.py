"""The Vocos decoder: ConvNeXt blocks over codec features, then an inverse STFT (Siuzdak, arXiv 2306.00814).

Written from the paper and the released configurations, with the parameter names of the released weights
(`backbone.*`, `head.*`). Norms are conditioned on an id, which tells the bandwidth the features were coded at. WavTokenizer
(arXiv 2408.16532) puts residual and attention blocks in front (`backbone.pos_net`): the same class builds both.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from avatarlab.errors import WeightsError
from avatarlab.lips.strict import size_of, vote
from avatarlab.speech.codec import overlap_add

KERNEL = 7
GROUPS = 32
EPS = 1e-6
LARGEST_MAGNITUDE = 100.0


@dataclass(frozen=True)
class VocosConfig:
    """`window` is the length of the transform; `attentive` adds the blocks in front."""

    inputs: int
    width: int
    inner: int
    layers: int
    conditions: int
    window: int
    attentive: bool


class ConditionedNorm(nn.Module):
    """Layer norm whose scale and shift are looked up by id."""

    def __init__(self, conditions: int, width: int) -> None:
        super().__init__()
        self.scale = nn.Embedding(conditions, width)
        self.shift = nn.Embedding(conditions, width)

    def forward(self, x: Float[Tensor, "b n d"], condition: int) -> Float[Tensor, "b n d"]:
        return F.layer_norm(x, x.shape[-1:], self.scale.weight[condition], self.shift.weight[condition], EPS)


class ConvNeXtBlock(nn.Module):
    def __init__(self, width: int, inner: int, conditions: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv1d(width, width, KERNEL, padding=KERNEL // 2, groups=width)
        self.norm = ConditionedNorm(conditions, width)
        self.pwconv1 = nn.Linear(width, inner)
        self.pwconv2 = nn.Linear(inner, width)
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "b d n"], condition: int) -> Float[Tensor, "b d n"]:
        y = self.norm(self.dwconv(x).transpose(1, 2), condition)  # (b, n, d)
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))
        return x + y.transpose(1, 2)


class ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, width, eps=EPS)
        self.conv1 = nn.Conv1d(width, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(GROUPS, width, eps=EPS)
        self.conv2 = nn.Conv1d(width, width, 3, padding=1)

    def forward(self, x: Float[Tensor, "b d n"]) -> Float[Tensor, "b d n"]:
        y = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(y)))


class AttentionBlock(nn.Module):
    """Single-head attention over the whole sequence."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width, eps=EPS)
        self.q, self.k, self.v = (nn.Conv1d(width, width, 1) for _ in range(3))
        self.proj_out = nn.Conv1d(width, width, 1)

    def forward(self, x: Float[Tensor, "b d n"]) -> Float[Tensor, "b d n"]:
        y = self.norm(x)
        q, k, v = (layer(y).transpose(1, 2) for layer in (self.q, self.k, self.v))  # (b, n, d)
        return x + self.proj_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2))


class Backbone(nn.Module):
    def __init__(self, config: VocosConfig) -> None:
        super().__init__()
        width = config.width
        self.embed = nn.Conv1d(config.inputs, width, KERNEL, padding=KERNEL // 2)
        if config.attentive:
            self.pos_net = nn.Sequential(
                ResidualBlock(width),
                ResidualBlock(width),
                AttentionBlock(width),
                ResidualBlock(width),
                ResidualBlock(width),
                nn.GroupNorm(GROUPS, width, eps=EPS),
            )
        self.attentive = config.attentive
        self.norm = ConditionedNorm(config.conditions, width)
        self.convnext = nn.ModuleList(
            ConvNeXtBlock(width, config.inner, config.conditions) for _ in range(config.layers)
        )
        self.final_layer_norm = nn.LayerNorm(width, eps=EPS)

    def forward(self, features: Float[Tensor, "b d n"], condition: int) -> Float[Tensor, "b n e"]:
        x = self.embed(features)
        if self.attentive:
            x = self.pos_net(x)
        x = self.norm(x.transpose(1, 2), condition).transpose(1, 2)
        for block in self.convnext:
            x = block(x, condition)
        return self.final_layer_norm(x.transpose(1, 2))


class Vocos(nn.Module):
    """Features at one frame per `hop` samples to a waveform of exactly n * hop samples."""

    def __init__(self, config: VocosConfig, hop: int) -> None:
        super().__init__()
        self.config = config
        self.hop = hop
        self.backbone = Backbone(config)
        self.head = nn.ModuleDict({"out": nn.Linear(config.width, config.window + 2)})

    def forward(self, features: Float[Tensor, "b d n"], condition: int) -> Float[Tensor, "b s"]:
        magnitude, phase = self.head["out"](self.backbone(features, condition)).chunk(2, dim=-1)
        spectrum = torch.polar(magnitude.exp().clamp_max(LARGEST_MAGNITUDE), phase)  # (b, n, window // 2 + 1)
        return overlap_add(torch.fft.irfft(spectrum, self.config.window), self.hop)


def infer_config(tensors: Mapping[str, Tensor]) -> VocosConfig:
    """The sizes of released weights. Raises WeightsError where they cannot be told."""
    width = vote((size_of(tensors, f"backbone.{key}", 0) for key in ("embed.weight", "embed.bias")), "backbone.embed")
    layers = {key.split(".")[2] for key in tensors if key.startswith("backbone.convnext.")}
    if width % GROUPS:
        raise WeightsError(f"a decoder of width {width} is not supported", f"its width is a multiple of {GROUPS}")
    return VocosConfig(
        inputs=vote([size_of(tensors, "backbone.embed.weight", 1)], "backbone.embed.weight"),
        width=width,
        inner=vote(
            (size_of(tensors, f"backbone.convnext.{layer}.pwconv1.bias", 0) for layer in layers),
            "backbone.convnext.0.pwconv1.bias",
        ),
        layers=len(layers),
        conditions=vote([size_of(tensors, "backbone.norm.scale.weight", 0)], "backbone.norm.scale.weight"),
        window=vote([size_of(tensors, "head.out.bias", 0)], "head.out.bias") - 2,
        attentive=any(key.startswith("backbone.pos_net.") for key in tensors),
    )
