"""Training the lips: resumes, writes loadable weights, keeps the encoder when told to; scoring finds lag and correlation."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from avatarlab.errors import InputError
from avatarlab.lips.diffdub import Renderer, RendererConfig
from avatarlab.training.evaluate_lips import best_lag
from avatarlab.training.hearings import Spoken, posture, varied
from avatarlab.training.mouth_latents import DrawnMouths, fit_table
from avatarlab.training.presenters import FaceState
from avatarlab.training.renderer import evaluate, load_faces, make_batch, train_renderer, with_patch

TINY = RendererConfig(
    base=32, widths=(32, 32), encoder_widths=(32, 32), blocks=1, attention_levels=(), encoder_attention_levels=(),
    time=32, style=16, patch=8, window=(96, 32),
)  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grey face with a dark mouth of varying height: 24 windows of 3 poses."""
    folder = tmp_path_factory.mktemp("faces")
    rng = np.random.default_rng(0)
    for name in ("faces-000.npz", "held-000.npz"):
        owner = np.repeat(np.arange(3), 8)
        opening = rng.random(24).astype(np.float32)
        reference = np.full((3, 112, 112, 3), 180, np.uint8) - (10 * np.arange(3, dtype=np.uint8))[:, None, None, None]
        windows = reference[owner].copy()
        landmarks = np.zeros((24, 68, 2), np.float32)
        for window, marks, height in zip(windows, landmarks, opening, strict=True):
            window[40 : 42 + int(30 * height), 36:76] = (90, 20, 20)
            marks[48:, 1] = 15 * height
        np.savez(
            folder / name, windows=windows, landmarks=landmarks, opening=opening, states=np.zeros((24, 5), np.float32),
            presenter=owner.astype(np.int32), reference_windows=reference,
            reference_landmarks=np.zeros((3, 68, 2), np.float32), reference_identity=np.zeros(3, np.int32),
        )  # fmt: skip
    return folder


def test_training_resumes_and_writes_weights_that_load(corpus: Path, tmp_path: Path) -> None:
    lines: list[str] = []

    def train(minutes: float) -> Renderer:
        path = train_renderer(
            corpus, tmp_path, minutes, progress=lines.append, config=TINY, batch_size=4, evaluate_every=1
        )
        return Renderer.from_state_dict(load_file(path))

    train(0.005)
    assert not any("resumed" in line for line in lines)
    renderer = train(0.03)
    assert any("resumed at step" in line for line in lines)
    assert renderer.config == TINY
    held_out = [json.loads(line) for line in (tmp_path / "held_out.jsonl").read_text().splitlines()]
    assert [line["step"] for line in held_out] == list(range(1, len(held_out) + 1))
    assert evaluate(renderer, load_faces([corpus / "held-000.npz"]), 8)["l1_reference"] > 0


def test_going_on_from_weights_keeps_their_lip_encoder(corpus: Path, tmp_path: Path) -> None:
    first = train_renderer(corpus, tmp_path / "first", 0.005, config=TINY, batch_size=4)
    second = train_renderer(corpus, tmp_path / "second", 0.005, config=TINY, batch_size=4, continued=first)
    before, after = load_file(first), load_file(second)
    assert all(torch.equal(before[key], after[key]) for key in before if key.startswith("encoder."))
    assert any(not torch.equal(before[key], after[key]) for key in before if key.startswith("input_blocks."))


def test_batches_depend_on_the_seed_alone_and_keep_pose_and_reference_together(corpus: Path) -> None:
    faces = load_faces([corpus / "faces-000.npz"])
    index = np.arange(6)
    first = make_batch(faces, index, TINY, np.random.default_rng(3))
    again = make_batch(faces, index, TINY, np.random.default_rng(3))
    assert torch.equal(first.target, again.target)
    assert torch.equal(first.lips, again.lips)
    plain = make_batch(faces, index, TINY, None)
    assert torch.equal(plain.target[..., :20, :], plain.reference[..., :20, :])
    assert plain.target.shape == (6, 3, 96, 96)


def test_training_without_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no face shards"):
        train_renderer(tmp_path, tmp_path / "out", 0.01, config=TINY)


def test_the_latent_table_tells_postures_it_has_not_seen() -> None:
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(6, 8)).astype(np.float32)
    postures = rng.random((400, 6)).astype(np.float32)
    closed = np.tile(rng.normal(size=(2, 1, 8)), (1, 3, 1)).astype(np.float32)
    owner = np.repeat([0, 1], 200)
    mouths = DrawnMouths(owner, postures, closed[owner, 0] + postures @ mixing, postures[:, 0], closed)
    lines: list[str] = []
    table = fit_table(mouths, seed=0, steps=150, progress=lines.append)
    unseen = rng.random((50, 6)).astype(np.float32)
    told = table.change(torch.from_numpy(unseen), torch.zeros(50, dtype=torch.int64)) * table.spread
    assert np.corrcoef(told.numpy().ravel(), (unseen @ mixing).ravel())[0, 1] > 0.95
    assert float(lines[0].split("explains ")[1].split()[0]) > 0.9


def test_a_varied_recording_stays_aligned_with_its_mouth() -> None:
    track = posture([FaceState(jaw=float(k == 20)) for k in range(40)])
    waveform = np.zeros(640 * 40, np.float32)
    waveform[640 * 20 : 640 * 21] = np.sin(np.arange(640) / 3)
    for seed in range(5):
        other = varied(Spoken(waveform, track, np.zeros(40, np.int64)), np.random.default_rng(seed))
        assert len(other.waveform) == 640 * len(other.track)
        loudest = int(np.square(other.waveform.reshape(-1, 640)).sum(1).argmax())
        assert abs(loudest - int(other.track[:, 0].argmax())) <= 1


@pytest.mark.parametrize("lag", [-3, 0, 2])
def test_the_best_lag_is_found_with_its_sign(lag: int) -> None:
    truth = np.random.default_rng(0).random(100)
    measured = np.roll(truth, lag) * 0.5 + 0.1
    correlation, found = best_lag(measured, truth)
    assert found == lag
    assert correlation == pytest.approx(1.0)


def test_a_mouth_that_never_moves_scores_nothing() -> None:
    assert best_lag(np.zeros(20), np.random.default_rng(0).random(20)) == (0.0, 0)


def test_a_renderer_given_larger_patches_draws_the_same_picture_enlarged() -> None:
    torch.manual_seed(0)
    renderer = Renderer(replace(TINY, patch=4, window=(48, 32))).eval()
    with torch.no_grad():
        for parameter in renderer.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape))
    config = replace(TINY, patch=6, window=(72, 32))
    larger = Renderer.from_state_dict(with_patch(renderer.published_state_dict(), config))
    assert larger.config == config
    small = torch.nn.functional.interpolate(torch.rand(1, 6, 9, 9), size=48, mode="bicubic")
    big = torch.nn.functional.interpolate(small, size=72, mode="bilinear", align_corners=False)
    t, z = torch.tensor([999]), torch.randn(1, 16)
    with torch.inference_mode():
        before = renderer.predict_clean(small[:, :3], small[:, 3:], t, z) - small[:, 3:]
        after = larger.predict_clean(big[:, :3], big[:, 3:], t, z) - big[:, 3:]
    # Random weights draw noise within a patch, which enlarging blurs; what is left is told by the means of patches.
    means = [torch.nn.functional.adaptive_avg_pool2d(picture, 12).ravel() for picture in (before, after)]
    assert float(torch.corrcoef(torch.stack(means))[0, 1]) > 0.95
