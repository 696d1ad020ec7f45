"""Purchase arrays in, rankings out: the three rules that every model must beat.

All rankings are exact and deterministic: whatever a rule leaves equal is ordered by popularity lately, then popularity
over all time, then item number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from endcap.contracts.errors import InputError

DAY_US = 24 * 60 * 60 * 1_000_000
_CELLS_PER_CHUNK = 8_000_000
_NO_ITEM = -1

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class PurchaseLog:
    """Purchase lines, in any order; the four arrays are aligned.

    `user_nums` lie in `[0, num_users)`, `item_nums` in `[0, num_items)`, `ts_us` are microseconds since 1970, UTC;
    `basket_nums` are 0 or more, one for each basket over all users. Raises InputError when lengths or ranges don't fit.
    """

    user_nums: IntArray
    item_nums: IntArray
    basket_nums: IntArray
    ts_us: IntArray
    num_users: int
    num_items: int

    def __post_init__(self) -> None:
        lengths = {len(values) for values in (self.user_nums, self.item_nums, self.basket_nums, self.ts_us)}
        if len(lengths) != 1:
            raise InputError(f"Purchase arrays have lengths {sorted(lengths)}; give four aligned arrays.")
        if not len(self.user_nums) or not self.num_items:
            raise InputError("There are no purchases to fit a baseline on; check the split moment and the source.")
        for name, values, limit in (
            ("user_nums", self.user_nums, self.num_users),
            ("item_nums", self.item_nums, self.num_items),
            ("basket_nums", self.basket_nums, np.iinfo(np.int64).max),
        ):
            low, high = int(values.min()), int(values.max())
            if low < 0 or high >= limit:
                raise InputError(f"{name} range from {low} to {high}; expected 0 to {limit - 1}.")

    def before(self, moment_us: int) -> PurchaseLog:
        """The lines earlier than `moment_us`. Raises InputError when there are none."""
        keep = self.ts_us < moment_us
        return PurchaseLog(
            self.user_nums[keep],
            self.item_nums[keep],
            self.basket_nums[keep],
            self.ts_us[keep],
            self.num_users,
            self.num_items,
        )


@dataclass(frozen=True)
class Ranked:
    """Best first: `item_nums` and `scores`, both `[num_users, k]`; short rows end in -1 and -inf.

    Scores never rise along a row; they are comparable within a row only.
    """

    item_nums: IntArray
    scores: FloatArray


class Baseline(Protocol):
    """What every baseline can do, and the name under which it is reported."""

    name: ClassVar[str]
    title: ClassVar[str]

    def recommend(self, user_nums: IntArray, k: int, *, exclude_seen: bool) -> Ranked:
        """The `k` best products for each user; with `exclude_seen`, none that the user bought before."""
        ...


@dataclass(frozen=True)
class _Popularity:
    """Every product once, most popular first, and each product's place in that order."""

    order: IntArray
    places: IntArray
    scores: FloatArray  # by item, in [0, 1], strictly falling along `order`

    @classmethod
    def fit(cls, purchases: PurchaseLog, split_ts_us: int, window_days: int) -> Self:
        if window_days <= 0:
            raise InputError(f"window_days is {window_days}; expected at least 1.")
        recent = purchases.ts_us >= split_ts_us - window_days * DAY_US
        num_recent = np.bincount(purchases.item_nums[recent], minlength=purchases.num_items)
        num_ever = np.bincount(purchases.item_nums, minlength=purchases.num_items)
        order = np.lexsort((np.arange(purchases.num_items), -num_ever, -num_recent)).astype(np.int64)
        places = np.empty_like(order)
        places[order] = np.arange(len(order))
        return cls(order, places, 1.0 - (places + 1) / (len(order) + 1))


@dataclass(frozen=True)
class _OwnProducts:
    """Each user's distinct products as rows of a CSR layout, most bought first."""

    offsets: IntArray
    item_nums: IntArray
    counts: IntArray

    @classmethod
    def fit(cls, purchases: PurchaseLog, places: IntArray) -> Self:
        pairs = purchases.user_nums * purchases.num_items + purchases.item_nums
        distinct, counts = np.unique(pairs, return_counts=True)
        users, items = np.divmod(distinct, purchases.num_items)
        order = np.lexsort((places[items], -counts, users))
        offsets = np.zeros(purchases.num_users + 1, dtype=np.int64)
        np.cumsum(np.bincount(users, minlength=purchases.num_users), out=offsets[1:])
        return cls(offsets, items[order], counts[order].astype(np.int64))

    def rows(self, user_nums: IntArray) -> tuple[IntArray, IntArray, IntArray]:
        """Position in `user_nums`, place within the user's row and index into the arrays, for each product."""
        lengths = self.offsets[user_nums + 1] - self.offsets[user_nums]
        row = np.repeat(np.arange(len(user_nums)), lengths)
        place = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return row, place, np.repeat(self.offsets[user_nums], lengths) + place

    def check(self, user_nums: IntArray, k: int) -> None:
        num_users = len(self.offsets) - 1
        if len(user_nums) and (user_nums.min() < 0 or user_nums.max() >= num_users):
            raise InputError(
                f"User numbers range from {user_nums.min()} to {user_nums.max()}; the baseline knows 0 to {num_users - 1}."
            )
        if k < 1:
            raise InputError(f"k is {k}; expected at least 1.")


@dataclass(frozen=True)
class PopularLately:
    """The same ranking for everybody: products by purchase lines in the days before the split.

    Products without any line in the window follow, by their lines over all time. A score is 1 minus the place in that
    ranking, scaled to lie between 0 and 1.
    """

    name: ClassVar[str] = "popular_lately"
    title: ClassVar[str] = "popular lately"

    popularity: _Popularity
    own: _OwnProducts

    @classmethod
    def fit(cls, purchases: PurchaseLog, split_ts_us: int, *, window_days: int = 30) -> Self:
        """Count what was bought in `[split_ts_us - window_days, split_ts_us)`; later lines are ignored."""
        known = purchases.before(split_ts_us)
        popularity = _Popularity.fit(known, split_ts_us, window_days)
        return cls(popularity, _OwnProducts.fit(known, popularity.places))

    def recommend(self, user_nums: IntArray, k: int, *, exclude_seen: bool) -> Ranked:
        """The `k` most popular products for each user; with `exclude_seen`, none that the user bought before."""
        return _rank_with_popular(self.popularity, self.own, user_nums, k, own_first=False, exclude_seen=exclude_seen)


@dataclass(frozen=True)
class OwnMostBought:
    """A user's own products by number of purchase lines, then everything else; ties and the rest by popular lately.

    A score is the number of own lines plus the popularity, which lies between 0 and 1. Ties are the rule rather than
    the exception (most products were bought once), and popularity lately breaks them better than the last purchase.
    """

    name: ClassVar[str] = "own_most_bought"
    title: ClassVar[str] = "own most bought"

    popularity: _Popularity
    own: _OwnProducts

    @classmethod
    def fit(cls, purchases: PurchaseLog, split_ts_us: int, *, window_days: int = 30) -> Self:
        """Count each user's products before `split_ts_us`; `window_days` is that of popular lately."""
        known = purchases.before(split_ts_us)
        popularity = _Popularity.fit(known, split_ts_us, window_days)
        return cls(popularity, _OwnProducts.fit(known, popularity.places))

    def recommend(self, user_nums: IntArray, k: int, *, exclude_seen: bool) -> Ranked:
        """Own products, then popular ones; with `exclude_seen` the own ones go, which leaves popular lately."""
        return _rank_with_popular(self.popularity, self.own, user_nums, k, own_first=True, exclude_seen=exclude_seen)


@dataclass(frozen=True)
class CoPurchase:
    """Products that share baskets with a user's own: item-item cosine, summed over the user's distinct products.

    The cosine of two products is (baskets with both) / sqrt(baskets with one × baskets with the other), and 1 of a
    product with itself. Each product keeps its `num_neighbors` nearest. Products that no own product leads to score 0
    and follow in the order of popular lately.
    """

    name: ClassVar[str] = "co_purchase"
    title: ClassVar[str] = "co-purchase"

    popularity: _Popularity
    own: _OwnProducts
    similarity: sp.csr_array  # [num_items, num_items]; columns stand in popularity order, so that ties fall that way

    @classmethod
    def fit(cls, purchases: PurchaseLog, split_ts_us: int, *, window_days: int = 30, num_neighbors: int = 500) -> Self:
        """Count who bought what together before `split_ts_us`; `window_days` is that of popular lately."""
        if num_neighbors < 1:
            raise InputError(f"num_neighbors is {num_neighbors}; expected at least 1.")
        known = purchases.before(split_ts_us)
        popularity = _Popularity.fit(known, split_ts_us, window_days)
        own = _OwnProducts.fit(known, popularity.places)
        return cls(popularity, own, _similarity(known, popularity, num_neighbors))

    def recommend(self, user_nums: IntArray, k: int, *, exclude_seen: bool) -> Ranked:
        """The `k` products nearest to what each user bought; with `exclude_seen`, none of those themselves."""
        self.own.check(user_nums, k)
        num_items = len(self.popularity.order)
        item_nums = np.full((len(user_nums), k), _NO_ITEM, dtype=np.int64)
        scores = np.full((len(user_nums), k), -np.inf)
        width = min(k, num_items)
        rows_per_chunk = max(1, _CELLS_PER_CHUNK // num_items)
        for start in range(0, len(user_nums), rows_per_chunk):
            chunk = user_nums[start : start + rows_per_chunk]
            row, _, index = self.own.rows(chunk)
            own_items = self.own.item_nums[index]
            bought = sp.csr_array((np.ones(len(row)), (row, own_items)), shape=(len(chunk), num_items))
            chunk_scores = (bought @ self.similarity).toarray()
            if exclude_seen:
                chunk_scores[row, self.popularity.places[own_items]] = -np.inf
            places, best = _top_leftmost(chunk_scores, width)
            stop = start + len(chunk)
            scores[start:stop, :width] = best
            item_nums[start:stop, :width] = np.where(np.isneginf(best), _NO_ITEM, self.popularity.order[places])
        return Ranked(item_nums, scores)


def fit_baselines(purchases: PurchaseLog, split_ts_us: int, *, window_days: int = 30) -> tuple[Baseline, ...]:
    """Every baseline, fitted on the purchases before `split_ts_us`."""
    return (
        PopularLately.fit(purchases, split_ts_us, window_days=window_days),
        OwnMostBought.fit(purchases, split_ts_us, window_days=window_days),
        CoPurchase.fit(purchases, split_ts_us, window_days=window_days),
    )


def _rank_with_popular(
    popularity: _Popularity, own: _OwnProducts, user_nums: IntArray, k: int, *, own_first: bool, exclude_seen: bool
) -> Ranked:
    own.check(user_nums, k)
    item_nums = np.full((len(user_nums), k), _NO_ITEM, dtype=np.int64)
    scores = np.full((len(user_nums), k), -np.inf)
    num_own = own.offsets[user_nums + 1] - own.offsets[user_nums]
    # Rows of like length share a chunk: one wholesaler then widens its own chunk only.
    by_length = np.argsort(num_own, kind="stable")
    start = 0
    while start < len(by_length):
        num_rows = max(1, _CELLS_PER_CHUNK // (2 * k + int(num_own[by_length[min(start + 4096, len(by_length)) - 1]])))
        rows = by_length[start : start + min(num_rows, 4096)]
        item_nums[rows], scores[rows] = _own_then_popular(
            popularity, own, user_nums[rows], k, own_first=own_first and not exclude_seen, drop_own=exclude_seen
        )
        start += len(rows)
    return Ranked(item_nums, scores)


def _own_then_popular(
    popularity: _Popularity, own: _OwnProducts, user_nums: IntArray, k: int, *, own_first: bool, drop_own: bool
) -> tuple[IntArray, FloatArray]:
    row, place, index = own.rows(user_nums)
    own_items = own.item_nums[index]
    # Enough of the popular head to fill k places however many of a user's own products stand in it.
    longest = int(place.max(initial=-1)) + 1 if drop_own else 0
    head = popularity.order[: k + longest]
    num_users = len(user_nums)
    items = np.full((num_users, k + len(head)), _NO_ITEM, dtype=np.int64)
    scores = np.full((num_users, k + len(head)), -np.inf)
    items[:, k:] = head
    scores[:, k:] = popularity.scores[head]
    if own_first or drop_own:
        own_place = popularity.places[own_items]
        in_head = own_place < len(head)
        items[row[in_head], k + own_place[in_head]] = _NO_ITEM
    if own_first:
        fits = place < k
        items[row[fits], place[fits]] = own_items[fits]
        scores[row[fits], place[fits]] = own.counts[index[fits]] + popularity.scores[own_items[fits]]
    picked = np.argsort(items == _NO_ITEM, axis=1, kind="stable")[:, :k]
    best_items = np.take_along_axis(items, picked, axis=1)
    best_scores = np.take_along_axis(scores, picked, axis=1)
    best_scores[best_items == _NO_ITEM] = -np.inf
    return best_items, best_scores


def _similarity(purchases: PurchaseLog, popularity: _Popularity, num_neighbors: int) -> sp.csr_array:
    num_items = purchases.num_items
    baskets, rows = np.unique(purchases.basket_nums, return_inverse=True)
    lines = sp.csr_array((np.ones(len(rows)), (rows, purchases.item_nums)), shape=(len(baskets), num_items))
    lines.sum_duplicates()
    lines.data[:] = 1.0
    by_item = sp.csr_array(lines.T)
    by_place = sp.csr_array(lines[:, popularity.order])
    norms = np.sqrt(np.maximum(np.diff(by_item.indptr), 1))
    blocks = []
    rows_per_chunk = max(1, _CELLS_PER_CHUNK // num_items)
    for start in range(0, num_items, rows_per_chunk):
        items = np.arange(start, min(start + rows_per_chunk, num_items))
        together = (by_item[items] @ by_place).toarray()
        cosine = together / (norms[items, None] * norms[popularity.order][None, :])
        places, best = _top_leftmost(cosine, min(num_neighbors, num_items))
        kept = best > 0
        row = np.nonzero(kept)[0]
        blocks.append(sp.csr_array((best[kept], (row, places[kept])), shape=(len(items), num_items)))
    return sp.csr_array(sp.vstack(blocks, format="csr"))


def _top_leftmost(scores: FloatArray, k: int) -> tuple[IntArray, FloatArray]:
    """Columns and scores of the `k` highest of each row, highest first; of equal ones the leftmost."""
    num_rows, num_columns = scores.shape
    kth = np.partition(scores, num_columns - k, axis=1)[:, num_columns - k, None]
    chosen = scores >= kth
    # Only where more than k columns reach the k-th score is there a tie to break; few rows need these wide passes.
    tied = np.flatnonzero(np.count_nonzero(chosen, axis=1) > k)
    above = scores[tied] > kth[tied]
    level = chosen[tied] & ~above
    room = k - np.count_nonzero(above, axis=1)[:, None]
    chosen[tied] = above | (level & (np.cumsum(level, axis=1) <= room))
    columns = np.nonzero(chosen)[1].reshape(num_rows, k)
    best = np.take_along_axis(scores, columns, axis=1)
    order = np.argsort(-best, axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1), np.take_along_axis(best, order, axis=1)
