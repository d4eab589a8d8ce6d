"""Where the mouth is: the window the small renderer draws, its feathered mask, and the published polygon geometry.

Landmarks are the 68 iBUG/300W points in pixels, x right, y down, in the picture they belong to.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, UInt8

WINDOW_SIDE = 2.0  # of the distance between the eye centres
WINDOW_BELOW_NOSE = 0.8  # of the same distance: from the nose base down to the centre of the window
# In eye distances from the window's centre, x right and y down:
MASK_CENTER_Y = 0.02
MASK_HALF_WIDTH = 0.97
MASK_HALF_HEIGHT = 0.86
MASK_FEATHER = 0.2  # share of the way from the rim to the centre over which the drawing fades in
LIP_CENTER_Y = -0.07
LIP_SIDE = 1.4
CORPUS_MARGIN = 112 / 96  # corpus windows are this much wider than the window drawn, so that training can jitter them


@dataclass(frozen=True)
class Window:
    """A square in the picture: centre (x, y) and side, in pixels."""

    center: tuple[float, float]
    side: float


@dataclass(frozen=True, eq=False)
class PaintedFrame:
    """A finished window and the pixel (x, y) of the picture where its top-left corner goes.

    `drawn` is false where there was no face to draw on, or one turned away: then the window is the picture's own."""

    window: UInt8[np.ndarray, "side side 3"]
    corner: tuple[int, int]
    drawn: bool = True


def mouth_window(landmarks: Float[np.ndarray, "68 2"]) -> Window:
    """The square around mouth and chin of one frame.

    It hangs from the eyes and the nose base, which do not move in speech, so an opening jaw neither moves nor resizes
    it. Top is 0.2 eye distances above the nose base, bottom 1.8 below: the chin of a fully open jaw stays inside.
    """
    centers, side = mouth_windows(landmarks[None])
    return Window((float(centers[0, 0]), float(centers[0, 1])), side)


def mouth_windows(landmarks: Float[np.ndarray, "f 68 2"]) -> tuple[Float[np.ndarray, "f 2"], float]:
    """The windows of a clip: one centre (x, y) for each frame, one side for the whole clip (the median), in pixels."""
    points = np.asarray(landmarks, dtype=np.float64)
    right_eye, left_eye = points[:, 36:42].mean(axis=1), points[:, 42:48].mean(axis=1)
    across = left_eye - right_eye
    distance = np.linalg.norm(across, axis=1)
    eye_distance = float(np.median(distance))
    down = np.stack([-across[:, 1], across[:, 0]], axis=1) / np.maximum(distance, 1e-6)[:, None]
    centers = points[:, 33] + WINDOW_BELOW_NOSE * eye_distance * down
    return centers.astype(np.float32), WINDOW_SIDE * eye_distance


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


def cut_window(
    image: UInt8[np.ndarray, "h w 3"], center: tuple[float, float], side: float, size: int
) -> UInt8[np.ndarray, "size size 3"]:
    """The square around `center` resampled to `size` pixels: bilinear, averaged over the area when it shrinks.

    What lies outside the picture repeats its border. Pixel (i, j) of the result is centred at
    `center - side / 2 + (j + 0.5, i + 0.5) * side / size` in the picture.
    """
    scale = side / size
    factor = max(1, round(scale))
    fine = side / (size * factor)
    left, top = center[0] - side / 2, center[1] - side / 2
    matrix = np.array([[fine, 0.0, left + fine / 2 - 0.5], [0.0, fine, top + fine / 2 - 0.5]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    drawn = cv2.warpAffine(image, matrix, (size * factor, size * factor), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return drawn if factor == 1 else cv2.resize(drawn, (size, size), interpolation=cv2.INTER_AREA)


def to_window(
    landmarks: Float[np.ndarray, "*f 68 2"], center: tuple[float, float], side: float, size: int
) -> Float[np.ndarray, "*f 68 2"]:
    """Landmarks of the picture in pixels of the window that `cut_window` gives for the same arguments."""
    corner = np.array([center[0] - side / 2, center[1] - side / 2])
    # Landmarks name pixel centres by integers, as OpenCV does.
    return ((np.asarray(landmarks) + 0.5 - corner) * (size / side) - 0.5).astype(np.float32)


def mouth_alpha(
    x: Float[np.ndarray, "*n"], y: Float[np.ndarray, "*n"]
) -> tuple[Float[np.ndarray, "*n"], Float[np.ndarray, "*n"]]:
    """The bundled mask at points given in window sides from the window's centre.

    Returns (masked, alpha): masked is 1 inside a rounded box from the nose base to below the chin of the fully open jaw
    and across both lower cheeks, else 0; alpha is how much of the drawing shows: 0 outside the box and on its rim,
    rising smoothly to 1 further in. The box hangs from eyes and nose like the window itself, so it does not follow the
    jaw.
    """
    across = np.abs(x * WINDOW_SIDE) / MASK_HALF_WIDTH
    along = np.abs(y * WINDOW_SIDE - MASK_CENTER_Y) / MASK_HALF_HEIGHT
    depth = 1 - np.cbrt(across**3 + along**3)
    ramp = np.clip(depth / MASK_FEATHER, 0, 1)
    return (depth > 0).astype(np.float32), (ramp * ramp * (3 - 2 * ramp)).astype(np.float32)


def window_keep(size: int) -> Float[np.ndarray, "size size"]:
    """1 where a window of `size` pixels is known to the bundled renderer, 0 where it draws."""
    grid = (np.arange(size, dtype=np.float64) + 0.5) / size - 0.5
    masked, _ = mouth_alpha(*np.meshgrid(grid, grid))
    return 1 - masked


def polygon_mask(landmarks: Float[np.ndarray, "68 2"], top: int, size: int = 256) -> UInt8[np.ndarray, "size size"]:
    """The published mask (spec diffdub 1.4): 1 inside the central chin polygon grown by 8 pixels, else 0.

    `top` is the landmark whose height closes it above: 30, the nose tip, for what is drawn; 21, the brow, for the lip
    image.
    """
    points = np.asarray(landmarks)
    left, right = points[6, 0], points[10, 0]
    corners = np.array(
        [(left, points[top, 1]), (right, points[top, 1]), points[10], (points[8, 0], points[8, 1] + 5), points[6]]
    ).astype(np.int32)  # truncated, as published
    filled = cv2.fillPoly(np.zeros((size, size), np.uint8), [corners], (1,))
    return cv2.dilate(filled, np.ones((17, 17), np.uint8))


def published_lip_image(
    image: UInt8[np.ndarray, "n n 3"], landmarks: Float[np.ndarray, "68 2"]
) -> UInt8[np.ndarray, "n n 3"]:
    """The published encoder's input (spec diffdub 1.4): brow-to-chin polygon, cut to its box, stretched to the picture.

    The box loses its last row and column, as published. Nearest neighbour; outside the polygon is black.
    """
    mask = polygon_mask(landmarks, 21, len(image))
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    cut = (image * mask[..., None])[rows[0] : rows[-1], columns[0] : columns[-1]]
    return cv2.resize(cut, (len(image), len(image)), interpolation=cv2.INTER_NEAREST)
