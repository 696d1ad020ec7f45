"""Questions and events of any type in, the last products or events of each question's user before its moment out."""

from __future__ import annotations

from collections.abc import Sequence

import ibis
import ibis.expr.types as ir

from endcap.contracts import columns as c
from endcap.contracts.events import PURCHASE, US_PER_DAY
from endcap.engines.portable import nullable
from endcap.features.exact import MOMENT_US, QUERY_NUM
from endcap.features.point_in_time import history


def last_items(
    spine: ir.Table, events: ir.Table, max_length: int, *, event_types: Sequence[str] = (PURCHASE,)
) -> ir.Table:
    """The last distinct products that each question's user met in events of these types: rows as of `history`."""
    return history(spine, _of_types(events, event_types), max_length)


def last_events(spine: ir.Table, events: ir.Table, max_length: int, *, event_types: Sequence[str]) -> ir.Table:
    """The last events of these types of each question's user, one row each, in no particular order.

    Columns: `query_num`, `rank` (0 is the last; ties in time by `event_id`, the greater is the later), `item_id`,
    `event_type`, `age_days`. Strictly before the question's `event_time_us`; events without a product are left out.
    """
    acts = _of_types(events, event_types).select(
        c.USER_ID, c.EVENT_ID, c.ITEM_ID, c.EVENT_TYPE, at_us=c.TS_US, is_question=ibis.literal(0, "int8")
    )
    asked = spine.select(c.USER_ID, QUERY_NUM, at_us=MOMENT_US)
    happened = acts.mutate(**{QUERY_NUM: ibis.null("int64")})
    questions = asked.select(
        c.USER_ID,
        **{name: ibis.null("string") for name in (c.EVENT_ID, c.ITEM_ID, c.EVENT_TYPE)},
        at_us=asked["at_us"],
        is_question=ibis.literal(1, "int8"),
        **{QUERY_NUM: asked[QUERY_NUM]},
    )
    laid = nullable(happened).union(nullable(questions))
    # A question goes before events of its own moment, which are not before it.
    so_far = ibis.window(
        group_by=c.USER_ID,
        order_by=[laid["at_us"], ibis.desc(laid["is_question"]), laid[c.EVENT_ID]],
        preceding=None,
        following=0,
    )
    placed = laid.mutate(place=(1 - laid["is_question"]).sum().over(so_far).cast("int64"))
    events_placed = placed.filter(placed["is_question"] == 0).select(
        c.ITEM_ID, c.EVENT_TYPE, acted_us="at_us", act_user_id=c.USER_ID, act_place="place"
    )
    ranked = placed.filter(placed["is_question"] == 1).select(
        QUERY_NUM, c.USER_ID, "at_us", "place", rank=ibis.range(0, max_length).unnest().cast("int64")
    )
    wanted = ranked.mutate(place=ranked["place"] - ranked["rank"]).filter(ibis._.place >= 1)
    found = wanted.inner_join(
        events_placed,
        [wanted[c.USER_ID] == events_placed["act_user_id"], wanted["place"] == events_placed["act_place"]],
    )
    return found.select(
        QUERY_NUM,
        "rank",
        c.ITEM_ID,
        c.EVENT_TYPE,
        age_days=(found["at_us"] - found["acted_us"]).cast("float64") / US_PER_DAY,
    )


def _of_types(events: ir.Table, event_types: Sequence[str]) -> ir.Table:
    return events.filter(events[c.EVENT_TYPE].isin(list(event_types)), events[c.ITEM_ID].notnull())
