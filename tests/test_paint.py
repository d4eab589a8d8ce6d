"""Latents to pixels: only the masked mouth changes, whatever the batch."""

import numpy as np
import pytest
import torch
from test_mask import face

from avatarlab.errors import InputError, SettingsError
from avatarlab.lips.diffdub import Renderer, RendererConfig
from avatarlab.lips.mask import mouth_alpha, mouth_windows
from avatarlab.lips.paint import PaintSettings, lip_references, paint, smoothed

WINDOWED = RendererConfig(
    base=32, widths=(32, 32), encoder_widths=(32, 32), blocks=1, attention_levels=(), encoder_attention_levels=(),
    time=32, style=16, patch=4, window=(48, 32),
)  # fmt: skip
WHOLE = RendererConfig(
    base=32, widths=(32,) * 5, encoder_widths=(32,) * 5, blocks=1, attention_levels=(), encoder_attention_levels=(),
    time=32, style=16,
)  # fmt: skip


def trained_a_little(config: RendererConfig) -> Renderer:
    torch.manual_seed(0)
    renderer = Renderer(config).eval()
    with torch.no_grad():
        for parameter in renderer.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape))
    return renderer


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return trained_a_little(WINDOWED)


def clip(count: int, height: int = 480, width: int = 512) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (count, height, width, 3), np.uint8)
    landmarks = np.stack([face() + [0.4 * k, 0.2 * k] for k in range(count)]).astype(np.float32)
    return frames, landmarks


def pasted(frames: np.ndarray, windows: np.ndarray, corners: np.ndarray) -> np.ndarray:
    whole = frames.copy()
    for frame, window, (x, y) in zip(whole, windows, corners, strict=True):
        frame[y : y + window.shape[0], x : x + window.shape[1]] = window
    return whole


def test_pixels_outside_the_mask_are_bit_equal_and_inside_they_change(renderer: Renderer) -> None:
    frames, landmarks = clip(5)
    latents = np.random.default_rng(1).normal(size=(5, 16)).astype(np.float32)
    painted = paint(renderer, PaintSettings(smoothing_frames=0.0), frames, landmarks, latents)
    whole = pasted(frames, painted.windows, painted.corners)
    centers, side = mouth_windows(landmarks)
    rows, columns = np.indices(frames.shape[1:3])
    for before, after, center in zip(frames, whole, centers, strict=True):
        across, along = (columns + 0.5 - center[0]) / side, (rows + 0.5 - center[1]) / side
        masked, alpha = mouth_alpha(across, along)
        assert np.array_equal(before[masked == 0], after[masked == 0])
        assert (before[alpha == 1] != after[alpha == 1]).any()


def test_all_windows_of_a_clip_have_one_size_and_stay_inside_the_picture(renderer: Renderer) -> None:
    frames, landmarks = clip(4, height=360, width=300)
    painted = paint(renderer, PaintSettings(), frames, landmarks, np.zeros((4, 16), np.float32))
    assert painted.windows.dtype == np.uint8
    assert (painted.corners >= 0).all()
    assert (painted.corners + painted.windows.shape[2:0:-1] <= [300, 360]).all()


@pytest.mark.parametrize("count", [1, 3, 5])
def test_a_frame_does_not_depend_on_its_neighbours_or_on_the_last_batch(renderer: Renderer, count: int) -> None:
    frames, landmarks = clip(5)
    latents = np.random.default_rng(1).normal(size=(5, 16)).astype(np.float32)
    settings = PaintSettings(batch_size=2, smoothing_frames=0.0)
    landmarks[:] = landmarks[0]
    whole = paint(renderer, settings, frames, landmarks, latents)
    part = paint(renderer, settings, frames[:count], landmarks[:count], latents[:count])
    assert np.array_equal(whole.windows[:count], part.windows)


def test_painting_is_seeded_and_every_frame_gets_the_same_noise(renderer: Renderer) -> None:
    frames, landmarks = clip(1)
    frames, landmarks = np.repeat(frames, 2, axis=0), np.repeat(landmarks, 2, axis=0)
    latents = np.ones((2, 16), np.float32)
    first = paint(renderer, {"seed": 3, "steps": 2}, frames, landmarks, latents)
    assert np.array_equal(first.windows[0], first.windows[1])
    assert np.array_equal(first.windows, paint(renderer, {"seed": 3, "steps": 2}, frames, landmarks, latents).windows)
    assert not np.array_equal(
        first.windows, paint(renderer, {"seed": 4, "steps": 2}, frames, landmarks, latents).windows
    )


def test_an_untrained_renderer_gives_the_idle_frame_back_to_the_last_bit() -> None:
    torch.manual_seed(0)
    fresh = Renderer(WINDOWED).eval()
    frames, landmarks = clip(2)
    painted = paint(fresh, {}, frames, landmarks, np.ones((2, 16), np.float32))
    assert np.array_equal(pasted(frames, painted.windows, painted.corners), frames)


def test_one_reference_picture_serves_every_frame(renderer: Renderer) -> None:
    frames, landmarks = clip(3)
    latents = np.zeros((3, 16), np.float32)
    repeated = paint(
        renderer, {}, frames, landmarks, latents, np.repeat(frames[:1], 3, 0), np.repeat(landmarks[:1], 3, 0)
    )
    once = paint(renderer, {}, frames, landmarks, latents, frames[:1], landmarks[:1])
    assert np.array_equal(once.windows, repeated.windows)
    with pytest.raises(InputError, match="2 references"):
        paint(renderer, {}, frames, landmarks, latents, frames[:2], landmarks[:2])


def test_the_published_geometry_paints_inside_its_polygon_only() -> None:
    frames, landmarks = clip(1)
    painted = paint(
        trained_a_little(WHOLE), {"steps": 2, "batch_size": 1}, frames, landmarks, np.zeros((1, 16), np.float32)
    )
    changed = np.argwhere((pasted(frames, painted.windows, painted.corners) != frames).any(axis=3)[0])
    assert len(changed) > 500
    low, high = changed.min(axis=0), changed.max(axis=0)
    assert landmarks[0, 6, 0] - 20 < low[1] < high[1] < landmarks[0, 10, 0] + 20
    assert landmarks[0, 30, 1] - 20 < low[0] < high[0] < landmarks[0, 8, 1] + 25


@pytest.mark.parametrize("config", [WINDOWED, WHOLE])
def test_lip_references_tell_the_avatars_own_mouth(config: RendererConfig) -> None:
    count = 20 if config.window else 2
    frames, landmarks = clip(count)
    references = lip_references(trained_a_little(config), frames, landmarks)
    assert references.shape == (min(count, 16), 16)
    assert references.dtype == np.float32
    assert np.isfinite(references).all()


def test_smoothing_steadies_landmarks_without_moving_a_still_face() -> None:
    _, landmarks = clip(30)
    still = np.repeat(landmarks[:1], 30, axis=0)
    noise = np.random.default_rng(0).normal(0, 1, still.shape).astype(np.float32)
    assert np.allclose(smoothed(still, 1.0), still, atol=1e-4)
    assert smoothed(still + noise, 1.0).std(axis=0).mean() < 0.7


@pytest.mark.parametrize("settings", [{"strength": 1}, {"steps": -1}, {"steps": "many"}])
def test_settings_that_do_not_exist_or_make_no_sense_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match="renderer setting"):
        PaintSettings.of(settings)


def test_lengths_that_do_not_agree_are_refused(renderer: Renderer) -> None:
    frames, landmarks = clip(2)
    with pytest.raises(InputError, match="2 frames"):
        paint(renderer, {}, frames, landmarks, np.zeros((3, 16), np.float32))
