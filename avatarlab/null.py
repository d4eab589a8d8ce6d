"""Engines without networks: silence and a still mouth of the right length (the bundled model set `null`).

They take the places of the networks and of nothing else, so that a run of many rows shows what the pipeline itself costs,
and a test can make an engine slow or deadly (see `weights/null/models.toml`). Importing this module does not import torch.
"""

import math
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, Int, Int16, Integer, UInt8

from avatarlab import SAMPLES_PER_VIDEO_FRAME
from avatarlab.errors import SettingsError
from avatarlab.lips.life import Living
from avatarlab.lips.mask import PaintedFrame, mouth_windows

if TYPE_CHECKING:
    from avatarlab.models import ModelSet

NAME = "null"
REPLACED = ("small_e", "codec", "motion", "renderer")
SHORTEST_FRAMES = 3


@dataclass(frozen=True)
class NullSettings:
    """`seconds` that a sentence takes to speak; the `deadly` word that ends the process which speaks it, "" for none."""

    seconds: float = 0.0
    deadly: str = ""


def null_settings(models: "ModelSet") -> NullSettings | None:
    """How the null engines of a model set work; None where it has real ones.

    Raises SettingsError for an engine of another name, a set in which only some are null, and unknown settings.
    """
    if not any("engine" in file.settings for file in models.files.values()):
        return None
    for stage in REPLACED:
        file = models.file(stage)
        if file.settings.get("engine") != NAME or file.path is not None:
            raise SettingsError(
                f"{models.path}: the engine of {stage} is not {NAME!r}, or has weights",
                f'write engine = "{NAME}" and no weights for {", ".join(REPLACED)}, or name no engine at all',
            )
        known = {"engine", *(field.name for field in fields(NullSettings) if stage == "small_e")}
        unknown = sorted(file.settings.keys() - known)
        if unknown:
            raise SettingsError(
                f"{models.path}: unknown settings of {stage}: {', '.join(unknown[:5])}",
                f"the known ones are {', '.join(sorted(known))}",
            )
    own = models.settings("small_e")
    seconds, deadly = own.get("seconds", 0.0), own.get("deadly", "")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        raise SettingsError(f"{models.path}: small_e.seconds is {seconds!r}", "give a number that is not negative")
    if not isinstance(deadly, str):
        raise SettingsError(f"{models.path}: small_e.deadly is {deadly!r}", "write a word in quotes")
    return NullSettings(float(seconds), deadly.lower())


def speak(
    units: tuple[int, ...], spoken: str, settings: NullSettings
) -> tuple[Int16[np.ndarray, "1 t"], Float32[np.ndarray, "t j"]]:
    """Codes of silence, and an alignment that walks evenly over the text units: 60 ms for each, as people speak."""
    time.sleep(settings.seconds)
    if settings.deadly and settings.deadly in re.findall(r"[\w']+", spoken.lower()):
        os.kill(os.getpid(), signal.SIGKILL)
    steps = max(SHORTEST_FRAMES, -(-3 * len(units) // 2))
    at = np.arange(steps) * len(units) // steps
    return np.zeros((1, steps), np.int16), np.eye(len(units), dtype=np.float32)[at]


def speech(codes: Int16[np.ndarray, "1 t"]) -> Float32[np.ndarray, "s"]:
    """Digital silence, a video frame of it for each column of codes."""
    return np.zeros(SAMPLES_PER_VIDEO_FRAME * codes.shape[1], np.float32)


def lip_latents(waveform: Float32[np.ndarray, "s"]) -> Float32[np.ndarray, "f 1"]:
    """One zero for each video frame of sound."""
    return np.zeros((len(waveform) // SAMPLES_PER_VIDEO_FRAME, 1), np.float32)


class StillPainter:
    """Stands for `lips.paint.Painter`: mouth windows as the picture has them."""

    def __init__(self, sitter: Living) -> None:
        self._sitter = sitter
        centers, side = mouth_windows(np.stack([sitter.landmarks(index, 0) for index in range(len(sitter))]))
        height, width = sitter.shape
        self._side = min(math.ceil(side), height, width)
        corners = np.floor(centers - side / 2)
        self._corners = corners.clip(0, [width - self._side, height - self._side]).astype(int).tolist()

    def paint(
        self, poses: Int[np.ndarray, "f"], emphasis: Integer[np.ndarray, "f"], latents: Float32[np.ndarray, "f 1"]
    ) -> Iterator[PaintedFrame]:
        """One window for each video frame, whatever the latents say."""
        for pose, level, _ in zip(poses.tolist(), emphasis.tolist(), latents, strict=True):
            x, y = self._corners[pose]
            picture: UInt8[np.ndarray, "h w 3"] = self._sitter.picture(pose, level)
            yield PaintedFrame(picture[y : y + self._side, x : x + self._side], (x, y))
