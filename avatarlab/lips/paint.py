"""Lip latents to finished pixels: cut, draw in batches, composite with a feathered mask.

Everything outside the mask is bit-equal to the frame. Two geometries exist, chosen by the renderer's own configuration:
the bundled one draws a window around the mouth, the published one a square around the face with the polygon mask.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from avatarlab.errors import AvatarError, InputError, SettingsError
from avatarlab.lips.diffdub import Renderer
from avatarlab.lips.mask import (
    CORPUS_MARGIN,
    LIP_CENTER_Y,
    LIP_SIDE,
    WINDOW_SIDE,
    cut_window,
    mouth_alpha,
    mouth_windows,
    polygon_mask,
    published_lip_image,
    to_window,
    window_keep,
)

CORPUS_PX = 112  # lip images are taken from windows of this size, in use and, after shrinking, in training
PUBLISHED_PX = 256
PUBLISHED_FACE_SIDE = 2.0  # of the larger side of the landmarks' box
MOST_REFERENCES = 16
PUBLISHED_REFERENCES = 75
SAME_PICTURE = 16 / 255  # where the drawing differs by less from the frame, the frame's own fine detail is kept


@dataclass(frozen=True)
class PaintSettings:
    """`steps` denoising calls a frame (0: the renderer's own number, 1 bundled or 20 published); `smoothing_frames` is
    the
    standard deviation of the Gaussian that steadies the landmarks in time."""

    steps: int = 0
    smoothing_frames: float = 1.0
    seed: int = 0
    batch_size: int = 16

    @staticmethod
    def of(settings: Mapping[str, object]) -> "PaintSettings":
        """From a model set's renderer settings. Raises SettingsError for a name that is not one or a value out of
        range.
        """
        known = [field.name for field in fields(PaintSettings)]
        numbers: dict[str, float] = {}
        for name, value in settings.items():
            if name not in known:
                raise SettingsError(f"unknown renderer setting {name!r}", f"the settings are {', '.join(known)}")
            if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
                raise SettingsError(f"renderer setting {name} is {value!r}", "give a number that is not negative")
            numbers[name] = value
        default = PaintSettings()
        return PaintSettings(
            steps=int(numbers.get("steps", default.steps)),
            smoothing_frames=float(numbers.get("smoothing_frames", default.smoothing_frames)),
            seed=int(numbers.get("seed", default.seed)),
            batch_size=max(1, int(numbers.get("batch_size", default.batch_size))),
        )


@dataclass(frozen=True)
class Painted:
    """Finished windows of one size and the pixel (x, y) of the frame where each one's top-left corner goes."""

    windows: UInt8[np.ndarray, "f wh ww 3"]
    corners: Int[np.ndarray, "f 2"]


def paint(
    renderer: Renderer,
    settings: PaintSettings | Mapping[str, object],
    frames: UInt8[np.ndarray, "f h w 3"],
    landmarks: Float[np.ndarray, "f 68 2"],
    latents: Float[np.ndarray, "n z"],
    references: UInt8[np.ndarray, "r h2 w2 3"] | None = None,
    reference_landmarks: Float[np.ndarray, "r 68 2"] | None = None,
) -> Painted:
    """Draws the mouths of `latents` into `frames` and returns the changed windows.

    Without `references` every frame is its own reference, which is right where the frames show a closed mouth (an idle
    clip). One reference serves all frames; as many as frames serve one each. All frames share one noise, drawn from the
    seed, and the last batch is padded, so a frame does not depend on its neighbours. Raises InputError for lengths that
    do not agree.
    """
    chosen = settings if isinstance(settings, PaintSettings) else PaintSettings.of(settings)
    count = len(frames)
    if not count == len(landmarks) == len(latents):
        raise InputError(
            f"{count} frames, {len(landmarks)} landmarks and {len(latents)} latents",
            "give as many of each as there are frames",
        )
    if references is not None and (reference_landmarks is None or len(references) not in (1, count)):
        raise InputError(f"{len(references)} references for {count} frames", "give one, or one for each frame")
    size = renderer.config.window[0] if renderer.config.window else PUBLISHED_PX
    steady = smoothed(landmarks, chosen.smoothing_frames)
    centers, side = squares(renderer, steady)
    own = references is None or reference_landmarks is None
    if not own and references is not None and reference_landmarks is not None:
        reference_centers, reference_side = squares(renderer, smoothed(reference_landmarks, chosen.smoothing_frames))
    height, width = frames.shape[1:3]
    box = min(int(np.ceil(side)) + 2, height, width)
    corners = np.floor(centers - side / 2).astype(np.int64) - 1
    corners = corners.clip(0, [width - box, height - box])
    windows = np.empty((count, box, box, 3), np.uint8)
    noise = torch.randn((1, 3, size, size), generator=torch.Generator().manual_seed(chosen.seed))
    for chunk in _chunks(count, chosen.batch_size):
        starts = [cut_window(frames[k], _point(centers[k]), side, size) for k in chunk]
        if own or references is None:
            shown = starts
        else:
            which = [k if len(references) > 1 else 0 for k in chunk]
            shown = [cut_window(references[k], _point(reference_centers[k]), reference_side, size) for k in which]
        masks = _masks(renderer, [to_window(steady[k], _point(centers[k]), side, size) for k in chunk], size)
        drawn = _draw(renderer, chosen, starts, shown, latents[chunk], masks, noise)
        for k, start, picture, mask in zip(chunk, starts, drawn, masks, strict=True):
            offset = corners[k] + 0.5 - (centers[k] - side / 2)
            patch = frames[k, corners[k, 1] : corners[k, 1] + box, corners[k, 0] : corners[k, 0] + box]
            alpha = (
                _window_alpha(offset, box, side) if renderer.config.window else _polygon_alpha(mask, offset, box, side)
            )
            windows[k] = _composited(patch, start, picture, alpha, offset, side)
    return Painted(windows, corners)


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
            cut_window(image, _point(center), side, PUBLISHED_PX) for image, center in zip(frames, centers, strict=True)
        ]
        points = [to_window(marks, _point(c), side, PUBLISHED_PX) for marks, c in zip(landmarks, centers, strict=True)]
        return _tensor([published_lip_image(image, marks) for image, marks in zip(cut, points, strict=True)], renderer)
    margin = side * CORPUS_MARGIN
    cut = [cut_window(image, _point(center), margin, CORPUS_PX) for image, center in zip(frames, centers, strict=True)]
    return lip_images(_tensor(cut, renderer), renderer.config.window[1], CORPUS_MARGIN)


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


def smoothed(landmarks: Float[np.ndarray, "f 68 2"], frames: float) -> Float[np.ndarray, "f 68 2"]:
    """A Gaussian over time with this standard deviation, the ends repeated; 0 leaves the landmarks as they are."""
    reach = int(np.ceil(3 * frames))
    if reach == 0 or len(landmarks) == 1:
        return np.asarray(landmarks, dtype=np.float32)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / frames) ** 2)
    weights /= weights.sum()
    padded = np.pad(np.asarray(landmarks, dtype=np.float64), ((reach, reach), (0, 0), (0, 0)), mode="edge")
    steady = sum(weight * padded[k : k + len(landmarks)] for k, weight in enumerate(weights))
    return np.asarray(steady, dtype=np.float32)


def squares(renderer: Renderer, landmarks: Float[np.ndarray, "f 68 2"]) -> tuple[Float[np.ndarray, "f 2"], float]:
    """Centres (x, y) and the one side of the squares the renderer works on."""
    if renderer.config.window is not None:
        return mouth_windows(landmarks)
    low, high = landmarks.min(axis=1), landmarks.max(axis=1)
    side = PUBLISHED_FACE_SIDE * float(np.median((high - low).max(axis=1)))
    return ((low + high) / 2).astype(np.float32), side


def _point(center: Float[np.ndarray, "2"]) -> tuple[float, float]:
    return float(center[0]), float(center[1])


def _chunks(count: int, size: int) -> Iterator[list[int]]:
    for first in range(0, count, size):
        yield list(range(first, min(first + size, count)))


def _tensor(images: Sequence[UInt8[np.ndarray, "h w 3"]], renderer: Renderer) -> Float[Tensor, "b 3 h w"]:
    device = next(renderer.parameters()).device
    return torch.from_numpy(np.stack(images)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def _masks(
    renderer: Renderer, landmarks: Sequence[Float[np.ndarray, "68 2"]], size: int
) -> list[Float[np.ndarray, "n n"]]:
    """1 where the renderer draws, for each frame."""
    if renderer.config.window is not None:
        return [1 - window_keep(size)] * len(landmarks)
    return [polygon_mask(points, 30, size).astype(np.float32) for points in landmarks]


def _draw(
    renderer: Renderer,
    settings: PaintSettings,
    starts: Sequence[UInt8[np.ndarray, "n n 3"]],
    references: Sequence[UInt8[np.ndarray, "n n 3"]],
    latents: Float[np.ndarray, "b z"],
    masks: Sequence[Float[np.ndarray, "n n"]],
    noise: Float[Tensor, "1 3 n n"],
) -> Float[np.ndarray, "b n n 3"]:
    """Drawn squares in 0..1."""
    count = len(starts)
    # Kernels differ with the batch size in the last bits; a full batch every time keeps a frame's pixels its own.
    padded = [*range(count), *[count - 1] * (settings.batch_size - count)]
    start = _tensor([starts[k] for k in padded], renderer)
    reference = _tensor([references[k] for k in padded], renderer)
    keep = 1 - torch.from_numpy(np.stack([masks[k] for k in padded])[:, None]).float().to(start.device)
    z = torch.from_numpy(np.asarray(latents, dtype=np.float32)[padded]).to(start.device)
    noise = noise.to(start.device)
    with torch.inference_mode():
        if renderer.config.prediction == "sample":
            drawn = renderer.sample(start, reference, keep, noise, z, settings.steps or 1)
        else:
            drawn = renderer.ddim(
                start, reference, keep.expand_as(start), noise.expand_as(start), z, settings.steps or 20
            )
    return ((drawn[:count].permute(0, 2, 3, 1).float().cpu().numpy() + 1) / 2).clip(0, 1)


def _window_alpha(offset: Float[np.ndarray, "2"], box: int, side: float) -> Float[np.ndarray, "box box"]:
    across, along = ((np.arange(box) + value) / side - 0.5 for value in offset)
    return mouth_alpha(*np.meshgrid(across, along))[1]


def _polygon_alpha(
    mask: Float[np.ndarray, "n n"], offset: Float[np.ndarray, "2"], box: int, side: float
) -> Float[np.ndarray, "box box"]:
    """Zero on the rim of the mask and outside it, rising inwards over about 8 of its pixels."""
    inside = cv2.erode(mask, np.ones((3, 3), np.uint8))
    feathered = (2 * cv2.blur(inside, (17, 17)) - 1).clip(0, 1) * inside
    return _enlarged(feathered, offset, box, side, cv2.INTER_LINEAR)


def _enlarged(
    picture: Float[np.ndarray, "n n *c"], offset: Float[np.ndarray, "2"], box: int, side: float, how: int
) -> Float[np.ndarray, "box box *c"]:
    """The drawn square resampled onto the pixels of the frame: the inverse of mask.cut_window."""
    scale = len(picture) / side
    matrix = np.array([[scale, 0, offset[0] * scale - 0.5], [0, scale, offset[1] * scale - 0.5]])
    flags = how | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(picture.astype(np.float32), matrix, (box, box), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def _composited(
    patch: UInt8[np.ndarray, "box box 3"],
    start: UInt8[np.ndarray, "n n 3"],
    drawn: Float[np.ndarray, "n n 3"],
    alpha: Float[np.ndarray, "box box"],
    offset: Float[np.ndarray, "2"],
    side: float,
) -> UInt8[np.ndarray, "box box 3"]:
    """The drawing blended into the frame by `alpha`; where it repeats the frame, the frame's finer detail is put
    back.
    """
    box = len(patch)
    low = start.astype(np.float32) / 255
    change = cv2.GaussianBlur(cv2.dilate(np.abs(drawn - low).max(axis=2), np.ones((3, 3), np.uint8)), (0, 0), 0.8)
    same = (1 - change / SAME_PICTURE).clip(0, 1)
    frame = patch.astype(np.float32) / 255
    detail = frame - _enlarged(low, offset, box, side, cv2.INTER_CUBIC)
    kept = _enlarged(same, offset, box, side, cv2.INTER_LINEAR)[..., None] * detail
    picture = _enlarged(drawn, offset, box, side, cv2.INTER_CUBIC) + kept
    blended = frame + alpha[..., None] * (picture - frame)
    return np.rint(blended.clip(0, 1) * 255).astype(np.uint8)
