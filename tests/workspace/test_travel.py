"""Tables as they were: by number, pin, moment and own version, after everything that publishes."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from endcap.contracts.errors import InputError
from endcap.contracts.events import EVENTS, EVENTS_TABLE, QUARANTINE, QUARANTINE_TABLE, USERS
from endcap.workspace import datasets, maintenance, migration, pins, tables, travel
from endcap.workspace.datasets import Dataset
from endcap.workspace.layout import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.init(tmp_path)


def events(*days: int) -> pa.Table:
    rows = [
        {"event_id": f"e{place}", "user_id": "u", "item_id": "i", "event_type": "view_item",
         "ts_us": day * 86_400_000_000 + place, "session_id": "s", "event_date": date.fromordinal(719_163 + day)}
        for place, day in enumerate(days)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=EVENTS_TABLE.schema)


def publish(workspace: Workspace, **contents: pa.Table) -> int:
    dataset = datasets.current_dataset(workspace)
    versions = dict(dataset.versions) if dataset else {}
    versions |= {name: tables.write_table(workspace, name, content).version for name, content in contents.items()}
    return datasets.publish_dataset(workspace, Dataset("s", "r", versions)).number


def now() -> str:
    return datetime.now(UTC).isoformat()


def test_every_publication_can_be_read_by_number_and_moment(workspace: Workspace) -> None:
    """An ingest, small files, a compaction, a retention and a migration: none but the first leaves a manifest."""
    old_users = pa.table({"user_id": ["u"], "country": [7]})
    write_deltalake(str(workspace.events / USERS), old_users)
    publish(workspace, events=events(0, 1, 9))
    datasets.publish_dataset(workspace, Dataset("s", "r", {EVENTS: 0, USERS: 0}))
    write_deltalake(str(workspace.events / EVENTS), events(9, 9).slice(1), mode="append")
    datasets.publish_dataset(workspace, Dataset("s", "r", {EVENTS: 1, USERS: 0}))
    seen = [(datasets.number_in_force(workspace), now(), 4)]
    maintenance.compact(workspace, table_names=[EVENTS])
    seen.append((datasets.number_in_force(workspace), now(), 4))
    maintenance.retain(workspace, 5, today=date(1970, 1, 11), apply=True)
    seen.append((datasets.number_in_force(workspace), now(), 2))
    migration.migrate(workspace)
    seen.append((datasets.number_in_force(workspace), now(), 2))
    assert [number for number, _, _ in seen] == [3, 4, 5, 6]
    for number, moment, num_rows in seen:
        for at in (number, moment):
            assert travel.read_at(workspace, EVENTS, at).num_rows == num_rows
            assert pins.versions_at(workspace, at) == datasets.publication(workspace, number).versions
            assert travel.read_at(workspace, USERS, at).to_pylist() == [{"user_id": "u", "country": "7"}]
    assert travel.read_at(workspace, EVENTS, 6).equals(tables.read_table(workspace, EVENTS))
    assert travel.read_version(workspace, USERS, 0).equals(tables.read_table(workspace, USERS))


def test_partitions_come_one_by_one_in_the_order_of_the_key(workspace: Workspace) -> None:
    rows = [{"batch": name, "row_number": row, "reason": "r", "raw": "{}"}
            for name in ("b", "a b%20c", "bots/2026-01-31") for row in (1, 0)]  # fmt: skip
    publish(workspace, events=events(2, 0, 1, 0), quarantine=pa.Table.from_pylist(rows, QUARANTINE_TABLE.schema))
    assert [piece.num_rows for piece in travel.pieces_at(workspace, EVENTS, 1)] == [2, 1, 1]
    for name in (EVENTS, QUARANTINE):
        assert travel.read_at(workspace, name, 1).equals(tables.read_table(workspace, name))
    assert travel.read_at(workspace, EVENTS, 1, columns=["item_id"]).column_names == ["item_id"]
    publish(workspace, events=events())
    assert travel.read_at(workspace, EVENTS, 2).equals(EVENTS_TABLE.schema.empty_table())


def test_what_a_vacuum_deleted_is_said(workspace: Workspace) -> None:
    for day in range(4):
        publish(workspace, events=events(day))
    pins.pin(workspace, "third", dataset_version=3)
    assert pins.pins(workspace)["third"].dataset_version == 3
    maintenance.vacuum(workspace, grace_hours=0, apply=True)
    assert travel.read_at(workspace, EVENTS, "third").equals(travel.read_at(workspace, EVENTS, 3))
    assert travel.read_at(workspace, EVENTS, 3).equals(events(2))
    lost = "can't be read any more: 1 of its 1 files were deleted"
    with pytest.raises(InputError, match=lost):
        travel.read_at(workspace, EVENTS, 2)
    with pytest.raises(InputError, match=lost):
        pins.pin(workspace, "second", dataset_version=2)
    with pytest.raises(InputError, match="no dataset version 9; there are 1 to 4"):
        pins.pin(workspace, "ninth", dataset_version=9)
    with pytest.raises(InputError, match="has no version 9: its versions are 0 to 3"):
        travel.read_version(workspace, EVENTS, 9)
    with pytest.raises(InputError, match="There was no table users at 4"):
        travel.read_at(workspace, USERS, 4)
