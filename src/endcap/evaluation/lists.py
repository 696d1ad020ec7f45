"""Tables of recommendations and of truth in, rankings and sets on one numbering of customers and products out.

The rules, one place for all of them:

- Ids are matched as text (`files.ids_of`).
- The order of a customer's list is that of `rank` (rising) or else of `score` (falling); equal scores stand by id, as text,
  rising. Equal ranks are an error: the order would be anybody's guess.
- A product that stands twice in a list keeps its better place, and those behind close up.
- A place that a short list doesn't fill is a miss.
- Every customer of the truth counts. One without a list found nothing; one without truth is left out.
- Truth rows with a `value` of 0 or less name what was not wanted; repeats count once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from endcap.contracts import columns as c
from endcap.contracts.errors import InputError
from endcap.evaluation.files import (
    ITEM_IDS,
    RANK,
    Ids,
    ids_of,
    need_columns,
    numbers_in,
    numbers_of,
    user_column,
)
from endcap.evaluation.metrics import NO_ITEM, RaggedSets, names_twice

IntArray = NDArray[np.int64]
RowArray = NDArray[np.int32]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class TruthRows:
    """Pairs of customer and product: `kept` says which of them were wanted, `parents` which row of the table each is of."""

    users: Ids
    items: Ids
    kept: BoolArray
    values: FloatArray | None
    parents: IntArray


@dataclass(frozen=True)
class ListRows:
    """Recommendations, one row each, in any order; `order` is smaller for better places."""

    name: str
    users: Ids
    items: Ids
    order: NDArray[np.float64] | IntArray
    by_score: bool


@dataclass(frozen=True)
class Lists:
    """One system's rankings `[num_customers, depth]` in the order of the truth's customers, and what had to be said."""

    name: str
    rankings: RowArray
    num_without_list: int
    notes: tuple[str, ...]


def read_truth(table: pa.Table, role: str = "the truth") -> TruthRows:
    """The truth: `user_id`, `item_id` and, if there, `value`; or `user_id` and a list `item_ids`.

    Raises InputError when columns are missing, ids or values are none, or nothing is wanted.
    """
    users, items, _, parents = _pairs(table, role)
    values = None
    kept = np.ones(len(users.codes), dtype=np.bool_)
    if c.VALUE in table.column_names and parents is None:
        values = np.asarray(numbers_of(table[c.VALUE], c.VALUE, role), dtype=np.float64)
        kept = values > 0
        if not kept.any():
            raise InputError(
                f"{role}: no row has a value above 0, so that nothing is wanted; at least one was expected. "
                "Check the column value, or leave it out if every row counts."
            )
    return TruthRows(users, items, kept, values, np.arange(table.num_rows) if parents is None else parents)


def read_lists(table: pa.Table, name: str, role: str = "the recommendations") -> ListRows:
    """Recommendations: `user_id`, `item_id` and `rank` or `score`; or `user_id` and a list `item_ids`, best first.

    With both, `rank` decides. Raises InputError when columns are missing, ids, ranks or scores are none, or a customer
    has several lists.
    """
    users, items, places, parents = _pairs(table, role)
    if parents is not None:
        num_lists = np.bincount(ids_of(table[user_column(table, role)], c.USER_ID, role).codes)
        if int(num_lists.max()) > 1:
            raise InputError(
                f"{role}: {int((num_lists > 1).sum()):,} customers have several rows of item_ids; expected one row each. "
                "Join them, or write one row per product with a rank."
            )
        return ListRows(name, users, items, places, by_score=False)
    if RANK in table.column_names:
        return ListRows(name, users, items, numbers_of(table[RANK], RANK, role), by_score=False)
    if c.SCORE in table.column_names:
        scores = np.asarray(numbers_of(table[c.SCORE], c.SCORE, role), dtype=np.float64)
        return ListRows(name, users, items, -scores, by_score=True)
    raise InputError(
        f"{role}: found the columns {', '.join(table.column_names)}; expected rank (1 is best) or score (higher is better) "
        "too: the order of rows in a file is no ranking."
    )


def number_items(catalog: pa.Array | None, others: Sequence[Ids]) -> pa.Array:
    """All product ids once: the catalog's first, if there is one, then the others in rising order."""
    rest = pc.unique(pa.chunked_array([ids.ids for ids in others], pa.string()))
    if catalog is not None:
        rest = rest.filter(pc.invert(pc.is_in(rest, value_set=catalog)))
    rest = rest.take(pc.sort_indices(rest))
    return rest if catalog is None else pa.concat_arrays([catalog, rest])


def relevant_sets(
    truth: TruthRows, user_ids: pa.Array, item_ids: pa.Array, kept: BoolArray | None = None
) -> RaggedSets:
    """Per customer of `user_ids`, the products of those truth rows that count and that `kept` holds."""
    kept = truth.kept if kept is None else truth.kept & kept
    rows = numbers_in(truth.users.ids, user_ids)[truth.users.codes[kept]]
    items = numbers_in(truth.items.ids, item_ids)[truth.items.codes[kept]]
    return RaggedSets.from_pairs(rows[rows >= 0], items[rows >= 0], len(user_ids))


def wanting_users(truth: TruthRows) -> pa.Array:
    """The ids of the customers for whom something counts, in the order of the table."""
    return truth.users.ids.take(pa.array(np.flatnonzero(np.bincount(truth.users.codes[truth.kept]))))


def rank_lists(lists: ListRows, user_ids: pa.Array, item_ids: pa.Array, depth: int) -> Lists:
    """The rankings of `user_ids`, `depth` places each.

    Raises InputError when no customer of the truth has a list, or a customer has one rank twice.
    """
    rows = numbers_in(lists.users.ids, user_ids)
    # Half as wide as other numbers here: these arrays are as long as the file, and every step below reads them.
    users = rows.astype(np.int32)[lists.users.codes]
    items = numbers_in(lists.items.ids, item_ids).astype(np.int32)[lists.items.codes]
    order = lists.order
    num_unknown = int((rows < 0).sum())
    if num_unknown:
        inside = users >= 0
        users, items, order = users[inside], items[inside], order[inside]
    if not len(lists.users.codes):
        raise InputError(f"{lists.name}: all lists are empty; expected a product in at least one.")
    if not len(users):
        raise InputError(
            f"{lists.name}: none of its customers is in the truth. Found {lists.users.kind}; the truth has "
            f"{Ids(np.zeros(0, np.int64), user_ids).kind}. Check that both files name customers by the same ids."
        )
    if _is_sorted(users, order):
        equal = np.zeros(len(users) - 1, dtype=np.bool_)
    else:
        users, items, order = _sorted(users, items, order, item_ids if lists.by_score else None)
        equal = (users[1:] == users[:-1]) & (order[1:] == order[:-1])
    if equal.any() and not lists.by_score:
        raise InputError(
            f"{lists.name}: {len(np.unique(users[1:][equal])):,} customers have one rank twice; expected each rank once per "
            "customer, 1 best. Number the products anew, or hand over scores instead of ranks."
        )
    notes = []
    rankings, longest = _filled(users, items, len(user_ids), depth)
    if names_twice(rankings).any():
        kept = ~_repeats(users, items, len(item_ids))
        notes.append(f"{int((~kept).sum()):,} repeats of a product in a list were left out; its better place counts.")
        rankings, longest = _filled(users[kept], items[kept], len(user_ids), depth)
        equal = equal & kept[1:] & kept[:-1]
    num_ties = _num_ties(users, equal, depth)
    if num_ties:
        notes.append(
            f"{num_ties:,} products have the score of the one before; equal scores stand by id, as text, rising."
        )
    if num_unknown:
        notes.append(f"{num_unknown:,} customers have a list but no truth; they are left out.")
    num_without = int((rankings[:, 0] == NO_ITEM).sum())
    if num_without:
        notes.append(
            f"{num_without:,} of {len(user_ids):,} customers have truth but no list; they count as having found nothing."
        )
    if longest < depth:
        notes.append(f"No list is longer than {longest}; what a larger k asks for beyond it is a miss.")
    return Lists(lists.name, rankings, num_without, tuple(notes))


def _filled(users: RowArray, items: RowArray, num_users: int, depth: int) -> tuple[RowArray, int]:
    """Rankings of rows that stand customer by customer, best first, and the length of the longest list."""
    starts = np.flatnonzero(np.concatenate(([True], users[1:] != users[:-1])))
    lengths = np.diff(np.append(starts, len(users)))
    longest = int(lengths.max())
    is_even = int(lengths.min()) == longest  # as most systems make them: all lists are equally long
    if is_even and longest >= depth and np.array_equal(users[starts], np.arange(num_users)):
        return items.reshape(-1, longest)[:, :depth], longest  # nothing has to move
    rankings: RowArray = np.full((num_users, depth), NO_ITEM, dtype=np.int32)
    if is_even:
        rankings[users[starts], :longest] = items.reshape(-1, longest)[:, :depth]
        return rankings, longest
    places = np.arange(len(users)) - np.repeat(starts, lengths)
    near = places < depth
    rankings[users[near], places[near]] = items[near]
    return rankings, longest


def _num_ties(users: RowArray, equal: BoolArray, depth: int) -> int:
    """How many rows, among the first `depth` of their customer, have the score of the row before."""
    if not equal.any():
        return 0
    starts = np.flatnonzero(np.concatenate(([True], users[1:] != users[:-1])))
    places = np.arange(len(users)) - np.repeat(starts, np.diff(np.append(starts, len(users))))
    return int((equal & (places[1:] < depth)).sum())


def _pairs(table: pa.Table, role: str) -> tuple[Ids, Ids, IntArray, IntArray | None]:
    """Customers and products row by row; for lists also each product's place, and the table's row that it comes from."""
    user = user_column(table, role)
    if ITEM_IDS not in table.column_names:
        need_columns(table, [c.ITEM_ID], role)
        items = ids_of(table[c.ITEM_ID], c.ITEM_ID, role)
        return ids_of(table[user], user, role), items, np.zeros(0, np.int64), None
    lists = table[ITEM_IDS].combine_chunks()
    kind = lists.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise InputError(
            f"{role}: column item_ids holds {kind}, expected lists of ids. A CSV file can't hold lists: write one row per "
            "product with the columns user_id, item_id and rank."
        )
    lengths = np.asarray(pc.list_value_length(lists).fill_null(0)).astype(np.int64)
    parents = np.repeat(np.arange(len(lists)), lengths)
    users = ids_of(table[user], user, role)
    places = np.arange(len(parents)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    items = ids_of(pc.list_flatten(lists), ITEM_IDS, role)
    return Ids(users.codes[parents], users.ids), items, places, parents


def _is_sorted(users: RowArray, order: NDArray[np.float64] | IntArray) -> bool:
    """Whether rows stand customer by customer, best first, none equal to the one before: as most files have them."""
    new = users[1:] != users[:-1]
    firsts = users[np.concatenate(([0], np.flatnonzero(new) + 1))]
    return int(np.bincount(firsts).max()) == 1 and bool((new | (order[1:] > order[:-1])).all())


def _sorted(
    users: RowArray, items: RowArray, order: NDArray[np.float64] | IntArray, tie_ids: pa.Array | None
) -> tuple[RowArray, RowArray, NDArray[np.float64] | IntArray]:
    """All three customer by customer, by `order`, then by the text of the product's id where `tie_ids` are given."""
    if tie_ids is None:
        turned = np.lexsort((order, users))
    else:
        by_text = np.empty(len(tie_ids), dtype=np.int64)
        by_text[np.asarray(pc.sort_indices(tie_ids)).astype(np.int64)] = np.arange(len(tie_ids))
        turned = np.lexsort((by_text[items], order, users))
    return users[turned], items[turned], order[turned]


def _repeats(users: RowArray, items: RowArray, num_items: int) -> BoolArray:
    """Which rows name a product that a better place of the same customer names."""
    keys = users * np.int64(num_items) + items
    turned = np.argsort(keys, kind="stable")
    again = np.zeros(len(keys), dtype=np.bool_)
    again[turned[1:]] = keys[turned[1:]] == keys[turned[:-1]]
    return again
