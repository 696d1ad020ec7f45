"""Purchases and items in, product features as of each midnight out: a training row meets the catalog of its own day.

What is told of a product changes on few days: when a sale enters a window, and when it leaves it. So running sums are taken
over those days alone, and each state is repeated for the days that it holds.
"""

from __future__ import annotations

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from endcap.engines.portable import always, nullable
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
_WINDOWS = {**{f"num_{days}d": days for days in POPULARITY_DAYS}, "num_ever": 0}
"""Counts of sales and how many days before the midnight they reach back; 0 is all days."""
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
    daily = _daily(purchases).semi_join(items, "item_id")
    described = items.rename(described_item_id="item_id")
    is_dated = FROM_US in items.columns
    states = _states(daily, items.select("item_id").distinct(), first_day, last_day)
    if not is_dated:  # before the days: a join of far fewer rows
        states = states.inner_join(described, [states["item_id"] == described["described_item_id"]])
    totals = _totals(daily, first_day, last_day)
    by_day = each_day(states)
    joined = by_day.inner_join(totals, [by_day["day"] == totals["total_day"]])
    named = joined.select(
        "day",
        "item_id",
        price=(joined["dated_price"] % _PRICE_LIMIT).cast("float64") / 10_000,
        days_since_first_sold=(joined["day"] - joined["first_sold"]).cast("float64"),
        days_since_last_sold=(joined["day"] - joined["last_sold"]).cast("float64"),
        repeat_share=(joined["repeats"] + _PRIOR_REPEATS).cast("float64") / (joined["num_ever"] + _PRIOR_PURCHASES),
        **{
            _share_name(name): (
                joined[name].cast("float64") * _PER / ibis.greatest(joined[f"total_{name}"], 1).cast("float64")
            )
            for name in _WINDOWS
        },
        **{} if is_dated else {name: joined[name] for name in items.columns if name != "item_id"},
    )
    if not is_dated:
        return named
    holds = [
        named["item_id"] == described["described_item_id"],
        described[FROM_US] <= named["day"] * DAY_US,
        described[UNTIL_US] > named["day"] * DAY_US,
    ]
    return named.inner_join(described, holds).drop("described_item_id", FROM_US, UNTIL_US)


def _states(daily: ir.Table, items: ir.Table, first_day: int, last_day: int) -> ir.Table:
    """What sales say of each product, one row a range of days: from `from_day` up to but without `until_day`."""
    told = daily.select(
        "item_id",
        from_day=daily["day"] + 1,
        num_repeats=daily["num_repeats"],
        sold_day=daily["day"],
        # The day before the price in one integer: its running maximum is the last price, on engines without IGNORE NULLS.
        dated_price=daily["day"] * _PRICE_LIMIT + daily["price_e4"],
        **dict.fromkeys(_WINDOWS, daily["num"]),
    )
    start = items.select("item_id", from_day=ibis.literal(first_day, "int64"))
    rows = [told, _silent(start, told)]
    rows += [_silent(_leaving(daily, name, days), told) for name, days in _WINDOWS.items() if days]
    changes = ibis.union(*(nullable(one) for one in rows))
    changed = changes.group_by("item_id", "from_day").aggregate(
        **{name: changes[name].sum() for name in (*_WINDOWS, "num_repeats")},
        first_sold=changes["sold_day"].min(),
        last_sold=changes["sold_day"].max(),
        dated_price=changes["dated_price"].max(),
    )
    so_far = ibis.window(group_by="item_id", order_by="from_day", preceding=None, following=0)
    following = changed["from_day"].lead().over(ibis.window(group_by="item_id", order_by="from_day"))
    states = changed.select(
        "item_id",
        "from_day",
        until_day=ibis.least(following.fill_null(last_day + 1), last_day + 1),
        **{name: always(changed[name].sum().over(so_far), "int64") for name in _WINDOWS},
        repeats=always(changed["num_repeats"].sum().over(so_far), "int64"),
        first_sold=changed["first_sold"].min().over(so_far),
        last_sold=changed["last_sold"].max().over(so_far),
        dated_price=changed["dated_price"].max().over(so_far),
    )
    return states.filter(states["from_day"] <= last_day)


def _leaving(daily: ir.Table, window: str, num_days: int) -> ir.Table:
    """A product's sales of a day leave a window of `num_days` days."""
    return daily.select("item_id", from_day=daily["day"] + num_days + 1, **{window: -daily["num"]})


def _silent(rows: ir.Table, like: ir.Table) -> ir.Table:
    """The columns of `like`; those that `rows` lacks count nothing, or say nothing where they are no counts."""
    counts = (*_WINDOWS, "num_repeats")
    return rows.select(**{
        name: rows[name] if name in rows.columns else ibis.literal(0 if name in counts else None, "int64")
        for name in like.columns
    })  # fmt: skip


def _totals(daily: ir.Table, first_day: int, last_day: int) -> ir.Table:
    """Sales of all products in each window, one row a day."""
    together = daily.group_by("day").aggregate(num=daily["num"].sum(), num_repeats=daily["num_repeats"].sum())
    shop = together.mutate(item_id=ibis.literal(""), num=always(together["num"], "int64"), price_e4=0)
    one = ibis.memtable(pa.table({"item_id": [""]}))
    by_day = each_day(_states(shop, one, first_day, last_day))
    return by_day.select(total_day="day", **{f"total_{name}": by_day[name] for name in _WINDOWS})


def each_day(states: ir.Table) -> ir.Table:
    """A row for each `day` from `from_day` up to but without `until_day`."""
    days = ibis.range(states["from_day"], states["until_day"]).unnest()
    return states.mutate(day=days).mutate(day=ibis._["day"].cast("int64")).drop("from_day", "until_day")


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


def _share_name(window: str) -> str:
    return "purchases_per_10k" if window == "num_ever" else f"purchases_{window.removeprefix('num_')}_per_10k"
