"""Events become purchases: one a basket and product, whatever else happened."""

from decimal import Decimal

import ibis
import pyarrow as pa

from endcap.contracts import columns as c
from endcap.contracts.events import MONEY, PURCHASE, REFUND, VIEW_ITEM
from endcap.features.purchases import purchases_of


def events_of(rows):
    users, items, baskets, types, moments, prices = zip(*rows, strict=True)
    return ibis.memtable(
        pa.table({
            c.USER_ID: pa.array(users, pa.string()),
            c.ITEM_ID: pa.array(items, pa.string()),
            c.BASKET_ID: pa.array(baskets, pa.string()),
            c.EVENT_TYPE: pa.array(types, pa.string()),
            c.TS_US: pa.array(moments, pa.int64()),
            c.PRICE: pa.array([None if price is None else Decimal(price) for price in prices], MONEY),
        })
    )  # fmt: skip


def bought(rows):
    table = purchases_of(events_of(rows)).order_by(c.TS_US, c.USER_ID, c.ITEM_ID)
    return [
        (row[c.USER_ID], row[c.ITEM_ID], row[c.BASKET_ID], row[c.TS_US], row[c.PRICE])
        for row in table.to_pyarrow().to_pylist()
    ]


def test_lines_of_one_basket_and_product_are_one_purchase():
    rows = [
        ("ann", "cup", "b1", PURCHASE, 20, "2.5"),
        ("ann", "cup", "b1", PURCHASE, 10, "3.25"),
        ("ann", "jug", "b1", PURCHASE, 10, "1"),
        ("ann", "cup", "b2", PURCHASE, 30, "2"),
        ("bob", "cup", "b3", PURCHASE, 30, "2"),
    ]
    assert bought(rows) == [
        ("ann", "cup", "b1", 10, Decimal("3.25")),
        ("ann", "jug", "b1", 10, Decimal("1")),
        ("ann", "cup", "b2", 30, Decimal("2")),
        ("bob", "cup", "b3", 30, Decimal("2")),
    ]


def test_what_is_no_purchase_does_not_count():
    rows = [
        ("ann", "cup", "b1", PURCHASE, 10, "3"),
        ("ann", "cup", "b1", REFUND, 5, "9"),
        ("ann", "jug", "b2", REFUND, 20, "1"),
        ("bob", "jug", "b4", VIEW_ITEM, 20, None),
    ]
    assert bought(rows) == [("ann", "cup", "b1", 10, Decimal("3"))]


def test_no_purchase_at_all():
    assert bought([("ann", "cup", "b1", REFUND, 5, "9")]) == []


def test_without_baskets_every_moment_is_one():
    rows = [
        ("ann", "cup", None, PURCHASE, 10, "3"),
        ("ann", "cup", None, PURCHASE, 10, "4"),
        ("ann", "jug", None, PURCHASE, 10, "1"),
        ("ann", "cup", None, PURCHASE, 70, "3"),
        ("bob", "cup", None, PURCHASE, 10, "3"),
        ("bob", "cup", "b1", PURCHASE, 10, "3"),
    ]
    assert sorted(bought(rows)) == [
        ("ann", "cup", "ann@10", 10, Decimal(4)),
        ("ann", "cup", "ann@70", 70, Decimal(3)),
        ("ann", "jug", "ann@10", 10, Decimal(1)),
        ("bob", "cup", "b1", 10, Decimal(3)),
        ("bob", "cup", "bob@10", 10, Decimal(3)),
    ]
