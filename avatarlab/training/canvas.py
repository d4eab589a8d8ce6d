"""A small painter: anti-aliased, blurred and clipped polygons on a float picture, whole or only a square part of it.

Coordinates are image units: the whole picture is the square [0, 1] x [0, 1], whatever its size in pixels.
A canvas may cover any smaller square of it at any resolution, and draws there the same picture (up to resampling).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
"""Shape (n, 2): x to the right, y down."""
Plane = NDArray[np.float32]
"""Shape (h, w), 0..1."""
Colour = tuple[float, float, float]
"""Red, green, blue, 0..1, as displayed."""

WHOLE = (slice(None), slice(None))
BLACK: Colour = (0.0, 0.0, 0.0)
WHITE: Colour = (1.0, 1.0, 1.0)
_SHIFT = 4


def mix(a: Colour, b: Colour, share: float) -> Colour:
    return (a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share, a[2] + (b[2] - a[2]) * share)


def scaled(colour: Colour, factor: float) -> Colour:
    return (min(colour[0] * factor, 1.0), min(colour[1] * factor, 1.0), min(colour[2] * factor, 1.0))


@lru_cache(maxsize=256)
def _spline_basis(count: int, closed: bool, samples: int) -> NDArray[np.float64]:
    spans = count if closed else count - 1
    position = np.linspace(0.0, spans, spans * samples + (0 if closed else 1), endpoint=not closed)
    span = np.minimum(position.astype(int), spans - 1)
    t = position - span
    weights = np.stack(
        [
            -0.5 * t + t**2 - 0.5 * t**3,
            1 - 2.5 * t**2 + 1.5 * t**3,
            0.5 * t + 2 * t**2 - 1.5 * t**3,
            -0.5 * t**2 + 0.5 * t**3,
        ],
        axis=1,
    )
    basis = np.zeros((len(position), count))
    for offset in range(4):
        index = span + offset - 1
        index = index % count if closed else np.clip(index, 0, count - 1)
        np.add.at(basis, (np.arange(len(position)), index), weights[:, offset])
    return basis


def spline(points: Sequence[tuple[float, float]] | Points, closed: bool = False, samples: int = 8) -> Points:
    """A smooth curve through all points (Catmull-Rom), `samples` vertices per span."""
    control = np.asarray(points, dtype=np.float64)
    return _spline_basis(len(control), closed, samples) @ control


def mirrored(right: Sequence[tuple[float, float]]) -> Points:
    """A closed control polygon from its right half, listed from top to bottom; both ends lie on the axis x = 0."""
    half = np.asarray(right, dtype=np.float64)
    return np.concatenate([half, half[-2:0:-1] * (-1.0, 1.0)])


@lru_cache(maxsize=64)
def _circle(count: int) -> Points:
    angle = np.linspace(0.0, 2 * np.pi, count, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def ellipse(x: float, y: float, radius_x: float, radius_y: float, turn: float = 0.0, count: int = 40) -> Points:
    """`turn` in radians, clockwise as seen."""
    points = _circle(count) * (radius_x, radius_y)
    c, s = np.cos(turn), np.sin(turn)
    return points @ np.array([[c, s], [-s, c]]) + (x, y)


def ribbon(path: Points, width: float | NDArray[np.float64], taper: float = 0.0) -> Points:
    """The outline of a stroke along `path`. `taper` 1 makes both ends pointed."""
    along = np.empty_like(path)
    along[1:-1], along[0], along[-1] = path[2:] - path[:-2], path[1] - path[0], path[-1] - path[-2]
    normal = along[:, ::-1] * (-1.0, 1.0) / (np.hypot(along[:, :1], along[:, 1:]) + 1e-12)
    half = np.broadcast_to(np.asarray(width, dtype=np.float64) / 2, (len(path),))
    if taper:
        half = half * (1 - taper * np.abs(np.linspace(-1, 1, len(path))) ** 2.2)
    offset = normal * half[:, None]
    return np.concatenate([path + offset, (path - offset)[::-1]])


@dataclass(frozen=True)
class Patch:
    """A coverage mask and where on the canvas it lies."""

    top: int
    left: int
    cover: Plane

    @property
    def region(self) -> tuple[slice, slice]:
        return slice(self.top, self.top + self.cover.shape[0]), slice(self.left, self.left + self.cover.shape[1])


class Canvas:
    """The square of `side` image units with its top-left corner at (`x`, `y`), drawn with `size_px` pixels a side."""

    def __init__(self, x: float, y: float, side: float, size_px: int) -> None:
        self.x, self.y, self.side, self.size_px = x, y, side, size_px
        self.scale = size_px / side
        self.rgb = np.zeros((size_px, size_px, 3), np.float32)
        self.alpha = np.zeros((size_px, size_px), np.float32)

    def to_pixels(self, points: Points) -> Points:
        """Pixel coordinates in which (0, 0) is the centre of the first pixel, as OpenCV counts."""
        return (points - (self.x, self.y)) * self.scale - 0.5

    def cover(self, paths: Sequence[Points], blur: float = 0.0) -> Patch | None:
        """The union of the insides of closed paths; None where it misses the canvas.

        `blur` is a standard deviation in image units."""
        if not paths:
            return None
        sigma = blur * self.scale
        every = (paths[0] if len(paths) == 1 else np.concatenate(paths)) - (self.x, self.y)
        every *= self.scale
        low, high = every.min(axis=0) - 3 * sigma - 1, every.max(axis=0) + 3 * sigma + 1
        if high[0] <= 0 or high[1] <= 0 or low[0] >= self.size_px or low[1] >= self.size_px:
            return None
        # A blurred shape just outside still reaches in, so the drawing area is padded by the reach of the blur.
        reach = 3 * sigma + 1
        x0, y0 = (max(int(np.floor(v)), 0) for v in low)
        x1, y1 = (min(int(np.ceil(v)), self.size_px) for v in high)
        left, top = (int(np.floor(max(v, -reach))) for v in low)
        right, bottom = (int(np.ceil(min(v, self.size_px + reach))) for v in high)
        if x1 <= x0 or y1 <= y0:
            return None
        zoom = 2.0 if sigma < 1.5 else 1.0 if sigma < 5 else 2.5 / sigma
        width, height = max(int(np.ceil((right - left) * zoom)), 1), max(int(np.ceil((bottom - top) * zoom)), 1)
        plane = np.zeros((height, width), np.uint8)
        fixed = np.rint(((every - (left, top)) * zoom - 0.5) * (1 << _SHIFT)).astype(np.int32)
        start = 0
        for points in paths:  # one by one: together, overlapping paths would cancel
            cv2.fillPoly(plane, [fixed[start : start + len(points)]], 255, cv2.LINE_AA, _SHIFT)
            start += len(points)
        soft: np.ndarray = plane.astype(np.float32)
        if sigma * zoom > 0.3:
            soft = cv2.GaussianBlur(soft, (0, 0), sigma * zoom, borderType=cv2.BORDER_REPLICATE)
        if zoom == 2.0:
            soft = cv2.resize(soft, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
        elif zoom != 1.0:
            # An affine map rather than a resize: the small plane was rounded up, its scale is exactly `zoom`.
            back = np.array([[zoom, 0, 0.5 * zoom - 0.5], [0, zoom, 0.5 * zoom - 0.5]])
            soft = cv2.warpAffine(
                soft,
                back,
                (right - left, bottom - top),
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REPLICATE,
            )
        soft = soft[y0 - top : y1 - top, x0 - left : x1 - left] * np.float32(1 / 255)
        return Patch(y0, x0, soft)

    def mask(self, paths: Sequence[Points], blur: float = 0.0) -> Plane:
        """As `cover`, over the whole canvas."""
        whole = np.zeros((self.size_px, self.size_px), np.float32)
        patch = self.cover(paths, blur)
        if patch is not None:
            whole[patch.region] = patch.cover
        return whole

    def fill(
        self,
        paths: Points | Sequence[Points],
        colour: Colour,
        opacity: float = 1.0,
        blur: float = 0.0,
        clip: Plane | None = None,
        multiply: bool = False,
        solid: bool = False,
    ) -> None:
        """Paint the inside of closed paths.

        `multiply` darkens what is there by the colour; `solid` paint becomes part of the matte."""
        if opacity <= 0:
            return
        patch = self.cover([paths] if isinstance(paths, np.ndarray) else list(paths), blur)
        if patch is None:
            return
        cover = patch.cover if opacity == 1.0 else patch.cover * np.float32(opacity)
        if clip is not None:
            cover = cover * clip[patch.region]
        self.blend(patch.region, cover, colour, multiply)
        if solid:
            alpha = self.alpha[patch.region]
            alpha += (1 - alpha) * cover

    def blend(self, region: tuple[slice, slice], cover: Plane, colour: Colour, multiply: bool = False) -> None:
        target = self.rgb[region]
        for channel in range(3):
            plane = target[..., channel]
            if multiply:
                plane *= 1 - cover * np.float32(1 - colour[channel])
            else:
                plane += (np.float32(colour[channel]) - plane) * cover

    def stroke(
        self,
        path: Points,
        width: float,
        colour: Colour,
        opacity: float = 1.0,
        blur: float = 0.0,
        clip: Plane | None = None,
        multiply: bool = False,
        taper: float = 1.0,
        solid: bool = False,
    ) -> None:
        """Paint a line `width` image units wide, thinner towards its ends by `taper`."""
        self.fill(ribbon(path, width, taper), colour, opacity, blur, clip, multiply, solid)

    def image(self) -> NDArray[np.uint8]:
        """The picture so far, (h, w, 3) RGB."""
        return np.rint(np.clip(self.rgb, 0, 1) * 255).astype(np.uint8)
