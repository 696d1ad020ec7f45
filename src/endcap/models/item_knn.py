"""Purchases in, rankings by what shares baskets with a customer's own products out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import scipy.sparse as sp

from endcap.contracts.errors import InputError
from endcap.models.item_scores import CELLS_PER_CHUNK, rank_scores, top_leftmost
from endcap.models.own_products import OwnProducts
from endcap.models.popularity import Popularity
from endcap.models.purchases import DAY_US, FloatArray, IntArray, PurchaseLog, Ranked


@dataclass(frozen=True)
class ItemKnn:
    """Products that share baskets with a user's own: item-item cosine, summed over the user's distinct products.

    The cosine of two products is (baskets with both) / sqrt(baskets with one × baskets with the other), and 1 of a
    product with itself; `shrink` s multiplies it by n / (n + s), n being the baskets with both, so that a chance meeting
    counts little (Bell and Koren, 2007). Each product keeps its `num_neighbors` nearest. Products that no own product
    leads to score 0 and follow in the order of popular lately.
    """

    name: ClassVar[str] = "co_purchase"
    title: ClassVar[str] = "co-purchase"

    popularity: Popularity
    own: OwnProducts
    bought: sp.csr_array  # [num_users, num_items]: weight of each own product
    similarity: sp.csr_array  # [num_items, num_items]; columns stand in popularity order, so that ties fall that way

    @classmethod
    def fit(
        cls,
        purchases: PurchaseLog,
        split_ts_us: int,
        *,
        window_days: int = 30,
        num_neighbors: int = 500,
        shrink: float = 0.0,
        half_life_days: float | None = None,
        session_gap_days: float | None = None,
    ) -> Self:
        """Count who bought what together before `split_ts_us`.

        Args:
            purchases: All lines.
            split_ts_us: Lines from here on are ignored.
            window_days: That of popular lately.
            num_neighbors: Most products that one leads to, itself included.
            shrink: Baskets below which a similarity is trusted less.
            half_life_days: An own product counts half for each so many days since it was last bought; none: all alike.
            session_gap_days: Together is what a user buys without a longer pause, over all baskets; none: one basket.
        """
        if num_neighbors < 1 or shrink < 0:
            raise InputError(
                f"num_neighbors is {num_neighbors}, shrink is {shrink}; expected at least 1 and at least 0."
            )
        known = purchases.before(split_ts_us)
        popularity = Popularity.fit(known, split_ts_us, window_days)
        own = OwnProducts.fit(known, popularity.places)
        bought = own.matrix(_weights(own, split_ts_us, half_life_days), known.num_items)
        groups = known.basket_nums if session_gap_days is None else _sessions(known, session_gap_days)
        similarity = _similarity(groups, known, popularity, num_neighbors, shrink)
        return cls(popularity, own, bought, similarity)

    def recommend(self, user_nums: IntArray, k: int, *, exclude_seen: bool) -> Ranked:
        """The `k` products nearest to what each user bought; with `exclude_seen`, none of those themselves."""

        def score(users: IntArray) -> FloatArray:
            return np.asarray((self.bought[users] @ self.similarity).toarray())

        return rank_scores(score, self.popularity, self.own, user_nums, k, exclude_seen=exclude_seen)


def _weights(own: OwnProducts, split_ts_us: int, half_life_days: float | None) -> FloatArray:
    if half_life_days is None:
        return np.ones(len(own.item_nums))
    if not half_life_days > 0:
        raise InputError(f"half_life_days is {half_life_days}; expected more than 0, or none.")
    return np.exp2((own.last_us - split_ts_us) / (half_life_days * DAY_US))


def _sessions(purchases: PurchaseLog, gap_days: float) -> IntArray:
    if not gap_days > 0:
        raise InputError(f"session_gap_days is {gap_days}; expected more than 0, or none.")
    return number_sessions(purchases.user_nums, purchases.ts_us, gap_days)


def number_sessions(user_nums: IntArray, ts_us: IntArray, gap_days: float) -> IntArray:
    """Number of each line's session: a user's lines without a pause of more than `gap_days`."""
    order = np.lexsort((ts_us, user_nums))
    users, moments = user_nums[order], ts_us[order]
    begins = np.ones(len(order), dtype=bool)
    begins[1:] = (users[1:] != users[:-1]) | (np.diff(moments) > gap_days * DAY_US)
    sessions = np.empty(len(order), dtype=np.int64)
    sessions[order] = np.cumsum(begins) - 1
    return sessions


def _similarity(
    groups: IntArray, purchases: PurchaseLog, popularity: Popularity, num_neighbors: int, shrink: float
) -> sp.csr_array:
    num_items = purchases.num_items
    baskets, rows = np.unique(groups, return_inverse=True)
    lines = sp.csr_array((np.ones(len(rows)), (rows, purchases.item_nums)), shape=(len(baskets), num_items))
    lines.sum_duplicates()
    lines.data[:] = 1.0
    by_item = sp.csr_array(lines.T)
    by_place = sp.csr_array(lines[:, popularity.order])
    norms = np.sqrt(np.maximum(np.diff(by_item.indptr), 1))
    blocks = []
    rows_per_chunk = max(1, CELLS_PER_CHUNK // num_items)
    for start in range(0, num_items, rows_per_chunk):
        items = np.arange(start, min(start + rows_per_chunk, num_items))
        together = by_item[items] @ by_place
        row = np.repeat(items, np.diff(together.indptr))
        cosine = together.data / (norms[row] * norms[popularity.order][together.indices])
        together.data = cosine * (together.data / (together.data + shrink))
        blocks.append(_nearest(together, num_neighbors))
    return sp.csr_array(sp.vstack(blocks, format="csr"))


def _nearest(together: sp.csr_array, num_neighbors: int) -> sp.csr_array:
    """The highest values of each row; of equal ones the leftmost. Only rows that hold more are spread out."""
    lengths = np.diff(together.indptr)
    long = np.flatnonzero(lengths > num_neighbors)
    if not len(long):
        return together
    places, best = top_leftmost(together[long].toarray(), num_neighbors)
    keep = np.repeat(lengths <= num_neighbors, lengths)
    row = np.concatenate([np.repeat(np.arange(len(lengths)), lengths)[keep], np.repeat(long, num_neighbors)])
    columns = np.concatenate([together.indices[keep], places.ravel()])
    values = np.concatenate([together.data[keep], best.ravel()])
    nearest = sp.csr_array((values, (row, columns)), shape=together.shape)
    nearest.sort_indices()
    return nearest
