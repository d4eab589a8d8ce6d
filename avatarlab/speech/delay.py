"""The delay pattern: codebook i runs i columns behind codebook 0 (spec small-e, section 2.2)."""

import torch
from jaxtyping import Int
from torch import Tensor

from avatarlab.speech.small_e import BOS, EOS, FIRST_CODE


def delay(codes: Int[Tensor, "q n"]) -> Int[Tensor, "t q"]:
    """Columns of token ids for n frames of raw codes: BOS (i + 1 times), the codes, EOS (q - i times); t = n + q + 1.

    The model reads column t and predicts column t + 1.

    >>> delay(torch.tensor([[7, 8, 9], [4, 5, 6]])).T.tolist()
    [[1, 10, 11, 12, 2, 2], [1, 1, 7, 8, 9, 2]]
    """
    codebooks, frames = codes.shape
    columns = torch.full((frames + codebooks + 1, codebooks), EOS, dtype=torch.int64, device=codes.device)
    for i in range(codebooks):
        columns[: i + 1, i] = BOS
        columns[i + 1 : i + 1 + frames, i] = codes[i].to(torch.int64) + FIRST_CODE
    return columns


def undelay(columns: Int[Tensor, "t q"]) -> Int[Tensor, "q n"]:
    """The raw codes that `delay` made these columns from."""
    return align(columns[1:-1]) - FIRST_CODE


def align(columns: Int[Tensor, "t q"]) -> Int[Tensor, "q n"]:
    """Codebook i shifted back by i columns, n = t - q + 1, for columns that start with codebook 0's first code."""
    steps, codebooks = columns.shape
    frames = steps - codebooks + 1
    return torch.stack([columns[i : i + frames, i] for i in range(codebooks)])
