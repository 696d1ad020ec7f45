"""EASE against its textbook formula, by whichever way it is solved."""

import numpy as np
import pytest

from endcap.contracts.errors import InputError
from endcap.models.ease import Ease
from tests.models.purchase_logs import SPLIT, log

NUM_USERS, NUM_ITEMS = 90, 70


def dense_shop(num_users=NUM_USERS, num_items=NUM_ITEMS):
    """Everybody buys about half of everything, so that every two products share a customer."""
    rng = np.random.default_rng(5)
    bought = rng.random((num_users, num_items)) < rng.uniform(0.3, 0.7, num_items)
    bought[-1] = False
    users, items = np.nonzero(bought)
    lines = np.stack([users, items, users, rng.integers(1, 99, len(users))], axis=1)
    return bought.astype(float), log(lines.tolist(), num_users, num_items)


def textbook(bought, l2):
    inverse = np.linalg.inv(bought.T @ bought + l2 * np.eye(bought.shape[1]))
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return bought @ weights


def scores_by_item(baseline, num_users=NUM_USERS, num_items=NUM_ITEMS):
    ranked = baseline.recommend(np.arange(num_users), num_items, exclude_seen=False)
    scores = np.empty_like(ranked.scores)
    np.put_along_axis(scores, ranked.item_nums, ranked.scores, axis=1)
    return scores


@pytest.mark.parametrize(("num_users", "max_exact"), [(90, 90), (60, 60), (90, 80), (60, 65)])
def test_by_products_and_by_users_it_is_the_same_closed_form(num_users, max_exact):
    bought, purchases = dense_shop(num_users)
    baseline = Ease.fit(purchases, SPLIT, l2=20.0, max_exact=max_exact)
    assert baseline.title == "EASE"
    np.testing.assert_allclose(scores_by_item(baseline, num_users), textbook(bought, 20.0), atol=2e-5)


def test_neighborhoods_that_hold_every_product_give_the_exact_solution():
    bought, purchases = dense_shop()
    baseline = Ease.fit(purchases, SPLIT, l2=20.0, num_neighbors=NUM_ITEMS - 1, max_exact=10)
    assert baseline.title == "EASE, approximated from 69 neighbors"
    np.testing.assert_allclose(scores_by_item(baseline), textbook(bought, 20.0), atol=1e-9)


def test_a_neighborhood_is_a_ridge_regression_on_the_nearest_products():
    # Product 2 is bought with 0 by three customers, with 1 by one: its one neighbor is 0. Weight: 3 / (4 + 2).
    baskets = {0: (0, 2), 1: (0, 2), 2: (0, 1, 2), 3: (0,), 4: (1, 3)}
    filler = [(user, 4 + user, user, 50) for user in range(5, 90)]
    lines = [(user, item, user, 50) for user, items in baskets.items() for item in items] + filler
    baseline = Ease.fit(log(lines, 90, 100), SPLIT, l2=2.0, num_neighbors=1, max_exact=5)
    ranked = baseline.recommend(np.array([3]), 1, exclude_seen=True)
    assert ranked.item_nums.tolist() == [[2]]
    np.testing.assert_allclose(ranked.scores, [[3 / 6]])


def test_where_the_exact_solution_is_too_large_few_neighbors_come_close():
    bought, purchases = dense_shop()
    exact = textbook(bought, 20.0)
    near = scores_by_item(Ease.fit(purchases, SPLIT, l2=20.0, num_neighbors=40, max_exact=10))
    far = scores_by_item(Ease.fit(purchases, SPLIT, l2=20.0, num_neighbors=2, max_exact=10))
    assert np.abs(near - exact).mean() < np.abs(far - exact).mean() / 2


@pytest.mark.parametrize(
    ("setting", "message"), [({"l2": 0.0}, "l2 is 0"), ({"num_neighbors": 0}, "num_neighbors is 0")]
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(InputError, match=message):
        Ease.fit(log(), SPLIT, **setting)
