"""Events in, which products go together out: seen in one session, seen next, bought in one basket or by one customer.

All functions count what happened strictly before `as_of_us`, and give long rows `item_id, other_item_id, num, weight,
rank`: `num` sessions, baskets or customers, `weight` the same with each counting less the older it is, in millionths,
`rank` from 0 by falling `weight`, then falling `num`, then `other_item_id`. Weights are integers, so sums are the same in any
order and on any engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from endcap.contracts import columns as c
from endcap.contracts.events import ADD_TO_CART, PURCHASE, US_PER_DAY, VIEW_ITEM
from endcap.engines.portable import always

OTHER_ITEM_ID: Final = "other_item_id"
UNIT: Final = 1_000_000
"""The weight of what happened within the last day."""

_SEEN: Final = (VIEW_ITEM, ADD_TO_CART, PURCHASE)
_HALVINGS: Final = 20
"""After so many half-lives a weight is 0: less than a millionth."""


def covisits(
    events: ir.Table,
    as_of_us: int,
    *,
    event_types: Sequence[str] = _SEEN,
    half_life_days: float | None = None,
    max_events: int = 50,
    min_support: int = 2,
    top_n: int = 50,
) -> ir.Table:
    """Products met in the same session, whichever came first; a session counts once for a pair.

    Args:
        events: With `session_id`.
        as_of_us: Only what happened before counts.
        event_types: Which events count as meeting a product.
        half_life_days: After so many days a session counts half; None: all count alike.
        max_events: Of a session only its last so many events count, so that a robot's doesn't make millions of pairs.
        min_support: Pairs in fewer sessions are left out.
        top_n: Most rows of a product.
    """
    acts = _last_of_session(events, as_of_us, event_types, max_events)
    met = acts.group_by(c.SESSION_ID, c.ITEM_ID).aggregate(ts_us=acts[c.TS_US].max())
    pairs = _paired(met, c.SESSION_ID)
    return _strongest(pairs, as_of_us, half_life_days, min_support, top_n)


def next_items(
    events: ir.Table,
    as_of_us: int,
    *,
    event_types: Sequence[str] = _SEEN,
    half_life_days: float | None = None,
    max_events: int = 50,
    min_support: int = 2,
    top_n: int = 50,
) -> ir.Table:
    """Products met right after one another in a session, from `item_id` to `other_item_id`; arguments as of `covisits`.

    Meeting the same product again doesn't come between.
    """
    acts = _last_of_session(events, as_of_us, event_types, max_events)
    in_order = ibis.window(group_by=c.SESSION_ID, order_by=[c.TS_US, c.EVENT_ID])
    changes = acts.mutate(previous=acts[c.ITEM_ID].lag().over(in_order))
    # Without repeats, each remaining row's successor is another product.
    changed = changes.filter((changes["previous"] != changes[c.ITEM_ID]).fill_null(True))
    stepped = changed.mutate(**{OTHER_ITEM_ID: changed[c.ITEM_ID].lead().over(in_order)})
    steps = stepped.filter(stepped[OTHER_ITEM_ID].notnull())
    pairs = steps.group_by(c.SESSION_ID, c.ITEM_ID, OTHER_ITEM_ID).aggregate(ts_us=steps[c.TS_US].max())
    return _strongest(pairs, as_of_us, half_life_days, min_support, top_n)


def bought_together(
    events: ir.Table,
    as_of_us: int,
    *,
    within_days: float | None = None,
    half_life_days: float | None = None,
    max_events: int = 200,
    min_support: int = 2,
    top_n: int = 50,
) -> ir.Table:
    """Products bought in the same basket or, given `within_days`, by the same customer at most so many days apart.

    `num` counts baskets, or customers; a purchase without a basket counts in the customers' alone. Of a basket, or of a
    customer, the last `max_events` products count; the other arguments are as of `covisits`.
    """
    bought = events.filter(events[c.EVENT_TYPE] == PURCHASE, events[c.TS_US] < as_of_us)
    if within_days is None:
        baskets = bought.filter(bought[c.BASKET_ID].notnull())
        lines = baskets.group_by(c.BASKET_ID, c.ITEM_ID).aggregate(ts_us=baskets[c.TS_US].max())
        pairs = _paired(_capped(lines, c.BASKET_ID, max_events), c.BASKET_ID)
    else:
        lines = bought.select(c.USER_ID, c.ITEM_ID, c.TS_US).distinct()
        near = _paired(_capped(lines, c.USER_ID, max_events), c.USER_ID, within_us=round(within_days * US_PER_DAY))
        pairs = near.group_by(c.USER_ID, c.ITEM_ID, OTHER_ITEM_ID).aggregate(ts_us=near[c.TS_US].max())
    return _strongest(pairs, as_of_us, half_life_days, min_support, top_n)


def _last_of_session(events: ir.Table, as_of_us: int, event_types: Sequence[str], max_events: int) -> ir.Table:
    acts = events.filter(
        events[c.EVENT_TYPE].isin(list(event_types)), events[c.ITEM_ID].notnull(), events[c.TS_US] < as_of_us
    ).select(c.SESSION_ID, c.EVENT_ID, c.ITEM_ID, c.TS_US)
    latest = ibis.window(group_by=c.SESSION_ID, order_by=[ibis.desc(c.TS_US), ibis.desc(c.EVENT_ID)])
    return acts.mutate(place=ibis.row_number().over(latest)).filter(ibis._.place < max_events).drop("place")


def _capped(lines: ir.Table, group: str, max_events: int) -> ir.Table:
    latest = ibis.window(group_by=group, order_by=[ibis.desc(c.TS_US), c.ITEM_ID])
    return lines.mutate(place=ibis.row_number().over(latest)).filter(ibis._.place < max_events).drop("place")


def _paired(lines: ir.Table, group: str, *, within_us: int | None = None) -> ir.Table:
    """Every two different products of a group, both ways round, at the moment of the later one."""
    others = lines.select(other_group=group, other_us=c.TS_US, **{OTHER_ITEM_ID: c.ITEM_ID})
    conditions = [lines[group] == others["other_group"], lines[c.ITEM_ID] != others[OTHER_ITEM_ID]]
    if within_us is not None:
        conditions.append((lines[c.TS_US] - others["other_us"]).abs() <= within_us)
    joined = lines.join(others, conditions)
    later = (joined["other_us"] > joined[c.TS_US]).ifelse(joined["other_us"], joined[c.TS_US])
    return joined.select(group, c.ITEM_ID, OTHER_ITEM_ID, **{c.TS_US: later})


def _strongest(pairs: ir.Table, as_of_us: int, half_life_days: float | None, min_support: int, top_n: int) -> ir.Table:
    weighed = _weighed(pairs, as_of_us, half_life_days)
    counted = weighed.group_by(c.ITEM_ID, OTHER_ITEM_ID).aggregate(
        num=always(weighed.count(), "int64"), weight=always(weighed["weight"].sum(), "int64")
    )
    supported = counted.filter(counted["num"] >= min_support)
    strongest = ibis.window(group_by=c.ITEM_ID, order_by=[ibis.desc("weight"), ibis.desc("num"), OTHER_ITEM_ID])
    return supported.mutate(rank=ibis.row_number().over(strongest).cast("int64")).filter(ibis._["rank"] < top_n)


def _weighed(pairs: ir.Table, as_of_us: int, half_life_days: float | None) -> ir.Table:
    if half_life_days is None:
        return pairs.mutate(weight=ibis.literal(UNIT, "int64"))
    # A table of integers by whole days: powers differ between engines in their last digit, these don't.
    num_days = max(1, round(half_life_days * _HALVINGS))
    decay = ibis.memtable(
        pa.table({
            "age": pa.array(range(num_days), pa.int64()),
            "weight": pa.array([int(UNIT * 0.5 ** (age / half_life_days)) for age in range(num_days)], pa.int64()),
        })
    )  # fmt: skip
    age = (ibis.literal(as_of_us - 1, "int64") - pairs[c.TS_US]) // ibis.literal(US_PER_DAY, "int64")
    aged = pairs.mutate(pair_age=age.cast("int64"))
    joined = aged.left_join(decay, aged["pair_age"] == decay["age"])
    return joined.select(c.ITEM_ID, OTHER_ITEM_ID, weight=joined["weight"].fill_null(0))
