"""Trains the bundled renderer: lip encoder and window UNet together, on windows of drawn presenters.

The published recipe (spec diffdub 1.7) with four changes that make one call enough: the network predicts the picture,
most samples are at the last noise step, the loss is L1 on pixels and on their differences, weighted to where the mouth
moved the picture, and the reference is usually the same pose with its mouth closed, which is what an idle clip gives.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from safetensors.torch import load_file
from torch import Tensor, nn

from avatarlab.errors import InputError
from avatarlab.lips import sampler
from avatarlab.lips.diffdub import Renderer, RendererConfig
from avatarlab.lips.lip_images import lip_images
from avatarlab.lips.mask import CORPUS_MARGIN, WINDOW_SIDE, window_keep
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

MINI_RENDERER = RendererConfig(
    base=32,
    widths=(64, 64, 128),
    encoder_widths=(32, 32, 64, 64),
    blocks=1,
    attention_levels=(),
    encoder_attention_levels=(),
    time=64,
    style=64,
    patch=6,
    window=(144, 48),
)
STEPS_TRAINED = (999, 999, 999, 999, 999, 999, 999, 749, 499, 249)
OTHER_POSE_SHARE = 0.1
TEXTURED_SHARE = 0.3
# Landmarks left and right that move with the mouth (one on the midline is its own partner), and pairs across it.
_PAIRS = ((48, 54), (49, 53), (50, 52), (51, 51), (57, 57), (58, 56), (59, 55), (60, 64), (61, 63), (62, 62), (66, 66), (67, 65),
          (5, 11), (6, 10), (7, 9), (8, 8))  # fmt: skip
_SPANS = ((48, 54), (49, 53), (59, 55), (60, 64), (61, 63))
_MOTION_SIZE = len(_PAIRS) + len(_SPANS) + 1


def with_patch(tensors: Mapping[str, Tensor], config: RendererConfig) -> dict[str, Tensor]:
    """The published state dict of a window renderer made to work in the patches of `config`: at first it draws what it
    drew, enlarged. Its trunk and its lip encoder stay as they are.
    """
    assert config.window is not None
    fan_in = tensors["input_blocks.0.0.weight"].shape[1]
    old, new = isqrt(fan_in // 6), config.patch
    # Row i: how much of each new pixel lies under old pixel i.
    edges = np.arange(old + 1) * new / old
    cells = np.arange(new)
    under = np.clip(np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells), 0, None) * old / new
    # Row j: the old pixels that new pixel j lies between.
    at = np.clip((cells + 0.5) * old / new - 0.5, 0, old - 1)
    between = np.clip(1 - np.abs(at[:, None] - np.arange(old)), 0, None)
    shrink, enlarge = (torch.from_numpy(np.kron(side, side)).float() for side in (under, between))

    def outputs(value: Tensor) -> Tensor:
        return torch.einsum("ji,ci...->cj...", enlarge, value.float().unflatten(0, (3, old**2))).flatten(0, 1)

    first = torch.einsum(
        "ociyx,ij->ocjyx", tensors["input_blocks.0.0.weight"].float().unflatten(1, (6, old**2)), shrink
    ).flatten(1, 2)
    return {
        **tensors,
        "input_blocks.0.0.weight": first,
        "out.2.weight": outputs(tensors["out.2.weight"]),
        "out.2.bias": outputs(tensors["out.2.bias"]),
        "sample_window": torch.tensor(config.window, dtype=torch.int32),
    }


@dataclass(frozen=True)
class Faces:
    """One or more shards of the face corpus, concatenated (avatarlab.training.face_corpus)."""

    windows: UInt8[np.ndarray, "n side side 3"]
    landmarks: Float[np.ndarray, "n 68 2"]
    opening: Float[np.ndarray, "n"]
    states: Float[np.ndarray, "n 5"]
    owner: Int[np.ndarray, "n"]
    reference_windows: UInt8[np.ndarray, "p side side 3"]
    reference_landmarks: Float[np.ndarray, "p 68 2"]
    reference_identity: Int[np.ndarray, "p"]


def training_shards(corpus_dir: Path) -> list[Path]:
    """Shards of drawn faces and of one's own videos (avatarlab.training.own_videos), without those held out."""
    return sorted([*corpus_dir.glob("faces-*.npz"), *corpus_dir.glob("own-*.npz")])


def load_faces(paths: list[Path]) -> Faces:
    """Reads shards; InputError where there are none, or where their windows differ in size."""
    if not paths:
        raise InputError(
            "no face shards to train on", "run `avatarlab train faces` or `avatarlab train prepare FOLDER` first"
        )
    parts: dict[str, list[np.ndarray]] = {}
    offset = 0
    for path in paths:
        with np.load(path) as shard:
            for name in shard.files:
                values = shard[name] + offset if name == "presenter" else shard[name]
                parts.setdefault(name, []).append(values)
            offset += len(shard["reference_windows"])
            if parts["windows"][0].shape[1] != shard["windows"].shape[1]:
                raise InputError(
                    f"{path.name} has windows of {shard['windows'].shape[1]} pixels, "
                    f"{paths[0].name} of {parts['windows'][0].shape[1]}",
                    "make the older shards again",
                )
    joined = {name: np.concatenate(values) for name, values in parts.items()}
    return Faces(
        joined["windows"],
        joined["landmarks"],
        joined["opening"],
        joined["states"],
        joined["presenter"],
        joined["reference_windows"],
        joined["reference_landmarks"],
        joined["reference_identity"],
    )


@dataclass(frozen=True)
class Batch:
    """Windows and references in [-1, 1] at the network's size, lip images, and where the mouth went."""

    target: Float[Tensor, "b 3 h w"]
    reference: Float[Tensor, "b 3 h w"]
    lips: Float[Tensor, "b 3 k k"]
    motion: Float[Tensor, "b m"]  # heights, widths (eye distances) and opening against the closed mouth


def make_batch(
    faces: Faces, index: Int[np.ndarray, "b"], config: RendererConfig, rng: np.random.Generator | None
) -> Batch:
    """Windows `index` as a batch; with `rng`, jittered, flipped, recoloured, and some with a reference of another
    pose.
    """
    assert config.window is not None
    size, lip_size = config.window
    owner = faces.owner[index]
    if rng is not None:
        owner = owner.copy()
        for k in np.flatnonzero(rng.random(len(index)) < OTHER_POSE_SHARE):
            owner[k] = rng.choice(np.flatnonzero(faces.reference_identity == faces.reference_identity[owner[k]]))
    margin = (faces.windows.shape[1] - size) // 2
    windows = torch.from_numpy(faces.windows[index]).permute(0, 3, 1, 2).float() / 127.5 - 1
    references = torch.from_numpy(faces.reference_windows[owner]).permute(0, 3, 1, 2).float() / 127.5 - 1
    unit = size / WINDOW_SIDE
    moved = (faces.landmarks[index] - faces.reference_landmarks[faces.owner[index]]) / unit
    if rng is None:
        target = windows[:, :, margin:-margin, margin:-margin]
        reference = references[:, :, margin:-margin, margin:-margin]
        lips = lip_images(windows, lip_size, CORPUS_MARGIN)
    else:
        flip = rng.random(len(index)) < 0.5
        turned = torch.from_numpy(flip)[:, None, None, None]
        windows = torch.where(turned, windows.flip(3), windows)
        references = torch.where(turned, references.flip(3), references)
        lips = _recoloured(lip_images(windows, lip_size, CORPUS_MARGIN, rng), 0.25, rng)
        offsets = np.clip(np.rint(rng.normal(margin, 2.5, (len(index), 2))), 0, 2 * margin).astype(int)
        both = _recoloured(_textured(torch.cat([windows, references], dim=3), rng), 0.1, rng)
        cut = [both[k, :, y : y + size] for k, (y, _) in enumerate(offsets)]
        wide = windows.shape[3]
        target = torch.stack([rows[:, :, x : x + size] for rows, (_, x) in zip(cut, offsets, strict=True)])
        reference = torch.stack(
            [rows[:, :, wide + x : wide + x + size] for rows, (_, x) in zip(cut, offsets, strict=True)]
        )
    motion = _mouth_motion(moved, faces.opening[index])
    return Batch(target, reference, lips, torch.from_numpy(motion))


def _mouth_motion(moved: Float[np.ndarray, "b 68 2"], opening: Float[np.ndarray, "b"]) -> Float[np.ndarray, "b m"]:
    """Heights, widths and opening of the mouth against the closed one; the same for a mirrored picture."""
    left, right = np.array(_PAIRS).T
    heights = (moved[:, left, 1] + moved[:, right, 1]) / 2
    left, right = np.array(_SPANS).T
    widths = moved[:, right, 0] - moved[:, left, 0]
    return np.concatenate([heights, widths, opening[:, None]], axis=1).astype(np.float32)


def _recoloured(
    images: Float[Tensor, "b 3 h w"], strength: float, rng: np.random.Generator
) -> Float[Tensor, "b 3 h w"]:
    gain = np.exp(rng.normal(0, strength, (len(images), 1)) + rng.normal(0, strength / 2, (len(images), 3)))
    return ((images + 1) * torch.from_numpy(gain).float()[:, :, None, None] - 1).clamp(-1, 1)


def _textured(pairs: Float[Tensor, "b 3 h w2"], rng: np.random.Generator) -> Float[Tensor, "b 3 h w2"]:
    """Some windows and their references, side by side, under the same light and the same grain, as photographs have."""
    pairs = pairs.clone()
    side = pairs.shape[2]
    for k in np.flatnonzero(rng.random(len(pairs)) < TEXTURED_SHARE):
        light = cv2.resize(rng.normal(0, 0.12, (3, 3)), (side, side), interpolation=cv2.INTER_CUBIC)
        grain = cv2.GaussianBlur(rng.normal(0, 1, (side, side)), (0, 0), rng.uniform(0.5, 1.5))
        field = np.exp(light + rng.uniform(0, 0.06) * grain / grain.std())
        both = torch.from_numpy(np.concatenate([field, field], axis=1)).float()
        pairs[k] = ((pairs[k] + 1) * both - 1).clamp(-1, 1)
    return pairs


def picture_loss(
    drawn: Float[Tensor, "b 3 h w"],
    target: Float[Tensor, "b 3 h w"],
    reference: Float[Tensor, "b 3 h w"],
    keep: Float[Tensor, "h w"],
) -> Float[Tensor, ""]:
    """L1 in the mask, on pixels and on differences of neighbours, four times heavier where the mouth changed the
    picture.
    """
    changed = (target - reference).abs().amax(dim=1, keepdim=True)
    weight = (1 - keep) * (0.5 + 3.5 * F.max_pool2d((changed / 0.25).clamp(0, 1), 3, stride=1, padding=1))
    error = drawn - target
    across = (error[..., 1:] - error[..., :-1]).abs() * weight[..., 1:]
    along = (error[..., 1:, :] - error[..., :-1, :]).abs() * weight[..., 1:, :]
    return ((error.abs() * weight).sum() + across.sum() + along.sum()) / (3 * weight.sum())


def train_renderer(
    corpus_dir: Path,
    out_dir: Path,
    minutes: float,
    seed: int = 0,
    progress: Progress = lambda _: None,
    config: RendererConfig = MINI_RENDERER,
    batch_size: int = 16,
    peak_rate: float = 1.5e-3,
    evaluate_every: int = 200,
    continued: Path | None = None,
) -> Path:
    """Trains on faces-*.npz and own-*.npz in CORPUS_DIR for `minutes`, resuming from OUT_DIR; returns OUT_DIR/renderer.safetensors.

    Shards that appear while it trains are taken up. Held-out L1 (in the mask, 0..255) of CORPUS_DIR/held-*.npz goes to
    OUT_DIR/held_out.jsonl. Batches depend on `seed` and the step alone. `continued` names weights to go on from, of this
    configuration but for window and patch; their lip encoder is kept as it is, so that motion networks trained against
    it stay valid.
    """
    torch.manual_seed(seed)
    assert config.window is not None
    size = config.window[0]
    renderer = Renderer(config).train()
    if continued is not None:
        renderer = Renderer.from_state_dict(with_patch(load_file(continued), config)).train()
    renderer.encoder.requires_grad_(continued is None)
    guess = nn.Sequential(nn.SiLU(), nn.Linear(config.style, _MOTION_SIZE))
    trained = [parameter for parameter in renderer.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW([*trained, *guess.parameters()], betas=(0.9, 0.98), weight_decay=0.01)
    average = MovingAverage(renderer, 0.999)
    keep = torch.from_numpy(window_keep(size).astype(np.float32))
    shards = training_shards(corpus_dir)
    faces = load_faces(shards)
    held_paths = sorted(corpus_dir.glob("held-*.npz"))
    held = load_faces(held_paths) if held_paths else None
    out_dir.mkdir(parents=True, exist_ok=True)

    def step(number: int, fraction: float) -> Mapping[str, float]:
        nonlocal shards, faces
        if number % 100 == 0 and (found := training_shards(corpus_dir)) != shards:
            shards, faces = found, load_faces(found)
        rng = np.random.default_rng([seed, number])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        batch = make_batch(faces, rng.integers(len(faces.windows), size=batch_size), config, rng)
        t = torch.from_numpy(rng.choice(STEPS_TRAINED, batch_size))
        noise = torch.randn(batch.target.shape, generator=generator)
        x = sampler.noised(batch.target, keep.expand_as(batch.target[:, :1]), noise, t)
        z = renderer.encode_lips(batch.lips)
        picture = picture_loss(renderer.predict_clean(x, batch.reference, t, z), batch.target, batch.reference, keep)
        motion = F.smooth_l1_loss(guess(z), batch.motion, beta=0.02)
        loss = picture + 2.0 * motion + 1e-4 * z.square().mean()
        set_learning_rate(optimiser, learning_rate(peak_rate, fraction, number, 100, flat=0.3))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        average.update()
        if held is not None and number % evaluate_every == evaluate_every - 1:
            scores = evaluate(average.network(), held)
            line = {
                "step": number + 1,
                "minutes": round(fraction * minutes, 2),
                "windows": len(faces.windows),
                **scores,
            }
            report_held_out(out_dir, line, progress)
        return {"picture": float(picture.detach()), "motion": float(motion.detach())}

    parts: dict[str, Stateful] = {"renderer": renderer, "guess": guess, "optimiser": optimiser, "average": average}
    train_loop(out_dir, parts, step, minutes=minutes, progress=progress, checkpoint_seconds=60.0)
    path = out_dir / "renderer.safetensors"
    save_weights(average.network().published_state_dict(), path)
    save_atomically(guess.state_dict(), out_dir / "guess.pt")
    return path


@torch.inference_mode()
def evaluate(renderer: Renderer, faces: Faces, count: int = 64) -> dict[str, float]:
    """Mean absolute error in the mask, in levels of 255: one call, against leaving the reference as it is."""
    assert renderer.config.window is not None
    keep = torch.from_numpy(window_keep(renderer.config.window[0]).astype(np.float32))
    index = np.linspace(0, len(faces.windows) - 1, min(count, len(faces.windows))).astype(int)
    batch = make_batch(faces, index, renderer.config, None)
    noise = torch.randn((1, *batch.target.shape[1:]), generator=torch.Generator().manual_seed(0))
    z = renderer.encode_lips(batch.lips)
    drawn = renderer.sample(batch.target, batch.reference, keep.expand_as(batch.target[:, :1]), noise, z, 1)
    changed = ((batch.target - batch.reference).abs().amax(dim=1, keepdim=True) > 0.1) & (keep < 0.5)

    def error(picture: Tensor) -> float:
        return round(float(((picture - batch.target).abs().mean(dim=1, keepdim=True) * 127.5)[changed].mean()), 3)

    return {"l1": error(drawn), "l1_reference": error(batch.reference)}
