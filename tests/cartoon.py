"""A face drawn in twenty lines and a bundle made of it, for tests that need an avatar and no beauty."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from avatarlab.media import VideoWriter, write_lossless, write_wav

cv2.setNumThreads(1)

TOML = """\
name = "Cartoon"
licence = "CC0-1.0"
background = "#203040"

[consent]
who = "nobody: it is drawn"
when = "2026-01-01"
purpose = "tests"

[voice]
transcript = "one two three four five six seven eight"
"""


def draw(shift: tuple[float, float] = (0.0, 0.0), size: int = 256) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A picture uint8 (h, w, 3), its opacity uint8 (h, w) and 68 landmarks float32 (68, 2), moved by `shift` pixels."""
    unit = size / 256
    image = np.full((size, size, 3), (200, 190, 170), np.uint8)
    alpha = np.zeros((size, size), np.uint8)

    def ellipse(x: float, y: float, width: float, height: float, colour: Any, canvas: np.ndarray = image) -> None:
        center = (round((x * unit + shift[0]) * 16), round((y * unit + shift[1]) * 16))
        axes = (round(width * unit * 16), round(height * unit * 16))
        cv2.ellipse(canvas, center, axes, 0, 0, 360, colour, -1, cv2.LINE_AA, 4)

    for canvas, body, skin in ((image, (40, 60, 120), (224, 172, 140)), (alpha, 255, 255)):
        ellipse(128, 260, 100, 60, body, canvas)
        ellipse(128, 120, 62, 84, skin, canvas)
    for x in (103, 153):
        ellipse(x, 72, 16, 3, (60, 40, 30))
        ellipse(x, 95, 11, 6, (255, 255, 255))
        ellipse(x, 95, 5, 5, (50, 30, 20))
    ellipse(128, 132, 9, 4, (190, 130, 105))
    ellipse(128, 160, 21, 6, (180, 80, 80))
    ellipse(128, 160, 19, 1.2, (70, 20, 20))

    angles = np.linspace(0, np.pi, 17)
    ring = np.linspace(np.pi, 3 * np.pi, 6, endpoint=False)
    lips, mouth = np.linspace(np.pi, 3 * np.pi, 12, endpoint=False), np.linspace(np.pi, 3 * np.pi, 8, endpoint=False)
    around = lambda x, y, a, b, t: np.stack([x + a * np.cos(t), y + b * np.sin(t)], 1)  # noqa: E731
    points = np.concatenate(
        [
            np.stack([128 - 62 * np.cos(angles), 120 + 84 * np.sin(angles)], 1),
            np.stack([np.linspace(87, 119, 5), np.full(5, 72)], 1),
            np.stack([np.linspace(137, 169, 5), np.full(5, 72)], 1),
            np.stack([np.full(4, 128), np.linspace(95, 125, 4)], 1),
            np.stack([np.linspace(119, 137, 5), np.full(5, 134)], 1),
            around(103, 95, 11, 6, ring),
            around(153, 95, 11, 6, ring),
            around(128, 160, 21, 6, lips),
            around(128, 160, 19, 1.2, mouth),
        ]
    )
    return image, alpha, (points * unit + shift).astype(np.float32)


def sway(count: int, size: int = 256) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A clip of the face moving sideways by a fraction of a pixel per frame: frames, mattes, landmarks."""
    drawn = [draw((6 * float(np.sin(index / 8)) * size / 256, 0.0), size) for index in range(count)]
    frames, mattes, landmarks = (np.stack(parts) for parts in zip(*drawn, strict=True))
    return frames, mattes, landmarks


def speechlike(seconds: float, sample_rate_hz: int = 16_000, seed: int = 0) -> np.ndarray:
    """Buzzing syllables with pauses: float32 (s,)."""
    time = np.arange(round(seconds * sample_rate_hz)) / sample_rate_hz
    buzz = sum(np.sin(2 * np.pi * 120 * harmonic * time) / harmonic for harmonic in range(1, 12))
    syllables = np.clip(np.sin(2 * np.pi * 2.5 * time), 0, None)
    hiss = 1e-4 * np.random.default_rng(seed).standard_normal(len(time))
    return (0.2 * buzz * syllables + hiss).astype(np.float32)


def write_bundle(
    root: Path,
    id: str = "cartoon",
    *,
    count: int = 10,
    still: bool = False,
    matte: bool = True,
    landmarks: bool = True,
    size: int = 256,
    voice: np.ndarray | None = None,
    toml: str = TOML,
) -> Path:
    """A complete bundle; with `still` its picture is a PNG with opacity."""
    folder = root / id
    folder.mkdir(parents=True)
    (folder / "avatar.toml").write_text(toml)
    frames, mattes, points = sway(1 if still else count, size)
    if still:
        picture = np.dstack([frames[0], mattes[0]]) if matte else frames[0]
        order = cv2.COLOR_RGBA2BGRA if matte else cv2.COLOR_RGB2BGR
        cv2.imwrite(str(folder / "picture.png"), cv2.cvtColor(picture, order))
    else:
        with VideoWriter(folder / "picture.mp4", size, size, crf=14) as writer:
            for frame in frames:
                writer.write_frame(frame)
        if matte:
            write_lossless(folder / "matte.mp4", mattes)
    if landmarks:
        np.save(folder / "landmarks.npy", points)
    write_wav(folder / "voice.wav", speechlike(4.0) if voice is None else voice)
    return folder
