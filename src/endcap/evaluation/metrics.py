"""Rankings and the products bought later in, one number per customer and metric out.

Every metric counts a product as relevant or not, ranks start at 1, and a place that holds -1 is a miss. Relevant products
that no system can know take numbers from `num_items` upwards: they count among the relevant ones and are never hit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from endcap.contracts.errors import InputError

NO_ITEM = -1
RECALL_KS = (5, 10, 50, 100)
DEPTH = max(RECALL_KS)
METRICS = (*(f"recall@{k}" for k in RECALL_KS), "ndcg@10", "mrr", "hit_rate@10", "map@10")

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class RaggedSets:
    """One set of item numbers per customer: row `i` is `values[offsets[i]:offsets[i + 1]]`, rising, without repeats."""

    offsets: IntArray
    values: IntArray

    @classmethod
    def from_pairs(cls, rows: IntArray, values: IntArray, num_rows: int) -> RaggedSets:
        """Sets from (row, value) pairs in any order; repeats count once. Raises InputError on negative values."""
        if len(values) and int(values.min()) < 0:
            raise InputError(f"An item number is {int(values.min())}; expected 0 or more. Number unknown products too.")
        order = np.lexsort((values, rows))
        rows, values = rows[order], values[order]
        first = np.ones(len(rows), dtype=np.bool_)
        first[1:] = (rows[1:] != rows[:-1]) | (values[1:] != values[:-1])
        offsets = np.zeros(num_rows + 1, dtype=np.int64)
        np.cumsum(np.bincount(rows[first], minlength=num_rows), out=offsets[1:])
        return cls(offsets, values[first].astype(np.int64))

    @classmethod
    def from_lists(cls, sets: Sequence[Sequence[int]]) -> RaggedSets:
        """Sets from one sequence of item numbers per customer."""
        rows = np.repeat(np.arange(len(sets)), [len(values) for values in sets])
        flat = np.array([value for values in sets for value in values], dtype=np.int64)
        return cls.from_pairs(rows, flat, len(sets))

    @property
    def lengths(self) -> IntArray:
        """Number of values of each row."""
        return np.diff(self.offsets)

    @property
    def rows(self) -> IntArray:
        """The row of each value."""
        return np.repeat(np.arange(len(self.offsets) - 1), self.lengths)

    def select(self, keep: BoolArray) -> RaggedSets:
        """The rows for which `keep` is true."""
        inside = np.repeat(keep, self.lengths)
        offsets = np.zeros(int(keep.sum()) + 1, dtype=np.int64)
        np.cumsum(self.lengths[keep], out=offsets[1:])
        return RaggedSets(offsets, self.values[inside])

    def minus(self, other: RaggedSets) -> RaggedSets:
        """Each row without the values of the same row of `other`."""
        rest = ~other.contain(self.rows, self.values)
        return RaggedSets.from_pairs(self.rows[rest], self.values[rest], len(self.offsets) - 1)

    def contain(self, rows: IntArray, values: IntArray) -> BoolArray:
        """Whether row `rows[...]` holds `values[...]`; the shapes broadcast, and -1 is in no row."""
        if not len(self.values):
            return np.zeros(np.broadcast_shapes(rows.shape, values.shape), dtype=np.bool_)
        stride = int(max(self.values.max(), values.max(initial=0))) + 1
        keys = self.rows * stride + self.values
        wanted = rows * stride + values
        places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.asarray((keys[places] == wanted) & (values >= 0), dtype=np.bool_)


def read_rankings(table: pa.Table, user_nums: IntArray, depth: int = DEPTH) -> IntArray:
    """A table of recommendations as an array `[num_users, depth]`, in the order of `user_nums`, padded with -1.

    The table has one row per user: `user_num` (integer) and `item_nums` (list of integers, best first); longer lists
    are cut. Raises InputError when a column is missing, a user has no row or several.
    """
    missing = {"user_num", "item_nums"} - set(table.column_names)
    if missing:
        raise InputError(f"The table of recommendations lacks {sorted(missing)}; it has {sorted(table.column_names)}.")
    table_users = table.column("user_num").to_numpy().astype(np.int64)
    order = np.argsort(table_users, kind="stable")
    sorted_users = table_users[order]
    if np.any(sorted_users[1:] == sorted_users[:-1]):
        raise InputError("The table of recommendations has several rows for one customer; expected one row each.")
    places = np.searchsorted(sorted_users, user_nums)
    found = np.zeros(len(user_nums), dtype=np.bool_)
    inside = places < len(sorted_users)
    found[inside] = sorted_users[places[inside]] == user_nums[inside]
    if not found.all():
        raise InputError(
            f"The table of recommendations lacks {int((~found).sum())} of {len(user_nums)} customers; rank all of them."
        )
    lists = table.column("item_nums").combine_chunks().take(pa.array(order[places]))
    lengths = np.asarray(lists.value_lengths().fill_null(0), dtype=np.int64)
    flat = np.asarray(lists.flatten(), dtype=np.int64)
    row = np.repeat(np.arange(len(user_nums)), lengths)
    rank = np.arange(len(flat)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    rankings = np.full((len(user_nums), depth), NO_ITEM, dtype=np.int64)
    rankings[row[rank < depth], rank[rank < depth]] = flat[rank < depth]
    return rankings


def find_hits(rankings: IntArray, relevant: RaggedSets) -> BoolArray:
    """Which places of `rankings` `[num_customers, depth]` hold a relevant product.

    Raises InputError when the numbers of rows differ or a row names a product twice.
    """
    if len(rankings) != len(relevant.offsets) - 1:
        raise InputError(f"{len(rankings)} rankings for {len(relevant.offsets) - 1} customers; expected as many.")
    ordered = np.sort(rankings, axis=1)
    repeats = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != NO_ITEM)
    if repeats.any():
        raise InputError(f"{int(repeats.any(axis=1).sum())} rankings name a product twice; each may stand there once.")
    return relevant.contain(np.arange(len(rankings))[:, None], rankings)


def recall_at(hits: BoolArray, num_relevant: IntArray, k: int) -> FloatArray:
    """Relevant products among the first `k` / relevant products."""
    return np.asarray(hits[:, :k].sum(axis=1) / num_relevant, dtype=np.float64)


def hit_rate_at(hits: BoolArray, k: int) -> FloatArray:
    """1 when a relevant product stands among the first `k`, else 0."""
    return np.asarray(hits[:, :k].any(axis=1), dtype=np.float64)


def reciprocal_rank(hits: BoolArray) -> FloatArray:
    """1 / rank of the first relevant product, over the whole ranking handed in; 0 without any. Its mean is the MRR."""
    if not hits.shape[1]:
        return np.zeros(len(hits))
    return np.asarray(np.where(hits.any(axis=1), 1.0 / (hits.argmax(axis=1) + 1), 0.0), dtype=np.float64)


def ndcg_at(hits: BoolArray, num_relevant: IntArray, k: int) -> FloatArray:
    """Sum of 1 / log2(rank + 1) over the hits among the first `k`, divided by its best possible value.

    The best possible value has hits at ranks 1 to min(k, relevant products), as in Järvelin and Kekäläinen (2002)
    with binary gains.
    """
    discounts = 1.0 / np.log2(np.arange(k) + 2.0)
    ideal = np.concatenate(([0.0], np.cumsum(discounts)))[np.minimum(num_relevant, k)]
    # numpy's sum keeps one order of addition whatever the machine's BLAS, so that the last digit repeats.
    gained = np.where(hits[:, :k], discounts[: hits.shape[1]], 0.0).sum(axis=1)
    return np.asarray(gained / ideal, dtype=np.float64)


def average_precision_at(hits: BoolArray, num_relevant: IntArray, k: int) -> FloatArray:
    """Mean over min(k, relevant products) of the precision at each hit among the first `k`. Its mean is the MAP@k."""
    top = hits[:, :k]
    precision = np.cumsum(top, axis=1) / (np.arange(top.shape[1]) + 1.0)
    return np.asarray(np.where(top, precision, 0.0).sum(axis=1) / np.minimum(num_relevant, k), dtype=np.float64)


def recall_curve(hits: BoolArray, num_relevant: IntArray, depth: int) -> FloatArray:
    """Mean recall over customers at each k from 1 to `depth`."""
    return np.asarray((np.cumsum(hits[:, :depth], axis=1) / num_relevant[:, None]).mean(axis=0), dtype=np.float64)


def measure(hits: BoolArray, num_relevant: IntArray) -> dict[str, FloatArray]:
    """Each of `METRICS` for each customer, every value in `[0, 1]`.

    Raises InputError when a customer has no relevant product: no metric is defined then, leave such customers out.
    """
    if len(num_relevant) and int(num_relevant.min()) < 1:
        raise InputError(f"{int((num_relevant < 1).sum())} customers have no relevant product; leave them out.")
    return {
        **{f"recall@{k}": recall_at(hits, num_relevant, k) for k in RECALL_KS},
        "ndcg@10": ndcg_at(hits, num_relevant, 10),
        "mrr": reciprocal_rank(hits),
        "hit_rate@10": hit_rate_at(hits, 10),
        "map@10": average_precision_at(hits, num_relevant, 10),
    }


def coverage_at(rankings: IntArray, num_items: int, k: int) -> float:
    """Share of the catalog's `num_items` products that stand among the first `k` of at least one customer.

    Raises InputError when a ranking names a product outside the catalog.
    """
    shown = np.unique(rankings[:, :k])
    shown = shown[shown != NO_ITEM]
    if len(shown) and (shown[0] < 0 or shown[-1] >= num_items):
        raise InputError(
            f"Rankings name items {int(shown[0])} to {int(shown[-1])}; the catalog has 0 to {num_items - 1}."
        )
    return len(shown) / num_items
