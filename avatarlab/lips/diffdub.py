"""DiffDub's two networks (arXiv 2311.01811; spec diffdub 1 and 2), published and bundled sizes alike.

Published behaviour is what the tensors of a published checkpoint configure. The bundled set differs by what extra
tensors in its files switch on:

    `sample_window` (2,) int   renderer: works on a square window around the mouth (side, lip image side in pixels),
                               predicts the picture itself, as a change of the reference, from step 999 on
    `audio_residual.*`,        motion: audio features also reach the output directly, not only as attention queries;
    `reference_in.*`           latents, told as a change of the mean reference, may be narrower than the network
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isqrt

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from avatarlab.errors import WeightsError
from avatarlab.lips import sampler
from avatarlab.lips.conformer import Conformer
from avatarlab.lips.strict import Tensors, fill, refuse_mismatches, shapes_of, size_of, vote
from avatarlab.lips.unet import SemanticEncoder, UNet

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class RendererConfig:
    """Sizes of stage 1. `window` None is the published renderer: whole pictures of any size, noise prediction."""

    base: int = 128
    widths: tuple[int, ...] = (128, 128, 256, 256, 512, 512)
    encoder_widths: tuple[int, ...] = (128, 128, 256, 256, 512, 512, 512)
    blocks: int = 2
    attention_levels: tuple[int, ...] = (4,)
    encoder_attention_levels: tuple[int, ...] = (4,)
    time: int = 512
    style: int = 512
    patch: int = 1
    window: tuple[int, int] | None = None

    @property
    def prediction(self) -> str:
        """`noise` as published, `sample` for the window renderer."""
        return "noise" if self.window is None else "sample"


@dataclass(frozen=True)
class MotionConfig:
    """Sizes of stage 2. `residual` False is the published network: audio acts through attention queries alone."""

    width: int = 512
    style: int = 512
    layers: int = 25
    features: int = 1024
    reference_blocks: int = 2
    speech_blocks: int = 4
    decoder_blocks: int = 4
    heads: int = 2
    inner: int = 512
    kernel: int = 13
    residual: bool = False


PUBLISHED_RENDERER = RendererConfig()
PUBLISHED_MOTION = MotionConfig()


class Renderer(nn.Module):
    """Stage 1: draws the masked part of a picture from a reference picture and a lip latent."""

    def __init__(self, config: RendererConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.unet = UNet(
            inputs=6 * config.patch**2,
            outputs=3 * config.patch**2,
            widths=config.widths,
            blocks=config.blocks,
            attention_levels=config.attention_levels,
            base=config.base,
            time=config.time,
            style=config.style,
            dropout=dropout,
        )
        self.encoder = SemanticEncoder(
            widths=config.encoder_widths,
            blocks=config.blocks,
            attention_levels=config.encoder_attention_levels,
            style=config.style,
        )

    @classmethod
    def from_state_dict(cls, tensors: Tensors) -> "Renderer":
        """A renderer in evaluation mode from published or bundled tensors.

        Accepts the full 1413-key training file (`model.*`, `ema_model.*`, `x_T`; the averaged half is used), the
        averaged half alone, and unprefixed keys. Raises WeightsError naming the first five keys that do not fit.
        """
        used = _averaged_half(tensors)
        config = _renderer_config(used)
        shapes = renderer_shapes(config)
        refuse_mismatches(shapes, used, "renderer")
        raw = {
            k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.") and v is not used.get(k)
        }
        if raw:
            refuse_mismatches(shapes, raw, "renderer (model.*)")
        with torch.device("meta"):
            renderer = cls(config)
        fill(renderer, {_module_key(key): value for key, value in used.items() if key != "sample_window"})
        return renderer.eval()

    def published_state_dict(self) -> dict[str, Tensor]:
        """The tensors under their published names, as `from_state_dict` reads them."""
        tensors = {key.removeprefix("unet."): value for key, value in self.state_dict().items()}
        if self.config.window is not None:
            tensors["sample_window"] = torch.tensor(self.config.window, dtype=torch.int32)
        return tensors

    def encode_lips(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b z"]:
        """Lip images in [-1, 1] (mask.lip_image) -> latents, unnormalised."""
        return self.encoder(image)

    def predict_noise(
        self,
        x: Float[Tensor, "b 3 h w"],
        reference: Float[Tensor, "b 3 h w"],
        t: Int[Tensor, "b"],
        z: Float[Tensor, "b z"],
    ) -> Float[Tensor, "b 3 h w"]:
        """The noise in `x` (masked area noisy, the rest clean) at integer steps `t`; `reference` is a whole picture."""
        output = self._network(x, reference, t, z)
        if self.config.window is None:
            return output
        signal = sampler.alpha_bars().to(x.device)[t].to(x.dtype)[:, None, None, None]
        return (x - signal.sqrt() * (reference + output)) / (1 - signal).sqrt()

    def predict_clean(
        self,
        x: Float[Tensor, "b 3 h w"],
        reference: Float[Tensor, "b 3 h w"],
        t: Int[Tensor, "b"],
        z: Float[Tensor, "b z"],
    ) -> Float[Tensor, "b 3 h w"]:
        """The picture behind `x`; not clipped."""
        output = self._network(x, reference, t, z)
        if self.config.window is not None:
            return reference + output
        signal = sampler.alpha_bars().to(x.device)[t].to(x.dtype)[:, None, None, None]
        return (x - (1 - signal).sqrt() * output) / signal.sqrt()

    def ddim(
        self,
        start: Float[Tensor, "b 3 h w"],
        reference: Float[Tensor, "b 3 h w"],
        keep: Float[Tensor, "b 3 h w"],
        noise: Float[Tensor, "b 3 h w"],
        z: Float[Tensor, "b z"],
        steps: int,
    ) -> Float[Tensor, "b 3 h w"]:
        """Published sampling in [-1, 1]: `steps` strided steps, no final composite (spec 1.6)."""
        predict = self._of_step(self.predict_noise, reference, z)
        return sampler.ddim(predict, start, keep, noise, sampler.strided_steps(steps))

    def sample(
        self,
        start: Float[Tensor, "b 3 h w"],
        reference: Float[Tensor, "b 3 h w"],
        keep: Float[Tensor, "b #c h w"],
        noise: Float[Tensor, "#b 3 h w"],
        z: Float[Tensor, "b z"],
        steps: int,
    ) -> Float[Tensor, "b 3 h w"]:
        """Few-step sampling in [-1, 1] from trailing steps (999 first); the known area comes back untouched."""
        predict = self._of_step(self.predict_clean, reference, z)
        return sampler.few_steps(predict, start, keep, noise, sampler.trailing_steps(steps))

    def _of_step(self, predict: Callable[..., Tensor], reference: Tensor, z: Tensor) -> sampler.Predict:
        return lambda x, step: predict(x, reference, torch.full((len(x),), step, device=x.device), z)

    def _network(self, x: Tensor, reference: Tensor, t: Tensor, z: Tensor) -> Tensor:
        stacked = torch.cat([x, reference], dim=1)
        if self.config.patch == 1:
            return self.unet(stacked, t, z)
        return F.pixel_shuffle(self.unet(F.pixel_unshuffle(stacked, self.config.patch), t, z), self.config.patch)


class CrossAttention(nn.Module):
    """Audio frames query the reference memory. `linear2` and `norm2` are in published files and never used."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, max(1, width // 64), dropout=dropout, batch_first=True)
        self.linear1 = nn.Linear(width, width)
        self.linear2 = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)

    def forward(
        self, x: Float[Tensor, "b f d"], memory: Float[Tensor, "b r d"], residual: Float[Tensor, "b f d"] | None
    ) -> Float[Tensor, "b f d"]:
        mixed = self.linear1(self.self_attn(x, memory, memory, need_weights=False)[0])
        return self.norm1(mixed if residual is None else mixed + residual)


class Motion(nn.Module):
    """Stage 2: speech features and reference latents -> one lip latent for each video frame."""

    def __init__(self, config: MotionConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        d = config.width

        def conformer(blocks: int) -> Conformer:
            return Conformer(blocks, d, config.heads, config.inner, config.kernel, dropout)

        self.weights = nn.Parameter(torch.zeros(config.layers))
        self.down_sample_audio_nar = nn.Conv1d(config.features, d, 3, stride=2, padding=1)
        self.reference_encoder = conformer(config.reference_blocks)
        self.speech_encoder = conformer(config.speech_blocks)
        self.coarse_decoder = conformer(config.decoder_blocks)
        self.cross_attention = CrossAttention(d, dropout / 2)
        self.out_proj = nn.Linear(d, config.style)
        if config.residual:
            self.reference_in = nn.Linear(config.style, d)
            self.audio_residual = nn.Linear(d, d)

    @classmethod
    def from_state_dict(cls, tensors: Tensors) -> "Motion":
        """A motion network in evaluation mode; the prefix `seq2seq.encoder.` is optional.

        Raises WeightsError naming the first five keys that do not fit.
        """
        prefix = "seq2seq.encoder."
        if any(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): v for key, v in tensors.items() if key.startswith(prefix)} | {
                f"(no prefix) {key}": v for key, v in tensors.items() if not key.startswith(prefix)
            }
        config = _motion_config(tensors)
        refuse_mismatches(motion_shapes(config), tensors, "motion")
        with torch.device("meta"):
            motion = cls(config)
        fill(motion, tensors)
        return motion.eval()

    def forward(self, audio: Float[Tensor, "b l t50 c"], references: Float[Tensor, "b r z"]) -> Float[Tensor, "b f z"]:
        """Feature layers at 50 Hz and any number of reference latents -> latents at 25 fps, f = ceil(t50 / 2)."""
        return self.latents(self.heard(audio, references), references)

    def heard(self, audio: Float[Tensor, "b l t50 c"], references: Float[Tensor, "b r z"]) -> Float[Tensor, "b f d"]:
        """The first half of the network: what was said, in each video frame."""
        x = torch.einsum("bltc,l->bct", audio, self.weights.softmax(dim=0))
        x = self.down_sample_audio_nar(x).transpose(1, 2)  # (b, f, d)
        memory = self.reference_encoder(self.reference_in(references) if self.config.residual else references)
        y = self.cross_attention(x, memory, self.audio_residual(x) if self.config.residual else None)
        return self.speech_encoder(y)

    def latents(self, heard: Float[Tensor, "b f d"], references: Float[Tensor, "b r z"]) -> Float[Tensor, "b f z"]:
        """The second half: lip latents of what was heard."""
        latents = self.out_proj(self.coarse_decoder(heard))
        return latents + references.mean(dim=1, keepdim=True) if self.config.residual else latents


def renderer_shapes(config: RendererConfig) -> Shapes:
    """Published key names and shapes of a renderer of this configuration."""
    shapes = {key.removeprefix("unet."): shape for key, shape in shapes_of(lambda: Renderer(config)).items()}
    return shapes | ({} if config.window is None else {"sample_window": (2,)})


def motion_shapes(config: MotionConfig) -> Shapes:
    """Key names and shapes, without the published prefix `seq2seq.encoder.`."""
    return shapes_of(lambda: Motion(config))


def _module_key(key: str) -> str:
    return key if key.startswith("encoder.") else f"unet.{key}"


def _averaged_half(tensors: Tensors) -> dict[str, Tensor]:
    """The keys to build from, unprefixed; keys that belong to no known layout keep their names and are refused later."""
    prefix = "ema_model."
    if any(key.startswith(prefix) for key in tensors):
        known = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        others = {k: v for k, v in tensors.items() if not k.startswith((prefix, "model.")) and k != "x_T"}
        return known | others
    return dict(tensors)


def _renderer_config(tensors: Tensors) -> RendererConfig:
    """Sizes read from the tensors, each by vote of several, so that what is missing or misshapen can be named."""
    down = _count(tensors, "input_blocks")
    encoder_down = _count(tensors, "encoder.input_blocks")
    up_blocks = sorted(
        {int(key.split(".")[1]) for key in tensors if key.startswith("output_blocks.") and _is_up_block(key)}
    )
    blocks = up_blocks[0] if up_blocks else down - 1
    if blocks < 1 or down % (blocks + 1) or encoder_down % (blocks + 1):
        raise WeightsError(
            f"renderer weights do not fit: {down} input blocks and {encoder_down} encoder blocks do not divide into levels",
            "use a complete, unmodified file of this network",
        )
    inputs = size_of(tensors, "input_blocks.0.0.weight", 1)
    outputs = [size_of(tensors, "out.2.weight", 0), size_of(tensors, "out.2.bias", 0), inputs and inputs // 2]
    patch = isqrt(vote(outputs, "out.2.weight") // 3)
    window = tensors.get("sample_window")
    style_keys = [key for key in tensors if ".cond_emb_layers.1.weight" in key]
    base = vote([size_of(tensors, "time_embed.time_embed.0.weight", 1)], "time_embed.time_embed.0.weight")
    time = vote(
        [size_of(tensors, f"time_embed.time_embed.{i}.{kind}", 0) for i in (0, 2) for kind in ("weight", "bias")],
        "time_embed.time_embed.0.bias",
    )
    return RendererConfig(
        base=base,
        widths=_widths(tensors, "input_blocks", down, blocks),
        encoder_widths=_widths(tensors, "encoder.input_blocks", encoder_down, blocks),
        blocks=blocks,
        attention_levels=_attention_levels(tensors, "input_blocks", blocks),
        encoder_attention_levels=_attention_levels(tensors, "encoder.input_blocks", blocks),
        time=time,
        style=vote([size_of(tensors, key, 1) for key in style_keys], "input_blocks.1.0.cond_emb_layers.1.weight"),
        patch=max(1, patch),
        window=(int(window[0]), int(window[1])) if window is not None and window.shape == (2,) else None,
    )


def _count(tensors: Tensors, prefix: str) -> int:
    parts = prefix.count(".") + 1
    indices = [int(key.split(".")[parts]) for key in tensors if key.startswith(f"{prefix}.") and _numbered(key, parts)]
    if not indices:
        raise WeightsError(f"renderer weights do not fit: missing {prefix}.*", "use a complete renderer file")
    return max(indices) + 1


def _numbered(key: str, part: int) -> bool:
    parts = key.split(".")
    return len(parts) > part and parts[part].isdigit()


def _is_up_block(key: str) -> bool:
    parts = key.split(".")
    return len(parts) > 3 and parts[1].isdigit() and parts[2] in ("1", "2") and parts[3].endswith("_layers")


def _widths(tensors: Tensors, prefix: str, count: int, blocks: int) -> tuple[int, ...]:
    widths = []
    for first in range(1, count + 1, blocks + 1):
        keys = [
            f"{prefix}.{index}.0.{name}"
            for index in range(first, first + blocks)
            for name in ("in_layers.2.weight", "in_layers.2.bias", "out_layers.0.weight", "out_layers.3.bias")
        ]
        widths.append(vote([size_of(tensors, key, 0) for key in keys], keys[0]))
    return tuple(widths)


def _attention_levels(tensors: Tensors, prefix: str, blocks: int) -> tuple[int, ...]:
    parts = prefix.count(".") + 1
    found = {
        (int(key.split(".")[parts]) - 1) // (blocks + 1)
        for key in tensors
        if key.startswith(f"{prefix}.") and _numbered(key, parts) and key.split(".")[parts + 1] == "1"
    }
    return tuple(sorted(found))


def _motion_config(tensors: Tensors) -> MotionConfig:
    def stack(name: str) -> int:
        indices = [
            int(key.split(".")[2])
            for key in tensors
            if key.startswith(f"{name}.encoders.") and key.split(".")[2].isdigit()
        ]
        if not indices:
            raise WeightsError(f"motion weights do not fit: missing {name}.*", "use a complete motion file")
        return max(indices) + 1

    def ending(suffix: str, axis: int) -> int:
        found = [size_of(tensors, key, axis) for key in tensors if key.endswith(suffix)]
        return vote(found, f"speech_encoder.encoders.0.{suffix}")

    residual = any(key.startswith(("audio_residual.", "reference_in.")) for key in tensors)
    return MotionConfig(
        width=ending("norm_final.weight", 0),
        style=vote(
            [
                size_of(tensors, "out_proj.weight", 0),
                size_of(tensors, "out_proj.bias", 0),
                size_of(tensors, "reference_in.weight" if residual else "out_proj.weight", 1),
            ],
            "out_proj.weight",
        ),
        layers=_required(tensors, "weights", 0),
        features=_required(tensors, "down_sample_audio_nar.weight", 1),
        reference_blocks=stack("reference_encoder"),
        speech_blocks=stack("speech_encoder"),
        decoder_blocks=stack("coarse_decoder"),
        heads=ending("self_attn.pos_bias_u", 0),
        inner=ending("feed_forward.w_1.bias", 0),
        kernel=ending("conv_module.depthwise_conv.weight", 2),
        residual=residual,
    )


def _required(tensors: Mapping[str, Tensor], key: str, axis: int) -> int:
    size = size_of(tensors, key, axis)
    if size is None:
        state = "misshapen" if key in tensors else "missing"
        raise WeightsError(f"motion weights do not fit: {state} {key}", "use a complete motion file")
    return size
