"""Purchases with what is to be predicted of them in, each basket's lines and what the past says of them out.

A line is a product that a customer bought at a moment, with the sum of its target: its spend, say. Means so far are on
the scale that is learned, logged where the FeatureConfig logs the target; they are summed as integers, so that they are
equal on every engine and in any order.
"""

from __future__ import annotations

import difflib
from typing import Final

import ibis
import ibis.expr.types as ir
import msgspec
import numpy as np
import pyarrow as pa
from ibis.backends.duckdb import Backend

from endcap.contracts import columns as c
from endcap.contracts.errors import ColumnsError
from endcap.contracts.events import PURCHASE
from endcap.engines.portable import always
from endcap.features.point_in_time import DAY_US
from endcap.features.products import each_day

USER_MEAN: Final = "user_mean_target"
ITEM_MEAN: Final = "item_mean_target"
HISTORY_TARGET: Final = "target"
"""Suffix of the list beside a history: what was last paid, say, for each of its products; 0 where there is none."""
TARGET: Final = "target"
TARGET_VALUES: Final = "target_values"

_MICRO: Final = 1_000_000


class TargetSettings(msgspec.Struct, frozen=True):
    """What is to be predicted of a line."""

    column: str
    is_logged: bool


def labelled_purchases(events: ir.Table, settings: TargetSettings) -> ir.Table:
    """One row a customer, product and moment: `user_id, item_id, ts_us, target` (null where no line has one), `micros`.

    `target` is the sum over the customer's lines of the product at that moment; `micros` the same as it is learned, in
    millionths. Raises ColumnsError when the purchases have no such column of numbers.
    """
    numbers = [name for name, type_ in events.schema().items() if type_.is_numeric() and name != c.TS_US]
    if settings.column not in numbers:
        close = difflib.get_close_matches(settings.column, numbers, n=1, cutoff=0.5)
        raise ColumnsError([(
            "features.target.column",
            f"purchases have no numbers called {settings.column}; they have {', '.join(sorted(numbers))}."
            + (f" Did you mean {close[0]}?" if close else ""),
        )])  # fmt: skip
    lines = events.filter(events[c.EVENT_TYPE] == PURCHASE, events[c.ITEM_ID].notnull())
    made = lines[c.USER_ID] + "@" + lines[c.TS_US].cast("string")
    lines = lines.mutate(**{c.BASKET_ID: ibis.coalesce(lines[c.BASKET_ID], made)})
    # A basket's moment is its first line's, as purchases count it.
    baskets = lines.group_by(c.USER_ID, c.ITEM_ID, c.BASKET_ID).aggregate(
        **{c.TS_US: lines[c.TS_US].min(), TARGET: lines[settings.column].sum()}
    )
    summed = baskets.group_by(c.USER_ID, c.ITEM_ID, c.TS_US).aggregate(target=baskets[TARGET].sum())
    value = summed[TARGET].cast("float64")
    learned = ((value < 0).ifelse(0.0, value) + 1.0).ln() if settings.is_logged else value
    return summed.mutate(target=value, micros=(learned * _MICRO).round().cast("int64"))


def lines_of(labelled: ir.Table, periods: ir.Table, period: str) -> ir.Table:
    """One row a customer and moment: `user_id, event_time_us, period`, `targets` by id and `target_values` beside them.

    `periods` says of each purchase (`user_id, item_id, ts_us`) which period it is of, in the column `period`.
    """
    bought = periods.select("user_id", "item_id", "ts_us", period).distinct()
    dated = bought.inner_join(labelled.select("user_id", "item_id", "ts_us", TARGET), ["user_id", "item_id", "ts_us"])
    # A list can't hold what is missing on every engine: NaN stands for it.
    dated = dated.mutate(target=dated[TARGET].fill_null(float("nan")))
    return dated.group_by("user_id", period, event_time_us="ts_us").aggregate(
        targets=dated["item_id"].collect(order_by="item_id"),
        **{TARGET_VALUES: dated[TARGET].collect(order_by="item_id")},
    )


def with_user_targets(connection: Backend, questions: pa.Table, labelled: ir.Table, history: str) -> pa.Table:
    """Add `user_mean_target`, and beside the list `history` the last target of each of its products (0: none).

    Both hold strictly before each question's `event_time_us`. `query_num` counts the questions from 0 in order.
    """
    spine = ibis.memtable(questions.select(["query_num", "user_id", "event_time_us"]))
    means = connection.to_pyarrow(_user_means(spine, labelled).order_by("query_num"))
    lists = questions[history].combine_chunks()
    offsets = np.asarray(lists.offsets).astype(np.int64)
    items = lists.values.slice(offsets[0], offsets[-1] - offsets[0])
    lengths = np.diff(offsets)
    entries = pa.table({
        "entry_num": pa.array(np.arange(len(items), dtype=np.int64)),
        "user_id": questions["user_id"].combine_chunks().take(pa.array(np.repeat(np.arange(len(lengths)), lengths))),
        "item_id": items.cast(pa.string()),
        "event_time_us": pa.array(np.repeat(questions["event_time_us"].to_numpy(), lengths)),
    })  # fmt: skip
    last = connection.to_pyarrow(_last_targets(ibis.memtable(entries), labelled).order_by("entry_num"))
    values = np.zeros(len(items))
    values[last["entry_num"].to_numpy()] = np.nan_to_num(last[TARGET].fill_null(0.0).to_numpy())
    targets = pa.ListArray.from_arrays(pa.array((offsets - offsets[0]).astype(np.int32)), pa.array(values))
    return questions.append_column(USER_MEAN, means[USER_MEAN].combine_chunks()).append_column(
        f"{history}_{HISTORY_TARGET}", targets
    )


def _user_means(spine: ir.Table, labelled: ir.Table) -> ir.Table:
    known = labelled.filter(labelled["micros"].notnull())
    moments = known.group_by("user_id", "ts_us").aggregate(total=known["micros"].sum(), num=known.count())
    so_far = ibis.window(group_by="user_id", order_by="ts_us", preceding=None, following=0)
    ranges = moments.select(
        range_user_id="user_id",
        last_us="ts_us",
        until_us=moments["ts_us"].lead().over(ibis.window(group_by="user_id", order_by="ts_us")),
        total=always(moments["total"].sum().over(so_far), "int64"),
        num=always(moments["num"].sum().over(so_far), "int64"),
    )
    joined = spine.left_join(
        ranges,
        [
            spine["user_id"] == ranges["range_user_id"],
            ranges["last_us"] < spine["event_time_us"],
            ranges["until_us"].isnull() | (ranges["until_us"] >= spine["event_time_us"]),
        ],
    )
    return joined.select(
        "query_num", **{USER_MEAN: joined["total"].cast("float64") / joined["num"].cast("float64") / _MICRO}
    )


def _last_targets(entries: ir.Table, labelled: ir.Table) -> ir.Table:
    """What each entry's user last paid, say, for its product before the entry's moment; entries without are left out."""
    by_pair = ibis.window(group_by=["user_id", "item_id"], order_by="ts_us")
    ranges = labelled.select(
        range_user_id="user_id", range_item_id="item_id", last_us="ts_us",
        until_us=labelled["ts_us"].lead().over(by_pair), target=labelled[TARGET],
    )  # fmt: skip
    joined = entries.inner_join(
        ranges,
        [
            entries["user_id"] == ranges["range_user_id"],
            entries["item_id"] == ranges["range_item_id"],
            ranges["last_us"] < entries["event_time_us"],
            ranges["until_us"].isnull() | (ranges["until_us"] >= entries["event_time_us"]),
        ],
    )
    return joined.select("entry_num", TARGET)


def with_item_means(products: ir.Table, labelled: ir.Table, last_day: int) -> ir.Table:
    """Add `item_mean_target` to rows by `day` and `item_id`, up to `last_day`: over lines before the day's midnight."""
    known = labelled.filter(labelled["micros"].notnull())
    daily = known.group_by("item_id", day=(known["ts_us"] // DAY_US).cast("int64")).aggregate(
        total=known["micros"].sum(), num=known.count()
    )
    so_far = ibis.window(group_by="item_id", order_by="day", preceding=None, following=0)
    total = always(daily["total"].sum().over(so_far), "int64").cast("float64")
    num = daily["num"].sum().over(so_far).cast("float64")
    following = daily["day"].lead().over(ibis.window(group_by="item_id", order_by="day"))
    means = daily.select(
        "item_id",
        from_day=daily["day"] + 1,
        until_day=ibis.least(following.fill_null(last_day), last_day) + 1,
        mean=total / num / _MICRO,
    )
    # A row a day, so that days are compared by equality: ranges would be tried pair by pair.
    by_day = each_day(means.filter(means["from_day"] < means["until_day"])).rename(
        sold_item_id="item_id", sold_day="day"
    )
    joined = products.left_join(
        by_day, [products["item_id"] == by_day["sold_item_id"], products["day"] == by_day["sold_day"]]
    )
    return joined.select(*[joined[name] for name in products.columns], **{ITEM_MEAN: joined["mean"]})
