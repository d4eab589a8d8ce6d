"""The geometry of drawn faces: what a person looks like, what the face does, and where every point of it then lies.

One face unit is half the width of the face; the origin lies between the eyes, x to the viewer's right, y down. Eyes sit
at y = 0, the nose base near 0.62, the mouth near 0.9, the chin near 1.4. Points of the head carry a depth, so that
turning the head moves nose, eyes and mouth by different amounts.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from avatarlab.training.canvas import Canvas, Colour, Points, mirrored, spline
from avatarlab.training.hair import HAIRCUTS

CLOTHES = ("sweater", "shirt", "jacket", "blouse", "turtleneck", "tee")
BEARDS = ("none", "stubble", "full", "goatee", "moustache")
GLASSES = ("none", "round", "square", "thin")

FACE_UNIT = 0.184  # of the picture's side
HEAD_CENTRE = (0.5, 0.452)
JAW_DROP = 0.34  # how far the chin sinks at jaw = 1, in face units
FULL_GAP = 0.46  # between the inner lips at jaw = 1, in face units


@dataclass(frozen=True)
class Presenter:
    """What a person looks like. Lengths are face units or factors around 1; colours are RGB in 0..1."""

    seed: int = 0  # strands, freckles and folds
    skin: Colour = (0.93, 0.76, 0.65)
    lips: Colour = (0.80, 0.45, 0.43)
    hair: str = "short"
    hair_colour: Colour = (0.30, 0.20, 0.14)
    eye_colour: Colour = (0.36, 0.25, 0.16)
    eye_size: float = 1.0
    eye_tilt: float = 0.0  # -1 falls outward, 1 rises outward
    eye_open: float = 1.0
    lashes: float = 0.3
    brow_weight: float = 1.0
    brow_arch: float = 0.5
    nose_width: float = 1.0
    nose_length: float = 1.0
    mouth_width: float = 0.36  # half of it
    lip_upper: float = 0.085
    lip_lower: float = 0.115
    jaw_width: float = 1.0
    chin_length: float = 1.0
    cheeks: float = 0.5  # blush
    age: float = 0.25  # 0 young .. 1 old
    freckles: float = 0.0
    glasses: str = "none"
    glasses_colour: Colour = (0.15, 0.13, 0.13)
    beard: str = "none"
    clothes: str = "sweater"
    clothes_colour: Colour = (0.25, 0.38, 0.52)
    shirt_colour: Colour = (0.96, 0.95, 0.93)
    shoulders: float = 1.0
    earrings: bool = False
    light: float = -0.5  # -1 from the viewer's left .. 1 from the right
    backdrop: Colour = (0.80, 0.83, 0.85)

    def __post_init__(self) -> None:
        for value, known in (
            (self.hair, tuple(HAIRCUTS)),
            (self.clothes, CLOTHES),
            (self.beard, BEARDS),
            (self.glasses, GLASSES),
        ):
            if value not in known:
                raise ValueError(f"{value!r} is not one of {', '.join(known)}")


@dataclass(frozen=True)
class FaceState:
    """What the face does in one frame. All zeros is a closed mouth, open eyes, looking at the viewer."""

    jaw: float = 0.0  # 0 closed .. 1 wide open
    width: float = 0.0  # -1 drawn together .. 1 spread
    round: float = 0.0  # 0 .. 1 rounded and pushed forward
    press: float = 0.0  # 0 .. 1 lips closed on each other, whatever the jaw does
    tuck: float = 0.0  # 0 .. 1 lower lip under the upper teeth
    tongue: float = 0.0  # 0 down .. 1 tip at the upper teeth
    smile: float = 0.0
    blink: float = 0.0  # 0 open .. 1 shut
    gaze_x: float = 0.0
    gaze_y: float = 0.0
    brow: float = 0.0  # -1 lowered .. 1 raised
    yaw: float = 0.0  # radians, positive turns to the viewer's right
    pitch: float = 0.0  # radians, positive nods down
    roll: float = 0.0  # radians, clockwise as seen
    sway_x: float = 0.0  # face units
    sway_y: float = 0.0
    breath: float = 0.0  # 0 .. 1


def smoothstep(x: np.ndarray, low: float, high: float) -> np.ndarray:
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


DOME = (1.10, 1.62, 0.10, 0.85)  # half width, half height, centre y, depth
MOUTH_Y = 0.93
NECK_Y = 2.0


class Pose:
    """Places points of head and body in the picture for one state."""

    def __init__(self, presenter: Presenter, state: FaceState) -> None:
        self.presenter, self.state = presenter, state
        self.yaw, self.pitch = np.sin(state.yaw), np.sin(state.pitch)
        self.cos, self.sin = np.cos(state.roll), np.sin(state.roll)
        self.drop = JAW_DROP * state.jaw

    @staticmethod
    def depth(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        width, height, centre, depth = DOME
        return depth * np.maximum(1 - (x / width) ** 2 - ((y - centre) / height) ** 2, -0.35)

    def head(self, points: Points, lift: float | np.ndarray = 0.0) -> Points:
        """Face units to image units; `lift` is how far in front of the smooth face the points lie."""
        x, y = points[:, 0], points[:, 1]
        z = self.depth(x, y) + lift
        x = x + self.yaw * z
        y = y + (self.pitch * z - NECK_Y)
        placed = np.empty(points.shape)
        placed[:, 0] = FACE_UNIT * (x * self.cos - y * self.sin) + (HEAD_CENTRE[0] + FACE_UNIT * self.state.sway_x)
        down = NECK_Y + self.state.sway_y - 0.008 * self.state.breath
        placed[:, 1] = FACE_UNIT * (x * self.sin + y * self.cos) + (HEAD_CENTRE[1] + FACE_UNIT * down)
        return placed

    def body(self, points: Points) -> Points:
        """Shoulders follow the head a little and rise with the breath."""
        rise = 0.022 * self.state.breath * np.clip((points[:, 1] - 1.6), 0, 1)
        x = points[:, 0] + 0.35 * self.state.sway_x
        y = points[:, 1] + 0.35 * self.state.sway_y - rise
        return np.stack([HEAD_CENTRE[0] + FACE_UNIT * x, HEAD_CENTRE[1] + FACE_UNIT * y], axis=1)

    def drape(self, points: Points) -> Points:
        """Hair that hangs from the head and lies on the shoulders."""
        weight = smoothstep(points[:, 1], 0.5, 1.7)[:, None]
        return (1 - weight) * self.head(points) + weight * self.body(points)

    @staticmethod
    def share_of_drop(x: np.ndarray, y: np.ndarray, drop: float = 0.0) -> np.ndarray:
        """How much of the chin's way a point of the skin goes: none above the nose base and at the jaw's hinges."""
        return smoothstep(y, 0.50, 1.15 + drop) * (1 - smoothstep(np.abs(x), 0.42, 0.87))

    def sunk(self, points: Points) -> Points:
        """Face points moved by the jaw."""
        weight = self.share_of_drop(points[:, 0], points[:, 1])
        return np.stack(
            [points[:, 0] * (1 - 0.03 * self.state.jaw * weight), points[:, 1] + self.drop * weight], axis=1
        )

    def skin(self, points: Points, lift: float | np.ndarray = 0.0) -> Points:
        return self.head(self.sunk(points), lift)

    def face_coordinates(self, canvas: Canvas, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Face units of a `size` x `size` grid over the canvas: the inverse of `head`, to first order in the turn."""
        step = canvas.side / size
        across = (canvas.x + (np.arange(size) + 0.5) * step - HEAD_CENTRE[0]) / FACE_UNIT - self.state.sway_x
        down = (canvas.y + (np.arange(size) + 0.5) * step - HEAD_CENTRE[1]) / FACE_UNIT - self.state.sway_y
        x, y = np.meshgrid(across, down + 0.008 * self.state.breath - NECK_Y)
        x, y = x * self.cos + y * self.sin, -x * self.sin + y * self.cos + NECK_Y
        for _ in range(2):
            z = self.depth(x, y)
            x0, y0 = x - self.yaw * z, y - self.pitch * z
        return x0, y0


@dataclass(frozen=True)
class Mouth:
    """Curves of the lips, left to right, in face units (already moved by the jaw)."""

    outer_upper: Points
    outer_lower: Points
    inner_upper: Points
    inner_lower: Points
    half_width: float
    gap: float
    upper_teeth_y: float
    lower_teeth_y: float


MOUTH_SAMPLES = 33  # odd, so that the middle is a sample; thirds fall on samples 5, 11, 21, 27


def mouth_shape(presenter: Presenter, state: FaceState) -> Mouth:
    """Lips are carried by the jaw, spread or rounded by the cheeks, and meet when pressed."""
    s = np.linspace(-1, 1, MOUTH_SAMPLES)
    spread, rounding = state.width + 0.35 * state.smile, state.round
    free = (1 - state.press) * (1 - 0.82 * state.tuck)
    gap = FULL_GAP * state.jaw**0.9 * (1 + 0.15 * rounding) * free + 0.045 * state.tuck
    half = presenter.mouth_width * (1 + 0.20 * spread) * (1 - 0.47 * rounding) * (1 - 0.07 * state.jaw)
    carried = 0.30 * FULL_GAP * state.jaw  # the whole mouth sinks a little with the jaw
    closed_on_jaw = 0.35 * JAW_DROP * state.jaw * (1 - free)
    corner_y = (
        MOUTH_Y
        + 0.75 * carried * free
        + closed_on_jaw
        - 0.030 * max(spread, 0)
        - 0.075 * state.smile
        - 0.045 * (1 - 0.7 * rounding)
    )
    middle_y = MOUTH_Y + closed_on_jaw + 0.012 * state.smile
    profile = (1 - np.abs(s) ** (2.3 + 0.1 * rounding)) ** (0.92 - 0.40 * rounding - 0.28 * state.jaw * (1 - rounding))
    # The line between the closed lips: corners a little off the middle, a small bow under the cupid's arch.
    line = (
        middle_y
        + (corner_y - middle_y) * np.abs(s) ** 2.1
        + 0.012 * np.exp(-((s / 0.20) ** 2)) * (1 - 0.6 * state.press)
    )
    line = line - 0.004 * np.exp(-(((np.abs(s) - 0.45) / 0.22) ** 2))
    inner_upper = line - (0.17 + 0.10 * rounding) * gap * profile - 0.028 * state.tuck * profile
    inner_lower = inner_upper + gap * profile
    inner_lower[[0, -1]] = inner_upper[[0, -1]]
    thin = (1 - 0.30 * state.press) * (1 - 0.12 * spread) * (1 + 0.28 * rounding)
    upper = presenter.lip_upper * thin * (1 - 0.16 * state.jaw)
    lower = presenter.lip_lower * thin * (1 - 0.16 * state.jaw) * (1 - 0.45 * state.tuck)
    bow = (1 - np.abs(s) ** (1.7 + 0.4 * rounding)) ** (0.85 - 0.28 * rounding) * (
        1 - 0.24 * np.exp(-((s / 0.15) ** 2)) * (1 - 0.5 * rounding)
    )
    full = (1 - np.abs(s) ** (2.2 + 0.5 * rounding)) ** (0.75 - 0.25 * rounding)
    x = s * half
    return Mouth(
        outer_upper=np.stack([x, inner_upper - upper * bow], axis=1),
        outer_lower=np.stack([x, inner_lower + lower * full], axis=1),
        inner_upper=np.stack([x * 0.96, inner_upper], axis=1),
        inner_lower=np.stack([x * 0.96, inner_lower], axis=1),
        half_width=half,
        gap=float(gap),
        upper_teeth_y=MOUTH_Y + 0.046 - 0.03 * rounding + 0.02 * state.tuck,
        lower_teeth_y=MOUTH_Y + 0.058 + 0.92 * JAW_DROP * max(state.jaw - 0.06, 0.0),
    )


@lru_cache(maxsize=512)
def face_outline(presenter: Presenter) -> Points:
    """Closed outline of the face at rest, without ears."""
    w, c = presenter.jaw_width, presenter.chin_length
    return spline(
        mirrored(
            [
                (0.0, -1.38), (0.50, -1.31), (0.86, -0.98), (1.0, -0.45), (0.985, 0.08),
                (0.945 * (0.6 + 0.4 * w), 0.50),
                (0.80 * w, 0.50 + 0.46 * c), (0.52 * w, 0.50 + 0.77 * c), (0.23 * w, 0.50 + 0.925 * c),
                (0.0, 0.50 + 0.95 * c),
            ]
        ),
        closed=True,
    )  # fmt: skip


@lru_cache(maxsize=512)
def _jaw_line(presenter: Presenter) -> Points:
    """The 17 jaw landmarks at rest, from the viewer's left ear over the chin."""
    outline = face_outline(presenter)
    lower = outline[outline[:, 1] > -0.02]
    lower = lower[np.argsort(np.arctan2(lower[:, 1] + 0.1, -lower[:, 0]))]
    lower = (
        np.concatenate([[[-0.99, -0.02]], lower, [[0.99, -0.02]]])
        if lower[0, 0] < 0
        else np.concatenate([[[0.99, -0.02]], lower, [[-0.99, -0.02]]])[::-1]
    )
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(lower, axis=0), axis=1))])
    even = np.linspace(0, along[-1], 17)
    return np.stack([np.interp(even, along, lower[:, 0]), np.interp(even, along, lower[:, 1])], axis=1)


@dataclass(frozen=True)
class Eye:
    """Lid curves from the outer to the inner corner for the viewer's right eye (x > 0), before mirroring."""

    upper: Points
    lower: Points
    centre: tuple[float, float]


EYE_X = 0.43


def eye_shape(presenter: Presenter, state: FaceState) -> Eye:
    size = 0.252 * presenter.eye_size
    tilt = 0.035 * presenter.eye_tilt
    s = np.linspace(-1, 1, 17)  # -1 inner corner
    opened = 1 - state.blink
    arch = (1 - np.abs(s + 0.12 * (1 - s * s)) ** 2.2) ** 0.8
    arch_low = (1 - np.abs(s) ** 2.4) ** 0.9
    base = -tilt * s
    squeeze = 0.25 * max(state.smile, 0.0)
    top, low = 0.132 * presenter.eye_open * presenter.eye_size, 0.078 * presenter.eye_size * (1 - squeeze)
    upper_y = base - top * arch * opened + low * 0.75 * arch_low * state.blink - 0.012 * state.brow * opened
    lower_y = base + low * arch_low
    x = EYE_X + size * s
    upper_y = np.minimum(upper_y, lower_y)
    return Eye(np.stack([x, upper_y], axis=1), np.stack([x, lower_y], axis=1), (EYE_X, 0.0))


def brow_line(presenter: Presenter, state: FaceState) -> Points:
    """Centre line of the viewer's right brow, inner to outer."""
    lift = -0.07 * state.brow
    arch = 0.035 + 0.045 * presenter.brow_arch
    return spline(
        [
            (0.165, -0.295 + lift * 0.7),
            (0.36, -0.295 - arch * 0.75 + lift),
            (0.56, -0.295 - arch + lift),
            (0.74, -0.25 + lift),
        ]
    )


def nose_base(presenter: Presenter) -> float:
    return 0.30 + 0.31 * presenter.nose_length


MIRROR = np.array([-1.0, 1.0])


def landmarks(presenter: Presenter, state: FaceState) -> Float[np.ndarray, "68 2"]:
    """The 68 iBUG points in image units (multiply by the side in pixels and subtract 0.5 for pixel coordinates)."""
    pose = Pose(presenter, state)
    mouth = mouth_shape(presenter, state)
    eye, brow = eye_shape(presenter, state), brow_line(presenter, state)
    base = nose_base(presenter)
    wing = 0.165 * presenter.nose_width
    brow_right = brow[np.linspace(0, len(brow) - 1, 5).round().astype(int)]
    bridge = np.array([(0.0, -0.04), (0.0, 0.13), (0.0, base - 0.27), (0.0, base - 0.12)])
    nostrils = np.array(
        [
            (-wing, base - 0.03),
            (-wing / 2, base + 0.015),
            (0.0, base + 0.03),
            (wing / 2, base + 0.015),
            (wing, base - 0.03),
        ]
    )
    right_eye = np.stack([eye.upper[0], eye.upper[5], eye.upper[11], eye.upper[16], eye.lower[11], eye.lower[5]])
    left_eye = right_eye[[3, 2, 1, 0, 5, 4]] * MIRROR
    n = MOUTH_SAMPLES - 1
    at = [0, round(n / 6), round(n * 0.36), n // 2, n - round(n * 0.36), n - round(n / 6), n]
    outer = np.concatenate([mouth.outer_upper[at], mouth.outer_lower[at[-2:0:-1]]])
    within = [round(n * 0.06), round(n * 0.3), n // 2, n - round(n * 0.3), n - round(n * 0.06)]
    inner = np.concatenate([mouth.inner_upper[within], mouth.inner_lower[within[-2:0:-1]]])
    parts = [
        pose.skin(_jaw_line(presenter)),
        pose.head(brow_right[::-1] * MIRROR),
        pose.head(brow_right),
        pose.head(bridge, np.array([0.05, 0.10, 0.17, 0.22])),
        pose.head(nostrils, np.array([0.06, 0.12, 0.15, 0.12, 0.06])),
        pose.head(left_eye),
        pose.head(right_eye),
        pose.head(outer, 0.05),
        pose.head(inner, 0.05),
    ]
    return np.concatenate(parts).astype(np.float32)


def mouth_opening(presenter: Presenter, state: FaceState) -> float:
    """Gap between the inner lips at the middle over the width of the mouth at rest."""
    return mouth_shape(presenter, state).gap / (2 * presenter.mouth_width)
