"""One training loop for every network: keeps to its minutes, resumes from its last checkpoint, writes its curve."""

import json
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch
from safetensors.torch import save_file
from torch import Tensor


@runtime_checkable
class Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Any, /) -> Any: ...


M = TypeVar("M", bound=torch.nn.Module)
Step = Callable[[int, float], Mapping[str, float]]
Progress = Callable[[str], None]


def learning_rate(peak: float, fraction: float, step: int, warm_up: int, flat: float = 0.4) -> float:
    """Linear warm-up over steps, flat, then linear decay to 2 % of the peak over the rest of the time."""
    decay = 1.0 if fraction < flat else max(0.02, 1.0 - (fraction - flat) / (1.0 - flat))
    return peak * min(1.0, (step + 1) / warm_up) * decay


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate


def save_atomically(value: object, path: Path) -> None:
    temporary = path.with_suffix(".partial")
    torch.save(value, temporary)
    temporary.replace(path)


def save_weights(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes weights as they are shipped, atomically: 16 bits, but rotary frequencies, which multiply positions, in full."""
    shipped = {
        key: (value.half() if value.is_floating_point() and ".rotary." not in key else value).contiguous()
        for key, value in tensors.items()
    }
    partial = path.with_suffix(".partial")
    save_file(shipped, partial)
    partial.replace(path)


def take_over(module: torch.nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copies every tensor of an earlier network of the same kind that still has its shape."""
    own = module.state_dict()
    fitting = {key: tensors[key] for key in own if key in tensors and tensors[key].shape == own[key].shape}
    module.load_state_dict(fitting, strict=False)


class MovingAverage(Generic[M]):
    """Exponential moving average of a network's floating-point state, warmed up so that early steps count less."""

    def __init__(self, module: M, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.module = module
        self.average = {key: value.detach().clone() for key, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for key, value in self.module.state_dict().items():
            if value.is_floating_point():
                self.average[key].lerp_(value, 1 - decay)
            else:
                self.average[key].copy_(value)

    def network(self) -> M:
        """A copy of the network with the averaged state, in evaluation."""
        averaged = deepcopy(self.module)
        averaged.load_state_dict(self.average)
        return averaged.eval()

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "average": self.average}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.updates = state["updates"]
        self.average = {key: value.clone() for key, value in state["average"].items()}


def report_held_out(folder: Path, line: Mapping[str, object], progress: Progress) -> None:
    """Adds a line to FOLDER/held_out.jsonl and says it."""
    with (folder / "held_out.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    progress("held out  " + "  ".join(f"{name} {value}" for name, value in line.items()))


def train_loop(
    folder: Path,
    parts: Mapping[str, Stateful],
    step: Step,
    *,
    minutes: float,
    progress: Progress,
    report_every: int = 50,
    checkpoint_seconds: float = 120.0,
    extra: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Calls `step(number, fraction_of_time)` until `minutes` of training (over all sittings) are used.

    `parts` are saved to and restored from FOLDER/checkpoint.pt, with `extra` (plain values the steps may change).
    Means of the metrics go to FOLDER/curve.jsonl and to `progress` every `report_every` steps. Returns `extra`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "checkpoint.pt"
    extra = {} if extra is None else extra
    number, used = 0, 0.0
    if path.exists():
        state = torch.load(path, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state["parts"][name])
        number, used = state["step"], state["seconds"]
        extra.update(state["extra"])
        progress(f"resumed at step {number}, {used / 60:.1f} of {minutes:g} minutes used")

    def save() -> None:
        parts_state = {name: part.state_dict() for name, part in parts.items()}
        save_atomically({"parts": parts_state, "step": number, "seconds": used, "extra": extra}, path)

    sums: dict[str, Tensor | float] = {}
    count = 0
    started, saved = time.monotonic() - used, time.monotonic()
    with (folder / "curve.jsonl").open("a", encoding="utf-8") as curve:
        while used < minutes * 60:
            for name, value in step(number, used / (minutes * 60)).items():
                sums[name] = sums.get(name, 0.0) + value
            number, count, used = number + 1, count + 1, time.monotonic() - started
            if number % report_every == 0:
                means = {name: round(float(value) / count, 4) for name, value in sums.items()}
                line = {"step": number, "minutes": round(used / 60, 2), **means}
                curve.write(json.dumps(line) + "\n")
                curve.flush()
                progress("  ".join(f"{name} {value}" for name, value in line.items()))
                sums, count = {}, 0
            if time.monotonic() - saved > checkpoint_seconds:
                save()
                saved = time.monotonic()
    save()
    return extra
