"""Bootstrap intervals: what they hold, that they repeat, and that they cover as often as they say."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.contracts.errors import InputError
from endcap.evaluation.intervals import (
    Interval,
    holm,
    mean_intervals,
    paired_intervals,
    paired_p_values,
    resample_means,
)

values_of_customers = st.lists(st.floats(0, 1), min_size=1, max_size=60)


@settings(max_examples=50, deadline=None)
@given(values_of_customers, st.integers(0, 2**32))
def test_the_interval_holds_the_mean_and_stays_within_the_values(values, seed):
    column = np.array(values)[:, None]
    (interval,) = mean_intervals(column, seed=seed)
    assert interval.mean == pytest.approx(column.mean())
    assert interval.low - 1e-9 <= interval.mean <= interval.high + 1e-9
    assert column.min() - 1e-9 <= interval.low <= interval.high <= column.max() + 1e-9


@settings(max_examples=20, deadline=None)
@given(values_of_customers)
def test_the_same_seed_gives_the_same_interval(values):
    column = np.array(values)[:, None]
    assert mean_intervals(column, seed=5) == mean_intervals(column, seed=5)


def test_equal_values_leave_no_width():
    assert mean_intervals(np.full((40, 1), 0.25), seed=1) == [Interval(0.25, 0.25, 0.25)]


def test_resampled_means_are_those_of_drawn_customers():
    values = np.array([[0.0], [1.0], [4.0]])
    drawn = np.random.default_rng(11).integers(0, 3, size=(50, 3))
    np.testing.assert_allclose(
        resample_means(values, seed=11, num_resamples=50), values[drawn, 0].mean(axis=1)[:, None]
    )


def test_the_width_is_that_of_the_normal_approximation():
    values = np.random.default_rng(0).random((2000, 1))
    (interval,) = mean_intervals(values, seed=0)
    expected = 2 * 1.96 * values.std() / np.sqrt(2000)
    assert interval.high - interval.low == pytest.approx(expected, rel=0.08)


def test_small_chunks_keep_the_weights_right(monkeypatch):
    monkeypatch.setattr("endcap.evaluation.intervals._DRAWS_PER_CHUNK", 7)
    resampled = resample_means(np.eye(5), seed=3, num_resamples=20)
    np.testing.assert_allclose(resampled.sum(axis=1), 1.0)
    np.testing.assert_allclose(resampled * 5, np.round(resampled * 5))


def test_pairing_sees_a_difference_that_two_intervals_hide():
    generator = np.random.default_rng(2)
    base = generator.random((300, 1))
    better = base + 0.01 + 0.005 * generator.random((300, 1))
    (one,), (other,) = mean_intervals(better, seed=4), mean_intervals(base, seed=4)
    assert one.low < other.high
    (difference,) = paired_intervals(better, base, seed=4)
    assert difference.above_zero
    (turned,) = paired_intervals(base, better, seed=4)
    assert turned.below_zero
    assert not turned.above_zero


def test_an_interval_on_zero_is_neither_above_nor_below():
    interval = Interval(0.0, 0.0, 0.0)
    assert not interval.above_zero
    assert not interval.below_zero


def test_nobody_to_resample_is_refused():
    with pytest.raises(InputError, match="no customer"):
        mean_intervals(np.zeros((0, 1)), seed=0)
    with pytest.raises(InputError, match="num_resamples is 0"):
        mean_intervals(np.zeros((3, 1)), seed=0, num_resamples=0)


def test_p_values_are_those_of_all_sign_flips():
    differences = np.array([[0.3, -0.1], [0.2, 0.1], [0.4, 0.0], [-0.1, 0.2], [0.5, -0.3]])
    signs = np.array(list(itertools.product((-1, 1), repeat=5)))
    every = np.abs(signs @ differences) >= np.abs(differences.sum(axis=0)) - 1e-12
    found = paired_p_values(differences, seed=1, num_flips=20_000)
    np.testing.assert_allclose(found, every.mean(axis=0), atol=0.02)
    assert paired_p_values(np.zeros((9, 1)), seed=1).tolist() == [1.0]


def test_p_values_of_no_difference_are_spread_evenly():
    columns = np.random.default_rng(3).normal(size=(80, 400))
    found = paired_p_values(columns, seed=2, num_flips=500)
    assert (found < 0.05).mean() == pytest.approx(0.05, abs=0.03)
    assert (found < 0.5).mean() == pytest.approx(0.5, abs=0.08)


def test_holm_by_hand():
    assert holm(np.array([0.04, 0.01, 0.03])).tolist() == pytest.approx([0.06, 0.03, 0.06])
    assert holm(np.array([0.9, 0.8])).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("num_customers", [20, 61, 257])
def test_equal_columns_have_equal_means_wherever_they_stand(num_customers):
    values = np.random.default_rng(5).random((num_customers, 1)) * 20
    for num_columns in range(1, 40):
        resampled = resample_means(np.repeat(values, num_columns, axis=1), seed=3, num_resamples=333)
        assert (resampled == resampled[:, :1]).all(), num_columns
