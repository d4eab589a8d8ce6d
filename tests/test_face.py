"""What avatarlab.lips.face promises on two photographs in the public domain (NASA: Eileen Collins; US Navy: Grace
Hopper), whose points were marked by hand."""

from dataclasses import dataclass
from pathlib import Path

import cartoon  # noqa: F401  (one OpenCV thread)
import cv2
import numpy as np
import pytest

from avatarlab.lips.face import find_face, find_landmarks, sharpness, track_landmarks, yaw_degrees
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
        assert (np.diff(points[:17, 0]) > 0).all()
        assert points[62, 1] <= points[66, 1]

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
            assert np.abs(points[index] - cv2.transform(start, matrix)[0]).max() < 0.4

    def test_a_still_clip_has_still_landmarks(self, golden: Path) -> None:
        image = read_image(golden / "grace_hopper.jpg")
        points, found = track_landmarks(np.stack([image] * 4))
        assert found.all()
        np.testing.assert_allclose(points, points[:1].repeat(4, 0), atol=0.01)

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


@pytest.mark.parametrize("level", [0, 255])
def test_a_picture_without_a_face_has_none(level: int) -> None:
    assert find_face(np.full((200, 300, 3), level, np.uint8)) is None
    assert find_landmarks(np.full((200, 300, 3), level, np.uint8)) is None


def test_a_turned_head_has_a_yaw_of_the_right_sign() -> None:
    points = np.zeros((68, 2), np.float32)
    points[0], points[16], points[30] = (0, 0), (100, 0), (50, 20)
    assert yaw_degrees(points) == pytest.approx(0)
    points[30] = (75, 20)
    assert yaw_degrees(points) == pytest.approx(30)
    points[30] = (25, 20)
    assert yaw_degrees(points) == pytest.approx(-30)
