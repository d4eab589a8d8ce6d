"""Face boxes and 68 landmarks (iBUG order), from pictures and clips.

For bundles that bring no `landmarks.npy`. Without anything learned but OpenCV's bundled cascades: one finds faces (Viola
and Jones, CVPR 2001), one the eyes; the line between the lips is the darkest and reddest row where a mouth can be; a mean
face is laid through eyes and mouth. That is enough to place the mouth window on a frontal photograph. Where a landmark
model is installed (`lips.landmark_model`) it is used instead; `finder` says which.

In a clip the shape found first is carried along by tracking corners of the upper face (Lucas-Kanade, always against that
first frame, so nothing drifts) and fitting a turned, shifted, scaled head to them. Where that fails, the face is looked
for again, and the one nearest to where it was seen last is taken.
"""

import functools
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, UInt8

from avatarlab.lips import landmark_model

Picture = UInt8[np.ndarray, "h w 3"]
Crop = UInt8[np.ndarray, "crop crop 3"]
Grey = UInt8[np.ndarray, "h w"]
Landmarks = Float32[np.ndarray, "68 2"]
Shape = Float64[np.ndarray, "68 3"]
Camera = Float64[np.ndarray, "2 4"]

VERSION = 2  # part of the digest of pictures without landmarks: raise it when landmarks change

# A mouth is drawn in full on a head turned by up to the first angle and not at all from the second on.
TURNED_DEGREES, HIDDEN_DEGREES = 25.0, 45.0
FADE_FRAMES = 4  # over which the mouth fades where the face is lost or found
SEARCH_EVERY = 5  # frames without a face are looked at in these steps, then those between where one came back

_SEARCH_SIDES = (480, 1280)  # faces are looked for in a picture scaled down to the first, then to the next
_SMALLEST_SHARES = (0.12, 0.04)  # of the shorter side
_SMALLEST_FACE = 56  # pixels of the picture: eyes 24 pixels apart
_EYE_DISTANCE = 80  # in the upright crop where eyes are refined and the mouth is sought
_CROP = 4 * _EYE_DISTANCE
_EYE_LINE = 1.2 * _EYE_DISTANCE  # row of the eyes in that crop; columns are centred

# The mean face in eye distances: x from the middle of the face, y down from the line through the eye centres.
_RIGHT_JAW = np.array(
    [[-1.1, 0], [-1.08, 0.27], [-1.05, 0.53], [-1, 0.79], [-0.92, 1.05], [-0.79, 1.3], [-0.57, 1.6], [-0.3, 1.81]]
)
_JAW = np.concatenate([_RIGHT_JAW, [[0, 1.87]], _RIGHT_JAW[::-1] * [-1, 1]])
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
# How far towards us each point lies before the eye centres, in eye distances: an average head
_RIGHT_JAW_NEARNESS = np.array([-0.88, -0.95, -0.97, -0.9, -0.75, -0.6, -0.37, -0.2])
_BROW_NEARNESS = np.array([-0.08, 0.05, 0.16, 0.25, 0.29])
_NOSE_NEARNESS = np.array([0.26, 0.4, 0.55, 0.58, 0.17, 0.27, 0.29, 0.27, 0.17])
_EYE_NEARNESS = np.array([-0.09, 0.01, 0.04, -0.01, 0.02, -0.01])
_MOUTH_NEARNESS = np.array([-0.1, 0.08, 0.24, 0.25, 0.24, 0.08, -0.1, 0.04, 0.14, 0.15, 0.14, 0.04])
_INNER_NEARNESS = np.array([-0.08, 0.15, 0.16, 0.15, -0.08, 0.13, 0.13, 0.13])
_NEARNESS = np.concatenate(
    (_RIGHT_JAW_NEARNESS, np.array([-0.15]), _RIGHT_JAW_NEARNESS[::-1], _BROW_NEARNESS, _BROW_NEARNESS[::-1])
    + (_NOSE_NEARNESS, _EYE_NEARNESS, _EYE_NEARNESS[[3, 2, 1, 0, 5, 4]], _MOUTH_NEARNESS, _INNER_NEARNESS)
)
_TURNING = 1.35  # how far the nose leaves the middle of the jaw's edges, in halves of their distance, at 45 degrees
_MOUTH_DEPTH = 1.1  # of the line between the lips below the eyes
_MOUTH_WIDTH = 0.86


@dataclass(frozen=True)
class FaceBox:
    """Left and top edge, width and height, in pixels."""

    x: int
    y: int
    width: int
    height: int

    @property
    def center(self) -> tuple[float, float]:
        return self.x + self.width / 2, self.y + self.height / 2

    def holds(self, x: float, y: float) -> bool:
        return self.x <= x <= self.x + self.width and self.y <= y <= self.y + self.height


def finder() -> str:
    """What finds faces and landmarks here, and its version: a part of the digest of pictures without landmarks."""
    model = landmark_model.installed()
    return f"cascades and a mean face {VERSION}" if not model else f"MediaPipe {model}, {VERSION}"


def find_faces(image: Picture) -> list[FaceBox]:
    """All faces, the largest first; from the brows to the chin."""
    if not landmark_model.installed():
        return _cascade_faces(image)
    boxes = _by_size([FaceBox(*box) for box in landmark_model.find_boxes(image)])
    # its detector shrinks the whole picture to 192 pixels, and so overlooks a person far away
    return boxes or [box for box in _cascade_faces(image) if _shape_in(image, box) is not None]


def _cascade_faces(image: Picture) -> list[FaceBox]:
    for side, share in zip(_SEARCH_SIDES, _SMALLEST_SHARES, strict=True):
        scale = min(1.0, side / max(image.shape[:2]))
        grey = _search_grey(image, scale)
        smallest = max(24, round(share * min(grey.shape)), round(_SMALLEST_FACE * scale))
        for name in ("haarcascade_frontalface_alt2.xml", "haarcascade_frontalface_default.xml"):
            found = _cascade(name).detectMultiScale(grey, 1.08, 5, minSize=(smallest, smallest))
            boxes = _by_size([FaceBox(*(round(float(edge) / scale) for edge in box)) for box in found])
            if boxes:
                # beside a face, what has no eyes is a fold or a pattern
                return [boxes[0], *(box for box in boxes[1:] if _eyes_seen(image, box) is not None)]
        if scale == 1:
            break
    return []


def find_face(image: Picture) -> FaceBox | None:
    """The largest face, or None."""
    return next(iter(find_faces(image)), None)


def find_landmarks(image: Picture, box: FaceBox | None = None) -> Landmarks | None:
    """68 points (x, y) in pixels of the face in `box`, else of the largest, or None where there is none."""
    box = box or find_face(image)
    shape = None if box is None else _shape_in(image, box)
    return None if shape is None else shape[:, :2].astype(np.float32)


def fit_landmarks(
    right_eye: tuple[float, float], left_eye: tuple[float, float], mouth: tuple[float, float]
) -> Landmarks:
    """The mean face through points marked by hand: both eye centres, the one on the left of the picture first, and the
    middle of the line between the lips. Raises ValueError for points that cannot be a face's."""
    right, left, lips = (np.asarray(point, np.float64) for point in (right_eye, left_eye, mouth))
    distance = float(np.hypot(*(left - right)))
    if distance < 2:
        raise ValueError("the eyes are in one place")
    _, to_crop = _upright(np.zeros((2, 2, 3), np.uint8), right, left)
    across, down = (cv2.transform(lips[None, None], to_crop)[0, 0] - [_CROP / 2, _EYE_LINE]) / _EYE_DISTANCE
    if not 0.5 <= down <= 2 or abs(across) > 0.6:
        raise ValueError("the mouth is not below the eyes")
    points = _mean_face(float(down), float(across), _MOUTH_WIDTH) * _EYE_DISTANCE + [_CROP / 2, _EYE_LINE]
    return cv2.transform(points[None], cv2.invertAffineTransform(to_crop))[0].astype(np.float32)


def track_landmarks(
    frames: UInt8[np.ndarray, "n h w 3"],
    near: tuple[float, float] | None = None,
    start: Landmarks | None = None,
) -> tuple[Float32[np.ndarray, "n 68 2"], Bool[np.ndarray, "n"]]:
    """Landmarks of every frame of a clip, and in which frames the face was seen.

    Followed is the face at `near` (x, y) in the first frame that has one there, else the largest of the first frame with
    a face; with `start`, the face that has those landmarks in the first frame. When it leaves and comes back it is found
    again, whichever face is then nearest to where it was. Where it was not seen, the nearest seen frame's landmarks
    stand; without any face all are zero."""
    count = len(frames)
    found = np.zeros(count, bool)
    points = np.zeros((count, 68, 2), np.float32)
    first, shape, alone = _first_face(frames, near) if start is None else (0, _with_depth(start), True)
    if shape is None:
        return points, found
    modelled = start is None and bool(landmark_model.installed())
    points[first], found[first] = shape[:, :2], True
    if modelled and count > 1 and (again := _MeshFollower(points[first], alone).carry(frames[first])) is not None:
        points[first] = again  # in the crop that the next frames are looked at in
    for indices in (range(first + 1, count), range(first - 1, -1, -1)):
        follower = (
            _MeshFollower(points[first], alone) if modelled else _Follower(_Anchor.of(frames[first], shape), alone)
        )
        _follow(frames, indices, follower, points, found)
    if modelled:
        points = _steadied(points, found)
    return held(points, found), found


def held(points: Float32[np.ndarray, "n 68 2"], found: Bool[np.ndarray, "n"]) -> Float32[np.ndarray, "n 68 2"]:
    """Landmarks with those of the nearest frame that has a face (one at least) where a frame has none."""
    seen = np.flatnonzero(found)
    nearest = seen[np.abs(np.arange(len(points))[:, None] - seen).argmin(1)]
    return points[nearest]


def visibility(landmarks: Float[np.ndarray, "n 68 2"], found: Bool[np.ndarray, "n"]) -> Float32[np.ndarray, "n"]:
    """How much of a drawn mouth may show in each frame, 0 to 1.

    1 on a head turned by up to TURNED_DEGREES, smoothly falling to 0 at HIDDEN_DEGREES, and 0 where no face was found;
    changes take FADE_FRAMES frames, before a face is lost and after it is found again, so that the mouth fades instead
    of popping. The turn is read from the landmarks (`yaw_degrees`). Those of a landmark model and of a tracked clip show
    it; a mean face laid into a single photograph is always frontal, however far the head is turned. What covers a face
    (a hand, a microphone) is not seen at all, unless the face is lost by it."""
    count = len(landmarks)
    turn = np.abs([yaw_degrees(np.asarray(points, np.float32)) for points in landmarks])
    left = np.clip((HIDDEN_DEGREES - turn) / (HIDDEN_DEGREES - TURNED_DEGREES), 0, 1)
    shown = left * left * (3 - 2 * left)
    hat = 1 - np.abs(np.arange(-FADE_FRAMES, FADE_FRAMES + 1)) / (FADE_FRAMES + 1)
    steady = np.convolve(np.pad(shown, FADE_FRAMES, mode="edge"), hat / hat.sum(), mode="valid")
    gone = np.flatnonzero(~found)
    if len(gone):
        away = np.abs(np.arange(count)[:, None] - gone).min(1)
        ramp = np.clip(away / (FADE_FRAMES + 1), 0, 1)
        steady = np.minimum(steady, ramp * ramp * (3 - 2 * ramp))
    return steady.astype(np.float32)


def sharpness(image: Picture, landmarks: Landmarks) -> float:
    """Variance of the Laplacian of the upright face at 80 pixels between the eyes (Pech-Pacheco et al., ICPR 2000)."""
    crop, _ = _upright(image, landmarks[36:42].mean(0), landmarks[42:48].mean(0))
    return float(cv2.Laplacian(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())


def yaw_degrees(landmarks: Landmarks) -> float:
    """About how far the head is turned: positive to the right of the picture.

    The nose tip lies before the line between the edges of the jaw by _TURNING halves of their distance, so it leaves the
    middle of that line by the tangent of the turn: good to some 5 degrees, heads being different."""
    across = landmarks[16] - landmarks[0]
    width = float(np.hypot(*across))
    if width < 1:
        return 0.0
    along = float((landmarks[30] - landmarks[0]) @ across) / width**2  # 0.5 is frontal
    return float(np.degrees(np.arctan((2 * along - 1) / _TURNING)))


def _first_face(
    frames: UInt8[np.ndarray, "n h w 3"], near: tuple[float, float] | None
) -> tuple[int, Shape | None, bool]:
    """The first frame looked at that has the face, its shape there, and whether it is the only one."""
    for index in (*range(0, len(frames), SEARCH_EVERY), *(k for k in range(len(frames)) if k % SEARCH_EVERY)):
        boxes = find_faces(frames[index])
        box = next((box for box in boxes if near is None or box.holds(*near)), None)
        shape = None if box is None else _shape_in(frames[index], box)
        if shape is not None:
            return index, shape, len(boxes) == 1
    return 0, None, False


def _with_depth(landmarks: Landmarks) -> Shape:
    unit = float(np.hypot(*(landmarks[42:48].mean(0) - landmarks[36:42].mean(0))))
    return np.concatenate([landmarks.astype(np.float64), _NEARNESS[:, None] * unit], 1)


def _shape_in(image: Picture, box: FaceBox) -> Shape | None:
    """68 points of the face in the box: x and y in pixels, and nearness to us in pixels, from the eye centres."""
    if landmark_model.installed():
        mesh = landmark_model.find_mesh(image, (box.x, box.y, box.width, box.height))
        return None if mesh is None else (mesh - [0, 0, mesh[36:48, 2].mean()]).astype(np.float64)
    right, left = _eyes(image, box)
    for _ in range(2):  # the eyes are refined in the crop that they themselves define
        crop, to_crop = _upright(image, right, left)
        seen = [_pupil(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), side) for side in (-1, 1)]
        right, left = cv2.transform(np.array([seen]), cv2.invertAffineTransform(to_crop))[0]
    crop, to_crop = _upright(image, right, left)
    points = _mean_face(*_mouth(crop)) * _EYE_DISTANCE + [_CROP / 2, _EYE_LINE]
    return _with_depth(cv2.transform(points[None], cv2.invertAffineTransform(to_crop))[0].astype(np.float32))


def _by_size(boxes: Sequence[FaceBox]) -> list[FaceBox]:
    return sorted(boxes, key=lambda box: (-box.width * box.height, box.x, box.y))


@functools.cache
def _cascade(name: str) -> cv2.CascadeClassifier:
    return cv2.CascadeClassifier(str(Path(cv2.__file__).parent / "data" / name))


def _search_grey(image: Picture, scale: float) -> UInt8[np.ndarray, "rows columns"]:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if scale < 1:
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return cv2.equalizeHist(grey)


def _eyes(image: Picture, box: FaceBox) -> tuple[Float64[np.ndarray, "2"], Float64[np.ndarray, "2"]]:
    """Eye centres, the one on the left of the picture (the person's right eye) first; where none are seen, where they
    usually are."""
    seen = _eyes_seen(image, box)
    if seen is not None:
        return seen
    corner, sides = np.array([box.x, box.y]), np.array([box.width, box.height])
    return corner + [0.3, 0.38] * sides, corner + [0.7, 0.38] * sides


def _eyes_seen(image: Picture, box: FaceBox) -> tuple[Float64[np.ndarray, "2"], Float64[np.ndarray, "2"]] | None:
    """Eye centres of the pair least strange for a face in that box; None where no eye was seen or none fits."""
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
    if not any(candidates):
        return None

    def strangeness(pair: tuple[np.ndarray, np.ndarray]) -> float:
        moved = np.stack(pair) - usual
        return float(np.square(moved).sum() + 2 * np.square(moved[0] - moved[1]).sum())

    best = min(product(candidates[0] or [usual[0]], candidates[1] or [usual[1]]), key=strangeness)
    if strangeness(best) > 2 * (0.12 * size) ** 2:
        return None
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


# --- following a face through a clip ---------------------------------------------------------------------------------

_LEAST_CORNERS = 6
_LEAST_SHARE = 0.4  # of the corners that must move as one head
_LEAST_LIKENESS = 0.35  # correlation of the upper face with the one followed; background that is taken for it has 0.2
_DEPTH_DOUBT = 0.02  # draws a head towards "not turned": the share by which a turn is underestimated
_STAYS = 0.06  # of its width a face may move before the model is given another crop
_STEADY_FRAMES = 2
_STILL = 0.015  # of the eye distance: by how much the noise of a landmark model moves a head that is still
_REACH = 0.75  # of a face's width: how far a face may be from where it was seen last, where there are others


@dataclass(frozen=True, eq=False)
class _Anchor:
    """A face as it was found, to compare other frames with. Units are eye distances, from the middle of the eyes; the
    camera maps them to pixels."""

    grey: Grey
    shape: Float64[np.ndarray, "68 3"]
    corners: Float32[np.ndarray, "k 1 2"]  # pixels
    places: Float64[np.ndarray, "k 3"]  # of the corners, in units
    camera: Camera
    likeness: Float64[np.ndarray, "24 36"]

    @staticmethod
    def of(frame: Picture, shape: Shape) -> "_Anchor":
        """From a shape in pixels, taken for one that looks straight at us."""
        right, left = shape[36:42, :2].mean(0), shape[42:48, :2].mean(0)
        across = left - right
        camera = np.zeros((2, 4))
        camera[:, 0], camera[:, 1] = across, (-across[1], across[0])
        camera[:, 3] = (right + left) / 2
        flat = (shape[:, :2] - camera[:, 3]) @ np.linalg.inv(camera[:, :2]).T
        units = np.concatenate([flat, shape[:, 2:] / max(1e-6, float(np.hypot(*across)))], 1)
        return _Anchor.at(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), units, camera)

    @staticmethod
    def at(grey: Grey, shape: Shape, camera: Camera) -> "_Anchor":
        """From a shape in units, as the camera sees it."""
        points = _through(camera, shape)
        corners = _upper_face_corners(grey, points.astype(np.float32))
        away = np.square(corners[:, 0, None] - points[None]).sum(2) / np.square(camera[:, 1]).sum()
        nearby = 1 / (0.01 + away) ** 2
        nearness = (nearby * shape[:, 2]).sum(1) / nearby.sum(1)
        flat = (corners[:, 0] - camera[:, 3] - nearness[:, None] * camera[:, 2]) @ np.linalg.inv(camera[:, :2]).T
        places = np.concatenate([flat, nearness[:, None]], 1)
        return _Anchor(grey, shape, corners, places, camera, _upper_face(grey, camera))


class _Follower:
    """Carries one face from frame to frame.

    Each frame is compared with the one that the face was found in. Where the head has turned too far for that, with a
    later one, which the camera's turn is known of; such a chain may drift, and ends when the head comes back."""

    def __init__(self, anchor: _Anchor, alone: bool) -> None:
        self._anchor, self._alone = anchor, alone
        self._key: _Anchor | None = None
        self._camera, self._grey = anchor.camera, anchor.grey

    @property
    def last(self) -> Landmarks:
        """The landmarks where the face was seen last."""
        return _through(self._camera, self._anchor.shape).astype(np.float32)

    def carry(self, frame: Picture) -> Landmarks | None:
        """The landmarks in a frame next to the one seen last, or None where the face is not there as it was."""
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        camera = _movement(self._anchor, grey, self._camera)
        if camera is not None:
            self._key = None
        elif self._key is not None:
            camera = _movement(self._key, grey, self._camera)
        if camera is None:
            self._key = _Anchor.at(self._grey, self._anchor.shape, self._camera)
            camera = _movement(self._key, grey, self._camera)
        if camera is None:
            return None
        self._camera, self._grey = camera, grey
        return self.last

    def search(self, frame: Picture, just_lost: bool) -> Landmarks | None:
        """The landmarks in any frame: the same face wherever it is, else the one that is nearest."""
        middle, width = self.last[27:48].mean(0), float(np.ptp(self.last[:, 0]))
        boxes = sorted(find_faces(frame), key=lambda box: float(np.hypot(*(middle - box.center))))
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        anchors = [_Anchor.of(frame, shape) for box in boxes if (shape := _shape_in(frame, box)) is not None]
        for anchor in anchors:
            camera = _movement(self._anchor, grey, anchor.camera)
            if camera is not None:
                self._camera, self._grey, self._key = camera, grey, None
                return self.last
        if not anchors:
            return None
        moved = _through(anchors[0].camera, anchors[0].shape)[27:48].mean(0) - middle
        if not self._alone and np.hypot(*moved) > _REACH * width:
            return None
        if just_lost:  # a head neither turns nor changes from one frame to the next, though a mean face may
            camera = np.concatenate([self._camera[:, :3], self._camera[:, 3:] + moved[:, None]], 1)
            anchors[0] = _Anchor.at(grey, self._anchor.shape, camera)
        self._anchor, self._camera, self._grey, self._key = anchors[0], anchors[0].camera, grey, None
        return self.last


class _MeshFollower:
    """Follows one face with the landmark model, which looks around where the face was."""

    def __init__(self, landmarks: Landmarks, alone: bool) -> None:
        self.last, self._alone = landmarks, alone
        self._box = _around(landmarks)

    def carry(self, frame: Picture) -> Landmarks | None:
        box = _around(self.last)
        moved = max(abs(box.x - self._box.x), abs(box.y - self._box.y), abs(box.width - self._box.width))
        if moved > _STAYS * box.width:  # the model sees a little more or less of a face in another crop
            self._box = box
        shape = _shape_in(frame, self._box)
        if shape is None or not self._near(shape):
            return None
        self.last = shape[:, :2].astype(np.float32)
        return self.last

    def search(self, frame: Picture, just_lost: bool) -> Landmarks | None:  # noqa: ARG002 - it needs no memory
        shapes = [shape for box in find_faces(frame) if (shape := _shape_in(frame, box)) is not None]
        middle = self.last[27:48].mean(0)
        shapes.sort(key=lambda shape: float(np.hypot(*(shape[27:48, :2].mean(0) - middle))))
        if not shapes or not (self._alone or self._near(shapes[0])):
            return None
        self.last = shapes[0][:, :2].astype(np.float32)
        return self.last

    def _near(self, shape: Shape) -> bool:
        moved = shape[27:48, :2].mean(0) - self.last[27:48].mean(0)
        return float(np.hypot(*moved)) <= _REACH * float(np.ptp(self.last[:, 0]))


def _around(landmarks: Landmarks) -> FaceBox:
    low, high = landmarks.min(0), landmarks.max(0)
    return FaceBox(*(round(float(edge)) for edge in (*low, *(high - low))))


def _follow(
    frames: UInt8[np.ndarray, "n h w 3"],
    indices: range,
    follower: _Follower | _MeshFollower,
    points: Float32[np.ndarray, "n 68 2"],
    found: Bool[np.ndarray, "n"],
) -> None:
    """Fill in `points` and `found`, in the order of the indices."""
    missed: list[int] = []
    for index in indices:
        seen = None if missed else follower.carry(frames[index])
        if seen is None and (len(missed) % SEARCH_EVERY == 0 or index == indices[-1]):
            seen = follower.search(frames[index], just_lost=not missed)
        if seen is None:
            missed.append(index)
            continue
        points[index], found[index] = seen, True
        returning = copy(follower)  # the search stepped over frames that the face may have come back in
        for earlier in reversed(missed):
            seen = returning.carry(frames[earlier])
            if seen is None:
                break
            points[earlier], found[earlier] = seen, True
        missed = []


def _steadied(points: Float32[np.ndarray, "n 68 2"], found: Bool[np.ndarray, "n"]) -> Float32[np.ndarray, "n 68 2"]:
    """Means over the frames around that were found and in which the head lies alike: noise of a head that is still goes
    without a delay where it moves."""
    steady = points.copy()
    middle, nose = points[:, 17:48].mean(1), points[:, 30]
    unit = np.hypot(*(points[:, 42:48].mean(1) - points[:, 36:42].mean(1)).T)
    for index in np.flatnonzero(found):
        around = slice(max(0, index - 3 * _STEADY_FRAMES), index + 3 * _STEADY_FRAMES + 1)
        away = np.arange(len(points))[around] - index
        shifts = (np.square(place[around] - place[index]).sum(1) for place in (middle, nose))
        moved = np.maximum(*shifts) / (_STILL * max(1.0, float(unit[index]))) ** 2
        weight = np.exp(-0.5 * (np.square(away / _STEADY_FRAMES) + moved)) * found[around]
        steady[index] = np.tensordot(weight / weight.sum(), points[around], 1)
    return steady


def _through(camera: Camera, places: Float64[np.ndarray, "k 3"]) -> Float64[np.ndarray, "k 2"]:
    return places @ camera[:, :3].T + camera[:, 3]


def _upper_face_corners(grey: Grey, shape: Landmarks) -> Float32[np.ndarray, "k 1 2"]:
    """Corners between brows and nose, where nothing moves in speech."""
    region = np.zeros_like(grey)
    cheeks = 0.7 * shape[[1, 2, 14, 15]] + 0.3 * shape[[28, 29, 29, 28]]  # nearer the ears hair and background begin
    hull = cv2.convexHull(np.concatenate([shape[17:36], cheeks]))
    cv2.fillConvexPoly(region, np.rint(hull).astype(np.int32), 255)
    distance = float(np.hypot(*(shape[42:48].mean(0) - shape[36:42].mean(0))))
    corners = cv2.goodFeaturesToTrack(grey, 80, 0.01, max(2.0, 0.06 * distance), mask=region)
    return np.zeros((0, 1, 2), np.float32) if corners is None else corners


def _upper_face(grey: Grey, camera: Camera) -> Float64[np.ndarray, "24 36"]:
    """Brows to nose as the camera sees it, laid flat; without its mean and of length 1."""
    rows, columns = np.mgrid[-0.4:0.8:24j, -0.9:0.9:36j]
    at = _through(camera, np.stack([columns, rows, np.zeros_like(rows)], 2).reshape(-1, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(grey, (0, 0), max(0.3, 0.02 * float(np.hypot(*camera[:, 0]))))
    seen = cv2.remap(smooth, at[:, 0], at[:, 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    values = seen.reshape(rows.shape).astype(np.float64) - seen.mean()
    return values / max(1e-6, float(np.linalg.norm(values)))


def _movement(anchor: _Anchor, grey: Grey, guess: Camera) -> Camera | None:
    """The camera that sees the anchor's head in another frame, or None where too few corners agree on one.

    Corners are followed there and back. A scaled orthographic camera is fitted to them by least squares, again and again
    without those that do not agree; the depth of a head being a guess, so is how far it turned."""
    corners, places = anchor.corners, anchor.places
    enough = max(_LEAST_CORNERS, round(_LEAST_SHARE * len(corners)))
    if len(corners) < _LEAST_CORNERS:
        return None
    unit = float(np.hypot(*guess[:, 0]))
    start = _through(guess, places).astype(np.float32)[:, None]
    moved, there = _flow(anchor.grey, grey, corners, start)
    back, again = _flow(grey, anchor.grey, moved, corners)
    returned = np.hypot(*(back - corners)[:, 0].T) < max(1.0, 0.03 * float(np.hypot(*anchor.camera[:, 0])))
    good = there & again & returned
    if good.sum() < enough:
        return None
    places, seen = places[good], moved[good, 0].astype(np.float64)
    agree = np.ones(len(places), bool)
    for most in (0.25, 0.2, 0.15, 0.15):
        if agree.sum() < enough:
            return None
        camera = _fit_camera(places[agree], seen[agree])
        agree = np.hypot(*(_through(camera, places) - seen).T) < max(1.5, most * unit)
    if agree.sum() < enough:
        return None
    alike = float((_upper_face(grey, camera) * anchor.likeness).sum())
    return camera if alike >= _LEAST_LIKENESS else None


def _flow(
    grey: Grey, other: Grey, points: Float32[np.ndarray, "k 1 2"], guess: Float32[np.ndarray, "k 1 2"]
) -> tuple[Float32[np.ndarray, "k 1 2"], Bool[np.ndarray, "k"]]:
    moved, status, _ = cv2.calcOpticalFlowPyrLK(
        grey, other, points, guess.copy(), winSize=(21, 21), maxLevel=3, flags=cv2.OPTFLOW_USE_INITIAL_FLOW
    )
    return np.asarray(moved, np.float32), status[:, 0] == 1


def _fit_camera(places: Float64[np.ndarray, "k 3"], seen: Float64[np.ndarray, "k 2"]) -> Camera:
    from_middle, seen_middle = places - places.mean(0), seen - seen.mean(0)
    doubt = np.diag([0, 0, _DEPTH_DOUBT * np.square(from_middle[:, 2]).sum() + 1e-9])
    affine = np.linalg.solve(from_middle.T @ from_middle + doubt, from_middle.T @ seen_middle).T
    u, stretch, vt = np.linalg.svd(affine, full_matrices=False)
    turned = stretch.mean() * (u @ vt)
    return np.concatenate([turned, (seen.mean(0) - turned @ places.mean(0))[:, None]], 1)
