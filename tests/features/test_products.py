"""The catalog as of a midnight: what is sold on a day counts from the next day on."""

from decimal import Decimal

import ibis
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.features.point_in_time import DAY_US
from endcap.features.products import NUMBERS, product_features


def catalog(rows, last_day):
    users, items, moments, prices = zip(*rows, strict=True)
    purchases = ibis.memtable(
        pa.table({
            "user_id": list(users),
            "item_id": list(items),
            "ts_us": pa.array(moments, pa.int64()),
            "price": pa.array([Decimal(price) for price in prices], pa.decimal128(18, 4)),
        })
    )  # fmt: skip
    named = sorted(set(items))
    table = ibis.memtable(pa.table({"item_id": named, "title": [name.upper() for name in named]}))
    rows = product_features(purchases, table, 0, last_day).order_by("day", "item_id").to_pyarrow().to_pylist()
    return {(row["day"], row["item_id"]): row for row in rows}


def test_by_hand():
    found = catalog(
        [
            ("ann", "cup", 5, "1.5"),
            ("bob", "cup", DAY_US - 1, "2"),
            ("ann", "cup", DAY_US, "3"),
            ("bob", "jug", DAY_US, "9"),
        ],
        9,
    )
    assert len(found) == 20
    assert found[0, "cup"]["price"] is None
    assert found[0, "cup"]["purchases_per_10k"] == 0
    first = found[1, "cup"]
    assert (first["price"], first["days_since_first_sold"], first["days_since_last_sold"]) == (2.0, 1.0, 1.0)
    assert first["purchases_7d_per_10k"] == 10_000
    assert first["repeat_share"] == pytest.approx(2 / 12)
    second = found[2, "cup"]
    assert (second["price"], second["days_since_first_sold"], second["days_since_last_sold"]) == (3.0, 2.0, 1.0)
    assert second["purchases_7d_per_10k"] == pytest.approx(7500)
    assert second["repeat_share"] == pytest.approx(3 / 13)
    assert found[8, "cup"]["purchases_7d_per_10k"] == pytest.approx(5000)  # the first day has left the window
    assert found[9, "cup"]["purchases_7d_per_10k"] == 0
    assert found[9, "cup"]["title"] == "CUP"


SALES = st.lists(st.tuples(st.sampled_from("xy"), st.sampled_from("ab"), st.integers(0, 12)), min_size=1, max_size=20)


@settings(max_examples=25, deadline=None)
@given(SALES)
def test_no_day_sees_itself_or_later(sales):
    rows = [(user, item, day * DAY_US + 7, "1") for user, item, day in sales]
    found = catalog(rows, 13)
    for (day, item), row in found.items():
        week = [(i, d) for _, i, d in sales if day - 7 <= d < day]
        expected = 10_000 * sum(i == item for i, _ in week) / max(len(week), 1)
        assert row["purchases_7d_per_10k"] == pytest.approx(expected)
        sold = [d for _, i, d in sales if i == item and d < day]
        assert row["days_since_last_sold"] == (day - max(sold) if sold else None)


LONG_SALES = st.lists(
    st.tuples(st.sampled_from("xyz"), st.sampled_from("abc"), st.integers(0, 100), st.integers(0, 3)), max_size=30
)


def counted_one_by_one(sales, item, day):
    """Every number of a product on a day, from its definition."""
    before = sorted(sale for sale in sales if sale[2] < day)
    own = sorted((d, moment, price, user) for user, i, d, moment, price in before if i == item)
    row = {
        "price": float(max((d, moment, price) for d, moment, price, _ in own)[2]) if own else None,
        "days_since_first_sold": float(day - own[0][0]) if own else None,
        "days_since_last_sold": float(day - own[-1][0]) if own else None,
        "repeat_share": (sum(any(u == user and (d, m) < (day_, moment) for d, m, _, u in own) for day_, moment, _, user in own) + 2)
        / (len(own) + 10),
    }  # fmt: skip
    for days in (7, 30, 90, 10_000):
        num_all = sum(d >= day - days for _, _, d, _, _ in before)
        name = "purchases_per_10k" if days == 10_000 else f"purchases_{days}d_per_10k"
        row[name] = sum(d >= day - days for d, *_ in own) * 10_000 / max(num_all, 1)
    return row


@settings(max_examples=15, deadline=None)
@given(LONG_SALES.filter(bool), st.integers(0, 100))
def test_every_number_on_every_day_is_that_of_its_definition(sales, last_day):
    sales = [(user, item, day, moment, 1 + (day + moment) % 5) for user, item, day, moment in sales]
    found = catalog([(user, item, day * DAY_US + moment, price) for user, item, day, moment, price in sales], last_day)
    assert sorted(found) == sorted((day, item) for day in range(last_day + 1) for item in {s[1] for s in sales})
    for (day, item), row in found.items():
        assert {name: row[name] for name in NUMBERS} == counted_one_by_one(sales, item, day)


def test_a_product_that_is_not_of_the_catalog_counts_nowhere():
    purchases = ibis.memtable(
        pa.table({
            "user_id": ["ann", "bob", "bob"], "item_id": ["cup", "jug", "jug"], "ts_us": pa.array([1, 2, 3], pa.int64()),
            "price": pa.array([Decimal(1)] * 3, pa.decimal128(18, 4)),
        })
    )  # fmt: skip
    named = ibis.memtable(pa.table({"item_id": ["cup", "pan"]}))
    rows = product_features(purchases, named, 0, 1).order_by("day", "item_id").to_pyarrow().to_pylist()
    assert [(r["day"], r["item_id"], r["purchases_per_10k"], r["price"]) for r in rows] == [
        (0, "cup", 0.0, None), (0, "pan", 0.0, None), (1, "cup", 10_000.0, 1.0), (1, "pan", 0.0, None),
    ]  # fmt: skip


def test_attributes_that_hold_for_a_time():
    purchases = ibis.memtable(
        pa.table({
            "user_id": ["ann"], "item_id": ["cup"], "ts_us": pa.array([1], pa.int64()),
            "price": pa.array([Decimal(1)], pa.decimal128(18, 4)),
        })
    )  # fmt: skip
    named = ibis.memtable(
        pa.table({
            "item_id": ["cup", "cup"], "title": ["red", "blue"],
            "from_us": pa.array([-DAY_US, DAY_US + 1], pa.int64()), "until_us": pa.array([DAY_US + 1, 9 * DAY_US], pa.int64()),
        })
    )  # fmt: skip
    rows = product_features(purchases, named, 0, 3).order_by("day").to_pyarrow().to_pylist()
    assert [(row["day"], row["title"]) for row in rows] == [(0, "red"), (1, "red"), (2, "blue"), (3, "blue")]
