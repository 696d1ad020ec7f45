"""What `endcap lake read` and `endcap lake versions` do: show or copy a table as it was, and list what there was."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from endcap.cli.reporting import JsonLinesReporter, reporter_for
from endcap.contracts.errors import InputError
from endcap.contracts.events import MEASURED, TABLES
from endcap.monitoring.profile import HASHED, HIDDEN
from endcap.workspace import datasets, pins, tables, travel
from endcap.workspace.layout import Workspace

NUM_SHOWN = 20
HIDDEN_TEXT = "(hidden)"


def run_read(
    path: Path,
    log_format: str,
    name: str,
    *,
    at: str | int | None,
    version: int | None,
    out: Path | None,
    limit: int | None,
    raw_ids: bool,
) -> None:
    """Print the first rows of a table as it was, or write them to a file."""
    workspace = Workspace.open(path)
    if raw_ids and out is None:
        raise InputError("--raw-ids goes with --out: a terminal's text may be kept or shown elsewhere.")
    if at is not None and version is not None:
        raise InputError(
            "A table's --version goes without --at and --dataset-version, which name versions of all tables."
        )
    if version is None and at is None:
        in_force = tables.table_version if name in MEASURED else tables.version_in_force
        version = in_force(workspace, name) if name in TABLES else None
        if version is None:
            tables.read_table(workspace, name, columns=[])  # says what is wrong
    pieces = (
        travel.pieces_at(workspace, name, at)
        if at is not None
        else travel.pieces_of_version(workspace, name, version if version is not None else 0)
    )
    if not raw_ids:
        pieces = (_hashed(workspace, piece) for piece in pieces)
    if out is not None:
        num_rows = _write(out, TABLES[name].schema, _first(pieces, limit))
        reporter_for(log_format, Console()).event("rows written", table=name, rows=num_rows, file=str(out))
        return
    shown = pa.concat_tables([TABLES[name].schema.empty_table(), *_first(pieces, limit or NUM_SHOWN)])
    _print(log_format, name, shown)


def _first(pieces: Iterable[pa.Table], limit: int | None) -> Iterator[pa.Table]:
    left = limit
    for piece in pieces:
        yield piece if left is None else piece.slice(0, left)
        if left is not None:
            left -= min(left, piece.num_rows)
            if not left:
                return


def _hashed(workspace: Workspace, rows: pa.Table) -> pa.Table:
    """The rows as people may see them: ids of people under the workspace's hash, without text that may hold anything."""
    for place, name in enumerate(rows.column_names):
        if name in HASHED:
            column = rows.column(name).combine_chunks().dictionary_encode()
            keys = [None if value is None else workspace.user_key(value) for value in column.dictionary.to_pylist()]
            hashed = pa.array(keys, pa.string()).take(column.indices)
        elif name in HIDDEN:
            hashed = pa.array([None if value is None else HIDDEN_TEXT for value in rows.column(name).to_pylist()])
        else:
            continue
        field = rows.schema.field(name)
        rows = rows.set_column(place, field, hashed.cast(field.type))
    return rows


def _write(out: Path, schema: pa.Schema, pieces: Iterable[pa.Table]) -> int:
    """The number of rows written; the file is replaced when all of them are there."""
    writers: dict[str, Callable[[str], pq.ParquetWriter | pa_csv.CSVWriter]] = {
        ".parquet": lambda file: pq.ParquetWriter(file, schema),
        ".csv": lambda file: pa_csv.CSVWriter(file, schema),
    }
    if out.suffix not in writers:
        raise InputError(f"{out} has the ending {out.suffix or '(none)'}; expected one of: {', '.join(writers)}.")
    if not out.absolute().parent.is_dir():
        raise InputError(f"There is no folder {out.parent} to write {out.name} to: make it first.")
    aside = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    num_rows = 0
    try:
        with writers[out.suffix](str(aside)) as writer:
            for piece in pieces:
                writer.write_table(piece)
                num_rows += piece.num_rows
        aside.replace(out)
    finally:
        aside.unlink(missing_ok=True)
    return num_rows


def _print(log_format: str, name: str, rows: pa.Table) -> None:
    console = Console()
    report = reporter_for(log_format, console)
    if isinstance(report, JsonLinesReporter):
        for row in rows.to_pylist():
            report.event("row", table=name, row=row)
        return
    shown = Table(box=None, padding=(0, 1))
    for column in rows.column_names:
        shown.add_column(column)
    for row in rows.to_pylist():
        shown.add_row(*("" if value is None else str(value) for value in row.values()))
    console.print(shown)
    console.print(
        f"{rows.num_rows} rows. More with --limit N, all of them into a file with --out FILE.", soft_wrap=True
    )


def show_versions(path: Path, log_format: str) -> None:
    """Print every dataset version, the newest first, with the tables that changed and the pins that hold it."""
    console = Console()
    workspace = Workspace.open(path)
    report = reporter_for(log_format, console)
    found = datasets.publications(workspace)
    held: dict[int, list[str]] = {}
    for name, pin in pins.pins(workspace).items():
        held.setdefault(pin.dataset_version, []).append(name)
    before: dict[int, dict[str, int]] = {later.dataset_version: earlier.versions for earlier, later in pairwise(found)}
    shown = Table(box=None, padding=(0, 1))
    for title in ("dataset version", "since (UTC)", "run", "changed", "pins"):
        shown.add_column(title, justify="right" if title == "dataset version" else "left")
    for one in reversed(found):
        earlier = before.get(one.dataset_version, {})
        changed = {name: version for name, version in one.versions.items() if earlier.get(name) != version}
        names = held.get(one.dataset_version, [])
        if isinstance(report, JsonLinesReporter):
            report.event("dataset", dataset_version=one.dataset_version, published_at=one.published_at,
                         of_run=one.run_id, versions=one.versions, changed=sorted(changed), pins=names)  # fmt: skip
        shown.add_row(
            f"{one.dataset_version}",
            one.published_at[:19],
            one.run_id,
            " ".join(f"{name}@{version}" for name, version in sorted(changed.items())) or "settings",
            " ".join(names),
        )
    if isinstance(report, JsonLinesReporter):
        return
    if not found:
        console.print("No dataset was numbered yet. Begin with: endcap ingest", soft_wrap=True)
        return
    console.print(shown)
