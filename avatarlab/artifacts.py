"""Artifacts in a store: blobs named by content, action records named by what made them (design section 3.4).

    blobs/sha256/<aa>/<hex>                write-once content
    actions/<stage>/<k2>/<key>.json        what made it: its outputs, inputs, seconds, device
    videos/<id>/<version>/...              public files, copied from blobs
    videos/<id>/current.json               the published version, replaced last
    quarantine/<name>.<nonce>              what was found damaged

Existence means complete: blobs are written first, then the record (create-if-absent), then public names. Two runs
racing one key both finish; the record of either is right and the loser adopts the winner's.
"""

import hashlib
import json
import logging
import re
import secrets
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from avatarlab.errors import DamagedArtifact, NotFound, StoreError
from avatarlab.keys import video_version
from avatarlab.store import MOST_SINGLE_REQUESTS, Store, at_once, local_file

STAGES = ("tokens", "audio", "motion", "face", "video")
PUBLIC_FILES = ("video.mp4", "captions.vtt", "captions.srt", "poster.jpg")
RECORD_SCHEMA = 1
ID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"

HISTORY_KEPT = 200
# What reading JSON that somebody else wrote may raise: brackets can be nested, and numbers large, beyond measure.
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Blob:
    """Reference to content: sha256 in hex, size in bytes, media type. Small, frozen, travels between tasks."""

    sha256: str
    size: int
    type: str

    @property
    def name(self) -> str:
        return f"blobs/sha256/{self.sha256[:2]}/{self.sha256}"


@dataclass(frozen=True)
class Action:
    """What made an artifact, and its outputs by name. Pickles; holds no content."""

    stage: str
    key: str
    outputs: Mapping[str, Blob]
    inputs: Mapping[str, object] = field(default_factory=dict)
    seconds: float = 0.0
    device: str = ""
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return action_name(self.stage, self.key)


@dataclass(frozen=True)
class SetAside:
    """A damaged or incomplete artifact that was moved out of the way, so that it will be made again."""

    name: str
    reason: str
    quarantine: str  # where it lies now; empty where there was nothing left to move


@dataclass(frozen=True)
class Published:
    """A version of a video under its public name."""

    id: str
    version: str
    video_uri: str
    is_current: bool
    files_written: int  # 0 where everything was in place


class Artifacts:
    """The artifacts of one store, with an optional local folder of verified blobs in front of a remote one.

    `set_aside` collects what was found damaged; each is also logged as a warning. Pickles by the store's URI.
    """

    def __init__(self, store: Store, local_cache: Path | None = None) -> None:
        self.store = store
        self.local_cache = local_cache
        self.set_aside: list[SetAside] = []

    def find(self, stage: str, keys: Iterable[str]) -> dict[str, Action]:
        """The complete actions among `keys`; a key that is absent was never made, or was damaged and is in `set_aside`.

        Every blob is checked for existence and size. Many keys are resolved by listing shards, so the number of
        requests grows with the hits, not with the questions. Raises StoreUnreachable, never a silent miss.
        """
        names = {key: action_name(stage, key) for key in keys}
        if len(names) > MOST_SINGLE_REQUESTS:
            present = self.store.sizes(names.values())
            names = {key: name for key, name in names.items() if present[name] is not None}
        actions: dict[str, Action] = {}
        judged: dict[str, str] = {}  # digests: the records of a large plan would fill the memory
        for key, found in at_once(lambda name: self._record_of(stage, name), names).items():
            if found is None:
                continue
            judged[key], action = found
            if action is None:
                self._remove_record(names[key], judged[key], "its record cannot be read")
            else:
                actions[key] = action
        blobs = {blob.name: blob for action in actions.values() for blob in action.outputs.values()}
        reasons = self._blob_faults(blobs)
        lost = {key: _lost(action, reasons) for key, action in actions.items()} if reasons else {}
        for key, reason in lost.items():
            if reason:
                self._remove_record(actions.pop(key).name, judged[key], reason)
        return actions

    def commit(
        self,
        stage: str,
        key: str,
        outputs: Mapping[str, tuple[bytes | Path, str]],
        inputs: Mapping[str, object] | None = None,
        seconds: float = 0.0,
        device: str = "",
        notes: Iterable[str] = (),
    ) -> Action:
        """Store outputs (name -> content or local file, media type) and then the record that makes them exist.

        Returns the action that is now in the store: ours, or the complete one of another run that was first.
        `inputs` is JSON for the audit, it names nothing.
        """
        blobs = {name: self._put_blob(content, type) for name, (content, type) in outputs.items()}
        action = Action(stage, key, blobs, dict(inputs or {}), float(seconds), device, tuple(notes))
        record = _record(action)
        for _ in range(3):
            if self.store.put_new(action.name, record):
                return action
            winner = self.find(stage, [key])  # sets a damaged record aside, so that the next round writes ours
            if winner:
                return winner[key]
        raise StoreError(
            f"the record {action.name} appears and vanishes", "stop other programs that delete in this store"
        )

    def read(self, blob: Blob) -> bytes:
        """The content, its sha256 verified. Raises DamagedArtifact after setting a damaged blob aside."""
        if self.local_cache is not None:
            with suppress(OSError):
                data = self._cached(blob, self.local_cache).read_bytes()
                if _digest(data) == blob.sha256:
                    return data
        data_or_none = self._get(blob.name)
        if data_or_none is None:
            raise self._damaged(blob, "it is missing")
        if _digest(data_or_none) != blob.sha256:
            raise self._damaged(blob, _difference(len(data_or_none), blob))
        if self.local_cache is not None:
            with suppress(OSError):  # a full local disk costs only time
                cached = self._cached(blob, self.local_cache)
                cached.parent.mkdir(parents=True, exist_ok=True)
                with local_file(cached) as file:
                    file.write(data_or_none)
        return data_or_none

    def fetch(self, blob: Blob, path: Path) -> None:
        """Write the content, its sha256 verified, to a local path. Raises DamagedArtifact as `read` does."""
        if self.local_cache is not None:
            cached = self._cached(blob, self.local_cache)
            if not _holds(cached, blob):
                with suppress(OSError):
                    cached.parent.mkdir(parents=True, exist_ok=True)
                    self._download(blob, cached)
            with suppress(OSError), cached.open("rb") as source, local_file(path) as target:
                shutil.copyfileobj(source, target, 1 << 20)
                return
        self._download(blob, path)

    def publish_video(self, id: str, action: Action, metadata: Mapping[str, object]) -> Published:
        """Copy a video action's outputs named in PUBLIC_FILES to videos/<id>/<version>/, then metadata.json, then
        current.json, last. Does again only what is missing.

        A version that was current once is not made current again: a rollback survives the next run. Metadata that
        differs is rewritten, so it should hold nothing that changes from run to run.
        """
        if "video.mp4" not in action.outputs:
            raise ValueError("a video action needs an output named video.mp4")
        version = video_version(action.key)
        folder = f"{_video_folder(id)}/{_checked_version(version)}"
        present = dict(self.store.list(f"{folder}/"))
        written = 0
        for file in PUBLIC_FILES:
            blob, target = action.outputs.get(file), f"{folder}/{file}"
            if blob is not None and present.get(target) != blob.size:
                self._publish(blob, target)
                written += 1
        text = _json(metadata)
        if f"{folder}/metadata.json" not in present or self._get(f"{folder}/metadata.json") != text:
            self.store.put(f"{folder}/metadata.json", text)
            written += 1
        history = self.history(id)
        if version not in history:
            self._set_current(id, version, history)
            written += 1
        current = history[-1] == version if version in history else True
        return Published(id, version, self.store.public_uri(f"{folder}/video.mp4"), current, written)

    def current_version(self, id: str) -> str | None:
        """The published version of a video, or None."""
        history = self.history(id)
        return history[-1] if history else None

    def history(self, id: str) -> tuple[str, ...]:
        """The versions that were current, oldest first; the last one is current now."""
        name = f"{_video_folder(id)}/current.json"
        data = self._get(name)
        if data is None:
            return ()
        try:
            versions = json.loads(data)["history"]
            return tuple(_checked_version(version) for version in versions)
        except (*_UNREADABLE, StoreError):
            self._remove(name, "it cannot be read")
            return ()

    def promote(self, id: str, version: str) -> None:
        """Make a complete version current: one small object is replaced, atomically. Raises NotFound."""
        folder = f"{_video_folder(id)}/{_checked_version(version)}"
        if self.store.stat(f"{folder}/metadata.json") is None:
            raise NotFound(f"there is no version {version} of video {id}", "look under videos/ in the store")
        history = self.history(id)
        if not history or history[-1] != version:
            self._set_current(id, version, history)

    def quarantined(self) -> list[str]:
        """The names of everything that was set aside in this store, by any run."""
        return [name for name, _ in self.store.list("quarantine/")]

    def _set_current(self, id: str, version: str, history: tuple[str, ...]) -> None:
        record = {"id": id, "version": version, "history": [*history, version][-HISTORY_KEPT:]}
        self.store.put(f"{_video_folder(id)}/current.json", _json(record))

    def _publish(self, blob: Blob, target: str) -> None:
        try:
            self.store.copy(blob.name, target)
        except NotFound:
            raise self._damaged(blob, "it is missing") from None

    def _put_blob(self, content: bytes | Path, type: str) -> Blob:
        if isinstance(content, bytes):
            blob = Blob(_digest(content), len(content), type)
        else:
            blob = Blob(_file_digest(content), content.stat().st_size, type)
        if self.store.stat(blob.name) != blob.size:
            if isinstance(content, bytes):
                self.store.put(blob.name, content)
            else:
                self.store.put_file(blob.name, content)
        return blob

    def _blob_faults(self, blobs: Mapping[str, Blob]) -> dict[str, str]:
        """Blob name -> what is wrong with it. A blob of the wrong size is moved to the quarantine."""
        reasons: dict[str, str] = {}
        for name, size in self.store.sizes(blobs).items():
            if size is None:
                reasons[name] = "it is missing"
            elif size != blobs[name].size:
                reasons[name] = _difference(size, blobs[name])
                self._remove(name, reasons[name])
        return reasons

    def _get(self, name: str) -> bytes | None:
        try:
            return self.store.get(name)
        except NotFound:
            return None

    def _record_of(self, stage: str, name: str) -> tuple[str, Action | None] | None:
        """The digest of a record and what it says, None of which where it cannot be read; None where there is none."""
        data = self._get(name)
        if data is None:
            return None
        try:
            return _digest(data), _action(stage, name.rpartition("/")[2].removesuffix(".json"), data)
        except _UNREADABLE:
            return _digest(data), None

    def _remove_record(self, name: str, judged: str, reason: str) -> None:
        """Set a record aside unless another run has already replaced the one with this digest."""
        data = self._get(name)
        if data is not None and _digest(data) == judged:
            self._remove(name, reason)

    def _remove(self, name: str, reason: str) -> None:
        """Move an object to the quarantine and say so."""
        quarantine = f"quarantine/{name}.{secrets.token_hex(4)}"
        try:
            self.store.copy(name, quarantine)
        except NotFound:  # another run was first
            quarantine = ""
        self.store.delete(name)
        self._report(SetAside(name, reason, quarantine))

    def _report(self, found: SetAside) -> None:
        self.set_aside.append(found)
        logger.warning("%s was set aside and will be made again: %s", found.name, found.reason)

    def _damaged(self, blob: Blob, reason: str) -> DamagedArtifact:
        if reason == "it is missing":
            self._report(SetAside(blob.name, reason, ""))
        else:
            self._remove(blob.name, reason)
        return DamagedArtifact(f"{blob.name} is damaged: {reason}", "run the same command again; it will be made anew")

    def _download(self, blob: Blob, path: Path) -> None:
        unverified = path.with_name(f".{secrets.token_hex(8)}.fetch")
        try:
            try:
                self.store.get_file(blob.name, unverified)
            except NotFound:
                raise self._damaged(blob, "it is missing") from None
            if not _holds(unverified, blob):
                raise self._damaged(blob, _difference(unverified.stat().st_size, blob))
            unverified.replace(path)
        finally:
            unverified.unlink(missing_ok=True)

    def _cached(self, blob: Blob, folder: Path) -> Path:
        return folder / blob.sha256[:2] / blob.sha256


def action_name(stage: str, key: str) -> str:
    """The store name of an action record. Raises ValueError for an unknown stage or a key that is no sha256."""
    if stage not in STAGES:
        raise ValueError(f"{stage!r} is not a stage; the stages are {', '.join(STAGES)}")
    if not re.fullmatch(r"[0-9a-f]{64}", key):
        raise ValueError(f"{key!r} is not a content key")
    return f"actions/{stage}/{key[:2]}/{key}.json"


def _record(action: Action) -> bytes:
    outputs = {
        name: {"sha256": blob.sha256, "size": blob.size, "type": blob.type} for name, blob in action.outputs.items()
    }
    return _json(
        {
            "schema": RECORD_SCHEMA,
            "stage": action.stage,
            "key": action.key,
            "outputs": outputs,
            "inputs": dict(action.inputs),
            "seconds": round(action.seconds, 6),
            "device": action.device,
            "notes": list(action.notes),
        }
    )


def _action(stage: str, key: str, data: bytes) -> Action:
    """Inverse of `_record`. Raises one of `_UNREADABLE` for anything else."""
    record = json.loads(data)
    if (record["schema"], record["stage"], record["key"]) != (RECORD_SCHEMA, stage, key):
        raise ValueError("another action's record")
    outputs = {}
    for name, found in record["outputs"].items():
        if not re.fullmatch(r"[0-9a-f]{64}", found["sha256"]) or type(found["size"]) is not int:
            raise ValueError("not a blob")
        outputs[name] = Blob(found["sha256"], found["size"], str(found["type"]))
    return Action(
        stage,
        key,
        outputs,
        dict(record["inputs"]),
        float(record["seconds"]),
        str(record["device"]),
        tuple(map(str, record["notes"])),
    )


def _json(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, indent=1, allow_nan=False).encode("utf-8") + b"\n"


def _video_folder(id: str) -> str:
    """Ids come from manifests: only what cannot leave its folder becomes a name. Raises StoreError."""
    if not re.fullmatch(ID_PATTERN, id) or ".." in id:
        raise StoreError(f"{ascii(id)[:80]} cannot name a video", "use letters, digits, '.', '_' and '-', at most 128")
    return f"videos/{id}"


def _checked_version(version: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{16}", version):
        raise StoreError(f"{ascii(version)[:80]} is not a video version", "a version is 16 hex digits")
    return version


def _lost(action: Action, reasons: Mapping[str, str]) -> str:
    """Why an action is not complete, by what is wrong with blobs; empty where it is."""
    for name, blob in action.outputs.items():
        if blob.name in reasons:
            return f"its output {name} cannot be used: {reasons[blob.name]}"
    return ""


def _difference(size: int, blob: Blob) -> str:
    if size != blob.size:
        return f"it holds {size} bytes and should hold {blob.size}"
    return "its content differs from its sha256"


def _holds(path: Path, blob: Blob) -> bool:
    try:
        return path.stat().st_size == blob.size and _file_digest(path) == blob.sha256
    except OSError:
        return False


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
