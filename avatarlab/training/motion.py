"""Trains the bundled motion network: recorded speech and its phone times in, the renderer's lip latents out.

Truth is made in two steps. Some thousand mouths of a few dozen presenters are drawn and encoded by the renderer's own
encoder; a small network learns to tell the latent of any mouth posture from them (`LatentTable`). With it every
recording of the speech corpus has latents of every one of those presenters, without drawing each frame.
"""

import wave
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn

from avatarlab import SAMPLES_PER_VIDEO_FRAME
from avatarlab.lips.diffdub import Motion, MotionConfig, Renderer
from avatarlab.lips.features import BANDS, DEEPEST, log_mel
from avatarlab.lips.mask import CORPUS_MARGIN
from avatarlab.lips.paint import lip_images
from avatarlab.training.corpus import Recording, read_corpus
from avatarlab.training.face_corpus import draw_window, mouth_tracks, random_mouth, random_pose
from avatarlab.training.loop import (
    MovingAverage,
    Progress,
    Stateful,
    learning_rate,
    report_held_out,
    save_atomically,
    save_weights,
    set_learning_rate,
    train_loop,
)
from avatarlab.training.presenters import BUNDLED, FaceState, Presenter, sample_presenter

MINI_MOTION = MotionConfig(
    width=128, style=64, layers=1, features=BANDS, reference_blocks=1, speech_blocks=2, decoder_blocks=2,
    heads=2, inner=256, kernel=13, residual=True,
)  # fmt: skip
POSTURE = ("jaw", "width", "round", "press", "tuck", "tongue")
CLIP_FRAMES = 100
HELD_OUT = 60  # recordings at the end of the corpus, never trained on
REFERENCES = 4
Posture = Float[np.ndarray, "f 6"]


def posture(states: Sequence[FaceState]) -> Posture:
    """What the mouth does, as numbers in the order of POSTURE."""
    return np.array([[getattr(state, name) for name in POSTURE] for state in states], dtype=np.float32).reshape(-1, 6)


@dataclass(frozen=True)
class DrawnMouths:
    """Encoded drawings: whose, which posture, which latent, how open; the first of each presenter are closed mouths."""

    presenter: Int[np.ndarray, "n"]
    posture: Float[np.ndarray, "n 6"]
    latent: Float[np.ndarray, "n z"]
    opening: Float[np.ndarray, "n"]
    closed: Float[np.ndarray, "p r z"]


def draw_mouths(
    renderer: Renderer,
    tracks: Sequence[Posture],
    folder: Path,
    seed: int,
    strangers: int = 24,
    mouths: int = 160,
    progress: Progress = lambda _: None,
) -> DrawnMouths:
    """Draws mouths of the bundled presenters (three times as many) and of strangers; drawings are kept in FOLDER.

    The drawings depend on the seed alone and are reused; encoding them again is quick when the renderer changes.
    """
    rng = np.random.default_rng([seed, 77])
    people = [*BUNDLED.values(), *(sample_presenter(rng) for _ in range(strangers))]
    counts = [3 * mouths] * len(BUNDLED) + [mouths] * strangers
    folder.mkdir(parents=True, exist_ok=True)
    owners, postures, latents, openings, closed = [], [], [], [], []
    for number, (person, count) in enumerate(zip(people, counts, strict=True)):
        path = folder / f"mouths-{number:03d}.npz"
        if not path.exists():
            _draw_person(person, tracks, count, path, np.random.default_rng([seed, 78, number]))
            progress(f"drew {count} mouths of presenter {number + 1} of {len(people)}")
        with np.load(path) as file:
            latents.append(encode_windows(renderer, file["windows"]))
            closed.append(encode_windows(renderer, file["closed"]))
            postures.append(file["posture"])
            openings.append(file["opening"])
        owners.append(np.full(count, number))
    return DrawnMouths(
        np.concatenate(owners),
        np.concatenate(postures),
        np.concatenate(latents),
        np.concatenate(openings),
        np.stack(closed),
    )


def _draw_person(
    person: Presenter, tracks: Sequence[Posture], count: int, path: Path, rng: np.random.Generator
) -> None:
    windows, postures, openings = [], [], []
    for _ in range(count):
        if rng.random() < 0.85:
            track = tracks[int(rng.integers(len(tracks)))]
            values = track[int(rng.integers(len(track)))]
            state = FaceState(**dict(zip(POSTURE, map(float, values), strict=True)))
        else:
            state = random_mouth(rng)
        image, _, opening = draw_window(person, state)
        windows.append(image)
        postures.append(posture([state])[0])
        openings.append(opening)
    closed = [draw_window(person, replace(random_pose(rng), smile=0.0))[0] for _ in range(8)]
    partial = path.with_name(f".{path.name}")
    np.savez(
        partial,
        windows=np.stack(windows), posture=np.stack(postures), opening=np.array(openings, np.float32), closed=np.stack(closed),
    )  # fmt: skip
    partial.replace(path)


@torch.inference_mode()
def encode_windows(renderer: Renderer, windows: np.ndarray) -> Float[np.ndarray, "n z"]:
    """Latents of corpus windows uint8 (n, side, side, 3)."""
    assert renderer.config.window is not None
    found = []
    for first in range(0, len(windows), 64):
        images = torch.from_numpy(windows[first : first + 64]).permute(0, 3, 1, 2).float() / 127.5 - 1
        found.append(renderer.encode_lips(lip_images(images, renderer.config.window[1], CORPUS_MARGIN)))
    return torch.cat(found).numpy()


class LatentTable(nn.Module):
    """The latent of any posture of any of the drawn presenters, and how open its mouth is."""

    def __init__(self, presenters: int, style: int) -> None:
        super().__init__()
        self.whose = nn.Embedding(presenters, 32)
        self.body = nn.Sequential(
            nn.Linear(6 + 32, 192), nn.SiLU(), nn.Linear(192, 192), nn.SiLU(), nn.Linear(192, style)
        )
        self.opening = nn.Sequential(nn.Linear(style, 64), nn.SiLU(), nn.Linear(64, 1))
        self.register_buffer("rest", torch.zeros(presenters, style))
        self.register_buffer("spread", torch.ones(()))

    def change(self, postures: Float[Tensor, "*n 6"], presenter: Int[Tensor, "*n"]) -> Float[Tensor, "*n z"]:
        """Latent minus that of the presenter at rest, in units of its overall spread."""
        return self.body(torch.cat([postures, self.whose(presenter)], dim=-1))

    def openness(self, change: Float[Tensor, "*n z"]) -> Float[Tensor, "*n"]:
        return self.opening(change).squeeze(-1)


def fit_table(mouths: DrawnMouths, seed: int, steps: int = 3000, progress: Progress = lambda _: None) -> LatentTable:
    """Fits the table; reports the share of the latents' variance that it explains on mouths left out."""
    torch.manual_seed(seed)
    table = LatentTable(len(mouths.closed), mouths.latent.shape[1])
    at_rest = mouths.closed.mean(axis=1)
    change = mouths.latent - at_rest[mouths.presenter]
    spread = float(np.sqrt(np.square(change).mean()))
    table.rest.copy_(torch.from_numpy(at_rest))  # type: ignore[operator]
    table.spread.fill_(spread)  # type: ignore[operator]
    owner = torch.from_numpy(mouths.presenter).long()
    postures = torch.from_numpy(mouths.posture)
    target = torch.from_numpy(change / spread)
    opening = torch.from_numpy(mouths.opening)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(owner), generator=generator)
    test, train = order[: len(order) // 12], order[len(order) // 12 :]
    optimiser = torch.optim.Adam(table.parameters())
    for number in range(steps):
        set_learning_rate(optimiser, learning_rate(3e-3, number / steps, number, 50, flat=0.3))
        rows = train[torch.randint(len(train), (256,), generator=generator)]
        loss = F.mse_loss(table.change(postures[rows], owner[rows]), target[rows])
        loss = loss + 10 * F.mse_loss(table.openness(target[rows]), opening[rows])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    with torch.inference_mode():
        missed = F.mse_loss(table.change(postures[test], owner[test]), target[test]) / target[test].var()
        told = np.corrcoef(table.openness(target[test]).numpy(), mouths.opening[test.numpy()])[0, 1]
    progress(
        f"latent table: explains {1 - float(missed):.3f} of the variance, opening told with correlation {told:.3f}"
    )
    return table.requires_grad_(False).eval()


@dataclass(frozen=True)
class Spoken:
    waveform: Float[np.ndarray, "s"]
    track: Posture


def load_spoken(record: Recording, speech_dir: Path) -> Spoken:
    """A recording padded with silence to whole video frames, and its mouth."""
    with wave.open(str(speech_dir / record.wav)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype=np.int16).astype(np.float32) / 32768
    track = posture(mouth_tracks(record, speech_dir))
    return Spoken(np.pad(samples, (0, len(track) * SAMPLES_PER_VIDEO_FRAME - len(samples))), track)


def varied(spoken: Spoken, rng: np.random.Generator) -> Spoken:
    """Another voice in another room: resampled (pitch, formants and tempo together), tilted, made noisy."""
    rate = float(np.exp(rng.normal(0, 0.09)))
    count = max(4, round(len(spoken.track) / rate))
    at = (np.arange(count * SAMPLES_PER_VIDEO_FRAME) + 0.5) * (
        len(spoken.waveform) / (count * SAMPLES_PER_VIDEO_FRAME)
    ) - 0.5
    waveform = np.interp(at, np.arange(len(spoken.waveform)), spoken.waveform)
    frames = (np.arange(count) + 0.5) * (len(spoken.track) / count) - 0.5
    known = np.arange(len(spoken.track))
    track = np.stack([np.interp(frames, known, spoken.track[:, k]) for k in range(6)], axis=1)
    tilt = rng.uniform(-0.5, 0.5)
    waveform = waveform + tilt * np.concatenate([[0.0], waveform[:-1]])
    loudness = np.sqrt(np.square(waveform).mean()) + 1e-6
    noise = rng.normal(size=len(waveform)) * loudness * 10 ** (-rng.uniform(25, 60) / 20)
    return Spoken((waveform + noise).astype(np.float32), track.astype(np.float32))


def _clip(spoken: Sequence[Spoken], rng: np.random.Generator) -> tuple[Tensor, Posture]:
    """CLIP_FRAMES of features and postures out of recordings one after another, with pauses between and around them."""
    features, tracks, length = [], [], 0
    while length < CLIP_FRAMES * 1.5:
        one = varied(spoken[int(rng.integers(len(spoken)))], rng)
        pause = int(rng.integers(0, 20))
        features += [log_mel(torch.from_numpy(one.waveform))[0], torch.full((2 * pause, BANDS), DEEPEST)]
        tracks += [one.track, np.zeros((pause, 6), np.float32)]
        length += len(one.track) + pause
    first = int(rng.integers(length - CLIP_FRAMES + 1))
    heard = torch.cat(features)[2 * first : 2 * (first + CLIP_FRAMES)]
    return heard, np.concatenate(tracks)[first : first + CLIP_FRAMES]


def train_motion(
    speech_dir: Path,
    renderer_path: Path,
    out_dir: Path,
    minutes: float,
    seed: int = 0,
    progress: Progress = lambda _: None,
    config: MotionConfig = MINI_MOTION,
    recordings: int = 1500,
    batch_size: int = 12,
    peak_rate: float = 1.5e-3,
    evaluate_every: int = 200,
    strangers: int = 24,
    mouths: int = 160,
) -> Path:
    """Trains against the encoder of RENDERER_PATH for `minutes`, resuming from OUT_DIR; returns
    OUT_DIR/motion.safetensors.

    Held-out recordings are scored by the correlation of told and true mouth opening, in OUT_DIR/held_out.jsonl. Drawing
    and encoding mouths comes first and is not counted in `minutes`; what is drawn is kept in OUT_DIR/mouths.
    """
    torch.manual_seed(seed)
    renderer = Renderer.from_state_dict(load_file(renderer_path))
    corpus = read_corpus(speech_dir)
    held_records, train_records = corpus[-HELD_OUT:], corpus[:-HELD_OUT]
    stride = max(1, len(train_records) // recordings)
    spoken = [load_spoken(record, speech_dir) for record in train_records[::stride][:recordings]]
    held = [load_spoken(record, speech_dir) for record in held_records]
    mouths_drawn = draw_mouths(
        renderer, [one.track for one in spoken[:400]], out_dir / "mouths", seed, strangers, mouths, progress
    )
    table = fit_table(mouths_drawn, seed, progress=progress)
    spread = float(table.spread)  # type: ignore[arg-type]
    closed = torch.from_numpy(mouths_drawn.closed)
    people = len(closed)
    motion = Motion(config, dropout=0.1).train()
    with torch.no_grad():
        motion.out_proj.weight.mul_(spread)
        motion.out_proj.bias.mul_(spread)
    optimiser = torch.optim.AdamW(motion.parameters(), betas=(0.9, 0.98), weight_decay=0.02)
    average = MovingAverage(motion, 0.999)

    def step(number: int, fraction: float) -> Mapping[str, float]:
        rng = np.random.default_rng([seed, 5, number])
        clips = [_clip(spoken, rng) for _ in range(batch_size)]
        audio = torch.stack([heard for heard, _ in clips])[:, None]
        postures = torch.from_numpy(np.stack([track for _, track in clips]))
        whose = torch.from_numpy(rng.integers(people, size=batch_size))
        shown = torch.from_numpy(rng.integers(closed.shape[1], size=(batch_size, REFERENCES)))
        references = closed[whose[:, None], shown]
        target = table.change(postures, whose[:, None].expand(-1, CLIP_FRAMES))
        told = (motion(audio, references) - references.mean(dim=1, keepdim=True)) / spread
        # The table tells changes of the presenter's mean at rest; a few references differ from it by their pose.
        error = F.smooth_l1_loss(told, target, beta=0.5)
        speed = F.smooth_l1_loss(told.diff(dim=1), target.diff(dim=1), beta=0.25)
        opening = F.mse_loss(table.openness(told), table.openness(target))
        loss = error + speed + 20 * opening
        set_learning_rate(optimiser, learning_rate(peak_rate, fraction, number, 150, flat=0.3))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(motion.parameters(), 1.0)
        optimiser.step()
        average.update()
        if number % evaluate_every == evaluate_every - 1:
            score = held_out_correlation(average.network(), held, table, closed)
            line = {"step": number + 1, "minutes": round(fraction * minutes, 2), "opening_correlation": round(score, 4)}
            report_held_out(out_dir, line, progress)
        return {
            name: float(value.detach()) for name, value in (("latent", error), ("speed", speed), ("opening", opening))
        }

    parts: dict[str, Stateful] = {"motion": motion, "optimiser": optimiser, "average": average}
    train_loop(out_dir, parts, step, minutes=minutes, progress=progress, checkpoint_seconds=60.0)
    save_atomically(table.state_dict(), out_dir / "table.pt")
    path = out_dir / "motion.safetensors"
    save_weights(average.network().state_dict(), path)
    return path


@torch.inference_mode()
def held_out_correlation(
    motion: Motion, held: Sequence[Spoken], table: LatentTable, closed: Float[Tensor, "p r z"]
) -> float:
    """Mean over recordings of the correlation of told and true mouth opening, at lag 0, for the first presenter."""
    references = closed[:1]
    scores = []
    for one in held:
        told = motion(log_mel(torch.from_numpy(one.waveform))[None], references) - references.mean(dim=1, keepdim=True)
        whose = torch.zeros(len(one.track), dtype=torch.int64)
        truth = table.openness(table.change(torch.from_numpy(one.track), whose))
        guess = table.openness(told[0] / table.spread)
        scores.append(float(np.corrcoef(guess.numpy(), truth.numpy())[0, 1]))
    return float(np.mean(scores))
