"""Illustrated presenters: people drawn by code, with a mouth that speaks.

`faces` says where everything lies, `artist` paints it; here are the people and the one verb, `draw`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from avatarlab.training.artist import Artist
from avatarlab.training.canvas import Canvas, Colour, mix, scaled
from avatarlab.training.faces import (
    BEARDS,
    CLOTHES,
    GLASSES,
    FaceState,
    Mouth,
    Presenter,
    landmarks,
    mouth_opening,
    mouth_shape,
)

__all__ = [
    "BEARDS",
    "BUNDLED",
    "CLOTHES",
    "GLASSES",
    "Drawing",
    "FaceState",
    "Mouth",
    "Presenter",
    "draw",
    "landmarks",
    "mouth_opening",
    "mouth_shape",
    "sample_presenter",
]


@dataclass(frozen=True)
class Drawing:
    image: UInt8[np.ndarray, "h w 3"]  # RGB
    alpha: UInt8[np.ndarray, "h w"]  # 255 where the presenter is
    landmarks: Float[np.ndarray, "68 2"]  # iBUG order, pixels of `image`, integers are pixel centres
    mouth_opening: float  # gap between the inner lips over the width of the mouth at rest


def draw(
    presenter: Presenter, state: FaceState, size_px: int = 512, roi: tuple[float, float, float] | None = None
) -> Drawing:
    """One frame, or the square part `roi` = (x, y, side) of it in image units (the whole picture is (0, 0, 1)).

    The same part drawn at any resolution shows the same picture. Landmarks are in pixels of the part drawn.
    """
    x, y, side = roi if roi is not None else (0.0, 0.0, 1.0)
    canvas = Canvas(x, y, side, size_px)
    Artist(presenter, state, canvas).draw()
    points = canvas.to_pixels(landmarks(presenter, state).astype(np.float64))
    return Drawing(
        image=canvas.image(),
        alpha=np.rint(np.clip(canvas.alpha, 0, 1) * 255).astype(np.uint8),
        landmarks=points.astype(np.float32),
        mouth_opening=mouth_opening(presenter, state),
    )


# People -------------------------------------------------------------------------------------------------------------

SKINS: tuple[Colour, ...] = (
    (0.98, 0.84, 0.75), (0.96, 0.79, 0.68), (0.92, 0.73, 0.60), (0.87, 0.66, 0.51), (0.78, 0.56, 0.41),
    (0.66, 0.45, 0.32), (0.54, 0.35, 0.25), (0.43, 0.28, 0.21),
)  # fmt: skip
HAIRS: tuple[Colour, ...] = (
    (0.11, 0.09, 0.09), (0.20, 0.13, 0.10), (0.32, 0.20, 0.13), (0.45, 0.29, 0.17), (0.58, 0.34, 0.18),
    (0.80, 0.62, 0.38), (0.66, 0.65, 0.65), (0.86, 0.85, 0.84), (0.55, 0.22, 0.12),
)  # fmt: skip
EYES: tuple[Colour, ...] = (
    (0.30, 0.19, 0.11),
    (0.42, 0.28, 0.15),
    (0.30, 0.42, 0.30),
    (0.30, 0.46, 0.60),
    (0.45, 0.50, 0.52),
)
FABRICS: tuple[Colour, ...] = (
    (0.20, 0.32, 0.48), (0.55, 0.22, 0.24), (0.22, 0.42, 0.38), (0.80, 0.70, 0.52), (0.34, 0.30, 0.44),
    (0.86, 0.86, 0.84), (0.25, 0.26, 0.29), (0.78, 0.50, 0.36), (0.45, 0.58, 0.68), (0.70, 0.45, 0.52),
    (0.36, 0.48, 0.30),
)  # fmt: skip
BACKDROPS: tuple[Colour, ...] = (
    (0.80, 0.84, 0.87),
    (0.88, 0.84, 0.78),
    (0.78, 0.85, 0.82),
    (0.84, 0.82, 0.88),
    (0.86, 0.86, 0.85),
)


def sample_presenter(rng: np.random.Generator) -> Presenter:
    """A random person; the same generator state gives the same one."""

    def pick(options: Sequence[Colour]) -> Colour:
        return options[int(rng.integers(len(options)))]

    def jittered(colour: Colour, amount: float) -> Colour:
        r, g, b = np.clip(np.array(colour) * (1 + rng.normal(0, amount, 3) * 0.5 + rng.normal(0, amount)), 0.03, 0.99)
        return (float(r), float(g), float(b))

    skin = jittered(pick(SKINS), 0.03)
    age = float(rng.beta(1.6, 2.6))
    man = rng.random() < 0.5
    dark = 1 - (0.3 * skin[0] + 0.59 * skin[1] + 0.11 * skin[2])
    colours = HAIRS[:3] if dark > 0.45 else HAIRS
    hair_colour = jittered(pick(colours), 0.06)
    if age > 0.62:
        hair_colour = jittered(pick(HAIRS[6:8]), 0.04)
    hair = str(
        rng.choice(
            ["short", "side", "crop", "bald", "curly", "short", "side"]
            if man
            else ["bob", "long", "wavy", "bun", "ponytail", "curly", "fringe", "long"]
        )
    )
    natural = mix(scaled(skin, 0.80), (0.72, 0.30, 0.32), 0.42)
    lips = mix(natural, (0.74, 0.24, 0.28), float(rng.uniform(0.0, 0.15 if man else 0.55)))
    beard = "none"
    if man and rng.random() < 0.5:
        beard = str(rng.choice(["stubble", "full", "goatee", "moustache"]))
    return Presenter(
        seed=int(rng.integers(1 << 30)),
        skin=skin,
        lips=jittered(lips, 0.03),
        hair=hair,
        hair_colour=hair_colour,
        eye_colour=jittered(pick(EYES[:2] if dark > 0.45 else EYES), 0.06),
        eye_size=float(rng.uniform(0.92, 1.12)),
        eye_tilt=float(rng.uniform(-0.6, 0.9)),
        eye_open=float(rng.uniform(0.82, 1.1)),
        lashes=float(rng.uniform(0.05, 0.4) if man else rng.uniform(0.5, 1.0)),
        brow_weight=float(rng.uniform(0.9, 1.45) if man else rng.uniform(0.6, 0.95)),
        brow_arch=float(rng.uniform(0.1, 0.6) if man else rng.uniform(0.4, 1.0)),
        nose_width=float(rng.uniform(0.85, 1.3)),
        nose_length=float(rng.uniform(0.92, 1.1)),
        mouth_width=float(rng.uniform(0.32, 0.40)),
        lip_upper=float(rng.uniform(0.06, 0.11)),
        lip_lower=float(rng.uniform(0.09, 0.145)),
        jaw_width=float(rng.uniform(0.97, 1.1) if man else rng.uniform(0.88, 1.0)),
        chin_length=float(rng.uniform(0.95, 1.07)),
        cheeks=float(rng.uniform(0.1, 0.5) if man else rng.uniform(0.3, 0.9)),
        age=age,
        freckles=float(rng.uniform(0.3, 1.0)) if rng.random() < 0.12 and dark < 0.3 else 0.0,
        glasses=str(rng.choice(["none", "none", "round", "square", "thin"])),
        glasses_colour=pick(((0.13, 0.11, 0.11), (0.35, 0.20, 0.12), (0.20, 0.24, 0.34), (0.50, 0.42, 0.30))),
        beard=beard,
        clothes=str(
            rng.choice(
                ["sweater", "shirt", "jacket", "turtleneck", "tee"]
                if man
                else ["sweater", "shirt", "jacket", "blouse", "turtleneck", "tee"]
            )
        ),
        clothes_colour=jittered(pick(FABRICS), 0.06),
        shirt_colour=pick(((0.96, 0.95, 0.93), (0.80, 0.87, 0.94), (0.95, 0.88, 0.86), (0.90, 0.90, 0.82))),
        shoulders=float(rng.uniform(1.0, 1.12) if man else rng.uniform(0.86, 0.98)),
        earrings=bool(not man and rng.random() < 0.5),
        light=float(rng.choice([-1, 1]) * rng.uniform(0.25, 0.9)),
        backdrop=pick(BACKDROPS),
    )


BUNDLED: dict[str, Presenter] = {
    "ada": Presenter(
        seed=101,
        skin=(0.95, 0.78, 0.67),
        lips=(0.80, 0.40, 0.40),
        hair="wavy",
        hair_colour=(0.36, 0.22, 0.14),
        eye_colour=(0.36, 0.42, 0.28),
        eye_size=1.12,
        eye_tilt=0.4,
        lashes=0.8,
        brow_weight=0.78,
        brow_arch=0.8,
        nose_width=0.92,
        mouth_width=0.37,
        lip_upper=0.088,
        lip_lower=0.125,
        jaw_width=0.94,
        cheeks=0.6,
        age=0.15,
        clothes="jacket",
        clothes_colour=(0.18, 0.34, 0.42),
        shirt_colour=(0.96, 0.93, 0.90),
        shoulders=0.92,
        earrings=True,
        light=-0.55,
        backdrop=(0.84, 0.86, 0.86),
    ),
    "ben": Presenter(
        seed=202,
        skin=(0.58, 0.39, 0.28),
        lips=(0.56, 0.30, 0.28),
        hair="crop",
        hair_colour=(0.10, 0.08, 0.08),
        eye_colour=(0.28, 0.17, 0.10),
        eye_size=1.08,
        lashes=0.3,
        brow_weight=1.2,
        brow_arch=0.4,
        nose_width=1.2,
        mouth_width=0.385,
        lip_upper=0.10,
        lip_lower=0.135,
        jaw_width=1.04,
        cheeks=0.3,
        age=0.25,
        glasses="round",
        glasses_colour=(0.16, 0.12, 0.10),
        clothes="sweater",
        clothes_colour=(0.80, 0.60, 0.28),
        shoulders=1.06,
        light=0.5,
        backdrop=(0.82, 0.86, 0.86),
    ),
    "carl": Presenter(
        seed=303,
        skin=(0.93, 0.74, 0.63),
        lips=(0.76, 0.48, 0.45),
        hair="side",
        hair_colour=(0.70, 0.69, 0.68),
        eye_colour=(0.32, 0.46, 0.58),
        eye_size=0.98,
        eye_tilt=-0.3,
        eye_open=0.9,
        lashes=0.15,
        brow_weight=1.25,
        brow_arch=0.35,
        nose_width=1.1,
        nose_length=1.05,
        mouth_width=0.365,
        lip_upper=0.075,
        lip_lower=0.11,
        jaw_width=1.05,
        cheeks=0.4,
        age=0.72,
        beard="full",
        clothes="shirt",
        clothes_colour=(0.62, 0.72, 0.82),
        shoulders=1.08,
        light=-0.45,
        backdrop=(0.88, 0.85, 0.80),
    ),
}
"""The presenters that come with the library."""
