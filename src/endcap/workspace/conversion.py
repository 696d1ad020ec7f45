"""A column of one type in, the same values in a wider type out, with a count of those that would not survive."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_WIDEST_PRECISION = 38


def is_widening(found: pa.DataType, expected: pa.DataType) -> bool:
    """Whether values of type `found` can be kept as `expected`, save for ones that `converted` counts as lost."""
    if found == expected:
        return True
    if pa.types.is_integer(found) and (pa.types.is_string(expected) or pa.types.is_floating(expected)):
        return True
    if pa.types.is_decimal(expected):
        return bool(pa.types.is_integer(found) or pa.types.is_floating(found) or pa.types.is_decimal(found))
    both_integers = pa.types.is_integer(found) and pa.types.is_integer(expected)
    both_floats = pa.types.is_floating(found) and pa.types.is_floating(expected)
    return bool(both_integers or (both_floats and expected.bit_width >= found.bit_width))


def converted(column: pa.Array, expected: pa.DataType) -> tuple[pa.Array, int]:
    """The column as `expected`, and how many values are lost (null in the result).

    A value is kept when turning it back gives the same value: 1.1 as a float is kept as the decimal 1.1000, one third
    is lost. Raises ValueError for a pair of types that `is_widening` refuses.
    """
    found = column.type
    if found == expected:
        return column, 0
    if not is_widening(found, expected):
        raise ValueError(f"{found} can't be kept as {expected}")
    if pa.types.is_string(expected) or (pa.types.is_floating(found) and pa.types.is_floating(expected)):
        return column.cast(expected), 0
    if pa.types.is_decimal(expected):
        result = _to_decimal(column, expected)
    elif pa.types.is_integer(expected):
        result = _within(column.cast(pa.int64()), *_integer_range(expected)).cast(expected)
    else:
        result = column.cast(expected, safe=False)
    if pa.types.is_floating(found):
        # By way of text: Arrow's own cast of decimals to floats is off by the last bit.
        same = pc.fill_null(pc.equal(result.cast(pa.string()).cast(pa.float64()), column.cast(pa.float64())), False)
    elif pa.types.is_floating(expected):
        same = pc.fill_null(pc.equal(result.cast(found, safe=False), column), False)
    else:
        same = pc.is_valid(result)  # exact on both sides, and what doesn't fit is null by this time
    kept = pc.if_else(same, result, pa.scalar(None, expected))
    return kept, kept.null_count - column.null_count


def _to_decimal(column: pa.Array, expected: pa.DataType) -> pa.Array:
    bound = 10 ** (expected.precision - expected.scale) - 1
    if pa.types.is_floating(column.type):
        finite = pc.if_else(pc.is_finite(column), column, pa.scalar(None, column.type))
        # Floats beside the bound may round up to it.
        return _within(finite.cast(pa.float64()), -0.999 * bound, 0.999 * bound).cast(expected)
    wide = pa.decimal128(_WIDEST_PRECISION, max(expected.scale, getattr(column.type, "scale", 0)))
    if pa.types.is_integer(column.type):
        largest = min(bound, np.iinfo(np.int64).max)
        return _within(column.cast(pa.int64()), -largest, largest).cast(wide).cast(expected)
    exact = column.cast(wide)
    rounded = pc.round(exact, ndigits=expected.scale)
    limit = pa.scalar(bound, pa.int64()).cast(wide)
    fits = pc.and_(pc.equal(rounded, exact), pc.less_equal(pc.abs(exact), limit))
    return pc.if_else(fits, exact, pa.scalar(None, wide)).cast(expected)


def _within(column: pa.Array, lowest: float, highest: float) -> pa.Array:
    low, high = pa.scalar(lowest, column.type), pa.scalar(highest, column.type)
    fits = pc.and_(pc.greater_equal(column, low), pc.less_equal(column, high))
    return pc.if_else(fits, column, pa.scalar(None, column.type))


def _integer_range(expected: pa.DataType) -> tuple[int, int]:
    limits = np.iinfo(expected.to_pandas_dtype())
    signed = np.iinfo(np.int64)
    return max(int(limits.min), int(signed.min)), min(int(limits.max), int(signed.max))
