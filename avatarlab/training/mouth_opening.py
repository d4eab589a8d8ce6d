"""How far a mouth is open, from pixels alone: the measure behind every number about lips that follow speech."""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

_PIXELS_PER_EYE_DISTANCE = 96
_HALF_WIDTH = 0.58  # of the area searched, in eye distances: wider than any mouth
_ABOVE, _DEPTH = 0.08, 1.2  # the same, from the nose base
_REST_WIDTH = 0.84  # width of a mouth at rest, in eye distances: the middle of the drawn people
_SEAM = 0.02  # height in eye distances of the dark line between closed lips


def _upright(
    image: UInt8[np.ndarray, "h w 3"], landmarks: Float[np.ndarray, "68 2"]
) -> tuple[Float[np.ndarray, "a b 3"], int, int]:
    """Nose base to chin at a fixed scale, upright; and the rows of the upper edge of the lips and of the lip line."""
    points = np.asarray(landmarks, dtype=np.float64)
    across = points[42:48].mean(axis=0) - points[36:42].mean(axis=0)
    distance = max(float(np.hypot(*across)), 1e-6)
    u = across / distance
    v = np.array([-u[1], u[0]])
    step = distance / _PIXELS_PER_EYE_DISTANCE
    middle = points[33] + u * np.dot(points[[48, 54]].mean(axis=0) - points[33], u)
    origin = middle - (v * _ABOVE + u * _HALF_WIDTH) * distance
    matrix = np.array([[u[0] * step, v[0] * step, origin[0]], [u[1] * step, v[1] * step, origin[1]]])
    size = (round(2 * _HALF_WIDTH * _PIXELS_PER_EYE_DISTANCE), round((_ABOVE + _DEPTH) * _PIXELS_PER_EYE_DISTANCE))
    area = cv2.warpAffine(
        image, matrix, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
    )
    lip, seam = (round(float(np.dot(p - origin, v)) / step) for p in (points[51], points[[62, 66]].mean(axis=0)))
    return cv2.GaussianBlur(area, (0, 0), 0.8).astype(np.float32) / 255, lip, seam


def _beside_the_mouth(inside: UInt8[np.ndarray, "a b"]) -> UInt8[np.ndarray, "a b"]:
    """Where a beard or very fair skin has the colours of what lies between the lips: what hangs together with the rim
    of the area. Lips are between; where they are thinner than 5 pixels, blur may bridge them.
    """
    kernel = np.ones((5, 5), np.uint8)
    _, labels = cv2.connectedComponents(cv2.erode(inside, kernel, borderValue=1))
    rim = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    outside = np.isin(labels, np.unique(rim[rim > 0])).astype(np.uint8)
    return cv2.dilate(outside, np.ones((7, 7), np.uint8))


def measure_mouth_opening(image: UInt8[np.ndarray, "h w 3"], landmarks: Float[np.ndarray, "68 2"]) -> float:
    """Gap between the lips over the width of a mouth at rest; 0 where the lips meet.

    What lies between the lips is either dark red (the cavity) or pale (teeth); lips are neither. The tongue may look
    like a lip, so the lower lip's edge is followed at the sides, where no tongue reaches, and carried on to the middle.
    Eyes, nose base and upper lip place the search: landmarks of the same head with its mouth closed serve as well as
    those of the mouth measured.
    """
    whole, lip, seam = _upright(image, landmarks)
    # The cheeks beside the nose tell how bright skin is; the beard does not reach them.
    edge = round((_HALF_WIDTH - 0.42 + 1 / 7) * _PIXELS_PER_EYE_DISTANCE)
    beside = whole[: 2 * _PIXELS_PER_EYE_DISTANCE // 5]
    skin = np.mean([np.median(side, axis=(0, 1)) for side in (beside[:, :edge], beside[:, -edge:])], axis=0)
    skin_red = float(skin[0])
    skin_saturation = 1 - float(skin.min()) / max(float(skin.max()), 1e-3)
    raised = round(0.08 * _PIXELS_PER_EYE_DISTANCE)  # an open mouth lifts its upper lip
    area = whole[lip - raised :]
    seam -= lip - raised
    red, green, blue = area[..., 0], area[..., 1], area[..., 2]
    rows, columns = red.shape
    centre, reach = columns // 2, _PIXELS_PER_EYE_DISTANCE // 10
    saturation = 1 - area.min(axis=2) / np.maximum(area.max(axis=2), 1e-3)
    # Beside dark skin, teeth are less white too.
    greyest = min(max(0.6 * skin_saturation, 0.26), 0.33)
    pale = (saturation < greyest) & (red > min(max(skin_red, 0.30), 0.42))
    redness = (red - 0.5 * (green + blue)) / np.maximum(red, 1e-3)
    dark = (red < max(0.5 * skin_red, 0.27)) & (redness > 0.42)
    inside = (pale | dark).astype(np.uint8)
    inside[_beside_the_mouth(inside) > 0] = 0
    inside = cv2.morphologyEx(inside, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    _, labels = cv2.connectedComponents(inside)
    seeds = labels[raised + 4 : seam + 5, centre - reach : centre + reach]
    found = seeds[seeds > 0]
    if found.size == 0:
        return 0.0
    component = (labels == np.bincount(found).argmax()).astype(np.uint8)
    filled = np.flatnonzero(component.any(axis=0))
    left, right = int(filled[0]), int(filled[-1])
    half = 0.5 * (right - left + 1)
    if half < 3:
        return 0.0
    across = (np.arange(left, right + 1) - 0.5 * (left + right)) / half
    top = component[:, left : right + 1].argmax(axis=0)
    bottom = rows - component[::-1, left : right + 1].argmax(axis=0)
    middle = np.abs(across) < 0.3
    ends = np.abs(across) >= min(0.88, np.abs(across).max())
    corner = float(np.mean(0.5 * (top + bottom)[ends]))
    # The lower lip's edge is a bow between the corners. The tongue hides it in the middle, hardly at the sides.
    used = np.abs(across) < 0.78
    bow = (1 - np.abs(across[used]) ** 2.2) ** 0.75
    floor = corner + float(np.percentile((bottom[used] - corner) / bow, 90))
    height = (floor - float(np.median(top[middle]))) / _PIXELS_PER_EYE_DISTANCE
    return max(height - _SEAM, 0.0) / _REST_WIDTH
