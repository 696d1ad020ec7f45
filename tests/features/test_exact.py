"""Counts before a moment, to the microsecond: at each boundary one microsecond decides, and nothing later ever counts."""

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.contracts.events import ADD_TO_CART, PURCHASE, REFUND, US_PER_DAY, VIEW_ITEM
from endcap.features.exact import (
    WINDOW_DAYS,
    item_features,
    user_category_features,
    user_features,
    user_item_features,
)

NOW = 200 * US_PER_DAY + 12_345_678


def rows_of(features):
    return features.order_by("query_num").to_pyarrow().to_pylist()


@pytest.mark.parametrize("days", WINDOW_DAYS)
def test_one_microsecond_over_the_begin_of_a_window_changes_the_count(events_of, spine_of, days):
    begin = NOW - days * US_PER_DAY
    spine = spine_of([("ann", "cup", NOW)])
    for ts_us, expected in ((begin - 1, 0), (begin, 1), (begin + 1, 1)):
        events = events_of([("ann", "cup", PURCHASE, ts_us)])
        for compute, prefix in ((user_features, "user"), (item_features, "item"), (user_item_features, "user_item")):
            (row,) = rows_of(compute(spine, events))
            assert row[f"{prefix}_num_purchase_{days}d"] == expected
            assert row[f"{prefix}_spend_{days}d"] == expected * Decimal("2.5")
            assert row[f"{prefix}_days_since_purchase"] == (NOW - ts_us) / US_PER_DAY


def test_one_microsecond_over_the_moment_changes_the_count(events_of, spine_of, versions_of):
    spine = spine_of([("ann", "cup", NOW)])
    versions = versions_of([("cup", 0, None, "1", "tea")])
    for ts_us, expected in ((NOW - 1, 1), (NOW, 0), (NOW + 1, 0)):
        events = events_of([("ann", "cup", kind, ts_us) for kind in (VIEW_ITEM, ADD_TO_CART, PURCHASE)])
        (row,) = rows_of(user_category_features(spine, events, versions))
        for kind in (VIEW_ITEM, ADD_TO_CART, PURCHASE):
            assert [row[f"user_category_num_{kind}_{days}d"] for days in WINDOW_DAYS] == [expected] * 4
            assert row[f"user_category_days_since_{kind}"] == (1 / US_PER_DAY if expected else None)


def test_whose_events_count(events_of, spine_of, versions_of):
    events = events_of([
        ("ann", "cup", VIEW_ITEM, NOW - 5), ("ann", "jug", VIEW_ITEM, NOW - 4), ("bob", "cup", VIEW_ITEM, NOW - 3),
        ("ann", "cup", REFUND, NOW - 2, {"value": "9"}), ("ann", None, "search", NOW - 2), ("ann", "pan", VIEW_ITEM, NOW - 9),
    ])  # fmt: skip
    versions = versions_of([("cup", 0, None, "1", "tea"), ("jug", 0, NOW - 4, "1", "tea"), ("jug", NOW - 4, None, "1", "oil"),
                            ("pan", 0, NOW - 8, "1", "tea"), ("pan", NOW - 8, None, "1", "oil")])  # fmt: skip
    spine = spine_of([("ann", "cup", NOW), ("eve", "jug", NOW), ("ann", "urn", NOW), ("ann", "pan", NOW)])
    events = events.union(events_of([("ann", "lid", VIEW_ITEM, NOW - US_PER_DAY - 1, {"event_id": "x"})]))
    user, item = rows_of(user_features(spine, events)), rows_of(item_features(spine, events))
    pair, category = (
        rows_of(user_item_features(spine, events)),
        rows_of(user_category_features(spine, events, versions)),
    )
    assert [row["user_num_view_item_1d"] for row in user] == [3, 0, 3, 3]
    assert [row["user_spend_90d"] for row in user] == [0, 0, 0, 0]
    assert [row["item_num_view_item_1d"] for row in item] == [2, 1, 0, 1]
    assert [row["user_item_num_view_item_1d"] for row in pair] == [1, 0, 0, 1]
    # Neither the urn nor the lid, which Ann looked at, is in any category: that makes no category of their own.
    assert category[2]["user_category_num_view_item_7d"] is None
    # Of Ann's views, the cup and the pan (then) were in tea, the jug in oil from that very moment.
    assert [row["user_category_num_view_item_1d"] for row in category] == [2, 0, None, 1]


def test_trends_set_a_window_against_the_one_before(events_of, spine_of):
    ages = [1, 2, 3, 8, 40]
    events = events_of([("ann", "cup", VIEW_ITEM, NOW - age * US_PER_DAY) for age in ages])
    (row, other) = rows_of(user_features(spine_of([("ann", "cup", NOW), ("bob", "cup", NOW)]), events))
    assert row["user_view_item_trend_7d"] == (3 - 1) / (3 + 1)
    assert row["user_view_item_trend_30d"] == (4 - 1) / (4 + 1)
    assert row["user_purchase_trend_7d"] is None
    assert other["user_view_item_trend_7d"] is None


# Few distinct moments, most of them whole days apart, so that ties and boundaries are common.
MOMENTS = st.builds(lambda day, off: day * US_PER_DAY + off, st.integers(100, 200), st.integers(-1, 1))
ACTS = st.tuples(
    st.sampled_from(["ann", "bob"]), st.sampled_from(["cup", "jug"]), st.sampled_from([VIEW_ITEM, PURCHASE]), MOMENTS
)
ASKED = st.tuples(st.sampled_from(["ann", "bob", "eve"]), st.sampled_from(["cup", "jug", "pan"]), MOMENTS)


@settings(max_examples=8, deadline=None)
@given(acts=st.lists(ACTS, max_size=60), asked=st.lists(ASKED, min_size=1, max_size=15))
def test_equal_to_counting_one_by_one(events_of, spine_of, acts, asked):
    events, spine = events_of(acts), spine_of(asked)
    users, items, pairs = (
        rows_of(compute(spine, events)) for compute in (user_features, item_features, user_item_features)
    )
    for number, (user, item, moment) in enumerate(asked):
        for rows, prefix, mine in (
            (users, "user", [act for act in acts if act[0] == user]),
            (items, "item", [act for act in acts if act[1] == item]),
            (pairs, "user_item", [act for act in acts if act[:2] == (user, item)]),
        ):
            row = rows[number]
            assert row["query_num"] == number
            for kind in (VIEW_ITEM, PURCHASE):
                before = [ts for _, _, k, ts in mine if k == kind and ts < moment]
                for days in WINDOW_DAYS:
                    expected = sum(ts >= moment - days * US_PER_DAY for ts in before)
                    assert row[f"{prefix}_num_{kind}_{days}d"] == expected
                    if kind == PURCHASE:
                        assert row[f"{prefix}_spend_{days}d"] == expected * Decimal("2.5")
                since = (moment - max(before)) / US_PER_DAY if before else None
                assert row[f"{prefix}_days_since_{kind}"] == since
