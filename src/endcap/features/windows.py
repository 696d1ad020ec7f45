"""Daily rows in, features as of the midnight that begins a day out: counts, recency, trends, prices, repurchases.

Each function needs the daily rows of a bounded number of days before that midnight and leaves out all others, so a
day's features can be made again alone, and a change in one day's events touches the days after it up to that bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from endcap.contracts import columns as c
from endcap.contracts.events import US_PER_DAY
from endcap.engines.portable import always
from endcap.features.as_of import FOREVER_US
from endcap.features.daily import DAY, MONEY_TYPE, SPEND, count_name
from endcap.features.exact import COUNTED, TREND_DAYS, WINDOW_DAYS, trend

LOOKBACK_DAYS: Final = max(WINDOW_DAYS)
"""Days before a midnight that its counts, recencies and trends depend on."""
REPURCHASE_DAYS: Final = 365
"""Days before a midnight that its repurchase intervals depend on."""


def user_windows(user_days: ir.Table, day: int) -> ir.Table:
    """One row a user with any event in the `LOOKBACK_DAYS` before the midnight that begins `day`.

    `user_id, day`; `num_TYPE_Wd` and `spend_Wd` over the last W days; `days_since_TYPE` (from the midnight to the one
    that began the day of the last such event, so at least 1; null without one); `TYPE_trend_Wd`, the last W days against
    the W before.
    """
    return _windows(user_days, [c.USER_ID], day)


def item_windows(item_days: ir.Table, day: int) -> ir.Table:
    """As `user_windows`, by `item_id`."""
    return _windows(item_days, [c.ITEM_ID], day)


def user_category_windows(user_category_days: ir.Table, day: int) -> ir.Table:
    """As `user_windows`, by `user_id` and `category`."""
    return _windows(user_category_days, [c.USER_ID, c.CATEGORY], day)


def price_positions(item_versions: ir.Table, day: int) -> ir.Table:
    """Where each product's price stands among those of its category, as of the midnight that begins `day`.

    `item_id, day, category, price, price_position`: the share of the category's other priced products that are cheaper,
    one of the same price counting half. Null for a product without price, without category or alone in it.
    """
    return price_positions_on(item_versions, _one_day(day))


def price_positions_on(item_versions: ir.Table, days: ir.Table) -> ir.Table:
    """`price_positions` for every `day` of a table with that one column, in which each day stands once."""
    midnight_us = days[DAY] * US_PER_DAY
    held = item_versions.join(
        days,
        [
            item_versions[c.VALID_FROM_US] <= midnight_us,
            item_versions[c.VALID_TO_US].fill_null(FOREVER_US) > midnight_us,
        ],
    )
    is_placed = held[c.CATEGORY].notnull() & held[c.PRICE].notnull()
    priced = held.select(c.ITEM_ID, DAY, c.CATEGORY, c.PRICE, is_placed=is_placed)
    in_category = ibis.window(group_by=[DAY, c.CATEGORY, "is_placed"])
    by_price = ibis.window(group_by=[DAY, c.CATEGORY, "is_placed"], order_by=c.PRICE)
    at_price = ibis.window(group_by=[DAY, c.CATEGORY, "is_placed", c.PRICE])
    counted = priced.mutate(
        num_cheaper=ibis.rank().over(by_price).cast("int64"),
        num_equal=priced.count().over(at_price).cast("int64"),
        num_all=priced.count().over(in_category).cast("int64"),
    )
    # Twice the share's numerator and denominator: halves stay integers until the one division.
    position = (2 * counted["num_cheaper"] + counted["num_equal"] - 1).cast("float64") / (
        2 * (counted["num_all"] - 1)
    ).nullif(0).cast("float64")
    return counted.select(
        c.ITEM_ID, DAY, c.CATEGORY, c.PRICE, price_position=counted["is_placed"].ifelse(position, ibis.null("float64"))
    )


def repurchase_intervals(user_item_days: ir.Table, day: int) -> ir.Table:
    """How many days pass until a customer buys a product again, as of the midnight that begins `day`.

    `item_id, day, num_intervals, repurchase_days`: the exact median of the days between one day of purchase and the
    same user's next, over the last `REPURCHASE_DAYS`; products that nobody bought twice are left out.
    """
    return repurchase_intervals_on(user_item_days, _one_day(day))


def repurchase_intervals_on(user_item_days: ir.Table, days: ir.Table) -> ir.Table:
    """`repurchase_intervals` for every `day` of a table with that column, and with `item_id` for some products alone.

    Rows of `days` are distinct.
    """
    bought = user_item_days.select(c.USER_ID, c.ITEM_ID, again_day=user_item_days[DAY])
    by_pair = ibis.window(group_by=[c.USER_ID, c.ITEM_ID], order_by="again_day")
    pairs = bought.mutate(first_day=bought["again_day"].lag().over(by_pair))
    gaps = pairs.filter(pairs["first_day"].notnull()).select(
        c.ITEM_ID, "first_day", "again_day", gap=(pairs["again_day"] - pairs["first_day"])
    )
    asked = days.rename(asked_item_id=c.ITEM_ID) if c.ITEM_ID in days.columns else days
    conditions = [gaps["again_day"] < asked[DAY], gaps["first_day"] >= asked[DAY] - REPURCHASE_DAYS]
    if c.ITEM_ID in days.columns:
        conditions.append(gaps[c.ITEM_ID] == asked["asked_item_id"])
    known = gaps.join(asked, conditions).select(c.ITEM_ID, DAY, "gap")
    by_item = ibis.window(group_by=[c.ITEM_ID, DAY])
    ordered = ibis.window(group_by=[c.ITEM_ID, DAY], order_by="gap")
    placed = known.mutate(place=ibis.row_number().over(ordered), num=known.count().over(by_item))
    # The middle one, or the two middle ones: twice the place is num - 1, or one less or more.
    middle = placed.filter((2 * placed["place"] - (placed["num"] - 1)).abs() <= 1)
    medians = middle.group_by(c.ITEM_ID, DAY).aggregate(
        num_intervals=middle["num"].max().cast("int64"), total=middle["gap"].sum(), num_middle=middle.count()
    )
    return medians.select(
        c.ITEM_ID,
        DAY,
        "num_intervals",
        repurchase_days=medians["total"].cast("float64") / medians["num_middle"].cast("float64"),
    )


def repurchase_due(user_item_days: ir.Table, day: int) -> ir.Table:
    """How long ago each user bought each product, and how that compares with the product's usual interval.

    `user_id, item_id, day, days_since_purchase, repurchase_ratio` (days since over the product's median; null without
    one; 1 is when half the customers have come back), over the last `REPURCHASE_DAYS`.
    """
    lately = user_item_days.filter(user_item_days[DAY] < day, user_item_days[DAY] >= day - REPURCHASE_DAYS)
    last = lately.group_by(c.USER_ID, c.ITEM_ID).aggregate(last_day=lately[DAY].max())
    medians = repurchase_intervals(user_item_days, day).select(median_item_id=c.ITEM_ID, median="repurchase_days")
    joined = last.left_join(medians, last[c.ITEM_ID] == medians["median_item_id"])
    since = (ibis.literal(day, "int64") - joined["last_day"]).cast("float64")
    return joined.select(
        c.USER_ID,
        c.ITEM_ID,
        **{DAY: _literal(day)},
        days_since_purchase=since,
        repurchase_ratio=since / joined["median"],
    )


def _one_day(day: int) -> ir.Table:
    return ibis.memtable(pa.table({DAY: pa.array([day], pa.int64())}))


def _windows(days: ir.Table, keys: Sequence[str], day: int) -> ir.Table:
    lately = days.filter(days[DAY] < day, days[DAY] >= day - LOOKBACK_DAYS)

    def total(name: str, start: int, end: int = 0) -> ir.Value:
        """What was counted from `start` days before the midnight until `end` days before it."""
        return lately[name].sum(where=(lately[DAY] >= day - start) & (lately[DAY] < day - end)).fill_null(0)

    columns: dict[str, ir.Value] = {}
    for name in (*(count_name(kind) for kind in COUNTED), SPEND):
        dtype = MONEY_TYPE if name == SPEND else "int64"
        for window in WINDOW_DAYS:
            columns[f"{name}_{window}d"] = always(total(name, window), dtype)
    for kind in COUNTED:
        name = count_name(kind)
        columns[f"days_since_{kind}"] = (day - lately[DAY].max(where=lately[name] > 0)).cast("float64")
        for window in TREND_DAYS:
            columns[f"{kind}_trend_{window}d"] = trend(total(name, window), total(name, 2 * window, window))
    summed = lately.group_by(*keys).aggregate(**columns)
    return summed.select(*keys, **{DAY: _literal(day)}, **{name: summed[name] for name in columns})


def _literal(day: int) -> ir.Value:
    return always(ibis.literal(day, "int64"), "int64")
