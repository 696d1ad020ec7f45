"""Purchases in, features as of a moment out: nothing at or after the moment ever counts.

A spine is a table of questions: `query_num` (unique), `user_id`, `event_time_us`. Every function here adds columns that hold
strictly before `event_time_us`. Rather than joining each question with all that came before it, events are turned into
ranges of validity (from one event until the next), so that a question meets at most one range per key.
"""

from __future__ import annotations

import ibis
import ibis.expr.types as ir

DAY_US = 86_400_000_000


def buyer_features(spine: ir.Table, purchases: ir.Table, users: ir.Table) -> ir.Table:
    """Add recency, frequency and the user's attributes to each question.

    Adds `days_since_last_purchase` (null without one), `num_baskets` (0 without one) and every column of `users`.
    """
    moments = purchases.select("user_id", "ts_us").distinct()
    by_user = ibis.window(group_by="user_id", order_by="ts_us")
    ranges = moments.mutate(
        num_before=ibis.row_number().over(by_user) + 1,
        until_us=moments.ts_us.lead().over(by_user),
    ).rename(range_user_id="user_id", last_us="ts_us")
    joined = spine.left_join(
        ranges,
        [
            spine.user_id == ranges.range_user_id,
            ranges.last_us < spine.event_time_us,
            ranges.until_us.isnull() | (ranges.until_us >= spine.event_time_us),
        ],
    )
    featured = joined.select(
        *[joined[name] for name in spine.columns],
        days_since_last_purchase=(joined.event_time_us - joined.last_us).cast("float64") / DAY_US,
        num_baskets=joined.num_before.fill_null(0).cast("int64"),
    )
    attributes = users.rename(attribute_user_id="user_id")
    known = featured.left_join(attributes, featured.user_id == attributes.attribute_user_id)
    return known.drop("attribute_user_id")


def history(spine: ir.Table, purchases: ir.Table, max_length: int) -> ir.Table:
    """The last distinct products of each question's user, oldest first.

    Columns: `query_num`, `user_history` (item ids), `user_history_age_days` (since last bought),
    `user_history_count` (baskets with the product). Questions without any history are absent.
    """
    bought = purchases.select("user_id", "item_id", "ts_us").distinct()
    by_pair = ibis.window(group_by=["user_id", "item_id"], order_by="ts_us")
    ranges = bought.mutate(
        num_bought=ibis.row_number().over(by_pair) + 1,
        until_us=bought.ts_us.lead().over(by_pair),
    ).rename(range_user_id="user_id", last_us="ts_us")
    joined = spine.select("query_num", "user_id", "event_time_us").inner_join(
        ranges,
        [
            spine.user_id == ranges.range_user_id,
            ranges.last_us < spine.event_time_us,
            ranges.until_us.isnull() | (ranges.until_us >= spine.event_time_us),
        ],
    )
    # Ties in time are cut by the product's id: the order must be total to be the same on every engine.
    latest = ibis.window(group_by="query_num", order_by=[ibis.desc("last_us"), "item_id"])
    kept = joined.mutate(rank=ibis.row_number().over(latest)).filter(ibis._["rank"] < max_length)
    order = [ibis.desc("rank")]
    return kept.group_by("query_num").aggregate(
        user_history=kept.item_id.collect(order_by=order),
        user_history_age_days=((kept.event_time_us - kept.last_us).cast("float64") / DAY_US).collect(order_by=order),
        user_history_count=kept.num_bought.cast("int64").collect(order_by=order),
    )
