"""EnCodec codes with the Vocos decoder: 24 kHz speech as four streams of codes, 75 steps a second (3 kbps).

The Small-E dialect speaks these codes. This is the only file that uses the package `encodec` (CC BY-NC 4.0), and it imports
it only when weights of this codec are loaded. Encoder and quantiser are EnCodec's (arXiv 2210.13438) under the names
of `encodec_24khz`, prefixed `encodec.`; codebook table and decoder are those of `vocos-encodec-24khz`.
"""

import warnings
from collections.abc import Mapping
from math import log2
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from avatarlab.errors import SettingsError, WeightsError
from avatarlab.lips.strict import fill, refuse_mismatches, size_of, vote
from avatarlab.speech.small_e import Unfilled
from avatarlab.speech.vocos import Vocos, VocosConfig, infer_config

TABLE = "feature_extractor.codebook_weights"
ENCODEC = "encodec."
FIRST_CONV = "encoder.model.0.conv.conv.weight_v"
SAMPLE_RATE_HZ = 24_000
FRAME_RATE = 75
HOP = SAMPLE_RATE_HZ // FRAME_RATE
CODES = 1024
CODEBOOKS = 4
POSSIBLE_CODEBOOKS = (2, 4, 8, 16)  # 1.5, 3, 6 and 12 kbps: the bandwidths Vocos was trained at


class EncodecVocos(nn.Module):
    """`codebooks` residual codebooks of 1024, 75 steps a second of 24 kHz speech."""

    sample_rate_hz = SAMPLE_RATE_HZ
    frame_rate = FRAME_RATE

    def __init__(self, codebooks: int, filters: int, latent: int, decoder: VocosConfig) -> None:
        super().__init__()
        self.codebooks = codebooks
        self.encoder = _encodec_encoder(filters, latent)
        self.tables = nn.ParameterList(nn.Parameter(torch.zeros(CODES, latent)) for _ in range(codebooks))
        self.decoding_table = nn.Parameter(torch.zeros(codebooks * CODES, latent))
        self.decoder = Vocos(decoder, HOP)

    @classmethod
    def from_state_dict(cls, tensors: Mapping[str, Tensor]) -> "EncodecVocos":
        """From what `combined` gives. Raises WeightsError naming up to five tensors that do not fit."""
        rows = vote([size_of(tensors, TABLE, 0)], TABLE)
        if rows // CODES not in POSSIBLE_CODEBOOKS or rows % CODES:
            raise WeightsError(f"a table of {rows} codes belongs to no bandwidth of Vocos", "import the codec again")
        first = ENCODEC + FIRST_CONV
        sizes = (
            rows // CODES,
            vote([size_of(tensors, first, 0)], first),
            vote([size_of(tensors, TABLE, 1)], TABLE),
            infer_config(tensors),
        )
        own = {_own_name(key): tensor for key, tensor in tensors.items()}
        with Unfilled():
            codec = cls(*sizes)
        shapes = {key: tuple(tensor.shape) for key, tensor in codec.state_dict().items()}
        refuse_mismatches(shapes, own, "EnCodec and Vocos")
        fill(codec, own)
        return codec.eval()

    @torch.no_grad()
    def encode(self, waveform: Float[Tensor, "b s"]) -> Int[Tensor, "b q t"]:
        """Codes of a 24 kHz waveform, t = ceil(s / 320)."""
        rest = self.encoder(waveform[:, None]).transpose(1, 2)  # (b, t, d)
        codes = []
        for table in self.tables:
            nearest = (table.square().sum(1) - 2 * rest @ table.T).argmin(-1)
            rest = rest - table[nearest]
            codes.append(nearest)
        return torch.stack(codes, dim=1)

    @torch.no_grad()
    def decode(self, codes: Int[Tensor, "b q t"]) -> Float[Tensor, "b s"]:
        """The waveform at 24 kHz, s = 320 * t samples in [-1, 1]."""
        rows = codes + CODES * torch.arange(self.codebooks, device=codes.device)[:, None]
        features = self.decoding_table[rows].sum(1).transpose(1, 2)  # (b, d, t)
        return self.decoder(features, condition_of(self.codebooks)).clamp(-1.0, 1.0)


def combined(
    encodec: Mapping[str, Tensor], vocos: Mapping[str, Tensor], codebooks: int = CODEBOOKS
) -> dict[str, Tensor]:
    """One set of tensors from the two published files: EnCodec's encoder and first codebooks, and Vocos's decoder.

    Raises SettingsError for a number of codebooks Vocos does not know, WeightsError where a file is not what it should be.
    """
    condition_of(codebooks)
    kept = {key: tensor for key, tensor in encodec.items() if key.startswith("encoder.")}
    for level in range(codebooks):
        key = f"quantizer.vq.layers.{level}._codebook.embed"
        if key not in encodec:
            raise WeightsError(f"weights do not fit: missing {key}", "use the file encodec_24khz of EnCodec")
        kept[key] = encodec[key]
    if TABLE not in vocos or vocos[TABLE].ndim != 2 or len(vocos[TABLE]) < codebooks * CODES:
        raise WeightsError(f"weights do not fit: missing {TABLE}", "use the file of vocos-encodec-24khz")
    decoder = {
        key: tensor
        for key, tensor in vocos.items()
        if key != "head.istft.window" and not key.startswith("feature_extractor.")
    }
    return {
        **{ENCODEC + key: tensor for key, tensor in kept.items()},
        **decoder,
        TABLE: vocos[TABLE][: codebooks * CODES].clone(),
    }


def condition_of(codebooks: int) -> int:
    """Vocos's bandwidth id for 2, 4, 8 or 16 codebooks. Raises SettingsError for any other number.

    >>> condition_of(4)
    1
    """
    if codebooks not in POSSIBLE_CODEBOOKS:
        raise SettingsError(f"Vocos does not decode {codebooks} codebooks of EnCodec", "it knows 2, 4, 8 and 16")
    return round(log2(codebooks)) - 1


def _encodec_encoder(filters: int, latent: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the package uses torch's older weight norm
        from encodec.modules.seanet import SEANetEncoder

        return SEANetEncoder(channels=1, dimension=latent, n_filters=filters, norm="weight_norm", causal=True)


def _own_name(key: str) -> str:
    name = key.removeprefix(ENCODEC)
    if name.startswith("quantizer.vq.layers."):
        return f"tables.{name.split('.')[3]}"
    if key == TABLE:
        return "decoding_table"
    return name if key.startswith(ENCODEC) else f"decoder.{key}"
