"""Labelled rows and events in, what was counted in the days before each row's moment out, exact to the microsecond.

A spine has `query_num` (int64, unique), `user_id`, `event_time_us` and, where features of a product are asked for,
`item_id`. A window of w days is `[moment - w, moment)`: an event at the row's own moment doesn't count, one exactly w
days before it does.

How: each row asks for running totals at its moment and at each window's begin. These questions are laid among the
events, and one pass in the order of time carries the totals to them; a window's count is the difference of two totals.
So every event is sorted once, however many windows there are, and no product, however popular, multiplies rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import ibis
import ibis.expr.types as ir

from endcap.contracts import columns as c
from endcap.contracts.events import ADD_TO_CART, PURCHASE, US_PER_DAY, VIEW_ITEM
from endcap.engines.portable import always, nullable
from endcap.features.as_of import with_category
from endcap.features.daily import MONEY_TYPE, SPEND, count_name

QUERY_NUM: Final = "query_num"
MOMENT_US: Final = "event_time_us"

WINDOW_DAYS: Final = (1, 7, 30, 90)
TREND_DAYS: Final = (7, 30)
"""Windows that are set against the one of the same length before them."""
COUNTED: Final = (VIEW_ITEM, ADD_TO_CART, PURCHASE)
"""Event types that are counted."""

_LAG = "lag_days"
_NOW = 0


def user_features(spine: ir.Table, events: ir.Table) -> ir.Table:
    """What the row's user did: `query_num` and columns that begin with `user_`, one row a question.

    `num_TYPE_Wd` (int64) and `spend_Wd` (decimal(18, 4)) count the last W days; `TYPE_trend_Wd` sets them against the W
    days before: (a - b) / (a + b), null where both are 0; `days_since_TYPE` is null where there is none before.
    """
    return _features(spine, events, [c.USER_ID], "user", trends=True)


def item_features(spine: ir.Table, events: ir.Table) -> ir.Table:
    """What happened to the row's product, by any user: as `user_features`, with columns that begin with `item_`.

    Counts of a row without a product are null.
    """
    return _features(spine, events, [c.ITEM_ID], "item", trends=True)


def user_item_features(spine: ir.Table, events: ir.Table) -> ir.Table:
    """What the row's user did with the row's product; columns begin with `user_item_`; no trends."""
    return _features(spine, events, [c.USER_ID, c.ITEM_ID], "user_item", trends=False)


def user_category_features(spine: ir.Table, events: ir.Table, item_versions: ir.Table) -> ir.Table:
    """What the row's user did in the category that the row's product is in at the row's moment; no trends.

    An event counts for the category that its product was in when it happened. Columns begin with `user_category_`;
    the counts of a row whose product is in no category are null.
    """
    asked = with_category(spine, item_versions, moment=MOMENT_US)
    sorted_in = with_category(events, item_versions)
    return _features(asked, sorted_in, [c.USER_ID, c.CATEGORY], "user_category", trends=False)


def _features(spine: ir.Table, events: ir.Table, keys: Sequence[str], prefix: str, *, trends: bool) -> ir.Table:
    lags = sorted({_NOW, *WINDOW_DAYS, *(2 * days for days in TREND_DAYS if trends)})
    totals = _totals_at_lags(spine, events, keys, lags)
    counts = [*(count_name(name) for name in COUNTED), SPEND]

    def total(name: str, lag: int) -> ir.Value:
        return totals[name].max(where=totals[_LAG] == lag)

    at_lags = totals.group_by(QUERY_NUM).aggregate(
        moment_us=totals[MOMENT_US].max(),
        has_key=totals["has_key"].max(),
        **{_at(name, lag): total(name, lag) for name in counts for lag in lags},
        **{_last(name): total(_last(name), _NOW) for name in COUNTED},
    )
    columns: dict[str, ir.Value] = {}
    for name in counts:
        dtype = MONEY_TYPE if name == SPEND else "int64"
        for days in WINDOW_DAYS:
            counted = always(at_lags[_at(name, _NOW)] - at_lags[_at(name, days)], dtype)
            columns[f"{prefix}_{name}_{days}d"] = (at_lags["has_key"] == 1).ifelse(counted, ibis.null(dtype))
    for name in COUNTED:
        columns[f"{prefix}_days_since_{name}"] = (at_lags["moment_us"] - at_lags[_last(name)]).cast(
            "float64"
        ) / US_PER_DAY
        for days in TREND_DAYS if trends else ():
            now, then, before = (at_lags[_at(count_name(name), lag)] for lag in (_NOW, days, 2 * days))
            columns[f"{prefix}_{name}_trend_{days}d"] = trend(now - then, then - before)
    return at_lags.select(QUERY_NUM, **columns)


def trend(recent: ir.Value, earlier: ir.Value) -> ir.Value:
    """(recent - earlier) / (recent + earlier): from -1 (all before) to 1 (all lately); null where both are 0."""
    return (recent - earlier).cast("float64") / (recent + earlier).nullif(0).cast("float64")


def _totals_at_lags(spine: ir.Table, events: ir.Table, keys: Sequence[str], lags: Sequence[int]) -> ir.Table:
    """One row a question and lag: the key's running totals before `event_time_us` less the lag."""
    kind = events[c.EVENT_TYPE]
    # Without the last, what is in no category would make one category.
    counted = events.filter(kind.isin(COUNTED), *(events[key].notnull() for key in keys))
    kind, ts_us = counted[c.EVENT_TYPE], counted[c.TS_US]
    happened = counted.select(
        *keys,
        at_us=ts_us,
        is_question=ibis.literal(0, "int8"),
        **{QUERY_NUM: ibis.null("int64"), MOMENT_US: ibis.null("int64"), _LAG: ibis.null("int16")},
        **{count_name(name): (kind == name).cast("int8") for name in COUNTED},
        **{SPEND: (kind == PURCHASE).ifelse(counted[c.VALUE].fill_null(0), 0).cast(MONEY_TYPE)},
    )
    asked = spine.select(*keys, QUERY_NUM, MOMENT_US)
    lagged = asked.mutate(**{_LAG: ibis.array([ibis.literal(lag, "int16") for lag in lags]).unnest()})
    questions = lagged.select(
        *keys,
        at_us=lagged[MOMENT_US] - lagged[_LAG].cast("int64") * US_PER_DAY,
        is_question=ibis.literal(1, "int8"),
        **{QUERY_NUM: lagged[QUERY_NUM], MOMENT_US: lagged[MOMENT_US], _LAG: lagged[_LAG]},
        **{count_name(name): ibis.literal(0, "int8") for name in COUNTED},
        **{SPEND: ibis.literal(0).cast(MONEY_TYPE)},
    )
    laid = nullable(happened).union(nullable(questions))
    # A question goes before events of its own moment: these are not before it, and a window includes its first moment.
    before = ibis.window(
        group_by=list(keys), order_by=[laid["at_us"], ibis.desc(laid["is_question"])], preceding=None, following=0
    )
    carried = laid.select(
        QUERY_NUM,
        MOMENT_US,
        _LAG,
        has_key=ibis.and_(*(laid[key].notnull() for key in keys)).cast("int8"),
        **{count_name(name): always(laid[count_name(name)].sum().over(before), "int64") for name in COUNTED},
        **{SPEND: laid[SPEND].sum().over(before)},
        **{
            _last(name): (laid[count_name(name)] == 1).ifelse(laid["at_us"], ibis.null("int64")).max().over(before)
            for name in COUNTED
        },
    )
    return carried.filter(carried[QUERY_NUM].notnull())


def _at(name: str, lag: int) -> str:
    return f"{name}_before_{lag}d"


def _last(event_type: str) -> str:
    return f"last_{event_type}_us"
