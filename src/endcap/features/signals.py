"""Checked events in, what users did beside buying out: acts of histories, and questions that views and carts answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import ibis
import ibis.expr.types as ir

from endcap.contracts import columns as c
from endcap.contracts.events import PURCHASE
from endcap.engines.portable import nullable
from endcap.features.split import CONTEXT, EVAL, PERIOD, TEST, TRAIN, Split

WEIGHT: Final = "weight"
"""Column of questions: how much each counts beside a purchase; only where not all count alike."""
FIRST_SEEN: Final = "days_since_first_seen"
"""Column of products: the age of the first purchase or signal; only where there are signals."""


def signals_of(events: ir.Table, event_types: Sequence[str]) -> ir.Table:
    """One row a user, product, moment and type but purchases: `user_id, item_id, ts_us, event_type`."""
    others = [name for name in event_types if name != PURCHASE]
    kept = events.filter(events[c.EVENT_TYPE].isin(others), events[c.ITEM_ID].notnull())
    return kept.select(c.USER_ID, c.ITEM_ID, c.TS_US, c.EVENT_TYPE).distinct()


def acts_of(purchases: ir.Table, signals: ir.Table, event_types: Sequence[str]) -> ir.Table:
    """Purchases and signals of some types as rows of one table, as `signals_of` gives them."""
    bought = purchases.select(c.USER_ID, c.ITEM_ID, c.TS_US).distinct()
    bought = bought.mutate(**{c.EVENT_TYPE: ibis.literal(PURCHASE)})
    others = signals.filter(signals[c.EVENT_TYPE].isin(list(event_types)))
    return nullable(bought).union(nullable(others.select(bought.columns))) if PURCHASE in event_types else others


def with_periods_of(signals: ir.Table, purchases: ir.Table, split: Split) -> ir.Table:
    """Add `period`, `train` or `eval`, to signals that may be learned from; the others are left out.

    By time they are of the period of their own moment. Else they are trained on before the customer's held-out baskets: before
    the eval basket to tune, up to the test basket to refit; customers of `random`'s eval and test parts teach nothing.
    """
    if split.kind == "time":
        before = signals.filter(signals[c.TS_US] < split.test_start_us)
        return before.mutate(**{PERIOD: (before[c.TS_US] < split.eval_start_us).ifelse(TRAIN, EVAL)})
    held = purchases.filter(purchases[PERIOD].isin([EVAL, TEST, CONTEXT]))
    held = held.group_by(held_user_id=c.USER_ID).aggregate(
        first_us=held[c.TS_US].min(), test_us=held[c.TS_US].min(where=held[PERIOD] == TEST)
    )
    joined = signals.left_join(held, signals[c.USER_ID] == held["held_user_id"])
    if split.kind == "random":
        return (
            joined.filter(joined["first_us"].isnull()).select(signals.columns).mutate(**{PERIOD: ibis.literal(TRAIN)})
        )
    is_train = joined["first_us"].isnull() | (joined[c.TS_US] < joined["first_us"])
    is_known = joined["test_us"].isnull() | (joined[c.TS_US] < joined["test_us"])
    dated = joined.mutate(**{PERIOD: is_train.ifelse(TRAIN, EVAL)}).filter(is_known)
    return dated.select(*signals.columns, PERIOD)


def with_first_seen(products: ir.Table, acts: ir.Table, day_us: int) -> ir.Table:
    """Add `days_since_first_seen` to products of days: days since the first act on a day before; null without one."""
    first = acts.group_by(seen_item_id=c.ITEM_ID).aggregate(first_day=(acts[c.TS_US].min() // day_us).cast("int64"))
    joined = products.left_join(first, products[c.ITEM_ID] == first["seen_item_id"])
    age = (joined["day"] - joined["first_day"]).cast("float64")
    return joined.mutate(**{FIRST_SEEN: (age > 0).ifelse(age, ibis.null("float64"))}).drop("seen_item_id", "first_day")
