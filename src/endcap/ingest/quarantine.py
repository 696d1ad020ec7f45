"""Rows that became no event in, table `quarantine` out: each with why, and with all that it says as JSON text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import ibis
import ibis.expr.types as ir
import pyarrow as pa
from ibis.backends.duckdb import Backend

from endcap.contracts import columns as c
from endcap.contracts.events import QUARANTINE, QUARANTINE_TABLE
from endcap.engines import duckdb
from endcap.ingest import quality
from endcap.workspace.appending import append_rows
from endcap.workspace.drafts import Draft

ROWS_PER_COMMIT: Final = 200_000
"""About so many rows are held in memory and written at once."""

_SCHEMA: Final = QUARANTINE_TABLE.schema


@dataclass(frozen=True)
class Rejected:
    """A batch's rows for the quarantine: `row_number` and `reason` of each, and the batch's raw rows.

    `file` may be written: a scratch file for rows that memory can't hold.
    """

    batch: str
    num_rows: int
    rows: ir.Table
    raw: ir.Table
    file: Path


def replace(connection: Backend, draft: Draft, rejected: Iterable[Rejected], removed: Sequence[str]) -> None:
    """Make these all rows of their batches, and leave none of the `removed` batches; several batches at once."""
    pieces, names, num_rows = [_SCHEMA.empty_table()], list(removed), 0
    for one in rejected:
        if one.num_rows > ROWS_PER_COMMIT:
            _replace_large(connection, draft, one)
            continue
        if num_rows and num_rows + one.num_rows > ROWS_PER_COMMIT:
            draft.replace(QUARANTINE, pa.concat_tables(pieces), names)
            pieces, names, num_rows = pieces[:1], [], 0
        names.append(one.batch)
        if one.num_rows:
            with duckdb.passing_memtables(connection):
                pieces.append(connection.to_pyarrow(_content(one)).cast(_SCHEMA))
            num_rows += one.num_rows
    if names:
        draft.replace(QUARANTINE, pa.concat_tables(pieces), names)


def _replace_large(connection: Backend, draft: Draft, one: Rejected) -> None:
    """The same for a batch whose rows are too many to hold: piece by piece, unless all pieces are there already."""
    connection.to_parquet(_content(one), one.file)
    found = connection.read_parquet(str(one.file))
    numbers = connection.to_pyarrow(found.select(c.ROW_NUMBER).order_by(c.ROW_NUMBER))[c.ROW_NUMBER]
    firsts = [numbers[place].as_py() for place in range(0, len(numbers), ROWS_PER_COMMIT)]
    spans = list(zip(firsts, [*firsts[1:], numbers[-1].as_py() + 1], strict=True))
    if draft.partition_rows(QUARANTINE).get(one.batch) == one.num_rows:
        held = duckdb.scan_table(
            connection, draft.workspace, QUARANTINE, version=draft.versions[QUARANTINE], partitions=[one.batch]
        )
        both = zip(_pieces(connection, held, spans), _pieces(connection, found, spans), strict=True)
        if all(before.equals(after) for before, after in both):
            return
    for place, piece in enumerate(_pieces(connection, found, spans)):
        if place == 0:
            draft.replace(QUARANTINE, piece, [one.batch])
        else:
            since = draft.versions[QUARANTINE]
            draft.versions[QUARANTINE] = append_rows(draft.workspace, QUARANTINE, piece, since=since)


def _pieces(connection: Backend, rows: ir.Table, spans: Iterable[tuple[int, int]]) -> Iterator[pa.Table]:
    """Rows by ranges of their numbers, in their order."""
    for first, stop in spans:
        inside = rows.filter(rows[c.ROW_NUMBER] >= first, rows[c.ROW_NUMBER] < stop).order_by(c.ROW_NUMBER)
        yield connection.to_pyarrow(inside.select(*_SCHEMA.names)).cast(_SCHEMA)


def _content(rejected: Rejected) -> ir.Table:
    """The rows in the shape of `quarantine`: of raw columns plain ones as text, nested ones as JSON."""
    joined = rejected.rows.inner_join(rejected.raw, c.ROW_NUMBER)
    texts = ibis.struct({name: _as_text(joined[name]) for name in rejected.raw.columns if name != c.ROW_NUMBER})
    return joined.select(
        **{
            c.BATCH: ibis.literal(rejected.batch),
            c.ROW_NUMBER: joined[c.ROW_NUMBER],
            c.REASON: joined[c.REASON],
            c.RAW: quality.json_of(texts),
        }
    )


def _as_text(column: ir.Value) -> ir.StringValue:
    text: ir.StringValue = quality.json_of(column) if column.type().is_nested() else column.cast("string")
    return text
