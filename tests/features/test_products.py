"""The catalog as of a midnight: what is sold on a day counts from the next day on."""

from decimal import Decimal

import ibis
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.features.point_in_time import DAY_US
from endcap.features.products import product_features


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
