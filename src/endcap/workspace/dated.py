"""Rows of one table and date in, `<table>/event_date=<date>/part.parquet` with a manifest out, and back as a list of files.

Any tool reads such a folder as one table. A date is replaced by one rename; its manifest comes last, so a date without
one, or whose file is another than it says, is not taken for done.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from functools import lru_cache
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from endcap.contracts import columns as c
from endcap.contracts.errors import ArtifactError
from endcap.workspace.atomic import write_json

DATE_MANIFEST = "_manifest.json"  # tools that read a folder of Parquet pass over such names
_FILE = "part.parquet"
_CHUNK_BYTES = 1 << 20


class DateManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one date of one table holds. `key` is the digest of the ledger's key under which it was made."""

    table: str
    date: str
    key: str
    run_id: str
    num_rows: int
    num_bytes: int
    sha256: str


def publish_date(
    folder: Path, table: str, date: str, write: Callable[[Path], int], *, key: str, run_id: str
) -> DateManifest:
    """Replace a date of a table below `folder` by what `write` puts into the file it is given; it returns the rows."""
    place = _place(folder, table, date)
    place.mkdir(parents=True, exist_ok=True)
    aside = place / f".{_FILE}.{os.getpid()}.tmp"
    try:
        num_rows = write(aside)
        num_bytes, sha256 = _digest(aside)
        _sync(aside)
        aside.replace(place / _FILE)
    finally:
        aside.unlink(missing_ok=True)
    manifest = DateManifest(table, date, key, run_id, num_rows, num_bytes, sha256)
    write_json(place / DATE_MANIFEST, manifest)
    return manifest


def find_date(folder: Path, table: str, date: str) -> DateManifest | None:
    """What a date of a table holds; None when it is not there, was left half-way or its file is not what it was.

    The file is read for its digest, once in a process for as long as its size and its time stay the same.
    """
    place = _place(folder, table, date)
    try:
        manifest = msgspec.json.decode((place / DATE_MANIFEST).read_bytes(), type=DateManifest)
        found = (place / _FILE).stat()
        if found.st_size != manifest.num_bytes:
            return None
        sha256 = _known_digest(place / _FILE, found.st_ino, found.st_size, found.st_mtime_ns)
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    return manifest if sha256 == manifest.sha256 else None


@lru_cache(maxsize=1 << 16)
def _known_digest(path: Path, inode: int, num_bytes: int, mtime_ns: int) -> str:
    del inode, num_bytes, mtime_ns  # what the digest is remembered under
    return _digest(path)[1]


def list_dates(folder: Path, tables: Iterable[str]) -> list[str]:
    """Dates of which any of the tables has anything on disk, whole or not, sorted."""
    prefix = f"{c.EVENT_DATE}="
    found = {path.name.removeprefix(prefix) for table in tables for path in (folder / table).glob(f"{prefix}*")}
    return sorted(found)


def remove_date(folder: Path, table: str, date: str) -> None:
    """Delete a date of a table, if it is there; its manifest goes first, so that what a crash leaves is not whole."""
    place = _place(folder, table, date)
    (place / DATE_MANIFEST).unlink(missing_ok=True)
    if place.exists():
        shutil.rmtree(place)


def date_files(folder: Path, table: str, dates: Sequence[str]) -> list[str]:
    """The Parquet files of some dates of a table. Raises ArtifactError when one isn't there or not whole."""
    if missing := [date for date in dates if find_date(folder, table, date) is None]:
        raise ArtifactError(
            f"{folder / table} lacks {len(missing)} of {len(dates)} dates ({missing[0]} to {missing[-1]}), or their files "
            f"are damaged. Make them with: endcap backfill --from {missing[0]} --to {missing[-1]}"
        )
    return [str(_place(folder, table, date) / _FILE) for date in dates]


def content_digest(table: pa.Table) -> str:
    """Hex digest of names, types and values in the order of the rows; how the values lie in memory doesn't matter."""
    sink = _Digesting()
    columns, names = [], []
    for name, column in zip(table.column_names, table.columns, strict=True):
        # What stands below a null is arbitrary, and so are spare bits: nulls become bytes of their own.
        columns += [column.is_null().cast(pa.uint8()), _without_nulls(column)]
        names += [f"{name} is null", name]
    plain = pa.table(columns, names=names).combine_chunks()
    sink.sha256.update(str(table.num_rows).encode())
    with pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), plain.schema) as writer:
        writer.write_table(plain)
    return sink.sha256.hexdigest()


class _Digesting:
    """A file that keeps the digest of what is written to it."""

    closed = False

    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing is open."""


def _without_nulls(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_boolean(kind):
        return column.fill_null(False).cast(pa.uint8())
    if pa.types.is_date32(kind):
        column = column.cast(pa.int32())
    elif pa.types.is_decimal(kind):
        return pc.fill_null(column, pa.scalar(Decimal(0), kind))
    return pc.fill_null(column, "" if pa.types.is_string(kind) else 0)


def _place(folder: Path, table: str, date: str) -> Path:
    return folder / table / f"{c.EVENT_DATE}={date}"


def _digest(path: Path) -> tuple[int, str]:
    digest, num_bytes = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            num_bytes += len(chunk)
    return num_bytes, digest.hexdigest()


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
