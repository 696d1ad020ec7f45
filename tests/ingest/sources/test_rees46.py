from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from endcap.contracts.errors import InputError
from endcap.ingest.sources.rees46 import Rees46

HEADER = "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session\n"
VIEW = "2019-10-01 00:00:01 UTC,view,17200506,2053,furniture.living_room.sofa,ikea,543.10,519107250,566511c2\n"

Events = Callable[..., list[dict[str, Any]]]
Write = Callable[..., Path]


def test_a_view_by_hand(events: Events, write: Write) -> None:
    (row,) = events(Rees46(), write("a.csv", HEADER + VIEW))
    assert len(row.pop("event_id")) == 32
    assert row == {
        "row_number": 0,
        "reason": None,
        "user_id": "519107250",
        "guest_id": None,
        "item_id": "17200506",
        "event_type": "view_item",
        "ts_us": int(datetime(2019, 10, 1, 0, 0, 1, tzinfo=UTC).timestamp()) * 1_000_000,
        "value": None,
        "quantity": None,
        "currency": None,
        "properties": '{"session_id":"566511c2"}',
        "basket_id": None,
        "price": Decimal("543.1000"),
        "title": None,
        "category": "furniture > living room > sofa",
        "brand": "ikea",
        "country": None,
    }


def test_a_purchase_is_one_piece_and_its_session_is_its_basket(events: Events, write: Write) -> None:
    (row,) = events(Rees46(), write("a.csv.gz", HEADER + VIEW.replace("view", "purchase")))
    assert (row["event_type"], row["quantity"], row["value"]) == ("purchase", 1, Decimal("543.1000"))
    assert row["basket_id"] == "566511c2"


def test_empty_fields_and_a_price_of_nothing(events: Events, write: Write) -> None:
    line = "2019-10-01 00:00:01 UTC,cart,1,2,,,0.00,3,\n"
    (row,) = events(Rees46(), write("a.csv", HEADER + line))
    assert (row["reason"], row["event_type"]) == (None, "add_to_cart")
    assert (row["category"], row["brand"], row["price"], row["properties"]) == (None, None, None, None)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("519107250", "", "missing_user"),
        ("17200506", "", "missing_item"),
        (",view,", ",,", "missing_event_type"),
        (",view,", ",stare,", "unknown_event_type"),
        ("2019-10-01 00:00:01 UTC", "", "missing_time"),
        ("2019-10-01 00:00:01 UTC", "yesterday", "unreadable_time"),
        ("2019-10-01 00:00:01 UTC", "2019-02-30 00:00:01 UTC", "unreadable_time"),
        ("2019-10-01", "1970-01-01", "time_out_of_range"),
        ("543.10", "cheap", "bad_price"),
        ("543.10", "-1", "bad_price"),
        ("543.10", "1e9", "amount_out_of_range"),
        ("519107250", "x" * 1_001, "text_too_long"),
        (",566511c2", "", "malformed_row"),
    ],
)
def test_reasons(events: Events, write: Write, old: str, new: str, reason: str) -> None:
    rows = events(Rees46(), write("a.csv", HEADER + VIEW + VIEW.replace(old, new) + VIEW))
    assert [row["reason"] for row in rows] == [None, reason, None]


def test_a_folder_of_months(ingest: Callable[..., dict[str, Any]], write: Write) -> None:
    write("export/2019-Nov.csv", HEADER + VIEW)
    write("export/2019-Oct.csv.gz", HEADER + VIEW)
    path = write("export/README.md", "about").parent
    found = ingest(Rees46(), path)
    assert list(found) == ["rees46/2019-Nov.csv", "rees46/2019-Oct.csv.gz"]
    (november,), (october,) = found.values()
    assert november["event_id"] == october["event_id"]


def test_a_missing_column_is_named_with_the_nearest(events: Events, write: Write) -> None:
    path = write("a.csv", HEADER.replace("product_id", "productid") + VIEW)
    with pytest.raises(
        InputError, match=r"a\.csv doesn't fit source rees46: column product_id is missing \(did you mean"
    ):
        events(Rees46(), path)
