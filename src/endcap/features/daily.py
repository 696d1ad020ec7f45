"""Events in, what each user, product and category came to on each day out; a day's rows depend on its events alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ibis
import ibis.expr.types as ir

from endcap.contracts import columns as c
from endcap.contracts.events import EVENT_TYPES, MONEY_PRECISION, MONEY_SCALE, PURCHASE, REFUND, US_PER_DAY
from endcap.features.as_of import with_category

DAY = "day"
"""Days since 1970-01-01 (UTC), int64."""
SPEND = "spend"
REFUNDED = "refunded"
MONEY_TYPE = f"decimal({MONEY_PRECISION}, {MONEY_SCALE})"

_USERS = {"num_users": c.USER_ID}
_ITEMS = {"num_items": c.ITEM_ID}
_VISITS = {"num_baskets": c.BASKET_ID, "num_sessions": c.SESSION_ID}


def count_name(event_type: str) -> str:
    """The column that counts events of a type."""
    return f"num_{event_type}"


def user_days(events: ir.Table) -> ir.Table:
    """One row a user and day with any event.

    `user_id, day`, a count per event type (`num_view_item`, …), `spend` and `refunded` (values of purchases and of
    refunds), `num_items`, `num_baskets`, `num_sessions` (distinct). All days are in UTC, all money in the currency of
    the events.
    """
    return _aggregate(events, [c.USER_ID], _ITEMS | _VISITS)


def item_days(events: ir.Table) -> ir.Table:
    """One row a product and day with any event of it: as `user_days`, with `item_id` and `num_users`."""
    named = events.filter(events[c.ITEM_ID].notnull())
    return _aggregate(named, [c.ITEM_ID], _USERS | _VISITS)


def user_category_days(events: ir.Table, item_versions: ir.Table) -> ir.Table:
    """One row a user, category and day: as `user_days`, with the product's category at the moment of each event.

    Events of products that are in no category at their moment are left out.
    """
    named = with_category(events.filter(events[c.ITEM_ID].notnull()), item_versions)
    return _aggregate(named.filter(named[c.CATEGORY].notnull()), [c.USER_ID, c.CATEGORY], _ITEMS | _VISITS)


def user_item_days(events: ir.Table) -> ir.Table:
    """One row a user, product and day on which the user bought it: `user_id, item_id, day, num_purchase`."""
    bought = events.filter(events[c.EVENT_TYPE] == PURCHASE)
    dated = bought.select(c.USER_ID, c.ITEM_ID, **{DAY: _day_of(bought)})
    return dated.group_by(c.USER_ID, c.ITEM_ID, DAY).aggregate(**{count_name(PURCHASE): dated.count().cast("int64")})


def _aggregate(events: ir.Table, keys: Sequence[str], distinct: Mapping[str, str]) -> ir.Table:
    dated = events.select(*keys, c.EVENT_TYPE, c.VALUE, *(set(distinct.values()) - set(keys)), **{DAY: _day_of(events)})
    kind, value = dated[c.EVENT_TYPE], dated[c.VALUE]
    return dated.group_by(*keys, DAY).aggregate(
        **{count_name(name): dated.count(where=kind == name).cast("int64") for name in EVENT_TYPES},
        **{
            name: value.sum(where=kind == event_type).fill_null(0).cast(MONEY_TYPE)
            for name, event_type in ((SPEND, PURCHASE), (REFUNDED, REFUND))
        },
        **{name: dated[source].nunique().cast("int64") for name, source in distinct.items()},
    )


def _day_of(events: ir.Table) -> ir.Value:
    return (events[c.TS_US] // ibis.literal(US_PER_DAY, "int64")).cast("int64")
