"""What every baseline must do, whichever it is: a kind that is added to `KINDS` is held to it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.contracts.errors import InputError
from endcap.models.baselines import KINDS, fit_baselines
from endcap.models.purchases import PurchaseLog
from tests.models.purchase_logs import LINES, SPLIT, log, logs

ALL = tuple(KINDS.values())
PERSONAL = ("co_purchase", "ease", "als")
FLOATING = {"rtol": 1e-4, "atol": 1e-5}  # of sums whose order depends on how many customers are asked for at once


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


def test_all_baselines_have_names_and_titles_of_their_own():
    baselines = fit_baselines(log(), SPLIT)
    assert [baseline.name for baseline in baselines] == list(KINDS)
    assert [baseline.name for baseline in baselines] == [
        "popular_lately", "own_most_bought", "co_purchase", "ease", "als"
    ]  # fmt: skip
    assert [baseline.title for baseline in baselines] == [
        "popular lately", "own most bought", "co-purchase", "EASE", "ALS"
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("exclude_seen", [False, True])
def test_a_customer_without_purchases_gets_what_is_popular(kind, exclude_seen):
    ranked = kind.fit(log(), SPLIT).recommend(np.array([4]), 6, exclude_seen=exclude_seen)
    assert ranked.item_nums.tolist() == [[1, 2, 3, 0, 4, 5]]


@pytest.mark.parametrize("kind", ALL)
def test_a_catalog_of_one_product(kind):
    baseline = kind.fit(log([(0, 0, 0, 10)], num_users=2, num_items=1), SPLIT)
    assert baseline.recommend(np.array([0, 1]), 3, exclude_seen=False).item_nums.tolist() == [[0, -1, -1]] * 2
    assert baseline.recommend(np.array([0, 1]), 3, exclude_seen=True).item_nums.tolist() == [[-1, -1, -1], [0, -1, -1]]


@pytest.mark.parametrize("kind", ALL)
def test_the_same_purchases_give_the_same_rankings_to_the_last_digit(kind):
    one, other = (kind.fit(checkerboard(), SPLIT).recommend(np.arange(40), 20, exclude_seen=False) for _ in range(2))
    np.testing.assert_array_equal(one.item_nums, other.item_nums)
    np.testing.assert_array_equal(one.scores, other.scores)


def checkerboard():
    """Two groups of 20 customers and of 10 products; each buys all of the own group's but one. Group 1 buys twice."""
    lines = [
        (user, item, user * 2 + again, 90 - user)
        for user in range(40)
        for item in range(20)
        for again in range(1 + user // 20)
        if user // 20 == item // 10 and item % 10 != user % 10
    ]
    return log(lines, 40, 20)


@pytest.mark.parametrize("name", PERSONAL)
def test_personal_ones_fill_the_holes_of_a_checkerboard_and_popularity_does_not(name):
    customers = np.arange(40)
    holes = customers // 20 * 10 + customers % 10
    found = {
        kind: KINDS[kind].fit(checkerboard(), SPLIT).recommend(customers, 1, exclude_seen=True).item_nums[:, 0]
        for kind in (name, "popular_lately")
    }
    np.testing.assert_array_equal(found[name], holes)
    assert (found["popular_lately"] == holes).mean() == 0.5  # group 1 alone, which buys more


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
        alone = [other.recommend(users[user : user + 1], 5, exclude_seen=False) for user in users]
        np.testing.assert_allclose(np.concatenate([ranked.scores for ranked in alone]), together.scores, **FLOATING)
        if one.name not in ("ease", "als"):
            np.testing.assert_array_equal(np.concatenate([ranked.item_nums for ranked in alone]), together.item_nums)


def test_small_chunks_give_the_same_rankings(monkeypatch):
    generator = np.random.default_rng(3)
    lines = np.stack([generator.integers(0, limit, 600) for limit in (40, 50, 90, 99)], axis=1)
    purchases = log(lines.tolist(), 40, 50)
    users = np.arange(40)
    whole = [baseline.recommend(users, 20, exclude_seen=True) for baseline in fit_baselines(purchases, SPLIT)]
    monkeypatch.setattr("endcap.models.rules._CELLS_PER_CHUNK", 150)
    for module in ("item_scores", "item_knn"):
        monkeypatch.setattr(f"endcap.models.{module}.CELLS_PER_CHUNK", 150)
    parts = [baseline.recommend(users, 20, exclude_seen=True) for baseline in fit_baselines(purchases, SPLIT)]
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(other.scores, one.scores, **FLOATING)
