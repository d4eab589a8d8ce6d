"""HuBERT at toy size: tensors under the names of the published file, drawn at random."""

import torch
from torch import Tensor

from avatarlab.lips.hubert import KERNELS, HubertConfig

TINY_HUBERT = HubertConfig(channels=8, width=128, layers=2, inner=16, position_kernel=16, position_groups=4)


def hubert_tensors(config: HubertConfig = TINY_HUBERT, seed: int = 0) -> dict[str, Tensor]:
    """Written out from the published layout, not asked of the network."""
    c, d = config.channels, config.width
    shapes: dict[str, tuple[int, ...]] = {"masked_spec_embed": (d,)}
    for i, kernel in enumerate(KERNELS):
        name = f"feature_extractor.conv_layers.{i}"
        shapes |= {f"{name}.conv.weight": (c, c if i else 1, kernel)}
        shapes |= {f"{name}.layer_norm.{kind}": (c,) for kind in ("weight", "bias")}
    shapes |= {f"feature_projection.layer_norm.{kind}": (c,) for kind in ("weight", "bias")}
    shapes |= {"feature_projection.projection.weight": (d, c), "feature_projection.projection.bias": (d,)}
    position = "encoder.pos_conv_embed.conv"
    shapes |= {f"{position}.bias": (d,), f"{position}.weight_g": (1, 1, config.position_kernel)}
    shapes |= {f"{position}.weight_v": (d, d // config.position_groups, config.position_kernel)}
    shapes |= {f"encoder.layer_norm.{kind}": (d,) for kind in ("weight", "bias")}
    for i in range(config.layers):
        name = f"encoder.layers.{i}"
        for part in "kvq":
            shapes |= {f"{name}.attention.{part}_proj.weight": (d, d), f"{name}.attention.{part}_proj.bias": (d,)}
        shapes |= {f"{name}.attention.out_proj.weight": (d, d), f"{name}.attention.out_proj.bias": (d,)}
        for norm in ("layer_norm", "final_layer_norm"):
            shapes |= {f"{name}.{norm}.weight": (d,), f"{name}.{norm}.bias": (d,)}
        for part, sizes in {"intermediate_dense": (config.inner, d), "output_dense": (d, config.inner)}.items():
            shapes |= {f"{name}.feed_forward.{part}.weight": sizes, f"{name}.feed_forward.{part}.bias": sizes[:1]}
    generator = torch.Generator().manual_seed(seed)
    drawn = {key: 0.15 * torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    for key in drawn:
        if "norm.weight" in key:
            drawn[key] += 1
        if "attention" in key:
            drawn[key] *= 0.3  # heads that attend to many frames
        if key.endswith(".conv.weight"):
            drawn[key] *= 3  # sound must come through seven convolutions
    drawn[f"{position}.weight_g"] = drawn[f"{position}.weight_g"].abs() + 1
    return drawn
