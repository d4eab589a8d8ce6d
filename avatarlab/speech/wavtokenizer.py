"""WavTokenizer: 24 kHz speech as one stream of codes, 75 a second (Ji et al., arXiv 2408.16532; weights under MIT).

The Lina dialect of Small-E speaks these codes. A convolutional encoder (SEANet, as in EnCodec, arXiv 2210.13438, but not
causal) with two LSTM layers, one codebook, and the Vocos decoder with attention in front. Parameter names are those of the
released Lightning checkpoints, of which training-only parts (discriminators, EnCodec's own decoder) are left out.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, prod

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from avatarlab.errors import WeightsError
from avatarlab.lips.strict import fill, refuse_mismatches, size_of, vote
from avatarlab.speech.small_e import Unfilled
from avatarlab.speech.vocos import Vocos, VocosConfig, infer_config

ENCODER = "feature_extractor.encodec.encoder."
CODEBOOK = "feature_extractor.encodec.quantizer.vq.layers.0._codebook.embed"
UNUSED = (
    "feature_extractor.encodec.decoder.",
    "feature_extractor.encodec.quantizer.vq.layers.0._codebook.",  # but `embed`: running means of training
    "multiperioddisc.",
    "multiresddisc.",
    "dac.",
    "dacdiscriminator.",
    "melspec_loss.",
    "head.istft.window",
)
SAMPLE_RATE_HZ = 24_000
FRAME_RATE = 75
CONDITION = 0  # the released model is used with bandwidth id 0


@dataclass(frozen=True)
class WavTokenizerConfig:
    """`strides` are in the order of the encoder; their product is the hop, 24000 / 75 samples."""

    filters: int
    strides: tuple[int, ...]
    recurrent_layers: int
    latent: int
    codes: int
    decoder: VocosConfig


class PaddedConv(nn.Module):
    """Convolution with weight norm and reflected ends; gives ceil(n / stride) frames."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.ModuleDict({"conv": NormedConv(inputs, outputs, kernel, stride)})
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Float[Tensor, "b c n"]) -> Float[Tensor, "b e m"]:
        total = self.kernel - self.stride
        right = total // 2 + (ceil(x.shape[-1] / self.stride) * self.stride - x.shape[-1])
        left = total - total // 2
        lacking = max(0, max(left, right) - x.shape[-1] + 1)  # a sequence shorter than its reflection is extended first
        padded = F.pad(F.pad(x, (0, lacking)), (left, right), mode="reflect")
        return self.conv["conv"](padded[..., : padded.shape[-1] - lacking])


class NormedConv(nn.Module):
    """A weight is a direction `weight_v` and a length `weight_g` for each output channel (arXiv 1602.07868)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(outputs, 1, 1))
        self.weight_v = nn.Parameter(nn.init.normal_(torch.empty(outputs, inputs, kernel)))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.stride = stride

    def forward(self, x: Float[Tensor, "b c n"]) -> Float[Tensor, "b e m"]:
        weight = self.weight_v * (self.weight_g / self.weight_v.flatten(1).norm(dim=1)[:, None, None])
        return F.conv1d(x, weight, self.bias, self.stride)


class ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.ELU(), PaddedConv(width, width // 2, 3), nn.ELU(), PaddedConv(width // 2, width, 1)
        )
        self.shortcut = PaddedConv(width, width, 1)

    def forward(self, x: Float[Tensor, "b c n"]) -> Float[Tensor, "b c n"]:
        return self.shortcut(x) + self.block(x)


class Recurrent(nn.Module):
    """LSTM layers with a residual around them."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, width, layers)

    def forward(self, x: Float[Tensor, "b c n"]) -> Float[Tensor, "b c n"]:
        steps = x.permute(2, 0, 1)  # (n, b, c)
        return (self.lstm(steps)[0] + steps).permute(1, 2, 0)


class Encoder(nn.Module):
    def __init__(self, config: WavTokenizerConfig) -> None:
        super().__init__()
        width = config.filters
        layers: list[nn.Module] = [PaddedConv(1, width, 7)]
        for stride in config.strides:
            layers += [ResidualBlock(width), nn.ELU(), PaddedConv(width, 2 * width, 2 * stride, stride)]
            width *= 2
        layers += [Recurrent(width, config.recurrent_layers), nn.ELU(), PaddedConv(width, config.latent, 7)]
        self.model = nn.Sequential(*layers)

    def forward(self, waveform: Float[Tensor, "b s"]) -> Float[Tensor, "b d n"]:
        return self.model(waveform[:, None])


class WavTokenizer(nn.Module):
    """One codebook, 75 codes a second of 24 kHz speech."""

    sample_rate_hz = SAMPLE_RATE_HZ
    frame_rate = FRAME_RATE
    codebooks = 1

    def __init__(self, config: WavTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.codebook = nn.Parameter(nn.init.normal_(torch.empty(config.codes, config.latent)))
        self.decoder = Vocos(config.decoder, prod(config.strides))

    @classmethod
    def from_state_dict(cls, tensors: Mapping[str, Tensor]) -> "WavTokenizer":
        """From tensors with the released names; training-only ones are passed over.

        Raises WeightsError naming up to five that are missing, unknown or of the wrong shape.
        """
        own = {
            _own_name(key): tensor for key, tensor in tensors.items() if key == CODEBOOK or not key.startswith(UNUSED)
        }
        with Unfilled():
            codec = cls(infer_wavtokenizer(tensors))
        shapes = {key: tuple(tensor.shape) for key, tensor in codec.state_dict().items()}
        refuse_mismatches(shapes, own, "WavTokenizer")
        fill(codec, own)
        return codec.eval()

    def published_state_dict(self) -> dict[str, Tensor]:
        """The parameters under their released names."""
        return {_published_name(key): tensor for key, tensor in self.state_dict().items()}

    @torch.no_grad()
    def encode(self, waveform: Float[Tensor, "b s"]) -> Int[Tensor, "b q t"]:
        """Codes of a 24 kHz waveform, t = ceil(s / 320), q = 1."""
        latents = self.encoder(waveform).transpose(1, 2)
        distance = self.codebook.square().sum(1) - 2 * latents @ self.codebook.T
        return distance.argmin(-1)[:, None]

    @torch.no_grad()
    def decode(self, codes: Int[Tensor, "b q t"]) -> Float[Tensor, "b s"]:
        """The waveform at 24 kHz, s = 320 * t samples in [-1, 1]."""
        return self.decoder(self.codebook[codes[:, 0]].transpose(1, 2), CONDITION).clamp(-1.0, 1.0)


def infer_wavtokenizer(tensors: Mapping[str, Tensor]) -> WavTokenizerConfig:
    """The sizes of released weights. Raises WeightsError where these are no weights of a 75 Hz WavTokenizer."""
    first = f"{ENCODER}model.0.conv.conv.weight_v"
    filters = vote([size_of(tensors, first, 0), size_of(tensors, first.replace("_v", "_g"), 0)], first)
    kernels = []
    for layer in range(3, 3 * 5, 3):
        key = f"{ENCODER}model.{layer}.conv.conv.weight_v"
        kernels.append(vote([size_of(tensors, key, 2)], key))
    strides = tuple(kernel // 2 for kernel in kernels)
    if prod(strides) * FRAME_RATE != SAMPLE_RATE_HZ:
        raise WeightsError(
            f"a WavTokenizer with strides {strides} does not give {FRAME_RATE} codes a second",
            "use a 75-token model: the Lina dialect was trained on one",
        )
    recurrent = [match for key in tensors if (match := re.fullmatch(re.escape(ENCODER) + r".*weight_ih_l\d+", key))]
    return WavTokenizerConfig(
        filters=filters,
        strides=strides,
        recurrent_layers=len(recurrent),
        latent=vote([size_of(tensors, CODEBOOK, 1)], CODEBOOK),
        codes=vote([size_of(tensors, CODEBOOK, 0)], CODEBOOK),
        decoder=infer_config(tensors),
    )


def _own_name(key: str) -> str:
    if key == CODEBOOK:
        return "codebook"
    if key.startswith(ENCODER):
        return "encoder." + key.removeprefix(ENCODER)
    return "decoder." + key


def _published_name(key: str) -> str:
    if key == "codebook":
        return CODEBOOK
    if key.startswith("encoder."):
        return ENCODER + key.removeprefix("encoder.")
    return key.removeprefix("decoder.")
