from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from endcap.workspace.conversion import converted, is_widening

MONEY = pa.decimal128(18, 4)


@pytest.mark.parametrize(
    ("values", "found", "expected", "kept", "num_lost"),
    [
        ([7, None, -(2**63)], pa.int64(), pa.string(), ["7", None, "-9223372036854775808"], 0),
        ([7, None], pa.int32(), pa.int64(), [7, None], 0),
        ([7, 300, -129], pa.int64(), pa.int8(), [7, None, None], 2),
        ([10**14 - 1, 10**14, None], pa.int64(), MONEY, [Decimal(10**14 - 1), None, None], 1),
        ([1.1, 1 / 3, None, -2.5], pa.float64(), MONEY, [Decimal("1.1"), None, None, Decimal("-2.5")], 1),
        ([float("nan"), float("inf"), 1e300], pa.float64(), MONEY, [None] * 3, 3),
        ([5, 2**53 + 1], pa.int64(), pa.float64(), [5.0, None], 1),
        ([Decimal("1.10"), Decimal("1.25")], pa.decimal128(5, 2), pa.decimal128(5, 1), [Decimal("1.1"), None], 1),
        ([Decimal("1.25")], pa.decimal128(5, 2), MONEY, [Decimal("1.25")], 0),
    ],
)
def test_values_are_kept_or_counted(
    values: list[Any], found: pa.DataType, expected: pa.DataType, kept: list[Any], num_lost: int
) -> None:
    result, lost = converted(pa.array(values, found), expected)
    assert result.type == expected
    assert (result.to_pylist(), lost) == (kept, num_lost)


@pytest.mark.parametrize(
    ("found", "expected"),
    [(pa.string(), pa.int64()), (pa.float64(), pa.int64()), (pa.float64(), pa.float32()), (pa.bool_(), pa.string())],
)
def test_narrower_types_are_refused(found: pa.DataType, expected: pa.DataType) -> None:
    assert not is_widening(found, expected)
    with pytest.raises(ValueError, match="can't be kept"):
        converted(pa.array([], found), expected)


@given(st.lists(st.floats(width=64) | st.integers(-(10**6), 10**6).map(lambda cents: cents / 100)))
def test_a_kept_float_is_the_decimal_that_prints_like_it(values: list[float]) -> None:
    result, lost = converted(pa.array(values, pa.float64()), MONEY)
    found = result.to_pylist()
    assert lost == found.count(None)
    for value, kept in zip(values, found, strict=True):
        if kept is not None:
            assert float(kept) == value
        elif abs(value) < 10**10:
            # No decimal of four places is that float.
            nearest = round(Fraction(value) * 10**4)
            assert float(Fraction(nearest, 10**4)) != value
