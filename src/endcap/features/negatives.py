"""Questions and a catalog in, products that weren't the answer out: the same for a question wherever and however it is asked.

Every draw is a number made from the seed, the question's `query_num`, the place and the attempt alone (SplitMix64, in
integers: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014), so neither the order of rows,
nor how they are cut into pieces, nor the engine they come from changes what is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import ibis
import ibis.expr.types as ir
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from endcap.contracts import columns as c
from endcap.contracts.errors import InputError
from endcap.contracts.events import PURCHASE, US_PER_DAY
from endcap.engines.portable import md5_hex
from endcap.features.exact import MOMENT_US, QUERY_NUM

Kind = Literal["uniform", "popular", "in_category"]
"""`uniform`: every product alike. `popular`: in proportion to `num`^0.75. `in_category`: every product of the positive's
category alike; where that holds no other product, of the whole catalog."""

NUM = "num"
PLACE = "place"

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MAX_ATTEMPTS = 32
_WEIGHT_UNIT = 1000
_CHUNK = 65_536


def popularity(events: ir.Table, as_of_us: int, *, event_type: str = PURCHASE) -> ir.Table:
    """How often each product was bought (or another thing done) before a moment: `item_id, num`."""
    known = events.filter(events[c.EVENT_TYPE] == event_type, events[c.TS_US] < as_of_us, events[c.ITEM_ID].notnull())
    return known.group_by(c.ITEM_ID).aggregate(**{NUM: known.count().cast("int64")})


def bought_before(spine: ir.Table, events: ir.Table) -> ir.Table:
    """What each question's user had bought strictly before its moment: distinct `query_num, item_id`."""
    bought = events.filter(events[c.EVENT_TYPE] == PURCHASE)
    first = bought.group_by(c.USER_ID, c.ITEM_ID).aggregate(first_us=bought[c.TS_US].min())
    asked = spine.select(QUERY_NUM, MOMENT_US, asked_user_id=c.USER_ID)
    joined = asked.inner_join(first, [asked["asked_user_id"] == first[c.USER_ID], first["first_us"] < asked[MOMENT_US]])
    return joined.select(QUERY_NUM, c.ITEM_ID)


def impression_negatives(
    spine: ir.Table,
    impressions: ir.Table,
    *,
    num_negatives: int,
    seed: int,
    within_days: float = 1.0,
    groups: ir.Table | None = None,
) -> ir.Table:
    """Products that were shown to the question's user shortly before its moment and left alone.

    `query_num, place, item_id`, at most `num_negatives` a question: of the products shown in the `within_days` before,
    those that weren't clicked, put into a cart or bought in any of these answers, and aren't the positive, in the order of a digest of the
    seed, the question and the product.

    Args:
        spine: `query_num, user_id, item_id` (the positive), `event_time_us`; `user_id` in the form that `impressions` has.
        impressions: The table of that contract.
        num_negatives: Most rows of a question.
        seed: Start of the order.
        within_days: How long before the moment a product was shown at most.
        groups: `item_id, group_id`: another variant of the positive is no negative either.
    """
    outcomes = sum(impressions[name] for name in ("num_clicks", "num_carts", "num_purchases"))
    shown = impressions.select(
        shown_user_id=c.USER_ID, shown_item_id=c.ITEM_ID, shown_us=c.TS_US, outcomes=outcomes.fill_null(0)
    )
    joined = spine.inner_join(
        shown,
        [
            spine[c.USER_ID] == shown["shown_user_id"],
            shown["shown_us"] < spine[MOMENT_US],
            shown["shown_us"] >= spine[MOMENT_US] - round(within_days * US_PER_DAY),
            spine[c.ITEM_ID] != shown["shown_item_id"],
        ],
    )
    if groups is not None:
        joined = _without_variants(joined, groups)
    pairs = joined.group_by(QUERY_NUM, "shown_item_id").aggregate(outcomes=joined["outcomes"].sum())
    left = pairs.filter(pairs["outcomes"] == 0).select(QUERY_NUM, **{c.ITEM_ID: "shown_item_id"})
    text = ibis.literal(f"{seed}\x1f") + left[QUERY_NUM].cast("string") + "\x1f" + left[c.ITEM_ID]
    marked = left.mutate(order=md5_hex(text))
    drawn = ibis.window(group_by=QUERY_NUM, order_by=["order", c.ITEM_ID])
    placed = marked.mutate(**{PLACE: ibis.row_number().over(drawn).cast("int64")})
    return placed.filter(placed[PLACE] < num_negatives).select(QUERY_NUM, PLACE, c.ITEM_ID)


def _without_variants(shown: ir.Table, groups: ir.Table) -> ir.Table:
    """Without products that share the positive's group."""
    own = groups.filter(groups[c.GROUP_ID].notnull())
    of_positive = own.select(positive_item_id=c.ITEM_ID, positive_group=c.GROUP_ID)
    of_shown = own.select(grouped_item_id=c.ITEM_ID, shown_group=c.GROUP_ID)
    joined = shown.left_join(of_positive, shown[c.ITEM_ID] == of_positive["positive_item_id"])
    joined = joined.left_join(of_shown, joined["shown_item_id"] == of_shown["grouped_item_id"])
    kept = joined.filter((joined["positive_group"] != joined["shown_group"]).fill_null(True))
    return kept.select(*shown.columns)


def draw_negatives(
    questions: pa.Table,
    catalog: pa.Table,
    kind: Kind,
    *,
    num_negatives: int,
    seed: int,
    excluded: pa.Table | None = None,
    may_fall_short: bool = False,
) -> pa.Table:
    """Draw `num_negatives` products for each question, with replacement: `query_num, place, item_id`, in that order.

    Args:
        questions: `query_num` (unique, int64) and `item_id`, the positive, which is never drawn.
        catalog: `item_id` (unique); for `popular` also `num`, for `in_category` also `category`. Take it as of the
            questions' moment: a product that came later is no negative. With `group_id`, other products of the
            positive's group aren't drawn.
        kind: What is drawn how often.
        num_negatives: Draws for each question.
        seed: From 0; another one gives other draws.
        excluded: `query_num, item_id` that aren't drawn either, such as `bought_before`.
        may_fall_short: A question that leaves no product to draw gets none, and an empty catalog gives none.

    Raises:
        InputError: A question leaves no product to draw.
    """
    if may_fall_short and not _has_weight(catalog, kind):
        return _EMPTY
    shelf = _Shelf.of(catalog, kind)
    questions = questions.select([QUERY_NUM, c.ITEM_ID]).sort_by(QUERY_NUM)
    numbers = questions[QUERY_NUM].to_numpy().astype(np.int64)
    positives = shelf.numbers_of(questions[c.ITEM_ID])
    forbidden = _Forbidden.of(numbers, positives, excluded, shelf)
    drawn = [
        _draw(shelf, forbidden, numbers, positives, np.arange(start, min(start + _CHUNK, len(numbers))), num_negatives, seed)
        for start in range(0, len(numbers), _CHUNK)
    ]  # fmt: skip
    items = np.concatenate([np.empty(0, np.int64), *drawn])
    found = items >= 0
    if not found.all() and not may_fall_short:
        raise InputError(
            f"A question excludes every product of the catalog ({len(shelf.ends):,}) that could be drawn. "
            "Give a larger catalog, or leave out `excluded`."
        )
    return pa.table({
        QUERY_NUM: pa.array(np.repeat(numbers, num_negatives)[found]),
        PLACE: pa.array(np.tile(np.arange(num_negatives, dtype=np.int64), len(numbers))[found]),
        c.ITEM_ID: shelf.item_ids.take(pa.array(items[found])),
    })  # fmt: skip


_EMPTY = pa.schema([(QUERY_NUM, pa.int64()), (PLACE, pa.int64()), (c.ITEM_ID, pa.string())]).empty_table()


def _has_weight(catalog: pa.Table, kind: Kind) -> bool:
    return catalog.num_rows > 0 and (kind != "popular" or (pc.max(catalog[NUM]).as_py() or 0) > 0)


@dataclass(frozen=True)
class _Shelf:
    """Products in the order of category and id, with running weights: a range of weights is a group of products."""

    item_ids: pa.Array
    ends: IntArray
    """Running sum of weights, with each product's own."""
    group: IntArray
    """Number of each product's group; -1: in no category."""
    group_first: IntArray
    group_last: IntArray
    variant: IntArray
    """The same number for products that are variants of one."""

    @classmethod
    def of(cls, catalog: pa.Table, kind: Kind) -> _Shelf:
        by_category = kind == "in_category"
        catalog = catalog.sort_by([(name, "ascending") for name in ([c.CATEGORY] if by_category else []) + [c.ITEM_ID]])
        if not catalog.num_rows:
            raise InputError("The catalog is empty, so no negatives can be drawn. Give products known at the moment.")
        num = catalog[NUM].fill_null(0).to_numpy().astype(np.float64) if kind == "popular" else np.ones(len(catalog))
        # num^0.75 by roots alone, which every machine rounds alike; then integers, whose sums are exact.
        weights = np.floor(_WEIGHT_UNIT * np.sqrt(num * np.sqrt(num))).astype(np.int64)
        if not weights.any():
            raise InputError("No product of the catalog has a `num` over 0. Draw kind=uniform, or give more events.")
        if by_category:
            group = catalog[c.CATEGORY].combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy()
        else:
            group = np.zeros(len(catalog), np.int64)
        num_groups = int(group.max()) + 1
        return cls(
            item_ids=catalog[c.ITEM_ID].combine_chunks(),
            ends=np.cumsum(weights),
            group=group.astype(np.int64),
            group_first=np.array([np.argmax(group == g) for g in range(num_groups)], np.int64),
            group_last=np.array([len(group) - 1 - np.argmax(group[::-1] == g) for g in range(num_groups)], np.int64),
            variant=_variants(catalog),
        )

    def numbers_of(self, item_ids: pa.ChunkedArray) -> IntArray:
        """Places on the shelf; -1 for what isn't there."""
        found = pc.index_in(item_ids, value_set=self.item_ids).fill_null(-1)
        return np.asarray(found.to_numpy(), np.int64)

    def bounds(self, positives: IntArray) -> tuple[IntArray, IntArray]:
        """First and last product that may be drawn beside each positive."""
        first, last = np.zeros(len(positives), np.int64), np.full(len(positives), len(self.ends) - 1)
        group = np.where(positives >= 0, self.group[positives], -1)
        grouped = group >= 0
        first[grouped], last[grouped] = self.group_first[group[grouped]], self.group_last[group[grouped]]
        return first, last


def _variants(catalog: pa.Table) -> IntArray:
    own = np.arange(len(catalog), dtype=np.int64)
    if c.GROUP_ID not in catalog.column_names:
        return own
    shared = catalog[c.GROUP_ID].combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy().astype(np.int64)
    return np.where(shared >= 0, len(own) + shared, own)


@dataclass(frozen=True)
class _Forbidden:
    """What may not be drawn: the positive with its variants, and sorted codes of (row, product)."""

    codes: IntArray
    num_items: int
    variant: IntArray
    """Of each product."""
    own: IntArray
    """The positive's variant number, for each row; -1 where it isn't on the shelf."""

    @classmethod
    def of(cls, numbers: IntArray, positives: IntArray, excluded: pa.Table | None, shelf: _Shelf) -> _Forbidden:
        num_items = len(shelf.ends)
        own = np.where(positives >= 0, shelf.variant[positives], -1)
        codes = [np.empty(0, np.int64)]
        if excluded is not None and excluded.num_rows:
            items = shelf.numbers_of(excluded[c.ITEM_ID])
            asked = excluded[QUERY_NUM].to_numpy().astype(np.int64)
            rows = np.minimum(np.searchsorted(numbers, asked), max(len(numbers) - 1, 0))
            here = (items >= 0) & (numbers[rows] == asked)
            codes.append(rows[here] * num_items + items[here])
        return cls(np.unique(np.concatenate(codes)), num_items, shelf.variant, own)

    def holds(self, rows: IntArray, items: IntArray) -> BoolArray:
        is_own = np.asarray(self.variant[items] == self.own[rows])
        if not len(self.codes):
            return is_own
        wanted = rows * self.num_items + items
        places = np.minimum(np.searchsorted(self.codes, wanted), len(self.codes) - 1)
        return np.asarray(is_own | (self.codes[places] == wanted))

    def of_row(self, row: int) -> IntArray:
        start, stop = np.searchsorted(self.codes, [row * self.num_items, (row + 1) * self.num_items])
        variants = np.flatnonzero(self.variant == self.own[row])
        return np.concatenate([variants, self.codes[start:stop] - row * self.num_items])


def _draw(
    shelf: _Shelf,
    forbidden: _Forbidden,
    numbers: IntArray,
    positives: IntArray,
    rows: IntArray,
    num_negatives: int,
    seed: int,
) -> IntArray:
    slots = np.repeat(rows, num_negatives)
    places = np.tile(np.arange(num_negatives, dtype=np.uint64), len(rows))
    first, last = shelf.bounds(positives[slots])
    # The stream of a question; a draw is its (place x attempts + attempt)-th number.
    streams = _mixed(_mixed(np.full(1, seed, np.uint64)) ^ numbers[slots].astype(np.uint64))
    drawn = np.full(len(slots), -1, np.int64)
    open_slots = np.arange(len(slots))
    for attempt in range(_MAX_ATTEMPTS):
        if not len(open_slots):
            return drawn
        count = places[open_slots] * np.uint64(_MAX_ATTEMPTS + 1) + np.uint64(attempt + 1)
        random = _mixed(streams[open_slots] + _GOLDEN * count)
        items = _picked(shelf.ends, first[open_slots], last[open_slots], random)
        good = (items >= 0) & ~forbidden.holds(slots[open_slots], items)
        drawn[open_slots[good]] = items[good]
        open_slots = open_slots[~good]
    for slot in open_slots:
        random = _mixed(streams[slot : slot + 1] + _GOLDEN * (places[slot : slot + 1] * np.uint64(_MAX_ATTEMPTS + 1)))
        drawn[slot] = _drawn_from_what_is_left(shelf, forbidden, slots[slot], first[slot], last[slot], random)
    return drawn


def _picked(ends: IntArray, first: IntArray, last: IntArray, random: npt.NDArray[np.uint64]) -> IntArray:
    """The product at a random place of the weights from `first` to `last`; -1 where these have no weight."""
    begin = np.where(first > 0, ends[first - 1], 0)
    total = ends[last] - begin
    place = (random % np.maximum(total, 1).astype(np.uint64)).astype(np.int64)
    return np.where(total > 0, np.searchsorted(ends, begin + place, side="right"), -1)


def _drawn_from_what_is_left(
    shelf: _Shelf, forbidden: _Forbidden, row: int, first: int, last: int, random: npt.NDArray[np.uint64]
) -> int:
    """Where nearly everything is forbidden: one draw from a list of what isn't; of the group, else of all; -1 for none."""
    weights = np.diff(shelf.ends, prepend=0)
    weights[forbidden.of_row(row)] = 0
    for start, stop in ((first, last + 1), (0, len(weights))):
        ends = np.cumsum(weights[start:stop])
        if ends[-1] > 0:
            place = int(random[0] % np.uint64(ends[-1]))
            return int(start + np.searchsorted(ends, place, side="right"))
    return -1


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's finalizer: every bit of the input decides over every bit of the output."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
