"""What avatarlab.lips.face promises on two photographs in the public domain (NASA: Eileen Collins; US Navy: Grace
Hopper), whose points were marked by hand."""

from dataclasses import dataclass
from pathlib import Path

import cartoon  # noqa: F401  (one OpenCV thread)
import cv2
import numpy as np
import pytest

from avatarlab.lips import landmark_model
from avatarlab.lips.face import (
    FADE_FRAMES,
    HIDDEN_DEGREES,
    TURNED_DEGREES,
    find_face,
    find_faces,
    find_landmarks,
    finder,
    fit_landmarks,
    sharpness,
    track_landmarks,
    visibility,
    yaw_degrees,
)
from avatarlab.media import read_image


@dataclass(frozen=True)
class Marked:
    name: str
    right_eye: tuple[float, float]
    left_eye: tuple[float, float]
    nose_base: tuple[float, float]
    mouth: tuple[float, float]
    chin: tuple[float, float]

    def points(self) -> np.ndarray:
        return np.array([self.right_eye, self.left_eye, self.nose_base, self.mouth, self.chin])


PHOTOGRAPHS = (
    Marked("astronaut.jpg", (124, 101.6), (166.6, 103.2), (145, 132), (144, 144.5), (145, 178)),
    Marked("grace_hopper.jpg", (133.8, 120), (200.5, 117.5), (170, 168.8), (170.5, 191), (167.5, 235)),
)
TOLERANCE = np.array([0.1, 0.1, 0.17, 0.17, 0.3])  # of the distance between the eyes
WITHOUT_MODEL = pytest.mark.skipif(bool(landmark_model.installed()), reason="a landmark model is installed")
WITH_MODEL = pytest.mark.skipif(not landmark_model.installed(), reason="no landmark model is installed")
STEADY = 1.5 if landmark_model.installed() else 0.4  # pixels; a model looks at every frame anew


def five(landmarks: np.ndarray) -> np.ndarray:
    return np.stack(
        [landmarks[36:42].mean(0), landmarks[42:48].mean(0), landmarks[33], landmarks[60:68].mean(0), landmarks[8]]
    )


def assert_close(landmarks: np.ndarray | None, truth: np.ndarray) -> None:
    assert landmarks is not None
    distance = np.hypot(*(truth[1] - truth[0]))
    errors = np.linalg.norm(five(landmarks) - truth, axis=1) / distance
    assert (errors <= TOLERANCE).all(), errors


def turned(image: np.ndarray, degrees: float, scale: float) -> tuple[np.ndarray, np.ndarray]:
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1) * scale
    size = (round(width * scale), round(height * scale))
    return cv2.warpAffine(image, matrix, size, flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE), matrix


def turned_head(image: np.ndarray, marked: Marked, degrees: float) -> np.ndarray:
    """The photograph on a head of roughly human depth, turned."""
    eyes = marked.points()[:2]
    unit, (x0, y0) = float(np.hypot(*(eyes[1] - eyes[0]))), eyes.mean(0)
    rows, columns = np.mgrid[0 : image.shape[0], 0 : image.shape[1]].astype(float)
    x, y = (columns - x0) / unit, (rows - y0) / unit
    depth = 1.3 * np.sqrt(np.clip(1 - (x / 1.15) ** 2 - ((y - 0.5) / 2.2) ** 2, 0, None)) - 1.15
    depth += 0.35 * np.exp(-((x / 0.22) ** 2) - ((y - 0.5) / 0.3) ** 2)
    angle = np.radians(degrees)
    there = np.maximum.accumulate(x * np.cos(angle) + depth * np.sin(angle), axis=1) + 1e-9 * columns
    source = np.stack([np.interp(x[row], there[row], columns[row]) for row in range(len(image))]).astype(np.float32)
    return cv2.remap(image, source, rows.astype(np.float32), cv2.INTER_LINEAR)


def small(golden: Path, marked: Marked) -> np.ndarray:
    """A photograph of 224x224 with a face of about 70 pixels in it."""
    image = read_image(golden / marked.name)[:320, :320]
    return cv2.resize(image, (224, 224), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="module")
def pair(golden: Path) -> np.ndarray:
    """Two people: the larger face on the right."""
    return np.hstack([small(golden, marked) for marked in PHOTOGRAPHS])


@pytest.mark.parametrize("marked", PHOTOGRAPHS, ids=lambda marked: marked.name)
class TestPhotographs:
    def test_eyes_nose_mouth_and_chin_are_found_where_they_are(self, marked: Marked, golden: Path) -> None:
        assert_close(find_landmarks(read_image(golden / marked.name)), marked.points())

    @pytest.mark.parametrize(("degrees", "scale"), [(0, 0.7), (0, 2.5), (10, 1.0), (-10, 1.3)])
    def test_they_follow_a_head_that_is_tilted_near_or_far(
        self, marked: Marked, golden: Path, degrees: float, scale: float
    ) -> None:
        image, matrix = turned(read_image(golden / marked.name), degrees, scale)
        assert_close(find_landmarks(image), cv2.transform(marked.points()[None], matrix)[0])

    def test_light_and_noise_matter_little(self, marked: Marked, golden: Path) -> None:
        image = read_image(golden / marked.name)
        grain = np.random.default_rng(0).normal(0, 8, image.shape)
        for changed in (image * 0.5, image * 0.5 + 120, image + grain):
            assert_close(find_landmarks(np.clip(changed, 0, 255).astype(np.uint8)), marked.points())

    def test_the_face_box_holds_eyes_and_mouth(self, marked: Marked, golden: Path) -> None:
        box = find_face(read_image(golden / marked.name))
        assert box is not None
        for x, y in marked.points()[:4]:
            assert box.x < x < box.x + box.width
            assert box.y < y < box.y + box.height

    def test_the_points_are_in_ibug_order(self, marked: Marked, golden: Path) -> None:
        points = find_landmarks(read_image(golden / marked.name))
        assert points is not None
        assert points[0, 0] < points[36, 0] < points[39, 0] < points[27, 0] < points[42, 0] < points[45, 0]
        assert (
            points[19, 1] < points[37, 1] < points[30, 1] < points[33, 1] < points[51, 1] < points[57, 1] < points[8, 1]
        )
        assert points[48, 0] < points[60, 0] < points[62, 0] < points[64, 0] < points[54, 0] < points[16, 0]
        across = (points[45] - points[36]) / np.hypot(*(points[45] - points[36]))
        assert (np.diff(points[:17] @ across) > -0.5).all()  # of a pixel: near the ears a jaw may be upright
        assert points[62, 1] <= points[66, 1] + 0.5

    def test_a_frontal_portrait_is_frontal_and_blur_is_measured(self, marked: Marked, golden: Path) -> None:
        image = read_image(golden / marked.name)
        points = find_landmarks(image)
        assert points is not None
        assert abs(yaw_degrees(points)) < 5
        blurred = [sharpness(cv2.GaussianBlur(image, (0, 0), sigma), points) for sigma in (1, 2, 4, 8)]
        assert sharpness(image, points) > blurred[0]
        assert blurred == sorted(blurred, reverse=True)


class TestTracking:
    def test_landmarks_follow_the_head_to_a_fraction_of_a_pixel(self, golden: Path) -> None:
        image = read_image(golden / "astronaut.jpg")
        truth, frames = [], []
        for index in range(12):
            matrix = cv2.getRotationMatrix2D((160, 160), 2 * np.sin(index / 4), 1 + 0.002 * index)
            matrix[:, 2] += [0.7 * index, -0.3 * index]
            frames.append(
                cv2.warpAffine(image, matrix, (320, 320), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
            )
            truth.append(matrix)
        points, found = track_landmarks(np.stack(frames))
        assert found.all()
        back = cv2.invertAffineTransform(truth[0])
        start = cv2.transform(points[:1], back)
        for index, matrix in enumerate(truth):
            assert np.abs(points[index] - cv2.transform(start, matrix)[0]).max() < STEADY

    def test_a_still_clip_has_still_landmarks(self, golden: Path) -> None:
        image = read_image(golden / "grace_hopper.jpg")
        points, found = track_landmarks(np.stack([image] * 4))
        assert found.all()
        np.testing.assert_allclose(points, points[:1].repeat(4, 0), atol=STEADY if landmark_model.installed() else 0.01)

    def test_where_the_face_is_hidden_it_is_said_and_the_nearest_landmarks_stand(self, golden: Path) -> None:
        image = read_image(golden / "astronaut.jpg")
        noise = np.random.default_rng(0).integers(0, 256, image.shape, np.uint8)
        points, found = track_landmarks(np.stack([noise, image, image, noise]))
        assert found.tolist() == [False, True, True, False]
        np.testing.assert_array_equal(points[0], points[1])
        np.testing.assert_array_equal(points[3], points[2])

    def test_without_a_face_nothing_is_found(self) -> None:
        points, found = track_landmarks(np.full((2, 128, 128, 3), 128, np.uint8))
        assert not found.any()
        assert not points.any()

    def test_a_face_that_leaves_and_comes_back_elsewhere_is_followed_again(self, golden: Path) -> None:
        image = small(golden, PHOTOGRAPHS[0])
        empty = np.full((224, 320, 3), image[0, 0], np.uint8)
        left, right = empty.copy(), empty.copy()
        left[:, :224], right[:, 96:] = image, image
        frames = [left, left, left, *[empty] * 9, right, right, right]
        points, found = track_landmarks(np.stack(frames))
        assert found.tolist() == [True] * 3 + [False] * 9 + [True] * 3
        np.testing.assert_allclose(points[12:], points[:3] + [96, 0], atol=1.5)

    def test_a_frame_lost_among_others_is_lost_alone(self, golden: Path) -> None:
        image = small(golden, PHOTOGRAPHS[0])
        frames = [image, image, np.zeros_like(image), image, image]
        points, found = track_landmarks(np.stack(frames))
        assert found.tolist() == [True, True, False, True, True]
        np.testing.assert_allclose(points[3], points[1], atol=STEADY)

    def test_of_two_people_the_one_followed_is_not_exchanged_for_the_other(self, pair: np.ndarray) -> None:
        gone = pair.copy()
        gone[:, 224:] = 128
        frames = np.stack([pair, pair, gone, gone, pair, pair])
        points, found = track_landmarks(frames)
        assert found.tolist() == [True, True, False, False, True, True]
        assert (points[:, 27:48, 0].mean(1) > 224).all()

    def test_the_face_that_is_named_is_followed(self, pair: np.ndarray) -> None:
        for box in find_faces(pair):
            points, found = track_landmarks(np.stack([pair, pair]), near=box.center)
            assert found.all()
            assert all(box.holds(*map(float, frame[27:48].mean(0))) for frame in points)
        _, found = track_landmarks(np.stack([pair]), near=(5.0, 5.0))
        assert not found.any()

    @pytest.mark.parametrize("sign", [-1, 1])
    def test_a_head_that_turns_is_seen_to_turn_and_to_come_back(self, golden: Path, sign: int) -> None:
        marked = PHOTOGRAPHS[0]
        angles = sign * np.array([0, 4, 8, 12, 16, 12, 8, 4, 0])
        image = read_image(golden / marked.name)
        points, found = track_landmarks(np.stack([turned_head(image, marked, angle) for angle in angles]))
        assert found.all()
        yaws = np.array([yaw_degrees(frame) for frame in points])
        assert np.abs(yaws - angles).max() < 6, yaws
        assert sign * yaws[4] > 10


class TestVisibility:
    def turning(self, degrees: np.ndarray) -> np.ndarray:
        points = np.zeros((len(degrees), 68, 2), np.float32)
        points[:, 16, 0] = 100
        points[:, 30, 0] = 50 + 50 * 1.35 * np.tan(np.radians(degrees))
        return points

    def test_a_mouth_shows_on_a_frontal_head_and_not_on_a_profile(self) -> None:
        degrees = np.repeat([0, TURNED_DEGREES - 1, -TURNED_DEGREES + 1, HIDDEN_DEGREES + 1, -HIDDEN_DEGREES - 1], 20)
        shown = visibility(self.turning(degrees), np.ones(100, bool))
        np.testing.assert_allclose(shown[10::20], [1, 1, 1, 0, 0], atol=1e-6)

    def test_it_falls_smoothly_between(self) -> None:
        shown = visibility(self.turning(np.linspace(0, 60, 200)), np.ones(200, bool))
        assert (np.diff(shown) <= 1e-6).all()
        assert np.abs(np.diff(shown)).max() < 0.05
        assert (shown[0], shown[-1]) == (1, 0)

    def test_a_sudden_turn_fades(self) -> None:
        shown = visibility(self.turning(np.repeat([0.0, 80.0], 10)), np.ones(20, bool))
        assert (shown[0], shown[-1]) == (1, 0)
        assert np.abs(np.diff(shown)).max() <= 1 / FADE_FRAMES

    def test_a_lost_face_fades_out_before_and_in_after(self) -> None:
        found = np.ones(30, bool)
        found[12:16] = False
        shown = visibility(self.turning(np.zeros(30)), found)
        assert (shown[12:16] == 0).all()
        assert shown[0] == shown[-1] == 1
        assert (np.diff(shown[:13]) <= 0).all() and (np.diff(shown[15:]) >= 0).all()
        assert 0 < shown[11] < shown[9] < 1
        np.testing.assert_allclose(shown[11 - FADE_FRAMES :: -1], 1)

    def test_without_a_face_nothing_shows(self) -> None:
        assert not visibility(self.turning(np.zeros(3)), np.zeros(3, bool)).any()


class TestSeveral:
    def test_all_faces_are_found_the_largest_first(self, pair: np.ndarray) -> None:
        boxes = find_faces(pair)
        assert len(boxes) == 2
        assert boxes[0].width >= boxes[1].width
        assert boxes[0].x > 224 > boxes[1].x + boxes[1].width
        assert find_face(pair) == boxes[0]

    def test_landmarks_are_those_of_the_box_that_is_given(self, pair: np.ndarray) -> None:
        for box in find_faces(pair):
            points = find_landmarks(pair, box)
            assert points is not None
            assert box.holds(*map(float, points[27:48].mean(0)))

    def test_a_face_small_in_a_large_picture_is_found(self, golden: Path) -> None:
        wide = np.full((900, 1600, 3), 150, np.uint8)
        wide[300:524, 1000:1224] = small(golden, PHOTOGRAPHS[0])
        (box,) = find_faces(wide)
        assert box.holds(1000 + 0.7 * 145, 300 + 0.7 * 115)


class TestByHand:
    @pytest.mark.parametrize("marked", PHOTOGRAPHS, ids=lambda marked: marked.name)
    def test_a_mean_face_goes_through_eyes_and_mouth(self, marked: Marked) -> None:
        points = fit_landmarks(
            *(tuple(map(float, point)) for point in (marked.right_eye, marked.left_eye, marked.mouth))
        )
        assert_close(points, marked.points())
        distance = np.hypot(*(marked.points()[1] - marked.points()[0]))
        errors = np.linalg.norm(five(points) - marked.points(), axis=1)[[0, 1, 3]]
        assert (errors < 0.03 * distance).all()

    @pytest.mark.parametrize(
        "eyes_and_mouth",
        [
            ((5.0, 5.0), (5.0, 5.0), (5.0, 9.0)),
            ((0.0, 0.0), (40.0, 0.0), (20.0, -40.0)),
            ((0.0, 0.0), (40.0, 0.0), (90.0, 40.0)),
        ],
    )
    def test_points_that_are_no_face_are_refused(self, eyes_and_mouth: tuple[tuple[float, float], ...]) -> None:
        with pytest.raises(ValueError, match=r"eyes|mouth"):
            fit_landmarks(*eyes_and_mouth)


class TestFinder:
    @WITHOUT_MODEL
    def test_without_a_model_the_cascades_are_named(self) -> None:
        assert finder().startswith("cascades")

    @WITH_MODEL
    def test_a_model_is_named_with_its_version(self) -> None:
        assert landmark_model.installed() in finder()

    @WITH_MODEL
    def test_a_model_sees_the_turn_of_a_single_photograph(self, golden: Path) -> None:
        image = read_image(golden / PHOTOGRAPHS[0].name)
        for degrees in (-20, 0, 20, 40):
            points = find_landmarks(turned_head(image, PHOTOGRAPHS[0], degrees))
            assert points is not None
            assert yaw_degrees(points) == pytest.approx(degrees, abs=9)

    @WITH_MODEL
    def test_a_model_sees_how_far_a_mouth_is_open(self, golden: Path) -> None:
        smiling, closed = (find_landmarks(read_image(golden / marked.name)) for marked in PHOTOGRAPHS)
        assert smiling is not None and closed is not None
        opening = [
            float(np.hypot(*(points[66] - points[62])) / np.hypot(*(points[45] - points[36])))
            for points in (smiling, closed)
        ]
        assert opening[0] > 0.08 > 0.03 > opening[1]


@pytest.mark.parametrize("level", [0, 255])
def test_a_picture_without_a_face_has_none(level: int) -> None:
    assert find_face(np.full((200, 300, 3), level, np.uint8)) is None
    assert find_landmarks(np.full((200, 300, 3), level, np.uint8)) is None


def test_a_turned_head_has_a_yaw_of_the_right_sign() -> None:
    points = np.zeros((68, 2), np.float32)
    points[0], points[16], points[30] = (0, 0), (100, 0), (50, 20)
    assert yaw_degrees(points) == pytest.approx(0)
    points[30] = (75, 20)
    assert yaw_degrees(points) == pytest.approx(20.3, abs=0.1)
    points[30] = (25, 20)
    assert yaw_degrees(points) == pytest.approx(-20.3, abs=0.1)
