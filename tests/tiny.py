"""The real networks at toy sizes with random weights, and a world to run them in: noise comes out, but quickly."""

import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cartoon
import torch
from safetensors.torch import load_file, save_file

from avatarlab.execute import run_batch
from avatarlab.graph import Batch
from avatarlab.lips.diffdub import Motion, MotionConfig, Renderer, RendererConfig
from avatarlab.manifest import write_manifest
from avatarlab.models import ModelSet, write_model_set
from avatarlab.results import ResultRow
from avatarlab.speech.codec import Codec, CodecConfig
from avatarlab.speech.small_e import SmallE, SmallEConfig
from avatarlab.stages import Outcome, StageContext
from flows.prepare import Request, prepare
from flows.session import Report, carry_out

CODES = 32
STYLE = 32
WINDOW = "sample_window"


def tiny_models(folder: Path, seed: int = 0) -> ModelSet:
    """Writes folder/models.toml and the weights it pins."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    speech = SmallEConfig(
        width=32, text_layers=1, text_heads=2, encoder_blocks=1, decoder_blocks=1, heads=2, position_width=16,
        codebooks=4, codebook_size=CODES,
    )  # fmt: skip
    codec = CodecConfig(width=16, latent=4, codes=CODES, encoder_blocks=1, decoder_blocks=1, expansion=2)
    renderer = RendererConfig(
        base=32, widths=(32, 32), encoder_widths=(32, 32), blocks=1, attention_levels=(), encoder_attention_levels=(),
        time=32, style=STYLE, patch=2, window=(32, 16),
    )  # fmt: skip
    motion = MotionConfig(
        width=32, style=STYLE, layers=1, features=80, reference_blocks=1, speech_blocks=1, decoder_blocks=1, heads=2,
        inner=32, kernel=3, residual=True,
    )  # fmt: skip
    save_file({k: v.contiguous() for k, v in SmallE(speech).state_dict().items()}, folder / "small_e.safetensors")
    save_file({k: v.contiguous() for k, v in Codec(codec).state_dict().items()}, folder / "codec.safetensors")
    drawn = {
        k: v + 0.05 * torch.randn_like(v) for k, v in Renderer(renderer).published_state_dict().items() if k != WINDOW
    }
    drawn[WINDOW] = torch.tensor(renderer.window, dtype=torch.int32)
    save_file(drawn, folder / "renderer.safetensors")
    save_file({k: v.contiguous() for k, v in Motion(motion).state_dict().items()}, folder / "motion.safetensors")
    return write_tiny_set(folder)


def write_tiny_set(folder: Path) -> ModelSet:
    """Pins what lies in the folder: a sentence lasts at most about a second."""
    return write_model_set(
        folder,
        "tiny",
        {
            "small_e": {"top_k": 5, "temperature": 1.0, "max_steps": 20, "max_steps_per_unit": 1.0},
            "renderer": {"steps": 1},
        },
    )


def change(folder: Path, stage: str, prefix: str = "") -> ModelSet:
    """Moves the weights of a stage whose names begin with `prefix`, and pins them anew."""
    path = folder / f"{stage}.safetensors"
    tensors = load_file(path)
    generator = torch.Generator().manual_seed(1)
    for name, tensor in tensors.items():
        if name.startswith(prefix) and tensor.is_floating_point():
            tensors[name] = tensor + 0.05 * torch.randn(tensor.shape, generator=generator)
    save_file(tensors, path)
    return write_tiny_set(folder)


@dataclass(frozen=True)
class World:
    """A folder with models, one avatar and a store, for runs from manifest to results."""

    folder: Path

    @staticmethod
    def make(folder: Path) -> "World":
        tiny_models(folder / "models")
        cartoon.write_bundle(folder / "avatars", size=128)
        return World(folder)

    @property
    def store(self) -> Path:
        return self.folder / "out"

    def manifest(self, *rows: Mapping[str, object]) -> Path:
        """Rows with the avatar filled in where none is given."""
        path = self.folder / "manifest.parquet"
        write_manifest(path, [{"avatar": "cartoon", **row} for row in rows])
        return path

    def request(self, *rows: Mapping[str, object], **changes: Any) -> Request:
        return replace(
            Request(
                manifest=str(self.manifest(*rows)),
                store=str(self.store),
                models=str(self.folder / "models"),
                avatars=(str(self.folder / "avatars"),),
            ),
            **changes,
        )


class Inline:
    """Does a batch at once, in this process; keeps what it was asked for."""

    slots = 2

    def __init__(self, context: StageContext) -> None:
        self.context = context
        self.batches: list[Batch] = []

    def start(self, batch: Batch) -> "Future[list[Outcome]]":
        self.batches.append(batch)
        answer: Future[list[Outcome]] = Future()
        try:
            answer.set_result(run_batch(batch.stage, batch.items, self.context))
        except Exception as error:
            answer.set_exception(error)
        return answer

    @property
    def made(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for batch in self.batches:
            counts[batch.stage] = counts.get(batch.stage, 0) + len(batch.items)
        return counts


class Quiet:
    def progress(self, settled: Mapping[str, int]) -> None:
        pass


def rows_of(report: Report) -> list[ResultRow]:
    return list(report.rows)


def render_inline(request: Request, stop: threading.Event | None = None) -> tuple[Report, dict[str, int]]:
    """A whole run in this process: its report, and how many units of each stage it made."""
    prepared = prepare(request)
    starter = Inline(prepared.context)
    report = carry_out(prepared, starter if prepared.missing else None, stop or threading.Event(), Quiet())
    return report, starter.made
