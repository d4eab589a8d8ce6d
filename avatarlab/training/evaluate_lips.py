"""Do the lips follow the speech, and are they still where there is none? Measured from rendered pixels.

The truth is that of the phone times: what the drawn presenter's mouth would do (training/articulation.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8

from avatarlab import FPS
from avatarlab.avatars import AvatarFrames
from avatarlab.lips.diffdub import Motion, Renderer
from avatarlab.lips.life import LifeSettings, Living
from avatarlab.lips.lip_images import lip_references
from avatarlab.lips.lip_sync import lip_latents
from avatarlab.lips.mask import CORPUS_MARGIN, mouth_alpha, mouth_windows, smoothed, window_keep
from avatarlab.lips.paint import Painter, PaintSettings
from avatarlab.training.corpus import SILENCE, Recording
from avatarlab.training.face_corpus import draw_window, mouth_tracks, random_mouth, random_pose
from avatarlab.training.hearings import POSTURE, load_spoken
from avatarlab.training.mouth_opening import measure_mouth_opening
from avatarlab.training.presenters import FaceState, Presenter, draw, mouth_opening, sample_presenter
from avatarlab.training.renderer import Faces, make_batch

LARGEST_LAG_FRAMES = 5
OPEN_RATIO = 0.25  # KeySync's LipLeak (arXiv 2505.00497): a mouth is open where its height is more of its width
CLOSING_FRAMES = 4  # at either end of a pause in which a mouth may still be closing, or open already
UNSEEN = 4_202_611  # begins the seeds of presenters that exist in measurements alone


@dataclass(frozen=True)
class Lips:
    """The networks that move and draw a mouth, and how it is drawn."""

    renderer: Renderer
    motion: Motion
    settings: PaintSettings = field(default_factory=PaintSettings)


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
    voice: str = ""


@dataclass(frozen=True, eq=False)
class Utterance:
    """A recording said by a presenter: the opening of the mouth in every video frame, as drawn and as it should be."""

    record: Recording
    presenter: str
    waveform: Float[np.ndarray, "s"]
    measured: Float[np.ndarray, "f"]
    truth: Float[np.ndarray, "f"]

    def score(self) -> LipScore:
        correlation, lag = best_lag(self.measured, self.truth)
        shut = self.truth < 0.02
        return LipScore(
            self.record.id,
            self.presenter,
            correlation,
            lag,
            float(self.measured.std() / max(self.truth.std(), 1e-6)),
            float(self.measured[shut].mean()) if shut.any() else 0.0,
            self.record.voice,
        )


def unseen_presenters(count: int) -> dict[str, Presenter]:
    """People whom no training draws: their generators are reserved for measurements."""
    return {f"unseen-{k}": sample_presenter(np.random.default_rng([UNSEEN, k])) for k in range(count)}


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


@dataclass(frozen=True, eq=False)
class Painted:
    """Finished windows and the pixel (x, y) of the picture where each one's top-left corner goes."""

    windows: UInt8[np.ndarray, "f side side 3"]
    corners: Int[np.ndarray, "f 2"]


def as_filmed(pictures: AvatarFrames) -> Living:
    """A presenter who does nothing but what the pictures show."""
    return Living(pictures, LifeSettings(blinks=False, sway=0.0, breath=0.0, expression=0.0), seed=0)


def paint_clip(
    lips: Lips, pictures: AvatarFrames, poses: Int[np.ndarray, "f"], latents: Float[np.ndarray, "f z"]
) -> Painted:
    """Finished windows over the pictures `poses`, which are their own references, as the product draws them."""
    painter = Painter(lips.renderer, lips.settings, as_filmed(pictures))
    frames = list(painter.paint(poses, np.zeros(len(poses), np.uint8), latents))
    return Painted(np.stack([frame.window for frame in frames]), np.array([frame.corner for frame in frames]))


@dataclass(frozen=True, eq=False)
class Sitter:
    """A still picture of a presenter with closed mouth, and what the lips need to know of it."""

    image: UInt8[np.ndarray, "h w 3"]
    landmarks: Float[np.ndarray, "68 2"]
    references: Float[np.ndarray, "r z"]

    @staticmethod
    def of(lips: Lips, presenter: Presenter, size_px: int = 512) -> "Sitter":
        still = draw(presenter, FaceState(), size_px)
        marks = still.landmarks.astype(np.float32)
        return Sitter(still.image, marks, lip_references(lips.renderer, still.image[None], marks[None]))

    def paint(self, lips: Lips, latents: Float[np.ndarray, "f z"]) -> Painted:
        """Every latent drawn into the same picture."""
        pictures = AvatarFrames(self.image[None], None, self.landmarks[None], np.ones(1, bool))
        return paint_clip(lips, pictures, np.zeros(len(latents), np.int64), latents)

    def openings(self, lips: Lips, latents: Float[np.ndarray, "f z"]) -> Float[np.ndarray, "f"]:
        return openings(self.paint(lips, latents), self.landmarks)


def speak_recording(
    lips: Lips, presenter: Presenter, waveform: Float[np.ndarray, "s"], size_px: int = 512
) -> tuple[Painted, Float[np.ndarray, "68 2"]]:
    """A still presenter with closed mouth made to say `waveform`; and the landmarks of the still picture."""
    sitter = Sitter.of(lips, presenter, size_px)
    return sitter.paint(lips, lip_latents(lips.motion, waveform, sitter.references)), sitter.landmarks


def speak_recordings(
    lips: Lips, recordings: Sequence[Recording], speech_dir: Path, presenters: Mapping[str, Presenter]
) -> list[Utterance]:
    """Every recording, presenters taking turns, with the opening of the mouth drawn and true."""
    names = list(presenters)
    said = []
    for number, record in enumerate(recordings):
        presenter = presenters[names[number % len(names)]]
        spoken = load_spoken(record, speech_dir)
        measured = openings(*speak_recording(lips, presenter, spoken.waveform))
        truth = np.array([mouth_opening(presenter, state) for state in mouth_tracks(record, speech_dir)])
        said.append(Utterance(record, names[number % len(names)], spoken.waveform, measured, truth))
    return said


def evaluate_lips(
    lips: Lips, recordings: Sequence[Recording], speech_dir: Path, presenters: Mapping[str, Presenter]
) -> list[LipScore]:
    """Scores one utterance for each recording, presenters taking turns."""
    return [said.score() for said in speak_recordings(lips, recordings, speech_dir, presenters)]


def openings(painted: Painted, landmarks: Float[np.ndarray, "68 2"]) -> Float[np.ndarray, "f"]:
    """Mouth opening of every painted frame, from its pixels; `landmarks` are those of the still, closed picture."""
    seen: dict[bytes, float] = {}
    found = []
    for window, corner in zip(painted.windows, painted.corners, strict=True):
        key = window.tobytes()
        if key not in seen:
            seen[key] = measure_mouth_opening(window, (landmarks - corner).astype(np.float32))
        found.append(seen[key])
    return np.array(found)


def pause_frames(record: Recording, frame_count: int, shortest_seconds: float = 0.3) -> Bool[np.ndarray, "f"]:
    """The frames in the middle of every pause that lasts longer: there a mouth has had the time to close."""
    middle = np.zeros(frame_count, dtype=bool)
    for phone in record.phones:
        if phone.name == SILENCE and phone.end - phone.start > shortest_seconds:
            first, last = np.ceil(phone.start * FPS), np.floor(phone.end * FPS)
            middle[int(first) + CLOSING_FRAMES : max(0, int(last) - CLOSING_FRAMES)] = True
    return middle


def clip_masks(
    lips: Lips, landmarks: Float[np.ndarray, "f 68 2"], height: int, width: int
) -> Bool[np.ndarray, "f {height} {width}"]:
    """Where the bundled renderer may change the pixels of a clip: inside the mask around the mouth."""
    centers, side = mouth_windows(smoothed(landmarks, lips.settings.smoothing_frames))
    masks = np.zeros((len(landmarks), height, width), dtype=bool)
    for mask, (x, y) in zip(masks, centers, strict=True):
        across, along = (np.arange(width) + 0.5 - x) / side, (np.arange(height) + 0.5 - y) / side
        mask[:] = mouth_alpha(*np.meshgrid(across, along))[1] > 0
    return masks


def unseen_windows(
    renderer: Renderer, tracks: Sequence[Sequence[FaceState]], people: int = 20, mouths: int = 3
) -> Faces:
    """Mouth windows of presenters whom no training draws, with the truth, at the renderer's own size: of every three
    mouths two come from `tracks`, one is any mouth at all.
    """
    assert renderer.config.window is not None
    size = round(renderer.config.window[0] * CORPUS_MARGIN)
    windows, points, opened, states, owners, references, reference_points = [], [], [], [], [], [], []
    for owner, person in enumerate(unseen_presenters(people).values()):
        rng = np.random.default_rng([UNSEEN, owner, 1])
        pose = random_pose(rng)
        image, marks, _ = draw_window(person, pose, size)
        references.append(image)
        reference_points.append(marks)
        for number in range(mouths):
            track = tracks[int(rng.integers(len(tracks)))]
            mouth = random_mouth(rng) if number % 3 == 2 else track[int(rng.integers(len(track)))]
            state = replace(pose, **{name: getattr(mouth, name) for name in POSTURE})
            image, marks, opening = draw_window(person, state, size)
            windows.append(image)
            points.append(marks)
            opened.append(opening)
            states.append((state.jaw, state.width, state.round, state.press, state.tongue))
            owners.append(owner)
    return Faces(
        np.stack(windows),
        np.stack(points),
        np.array(opened, np.float32),
        np.array(states, np.float32),
        np.array(owners, np.int32),
        np.stack(references),
        np.stack(reference_points),
        np.arange(people, dtype=np.int32),
    )


@torch.inference_mode()
def picture_error(renderer: Renderer, faces: Faces, steps: int, batch_size: int = 16) -> tuple[float, float]:
    """Mean absolute error in levels of 255 where the mouth changed the picture: drawn in so many steps, and of the
    reference left as it is. The latent is that of the true mouth, so the error is the renderer's alone.
    """
    assert renderer.config.window is not None
    keep = torch.from_numpy(window_keep(renderer.config.window[0]).astype(np.float32))
    noise = torch.randn((1, 3, *keep.shape), generator=torch.Generator().manual_seed(0))
    drawn_error, left_error, changed_pixels = 0.0, 0.0, 0
    for part in np.array_split(np.arange(len(faces.windows)), -(-len(faces.windows) // batch_size)):
        batch = make_batch(faces, part, renderer.config, None)
        z = renderer.encode_lips(batch.lips)
        drawn = renderer.sample(batch.target, batch.reference, keep.expand_as(batch.target[:, :1]), noise, z, steps)
        changed = ((batch.target - batch.reference).abs().amax(dim=1) > 0.1) & (keep < 0.5)
        changed_pixels += int(changed.sum())
        drawn_error += float((drawn - batch.target).abs().mean(dim=1)[changed].sum())
        left_error += float((batch.reference - batch.target).abs().mean(dim=1)[changed].sum())
    levels = 127.5 / max(changed_pixels, 1)
    return levels * drawn_error, levels * left_error
