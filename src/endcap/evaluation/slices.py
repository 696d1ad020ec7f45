"""A column of anything about truth rows in, a label for each row out: the groups that figures are shown for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from endcap.contracts.errors import InputError

MISSING = "(missing)"
OTHER = "(other)"
NUM_GROUPS = 4
MAX_LABELS = 12

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class SliceColumn:
    """Groups of truth rows: `codes` says to which of `labels` each row belongs, -1 to none.

    A slice counts the rows of its group alone: a customer belongs to it with one such row or more, and only those
    products are wanted. So one rule serves what tells customers apart (a country), products (a category) and events (a
    device).
    """

    name: str
    labels: tuple[str, ...]
    codes: IntArray


def slice_by(name: str, column: pa.ChunkedArray) -> SliceColumn:
    """Groups of the column's own values; numbers with many values become quarters of the rows.

    The twelve commonest texts keep a group each, the rest share one. Raises InputError when the type can't be grouped.
    """
    flat = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    kind = flat.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _by_number(name, flat)
    if pa.types.is_temporal(kind):
        flat = flat.cast(pa.date32()) if not pa.types.is_time(kind) else flat
    if pa.types.is_nested(kind):
        raise InputError(
            f"The column {name} to slice by holds {kind}; expected text, numbers, dates or truth values. "
            "Name a column with one value per row."
        )
    values = flat.cast(pa.string()) if not pa.types.is_string(kind) else flat
    counts = pc.value_counts(values.drop_null())
    commonest = sorted(counts.to_pylist(), key=lambda count: (-count["counts"], count["values"]))
    shown = [count["values"] for count in commonest[:MAX_LABELS]]
    codes = np.asarray(pc.index_in(values, value_set=pa.array(shown, pa.string())).fill_null(-1)).astype(np.int64)
    labels = list(shown)
    rest = codes < 0
    is_null = np.asarray(values.is_null())
    if (rest & ~is_null).any():
        codes[rest & ~is_null] = len(labels)
        labels.append(f"{OTHER} {len(commonest) - MAX_LABELS:,} more values")
    return _with_missing(name, labels, codes, is_null)


def slice_by_count(name: str, counts: IntArray, edges: tuple[tuple[str, int, int | None], ...]) -> SliceColumn:
    """Groups by whole numbers: `(label, lowest, highest)` each, both ends included, no highest for none."""
    codes = np.full(len(counts), -1, dtype=np.int64)
    for number, (_, low, high) in enumerate(edges):
        codes[(counts >= low) & (counts <= (high if high is not None else np.iinfo(np.int64).max))] = number
    return SliceColumn(name, tuple(label for label, _, _ in edges), codes)


def _by_number(name: str, values: pa.Array) -> SliceColumn:
    is_null = np.asarray(values.is_null())
    numbers = np.asarray(values.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
    is_null = is_null | np.isnan(numbers)
    held = numbers[~is_null]
    ordered = np.sort(held)
    distinct = ordered[np.concatenate(([True], ordered[1:] != ordered[:-1]))[: len(ordered)]]
    if len(distinct) <= MAX_LABELS:
        codes = np.full(len(numbers), -1, dtype=np.int64)
        codes[~is_null] = np.searchsorted(distinct, held)
        return _with_missing(name, [f"{value:.10g}" for value in distinct], codes, is_null)
    # Edges are values that occur, so that equal values share a group and no group is empty.
    edges = np.unique(np.quantile(held, np.linspace(0, 1, NUM_GROUPS + 1)[1:], method="inverted_cdf"))
    codes = np.full(len(numbers), -1, dtype=np.int64)
    codes[~is_null] = np.searchsorted(edges, held)
    labels = []
    for number in range(len(edges)):
        inside = held[codes[~is_null] == number]
        low, high = float(inside.min()), float(inside.max())
        labels.append(f"{low:.6g}" if low == high else f"{low:.6g} to {high:.6g}")
    return _with_missing(name, labels, codes, is_null)


def _with_missing(name: str, labels: list[str], codes: IntArray, is_null: NDArray[np.bool_]) -> SliceColumn:
    if is_null.any():
        codes[is_null] = len(labels)
        labels.append(MISSING)
    return SliceColumn(name, tuple(labels), codes)
