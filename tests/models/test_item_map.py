"""The item map against EASE's weights, which it holds whole or in few dimensions."""

import numpy as np
import pytest
import scipy.sparse as sp

from endcap.models.item_map import solve_map

NUM_USERS, NUM_ITEMS, L2 = 80, 30, 10.0


def shop(num_users=NUM_USERS, num_items=NUM_ITEMS):
    """Two kinds of customers, each with products of its own."""
    rng = np.random.default_rng(2)
    kind = rng.integers(0, 2, num_users)
    liked = np.arange(num_items) % 2 == kind[:, None]
    return (rng.random((num_users, num_items)) < np.where(liked, 0.5, 0.05)).astype(float)


def weights_of(bought):
    inverse = np.linalg.inv(bought.T @ bought + L2 * np.eye(bought.shape[1]))
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return weights


def predicted(bought, dim):
    tables = solve_map(sp.csr_array(bought), dim, L2)
    return bought @ tables.leads_NR @ tables.candidates_NR.T / np.sqrt(bought.shape[1])


def test_in_all_dimensions_the_map_is_ease():
    bought = shop()
    np.testing.assert_allclose(predicted(bought, NUM_ITEMS), bought @ weights_of(bought), atol=1e-5)


@pytest.mark.parametrize("dim", [1, 4, 12])
def test_in_few_dimensions_nothing_of_that_rank_is_closer_to_ease(dim):
    bought = shop()
    exact = bought @ weights_of(bought)
    singular = np.linalg.svd(exact, compute_uv=False)
    lost = np.linalg.norm(predicted(bought, dim) - exact)
    assert lost == pytest.approx(np.sqrt((singular[dim:] ** 2).sum()), rel=1e-3)


def test_of_many_products_each_is_predicted_from_its_nearest():
    # Fewer than 100 products, any two of which share a user: the nearest are all.
    bought = sp.csr_array((np.random.default_rng(3).random((NUM_USERS, NUM_ITEMS)) < 0.5).astype(float))
    exact, near = solve_map(bought, 4, L2), solve_map(bought, 4, L2, max_exact=10)
    products = [tables.leads_NR @ tables.candidates_NR.T for tables in (exact, near)]
    np.testing.assert_allclose(*products, atol=1e-4)


def test_candidates_are_orthogonal_and_of_one_length_in_each_dimension():
    candidates = solve_map(sp.csr_array(shop()), 5, L2).candidates_NR
    np.testing.assert_allclose(candidates.T @ candidates, NUM_ITEMS * np.eye(5), atol=1e-3)


def test_dimensions_that_the_purchases_do_not_have_are_zero():
    bought = np.ones((3, 2))
    tables = solve_map(sp.csr_array(bought), 6, L2)
    assert tables.leads_NR.shape == tables.candidates_NR.shape == (2, 6)
    assert not tables.candidates_NR[:, 2:].any()
    # One product, or none bought with another: there is nothing to lead to.
    for lonely in (np.ones((4, 1)), np.eye(3)):
        assert not solve_map(sp.csr_array(lonely), 2, L2).leads_NR.any()


def test_the_map_is_the_same_each_time():
    first, second = (solve_map(sp.csr_array(shop()), 4, L2) for _ in range(2))
    np.testing.assert_array_equal(first.leads_NR, second.leads_NR)
