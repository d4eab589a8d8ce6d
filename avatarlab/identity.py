"""What code and models a process works with: artifacts of a run must all be made by the same."""

import socket
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

from avatarlab.errors import AvatarLabError
from avatarlab.models import read_model_set
from avatarlab.stages import VERSIONS, StageContext
from avatarlab.store import open_store


@cache
def software() -> str:
    """The release, and the versions of the stages, which decide about keys."""
    return f"{version('avatarlab')} ({', '.join(f'{stage} {number}' for stage, number in VERSIONS.items())})"


@dataclass(frozen=True)
class Fitness:
    """What a worker says of itself. `lacks` is empty where it can do the work of a run."""

    host: str
    software: str
    lacks: str = ""
    remedy: str = ""


def examine(context: StageContext) -> Fitness:
    """Whether this process has the model set of the run and reaches its store. Raises nothing of ours."""
    host = socket.gethostname()
    try:
        found = read_model_set(Path(context.models)).set_digest
        if found != context.models_digest:
            return Fitness(
                host,
                software(),
                f"has another model set at {context.models}: {found[:12]}, and the run uses {context.models_digest[:12]}",
                "copy the run's model set there",
            )
        open_store(context.store_uri).check()
    except AvatarLabError as error:
        return Fitness(host, software(), error.message, error.remedy)
    return Fitness(host, software())
