"""The avatar bundles that come with the library, made from nothing but code: drawn presenters and flite voices."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from avatarlab import SAMPLE_RATE_HZ
from avatarlab.media import VideoWriter, write_poster, write_wav
from avatarlab.training.articulation import with_idle
from avatarlab.training.canvas import Canvas, Colour, Points
from avatarlab.training.corpus import synthesise
from avatarlab.training.presenters import BUNDLED, Drawing, FaceState, Presenter, draw

PICTURE_PX = 512
IDLE_FRAMES = 112
IDLE_SMILE = 0.15
BACKGROUND_SIZE = (1280, 720)


@dataclass(frozen=True)
class Cast:
    """Who a bundled presenter is and how it sounds."""

    name: str
    voice: str
    transcript: str


CAST: dict[str, Cast] = {
    "ada": Cast("Ada", "slt", "Welcome to the lecture. We look at a simple question."),
    "ben": Cast("Ben", "rms", "Good morning. Let us begin with a short story."),
    "carl": Cast("Carl", "kal16", "Thank you for joining me. We take one step at a time."),
}
"""Transcripts last between 3.0 and 3.6 seconds in their voices: a bundle needs 3 seconds, a short prompt is cheap."""


def idle_states(id: str, frames: int = IDLE_FRAMES) -> list[FaceState]:
    """A listening face: shut mouth with a trace of a smile, breath, blinks, a slow sway; the first frame is neutral."""
    seed = BUNDLED[id].seed
    return with_idle([FaceState(smile=IDLE_SMILE)] * frames, np.random.default_rng(seed))


def idle_clip(id: str, frames: int = IDLE_FRAMES, size_px: int = PICTURE_PX) -> Iterator[Drawing]:
    for state in idle_states(id, frames):
        yield draw(BUNDLED[id], state, size_px)


def _toml(id: str) -> str:
    cast = CAST[id]
    return f'''name = "{cast.name}"
licence = "CC0-1.0"
background = "background.jpg"

[consent]
who = "Nobody: {cast.name} is drawn by avatarlab.training.presenters and speaks with the flite voice {cast.voice}"
when = "2026-11-22"
purpose = "Any use: the presenter is synthetic and modelled on nobody."

[voice]
transcript = "{cast.transcript}"
'''


def build_bundled(
    out_dir: Path,
    frames: int = IDLE_FRAMES,
    size_px: int = PICTURE_PX,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Make the folder of every bundled presenter below `out_dir`; returns the folders.

    `progress(done, total)` counts frames. Raises SettingsError when flite is not installed.
    """
    folders, done = [], 0
    for id, cast in CAST.items():
        folder = out_dir / id
        folder.mkdir(parents=True, exist_ok=True)
        points: list[Float[np.ndarray, "68 2"]] = []
        with (
            VideoWriter(folder / "picture.mp4", size_px, size_px, title=cast.name, crf=14, preset="slow") as picture,
            VideoWriter(folder / "matte.mp4", size_px, size_px, title=cast.name, crf=12, preset="slow") as matte,
        ):
            for drawing in idle_clip(id, frames, size_px):
                picture.write_frame(drawing.image)
                matte.write_frame(np.repeat(drawing.alpha[..., None], 3, axis=2))
                points.append(drawing.landmarks)
                done += 1
                if progress is not None:
                    progress(done, frames * len(CAST))
        np.save(folder / "landmarks.npy", np.stack(points).astype(np.float32))
        waveform, _ = synthesise(cast.transcript, cast.voice)
        write_wav(folder / "voice.wav", waveform.astype(np.float32) / 32768, SAMPLE_RATE_HZ)
        write_poster(folder / "background.jpg", studio_wall(BUNDLED[id], *BACKGROUND_SIZE))
        (folder / "avatar.toml").write_text(_toml(id), encoding="utf-8")
        folders.append(folder)
    return folders


def _dithered(picture: Float[np.ndarray, "h w 3"], seed: int) -> UInt8[np.ndarray, "h w 3"]:
    """Rounded with a little noise, so that slow gradients show no bands."""
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, picture.shape[:2])[..., None]
    return np.clip(np.rint(picture * 255 + noise), 0, 255).astype(np.uint8)


def studio_wall(presenter: Presenter, width: int, height: int) -> UInt8[np.ndarray, "height width 3"]:
    """The soft wall behind a presenter, for any size of picture."""
    x = (np.arange(width) + 0.5) / height - 0.5 * width / height
    y = (np.arange(height) + 0.5) / height
    centre = 0.35 * np.sign(presenter.light)
    glow = np.exp(-(((y - 0.36) / 0.60) ** 2))[:, None] * np.exp(-(((x - centre) / 0.85) ** 2))[None, :]
    level = 0.80 - 0.10 * y[:, None] + 0.30 * glow
    return _dithered(np.clip(level[..., None] * np.asarray(presenter.backdrop), 0, 1), presenter.seed)


def _box(x0: float, y0: float, x1: float, y1: float) -> Points:
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def lecture_room(width: int = 1280, height: int = 720, seed: int = 4) -> UInt8[np.ndarray, "height width 3"]:
    """A quiet room out of focus: a window, a board, shelves with books and a plant."""
    rng = np.random.default_rng(seed)
    canvas = Canvas(0.0, 0.0, 1.0, width)
    bottom = height / width
    y = ((np.arange(width) + 0.5) / width)[:, None]
    for channel, (high, low) in enumerate(zip((0.90, 0.88, 0.84), (0.78, 0.75, 0.70), strict=True)):
        canvas.rgb[..., channel] = high + (low - high) * np.clip(y / bottom, 0, 1)

    def rect(
        x0: float, y0: float, x1: float, y1: float, colour: Colour, blur: float = 0.004, opacity: float = 1.0
    ) -> None:
        canvas.fill(_box(x0, y0, x1, y1), colour, opacity, blur)

    # The window on the left and the light it throws.
    rect(0.025, 0.03, 0.235, 0.41, (0.97, 0.96, 0.94))
    rect(0.04, 0.045, 0.22, 0.395, (0.80, 0.90, 0.97), 0.006)
    rect(0.04, 0.28, 0.22, 0.395, (0.70, 0.82, 0.68), 0.02, 0.8)
    rect(0.126, 0.045, 0.134, 0.395, (0.97, 0.96, 0.94))
    rect(0.04, 0.205, 0.22, 0.213, (0.97, 0.96, 0.94))
    canvas.fill(np.array([(0.24, 0.02), (0.62, 0.30), (0.62, 0.60), (0.24, 0.42)]), (1.0, 0.97, 0.90), 0.35, 0.05)
    # The board.
    rect(0.315, 0.085, 0.665, 0.345, (0.50, 0.40, 0.31))
    rect(0.323, 0.093, 0.657, 0.337, (0.23, 0.36, 0.33))
    canvas.fill(_box(0.33, 0.10, 0.50, 0.20), (0.40, 0.52, 0.48), 0.35, 0.04)
    for row in range(4):
        start = 0.345 + 0.01 * rng.random()
        rect(
            start,
            0.125 + 0.045 * row,
            start + rng.uniform(0.09, 0.20),
            0.131 + 0.045 * row,
            (0.86, 0.90, 0.86),
            0.004,
            0.42,
        )
    # Shelves with books on the right.
    rect(0.745, 0.05, 0.985, bottom, (0.60, 0.45, 0.33))
    spines: tuple[Colour, ...] = (
        (0.62, 0.28, 0.25),
        (0.25, 0.38, 0.50),
        (0.80, 0.66, 0.40),
        (0.34, 0.46, 0.36),
        (0.85, 0.82, 0.74),
        (0.45, 0.33, 0.42),
    )
    for shelf in range(4):
        top, foot = 0.065 + 0.125 * shelf, 0.172 + 0.125 * shelf
        rect(0.755, top, 0.975, foot, (0.40, 0.29, 0.21))
        x = 0.758
        while x < 0.955:
            thick = rng.uniform(0.010, 0.021)
            if rng.random() < 0.86:
                tall = rng.uniform(0.06, 0.095)
                rect(x, foot - tall, x + thick * 0.92, foot, spines[int(rng.integers(len(spines)))], 0.003)
            x += thick
    # A plant on the floor under the window, the skirting.
    rect(0.0, bottom - 0.03, 1.0, bottom, (0.66, 0.60, 0.54), 0.006, 0.7)
    for _ in range(26):
        angle, length = rng.uniform(-1.2, 1.2), rng.uniform(0.06, 0.13)
        tip = np.array([0.275 + length * np.sin(angle), bottom - 0.085 - length * np.cos(angle)])
        foot_point = np.array([0.275, bottom - 0.075])
        side = np.array([np.cos(angle), np.sin(angle)]) * 0.012
        middle = 0.5 * (tip + foot_point)
        green = float(rng.uniform(0.34, 0.52))
        canvas.fill(np.stack([foot_point, middle + side, tip, middle - side]), (0.25, green, 0.28), 0.95, 0.003)
    rect(0.248, bottom - 0.085, 0.302, bottom - 0.01, (0.76, 0.52, 0.40), 0.004)
    picture = cv2.GaussianBlur(canvas.rgb[:height], (0, 0), width / 210)
    return _dithered(picture, seed)
