"""Published lips for `avatarlab models import`: DiffDub's two stages and the HuBERT they listen with (spec diffdub 5, 8).

Of a file that has the published sizes, names and shapes of all tensors must be those of the published one: their
fingerprint is pinned here. It says nothing of the numbers; English and Chinese HuBERT, for one, have the same shapes.
Other sizes are taken over too, and said not to be the published ones.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from avatarlab.errors import WeightsError
from avatarlab.lips.diffdub import PUBLISHED_MOTION, PUBLISHED_RENDERER, Motion, Renderer
from avatarlab.lips.hubert import PUBLISHED_HUBERT, Hubert
from avatarlab.lips.lip_sync import hears_log_mel
from avatarlab.models import Setting

FINGERPRINTS = {
    "5f8cb290881b4e211a0a34102f6b4ac6ef532ad1ec86adac179774fa3f5504af": "renderer",  # stage 1, 1413 tensors
    "a5fea8386d57a073ab2da2f257edd45d4e63d2e95919fd5679bec32501cdf296": "renderer",  # its averaged half, 706 tensors
    "adf925b6f2bcfe1bad0fe87c9400321dcb33a0b9a95ce83eafebde48cb136aa2": "motion",  # stage 2, 417 tensors
}
FILES = {"renderer": "stage1_state_dict.ckpt, or its averaged half,", "motion": "stage2_state_dict.ckpt"}
AVERAGED, MOTION_PREFIX = "ema_model.", "seq2seq.encoder."
LICENCES = {
    "diffdub": "DiffDub (Liu et al.): code Apache-2.0; weights trained on HDTF for research, their terms not stated",
    "audio_features": "MIT (Chinese HuBERT large; TencentGameMate)",
}
DRAWING: Mapping[str, Setting] = {"solver": "dpm++", "steps": 3, "batch_size": 4}  # ddim in 20 steps is as published


@dataclass(frozen=True)
class LipWeights:
    """The lips of a model set as they will be stored, by stage. `lacking` says what they still need before they move."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    settings: Mapping[str, Mapping[str, Setting]]
    licences: Mapping[str, str]
    parameters: int
    notes: tuple[str, ...]
    lacking: tuple[str, ...]


def lip_weights(
    renderer: Mapping[str, Tensor], motion: Mapping[str, Tensor], audio_features: Mapping[str, Tensor] | None
) -> LipWeights:
    """The networks in three published files, checked tensor by tensor and against each other.

    Of stage 1 only the averaged half is kept. Raises WeightsError naming what does not fit.
    """
    _refuse_diffae(renderer)
    draws, moves = Renderer.from_state_dict(renderer), Motion.from_state_dict(motion)
    hears = None if audio_features is None else Hubert.from_state_dict(audio_features)
    if draws.config == PUBLISHED_RENDERER:
        refuse_other_lists("renderer", renderer)
    if moves.config == PUBLISHED_MOTION:
        refuse_other_lists("motion", motion)
    if moves.config.style != draws.config.style:
        raise WeightsError(
            f"the motion network tells latents of {moves.config.style} numbers, the renderer reads {draws.config.style}",
            "give the two stages of one release",
        )
    wanted = f"{moves.config.layers} x {moves.config.features}"
    if hears is not None and (hears.config.states, hears.config.width) != (moves.config.layers, moves.config.features):
        raise WeightsError(
            f"the motion network listens to {wanted} features, HuBERT gives {hears.config.states} x {hears.config.width}",
            "give the HuBERT it was trained with: TencentGameMate/chinese-hubert-large",
        )
    networks: dict[str, tuple[nn.Module, bool]] = {
        "renderer": (draws, draws.config == PUBLISHED_RENDERER),
        "motion": (moves, moves.config == PUBLISHED_MOTION),
    }
    tensors = {"renderer": draws.published_state_dict(), "motion": dict(moves.state_dict())}
    licences = {"renderer": LICENCES["diffdub"], "motion": LICENCES["diffdub"]}
    if hears is not None:
        networks["audio_features"] = (hears, hears.config == PUBLISHED_HUBERT)
        tensors["audio_features"] = hears.published_state_dict()
        licences["audio_features"] = LICENCES["audio_features"]
    sizes = {stage: sum(p.numel() for p in network.parameters()) for stage, (network, _) in networks.items()}
    return LipWeights(
        tensors,
        {"renderer": DRAWING if draws.config.window is None else {}},
        licences,
        sum(sizes.values()),
        tuple(
            f"{stage}: {sizes[stage]:,} parameters, not the published file"
            for stage, (_, published) in networks.items()
            if not published
        ),
        ()
        if hears is not None or hears_log_mel(moves)
        else (f"{wanted} audio features: import again with --audio-features and pytorch_model.bin of HuBERT",),
    )


def fingerprint(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """sha256 in hex over sorted lines of name and shape."""
    lines = sorted(f"{key} {'x'.join(map(str, shape))}".encode() for key, shape in shapes.items())
    return hashlib.sha256(b"\n".join(lines) + b"\n").hexdigest()


def refuse_other_lists(stage: str, tensors: Mapping[str, Tensor]) -> None:
    """Raises WeightsError unless names and shapes are those of a published file of this stage, prefixes aside."""
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    if stage == "motion":
        shapes = {MOTION_PREFIX + key.removeprefix(MOTION_PREFIX): shape for key, shape in shapes.items()}
    elif all(key.startswith(AVERAGED) for key in shapes):
        shapes = {key.removeprefix(AVERAGED): shape for key, shape in shapes.items()}
    found = fingerprint(shapes)
    if FINGERPRINTS.get(found) != stage:
        raise WeightsError(
            f"the {stage} has the published sizes but not the published list of tensors: {len(shapes)} of them, "
            f"fingerprint {found[:12]}...",
            f"use {FILES[stage]} unmodified",
        )


def _refuse_diffae(tensors: Mapping[str, Tensor]) -> None:
    """DiffAE's FFHQ256 autoencoder has DiffDub's names throughout; only its first convolution sees no reference."""
    for prefix in (AVERAGED, "model.", ""):
        first = tensors.get(f"{prefix}input_blocks.0.0.weight")
        if first is not None and first.ndim == 4 and first.shape[1] == 3:
            raise WeightsError(
                "this is DiffAE, which DiffDub's training starts from: its first convolution reads 3 channels, not 6",
                "give DiffDub's stage1_state_dict.ckpt; DiffAE repaints faces, but knows no mask and no reference",
            )
