"""HuBERT-large, the ear of the published stage 2 (spec diffdub 8): every hidden state of torchaudio's network.

Published lips hear TencentGameMate/chinese-hubert-large, 25 states of 1024 numbers at 50 Hz. Libraries disagree about
what the last state is, so it is defined here: state 0 is the projected features with the positional convolution added,
states 1 to 23 are what layers 1 to 23 give, state 24 is what layer 24 gives after the encoder's final norm.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchaudio.models import wav2vec2_model

from avatarlab import AUDIO_FEATURE_HZ, SAMPLE_RATE_HZ
from avatarlab.errors import WeightsError
from avatarlab.lips.strict import Tensors, fill, refuse_mismatches, size_of, vote
from avatarlab.speech.small_e import Unfilled

KERNELS = (10, 3, 3, 3, 3, 2, 2)
STRIDES = (5, 2, 2, 2, 2, 2, 2)
HOP = SAMPLE_RATE_HZ // AUDIO_FEATURE_HZ  # the product of the strides
FIELD = 400  # samples that one frame sees
HEAD_WIDTH = 64
PASS_FRAMES = 20 * AUDIO_FEATURE_HZ  # as long as what HuBERT was trained on; 5 s before and after a window of 10 s
WINDOW_FRAMES = 10 * AUDIO_FEATURE_HZ
BLOCK_SAMPLES = 60 * SAMPLE_RATE_HZ
VARIANCE_FLOOR = 1e-7
# torch's spelling of a weight norm since 2.0 -> that of the published file
WEIGHT_NORM = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
NOT_HEARD_WITH = "masked_spec_embed"  # only training hides pieces of the sound


@dataclass(frozen=True)
class HubertConfig:
    """Sizes of a network with layer norms in front ("stable"), as all large ones have.

    Heads are 64 wide; tensors do not tell, and X-Large, whose heads are 80 wide, is not meant.
    """

    channels: int = 512
    bias: bool = False  # of the seven convolutions
    width: int = 1024
    layers: int = 24
    inner: int = 4096
    position_kernel: int = 128
    position_groups: int = 16

    @property
    def heads(self) -> int:
        return max(1, self.width // HEAD_WIDTH)

    @property
    def states(self) -> int:
        return self.layers + 1


PUBLISHED_HUBERT = HubertConfig()


class Hubert(nn.Module):
    """The network, under the names that published files use."""

    def __init__(self, config: HubertConfig) -> None:
        super().__init__()
        self.config = config
        built = wav2vec2_model(
            extractor_mode="layer_norm",
            extractor_conv_layer_config=[(config.channels, *sizes) for sizes in zip(KERNELS, STRIDES, strict=True)],
            extractor_conv_bias=config.bias,
            encoder_embed_dim=config.width,
            encoder_projection_dropout=0.0,
            encoder_pos_conv_kernel=config.position_kernel,
            encoder_pos_conv_groups=config.position_groups,
            encoder_num_layers=config.layers,
            encoder_num_heads=config.heads,
            encoder_attention_dropout=0.0,
            encoder_ff_interm_features=config.inner,
            encoder_ff_interm_dropout=0.0,
            encoder_dropout=0.0,
            encoder_layer_norm_first=True,
            encoder_layer_drop=0.0,
            aux_num_out=None,
        )
        self.feature_extractor = built.feature_extractor
        self.feature_projection = built.encoder.feature_projection
        self.encoder = built.encoder.transformer

    @classmethod
    def from_state_dict(cls, tensors: Tensors) -> "Hubert":
        """A network in evaluation mode from tensors named as the `transformers` library names them.

        The prefix `hubert.` is optional, the weight norm of the positional convolution may have either spelling, and the
        embedding of masked pieces is accepted and dropped. Raises WeightsError naming the first five keys that do not
        fit.
        """
        named = {_plain(key): value for key, value in tensors.items()}
        if len(named) < len(tensors):
            raise WeightsError(
                "HuBERT weights do not fit: some tensors are there under two names", "use a file of one network"
            )
        config = _config(named)
        with Unfilled():
            hubert = cls(config)
        shapes = {_plain(key): tuple(value.shape) for key, value in hubert.state_dict().items()}
        embedding = {NOT_HEARD_WITH: (config.width,)} if NOT_HEARD_WITH in named else {}
        refuse_mismatches(shapes | embedding, named, "HuBERT")
        fill(hubert, {key: named[_plain(key)] for key in hubert.state_dict()})
        return hubert.eval()

    def published_state_dict(self) -> dict[str, Tensor]:
        """The tensors under their published names, as `from_state_dict` reads them."""
        return {_plain(key): value for key, value in self.state_dict().items()}

    def forward(self, samples: Float[Tensor, "b s"]) -> Float[Tensor, "b l t50 c"]:
        """All states of standardised 16 kHz samples: t50 = floor((s - 400) / 320) + 1, frame i sees from sample 320 i."""
        features, _ = self.feature_extractor(samples, None)
        x = self.feature_projection(features)
        x = x + self.encoder.pos_conv_embed(x)
        states = [x]
        for layer in self.encoder.layers:
            x, _ = layer(x)
            states.append(x)
        states[-1] = self.encoder.layer_norm(x)
        return torch.stack(states, dim=1)

    def features(self, waveform: Float[np.ndarray, "s"]) -> "HubertFeatures":
        """What it hears in 16 kHz samples that are a whole number of video frames."""
        return HubertFeatures(self, waveform)


class HubertFeatures:
    """What HuBERT hears in a recording, read piece by piece, so that memory does not grow with its length.

    The published extractor put the whole file through the network at once. Here a recording of up to 20 s is heard so,
    to the bit; in a longer one each window of 10 s is heard with 5 s on either side (more on one side at an end).
    Loudness is standardised over the whole recording, and one frame is added by repeating the last, both as published.
    """

    def __init__(self, hubert: Hubert, waveform: Float[np.ndarray, "s"]) -> None:
        """`waveform` is a whole number of video frames; only slices of it are read."""
        self.hubert = hubert
        self.waveform = waveform
        self.frames = len(waveform) // HOP
        self.mean, self.deviation = _level(waveform)

    def between(self, first: int, last: int) -> Float[Tensor, "l t50 c"]:
        """Feature frames `first` to `last` - 1 of `frames`, on the device of the network."""
        windows = [self._window(start, min(start + WINDOW_FRAMES, last)) for start in range(first, last, WINDOW_FRAMES)]
        return torch.cat(windows, dim=1)

    def _window(self, first: int, last: int) -> Float[Tensor, "l t50 c"]:
        heard = self.frames - 1  # the last one is repeated
        length = min(PASS_FRAMES, heard)
        start = min(max(0, (first + last - length) // 2), heard - length)
        piece = np.asarray(self.waveform[start * HOP : (start + length - 1) * HOP + FIELD], dtype=np.float32)
        samples = torch.from_numpy(((piece - self.mean) / self.deviation).astype(np.float32))
        device = self.hubert.encoder.layer_norm.weight.device
        states = self.hubert(samples[None].to(device))[0]
        wanted = torch.arange(first, last, device=device).clamp(max=heard - 1) - start
        return states[:, wanted]


def _level(waveform: Float[np.ndarray, "s"]) -> tuple[float, float]:
    """Mean and floored standard deviation of all samples, read in blocks."""
    blocks = range(0, len(waveform), BLOCK_SAMPLES)
    total = sum(float(waveform[at : at + BLOCK_SAMPLES].sum(dtype=np.float64)) for at in blocks)
    mean = total / len(waveform)
    squares = sum(float(np.square(waveform[at : at + BLOCK_SAMPLES].astype(np.float64) - mean).sum()) for at in blocks)
    return mean, float(np.sqrt(squares / len(waveform) + VARIANCE_FLOOR))


def _plain(key: str) -> str:
    """A key without prefix and with the published spelling of the weight norm."""
    key = key.removeprefix("hubert.")
    for new, old in WEIGHT_NORM.items():
        if key.endswith(new):
            return key.removesuffix(new) + old
    return key


def _config(tensors: Tensors) -> HubertConfig:
    """Sizes read from the tensors, each by vote of several, so that what is missing or misshapen can be named."""
    prefix = "encoder.layers."
    numbers = [key.split(".")[2] for key in tensors if key.startswith(prefix)]
    layers = max([int(number) for number in numbers if number.isdigit()], default=-1) + 1
    if layers == 0:
        raise WeightsError(
            f"HuBERT weights do not fit: missing {prefix}*", "use pytorch_model.bin of chinese-hubert-large"
        )

    def sizes(names: list[str], axis: int) -> list[int | None]:
        return [size_of(tensors, f"{prefix}{layer}.{name}", axis) for layer in range(layers) for name in names]

    width = vote(sizes(["layer_norm.weight", "final_layer_norm.weight"], 0), f"{prefix}0.layer_norm.weight")
    position = "encoder.pos_conv_embed.conv.weight_v"
    config = HubertConfig(
        channels=vote(
            [size_of(tensors, f"feature_extractor.conv_layers.{i}.conv.weight", 0) for i in range(len(KERNELS))],
            "feature_extractor.conv_layers.0.conv.weight",
        ),
        bias=any(key.startswith("feature_extractor.") and key.endswith(".conv.bias") for key in tensors),
        width=width,
        layers=layers,
        inner=vote(
            sizes(["feed_forward.intermediate_dense.weight", "feed_forward.intermediate_dense.bias"], 0),
            f"{prefix}0.feed_forward.intermediate_dense.weight",
        ),
        position_kernel=vote([size_of(tensors, position, 2)], position),
        position_groups=max(1, width // max(1, vote([size_of(tensors, position, 1)], position))),
    )
    if config.width % config.heads or config.width % config.position_groups:
        raise WeightsError(
            f"HuBERT weights do not fit: a width of {config.width} in heads of {HEAD_WIDTH} and {position} of "
            f"{tuple(tensors[position].shape)}",
            "use an undamaged file of HuBERT large or base",
        )
    return config
