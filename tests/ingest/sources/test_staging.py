from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.contracts.errors import InputError
from endcap.ingest.sources.staging import Staging

NOON = datetime(2026, 1, 31, 12)
NOON_US = 1_769_860_800_000_000


def rows(**changes: Any) -> pa.Table:
    return pa.Table.from_pylist(
        [{"user_id": "u1", "item_id": "i1", "event_type": "purchase", "event_time": NOON} | changes]
    )


def test_one_file_each(events: Callable[..., Any], products: Callable[..., Any], tmp_path: Path) -> None:
    pq.write_table(rows(), tmp_path / "interactions.parquet")
    item = {"item_id": "i1", "title": "24&quot; TV &amp; mount", "category_path": "Electronics,Audio & Video,TVs, LCD"}
    pq.write_table(pa.Table.from_pylist([item]), tmp_path / "items.parquet")
    for path in (tmp_path, tmp_path / "interactions.parquet"):
        (row,) = events(Staging(), path)
        assert (row["user_id"], row["ts_us"], row["quantity"], row["reason"]) == ("u1", NOON_US, 1, None)
        found = products(Staging(), path)["i1"]
        assert (found["title"], found["category"]) == ('24" TV & mount', "Electronics > Audio & Video > TVs, LCD")
    assert Staging().is_whole_export


def test_categories_tell_what_parts_them(products: Callable[..., Any], tmp_path: Path) -> None:
    pq.write_table(rows(), tmp_path / "interactions.parquet")
    paths = {
        "Home,Mugs > Cups": "Home > Mugs > Cups", "Home > Mugs": "Home > Mugs", "Home|Mugs": "Home > Mugs",
        "home.coffee_mugs": "home > coffee mugs", "Mugs, Cups": "Mugs, Cups", "Dr. Mug": "Dr. Mug",
        "Caf&eacute; &#8211;|Mugs": "Café – > Mugs",
    }  # fmt: skip
    items = [{"item_id": path, "category": path, "brand": "M&amp;M&#x2019;s"} for path in paths]
    pq.write_table(pa.Table.from_pylist(items), tmp_path / "items.parquet")
    found = products(Staging(), tmp_path)
    assert {name: row["category"] for name, row in found.items()} == paths
    assert {row["brand"] for row in found.values()} == {"M&M’s"}


def test_parts_whose_columns_differ(ingest: Callable[..., Any], products: Callable[..., Any], tmp_path: Path) -> None:
    for folder in ("interactions.parquet", "items.parquet"):
        (tmp_path / folder).mkdir()
    pq.write_table(rows(), tmp_path / "interactions.parquet" / "part-0.parquet")
    pq.write_table(rows(user_id=7, price=2.5), tmp_path / "interactions.parquet" / "part-1.parquet")
    (tmp_path / "interactions.parquet" / "_SUCCESS").touch()
    pq.write_table(pa.table({"item_id": ["i1"]}), tmp_path / "items.parquet" / "a.parquet")
    pq.write_table(pa.table({"item_id": [5], "price": ["3"]}), tmp_path / "items.parquet" / "b.parquet")
    found = ingest(Staging(), tmp_path)
    assert list(found) == ["staging/interactions.parquet/part-0.parquet", "staging/interactions.parquet/part-1.parquet"]
    (first,), (second,) = found.values()
    assert (first["user_id"], second["user_id"]) == ("u1", "7")
    assert {name: row["price"] for name, row in products(Staging(), tmp_path).items()} == {"i1": None, "5": 3}


def test_nulls_and_an_unknown_zone(events: Callable[..., Any], tmp_path: Path) -> None:
    table = pa.concat_tables([rows(), rows()])
    table = table.set_column(0, "user_id", pa.array([None, "u1"])).set_column(3, "event_time", pa.array([NOON, None]))
    pq.write_table(table, tmp_path / "interactions.parquet")
    assert [row["reason"] for row in events(Staging(), tmp_path)] == ["missing_user", "missing_time"]


def test_a_moment_with_a_zone_is_that_instant(events: Callable[..., Any], tmp_path: Path) -> None:
    table = rows().set_column(3, "event_time", pa.array([NOON_US * 1000], pa.timestamp("ns", "Asia/Tokyo")))
    pq.write_table(table, tmp_path / "interactions.parquet")
    assert [row["ts_us"] for row in events(Staging(), tmp_path)] == [NOON_US]


def test_no_interactions(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no interactions\.parquet"):
        Staging().batches(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        Staging().batches(tmp_path / "none")
