"""Purchases in, features as of a moment out: nothing at or after the moment ever counts.

A spine is a table of questions: `query_num` (unique), `user_id`, `event_time_us`. Every function here adds columns that hold
strictly before `event_time_us`. Rather than joining each question with all that came before it, events are turned into
ranges of validity (from one event until the next), so that a question meets at most one range per key.
"""

from __future__ import annotations

from collections.abc import Sequence

import ibis
import ibis.expr.types as ir

from endcap.engines.portable import always
from endcap.features.as_of import FROM_US, UNTIL_US

DAY_US = 86_400_000_000

STRANGER: dict[str, float | None] = {
    "days_since_last_purchase": None,
    "days_since_first_purchase": None,
    "num_baskets": 0,
    "num_products": 0,
    "purchases_per_basket": 0,
}
"""The behavioural features of a user without any purchase."""


def buyer_features(spine: ir.Table, purchases: ir.Table, users: ir.Table) -> ir.Table:
    """Add recency, frequency and the user's attributes to each question.

    Adds `days_since_last_purchase` and `days_since_first_purchase` (null without one), `num_baskets`, `num_products`
    (distinct) and `purchases_per_basket` (0 without one), and every column of `users`: where those hold for a range of
    time (`from_us`, `until_us`), what held at the question's moment.
    """
    ranges = _baskets_so_far(purchases).rename(range_user_id="user_id", last_us="ts_us")
    joined = spine.left_join(
        ranges,
        [
            spine.user_id == ranges.range_user_id,
            ranges.last_us < spine.event_time_us,
            ranges.until_us.isnull() | (ranges.until_us >= spine.event_time_us),
        ],
    )
    num_baskets = joined.num_before.fill_null(0).cast("int64")
    featured = joined.select(
        *[joined[name] for name in spine.columns],
        days_since_last_purchase=(joined.event_time_us - joined.last_us).cast("float64") / DAY_US,
        days_since_first_purchase=(joined.event_time_us - joined.first_us).cast("float64") / DAY_US,
        num_baskets=num_baskets,
        num_products=joined.num_firsts.fill_null(0).cast("int64"),
        purchases_per_basket=joined.num_lines.fill_null(0).cast("float64")
        / ibis.greatest(num_baskets, 1).cast("float64"),
    )
    attributes = users.rename(attribute_user_id="user_id")
    holds = [featured.user_id == attributes.attribute_user_id]
    if FROM_US not in users.columns:
        return featured.left_join(attributes, holds).drop("attribute_user_id")
    holds += [attributes[FROM_US] <= featured.event_time_us, attributes[UNTIL_US] > featured.event_time_us]
    return featured.left_join(attributes, holds).drop("attribute_user_id", FROM_US, UNTIL_US)


def _baskets_so_far(purchases: ir.Table) -> ir.Table:
    """One row a user and moment of purchase: running counts with that moment, until the user's next one."""
    pairs = purchases.select("user_id", "item_id", "ts_us").distinct()
    by_pair = ibis.window(group_by=["user_id", "item_id"], order_by="ts_us")
    marked = pairs.mutate(is_first=(ibis.row_number().over(by_pair) == 0).cast("int64"))
    moments = marked.group_by("user_id", "ts_us").aggregate(num_lines=marked.count(), num_firsts=marked.is_first.sum())
    by_user = ibis.window(group_by="user_id", order_by="ts_us")
    so_far = ibis.window(group_by="user_id", order_by="ts_us", preceding=None, following=0)
    return moments.select(
        "user_id",
        "ts_us",
        num_before=ibis.row_number().over(by_user) + 1,
        until_us=moments.ts_us.lead().over(by_user),
        first_us=moments.ts_us.min().over(so_far),
        num_lines=always(moments.num_lines.sum().over(so_far), "int64"),
        num_firsts=always(moments.num_firsts.sum().over(so_far), "int64"),
    )


def history(spine: ir.Table, acts: ir.Table, max_length: int, counted: Sequence[str] = ()) -> ir.Table:
    """The last distinct products of each question's user, one row each, in no particular order.

    Columns: `query_num`, `rank` (0 is the last bought; ties in time by the product's id, so that the order is total and
    the same on every engine), `item_id`, `age_days` (since last bought), `count` (moments at which it was bought).

    `acts` are purchases, or other events that fill histories too. Of the types of events in `counted` there are columns
    `num_TYPE`: at how many moments the product was met so; `acts` then has `event_type`.
    """
    met = acts.select("user_id", "item_id", "ts_us", *(["event_type"] if counted else [])).distinct()
    told = {f"num_{name}": (met["event_type"] == name).cast("int64").sum() for name in counted}
    moments = met.group_by("user_id", "item_id", "ts_us").aggregate(**told) if counted else met
    by_pair = ibis.window(group_by=["user_id", "item_id"], order_by="ts_us")
    so_far = ibis.window(group_by=["user_id", "item_id"], order_by="ts_us", preceding=None, following=0)
    ranges = moments.mutate(
        num_bought=ibis.row_number().over(by_pair) + 1,
        until_us=moments.ts_us.lead().over(by_pair),
        **{name: always(moments[name].sum().over(so_far), "int64") for name in told},
    ).rename(range_user_id="user_id", last_us="ts_us")
    joined = spine.select("query_num", "user_id", "event_time_us").inner_join(
        ranges,
        [
            spine.user_id == ranges.range_user_id,
            ranges.last_us < spine.event_time_us,
            ranges.until_us.isnull() | (ranges.until_us >= spine.event_time_us),
        ],
    )
    latest = ibis.window(group_by="query_num", order_by=[ibis.desc("last_us"), "item_id"])
    ranked = joined.mutate(rank=ibis.row_number().over(latest)).filter(ibis._["rank"] < max_length)
    return ranked.select(
        "query_num",
        "rank",
        "item_id",
        age_days=(ranked.event_time_us - ranked.last_us).cast("float64") / DAY_US,
        count=ranked.num_bought.cast("int64"),
        **{name: ranked[name].cast("int64") for name in told},
    )
