from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from endcap.contracts.errors import InputError
from endcap.ingest.sources.google_retail import EVENT_NAMES, GoogleRetail

Events = Callable[..., list[dict[str, Any]]]
Write = Callable[..., Path]

PRODUCT = {
    "id": "sku1", "title": "Red mug", "brands": ["Acme", "Other"], "categories": ["Home > Kitchen", "Gifts"],
    "priceInfo": {"price": 9.5, "currencyCode": "USD"},
}  # fmt: skip


def event(kind: str = "purchase-complete", **changes: Any) -> dict[str, Any]:
    good = {
        "eventType": kind,
        "visitorId": "device1",
        "userInfo": {"userId": "u1"},
        "eventTime": "2026-01-31T00:00:00.000001Z",
        "attributionToken": "tok",
        "sessionId": "s1",
        "productDetails": [{"product": PRODUCT, "quantity": 2}, {"product": {"id": "sku2"}}],
        "purchaseTransaction": {"id": "T1", "revenue": 30, "currencyCode": "USD"},
    }
    return good | changes


def test_a_purchase_of_two_products(events: Events, write: Write) -> None:
    first, second = events(GoogleRetail(), write("events.jsonl.gz", [event()]))
    assert first.pop("event_id") != second["event_id"]
    assert first == {
        "row_number": 0,
        "reason": None,
        "user_id": "u1",
        "guest_id": "device1",
        "item_id": "sku1",
        "event_type": "purchase",
        "ts_us": 1_769_817_600_000_001,
        "value": Decimal("19.0000"),
        "quantity": 2,
        "currency": "USD",
        "properties": '{"session_id":"s1","search_term":null,"attribution_token":"tok"}',
        "basket_id": "T1",
        "price": Decimal("9.5000"),
        "title": "Red mug",
        "category": "Home > Kitchen",
        "brand": "Acme",
        "country": None,
    }
    assert (second["item_id"], second["quantity"], second["value"], second["currency"]) == ("sku2", 1, None, "USD")


def test_an_order_of_one_product_without_a_price_is_worth_its_revenue(events: Events, write: Write) -> None:
    row = event(
        productDetails=[
            {"product": {"name": "projects/1/locations/g/catalogs/c/branches/b/products/sku9"}, "quantity": 4}
        ]
    )
    (found,) = events(GoogleRetail(), write("events.jsonl", [row]))
    assert (found["item_id"], found["value"], found["price"]) == ("sku9", Decimal("30.0000"), Decimal("7.5000"))


@pytest.mark.parametrize(("kind", "event_type"), EVENT_NAMES.items())
def test_names_of_events(events: Events, write: Write, kind: str, event_type: str) -> None:
    found = events(GoogleRetail(), write("events.jsonl", [event(kind), event(kind, productDetails=None)]))
    assert {row["event_type"] for row in found} == {event_type}
    if event_type == "event_type_not_used":
        assert {row["reason"] for row in found} == {event_type}


def test_rows_that_cannot_be_used(events: Events, write: Write) -> None:
    lines = [
        event("detail-page-view", productDetails=[]),
        event("new-kind"),
        event("search", visitorId=None, userInfo=None, productDetails=[]),
        event("search", eventTime="soon", productDetails=None),
        "[1, 2]",
        event("search", productDetails="many"),
    ]
    assert [row["reason"] for row in events(GoogleRetail(), write("events.jsonl", lines))] == [
        "missing_item",
        "unknown_event_type",
        "unknown_event_type",
        "missing_user",
        "unreadable_time",
        "malformed_row",
        None,
    ]


def test_a_file_of_another_kind(events: Events, write: Write) -> None:
    with pytest.raises(InputError, match="column eventType is missing"):
        events(GoogleRetail(), write("a.jsonl", [{"visitorId": "v", "eventTime": "2026-01-01"}]))
