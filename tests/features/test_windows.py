"""Features as of a midnight: the day itself never counts, each window ends where it says, medians are exact."""

from decimal import Decimal
from itertools import pairwise
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.contracts.events import PURCHASE, US_PER_DAY, VIEW_ITEM
from endcap.features.daily import item_days, user_category_days, user_days, user_item_days
from endcap.features.windows import (
    LOOKBACK_DAYS,
    item_windows,
    price_positions,
    repurchase_due,
    repurchase_intervals,
    user_category_windows,
    user_windows,
)

DAY = US_PER_DAY
TODAY = 200


def rows_of(table):
    return table.to_pyarrow().to_pylist()


@pytest.mark.parametrize(
    ("ts_us", "expected"),
    [
        (TODAY * DAY, None), (TODAY * DAY - 1, [1, 1, 1, 1]), ((TODAY - 1) * DAY, [1, 1, 1, 1]),
        ((TODAY - 1) * DAY - 1, [0, 1, 1, 1]), ((TODAY - 7) * DAY, [0, 1, 1, 1]), ((TODAY - 7) * DAY - 1, [0, 0, 1, 1]),
        ((TODAY - 30) * DAY, [0, 0, 1, 1]), ((TODAY - 30) * DAY - 1, [0, 0, 0, 1]), ((TODAY - 90) * DAY, [0, 0, 0, 1]),
        ((TODAY - 90) * DAY - 1, None),
    ],
)  # fmt: skip
def test_where_windows_begin_and_end(events_of, versions_of, ts_us, expected):
    events, versions = events_of([("ann", "cup", PURCHASE, ts_us)]), versions_of([("cup", 0, None, "1", "tea")])
    for table in (
        user_windows(user_days(events), TODAY), item_windows(item_days(events), TODAY),
        user_category_windows(user_category_days(events, versions), TODAY),
    ):  # fmt: skip
        rows = rows_of(table)
        if expected is None:
            assert rows == []
            continue
        (row,) = rows
        assert row["day"] == TODAY
        assert [row[f"num_purchase_{days}d"] for days in (1, 7, 30, 90)] == expected
        assert [row[f"spend_{days}d"] for days in (1, 7, 30, 90)] == [num * Decimal("2.5") for num in expected]
        assert row["days_since_purchase"] == TODAY - ts_us // DAY
        assert row["days_since_view_item"] is None


def test_trends_by_hand(events_of):
    ages = [1, 2, 3, 8, 14, 15, 40, 60, 61]
    events = events_of([("ann", "cup", VIEW_ITEM, (TODAY - age) * DAY) for age in ages])
    (row,) = rows_of(user_windows(user_days(events), TODAY))
    assert row["view_item_trend_7d"] == (3 - 2) / (3 + 2)
    assert row["view_item_trend_30d"] == (6 - 2) / (6 + 2)
    assert row["purchase_trend_7d"] is None


@settings(max_examples=6, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["ann", "bob"]), st.integers(0, 40)), min_size=1, max_size=60))
def test_equal_to_counting_one_by_one_and_no_older_day_is_needed(events_of, acts):
    daily = user_days(events_of([(user, "cup", VIEW_ITEM, (TODAY - age) * DAY + 7) for user, age in acts]))
    found = {row["user_id"]: row for row in rows_of(user_windows(daily, TODAY))}
    needed = daily.filter(daily.day >= TODAY - LOOKBACK_DAYS, daily.day < TODAY)
    assert {row["user_id"]: row for row in rows_of(user_windows(needed, TODAY))} == found
    assert found.keys() == {user for user, age in acts if age > 0}
    for user, row in found.items():
        ages = [age for who, age in acts if who == user and age > 0]
        for days in (1, 7, 30, 90):
            assert row[f"num_view_item_{days}d"] == sum(age <= days for age in ages)


def test_price_positions_by_hand(versions_of):
    at = TODAY * DAY
    versions = versions_of([
        ("cup", 0, at, "9", "tea"), ("cup", at, None, "1", "tea"), ("jug", 0, None, "2", "tea"), ("pan", 0, None, "2", "tea"),
        ("urn", 0, None, "3", "tea"), ("pot", 0, None, None, "tea"), ("oil", 0, None, "5", "oil"), ("lid", 0, None, "5", None),
        ("new", at + 1, None, "1", "tea"), ("old", 0, at, "1", "tea"),
    ])  # fmt: skip
    found = {row["item_id"]: row for row in rows_of(price_positions(versions, TODAY))}
    assert found["cup"]["price"] == Decimal(1)
    assert {item: row["price_position"] for item, row in found.items()} == {
        "cup": 0.0, "jug": 0.5, "pan": 0.5, "urn": 1.0, "pot": None, "oil": None, "lid": None,
    }  # fmt: skip
    before = {row["item_id"]: row["price_position"] for row in rows_of(price_positions(versions, TODAY - 1))}
    assert before == {"cup": 1.0, "jug": 0.375, "pan": 0.375, "urn": 0.75, "old": 0.0, "pot": None, "oil": None, "lid": None}  # fmt: skip


def test_repurchases_by_hand(events_of):
    bought = [("ann", "cup", 100), ("ann", "cup", 110), ("ann", "cup", 130), ("bob", "cup", 100), ("bob", "cup", 140),
              ("eve", "cup", 199), ("ann", "jug", 100), ("ann", "cup", 200), ("zoe", "cup", -200), ("zoe", "cup", 190)]  # fmt: skip
    days = user_item_days(events_of([(user, item, PURCHASE, day * DAY + 5) for user, item, day in bought]))
    # Ann came back after 10 and 20 days, Bob after 40; what was bought on the day itself isn't known yet, and Zoe's
    # first purchase lies more than a year back.
    (row,) = rows_of(repurchase_intervals(days, TODAY))
    assert row == {"item_id": "cup", "day": TODAY, "num_intervals": 3, "repurchase_days": 20.0}
    (row,) = rows_of(repurchase_intervals(days, 131))
    assert (row["num_intervals"], row["repurchase_days"]) == (2, 15.0)
    due = {(row["user_id"], row["item_id"]): row for row in rows_of(repurchase_due(days, TODAY))}
    assert due["ann", "cup"]["days_since_purchase"] == 70
    assert due["ann", "cup"]["repurchase_ratio"] == 3.5
    assert due["eve", "cup"]["repurchase_ratio"] == 0.05
    assert due["ann", "jug"]["repurchase_ratio"] is None


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 60)), min_size=2, max_size=20, unique=True))
def test_medians_are_exact(events_of, bought):
    days = user_item_days(events_of([(user, "cup", PURCHASE, day * DAY) for user, day in bought]))
    by_user = {user: sorted(day for who, day in bought if who == user) for user, _ in bought}
    gaps = [later - day for mine in by_user.values() for day, later in pairwise(mine)]
    rows = rows_of(repurchase_intervals(days, 100))
    assert [(row["num_intervals"], row["repurchase_days"]) for row in rows] == (
        [(len(gaps), median(gaps))] if gaps else []
    )
