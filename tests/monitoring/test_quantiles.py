"""Exact quantiles against a sorted list, on columns that need several rounds of narrowing too."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ibis.backends.duckdb import Backend

from endcap.monitoring import quantiles
from endcap.monitoring.quantiles import Bar, exact_quantiles, finite_values, histogram

PERMILLES = (0, 10, 250, 500, 990, 1000)


def by_sorting(values: list[Any], permilles: tuple[int, ...]) -> list[Any]:
    ordered = sorted(values)
    return [ordered[max(1, math.ceil(len(ordered) * permille / 1000)) - 1] for permille in permilles]


def of(connection: Backend, column: pa.Array) -> list[Any]:
    rows = ibis.memtable(pa.table({"v": column}))
    return exact_quantiles(connection, finite_values(rows["v"]), PERMILLES)


def test_by_hand(connection: Backend) -> None:
    assert of(connection, pa.array([3, 1, None, 2, 10])) == [1, 1, 1, 2, 10, 10]
    assert of(connection, pa.array([], pa.int64())) == []
    assert of(connection, pa.array([None], pa.float64())) == []


def test_decimals_stay_what_they_are(connection: Backend) -> None:
    values = [Decimal("0.0001"), Decimal("2.5000"), Decimal("99999999999999.9999")]
    assert of(connection, pa.array(values, pa.decimal128(18, 4)))[3:] == values[1:] + values[2:]


def test_what_is_no_number_is_left_out(connection: Backend) -> None:
    assert of(connection, pa.array([float("nan"), float("inf"), 1.5, float("-inf"), None])) == [1.5] * 6


@pytest.mark.parametrize("shape", ["even", "heavy tail", "few values", "neighbouring floats", "beyond floats"])
def test_narrowing(connection: Backend, monkeypatch: pytest.MonkeyPatch, shape: str) -> None:
    monkeypatch.setattr(quantiles, "_NUM_FETCHED", 40)
    rng = np.random.default_rng(4)
    values = {
        "even": rng.integers(0, 10**15, 3000),
        "heavy tail": np.concatenate([rng.integers(0, 50, 2990), 10 ** rng.integers(9, 18, 10)]),
        "few values": rng.choice([1, 7, 10**17], 3000),
        "neighbouring floats": np.nextafter(1.0, 2.0) ** rng.integers(0, 400, 3000),
        "beyond floats": 2**60 + rng.integers(0, 500, 3000),
    }[shape]
    assert of(connection, pa.array(values)) == by_sorting(values.tolist(), PERMILLES)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)), min_size=1, max_size=60))
def test_any_floats(connection: Backend, values: list[float | None]) -> None:
    found = of(connection, pa.array(values, pa.float64()))
    kept = [value for value in values if value is not None]
    assert found == (by_sorting(kept, PERMILLES) if kept else [])


def test_bars(connection: Backend) -> None:
    rows = finite_values(ibis.memtable(pa.table({"v": [1, 2, 2, 4, 9]}))["v"])
    assert histogram(connection, rows, 1, 4, whole_numbers=True) == [
        Bar(1, 2, 1), Bar(2, 3, 2), Bar(3, 4, 0), Bar(4, 5, 2)
    ]  # fmt: skip
    bars = histogram(connection, rows, 0, 300, whole_numbers=True)
    assert (len(bars), bars[0], sum(bar.count for bar in bars)) == (30, Bar(0, 10, 5), 5)
    assert histogram(connection, rows, 2, 2, whole_numbers=False) == [Bar(2, 3, 5)]
