"""Parquet tables into a file or a store: whole, or portion by portion where they do not fit in memory."""

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from avatarlab.store import Store, local_file, os_fault

COMPRESSION = "zstd"


class Tables(Protocol):
    def write(self, table: pa.Table) -> None:
        """Appends rows. Every table has the columns of the first."""


def write_table(target: Path | Store, name: str, table: pa.Table) -> None:
    """To the file `target`, or under `name` in a store. Raises StoreError."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression=COMPRESSION)
    if not isinstance(target, Path):
        target.put(name, buffer.getvalue())
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with local_file(target) as file:
            file.write(buffer.getvalue())
    except OSError as error:
        raise os_fault(error, str(target)) from None


@contextmanager
def portions_to(path: Path) -> Iterator[Tables]:
    """A table in a file of this machine. Raises StoreError where its disk is full."""
    portions = _Portions(path)
    try:
        yield portions
    except OSError as error:
        raise os_fault(error, str(path)) from None
    finally:
        portions.close()


@contextmanager
def table_in_portions(store: Store, name: str) -> Iterator[Tables]:
    """A table that stands under `name` when the block has ended without an error. Nothing is stored where nothing is written.

    Raises StoreError, also where the temporary folder of this machine is full.
    """
    with tempfile.TemporaryDirectory(prefix="avatarlab-table-") as folder:
        path = Path(folder) / "table.parquet"
        with portions_to(path) as portions:
            yield portions
        if path.exists():
            store.put_file(name, path)


class _Portions:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: pq.ParquetWriter | None = None

    def write(self, table: pa.Table) -> None:
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, table.schema, compression=COMPRESSION)
        self._writer.write_table(table)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
