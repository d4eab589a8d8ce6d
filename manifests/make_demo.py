"""Writes the demo: `demo.parquet` with three rows, and the picture behind one. Run `python manifests/make_demo.py`."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from avatarlab.manifest import write_manifest

HERE = Path(__file__).parent
FINER = 3  # the picture is drawn so much larger and scaled down

ROWS: list[dict[str, object]] = [
    {
        "id": "light-01",
        "title": "Light and color",
        "avatar": "ada",
        "script": (
            "Welcome to the first lecture. Today we look at light and color.\n\n"
            "White light holds every color of the rainbow. A drop of rain bends each color a little. "
            "That is why we see a rainbow after the rain."
        ),
        "background": "#d9cdbd",
        "width": 1280,
        "height": 720,
        "course": "Physics for everyone",
    },
    {
        "id": "moon-02",
        "title": "How far away is the moon?",
        "avatar": "ben",
        "script": (
            "How far away is the moon? In 1969 Dr. Faller sent light to it and back. [pause 1.0] "
            "The light was on its way for 2.5 seconds. So the moon is 384 thousand kilometers away.\n\n"
            "We never see it as it is now."
        ),
        "background": "backgrounds/moon.jpg",
        "width": 1280,
        "height": 720,
        "course": "Physics for everyone",
    },
    {
        "id": "plan-03",
        "title": "A good plan",
        "avatar": "carl",
        "script": (
            "A good plan has three parts. First, you write down what you know. "
            "Then you ask what is still missing.\n\n"
            "Last, you try the simple way before the hard one. Most of the time the simple way is enough."
        ),
        "background": "#5b3f4a",
        "width": 720,
        "height": 720,
        "course": "Learning to learn",
    },
]


def night_sky(width: int = 1280, height: int = 720) -> Image.Image:
    """A dark sky with stars and a full moon in the upper right."""
    w, h = width * FINER, height * FINER
    rows = np.linspace(0.0, 1.0, h)[:, None, None]
    top, bottom = np.array([13.0, 20.0, 44.0]), np.array([58.0, 74.0, 112.0])
    sky = np.broadcast_to(top + (bottom - top) * rows, (h, w, 3)).astype(np.uint8)
    picture = Image.fromarray(sky)
    draw = ImageDraw.Draw(picture)
    rng = np.random.default_rng(7)
    for x, y, size in zip(rng.uniform(0, w, 220), rng.uniform(0, 0.8 * h, 220), rng.exponential(1.1, 220), strict=True):
        radius = FINER * min(0.5 + size, 2.6)
        shade = int(150 + 100 * rng.random())
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(shade, shade, min(255, shade + 12)))
    x, y, radius = 0.84 * w, 0.24 * h, 0.14 * h
    glow = Image.new("L", (w, h), 0)
    ImageDraw.Draw(glow).ellipse((x - 1.5 * radius, y - 1.5 * radius, x + 1.5 * radius, y + 1.5 * radius), fill=90)
    picture.paste((190, 200, 225), mask=glow.filter(ImageFilter.GaussianBlur(0.5 * radius)))
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(236, 234, 222))
    for angle, distance, size in (
        (0.6, 0.45, 0.22),
        (2.4, 0.5, 0.16),
        (3.7, 0.3, 0.27),
        (5.2, 0.6, 0.13),
        (4.6, 0.1, 0.1),
    ):
        cx, cy, r = x + distance * radius * np.cos(angle), y + distance * radius * np.sin(angle), size * radius
        draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=(216, 213, 200))
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def main() -> None:
    (HERE / "backgrounds").mkdir(exist_ok=True)
    night_sky().save(HERE / "backgrounds/moon.jpg", quality=90)
    write_manifest(HERE / "demo.parquet", ROWS)


if __name__ == "__main__":
    main()
