"""Purchases and items in, product features as of each midnight out: a training row meets the catalog of its own day.

Counts come from a dense grid of products and days, so that a window over rows is a window over days on any engine.
"""

from __future__ import annotations

import ibis
import ibis.expr.types as ir

from endcap.features.as_of import FROM_US, UNTIL_US
from endcap.features.point_in_time import DAY_US

POPULARITY_DAYS = (7, 30, 90)
NUMBERS = (
    "price",
    "days_since_first_sold",
    "days_since_last_sold",
    "repeat_share",
    *(f"purchases_{days}d_per_10k" for days in POPULARITY_DAYS),
    "purchases_per_10k",
)
"""What is told of every product, whatever the shop says of it."""
_PER = 10_000
_PRICE_LIMIT = 10**12
_PRIOR_PURCHASES = 10
_PRIOR_REPEATS = 2
UNSOLD: dict[str, float | None] = {
    "price": None,
    "days_since_first_sold": None,
    "days_since_last_sold": None,
    "repeat_share": _PRIOR_REPEATS / _PRIOR_PURCHASES,
    **{name: 0.0 for name in NUMBERS if name.endswith("_per_10k")},
}
"""The numbers of a product that nobody has bought."""


def product_features(purchases: ir.Table, items: ir.Table, first_day: int, last_day: int) -> ir.Table:
    """Features of each product as of the midnight (UTC) that begins `day`, for a range of days.

    Args:
        purchases: `user_id, item_id, ts_us, price`; only what may be known: purchases of the last day don't count.
        items: `item_id` and attributes such as `title`; where they hold for a range of time (`from_us`, `until_us`), each
            product's ranges cover every day.
        first_day: First day, counted from 1970-01-01; must not lie after the first purchase.
        last_day: Last day, included.

    Returns:
        `day`, `item_id`, the attributes as of the midnight, `price` (last paid before the day), `days_since_first_sold`, `days_since_last_sold`
        (these three are null before the first sale),
        `purchases_{7,30,90}d_per_10k` and `purchases_per_10k` (how many of 10,000 purchases in that window, or ever,
        were of the product), `repeat_share` (share of its purchases by customers who had bought it before, with a
        prior of 2 in 10).
    """
    daily = _daily(purchases)
    days = ibis.range(first_day, last_day + 1).unnest().name("day").as_table().mutate(day=ibis._.day.cast("int64"))
    grid = items.select("item_id").distinct().cross_join(days)
    dense = grid.left_join(daily, ["item_id", "day"]).select(
        grid.item_id,
        grid.day,
        num=daily.num.fill_null(0),
        num_repeats=daily.num_repeats.fill_null(0),
        sold_day=daily.day,
        # The day before the price in one integer: its running maximum is the last price, on engines without IGNORE NULLS.
        dated_price=daily.day * _PRICE_LIMIT + daily.price_e4,
    )
    featured = dense.mutate(
        **{name: dense.num.sum().over(window).fill_null(0).cast("int64") for name, window in _windows().items()},
        repeats=dense.num_repeats.sum().over(_before()).fill_null(0).cast("int64"),
        first_sold=dense.sold_day.min().over(_before()),
        last_sold=dense.sold_day.max().over(_before()),
        last_price=(dense.dated_price.max().over(_before()) % _PRICE_LIMIT).cast("float64") / 10_000,
    )
    totals = ibis.window(group_by="day")
    named = featured.select(
        "day",
        "item_id",
        price=featured.last_price,
        days_since_first_sold=(featured.day - featured.first_sold).cast("float64"),
        days_since_last_sold=(featured.day - featured.last_sold).cast("float64"),
        repeat_share=(featured.repeats + _PRIOR_REPEATS).cast("float64") / (featured.num_ever + _PRIOR_PURCHASES),
        **{
            _share_name(name): (
                featured[name].cast("float64")
                * _PER
                / ibis.greatest(featured[name].sum().over(totals), 1).cast("float64")
            )
            for name in _windows()
        },
    )
    described = items.rename(described_item_id="item_id")
    holds = [named.item_id == described.described_item_id]
    if FROM_US not in items.columns:
        return named.inner_join(described, holds).drop("described_item_id")
    holds += [described[FROM_US] <= named.day * DAY_US, described[UNTIL_US] > named.day * DAY_US]
    return named.inner_join(described, holds).drop("described_item_id", FROM_US, UNTIL_US)


def _daily(purchases: ir.Table) -> ir.Table:
    """Purchases of each product and day: how many, how many repeats, the last price."""
    by_pair = ibis.window(group_by=["user_id", "item_id"], order_by="ts_us")
    marked = purchases.mutate(
        day=(purchases.ts_us // DAY_US).cast("int64"),
        is_repeat=(ibis.rank().over(by_pair) > 0).cast("int64"),
    )
    return marked.group_by("item_id", "day").aggregate(
        num=marked.count(),
        num_repeats=marked.is_repeat.sum(),
        price_e4=(marked.price * 10_000).cast("int64").last(order_by=["ts_us", "price"]),
    )


def _windows() -> dict[str, ir.LegacyWindowBuilder]:
    windows = {
        f"num_{days}d": ibis.window(group_by="item_id", order_by="day", preceding=(days, 1)) for days in POPULARITY_DAYS
    }
    return windows | {"num_ever": _before()}


def _before() -> ir.LegacyWindowBuilder:
    return ibis.window(group_by="item_id", order_by="day", preceding=(None, 1))


def _share_name(window: str) -> str:
    return "purchases_per_10k" if window == "num_ever" else f"purchases_{window.removeprefix('num_')}_per_10k"
