"""Rankings and the products bought later in, one number per customer and metric out.

Every metric counts a product as relevant or not, ranks start at 1, and a place that holds -1 is a miss. Relevant products
that no system can know take numbers from `num_items` upwards: they count among the relevant ones and are never hit.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from endcap.contracts.errors import InputError

NO_ITEM = -1
RECALL_KS = (5, 10, 50, 100)
DEPTH = max(RECALL_KS)
METRICS = (*(f"recall@{k}" for k in RECALL_KS), "ndcg@10", "mrr", "hit_rate@10", "map@10", f"auc@{DEPTH}")
MRR = "mrr"
AUC = "auc"
_MARKS: Final = 1 << 20  # products of some customers, side by side: small enough to stay in the processor's cache
_MAX_WIDTH: Final = 1 << 26
_SORTED_ROWS: Final = 1024

IntArray = NDArray[np.int64]
RankingArray = NDArray[np.int64] | NDArray[np.int32]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class RaggedSets:
    """One set of item numbers per customer: row `i` is `values[offsets[i]:offsets[i + 1]]`, rising, without repeats."""

    offsets: IntArray
    values: IntArray

    @classmethod
    def from_pairs(cls, rows: RankingArray, values: RankingArray, num_rows: int) -> RaggedSets:
        """Sets from (row, value) pairs in any order; repeats count once. Raises InputError on negative values."""
        if len(values) and int(values.min()) < 0:
            raise InputError(f"An item number is {int(values.min())}; expected 0 or more. Number unknown products too.")
        stride = np.int64(values.max(initial=0)) + 1
        keys = np.sort(rows.astype(np.int64) * stride + values)
        first = np.ones(len(keys), dtype=np.bool_)
        first[1:] = keys[1:] != keys[:-1]
        kept_rows, kept = np.divmod(keys[first], stride)
        offsets = np.zeros(num_rows + 1, dtype=np.int64)
        np.cumsum(np.bincount(kept_rows, minlength=num_rows), out=offsets[1:])
        return cls(offsets, kept)

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

    def num_below(self, bound: int) -> IntArray:
        """Number of each row's values that are below `bound`."""
        return np.bincount(self.rows[self.values < bound], minlength=len(self.offsets) - 1).astype(np.int64)

    def between(self, rows: slice) -> RaggedSets:
        """The rows from `rows.start` to before `rows.stop`."""
        offsets = self.offsets[rows.start : rows.stop + 1]
        return RaggedSets(offsets - offsets[0], self.values[offsets[0] : offsets[-1]])

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


def find_hits(rankings: RankingArray, relevant: RaggedSets, *, is_checked: bool = False) -> BoolArray:
    """Which places of `rankings` `[num_customers, depth]` hold a relevant product.

    `is_checked` promises that no row names a product twice. Raises InputError when the numbers of rows differ or a row names a product twice.
    """
    if len(rankings) != len(relevant.offsets) - 1:
        raise InputError(f"{len(rankings)} rankings for {len(relevant.offsets) - 1} customers; expected as many.")
    num_repeating = 0 if is_checked else int(names_twice(rankings).sum())
    if num_repeating:
        raise InputError(f"{num_repeating} rankings name a product twice; each may stand there once.")
    hits = np.zeros(rankings.shape, dtype=np.bool_)
    if not rankings.size:
        return hits
    if int(rankings.max()) >= _MAX_WIDTH:  # numbers far apart: only which are equal matters
        rankings, relevant = _renumber(rankings, relevant)
    width = int(rankings.max()) + 2
    is_relevant = np.zeros(_rows_at_once(width) * width, dtype=np.bool_)
    lengths = relevant.lengths
    for part, marks in _marked(rankings, width):
        wanted = relevant.values[relevant.offsets[part.start] : relevant.offsets[part.stop]]
        rows = np.repeat(np.arange(len(marks)), lengths[part])
        marked = (rows * width + wanted + 1)[wanted < width - 1]
        is_relevant[marked] = True
        is_relevant.take(marks, out=hits[part], mode="clip")  # marks lie within: the mode that needs no buffer
        is_relevant[marked] = False
    return hits


def names_twice(rankings: RankingArray) -> BoolArray:
    """Which rows of `rankings` `[num_customers, depth]` hold a product twice."""
    found = np.zeros(len(rankings), dtype=np.bool_)
    if not rankings.size:
        return found
    for start in range(0, len(rankings), _SORTED_ROWS):
        part = slice(start, start + _SORTED_ROWS)
        rising = np.sort(rankings[part], axis=1)
        found[part] = ((rising[:, 1:] == rising[:, :-1]) & (rising[:, 1:] != NO_ITEM)).any(axis=1)
    return found


def _rows_at_once(width: int) -> int:
    return max(1, _MARKS // width)


def _marked(rankings: RankingArray, width: int) -> Iterator[tuple[slice, IntArray]]:
    """Some rows at a time, each product as a place in a table of `width` per row; -1 comes to stand before the row's."""
    num_rows = _rows_at_once(width)
    for start in range(0, len(rankings), num_rows):
        part = slice(start, min(start + num_rows, len(rankings)))
        yield part, rankings[part] + (np.arange(part.stop - start) * width + 1)[:, None]


def _renumber(rankings: RankingArray, relevant: RaggedSets) -> tuple[IntArray, RaggedSets]:
    known, numbers = np.unique(rankings, return_inverse=True)
    shift = 1 if known[0] == NO_ITEM else 0
    places = np.minimum(np.searchsorted(known, relevant.values), len(known) - 1)
    values = np.where(known[places] == relevant.values, places - shift, _MAX_WIDTH)
    return numbers.reshape(rankings.shape) - shift, RaggedSets(relevant.offsets, values)


@dataclass(frozen=True)
class Found:
    """The hits of all rankings, row by row, best first: `ranks` from 0, `nth` counts a row's hits from 1.

    Hits are few among many places, so that every metric is a sum over them. The order of additions is always the same,
    whatever the machine, so that the last digit repeats.
    """

    rows: IntArray
    ranks: IntArray
    nth: IntArray
    num_rows: int

    @classmethod
    def of(cls, hits: BoolArray) -> Found:
        """From which places of rankings hold a relevant product, `[num_customers, depth]`."""
        rows, ranks = np.divmod(np.flatnonzero(hits), max(hits.shape[1], 1))
        counts = np.bincount(rows, minlength=len(hits))
        nth = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts) + 1
        return cls(rows, ranks, nth, len(hits))

    def sums(self, k: int, weights: FloatArray) -> FloatArray:
        """Each row's sum of the weights of its hits among the first `k`."""
        near = self.ranks < k
        summed = np.bincount(self.rows[near], weights=weights[near], minlength=self.num_rows)
        return np.asarray(summed, dtype=np.float64)


def recall_at(found: Found, num_relevant: IntArray, k: int) -> FloatArray:
    """Relevant products among the first `k` / relevant products."""
    return found.sums(k, np.ones(len(found.rows))) / num_relevant


def precision_at(found: Found, _num_relevant: IntArray, k: int) -> FloatArray:
    """Relevant products among the first `k` / `k`, however short the ranking is."""
    return found.sums(k, np.ones(len(found.rows))) / k


def hit_rate_at(found: Found, _num_relevant: IntArray, k: int) -> FloatArray:
    """1 when a relevant product stands among the first `k`, else 0."""
    return found.sums(k, (found.nth == 1).astype(np.float64))


def reciprocal_rank_at(found: Found, _num_relevant: IntArray, k: int) -> FloatArray:
    """1 / rank of the first relevant product, 0 without any among the first `k`. Its mean is the MRR."""
    return found.sums(k, np.where(found.nth == 1, 1.0 / (found.ranks + 1), 0.0))


def ndcg_at(found: Found, num_relevant: IntArray, k: int) -> FloatArray:
    """Sum of 1 / log2(rank + 1) over the hits among the first `k`, divided by its best possible value.

    The best possible value has hits at ranks 1 to min(k, relevant products), as in Järvelin and Kekäläinen (2002)
    with binary gains.
    """
    ideal = np.concatenate(([0.0], np.cumsum(1.0 / np.log2(np.arange(k) + 2.0))))[np.minimum(num_relevant, k)]
    return np.asarray(found.sums(k, 1.0 / np.log2(found.ranks + 2.0)) / ideal, dtype=np.float64)


def average_precision_at(found: Found, num_relevant: IntArray, k: int) -> FloatArray:
    """Mean over min(k, relevant products) of the precision at each hit among the first `k`. Its mean is the MAP@k."""
    return found.sums(k, found.nth / (found.ranks + 1.0)) / np.minimum(num_relevant, k)


def limited_auc_at(found: Found, num_relevant: IntArray, num_irrelevant: IntArray, k: int) -> FloatArray:
    """The share of pairs of a relevant and an irrelevant product that are ordered right; 0.5 without an irrelevant one.

    What isn't among the first `k` counts as being in random order behind them, as in the limited AUC of Schröder, Thiele
    and Lehner (2011). So it is the AUC where `k` covers the catalog.
    """
    before = np.minimum(found.ranks - found.nth + 1, num_irrelevant[found.rows])
    num_hits = found.sums(k, np.ones(len(found.rows)))
    beaten = found.sums(k, (num_irrelevant[found.rows] - before).astype(np.float64))
    num_behind = np.maximum(num_irrelevant - (k - num_hits), 0)
    right = beaten + (num_relevant - num_hits) * num_behind / 2
    num_pairs = num_relevant * num_irrelevant
    return np.where(num_pairs > 0, right / np.maximum(num_pairs, 1), 0.5)


def recall_curve(hits: BoolArray, num_relevant: IntArray, depth: int) -> FloatArray:
    """Mean recall over customers at each k from 1 to `depth`, or to the rankings' own where they are shorter."""
    depth = min(depth, hits.shape[1])
    found = Found.of(hits[:, :depth])
    gained = np.bincount(found.ranks, weights=1.0 / num_relevant[found.rows], minlength=depth)
    return np.asarray(np.cumsum(gained) / len(hits), dtype=np.float64)


FAMILIES: Final[Mapping[str, Callable[[Found, IntArray, int], FloatArray]]] = {
    "recall": recall_at,
    "precision": precision_at,
    "ndcg": ndcg_at,
    "hit_rate": hit_rate_at,
    "mrr": reciprocal_rank_at,
    "map": average_precision_at,
}
"""The metrics that can be taken at any k, but for `auc@k`, which must know the catalog."""


def metric_names(ks: Iterable[int]) -> tuple[str, ...]:
    """Every ranking metric at each of `ks`, by family."""
    ks = tuple(ks)
    return tuple(f"{family}@{k}" for family in FAMILIES for k in ks)


def measure(
    hits: BoolArray,
    num_relevant: IntArray,
    names: Sequence[str] = METRICS,
    num_irrelevant: IntArray | None = None,
) -> dict[str, FloatArray]:
    """Each metric of `names` for each customer, every value in `[0, 1]`: `mrr` over the whole list, or `FAMILY@k`.

    `num_irrelevant` counts the products that each customer could have been shown and didn't want; `auc@k` needs it. Raises
    InputError when it is missing, a name is unknown, or a customer has no relevant product: no metric is defined then,
    leave such customers out.
    """
    if len(num_relevant) and int(num_relevant.min()) < 1:
        raise InputError(f"{int((num_relevant < 1).sum())} customers have no relevant product; leave them out.")
    found, values = Found.of(hits), {}
    for name in names:
        family, k = (MRR, hits.shape[1]) if name == MRR else _parts(name)
        if family != AUC:
            values[name] = FAMILIES[family](found, num_relevant, k)
        elif num_irrelevant is None:
            raise InputError(
                f"{name} counts pairs with products that were not wanted, but the catalog's size is unknown. Hand over the "
                "catalog, or leave that metric out."
            )
        else:
            values[name] = limited_auc_at(found, num_relevant, num_irrelevant, k)
    return values


def k_of(name: str) -> int:
    """The k in a metric's name, such as 10 for `ndcg@10`. Raises InputError when the name is no `FAMILY@k`."""
    return _parts(name)[1]


def _parts(name: str) -> tuple[str, int]:
    families = (*FAMILIES, AUC)
    family, _, k = name.partition("@")
    if family in families and k.isascii() and k.isdigit() and int(k) > 0:
        return family, int(k)
    nearest = difflib.get_close_matches(family, families, n=1, cutoff=0.5) or ["ndcg"]
    raise InputError(
        f"Found the metric {name!r}; expected mrr, or one of {', '.join(families)} with a k of at least 1. "
        f"Did you mean {nearest[0]}@{k if k.isdigit() and int(k) else 10}?"
    )


def coverage_at(rankings: RankingArray, num_items: int, k: int) -> float:
    """Share of the catalog's `num_items` products that stand among the first `k` of at least one customer.

    Raises InputError when a ranking names a product outside the catalog.
    """
    return int((exposures(rankings, num_items, k) > 0).sum()) / num_items


def exposures(rankings: RankingArray, num_items: int, k: int) -> IntArray:
    """How many customers see each of the catalog's `num_items` products among their first `k`.

    Raises InputError when a ranking names a product outside the catalog.
    """
    shown = rankings[:, :k]
    low, high = int(shown.min(initial=0)), int(shown.max(initial=0))
    if low < NO_ITEM or high >= num_items:
        raise InputError(f"Rankings name items {low} to {high}; the catalog has 0 to {num_items - 1}.")
    return np.bincount(shown.ravel() + 1, minlength=num_items + 1)[1:].astype(np.int64)
