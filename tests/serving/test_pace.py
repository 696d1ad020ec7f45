"""What a batch takes is told from those before it, whatever their sizes; how much is asked is told from the last moments."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from endcap.serving.pace import Pace, Pressure


def test_a_line_is_found_from_batches_of_different_sizes() -> None:
    pace = Pace(3, 0.006 + 3 * 0.002)
    for rows in (1, 9, 16, 4, 12, 7, 2, 16) * 8:
        pace.add(rows, 0.006 + rows * 0.002)
    assert pace.per_row == pytest.approx(0.002, rel=0.02)
    assert pace.fixed == pytest.approx(0.006, rel=0.05)
    assert pace.seconds(40, 16) == pytest.approx(3 * 0.006 + 40 * 0.002, rel=0.03)


def test_of_batches_of_one_size_half_the_time_is_taken_for_fixed() -> None:
    pace = Pace(1, 0.008)
    pace.add(1, 0.008)
    assert pace.seconds(16, 16) == pytest.approx(0.008 * (0.5 + 16 * 0.5))
    assert pace.seconds(1, 16) == pytest.approx(0.008)


def test_one_larger_batch_tells_at_once_that_more_rows_cost_little() -> None:
    pace = Pace(1, 0.008)
    for _ in range(50):
        pace.add(1, 0.008)
    pace.add(16, 0.032)
    assert pace.seconds(16, 16) == pytest.approx(0.032, rel=0.2)


@given(st.lists(st.tuples(st.integers(1, 2000), st.floats(0, 10)), min_size=1, max_size=30), st.integers(1, 5000))
def test_no_estimate_is_negative(batches: list[tuple[int, float]], rows: int) -> None:
    pace = Pace(*batches[0])
    for batch in batches[1:]:
        pace.add(*batch)
    assert pace.per_row >= 0
    assert pace.seconds(rows, 16) >= 0


def test_pressure_is_what_is_asked_over_what_can_be_done() -> None:
    pressure = Pressure()
    # Three seconds of work a second, in requests of 2 ms.
    asked = [pressure.add(0.002, number / 1500) for number in range(1500)]
    assert asked[-1] == pytest.approx(3.0, rel=0.02)
    assert asked[20] < 0.5
    assert pressure.add(0.002, 1.0 + 0.5) < 0.2


def test_pressure_of_the_first_request_is_its_own() -> None:
    assert Pressure().add(0.03, 123.0) == pytest.approx(0.2)
