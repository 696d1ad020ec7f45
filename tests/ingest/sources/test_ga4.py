from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.contracts.errors import InputError
from endcap.ingest.sources.ga4 import Ga4

TS_US = 1_769_817_600_000_001

Events = Callable[..., list[dict[str, Any]]]
Write = Callable[..., Path]


def parameter(key: str, **value: Any) -> dict[str, Any]:
    empty = {"string_value": None, "int_value": None, "float_value": None, "double_value": None}
    return {"key": key, "value": empty | value}


def item(**changes: Any) -> dict[str, Any]:
    good = {
        "item_id": "SKU1",
        "item_name": "Mug &amp; plate",
        "item_brand": "Acme",
        "item_category": "Home",
        "item_category2": "Kitchen",
        "price": 9.5,
        "quantity": 2,
    }
    return good | changes


def event(name: str = "purchase", **changes: Any) -> dict[str, Any]:
    good = {
        "event_timestamp": TS_US,
        "event_name": name,
        "user_id": "u1",
        "user_pseudo_id": "device1",
        "event_params": [
            parameter("ga_session_id", int_value=77),
            parameter("currency", string_value="eur"),
        ],
        "geo": {"country": "Norway"},
        "ecommerce": {"transaction_id": "T1"},
        "items": [item(), item(item_id="SKU2", price=None, quantity=None)],
    }
    return good | changes


def as_json(row: dict[str, Any]) -> dict[str, Any]:
    """BigQuery writes whole numbers as texts."""
    return row | {"event_timestamp": str(row["event_timestamp"])}


@pytest.mark.parametrize("kind", ["parquet", "json"])
def test_a_purchase_of_two_products(events: Events, write: Write, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"events_20260131.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist([event()]), path)
    else:
        write(path.name, [as_json(event())])
    first, second = events(Ga4(), path)
    assert first.pop("event_id") != second.pop("event_id")
    assert first == {
        "row_number": 0,
        "reason": None,
        "user_id": "u1",
        "guest_id": "device1",
        "item_id": "SKU1",
        "event_type": "purchase",
        "ts_us": TS_US,
        "value": Decimal("19.0000"),
        "quantity": 2,
        "currency": "EUR",
        "properties": '{"session_id":"77","search_term":null,"item_list_name":null,"item_list_index":null,"item_variant":null}',
        "basket_id": "T1",
        "price": Decimal("9.5000"),
        "title": "Mug & plate",
        "category": "Home > Kitchen",
        "brand": "Acme",
        "country": "Norway",
    }
    assert (second["item_id"], second["quantity"], second["value"]) == ("SKU2", 1, None)


def test_revenue_after_a_discount_stands_and_a_refund_has_its_own(events: Events, write: Write) -> None:
    bought = event(items=[item(item_revenue=15.0), item(item_id="SKU2")])
    back = event("refund", items=[item(item_refund=7.5, quantity=1), item(item_id="SKU2", item_revenue=3)])
    rows = events(Ga4(), write("events_20260131.json", [as_json(bought), as_json(back)]))
    assert [(row["price"], row["value"]) for row in rows] == [
        (Decimal("9.5"), Decimal(15)),
        (Decimal("9.5"), Decimal(19)),
        (Decimal("9.5"), Decimal("7.5")),
        (Decimal("9.5"), Decimal(3)),
    ]


def test_the_same_product_twice_in_an_order_is_two_lines(events: Events, write: Write) -> None:
    first, second = events(Ga4(), write("events_20260131.json", [as_json(event(items=[item(), item()]))]))
    assert first["event_id"] != second["event_id"]


def test_day_tables_as_csv_are_refused(tmp_path: Path, write: Write) -> None:
    write("events_20260130.json", [as_json(event())])
    write("events_20260131.csv", "event_timestamp,event_name,user_pseudo_id\n1,search,d\n")
    with pytest.raises(InputError, match=r"events_20260131\.csv is CSV, which can't hold the lists"):
        Ga4().batches(tmp_path)


def test_both_forms_give_equal_ids(ingest: Callable[..., dict[str, Any]], write: Write, tmp_path: Path) -> None:
    rows = [event(items=[item(price="9.5", quantity="2")])]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "events_20260130.parquet")
    write("events_20260131.json", [as_json(rows[0])])
    parquet, json = ingest(Ga4(), tmp_path).values()
    assert [row["event_id"] for row in parquet] == [row["event_id"] for row in json]


def test_who_it_was(events: Events, write: Write) -> None:
    rows = [as_json(event(user_id=user, user_pseudo_id=guest, items=[item()])) for user, guest in
            [(None, "d"), ("", "d"), ("u", "u"), (None, None)]]  # fmt: skip
    found = events(Ga4(), write("events_20260131.json", rows))
    assert [(row["user_id"], row["guest_id"], row["reason"]) for row in found] == [
        ("d", None, None),
        ("d", None, None),
        ("u", None, None),
        (None, None, "missing_user"),
    ]


def test_events_without_products(events: Events, write: Write) -> None:
    search = event("view_search_results", items=[], event_params=[parameter("search_term", string_value="red mug")])
    rows = [
        event("page_view", items=[]),
        search,
        event("purchase", items=None),
        event("my_own_event"),
        event("view_item_list", items=[]),
    ]
    found = events(Ga4(), write("events_20260131.jsonl", [as_json(row) for row in rows]))
    assert [(row["event_type"], row["reason"]) for row in found] == [
        ("event_type_not_used", "event_type_not_used"),
        ("search", None),
        ("purchase", "missing_item"),
        ("event_type_not_used", "event_type_not_used"),
        ("event_type_not_used", "event_type_not_used"),
        ("view_item_list", None),
    ]
    assert '"search_term":"red mug"' in found[1]["properties"]
    assert found[1]["item_id"] is None


def test_lines_and_fields_of_other_shapes(events: Events, write: Write) -> None:
    rows = [
        as_json(event(items="none", geo=[], event_params={"a": 1})),
        "{torn",
        "7",
        as_json(event(items=[7, item()])),
    ]
    found = events(Ga4(), write("events_20260131.json", rows))
    assert [row["reason"] for row in found] == ["missing_item", "malformed_row", "malformed_row", "missing_item", None]


def test_a_parquet_file_without_the_optional_columns(events: Events, tmp_path: Path) -> None:
    row = {"event_timestamp": TS_US, "event_name": "search", "user_pseudo_id": "d"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "events_20260131.parquet")
    (found,) = events(Ga4(), tmp_path)
    assert (found["user_id"], found["reason"], found["event_type"]) == ("d", None, "search")


def test_the_daily_table_wins_over_the_intraday_one(tmp_path: Path, write: Write) -> None:
    write("events_intraday_20260131.json", [as_json(event())])
    write("events_intraday_20260201.json", [as_json(event())])
    write("events_20260131/part-0.json", [as_json(event())])
    write("events_20260131/part-1.json", [as_json(event())])
    batches = Ga4().batches(tmp_path)
    assert [(batch.name, [path.name for path in batch.paths]) for batch in batches] == [
        ("ga4/events_20260131", ["part-0.json", "part-1.json"]),
        ("ga4/events_20260201", ["events_intraday_20260201.json"]),
    ]


def test_parts_are_numbered_on(events: Events, tmp_path: Path, write: Write) -> None:
    write("events_20260131/part-0.json", [as_json(event())])
    write("events_20260131/part-1.json", [as_json(event(items=[item(item_id="SKU3")]))])
    assert [row["item_id"] for row in events(Ga4(), tmp_path)] == ["SKU1", "SKU2", "SKU3"]


def test_files_of_other_names(tmp_path: Path, write: Write) -> None:
    write("events.json", [as_json(event())])
    with pytest.raises(InputError, match="holds no table of source ga4"):
        Ga4().batches(tmp_path)


def test_a_file_of_another_shape(events: Events, write: Write) -> None:
    with pytest.raises(
        InputError, match=r"events_20260131\.json doesn't fit source ga4: column event_timestamp is missing"
    ):
        events(Ga4(), write("events_20260131.json", [{"event_name": "search", "user_pseudo_id": "x"}]))
