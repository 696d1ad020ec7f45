"""A spine, events and item versions in, the default feature set out: one table a group, to be computed one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import ibis.expr.types as ir

from endcap.contracts import columns as c
from endcap.contracts.events import PURCHASE, US_PER_DAY
from endcap.features.as_of import as_of
from endcap.features.daily import DAY, user_item_days
from endcap.features.exact import (
    COUNTED,
    MOMENT_US,
    QUERY_NUM,
    item_features,
    user_category_features,
    user_features,
    user_item_features,
)
from endcap.features.sequences import last_events, last_items
from endcap.features.windows import price_positions_on, repurchase_intervals_on

SEQUENCE_LENGTH: Final = 20


@dataclass(frozen=True)
class FeatureGroup:
    """Features that are computed in one pass."""

    name: str
    entity: str
    """What they describe: columns of the spine, joined by `x`."""
    window: str
    content: str


DEFAULT_FEATURES: Final = (
    FeatureGroup("user", "user", "1, 7, 30, 90 days before the moment", "counts, spend, recency, trends"),
    FeatureGroup("item", "item", "1, 7, 30, 90 days before the moment", "counts, spend, recency, trends"),
    FeatureGroup("user_category", "user x category", "1, 7, 30, 90 days before the moment", "counts, spend, recency"),
    FeatureGroup("user_item", "user x item", "1, 7, 30, 90 days before the moment", "counts, spend, recency"),
    FeatureGroup("price", "item", "as of the midnight before the moment", "price, position in the category; in stock"),
    FeatureGroup("repurchase", "user x item", "365 days before the midnight", "median interval, days since over it"),
    FeatureGroup("sequence", "user", "all before the moment", f"last {SEQUENCE_LENGTH} events, a row each"),
)
"""In the order of `default_features`."""

MORE_FEATURES: Final = (
    FeatureGroup("history", "user", "all before the moment", "last distinct products bought, a row each"),
)
"""Made on demand alone."""


def default_features(spine: ir.Table, events: ir.Table, item_versions: ir.Table) -> dict[str, ir.Table]:
    """The tables of `DEFAULT_FEATURES` by name, keyed by `query_num`; lazy: execute each on its own.

    `spine` has `query_num` (int64, unique), `user_id, item_id, event_time_us`. One row a question, but for `sequence`,
    which has one a question and event (`rank` 0 is the last).
    """
    return features_of([group.name for group in DEFAULT_FEATURES], spine, events, item_versions)


def features_of(
    names: Iterable[str],
    spine: ir.Table,
    events: ir.Table,
    item_versions: ir.Table,
    *,
    sequence_length: int = SEQUENCE_LENGTH,
) -> dict[str, ir.Table]:
    """Some of `DEFAULT_FEATURES` and `MORE_FEATURES` by name; see `default_features`. `history` has rows like `sequence`."""
    make: dict[str, Callable[[], ir.Table]] = {
        "user": lambda: user_features(spine, events),
        "item": lambda: item_features(spine, events),
        "user_category": lambda: user_category_features(spine, events, item_versions),
        "user_item": lambda: user_item_features(spine, events),
        "price": lambda: price_features(spine, item_versions),
        "repurchase": lambda: repurchase_features(spine, events),
        "sequence": lambda: last_events(spine, events, sequence_length, event_types=COUNTED),
        "history": lambda: last_items(spine, events, sequence_length),
    }
    return {name: make[name]() for name in names}


def price_features(spine: ir.Table, item_versions: ir.Table) -> ir.Table:
    """The product's price and its place in the category as of the midnight that begins the question's day.

    `query_num, item_price` (decimal), `item_price_position`, `item_in_stock` (as of the moment itself: whoever asks
    knows what can be bought); null where it has none.
    """
    asked = as_of(_dated(spine), item_versions, moment=MOMENT_US, attributes=(c.IN_STOCK,))
    positions = price_positions_on(item_versions, asked.select(DAY).distinct()).rename(
        priced_item_id=c.ITEM_ID, priced_day=DAY
    )
    joined = asked.left_join(
        positions, [asked[c.ITEM_ID] == positions["priced_item_id"], asked[DAY] == positions["priced_day"]]
    )
    return joined.select(QUERY_NUM, item_price=c.PRICE, item_price_position="price_position", item_in_stock=c.IN_STOCK)


def repurchase_features(spine: ir.Table, events: ir.Table) -> ir.Table:
    """How often the product is bought again, and how long ago the user bought it in comparison.

    `query_num, item_num_intervals` (0 without any), `item_repurchase_days` as of the midnight that begins the question's
    day, `user_item_repurchase_ratio` (days since the user's last purchase, to the microsecond, over that median).
    """
    asked = _dated(spine)
    medians = repurchase_intervals_on(user_item_days(events), asked.select(c.ITEM_ID, DAY).distinct()).rename(
        median_item_id=c.ITEM_ID, median_day=DAY
    )
    bought = events.filter(events[c.EVENT_TYPE] == PURCHASE).select(
        buyer_id=c.USER_ID, bought_item_id=c.ITEM_ID, bought_us=c.TS_US
    )
    met = asked.inner_join(
        bought,
        [
            asked[c.USER_ID] == bought["buyer_id"],
            asked[c.ITEM_ID] == bought["bought_item_id"],
            bought["bought_us"] < asked[MOMENT_US],
        ],
    )
    last = met.group_by(last_query_num=QUERY_NUM).aggregate(last_us=met["bought_us"].max())
    known = asked.left_join(
        medians, [asked[c.ITEM_ID] == medians["median_item_id"], asked[DAY] == medians["median_day"]]
    )
    joined = known.left_join(last, known[QUERY_NUM] == last["last_query_num"])
    since = (joined[MOMENT_US] - joined["last_us"]).cast("float64") / US_PER_DAY
    return joined.select(
        QUERY_NUM,
        item_num_intervals=joined["num_intervals"].fill_null(0),
        item_repurchase_days=joined["repurchase_days"],
        user_item_repurchase_ratio=since / joined["repurchase_days"],
    )


def _dated(spine: ir.Table) -> ir.Table:
    day = (spine[MOMENT_US] // US_PER_DAY).cast("int64")
    return spine.select(QUERY_NUM, c.USER_ID, c.ITEM_ID, MOMENT_US, **{DAY: day})
