"""DiffDub's networks reproduce the reference implementation and load strictly or not at all."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from avatarlab.errors import SettingsError, WeightsError
from avatarlab.lips import sampler
from avatarlab.lips.diffdub import (
    PUBLISHED_MOTION,
    PUBLISHED_RENDERER,
    Motion,
    MotionConfig,
    Renderer,
    RendererConfig,
    motion_shapes,
    renderer_shapes,
)

SMALL = RendererConfig(
    base=32, widths=(32, 64), encoder_widths=(32, 64), blocks=1, attention_levels=(1,), encoder_attention_levels=(),
    time=64, style=48, patch=2, window=(32, 16),
)  # fmt: skip


def filled(keys_file: Path) -> dict[str, Tensor]:
    """Weights of a golden fixture (tests/golden: a * sin(w i + c s) by key)."""
    tensors = {}
    for key, shape in json.loads(keys_file.read_text()).items():
        if key.endswith("num_batches_tracked"):
            tensors[key] = torch.zeros(shape, dtype=torch.int64)
            continue
        index = np.arange(int(np.prod(shape)), dtype=np.float64)
        values = (0.05 * np.sin(0.7 * index + 0.1 * sum(map(ord, key)))).astype(np.float32).reshape(shape)
        if key.endswith("running_var"):
            values = 1 + np.abs(values)
        elif key.endswith(".weight") and len(shape) == 1:
            values = values + 1
        tensors[key] = torch.from_numpy(np.asarray(values, dtype=np.float32))
    return tensors


@pytest.fixture(scope="module")
def stage1() -> tuple[Renderer, dict[str, Tensor], dict[str, Tensor]]:
    folder = Path(__file__).parent / "golden"
    tensors = filled(folder / "diffdub_stage1.keys.json")
    with np.load(folder / "diffdub_stage1.npz") as file:
        values = {name: torch.from_numpy(file[name]) for name in file}
    return Renderer.from_state_dict(tensors), tensors, values


def fingerprint(shapes: dict[str, tuple[int, ...]]) -> str:
    lines = sorted(f"{key} {'x'.join(map(str, shape))}".encode() for key, shape in shapes.items())
    return hashlib.sha256(b"\n".join(lines) + b"\n").hexdigest()


def test_the_published_renderer_has_exactly_the_published_706_keys() -> None:
    shapes = renderer_shapes(PUBLISHED_RENDERER)
    encoder = {key: shape for key, shape in shapes.items() if key.startswith("encoder.")}
    unet = {key: shape for key, shape in shapes.items() if key not in encoder}
    assert (len(shapes), len(unet), len(encoder)) == (706, 590, 116)
    assert fingerprint(shapes) == "a5fea8386d57a073ab2da2f257edd45d4e63d2e95919fd5679bec32501cdf296"
    assert fingerprint(unet) == "c2b139a13ff65b30809b87aa6806f150135462ae4ef1cbb53fbce4dd6698d555"
    assert fingerprint(encoder) == "f9e72b068f0e3607e01a5764921f83f7a1a929ccaa445ceda940efb761ff89ad"


def test_the_full_training_file_has_the_published_1413_keys() -> None:
    shapes = renderer_shapes(PUBLISHED_RENDERER)
    full = {f"{half}.{key}": shape for half in ("model", "ema_model") for key, shape in shapes.items()}
    full["x_T"] = (32, 3, 256, 256)
    assert len(full) == 1413
    assert fingerprint(full) == "5f8cb290881b4e211a0a34102f6b4ac6ef532ad1ec86adac179774fa3f5504af"


def test_the_published_motion_network_has_exactly_the_published_417_keys() -> None:
    shapes = {f"seq2seq.encoder.{key}": shape for key, shape in motion_shapes(PUBLISHED_MOTION).items()}
    assert len(shapes) == 417
    assert fingerprint(shapes) == "adf925b6f2bcfe1bad0fe87c9400321dcb33a0b9a95ce83eafebde48cb136aa2"


def test_configuration_is_read_from_tensors_alone() -> None:
    for config in (PUBLISHED_RENDERER, SMALL):
        tensors = {key: torch.empty(shape, device="meta") for key, shape in renderer_shapes(config).items()}
        if config.window:
            tensors["sample_window"] = torch.tensor(config.window)
            assert Renderer(config).config == config
        from avatarlab.lips.diffdub import _renderer_config

        assert _renderer_config(tensors) == config


def test_lip_latents_agree_with_the_reference_implementation(stage1) -> None:  # type: ignore[no-untyped-def]
    renderer, _, golden = stage1
    with torch.inference_mode():
        assert (renderer.encode_lips(golden["lip"]) - golden["z"]).abs().max() < 2e-5


def test_noise_predictions_agree_with_the_reference_implementation(stage1) -> None:  # type: ignore[no-untyped-def]
    renderer, _, golden = stage1
    with torch.inference_mode():
        eps = renderer.predict_noise(golden["x0"], golden["ref"], torch.tensor([50, 900]), golden["z"])
    assert (eps - golden["eps"]).abs().max() < 2e-5


def test_masked_sampling_agrees_with_the_reference_implementation(stage1) -> None:  # type: ignore[no-untyped-def]
    renderer, tensors, golden = stage1
    inputs = [golden[name] for name in ("x0", "ref", "keep", "xT", "z")]
    with torch.inference_mode():
        error = (renderer.ddim(*inputs, 5) - golden["ddim"]).abs()
        # These weights amplify rounding: noise that differs in the seventh digit moves the result further than any
        # change of kernels does. What is not amplified agrees to the last digits; what is, to within that sensitivity.
        double = Renderer.from_state_dict(tensors).double()
        exact = [value.double() for value in inputs]
        wobble = 1e-6 * torch.sin(torch.arange(exact[3].numel(), dtype=torch.float64)).view_as(exact[3])
        moved = [*exact[:3], exact[3] + wobble, exact[4]]
        sensitivity = (double.ddim(*moved, 5) - double.ddim(*exact, 5)).abs().amax(dim=(1, 2, 3))
    assert error.median() < 1e-6
    assert (error < 5e-5).float().mean() > 0.8
    assert (error.amax(dim=(1, 2, 3)) < sensitivity.clamp(min=5e-5)).all()


def test_the_training_loss_agrees_with_the_reference_implementation(stage1) -> None:  # type: ignore[no-untyped-def]
    renderer, _, golden = stage1
    with torch.inference_mode():
        loss = sampler.noise_loss(
            lambda x, t: renderer.predict_noise(x, golden["ref"], t, golden["z"]),
            golden["x0"], golden["keep"], golden["noise"], torch.tensor([50, 900]),
        )  # fmt: skip
    assert (loss - golden["loss"]).abs().max() < 2e-5


def test_motion_latents_agree_with_the_reference_implementation(golden: Path) -> None:
    tensors = filled(golden / "diffdub_stage2.keys.json")
    motion = Motion.from_state_dict(tensors)
    audio = torch.from_numpy(np.sin(0.013 * np.arange(25 * 60 * 1024) + 0.1).astype(np.float32)).view(1, 25, 60, 1024)
    references = torch.from_numpy(np.sin(0.031 * np.arange(33 * 512) + 0.2).astype(np.float32)).view(1, 33, 512)
    with np.load(golden / "diffdub_stage2.npz") as file, torch.inference_mode():
        assert (motion(audio, references) - torch.from_numpy(file["latents"])).abs().max() < 2e-5
    with pytest.raises(WeightsError, match="missing weights"):
        Motion.from_state_dict({k: v for k, v in tensors.items() if k != "seq2seq.encoder.weights"})


@pytest.mark.parametrize("layout", ["unprefixed", "averaged half", "full training file"])
def test_every_published_layout_loads_to_the_same_network(stage1, layout: str) -> None:  # type: ignore[no-untyped-def]
    renderer, tensors, golden = stage1
    averaged = {f"ema_model.{key}": value for key, value in tensors.items()}
    raw = {f"model.{key}": value * 0 for key, value in tensors.items()}
    file = {
        "unprefixed": tensors,
        "averaged half": averaged,
        "full training file": {**raw, **averaged, "x_T": torch.zeros(2, 3, 8, 8)},
    }[layout]
    with torch.inference_mode():
        assert torch.equal(
            Renderer.from_state_dict(file).encode_lips(golden["lip"]), renderer.encode_lips(golden["lip"])
        )


def small_tensors(kind: str) -> tuple[type[Renderer] | type[Motion], dict[str, Tensor]]:
    torch.manual_seed(0)
    if kind == "renderer":
        return Renderer, Renderer(SMALL).published_state_dict()
    small = MotionConfig(32, 16, 1, 8, 1, 1, 1, 2, 32, 5, residual=True)
    return Motion, dict(Motion(small).state_dict())


@pytest.mark.parametrize("kind", ["renderer", "motion"])
def test_any_missing_unknown_or_misshapen_tensor_is_refused_by_name(kind: str) -> None:
    network, tensors = small_tensors(kind)
    network.from_state_dict(tensors)
    for key in [*list(tensors)[::6], *list(tensors)[:8], *list(tensors)[-4:]]:
        if key == "sample_window":
            continue
        with pytest.raises(WeightsError) as missing:
            network.from_state_dict({k: v for k, v in tensors.items() if k != key})
        assert key in str(missing.value), key
    with pytest.raises(WeightsError, match="unknown surprise"):
        network.from_state_dict({**tensors, "surprise": torch.zeros(1)})
    for key in ("out.2.weight", "input_blocks.1.0.in_layers.2.weight") if kind == "renderer" else ("out_proj.weight",):
        with pytest.raises(WeightsError, match=f"misshapen {key}"):
            network.from_state_dict({**tensors, key: tensors[key][:-1]})


def test_at_most_five_mismatches_are_named_and_the_rest_counted() -> None:
    _, tensors = small_tensors("renderer")
    with pytest.raises(WeightsError, match="and 2 more"):
        Renderer.from_state_dict({**tensors, **{f"extra{i}": torch.zeros(1) for i in range(7)}})


def test_weights_survive_a_round_trip_through_half_precision_files() -> None:
    _, tensors = small_tensors("renderer")
    halves = {key: value.half() if value.is_floating_point() else value for key, value in tensors.items()}
    renderer = Renderer.from_state_dict(halves)
    assert renderer.config == SMALL
    assert all(value.dtype == torch.float32 for value in renderer.state_dict().values())


def test_the_window_renderer_starts_as_a_copy_of_its_reference() -> None:
    torch.manual_seed(0)
    renderer = Renderer(SMALL).eval()
    x, reference = torch.rand(2, 2, 3, 32, 32) * 2 - 1
    keep = torch.zeros(2, 1, 32, 32)
    with torch.inference_mode():
        z = renderer.encode_lips(torch.zeros(2, 3, 16, 16))
        assert torch.equal(renderer.sample(x, reference, keep, torch.randn(1, 3, 32, 32), z, 2), reference)


def test_noise_and_picture_predictions_of_the_window_renderer_describe_the_same_picture() -> None:
    torch.manual_seed(0)
    renderer = Renderer(SMALL).eval()
    for parameter in renderer.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    x, reference = torch.rand(2, 2, 3, 32, 32)
    t, z = torch.tensor([999, 400]), torch.randn(2, 48)
    signal = sampler.alpha_bars()[t].float()[:, None, None, None]
    with torch.inference_mode():
        clean, eps = renderer.predict_clean(x, reference, t, z), renderer.predict_noise(x, reference, t, z)
    assert torch.allclose(signal.sqrt() * clean + (1 - signal).sqrt() * eps, x, atol=1e-5)


def test_impossible_step_counts_are_refused_with_a_remedy(stage1) -> None:  # type: ignore[no-untyped-def]
    renderer, _, golden = stage1
    with pytest.raises(SettingsError, match="37"):
        renderer.ddim(golden["x0"], golden["ref"], golden["keep"], golden["xT"], golden["z"], 37)
