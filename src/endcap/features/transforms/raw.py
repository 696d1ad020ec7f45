"""A raw column of any type that the configuration names in, the form that the graphs take out: strings, int64 or float64.

Bytes are base64 text, as BigQuery exports them; booleans are 0 and 1; moments are microseconds since 1970 (UTC), a moment
without a zone taken as UTC and a date as its midnight. Missing is null, which in a tensor is the empty string, NaN or
`MISSING_INT64`.
"""

from __future__ import annotations

import base64

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from endcap.contracts.features import ColumnType
from endcap.features.transforms.graph import MISSING_INT64

_DAY_US = 86_400_000_000
_NUMBERS = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)


def fits(found: pa.DataType, kind: ColumnType) -> bool:
    """Whether a column of Arrow type `found` is one of the configuration's type `kind`; of a list its elements count."""
    if pa.types.is_dictionary(found):
        found = found.value_type
    if pa.types.is_null(found):
        return True  # nothing but nulls
    if kind == "STRING":
        return bool(pa.types.is_string(found) or pa.types.is_large_string(found) or pa.types.is_string_view(found))
    if kind == "BYTES":
        return bool(
            pa.types.is_binary(found) or pa.types.is_large_binary(found) or pa.types.is_fixed_size_binary(found)
        )
    if kind == "INT64":
        return bool(pa.types.is_integer(found)) and found != pa.uint64()
    if kind == "FLOAT64":
        return bool(pa.types.is_floating(found))
    if kind == "NUMERIC":
        return any(is_kind(found) for is_kind in _NUMBERS)
    if kind == "DATE":
        return bool(pa.types.is_date(found) or found == pa.int64())
    if kind == "BOOL":
        return bool(pa.types.is_boolean(found))
    return bool(pa.types.is_timestamp(found) or found == pa.int64())


def holds_lists(found: pa.DataType) -> bool:
    """Whether each row of the type is a list."""
    return bool(pa.types.is_list(found) or pa.types.is_large_list(found) or pa.types.is_fixed_size_list(found))


def canonical(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """The column as string, int64 or float64, or as lists of these."""
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if holds_lists(column.type):
        offsets, values = lists_of(column)
        return pa.ListArray.from_arrays(offsets, canonical(values))
    kind = column.type
    if pa.types.is_dictionary(kind):
        return canonical(column.cast(kind.value_type))
    if any(is_kind(kind) for is_kind in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)):
        texts = [None if value is None else base64.b64encode(value).decode() for value in column.to_pylist()]
        return pa.array(texts, pa.string())
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return column.cast(pa.string())
    if pa.types.is_date(kind):
        return pc.multiply(column.cast(pa.date32()).cast(pa.int32()).cast(pa.int64()), _DAY_US)
    if pa.types.is_timestamp(kind):
        column = column.cast(pa.timestamp("us", kind.tz), safe=False).cast(pa.int64())
    if pa.types.is_integer(column.type) or pa.types.is_boolean(kind):
        whole = column.cast(pa.int64())
        return pc.if_else(pc.equal(whole, MISSING_INT64), pa.scalar(None, pa.int64()), whole)
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return column.cast(pa.float64(), safe=False)
    return column


def lists_of(column: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Offsets from 0 and the values of all rows, one after the other; a null row is an empty list."""
    lengths = np.asarray(pc.list_value_length(column).fill_null(0))
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return pa.array(offsets.astype(np.int32)), column.flatten()
