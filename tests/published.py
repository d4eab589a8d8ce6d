"""State dicts with the names and shapes of the published speech checkpoints (spec small-e, section 7.2), written out."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import floor

import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Published:
    width: int
    text_layers: int
    text_heads: int
    blocks: int
    heads: int
    expand_v: int
    codebooks: int
    codes: int
    position_width: int
    lina: bool
    """The Lina dialect: convolutional positions, short convolutions, tied embeddings, no rotation in the attention."""


GLA_60 = Published(512, 9, 8, 6, 4, 2, 4, 1024, 128, lina=False)
GLA_130 = Published(768, 9, 8, 6, 4, 2, 4, 1024, 128, lina=False)
LINA_169 = Published(1024, 5, 8, 6, 4, 1, 1, 4096, 1024, lina=True)


def shapes(of: Published) -> Shapes:
    d = of.width
    names: Shapes = {"txt_embed.weight": (256, d)}
    for layer in range(of.text_layers):
        name = f"txt_encoder.sa.{layer}"
        names |= _norms(name, d) | _swiglu(name, d)
        names |= {f"{name}.tmix.qkv.weight": (3 * d, d), f"{name}.tmix.qkv.bias": (3 * d,)}
        names[f"{name}.tmix.rotary.freqs"] = (d // of.text_heads // 2 // 2,)
    for side in ("encoder", "decoder"):
        for block in range(of.blocks):
            names |= _gla_block(of, f"attentive_rnn.{side}.{block}", d)
    cross = "attentive_rnn.cross_att"
    names |= _gla_block(of, f"{cross}.pos_net", of.position_width)
    for part in "qkv":
        names |= {f"{cross}.{part}.weight": (d, d), f"{cross}.{part}.bias": (d,)}
        names |= {f"{cross}.ln_{part}.weight": (d,), f"{cross}.ln_{part}.bias": (d,)}
    if of.lina:
        names[f"{cross}.pos_embed.embed.weight"] = (2000, of.position_width)
        names[f"{cross}.pos_embed.dw_conv.weight"] = (of.position_width, 1, 31)
        names[f"{cross}.pos_embed.dw_conv.bias"] = (of.position_width,)
    else:
        names[f"{cross}.rotary.freqs"] = (d // 2 // 2,)
    names["rvq_embed.weight"] = names["logits_head.weight"] = (of.codebooks, of.codes + 3, d)
    return names


def parameters(of: Published) -> int:
    """Tied embeddings count once."""
    total = sum(torch.Size(shape).numel() for shape in shapes(of).values())
    return total - of.lina * of.codebooks * (of.codes + 3) * of.width


def random_weights(of: Published, seed: int = 0) -> dict[str, Tensor]:
    """Every tensor drawn, but rotary frequencies as they are; small, so that the network's numbers stay finite."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {}
    for key, shape in shapes(of).items():
        if key.endswith("freqs"):
            drawn[key] = 10000.0 ** -(torch.arange(shape[0]) / shape[0])
        else:
            drawn[key] = torch.empty(shape).uniform_(-0.1, 0.1, generator=generator)
            if len(shape) == 1 and key.endswith("weight"):
                drawn[key] += 1
    if of.lina:
        drawn["rvq_embed.weight"] = drawn["logits_head.weight"]
    return drawn


def lightning(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    """The container of a Lightning checkpoint."""
    return {
        "epoch": 3,
        "global_step": 1000,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": {f"model.{key}": tensor for key, tensor in tensors.items()},
        "hyper_parameters": {"learning_rate": 2e-4, "model": {"d_model": 1024}},
        "optimizer_states": [
            {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(3)}}, "param_groups": []}
        ],
        "lr_schedulers": [],
    }


def _norms(name: str, width: int) -> Shapes:
    return {f"{name}.norm{n}.{kind}": (width,) for n in (1, 2) for kind in ("weight", "bias")}


def _swiglu(name: str, width: int) -> Shapes:
    hidden = floor(4 * width / 3)
    return {
        f"{name}.cmix.p_in.weight": (2 * hidden, width),
        f"{name}.cmix.p_in.bias": (2 * hidden,),
        f"{name}.cmix.p_out.weight": (width, hidden),
        f"{name}.cmix.p_out.bias": (width,),
    }


def _gla_block(of: Published, name: str, width: int) -> Shapes:
    keys, values = width, width * of.expand_v
    block = _norms(name, width) | _swiglu(name, width)
    block |= {f"{name}.tmix.{part}_proj.weight": (keys, width) for part in "qk"}
    block |= {f"{name}.tmix.{part}_proj.weight": (values, width) for part in "vg"}
    block |= {
        f"{name}.tmix.gk_proj.0.weight": (16, width),
        f"{name}.tmix.gk_proj.1.weight": (keys, 16),
        f"{name}.tmix.gk_proj.1.bias": (keys,),
        f"{name}.tmix.o_proj.weight": (width, values),
        f"{name}.tmix.g_norm_swish_gate.weight": (values // of.heads,),
    }
    if of.lina:
        block |= {f"{name}.tmix.{part}_conv1d.weight": (keys, 1, 4) for part in "qk"}
        block[f"{name}.tmix.v_conv1d.weight"] = (values, 1, 4)
    return block
