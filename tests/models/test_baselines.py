"""Baselines against rankings worked out by hand and against slow, plain definitions of the same rules."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.contracts.errors import InputError
from endcap.models.baselines import DAY_US, CoPurchase, OwnMostBought, PopularLately, PurchaseLog, fit_baselines

SPLIT = 100 * DAY_US
ALL = (PopularLately, OwnMostBought, CoPurchase)

# user, item, basket, day. Items 0 to 5; item 5 is bought by nobody.
LINES = [
    (0, 0, 0, 10),
    (0, 1, 0, 10),
    (0, 0, 1, 80),
    (1, 1, 2, 85),
    (1, 2, 2, 85),
    (2, 2, 3, 90),
    (2, 1, 3, 90),
    (2, 3, 3, 90),
    (2, 3, 4, 99),
    (3, 4, 5, 20),
]


def log(lines=LINES, num_users=5, num_items=6):
    users, items, baskets, days = (np.array(column, dtype=np.int64) for column in zip(*lines, strict=True))
    return PurchaseLog(users, items, baskets, days * DAY_US, num_users, num_items)


def rank(baseline, users, k=6, *, exclude_seen=False):
    return baseline.recommend(np.array(users), k, exclude_seen=exclude_seen).item_nums.tolist()


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


def test_co_purchase_sums_cosines_over_own_products():
    baseline = CoPurchase.fit(log(), SPLIT)
    ranked = baseline.recommend(np.array([0]), 6, exclude_seen=False)
    # Baskets: {0,1} {0} {1,2} {1,2,3} {3} {4}; user 0 owns 0 and 1.
    expected = {
        0: 1 + 1 / np.sqrt(2 * 3),
        1: 1 + 1 / np.sqrt(2 * 3),
        2: 2 / np.sqrt(3 * 2),
        3: 1 / np.sqrt(3 * 2),
        4: 0.0,
        5: 0.0,
    }
    assert ranked.item_nums.tolist() == [[1, 0, 2, 3, 4, 5]]
    np.testing.assert_allclose(ranked.scores[0], [expected[item] for item in (1, 0, 2, 3, 4, 5)])


def test_co_purchase_without_own_products_and_for_a_user_without_any():
    baseline = CoPurchase.fit(log(), SPLIT)
    assert rank(baseline, [0, 4], exclude_seen=True) == [[2, 3, 4, 5, -1, -1], [1, 2, 3, 0, 4, 5]]


def test_co_purchase_keeps_the_nearest_neighbors_alone():
    baseline = CoPurchase.fit(log(), SPLIT, num_neighbors=2)
    assert np.diff(baseline.similarity.indptr).max() == 2


@pytest.mark.parametrize("kind", ALL)
def test_what_comes_at_or_after_the_split_is_not_seen(kind):
    later = [*LINES, (0, 5, 9, 100), (0, 5, 9, 120), (4, 5, 10, 200)]
    for exclude_seen in (False, True):
        expected = kind.fit(log(), SPLIT).recommend(np.arange(5), 6, exclude_seen=exclude_seen)
        found = kind.fit(log(later), SPLIT).recommend(np.arange(5), 6, exclude_seen=exclude_seen)
        np.testing.assert_array_equal(found.item_nums, expected.item_nums)
        np.testing.assert_array_equal(found.scores, expected.scores)


@pytest.mark.parametrize("kind", ALL)
def test_more_places_than_products_stay_empty(kind):
    ranked = kind.fit(log(), SPLIT).recommend(np.array([1]), 9, exclude_seen=False)
    assert ranked.item_nums[0, 6:].tolist() == [-1, -1, -1]
    assert np.isneginf(ranked.scores[0, 6:]).all()
    assert sorted(ranked.item_nums[0, :6].tolist()) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("kind", ALL)
def test_no_customers_give_no_rows(kind):
    assert kind.fit(log(), SPLIT).recommend(np.array([], dtype=np.int64), 3, exclude_seen=True).item_nums.shape == (
        0,
        3,
    )


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(
    ("users", "k", "message"), [([5], 3, "knows 0 to 4"), ([-1], 3, "knows 0 to 4"), ([0], 0, "k is 0")]
)
def test_unknown_users_and_empty_lists_are_refused(kind, users, k, message):
    with pytest.raises(InputError, match=message):
        kind.fit(log(), SPLIT).recommend(np.array(users), k, exclude_seen=False)


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
    with pytest.raises(InputError, match="num_neighbors is 0"):
        CoPurchase.fit(good, SPLIT, num_neighbors=0)


def test_all_baselines_have_distinct_names():
    baselines = fit_baselines(log(), SPLIT)
    assert [baseline.name for baseline in baselines] == ["popular_lately", "own_most_bought", "co_purchase"]
    assert [baseline.title for baseline in baselines] == ["popular lately", "own most bought", "co-purchase"]


@st.composite
def logs(draw):
    num_users, num_items = draw(st.integers(1, 6)), draw(st.integers(1, 9))
    line = st.tuples(
        st.integers(0, num_users - 1), st.integers(0, num_items - 1), st.integers(0, 5), st.integers(1, 99)
    )
    return log(draw(st.lists(line, min_size=1, max_size=40)), num_users, num_items)


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


@settings(max_examples=60, deadline=None)
@given(logs(), st.integers(1, 12), st.booleans())
def test_scores_fall_and_no_product_stands_twice(purchases, k, exclude_seen):
    for baseline in fit_baselines(purchases, SPLIT):
        ranked = baseline.recommend(np.arange(purchases.num_users), k, exclude_seen=exclude_seen)
        for user, (items, scores) in enumerate(zip(ranked.item_nums, ranked.scores, strict=True)):
            shown = items[items >= 0]
            own = purchases.item_nums[purchases.user_nums == user]
            assert len(set(shown.tolist())) == len(shown)
            assert (scores[:-1] >= scores[1:]).all()
            assert not (exclude_seen and np.isin(shown, own).any())
            num_allowed = purchases.num_items - (len(set(own.tolist())) if exclude_seen else 0)
            assert len(shown) == min(k, num_allowed)


@settings(max_examples=40, deadline=None)
@given(logs(), st.randoms(use_true_random=False))
def test_the_order_of_lines_and_the_chunks_change_nothing(purchases, random):
    order = list(range(len(purchases.user_nums)))
    random.shuffle(order)
    shuffled = PurchaseLog(
        purchases.user_nums[order],
        purchases.item_nums[order],
        purchases.basket_nums[order],
        purchases.ts_us[order],
        purchases.num_users,
        purchases.num_items,
    )
    users = np.arange(purchases.num_users)
    for one, other in zip(fit_baselines(purchases, SPLIT), fit_baselines(shuffled, SPLIT), strict=True):
        together = one.recommend(users, 5, exclude_seen=False)
        alone = [other.recommend(users[user : user + 1], 5, exclude_seen=False).item_nums[0] for user in users]
        np.testing.assert_array_equal(together.item_nums, np.array(alone))


def test_small_chunks_give_the_same_rankings(monkeypatch):
    generator = np.random.default_rng(3)
    lines = np.stack([generator.integers(0, limit, 600) for limit in (40, 50, 90, 99)], axis=1)
    purchases = log(lines.tolist(), 40, 50)
    users = np.arange(40)
    whole = [baseline.recommend(users, 20, exclude_seen=True).item_nums for baseline in fit_baselines(purchases, SPLIT)]
    monkeypatch.setattr("endcap.models.baselines._CELLS_PER_CHUNK", 150)
    parts = [baseline.recommend(users, 20, exclude_seen=True).item_nums for baseline in fit_baselines(purchases, SPLIT)]
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, other)
