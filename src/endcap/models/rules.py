"""Purchases in, the rankings of two plain rules out: what sells lately, and what the customer bought most.

Both are exact and deterministic: whatever a rule leaves equal is ordered by popularity lately, then popularity over all
time, then item number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from endcap.models.own_products import OwnProducts
from endcap.models.popularity import Popularity
from endcap.models.purchases import NO_ITEM, FloatArray, IntArray, PurchaseLog, Ranked

_CELLS_PER_CHUNK = 8_000_000
_ROWS_PER_CHUNK = 4096


@dataclass(frozen=True)
class PopularLately:
    """The same ranking for everybody: products by purchase lines in the days before the split.

    Products without any line in the window follow, by their lines over all time. A score is 1 minus the place in that
    ranking, scaled to lie between 0 and 1.
    """

    name: ClassVar[str] = "popular_lately"
    title: ClassVar[str] = "popular lately"

    popularity: Popularity
    own: OwnProducts

    @classmethod
    def fit(
        cls, purchases: PurchaseLog, split_ts_us: int, *, window_days: int = 30, half_life_days: float | None = None
    ) -> Self:
        """Count what was bought in `[split_ts_us - window_days, split_ts_us)`; later lines are ignored.

        With `half_life_days` there is no window: every earlier line counts, half for each so many days of its age.
        """
        known = purchases.before(split_ts_us)
        popularity = Popularity.fit(known, split_ts_us, window_days, half_life_days)
        return cls(popularity, OwnProducts.fit(known, popularity.places))

    def recommend(self, user_nums: IntArray, k: int, *, exclude_seen: bool) -> Ranked:
        """The `k` most popular products for each user; with `exclude_seen`, none that the user bought before."""
        return _rank_with_popular(self.popularity, self.own, user_nums, k, own_first=False, exclude_seen=exclude_seen)


@dataclass(frozen=True)
class OwnMostBought:
    """A user's own products by number of purchase lines, then everything else; ties and the rest by popular lately.

    A score is 1 plus the number of own lines, or else the popularity, which lies between 0 and 1. Ties are the rule
    rather than the exception (most products were bought once), and popularity lately breaks them better than the last
    purchase.
    """

    name: ClassVar[str] = "own_most_bought"
    title: ClassVar[str] = "own most bought"

    popularity: Popularity
    own: OwnProducts

    @classmethod
    def fit(
        cls, purchases: PurchaseLog, split_ts_us: int, *, window_days: int = 30, half_life_days: float | None = None
    ) -> Self:
        """Count each user's products before `split_ts_us`; `window_days` is that of popular lately.

        With `half_life_days` an own line counts half for each so many days of its age.
        """
        known = purchases.before(split_ts_us)
        popularity = Popularity.fit(known, split_ts_us, window_days)
        return cls(popularity, OwnProducts.fit(known, popularity.places, split_ts_us, half_life_days))

    def recommend(self, user_nums: IntArray, k: int, *, exclude_seen: bool) -> Ranked:
        """Own products, then popular ones; with `exclude_seen` the own ones go, which leaves popular lately."""
        return _rank_with_popular(self.popularity, self.own, user_nums, k, own_first=True, exclude_seen=exclude_seen)


def _rank_with_popular(
    popularity: Popularity, own: OwnProducts, user_nums: IntArray, k: int, *, own_first: bool, exclude_seen: bool
) -> Ranked:
    own.check(user_nums, k)
    item_nums = np.full((len(user_nums), k), NO_ITEM, dtype=np.int64)
    scores = np.full((len(user_nums), k), -np.inf)
    num_own = own.offsets[user_nums + 1] - own.offsets[user_nums]
    # Rows of like length share a chunk: one wholesaler then widens its own chunk only.
    by_length = np.argsort(num_own, kind="stable")
    start = 0
    while start < len(by_length):
        widest = int(num_own[by_length[min(start + _ROWS_PER_CHUNK, len(by_length)) - 1]])
        num_rows = max(1, _CELLS_PER_CHUNK // (2 * k + widest))
        rows = by_length[start : start + min(num_rows, _ROWS_PER_CHUNK)]
        item_nums[rows], scores[rows] = _own_then_popular(
            popularity, own, user_nums[rows], k, own_first=own_first and not exclude_seen, drop_own=exclude_seen
        )
        start += len(rows)
    return Ranked(item_nums, scores)


def _own_then_popular(
    popularity: Popularity, own: OwnProducts, user_nums: IntArray, k: int, *, own_first: bool, drop_own: bool
) -> tuple[IntArray, FloatArray]:
    row, place, index = own.rows(user_nums)
    own_items = own.item_nums[index]
    # Enough of the popular head to fill k places however many of a user's own products stand in it.
    longest = int(place.max(initial=-1)) + 1 if drop_own else 0
    head = popularity.order[: k + longest]
    num_users = len(user_nums)
    items = np.full((num_users, k + len(head)), NO_ITEM, dtype=np.int64)
    scores = np.full((num_users, k + len(head)), -np.inf)
    items[:, k:] = head
    scores[:, k:] = popularity.scores[head]
    if own_first or drop_own:
        own_place = popularity.places[own_items]
        in_head = own_place < len(head)
        items[row[in_head], k + own_place[in_head]] = NO_ITEM
    if own_first:
        fits = place < k
        items[row[fits], place[fits]] = own_items[fits]
        scores[row[fits], place[fits]] = 1.0 + own.counts[index[fits]]
    picked = np.argsort(items == NO_ITEM, axis=1, kind="stable")[:, :k]
    best_items = np.take_along_axis(items, picked, axis=1)
    best_scores = np.take_along_axis(scores, picked, axis=1)
    best_scores[best_items == NO_ITEM] = -np.inf
    return best_items, best_scores
