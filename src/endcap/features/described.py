"""Fitted transforms and raw rows in, what each column becomes out: widths, vocabularies, missing shares, distributions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from endcap.contracts.encoded import Side
from endcap.contracts.features import Column
from endcap.features.distributions import (
    Distribution,
    of_categories,
    of_counts,
    of_lengths,
    of_moments,
    of_numbers,
)
from endcap.features.fitted import FittedFeatures, Output
from endcap.features.transforms.moments import Cyclical, Steps
from endcap.features.transforms.multi_hot import MultiHot
from endcap.features.transforms.numeric import Bucketize
from endcap.features.transforms.raw import canonical, lists_of
from endcap.features.transforms.text import Words
from endcap.features.transforms.vocabulary import OOV, Vocabulary

_NUMBERS = ("INT64", "FLOAT64", "NUMERIC")
_MOMENTS = ("TIMESTAMP", "DATETIME", "DATE")


class Encoded(msgspec.Struct, frozen=True):
    """One input of the model: what a raw column, or a cross of several, becomes."""

    name: str
    steps: list[str]
    """Transforms in their order."""
    kind: str
    dim: int
    """Numbers a row that the tower sees."""
    cardinality: int
    """Rows of the learned table; 0 for numbers."""
    num_values: int
    """Values that have a row of their own; 0 for numbers."""
    share_unknown: float | None
    """Of the values that are there: out of vocabulary. None where there is no vocabulary."""
    share_unknown_later: float | None
    """The same in rows that the transforms were not fitted on."""
    after: list[Distribution]


class Described(msgspec.Struct, frozen=True):
    """A raw column, or a cross, and what becomes of it."""

    side: Side
    name: str
    type: str
    num_rows: int
    share_missing: float
    before: Distribution | None
    becomes: list[Encoded]


class FeatureCheck(msgspec.Struct, frozen=True):
    """What a FeatureConfig makes of some data."""

    config: str
    """Where the FeatureConfig comes from."""
    data: str
    """Where the rows come from."""
    num_buyers: int
    num_products: int
    num_later: int
    """Buyer rows that the transforms were not fitted on."""
    columns: list[Described]
    remarks: list[str]
    """What is allowed but hardly meant, such as a column that is always missing."""

    def dim(self, side: Side) -> int:
        """Numbers a row that a tower sees of its side, without the history's."""
        inputs = [encoded for column in self.columns if column.side == side for encoded in column.becomes]
        return sum(encoded.dim for encoded in inputs if encoded.kind != "sequence")


def describe(
    fitted: FittedFeatures, buyers: pa.Table, products: pa.Table, later: pa.Table | None = None
) -> list[Described]:
    """Every column in the order of the configuration, then the crosses.

    `buyers` and `products` are the rows that `fitted` was fitted on; `later` holds buyer rows that came after them. Values
    of primary ids are counted, not named.
    """
    config = fitted.definition
    found: list[Described] = []
    sides: list[tuple[Side, pa.Table, pa.Table | None]] = [("buyer", buyers, later), ("product", products, None)]
    for side, table, held_out in sides:
        applied = fitted.apply(side, table)
        applied_later = fitted.apply(side, held_out) if held_out is not None else None
        outputs = [output for output in fitted.outputs if output.side == side]
        for name, column in config.side(side).items():
            values = canonical(table[name])
            becomes = [
                _encoded(output, column, values, applied, held_out, applied_later)
                for output in outputs
                if output.column.source == name
            ]
            missing = missing_share(values)
            found.append(Described(side, name, column.type, len(values), missing, _before(column, values), becomes))
        found += [
            _cross(output, config.crosses[output.column.source].columns, applied)
            for output in outputs
            if output.bins is not None
        ]
    return found


def missing_share(values: pa.Array) -> float:
    """Share of rows without a value: null, NaN, an empty text or an empty list."""
    if len(values) == 0:
        return 0.0
    if pa.types.is_list(values.type):
        there = pc.greater(pc.fill_null(pc.list_value_length(values), 0), 0)
    elif pa.types.is_string(values.type):
        there = pc.fill_null(pc.not_equal(values, ""), False)
    elif pa.types.is_floating(values.type):
        there = pc.fill_null(pc.invert(pc.is_nan(values)), False)
    else:
        there = pc.is_valid(values)
    return 1.0 - float(pc.mean(pc.cast(there, pa.float64())).as_py())


def _before(column: Column, values: pa.Array) -> Distribution:
    if column.holds_lists:
        return of_lengths(np.asarray(pc.fill_null(pc.list_value_length(values), 0)), "values in a row")
    if column.is_primary_id:
        counts = pc.value_counts(values.drop_null()).field("counts")
        return of_counts(np.asarray(counts), "rows of an id")
    if column.type in _MOMENTS:
        return of_moments(np.asarray(values.drop_null().cast(pa.int64())))
    if column.type in _NUMBERS:
        return of_numbers(np.asarray(values.drop_null(), np.float64))
    if column.text and not column.embedding:
        words = [len(text.split()) for text in values.drop_null().to_pylist()]
        return of_lengths(np.array(words, np.int64), "words in a row")
    return of_categories(Counter(str(value) for value in values.drop_null().to_pylist() if value != ""))


def _encoded(
    output: Output,
    column: Column,
    values: pa.Array,
    applied: dict[str, pa.Array],
    later: pa.Table | None,
    applied_later: dict[str, pa.Array] | None,
) -> Encoded:
    encoded = output.column
    result = applied[encoded.name]
    last = output.chain[-1]
    unknown = _unknown(output, values, result)
    unknown_later = None
    if unknown is not None and later is not None and applied_later is not None:
        unknown_later = _unknown(output, canonical(later[encoded.source]), applied_later[encoded.name])
    num_values = len(last.values) if isinstance(last, Vocabulary | MultiHot) else max(encoded.cardinality - 1, 0)
    steps = [type(transform).__name__.lower() for transform in output.chain]
    steps = [{"vocabulary": "embedding", "words": "text", "multihot": "multi_hot"}.get(step, step) for step in steps]
    if encoded.kind == "sequence":
        steps = ["sequence"]
    after = _after(last, column, values, result)
    return Encoded(
        encoded.name, steps, encoded.kind, encoded.dim, encoded.cardinality, num_values, unknown, unknown_later, after
    )


def _after(last: Any, column: Column, values: pa.Array, result: pa.Array) -> list[Distribution]:
    if isinstance(last, Cyclical):
        return [_of_steps(period, values) for period in last.periods]
    if pa.types.is_list(result.type):
        known = [sum(1 for index in row if index != OOV) for row in result.to_pylist()]
        return [of_lengths(np.array(known, np.int64), "known values in a row")]
    if isinstance(last, Bucketize):
        return [_of_buckets(last, np.asarray(result))]
    if isinstance(last, Vocabulary):
        return [_of_indexes(last, np.asarray(result), named=not column.is_primary_id)]
    return [of_numbers(np.asarray(result, np.float64))]


def _of_steps(period: str, values: pa.Array) -> Distribution:
    steps = Steps(period)
    counts = np.bincount(np.asarray(steps.apply(values)), minlength=steps.size)
    bars = [(str(step), int(count)) for step, count in enumerate(counts[1:].tolist())]
    return Distribution.of_bars(f"{period.replace('_', ' ')}, from 0", bars, num_missing=int(counts[0]))


def _of_buckets(buckets: Bucketize, indexes: np.ndarray) -> Distribution:
    counts = np.bincount(indexes, minlength=buckets.size).tolist()
    edges = [f"{edge:.4g}" for edge in buckets.boundaries]
    labels = [f"< {edges[0]}", *(f"{edge} on" for edge in edges)] if edges else ["all"]
    return Distribution.of_bars("bucket", list(zip(labels, counts[1:], strict=True)), num_missing=counts[0])


def _of_indexes(vocabulary: Vocabulary, indexes: np.ndarray, *, named: bool) -> Distribution:
    counts = np.bincount(indexes, minlength=vocabulary.size)
    if not named:
        return of_counts(counts[1 : vocabulary.first_oov], "rows of an id", num_without=int(counts[OOV]))
    shown = {str(value): int(counts[place]) for place, value in enumerate(vocabulary.values, 1)}
    hashed = int(counts[vocabulary.first_oov :].sum())
    return of_categories(Counter(shown), num_missing=int(counts[OOV]), more={"hashed": hashed} if hashed else {})


def _unknown(output: Output, values: pa.Array, result: pa.Array) -> float | None:
    """Share of values that are there but out of vocabulary; None where there is no vocabulary, 0 without any value."""
    last = output.chain[-1]
    if isinstance(last, Words):
        num_there = sum(len(text.split()) for text in values.drop_null().to_pylist())
        words = [sum(1 for index in row if index <= last.num_words) for row in result.to_pylist()]
        num_known = sum(words)
    elif isinstance(last, MultiHot):
        rows = values.drop_null().to_pylist()
        parts = [row.split(last.separator) if last.separator else row for row in rows]
        num_there = sum(1 for row in parts for value in row if value)
        num_known = int(pc.sum(pc.list_value_length(result)).as_py() or 0)
    elif isinstance(last, Vocabulary):
        flat = lists_of(values)[1] if pa.types.is_list(values.type) else values
        indexes = np.asarray(lists_of(result)[1] if pa.types.is_list(result.type) else result)
        there = flat.drop_null()
        num_there = len(there) - (
            int(pc.sum(pc.equal(there, "")).as_py() or 0) if pa.types.is_string(there.type) else 0
        )
        num_known = int(((indexes != OOV) & (indexes < last.first_oov)).sum())
    else:
        return None
    return 1.0 - num_known / num_there if num_there else 0.0


def _cross(output: Output, columns: Sequence[str], applied: dict[str, pa.Array]) -> Described:
    encoded = output.column
    indexes = np.asarray(applied[encoded.name])
    counts = np.bincount(indexes, minlength=encoded.cardinality)
    num_used = int((counts[1:] > 0).sum())
    after = of_counts(counts[1:], "rows of a bin", num_without=int(counts[0]))
    becomes = Encoded(
        encoded.name, ["cross"], encoded.kind, encoded.dim, encoded.cardinality, num_used, None, None, [after]
    )
    missing = float(counts[0]) / max(len(indexes), 1)
    return Described(output.side, encoded.source, " × ".join(columns), len(indexes), missing, None, [becomes])
