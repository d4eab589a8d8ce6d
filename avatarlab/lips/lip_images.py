"""What the renderer's semantic encoder looks at: lip images, cut from pictures in use and from corpus windows in training.

Two geometries exist, chosen by the renderer's own configuration: the bundled one looks at a square around the mouth, the
published one at the polygon from brow to chin in a square around the face.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from avatarlab.errors import AvatarError
from avatarlab.lips.diffdub import Renderer
from avatarlab.lips.mask import (
    CORPUS_MARGIN,
    LIP_CENTER_Y,
    LIP_SIDE,
    WINDOW_SIDE,
    cut_window,
    mouth_windows,
    published_lip_image,
    to_window,
)

CORPUS_PX = 112  # lip images are taken from windows of this size, in use and, after shrinking, in training
PUBLISHED_PX = 256
PUBLISHED_FACE_SIDE = 2.0  # of the larger side of the landmarks' box
MOST_REFERENCES = 16
PUBLISHED_REFERENCES = 75


def lip_references(
    renderer: Renderer, frames: UInt8[np.ndarray, "f h w 3"], landmarks: Float[np.ndarray, "f 68 2"]
) -> Float[np.ndarray, "r z"]:
    """Latents of the avatar's own lips, from frames spread over the clip (the first 75 for the published networks)."""
    if len(frames) == 0:
        raise AvatarError("the avatar has no frames", "give a picture or a clip")
    if renderer.config.window is None:
        chosen = np.arange(min(len(frames), PUBLISHED_REFERENCES))
    else:
        chosen = np.unique(np.linspace(0, len(frames) - 1, MOST_REFERENCES).round().astype(int))
    with torch.inference_mode():
        images = lip_inputs(renderer, frames[chosen], landmarks[chosen])
        return np.concatenate([renderer.encode_lips(part).float().cpu().numpy() for part in images.split(16)])


def lip_inputs(
    renderer: Renderer, frames: UInt8[np.ndarray, "f h w 3"], landmarks: Float[np.ndarray, "f 68 2"]
) -> Float[Tensor, "f 3 k k"]:
    """What the renderer's semantic encoder looks at, in [-1, 1], on the renderer's device."""
    centers, side = squares(renderer, landmarks)
    if renderer.config.window is None:
        cut = [
            cut_window(image, (float(center[0]), float(center[1])), side, PUBLISHED_PX)
            for image, center in zip(frames, centers, strict=True)
        ]
        points = [
            to_window(marks, (float(c[0]), float(c[1])), side, PUBLISHED_PX)
            for marks, c in zip(landmarks, centers, strict=True)
        ]
        return to_tensor(
            [published_lip_image(image, marks) for image, marks in zip(cut, points, strict=True)], renderer
        )
    margin = side * CORPUS_MARGIN
    cut = [
        cut_window(image, (float(center[0]), float(center[1])), margin, CORPUS_PX)
        for image, center in zip(frames, centers, strict=True)
    ]
    return lip_images(to_tensor(cut, renderer), renderer.config.window[1], CORPUS_MARGIN)


def lip_images(
    windows: Float[Tensor, "b 3 n n"], size: int, margin: float, rng: np.random.Generator | None = None
) -> Float[Tensor, "b 3 size size"]:
    """Bundled lip images out of mouth windows that are `margin` times wider than the window drawn.

    With `rng`, each is shifted, scaled and turned a little, so that in training the latent tells the mouth's shape, not
    its place.
    """
    if windows.shape[2] > CORPUS_PX:
        windows = F.interpolate(windows, size=CORPUS_PX, mode="area")
    b = len(windows)
    scale = np.full(b, LIP_SIDE / WINDOW_SIDE / margin)
    shift = np.tile([0.0, 2 * LIP_CENTER_Y / WINDOW_SIDE / margin], (b, 1))
    angle = np.zeros(b)
    if rng is not None:
        scale = scale * np.exp(rng.normal(0, 0.04, b))
        shift = shift + rng.normal(0, 0.03, (b, 2))
        angle = rng.normal(0, 0.05, b)
    matrix = np.zeros((b, 2, 3))
    matrix[:, 0, 0] = matrix[:, 1, 1] = scale * np.cos(angle)
    matrix[:, 0, 1], matrix[:, 1, 0] = -scale * np.sin(angle), scale * np.sin(angle)
    matrix[:, :, 2] = shift
    grid = F.affine_grid(torch.from_numpy(matrix).float(), [b, 3, size, size], align_corners=False).to(windows.device)
    return F.grid_sample(windows, grid, mode="bilinear", padding_mode="border", align_corners=False)


def squares(renderer: Renderer, landmarks: Float[np.ndarray, "f 68 2"]) -> tuple[Float[np.ndarray, "f 2"], float]:
    """Centres (x, y) and the one side of the squares the renderer works on."""
    if renderer.config.window is not None:
        return mouth_windows(landmarks)
    low, high = landmarks.min(axis=1), landmarks.max(axis=1)
    side = PUBLISHED_FACE_SIDE * float(np.median((high - low).max(axis=1)))
    return ((low + high) / 2).astype(np.float32), side


def to_tensor(images: Sequence[UInt8[np.ndarray, "h w 3"]], renderer: Renderer) -> Float[Tensor, "b 3 h w"]:
    """RGB pictures in [-1, 1], on the renderer's device."""
    device = next(renderer.parameters()).device
    return torch.from_numpy(np.stack(images)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
