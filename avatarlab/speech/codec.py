"""The codec of the bundled set: 16 kHz speech as codes of 20 ms, two frames of them to a video frame.

Log-mel frames of 20 ms go through a ConvNeXt encoder and a residual quantiser (levels of one codebook each, every level
coding what the one before left over); a ConvNeXt decoder with an inverse-STFT head (the shape of Vocos, arXiv 2306.00814)
gives the waveform back. Its last blocks and its head work on steps of 10 ms: with steps of 20 ms, voices of high pitch
were hard to understand, however fine the codes.

Two consecutive frames are stacked as one 40 ms step, so that the language model takes one step for each video frame; the
rows of a step are level 0 of both frames, then level 1 of both, and so on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchaudio.functional import melscale_fbanks

from avatarlab import FPS, SAMPLE_RATE_HZ, SAMPLES_PER_VIDEO_FRAME
from avatarlab.errors import WeightsError

STACKED = 2
HOP = SAMPLES_PER_VIDEO_FRAME // STACKED
FINER = 2  # how many steps of the decoder's last blocks there are to a frame
MEL_WINDOW = 1024
MEL_BANDS = 80
KERNEL = 7


@dataclass(frozen=True)
class CodecConfig:
    width: int = 256
    latent: int = 32
    levels: int = 2
    codes: int = 1024
    encoder_blocks: int = 3
    decoder_blocks: int = 6
    fine_blocks: int = 2
    expansion: int = 3
    synthesis_window: int = 640


@cache
@torch.inference_mode(False)  # made once for whoever comes later, training included
def mel_filters(bins: int, bands: int) -> Tensor:
    """Slaney's triangles at 16 kHz, (bins, bands)."""
    return melscale_fbanks(bins, 0.0, SAMPLE_RATE_HZ / 2, bands, SAMPLE_RATE_HZ, norm="slaney", mel_scale="slaney")


def log_mel(
    waveform: Float[Tensor, "b s"],
    window: int = MEL_WINDOW,
    hop: int = HOP,
    bands: int = MEL_BANDS,
    floor: float = 1e-5,
) -> Float[Tensor, "b bands n"]:
    """Natural log of the mel magnitudes, at least `floor`, one column for each full hop: n = s // hop."""
    frames = waveform.shape[-1] // hop
    padding = (window - hop) // 2
    padded = F.pad(waveform[:, : frames * hop], (padding, window - hop - padding))
    hann = torch.hann_window(window, device=waveform.device)
    spectrum = torch.stft(padded, window, hop, window=hann, center=False, return_complex=True).abs()
    filters = mel_filters(window // 2 + 1, bands).to(waveform.device)
    return (filters.T @ spectrum).clamp_min(floor).log()


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, layer norm, two pointwise layers, residual (arXiv 2201.03545)."""

    def __init__(self, width: int, expansion: int, scale: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, KERNEL, padding=KERNEL // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, width * expansion)
        self.project = nn.Linear(width * expansion, width)
        self.scale = nn.Parameter(torch.full((width,), scale))

    def forward(self, x: Float[Tensor, "b d n"]) -> Float[Tensor, "b d n"]:
        y = self.norm(self.depthwise(x).transpose(1, 2))  # (b, n, d)
        y = self.project(F.gelu(self.expand(y))) * self.scale
        return x + y.transpose(1, 2)


class Encoder(nn.Module):
    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.stem = nn.Conv1d(MEL_BANDS, config.width, 5, padding=2)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(config.width, config.expansion, 1 / config.encoder_blocks)
            for _ in range(config.encoder_blocks)
        )
        self.norm = nn.LayerNorm(config.width)
        self.project = nn.Linear(config.width, config.latent)

    def forward(self, waveform: Float[Tensor, "b s"]) -> Float[Tensor, "b n latent"]:
        x = self.stem(log_mel(waveform) / 4.0)
        for block in self.blocks:
            x = block(x)
        return self.project(self.norm(x.transpose(1, 2)))


class Decoder(nn.Module):
    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.window_size = config.synthesis_window
        self.stem = nn.Conv1d(config.latent, config.width, 7, padding=3)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(config.width, config.expansion, 1 / config.decoder_blocks)
            for _ in range(config.decoder_blocks)
        )
        self.refine = nn.Linear(config.width, FINER * config.width)
        self.fine = nn.ModuleList(
            ConvNeXtBlock(config.width, config.expansion, 1 / config.fine_blocks) for _ in range(config.fine_blocks)
        )
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.synthesis_window + 2)

    def forward(self, latents: Float[Tensor, "b n latent"]) -> Float[Tensor, "b s"]:
        x = self.stem(latents.transpose(1, 2))
        for block in self.blocks:
            x = block(x)
        x = self.refine(x.transpose(1, 2)).unflatten(2, (FINER, -1)).flatten(1, 2).transpose(1, 2)
        for block in self.fine:
            x = block(x)
        magnitude, phase = self.head(self.norm(x.transpose(1, 2))).chunk(2, dim=-1)  # (b, n, window // 2 + 1)
        spectrum = torch.polar(magnitude.clamp_max(6.0).exp(), phase)
        return overlap_add(torch.fft.irfft(spectrum, self.window_size), HOP // FINER)


def overlap_add(frames: Float[Tensor, "b n window"], hop: int) -> Float[Tensor, "b s"]:
    """Windowed frames summed at `hop` and divided by the summed squared window; s = n * hop exactly."""
    batch, count, window = frames.shape
    hann = torch.hann_window(window, device=frames.device)
    length = (count - 1) * hop + window

    def fold(x: Tensor) -> Tensor:
        return F.fold(x, (1, length), (1, window), stride=(1, hop))[:, 0, 0]

    summed = fold((frames * hann).transpose(1, 2))
    envelope = fold((hann.square()[:, None]).expand(window, count)[None])
    start = (window - hop) // 2
    kept = slice(start, start + count * hop)
    return summed[:, kept] / envelope[:, kept].clamp_min(1e-4).expand(batch, -1)


class Codec(nn.Module):
    """Encoder, residual quantiser and decoder. `codebook` is (levels, codes, latent)."""

    sample_rate_hz = SAMPLE_RATE_HZ
    frame_rate = FPS

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.codebook = nn.Parameter(torch.randn(config.levels, config.codes, config.latent), requires_grad=False)

    @classmethod
    def from_state_dict(cls, tensors: Mapping[str, Tensor]) -> "Codec":
        """Builds the codec the tensors describe. Raises WeightsError naming the keys that do not fit."""
        try:
            config = CodecConfig(
                width=tensors["encoder.stem.weight"].shape[0],
                latent=tensors["codebook"].shape[-1],
                levels=tensors["codebook"].shape[0],
                codes=tensors["codebook"].shape[-2],
                encoder_blocks=sum(k.startswith("encoder.blocks.") and k.endswith(".scale") for k in tensors),
                decoder_blocks=sum(k.startswith("decoder.blocks.") and k.endswith(".scale") for k in tensors),
                fine_blocks=sum(k.startswith("decoder.fine.") and k.endswith(".scale") for k in tensors),
                expansion=tensors["decoder.blocks.0.expand.weight"].shape[0] // tensors["encoder.stem.weight"].shape[0],
                synthesis_window=tensors["decoder.head.weight"].shape[0] - 2,
            )
        except KeyError as missing:
            raise WeightsError(f"codec weights lack {missing}", "use a codec file written by this project") from None
        codec = cls(config)
        expected = {key: tuple(value.shape) for key, value in codec.state_dict().items()}
        given = {key: tuple(value.shape) for key, value in tensors.items()}
        wrong = sorted(key for key in expected.keys() | given.keys() if expected.get(key) != given.get(key))
        if wrong:
            raise WeightsError(
                f"codec weights do not fit at {', '.join(wrong[:5])}", "use a codec file written by this project"
            )
        codec.load_state_dict({key: value.float() for key, value in tensors.items()})
        return codec.eval()

    @property
    def codebooks(self) -> int:
        return STACKED * self.config.levels

    def quantise(self, latents: Float[Tensor, "b n latent"]) -> Int[Tensor, "b l n"]:
        """The nearest code of every level to what the levels before it left over."""
        codes = []
        for table in self.codebook:
            nearest = (table.square().sum(1) - 2 * latents @ table.T).argmin(-1)
            latents = latents - table[nearest]
            codes.append(nearest)
        return torch.stack(codes, dim=1)

    def latents(self, codes: Int[Tensor, "b q t"]) -> Float[Tensor, "b n latent"]:
        """What the decoder reads: the sum over levels of the vectors of stacked codes, n = 2 t."""
        frames = codes.unflatten(1, (-1, STACKED)).transpose(2, 3).flatten(2)  # (b, l, n)
        return torch.stack([table[level] for table, level in zip(self.codebook, frames.unbind(1), strict=True)]).sum(0)

    @torch.no_grad()
    def encode(self, waveform: Float[Tensor, "b s"]) -> Int[Tensor, "b q t"]:
        """Codes of a 16 kHz waveform, zero-padded at its end to whole video frames: t = ceil(s / 640)."""
        missing = -waveform.shape[-1] % SAMPLES_PER_VIDEO_FRAME
        codes = self.quantise(self.encoder(F.pad(waveform, (0, missing))))
        return codes.unflatten(2, (-1, STACKED)).transpose(2, 3).flatten(1, 2)

    @torch.no_grad()
    def decode(self, codes: Int[Tensor, "b q t"]) -> Float[Tensor, "b s"]:
        """The waveform of stacked codes, s = 640 * t samples in [-1, 1]."""
        return self.decoder(self.latents(codes)).clamp(-1.0, 1.0)
