"""Where artifacts and outputs live: a folder here, an S3 bucket in `s3.py` (design section 3.4).

Both keep the same promises, held by one contract suite: a name either holds a complete object or nothing; `put_new`
creates or leaves alone; a store that cannot answer raises, it never says that an object is missing.
"""

import errno
import os
import re
import secrets
import shutil
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import BinaryIO, Protocol, TypeVar, runtime_checkable

from avatarlab.errors import NotFound, SettingsError, StoreError, StoreForbidden, StoreUnreachable

TEMPORARY_FOLDER = ".tmp"
TEMPORARY_KEPT_SECONDS = 24 * 3600
LOW_SPACE_BYTES = 1 << 30
LONGEST_SEGMENT_BYTES = 255
LONGEST_NAME_BYTES = 800
REQUESTS_AT_ONCE = 16
MOST_SINGLE_REQUESTS = 256  # above this, listing the 256 shards takes fewer requests than asking one by one
LONGEST_TURN = 64

# Every name of an artifact is of this kind, and a plan checks hundreds of thousands.
_PLAIN_NAME = re.compile(r"(?!.{256})[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
_GONE = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.ENODEV}
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}

K = TypeVar("K")
V = TypeVar("V")


@runtime_checkable
class Store(Protocol):
    """Objects under names. Names are relative, `/` between segments (`check_name`); sizes are bytes.

    Every method may raise StoreUnreachable (trying again helps), StoreForbidden or StoreError. Stores are safe to use
    from several threads and travel between processes by their `uri`.
    """

    @property
    def uri(self) -> str:
        """What `open_store` takes to open this store again. Holds no credentials."""

    def put_new(self, name: str, data: bytes) -> bool:
        """Create; False, and nothing changed, where the name exists."""

    def put(self, name: str, data: bytes) -> None:
        """Create or replace, atomically."""

    def put_file(self, name: str, path: Path) -> None:
        """Create or replace with the content of a local file, atomically."""

    def get(self, name: str) -> bytes:
        """The content. Raises NotFound."""

    def get_file(self, name: str, path: Path) -> None:
        """Write the content to a local path, which exists only when complete. Raises NotFound."""

    def stat(self, name: str) -> int | None:
        """The size, or None where the name does not exist."""

    def sizes(self, names: Collection[str]) -> dict[str, int | None]:
        """`stat` of many names at once, in fewer or cheaper requests than one by one."""

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """(name, size) of every object whose name starts with `prefix`, in the order of the names."""

    def copy(self, source: str, target: str) -> None:
        """Create or replace `target` with the content of `source`, inside the store. Raises NotFound."""

    def delete(self, name: str) -> None:
        """Remove; nothing happens where the name does not exist."""

    def public_uri(self, name: str) -> str:
        """What a person or a player opens: a path for a folder, `s3://bucket/...` for a bucket."""

    def check(self) -> tuple[str, ...]:
        """Write, create twice, list and remove a probe. Notes for the log; raises within 10 seconds."""


def open_store(uri: str) -> Store:
    """The store at a folder path (made where missing), a `file://` URI or `s3://bucket/prefix`.

    Raises SettingsError for any other scheme and for a URI that carries credentials.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return FolderStore.at(Path(uri))
    if scheme == "file":
        return FolderStore.at(Path(rest))
    if scheme != "s3":
        raise SettingsError(f"a store cannot be opened by {scheme}://", "give a folder or s3://bucket/prefix")
    from avatarlab.s3 import S3Store  # the S3 client takes a third of a second to import; a folder does not need it

    return S3Store.at(rest)


def check_store(store: Store) -> tuple[str, ...]:
    """Start-up probe: raises StoreUnreachable, StoreForbidden or StoreError in under 10 seconds, or returns notes."""
    return store.check()


def check_name(name: str) -> str:
    """The name itself where every store can hold it. Raises StoreError otherwise.

    >>> check_name("videos/algebra-1/current.json")
    'videos/algebra-1/current.json'
    """
    if _PLAIN_NAME.fullmatch(name):
        return name
    _check_text(name)
    if not name or name.startswith("/") or any(part in ("", ".", "..") for part in name.split("/")):
        raise StoreError(f"{_shown(name)} cannot be an object name", "use relative names without '.' and '..'")
    if name.split("/", 1)[0] == TEMPORARY_FOLDER:
        raise StoreError(f"{_shown(name)} is reserved for unfinished objects", "use another first segment")
    return name


def check_prefix(prefix: str) -> str:
    """The prefix itself where names can start with it. Raises StoreError otherwise."""
    _check_text(prefix)
    *folders, _ = prefix.split("/")
    if any(part in ("", ".", "..") for part in folders):
        raise StoreError(f"{_shown(prefix)} cannot be the start of an object name", "use relative names")
    return prefix


def os_fault(error: OSError, what: str) -> StoreError:
    """An error of the operating system, as ours."""
    if error.errno in _FULL:
        return StoreError(
            f"no space left while writing {what}", "free some space or give another --store; finished work is kept"
        )
    if error.errno in _REFUSED:
        return StoreForbidden(f"not allowed to touch {what}", "change its owner or mode, or give another --store")
    if error.errno in _GONE:
        return StoreUnreachable(f"the disk under {what} does not answer ({error.strerror})", "check the mount")
    return StoreError(f"{what}: {error.strerror or type(error).__name__}", "check the path given by --store")


@dataclass(frozen=True)
class FolderStore:
    """A folder with the promises of an object store: temporary name, fsync, hard link, fsync of the folder."""

    root: Path
    identity: tuple[int, int] = field(compare=False, repr=False)  # device and inode: which folder it was when opened

    @classmethod
    def at(cls, root: Path) -> "FolderStore":
        try:
            root = root.expanduser().absolute()
            if root.exists() and not root.is_dir():
                raise StoreError(f"{root} is a file, not a folder", "give --store a folder")
            for new in reversed([folder for folder in (root, *root.parents) if not folder.exists()]):
                _make_folder(new)
            return cls(root, _identity(root))
        except OSError as error:
            raise os_fault(error, str(root)) from None
        except (ValueError, RuntimeError) as error:  # a zero byte, half a surrogate, the home of nobody
            raise SettingsError(f"{root} cannot be a folder: {error}", "give --store another") from None

    def __reduce__(self) -> tuple[object, ...]:
        return (open_store, (self.uri,))

    @property
    def uri(self) -> str:
        return str(self.root)

    def put_new(self, name: str, data: bytes) -> bool:
        final = self._path(name)
        with self._faults(name):
            if final.exists():
                return False
            with self._written(final, data) as temporary:
                try:
                    final.hardlink_to(temporary)
                except FileExistsError:
                    return False
                except OSError as error:
                    if error.errno not in _NO_HARD_LINKS:
                        raise
                    # Content under a key is right whoever wrote it, so the narrow race only leaves the winner open.
                    if final.exists():
                        return False
                    temporary.replace(final)
            _sync_folder(final.parent)
        return True

    def put(self, name: str, data: bytes) -> None:
        self._replace(name, data)

    def put_file(self, name: str, path: Path) -> None:
        try:
            source = path.open("rb")
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror}", "check the file") from None
        with source:
            self._replace(name, source)

    def get(self, name: str) -> bytes:
        with self._faults(name), open(self._address(name), "rb", buffering=0) as file:  # noqa: PTH123 (twice as fast)
            return file.read()

    def get_file(self, name: str, path: Path) -> None:
        with self._faults(name):
            source = self._path(name).open("rb")
        with source:
            try:
                with local_file(path) as target:
                    shutil.copyfileobj(source, target, 1 << 20)
            except OSError as error:
                raise os_fault(error, str(path)) from None

    def stat(self, name: str) -> int | None:
        try:
            found = os.stat(self._address(name))  # noqa: PTH116 (three times as fast)
        except OSError as error:
            with suppress(NotFound), self._faults(name):
                raise error
            return None
        return found.st_size if S_ISREG(found.st_mode) else None

    def sizes(self, names: Collection[str]) -> dict[str, int | None]:
        return at_once(self.stat, {name: name for name in names})

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        check_prefix(prefix)
        self._require_root()
        folder = prefix.rpartition("/")[0]
        with self._faults(prefix):
            yield from self._walk(folder, prefix)

    def copy(self, source: str, target: str) -> None:
        # A real copy, not a link: whoever edits the public file in place must not damage the artifact it came from.
        with self._faults(source):
            opened = self._path(source).open("rb")
        with opened:
            self._replace(target, opened)

    def delete(self, name: str) -> None:
        final = self._path(name)
        with suppress(NotFound), self._faults(name):
            final.unlink()
            _sync_folder(final.parent)

    def public_uri(self, name: str) -> str:
        return str(self._path(name))

    def check(self) -> tuple[str, ...]:
        notes: list[str] = []
        linked = self.root / TEMPORARY_FOLDER / f"probe-{secrets.token_hex(8)}"
        with self._faults(TEMPORARY_FOLDER):
            with self._written(linked, b"probe") as temporary:
                now = temporary.stat().st_mtime  # by the clock of the disk, which may be another machine's
                try:
                    linked.hardlink_to(temporary)
                except OSError as error:
                    if error.errno not in _NO_HARD_LINKS:
                        raise
                    notes.append("this file system has no hard links: of two runs making one artifact, either may win")
                finally:
                    linked.unlink(missing_ok=True)
            self._sweep(now - TEMPORARY_KEPT_SECONDS)
            free = shutil.disk_usage(self.root).free
        if free < LOW_SPACE_BYTES:
            notes.append(f"only {free >> 20} MiB free under {self.root}")
        return tuple(notes)

    def _path(self, name: str) -> Path:
        return self.root / check_name(name)

    def _address(self, name: str) -> str:
        return f"{self.root}/{check_name(name)}"

    def _replace(self, name: str, data: bytes | BinaryIO) -> None:
        final = self._path(name)
        with self._faults(name):
            with self._written(final, data) as temporary:
                temporary.replace(final)
            _sync_folder(final.parent)

    @contextmanager
    def _written(self, final: Path, data: bytes | BinaryIO) -> Iterator[Path]:
        """A complete, synced temporary file on the same disk; removed afterwards unless it was moved away."""
        self._require_root()
        self._make_folders(final.parent)
        self._make_folders(self.root / TEMPORARY_FOLDER)
        temporary = self.root / TEMPORARY_FOLDER / secrets.token_hex(12)
        try:
            with temporary.open("xb") as file:
                if os.fstat(file.fileno()).st_mode & 0o600 != 0o600:  # an odd umask
                    os.fchmod(file.fileno(), 0o600)
                if isinstance(data, bytes):
                    file.write(data)
                else:
                    shutil.copyfileobj(data, file, 1 << 20)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    def _make_folders(self, folder: Path) -> None:
        missing = []
        while folder != self.root and not folder.is_dir():
            missing.append(folder)
            folder = folder.parent
        for new in reversed(missing):
            _make_folder(new)
            _sync_folder(new.parent)

    def _require_root(self) -> None:
        """An unmounted disk, whose empty mount point may still stand, must not be mistaken for an empty store."""
        try:
            if _identity(self.root) == self.identity:
                return
            what = "is another folder than at the start"
        except OSError:
            what = "is gone"
        raise StoreUnreachable(f"the store folder {self.root} {what}", "mount or create it and run again")

    def _walk(self, folder: str, prefix: str) -> Iterator[tuple[str, int]]:
        try:
            with os.scandir(self.root / folder) as found:
                entries = sorted(found, key=lambda entry: entry.name + "/" * entry.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            self._require_root()
            return
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir():
                if name != TEMPORARY_FOLDER and (name.startswith(prefix) or prefix.startswith(name + "/")):
                    yield from self._walk(name, prefix)
            elif name.startswith(prefix):
                try:
                    yield name, entry.stat().st_size
                except FileNotFoundError:  # deleted since the folder was read
                    continue

    def _sweep(self, oldest: float) -> None:
        for left in (self.root / TEMPORARY_FOLDER).iterdir():
            try:
                if left.stat().st_mtime < oldest:
                    left.unlink()
            except FileNotFoundError:  # swept by another run
                continue

    @contextmanager
    def _faults(self, name: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            self._require_root()
            raise NotFound(f"there is no {name} in {self.root}", "run `avatarlab render` to make it") from None
        except OSError as error:
            raise os_fault(error, f"{self.root}/{name}") from None


def at_once(ask: Callable[[str], V], names: Mapping[K, str]) -> dict[K, V]:
    """`ask` of every name, several requests at a time; the first error is raised."""
    if len(names) <= 1:
        return {key: ask(name) for key, name in names.items()}
    # A thread takes many names in a turn, for handing one over costs more than a look at a local file.
    turn = max(1, min(LONGEST_TURN, len(names) // (4 * REQUESTS_AT_ONCE)))
    values = list(names.values())
    turns = [values[start : start + turn] for start in range(0, len(values), turn)]
    with ThreadPoolExecutor(min(REQUESTS_AT_ONCE, len(turns)), thread_name_prefix="store") as pool:
        answers = [answer for part in pool.map(lambda part: [ask(name) for name in part], turns) for answer in part]
    return dict(zip(names, answers, strict=True))


@contextmanager
def local_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes its name only when complete."""
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with temporary.open("xb") as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    if (mode := folder.stat().st_mode) & 0o700 != 0o700:  # an odd umask
        folder.chmod(mode | 0o700)


def _identity(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    if not S_ISDIR(found.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    return found.st_dev, found.st_ino


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_text(text: str) -> None:
    hidden = any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text)
    if hidden or "\\" in text:
        raise StoreError(f"{_shown(text)} cannot be an object name", "use no control characters and no backslash")
    raw = text.encode("utf-8")
    if len(raw) > LONGEST_NAME_BYTES or any(len(part) > LONGEST_SEGMENT_BYTES for part in raw.split(b"/")):
        raise StoreError(f"{_shown(text)} is too long for an object name", "use at most 255 bytes between slashes")


def _shown(text: str) -> str:
    return re.sub(r"(.{60}).+", r"\1...", ascii(text))
