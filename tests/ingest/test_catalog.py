from __future__ import annotations

from decimal import Decimal
from typing import Any

import ibis
import pyarrow as pa
from ibis.backends.duckdb import Backend

from endcap.contracts.events import MONEY
from endcap.ingest import catalog

SCHEMA = pa.schema(
    [
        ("event_id", pa.string()),
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("event_type", pa.string()),
        ("ts_us", pa.int64()),
        ("quantity", pa.int64()),
        ("price", MONEY),
        ("currency", pa.string()),
        ("title", pa.string()),
        ("country", pa.string()),
        ("category", pa.string()),
        ("brand", pa.string()),
    ]
)


def rows_of(*changes: dict[str, Any]) -> Any:
    good = {
        "user_id": "u",
        "item_id": "i",
        "event_type": "purchase",
        "ts_us": 0,
        "quantity": 1,
        "price": Decimal("1.0000"),
        "currency": "GBP",
        "title": "LAMP",
        "country": "France",
        "category": None,
        "brand": None,
    }
    rows = [good | {"event_id": f"e{place:03}"} | change for place, change in enumerate(changes)]
    return ibis.memtable(pa.Table.from_pylist(rows, schema=SCHEMA))


def versions_of(rows: Any, stated: Any = None) -> Any:
    return catalog.item_versions(catalog.price_changes(rows), catalog.category_changes(rows), stated)


STATED = pa.schema(
    [
        ("batch", pa.string()),
        ("item_id", pa.string()),
        ("valid_from_us", pa.int64()),
        ("title", pa.string()),
        ("category", pa.string()),
        ("brand", pa.string()),
        ("group_id", pa.string()),
        ("price", MONEY),
        ("currency", pa.string()),
        ("in_stock", pa.bool_()),
    ]
)


def stated(*rows: dict[str, Any]) -> Any:
    whole = [dict.fromkeys(STATED.names) | {"batch": "b", "item_id": "i", "valid_from_us": 0} | row for row in rows]
    return ibis.memtable(pa.Table.from_pylist(whole, schema=STATED))


def held(connection: Backend, versions: Any) -> list[tuple[Any, ...]]:
    ordered = connection.to_pyarrow(versions.order_by("item_id", "valid_from_us")).to_pylist()
    return [tuple(row.values()) for row in ordered]


def ranges(connection: Backend, rows: Any) -> list[tuple[int, int | None, Decimal]]:
    found = connection.to_pyarrow(versions_of(rows).order_by("item_id", "valid_from_us")).to_pylist()
    return [(row["valid_from_us"], row["valid_to_us"], row["price"]) for row in found]


def the_item(connection: Backend, rows: Any) -> dict[str, Any]:
    (item,) = connection.to_pyarrow(catalog.items(catalog.facts(rows), versions_of(rows))).to_pylist()
    return item


def test_prices_hold_from_the_purchase_that_paid_them(connection: Backend) -> None:
    rows = rows_of(
        {"ts_us": 10, "price": Decimal(2)},
        {"ts_us": 20, "price": Decimal(2)},
        {"ts_us": 30, "price": Decimal(3)},
        {"ts_us": 40, "price": Decimal(2)},
        {"ts_us": 50, "price": Decimal(9), "event_type": "refund"},
    )
    assert ranges(connection, rows) == [(10, 30, Decimal(2)), (30, 40, Decimal(3)), (40, None, Decimal(2))]


def test_at_one_moment_the_smallest_quantity_sets_the_price_then_the_highest(connection: Backend) -> None:
    rows = rows_of(
        {"price": Decimal(1), "quantity": 100},
        {"price": Decimal(2), "quantity": 3},
        {"price": Decimal(4), "quantity": 3},
    )
    assert ranges(connection, rows) == [(0, None, Decimal(4))]


def test_the_title_of_most_purchases_wins(connection: Backend) -> None:
    rows = rows_of(
        {"title": "LAMP"},
        {"title": "LAMP", "ts_us": 1},
        {"title": "LAMP RED", "ts_us": 2},
        {"title": "LAMP BROKEN", "ts_us": 3, "event_type": "refund"},
        {"title": "LAMP BROKEN", "ts_us": 4, "event_type": "refund"},
        {"title": "LAMP BROKEN", "ts_us": 5, "event_type": "refund"},
        {"title": None, "ts_us": 6},
        {"title": None, "ts_us": 7},
        {"title": None, "ts_us": 8},
    )
    assert the_item(connection, rows)["title"] == "LAMP"


def test_ties_between_titles_go_to_the_latest_then_to_the_alphabet(connection: Backend) -> None:
    assert the_item(connection, rows_of({"title": "AA"}, {"title": "BB", "ts_us": 1}))["title"] == "BB"
    assert the_item(connection, rows_of({"title": "BB"}, {"title": "AA"}))["title"] == "AA"


def test_a_product_without_a_title_is_called_by_its_id(connection: Backend) -> None:
    assert the_item(connection, rows_of({"title": None}))["title"] == "i"


def test_facts_of_a_product(connection: Backend) -> None:
    rows = rows_of(
        {"ts_us": 5, "price": Decimal(2)},
        {"ts_us": 9, "price": Decimal(3)},
        {"ts_us": 1, "event_type": "refund", "price": Decimal(7)},
        {"ts_us": 99, "event_type": "refund", "price": Decimal(8)},
    )
    assert the_item(connection, rows) == {
        "item_id": "i",
        "title": "LAMP",
        "category": None,
        "brand": None,
        "group_id": None,
        "price": Decimal(3),
        "currency": "GBP",
        "in_stock": None,
        "first_sold_us": 5,
        "last_sold_us": 9,
        "is_known": True,
    }


def test_a_product_that_was_only_returned(connection: Backend) -> None:
    rows = rows_of(
        {"ts_us": 5, "price": Decimal(2), "event_type": "refund"},
        {"ts_us": 4, "price": Decimal(9), "event_type": "refund"},
    )
    item = the_item(connection, rows)
    assert (item["price"], item["first_sold_us"], item["last_sold_us"]) == (Decimal(2), None, None)


def test_the_latest_known_country_counts(connection: Backend) -> None:
    rows = rows_of(
        {"ts_us": 1, "country": "France"},
        {"ts_us": 3, "country": None},
        {"ts_us": 2, "country": "Spain"},
        {"user_id": "v", "country": None},
    )
    found = connection.to_pyarrow(catalog.users(rows).order_by("user_id")).to_pylist()
    assert found == [{"user_id": "u", "country": "Spain"}, {"user_id": "v", "country": None}]


def test_a_catalogs_ranges_change_with_any_attribute_and_equal_neighbours_are_one(connection: Backend) -> None:
    rows = rows_of({"item_id": "other"})
    said = stated(
        {"valid_from_us": 0, "price": Decimal(2), "in_stock": True, "category": "A > B"},
        {"valid_from_us": 10, "price": Decimal(2), "in_stock": True, "category": "A > B"},
        {"valid_from_us": 20, "price": Decimal(2), "in_stock": False, "category": "A > B"},
        {"valid_from_us": 30, "price": Decimal(3), "in_stock": False, "category": "A > C"},
        {"valid_from_us": 40, "price": None, "in_stock": True, "category": None},
    )
    versions = versions_of(rows, said)
    assert held(connection, versions.filter(versions["item_id"] == "i")) == [
        ("i", 0, 20, Decimal(2), True, "A > B"),
        ("i", 20, 30, Decimal(2), False, "A > B"),
        ("i", 30, 40, Decimal(3), False, "A > C"),
        ("i", 40, None, Decimal(3), True, "A > C"),
    ]


def test_events_count_until_a_catalog_says_something_attribute_by_attribute(connection: Backend) -> None:
    rows = rows_of(
        {"ts_us": 5, "price": Decimal(9), "category": "FROM EVENTS"},
        {"ts_us": 8, "price": Decimal(3), "category": "LATER"},
        {"ts_us": 5, "item_id": "j", "price": Decimal(4), "event_type": "view_item", "category": "J"},
    )
    said = stated({"valid_from_us": 7, "price": Decimal(1)})
    assert held(connection, versions_of(rows, said)) == [
        ("i", 5, 7, Decimal(9), None, "FROM EVENTS"),
        ("i", 7, 8, Decimal(1), None, "FROM EVENTS"),
        ("i", 8, None, Decimal(1), None, "LATER"),
        ("j", 5, None, Decimal(4), None, "J"),
    ]


def test_the_last_batch_in_the_alphabet_wins_at_one_moment(connection: Backend) -> None:
    said = stated({"batch": "2026-01-02", "price": Decimal(2)}, {"batch": "2026-01-01", "price": Decimal(1)})
    assert held(connection, versions_of(rows_of({"price": None}), said)) == [("i", 0, None, Decimal(2), None, None)]


def test_items_of_a_catalog(connection: Backend) -> None:
    rows = rows_of({"price": Decimal(5), "brand": "SEEN"}, {"item_id": "j", "brand": "OWN"})
    said = stated(
        {"valid_from_us": 1, "title": "OLD", "group_id": "g", "in_stock": True},
        {"valid_from_us": 2, "title": "NEW", "price": Decimal(7), "currency": "EUR", "in_stock": False},
        {"item_id": "never sold", "category": "C"},
    )
    found = connection.to_pyarrow(
        catalog.items(catalog.facts(rows), versions_of(rows, said), said).order_by("item_id")
    ).to_pylist()
    names = ("item_id", "title", "category", "brand", "group_id", "price", "currency", "in_stock", "is_known")
    assert [tuple(row[name] for name in names) for row in found] == [
        ("i", "NEW", None, "SEEN", "g", Decimal(7), "EUR", False, True),
        ("j", "LAMP", None, "OWN", None, Decimal(1), "GBP", None, False),
        ("never sold", "never sold", "C", None, None, None, None, None, True),
    ]
    assert found[2]["first_sold_us"] is found[2]["last_sold_us"] is None
