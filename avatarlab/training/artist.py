"""Draws a presenter: back to front, soft shapes first, then skin under one light, then features, hair and glasses."""

from collections.abc import Callable, Sequence
from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Float

from avatarlab.training.canvas import (
    BLACK,
    WHITE,
    WHOLE,
    Canvas,
    Colour,
    Plane,
    Points,
    ellipse,
    mirrored,
    mix,
    ribbon,
    scaled,
    spline,
)
from avatarlab.training.faces import (
    EYE_X,
    FACE_UNIT,
    HEAD_CENTRE,
    MIRROR,
    MOUTH_SAMPLES,
    MOUTH_Y,
    FaceState,
    Pose,
    Presenter,
    brow_line,
    eye_shape,
    face_outline,
    mouth_shape,
    nose_base,
    smoothstep,
)
from avatarlab.training.hair import HAIRCUTS, Line

Strands = Float[np.ndarray, "_ n 2"]
"""Outlines of m thin tapered strokes in face units."""


def strand_outlines(paths: Float[np.ndarray, "m k 2"], width: Float[np.ndarray, "m"]) -> Strands:
    """Ribbons pointed at both ends along all paths at once, (m, 2 k, 2)."""
    along = np.empty_like(paths)
    along[:, 1:-1] = paths[:, 2:] - paths[:, :-2]
    along[:, 0], along[:, -1] = paths[:, 1] - paths[:, 0], paths[:, -1] - paths[:, -2]
    along /= np.sqrt((along**2).sum(axis=2, keepdims=True)) + 1e-12
    taper = 1 - 0.94 * np.abs(np.linspace(-1, 1, paths.shape[1])) ** 2.2
    offset = np.stack([-along[..., 1], along[..., 0]], axis=2) * (0.5 * width[:, None] * taper)[..., None]
    return np.concatenate([paths + offset, (paths - offset)[:, ::-1]], axis=1)


@lru_cache(maxsize=512)
def _tress_strands(seed: int, guides: tuple[Line, ...], count: int) -> tuple[Strands, Strands]:
    """Dark and light strands that run between neighbouring guide lines."""
    rng = np.random.default_rng(seed + 11)
    lines = [spline(g) for g in guides]
    stack = np.stack([line[np.linspace(0, len(line) - 1, 25).round().astype(int)] for line in lines])
    paths, dark = np.empty((count, 12, 2)), rng.random(count) < 0.55
    for row in range(count):
        t = rng.uniform(0, len(stack) - 1)
        k = min(int(t), len(stack) - 2)
        path = stack[k] + (stack[k + 1] - stack[k]) * (t - k)
        path = path + rng.normal(0.0, 0.012, 2) + rng.normal(0.0, 0.02, 2) * np.linspace(0.0, 1, 25)[:, None]
        start, stop = sorted(rng.integers(0, 25, 2))
        if stop - start < 6:
            start, stop = 0, 24
        paths[row] = path[np.linspace(start, stop, 12).round().astype(int)]
    outlines = strand_outlines(paths, rng.uniform(0.015, 0.05, count))
    return outlines[dark], outlines[~dark]


@lru_cache(maxsize=64)
def _closed_curve(line: Line) -> Points:
    return spline(line, closed=True)


@lru_cache(maxsize=512)
def _stubble(seed: int) -> tuple[Strands, Strands]:
    """Dots of close-cropped hair over the top of the head, dark and light."""
    rng = np.random.default_rng(seed + 13)
    root = np.stack([rng.uniform(-1.12, 1.12, 420), rng.uniform(-1.6, 0.1, 420)], axis=1)
    lean = rng.normal(0.0, 0.018, (420, 2)) + (0.0, 0.02)
    outlines = strand_outlines(np.stack([root, root + 0.5 * lean, root + lean], axis=1), np.full(420, 0.034))
    return outlines[::2], outlines[1::2]


@lru_cache(maxsize=512)
def _beard_strands(seed: int, whole: bool) -> tuple[Strands, Strands]:
    rng = np.random.default_rng(seed + 5)
    count = 260 if whole else 110
    reach = 0.95 if whole else 0.42
    root = np.stack([rng.uniform(-reach, reach, count), rng.uniform(0.30, 1.5, count)], axis=1)
    lean = np.stack([0.22 * root[:, 0] + rng.normal(0.0, 0.03, count), np.full(count, 0.10)], axis=1)
    paths = np.stack([root, root + 0.5 * lean + rng.normal(0.0, 0.008, (count, 2)), root + lean], axis=1)
    outlines = strand_outlines(paths, np.full(count, 0.018))
    dark = rng.random(count) < 0.5
    return outlines[dark], outlines[~dark]


class Artist:
    """Draws one presenter in one state on one canvas, back to front."""

    def __init__(self, presenter: Presenter, state: FaceState, canvas: Canvas) -> None:
        self.p, self.s, self.c = presenter, state, canvas
        self.pose = Pose(presenter, state)
        self.unit = FACE_UNIT
        self.mouth = mouth_shape(presenter, state)
        self.eye = eye_shape(presenter, state)
        p = presenter
        darkness = 1 - (0.3 * p.skin[0] + 0.59 * p.skin[1] + 0.11 * p.skin[2])
        self.skin_shade: Colour = mix((0.80, 0.62, 0.58), (0.66, 0.55, 0.56), darkness)  # multiplies
        self.line: Colour = mix(scaled(p.skin, 0.45), (0.25, 0.08, 0.06), 0.35)
        self.far_side = 1.0 if p.light <= 0 else -1.0  # of the light
        self.haircut = HAIRCUTS[p.hair]
        self.hair_dark = scaled(p.hair_colour, 0.62)
        self.hair_light = mix(scaled(p.hair_colour, 1.25), (1.0, 0.93, 0.82), 0.16)

    # Painting verbs in face units -------------------------------------------------------------------------------

    def head(self, path: Points, colour: Colour, opacity: float = 1.0, blur: float = 0.0, clip: Plane | None = None,
             multiply: bool = False, solid: bool = False, lift: float = 0.0) -> None:  # fmt: skip
        self.c.fill(self.pose.head(path, lift), colour, opacity, blur * self.unit, clip, multiply, solid)

    def skin(self, path: Points, colour: Colour, opacity: float = 1.0, blur: float = 0.0, clip: Plane | None = None,
             multiply: bool = False, lift: float = 0.0) -> None:  # fmt: skip
        self.c.fill(self.pose.skin(path, lift), colour, opacity, blur * self.unit, clip, multiply)

    def line_on(self, path: Points, width: float, colour: Colour, opacity: float = 1.0, blur: float = 0.0,
                clip: Plane | None = None, multiply: bool = False, taper: float = 1.0, sunk: bool = False,
                solid: bool = False) -> None:  # fmt: skip
        placed = self.pose.skin(path) if sunk else self.pose.head(path)
        self.c.stroke(placed, width * self.unit, colour, opacity, blur * self.unit, clip, multiply, taper, solid)

    def body(self, path: Points, colour: Colour, opacity: float = 1.0, blur: float = 0.0, clip: Plane | None = None,
             multiply: bool = False, solid: bool = False) -> None:  # fmt: skip
        self.c.fill(self.pose.body(path), colour, opacity, blur * self.unit, clip, multiply, solid)

    def body_line(self, path: Points, width: float, colour: Colour, opacity: float = 1.0, blur: float = 0.0,
                  clip: Plane | None = None, multiply: bool = False, taper: float = 1.0) -> None:  # fmt: skip
        self.c.stroke(self.pose.body(path), width * self.unit, colour, opacity, blur * self.unit, clip, multiply, taper)

    def outlines(self, strands: Strands, place: Callable[[Points], Points]) -> list[Points]:
        """Strands in the picture, without those that miss the canvas."""
        placed = place(strands.reshape(-1, 2)).reshape(strands.shape)
        low, high = placed.min(axis=1), placed.max(axis=1)
        c = self.c
        seen = (high[:, 0] > c.x) & (high[:, 1] > c.y) & (low[:, 0] < c.x + c.side) & (low[:, 1] < c.y + c.side)
        return list(placed[seen])

    def reaches(self, low: tuple[float, float], high: tuple[float, float]) -> bool:
        """Whether a box in face units, with room for any pose, can touch the canvas."""
        room = 0.25
        x0, y0 = (HEAD_CENTRE[i] + FACE_UNIT * (low[i] - room) for i in range(2))
        x1, y1 = (HEAD_CENTRE[i] + FACE_UNIT * (high[i] + room) for i in range(2))
        c = self.c
        return x1 > c.x and y1 > c.y and x0 < c.x + c.side and y0 < c.y + c.side

    # The parts --------------------------------------------------------------------------------------------------

    def draw(self) -> None:
        self.background()
        self.hair_behind()
        self.neck()
        self.garment()
        self.face()
        self.features()
        self.mouth_interior()
        self.eyes()
        self.brows()
        self.hair_in_front()
        self.spectacles()

    def background(self) -> None:
        c, p = self.c, self.p
        at = (np.arange(c.size_px, dtype=np.float32) + 0.5) / c.scale
        x, y = at + np.float32(c.x), at + np.float32(c.y)
        centre = 0.5 + 0.22 * np.sign(p.light)
        glow = np.exp(-(((y - 0.36) / 0.52) ** 2))[:, None] * np.exp(-(((x - centre) / 0.55) ** 2))[None, :]
        fall = (0.80 + 0.0 * x)[None, :] - 0.10 * y[:, None]
        level = fall + 0.30 * glow
        for channel in range(3):
            c.rgb[..., channel] = np.clip(p.backdrop[channel] * level, 0, 1)

    def neck(self) -> None:
        p = self.p
        w = 0.50 * (0.75 + 0.25 * p.jaw_width) * (0.9 + 0.1 * p.shoulders)
        low = np.array([(w * 1.02, 1.55), (w * 1.12, 1.80), (w * 1.9, 2.02), (1.3, 2.2), (1.0, 2.7), (0.0, 2.8)])
        top = np.array([(0.0, 0.7), (w * 0.98, 0.75), (w * 0.99, 1.2)])
        # The top of the neck goes with the head, its foot with the shoulders.
        right = np.concatenate([self.pose.head(top), self.pose.body(low)])
        left_top = self.pose.head(top * MIRROR)
        left_low = self.pose.body(low * MIRROR)
        outline = spline(np.concatenate([right, left_low[-2::-1], left_top[:0:-1]]), closed=True)
        self.c.fill(outline, p.skin, solid=True)
        clip = self.c.mask([outline])
        u = self.unit
        shade = self.skin_shade
        side = 1.0 if p.light <= 0 else -1.0
        self.c.fill(self.pose.body(ellipse(side * 0.55, 1.8, 0.32, 0.75)), shade, 0.75, 0.13 * u, clip, multiply=True)
        self.c.fill(self.pose.body(ellipse(-side * 0.66, 1.85, 0.20, 0.7)), shade, 0.4, 0.12 * u, clip, multiply=True)
        # What the chin shades sinks with the jaw.
        chin = self.pose.skin(ellipse(0.07 * side, 1.18, 0.80 * p.jaw_width, 0.44 * p.chin_length))
        self.c.fill(chin, mix(shade, BLACK, 0.10), 0.95, 0.07 * u, clip, multiply=True)
        for sign in (-1, 1):  # the two sinews down to the collar bones
            path = spline([(sign * w * 0.72, 1.45), (sign * 0.33, 1.75), (sign * 0.12, 2.05)])
            self.body_line(path, 0.05, shade, 0.35, 0.035, clip, multiply=True)
            bone = spline([(sign * 0.10, 2.10), (sign * 0.45, 2.08), (sign * 0.95, 2.10)])
            self.body_line(bone, 0.05, shade, 0.35, 0.03, clip, multiply=True)

    def garment(self) -> None:
        p = self.p
        k = p.shoulders
        torso = spline(
            mirrored(
                [
                    (0.0, 1.98),
                    (0.42, 1.90),
                    (0.62, 1.84),
                    (1.05, 1.99),
                    (1.62 * k, 2.14),
                    (2.05 * k, 2.36),
                    (2.28 * k, 2.80),
                    (2.42 * k, 3.6),
                    (0.0, 3.9),
                ]
            ),
            closed=True,
        )
        collar = {
            "sweater": [(0.50, 1.86), (0.40, 2.04), (0.20, 2.15), (0.0, 2.18)],
            "tee": [(0.56, 1.86), (0.45, 2.08), (0.22, 2.22), (0.0, 2.26)],
            "turtleneck": [(0.50, 1.52), (0.40, 1.58), (0.20, 1.63), (0.0, 1.65)],
            "shirt": [(0.50, 1.80), (0.34, 2.02), (0.14, 2.24), (0.0, 2.40)],
            "jacket": [(0.50, 1.80), (0.34, 2.02), (0.14, 2.24), (0.0, 2.40)],
            "blouse": [(0.60, 1.86), (0.44, 2.12), (0.20, 2.44), (0.0, 2.66)],
        }[p.clothes]
        opening = spline(mirrored([(0.0, 1.0), (0.55, 1.2), *collar]), closed=True)
        body = self.c.mask([self.pose.body(torso)])
        hole = self.c.mask([self.pose.body(opening)])
        if p.clothes == "turtleneck":
            band = spline(
                mirrored([(0.0, 1.62), (0.30, 1.56), (0.52, 1.46), (0.55, 1.7), (0.66, 2.0), (0.0, 2.2)]), closed=True
            )
            body = np.maximum(body, self.c.mask([self.pose.body(band)]))
        cloth = body * (1 - hole)
        self.cloth = body
        whole = WHOLE
        base = p.shirt_colour if p.clothes == "jacket" else p.clothes_colour
        # Cloth throws a soft shadow on the neck just above its edge.
        self.body(
            ribbon(spline([(-x, y) for x, y in collar] + [(x, y) for x, y in collar[-2::-1]]), 0.12),
            self.skin_shade,
            0.6,
            0.04,
            hole * body,
            multiply=True,
        )
        self.c.blend(whole, cloth, base)
        self.c.alpha = np.maximum(self.c.alpha, cloth)
        dark: Colour = mix((0.62, 0.60, 0.68), (0.45, 0.45, 0.55), 0.3)
        side = 1.0 if p.light <= 0 else -1.0
        rng = np.random.default_rng(p.seed)
        if p.clothes in ("shirt", "jacket"):
            self.shirt(cloth, dark, base)
        if p.clothes == "jacket":
            self.jacket(body, dark)
        if p.clothes in ("sweater", "tee", "turtleneck"):
            edge = spline([(-x, y) for x, y in collar] + [(x, y) for x, y in collar[-2::-1]])
            depth = {"sweater": 0.13, "tee": 0.09, "turtleneck": 0.0}[p.clothes]
            if depth:
                rim = ribbon(edge, 2 * depth)
                self.body(rim, scaled(p.clothes_colour, 0.90), 1.0, 0.0, cloth)
                self.body(ribbon(edge + (0.0, depth), 0.03), dark, 0.7, 0.015, cloth, multiply=True)
                if p.clothes == "sweater":
                    for t in range(2, len(edge) - 2, 2):
                        x, y = edge[t]
                        nx, ny = x * 0.22, 0.13
                        self.body_line(np.array([(x, y), (x + nx, y + ny)]), 0.018, dark, 0.45, 0.006, cloth, True, 0.3)
            else:
                for y in (1.64, 1.76):
                    fold = spline([(-0.6, y - 0.1), (0.0, y + 0.05), (0.6, y - 0.1)])
                    self.body_line(fold, 0.07, dark, 0.5, 0.03, cloth, multiply=True)
        if p.clothes == "blouse":
            edge = spline([(-x, y) for x, y in collar] + [(x, y) for x, y in collar[-2::-1]])
            self.body(ribbon(edge, 0.05), scaled(p.clothes_colour, 0.82), 1.0, 0.0, cloth)
            self.body(ribbon(edge + (0.0, 0.05), 0.05), dark, 0.5, 0.03, cloth, multiply=True)
        worn = body if p.clothes == "jacket" else cloth
        # Volume: the far side, under the arms, folds from the shoulder, and light on the near shoulder.
        self.body(ellipse(side * 2.25 * k, 2.9, 0.55, 1.0), dark, 0.75, 0.22, worn, multiply=True)
        self.body(ellipse(-side * 2.45 * k, 3.1, 0.35, 0.8), dark, 0.55, 0.18, worn, multiply=True)
        self.body(ellipse(0.0, 3.25, 1.0, 0.45), dark, 0.35, 0.3, worn, multiply=True)
        self.body(ellipse(-side * 1.35 * k, 2.28, 0.55, 0.12, -side * 0.28), WHITE, 0.16, 0.13, worn)
        for sign in (-1, 1):
            fold = spline(
                [(sign * 1.55 * k, 3.3), (sign * 1.48 * k, 2.85), (sign * (1.56 + 0.06 * rng.random()) * k, 2.55)]
            )
            self.body_line(fold, 0.09, dark, 0.6, 0.035, worn, multiply=True)
            fold = spline([(sign * 1.0, 2.6), (sign * 1.2, 2.75), (sign * 1.45, 2.82)])
            self.body_line(fold, 0.07, dark, 0.35, 0.04, worn, multiply=True)
        # The head's shadow on the collar.
        self.body(ellipse(side * 0.10, 1.86, 0.62, 0.20), dark, 0.55, 0.10, cloth, multiply=True)

    def shirt(self, cloth: Plane, dark: Colour, base: Colour) -> None:
        for sign in (-1, 1):
            flap = np.array(
                [(sign * x, y) for x, y in [(0.54, 1.70), (0.70, 1.98), (0.42, 2.46), (0.03, 2.36), (0.30, 2.06)]]
            )
            self.body(flap + (0.0, 0.05), dark, 0.6, 0.04, None, multiply=True)
            self.body(flap, scaled(base, 1.05))
            self.body_line(flap[1:4], 0.02, dark, 0.6, 0.008, None, multiply=True, taper=0.0)
        placket = np.array([(-0.01, 2.4), (0.0, 3.4)])
        self.body_line(placket + (0.10, 0.0), 0.018, dark, 0.55, 0.008, cloth, multiply=True, taper=0.0)
        for y in (2.58, 2.98):
            self.body(ellipse(0.0, y, 0.032, 0.032), scaled(base, 0.72))
            self.body(ellipse(-0.006, y - 0.008, 0.022, 0.022), scaled(base, 0.95))

    def jacket(self, body: Plane, dark: Colour) -> None:
        p = self.p
        k = p.shoulders
        for sign in (-1, 1):
            front = np.array(
                [
                    (sign * x, y)
                    for x, y in [
                        (0.52, 1.76),
                        (0.72, 1.80),
                        (1.05, 1.97),
                        (1.62 * k, 2.12),
                        (2.05 * k, 2.34),
                        (2.6 * k, 2.9),
                        (2.6 * k, 3.7),
                        (0.08, 3.7),
                        (0.30, 2.9),
                    ]
                ]
            )
            self.body(front + (-sign * 0.05, 0.03), dark, 0.7, 0.05, body, multiply=True)
            self.body(front, p.clothes_colour, 1.0, 0.0, body)
            lapel = np.array(
                [
                    (sign * x, y)
                    for x, y in [
                        (0.52, 1.74),
                        (0.74, 1.90),
                        (1.02, 2.40),
                        (0.80, 2.52),
                        (0.92, 2.66),
                        (0.16, 3.45),
                        (0.30, 2.85),
                    ]
                ]
            )
            self.body(lapel + (sign * 0.03, 0.04), dark, 0.8, 0.03, body, multiply=True)
            self.body(lapel, scaled(p.clothes_colour, 1.12), 1.0, 0.0, body)
            self.body_line(lapel[2:6], 0.02, dark, 0.7, 0.006, body, multiply=True, taper=0.0)

    def face(self) -> None:
        p = self.p
        outline = self.pose.skin(face_outline(p))
        ears = [] if self.haircut.covers_ears else [self.pose.head(spline(e, closed=True)) for e in self.ears()]
        if ears:
            self.c.fill(ears, p.skin, solid=True)
        ear_clip = self.c.mask(ears)
        for sign in (-1, 1) if ears else ():
            inner = spline(
                [(sign * 1.06, -0.06), (sign * 1.10, 0.10), (sign * 1.05, 0.28), (sign * 1.02, 0.1)], closed=True
            )
            self.head(inner, self.skin_shade, 0.9, 0.025, ear_clip, multiply=True)
            self.head(ellipse(sign * 1.0, 0.12, 0.06, 0.4), self.skin_shade, 0.7, 0.04, ear_clip, multiply=True)
        if p.earrings and ears:
            for sign in (-1, 1):
                self.head(ellipse(sign * 1.075, 0.50, 0.045, 0.055), (0.86, 0.70, 0.36), solid=True)
                self.head(ellipse(sign * 1.075 - 0.012, 0.485, 0.016, 0.018), (1.0, 0.95, 0.8))
        self.c.fill(outline, p.skin, solid=True)
        self.face_clip = self.c.mask([outline])
        self.bristle: Plane = np.zeros_like(self.face_clip)
        self.blush()
        if p.beard != "none":
            self.beard()
        self.lips()
        self.light()

    def ears(self) -> list[Points]:
        right = np.array(
            [
                (0.95, -0.18),
                (1.06, -0.22),
                (1.145, -0.10),
                (1.13, 0.12),
                (1.09, 0.32),
                (1.06, 0.44),
                (0.99, 0.46),
                (0.93, 0.3),
            ]
        )
        return [right, right * MIRROR]

    def blush(self) -> None:
        p = self.p
        rosy = mix((1.0, 0.62, 0.58), (0.92, 0.62, 0.58), 0.5)
        for sign in (-1, 1):
            self.skin(
                ellipse(sign * 0.60, 0.48, 0.26, 0.17, -sign * 0.3),
                rosy,
                0.08 + 0.32 * p.cheeks,
                0.14,
                self.face_clip,
                True,
            )
            self.head(ellipse(sign * 0.43, -0.13, 0.27, 0.06), rosy, 0.30 + 0.2 * p.lashes, 0.06, self.face_clip, True)
            self.head(ellipse(sign * 0.98, 0.2, 0.1, 0.3), rosy, 0.35, 0.1, None, True)
        self.head(
            ellipse(0.0, nose_base(p) - 0.09, 0.16, 0.11), rosy, 0.15 + 0.3 * p.cheeks, 0.07, self.face_clip, True
        )
        if p.freckles > 0:
            rng = np.random.default_rng(p.seed + 7)
            spots = []
            for _ in range(int(70 * p.freckles)):
                x, y = rng.normal(0.0, 0.42), rng.normal(0.36, 0.12)
                size = rng.uniform(0.010, 0.020)
                spots.append(self.pose.head(ellipse(x, y, size, size, count=8)))
            self.c.fill(spots, (0.72, 0.48, 0.36), 0.45, 0.004 * self.unit, self.face_clip, True)

    def lips(self) -> None:
        p, m = self.p, self.mouth
        outer = np.concatenate([m.outer_upper, m.outer_lower[::-1]])
        upper = np.concatenate([m.outer_upper, m.inner_upper[::-1]])
        lower = np.concatenate([m.inner_lower, m.outer_lower[::-1]])
        place = self.pose.head
        self.c.fill(place(outer, 0.05), p.lips, 0.35, 0.012 * self.unit)
        self.c.fill([place(upper, 0.05), place(lower, 0.05)], p.lips, 1.0, 0.003 * self.unit)
        self.c.fill(place(upper, 0.05), (0.84, 0.76, 0.77), 0.55, 0.006 * self.unit, None, multiply=True)
        self.lip_planes = [place(upper, 0.05), place(lower, 0.05)]

    def heights(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The relief of the face over face coordinates, in face units."""
        p, s = self.p, self.s
        rest = y - self.pose.drop * Pose.share_of_drop(x, y, self.pose.drop)

        def bump(cx: float, cy: float, sx: float, sy: float, yy: np.ndarray = y) -> np.ndarray:
            return np.exp(-(((x - cx) / sx) ** 2) - (((yy - cy) / sy) ** 2))

        base, wide = nose_base(p), p.nose_width
        h = 1.05 * Pose.depth(x, rest * 0.97)
        h += 0.155 * bump(0.0, base - 0.10, 0.15 * wide, 0.13)
        h += (
            0.095
            * np.exp(-((x / (0.115 * (0.7 + 0.3 * wide))) ** 2))
            * smoothstep(y, -0.35, 0.15)
            * (1 - smoothstep(y, base - 0.2, base + 0.02))
        )
        h += 0.055 * (bump(0.145 * wide, base - 0.05, 0.075, 0.07) + bump(-0.145 * wide, base - 0.05, 0.075, 0.07))
        cheek = 0.45 + 0.05 * s.smile
        for sign in (-1, 1):
            h -= 0.085 * bump(sign * 0.40, -0.02, 0.26, 0.16)
            h += 0.045 * bump(sign * 0.42, -0.30, 0.34, 0.11)
            h += (0.075 + 0.03 * s.smile) * bump(sign * 0.56, cheek, 0.30, 0.24, rest)
        h += 0.075 * bump(0.0, 0.42 + 0.93 * p.chin_length - 0.12, 0.24, 0.15, rest)
        h += 0.055 * bump(0.0, MOUTH_Y, 0.42, 0.22, rest)
        mouth = self.mouth
        below = float(mouth.outer_lower[MOUTH_SAMPLES // 2, 1])
        h -= 0.040 * bump(0.0, below + 0.055, 0.22, 0.06)
        top = float(mouth.outer_upper[MOUTH_SAMPLES // 2, 1])
        h -= 0.012 * bump(0.0, (top + base) / 2, 0.05, 0.11)
        return h

    def light(self) -> None:
        """Multiply the skin by warm light and cool shade from the relief."""
        c, p = self.c, self.p
        size = max(min(c.size_px // 2, int(c.side * 320)), 16)
        x, y = self.pose.face_coordinates(c, size)
        step = c.side / size / FACE_UNIT
        h = self.heights(x, y).astype(np.float32)
        lips = np.zeros((c.size_px, c.size_px), np.float32)
        for share, plane in zip((0.8, 1.0), self.lip_planes, strict=True):
            lips += share * c.mask([plane], 0.016 * FACE_UNIT)
        h += 0.055 * cv2.GaussianBlur(
            cv2.resize(lips, (size, size), interpolation=cv2.INTER_AREA), (0, 0), max(0.012 / step, 0.5)
        )
        dx, dy = np.gradient(h, step, axis=1), np.gradient(h, step, axis=0)
        turn = p.light * 0.62
        lx, ly, lz = turn, -0.52, 0.80
        norm = 1 / np.sqrt(dx * dx + dy * dy + 1)
        facing = (-dx * lx - dy * ly + lz) * norm / np.sqrt(lx * lx + ly * ly + lz * lz)
        shine = np.clip((-dx * lx * 0.5 - dy * ly * 0.5 + lz + 0.45) * norm / 1.32, 0, 1) ** 26
        bright = smoothstep(facing, -0.05, 0.90)
        bright = cv2.resize(bright.astype(np.float32), (c.size_px, c.size_px), interpolation=cv2.INTER_LINEAR)
        shine = cv2.resize(shine.astype(np.float32), (c.size_px, c.size_px), interpolation=cv2.INTER_LINEAR)
        clip = self.face_clip
        lifted = np.clip((bright - 0.62) / 0.38, 0, 1) * clip
        dark = (1 - bright) * clip
        for channel in range(3):
            layer = c.rgb[..., channel]
            # Hair in shade turns grey, skin turns red.
            loss = (
                np.float32((1 - self.skin_shade[channel]) * 1.12) * (1 - self.bristle) + np.float32(0.36) * self.bristle
            )
            layer *= 1 - dark * loss
            layer += lifted * np.float32((0.085, 0.070, 0.050)[channel]) * (1.1 - layer)
            layer += shine * clip * (0.10 + 0.16 * lips) * (1 - layer)

    def features(self) -> None:
        """Nose, folds and lines of age; all soft."""
        p, line = self.p, self.line
        base, wing = nose_base(p), 0.165 * p.nose_width
        side = 1.0 if p.light <= 0 else -1.0
        clip = self.face_clip
        # Under the nose and beside its tip.
        self.head(ellipse(0.03 * side, base + 0.06, wing * 0.95, 0.045), self.skin_shade, 0.65, 0.035, clip, True)
        for sign in (-1, 1):
            self.line_on(spline([(sign * wing * 0.92, base - 0.13), (sign * wing * 1.10, base - 0.06),
                (sign * wing * 1.0, base + 0.005), (sign * wing * 0.75, base + 0.01)]),
                         0.030, line, 0.40 + 0.25 * (sign == side), 0.009, clip)  # fmt: skip
            self.head(
                ellipse(sign * wing * 0.48, base + 0.008, wing * 0.27, 0.022, sign * 0.25),
                line,
                0.85,
                0.010,
                clip,
                lift=0.12,
            )
            fold = 0.12 + 0.5 * p.age + 0.3 * max(self.s.smile, 0)
            corner = 0.5 * (self.mouth.half_width + p.mouth_width) + 0.09
            path = spline(
                [
                    (sign * (wing + 0.06), base - 0.05),
                    (sign * (0.34 + 0.02 * p.age), base + 0.10),
                    (sign * corner, MOUTH_Y - 0.03 + 0.3 * self.pose.drop),
                ]
            )
            self.line_on(path, 0.055, self.skin_shade, min(fold * 1.3, 0.9), 0.028, clip, True)
            bag = 0.15 + 0.55 * p.age
            self.line_on(
                spline([(sign * 0.22, 0.12), (sign * 0.40, 0.185), (sign * 0.60, 0.13)]),
                0.05,
                self.skin_shade,
                bag,
                0.02,
                clip,
                True,
            )
            if p.age > 0.5:
                for k in range(3):
                    crow = spline(
                        [
                            (sign * 0.70, 0.0 + 0.04 * k),
                            (sign * 0.78, -0.04 + 0.06 * k),
                            (sign * 0.84, -0.06 + 0.09 * k),
                        ]
                    )
                    self.line_on(crow, 0.018, self.skin_shade, (p.age - 0.4) * 1.3, 0.007, clip, True)
            # The corner of the mouth.
            x = sign * self.mouth.half_width
            y = float(self.mouth.inner_upper[0, 1])
            self.head(ellipse(x * 1.03, y - 0.004, 0.032, 0.026), line, 0.36, 0.018, clip)
        if p.age > 0.45:
            for k, y in enumerate((-0.62, -0.50)):
                wrinkle = spline([(-0.40 + 0.05 * k, y), (-0.15, y - 0.03), (0.15, y - 0.03), (0.42 - 0.04 * k, y)])
                self.line_on(wrinkle, 0.022, self.skin_shade, (p.age - 0.35) * 0.9, 0.010, clip, True)
        lower = self.mouth.outer_lower
        below = float(lower[MOUTH_SAMPLES // 2, 1])
        self.head(
            ellipse(0.0, below + 0.025, 0.5 * self.mouth.half_width, 0.018), self.skin_shade, 0.50, 0.018, clip, True
        )

    def mouth_interior(self) -> None:
        m, s, p = self.mouth, self.s, self.p
        place = self.pose.head
        line = 0.5 * (m.inner_upper + m.inner_lower)
        seam = mix(scaled(p.lips, 0.34), (0.10, 0.02, 0.02), 0.3)
        # The line where closed lips meet; an open mouth swallows it.
        self.c.stroke(place(line, 0.05), 0.026 * self.unit, seam, 0.80, 0.005 * self.unit, taper=0.75)
        if m.gap < 0.004:
            return
        inside = place(np.concatenate([m.inner_upper, m.inner_lower[::-1]]), 0.05)
        clip = self.c.mask([inside])
        u = self.unit
        self.c.fill(inside, (0.20, 0.055, 0.06))
        depth = 0.0
        floor = float(m.inner_lower[MOUTH_SAMPLES // 2, 1])
        roof = float(m.inner_upper[MOUTH_SAMPLES // 2, 1])
        self.c.fill(
            place(ellipse(0.0, 0.5 * (floor + roof), 0.6 * m.half_width, 0.33 * m.gap)),
            (0.07, 0.012, 0.018),
            0.85,
            0.05 * u,
            clip,
        )
        teeth: Colour = (0.93, 0.905, 0.865)
        arch = 0.34 * (1 - 0.1 * s.round)  # half width of the visible row
        t = np.linspace(-1, 1, 15)
        # Lower row: rides on the jaw, mostly hidden behind the lip.
        low_y = m.lower_teeth_y - 0.015 + 0.045 * t**2
        low = np.concatenate([np.stack([t * arch * 0.86, low_y], axis=1), [(arch, floor + 0.4), (-arch, floor + 0.4)]])
        self.c.fill(place(low, depth), scaled(teeth, 0.80), 1.0, 0.006 * u, clip)
        if m.gap > 0.03:
            rise = np.clip(s.tongue, 0, 1)
            root = min(m.lower_teeth_y + 0.03, floor - 0.10 * m.gap)
            tip = root - (0.16 + 0.10 * (1 - rise)) * m.gap * (0.5 + 0.5 * min(m.gap / 0.2, 1.0))
            tip = tip + (m.upper_teeth_y - 0.01 - tip) * rise
            wide = m.half_width * (0.64 - 0.10 * rise)
            middle = 0.5 * (tip + floor) + 0.05
            body = spline(
                mirrored(
                    [
                        (0.0, tip + 0.004),
                        (wide * 0.45, tip + 0.004),
                        (wide * 0.85, tip + 0.30 * (middle - tip)),
                        (wide, middle),
                        (wide * 0.9, floor + 0.2),
                        (0.0, floor + 0.22),
                    ]
                ),
                closed=True,
            )
            tongue_clip = self.c.mask([place(body)], 0.006 * u) * clip
            whole = WHOLE
            self.c.blend(whole, tongue_clip, (0.66, 0.30, 0.31))
            self.c.fill(
                place(ellipse(0.0, tip + 0.02, wide * 0.6, 0.02 + 0.05 * m.gap)),
                (0.85, 0.47, 0.46),
                0.55,
                0.025 * u,
                tongue_clip,
            )
            self.c.fill(place(ellipse(0.0, floor + 0.02, wide, 0.05)), (0.42, 0.16, 0.17), 0.55, 0.03 * u, tongue_clip)
            # The lower row again, in front of a lowered tongue.
            self.c.fill(place(low, depth), scaled(teeth, 0.82), 0.9 * (1 - 0.7 * rise), 0.006 * u, clip)
        up_y = m.upper_teeth_y - 0.030 * s.round - 0.035 * t**2
        up = np.concatenate([np.stack([t * arch, up_y], axis=1), [(arch * 1.1, roof - 0.5), (-arch * 1.1, roof - 0.5)]])
        teeth_clip = self.c.mask([place(up, depth)], 0.004 * u) * clip
        self.c.blend(WHOLE, teeth_clip, teeth)
        for x in (-0.24, -0.16, -0.08, 0.0, 0.08, 0.16, 0.24):
            gap_line = np.array([(x, m.upper_teeth_y - 0.10), (x, m.upper_teeth_y - 0.004)])
            self.c.stroke(place(gap_line), 0.008 * u, (0.66, 0.55, 0.52), 0.50, 0.003 * u, teeth_clip, taper=0.0)
        for sign in (-1, 1):  # rows turn away into the dark
            self.c.fill(
                place(ellipse(sign * max(m.half_width * 0.98, 0.12), m.upper_teeth_y, 0.30 * m.half_width, 0.5)),
                (0.22, 0.07, 0.07),
                0.80,
                0.045 * u,
                clip,
            )
        # Shadow of the upper lip.
        shadow = ribbon(m.inner_upper, 0.035)
        self.c.fill(place(shadow, 0.05), (0.35, 0.16, 0.16), 0.55, 0.014 * u, clip, multiply=True)
        rim = ribbon(m.inner_lower, 0.02)
        self.c.fill(place(rim, 0.05), (0.30, 0.08, 0.08), 0.5, 0.008 * u, clip)

    def eyes(self) -> None:
        if not self.reaches((-0.8, -0.3), (0.8, 0.3)):
            return
        p, s, e = self.p, self.s, self.eye
        u = self.unit
        iris_radius = 0.112 * (0.6 + 0.4 * p.eye_size)
        for sign in (-1.0, 1.0):
            flip = np.array([sign, 1.0])
            opening = np.concatenate([e.upper, e.lower[::-1]]) * flip
            # The hollow of the lid.
            crease = (e.upper + (0.0, -0.055)) * flip
            self.line_on(crease, 0.05, self.skin_shade, 0.55, 0.02, self.face_clip, True)
            clip = self.c.mask([self.pose.head(opening)])
            if s.blink < 0.93:
                self.head(opening, (0.955, 0.945, 0.935))
                self.head(ellipse(sign * (EYE_X + 0.26), 0.0, 0.08, 0.1), (0.85, 0.66, 0.62), 0.5, 0.03, clip)
                self.head(ellipse(sign * (EYE_X - 0.235), 0.005, 0.045, 0.05), (0.85, 0.55, 0.52), 0.7, 0.02, clip)
                ix = sign * EYE_X + 0.07 * s.gaze_x
                iy = -0.018 + 0.05 * s.gaze_y
                c1, c0 = p.eye_colour, scaled(p.eye_colour, 0.42)
                self.head(ellipse(ix, iy, iris_radius * 1.03, iris_radius * 1.03), c0, 1.0, 0.006, clip)
                self.head(ellipse(ix, iy + 0.01, iris_radius * 0.80, iris_radius * 0.80), c1, 1.0, 0.02, clip)
                self.head(
                    ellipse(ix, iy + iris_radius * 0.48, iris_radius * 0.55, iris_radius * 0.30),
                    mix(scaled(c1, 1.5), (1.0, 0.95, 0.8), 0.15),
                    0.75,
                    0.02,
                    clip,
                )
                self.head(
                    ellipse(ix, iy, iris_radius * 0.45, iris_radius * 0.45), (0.04, 0.03, 0.035), 1.0, 0.006, clip
                )
                # The lid's shadow on the eyeball.
                lid = ribbon(e.upper * flip, 0.10)
                self.head(lid, (0.45, 0.38, 0.42), 0.62, 0.028, clip, multiply=True)
                glint = 0.035 if p.light > 0 else -0.035
                self.head(ellipse(ix + glint, iy - 0.038, 0.026, 0.026), WHITE, 0.95, 0.004, clip)
                self.head(ellipse(ix - glint * 0.9, iy + 0.05, 0.014, 0.014), WHITE, 0.35, 0.006, clip)
            lash = mix(scaled(p.hair_colour, 0.35), (0.07, 0.04, 0.04), 0.6)
            upper = (
                np.concatenate(
                    [
                        e.upper,
                        [
                            [
                                e.upper[-1, 0] + 0.045 * p.lashes + 0.01,
                                e.upper[-1, 1] - 0.035 * p.lashes + 0.05 * s.blink,
                            ]
                        ],
                    ]
                )
                * flip
            )
            grow = np.concatenate([np.linspace(0.25, 1.0, 11), np.linspace(1.0, 0.85, 6), [0.0]])
            weight = (0.030 + 0.028 * p.lashes) * self.unit * grow
            self.c.fill(ribbon(self.pose.head(upper), weight), lash, 0.95, 0.002 * u)
            if p.lashes > 0.55:
                fans = []
                for k, at in enumerate((11, 13, 15, 16)):
                    root = e.upper[at]
                    tip = root + np.array([0.020 + 0.010 * k, -0.030 + 0.08 * s.blink])
                    bend = 0.5 * (root + tip) + (0.008, 0.006)
                    fans.append(
                        ribbon(
                            self.pose.head(spline([tuple(root), tuple(bend), tuple(tip)]) * flip),
                            0.017 * u * np.linspace(1, 0.1, 17),
                        )
                    )
                self.c.fill(fans, lash, 0.9, 0.002 * u)
            self.line_on(e.lower * flip, 0.016, self.line, 0.50, 0.004)
            # The fold of the upper lid.
            rest = eye_shape(p, FaceState(brow=s.brow)).upper
            fold = (rest * (1.0, 0.95) + (0.0, -0.052 + 0.02 * s.blink)) * flip
            self.line_on(fold[1:], 0.020, self.line, 0.55, 0.005, self.face_clip)

    def brows(self) -> None:
        if not self.reaches((-0.9, -0.6), (0.9, -0.1)):
            return
        p = self.p
        colour = mix(self.hair_dark, (0.12, 0.08, 0.07), 0.25)
        if min(p.hair_colour) > 0.55:
            colour = scaled(p.hair_colour, 0.72)
        path = brow_line(p, self.s)
        n = len(path)
        width = 0.092 * p.brow_weight * np.interp(np.linspace(0.0, 1, n), [0, 0.2, 0.6, 1], [0.62, 1.0, 0.80, 0.12])
        rng = np.random.default_rng(p.seed + 3)
        for sign in (-1.0, 1.0):
            flip = np.array([sign, 1.0])
            placed = self.pose.head(path * flip)
            self.c.fill(ribbon(placed, width * self.unit), colour, 0.72, 0.012 * self.unit)
            hairs = []
            for _ in range(26):
                at = rng.uniform(0.02, 0.9)
                k = int(at * (n - 1))
                root = path[k] + (0.0, rng.uniform(-0.4, 0.4) * width[k])
                lean = np.array([0.065, -0.028 + 0.05 * at]) * rng.uniform(0.7, 1.3)
                hairs.append(
                    ribbon(
                        self.pose.head(np.array([root, root + 0.5 * lean, root + lean]) * flip), 0.014 * self.unit, 0.8
                    )
                )
            self.c.fill(hairs, colour, 0.55, 0.002 * self.unit)

    def beard(self) -> None:
        p, m = self.p, self.mouth
        clip = self.face_clip
        colour = mix(p.hair_colour, self.hair_dark, 0.4)
        lip_top, lip_low = m.outer_upper, m.outer_lower
        c = p.chin_length
        full = spline(
            mirrored(
                [
                    (0.0, 1.0),
                    (0.34, 1.0),
                    (0.55, 0.86),
                    (0.80, 0.62),
                    (0.93, 0.12),
                    (1.2, 0.1),
                    (1.2, 1.2),
                    (0.6, 1.7),
                    (0.0, 1.8),
                ]
            ),
            closed=True,
        )
        # Both edges of the moustache follow the lips.
        half = p.mouth_width
        top = np.array([(-half - 0.10, MOUTH_Y + 0.12), (-half * 0.85, MOUTH_Y - 0.10), (-0.12, MOUTH_Y - 0.205),
            (0.0, MOUTH_Y - 0.18),
                        (0.12, MOUTH_Y - 0.205), (half * 0.85, MOUTH_Y - 0.10),
                        (half + 0.10, MOUTH_Y + 0.12)])  # fmt: skip
        moustache = np.concatenate([spline(top), lip_top[::-1] + (0.0, 0.01)])
        chin = spline(
            mirrored(
                [
                    (0.0, float(lip_low[MOUTH_SAMPLES // 2, 1]) - self.pose.drop * 0.9 + 0.07),
                    (0.30, 1.16),
                    (0.40, 1.35 * c),
                    (0.0, 1.6 * c + 0.1),
                ]
            ),
            closed=True,
        )
        shapes: dict[str, list[Points]] = {
            "stubble": [self.pose.skin(full), self.pose.head(moustache)],
            "full": [self.pose.skin(full), self.pose.head(moustache)],
            "goatee": [self.pose.skin(chin), self.pose.head(moustache)],
            "moustache": [self.pose.head(moustache)],
        }
        soft, strength = {
            "stubble": (0.07, 0.34),
            "full": (0.035, 0.94),
            "goatee": (0.03, 0.9),
            "moustache": (0.02, 0.92),
        }[p.beard]
        area = self.c.mask(shapes[p.beard], soft * self.unit) * clip
        self.bristle = area * np.float32(strength)
        self.c.blend(WHOLE, self.bristle, colour)
        if p.beard == "stubble":
            return
        dark, light = (self.outlines(o, self.pose.skin) for o in _beard_strands(p.seed, p.beard == "full"))
        self.c.fill(dark, scaled(colour, 0.7), 0.5, 0.003 * self.unit, area)
        self.c.fill(light, mix(scaled(colour, 1.35), (1.0, 0.9, 0.8), 0.08), 0.42, 0.003 * self.unit, area)

    # Hair -------------------------------------------------------------------------------------------------------

    def tress(
        self,
        outlines: Sequence[Line],
        groups: Sequence[Sequence[Line]],
        count: int,
        place: Callable[[Points], Points],
        edge: float = 0.006,
    ) -> Plane | None:
        """A mass of hair: its shape and `count` strands in each group of guide lines.

        Returns its mask, None where it misses the canvas."""
        shapes = [place(_closed_curve(line)) for line in outlines]
        low = np.min([s.min(axis=0) for s in shapes], axis=0)
        high = np.max([s.max(axis=0) for s in shapes], axis=0)
        c = self.c
        if high[0] < c.x or high[1] < c.y or low[0] > c.x + c.side or low[1] > c.y + c.side:
            return None
        clip = c.mask(shapes, edge * self.unit)
        c.blend(WHOLE, clip, self.p.hair_colour)
        c.alpha = np.maximum(c.alpha, clip)
        for number, guides in enumerate(groups):
            dark, light = (self.outlines(o, place) for o in _tress_strands(self.p.seed + number, tuple(guides), count))
            c.fill(dark, self.hair_dark, 0.42, 0.006 * self.unit, clip)
            c.fill(light, self.hair_light, 0.26, 0.006 * self.unit, clip)
        return clip

    def shade_hair(self, clip: Plane | None, path: Points, opacity: float, blur: float, light: bool = False) -> None:
        if clip is None:
            return
        colour = mix(self.hair_light, WHITE, 0.25) if light else (0.45, 0.40, 0.45)
        self.c.fill(self.pose.head(path), colour, opacity, blur * self.unit, clip, multiply=not light)

    def hair_behind(self) -> None:
        style, p = self.p.hair, self.p
        if style == "curly":
            self.curls(behind=True)
        if not self.haircut.behind:
            return
        clip = self.tress(self.haircut.behind, self.haircut.behind_strands, 26, self.pose.drape)
        if style == "bun":
            self.shade_hair(clip, ellipse(0.0, -1.42, 0.45, 0.14), 0.8, 0.08)
            self.shade_hair(clip, ellipse(0.3 * p.light, -1.88, 0.22, 0.10), 0.35, 0.07, light=True)
        elif style == "ponytail":
            self.shade_hair(clip, ellipse(0.97, 0.4, 0.10, 1.0), 0.8, 0.1)
        else:
            self.shade_hair(clip, ellipse(0.0, 1.0, 0.95, 1.3), 0.9, 0.18)

    def curls(self, behind: bool) -> None:
        p = self.p
        rng = np.random.default_rng(p.seed + 21)
        centres = []
        for angle in np.linspace(-0.30, np.pi + 0.30, 22):
            for ring in (1.02, 1.24):
                x = np.cos(angle) * 1.02 * ring
                y = -0.52 - np.sin(angle) * 0.98 * ring
                centres.append((x + rng.normal(0.0, 0.03), y + rng.normal(0.0, 0.03), rng.uniform(0.19, 0.26)))
        for angle in np.linspace(0.35, np.pi - 0.35, 11):
            centres.append(
                (np.cos(angle) * 0.72, -0.62 - np.sin(angle) * 0.56 + rng.normal(0.0, 0.02), rng.uniform(0.16, 0.21))
            )
        if behind:
            shapes = [spline(ellipse(x, y, r, r, count=12), closed=True) for x, y, r in centres] + [
                ellipse(0.0, -0.6, 1.0, 1.0)
            ]
            clip = self.c.mask([self.pose.head(s) for s in shapes], 0.01 * self.unit)
            self.c.blend(WHOLE, clip, p.hair_colour)
            self.c.alpha = np.maximum(self.c.alpha, clip)
            return
        if not self.reaches((-1.6, -2.0), (1.6, 0.3)):
            return
        shapes = [ellipse(x, y, r, r) for x, y, r in centres if y < -0.75 or abs(x) > 0.98]
        clip = self.c.mask([self.pose.head(s) for s in shapes], 0.01 * self.unit)
        self.cast_on_forehead(shapes)
        self.c.blend(WHOLE, clip, p.hair_colour)
        self.c.alpha = np.maximum(self.c.alpha, clip)
        dark: list[Points] = []
        light: list[Points] = []
        for x, y, r in centres:
            for k in range(3):
                turn = rng.uniform(0.0, 2 * np.pi)
                arc = np.linspace(turn, turn + rng.uniform(1.8, 3.2), 9)
                radius = r * (0.35 + 0.28 * k)
                path = np.stack([x + np.cos(arc) * radius, y + np.sin(arc) * radius], axis=1)
                (dark if k != 1 else light).append(ribbon(self.pose.head(path), 0.045 * self.unit, 1.0))
        whole = self.c.mask([self.pose.head(ellipse(x, y, r, r)) for x, y, r in centres]) * clip
        self.c.fill(dark, self.hair_dark, 0.55, 0.010 * self.unit, whole)
        self.c.fill(light, self.hair_light, 0.42, 0.010 * self.unit, whole)
        self.shade_hair(clip, ellipse(0.55 * p.light, -1.35, 0.6, 0.28), 0.20, 0.16, light=True)

    def cast_on_forehead(self, shapes: Sequence[Points]) -> None:
        moved = [self.pose.head(s + (-0.02 * np.sign(self.p.light), 0.07)) for s in shapes]
        self.c.fill(moved, self.skin_shade, 0.62, 0.045 * self.unit, self.face_clip, multiply=True)

    def hair_in_front(self) -> None:
        style, cut, side = self.p.hair, self.haircut, self.far_side
        if not self.reaches((-1.5, -1.8), (1.5, 2.9 if cut.falls else 1.2)):
            return
        if style == "curly":
            self.curls(behind=False)
            return
        if style == "bald":
            self.shade_bald()
        place = self.pose.drape if cut.falls else self.pose.head
        curves = [_closed_curve(line) for line in cut.front]
        if cut.falls:
            self.c.fill(
                [place(c + (0.03, 0.06)) for c in curves],
                (0.5, 0.45, 0.5),
                0.5,
                0.07 * self.unit,
                self.cloth,
                multiply=True,
            )
        self.cast_on_forehead(curves)
        clip = self.tress(
            cut.front,
            cut.front_strands,
            100 // max(len(cut.front_strands), 1),
            place,
            0.012 if style == "crop" else 0.006,
        )
        if clip is None:
            return
        if style == "crop":
            dark, light = (self.outlines(o, self.pose.head) for o in _stubble(self.p.seed))
            self.c.fill(dark, self.hair_dark, 0.55, 0.006 * self.unit, clip)
            self.c.fill(light, self.hair_light, 0.30, 0.006 * self.unit, clip)
        if cut.parting is not None:
            self.c.stroke(
                place(spline(cut.parting)),
                0.035 * self.unit,
                mix(self.hair_dark, self.p.skin, 0.25),
                0.7,
                0.010 * self.unit,
                clip,
            )
        if style == "bald":
            for sign in (-1.0, 1.0):
                self.shade_hair(clip, ellipse(sign * 1.06, -0.3, 0.06, 0.4), 0.4, 0.05)
            return
        self.shade_hair(clip, ellipse(side * 1.17, -0.5, 0.25, 0.9), 0.55, 0.14)
        self.shade_hair(clip, ellipse(-side * 1.24, 0.1, 0.12, 0.8), 0.45, 0.1)
        if cut.falls:
            for sign in (-1.0, 1.0):
                self.shade_hair(clip, ellipse(sign * 0.92, 1.25, 0.10, 0.75), 0.7, 0.07)
                self.shade_hair(clip, ellipse(sign * 1.16, 0.95, 0.09, 0.30), 0.20, 0.08, light=True)
        arc = spline([(-0.90, -0.98), (-0.54, -1.30), (0.0, -1.42), (0.54, -1.30), (0.90, -0.98)]) + (-0.12 * side, 0.0)
        self.shade_hair(clip, ribbon(arc, 0.17, 1.0), 0.15 if style == "crop" else 0.30, 0.07, light=True)

    def shade_bald(self) -> None:
        p = self.p
        side = 1.0 if p.light <= 0 else -1.0
        self.head(ellipse(-side * 0.30, -1.02, 0.34, 0.16, -side * 0.2), (1.0, 0.96, 0.92), 0.30, 0.10, self.face_clip)

    def spectacles(self) -> None:
        p = self.p
        if p.glasses == "none" or not self.reaches((-1.0, -0.4), (1.0, 0.5)):
            return
        weight = {"round": 0.042, "square": 0.055, "thin": 0.026}[p.glasses]
        for sign in (-1.0, 1.0):
            cx, cy = sign * 0.44, 0.03
            if p.glasses == "square":
                t = np.linspace(0.0, 2 * np.pi, 48, endpoint=False)
                rx, ry = 0.345, 0.255
                power = 2 / 3.6
                rim = np.stack(
                    [
                        cx + rx * np.sign(np.cos(t)) * np.abs(np.cos(t)) ** power,
                        cy + ry * np.sign(np.sin(t)) * np.abs(np.sin(t)) ** power,
                    ],
                    axis=1,
                )
            else:
                rim = ellipse(cx, cy, 0.325, 0.30 if p.glasses == "round" else 0.25, count=48)
            placed = self.pose.head(rim, 0.12)
            lens = self.c.mask([placed])
            self.c.blend(WHOLE, lens * np.float32(0.05), (0.75, 0.85, 0.95))
            streak = np.array(
                [(cx - 0.22, cy + 0.24), (cx - 0.02, cy - 0.30), (cx + 0.08, cy - 0.30), (cx - 0.12, cy + 0.24)]
            )
            self.head(streak, WHITE, 0.10, 0.01, lens, lift=0.12)
            closed = np.concatenate([placed, placed[:2]])
            self.c.fill(
                ribbon(closed + (0.0, 0.018 * self.unit), weight * self.unit),
                self.skin_shade,
                0.5,
                0.018 * self.unit,
                self.face_clip,
                multiply=True,
            )
            self.c.fill(ribbon(closed, weight * self.unit), p.glasses_colour)
            top = placed[(rim[:, 1] < cy - 0.1)]
            order = np.argsort(top[:, 0])
            self.c.stroke(
                top[order], weight * 0.3 * self.unit, mix(p.glasses_colour, WHITE, 0.5), 0.5, 0.004 * self.unit
            )
            arm = np.array([(sign * 0.77, -0.06), (sign * 0.90, -0.08), (sign * 1.04, -0.08)])
            self.line_on(arm, weight, p.glasses_colour, taper=0.0)
        bridge = spline([(-0.125, -0.01), (0.0, -0.055), (0.125, -0.01)])
        self.c.stroke(self.pose.head(bridge, 0.14), weight * self.unit, p.glasses_colour, taper=0.0)
