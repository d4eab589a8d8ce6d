"""A voice as the memory that Small-E starts from (spec small-e, section 6.5; Lina-Speech, arXiv 2410.23320).

Instead of zeros, every encoder and decoder block starts from a matrix S_0 per head that `avatarlab voices tune` has
learned with all weights frozen; PosNet, which follows the text, always starts from zero. The file holds, for block i of
the encoder blocks and then the decoder blocks,

    layer{i}_k (1, r, n, k, 1)  and  layer{i}_v (1, r, n, 1, v)     S_0 = 0.02 times the sum over r of their products
    layer{i}   (1, n, k, v)                                         or S_0 itself

and in its metadata under `small_e` the sha256 of the weights it was tuned for, which alone it fits.

Extra letters in the shapes: n heads, k and v channels per head of keys and values, r rank.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from avatarlab.errors import AvatarError
from avatarlab.speech.small_e import SmallE
from avatarlab.store import local_file

SCALE = 0.02
TUNED_FOR = "small_e"

StartMemories = tuple[Float[Tensor, "n k v"], ...]
"""One matrix per encoder block, then one per decoder block."""


def memory_shapes(model: SmallE) -> list[tuple[int, int, int]]:
    """(n, k, v) of every encoder block, then of every decoder block."""
    rnn = model.attentive_rnn
    memories = [block.tmix.step().initial_state(1).matrix for block in (*rnn.encoder, *rnn.decoder)]
    return [(memory.shape[1], memory.shape[2], memory.shape[3]) for memory in memories]


def untuned_state(model: SmallE, rank: int, generator: torch.Generator) -> dict[str, Tensor]:
    """The tensors that tuning starts from: keys from N(0, 1), values from N(0, 0.02)."""
    tensors = {}
    for index, (heads, keys, values) in enumerate(memory_shapes(model)):
        tensors[f"layer{index}_k"] = torch.randn(1, rank, heads, keys, 1, generator=generator)
        tensors[f"layer{index}_v"] = SCALE * torch.randn(1, rank, heads, 1, values, generator=generator)
    return tensors


def start_memories(tensors: Mapping[str, Tensor]) -> StartMemories:
    """The matrices that the tensors of a file stand for; gradients flow through."""
    left = dict(tensors)
    matrices: list[Tensor] = []
    while left:
        name = f"layer{len(matrices)}"
        whole = left.pop(name) if name in left else SCALE * (left.pop(f"{name}_k") @ left.pop(f"{name}_v")).sum(1)
        matrices.append(whole[0])
    return tuple(matrices)


def stacked(
    states: Sequence[StartMemories | None], device: torch.device | str
) -> list[Float[Tensor, "b n k v"]] | None:
    """One matrix per row for every block, zeros where a row has none; None where no row has any."""
    tuned = next((state for state in states if state is not None), None)
    if tuned is None:
        return None
    rows = [state or tuple(torch.zeros_like(memory) for memory in tuned) for state in states]
    return [torch.stack(memories).to(device) for memories in zip(*rows, strict=True)]


def write_voice_state(path: Path, tensors: Mapping[str, Tensor], small_e_sha256: str) -> None:
    """Writes the file, whole or not at all."""
    with local_file(path) as file:
        kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        file.write(save(kept, {TUNED_FOR: small_e_sha256}))


def read_voice_state(path: Path, model: SmallE) -> StartMemories:
    """The start memories in a file, checked against the model. Raises AvatarError where they do not fit or are no numbers."""
    again = "run `avatarlab voices tune` again, or remove the file"
    try:
        found = start_memories({name: tensor.float() for name, tensor in load_file(path).items()})
    except (SafetensorError, OSError, KeyError, RuntimeError, IndexError) as error:
        raise AvatarError(f"{path.name} is not a tuned voice: {error}", again) from error
    if [tuple(memory.shape) for memory in found] != memory_shapes(model):
        raise AvatarError(f"{path.name} does not have the shapes of this speech model", again)
    if not all(torch.isfinite(memory).all() for memory in found):
        raise AvatarError(f"{path.name} holds values that are no numbers", again)
    return found
