"""An Arrow table and a format in, a file out."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from endcap.ingest.synthetic.plan import Format

_ROW_GROUP = 131_072


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
