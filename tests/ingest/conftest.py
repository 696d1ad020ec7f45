"""Invoices written by hand: one good line by default, each test changes what it is about."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ibis.backends.duckdb import Backend

from endcap.contracts import columns as c
from endcap.engines import duckdb
from endcap.ingest.sources.protocol import CATALOG_TYPES, NORMALIZED_TYPES, OPTIONAL_TYPES, Batch
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


LANDED_FIELDS = {
    name: dtype for name, dtype in ({**NORMALIZED_TYPES, **OPTIONAL_TYPES}).items() if name != c.ROW_NUMBER
}
DAY_ONE_US = 1_767_225_600_000_000
"""2026-01-01 in UTC."""


@dataclass(frozen=True)
class Toy:
    """Parquet files of rows that are normalized already; `catalog*.parquet` beside them, and what was shown."""

    name: str = "toy"
    is_whole_export: bool = False
    reasons: tuple[str, ...] = ("broken",)

    def batches(self, path: Path) -> list[Batch]:
        files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        return [Batch(f"{self.name}/{file.name}", (file,)) for file in files if "catalog" not in file.name]

    def read(self, connection: Backend, batch: Batch) -> ir.Table:
        return duckdb.scan_parquet(connection, batch.paths[0])

    def normalize(self, rows: ir.Table) -> ir.Table:
        return rows.select(c.ROW_NUMBER, **{name: rows[name].cast(dtype) for name, dtype in LANDED_FIELDS.items()})

    def catalog(self, connection: Backend, path: Path) -> ir.Table | None:
        file = path / "catalog.parquet"
        return connection.read_parquet(str(file)) if file.is_file() else None


@pytest.fixture
def toy() -> Toy:
    return Toy()


def _event(event_id: str, at_us: int, **changes: Any) -> dict[str, Any]:
    good = dict.fromkeys(LANDED_FIELDS) | {
        "event_id": event_id,
        "user_id": "u",
        "item_id": "i",
        "event_type": "view_item",
        "ts_us": DAY_ONE_US + at_us,
    }
    assert changes.keys() <= good.keys()
    return good | changes


@pytest.fixture
def event() -> Callable[..., dict[str, Any]]:
    """A function that gives a good row: its id, and its microsecond after the first midnight of 2026."""
    return _event


@pytest.fixture
def export(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes rows into a file of the toy source's folder, and gives the folder."""

    def write(name: str, *rows: dict[str, Any], catalog: bool = False) -> Path:
        folder = tmp_path / "export"
        folder.mkdir(exist_ok=True)
        types = CATALOG_TYPES if catalog else LANDED_FIELDS
        schema = ibis.schema(types).to_pyarrow()
        pq.write_table(pa.Table.from_pylist([dict.fromkeys(types) | row for row in rows], schema), folder / name)
        return folder

    return write
