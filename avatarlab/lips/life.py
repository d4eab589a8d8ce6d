"""What keeps a portrait from being frozen: blinks, sway and breath for photographs, nods and raised brows for all.

A photograph becomes an idle clip by smooth warps of the picture, driven by its landmarks. The head moves as one rigid
piece (a similarity, so that whatever is painted on mouth and chin fits), and the movement fades out in neck and
background; shoulders rise with the breath; the skin of the upper lids is drawn down over the eyes. A clip moves by
itself. Stress in the voice (`lips.expression`) nods the head and raises the brows of both by the same warp.

Lengths are in distances between the eye centres, in axes that turn with the face: x towards the right of the picture,
y down, the origin between the eyes. (82 pixels are one such distance in the bundled presenters' pictures of 512.)
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import cv2
import numpy as np
from jaxtyping import Float, Float32, Float64, UInt8

from avatarlab import FPS
from avatarlab.errors import AvatarError

if TYPE_CHECKING:
    from avatarlab.avatars import AvatarFrames

VERSION = 1  # part of the digest of pictures: raise it when a picture changes
EMPHASIS_LEVELS = 6  # 0 is the idle face
PHOTOGRAPH_POSES = 100
CACHE_BYTES = 128 << 20  # warped pictures kept in memory
LEAST_EYE_DISTANCE_PX = 8.0  # smaller faces stay still

BLINK_SHAPE = (0.45, 1.0, 0.85, 0.45, 0.15)

# How far a setting of 1 moves what it moves
_SWAY_X, _SWAY_Y, _SWAY_ROLL, _SWAY_SCALE = 0.045, 0.016, 0.014, 0.007
_BREATH_SHOULDERS, _BREATH_HEAD = 0.022, 0.009
_NOD_DOWN, _NOD_SCALE, _BROW_RAISE = 0.042, 0.006, 0.034

_PIVOT_X, _PIVOT_Y = 0.0, 2.7  # in the neck
# The head: a rounded box that moves rigidly, and how many times larger the one is outside which nothing moves
_HEAD_X, _HEAD_Y, _HEAD_HALF_WIDTH, _HEAD_HALF_HEIGHT = 0.0, 0.25, 1.6, 2.35
_HEAD_FADES = 1.6
_BROW_THICKNESS, _BROW_FADE, _BROW_HALF_WIDTH, _BROW_SIDE_FADE = 0.04, 0.7, 0.85, 0.5
_LID_MARGIN_X, _LID_MARGIN_UP, _LID_MARGIN_DOWN, _LEAST_FOLD = 0.03, 0.025, 0.02, 0.08
_LASH_THICKNESS, _LASH_OPACITY, _LASH_SKIP, _LASH_PERCENTILE, _LID_POWER = 0.014, 0.65, 0.035, 8, 1.3
# Share of the brightness of the cheek: skin above an eye 0.4 to 0.7 on light and dark faces, the rim of spectacles 0.16
_COVERED, _COVER_PX = 0.28, 80
_CHEST_TOP, _CHEST_RAMP, _CHEST_HALF_WIDTH, _CHEST_FADE = 2.2, 1.2, 3.0, 1.6
_CELL = 1 / 14  # of the grid on which a warp is computed; between its points it is linear
_BAND_ROWS = 256  # full resolution maps exist for so many rows at a time

Points = Float64[np.ndarray, "*n 2"]
Numbers = Float64[np.ndarray, "*n"]
Picture = UInt8[np.ndarray, "h w 3"]
Grey = UInt8[np.ndarray, "h w"]


@dataclass(frozen=True)
class LifeSettings:
    """The section `[life]` of avatar.toml. The numbers are shares of the usual movement, from 0, none, to 2.

    Blinks, sway and breath are those of photographs; a clip has its own. `expression` is for both."""

    blinks: bool = True
    sway: float = 1.0
    breath: float = 1.0
    expression: float = 1.0

    @staticmethod
    def of(told: Mapping[str, object]) -> "LifeSettings":
        """Raises `AvatarError` for a name that is not one and for a value out of range."""
        known = [field.name for field in fields(LifeSettings)]
        for name, value in told.items():
            if name not in known:
                raise AvatarError(f"[life] has an unknown key {name!r}", f"use {', '.join(known)}")
            if name == "blinks":
                if not isinstance(value, bool):
                    raise AvatarError(f"[life] blinks is {value!r}", "write true or false")
            elif isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 2:
                raise AvatarError(f"[life] {name} is {value!r}", "give a number from 0 to 2; 0 is off")
        numbers = {name: float(value) for name, value in told.items() if isinstance(value, (int, float))}
        return LifeSettings(
            blinks=bool(told.get("blinks", True)),
            **{name: value for name, value in numbers.items() if name != "blinks"},
        )

    def digest_part(self) -> bytes:
        """What decides the pictures, this module's version included.

        The settings of photographs enter for every bundle: a clip may turn out to hold one frame alone."""
        told = " ".join(f"{field.name} {getattr(self, field.name)!r}" for field in fields(self))
        return f"life {VERSION} {told}".encode()


def blinks(frame_count: int, rng: np.random.Generator, mean_interval_seconds: float = 3.2) -> Float64[np.ndarray, "f"]:
    """Lid closure 0..1 of every frame. The first is open; blinks are at least 1.2 s apart."""
    closure = np.zeros(frame_count + len(BLINK_SHAPE))
    at = rng.uniform(0.6, 1.6)
    while at * FPS < frame_count:
        frame = int(at * FPS)
        closure[frame : frame + len(BLINK_SHAPE)] = BLINK_SHAPE
        at += 1.2 + rng.exponential(mean_interval_seconds - 1.2)
    return closure[:frame_count]


def wander(pose_count: int, rng: np.random.Generator) -> Float64[np.ndarray, "n"]:
    """A slow smooth wander within -1..1 that starts at 0 and stands still at both ends, as what is walked forwards and
    backwards should."""
    time = np.linspace(0, np.pi, pose_count)
    weights = rng.normal(0, 1, 4) / np.array([1.0, 1.0, 1.5, 2.5])
    total = sum(weight * (np.cos(k * time) - 1) for k, weight in enumerate(weights, 1))
    return np.asarray(total / max(np.abs(total).max(), 1e-9))


@dataclass(frozen=True)
class _Movement:
    """Where the head is moved to (shift, turn about the neck in radians, growth), how far the shoulders are lifted and
    the brows raised, and how far the lids are shut."""

    x: float = 0.0
    y: float = 0.0
    roll: float = 0.0
    growth: float = 0.0
    shoulders: float = 0.0
    brows: float = 0.0
    lids: float = 0.0

    @property
    def warps(self) -> bool:
        return any((self.x, self.y, self.roll, self.growth, self.shoulders, self.brows))


@dataclass(frozen=True, eq=False)
class _Face:
    """The axes of one face in its picture, and the heights of its brows and of its upper lids."""

    origin: Float64[np.ndarray, "2"]
    across: Float64[np.ndarray, "2"]  # unit vector towards the right of the picture
    unit: float  # pixels
    brow_y: float
    lid_y: float

    def into(self, pixels: Points) -> tuple[Numbers, Numbers]:
        """x and y of pixels in the face's axes."""
        x, y = np.moveaxis((pixels - self.origin) / self.unit, -1, 0)
        cosine, sine = self.across
        return x * cosine + y * sine, y * cosine - x * sine

    def turned(self, x: Numbers, y: Numbers) -> Points:
        """Steps along the face's axes as steps in pixels."""
        cosine, sine = self.across * self.unit
        return np.stack([x * cosine - y * sine, x * sine + y * cosine], -1)


def _face(landmarks: Float[np.ndarray, "68 2"]) -> _Face | None:
    """None where there is too little of a face to move."""
    points = np.asarray(landmarks, np.float64)
    right, left = points[36:42].mean(0), points[42:48].mean(0)
    unit = float(np.hypot(*(left - right)))
    if not unit >= LEAST_EYE_DISTANCE_PX:
        return None
    plain = _Face((right + left) / 2, (left - right) / unit, unit, 0.0, 0.0)
    heights = plain.into(points)[1]
    lid_y = float(heights[[37, 38, 43, 44]].mean())
    brow_y = min(float(heights[17:27].mean()), lid_y - 0.12)
    return _Face(plain.origin, plain.across, unit, brow_y, lid_y)


# --- the warp --------------------------------------------------------------------------------------------------------


def _smooth(share: Numbers) -> Numbers:
    """0 below 0, 1 above 1, and without an edge between."""
    share = np.clip(share, 0, 1)
    return share * share * (3 - 2 * share)


def _origins(face: _Face, move: _Movement, pixels: Points) -> Points:
    """For each pixel of the moved picture the place in the picture at rest that is seen there."""
    x, y = face.into(pixels)
    cosine, sine = np.cos(move.roll) / (1 + move.growth), np.sin(move.roll) / (1 + move.growth)
    from_pivot_x, from_pivot_y = x - (_PIVOT_X + move.x), y - (_PIVOT_Y + move.y)
    rest_x = _PIVOT_X + from_pivot_x * cosine + from_pivot_y * sine
    rest_y = _PIVOT_Y + from_pivot_y * cosine - from_pivot_x * sine
    beside, along = np.square((x - _HEAD_X) / _HEAD_HALF_WIDTH), np.square((y - _HEAD_Y) / _HEAD_HALF_HEIGHT)
    distance = np.sqrt(np.sqrt(beside * beside + along * along))
    head = 1 - _smooth((distance - 1) / (_HEAD_FADES - 1))
    step_x, step_y = head * (rest_x - x), head * (rest_y - y)
    if move.brows:
        across, height = np.abs(x + step_x), y + step_y
        rise = np.where(
            height > face.brow_y,
            _smooth((face.lid_y - height) / (face.lid_y - face.brow_y)),
            1 - _smooth((face.brow_y - _BROW_THICKNESS - height) / _BROW_FADE),
        )
        step_y += move.brows * rise * (1 - _smooth((across - _BROW_HALF_WIDTH) / _BROW_SIDE_FADE))
    seen = np.asarray(pixels + face.turned(step_x, step_y))
    if move.shoulders:
        # shoulders hang straight down, however the head is held
        sideways, down = np.moveaxis((pixels - face.origin) / face.unit, -1, 0)
        chest = _smooth((down - _CHEST_TOP) / _CHEST_RAMP)
        chest *= 1 - _smooth((np.abs(sideways) - _CHEST_HALF_WIDTH) / _CHEST_FADE)
        seen[..., 1] += (1 - head) * chest * (move.shoulders * face.unit)
    return seen


def _moved_points(face: _Face, move: _Movement, points: Points) -> Points:
    """Where points of the picture at rest are seen in the moved one."""
    seen = points.copy()
    for _ in range(8):  # each pass leaves less than a quarter of the error
        seen += points - _origins(face, move, seen)
    return seen


@dataclass(frozen=True)
class _Box:
    """Rows and columns of a picture."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        return np.s_[self.top : self.bottom, self.left : self.right]


def _reach(face: _Face, height: int, width: int, breathes: bool) -> _Box:
    """The part of the picture outside which nothing moves."""
    half_width, half_height = _HEAD_FADES * _HEAD_HALF_WIDTH, _HEAD_FADES * _HEAD_HALF_HEIGHT
    head = _around(face, _HEAD_X, _HEAD_Y, half_width, half_height, (height, width))
    if not breathes:
        return head
    side = (_CHEST_HALF_WIDTH + _CHEST_FADE) * face.unit
    left, right = max(0, int(face.origin[0] - side)), min(width, int(face.origin[0] + side) + 1)
    return _Box(head.top, min(head.left, left), height, max(head.right, right))


def _warped(
    image: UInt8[np.ndarray, "h w *c"],
    source: UInt8[np.ndarray, "rows columns *c"],
    box: _Box,
    face: _Face,
    move: _Movement,
    kernel: int,
) -> UInt8[np.ndarray, "h w *c"]:
    """`image` with the part in `box` moved; `source` is that part at rest."""
    cell = max(1, round(_CELL * face.unit))
    rows, columns = box.bottom - box.top, box.right - box.left
    # one point more than needed on every side, so that nothing is extrapolated
    grid_y = (np.arange(-1, -(-rows // cell) + 1) + 0.5) * cell - 0.5
    grid_x = (np.arange(-1, -(-columns // cell) + 1) + 0.5) * cell - 0.5
    corner = np.array([box.left, box.top])
    coarse = _origins(face, move, np.stack(np.meshgrid(grid_x, grid_y), -1) + corner) - corner
    moved = image.copy()
    out = moved[box.slices]
    band = max(1, _BAND_ROWS // cell)
    for first in range(0, len(grid_y) - 2, band):
        part = coarse[first : first + band + 2].astype(np.float32)
        fine = cv2.resize(part, None, fx=cell, fy=cell, interpolation=cv2.INTER_LINEAR)
        top, bottom = first * cell, min((first + len(part) - 2) * cell, rows)
        where = fine[cell : cell + bottom - top, cell : cell + columns]
        out[top:bottom] = _sampled(source, where, kernel)
    return moved


def _sampled(
    image: UInt8[np.ndarray, "h w *c"], where: Float32[np.ndarray, "rows columns 2"], kernel: int
) -> UInt8[np.ndarray, "rows columns *c"]:
    x, y = cv2.convertMaps(where, None, cv2.CV_16SC2)  # type: ignore[call-overload]
    return cv2.remap(image, x, y, kernel, borderMode=cv2.BORDER_REFLECT_101)


# --- lids ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Eye:
    """One eye in the face's axes: its middle, its corners `half_width` to the left and right on a line of this slope,
    how far the lids arch above and below that line, and how much skin above can be drawn down."""

    x: float
    y: float
    half_width: float
    slope: float
    upper: float
    lower: float
    fold: float


def _eyes(face: _Face, landmarks: Float[np.ndarray, "68 2"]) -> list[_Eye]:
    places = np.stack(face.into(np.asarray(landmarks, np.float64)), -1)
    eyes = []
    for points in (places[36:42], places[42:48]):
        across = points[3] - points[0]
        x, y = (float(value) for value in 0.5 * (points[0] + points[3]))
        upper = 1.1 * (y - float(points[1:3, 1].mean())) + _LID_MARGIN_UP
        lower = 1.1 * (float(points[4:6, 1].mean()) - y) + _LID_MARGIN_DOWN
        fold = max(_LEAST_FOLD, 0.8 * (y - upper - face.brow_y))
        slope = float(across[1] / max(across[0], 1e-6))
        eyes.append(_Eye(x, y, 0.5 * float(across[0]) + _LID_MARGIN_X, slope, upper, lower, fold))
    return eyes


def _is_covered(picture: Picture, face: _Face, eye: _Eye) -> bool:
    """Whether something dark, the rim of spectacles, runs where the skin of the lid should be."""
    x = eye.x + np.linspace(-0.7, 0.7, 15) * eye.half_width
    above, below = eye.y - eye.upper - np.linspace(0.1, 0.75, 12) * eye.fold, eye.y + np.linspace(0.2, 0.45, 8)
    grey = picture if face.unit < _COVER_PX else cv2.blur(picture, (round(2 * face.unit / _COVER_PX),) * 2)
    lid, cheek = (
        _sampled(grey, (face.origin + face.turned(*np.meshgrid(x, y))).astype(np.float32), cv2.INTER_LINEAR).mean(-1)
        for y in (above, below)
    )
    return float(np.median(lid.min(0))) < _COVERED * float(np.median(cheek))


def _shut(picture: Picture, face: _Face, eye: _Eye, closure: float) -> tuple[_Box, UInt8[np.ndarray, "rows columns 3"]]:
    """One eye with its lid shut by a share of 0..1: where it is, and its pixels.

    The skin between brow and upper lid is stretched down to where the lid's edge now is, with a line of lashes."""
    box = _around(face, eye.x, eye.y, eye.half_width, eye.upper + eye.lower + eye.fold, picture.shape[:2])
    pixels = np.stack(np.meshgrid(np.arange(box.left, box.right), np.arange(box.top, box.bottom)), -1).astype(float)
    x, y = face.into(pixels)
    along, y = (x - eye.x) / eye.half_width, y - eye.y - eye.slope * (x - eye.x)
    arch = np.clip(1 - along**2, 0, 1)
    fall = (eye.lower + eye.upper) * arch * closure  # of the lid's edge
    end = fall - eye.upper * arch
    start = -eye.upper * arch - eye.fold * np.sqrt(arch)
    begun = min(1.0, closure / BLINK_SHAPE[0])
    # Lashes are left behind, or they would be drawn out to a dark lid.
    drawn_by = fall + _LASH_SKIP * arch * begun
    # The skin near the brow moves less than by its share; the power keeps two of its points from changing places.
    length = np.maximum(end - start, 1e-6)
    power = np.clip(0.9 * length / np.maximum(drawn_by, 1e-6), 1.0, _LID_POWER)
    share = np.clip((y - start) / length, 0, 1)
    origin = pixels - face.turned(np.zeros_like(fall), drawn_by * share**power)
    lid = _sampled(picture, origin.astype(np.float32), cv2.INTER_CUBIC).astype(np.float32)
    part = picture[box.slices].astype(np.float32)
    over = np.clip((end - y) * face.unit + 0.5, 0, 1) * (arch > 0)
    shown = part + over[..., None] * (lid - part)
    is_eye = (np.abs(y) < max(eye.upper, eye.lower)) & (arch > 0)
    grey = part.mean(-1)
    dark = part[is_eye & (grey <= np.percentile(grey[is_eye], _LASH_PERCENTILE))].mean(0)
    thick = max(_LASH_THICKNESS, 0.7 / face.unit)
    lash = np.exp(-0.5 * np.square((y - end) / thick)) * _smooth(arch / 0.5) * (_LASH_OPACITY * begun)
    shown += lash[..., None] * (dark - shown)
    return box, np.rint(shown.clip(0, 255)).astype(np.uint8)


def _around(face: _Face, x: float, y: float, half_width: float, half_height: float, shape: tuple[int, int]) -> _Box:
    """The pixels of a rectangle in the face's axes, and one or two more on each side, that lie in the picture."""
    corners_x, corners_y = np.array([-1.0, -1.0, 1.0, 1.0]), np.array([-1.0, 1.0, -1.0, 1.0])
    pixels = face.origin + face.turned(x + half_width * corners_x, y + half_height * corners_y)
    height, width = shape
    left, top = (np.floor(pixels.min(0)).astype(int) - 1).clip(0, [width, height])
    right, bottom = (np.ceil(pixels.max(0)).astype(int) + 2).clip(0, [width, height])
    return _Box(int(top), int(left), int(bottom), int(right))


# --- the living picture ----------------------------------------------------------------------------------------------


class Living:
    """What the presenter looks like at any moment: pose `index` of the idle loop at a level of emphasis.

    A clip's poses are its frames; a photograph has `PHOTOGRAPH_POSES`, drawn from the seed, of which the first is the
    photograph itself. Poses are walked forwards and backwards (`compose.idle_path`), so the last need not lead to the
    first. Pictures are made when they are asked for and the last kept, as many as `CACHE_BYTES` hold; they belong to
    this object and must not be written to. The same avatar, settings and seed give the same bytes.
    """

    def __init__(self, avatar: "AvatarFrames", settings: LifeSettings, seed: int) -> None:
        self._avatar, self._settings = avatar, settings
        count, height, width = avatar.frames.shape[:3]
        self.shape: tuple[int, int] = (height, width)
        self.has_matte: bool = avatar.matte is not None
        self._is_clip = count > 1
        self._faces = _faces(avatar)
        self._eyes = [] if self._is_clip else _eyes_that_blink(avatar, self._faces[0])
        self._poses = [_Movement()] * count if self._is_clip else _photograph_poses(settings, bool(self._eyes), seed)
        self._lids: dict[float, list[tuple[_Box, np.ndarray]]] = {}
        self._made: OrderedDict[tuple[int, int], tuple[np.ndarray, np.ndarray | None]] = OrderedDict()
        self._room = max(1, CACHE_BYTES // (height * width * (4 if self.has_matte else 3)))

    def __len__(self) -> int:
        return len(self._poses)

    def picture(self, index: int, emphasis: int) -> UInt8[np.ndarray, "h w 3"]:
        return self._at(index, emphasis)[0]

    def matte(self, index: int, emphasis: int) -> UInt8[np.ndarray, "h w"] | None:
        return self._at(index, emphasis)[1]

    def landmarks(self, index: int, emphasis: int) -> Float32[np.ndarray, "68 2"]:
        """Moved as the picture is. Lids do not count: a blink leaves the landmarks of the eyes where they are."""
        frame, move = self._frame(index), self._movement(index, emphasis)
        face, points = self._faces[frame], self._avatar.landmarks[frame]
        if face is None or not move.warps:
            return points
        return _moved_points(face, move, points.astype(np.float64)).astype(np.float32)

    def face_found(self, index: int) -> bool:
        return bool(self._avatar.face_found[self._frame(index)])

    def _frame(self, index: int) -> int:
        return index if self._is_clip else 0

    def _movement(self, index: int, emphasis: int) -> _Movement:
        pose, share = self._poses[index], self._settings.expression * emphasis / (EMPHASIS_LEVELS - 1)
        if not share:
            return pose
        return _Movement(
            x=pose.x,
            y=pose.y + _NOD_DOWN * share,
            roll=pose.roll,
            growth=pose.growth + _NOD_SCALE * share,
            shoulders=pose.shoulders,
            brows=_BROW_RAISE * share,
            lids=pose.lids,
        )

    def _at(self, index: int, emphasis: int) -> tuple[np.ndarray, np.ndarray | None]:
        frame, move = self._frame(index), self._movement(index, emphasis)
        face = self._faces[frame]
        picture = self._avatar.frames[frame]
        matte = None if self._avatar.matte is None else self._avatar.matte[frame]
        if face is None or not (move.warps or move.lids):
            return picture, matte
        key = (index, emphasis if self._settings.expression else 0)
        if key not in self._made:
            self._made[key] = self._make(picture, matte, face, frame, move)
            if len(self._made) > self._room:
                self._made.popitem(last=False)
        self._made.move_to_end(key)
        return self._made[key]

    def _make(
        self, picture: np.ndarray, matte: np.ndarray | None, face: _Face, frame: int, move: _Movement
    ) -> tuple[np.ndarray, np.ndarray | None]:
        if move.lids:
            picture = picture.copy()
            if move.lids not in self._lids:
                at_rest = self._avatar.frames[frame]
                self._lids[move.lids] = [_shut(at_rest, face, eye, move.lids) for eye in self._eyes]
            for box, pixels in self._lids[move.lids]:
                picture[box.slices] = pixels
        if not move.warps:
            return picture, matte
        box = _reach(face, *self.shape, breathes=bool(move.shoulders))
        moved = _warped(picture, picture[box.slices], box, face, move, cv2.INTER_CUBIC)
        if matte is not None:
            matte = _warped(matte, matte[box.slices], box, face, move, cv2.INTER_LINEAR)
        return moved, matte


def _faces(avatar: "AvatarFrames") -> list[_Face | None]:
    """The face of every frame, steadied in time; None where none was seen."""
    found = [_face(points) if seen else None for points, seen in zip(avatar.landmarks, avatar.face_found, strict=True)]
    steady: list[_Face | None] = []
    for index, face in enumerate(found):
        near = [other for other in found[max(0, index - 2) : index + 3] if other is not None]
        if face is None or len(near) < 2:
            steady.append(face)
            continue
        across = np.mean([other.across for other in near], 0)
        steady.append(
            _Face(
                origin=np.mean([other.origin for other in near], 0),
                across=across / max(float(np.hypot(*across)), 1e-6),
                unit=float(np.mean([other.unit for other in near])),
                brow_y=float(np.mean([other.brow_y for other in near])),
                lid_y=float(np.mean([other.lid_y for other in near])),
            )
        )
    return steady


def _eyes_that_blink(photograph: "AvatarFrames", face: _Face | None) -> list[_Eye]:
    """Both eyes, or none where the lid of one is behind spectacles or outside the picture."""
    if face is None:
        return []
    picture, eyes = photograph.frames[0], _eyes(face, photograph.landmarks[0])
    middles = np.stack([face.origin + face.turned(np.array(eye.x), np.array(eye.y)) for eye in eyes])
    inside = ((middles >= 0) & (middles < picture.shape[1::-1])).all()
    return eyes if inside and not any(_is_covered(picture, face, eye) for eye in eyes) else []


def _photograph_poses(settings: LifeSettings, can_blink: bool, seed: int) -> list[_Movement]:
    rng = np.random.default_rng(seed)
    count = PHOTOGRAPH_POSES
    x, y, roll, growth = (settings.sway * wander(count, rng) for _ in range(4))
    # one breath there, one back
    breath = settings.breath * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(count) / (count - 1)))
    lids = blinks(count, rng) if settings.blinks and can_blink else np.zeros(count)
    return [
        _Movement(
            x=float(_SWAY_X * x[k]),
            y=float(_SWAY_Y * y[k] - _BREATH_HEAD * breath[k]),
            roll=float(_SWAY_ROLL * roll[k]),
            growth=float(_SWAY_SCALE * growth[k]),
            shoulders=float(_BREATH_SHOULDERS * breath[k]),
            lids=float(lids[k]),
        )
        for k in range(count)
    ]
