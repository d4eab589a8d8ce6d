"""What the face does while phones are spoken: phone times in, one `FaceState` per video frame out.

Every phone pulls jaw, lips and tongue towards its own posture. How strongly, and how far before and after its own
time, depends on the phone (dominance functions after Cohen and Massaro 1993, "Modeling coarticulation in synthetic
visual speech"): a rounded vowel rounds the consonants before it, a closure of the lips is never given up.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from avatarlab import FPS
from avatarlab.lips.life import blinks
from avatarlab.training.corpus import Phone
from avatarlab.training.presenters import FaceState

SILENCE = "pau"
BILABIALS = frozenset({"p", "b", "m"})
LABIODENTALS = frozenset({"f", "v"})


@dataclass(frozen=True)
class Posture:
    """Where a phone wants the mouth, and how strongly it wants jaw, lip shape and tongue there (0 does not care)."""

    jaw: float
    width: float = 0.0
    round: float = 0.0
    tongue: float = 0.0
    jaw_pull: float = 1.0
    lip_pull: float = 0.5
    tongue_pull: float = 0.3


_OPEN = {"jaw_pull": 1.0, "lip_pull": 0.7}
_SIBILANT = {"jaw_pull": 1.3, "lip_pull": 0.45, "tongue_pull": 1.0}
_ALVEOLAR = {"jaw_pull": 0.9, "lip_pull": 0.15, "tongue_pull": 1.2}
_BACK = {"jaw_pull": 0.45, "lip_pull": 0.1}
_ROUNDED = {"jaw_pull": 1.0, "lip_pull": 1.3}

POSTURES: dict[str, tuple[Posture, ...]] = {
    "pau": (Posture(0.0, jaw_pull=1.6, lip_pull=0.8),),
    "aa": (Posture(0.90, 0.05, 0.05, **_OPEN),),
    "ae": (Posture(0.78, 0.45, **_OPEN),),
    "ah": (Posture(0.58, 0.05, **_OPEN),),
    "ao": (Posture(0.68, -0.10, 0.60, **_ROUNDED),),
    "aw": (Posture(0.85, 0.10, **_OPEN), Posture(0.30, -0.1, 0.80, **_ROUNDED)),
    "ax": (Posture(0.34, 0.05, jaw_pull=0.6, lip_pull=0.25),),
    "ay": (Posture(0.84, 0.15, **_OPEN), Posture(0.32, 0.45, **_OPEN)),
    "b": (Posture(0.12, jaw_pull=1.2, lip_pull=0.15),),
    "ch": (Posture(0.16, -0.15, 0.60, 0.5, **{**_SIBILANT, "lip_pull": 0.8}),),
    "d": (Posture(0.20, 0.10, 0.0, 0.9, **_ALVEOLAR),),
    "dh": (Posture(0.22, 0.10, 0.0, 0.85, **_ALVEOLAR),),
    "eh": (Posture(0.56, 0.35, **_OPEN),),
    "er": (Posture(0.34, -0.10, 0.50, 0.2, **_OPEN),),
    "ey": (Posture(0.50, 0.45, **_OPEN), Posture(0.28, 0.55, **_OPEN)),
    "f": (Posture(0.12, 0.10, jaw_pull=1.1, lip_pull=0.3),),
    "g": (Posture(0.28, 0.05, **_BACK),),
    "hh": (Posture(0.35, 0.05, jaw_pull=0.25, lip_pull=0.05),),
    "ih": (Posture(0.36, 0.35, **_OPEN),),
    "iy": (Posture(0.26, 0.70, **_OPEN),),
    "jh": (Posture(0.16, -0.15, 0.60, 0.5, **{**_SIBILANT, "lip_pull": 0.8}),),
    "k": (Posture(0.28, 0.05, **_BACK),),
    "l": (Posture(0.36, 0.10, 0.0, 1.0, **_ALVEOLAR),),
    "m": (Posture(0.10, jaw_pull=1.2, lip_pull=0.15),),
    "n": (Posture(0.22, 0.10, 0.0, 0.9, **_ALVEOLAR),),
    "ng": (Posture(0.30, 0.10, **_BACK),),
    "ow": (Posture(0.52, -0.1, 0.65, **_ROUNDED), Posture(0.28, -0.2, 0.90, **_ROUNDED)),
    "oy": (Posture(0.55, -0.1, 0.70, **_ROUNDED), Posture(0.30, 0.45, **_OPEN)),
    "p": (Posture(0.12, jaw_pull=1.2, lip_pull=0.15),),
    "r": (Posture(0.26, -0.15, 0.55, 0.3, jaw_pull=0.8, lip_pull=0.8),),
    "s": (Posture(0.14, 0.35, 0.0, 0.5, **_SIBILANT),),
    "sh": (Posture(0.16, -0.20, 0.70, 0.4, **{**_SIBILANT, "lip_pull": 0.9}),),
    "t": (Posture(0.18, 0.10, 0.0, 0.9, **_ALVEOLAR),),
    "th": (Posture(0.22, 0.10, 0.0, 0.9, **{**_ALVEOLAR, "jaw_pull": 1.1}),),
    "uh": (Posture(0.34, -0.1, 0.60, **_ROUNDED),),
    "uw": (Posture(0.24, -0.3, 0.95, **_ROUNDED),),
    "v": (Posture(0.12, 0.10, jaw_pull=1.1, lip_pull=0.3),),
    "w": (Posture(0.16, -0.3, 1.0, **_ROUNDED),),
    "y": (Posture(0.24, 0.50, jaw_pull=0.8, lip_pull=0.6),),
    "z": (Posture(0.14, 0.35, 0.0, 0.5, **_SIBILANT),),
    "zh": (Posture(0.16, -0.20, 0.70, 0.4, **{**_SIBILANT, "lip_pull": 0.9}),),
}  # fmt: skip
"""Postures of the CMU phone set as flite prints it; diphthongs have two."""

JAW_REACH_SECONDS = 0.040  # how fast a phone's pull fades outside its own time
LIP_REACH_SECONDS = 0.070
ROUND_LEAD_SECONDS = 0.110  # rounding begins this much earlier
TONGUE_REACH_SECONDS = 0.030
CLOSE_SECONDS = 0.070  # lips need this long to close for a pause or to leave it
CLOSURE_RAMP_SECONDS = 0.045
_FINE_HZ = 200


def _segments(phones: Sequence[Phone]) -> list[tuple[Posture, float, float]]:
    """Postures with their times; a diphthong is cut in two, the first part a little longer."""
    cut = []
    for phone in phones:
        if phone.name not in POSTURES:
            raise ValueError(f"{phone.name!r} is not a phone of the CMU set")
        postures = POSTURES[phone.name]
        if len(postures) == 1:
            cut.append((postures[0], phone.start, phone.end))
        else:
            middle = phone.start + 0.55 * (phone.end - phone.start)
            cut += [(postures[0], phone.start, middle), (postures[1], middle, phone.end)]
    return cut


def _ramp(time: np.ndarray, start: float, end: float, lead: float, tail: float) -> np.ndarray:
    """1 from `start` to `end`, smoothly from and to 0 within `lead` before and `tail` after."""
    up = np.clip((time - (start - lead)) / lead, 0, 1)
    down = np.clip(((end + tail) - time) / tail, 0, 1)
    level = np.minimum(up, down)
    return level * level * (3 - 2 * level)


def articulate(phones: Sequence[Phone], frame_count: int, seed: int | None = None) -> list[FaceState]:
    """The face of every video frame (25 fps, sampled at the middle of the frame) while `phones` are spoken.

    Lips meet in at least one frame of every p, b and m; the mouth is closed in pauses, before the first phone and after
    the last. With a `seed` the face also blinks and the head moves. Raises ValueError for a phone not in `POSTURES`.
    """
    time = np.arange(int(np.ceil(frame_count / FPS * _FINE_HZ)) + 1) / _FINE_HZ
    frames = (np.arange(frame_count) + 0.5) / FPS
    total = frame_count / FPS
    spoken = [p for p in phones if p.end > p.start]
    first, last = (spoken[0].start, spoken[-1].end) if spoken else (total, total)
    padded = [Phone(SILENCE, min(-1.0, first - 1), first), *spoken, Phone(SILENCE, last, max(total, last) + 1.0)]

    sums = {name: np.zeros_like(time) for name in ("jaw", "width", "round", "tongue")}
    weights = {name: np.full_like(time, 1e-6) for name in sums}
    for posture, start, end in _segments(padded):
        before, after = np.maximum(start - time, 0), np.maximum(time - end, 0)
        for name, pull, lead, lag in (
            ("jaw", posture.jaw_pull, JAW_REACH_SECONDS, JAW_REACH_SECONDS),
            ("width", posture.lip_pull, LIP_REACH_SECONDS, LIP_REACH_SECONDS),
            (
                "round",
                posture.lip_pull,
                ROUND_LEAD_SECONDS if posture.round > 0.4 else LIP_REACH_SECONDS,
                LIP_REACH_SECONDS,
            ),
            ("tongue", posture.tongue_pull, TONGUE_REACH_SECONDS, TONGUE_REACH_SECONDS),
        ):
            dominance = pull * np.exp(-before / lead - after / lag)
            sums[name] += dominance * getattr(posture, name)
            weights[name] += dominance
    tracks = {name: sums[name] / weights[name] for name in sums}
    kernel = np.exp(-0.5 * (np.arange(-6, 7) / 3.0) ** 2)
    kernel /= kernel.sum()
    tracks = {name: np.convolve(np.pad(track, 6, mode="edge"), kernel, mode="valid") for name, track in tracks.items()}

    silent, press, tuck = np.zeros_like(time), np.zeros_like(time), np.zeros_like(time)
    for phone in padded:
        length = phone.end - phone.start
        if phone.name == SILENCE:
            # A short break closes the mouth only partly.
            inset = min(CLOSE_SECONDS, 0.4 * length)
            depth = min(length / (2 * CLOSE_SECONDS), 1.0)
            silent = np.maximum(
                silent, depth * _ramp(time, phone.start + inset, phone.end - inset, CLOSE_SECONDS, CLOSE_SECONDS)
            )
        elif phone.name in BILABIALS:
            end = phone.end if phone.name == "m" else phone.start + 0.8 * length
            press = np.maximum(press, _ramp(time, phone.start, end, CLOSURE_RAMP_SECONDS, CLOSURE_RAMP_SECONDS))
        elif phone.name in LABIODENTALS:
            tuck = np.maximum(
                tuck, _ramp(time, phone.start, phone.end, 1.3 * CLOSURE_RAMP_SECONDS, 1.3 * CLOSURE_RAMP_SECONDS)
            )
    open_share = 1 - silent
    for name in tracks:
        tracks[name] = tracks[name] * open_share

    sampled = {name: np.interp(frames, time, track) for name, track in {**tracks, "press": press, "tuck": tuck}.items()}
    for phone in spoken:
        # A closure shorter than a frame must not fall between two of them.
        nearest = int(np.clip(round((0.5 * (phone.start + phone.end)) * FPS - 0.5), 0, max(frame_count - 1, 0)))
        if frame_count and phone.start < total and phone.name in BILABIALS:
            sampled["press"][nearest] = 1.0
        if frame_count and phone.start < total and phone.name in LABIODENTALS:
            sampled["tuck"][nearest] = max(sampled["tuck"][nearest], 0.9)
    sampled["tuck"] *= 1 - sampled["press"]
    jaw = np.where(sampled["jaw"] < 0.012, 0.0, sampled["jaw"])

    states = [
        FaceState(
            jaw=float(np.clip(jaw[f], 0, 1)),
            width=float(np.clip(sampled["width"][f], -1, 1)),
            round=float(np.clip(sampled["round"][f], 0, 1)),
            press=float(np.clip(sampled["press"][f], 0, 1)),
            tuck=float(np.clip(sampled["tuck"][f], 0, 1)),
            tongue=float(np.clip(sampled["tongue"][f], 0, 1)),
        )
        for f in range(frame_count)
    ]
    return states if seed is None else with_idle(states, np.random.default_rng(seed))


def drift(
    frame_count: int, rng: np.random.Generator, slowest_seconds: float = 9.0, fastest_seconds: float = 2.5
) -> np.ndarray:
    """A slow smooth wander within about -1..1 that starts at 0, float64 (f,)."""
    time = np.arange(frame_count) / FPS
    total = np.zeros(frame_count)
    for _ in range(4):
        period = rng.uniform(fastest_seconds, slowest_seconds)
        phase = rng.uniform(0, 2 * np.pi)
        total += (np.sin(2 * np.pi * time / period + phase) - np.sin(phase)) * np.sqrt(period / slowest_seconds)
    return total / 3.2


def with_idle(states: Sequence[FaceState], rng: np.random.Generator, amount: float = 1.0) -> list[FaceState]:
    """The same mouths on a head that breathes, sways a little and blinks; the first frame is unmoved."""
    n = len(states)
    lids = blinks(n, rng)
    yaw, pitch, roll, sway_x, sway_y, brow, gaze_x, gaze_y = (drift(n, rng) for _ in range(8))
    breath = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / FPS / rng.uniform(3.6, 4.4))
    return [
        replace(
            state,
            blink=float(lids[f]),
            yaw=float(0.050 * amount * yaw[f]),
            pitch=float(0.030 * amount * pitch[f]),
            roll=float(0.016 * amount * roll[f]),
            sway_x=float(0.020 * amount * sway_x[f]),
            sway_y=float(0.010 * amount * sway_y[f]),
            brow=float(np.clip(0.22 * brow[f], -1, 1)),
            gaze_x=float(0.30 * gaze_x[f]),
            gaze_y=float(0.20 * gaze_y[f]),
            breath=float(breath[f]),
        )
        for f, state in enumerate(states)
    ]
