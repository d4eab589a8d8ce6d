"""A picture of what was understood of a picture: face boxes, mouth window and mask, landmarks."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from avatarlab.lips.face import FaceBox
from avatarlab.lips.mask import mouth_alpha, mouth_window

LARGEST_PREVIEW_SIDE = 1280
SMALLEST_PREVIEW_SIDE = 640
_BOX, _OTHER_BOX, _WINDOW, _MASK, _POINT = (255, 220, 0), (160, 160, 160), (0, 170, 255), (255, 0, 160), (0, 255, 0)
_LINES = (range(17), range(17, 22), range(22, 27), range(27, 31), range(31, 36))
_RINGS = (range(36, 42), range(42, 48), range(48, 60), range(60, 68))


def draw_preview(
    image: UInt8[np.ndarray, "h w 3"],
    boxes: Sequence[FaceBox] = (),
    chosen: FaceBox | None = None,
    landmarks: Float32[np.ndarray, "68 2"] | None = None,
) -> UInt8[np.ndarray, "rows columns 3"]:
    """The picture, scaled to where details can be seen, with what was found in it.

    The boxes carry the numbers that `--face` takes, the largest face is 1; yellow is the one taken, others are grey. The
    mouth window is a blue square, what will be drawn is tinted by the mask's own alpha, landmarks are green. Without
    landmarks, rulers count pixels of the picture, so that a person can give some."""
    scale = min(LARGEST_PREVIEW_SIDE / max(image.shape[:2]), max(1.0, SMALLEST_PREVIEW_SIDE / max(image.shape[:2])))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    drawn = cv2.resize(image, None, fx=scale, fy=scale, interpolation=how)
    thick = max(1, round(max(drawn.shape[:2]) / 640))
    if landmarks is not None:
        _draw_mask(drawn, landmarks * scale)
    for number, box in enumerate(boxes, 1):
        colour = _BOX if box == chosen else _OTHER_BOX
        left, top = round(box.x * scale), round(box.y * scale)
        cv2.rectangle(
            drawn, (left, top), (round((box.x + box.width) * scale), round((box.y + box.height) * scale)), colour, thick
        )
        cv2.putText(
            drawn, str(number), (left + 4, top + 22 * thick), cv2.FONT_HERSHEY_SIMPLEX, 0.7 * thick, colour, thick
        )
    if landmarks is not None:
        _draw_points(drawn, landmarks * scale, thick)
    else:
        _draw_rulers(drawn, scale)
    return drawn


def _draw_mask(drawn: UInt8[np.ndarray, "h w 3"], landmarks: Float32[np.ndarray, "68 2"]) -> None:
    window = mouth_window(landmarks)
    left, top = (value - window.side / 2 for value in window.center)
    rows, columns = np.mgrid[0 : drawn.shape[0], 0 : drawn.shape[1]]
    across, along = (columns + 0.5 - left) / window.side - 0.5, (rows + 0.5 - top) / window.side - 0.5
    alpha = mouth_alpha(across, along)[1][..., None]
    drawn[:] = np.rint(drawn + 0.35 * alpha * (np.array(_MASK) - drawn)).astype(np.uint8)
    corner, opposite = (round(left), round(top)), (round(left + window.side), round(top + window.side))
    cv2.rectangle(drawn, corner, opposite, _WINDOW, 1)


def _draw_points(drawn: UInt8[np.ndarray, "h w 3"], landmarks: Float32[np.ndarray, "68 2"], thick: int) -> None:
    sixteenths = np.rint(landmarks * 16).astype(np.int32)
    for closed, parts in ((False, _LINES), (True, _RINGS)):
        for part in parts:
            cv2.polylines(drawn, [sixteenths[list(part)]], closed, _POINT, 1, cv2.LINE_AA, 4)
    for x, y in sixteenths:
        cv2.circle(drawn, (int(x), int(y)), 24 * thick, _POINT, -1, cv2.LINE_AA, 4)


def _draw_rulers(drawn: UInt8[np.ndarray, "h w 3"], scale: float) -> None:
    step = next(step for step in (20, 50, 100, 200, 500, 1000) if step * scale >= 50 or step == 1000)
    height, width = drawn.shape[:2]
    for value in range(0, round(max(height, width) / scale), step):
        at = round(value * scale)
        for start, end, place in (
            ((at, 0), (at, height), (at + 2, 12)),
            ((0, at), (width, at), (2, at - 3)),
        ):
            cv2.line(drawn, start, end, _OTHER_BOX, 1)
            for colour, thick in (((0, 0, 0), 3), ((255, 255, 255), 1)):
                cv2.putText(drawn, str(value), place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour, thick, cv2.LINE_AA)
