"""A small shop written straight into tables: three days of events in two batches, with all that a profile counts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from ibis.backends.duckdb import Backend

from endcap.contracts.events import (
    BATCHES,
    EVENTS,
    ITEMS,
    LANDED,
    QUARANTINE,
    TABLES,
    US_PER_DAY,
)
from endcap.engines import duckdb
from endcap.workspace import tables
from endcap.workspace.layout import Workspace

HOUR_US = 3_600_000_000
NASTY = "<script>alert('x')</script> & co"
ANNA = "anna@example.org"


def us(day: int, hour: float = 0) -> int:
    """A moment: hours after the midnight of day `day` (from 0) of 2020-01-01."""
    return (date(2020, 1, 1) - date(1970, 1, 1)).days * US_PER_DAY + day * US_PER_DAY + int(hour * HOUR_US)


def event(number: int, ts_us: int, **changes: Any) -> dict[str, Any]:
    """A view of item `i` by user `u` in a session of its own, for 2.50."""
    return {
        "event_id": f"e{number}",
        "user_id": "u",
        "item_id": "i",
        "event_type": "view_item",
        "ts_us": ts_us,
        "session_id": f"s{number}",
        "value": Decimal("2.5"),
        "quantity": 1,
        "currency": "EUR",
        "properties": None,
        "basket_id": None,
        "price": Decimal("2.5"),
        "event_date": date(1970, 1, 1) + timedelta(days=ts_us // US_PER_DAY),
    } | changes


def landed(number: int, source: dict[str, Any], batch: str) -> dict[str, Any]:
    """The landed row that an event was made of."""
    row = {name: source.get(name) for name in TABLES[LANDED].schema.names}
    return row | {"batch": batch, "row_number": number, "title": NASTY}


def write(workspace: Workspace, contents: dict[str, list[dict[str, Any]]]) -> dict[str, int]:
    """Write tables and put them in force together."""
    before = tables.current_dataset(workspace)
    versions = dict(before.versions) if before else {}
    for name, rows in contents.items():
        versions[name] = tables.write_table(workspace, name, pa.Table.from_pylist(rows, TABLES[name].schema)).version
    tables.publish_dataset(workspace, tables.Dataset(source="test", run_id="run-1", versions=versions))
    return versions


def batch(name: str, num_rows: int, events: dict[str, int], last_ts_us: int, **changes: Any) -> dict[str, Any]:
    """A batch with its account."""
    counts = {"events": events, "quarantined": {"no_user": 1}, "dates": {}, "late": 2}
    return {
        "batch": name,
        "source": "test",
        "sha256": "ab",
        "num_rows": num_rows,
        "num_duplicates": 1,
        "counts": json.dumps(counts),
        "first_ts_us": us(0),
        "last_ts_us": last_ts_us,
        "landed_at_us": last_ts_us + HOUR_US,
    } | changes


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.init(tmp_path / "shop")


@pytest.fixture(scope="session")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    with duckdb.session(Workspace.init(tmp_path_factory.mktemp("engine"))) as connection:
        yield connection


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Six events of three sessions, seven landed rows of two batches, one row of a bot; not to be changed: copy it."""
    workspace = Workspace.init(tmp_path_factory.mktemp("shop") / "shop")
    events = [
        event(0, us(0, 1), session_id="a", user_id=ANNA, properties='{"mail": "anna@example.org"}'),
        event(
            1,
            us(0, 1.5),
            session_id="a",
            user_id=ANNA,
            item_id="j",
            price=Decimal(4),
            value=Decimal(8),
            quantity=2,
        ),
        event(2, us(0, 2), session_id="a", user_id=ANNA, event_type="purchase", basket_id="B7"),
        event(3, us(1, 5), session_id="b", item_id="ghost"),
        event(4, us(1, 5.25), session_id="b", event_type="search", item_id=None, price=None, value=None, quantity=None),
        event(5, us(2, 23), session_id="c", event_type="purchase", basket_id="B8"),
    ]
    rows = [landed(number, row, "day/1" if number < 3 else "day/2") for number, row in enumerate(events)]
    # Late: it came with the second batch, an hour before the newest moment of the first one.
    rows.append(landed(6, event(6, us(0, 1), user_id="bot"), "day/2"))
    items = [
        {"item_id": "i", "title": NASTY, "is_known": True},
        {"item_id": "j", "title": "Jar", "category": "Home > Kitchen", "is_known": True},
        {"item_id": "ghost", "title": "ghost", "is_known": False},
    ]
    quarantine = [
        {"batch": "day/1", "row_number": 9, "reason": "no_user", "raw": json.dumps({"user": ANNA})},
        {"batch": "day/2", "row_number": 9, "reason": "no_user", "raw": json.dumps({"user": ANNA})},
        {"batch": "bots/2020-01-01", "row_number": 6, "reason": "bot", "raw": "{}"},
    ]
    batches = [
        batch("day/1", 5, {"view_item": 2, "purchase": 1}, us(0, 2)),
        batch("day/2", 6, {"view_item": 2, "search": 1, "purchase": 1}, us(2, 23)),
    ]
    write(workspace, {EVENTS: events, LANDED: rows, ITEMS: items, QUARANTINE: quarantine, BATCHES: batches})
    return workspace


@pytest.fixture
def make_event() -> Callable[..., dict[str, Any]]:
    return event


@pytest.fixture
def write_tables() -> Callable[..., dict[str, int]]:
    return write


@pytest.fixture
def copy_shop(shop: Workspace, tmp_path: Path) -> Callable[[], Workspace]:
    """A function that copies the small shop into the test's own folder."""

    def copy() -> Workspace:
        shutil.copytree(shop.path, tmp_path / "copy")
        return Workspace.open(tmp_path / "copy")

    return copy
