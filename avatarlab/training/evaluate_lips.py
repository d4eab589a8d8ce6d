"""Do the lips follow the speech? Mouth openings measured from rendered pixels against the truth of the phone times."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from avatarlab.lips.diffdub import Motion, Renderer
from avatarlab.lips.lip_sync import lip_latents
from avatarlab.lips.paint import Painted, PaintSettings, lip_references, paint
from avatarlab.training.corpus import Recording
from avatarlab.training.face_corpus import mouth_tracks
from avatarlab.training.hearings import load_spoken
from avatarlab.training.mouth_opening import measure_mouth_opening
from avatarlab.training.presenters import FaceState, Presenter, draw, mouth_opening

LARGEST_LAG_FRAMES = 5


@dataclass(frozen=True)
class LipScore:
    """One utterance. `correlation` is the best over lags; `lag_frames` where it is (positive: the lips come late).

    `ratio` is the spread of the measured opening over that of the truth: below 1 the mouth moves too little.
    `silent_opening` is the mean opening measured where the truth is shut.
    """

    recording: str
    presenter: str
    correlation: float
    lag_frames: int
    ratio: float
    silent_opening: float


def best_lag(
    measured: Float[np.ndarray, "f"], truth: Float[np.ndarray, "f"], largest: int = LARGEST_LAG_FRAMES
) -> tuple[float, int]:
    """Largest correlation over shifts of up to `largest` frames, and the shift; 0 where either does not move."""
    best = (-1.0, 0)
    for lag in sorted(range(-largest, largest + 1), key=abs):
        moved = measured[max(lag, 0) : len(measured) + min(lag, 0)]
        still = truth[max(-lag, 0) : len(truth) + min(-lag, 0)]
        if len(moved) < 3 or moved.std() == 0 or still.std() == 0:
            continue
        found = float(np.corrcoef(moved, still)[0, 1])
        if found > best[0]:
            best = (found, lag)
    return best if best[0] > -1 else (0.0, 0)


def speak_recording(
    renderer: Renderer, motion: Motion, presenter: Presenter, waveform: Float[np.ndarray, "s"], size_px: int = 512
) -> tuple[Painted, Float[np.ndarray, "68 2"]]:
    """A still presenter with closed mouth made to say `waveform`; and the landmarks of the still picture."""
    still = draw(presenter, FaceState(), size_px)
    one, marks = still.image[None], still.landmarks[None].astype(np.float32)
    latents = lip_latents(motion, waveform, lip_references(renderer, one, marks))
    count = len(latents)
    frames = np.broadcast_to(one, (count, *still.image.shape))
    return paint(renderer, PaintSettings(), frames, np.repeat(marks, count, axis=0), latents), marks[0]


def evaluate_lips(
    renderer: Renderer,
    motion: Motion,
    recordings: Sequence[Recording],
    speech_dir: Path,
    presenters: dict[str, Presenter],
) -> list[LipScore]:
    """Scores one utterance for each recording, presenters taking turns."""
    names = list(presenters)
    scores = []
    for number, record in enumerate(recordings):
        name = names[number % len(names)]
        spoken = load_spoken(record, speech_dir)
        painted, marks = speak_recording(renderer, motion, presenters[name], spoken.waveform)
        measured = openings(painted, marks)
        truth = np.array([mouth_opening(presenters[name], state) for state in mouth_tracks(record, speech_dir)])
        correlation, lag = best_lag(measured, truth)
        shut = truth < 0.02
        scores.append(
            LipScore(
                record.id,
                name,
                correlation,
                lag,
                float(measured.std() / max(truth.std(), 1e-6)),
                float(measured[shut].mean()) if shut.any() else 0.0,
            )
        )
    return scores


def openings(painted: Painted, landmarks: Float[np.ndarray, "68 2"]) -> Float[np.ndarray, "f"]:
    """Mouth opening of every painted frame, from its pixels; `landmarks` are those of the still, closed picture."""
    found = [
        measure_mouth_opening(window, (landmarks - corner).astype(np.float32))
        for window, corner in zip(painted.windows, painted.corners, strict=True)
    ]
    return np.array(found)
