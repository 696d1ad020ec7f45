"""Purchases in, rankings by a linear map from own products to all products, in closed form, out.

Steck, "Embarrassingly Shallow Autoencoders for Sparse Data" (WWW 2019).
"""

# Shape suffixes: U = users who bought something, I = products, B = a batch of products, N = neighbors

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.linalg import lapack

from endcap.contracts.errors import InputError
from endcap.models.ease_neighborhoods import solve_neighborhoods
from endcap.models.item_scores import rank_scores
from endcap.models.own_products import OwnProducts
from endcap.models.popularity import Popularity
from endcap.models.purchases import IntArray, PurchaseLog, Ranked

MAX_EXACT = 15_000
"""Rows of the largest matrix that is inverted: 0.9 GB of single precision, 1.8 GB of double."""

Score = Callable[[IntArray], NDArray[Any]]


@dataclass(frozen=True)
class Ease:
    """Each product predicted from the others by ridge regression over users; the weights are summed over own products.

    Exact while products or users number at most `MAX_EXACT`: the inverse is over whichever are fewer. Beyond that each
    product's regression is restricted to its nearest products, and the title says so. Users without purchases get the
    order of popular lately.
    """

    name: ClassVar[str] = "ease"

    title: str
    popularity: Popularity
    own: OwnProducts
    score: Score

    @classmethod
    def fit(
        cls,
        purchases: PurchaseLog,
        split_ts_us: int,
        *,
        window_days: int = 30,
        l2: float = 200.0,
        num_neighbors: int = 100,
        max_exact: int = MAX_EXACT,
    ) -> Self:
        """Solve for what was bought before `split_ts_us`.

        Args:
            purchases: All lines.
            split_ts_us: Lines from here on are ignored.
            window_days: That of popular lately.
            l2: Penalty on the squares of the weights, in users.
            num_neighbors: Products that one is predicted from where the exact solution is too large.
            max_exact: Most rows of a matrix that is inverted.
        """
        if not l2 > 0 or num_neighbors < 1:
            raise InputError(f"l2 is {l2}, num_neighbors is {num_neighbors}; expected more than 0 and at least 1.")
        known = purchases.before(split_ts_us)
        popularity = Popularity.fit(known, split_ts_us, window_days)
        own = OwnProducts.fit(known, popularity.places)
        bought = sp.csr_array(own.matrix(np.ones(len(own.item_nums)), known.num_items)[:, popularity.order])
        bought.sort_indices()
        num_buyers = int(np.count_nonzero(np.diff(own.offsets)))
        title = "EASE"
        if known.num_items <= min(max_exact, num_buyers) or known.num_items <= 64:
            score = _by_products(bought, l2)
        elif num_buyers <= max_exact:
            score = _by_users(bought, l2)
        elif known.num_items <= max_exact:
            score = _by_products(bought, l2)
        else:
            weights = solve_neighborhoods(bought, l2, num_neighbors)
            score = _sparse_score(bought, weights)
            title = f"EASE, approximated from {num_neighbors} neighbors"
        return cls(title, popularity, own, score)

    def recommend(self, user_nums: IntArray, k: int, *, exclude_seen: bool) -> Ranked:
        """The `k` products with the largest sums; with `exclude_seen`, none that the user bought before."""
        return rank_scores(self.score, self.popularity, self.own, user_nums, k, exclude_seen=exclude_seen)


def solve_weights(
    bought: sp.csr_array, l2: float, num_neighbors: int = 100, max_exact: int = MAX_EXACT
) -> NDArray[np.float32] | sp.csr_array:
    """`[num_items, num_items]`: column j predicts product j from the others; sparse where an inverse is too large."""
    if bought.shape[1] > max_exact:
        return sp.csr_array(solve_neighborhoods(bought, l2, num_neighbors).astype(np.float32))
    return _weights_by_products(bought, l2)


def _weights_by_products(bought: sp.csr_array, l2: float) -> NDArray[np.float32]:
    """B = I − P · diag(1 / diag P), P = (XᵀX + l2)⁻¹, in single precision and in place."""
    gram_II = np.asfortranarray((bought.T @ bought).toarray().astype(np.float32))
    np.fill_diagonal(gram_II, gram_II.diagonal() + np.float32(l2))
    weights_II = _inverse(gram_II)
    weights_II /= -weights_II.diagonal()[None, :]
    np.fill_diagonal(weights_II, 0.0)
    return weights_II


def _by_products(bought: sp.csr_array, l2: float) -> Score:
    weights_II = _weights_by_products(bought, l2)
    bought = bought.astype(np.float32)

    def score(users: IntArray) -> NDArray[np.float32]:
        return np.asarray(bought[users] @ weights_II)

    return score


def _by_users(bought: sp.csr_array, l2: float) -> Score:
    """The same scores by way of users: X P = K⁻¹ X and diag P = (1 − diag XᵀK⁻¹X) / l2, K = XXᵀ + l2.

    In double precision, since 1 − … cancels for products that everybody buys.
    """
    buyers = np.flatnonzero(np.diff(bought.indptr))
    bought_UI = sp.csr_array(bought[buyers])
    kernel_UU = np.asfortranarray((bought_UI @ bought_UI.T).toarray())
    np.fill_diagonal(kernel_UU, kernel_UU.diagonal() + l2)
    inverse_UU = _inverse(kernel_UU)
    places = np.full(bought.shape[0], -1, dtype=np.int64)
    places[buyers] = np.arange(len(buyers))
    explained_I = np.zeros(bought.shape[1])
    step = max(1, 8_000_000 // bought.shape[1])
    for start in range(0, len(buyers), step):
        rows = bought_UI[start : start + step]
        projected_UI = np.asarray(inverse_UU[start : start + step] @ bought_UI)
        explained_I += np.asarray(rows.multiply(projected_UI).sum(axis=0)).ravel()
    diagonal_I = (1.0 - explained_I) / l2

    def score(users: IntArray) -> NDArray[np.float64]:
        scores = np.zeros((len(users), bought.shape[1]))
        known = np.flatnonzero(places[users] >= 0)
        own = places[users[known]]
        scores[known] = bought_UI[own].toarray() - np.asarray(inverse_UU[own] @ bought_UI) / diagonal_I
        return scores

    return score


def _sparse_score(bought: sp.csr_array, weights: sp.csr_array) -> Score:
    def score(users: IntArray) -> NDArray[np.float64]:
        return np.asarray((bought[users] @ weights).toarray())

    return score


def _inverse(matrix: NDArray[Any]) -> NDArray[Any]:
    """Inverse of a positive definite matrix in Fortran order, in its own memory."""
    single = matrix.dtype == np.float32
    factor, inverse = (lapack.spotrf, lapack.spotri) if single else (lapack.dpotrf, lapack.dpotri)
    lower, failed = factor(matrix, lower=True, overwrite_a=True)
    if not failed:
        lower, failed = inverse(lower, lower=True, overwrite_c=True)
    if failed:
        raise InputError("EASE has no solution in this precision; expected a larger l2, such as 100.")
    step = 512
    for start in range(0, len(lower), step):  # the upper half from the lower one, without a second matrix
        stop = start + step
        block = lower[start:stop, start:stop]
        lower[start:stop, start:stop] = np.tril(block) + np.tril(block, -1).T
        lower[start:stop, stop:] = lower[stop:, start:stop].T
    return np.asarray(lower)
