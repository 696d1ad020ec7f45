"""An Arrow table and a format in, a file out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from endcap.ingest.synthetic.plan import Format

_ROW_GROUP = 131_072
_MAX_WAITING: Final = 3


class Writer:
    """Writes one file after another while the next ones are made up; few wait at once, so that memory stays small."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        """Nothing waits yet; the pool has one thread."""
        self._pool = pool
        self._waiting: deque[Future[None]] = deque()

    def put(self, write: Callable[..., None], *arguments: Any) -> None:
        """Write later, in turn; an error of an earlier file is raised here."""
        while len(self._waiting) >= _MAX_WAITING:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(write, *arguments))

    def finish(self) -> None:
        """Wait for all that was put here."""
        while self._waiting:
            self._waiting.popleft().result()


@contextmanager
def writing() -> Iterator[Writer]:
    """Yield a writer whose files are all written at the end of the block."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        writer = Writer(pool)
        yield writer
        writer.finish()


def write_parquet(table: pa.Table, path: Path) -> None:
    """Write Parquet that shows coded columns as plain text to every reader."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        table, path, compression="snappy", row_group_size=_ROW_GROUP, store_schema=False,
        use_dictionary=[name for name in table.column_names if name not in _DISTINCT], write_statistics=True,
    )  # fmt: skip


_DISTINCT = ("event_id", "ts_us", "basket_id", "user_id", "guest_id", "request_id", "scores", "propensities")
"""Columns whose values hardly repeat: a dictionary would only cost time."""


def write_rows(table: pa.Table, path: Path, file_format: Format) -> None:
    """Write rows in one of the formats; the file's suffix is given."""
    if file_format == "parquet":
        write_parquet(table, path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = pa.table({name: _plain(table[name]) for name in table.column_names})
    if file_format == "csv":
        pa_csv.write_csv(plain, path)
        return
    with duckdb.connect() as connection:
        connection.register("plain", plain)
        connection.execute("COPY (SELECT * FROM plain) TO $path (FORMAT json)", {"path": str(path)})


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
