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
    }
    rows = [good | {"event_id": f"e{place:03}"} | change for place, change in enumerate(changes)]
    return ibis.memtable(pa.Table.from_pylist(rows, schema=SCHEMA))


def ranges(connection: Backend, rows: Any) -> list[tuple[int, int | None, Decimal]]:
    found = connection.to_pyarrow(catalog.item_prices(rows).order_by("item_id", "valid_from_us")).to_pylist()
    return [(row["valid_from_us"], row["valid_to_us"], row["price"]) for row in found]


def the_item(connection: Backend, rows: Any) -> dict[str, Any]:
    (item,) = connection.to_pyarrow(catalog.items(rows, catalog.item_prices(rows))).to_pylist()
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
        "price": Decimal(3),
        "currency": "GBP",
        "first_sold_us": 5,
        "last_sold_us": 9,
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
