"""Face box and 68 landmarks (iBUG order) of frontal faces, without learned weights beyond OpenCV's bundled cascades.

For bundles that bring no `landmarks.npy`. A cascade finds the face (Viola and Jones, CVPR 2001) and the eyes; the line
between the lips is the darkest and reddest row where a mouth can be; a mean face is laid through eyes and mouth. That
is enough to place the mouth window on a frontal photograph. In a clip the first face found is carried along by tracking
corners of the upper face (Lucas-Kanade, always against that first frame, so nothing drifts).
"""

import functools
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

Picture = UInt8[np.ndarray, "h w 3"]
Crop = UInt8[np.ndarray, "crop crop 3"]
Grey = UInt8[np.ndarray, "h w"]
Landmarks = Float32[np.ndarray, "68 2"]

VERSION = 1  # part of the digest of pictures without landmarks: raise it when landmarks change

_SEARCH_SIDE = 480  # faces are looked for in a picture scaled down to this
_EYE_DISTANCE = 80  # in the upright crop where eyes are refined and the mouth is sought
_CROP = 4 * _EYE_DISTANCE
_EYE_LINE = 1.2 * _EYE_DISTANCE  # row of the eyes in that crop; columns are centred

# The mean face in eye distances: x from the middle of the face, y down from the line through the eye centres.
_JAW_ANGLES = np.linspace(0, np.pi, 17)
_JAW = np.stack([-1.16 * np.cos(_JAW_ANGLES), -0.02 + 1.94 * np.sin(_JAW_ANGLES) ** 0.9], 1)
_RIGHT_BROW = np.array([[-0.93, -0.2], [-0.79, -0.34], [-0.59, -0.38], [-0.38, -0.35], [-0.18, -0.27]])
_NOSE = np.array(
    [[0, -0.03], [0, 0.17], [0, 0.36], [0, 0.56], [-0.23, 0.7], [-0.12, 0.74], [0, 0.78], [0.12, 0.74], [0.23, 0.7]]
)
_RIGHT_EYE = np.array([[-0.7, 0.01], [-0.57, -0.06], [-0.42, -0.06], [-0.3, 0.03], [-0.42, 0.06], [-0.58, 0.06]])
# x in halves of the mouth's width, y in eye distances from the line between the lips
_MOUTH = np.array(
    [[-1, 0.0], [-0.62, -0.09], [-0.24, -0.13], [0, -0.1], [0.24, -0.13], [0.62, -0.09], [1, 0.0]]
    + [[0.62, 0.15], [0.28, 0.21], [0, 0.22], [-0.28, 0.21], [-0.62, 0.15]]
    + [[-0.88, 0.0], [-0.28, -0.01], [0, 0.0], [0.28, -0.01], [0.88, 0.0], [0.28, 0.02], [0, 0.03], [-0.28, 0.02]]
)
_MOUTH_DEPTH = 1.1  # of the line between the lips below the eyes
_MOUTH_WIDTH = 0.86


@dataclass(frozen=True)
class FaceBox:
    """Left and top edge, width and height, in pixels."""

    x: int
    y: int
    width: int
    height: int


def find_face(image: Picture) -> FaceBox | None:
    """The largest frontal face, from the brows to the chin, or None."""
    scale = min(1.0, _SEARCH_SIDE / max(image.shape[:2]))
    grey = _search_grey(image, scale)
    smallest = max(24, round(0.12 * min(grey.shape)))
    for name in ("haarcascade_frontalface_alt2.xml", "haarcascade_frontalface_default.xml"):
        found = _cascade(name).detectMultiScale(grey, 1.08, 5, minSize=(smallest, smallest))
        if len(found):
            x, y, width, height = (round(float(side) / scale) for side in max(found, key=lambda box: box[2]))
            return FaceBox(x, y, width, height)
    return None


def find_landmarks(image: Picture) -> Landmarks | None:
    """68 points (x, y) in pixels of the largest frontal face, or None where there is none."""
    box = find_face(image)
    if box is None:
        return None
    right, left = _eyes(image, box)
    for _ in range(2):  # the eyes are refined in the crop that they themselves define
        crop, to_crop = _upright(image, right, left)
        seen = [_pupil(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), side) for side in (-1, 1)]
        right, left = cv2.transform(np.array([seen]), cv2.invertAffineTransform(to_crop))[0]
    crop, to_crop = _upright(image, right, left)
    depth, offset, width = _mouth(crop)
    points = np.concatenate([_mean_face(depth, offset, width)]) * _EYE_DISTANCE + [_CROP / 2, _EYE_LINE]
    return cv2.transform(points[None], cv2.invertAffineTransform(to_crop))[0].astype(np.float32)


def track_landmarks(
    frames: UInt8[np.ndarray, "n h w 3"],
) -> tuple[Float32[np.ndarray, "n 68 2"], Bool[np.ndarray, "n"]]:
    """Landmarks of every frame of a clip of one person, and in which frames the face was seen.

    Where it was not, the nearest seen frame's landmarks stand; without any face all are zero."""
    count = len(frames)
    found = np.zeros(count, bool)
    points = np.zeros((count, 68, 2), np.float32)
    anchor, shape = next(
        ((index, shape) for index in range(count) if (shape := find_landmarks(frames[index])) is not None), (0, None)
    )
    if shape is None:
        return points, found
    points[anchor], found[anchor] = shape, True
    first = cv2.cvtColor(frames[anchor], cv2.COLOR_RGB2GRAY)
    corners = _upper_face_corners(first, shape)
    for indices in (range(anchor + 1, count), range(anchor - 1, -1, -1)):
        guess = np.eye(2, 3)
        for index in indices:
            moved = _movement(first, cv2.cvtColor(frames[index], cv2.COLOR_RGB2GRAY), corners, guess)
            if moved is not None:
                guess, found[index] = moved, True
                points[index] = cv2.transform(shape[None], moved)[0]
    seen = np.flatnonzero(found)
    nearest = seen[np.abs(np.arange(count)[:, None] - seen).argmin(1)]
    return points[nearest], found


def sharpness(image: Picture, landmarks: Landmarks) -> float:
    """Variance of the Laplacian of the upright face at 80 pixels between the eyes (Pech-Pacheco et al., ICPR 2000)."""
    crop, _ = _upright(image, landmarks[36:42].mean(0), landmarks[42:48].mean(0))
    return float(cv2.Laplacian(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())


def yaw_degrees(landmarks: Landmarks) -> float:
    """About how far the head is turned: positive to the right of the picture.

    A head as deep as it is half wide moves its nose tip by sin(yaw) times half its width between the edges of the jaw;
    near enough to tell a portrait from a profile."""
    across = landmarks[16] - landmarks[0]
    width = float(np.hypot(*across))
    if width < 1:
        return 0.0
    along = float((landmarks[30] - landmarks[0]) @ across) / width**2  # 0.5 is frontal
    return float(np.degrees(np.arcsin(np.clip(2 * along - 1, -1, 1))))


@functools.cache
def _cascade(name: str) -> cv2.CascadeClassifier:
    return cv2.CascadeClassifier(str(Path(cv2.__file__).parent / "data" / name))


def _search_grey(image: Picture, scale: float) -> UInt8[np.ndarray, "rows columns"]:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if scale < 1:
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return cv2.equalizeHist(grey)


def _eyes(image: Picture, box: FaceBox) -> tuple[Float64[np.ndarray, "2"], Float64[np.ndarray, "2"]]:
    """Eye centres, the one on the left of the picture (the person's right eye) first."""
    size = 240
    face = image[max(0, box.y) : box.y + box.height, max(0, box.x) : box.x + box.width]
    scale = np.array([face.shape[1], face.shape[0]]) / size
    grey = cv2.equalizeHist(cv2.cvtColor(cv2.resize(face, (size, size)), cv2.COLOR_RGB2GRAY))[: round(0.62 * size)]
    usual = np.array([[0.3, 0.38], [0.7, 0.38]]) * size
    candidates: list[list[np.ndarray]] = [[], []]
    for name in ("haarcascade_eye_tree_eyeglasses.xml", "haarcascade_eye.xml"):
        for x, y, width, height in _cascade(name).detectMultiScale(grey, 1.05, 4, minSize=(30, 30), maxSize=(90, 90)):
            center = np.array([x + width / 2, y + height / 2])
            candidates[int(center[0] > size / 2)].append(center)

    def strangeness(pair: tuple[np.ndarray, np.ndarray]) -> float:
        moved = np.stack(pair) - usual
        return float(np.square(moved).sum() + 2 * np.square(moved[0] - moved[1]).sum())

    pairs = list(product(candidates[0] or [usual[0]], candidates[1] or [usual[1]]))
    best = min(pairs, key=strangeness)
    if strangeness(best) > 2 * (0.12 * size) ** 2:
        best = (usual[0], usual[1])
    right, left = (center * scale + [max(0, box.x), max(0, box.y)] for center in best)
    return right, left


def _upright(image: Picture, right: np.ndarray, left: np.ndarray) -> tuple[Crop, Float64[np.ndarray, "2 3"]]:
    """The face turned and scaled so that the eyes lie on one row, 80 pixels apart; and the map from picture to crop."""
    across = np.asarray(left, np.float64) - right
    scale = _EYE_DISTANCE / max(1.0, float(np.hypot(*across)))
    cosine, sine = across / max(1e-6, float(np.hypot(*across))) * scale
    turn = np.array([[cosine, sine], [-sine, cosine]])
    middle = (np.asarray(left, np.float64) + right) / 2
    to_crop = np.concatenate([turn, (np.array([_CROP / 2, _EYE_LINE]) - turn @ middle)[:, None]], 1)
    smooth = cv2.GaussianBlur(image, (0, 0), 0.4 / scale) if scale < 0.7 else image
    return cv2.warpAffine(smooth, to_crop, (_CROP, _CROP), borderMode=cv2.BORDER_REPLICATE), to_crop


def _pupil(grey: Grey, side: int) -> Float64[np.ndarray, "2"]:
    """The middle of the darkest round spot near where the eye should be, in the crop; `side` is -1 or 1."""
    expected = np.array([_CROP / 2 + side * _EYE_DISTANCE / 2, _EYE_LINE])
    reach = round(0.22 * _EYE_DISTANCE)
    x, y = (round(float(value)) for value in expected - reach)
    patch = cv2.GaussianBlur(grey, (0, 0), 0.07 * _EYE_DISTANCE)[y : y + 2 * reach + 1, x : x + 2 * reach + 1]
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    # brows are as dark as eyes but farther up
    score = patch.astype(np.float64) + 60 * (columns**2 + (1.5 * rows) ** 2) / reach**2
    row, column = np.unravel_index(int(score.argmin()), score.shape)
    return expected + 0.6 * np.array([float(column) - reach, float(row) - reach])


def _mouth(crop: Crop) -> tuple[float, float, float]:
    """In eye distances: the line between the lips below the eyes, its middle right of the face's, its width."""
    d = _EYE_DISTANCE
    top, bottom = round(_EYE_LINE + 0.8 * d), round(_EYE_LINE + 1.45 * d)
    left, right = round(_CROP / 2 - 0.7 * d), round(_CROP / 2 + 0.7 * d)
    grey = cv2.GaussianBlur(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), (0, 0), 0.02 * d)
    valley = cv2.morphologyEx(grey, cv2.MORPH_BLACKHAT, np.ones((round(0.17 * d), 1), np.uint8))
    dark = valley[top:bottom, left:right].astype(np.float64)
    red = cv2.cvtColor(crop, cv2.COLOR_RGB2LAB)[top:bottom, left:right, 1].astype(np.float64)
    middle = slice(round(0.4 * d), round(1.0 * d))
    rows = np.arange(top, bottom)
    darkness = cv2.GaussianBlur(dark[:, middle].mean(1)[:, None], (1, 0), 0.02 * d)[:, 0]
    redness = cv2.GaussianBlur(red[:, middle].mean(1)[:, None], (1, 0), 0.05 * d)[:, 0]
    darkness /= max(4.0, float(darkness.max()))
    redness = (redness - redness.min()) / max(4.0, float(np.ptp(redness)))
    prior = ((rows - _EYE_LINE) / d - _MOUTH_DEPTH) / 0.14
    row = int((darkness + 0.6 * redness - 0.35 * prior**2).argmax())
    line = dark[max(0, row - round(0.05 * d)) : row + round(0.05 * d) + 1].max(0)
    line = cv2.GaussianBlur(line[None], (0, 1), 0.03 * d)[0]
    inside = line > 0.35 * line[middle].mean()
    center = len(line) // 2
    ends = [center, center]
    for end, step in ((0, -1), (1, 1)):
        while 0 <= ends[end] + step < len(line) and inside[ends[end] + step]:
            ends[end] += step
    half = [float(np.clip(abs(end - center) / d, 0.34, 0.52)) for end in ends]
    width = 0.5 * (half[0] + half[1]) + 0.5 * _MOUTH_WIDTH
    return (row + top - _EYE_LINE) / d, float(np.clip((half[1] - half[0]) / 2, -0.05, 0.05)), width


def _mean_face(depth: float, offset: float, width: float) -> Float64[np.ndarray, "68 2"]:
    """The mean face stretched so that its mouth lies where one was seen; units and axes of `_JAW`."""
    mirror = np.array([-1.0, 1.0])
    right_brow, right_eye, jaw, nose = _RIGHT_BROW, _RIGHT_EYE, _JAW.copy(), _NOSE.copy()
    for part in (jaw, nose):
        part[:, 1] *= depth / _MOUTH_DEPTH
        part[:, 0] += offset * np.clip(part[:, 1] / depth, 0, 1)
    left_eye = (right_eye * mirror)[[3, 2, 1, 0, 5, 4]]
    mouth = _MOUTH * [width / 2, depth / _MOUTH_DEPTH] + [offset, depth]
    return np.concatenate([jaw, right_brow, (right_brow * mirror)[::-1], nose, right_eye, left_eye, mouth])


def _upper_face_corners(grey: Grey, shape: Landmarks) -> Float32[np.ndarray, "k 1 2"]:
    """Corners between brows and nose, where nothing moves in speech."""
    region = np.zeros_like(grey)
    hull = cv2.convexHull(np.concatenate([shape[17:36], shape[[1, 2, 14, 15]]]))
    cv2.fillConvexPoly(region, np.rint(hull).astype(np.int32), 255)
    distance = float(np.hypot(*(shape[42:48].mean(0) - shape[36:42].mean(0))))
    corners = cv2.goodFeaturesToTrack(grey, 80, 0.01, max(2.0, 0.06 * distance), mask=region)
    return np.zeros((0, 1, 2), np.float32) if corners is None else corners


def _movement(
    first: Grey, grey: Grey, corners: Float32[np.ndarray, "k 1 2"], guess: Float64[np.ndarray, "2 3"]
) -> Float64[np.ndarray, "2 3"] | None:
    """How the upper face moved (turn, scale, shift) from `first` to `grey`, or None where too few corners agree."""
    if len(corners) < 6:
        return None
    start = cv2.transform(corners, guess).astype(np.float32)
    moved, status, _ = cv2.calcOpticalFlowPyrLK(
        first, grey, corners, start, winSize=(21, 21), maxLevel=3, flags=cv2.OPTFLOW_USE_INITIAL_FLOW
    )
    good = status[:, 0] == 1
    if good.sum() < 6:
        return None
    matrix, inliers = cv2.estimateAffinePartial2D(corners[good], moved[good], ransacReprojThreshold=1.5)
    if matrix is None or int(inliers.sum()) < max(6, 0.4 * len(corners)):
        return None
    return matrix
