"""Latents to pixels: only the masked mouth changes, whatever the batch."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from test_mask import face

from avatarlab.avatars import AvatarFrames
from avatarlab.errors import AvatarError, InputError, SettingsError
from avatarlab.lips.diffdub import Renderer, RendererConfig
from avatarlab.lips.drawing import Drawer
from avatarlab.lips.life import LifeSettings, Living
from avatarlab.lips.lip_images import lip_references
from avatarlab.lips.mask import PaintedFrame, mouth_alpha, mouth_windows, smoothed
from avatarlab.lips.paint import Painter, PaintSettings

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


def sitter(frames: np.ndarray, landmarks: np.ndarray, found: np.ndarray | None = None) -> Living:
    seen = np.ones(len(frames), bool) if found is None else found
    still = LifeSettings(blinks=False, sway=0.0, breath=0.0)
    return Living(AvatarFrames(frames, None, landmarks.astype(np.float32), seen), still, seed=0)


def painted(
    painter: Painter, poses: Sequence[int], latents: np.ndarray, emphasis: Sequence[int] | None = None
) -> list[PaintedFrame]:
    levels = np.zeros(len(poses), np.uint8) if emphasis is None else np.array(emphasis, np.uint8)
    return list(painter.paint(np.array(poses), levels, latents))


def pasted(picture: np.ndarray, frame: PaintedFrame) -> np.ndarray:
    whole = picture.copy()
    x, y = frame.corner
    whole[y : y + frame.window.shape[0], x : x + frame.window.shape[1]] = frame.window
    return whole


def some_latents(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 16)).astype(np.float32)


@pytest.mark.parametrize("level", [0, 4])
def test_pixels_outside_the_mask_are_bit_equal_and_inside_they_change(renderer: Renderer, level: int) -> None:
    frames, landmarks = clip(5)
    living = sitter(frames, landmarks)
    painter = Painter(renderer, PaintSettings(smoothing_frames=0.0), living)
    rows, columns = np.indices(frames.shape[1:3])
    for index, frame in enumerate(painted(painter, range(5), some_latents(5), [level] * 5)):
        before = living.picture(index, level)
        after = pasted(before, frame)
        (center,), side = mouth_windows(living.landmarks(index, level)[None])
        side = mouth_windows(landmarks)[1]
        masked, alpha = mouth_alpha((columns + 0.5 - center[0]) / side, (rows + 0.5 - center[1]) / side)
        assert np.array_equal(before[masked == 0], after[masked == 0])
        assert (before[alpha == 1] != after[alpha == 1]).any()


def test_all_windows_of_a_clip_have_one_size_and_stay_inside_the_picture(renderer: Renderer) -> None:
    painter = Painter(renderer, PaintSettings(), sitter(*clip(4, height=360, width=300)))
    frames = painted(painter, range(4), np.zeros((4, 16), np.float32))
    (size,) = {frame.window.shape for frame in frames}
    assert all(0 <= x <= 300 - size[1] and 0 <= y <= 360 - size[0] for x, y in (frame.corner for frame in frames))
    assert {frame.window.dtype for frame in frames} == {np.dtype(np.uint8)}


@pytest.mark.parametrize("count", [1, 3, 5])
def test_a_frame_does_not_depend_on_its_neighbours_or_on_the_last_batch(renderer: Renderer, count: int) -> None:
    living, latents = sitter(*clip(5)), some_latents(5)
    whole = painted(Painter(renderer, PaintSettings(batch_size=2), living), range(5), latents)
    part = painted(Painter(renderer, PaintSettings(batch_size=2), living), range(count), latents[:count])
    assert all(np.array_equal(one.window, other.window) for one, other in zip(whole, part, strict=False))


def test_painting_is_seeded_and_every_frame_gets_the_same_noise(renderer: Renderer) -> None:
    frames, landmarks = clip(1)
    living = sitter(np.repeat(frames, 2, axis=0), np.repeat(landmarks, 2, axis=0))

    def windows(seed: int) -> list[np.ndarray]:
        painter = Painter(renderer, PaintSettings.of({"seed": seed, "steps": 2}), living)
        return [frame.window for frame in painted(painter, [0, 1], np.ones((2, 16), np.float32))]

    assert np.array_equal(*windows(3))
    assert np.array_equal(windows(3), windows(3))
    assert not np.array_equal(windows(3), windows(4))


def test_an_untrained_renderer_gives_the_idle_frame_back_to_the_last_bit() -> None:
    torch.manual_seed(0)
    frames, landmarks = clip(2)
    painter = Painter(Renderer(WINDOWED).eval(), PaintSettings(), sitter(frames, landmarks))
    for picture, frame in zip(frames, painted(painter, [0, 1], np.ones((2, 16), np.float32)), strict=True):
        assert np.array_equal(pasted(picture, frame), picture)


def test_what_is_asked_for_again_is_not_drawn_again(renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    painter = Painter(renderer, PaintSettings(batch_size=4), sitter(*clip(3)))
    drawn: list[int] = []
    draw = Drawer.draw

    def counted(self: Drawer, start: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        drawn.append(len(start))
        return draw(self, start, *rest)

    monkeypatch.setattr(Drawer, "draw", counted)
    shut = np.zeros((7, 16), np.float32)
    first = painted(painter, [0, 1, 2, 2, 1, 0, 0], shut)
    assert sum(drawn) == 3
    again = painted(painter, [2, 1, 0], shut[:3])
    assert sum(drawn) == 3
    assert np.array_equal(first[0].window, again[2].window)
    painted(painter, [0], np.ones((1, 16), np.float32))
    assert sum(drawn) == 4


def test_frames_without_a_face_pass_through_untouched_and_say_so(renderer: Renderer) -> None:
    frames, landmarks = clip(12)
    frames, landmarks = np.repeat(frames[:1], 12, axis=0), np.repeat(landmarks[:1], 12, axis=0)
    found = np.ones(12, bool)
    found[:3] = False
    living = sitter(frames, landmarks, found)
    result = painted(Painter(renderer, PaintSettings(), living), range(12), np.repeat(some_latents(1), 12, axis=0))
    assert [frame.drawn for frame in result] == found.tolist()
    assert all(np.array_equal(pasted(frames[0], frame), frames[0]) for frame in result[:3])
    changed = [float(np.abs(pasted(frames[0], frame).astype(int) - frames[0]).mean()) for frame in result[3:]]
    assert 0 < changed[0] < 0.5 * changed[-1]
    assert all(before <= after for before, after in itertools.pairwise(changed))


def test_the_mouth_of_a_head_that_turns_away_fades_out(renderer: Renderer) -> None:
    frames, landmarks = clip(2)
    away = landmarks.copy()
    away[:, 27:36, 0] += 0.8 * (away[:, 16, 0] - away[:, 0, 0])[:, None]  # the nose beyond the edge of the jaw
    latents = some_latents(1)
    (turned,) = painted(Painter(renderer, PaintSettings(), sitter(frames, away)), [0], latents)
    assert not turned.drawn
    assert np.array_equal(pasted(frames[0], turned), frames[0])


def test_a_sitter_without_any_face_is_refused(renderer: Renderer) -> None:
    frames, landmarks = clip(2)
    with pytest.raises(AvatarError, match="no face was found"):
        Painter(renderer, PaintSettings(), sitter(frames, landmarks, np.zeros(2, bool)))


def test_poses_levels_and_latents_of_different_number_are_refused(renderer: Renderer) -> None:
    with pytest.raises(InputError, match="2 poses, 2 levels of emphasis and 3 latents"):
        painted(Painter(renderer, PaintSettings(), sitter(*clip(2))), [0, 1], some_latents(3))


def test_the_published_geometry_paints_inside_its_polygon_only() -> None:
    frames, landmarks = clip(1)
    painter = Painter(trained_a_little(WHOLE), PaintSettings(steps=2, batch_size=1), sitter(frames, landmarks))
    (frame,) = painted(painter, [0], np.zeros((1, 16), np.float32))
    changed = np.argwhere((pasted(frames[0], frame) != frames[0]).any(axis=2))
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


@pytest.mark.parametrize(
    "settings",
    [
        {"strength": 1},
        {"steps": -1},
        {"steps": "many"},
        {"solver": "euler"},
        {"solver": 3},
        {"precision": "half"},
        {"batch_size": 0},
    ],
)
def test_settings_that_do_not_exist_or_make_no_sense_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match="renderer setting"):
        PaintSettings.of(settings)
