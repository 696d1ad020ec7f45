"""Exports of nested rows (Parquet or JSON-lines) and the shape that matters in, rows with text leaves out.

What a file lacks, or holds in another shape, is null: exports of one kind differ in what they carry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa
from ibis.backends.duckdb import Backend

from endcap.contracts import columns as c
from endcap.ingest import reader
from endcap.ingest.door import FileKind, column_names, file_kind

Shape = Mapping[str, Any]
"""Names of fields: None is a text, a mapping a struct, a list of one shape a list."""

EVENT_ROW = "event_row"
"""Place of the event in its batch, before its products became rows."""


def read_shaped(connection: Backend, paths: Sequence[Path], shape: Shape) -> ir.Table:
    """The fields of `shape` of each row, with `row_number` over all files and `malformed_line`.

    Raises InputError naming a file that can't be read.
    """
    parts = []
    for path in paths:
        column_names(path)
        if file_kind(path) is FileKind.PARQUET:
            parts.append(_parquet_part(connection, path, shape))
        else:
            parts.append(_json_part(connection, path, shape))
    return reader.united(parts)


def unnested(events: ir.Table, items: str, names: Sequence[str]) -> ir.Table:
    """One row for each of an event's `items` with its fields as columns, one for an event without; `row_number` anew."""
    num_rows = ibis.greatest(events[items].length().fill_null(0), 1)
    rows = events.mutate(position=ibis.range(0, num_rows).unnest())
    item = rows[items][rows["position"]]
    rows = rows.mutate(**{name: item[name] for name in names}).drop(items)
    order = ibis.window(order_by=[rows[EVENT_ROW], rows["position"]])
    return rows.mutate(**{c.ROW_NUMBER: ibis.row_number().over(order).cast("int64")})


def _parquet_part(connection: Backend, path: Path, shape: Shape) -> tuple[ir.Table, int]:
    rows, num_rows = reader.scan_parquet(connection, path)
    cells = {name: _shaped_column(rows[name] if name in rows.columns else None, inner) for name, inner in shape.items()}
    return rows.select(**cells, **{name: rows[name] for name in (c.ROW_NUMBER, reader.MALFORMED_LINE)}), num_rows


def _json_part(connection: Backend, path: Path, shape: Shape) -> tuple[ir.Table, int]:
    fields = [pa.field(name, _arrow_type(inner)) for name, inner in shape.items()]
    schema = pa.schema([*fields, pa.field(c.ROW_NUMBER, pa.int64()), pa.field(reader.MALFORMED_LINE, pa.string())])
    batches = reader.json_batches(reader.json_rows(path), schema, lambda row: dict(_shaped_object(row, shape)))
    return reader.land(connection, path, schema, batches)


def _arrow_type(shape: Any) -> pa.DataType:
    if shape is None:
        return pa.string()
    if isinstance(shape, list):
        return pa.list_(_arrow_type(shape[0]))
    return pa.struct([pa.field(name, _arrow_type(inner)) for name, inner in shape.items()])


def _shaped_object(value: Any, shape: Any) -> Any:
    if shape is None:
        return reader.as_text(value)
    if isinstance(shape, list):
        return [_shaped_object(inner, shape[0]) for inner in value] if isinstance(value, list) else None
    if not isinstance(value, dict):
        return None
    return {name: _shaped_object(value.get(name), inner) for name, inner in shape.items()}


def _shaped_column(value: ir.Value | None, shape: Any) -> ir.Value:
    dtype = ibis.dtype(_arrow_type(shape))
    if value is None:
        return ibis.null(dtype)
    found = value.type()
    if shape is None:
        return ibis.null(dtype) if found.is_struct() or found.is_array() else value.cast("string")
    if isinstance(shape, list):
        if not found.is_array():
            return ibis.null(dtype)
        return value.map(lambda inner: _shaped_column(inner, shape[0]))
    if not found.is_struct():
        return ibis.null(dtype)
    fields = {
        name: _shaped_column(value[name] if name in found.names else None, inner) for name, inner in shape.items()
    }
    return value.isnull().ifelse(ibis.null(dtype), ibis.struct(fields))
