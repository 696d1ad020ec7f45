"""Features as of a moment: exact to the microsecond, nothing at or after the moment counts."""

from itertools import groupby

import ibis
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.features.dataset import HISTORY_COLUMNS, with_history
from endcap.features.point_in_time import DAY_US, buyer_features, history

DAY = DAY_US


def purchases_of(rows):
    users, items, moments = zip(*rows, strict=True) if rows else ((), (), ())
    return ibis.memtable(
        pa.table({
            "user_id": pa.array(users, pa.string()),
            "item_id": pa.array(items, pa.string()),
            "ts_us": pa.array(moments, pa.int64()),
        })
    )  # fmt: skip


def spine_of(rows):
    users, moments = zip(*rows, strict=True)
    return ibis.memtable(
        pa.table({
            "query_num": pa.array(range(len(rows)), pa.int64()),
            "user_id": pa.array(users, pa.string()),
            "event_time_us": pa.array(moments, pa.int64()),
        })
    )  # fmt: skip


def lists_of(spine, purchases, max_length):
    """Histories as lists, oldest first, in the order of the questions."""
    questions = spine.order_by("query_num").to_pyarrow()
    entries = history(spine, purchases, max_length).order_by("query_num", ibis.desc("rank")).to_pyarrow()
    return with_history(questions, entries).select(["query_num", *HISTORY_COLUMNS]).to_pylist()


USERS = ibis.memtable(pa.table({"user_id": ["ann", "bob"], "country": ["France", "Norway"]}))
BOUGHT = [("ann", "cup", 0), ("ann", "cup", 2 * DAY), ("ann", "jug", 2 * DAY), ("bob", "cup", 3 * DAY)]


def test_buyer_features_by_hand():
    spine = spine_of([("ann", 0), ("ann", 2 * DAY), ("ann", 2 * DAY + 1), ("bob", 9 * DAY), ("eve", DAY)])
    rows = buyer_features(spine, purchases_of(BOUGHT), USERS).order_by("query_num").to_pyarrow().to_pylist()
    assert [row["num_baskets"] for row in rows] == [0, 1, 2, 1, 0]
    assert [row["days_since_last_purchase"] for row in rows] == [None, 2.0, pytest.approx(1 / DAY), 6.0, None]
    assert [row["days_since_first_purchase"] for row in rows] == [None, 2.0, pytest.approx(2 + 1 / DAY), 6.0, None]
    assert [row["num_products"] for row in rows] == [0, 1, 2, 1, 0]
    assert [row["purchases_per_basket"] for row in rows] == [0, 1.0, 1.5, 1.0, 0]
    assert [row["country"] for row in rows] == ["France", "France", "France", "Norway", None]


def test_history_by_hand():
    spine = spine_of([("ann", 2 * DAY), ("ann", 4 * DAY), ("bob", DAY)])
    assert lists_of(spine, purchases_of(BOUGHT), 10) == [
        {"query_num": 0, "user_history": ["cup"], "user_history_age_days": [2.0], "user_history_count": [1]},
        {
            "query_num": 1,
            "user_history": ["jug", "cup"],
            "user_history_age_days": [2.0, 2.0],
            "user_history_count": [1, 2],
        },
        {"query_num": 2, "user_history": [], "user_history_age_days": [], "user_history_count": []},
    ]


def test_one_microsecond_decides():
    bought = purchases_of([("ann", "cup", 5 * DAY)])
    for moment, expected in ((5 * DAY, 0), (5 * DAY + 1, 1)):
        (row,) = buyer_features(spine_of([("ann", moment)]), bought, USERS).to_pyarrow().to_pylist()
        assert row["num_baskets"] == expected
        assert history(spine_of([("ann", moment)]), bought, 10).to_pyarrow().num_rows == expected


def test_the_longest_ago_are_left_out():
    bought = purchases_of([("ann", name, number) for number, name in enumerate("abcdef")])
    (row,) = lists_of(spine_of([("ann", 100)]), bought, 3)
    assert row["user_history"] == ["d", "e", "f"]


ROWS = st.lists(st.tuples(st.sampled_from(["ann", "bob"]), st.sampled_from("abc"), st.integers(0, 6)), max_size=25)


@settings(max_examples=40, deadline=None)
@given(ROWS, st.lists(st.tuples(st.sampled_from(["ann", "bob", "eve"]), st.integers(0, 8)), min_size=1, max_size=6))
def test_equal_to_counting_one_by_one(bought, asked):
    table, spine = purchases_of(bought), spine_of(asked)
    features = buyer_features(spine, table, USERS).order_by("query_num").to_pyarrow().to_pylist()
    histories = lists_of(spine, table, 2)
    for number, (user, moment) in enumerate(asked):
        before = sorted({(item, ts) for who, item, ts in bought if who == user and ts < moment})
        moments = {ts for _, ts in before}
        assert features[number]["num_baskets"] == len(moments)
        by_item = {item: [ts for _, ts in rows] for item, rows in groupby(before, key=lambda pair: pair[0])}
        latest = sorted(by_item, key=lambda item: (-max(by_item[item]), item))[:2][::-1]
        assert histories[number]["user_history"] == latest
        assert histories[number]["user_history_count"] == [len(by_item[item]) for item in latest]
