"""A shop renames a column of its export and adds another: what is made again, and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from endcap.contracts.events import EVENTS, ITEMS, LANDED, USERS
from endcap.ingest.pipeline import IngestResult, ingest
from endcap.workspace import tables
from endcap.workspace.layout import Workspace

FIRST_MAPPING = """
columns:
  event_id: id
  user_id: visitor
  item_id: sku
  event_type: what
  ts: at
"""
SECOND_MAPPING = """
columns:
  event_id: id
  user_id: visitor
  item_id: {column: [sku, product]}
  event_type: what
  ts: at
  brand: {column: brand, optional: true}
"""


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """Two days with the columns of old; the second has a brand already that nobody asked for."""
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "day1.csv").write_text(
        "id,visitor,sku,what,at\n1,u,tea,view_item,2026-01-01T10:00:00\n2,v,tea,purchase,2026-01-01T11:00:00\n"
    )
    (folder / "day2.csv").write_text("id,visitor,sku,what,at,brand\n3,u,cup,view_item,2026-01-02T10:00:00,Ming\n")
    return folder


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.init(tmp_path / "shop")


def read(workspace: Workspace, export: Path, mapping: str) -> IngestResult:
    path = export.parent / "mapping.yaml"
    path.write_text(mapping)
    return ingest(workspace, "files", export, options={"mapping": str(path)})


def files_by_date(workspace: Workspace, name: str) -> dict[str, set[str]]:
    return {
        date: set(tables.table_files(workspace, name, partitions=[date]))
        for date in tables.partition_dates(workspace, name)
    }


def test_only_what_depends_on_the_change_is_written(workspace: Workspace, export: Path) -> None:
    first = read(workspace, export, FIRST_MAPPING)
    events, landed = files_by_date(workspace, EVENTS), files_by_date(workspace, LANDED)
    (export / "day3.csv").write_text("id,visitor,product,what,at,brand\n4,u,pot,view_item,2026-01-03T10:00:00,Spode\n")
    second = read(workspace, export, SECOND_MAPPING)
    # Another mapping: every batch is read again.
    assert (second.num_landed_batches, second.num_skipped_batches) == (3, 0)
    # The first day's rows came out the same, the second's have a brand, the third is new.
    now = files_by_date(workspace, LANDED)
    assert [date for date in now if now[date] != landed.get(date)] == ["2026-01-02", "2026-01-03"]
    # Only these two were built; a brand is nothing that an event holds, so the second day's events are as they were.
    assert second.build.num_dates == 2
    now = files_by_date(workspace, EVENTS)
    assert [date for date in now if now[date] != events.get(date)] == ["2026-01-03"]
    assert second.versions[USERS] == first.versions[USERS]
    assert tables.read_table(workspace, ITEMS, columns=["item_id", "brand"]).to_pylist() == [
        {"item_id": "cup", "brand": "Ming"}, {"item_id": "pot", "brand": "Spode"}, {"item_id": "tea", "brand": None},
    ]  # fmt: skip
    assert tables.read_table(workspace, EVENTS)["item_id"].to_pylist() == ["tea", "tea", "cup", "pot"]


def test_a_mapping_that_says_the_same_changes_nothing(workspace: Workspace, export: Path) -> None:
    first = read(workspace, export, FIRST_MAPPING)
    second = read(workspace, export, FIRST_MAPPING.replace("item_id: sku", "item_id: {column: [sku, product]}"))
    assert second.num_landed_batches == 2
    assert (second.versions, second.build.num_dates, second.changed) == (first.versions, 0, False)
    third = read(workspace, export, FIRST_MAPPING.replace("item_id: sku", "item_id: {column: [sku, product]}"))
    assert (third.num_landed_batches, third.num_skipped_batches) == (0, 2)
