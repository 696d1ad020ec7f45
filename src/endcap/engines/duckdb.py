"""A workspace in, an Ibis connection to DuckDB out, held to its memory and to UTC, with temporary files that go away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from endcap.contracts import columns as c
from endcap.contracts.events import TABLES
from endcap.workspace.layout import Workspace
from endcap.workspace.scratch import claimed_folder
from endcap.workspace.tables import chosen_columns, table_files

DEFAULT_MEMORY_MB = 1024
DEFAULT_NUM_THREADS = 2


@contextmanager
def session(
    workspace: Workspace, *, memory_mb: int = DEFAULT_MEMORY_MB, num_threads: int = DEFAULT_NUM_THREADS
) -> Iterator[Backend]:
    """Yield an in-memory connection that spills below the workspace; it is closed and its files removed at the end."""
    with claimed_folder(workspace) as spill:
        connection = ibis.duckdb.connect(
            memory_limit=f"{memory_mb}MB",
            threads=num_threads,
            temp_directory=str(spill),
            # Nothing is fetched from the network behind the caller's back.
            autoinstall_known_extensions=False,
        )
        try:
            connection.raw_sql("SET TimeZone = 'UTC'")
            # Footers are read once per session and not once per query, of which a profile asks hundreds of the same
            # files.
            connection.raw_sql("SET parquet_metadata_cache = true")
            yield connection
        finally:
            connection.disconnect()


@contextmanager
def passing_memtables(connection: Backend) -> Iterator[None]:
    """Let go of the Arrow tables that the block hands to the engine; no expression on them may be used after it.

    The engine would keep them until the connection ends, which is too long for work in many pieces.
    """
    before = _memtables(connection)
    try:
        yield
    finally:
        for name in _memtables(connection) - before:
            connection.con.unregister(name)


def _memtables(connection: Backend) -> set[str]:
    found = connection.raw_sql("SELECT view_name FROM duckdb_views() WHERE temporary AND NOT internal")
    return {name for (name,) in found.fetchall() if name.startswith("ibis_pyarrow_memtable_")}


def scan_parquet(connection: Backend, path: Path) -> ir.Table:
    """The rows of a Parquet file with their place in it as `row_number`, from 0."""
    return connection.read_parquet(str(path), file_row_number=True).rename({c.ROW_NUMBER: "file_row_number"})


def scan_table(
    connection: Backend,
    workspace: Workspace,
    name: str,
    *,
    version: int | None = None,
    columns: Sequence[str] | None = None,
    partitions: Sequence[str] | None = None,
) -> ir.Table:
    """One version of a workspace table (default: the one in force) as a lazy expression, in no particular order.

    `partitions` (values as text) leaves out all others, without opening their files. Raises InputError when nothing was ingested or there is no such table, version or column.
    """
    wanted = chosen_columns(name, columns)
    contract = TABLES[name]
    files = table_files(workspace, name, version=version, partitions=partitions)
    if not files:
        rows = ibis.memtable(contract.schema.empty_table())
    else:
        # By name, since a migration adds columns without rewriting files; without a guess at types: a batch called
        # 007 is text.
        rows = connection.read_parquet(
            files,
            hive_partitioning=contract.partition_by is not None,
            hive_types_autocast=False,
            union_by_name=True,
        )
    types = ibis.Schema.from_pyarrow(contract.schema)
    return rows.select(
        **{
            column: rows[column].cast(types[column])
            if column in rows.columns
            else ibis.null(types[column].copy(nullable=True))
            for column in wanted
        }
    )
