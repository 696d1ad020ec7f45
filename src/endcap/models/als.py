"""Purchases in, rankings by factors from alternating least squares on implicit feedback out.

Hu, Koren and Volinsky (2008), solved by conjugate gradients (Takács, Pilászy and Tikk, 2011).
"""

# Shape suffixes: R = rows that are solved for, C = columns that are held, F = factors, E = bought pairs

from __future__ import annotations

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch.nn import functional

from endcap.contracts.errors import InputError
from endcap.models.item_scores import rank_scores
from endcap.models.own_products import OwnProducts
from endcap.models.popularity import Popularity
from endcap.models.purchases import IntArray, PurchaseLog, Ranked

_TINY = 1e-20
_WORTH_A_THREAD = 1 << 21
"""Products of a number with a number below which threads wait for each other longer than they work."""


@dataclass(frozen=True)
class Als:
    """Users and products as factors whose inner product is near 1 where a user bought a product, near 0 elsewhere.

    A pair that was bought weighs 1 + `alpha` × log(1 + lines), every other pair 1. Users without purchases have no
    factors: they get the order of popular lately.
    """

    name: ClassVar[str] = "als"
    title: ClassVar[str] = "ALS"

    popularity: Popularity
    own: OwnProducts
    user_factors: NDArray[np.float32]  # [num_users, num_factors]
    item_factors: NDArray[np.float32]  # [num_items, num_factors], products in popularity order

    @classmethod
    def fit(
        cls,
        purchases: PurchaseLog,
        split_ts_us: int,
        *,
        window_days: int = 30,
        num_factors: int = 64,
        alpha: float = 10.0,
        l2: float = 1.0,
        half_life_days: float | None = None,
        num_epochs: int = 15,
        seed: int = 7,
        num_threads: int = 2,
    ) -> Self:
        """Factorize what was bought before `split_ts_us`; the same seed and threads give the same factors.

        Args:
            purchases: All lines.
            split_ts_us: Lines from here on are ignored.
            window_days: That of popular lately.
            num_factors: Width of the factors.
            alpha: How much more a bought pair weighs than the others.
            l2: Penalty on the squares of the factors.
            half_life_days: A line counts half for each so many days of its age; none: all alike.
            num_epochs: Times that both sides are solved for.
            seed: Of the factors at the start.
            num_threads: CPU threads.
        """
        if min(num_factors, num_epochs, num_threads) < 1 or not l2 > 0 or not alpha > 0:
            raise InputError(
                f"num_factors is {num_factors}, num_epochs {num_epochs}, num_threads {num_threads}, l2 {l2}, alpha "
                f"{alpha}; expected at least 1 of the first three and more than 0 of the others."
            )
        known = purchases.before(split_ts_us)
        popularity = Popularity.fit(known, split_ts_us, window_days)
        own = OwnProducts.fit(known, popularity.places, split_ts_us, half_life_days)
        weights = sp.csr_array(own.matrix(1.0 + alpha * np.log1p(own.counts), known.num_items)[:, popularity.order])
        users, items = factorize(
            weights, num_factors=num_factors, l2=l2, num_epochs=num_epochs, seed=seed, num_threads=num_threads
        )
        users[np.diff(own.offsets) == 0] = 0.0
        return cls(popularity, own, users, items)

    def recommend(self, user_nums: IntArray, k: int, *, exclude_seen: bool) -> Ranked:
        """The `k` products with the largest inner products; with `exclude_seen`, none that the user bought before."""

        def score(users: IntArray) -> NDArray[np.float32]:
            return self.user_factors[users] @ self.item_factors.T

        return rank_scores(score, self.popularity, self.own, user_nums, k, exclude_seen=exclude_seen)


def factorize(
    weights: sp.csr_array,
    *,
    num_factors: int,
    l2: float,
    num_epochs: int,
    seed: int,
    num_threads: int,
    num_steps: int = 3,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Factors of rows and of columns, float32.

    `weights` are more than 1 for stored pairs, whose target is 1; pairs that aren't stored weigh 1 and have target 0.
    Each side is solved by `num_steps` of conjugate gradients from where it stands.
    """
    num_rows, num_columns = weights.shape
    if weights.nnz * num_factors < _WORTH_A_THREAD:
        num_threads = 1
    generator = torch.Generator().manual_seed(seed)
    x_RF = torch.rand(num_rows, num_factors, generator=generator) * 0.01
    y_CF = torch.rand(num_columns, num_factors, generator=generator) * 0.01
    # A thread works through its own rows alone: threads inside each product would wait for each other at every one.
    with _one_thread_inside(), ThreadPoolExecutor(num_threads) as pool:
        rows, columns = _Side(weights, num_threads), _Side(sp.csr_array(weights.T), num_threads)
        for _ in range(num_epochs):
            x_RF = rows.solve(x_RF, y_CF, l2, num_steps, pool)
            y_CF = columns.solve(y_CF, x_RF, l2, num_steps, pool)
    return x_RF.numpy(), y_CF.numpy()


class _Side:
    """Weights by the rows that are solved for while the columns' factors are held."""

    def __init__(self, weights: sp.csr_array, num_threads: int) -> None:
        # Dealt out longest first, so that every thread has as much to do as the others.
        by_length = np.argsort(-np.diff(weights.indptr), kind="stable")
        dealt = [by_length[thread::num_threads] for thread in range(num_threads)]
        self._orders = [torch.from_numpy(order.copy()) for order in dealt]
        self._parts = [_Rows(sp.csr_array(weights[order])) for order in dealt]

    def solve(
        self, x_RF: torch.Tensor, y_CF: torch.Tensor, l2: float, num_steps: int, pool: ThreadPoolExecutor
    ) -> torch.Tensor:
        """The rows' factors after `num_steps` from `x_RF`."""
        gram_FF = y_CF.T @ y_CF + l2 * torch.eye(y_CF.shape[1])
        solved_RF = torch.empty_like(x_RF)

        def work(order: torch.Tensor, part: _Rows) -> None:
            with torch.no_grad():
                solved_RF[order] = part.solve(x_RF[order], y_CF, gram_FF, num_steps)

        list(pool.map(work, self._orders, self._parts))
        return solved_RF


class _Rows:
    """Some rows' weights, and the products that solving for them takes."""

    def __init__(self, weights: sp.csr_array) -> None:
        weights.sort_indices()
        offsets = torch.from_numpy(weights.indptr.astype(np.int64))
        self._columns = torch.from_numpy(weights.indices.astype(np.int64))
        self._weights_E = torch.from_numpy(weights.data.astype(np.float32))
        self._starts = offsets[:-1]
        self._zero = _csr(offsets, self._columns, torch.zeros_like(self._weights_E), weights.shape)

    def solve(self, x_RF: torch.Tensor, y_CF: torch.Tensor, gram_FF: torch.Tensor, num_steps: int) -> torch.Tensor:
        """Steps from `x_RF` towards (gram + Yᵀ(W − 1)Y) x = Yᵀw of each row; `gram_FF` is YᵀY + l2."""
        more_E = self._weights_E - 1.0
        residual_RF = self._sum(self._weights_E - more_E * self._dots(x_RF, y_CF), y_CF).sub_(x_RF @ gram_FF)
        direction_RF = residual_RF.clone()
        square_R = (residual_RF * residual_RF).sum(1)
        for _ in range(num_steps):
            moved_RF = self._sum(more_E * self._dots(direction_RF, y_CF), y_CF).addmm_(direction_RF, gram_FF)
            length_R = square_R / ((direction_RF * moved_RF).sum(1) + _TINY)
            x_RF = x_RF + length_R[:, None] * direction_RF
            residual_RF -= length_R[:, None] * moved_RF
            next_R = (residual_RF * residual_RF).sum(1)
            direction_RF = residual_RF + (next_R / (square_R + _TINY))[:, None] * direction_RF
            square_R = next_R
        return x_RF

    def _dots(self, x_RF: torch.Tensor, y_CF: torch.Tensor) -> torch.Tensor:
        dots: torch.Tensor = torch.sparse.sampled_addmm(self._zero, x_RF, y_CF.T)
        return dots.values()

    def _sum(self, weights_E: torch.Tensor, y_CF: torch.Tensor) -> torch.Tensor:
        # A sparse product; as a bag it takes half the time.
        summed: torch.Tensor = functional.embedding_bag(
            self._columns, y_CF, self._starts, mode="sum", per_sample_weights=weights_E
        )
        return summed


def _csr(offsets: torch.Tensor, columns: torch.Tensor, values: torch.Tensor, shape: Any) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        made: torch.Tensor = torch.sparse_csr_tensor(offsets, columns, values, shape, check_invariants=False)
        return made


@contextmanager
def _one_thread_inside() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
