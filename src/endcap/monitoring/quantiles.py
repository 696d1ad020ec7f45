"""A column on any engine in, its exact quantiles and a histogram out, in memory that doesn't grow with the rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import ibis
import ibis.expr.types as ir
import msgspec
from ibis.backends.duckdb import Backend

NUM_BARS: Final = 30
_NUM_BUCKETS: Final = 4096
_NUM_FETCHED: Final = 65_536


class Bar(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rows with `low <= value < high`; the last bar holds its upper bound too."""

    low: float
    high: float
    count: int


def finite_values(column: ir.NumericColumn) -> ir.Table:
    """The column's values as `x`, without nulls, NaN and infinities."""
    rows = column.name("x").as_table()
    keep = rows.x.notnull()
    if column.type().is_floating():
        keep &= ~(rows.x.isnan() | rows.x.isinf())
    return rows.filter(keep)


def exact_quantiles(connection: Backend, rows: ir.Table, permilles: Sequence[int]) -> list[Any]:
    """Quantiles of `x` by nearest rank: the smallest value that at least p/1000 of all values don't exceed.

    Every answer is a value of the column, in its own type; permille 0 is the smallest. Empty for no rows. Instead of
    sorting, buckets are counted and those that hold a wanted rank are looked at again.
    """
    whole = connection.to_pyarrow(rows.aggregate(n=rows.count(), low=rows.x.min(), high=rows.x.max())).to_pylist()[0]
    if not whole["n"]:
        return []
    ranks = [max(1, -(-whole["n"] * permille // 1000)) for permille in permilles]
    found: dict[int, Any] = {}
    _narrow(connection, rows, whole, sorted(set(ranks)), 0, found)
    return [found[rank] for rank in ranks]


def _narrow(
    connection: Backend, rows: ir.Table, span: dict[str, Any], ranks: list[int], below: int, found: dict[int, Any]
) -> None:
    """Find the values at `ranks`, all of which lie within `span`, before which there are `below` rows."""
    low, high = span["low"], span["high"]
    if low == high:
        found.update(dict.fromkeys(ranks, low))
        return
    dtype = rows.x.type()
    within = rows.filter((rows.x >= ibis.literal(low, dtype)) & (rows.x <= ibis.literal(high, dtype)))
    width = (float(high) - float(low)) / _NUM_BUCKETS
    is_last = span["n"] <= _NUM_FETCHED or not 0 < width < math.inf
    # Rounding keeps the order of values, so that buckets follow each other even where floats are coarse.
    bucket = within.x if is_last else ((within.x.cast("float64") - float(low)) / width).floor().cast("int64")
    grouped = within.group_by(bucket=bucket).aggregate(n=within.count(), low=within.x.min(), high=within.x.max())
    for part in connection.to_pyarrow(grouped.order_by("bucket")).to_pylist():
        inside = [rank for rank in ranks if below < rank <= below + part["n"]]
        if inside:
            _narrow(connection, rows, part, inside, below, found)
        below += part["n"]


def histogram(connection: Backend, rows: ir.Table, low: float, high: float, *, whole_numbers: bool) -> list[Bar]:
    """Counts of `x` in equal bars from `low` to `high`; the outer bars hold whatever lies beyond them.

    Whole numbers of a narrow range get a bar each.
    """
    if whole_numbers and high - low < NUM_BARS:
        num_bars, width = int(high - low) + 1, 1.0
    else:
        num_bars = NUM_BARS if high > low else 1
        width = (high - low) / num_bars or 1.0
    place = ((rows.x.cast("float64") - low) / width).floor().clip(0, num_bars - 1).cast("int64")
    grouped = rows.group_by(place=place).aggregate(n=rows.count())
    counts = {row["place"]: row["n"] for row in connection.to_pyarrow(grouped).to_pylist()}
    return [Bar(low + i * width, low + (i + 1) * width, counts.get(i, 0)) for i in range(num_bars)]
