"""A list that need not fit in memory: appended once, read in order, as often as one likes."""

import pickle
import tempfile
import threading
import weakref
import zlib
from collections.abc import Iterator
from typing import Generic, TypeVar

from avatarlab.errors import AvatarLabError
from avatarlab.store import os_fault

IN_MEMORY_BYTES = 8 << 20

T = TypeVar("T")


class Spool(Generic[T]):
    """Items are pickled into a temporary file that has no name, so nothing is left behind however the process ends.

    Safe to read from several threads. Raises StoreError where the temporary folder is full.
    """

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES)  # noqa: SIM115
        self._places: list[tuple[int, int]] = []
        self._lock = threading.Lock()
        weakref.finalize(self, self._file.close)

    def append(self, item: T) -> None:
        data = zlib.compress(pickle.dumps(item, pickle.HIGHEST_PROTOCOL), 1)
        with self._lock:
            try:
                start = self._file.seek(0, 2)
                self._file.write(data)
            except OSError as error:
                raise _full(error) from None
            self._places.append((start, len(data)))

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[T]:
        for start, length in list(self._places):
            with self._lock:
                self._file.seek(start)
                data = self._file.read(length)
            yield pickle.loads(zlib.decompress(data))


def _full(error: OSError) -> AvatarLabError:
    fault = os_fault(error, f"the plan in {tempfile.gettempdir()}")
    return type(fault)(fault.message, "free some space there, or set TMPDIR to another folder")
