"""Lip latents to finished pixels: cut, draw in batches, composite with a feathered mask.

Everything outside the mask is bit-equal to the frame. Two geometries exist, chosen by the renderer's own configuration:
the bundled one draws a window around the mouth, the published one a square around the face with the polygon mask.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int, Integer, UInt8
from torch import Tensor

from avatarlab.errors import AvatarError, InputError, SettingsError
from avatarlab.lips.diffdub import Renderer
from avatarlab.lips.drawing import SOLVERS, Drawer
from avatarlab.lips.face import visibility
from avatarlab.lips.life import Living
from avatarlab.lips.lip_images import PUBLISHED_PX, squares, to_tensor
from avatarlab.lips.mask import (
    PaintedFrame,
    cut_window,
    mouth_alpha,
    polygon_mask,
    smoothed,
    to_window,
    window_keep,
)

PUBLISHED_STEPS = 3  # of dpm++
CHUNK_BATCHES = 4  # asked for at a time
REMEMBERED_BYTES = 64 << 20  # of finished windows
PRECISIONS_TORCH = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PRECISIONS = ("auto", *PRECISIONS_TORCH)
SAME_PICTURE = 16 / 255  # where the drawing differs by less from the frame, the frame's own fine detail is kept


@dataclass(frozen=True)
class PaintSettings:
    """How mouths are drawn.

    `solver` and `steps` as of `drawing.Drawer`; "" and 0 are the renderer's own: direct in 1 for the bundled one, dpm++ in
    PUBLISHED_STEPS for the published. `smoothing_frames` is the standard deviation of the Gaussian that steadies the
    landmarks in time. `precision` is float32, bfloat16, or auto: bfloat16 on a GPU.
    """

    solver: str = ""
    steps: int = 0
    smoothing_frames: float = 1.0
    seed: int = 0
    batch_size: int = 16
    precision: str = "auto"

    def __post_init__(self) -> None:
        for name, value in (("steps", self.steps), ("smoothing_frames", self.smoothing_frames), ("seed", self.seed)):
            if value < 0:
                raise SettingsError(f"renderer setting {name} is {value!r}", "give a number that is not negative")
        if self.batch_size < 1:
            raise SettingsError(f"renderer setting batch_size is {self.batch_size!r}", "give 1 or more")
        if self.solver not in ("", *SOLVERS):
            raise SettingsError(f"renderer setting solver is {self.solver!r}", f"use one of {', '.join(SOLVERS)}")
        if self.precision not in PRECISIONS:
            raise SettingsError(f"renderer setting precision is {self.precision!r}", f"use {', '.join(PRECISIONS)}")

    @staticmethod
    def of(settings: Mapping[str, object]) -> "PaintSettings":
        """From a model set's renderer settings. Raises SettingsError for a name that is not one or a value out of range."""
        known = {field.name: type(getattr(PaintSettings(), field.name)) for field in fields(PaintSettings)}
        values: dict[str, Any] = {}
        for name, value in settings.items():
            if name not in known:
                raise SettingsError(f"unknown renderer setting {name!r}", f"the settings are {', '.join(known)}")
            is_text = known[name] is str
            if isinstance(value, bool) or not isinstance(value, str if is_text else (int, float)):
                raise SettingsError(
                    f"renderer setting {name} is {value!r}",
                    f"give a {'text' if is_text else 'number that is not negative'}",
                )
            values[name] = known[name](value)
        return PaintSettings(**values)

    def drawer(self, renderer: Renderer, noise: Float[Tensor, "1 3 n n"]) -> Drawer:
        """Raises SettingsError for a solver or a number of steps that this renderer cannot take."""
        windowed = renderer.config.window is not None
        solver = self.solver or ("direct" if windowed else "dpm++")
        steps = self.steps or (1 if windowed else 20 if solver == "ddim" else PUBLISHED_STEPS)
        chosen = self.precision
        if chosen == "auto":
            chosen = "bfloat16" if next(renderer.parameters()).device.type == "cuda" else "float32"
        return Drawer(renderer, noise, steps, solver, self.batch_size, PRECISIONS_TORCH[chosen])


@dataclass(frozen=True, eq=False)
class _Place:
    """Where in one pose the mouth is: the centre of the renderer's square, its landmarks, and the window's corner."""

    center: tuple[float, float]
    landmarks: Float[np.ndarray, "68 2"]
    corner: tuple[int, int]


Asked = tuple[int, int, bytes]  # pose, level of emphasis, latent


class Painter:
    """Draws mouths into the pictures of one sitter; made once, it serves every sentence.

    Landmarks are steadied along the idle loop, so a window depends on its pose, its level of emphasis and its latent and on
    nothing else: what is asked for again, such as the closed mouth of a pause, is not drawn again while it is remembered.
    All windows share one noise, drawn from the seed.

    The bundled renderer takes each picture as its own reference, which is right for an idle loop with a closed mouth. The
    published one gets a single reference, the pose nearest to the median of all.
    """

    def __init__(self, renderer: Renderer, settings: PaintSettings, sitter: Living) -> None:
        """Raises AvatarError where the sitter has no face in any pose."""
        self.renderer, self.settings, self.sitter = renderer, settings, sitter
        self._size = renderer.config.window[0] if renderer.config.window else PUBLISHED_PX
        self._found = np.array([sitter.face_found(index) for index in range(len(sitter))])
        if not self._found.any():
            raise AvatarError("no face was found in any frame", "use a picture of one person who looks at us")
        own = np.stack([sitter.landmarks(index, 0) for index in range(len(sitter))]).astype(np.float32)
        self._visible = visibility(own, self._found)
        self._moved_by_smoothing = smoothed(own, settings.smoothing_frames) - own
        _, self._side = squares(renderer, own + self._moved_by_smoothing)
        self._box = min(int(np.ceil(self._side)) + 2, *sitter.shape)
        noise = torch.randn((1, 3, self._size, self._size), generator=torch.Generator().manual_seed(settings.seed))
        self._drawer = settings.drawer(renderer, noise)
        self._window_mask = None if renderer.config.window is None else 1 - window_keep(self._size)
        self._reference: Float[Tensor, "1 3 n n"] | None = None
        if renderer.config.window is None:
            seen = np.flatnonzero(self._found)
            spread = np.square(own[seen] - np.median(own[seen], axis=0)).sum(axis=(1, 2))
            shown = int(seen[spread.argmin()])
            self._reference = to_tensor([self._square(shown, 0, self._place(shown, 0))], renderer)
        self._remembered: OrderedDict[Asked, PaintedFrame] = OrderedDict()
        self._room = max(1, REMEMBERED_BYTES // (3 * self._box**2))

    def paint(
        self, poses: Int[np.ndarray, "f"], emphasis: Integer[np.ndarray, "f"], latents: Float[np.ndarray, "n z"]
    ) -> Iterator[PaintedFrame]:
        """One finished window for each video frame, in order; memory does not grow with their number.

        Raises InputError where the lengths do not agree.
        """
        if not len(poses) == len(emphasis) == len(latents):
            raise InputError(
                f"{len(poses)} poses, {len(emphasis)} levels of emphasis and {len(latents)} latents",
                "give as many of each as there are frames",
            )
        at_once = self.settings.batch_size * max(1, min(CHUNK_BATCHES, self._room // self.settings.batch_size))
        for first in range(0, len(poses), at_once):
            chunk = range(first, min(first + at_once, len(poses)))
            asked = [(int(poses[k]), int(emphasis[k]), latents[k].tobytes()) for k in chunk]
            wanted = dict(zip(asked, chunk, strict=True))
            new = [(one, latents[k]) for one, k in wanted.items() if one not in self._remembered]
            for at in range(0, len(new), self.settings.batch_size):
                self._draw(new[at : at + self.settings.batch_size])
            for one in asked:
                self._remembered.move_to_end(one)
                yield self._remembered[one]
            while len(self._remembered) > self._room:
                self._remembered.popitem(last=False)

    def _draw(self, batch: Sequence[tuple[Asked, Float[np.ndarray, "z"]]]) -> None:
        faces = [(one, latent) for one, latent in batch if self._visible[one[0]] > 0]
        for (index, level, latent), _ in batch:
            if not self._visible[index] > 0:
                corner = self._place(index, level).corner
                self._remembered[index, level, latent] = PaintedFrame(self._patch(index, level, corner), corner, False)
        if not faces:
            return
        places = [self._place(index, level) for (index, level, _), _ in faces]
        starts = [
            self._square(index, level, place) for ((index, level, _), _), place in zip(faces, places, strict=True)
        ]
        masks = [self._mask(place) for place in places]
        start, keep = to_tensor(starts, self.renderer), 1 - torch.from_numpy(np.stack(masks)[:, None]).float()
        z = torch.from_numpy(np.stack([latent for _, latent in faces]).astype(np.float32))
        drawn = self._drawer.draw(start, start if self._reference is None else self._reference, keep, z)
        pictures = ((drawn.permute(0, 2, 3, 1).float().cpu().numpy() + 1) / 2).clip(0, 1)
        for (one, _), place, start_px, picture, mask in zip(faces, places, starts, pictures, masks, strict=True):
            offset = np.array(place.corner) + 0.5 - (np.array(place.center) - self._side / 2)
            patch = self._patch(one[0], one[1], place.corner)
            if self.renderer.config.window:
                alpha = _window_alpha(offset, self._box, self._side)
            else:
                alpha = _polygon_alpha(mask, offset, self._box, self._side)
            window = _composited(patch, start_px, picture, self._visible[one[0]] * alpha, offset, self._side)
            self._remembered[one] = PaintedFrame(window, place.corner)

    def _place(self, index: int, level: int) -> _Place:
        marks = self.sitter.landmarks(index, level) + self._moved_by_smoothing[index]
        center = squares(self.renderer, marks[None])[0][0]
        height, width = self.sitter.shape
        corner = np.clip(np.floor(center - self._side / 2) - 1, 0, [width - self._box, height - self._box]).astype(int)
        return _Place((float(center[0]), float(center[1])), marks, (int(corner[0]), int(corner[1])))

    def _square(self, index: int, level: int, place: _Place) -> UInt8[np.ndarray, "n n 3"]:
        """The part of the picture that the renderer sees, at the renderer's size."""
        return cut_window(self.sitter.picture(index, level), place.center, self._side, self._size)

    def _patch(self, index: int, level: int, corner: tuple[int, int]) -> UInt8[np.ndarray, "side side 3"]:
        x, y = corner
        return self.sitter.picture(index, level)[y : y + self._box, x : x + self._box].copy()

    def _mask(self, place: _Place) -> Float[np.ndarray, "n n"]:
        """1 where the renderer draws."""
        if self._window_mask is not None:
            return self._window_mask
        points = to_window(place.landmarks, place.center, self._side, self._size)
        return polygon_mask(points, 30, self._size).astype(np.float32)


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
