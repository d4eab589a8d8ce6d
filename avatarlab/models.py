"""Model sets: which weights and settings every stage uses, pinned by sha256 (design section 3.3).

A set is a folder with a `models.toml`:

    name = "mini"

    [small_e]
    uri = "small_e.safetensors"       # relative to the file, or an absolute path; absent where a stage has no weights
    sha256 = "..."

    [small_e.settings]                # what changes the result; part of every key
    top_k = 40

Digests come from the file without reading weights, so that planning a run loads nothing. Weights are read only after
their sha256 agrees, by safetensors or by torch's weights-only reader. Importing this module does not import torch.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import file_digest, sha256
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from avatarlab.errors import SettingsError, WeightsError
from avatarlab.keys import canonical_json, quantised
from avatarlab.store import local_file
from avatarlab.text import languages_of
from avatarlab.toml_file import read_toml

if TYPE_CHECKING:
    import torch

STAGES = ("text", "small_e", "codec", "audio_features", "motion", "renderer")
WITHOUT_WEIGHTS = ("text", "audio_features")  # the bundled ones are rules and signal processing; others may have files
FILE_NAMES = {stage: "text.json" if stage == "text" else f"{stage}.safetensors" for stage in STAGES}
BUNDLED = Path(__file__).parent / "weights"
DEFAULT = "mini"
FILE_NAME = "models.toml"
SETTING_DECIMALS = 12

Setting = str | int | float | bool | list[str] | list[int] | list[float]


@dataclass(frozen=True)
class ModelFile:
    """The weights of one stage and the settings they are used with. `path` and `sha256` are None without weights."""

    stage: str
    path: Path | None
    sha256: str | None
    settings: Mapping[str, Setting]


@dataclass(frozen=True)
class ModelSet:
    """Stage -> ModelFile. Pickles as paths and digests."""

    name: str
    path: Path
    files: Mapping[str, ModelFile]
    description: str = ""

    def file(self, stage: str) -> ModelFile:
        """Raises WeightsError where the set lacks the stage, ValueError where there is no such stage."""
        if stage not in STAGES:
            raise ValueError(f"{stage!r} is not a stage of a model set; the stages are {', '.join(STAGES)}")
        if stage not in self.files:
            raise WeightsError(f"the model set {self.path} has no [{stage}]", "add it, or use another model set")
        return self.files[stage]

    def settings(self, stage: str) -> Mapping[str, Setting]:
        """The settings of a stage."""
        return self.file(stage).settings

    def digest(self, stage: str) -> str:
        """What enters keys: sha256 in hex over the pinned digest of the weights and the settings. Reads no weights."""
        file = self.file(stage)
        settings = {name: _for_key(value) for name, value in file.settings.items()}
        return sha256(canonical_json({"weights": file.sha256, "settings": settings})).hexdigest()

    @property
    def languages(self) -> tuple[str, ...]:
        """What the set speaks, as BCP-47 tags: `languages` in [text.settings], else English."""
        return languages_of(self.files["text"].settings if "text" in self.files else {})

    @property
    def set_digest(self) -> str:
        """sha256 in hex over the digests of all stages."""
        return sha256(
            canonical_json({stage: self.digest(stage) for stage in STAGES if stage in self.files})
        ).hexdigest()

    def verify(self) -> tuple[WeightsError, ...]:
        """Hash every file again. One WeightsError per problem, none where the set is whole."""
        problems = []
        for stage in STAGES:
            try:
                file = self.file(stage)
                if file.path is not None:
                    _digest_of.cache_clear()
                    _check_digest(file)
            except WeightsError as error:
                problems.append(error)
        return tuple(problems)

    def checked_path(self, stage: str) -> Path:
        """Where the file of a stage lies, its sha256 verified. Raises WeightsError where it is missing or damaged."""
        file = self.file(stage)
        if file.path is None:
            raise WeightsError(f"the stage {stage} of {self.path} has no weights", "give it a uri and a sha256")
        _check_digest(file)
        return file.path

    def load_tensors(self, stage: str) -> dict[str, "torch.Tensor"]:
        """The tensors of a stage on the CPU, by name. Raises WeightsError where they are missing or damaged."""
        return read_tensors(self.checked_path(stage))


def read_model_set(source: Path | str | None = None) -> ModelSet:
    """A model set from a `models.toml`, a folder that holds one, or the name of a bundled set (default `mini`).

    Raises WeightsError where there is none, SettingsError where the file says something unknown. Weights are not read.
    """
    path = _locate(source)
    try:
        content = read_toml(path)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}", "check --models") from None
    except ValueError as error:
        raise SettingsError(f"{path} is not TOML: {error}", "correct the file given by --models") from None
    _refuse_unknown(path, "", content, ("name", "description", *STAGES))
    name, description = content.get("name", path.parent.name), content.get("description", "")
    if not isinstance(name, str) or not isinstance(description, str):
        raise SettingsError(f"{path}: name and description are not text", "write them in quotes")
    files = {stage: _model_file(path, stage, content[stage]) for stage in STAGES if stage in content}
    return ModelSet(name, path, files, description)


def list_model_sets(folder: Path = BUNDLED) -> tuple[ModelSet, ...]:
    """The model sets in the folders of a folder, by name."""
    return tuple(read_model_set(path) for path in sorted(folder.glob(f"*/{FILE_NAME}")))


def write_model_set(
    folder: Path, name: str, settings: Mapping[str, Mapping[str, Setting]], description: str = ""
) -> ModelSet:
    """Write `folder/models.toml` with the digests of the files that lie there under their FILE_NAMES.

    Stages without weights are written where WITHOUT_WEIGHTS names them or `settings` has them. Raises SettingsError for
    settings of an unknown stage or of a type TOML or a key cannot hold.
    """
    path = folder / FILE_NAME
    _refuse_unknown(path, "", settings, STAGES)
    lines = [f"name = {_toml(name)}"]
    if description:
        lines.append(f"description = {_toml(description)}")
    for stage in STAGES:
        weights = folder / FILE_NAMES[stage]
        own = _checked_settings(path, stage, settings.get(stage, {}))
        if not weights.exists() and stage not in WITHOUT_WEIGHTS and stage not in settings:
            continue
        lines += ["", f"[{stage}]"]
        if weights.exists():
            lines += [f"uri = {_toml(weights.name)}", f'sha256 = "{_file_sha256(weights)}"']
        if own:
            lines += ["", f"[{stage}.settings]", *(f"{key} = {_toml(own[key])}" for key in sorted(own))]
    with local_file(path) as file:
        file.write(("\n".join(lines) + "\n").encode("utf-8"))
    return read_model_set(path)


def read_tensors(path: Path) -> dict[str, "torch.Tensor"]:
    """The tensors of a safetensors file or of a checkpoint, by name, on the CPU.

    A checkpoint may keep them under `state_dict` (Lightning) or `model`. Nothing in it is executed.
    Raises WeightsError where the file is damaged or holds anything but tensors.
    """
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_checkpoint(path)


def _locate(source: Path | str | None) -> Path:
    name = str(source) if source is not None else DEFAULT
    try:
        bundled = BUNDLED / name / FILE_NAME
        if re.fullmatch(r"[A-Za-z0-9_-]+", name) and bundled.is_file():
            return bundled
        path = Path(name).expanduser()
        path = path / FILE_NAME if path.is_dir() else path
        is_there = path.is_file()
    except (OSError, RuntimeError):  # a name too long, or the home of nobody
        is_there = False
    if not is_there:
        known = ", ".join(sorted(found.parent.name for found in BUNDLED.glob(f"*/{FILE_NAME}"))) or "none"
        raise WeightsError(f"there is no model set {name}", f"give a {FILE_NAME}, or one of the bundled: {known}")
    return path.absolute()


def _model_file(path: Path, stage: str, table: object) -> ModelFile:
    if not isinstance(table, dict):
        raise SettingsError(f"{path}: {stage} is not a table", f"write it as [{stage}]")
    _refuse_unknown(path, stage, table, ("uri", "sha256", "settings"))
    uri, digest = table.get("uri"), table.get("sha256")
    if (uri is None) != (digest is None):
        raise SettingsError(f"{path}: [{stage}] has a uri or a sha256 alone", "weights are pinned: give both")
    if uri is None:
        weights = None
    elif not isinstance(uri, str) or not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise SettingsError(f"{path}: [{stage}] has a uri or sha256 that is none", "sha256 is 64 hex digits")
    else:
        weights = _weights_path(path, stage, uri)
    return ModelFile(stage, weights, digest, _checked_settings(path, stage, table.get("settings", {})))


def _weights_path(path: Path, stage: str, uri: str) -> Path:
    scheme, separator, _ = uri.partition("://")
    if not separator or scheme == "file":
        try:
            found = Path(unquote(urlsplit(uri).path)) if separator else path.parent / Path(uri).expanduser()
            found.exists()  # raises where no system could hold such a name
        except (ValueError, OSError, RuntimeError) as error:
            raise SettingsError(
                f"{path}: the uri of [{stage}] names no file: {error}", "give a path relative to models.toml"
            ) from None
        return found
    raise WeightsError(
        f"{path}: the weights of [{stage}] are at {scheme}://, not on this machine",
        "download them and give their path",
    )


def _checked_settings(path: Path, stage: str, settings: object) -> dict[str, Setting]:
    if not isinstance(settings, Mapping):
        raise SettingsError(f"{path}: the settings of {stage} are no table", f"write them under [{stage}.settings]")
    for name, value in settings.items():
        try:
            types = {type(item) for item in value} if isinstance(value, list) else set()
            if len(types) > 1 or list in types:
                raise TypeError("not a list of one type")
            canonical_json({name: _for_key(value)})
        except (TypeError, ValueError):
            raise SettingsError(
                f"{path}: the setting {stage}.{name} is neither number, text, boolean nor a list of one of these",
                "write it as one of these",
            ) from None
    return dict(settings)


def _for_key(value: object) -> object:
    if isinstance(value, float):
        return quantised(value, SETTING_DECIMALS)
    if isinstance(value, list):
        return [_for_key(item) for item in value]
    if not isinstance(value, (str, int)):
        raise TypeError("not a setting")
    return value


def _refuse_unknown(path: Path, table: str, content: Mapping[str, object], known: tuple[str, ...]) -> None:
    unknown = sorted({*content} - {*known})
    if unknown:
        where = f"[{table}] has" if table else "there are"
        raise SettingsError(
            f"{path}: {where} unknown keys: {', '.join(unknown[:5])}", f"the known ones are {', '.join(known)}"
        )


def _check_digest(file: ModelFile) -> None:
    """Raises WeightsError unless the weights are there and hold what is pinned; a file is hashed once per process."""
    assert file.path is not None
    again = "restore the file (git, or the download), or run `avatarlab models verify`"
    try:
        status = file.path.stat()
        found = _digest_of(file.path, status.st_size, status.st_mtime_ns, status.st_ino)
    except (OSError, ValueError) as error:  # a name may hold a zero byte
        reason = error.strerror if isinstance(error, OSError) else error
        raise WeightsError(f"the weights of {file.stage}, {file.path}: {reason}", again) from None
    if found != file.sha256:
        raise WeightsError(
            f"the weights of {file.stage}, {file.path}, are damaged: sha256 {found[:12]}..., "
            f"pinned {str(file.sha256)[:12]}...",
            again,
        )


@cache
def _digest_of(path: Path, size: int, mtime_ns: int, inode: int) -> str:  # noqa: ARG001 - a changed file is hashed again
    return _file_sha256(path)


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _read_safetensors(path: Path) -> dict[str, "torch.Tensor"]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise WeightsError(f"{path} is not a safetensors file: {error}", "restore or convert it") from None


def _read_checkpoint(path: Path) -> dict[str, "torch.Tensor"]:
    import warnings
    import zipfile

    import torch

    try:
        mapped = zipfile.is_zipfile(path)  # then what is not asked for, as an optimiser's state, is never read
        with torch.sparse.check_sparse_tensor_invariants(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of pickles by others than torch: what matters is raised
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a damaged file makes the readers of pickles and archives stumble in any way
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"{path} is not a checkpoint of tensors alone: {reason}", "convert it to safetensors"
        ) from None
    for holder in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(holder), dict):
            loaded = loaded[holder]
    if not isinstance(loaded, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in loaded.items()
    ):
        raise WeightsError(f"{path} holds more than tensors by name", "convert its state dict to safetensors")
    for name, tensor in loaded.items():
        if tensor.layout != torch.strided or tensor.is_quantized or _claims_more(tensor):
            raise WeightsError(f"{path}: {name[:80]} is not a plain tensor", "use an undamaged file")
    return loaded


def _claims_more(tensor: "torch.Tensor") -> bool:
    """Whether it has more elements than the file holds for it: strides of zero can claim any size."""
    return tensor.is_meta or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()


def _toml(value: Setting) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(_toml(item) for item in value)}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
