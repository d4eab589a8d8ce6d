"""Lip latents of any posture of any presenter: some thousand mouths drawn, encoded, and a small network fitted to them.

The renderer's own encoder tells the latents of drawings; the `LatentTable` learns them as a function of posture and
presenter, so that every recording of the speech corpus has latents of every presenter without drawing each frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from avatarlab.lips.diffdub import Renderer
from avatarlab.lips.lip_images import lip_images
from avatarlab.lips.mask import CORPUS_MARGIN
from avatarlab.training.face_corpus import draw_window, random_mouth, random_pose
from avatarlab.training.hearings import POSTURE, Posture, posture
from avatarlab.training.loop import Progress, learning_rate, set_learning_rate
from avatarlab.training.presenters import BUNDLED, FaceState, Presenter, sample_presenter


@dataclass(frozen=True)
class DrawnMouths:
    """Encoded drawings: whose, which posture, which latent, how open; the first of each presenter are closed mouths."""

    presenter: Int[np.ndarray, "n"]
    posture: Float[np.ndarray, "n 6"]
    latent: Float[np.ndarray, "n z"]
    opening: Float[np.ndarray, "n"]
    closed: Float[np.ndarray, "p r z"]


def draw_mouths(
    renderer: Renderer,
    tracks: Sequence[Posture],
    folder: Path,
    seed: int,
    strangers: int = 24,
    mouths: int = 160,
    progress: Progress = lambda _: None,
) -> DrawnMouths:
    """Draws mouths of the bundled presenters (three times as many) and of strangers; drawings are kept in FOLDER.

    The drawings depend on the seed alone and are reused; encoding them again is quick when the renderer changes.
    """
    rng = np.random.default_rng([seed, 77])
    people = [*BUNDLED.values(), *(sample_presenter(rng) for _ in range(strangers))]
    counts = [3 * mouths] * len(BUNDLED) + [mouths] * strangers
    folder.mkdir(parents=True, exist_ok=True)
    owners, postures, latents, openings, closed = [], [], [], [], []
    for number, (person, count) in enumerate(zip(people, counts, strict=True)):
        path = folder / f"mouths-{number:03d}.npz"
        if not path.exists():
            _draw_person(person, tracks, count, path, np.random.default_rng([seed, 78, number]))
            progress(f"drew {count} mouths of presenter {number + 1} of {len(people)}")
        with np.load(path) as file:
            latents.append(encode_windows(renderer, file["windows"]))
            closed.append(encode_windows(renderer, file["closed"]))
            postures.append(file["posture"])
            openings.append(file["opening"])
        owners.append(np.full(count, number))
    return DrawnMouths(
        np.concatenate(owners),
        np.concatenate(postures),
        np.concatenate(latents),
        np.concatenate(openings),
        np.stack(closed),
    )


def _draw_person(
    person: Presenter, tracks: Sequence[Posture], count: int, path: Path, rng: np.random.Generator
) -> None:
    windows, postures, openings = [], [], []
    for _ in range(count):
        if rng.random() < 0.85:
            track = tracks[int(rng.integers(len(tracks)))]
            values = track[int(rng.integers(len(track)))]
            state = FaceState(**dict(zip(POSTURE, map(float, values), strict=True)))
        else:
            state = random_mouth(rng)
        image, _, opening = draw_window(person, state)
        windows.append(image)
        postures.append(posture([state])[0])
        openings.append(opening)
    closed = [draw_window(person, replace(random_pose(rng), smile=0.0))[0] for _ in range(8)]
    partial = path.with_name(f".{path.name}")
    np.savez(
        partial,
        windows=np.stack(windows), posture=np.stack(postures), opening=np.array(openings, np.float32), closed=np.stack(closed),
    )  # fmt: skip
    partial.replace(path)


@torch.inference_mode()
def encode_windows(renderer: Renderer, windows: np.ndarray) -> Float[np.ndarray, "n z"]:
    """Latents of corpus windows uint8 (n, side, side, 3), which may be mapped from disk."""
    assert renderer.config.window is not None
    device = next(renderer.parameters()).device
    found = []
    for first in range(0, len(windows), 64):
        images = torch.from_numpy(np.array(windows[first : first + 64])).to(device).permute(0, 3, 1, 2).float()
        lips = lip_images(images / 127.5 - 1, renderer.config.window[1], CORPUS_MARGIN)
        found.append(renderer.encode_lips(lips).float().cpu())
    return torch.cat(found).numpy()


class LatentTable(nn.Module):
    """The latent of any posture of any of the drawn presenters, and how open its mouth is."""

    def __init__(self, presenters: int, style: int) -> None:
        super().__init__()
        self.whose = nn.Embedding(presenters, 32)
        self.body = nn.Sequential(
            nn.Linear(6 + 32, 192), nn.SiLU(), nn.Linear(192, 192), nn.SiLU(), nn.Linear(192, style)
        )
        self.opening = nn.Sequential(nn.Linear(style, 64), nn.SiLU(), nn.Linear(64, 1))
        self.register_buffer("rest", torch.zeros(presenters, style))
        self.register_buffer("spread", torch.ones(()))

    def change(self, postures: Float[Tensor, "*n 6"], presenter: Int[Tensor, "*n"]) -> Float[Tensor, "*n z"]:
        """Latent minus that of the presenter at rest, in units of its overall spread."""
        return self.body(torch.cat([postures, self.whose(presenter)], dim=-1))

    def openness(self, change: Float[Tensor, "*n z"]) -> Float[Tensor, "*n"]:
        return self.opening(change).squeeze(-1)


def fit_table(mouths: DrawnMouths, seed: int, steps: int = 3000, progress: Progress = lambda _: None) -> LatentTable:
    """Fits the table; reports the share of the latents' variance that it explains on mouths left out."""
    torch.manual_seed(seed)
    table = LatentTable(len(mouths.closed), mouths.latent.shape[1])
    at_rest = mouths.closed.mean(axis=1)
    change = mouths.latent - at_rest[mouths.presenter]
    spread = float(np.sqrt(np.square(change).mean()))
    table.rest.copy_(torch.from_numpy(at_rest))  # type: ignore[operator]
    table.spread.fill_(spread)  # type: ignore[operator]
    owner = torch.from_numpy(mouths.presenter).long()
    postures = torch.from_numpy(mouths.posture)
    target = torch.from_numpy(change / spread)
    opening = torch.from_numpy(mouths.opening)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(owner), generator=generator)
    test, train = order[: len(order) // 12], order[len(order) // 12 :]
    optimiser = torch.optim.Adam(table.parameters())
    for number in range(steps):
        set_learning_rate(optimiser, learning_rate(3e-3, number / steps, number, 50, flat=0.3))
        rows = train[torch.randint(len(train), (256,), generator=generator)]
        loss = F.mse_loss(table.change(postures[rows], owner[rows]), target[rows])
        loss = loss + 10 * F.mse_loss(table.openness(target[rows]), opening[rows])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    with torch.inference_mode():
        missed = F.mse_loss(table.change(postures[test], owner[test]), target[test]) / target[test].var()
        told = np.corrcoef(table.openness(target[test]).numpy(), mouths.opening[test.numpy()])[0, 1]
    progress(
        f"latent table: explains {1 - float(missed):.3f} of the variance, opening told with correlation {told:.3f}"
    )
    return table.requires_grad_(False).eval()
