"""Where the mouth is: windows, the bundled mask and the published polygon."""

import cv2
import numpy as np
import pytest

from avatarlab.lips.mask import (
    cut_window,
    mouth_alpha,
    mouth_window,
    mouth_windows,
    polygon_mask,
    published_lip_image,
    to_window,
    window_keep,
)


def face(jaw: float = 0.0) -> np.ndarray:
    """68 landmarks of a schematic face with an eye distance of 80 px; the jaw lowers mouth and chin by `jaw` px."""
    points = np.zeros((68, 2), np.float32)
    angle = np.linspace(np.pi, 0, 17)
    points[:17] = np.stack([256 + 110 * np.cos(angle), 220 + 130 * np.sin(angle) + jaw * np.sin(angle)], axis=1)
    points[17:27] = np.stack([np.linspace(180, 332, 10), np.full(10, 180)], axis=1)
    points[27:31] = np.stack([np.full(4, 256), np.linspace(210, 250, 4)], axis=1)
    points[31:36] = np.stack([np.linspace(240, 272, 5), np.full(5, 258)], axis=1)
    for first, x in ((36, 216), (42, 296)):
        turn = np.linspace(0, 2 * np.pi, 7)[:-1]
        points[first : first + 6] = np.stack([x + 14 * np.cos(turn), 210 + 6 * np.sin(turn)], axis=1)
    turn = np.linspace(np.pi, 3 * np.pi, 21)[:-1]
    points[48:] = np.stack([256 + 32 * np.cos(turn), 300 + jaw / 2 + (8 + jaw / 2) * np.sin(turn)], axis=1)
    return points


def test_an_opening_jaw_neither_moves_nor_resizes_the_window() -> None:
    assert mouth_window(face(0)) == mouth_window(face(40))


def test_the_window_holds_nose_base_mouth_and_lowered_chin() -> None:
    window = mouth_window(face(40))
    assert 150 <= window.side <= 180
    inside = to_window(face(40), window.center, window.side, 96)[[33, 8, 48, 54, 57]]
    assert (inside > 0).all()
    assert (inside < 95).all()


def test_a_clip_keeps_one_window_size_while_the_head_moves() -> None:
    clip = np.stack([face() + [k, 0] for k in range(5)]).astype(np.float32)
    clip[2, 36:42] -= 3  # a jumping eye
    centers, side = mouth_windows(clip)
    assert side == pytest.approx(160, abs=1)
    assert np.diff(centers[[0, 1, 3, 4], 0]) == pytest.approx([1, 2, 1])


def test_cutting_and_locating_agree_to_a_fraction_of_a_pixel() -> None:
    image = np.zeros((200, 200, 3), np.uint8)
    cv2.circle(image, (110 * 16, 90 * 16), 3 * 16, (255, 255, 255), -1, cv2.LINE_AA, 4)
    for side, size in ((90.0, 96), (161.3, 96), (60.0, 112)):
        cut = cut_window(image, (100.5, 100.25), side, size)[..., 0].astype(float)
        rows, columns = np.indices(cut.shape)
        found = np.array([(columns * cut).sum(), (rows * cut).sum()]) / cut.sum()
        expected = to_window(np.full((68, 2), [110, 90], np.float32), (100.5, 100.25), side, size)[0]
        assert np.abs(found - expected).max() < 0.15


def test_the_border_of_the_picture_is_repeated_where_a_window_leaves_it() -> None:
    image = np.full((40, 40, 3), 77, np.uint8)
    assert (cut_window(image, (0.0, 0.0), 50.0, 32) == 77).all()


def test_the_bundled_mask_covers_the_moving_jaw_and_fades_in_from_nothing() -> None:
    keep = window_keep(96)
    assert set(np.unique(keep)) == {0.0, 1.0}
    window = mouth_window(face(40))
    for points in (face(0), face(40)):
        for x, y in to_window(points, window.center, window.side, 96)[[6, 7, 8, 9, 10, *range(48, 68)]]:
            assert keep[round(float(y)), round(float(x))] == 0
    grid = np.linspace(-0.7, 0.7, 141)
    masked, alpha = mouth_alpha(*np.meshgrid(grid, grid))
    assert (alpha[masked == 0] == 0).all()
    assert alpha.max() == 1
    assert np.abs(np.diff(alpha, axis=1)).max() < 0.2


@pytest.mark.parametrize("top", [30, 21])
def test_the_published_mask_is_opencvs_polygon_grown_four_times_by_five_pixels(top: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        points = (face(float(rng.uniform(0, 30))) / 2 + rng.normal(0, 3, (68, 2))).astype(np.float32)
        x6, x10 = points[6, 0], points[10, 0]
        corners = [(x6, points[top, 1]), (x10, points[top, 1]), points[10], (points[8, 0], points[8, 1] + 5), points[6]]
        expected = cv2.fillPoly(np.zeros((256, 256), np.uint8), [np.trunc(corners).astype(np.int32)], (1,))
        expected = cv2.dilate(expected, np.ones((5, 5), np.uint8), iterations=4)
        assert np.array_equal(polygon_mask(points, top), expected)


def test_the_published_lip_image_is_black_outside_and_drops_the_last_row_and_column() -> None:
    points = face() / 2
    image = np.random.default_rng(0).integers(1, 256, (256, 256, 3), np.uint8)
    mask = polygon_mask(points, 21)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    lips = published_lip_image(image, points)
    for i, j in ((0, 0), (100, 128), (255, 255), (37, 201)):
        y = rows[0] + i * (rows[-1] - rows[0]) // 256
        x = columns[0] + j * (columns[-1] - columns[0]) // 256
        assert np.array_equal(lips[i, j], image[y, x] * mask[y, x])
