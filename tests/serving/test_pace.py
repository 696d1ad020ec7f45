"""What a batch takes is told from those before it, whatever their sizes; how much is asked is told from the last moments."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from endcap.serving.pace import Lately, Pace, Pressure, batches_that_may_wait


def test_a_line_is_found_from_small_and_large_batches() -> None:
    pace = Pace(16)
    for rows in (1, 9, 16, 4, 12, 7, 2, 16) * 8:
        pace.add(rows, 0.006 + rows * 0.002)
    assert pace.seconds(1) == pytest.approx(0.008)
    assert pace.seconds(40) == pytest.approx(3 * 0.006 + 40 * 0.002)


def test_of_small_batches_alone_half_the_time_is_taken_for_fixed() -> None:
    pace = Pace(16)
    pace.add(1, 0.008)
    assert not pace.is_known
    assert pace.seconds(1) == pytest.approx(0.008)
    assert pace.seconds(16) == pytest.approx(0.008 * (0.5 + 16 * 0.5))


def test_until_a_full_batch_was_seen_it_takes_at_least_what_a_small_one_took() -> None:
    pace = Pace(16)
    assert pace.least_seconds(5) == 0
    pace.add(7, 0.014)
    assert pace.least_seconds(1) == pace.seconds(1) < 0.014
    pace = Pace(16)
    pace.add(1, 0.008)
    assert [pace.least_seconds(rows) for rows in (0, 1, 16, 17)] == pytest.approx([0, 0.008, 0.008, 0.016])
    pace.add(16, 0.032)
    assert pace.least_seconds(40) == pace.seconds(40)


def test_a_first_batch_that_was_held_up_is_soon_outvoted() -> None:
    pace = Pace(16)
    pace.add(1, 0.2)
    for _ in range(9):
        pace.add(1, 0.002)
    assert pace.seconds(1) == pytest.approx((0.2 + 9 * 0.002) / 10)
    for _ in range(30):
        pace.add(1, 0.002)
    assert pace.seconds(1) < 0.003


def test_what_a_full_batch_took_is_not_forgotten_while_small_ones_come() -> None:
    pace = Pace(16)
    pace.add(16, 0.032)
    for _ in range(200):
        pace.add(1, 0.008)
    assert pace.is_known
    assert pace.seconds(16) == pytest.approx(0.032)
    for _ in range(50):
        pace.add(16, 0.064)
    assert pace.seconds(16) == pytest.approx(0.064, rel=0.01)


def test_one_batch_that_was_held_up_changes_little_and_lasting_slowness_is_known_soon() -> None:
    pace = Pace(16)
    for _ in range(5):
        pace.add(16, 0.004)
    pace.add(16, 0.4)
    assert pace.seconds(16) == pytest.approx(0.0044)
    for _ in range(30):
        pace.add(16, 0.012)
    assert pace.seconds(16) == pytest.approx(0.012, rel=0.15)


@given(st.lists(st.tuples(st.integers(1, 2000), st.floats(0, 10)), max_size=30), st.integers(1, 5000))
def test_no_estimate_is_negative(batches: list[tuple[int, float]], rows: int) -> None:
    pace = Pace(16)
    for batch in batches:
        pace.add(*batch)
    assert 0 <= pace.least_seconds(rows) <= pace.seconds(rows) + 1e-9


def test_pressure_is_what_is_asked_over_what_can_be_done() -> None:
    pressure = Pressure()
    # Three seconds of work a second, in requests of 2 ms.
    asked = [pressure.add(0.1, 0.02, number / 1500) for number in range(1500)]
    assert asked[-1] == pytest.approx(3.0, rel=0.02)
    assert asked[20] < 0.5
    assert pressure.add(0.1, 0.02, 1.0 + 0.5) < 0.2


def test_lately_counts_each_once_in_this_second_or_the_one_before() -> None:
    lately = Lately()
    assert [lately.add(one, 10.0 + at) for at, one in enumerate([1, 2, 1])] == [1, 1, 1]
    assert [lately.add(one, 20.5) for one in (1, 2, 1, None)] == [1, 2, 2, 3]
    assert [lately.add(one, 21.9) for one in (5, 6, 7, 8)] == [3, 3, 3, 4]
    assert lately.add(9, 23.1) == 1


def test_pressure_of_the_first_request_is_its_own() -> None:
    assert Pressure().add(1.5, 0.02, 123.0) == pytest.approx(0.2)


def test_slow_batches_make_longer_bursts() -> None:
    assert Pressure().add(3, 0.5, 123.0) == pytest.approx(0.5)


def test_the_more_is_asked_the_fewer_batches_wait() -> None:
    assert [batches_that_may_wait(pressure) for pressure in (0.5, 1.625, 2.0, 9.0)] == [math.inf, 2.375, 0.75, 0.75]
