"""The stages of a render in this process, over a store that vanishes afterwards."""

import io
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from avatarlab.artifacts import Action, Artifacts, Blob
from avatarlab.errors import WorkerError
from avatarlab.execute import run_batch
from avatarlab.models import read_model_set
from avatarlab.stages import Item, Recipe, StageContext, recipe
from avatarlab.store import open_store


@dataclass(frozen=True)
class Workshop:
    context: StageContext
    made_with: Recipe
    artifacts: Artifacts

    def make(self, stage: str, items: Sequence[Item]) -> list[Action]:
        """One action for each item, in order. Raises WorkerError where one could not be made."""
        actions = []
        for outcome in run_batch(stage, items, self.context):
            if outcome.action is None:
                raise WorkerError(f"{stage}: {outcome.error}", outcome.remedy)
            actions.append(outcome.action)
        return actions

    def array(self, blob: Blob) -> np.ndarray:
        return np.load(io.BytesIO(self.artifacts.read(blob)), allow_pickle=False)


@contextmanager
def workshop(models: str | None) -> Iterator[Workshop]:
    """Raises WeightsError or SettingsError where there is no such model set."""
    model_set = read_model_set(models)
    made_with = recipe(model_set, "cpu")
    with tempfile.TemporaryDirectory(prefix="avatarlab-bench-") as folder:
        context = StageContext(folder, model_set.path, model_set.set_digest)
        yield Workshop(context, made_with, Artifacts(open_store(folder)))


@contextmanager
def bench_threads(count: int = 2) -> Iterator[None]:
    """So many threads for the networks, as many as there were afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
