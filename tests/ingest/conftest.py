"""Invoices written by hand: one good line by default, each test changes what it is about."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ibis.backends.duckdb import Backend

from endcap.engines import duckdb
from endcap.workspace.layout import Workspace

INVOICE_SCHEMA = pa.schema(
    [
        ("InvoiceNo", pa.string()),
        ("StockCode", pa.string()),
        ("Description", pa.string()),
        ("Quantity", pa.int64()),
        ("InvoiceDate", pa.timestamp("us")),
        ("UnitPrice", pa.float64()),
        ("CustomerID", pa.float64()),
        ("Country", pa.string()),
    ]
)


def _line(**changes: Any) -> dict[str, Any]:
    good = {
        "InvoiceNo": "536365",
        "StockCode": "85123A",
        "Description": "WHITE HANGING HEART T-LIGHT HOLDER",
        "Quantity": 6,
        "InvoiceDate": datetime(2010, 12, 1, 8, 26),
        "UnitPrice": 2.55,
        "CustomerID": 17850.0,
        "Country": "United Kingdom",
    }
    assert changes.keys() <= good.keys()
    return good | changes


@pytest.fixture
def line() -> Callable[..., dict[str, Any]]:
    return _line


@pytest.fixture
def invoices(tmp_path: Path) -> Callable[..., Path]:
    def write(*lines: dict[str, Any], name: str = "invoices.parquet") -> Path:
        path = tmp_path / name
        pq.write_table(pa.Table.from_pylist(list(lines), schema=INVOICE_SCHEMA), path)
        return path

    return write


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.init(tmp_path / "shop")


@pytest.fixture(scope="session")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    with duckdb.session(Workspace.init(tmp_path_factory.mktemp("engine"))) as connection:
        yield connection
