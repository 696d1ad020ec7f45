"""What held for a product at a moment: its own microsecond counts, and an attribute's range outlasts changes of others."""

from decimal import Decimal

import ibis
import pyarrow as pa

from endcap.contracts.events import ITEM_VERSIONS_TABLE
from endcap.features.as_of import as_of, with_category

ROWS = [
    ("i", 10, 20, 1, True, "tea"), ("i", 20, 30, 1, False, "tea"), ("i", 30, 40, 2, False, None),
    ("i", 50, None, 2, None, "cups"), ("j", 0, None, None, None, None),
]  # fmt: skip


def versions():
    names = ("item_id", "valid_from_us", "valid_to_us", "price", "in_stock", "category")
    rows = [dict(zip(names, row, strict=True)) | {"price": None if row[3] is None else Decimal(row[3])} for row in ROWS]
    return ibis.memtable(pa.Table.from_pylist(rows, schema=ITEM_VERSIONS_TABLE.schema))


def asked(moments, item="i"):
    return ibis.memtable(
        pa.table({
            "row": pa.array(range(len(moments)), pa.int64()),
            "item_id": pa.array([item] * len(moments)),
            "asked_us": pa.array(moments, pa.int64()),
        })
    )  # fmt: skip


def found(table, *names):
    return [tuple(row[name] for name in names) for row in table.order_by("row").to_pyarrow().to_pylist()]


def test_a_range_holds_from_its_first_microsecond_to_before_the_next():
    spine = asked([9, 10, 19, 20, 29, 30, 39, 40, 49, 50, 10**18])
    assert found(as_of(spine, versions(), moment="asked_us"), "price", "in_stock", "category") == [
        (None, None, None), (1, True, "tea"), (1, True, "tea"), (1, False, "tea"), (1, False, "tea"), (2, False, None),
        (2, False, None), (None, None, None), (None, None, None), (2, None, "cups"), (2, None, "cups"),
    ]  # fmt: skip


def test_one_attribute_alone():
    spine = asked([9, 10, 29, 30, 49, 50])
    assert found(with_category(spine, versions(), moment="asked_us"), "category") == [
        (None,), ("tea",), ("tea",), (None,), (None,), ("cups",)
    ]  # fmt: skip


def test_products_that_no_catalog_describes_keep_their_rows():
    for item in ("j", "k"):
        rows = found(as_of(asked([5], item), versions(), moment="asked_us"), "row", "price", "category")
        assert rows == [(0, None, None)]
