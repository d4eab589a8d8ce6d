"""Weights load strictly or not at all: every key accounted for, the first five mismatches named."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from avatarlab.errors import WeightsError

Tensors = Mapping[str, Tensor]


def refuse_mismatches(expected: Mapping[str, tuple[int, ...]], tensors: Tensors, what: str) -> None:
    """Raise WeightsError unless `tensors` has exactly the expected keys with the expected shapes."""
    missing = [f"missing {key}" for key in expected if key not in tensors]
    unknown = [f"unknown {key}" for key in tensors if key not in expected]
    misshapen = [
        f"misshapen {key}: {tuple(tensors[key].shape)}, not {shape}"
        for key, shape in expected.items()
        if key in tensors and tuple(tensors[key].shape) != shape
    ]
    problems = [*missing, *unknown, *misshapen]
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise WeightsError(
            f"{what} weights do not fit: {'; '.join(problems[:5])}{more}",
            "use a complete, unmodified file of this network",
        )


def fill(module: nn.Module, tensors: Tensors) -> None:
    """Give `module` (built on the meta device) the tensors of its own state-dict names, floating ones as float32."""
    kept = {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
    module.load_state_dict({key: value.detach().clone() for key, value in kept.items()}, strict=True, assign=True)


def shapes_of(build: Callable[[], nn.Module]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a network's state dict, without allocating it."""
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in build().state_dict().items()}


def vote(sizes: Iterable[int | None], key: str) -> int:
    """The size most tensors agree on, so that one damaged tensor is named instead of believed.

    Raises WeightsError naming `key`, the tensor that tells it best, where none is present.
    """
    counts = Counter(size for size in sizes if size is not None)
    if not counts:
        raise WeightsError(f"weights do not fit: missing {key}", "use a complete, unmodified file of this network")
    return counts.most_common(1)[0][0]


def size_of(tensors: Tensors, key: str, axis: int) -> int | None:
    """One extent of a tensor, or None where the tensor or the axis is absent."""
    value = tensors.get(key)
    return value.shape[axis] if value is not None and value.ndim > axis else None
