"""Published speech checkpoints to model sets: `avatarlab models import`.

Takes Small-E (`gla_60`, `gla_130`: a pickle with key `model`) and Lina (169M: a Lightning checkpoint), reads every size
from the tensors (spec small-e, section 7.2) and writes a set of safetensors files with its digests, its sampling settings
and its licences. Nothing in a checkpoint is executed, every key is accounted for, and what is damaged is refused with the
reason. The lips of the set are those of the bundled one.
"""

import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from avatarlab.errors import SettingsError, StoreError, WeightsError
from avatarlab.models import FILE_NAMES, ModelSet, Setting, read_model_set, read_tensors, write_model_set
from avatarlab.speech import encodec_vocos, wavtokenizer
from avatarlab.speech.codecs import load_codec
from avatarlab.speech.small_e import SmallE, SmallEConfig
from avatarlab.text.bytepairs import PUBLISHED_SHA256, BytePairs
from avatarlab.text.front_end import BYTE_PAIRS

PUBLISHED = {59_874_952: "Small-E gla_60", 131_031_596: "Small-E gla_130", 169_819_540: "Lina 169M"}
NOT_COMMERCIAL = "CC BY-NC 4.0: attribution, no commercial use"
LICENCES = {
    "small_e": f"{NOT_COMMERCIAL} (Small-E and Lina-Speech; Lemerle, Obin, Roebel)",
    "text": "CC BY-NC-SA 4.0: attribution, no commercial use, share alike (tokenizer of Lina-Speech)",
    "encodec": f"{NOT_COMMERCIAL} (EnCodec; Meta Platforms)",
    "vocos": "MIT (Vocos; Charactr), with codebooks of EnCodec",
    "wavtokenizer": "MIT (WavTokenizer; Ji et al.)",
}
LICENCE_FILE = "LICENCE.md"
SAMPLING: Mapping[str, Setting] = {  # spec 6.1: only the first codebook is drawn
    "top_k": 100,
    "temperature": 1.0,
    "sampled_codebooks": 1,
    "max_steps": 2000,
    "max_steps_per_unit": 20.0,  # of 75 a second; a byte pair is heard for about a tenth of one
    "draws": 3,
}
CODEC_KINDS = ("EnCodec and Vocos", "WavTokenizer")


@dataclass(frozen=True)
class SpeechWeights:
    """A network as it will be stored: float32 tensors under the published names, without prefix."""

    tensors: Mapping[str, Tensor]
    config: SmallEConfig
    parameters: int

    @property
    def name(self) -> str:
        return PUBLISHED.get(self.parameters, f"Small-E of {self.parameters:,} parameters")

    @property
    def codec(self) -> str:
        """The codec whose codes it speaks, by the number of its codebooks: four streams or one."""
        return CODEC_KINDS[0] if self.config.codebooks > 1 else CODEC_KINDS[1]


@dataclass(frozen=True)
class Imported:
    """What an import made. `lacking` says what the set still needs before it can speak."""

    models: ModelSet
    network: str
    parameters: int
    config: SmallEConfig
    licences: tuple[str, ...]
    lacking: tuple[str, ...]


def import_models(
    file: Path, out: Path, *, codec: Sequence[Path] = (), tokenizer: Path | None = None, name: str | None = None
) -> Imported:
    """Writes a model set to the folder `out`, which must be new or empty; it appears complete or not at all.

    `codec` are the files of its codec: EnCodec's and Vocos's, or WavTokenizer's; `tokenizer` is the published `bpe256.json`
    or one trained by `BytePairs.train`. Raises WeightsError for files that are damaged, unknown or do not belong
    together, SettingsError for a folder that is taken, StoreError where it cannot be written.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise SettingsError(f"{out} is there and not an empty folder", "choose another")
    speech = speech_weights(_tensors(file))
    codec_tensors, codec_licences = codec_weights([_tensors(path) for path in codec], speech)
    pairs = None if tokenizer is None else BytePairs.read(tokenizer)
    if pairs is not None and pairs.size != speech.config.text_vocabulary:
        raise WeightsError(
            f"{tokenizer} has {pairs.size} text units, the network {speech.config.text_vocabulary}",
            "use the tokenizer it was trained with",
        )
    if pairs is not None and speech.parameters in PUBLISHED and not pairs.is_published:
        raise WeightsError(
            f"{tokenizer} is not the tokenizer {speech.name} was trained with",
            f"use bpe256.json, sha256 {PUBLISHED_SHA256[0]}...{PUBLISHED_SHA256[1]}",
        )
    licences = [LICENCES["small_e"], *codec_licences]
    if pairs is not None and pairs.is_published:
        licences.append(LICENCES["text"])
    lacking = []
    if pairs is None:
        lacking.append("the tokenizer: import again with --tokenizer bpe256.json")
    if not codec_tensors:
        lacking.append(f"its codec: import again with --codec and the file of {speech.codec}")
    metadata = {"network": speech.name, "parameters": str(speech.parameters), "source": file.name}
    try:
        with _new_folder(out) as folder:
            _save(folder / FILE_NAMES["small_e"], speech.tensors, {**metadata, "licence": LICENCES["small_e"]})
            if codec_tensors:
                _save(folder / FILE_NAMES["codec"], codec_tensors, {"licence": "; ".join(codec_licences)})
            if pairs is not None:
                pairs.write(folder / FILE_NAMES["text"])
            settings = _lips(folder)
            (folder / LICENCE_FILE).write_text(_licence_text(speech.name, licences), encoding="utf-8")
            write_model_set(
                folder,
                name or re.sub(r"[^A-Za-z0-9_-]+", "-", speech.name).strip("-"),
                {**settings, "small_e": SAMPLING, "text": {"units": BYTE_PAIRS, "languages": ["en"]}},
                f"{speech.name}, {speech.parameters:,} parameters. {'. '.join(licences)}.",
            )
    except OSError as error:
        raise StoreError(f"{out} cannot be written: {error.strerror}", "check the folder and its free space") from None
    return Imported(read_model_set(out), speech.name, speech.parameters, speech.config, tuple(licences), tuple(lacking))


def speech_weights(tensors: Mapping[str, Tensor]) -> SpeechWeights:
    """A published Small-E or Lina network, checked key by key. Raises WeightsError naming what is wrong."""
    with _sizes_of("Small-E network"):
        model = SmallE.from_state_dict(tensors)
    converted = dict(model.state_dict())
    _refuse_not_numbers(converted)
    parameters = sum(tensor.numel() for tensor in converted.values())
    if model.config.tied:
        parameters -= converted["rvq_embed.weight"].numel()
    return SpeechWeights(converted, model.config, parameters)


def codec_weights(
    files: Sequence[Mapping[str, Tensor]], speech: SpeechWeights
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors of the codec the network speaks, from its one or two files in any order, and their licences.

    Nothing for no files. Raises WeightsError for files of another codec, or of none.
    """
    if not files:
        return {}, ()
    kinds = {_codec_kind(tensors): tensors for tensors in files}
    with _sizes_of("codec"):
        tensors, codes = _one_codec(kinds, speech.config.codebooks)
        _refuse_not_numbers(tensors)
        found = load_codec(tensors)
    wanted = (speech.config.codebooks, speech.config.codebook_size)
    if (found.codebooks, codes) != wanted:
        raise WeightsError(
            f"the codec has {found.codebooks} x {codes} codes, the network speaks {wanted[0]} x {wanted[1]}",
            f"this network speaks the codes of {speech.codec}",
        )
    return tensors, tuple(LICENCES[kind] for kind in sorted(kinds))


def _one_codec(kinds: Mapping[str, Mapping[str, Tensor]], codebooks: int) -> tuple[dict[str, Tensor], int]:
    """The tensors of a codec and how many codes a codebook has."""
    if kinds.keys() == {"wavtokenizer"}:
        codec = wavtokenizer.WavTokenizer.from_state_dict(kinds["wavtokenizer"])
        return codec.published_state_dict(), codec.config.codes
    if kinds.keys() == {"encodec", "vocos"}:
        tensors = encodec_vocos.combined(kinds["encodec"], kinds["vocos"], codebooks)
        return {key: tensor.float() for key, tensor in tensors.items()}, encodec_vocos.CODES
    raise WeightsError(
        f"{' and '.join(sorted(kinds))} alone make no codec",
        "give the files of EnCodec and of Vocos, or WavTokenizer's",
    )


def _tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise WeightsError(f"there is no file {path}", "check the path; `avatarlab models pull` fetches weights")
    return read_tensors(path)


def _codec_kind(tensors: Mapping[str, Tensor]) -> str:
    if wavtokenizer.CODEBOOK in tensors:
        return "wavtokenizer"
    if encodec_vocos.TABLE in tensors:
        return "vocos"
    if "quantizer.vq.layers.0._codebook.embed" in tensors:
        return "encodec"
    raise WeightsError(
        "a --codec file is of no codec known here",
        "give encodec_24khz and vocos-encodec-24khz, or a 75-token WavTokenizer",
    )


@contextmanager
def _sizes_of(what: str) -> Iterator[None]:
    """Sizes come from the file: what cannot be built from them is the file's fault."""
    try:
        yield
    except (RuntimeError, MemoryError, ArithmeticError, IndexError) as error:
        raise WeightsError(
            f"not a {what}: sizes that cannot be ({type(error).__name__})", "use an undamaged file"
        ) from None


def _refuse_not_numbers(tensors: Mapping[str, Tensor]) -> None:
    for key, tensor in tensors.items():
        if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            raise WeightsError(f"{key} holds values that are no numbers", "use an undamaged file")


@contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill that takes its name only when all is in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    filling = path.absolute().with_name(f".{secrets.token_hex(8)}.part")
    filling.mkdir()
    try:
        yield filling
        filling.replace(path)
    finally:
        shutil.rmtree(filling, ignore_errors=True)


def _save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    try:
        save_file({key: tensor.detach().clone().contiguous() for key, tensor in tensors.items()}, path, dict(metadata))
    except SafetensorError as error:
        raise StoreError(f"{path} cannot be written: {error}", "check the folder and its free space") from None
    path.chmod(0o644)  # workers may run as another user


def _lips(out: Path) -> dict[str, Mapping[str, Setting]]:
    """Copies the lips of the bundled set beside the voice; returns their settings."""
    bundled = read_model_set()
    for stage in ("motion", "renderer"):
        shutil.copyfile(bundled.checked_path(stage), out / FILE_NAMES[stage])
    return {stage: bundled.settings(stage) for stage in ("audio_features", "motion", "renderer")}


def _licence_text(network: str, licences: Sequence[str]) -> str:
    lines = "\n".join(f"- {licence}" for licence in licences)
    return f"# Licences of the weights in this folder: {network}\n\n{lines}\n- Apache-2.0 (motion and renderer; Avatar Lab)\n"
