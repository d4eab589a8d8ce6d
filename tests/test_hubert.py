"""HuBERT: the published states to the letter, strict loading, and recordings of any length."""

import ast
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hearing import TINY_HUBERT, hubert_tensors
from torch import Tensor

from avatarlab.errors import WeightsError
from avatarlab.lips.hubert import PASS_FRAMES, PUBLISHED_HUBERT, STRIDES, Hubert, HubertConfig

ROOT = Path(__file__).parent.parent
G, V = "encoder.pos_conv_embed.conv.weight_g", "encoder.pos_conv_embed.conv.weight_v"


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return hubert_tensors()


@pytest.fixture(scope="module")
def hubert(tensors: dict[str, Tensor]) -> Hubert:
    return Hubert.from_state_dict(tensors)


def noise(frames: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).normal(size=640 * frames) + 0.02).astype(np.float32)


def naive_states(of: dict[str, Tensor], samples: Tensor, heads: int, groups: int) -> list[Tensor]:
    """The pre-norm transformer written out, one query at a time; every state as it is, none normalised."""
    x = samples[None, None]
    for i, stride in enumerate(STRIDES):
        name = f"feature_extractor.conv_layers.{i}"
        x = F.conv1d(x, of[f"{name}.conv.weight"], stride=stride)
        x = norm(of, f"{name}.layer_norm", x.transpose(1, 2)).transpose(1, 2)
        x = 0.5 * x * (1 + torch.erf(x / sqrt(2)))
    x = linear(of, "feature_projection.projection", norm(of, "feature_projection.layer_norm", x[0].T))
    weight = of[V] * of[G] / of[V].square().sum(dim=(0, 1), keepdim=True).sqrt()
    bias = of["encoder.pos_conv_embed.conv.bias"]
    kernel = weight.shape[2]
    padded = F.pad(x.T, (kernel // 2, kernel // 2 - 1))  # an even kernel would give one frame more
    position = F.gelu(F.conv1d(padded[None], weight, bias, groups=groups))[0].T
    x = x + position
    states = [x]
    for i in range(TINY_HUBERT.layers):
        name = f"encoder.layers.{i}"
        y = norm(of, f"{name}.layer_norm", x)
        q, k, v = (linear(of, f"{name}.attention.{part}_proj", y) for part in "qkv")
        size = q.shape[1] // heads
        mixed = torch.zeros_like(x)
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            for frame in range(len(x)):
                share = torch.softmax(k[:, part] @ q[frame, part] / sqrt(size), dim=0)
                mixed[frame, part] = share @ v[:, part]
        x = x + linear(of, f"{name}.attention.out_proj", mixed)
        inner = F.gelu(linear(of, f"{name}.feed_forward.intermediate_dense", norm(of, f"{name}.final_layer_norm", x)))
        x = x + linear(of, f"{name}.feed_forward.output_dense", inner)
        states.append(x)
    return states


def linear(of: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ of[f"{name}.weight"].T + of[f"{name}.bias"]


def norm(of: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * of[f"{name}.weight"] + of[f"{name}.bias"]


@pytest.mark.parametrize(
    ("samples", "frames"), [(400, 1), (719, 1), (720, 2), (16_000, 49), (160_000, 499), (160_160, 500)]
)
def test_frames_are_counted_as_published(hubert: Hubert, samples: int, frames: int) -> None:
    with torch.inference_mode():
        states = hubert(torch.randn(1, samples, generator=torch.Generator().manual_seed(0)))
    assert states.shape == (1, 3, frames, 128)


def test_the_first_states_are_raw_and_only_the_last_is_normalised(hubert: Hubert, tensors: dict[str, Tensor]) -> None:
    samples = torch.randn(6_000, generator=torch.Generator().manual_seed(1))
    expected = naive_states(tensors, samples, heads=2, groups=4)
    with torch.inference_mode():
        states = hubert(samples[None])[0]
    assert (states[0] - expected[0]).abs().max() < 1e-5
    assert (states[1] - expected[1]).abs().max() < 1e-5
    assert (states[2] - norm(tensors, "encoder.layer_norm", expected[2])).abs().max() < 1e-5
    assert (states[2] - expected[2]).abs().max() > 0.1


def test_a_layer_weight_of_one_hears_that_state_alone(hubert: Hubert) -> None:
    from avatarlab.lips.diffdub import Motion, MotionConfig

    torch.manual_seed(0)
    motion = Motion(MotionConfig(32, 32, 3, 128, 1, 1, 1, 2, 32, 5)).eval()
    references = torch.randn(1, 5, 32)
    with torch.inference_mode():
        heard = hubert.features(noise(10)).between(0, 20)[None]
        for state in range(3):
            motion.weights.copy_(torch.full((3,), -40.0))
            motion.weights[state] = 40.0
            alone = heard[:, state : state + 1].expand(-1, 3, -1, -1)
            assert torch.allclose(motion(heard, references), motion(alone, references), atol=1e-5)
            other = heard[:, (state + 1) % 3, None].expand(-1, 3, -1, -1)
            assert not torch.allclose(motion(heard, references), motion(other, references), atol=1e-3)


class TestLoading:
    def test_sizes_come_from_the_tensors(self, hubert: Hubert) -> None:
        assert hubert.config == TINY_HUBERT and hubert.config.heads == 2
        assert (PUBLISHED_HUBERT.heads, PUBLISHED_HUBERT.states) == (16, 25)

    def test_the_published_network_has_the_published_tensors(self) -> None:
        from avatarlab.speech.small_e import Unfilled

        with Unfilled():
            tensors = Hubert(PUBLISHED_HUBERT).published_state_dict()
        drawn = hubert_tensors(HubertConfig(layers=1))
        one_layer = {key: value.shape for key, value in tensors.items() if ".layers." not in key or ".layers.0." in key}
        assert one_layer == {key: value.shape for key, value in drawn.items() if key != "masked_spec_embed"}
        # With the embedding of masked pieces: 415 tensors.
        assert (len(tensors) + 1, sum(value.numel() for value in tensors.values()) + 1024) == (415, 315_435_136)

    def test_every_spelling_of_the_published_names_loads(self, hubert: Hubert, tensors: dict[str, Tensor]) -> None:
        stem = "encoder.pos_conv_embed.conv.parametrizations.weight.original"
        renamed = {{G: f"{stem}0", V: f"{stem}1"}.get(key, key): value for key, value in tensors.items()}
        assert renamed.keys() != tensors.keys()
        samples = torch.from_numpy(noise(4))[None]
        for spelling in (
            renamed,
            {f"hubert.{key}": value for key, value in renamed.items()},
            {f"hubert.{key}": value for key, value in tensors.items()},
            {key: value for key, value in tensors.items() if key != "masked_spec_embed"},
            hubert.published_state_dict(),
        ):
            with torch.inference_mode():
                assert torch.equal(Hubert.from_state_dict(spelling)(samples), hubert(samples))
        assert hubert.published_state_dict().keys() == tensors.keys() - {"masked_spec_embed"}

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"encoder.layers.1.attention.k_proj.bias": None}, r"missing encoder\.layers\.1\.attention\.k_proj\.bias"),
            ({"lm_head.weight": torch.ones(4)}, r"unknown lm_head\.weight"),
            ({"masked_spec_embed": torch.ones(4)}, r"misshapen masked_spec_embed: \(4,\), not \(128,\)"),
            ({"feature_extractor.conv_layers.0.conv.weight": torch.ones(8, 1, 9)}, r"\(8, 1, 9\), not \(8, 1, 10\)"),
            ({f"encoder.layers.{i}.extra": torch.ones(1) for i in range(2)} | {V: None}, "missing encoder.pos_conv"),
            ({V: torch.ones(128, 3, 16)}, r"\(128, 3, 16\)"),
            ({f"x{i}": torch.ones(1) for i in range(7)}, "unknown x4; and 2 more"),
            ({f"hubert.{G}": torch.ones(1)}, "under two names"),
        ],
    )
    def test_what_does_not_fit_is_named(
        self, tensors: dict[str, Tensor], changes: dict[str, Tensor | None], words: str
    ) -> None:
        changed = {key: value for key, value in (tensors | changes).items() if value is not None}
        with pytest.raises(WeightsError, match=words) as caught:
            Hubert.from_state_dict(changed)
        assert caught.value.remedy

    def test_another_network_is_refused(self) -> None:
        with pytest.raises(WeightsError, match=r"missing encoder\.layers") as caught:
            Hubert.from_state_dict({"weight": torch.ones(3)})
        assert "chinese-hubert-large" in caught.value.remedy


class TestRecordings:
    @pytest.mark.parametrize("frames", [1, 2, 25, 500])
    def test_up_to_twenty_seconds_are_heard_at_once_and_the_last_frame_twice(self, hubert: Hubert, frames: int) -> None:
        waveform = noise(frames)
        standard = (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)
        features = hubert.features(waveform)
        with torch.inference_mode():
            whole = hubert(torch.from_numpy(standard)[None])[0]
            heard = features.between(0, 2 * frames)
            part = features.between(frames // 2, frames)
        assert features.frames == heard.shape[1] == 2 * frames == whole.shape[1] + 1
        assert torch.allclose(heard[:, :-1], whole, atol=1e-4)
        assert torch.equal(heard[:, -1], heard[:, -2])
        assert torch.equal(part, heard[:, frames // 2 : frames])

    def test_loudness_and_offset_do_not_matter_and_silence_stays_finite(self, hubert: Hubert) -> None:
        with torch.inference_mode():
            plain = hubert.features(noise(20)).between(0, 40)
            louder = hubert.features(5 * noise(20) - 0.3).between(0, 40)
            silent = hubert.features(np.zeros(640 * 4, np.float32)).between(0, 8)
        assert torch.allclose(plain, louder, atol=1e-3)
        assert silent.isfinite().all()

    def test_windows_hear_what_the_whole_hears_as_far_as_the_network_sees_locally(
        self, tensors: dict[str, Tensor]
    ) -> None:
        """Without attention a frame sees 8 frames before and 7 after it, and the context of a window is 250."""
        local = tensors | {
            key: torch.zeros_like(value) for key, value in tensors.items() if ".attention.out_proj." in key
        }
        waveform = noise(900)  # 36 s
        standard = torch.from_numpy((waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7))
        differences = []
        for given in (local, tensors):
            hubert = Hubert.from_state_dict(given)
            with torch.inference_mode():
                whole = hubert(standard[None])[0]
                heard = hubert.features(waveform).between(0, 1800)[:, :-1]
            differences.append(float((heard - whole).square().mean().sqrt() / whole.std()))
        assert differences[0] < 1e-5
        # What the other network attends to reaches beyond a window: near the whole, but not equal.
        assert 1e-4 < differences[1] < 0.03

    def test_no_piece_of_a_long_recording_is_longer_than_twenty_seconds(self, tensors: dict[str, Tensor]) -> None:
        hubert, lengths = Hubert.from_state_dict(tensors), []
        hubert.register_forward_pre_hook(lambda _, given: lengths.append(given[0].shape[1]))
        features = hubert.features(noise(1000))
        with torch.inference_mode():
            for first in (0, 450, 1500):
                features.between(first, first + 500)
        assert set(lengths) == {(PASS_FRAMES - 1) * 320 + 400}


def test_bundled_lips_load_no_hubert() -> None:
    for path in [ROOT / "avatarlab/execute.py", *(ROOT / "avatarlab/lips").glob("*.py")]:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:  # what runs when the module is imported
            assert not (isinstance(node, ast.ImportFrom) and node.module == "avatarlab.lips.hubert"), path
