"""The published codecs: names and shapes as released, numbers as the reference implementations give, one clock outside."""

import re
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import avatarlab
from avatarlab.errors import SettingsError, WeightsError
from avatarlab.speech import wavtokenizer
from avatarlab.speech.codec import Codec, CodecConfig
from avatarlab.speech.codecs import (
    SpeechCodec,
    by_video_frame,
    decode_speech,
    load_codec,
    steps_per_video_frame,
)
from avatarlab.speech.encodec_vocos import EncodecVocos, combined, condition_of
from avatarlab.speech.small_e import Unfilled
from avatarlab.speech.vocos import Vocos, VocosConfig
from avatarlab.speech.wavtokenizer import WavTokenizer, WavTokenizerConfig

DECODER = VocosConfig(inputs=16, width=32, inner=48, layers=2, conditions=4, window=1280, attentive=False)
TINY = WavTokenizerConfig(
    filters=2,
    strides=(2, 4, 5, 8),
    recurrent_layers=2,
    latent=16,
    codes=64,
    decoder=replace(DECODER, width=64, attentive=True),
)
MEDIUM = WavTokenizerConfig(
    filters=32,
    strides=(2, 4, 5, 8),
    recurrent_layers=2,
    latent=512,
    codes=4096,
    decoder=VocosConfig(inputs=512, width=768, inner=2304, layers=12, conditions=4, window=1280, attentive=True),
)


def wavy(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor from its name, so that no file is needed to say what a network computes."""
    filled = {}
    for key, tensor in tensors.items():
        wave = 0.1 * torch.sin(
            0.7 * torch.arange(tensor.numel(), dtype=torch.float64) + 0.1 * sum(map(ord, key))
        ).reshape(tensor.shape)
        is_scale = key.endswith(("norm.scale.weight", "gamma")) or (key.endswith(".weight") and tensor.ndim == 1)
        filled[key] = (wave + float(is_scale)).float()
    return filled


def random_like(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {key: 0.1 * torch.randn(shape, generator=generator) for key, shape in shapes.items()}


def encodec_shapes(filters: int, latent: int, levels: int = 32) -> dict[str, tuple[int, ...]]:
    """`encodec_24khz` without its decoder, which nothing here reads: the names of its file."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, inputs: int, outputs: int, kernel: int) -> None:
        shapes[f"{name}.conv.conv.weight_g"] = (outputs, 1, 1)
        shapes[f"{name}.conv.conv.weight_v"] = (outputs, inputs, kernel)
        shapes[f"{name}.conv.conv.bias"] = (outputs,)

    conv("encoder.model.0", 1, filters, 7)
    width, place = filters, 1
    for stride in (2, 4, 5, 8):
        conv(f"encoder.model.{place}.block.1", width, width // 2, 3)
        conv(f"encoder.model.{place}.block.3", width // 2, width, 1)
        conv(f"encoder.model.{place}.shortcut", width, width, 1)
        conv(f"encoder.model.{place + 2}", width, 2 * width, 2 * stride)
        width, place = 2 * width, place + 3
    for layer in range(2):
        for side in ("ih", "hh"):
            shapes[f"encoder.model.13.lstm.weight_{side}_l{layer}"] = (4 * width, width)
            shapes[f"encoder.model.13.lstm.bias_{side}_l{layer}"] = (4 * width,)
    conv("encoder.model.15", width, latent, 7)
    for level in range(levels):
        codebook = f"quantizer.vq.layers.{level}._codebook"
        shapes |= {f"{codebook}.inited": (1,), f"{codebook}.cluster_size": (1024,)}
        shapes |= {f"{codebook}.embed": (1024, latent), f"{codebook}.embed_avg": (1024, latent)}
    return shapes


def vocos_shapes(config: VocosConfig, rows: int) -> dict[str, tuple[int, ...]]:
    """`vocos-encodec-24khz`: the names of its file."""
    shapes = {f"{key}": tuple(tensor.shape) for key, tensor in Vocos(config, 320).state_dict().items()}
    return {**shapes, "feature_extractor.codebook_weights": (rows, config.inputs), "head.istft.window": (1280,)}


@pytest.fixture(scope="module")
def wavtokenizer_weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return WavTokenizer(TINY).published_state_dict()


@pytest.fixture(scope="module")
def encodec_files() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return random_like(encodec_shapes(2, 16)), random_like(vocos_shapes(DECODER, 16 * 1024), seed=1)


@pytest.fixture(scope="module", params=["bundled", "WavTokenizer", "EnCodec"])
def codec(
    request: pytest.FixtureRequest,
    wavtokenizer_weights: dict[str, Tensor],
    encodec_files: tuple[dict[str, Tensor], dict[str, Tensor]],
) -> SpeechCodec:
    if request.param == "bundled":
        torch.manual_seed(0)
        return load_codec(
            Codec(CodecConfig(width=16, latent=4, codes=32, encoder_blocks=1, decoder_blocks=1)).state_dict()
        )
    return load_codec(wavtokenizer_weights if request.param == "WavTokenizer" else combined(*encodec_files))


class TestEveryCodec:
    def test_codes_and_waveforms_have_the_promised_shapes(self, codec: SpeechCodec) -> None:
        assert isinstance(codec, SpeechCodec)
        hop = codec.sample_rate_hz // codec.frame_rate
        codes = codec.encode(0.1 * torch.randn(2, 7 * hop))
        assert codes.shape == (2, codec.codebooks, 7)
        waveform = codec.decode(codes)
        assert waveform.shape == (2, 7 * hop) and bool(waveform.isfinite().all())

    def test_a_row_does_not_depend_on_its_neighbours(self, codec: SpeechCodec) -> None:
        speech = 0.1 * torch.randn(2, 6400, generator=torch.Generator().manual_seed(3))
        codes = codec.encode(speech)
        assert torch.equal(codes[1:], codec.encode(speech[1:]))
        torch.testing.assert_close(codec.decode(codes)[1:], codec.decode(codes[1:]), atol=1e-5, rtol=0)

    @pytest.mark.parametrize("columns", [1, 2, 3, 4, 9])
    def test_outside_speech_is_16_khz_and_lasts_whole_video_frames(self, codec: SpeechCodec, columns: int) -> None:
        steps = steps_per_video_frame(codec)
        assert codec.frame_rate == 25 * steps
        codes = torch.randint(0, 16, (1, codec.codebooks, columns))
        waveform = decode_speech(codec, codes)
        assert waveform.shape == (1, 640 * -(-columns // steps))
        assert float(waveform.abs().max()) <= 1.0

    @pytest.mark.parametrize("samples", [1, 100, 320, 321, 16_000])
    def test_a_clip_has_a_column_for_every_begun_step(self, codec: SpeechCodec, samples: int) -> None:
        columns = codec.encode(torch.zeros(1, samples)).shape[2]
        assert columns == -(-samples * codec.frame_rate // codec.sample_rate_hz)


class TestClocks:
    def test_the_border_keeps_time(self) -> None:
        """What is loud at 24 kHz is loud at the same moment at 16 kHz."""

        class Loud:
            sample_rate_hz, frame_rate, codebooks = 24_000, 75, 1

            def encode(self, waveform: Tensor) -> Tensor:
                return waveform.unflatten(1, (-1, 320)).abs().amax(-1).mul(1000).long()[:, None]

            def decode(self, codes: Tensor) -> Tensor:
                return (codes[:, 0] / 1000).repeat_interleave(320, dim=1)

        codes = torch.zeros(1, 1, 75, dtype=torch.int64)
        codes[0, 0, 30:33] = 900
        waveform = decode_speech(Loud(), codes)
        loud = (waveform[0] > 0.5).nonzero()[:, 0]
        assert waveform.shape == (1, 16_000)
        assert abs(int(loud[0]) - 6_400) <= 2 and abs(int(loud[-1]) - 7_039) <= 2

    def test_an_alignment_is_averaged_over_the_steps_of_a_frame(self) -> None:
        alignment = np.eye(7, 5, dtype=np.float32)
        frames = by_video_frame(alignment, 3)
        assert frames.shape == (3, 5)
        np.testing.assert_allclose(frames[0], [1 / 3, 1 / 3, 1 / 3, 0, 0], atol=1e-6)
        np.testing.assert_allclose(frames[2], alignment[6])
        assert by_video_frame(alignment, 1) is alignment
        assert by_video_frame(alignment[:0], 3).shape == (0, 5)


class TestVocos:
    """Numbers of vocos 0.1.0 and of WavTokenizer's published network, filled by `wavy`."""

    @pytest.mark.parametrize(
        ("width", "attentive", "condition", "expected"),
        [
            (32, False, 1, [0.008329, 0.042885, -0.012669, -0.048859, 0.093952, 0.051504, 0.006622, -0.004479]),
            (64, True, 0, [0.151503, -0.059428, -0.020725, -0.32802, 0.013237, 0.000329, 0.149621, -0.023084]),
        ],
    )
    def test_a_waveform_is_what_the_reference_gives(
        self, width: int, attentive: bool, condition: int, expected: list[float]
    ) -> None:
        decoder = Vocos(VocosConfig(8, width, 48, 2, 4, 64, attentive), 16).eval()
        decoder.load_state_dict(wavy(decoder.state_dict()))
        features = torch.sin(torch.arange(40, dtype=torch.float32)).reshape(1, 8, 5)
        with torch.no_grad():
            waveform = decoder(features, condition)
        assert waveform.shape == (1, 80)
        torch.testing.assert_close(waveform[0, ::11], torch.tensor(expected), atol=2e-6, rtol=0)

    def test_the_condition_is_heard(self) -> None:
        decoder = Vocos(DECODER, 320).eval()
        features = torch.randn(1, 16, 4)
        with torch.no_grad():
            assert not torch.allclose(decoder(features, 0), decoder(features, 1))


class TestWavTokenizer:
    def test_the_released_medium_model_has_these_names_and_shapes(self) -> None:
        with Unfilled():
            codec = WavTokenizer(MEDIUM)
        published = {key: tuple(tensor.shape) for key, tensor in codec.published_state_dict().items()}
        prefix = "feature_extractor.encodec."
        expected = {
            prefix + key: shape
            for key, shape in encodec_shapes(32, 512, levels=0).items()
            if key.startswith("encoder.")
        }
        assert {key: published[key] for key in expected} == expected
        rest = {key: shape for key, shape in published.items() if not key.startswith(prefix + "encoder.")}
        assert rest[prefix + "quantizer.vq.layers.0._codebook.embed"] == (4096, 512)
        assert rest["backbone.embed.weight"] == (768, 512, 7)
        assert rest["backbone.pos_net.2.proj_out.weight"] == (768, 768, 1)
        assert rest["backbone.pos_net.4.norm2.bias"] == (768,)
        assert rest["backbone.pos_net.5.weight"] == (768,)
        assert rest["backbone.norm.scale.weight"] == (4, 768)
        assert rest["backbone.convnext.11.norm.shift.weight"] == (4, 768)
        assert rest["backbone.convnext.11.pwconv1.weight"] == (2304, 768)
        assert rest["backbone.convnext.11.gamma"] == (768,)
        assert rest["backbone.final_layer_norm.bias"] == (768,)
        assert rest["head.out.weight"] == (1282, 768)
        encoder = sum(tensor.numel() for tensor in codec.encoder.parameters())
        assert encoder == 8_802_816  # as its users count it

    def test_the_encoder_is_the_one_of_encodec_with_other_ends(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            from encodec.modules import SEANetEncoder

            reference = SEANetEncoder(channels=1, dimension=16, n_filters=2, norm="weight_norm", causal=False).eval()
        ours = wavtokenizer.Encoder(TINY).eval()
        ours.load_state_dict(reference.state_dict())
        for samples in (1, 5, 320, 961, 3200):
            waveform = torch.randn(2, samples, generator=torch.Generator().manual_seed(samples))
            with torch.no_grad():
                torch.testing.assert_close(ours(waveform), reference(waveform[:, None]), atol=1e-6, rtol=0)

    def test_sizes_come_from_the_tensors_and_training_parts_are_passed_over(
        self, wavtokenizer_weights: dict[str, Tensor]
    ) -> None:
        lightning = {
            **wavtokenizer_weights,
            "multiperioddisc.discriminators.0.convs.0.weight_g": torch.ones(1),
            "feature_extractor.encodec.decoder.model.0.conv.conv.bias": torch.ones(1),
            "feature_extractor.encodec.quantizer.vq.layers.0._codebook.embed_avg": torch.ones(64, 16),
            "head.istft.window": torch.ones(1280),
        }
        codec = WavTokenizer.from_state_dict(lightning)
        assert codec.config == TINY
        kept = codec.published_state_dict()
        assert kept.keys() == wavtokenizer_weights.keys()
        assert all(torch.equal(kept[key], wavtokenizer_weights[key]) for key in kept)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"backbone.norm.shift.weight": None}, "missing decoder.backbone.norm.shift.weight"),
            ({"backbone.extra": torch.ones(1)}, "unknown decoder.backbone.extra"),
            ({"backbone.convnext.1.gamma": torch.ones(3)}, "misshapen"),
            ({"feature_extractor.encodec.encoder.model.0.conv.conv.weight_v": None,
              "feature_extractor.encodec.encoder.model.0.conv.conv.weight_g": None}, "missing"),
            ({"feature_extractor.encodec.encoder.model.12.conv.conv.weight_v": torch.ones(32, 16, 12)}, "75 codes a second"),
        ],
    )  # fmt: skip
    def test_what_does_not_fit_is_named(
        self, wavtokenizer_weights: dict[str, Tensor], change: dict[str, Tensor | None], words: str
    ) -> None:
        tensors = {**wavtokenizer_weights, **change}
        with pytest.raises(WeightsError, match=words) as caught:
            WavTokenizer.from_state_dict({key: tensor for key, tensor in tensors.items() if tensor is not None})
        assert caught.value.remedy


class TestEncodecVocos:
    def test_codes_are_those_of_the_package(self, encodec_files: tuple[dict[str, Tensor], dict[str, Tensor]]) -> None:
        encodec_tensors, vocos_tensors = encodec_files
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            from encodec.modules import SEANetEncoder
            from encodec.quantization import ResidualVectorQuantizer

            encoder = SEANetEncoder(channels=1, dimension=16, n_filters=2, norm="weight_norm", causal=True).eval()
            quantiser = ResidualVectorQuantizer(dimension=16, n_q=32, bins=1024).eval()
        encoder.load_state_dict({k[8:]: v for k, v in encodec_tensors.items() if k.startswith("encoder.")})
        quantiser.load_state_dict({k[10:]: v for k, v in encodec_tensors.items() if k.startswith("quantizer.")})
        codec = EncodecVocos.from_state_dict(combined(encodec_tensors, vocos_tensors))
        waveform = torch.randn(2, 3200, generator=torch.Generator().manual_seed(5))
        with torch.no_grad():
            expected = quantiser.encode(encoder(waveform[:, None]), 75, 3.0).transpose(0, 1)
        assert torch.equal(codec.encode(waveform), expected)

    def test_each_codebook_is_heard_through_its_own_rows(
        self, encodec_files: tuple[dict[str, Tensor], dict[str, Tensor]]
    ) -> None:
        codec = EncodecVocos.from_state_dict(combined(*encodec_files))
        codes = torch.tensor([[[3, 1], [5, 1], [7, 1], [1023, 1]]])
        table = encodec_files[1]["feature_extractor.codebook_weights"]
        features = table[[3, 1024 + 5, 2048 + 7, 3072 + 1023]].sum(0)
        other = table[[1, 1025, 2049, 3073]].sum(0)
        with torch.no_grad():
            expected = codec.decoder(torch.stack([features, other], dim=1)[None], 1)
        torch.testing.assert_close(codec.decode(codes), expected.clamp(-1, 1))

    @pytest.mark.parametrize(("codebooks", "condition"), [(2, 0), (4, 1), (8, 2), (16, 3)])
    def test_the_bandwidth_follows_from_the_number_of_codebooks(
        self, encodec_files: tuple[dict[str, Tensor], dict[str, Tensor]], codebooks: int, condition: int
    ) -> None:
        assert condition_of(codebooks) == condition
        assert load_codec(combined(*encodec_files, codebooks)).codebooks == codebooks

    @pytest.mark.parametrize("codebooks", [0, 1, 3, 32])
    def test_other_bandwidths_are_refused(self, codebooks: int) -> None:
        with pytest.raises(SettingsError, match="2, 4, 8 and 16"):
            condition_of(codebooks)

    def test_the_published_sizes_fit(self) -> None:
        """The released EnCodec encoder and Vocos: dim 384, inner 1152, 8 layers, 4 conditions, 128 features."""
        released = VocosConfig(inputs=128, width=384, inner=1152, layers=8, conditions=4, window=1280, attentive=False)
        files = random_like(encodec_shapes(32, 128, levels=4)), random_like(vocos_shapes(released, 16 * 1024))
        codec = EncodecVocos.from_state_dict(combined(*files))
        assert codec.decoder.config == released and codec.codebooks == 4
        assert codec.encode(torch.zeros(1, 960)).shape == (1, 4, 3)

    def test_files_that_are_swapped_or_incomplete_are_named(
        self, encodec_files: tuple[dict[str, Tensor], dict[str, Tensor]]
    ) -> None:
        encodec_tensors, vocos_tensors = encodec_files
        with pytest.raises(WeightsError, match="encodec_24khz"):
            combined(vocos_tensors, encodec_tensors)
        with pytest.raises(WeightsError, match="vocos-encodec-24khz"):
            combined(encodec_tensors, encodec_tensors)
        damaged = combined(encodec_tensors, vocos_tensors)
        del damaged["encodec.encoder.model.15.conv.conv.bias"]
        with pytest.raises(WeightsError, match=r"missing encoder\.model\.15\.conv\.conv\.bias"):
            load_codec(damaged)

    def test_the_package_is_imported_in_one_file_and_only_when_it_is_needed(self) -> None:
        imports = {
            path.name: indent
            for path in Path(avatarlab.__file__).parent.rglob("*.py")
            for indent in re.findall(r"^( *)(?:from|import) encodec\b", path.read_text(encoding="utf-8"), re.MULTILINE)
        }
        assert imports == {"encodec_vocos.py": " " * 8}  # inside a function
