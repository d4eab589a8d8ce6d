"""Published checkpoints to model sets: `avatarlab models import`.

Takes Small-E (`gla_60`, `gla_130`: a pickle with key `model`) and Lina (169M: a Lightning checkpoint), reads every size
from the tensors (spec small-e, section 7.2) and writes a set of safetensors files with its digests, its sampling settings
and its licences; likewise DiffDub's two stages with their HuBERT (`imports_lips`). Nothing in a checkpoint is executed,
every key is accounted for, and what is damaged is refused with the reason. What is not given, speech or lips, is that of
the bundled set.
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
from avatarlab.imports_lips import LipWeights, lip_weights
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
SPEECH_STAGES, LIP_STAGES = ("text", "small_e", "codec"), ("audio_features", "motion", "renderer")
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
    """What an import made. `lacking` says what the set still needs before it can speak or move its lips.

    `config` is that of the speech network, None where the speech is that of the bundled set; `notes` say what is not
    as published.
    """

    models: ModelSet
    network: str
    parameters: int
    config: SmallEConfig | None
    licences: tuple[str, ...]
    lacking: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Speech:
    """The speech of a set: the network, its codec and its tokenizer, where they were given."""

    weights: SpeechWeights
    codec: Mapping[str, Tensor]
    codec_licences: tuple[str, ...]
    pairs: BytePairs | None

    @property
    def licences(self) -> tuple[str, ...]:
        text = (LICENCES["text"],) if self.pairs is not None and self.pairs.is_published else ()
        return (LICENCES["small_e"], *self.codec_licences, *text)

    @property
    def lacking(self) -> tuple[str, ...]:
        lacking = []
        if self.pairs is None:
            lacking.append("the tokenizer: import again with --tokenizer bpe256.json")
        if not self.codec:
            lacking.append(f"its codec: import again with --codec and the file of {self.weights.codec}")
        return tuple(lacking)


def import_models(
    file: Path | None,
    out: Path,
    *,
    codec: Sequence[Path] = (),
    tokenizer: Path | None = None,
    renderer: Path | None = None,
    motion: Path | None = None,
    audio_features: Path | None = None,
    name: str | None = None,
) -> Imported:
    """Writes a model set to the folder `out`, which must be new or empty; it appears complete or not at all.

    `file` is a speech checkpoint. `codec` are the files of its codec: EnCodec's and Vocos's, or WavTokenizer's;
    `tokenizer` is the published `bpe256.json` or one trained by `BytePairs.train`. `renderer` and `motion` are DiffDub's
    stages 1 and 2, `audio_features` the HuBERT that stage 2 listens with. Raises WeightsError for files that are damaged,
    unknown or do not belong together, SettingsError for a folder that is taken and for files without those they belong
    to, StoreError where the set cannot be written.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise SettingsError(f"{out} is there and not an empty folder", "choose another")
    speech = _speech(file, codec, tokenizer)
    lips = _lips(renderer, motion, audio_features)
    if speech is None and lips is None:
        raise SettingsError("there is nothing to import", "give a speech checkpoint, or --renderer and --motion")
    networks = [speech.weights.name] if speech else []
    networks += ["DiffDub"] if lips else []
    network = " and ".join(networks)
    parameters = (speech.weights.parameters if speech else 0) + (lips.parameters if lips else 0)
    licences = [*(speech.licences if speech else ()), *dict.fromkeys(lips.licences.values() if lips else ())]
    sources = ", ".join(path.name for path in (file, renderer, motion, audio_features) if path is not None)
    metadata = {"network": network, "parameters": str(parameters), "source": sources}
    try:
        with _new_folder(out) as folder:
            settings = _bundled(folder, with_speech=speech is None, with_lips=lips is None)
            if speech is not None:
                settings |= _write_speech(folder, speech, metadata)
            if lips is not None:
                for stage, tensors in lips.tensors.items():
                    _save(folder / FILE_NAMES[stage], tensors, {**metadata, "licence": lips.licences[stage]})
                settings |= lips.settings
            own = [*(["speech"] if speech is None else []), *(["motion and renderer"] if lips is None else [])]
            (folder / LICENCE_FILE).write_text(_licence_text(network, licences, own), encoding="utf-8")
            write_model_set(
                folder,
                name or re.sub(r"[^A-Za-z0-9_-]+", "-", network).strip("-"),
                settings,
                f"{network}, {parameters:,} parameters. {'. '.join(licences)}.",
            )
    except OSError as error:
        raise StoreError(f"{out} cannot be written: {error.strerror}", "check the folder and its free space") from None
    return Imported(
        read_model_set(out),
        network,
        parameters,
        speech.weights.config if speech else None,
        tuple(licences),
        (*(speech.lacking if speech else ()), *(lips.lacking if lips else ())),
        lips.notes if lips else (),
    )


def _speech(file: Path | None, codec: Sequence[Path], tokenizer: Path | None) -> Speech | None:
    if file is None:
        if codec or tokenizer:
            raise SettingsError("a codec or tokenizer without its network", "give the speech checkpoint too")
        return None
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
    return Speech(speech, codec_tensors, codec_licences, pairs)


def _lips(renderer: Path | None, motion: Path | None, audio_features: Path | None) -> LipWeights | None:
    if renderer is None and motion is None and audio_features is None:
        return None
    if renderer is None or motion is None:
        raise SettingsError(
            "one stage of DiffDub alone: what its motion network says, only its renderer understands",
            "give both --renderer and --motion",
        )
    files = _tensors(renderer), _tensors(motion), None if audio_features is None else _tensors(audio_features)
    with _sizes_of("DiffDub network"):
        lips = lip_weights(*files)
    for tensors in lips.tensors.values():
        _refuse_not_numbers({key: value for key, value in tensors.items() if value.is_floating_point()})
    return lips


def _write_speech(folder: Path, speech: Speech, metadata: Mapping[str, str]) -> dict[str, Mapping[str, Setting]]:
    _save(folder / FILE_NAMES["small_e"], speech.weights.tensors, {**metadata, "licence": LICENCES["small_e"]})
    if speech.codec:
        _save(folder / FILE_NAMES["codec"], speech.codec, {"licence": "; ".join(speech.codec_licences)})
    if speech.pairs is not None:
        speech.pairs.write(folder / FILE_NAMES["text"])
    return {"small_e": SAMPLING, "text": {"units": BYTE_PAIRS, "languages": ["en"]}}


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
    except (RuntimeError, MemoryError, ArithmeticError, IndexError, ValueError) as error:
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


def _bundled(out: Path, *, with_speech: bool, with_lips: bool) -> dict[str, Mapping[str, Setting]]:
    """Copies what the bundled set has of speech or lips to the new one; returns the settings of these stages."""
    bundled = read_model_set()
    stages = [*(SPEECH_STAGES if with_speech else ()), *(LIP_STAGES if with_lips else ())]
    for stage in stages:
        if bundled.file(stage).path is not None:
            shutil.copyfile(bundled.checked_path(stage), out / FILE_NAMES[stage])
    return {stage: bundled.settings(stage) for stage in stages}


def _licence_text(network: str, licences: Sequence[str], own: Sequence[str]) -> str:
    """`own` names what comes from the bundled set."""
    lines = [*licences, *(f"Apache-2.0 ({part}; Avatar Lab)" for part in own)]
    return f"# Licences of the weights in this folder: {network}\n\n" + "".join(f"- {line}\n" for line in lines)
