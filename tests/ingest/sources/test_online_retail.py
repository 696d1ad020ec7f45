from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import ibis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ibis.backends.duckdb import Backend

from endcap.contracts.events import PURCHASE, REFUND
from endcap.engines import duckdb
from endcap.ingest.sources.online_retail import OnlineRetail
from endcap.ingest.sources.protocol import NORMALIZED_TYPES

Lines = Callable[..., dict[str, Any]]


@pytest.fixture
def normalize(connection: Backend, invoices: Callable[..., Path]) -> Callable[..., list[dict[str, Any]]]:
    def run(*lines: dict[str, Any]) -> list[dict[str, Any]]:
        rows = OnlineRetail().normalize(duckdb.scan_parquet(connection, invoices(*lines)))
        return connection.to_pyarrow(rows.order_by("row_number")).to_pylist()

    return run


def test_a_purchase_by_hand(normalize: Callable[..., list[dict[str, Any]]], line: Lines) -> None:
    (row,) = normalize(line())
    content = [
        "536365",
        "85123A",
        "WHITE HANGING HEART T-LIGHT HOLDER",
        "6",
        "1291191960000000",
        "25500",
        "17850",
        "United Kingdom",
    ]
    digest = hashlib.md5("\x1f".join(content).encode(), usedforsecurity=False).hexdigest()
    assert row.pop("event_id") == digest
    assert row == {
        "row_number": 0,
        "reason": None,
        "user_id": "17850",
        "item_id": "85123A",
        "event_type": PURCHASE,
        "ts_us": int(datetime(2010, 12, 1, 8, 26, tzinfo=UTC).timestamp()) * 1_000_000,
        "value": Decimal("15.3000"),
        "quantity": 6,
        "currency": "GBP",
        "properties": None,
        "basket_id": "536365",
        "price": Decimal("2.5500"),
        "title": "WHITE HANGING HEART T-LIGHT HOLDER",
        "country": "United Kingdom",
    }
    assert row.keys() | {"event_id"} == NORMALIZED_TYPES.keys()


def test_the_engine_itself_sees_the_declared_types(connection: Backend, invoices: Any, line: Lines) -> None:
    rows = OnlineRetail().normalize(duckdb.scan_parquet(connection, invoices(line())))
    stored = connection.create_table("stored_types", rows, temp=True)
    found = {name: str(dtype) for name, dtype in stored.schema().items()}
    assert found == {name: str(ibis.dtype(dtype)) for name, dtype in NORMALIZED_TYPES.items()}


def test_a_cancelled_line_is_a_refund_with_positive_amounts(normalize: Any, line: Lines) -> None:
    (row,) = normalize(line(InvoiceNo="C536379", Quantity=-2))
    assert row["reason"] is None
    assert (row["event_type"], row["quantity"], row["value"], row["basket_id"]) == (
        REFUND,
        2,
        Decimal("5.1000"),
        "C536379",
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"InvoiceNo": None}, "missing_field"),
        ({"InvoiceNo": "  "}, "missing_field"),
        ({"StockCode": None}, "missing_field"),
        ({"Quantity": None}, "missing_field"),
        ({"InvoiceDate": None}, "missing_field"),
        ({"UnitPrice": None}, "missing_field"),
        ({"UnitPrice": float("nan")}, "missing_field"),
        ({"CustomerID": None}, "no_customer"),
        ({"CustomerID": float("nan")}, "no_customer"),
        ({"CustomerID": float("inf")}, "no_customer"),
        ({"CustomerID": 17850.5}, "no_customer"),
        ({"CustomerID": 0.0}, "no_customer"),
        ({"StockCode": "POST"}, "not_a_product"),
        ({"StockCode": "m"}, "not_a_product"),
        ({"StockCode": "C2"}, "not_a_product"),
        ({"StockCode": "BANK CHARGES"}, "not_a_product"),
        ({"StockCode": "gift_0001_20"}, "not_a_product"),
        ({"StockCode": "PADS"}, "not_a_product"),
        ({"StockCode": "D"}, "not_a_product"),
        ({"StockCode": "23444"}, "not_a_product"),
        ({"StockCode": "1234"}, "not_a_product"),
        ({"StockCode": "123456"}, "not_a_product"),
        ({"InvoiceNo": "A563185"}, "unknown_invoice_kind"),
        ({"UnitPrice": 0.0}, "price_not_positive"),
        ({"UnitPrice": -1.0}, "price_not_positive"),
        ({"UnitPrice": 0.00004}, "price_not_positive"),
        ({"Quantity": 0}, "quantity_not_positive"),
        ({"Quantity": -5}, "quantity_not_positive"),
        ({"InvoiceNo": "C536365", "Quantity": 5}, "cancellation_not_negative"),
        ({"InvoiceNo": "C536365", "Quantity": 0}, "cancellation_not_negative"),
        ({"UnitPrice": 1e300}, "amount_out_of_range"),
        ({"UnitPrice": float("inf")}, "amount_out_of_range"),
        ({"Quantity": 2**62}, "amount_out_of_range"),
        ({"InvoiceDate": datetime(1970, 1, 1)}, "time_out_of_range"),
        ({"InvoiceDate": datetime(2100, 1, 1)}, "time_out_of_range"),
    ],
)
def test_every_reason(normalize: Any, line: Lines, changes: dict[str, Any], reason: str) -> None:
    rows = normalize(line(), line(**changes))
    assert [row["reason"] for row in rows] == [None, reason]


def test_every_reason_is_declared_and_the_first_that_applies_wins(normalize: Any, line: Lines) -> None:
    worst = {
        "CustomerID": None,
        "StockCode": "POST",
        "InvoiceNo": "A1",
        "UnitPrice": 0.0,
        "Quantity": 0,
        "InvoiceDate": datetime(1970, 1, 1),
    }
    mended = [
        {"CustomerID": 1.0},
        {"StockCode": "10002"},
        {"InvoiceNo": "1"},
        {"UnitPrice": 1.0},
        {"Quantity": 1},
        {"InvoiceDate": datetime(2011, 1, 1)},
    ]
    lines = [line(**worst)]
    for change in mended:
        worst |= change
        lines.append(line(**worst))
    found = [row["reason"] for row in normalize(*lines)]
    assert found == [
        "no_customer",
        "not_a_product",
        "unknown_invoice_kind",
        "price_not_positive",
        "quantity_not_positive",
        "time_out_of_range",
        None,
    ]
    order = [OnlineRetail().reasons.index(reason) for reason in found[:-1]]
    assert order == sorted(order)


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("  RED   WOOLLY \t HOTTIE ", "RED WOOLLY HOTTIE"),
        ("BAG 125g SWIRLY MARBLES", "BAG 125g SWIRLY MARBLES"),
        ("CAFÉ SIGN", "CAFÉ SIGN"),
        ("damaged", None),
        ("?", None),
        ("", None),
        (None, None),
    ],
)
def test_titles(normalize: Any, line: Lines, text: str | None, title: str | None) -> None:
    (row,) = normalize(line(Description=text))
    assert row["title"] == title


def test_codes_are_one_product_whatever_their_case_and_spaces(normalize: Any, line: Lines) -> None:
    rows = normalize(line(StockCode="85123a"), line(StockCode=" 85123A "))
    assert {row["item_id"] for row in rows} == {"85123A"}


def test_equal_lines_have_equal_ids_and_any_difference_another(normalize: Any, line: Lines) -> None:
    different = [
        {"InvoiceNo": "536366"},
        {"StockCode": "85123B"},
        {"Description": "ANOTHER TITLE"},
        {"Description": None},
        {"Quantity": 7},
        {"InvoiceDate": datetime(2010, 12, 1, 8, 26, 0, 1)},
        {"UnitPrice": 2.5501},
        {"CustomerID": 17851.0},
        {"CustomerID": None},
        {"Country": "France"},
    ]
    rows = normalize(line(), line(), *(line(**changes) for changes in different))
    assert rows[0]["event_id"] == rows[1]["event_id"]
    assert len({row["event_id"] for row in rows}) == 1 + len(different)


def test_microseconds_are_kept(normalize: Any, line: Lines) -> None:
    (row,) = normalize(line(InvoiceDate=datetime(2011, 1, 1, 23, 59, 59, 999_999)))
    assert row["ts_us"] == int(datetime(2011, 1, 1, 23, 59, 59, tzinfo=UTC).timestamp()) * 1_000_000 + 999_999


def test_other_types_of_the_same_kind(connection: Backend, line: Lines, tmp_path: Path) -> None:
    rows = pa.Table.from_pylist(
        [line(CustomerID=17850)],
        schema=pa.schema(
            [
                ("InvoiceNo", pa.large_string()),
                ("StockCode", pa.dictionary(pa.int32(), pa.string())),
                ("Description", pa.string()),
                ("Quantity", pa.int32()),
                ("InvoiceDate", pa.timestamp("ms", tz="Europe/London")),
                ("UnitPrice", pa.float32()),
                ("CustomerID", pa.int64()),
                ("Country", pa.string()),
            ]
        ),
    )
    pq.write_table(rows, tmp_path / "other.parquet")
    normalized = OnlineRetail().normalize(duckdb.scan_parquet(connection, tmp_path / "other.parquet"))
    (row,) = connection.to_pyarrow(normalized).to_pylist()
    assert row["reason"] is None
    assert (row["user_id"], row["item_id"], row["price"]) == ("17850", "85123A", Decimal("2.5500"))
    assert row["ts_us"] == int(datetime(2010, 12, 1, 8, 26, tzinfo=UTC).timestamp()) * 1_000_000
