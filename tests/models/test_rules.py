"""The two plain rules against rankings worked out by hand and against slow, plain definitions."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.contracts.errors import InputError
from endcap.models.purchases import DAY_US, PurchaseLog
from endcap.models.rules import OwnMostBought, PopularLately
from tests.models.purchase_logs import SPLIT, log, logs, rank


def test_popular_lately_orders_by_the_window_then_all_time_then_item_number():
    # Days 70 to 99: item 1 twice, 2 twice, 3 twice, 0 once. All time: item 1 three times, 4 once, 5 never.
    assert rank(PopularLately.fit(log(), SPLIT), [0, 4]) == [[1, 2, 3, 0, 4, 5]] * 2


def test_popular_lately_with_a_longer_window():
    assert rank(PopularLately.fit(log(), SPLIT, window_days=100), [0]) == [[1, 0, 2, 3, 4, 5]]


def test_popular_lately_without_what_was_bought_pads_the_short_row():
    assert rank(PopularLately.fit(log(), SPLIT), [2, 4], exclude_seen=True) == [
        [0, 4, 5, -1, -1, -1],
        [1, 2, 3, 0, 4, 5],
    ]


def test_own_most_bought_comes_first_and_popularity_breaks_its_ties():
    baseline = OwnMostBought.fit(log(), SPLIT)
    assert rank(baseline, [0, 2, 3, 4]) == [
        [0, 1, 2, 3, 4, 5],
        [3, 1, 2, 0, 4, 5],
        [4, 1, 2, 3, 0, 5],
        [1, 2, 3, 0, 4, 5],
    ]


def test_own_most_bought_cuts_at_k():
    baseline = OwnMostBought.fit(log(), SPLIT)
    assert rank(baseline, [2, 0], k=2) == [[3, 1], [0, 1]]


def test_own_most_bought_without_own_products_is_popular_lately():
    own, popular = OwnMostBought.fit(log(), SPLIT), PopularLately.fit(log(), SPLIT)
    users = [0, 1, 2, 3, 4]
    assert rank(own, users, exclude_seen=True) == rank(popular, users, exclude_seen=True)


def test_popular_lately_with_a_half_life_lets_old_purchases_fade():
    # Ages 90 (items 0, 1), 80 (4), 20 (0), 15 (1, 2), 10 (1, 2, 3), 1 (3): with 5 days, item 3 has 1.12, 1 and 2 0.375.
    baseline = PopularLately.fit(log(), SPLIT, half_life_days=5)
    assert rank(baseline, [4]) == [[3, 1, 2, 0, 4, 5]]
    with pytest.raises(InputError, match="half_life_days is 0"):
        PopularLately.fit(log(), SPLIT, half_life_days=0)


def test_own_most_bought_with_a_half_life_prefers_what_was_bought_lately():
    lines = [(0, 0, 0, 10), (0, 0, 1, 20), (0, 1, 2, 95)]
    assert rank(OwnMostBought.fit(log(lines), SPLIT), [0], k=2) == [[0, 1]]
    faded = OwnMostBought.fit(log(lines), SPLIT, half_life_days=10)
    assert rank(faded, [0], k=2) == [[1, 0]]
    scores = faded.recommend(np.array([0]), 2, exclude_seen=False).scores[0]
    np.testing.assert_allclose(scores, [1 + 0.5**0.5, 1 + 0.5**9 + 0.5**8], atol=1e-6)


def test_purchases_that_do_not_fit_are_refused():
    good = log()
    with pytest.raises(InputError, match="aligned"):
        PurchaseLog(good.user_nums[1:], good.item_nums, good.basket_nums, good.ts_us, 5, 6)
    with pytest.raises(InputError, match="item_nums range from 0 to 4; expected 0 to 3"):
        PurchaseLog(good.user_nums, good.item_nums, good.basket_nums, good.ts_us, 5, 4)
    with pytest.raises(InputError, match="no purchases"):
        PopularLately.fit(good, 0)
    with pytest.raises(InputError, match="window_days is 0"):
        PopularLately.fit(good, SPLIT, window_days=0)


def plain_popular(purchases):
    items, days = purchases.item_nums.tolist(), (purchases.ts_us // DAY_US).tolist()
    recent = Counter(item for item, day in zip(items, days, strict=True) if day >= 70)
    ever = Counter(items)
    return sorted(range(purchases.num_items), key=lambda item: (-recent[item], -ever[item], item))


@settings(max_examples=60, deadline=None)
@given(logs(), st.integers(1, 12), st.booleans())
def test_rankings_are_those_of_the_plain_rule(purchases, k, exclude_seen):
    popular = plain_popular(purchases)
    users = np.arange(purchases.num_users)
    own_first = OwnMostBought.fit(purchases, SPLIT).recommend(users, k, exclude_seen=exclude_seen).item_nums
    popular_first = PopularLately.fit(purchases, SPLIT).recommend(users, k, exclude_seen=exclude_seen).item_nums
    for user in range(purchases.num_users):
        own = Counter(purchases.item_nums[purchases.user_nums == user].tolist())
        allowed = [item for item in popular if not (exclude_seen and item in own)]
        padding = [-1] * k
        assert popular_first[user].tolist() == (allowed + padding)[:k]
        assert own_first[user].tolist() == (sorted(allowed, key=lambda item: -own[item]) + padding)[:k]
