from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import ibis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.contracts.errors import InputError
from endcap.contracts.events import EVENTS, EVENTS_TABLE, QUARANTINE, QUARANTINE_TABLE, USERS, USERS_TABLE
from endcap.engines import duckdb
from endcap.workspace import tables
from endcap.workspace.layout import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.init(tmp_path)


def event(name: str, day: int) -> dict[str, object]:
    return {
        "event_id": name,
        "user_id": "u",
        "item_id": "i",
        "event_type": "purchase",
        "ts_us": 0,
        "session_id": "s",
        "event_date": date(2020, 1, day),
    }


def setting(connection: Any, name: str) -> object:
    row = connection.raw_sql(f"SELECT current_setting('{name}')").fetchone()
    return row[0]


def test_limits_and_time_zone(workspace: Workspace) -> None:
    with duckdb.session(workspace, memory_mb=512, num_threads=1) as connection:
        assert setting(connection, "threads") == 1
        assert setting(connection, "TimeZone") == "UTC"
        assert str(setting(connection, "memory_limit")).startswith("488.2 MiB")
        spill = Path(str(setting(connection, "temp_directory")))
        assert spill.parent == workspace.scratch
        assert spill.is_dir()
    assert not spill.exists()


def test_spilled_files_go_away_after_an_error(workspace: Workspace) -> None:
    def fail() -> None:
        with duckdb.session(workspace):
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert not list(workspace.scratch.iterdir())


def test_rows_of_a_file_are_numbered(workspace: Workspace, tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": ["x", "y", "z"]}), tmp_path / "a.parquet", row_group_size=1)
    with duckdb.session(workspace) as connection:
        rows = duckdb.scan_parquet(connection, tmp_path / "a.parquet")
        found = connection.to_pyarrow(rows.order_by("row_number")).to_pylist()
    assert found == [{"a": "x", "row_number": 0}, {"a": "y", "row_number": 1}, {"a": "z", "row_number": 2}]


def test_a_table_is_read_by_its_snapshot_with_the_contracts_types(workspace: Workspace) -> None:
    def write(*rows: dict[str, object]) -> int:
        return tables.write_table(workspace, EVENTS, pa.Table.from_pylist(list(rows), EVENTS_TABLE.schema)).version

    write(event("a", 1), event("b", 2))
    version = write(event("a", 1), event("c", 2))
    tables.publish_dataset(workspace, tables.Dataset(source="t", run_id="r", versions={EVENTS: version}))
    with duckdb.session(workspace) as connection:
        rows = duckdb.scan_table(connection, workspace, EVENTS)
        # Types, but not nullability, which a file doesn't promise.
        found = rows.schema()
        expected = ibis.Schema.from_pyarrow(EVENTS_TABLE.schema)
        assert {name: dtype.copy(nullable=True) for name, dtype in found.items()} == {
            name: dtype.copy(nullable=True) for name, dtype in expected.items()
        }
        names = connection.to_pyarrow(rows.order_by("event_id").select("event_id", "event_date")).to_pylist()
        assert names == [
            {"event_id": "a", "event_date": date(2020, 1, 1)},
            {"event_id": "c", "event_date": date(2020, 1, 2)},
        ]
        old = duckdb.scan_table(connection, workspace, EVENTS, version=0, columns=["event_id"])
        assert sorted(connection.to_pyarrow(old)["event_id"].to_pylist()) == ["a", "b"]


def test_an_empty_table_can_be_scanned(workspace: Workspace) -> None:
    version = tables.write_table(workspace, USERS, USERS_TABLE.schema.empty_table()).version
    with duckdb.session(workspace) as connection:
        assert connection.to_pyarrow(duckdb.scan_table(connection, workspace, USERS, version=version)).num_rows == 0


def test_chosen_partitions_and_names_like_numbers(workspace: Workspace) -> None:
    rows = [{"batch": name, "row_number": 0, "reason": "r", "raw": "{}"} for name in ("007", "8", "a/b's")]
    version = tables.write_table(
        workspace, QUARANTINE, pa.Table.from_pylist(rows, schema=QUARANTINE_TABLE.schema)
    ).version
    with duckdb.session(workspace) as connection:

        def batches(partitions: list[str] | None) -> list[str]:
            found = duckdb.scan_table(connection, workspace, QUARANTINE, version=version, partitions=partitions)
            return sorted(connection.to_pyarrow(found)["batch"].to_pylist())

        assert batches(None) == ["007", "8", "a/b's"]
        assert batches(["007", "a/b's"]) == ["007", "a/b's"]
        assert batches([]) == batches(["9"]) == []


def test_unknown_column_and_empty_workspace(workspace: Workspace) -> None:
    with duckdb.session(workspace) as connection:
        with pytest.raises(InputError, match="holds no users yet"):
            duckdb.scan_table(connection, workspace, USERS)
        tables.write_table(workspace, USERS, USERS_TABLE.schema.empty_table())
        with pytest.raises(InputError, match="Table users has no column age"):
            duckdb.scan_table(connection, workspace, USERS, version=0, columns=["age"])


def test_arrow_tables_are_let_go_after_their_block(workspace: Workspace) -> None:
    def num_rows(table: Any) -> int:
        return int(connection.to_pyarrow(table.count()).as_py())

    with duckdb.session(workspace) as connection:
        kept = ibis.memtable(pa.table({"a": [1]}))
        assert num_rows(kept) == 1
        with duckdb.passing_memtables(connection):
            passing = ibis.memtable(pa.table({"a": [1, 2]}))
            assert num_rows(passing) == 2
        views = connection.raw_sql("SELECT view_name FROM duckdb_views() WHERE temporary AND NOT internal").fetchall()
        assert [name for (name,) in views] == [kept.op().name]
        assert num_rows(kept) == 1
