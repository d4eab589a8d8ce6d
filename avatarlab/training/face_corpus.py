"""The face corpus: mouth windows of many illustrated presenters with landmarks and truth, for training the lips.

    OUT/faces-NNN.npz   shards of training presenters       OUT/held-000.npz   presenters that are in no other shard

A shard holds poses: one presenter, one turn of the head, one state of the eyes. Every pose has several mouths and one
reference with the mouth at rest, which equals them pixel by pixel away from mouth and jaw.

    windows              uint8 (n,168,168,3)   RGB, `CORPUS_MARGIN` wider than the window the renderer draws
    landmarks            float32 (n,68,2)      window pixels
    opening              float32 (n,)          gap between the lips over the width of the mouth at rest
    states               float32 (n,5)         jaw, width, round, press, tongue
    presenter            int32 (n,)            the row of the reference that belongs to the window
    reference_windows    uint8 (p,168,168,3)
    reference_landmarks  float32 (p,68,2)
    reference_identity   int32 (p,)            which presenter, unique over all shards
"""

import wave
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from avatarlab import SAMPLES_PER_VIDEO_FRAME
from avatarlab.lips.mask import CORPUS_MARGIN, mouth_window, to_window
from avatarlab.training.articulation import articulate
from avatarlab.training.corpus import Recording, read_corpus
from avatarlab.training.presenters import BUNDLED, FaceState, Presenter, draw, landmarks, sample_presenter

WINDOW_PX = 168
FIRST_HELD_IDENTITY = 10_000
_LANDMARK_PX = 512  # windows are located on a picture of this side, whose pixels landmarks name


@dataclass(frozen=True)
class CorpusPlan:
    """What a shard holds. Three in ten windows show bundled people, who are in every shard in new poses."""

    strangers: int = 24
    poses: int = 3
    bundled_poses: int = 10
    mouths: int = 8
    held_strangers: int = 20

    @property
    def shard_windows(self) -> int:
        return (self.strangers * self.poses + len(BUNDLED) * self.bundled_poses) * self.mouths


FULL_PLAN = CorpusPlan()


def mouth_tracks(record: Recording, speech_dir: Path) -> list[FaceState]:
    """The mouth of every video frame of a recording: 25 fps, ceil(samples / 640) frames, eyes and head at rest."""
    with wave.open(str(speech_dir / record.wav)) as file:
        samples = file.getnframes()
    return articulate(record.phones, -(-samples // SAMPLES_PER_VIDEO_FRAME))


def draw_window(
    presenter: Presenter, state: FaceState, size_px: int = WINDOW_PX, margin: float = CORPUS_MARGIN
) -> tuple[UInt8[np.ndarray, "size_px size_px 3"], Float[np.ndarray, "68 2"], float]:
    """The mouth window drawn at its own resolution, its landmarks in window pixels, and the mouth opening."""
    points = landmarks(presenter, state) * _LANDMARK_PX - 0.5
    window = mouth_window(points)
    side = window.side * margin
    corner = (window.center[0] - side / 2, window.center[1] - side / 2)
    roi = (corner[0] / _LANDMARK_PX, corner[1] / _LANDMARK_PX, side / _LANDMARK_PX)
    drawing = draw(presenter, state, size_px, roi)
    return drawing.image, to_window(points, window.center, side, size_px), drawing.mouth_opening


def random_pose(rng: np.random.Generator) -> FaceState:
    """Head, eyes and smile of one pose, mouth at rest."""

    def some(spread: float) -> float:
        return float(np.clip(rng.normal(0, spread), -2.5 * spread, 2.5 * spread))

    return FaceState(
        smile=float(max(0.0, rng.normal(0.05, 0.10))),
        blink=float(rng.random() ** 6),
        gaze_x=some(0.4), gaze_y=some(0.3), brow=some(0.3),
        yaw=some(0.055), pitch=some(0.032), roll=some(0.020), sway_x=some(0.03), sway_y=some(0.02),
        breath=float(rng.random()),
    )  # fmt: skip


def random_mouth(rng: np.random.Generator) -> FaceState:
    """Any mouth at all: covers what the spoken tracks do not reach."""
    return FaceState(
        jaw=float(rng.beta(1.1, 1.5)),
        width=float(rng.uniform(-0.4, 0.9)),
        round=float(rng.random() if rng.random() < 0.4 else 0.15 * rng.random()),
        press=float(rng.random() if rng.random() < 0.15 else 0.0),
        tuck=float(rng.random() if rng.random() < 0.12 else 0.0),
        tongue=float(rng.random() ** 2),
    )


def closed_mouth(rng: np.random.Generator) -> FaceState:
    """Shut or all but shut."""
    return FaceState(
        jaw=float(max(0.0, rng.normal(0.0, 0.05))),
        width=float(rng.normal(0, 0.12)),
        round=float(abs(rng.normal(0, 0.12))),
        press=float(rng.choice([0.0, 1.0, rng.random()])),
    )


def _mouth(rng: np.random.Generator, tracks: Sequence[Sequence[FaceState]]) -> FaceState:
    kind = rng.random()
    if kind < 0.6 and tracks:
        track = tracks[int(rng.integers(len(tracks)))]
        return track[int(rng.integers(len(track)))]
    return random_mouth(rng) if kind < 0.9 or not tracks else closed_mouth(rng)


def _with_mouth(pose: FaceState, mouth: FaceState) -> FaceState:
    return replace(
        pose,
        jaw=mouth.jaw,
        width=mouth.width,
        round=mouth.round,
        press=mouth.press,
        tuck=mouth.tuck,
        tongue=mouth.tongue,
    )


def _shard(
    people: Sequence[tuple[int, Presenter, int]],
    mouths: int,
    tracks: Sequence[Sequence[FaceState]],
    rng: np.random.Generator,
    tick: Callable[[], None],
) -> dict[str, np.ndarray]:
    """`people` are (identity, presenter, poses)."""
    windows, points, openings, states, owners = [], [], [], [], []
    references, reference_points, identities = [], [], []
    for identity, presenter, poses in people:
        for _ in range(poses):
            pose = random_pose(rng)
            image, marks, _opening = draw_window(presenter, pose)
            references.append(image)
            reference_points.append(marks)
            identities.append(identity)
            for _ in range(mouths):
                state = _with_mouth(pose, _mouth(rng, tracks))
                image, marks, opening = draw_window(presenter, state)
                windows.append(image)
                points.append(marks)
                openings.append(opening)
                states.append((state.jaw, state.width, state.round, state.press, state.tongue))
                owners.append(len(references) - 1)
                tick()
    return {
        "windows": np.stack(windows),
        "landmarks": np.stack(points),
        "opening": np.asarray(openings, np.float32),
        "states": np.asarray(states, np.float32),
        "presenter": np.asarray(owners, np.int32),
        "reference_windows": np.stack(references),
        "reference_landmarks": np.stack(reference_points),
        "reference_identity": np.asarray(identities, np.int32),
    }


def make_face_corpus(
    out_dir: Path,
    speech_dir: Path,
    samples: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
    utterances: int = 400,
    plan: CorpusPlan = FULL_PLAN,
) -> list[Path]:
    """About `samples` training windows in shards, and the held-out shard; returns the shards.

    A shard depends on the seed, its number and the first `utterances` recordings only; shards that exist are kept, so
    an interrupted call goes on where it stopped. `progress(done, total)` counts windows.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    tracks = [mouth_tracks(record, speech_dir) for record in read_corpus(speech_dir)[:utterances]]
    bundled = list(BUNDLED.values())
    count = max(1, round(samples / plan.shard_windows))
    held = plan.held_strangers * plan.poses * plan.mouths
    total, done = count * plan.shard_windows + held, 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    paths = []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        first = len(bundled) + number * plan.strangers
        people = [(first + k, sample_presenter(rng), plan.poses) for k in range(plan.strangers)]
        people += [(k, person, plan.bundled_poses) for k, person in enumerate(bundled)]
        paths.append(_write(out_dir / f"faces-{number:03d}.npz", people, plan.mouths, tracks, rng, tick))
        if number == 0:
            held_rng = np.random.default_rng([seed, FIRST_HELD_IDENTITY])
            strangers = [
                (FIRST_HELD_IDENTITY + k, sample_presenter(held_rng), plan.poses) for k in range(plan.held_strangers)
            ]
            paths.append(_write(out_dir / "held-000.npz", strangers, plan.mouths, tracks, held_rng, tick))
    return paths


def _write(
    path: Path,
    people: Sequence[tuple[int, Presenter, int]],
    mouths: int,
    tracks: Sequence[Sequence[FaceState]],
    rng: np.random.Generator,
    tick: Callable[[], None],
) -> Path:
    if path.exists():
        for _, _, poses in people:
            for _ in range(poses * mouths):
                tick()
        return path
    shard = _shard(people, mouths, tracks, rng, tick)
    partial = path.with_name(f".{path.stem}.partial.npz")
    np.savez(partial, allow_pickle=False, **shard)
    partial.replace(path)
    return path
