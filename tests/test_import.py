"""Importing published checkpoints: sizes from tensors, every key accounted for, nothing executed, licences said."""

import json
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from published import GLA_60, GLA_130, LINA_169, Published, lightning, parameters, random_weights, shapes
from safetensors import safe_open
from torch import Tensor
from typer.testing import CliRunner

from avatarlab.errors import InputError, SettingsError, StoreError, WeightsError
from avatarlab.imports import LICENCE_FILE, PUBLISHED, import_models, speech_weights
from avatarlab.models import read_model_set, read_tensors
from avatarlab.speech.generate import Sampling, generate
from avatarlab.speech.small_e import SmallE, SmallEConfig, Unfilled, infer_config
from avatarlab.speech.wavtokenizer import WavTokenizer
from avatarlab.text.bytepairs import BytePairs
from flows.cli import app

TINY_GLA = Published(32, 2, 2, 1, 2, 2, 4, 1024, 16, lina=False)
TINY_LINA = Published(32, 2, 2, 1, 2, 1, 1, 64, 32, lina=True)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    drawn = random.Random(0)
    words = ["".join(drawn.choices("etaoinshrdlu", k=drawn.randint(1, 7))) for _ in range(600)]
    path = tmp_path_factory.mktemp("text") / "own.json"
    BytePairs.train([" ".join(words)]).write(path)
    return path


@pytest.fixture(scope="module")
def wavtokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from test_published_codecs import TINY

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("codec") / "wavtokenizer.ckpt"
    torch.save({"state_dict": WavTokenizer(TINY).published_state_dict()}, path)
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "gla.pt"
    torch.save({"model": random_weights(TINY_GLA)}, path)
    return path


class TestPublishedShapes:
    """The very names and shapes of the released files, without their hundreds of megabytes."""

    @pytest.mark.parametrize(
        ("published", "keys", "total"),
        [(GLA_60, 336, 59_874_952), (GLA_130, 336, 131_031_596), (LINA_169, 333, 169_819_540)],
    )
    def test_the_network_they_describe_has_exactly_these_parameters(
        self, published: Published, keys: int, total: int
    ) -> None:
        assert len(shapes(published)) == keys and parameters(published) == total and total in PUBLISHED
        tensors = {key: torch.zeros(()).expand(shape) for key, shape in shapes(published).items()}
        if not published.lina:
            tensors["rvq_embed.weight"] = torch.ones(()).expand(tensors["rvq_embed.weight"].shape)
        config = infer_config(tensors)
        assert config == SmallEConfig(
            width=published.width,
            text_vocabulary=256,
            text_layers=published.text_layers,
            text_heads=8,
            encoder_blocks=6,
            decoder_blocks=6,
            heads=4,
            expand_k=1.0,
            expand_v=float(published.expand_v),
            short_conv=published.lina,
            positions="convolutional" if published.lina else "sinusoidal",
            position_width=published.position_width,
            rotary_attention=not published.lina,
            codebooks=published.codebooks,
            codebook_size=published.codes,
            tied=published.lina,
            dropout_text=0.0,
            dropout_attention=0.0,
        )
        with Unfilled():
            network = SmallE(config)
        assert {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()} == shapes(published)

    @pytest.mark.slow
    def test_a_full_network_of_random_numbers_is_taken_over_number_for_number(self) -> None:
        given = random_weights(GLA_60)
        taken = speech_weights(given)
        assert (taken.name, taken.parameters) == ("Small-E gla_60", 59_874_952)
        assert taken.tensors.keys() == given.keys()
        assert all(torch.equal(taken.tensors[key], given[key]) for key in given)


class TestImporting:
    @pytest.mark.parametrize("published", [TINY_GLA, TINY_LINA])
    def test_every_number_arrives_in_safetensors(self, tmp_path: Path, published: Published) -> None:
        given = random_weights(published)
        torch.save(lightning(given) if published.lina else {"model": given}, tmp_path / "file.pt")
        made = import_models(tmp_path / "file.pt", tmp_path / "set")
        assert made.parameters == parameters(published)
        assert made.config == infer_config(given)
        stored = read_model_set(tmp_path / "set").load_tensors("small_e")
        assert stored.keys() == given.keys()
        assert all(torch.equal(stored[key], given[key]) and stored[key].dtype == torch.float32 for key in given)
        assert SmallE.from_state_dict(stored).config.tied == published.lina

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
    def test_other_precisions_become_single(self, tmp_path: Path, dtype: torch.dtype) -> None:
        given = {key: tensor.to(dtype) for key, tensor in random_weights(TINY_GLA).items()}
        torch.save({"model": given}, tmp_path / "file.pt")
        stored = import_models(tmp_path / "file.pt", tmp_path / "set").models.load_tensors("small_e")
        assert all(torch.equal(stored[key], given[key].float()) for key in given)

    def test_a_set_with_codec_and_tokenizer_lacks_nothing_and_is_whole(
        self, tmp_path: Path, wavtokenizer: Path, tokenizer: Path
    ) -> None:
        torch.save(lightning(random_weights(TINY_LINA)), tmp_path / "last.ckpt")
        made = import_models(
            tmp_path / "last.ckpt", tmp_path / "set", codec=[wavtokenizer], tokenizer=tokenizer, name="lina"
        )
        assert made.lacking == () and made.models.name == "lina"
        models = read_model_set(tmp_path / "set")
        assert models.verify() == ()
        assert models.settings("text") == {"units": "bytepairs", "languages": ["en"]}
        assert models.file("text").path == tmp_path / "set/text.json"
        assert Sampling(**{k: v for k, v in models.settings("small_e").items() if k != "draws"}).top_k == 100  # type: ignore[arg-type]

    def test_what_a_set_still_lacks_is_said(self, tmp_path: Path, checkpoint: Path) -> None:
        made = import_models(checkpoint, tmp_path / "set")
        assert [what.split(":")[0] for what in made.lacking] == ["the tokenizer", "its codec"]
        assert "EnCodec and Vocos" in made.lacking[1]

    def test_the_licence_is_in_the_set_beside_it_and_in_the_weights(self, tmp_path: Path, checkpoint: Path) -> None:
        made = import_models(checkpoint, tmp_path / "set")
        assert "CC BY-NC 4.0" in made.models.description
        assert "CC BY-NC 4.0" in (tmp_path / "set" / LICENCE_FILE).read_text()
        with safe_open(tmp_path / "set/small_e.safetensors", "pt") as file:
            assert "CC BY-NC 4.0" in file.metadata()["licence"]
            assert file.metadata()["parameters"] == str(parameters(TINY_GLA))

    def test_a_folder_that_holds_anything_is_left_alone(self, tmp_path: Path, checkpoint: Path) -> None:
        (tmp_path / "set").mkdir()
        assert import_models(checkpoint, tmp_path / "set").models.path == tmp_path / "set/models.toml"
        before = {path: path.stat() for path in tmp_path.rglob("*")}
        for taken in (tmp_path / "set", checkpoint):
            with pytest.raises(SettingsError, match="not an empty folder"):
                import_models(checkpoint, taken)
        assert {path: path.stat() for path in tmp_path.rglob("*")} == before

    def test_a_disk_that_fails_leaves_nothing_behind(
        self, tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("avatarlab.imports.LICENCE_FILE", "no/such/folder")
        with pytest.raises(StoreError, match="cannot be written"):
            import_models(checkpoint, tmp_path / "set")
        assert list(tmp_path.iterdir()) == [checkpoint]

    def test_an_imported_network_speaks(self, tmp_path: Path, checkpoint: Path) -> None:
        models = import_models(checkpoint, tmp_path / "set").models
        network = SmallE.from_state_dict(models.load_tensors("small_e"))
        (spoken,) = generate(
            network, [[20, 21, 22]], [None], [1], Sampling(top_k=100, sampled_codebooks=1, max_steps=9)
        )
        assert spoken.codes.shape[0] == 4 and 0 <= spoken.codes.min() <= spoken.codes.max() < 1024


class TestRefusals:
    def refused(self, tmp_path: Path, content: object, words: str) -> None:
        torch.save(content, tmp_path / "bad.pt")
        with pytest.raises(WeightsError, match=words) as caught:
            import_models(tmp_path / "bad.pt", tmp_path / "set")
        assert caught.value.remedy
        assert not (tmp_path / "set").exists()

    def test_a_file_that_would_run_code_never_does(self, tmp_path: Path) -> None:
        ran = tmp_path / "ran"

        class Attack:
            def __reduce__(self) -> tuple[object, ...]:
                return (os.mkdir, (str(ran),))

        self.refused(tmp_path, {"model": random_weights(TINY_GLA), "config": Attack()}, "tensors alone")
        assert not ran.exists()

    @pytest.mark.parametrize("keep", [0, 10, 1000, -1])
    def test_a_truncated_file(self, tmp_path: Path, checkpoint: Path, keep: int) -> None:
        (tmp_path / "cut.pt").write_bytes(checkpoint.read_bytes()[:keep])
        with pytest.raises(WeightsError, match=r"cut\.pt"):
            import_models(tmp_path / "cut.pt", tmp_path / "set")

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match="there is no file"):
            import_models(tmp_path / "none.pt", tmp_path / "set")

    @pytest.mark.parametrize("content", [[1], {"model": {"a": 1}}, {"model": {1: torch.ones(1)}}, "text", 7])
    def test_anything_but_tensors_by_name(self, tmp_path: Path, content: object) -> None:
        self.refused(tmp_path, content, "more than tensors")

    @pytest.mark.parametrize("content", [{}, {"weight": torch.ones(3)}, {"state_dict": {"model.a.b": torch.ones(1)}}])
    def test_another_network(self, tmp_path: Path, content: object) -> None:
        self.refused(tmp_path, content, "not a Small-E network")

    def changed(self, **changes: Tensor | None) -> dict[str, object]:
        tensors: dict[str, Tensor | None] = {**random_weights(TINY_GLA), **changes}
        return {"model": {key: tensor for key, tensor in tensors.items() if tensor is not None}}

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"txt_encoder.sa.1.norm2.bias": None}, r"missing txt_encoder\.sa\.1\.norm2\.bias"),
            ({"speaker.weight": torch.ones(4)}, r"unknown speaker\.weight"),
            ({"attentive_rnn.encoder.0.tmix.o_proj.weight": torch.ones(3, 3)}, r"o_proj\.weight is \(3, 3\), not"),
            ({"attentive_rnn.encoder.0.norm1.bias": torch.full((32,), torch.nan)}, "no numbers"),
            ({"attentive_rnn.encoder.0.norm1.bias": torch.full((32,), torch.inf)}, "no numbers"),
            ({"txt_embed.weight": torch.ones(1).expand(256, 32)}, "not a plain tensor"),
            ({"txt_embed.weight": torch.ones(1).expand(10**6, 10**6)}, "not a plain tensor"),
            ({"txt_embed.weight": torch.ones(256, 32).to_sparse()}, "not a plain tensor"),
            ({"txt_embed.weight": torch.empty(256, 32, device="meta")}, "not a plain tensor"),
        ],
    )
    def test_a_damaged_network_is_named_by_its_tensor(
        self, tmp_path: Path, changes: dict[str, Tensor | None], words: str
    ) -> None:
        self.refused(tmp_path, self.changed(**changes), words)

    def test_sizes_beyond_any_memory(self, tmp_path: Path) -> None:
        huge = {key: torch.empty(0, 10**9 if len(shape) > 1 else 1) for key, shape in shapes(TINY_GLA).items()}
        self.refused(tmp_path, {"model": huge}, "not a Small-E network")


class TestCodecsAndTokenizers:
    def test_files_of_another_codec_are_refused(self, tmp_path: Path, checkpoint: Path, wavtokenizer: Path) -> None:
        with pytest.raises(WeightsError, match="1 x 64 codes, the network speaks 4 x 1024") as caught:
            import_models(checkpoint, tmp_path / "set", codec=[wavtokenizer])
        assert "EnCodec and Vocos" in caught.value.remedy

    def test_half_a_codec_is_refused(self, tmp_path: Path, checkpoint: Path) -> None:
        torch.save({"quantizer.vq.layers.0._codebook.embed": torch.ones(1024, 16)}, tmp_path / "encodec.th")
        with pytest.raises(WeightsError, match="encodec alone make no codec"):
            import_models(checkpoint, tmp_path / "set", codec=[tmp_path / "encodec.th"])
        with pytest.raises(WeightsError, match="of no codec known here"):
            import_models(checkpoint, tmp_path / "set", codec=[checkpoint])

    def test_a_damaged_codec_is_refused(self, tmp_path: Path, wavtokenizer: Path) -> None:
        torch.save({"model": random_weights(TINY_LINA)}, tmp_path / "lina.pt")
        tensors = torch.load(wavtokenizer, weights_only=True)["state_dict"]
        for key, other in {
            "backbone.embed.weight": torch.empty(10**9, 0, 7),
            "head.out.bias": torch.full((1282,), torch.nan),
            "backbone.convnext.0.gamma": torch.ones(1),
        }.items():
            torch.save({"state_dict": {**tensors, key: other}}, tmp_path / "bad.ckpt")
            with pytest.raises(WeightsError) as caught:
                import_models(tmp_path / "lina.pt", tmp_path / "set", codec=[tmp_path / "bad.ckpt"])
            assert caught.value.remedy and not (tmp_path / "set").exists()

    def test_encodec_and_vocos_make_one_file_in_any_order(self, tmp_path: Path, checkpoint: Path) -> None:
        from test_published_codecs import DECODER, encodec_shapes, random_like, vocos_shapes

        torch.save(random_like(encodec_shapes(2, 16, levels=5)), tmp_path / "encodec.th")
        torch.save(random_like(vocos_shapes(DECODER, 16 * 1024)), tmp_path / "vocos.bin")
        digests = {
            import_models(checkpoint, tmp_path / name, codec=files).models.digest("codec")
            for name, files in {
                "a": [tmp_path / "encodec.th", tmp_path / "vocos.bin"],
                "b": [tmp_path / "vocos.bin", tmp_path / "encodec.th"],
            }.items()
        }
        assert len(digests) == 1
        assert "EnCodec" in (tmp_path / "a" / LICENCE_FILE).read_text()

    def test_a_published_network_takes_only_its_own_tokenizer(
        self, tmp_path: Path, checkpoint: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(PUBLISHED, parameters(TINY_GLA), "Small-E gla_60")
        with pytest.raises(WeightsError, match="not the tokenizer Small-E gla_60 was trained with") as caught:
            import_models(checkpoint, tmp_path / "set", tokenizer=tokenizer)
        assert "1f91d069" in caught.value.remedy

    def test_a_tokenizer_of_another_size_is_refused(self, tmp_path: Path, tokenizer: Path) -> None:
        given = random_weights(TINY_GLA)
        given["txt_embed.weight"] = torch.zeros(180, 32)
        torch.save({"model": given}, tmp_path / "old.pt")
        with pytest.raises(WeightsError, match="256 text units, the network 180"):
            import_models(tmp_path / "old.pt", tmp_path / "set", tokenizer=tokenizer)


class TestTheCommand:
    def test_it_says_what_was_made_and_under_which_licence(self, tmp_path: Path, checkpoint: Path) -> None:
        answer = CliRunner().invoke(app, ["models", "import", str(checkpoint), "--out", str(tmp_path / "set")])
        assert answer.exit_code == 0
        assert f"{parameters(TINY_GLA):,} parameters" in answer.stdout
        assert "licence: CC BY-NC 4.0" in answer.stderr and "lacking: the tokenizer" in answer.stderr

    def test_it_says_it_in_json(self, tmp_path: Path, checkpoint: Path) -> None:
        answer = CliRunner().invoke(
            app, ["models", "import", str(checkpoint), "--out", str(tmp_path / "set"), "--name", "x", "--json"]
        )
        told = json.loads(answer.stdout)
        assert told["name"] == "x" and told["parameters"] == parameters(TINY_GLA)
        assert told["config"]["codebooks"] == 4 and "CC BY-NC" in told["licences"][0]

    def test_pull_refuses_what_is_not_pinned_before_it_asks_anybody(self, tmp_path: Path) -> None:
        arguments = ["models", "pull", "lab/voice", "--revision", "main", "--file", "x.pt", "--sha256", "0" * 64]
        answer = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path)])
        assert isinstance(answer.exception, SettingsError) and "full revision" in str(answer.exception)


class TestReading:
    def test_a_wrapped_safetensors_file_is_read_too(self, tmp_path: Path, checkpoint: Path) -> None:
        import_models(checkpoint, tmp_path / "set")
        again = import_models(tmp_path / "set/small_e.safetensors", tmp_path / "again")
        assert again.models.digest("small_e") == read_model_set(tmp_path / "again").digest("small_e")
        assert read_tensors(tmp_path / "again/small_e.safetensors").keys() == shapes(TINY_GLA).keys()

    def test_too_little_text_trains_no_tokenizer(self) -> None:
        with pytest.raises(InputError, match="only"):
            BytePairs.train(["a b"])

    def test_sizes_may_be_any(self, tmp_path: Path) -> None:
        other = replace(TINY_GLA, blocks=2, heads=4, text_layers=1)
        torch.save({"model": random_weights(other)}, tmp_path / "x.pt")
        made = import_models(tmp_path / "x.pt", tmp_path / "set")
        assert made.network == f"Small-E of {parameters(other):,} parameters"
        assert (made.config.encoder_blocks, made.config.heads, made.config.text_layers) == (2, 4, 1)
