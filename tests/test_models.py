"""Model sets: pinned, strict, and never loaded when their digest differs."""

import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from avatarlab.errors import AvatarLabError, SettingsError, WeightsError
from avatarlab.models import BUNDLED, STAGES, ModelSet, Setting, list_model_sets, read_model_set, write_model_set

SETTINGS: dict[str, dict[str, Setting]] = {
    "small_e": {"top_k": 40, "temperature": 0.8, "greedy": False},
    "renderer": {"window": [64, 48]},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    folder.mkdir()
    for number, stage in enumerate(("small_e", "codec", "motion", "renderer")):
        save_file(
            {"weight": torch.full((2, 3), float(number)), "bias": torch.arange(3)}, folder / f"{stage}.safetensors"
        )
    return folder


@pytest.fixture
def models(folder: Path) -> ModelSet:
    return write_model_set(folder, "tiny", SETTINGS, 'says "hello" — \x7f\n')


class TestReading:
    def test_what_was_written_is_read(self, models: ModelSet, folder: Path) -> None:
        assert models.name == "tiny"
        assert models.description == 'says "hello" — \x7f\n'
        assert list(models.files) == list(STAGES)
        assert models.settings("small_e") == SETTINGS["small_e"]
        assert models.settings("renderer") == {"window": [64, 48]}
        assert models.file("text").path is None
        assert models.file("codec").path == folder / "codec.safetensors"
        assert models.file("codec").sha256 == hashlib.sha256((folder / "codec.safetensors").read_bytes()).hexdigest()
        assert read_model_set(folder) == read_model_set(str(folder / "models.toml")) == models

    def test_a_set_travels_between_processes(self, models: ModelSet) -> None:
        assert pickle.loads(pickle.dumps(models)) == models

    def test_a_set_that_is_not_there_is_said(self, tmp_path: Path) -> None:
        for source in (tmp_path / "none.toml", tmp_path, "no-such-set"):
            with pytest.raises(WeightsError, match="there is no model set") as caught:
                read_model_set(source)
            assert caught.value.remedy

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("name = ", "not TOML"),
            ("nmae = 'x'", "unknown keys: nmae"),
            ("[smalle]\n", "unknown keys: smalle"),
            ("codec = 'x'", "not a table"),
            ("name = 3", "not text"),
            ("[codec]\nurl = 'x'\n", r"\[codec\] has unknown keys: url"),
            ("[codec]\nuri = 'x'\n", "uri or a sha256 alone"),
            ("[codec]\nsha256 = 'x'\n", "uri or a sha256 alone"),
            ("[codec]\nuri = 'x'\nsha256 = 'abc'\n", "64 hex digits"),
            ("[codec]\nsettings = 3\n", "no table"),
            ("[codec.settings]\na = {b = 1}\n", "codec.a is neither"),
            ("[codec.settings]\na = nan\n", "codec.a is neither"),
            ("[codec.settings]\na = 2026-01-01\n", "codec.a is neither"),
        ],
    )
    def test_a_file_that_says_something_unknown_is_refused(self, tmp_path: Path, text: str, words: str) -> None:
        (tmp_path / "models.toml").write_text(text)
        with pytest.raises(SettingsError, match=words) as caught:
            read_model_set(tmp_path)
        assert caught.value.remedy

    def test_weights_elsewhere_are_not_fetched_silently(self, tmp_path: Path) -> None:
        (tmp_path / "models.toml").write_text(f"[codec]\nuri = 's3://bucket/codec'\nsha256 = '{'0' * 64}'\n")
        with pytest.raises(WeightsError, match="not on this machine"):
            read_model_set(tmp_path)

    def test_a_stage_the_set_lacks_is_said_when_it_is_needed(self, tmp_path: Path) -> None:
        models = write_model_set(tmp_path, "empty", {})
        assert list(models.files) == ["text", "audio_features"]
        with pytest.raises(WeightsError, match=r"has no \[codec\]"):
            models.digest("codec")
        with pytest.raises(WeightsError, match="has no weights"):
            models.load_tensors("text")
        with pytest.raises(ValueError, match="not a stage"):
            models.file("lips")

    def test_sets_are_listed_by_folder(self, models: ModelSet, folder: Path) -> None:
        assert list_model_sets(folder.parent) == (models,)
        assert list_model_sets(folder) == ()

    def test_the_bundled_set_is_whole_where_it_is_there(self) -> None:
        for models in list_model_sets(BUNDLED):
            assert models.verify() == ()


class TestDigests:
    def test_a_digest_moves_with_weights_and_settings_of_its_stage_only(self, models: ModelSet, folder: Path) -> None:
        before = {stage: models.digest(stage) for stage in STAGES}
        save_file({"weight": torch.zeros(1)}, folder / "renderer.safetensors")
        after = write_model_set(folder, "renamed", {**SETTINGS, "small_e": {**SETTINGS["small_e"], "temperature": 0.7}})
        moved = {stage for stage in STAGES if after.digest(stage) != before[stage]}
        assert moved == {"renderer", "small_e"}
        assert after.set_digest != models.set_digest

    def test_digests_do_not_depend_on_name_or_place(self, models: ModelSet, folder: Path, tmp_path: Path) -> None:
        folder.rename(tmp_path / "moved")
        assert read_model_set(tmp_path / "moved").set_digest == models.set_digest
        assert write_model_set(tmp_path / "moved", "other", SETTINGS).set_digest == models.set_digest

    def test_planning_reads_no_weights_and_imports_no_torch(self, models: ModelSet, folder: Path) -> None:
        (folder / "codec.safetensors").unlink()
        program = (
            "import sys; from avatarlab.models import read_model_set; import avatarlab.manifest, avatarlab.artifacts, "
            f"avatarlab.s3; print(read_model_set({str(folder)!r}).set_digest); assert 'torch' not in sys.modules"
        )
        answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        assert answer.strip() == models.set_digest


class TestLoading:
    def test_tensors_are_loaded_by_name(self, models: ModelSet) -> None:
        tensors = models.load_tensors("codec")
        assert torch.equal(tensors["weight"], torch.ones(2, 3))
        assert torch.equal(tensors["bias"], torch.arange(3))

    @pytest.mark.parametrize("damage", ["flipped", "truncated", "emptied", "deleted"])
    def test_damaged_weights_are_never_loaded(self, models: ModelSet, folder: Path, damage: str) -> None:
        path = folder / "motion.safetensors"
        content = path.read_bytes()
        models.load_tensors("motion")
        if damage == "deleted":
            path.unlink()
        else:
            flipped = content[:-1] + bytes([content[-1] ^ 1])
            path.write_bytes({"flipped": flipped, "truncated": content[:-1], "emptied": b""}[damage])
            os.utime(path, ns=(1, 1))
        with pytest.raises(WeightsError, match=r"motion\.safetensors") as caught:
            models.load_tensors("motion")
        assert caught.value.remedy
        (problem,) = models.verify()
        assert str(problem) == str(caught.value)
        path.write_bytes(content)
        assert models.verify() == ()

    def test_verifying_hashes_again_even_where_size_and_time_are_the_same(self, models: ModelSet, folder: Path) -> None:
        assert models.verify() == ()
        path = folder / "codec.safetensors"
        times = path.stat().st_mtime_ns
        with path.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\x7f")
        os.utime(path, ns=(times, times))
        assert len(models.verify()) == 1

    def test_every_problem_of_a_set_is_listed(self, models: ModelSet, folder: Path) -> None:
        (folder / "codec.safetensors").unlink()
        (folder / "renderer.safetensors").write_bytes(b"x")
        assert [str(problem).split(",")[0] for problem in models.verify()] == [
            "the weights of codec",
            "the weights of renderer",
        ]

    def test_what_is_no_safetensors_file_is_said(self, folder: Path) -> None:
        (folder / "codec.safetensors").write_bytes(b"anything")
        with pytest.raises(WeightsError, match="not a safetensors file"):
            write_model_set(folder, "tiny", {}).load_tensors("codec")

    def pinned(self, folder: Path, name: str) -> ModelSet:
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        (folder / "models.toml").write_text(f"[codec]\nuri = '{name}'\nsha256 = '{digest}'\n")
        return read_model_set(folder)

    @pytest.mark.parametrize("wrapped", [False, True])
    def test_checkpoints_of_tensors_are_loaded(self, tmp_path: Path, wrapped: bool) -> None:
        state = {"a.weight": torch.ones(2)}
        torch.save({"state_dict": state, "epoch": 3} if wrapped else state, tmp_path / "x.ckpt")
        assert list(self.pinned(tmp_path, "x.ckpt").load_tensors("codec")) == ["a.weight"]

    def test_checkpoints_that_would_run_code_are_refused(self, tmp_path: Path) -> None:
        ran = tmp_path / "ran"

        class Attack:
            def __reduce__(self) -> tuple[object, ...]:
                return (os.mkdir, (str(ran),))

        torch.save({"a": Attack()}, tmp_path / "x.pt")
        with pytest.raises(WeightsError, match="tensors alone"):
            self.pinned(tmp_path, "x.pt").load_tensors("codec")
        assert not ran.exists()

    @pytest.mark.parametrize("content", [[1, 2], {"a": 3}, {1: torch.ones(1)}])
    def test_checkpoints_of_anything_else_are_refused(self, tmp_path: Path, content: object) -> None:
        torch.save(content, tmp_path / "x.pt")
        with pytest.raises(AvatarLabError, match="more than tensors"):
            self.pinned(tmp_path, "x.pt").load_tensors("codec")
