"""The probe's windows end before what they are asked for, and its rankings and oracles are those worked out by hand."""

import numpy as np
import pytest

from benchmarks.quality.completejourney_ceiling import Periods, ndcg, popular_then, rank
from benchmarks.quality.completejourney_pairs import Pairs
from endcap.evaluation.customers import Counting, HeldOutCustomers
from endcap.models.purchases import DAY_US

ALL, NEW = Counting.ALL_PURCHASES, Counting.NEW_TO_CUSTOMER


@pytest.fixture
def customers():
    """Before: 0 bought 1 and 2, 1 bought 3. Later: 0 buys 1 and 5, 1 buys 5 and 4."""
    return HeldOutCustomers.from_purchases(
        earlier_user_nums=np.array([0, 0, 1]),
        earlier_item_nums=np.array([1, 2, 3]),
        earlier_basket_nums=np.array([0, 0, 1]),
        test_user_nums=np.array([0, 0, 1, 1]),
        test_item_nums=np.array([1, 5, 5, 4]),
        num_items=6,
    )


def test_windows_are_as_long_as_the_test_period_and_end_before_it():
    days = np.arange(400) * DAY_US
    periods = Periods.of(days)
    assert (periods.eval_us, periods.test_us) == (320 * DAY_US, 360 * DAY_US)
    windows = periods.windows(0)
    length = periods.end_us - periods.test_us
    assert windows[0] == (periods.test_us - length, periods.test_us)
    assert all(end - start == length for start, end in windows)
    assert windows[0][0] - windows[1][0] == length // 2
    assert windows[-1][0] > 90 * DAY_US


def test_the_best_of_each_household_by_score_without_its_own_where_only_new_ones_count(customers):
    pairs = Pairs(
        customers,
        np.array([0, 0, 0, 1, 1]),
        np.array([1, 2, 5, 3, 4]),
        {},
        np.array([True, False, True, False, True]),
        np.array([True, True, False, True, False]),
    )
    scores = np.array([0.1, 0.3, 0.2, 0.9, 0.9])
    assert rank(pairs, scores, ALL)[:, :4].tolist() == [[2, 5, 1, -1], [3, 4, -1, -1]]
    assert rank(pairs, scores, NEW)[:, :2].tolist() == [[5, -1], [4, -1]]
    # 0 finds both at places 2 and 3 of 2; 1 finds one of two at place 2.
    ideal = 1 + 1 / np.log2(3)
    expected = [(1 / np.log2(3) + 1 / np.log2(4)) / ideal, 1 / np.log2(3) / ideal]
    assert ndcg(customers, rank(pairs, scores, ALL), ALL) == pytest.approx(expected)


def test_an_oracle_counts_the_other_households_alone(customers):
    ranked = popular_then(customers, ALL, knows_repeats=False)
    # 5 is bought by both; what a household alone buys (1, and 4) counts nothing for itself.
    assert ranked[0, :2].tolist() == [5, 4]
    assert ranked[1, :2].tolist() == [5, 1]
    assert popular_then(customers, ALL, knows_repeats=True)[0, :3].tolist() == [1, 5, 4]
    new = popular_then(customers, NEW, knows_repeats=False)[0].tolist()
    assert new.index(5) < new.index(4) < min(new.index(1), new.index(2))
