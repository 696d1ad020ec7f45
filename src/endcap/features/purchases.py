"""Checked events in, purchases as features and splits count them out."""

from __future__ import annotations

import ibis
import ibis.expr.types as ir

from endcap.contracts import columns as c
from endcap.contracts.events import PURCHASE


def purchases_of(events: ir.Table) -> ir.Table:
    """One row a basket and product: `user_id, item_id, ts_us, basket_id, price`.

    A product may stand on several lines of an invoice; that is one purchase, at the highest price of the lines. Where
    the shop names no basket, what a user buys at one moment is one: its `basket_id` is made of the two.
    """
    lines = events.filter(events[c.EVENT_TYPE] == PURCHASE)
    made = lines[c.USER_ID] + "@" + lines[c.TS_US].cast("string")
    lines = lines.mutate(**{c.BASKET_ID: ibis.coalesce(lines[c.BASKET_ID], made)})
    return lines.group_by(c.USER_ID, c.ITEM_ID, c.BASKET_ID).aggregate(
        **{c.TS_US: lines[c.TS_US].min(), c.PRICE: lines[c.PRICE].max()}
    )
