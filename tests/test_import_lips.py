"""Importing published lips: DiffDub's two stages and HuBERT become a set that moves, or are refused by name."""

import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import cartoon
import numpy as np
import pytest
import torch
from hearing import TINY_HUBERT, hubert_tensors
from published import Published, parameters, random_weights
from safetensors import safe_open
from torch import Tensor
from typer.testing import CliRunner

from avatarlab.artifacts import Artifacts
from avatarlab.avatars import load_avatar
from avatarlab.errors import SettingsError, WeightsError
from avatarlab.execute import run_batch
from avatarlab.imports import LICENCE_FILE, import_models
from avatarlab.imports_lips import FINGERPRINTS, fingerprint, refuse_other_lists
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
from avatarlab.lips.hubert import Hubert
from avatarlab.models import ModelSet, read_model_set, write_model_set
from avatarlab.stages import MotionItem, StageContext, lip_space, motion_item, recipe
from avatarlab.store import open_store
from flows.cli import app

RENDERER = RendererConfig(
    base=32, widths=(32, 32), encoder_widths=(32, 32, 32), blocks=1, attention_levels=(), encoder_attention_levels=(),
    time=32, style=32,
)  # fmt: skip
MOTION = MotionConfig(32, 32, TINY_HUBERT.states, TINY_HUBERT.width, 1, 1, 1, 2, 32, 5)
TINY_GLA = Published(32, 2, 2, 1, 2, 2, 4, 1024, 16, lina=False)


def drawn(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = {key: 0.1 * torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    for key, value in tensors.items():
        if key.endswith("num_batches_tracked"):
            tensors[key] = torch.tensor(7)
        elif key.endswith("running_var"):
            tensors[key] = value.abs() + 1
        elif key.endswith("weight") and value.ndim == 1:
            tensors[key] = value + 1
    return tensors


def training_file(config: RendererConfig = RENDERER) -> dict[str, Tensor]:
    """Stage 1 as published: the raw network, its average, and noise that nobody uses."""
    with torch.random.fork_rng():
        shapes = {key: tuple(value.shape) for key, value in Renderer(config).published_state_dict().items()}
    raw, averaged = drawn(shapes, 1), drawn(shapes, 2)
    return (
        {f"model.{key}": value for key, value in raw.items()}
        | {f"ema_model.{key}": value for key, value in averaged.items()}
        | {"x_T": torch.zeros(2, 3, 8, 8)}
    )


def motion_file(config: MotionConfig = MOTION) -> dict[str, Tensor]:
    with torch.random.fork_rng():
        shapes = {key: tuple(value.shape) for key, value in Motion(config).state_dict().items()}
    return {f"seq2seq.encoder.{key}": value for key, value in drawn(shapes, 3).items()}


Files = dict[str, Path]


def written(
    folder: Path,
    renderer: Mapping[str, Tensor] | None = None,
    motion: Mapping[str, Tensor] | None = None,
    audio_features: Mapping[str, Tensor] | None = None,
) -> Files:
    files = {
        "renderer": folder / "stage1_state_dict.ckpt",
        "motion": folder / "stage2_state_dict.ckpt",
        "audio_features": folder / "pytorch_model.bin",
    }
    torch.save({"state_dict": dict(renderer or training_file())}, files["renderer"])
    torch.save({"state_dict": dict(motion or motion_file())}, files["motion"])
    torch.save(dict(audio_features or hubert_tensors()), files["audio_features"])
    return files


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return written(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, files: Files) -> ModelSet:
    return import_models(None, tmp_path_factory.mktemp("sets") / "diffdub", **files).models


@pytest.fixture(scope="module")
def avatars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("avatars")
    cartoon.write_bundle(folder, size=128, count=2)
    return folder


class TestFingerprints:
    def test_the_published_lists_of_tensors_are_accepted_in_every_form(self) -> None:
        half = renderer_shapes(PUBLISHED_RENDERER)
        full = {f"{prefix}.{key}": shape for prefix in ("model", "ema_model") for key, shape in half.items()}
        full["x_T"] = (32, 3, 256, 256)
        motion = motion_shapes(PUBLISHED_MOTION)
        prefixed = {f"seq2seq.encoder.{key}": shape for key, shape in motion.items()}
        assert {fingerprint(shapes) for shapes in (full, half, prefixed)} == FINGERPRINTS.keys()
        for stage, shapes in (
            ("renderer", full),
            ("renderer", half),
            ("renderer", {f"ema_model.{key}": shape for key, shape in half.items()}),
            ("motion", prefixed),
            ("motion", motion),
        ):
            refuse_other_lists(stage, {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()})

    def test_published_sizes_in_another_list_are_refused(self) -> None:
        half = {f"ema_model.{key}": shape for key, shape in renderer_shapes(PUBLISHED_RENDERER).items()}
        changed = half | {"x_T": (1, 3, 256, 256)}
        with pytest.raises(WeightsError, match="707 of them, fingerprint") as caught:
            refuse_other_lists("renderer", {key: torch.zeros(()).expand(shape) for key, shape in changed.items()})
        assert "stage1_state_dict.ckpt" in caught.value.remedy


class TestImporting:
    def test_the_averaged_half_arrives_number_for_number_and_nothing_else(self, models: ModelSet) -> None:
        averaged = {
            key.removeprefix("ema_model."): value
            for key, value in training_file().items()
            if key.startswith("ema_model.")
        }
        stored = models.load_tensors("renderer")
        assert stored.keys() == averaged.keys()
        assert all(torch.equal(stored[key], value) for key, value in averaged.items())
        moves = models.load_tensors("motion")
        assert {f"seq2seq.encoder.{key}" for key in moves} == motion_file().keys()
        assert int(moves["speech_encoder.encoders.0.conv_module.norm.num_batches_tracked"]) == 7
        hears = models.load_tensors("audio_features")
        assert hears.keys() == hubert_tensors().keys() - {"masked_spec_embed"}
        assert all(torch.equal(value, hubert_tensors()[key]) for key, value in hears.items())
        assert all(path.suffix in (".safetensors", ".toml", ".md") for path in models.path.parent.iterdir())

    def test_the_networks_load_from_the_set_as_published(self, models: ModelSet) -> None:
        assert Renderer.from_state_dict(models.load_tensors("renderer")).config == RENDERER
        assert Motion.from_state_dict(models.load_tensors("motion")).config == MOTION
        assert Hubert.from_state_dict(models.load_tensors("audio_features")).config == TINY_HUBERT
        assert models.settings("renderer") == {"solver": "dpm++", "steps": 3, "batch_size": 4}
        assert models.verify() == () and models.file("renderer").path is not None
        assert recipe(models, "cpu").lip_space == lip_space(models.file("renderer").path)  # type: ignore[arg-type]

    def test_the_voice_is_the_bundled_one(self, models: ModelSet) -> None:
        for stage in ("text", "small_e", "codec"):
            assert models.digest(stage) == read_model_set().digest(stage)

    def test_what_is_not_as_published_or_lacking_is_said(self, tmp_path: Path, files: Files) -> None:
        made = import_models(
            None, tmp_path / "set", renderer=files["renderer"], motion=files["motion"], name="without-ears"
        )
        assert made.models.name == "without-ears" and made.config is None and made.network == "DiffDub"
        assert [note.partition(":")[0] for note in made.notes] == ["renderer", "motion"]
        assert all("not the published file" in note for note in made.notes)
        assert len(made.lacking) == 1 and "3 x 128 audio features" in made.lacking[0]

    def test_licences_are_in_the_set_beside_it_and_in_the_weights(self, models: ModelSet) -> None:
        text = (models.path.parent / LICENCE_FILE).read_text()
        for words in ("code Apache-2.0", "trained on HDTF for research, their terms not stated", "MIT (Chinese HuBERT"):
            assert words in models.description and words in text
        assert "Apache-2.0 (speech; Avatar Lab)" in text and "(motion and renderer; Avatar Lab)" not in text
        with safe_open(models.path.parent / "renderer.safetensors", "pt") as file:
            assert "HDTF" in file.metadata()["licence"]

    def test_a_voice_may_come_along(self, tmp_path: Path, files: Files) -> None:
        torch.save({"model": random_weights(TINY_GLA)}, tmp_path / "gla.pt")
        alone = import_models(tmp_path / "gla.pt", tmp_path / "speech")
        made = import_models(tmp_path / "gla.pt", tmp_path / "both", **files)
        assert made.network == f"{alone.network} and DiffDub" and made.config == alone.config
        assert made.parameters > parameters(TINY_GLA)
        assert made.lacking == alone.lacking
        assert made.models.load_tensors("small_e").keys() == random_weights(TINY_GLA).keys()
        assert "Avatar Lab" not in (tmp_path / "both" / LICENCE_FILE).read_text()

    def test_the_command_says_what_was_made(self, tmp_path: Path, files: Files) -> None:
        arguments = ["models", "import", "--renderer", str(files["renderer"]), "--motion", str(files["motion"])]
        answer = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "set")])
        assert answer.exit_code == 0 and answer.stdout.startswith("DiffDub: ")
        assert "licence: DiffDub" in answer.stderr and "note: renderer: " in answer.stderr
        assert "lacking: 3 x 128 audio features" in answer.stderr
        arguments += ["--audio-features", str(files["audio_features"]), "--json"]
        told = json.loads(CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "other")]).stdout)
        assert told["config"] is None and told["lacking"] == [] and len(told["notes"]) == 3


class TestRefusals:
    def refused(self, tmp_path: Path, words: str, **changed: Mapping[str, Tensor]) -> WeightsError:
        with pytest.raises(WeightsError, match=words) as caught:
            import_models(None, tmp_path / "set", **written(tmp_path, **changed))
        assert caught.value.remedy
        assert not (tmp_path / "set").exists()
        return caught.value

    def test_files_without_those_they_belong_to(self, tmp_path: Path, files: Files) -> None:
        for given in ({"renderer"}, {"motion"}, {"audio_features"}, {"motion", "audio_features"}):
            with pytest.raises(SettingsError, match="one stage of DiffDub alone"):
                import_models(None, tmp_path / "set", **{name: files[name] for name in given})
        with pytest.raises(SettingsError, match="nothing to import"):
            import_models(None, tmp_path / "set")
        with pytest.raises(SettingsError, match="without its network"):
            import_models(None, tmp_path / "set", tokenizer=tmp_path / "bpe256.json", **files)

    def test_the_autoencoder_that_training_starts_from(self, tmp_path: Path) -> None:
        for prefix in ("ema_model.", "model.", ""):
            start = {
                f"{prefix}{key.removeprefix('ema_model.')}": value
                for key, value in training_file().items()
                if key.startswith("ema_model.")
            }
            start[f"{prefix}input_blocks.0.0.weight"] = torch.zeros(32, 3, 3, 3)
            assert "stage1_state_dict.ckpt" in self.refused(tmp_path, "this is DiffAE", renderer=start).remedy

    def test_networks_of_different_releases(self, tmp_path: Path) -> None:
        other = motion_file(replace(MOTION, width=64, style=64))
        self.refused(tmp_path, "latents of 64 numbers, the renderer reads 32", motion=other)
        deeper = hubert_tensors(replace(TINY_HUBERT, layers=3))
        self.refused(tmp_path, "listens to 3 x 128 features, HuBERT gives 4 x 128", audio_features=deeper)

    @pytest.mark.parametrize("key", ["ema_model.out.2.bias", "model.out.2.bias", "ema_model.encoder.out.3.bias"])
    def test_a_renderer_with_a_tensor_missing(self, tmp_path: Path, key: str) -> None:
        given = training_file()
        del given[key]
        name = key.removeprefix("ema_model.").removeprefix("model.")
        self.refused(tmp_path, f"missing {name}", renderer=given)

    def test_numbers_that_are_none(self, tmp_path: Path) -> None:
        given = motion_file()
        given["seq2seq.encoder.out_proj.bias"][3] = torch.nan
        self.refused(tmp_path, r"out_proj\.bias holds values that are no numbers", motion=given)

    def test_files_in_each_other_s_place_or_cut_short(self, tmp_path: Path, files: Files) -> None:
        with pytest.raises(WeightsError, match="renderer weights do not fit"):
            import_models(None, tmp_path / "set", renderer=files["motion"], motion=files["renderer"])
        (tmp_path / "cut.ckpt").write_bytes(files["motion"].read_bytes()[:5000])
        with pytest.raises(WeightsError, match=r"cut\.ckpt"):
            import_models(None, tmp_path / "set", renderer=files["renderer"], motion=tmp_path / "cut.ckpt")


class TestMoving:
    def item(self, models: ModelSet, avatars: Path, store: Path) -> tuple[MotionItem, StageContext]:
        waveform = cartoon.speechlike(1.2)
        sound = io.BytesIO()
        np.save(sound, waveform)
        spoken = {"audio.npy": (sound.getvalue(), "application/x-npy")}
        made = Artifacts(open_store(str(store))).commit("audio", "a" * 64, spoken, {})
        context = StageContext(str(store), models.path, models.set_digest, (avatars,))
        return motion_item(made, load_avatar([avatars], "cartoon"), recipe(models, "cpu")), context

    def test_an_imported_set_moves_the_lips_of_an_avatar(self, models: ModelSet, avatars: Path, tmp_path: Path) -> None:
        item, context = self.item(models, avatars, tmp_path)
        (outcome,) = run_batch("motion", [item], context)
        assert outcome.action is not None, outcome.error
        latents = np.load(tmp_path / outcome.action.outputs["latents.npy"].name)
        assert latents.shape == (30, 32) and latents.dtype == np.float32 and np.isfinite(latents).all()
        assert np.abs(np.diff(latents, axis=0)).max() > 0

    def test_lips_without_ears_are_refused_with_the_stage_and_the_remedy(
        self, models: ModelSet, avatars: Path, tmp_path: Path
    ) -> None:
        deaf = tmp_path / "deaf"
        deaf.mkdir()
        for path in models.path.parent.glob("*.safetensors"):
            if path.stem != "audio_features":
                (deaf / path.name).symlink_to(path)
        settings = {stage: models.settings(stage) for stage in models.files}
        other = write_model_set(deaf, "deaf", settings)
        item, context = self.item(other, avatars, tmp_path / "store")
        (outcome,) = run_batch("motion", [item], context)
        assert outcome.action is None and outcome.kind == "WeightsError"
        assert "[audio_features] has no weights" in str(outcome.error) and "3 x 128" in str(outcome.error)
        assert "--audio-features" in str(outcome.remedy)
        assert item.key != self.item(models, avatars, tmp_path / "store")[0].key
