from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from endcap.contracts import columns as c
from endcap.contracts.errors import DiskFullError, InputError
from endcap.contracts.events import (
    BATCHES,
    EVENTS,
    ITEM_VERSIONS,
    ITEMS,
    LANDED,
    MONEY,
    QUARANTINE,
    TABLES,
    USERS,
    USERS_TABLE,
)
from endcap.engines import duckdb
from endcap.engines.failures import explained
from endcap.workspace import maintenance, migration, pins, tables, travel
from endcap.workspace.earlier import EARLIER_BATCH
from endcap.workspace.layout import Workspace
from endcap.workspace.migration import Aliases, Change

DAY_US = 86_400_000_000


def required(name: str, dtype: pa.DataType) -> pa.Field:
    return pa.field(name, dtype, nullable=False)


EARLIER_SCHEMAS = {
    "events": pa.schema(
        [
            required("event_id", pa.string()),
            required("user_id", pa.string()),
            required("item_id", pa.string()),
            required("event_type", pa.string()),
            required("ts_us", pa.int64()),
            required("session_id", pa.string()),
            pa.field("value", MONEY),
            pa.field("quantity", pa.int64()),
            pa.field("currency", pa.string()),
            pa.field("properties", pa.string()),
            pa.field("basket_id", pa.string()),
            pa.field("price", MONEY),
            required("event_date", pa.date32()),
        ]
    ),
    "items": pa.schema(
        [
            required("item_id", pa.string()),
            required("title", pa.string()),
            pa.field("price", MONEY),
            pa.field("currency", pa.string()),
            pa.field("first_sold_us", pa.int64()),
            pa.field("last_sold_us", pa.int64()),
        ]
    ),
    "item_prices": pa.schema(
        [
            required("item_id", pa.string()),
            required("valid_from_us", pa.int64()),
            pa.field("valid_to_us", pa.int64()),
            required("price", MONEY),
        ]
    ),
    "users": pa.schema([required("user_id", pa.string()), pa.field("country", pa.string())]),
    "quarantine": pa.schema(
        [required("row_number", pa.int64()), required("reason", pa.string()), required("raw", pa.string())]
    ),
}
"""What the release before this one wrote."""

EARLIER_ROWS: dict[str, list[dict[str, Any]]] = {
    "events": [
        {
            "event_id": f"e{day}", "user_id": "u", "item_id": "i", "event_type": "purchase", "ts_us": day * DAY_US,
            "session_id": "s", "value": Decimal("3.0"), "quantity": 2, "currency": "GBP", "basket_id": "b",
            "price": Decimal("1.5"), "event_date": date.fromordinal(date(1970, 1, 1).toordinal() + day),
        }
        for day in (1, 2)
    ],
    "items": [{"item_id": "i", "title": "Tea", "price": Decimal("1.5"), "first_sold_us": DAY_US}],
    "item_prices": [{"item_id": "i", "valid_from_us": DAY_US, "valid_to_us": None, "price": Decimal("1.5")}],
    "users": [{"user_id": "u", "country": "France"}],
    "quarantine": [{"row_number": 4, "reason": "no_customer", "raw": "{}"}],
}  # fmt: skip


@pytest.fixture
def earlier(tmp_path: Path) -> Workspace:
    """A workspace as the release before this one left it."""
    workspace = Workspace.init(tmp_path)
    for name, schema in EARLIER_SCHEMAS.items():
        content = pa.Table.from_pylist(EARLIER_ROWS[name], schema=schema)
        partition_by = ["event_date"] if name == "events" else None
        write_deltalake(str(workspace.events / name), content, partition_by=partition_by)
    dataset = tables.Dataset(source="online_retail", run_id="ingest-1", versions=dict.fromkeys(EARLIER_SCHEMAS, 0))
    tables.publish_dataset(workspace, dataset)
    return workspace


def versions(workspace: Workspace) -> dict[str, int]:
    dataset = tables.current_dataset(workspace)
    assert dataset is not None
    return dataset.versions


def rows(workspace: Workspace, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tables.read_table(workspace, name).to_pylist()
    return found


def altered(contract_name: str, **types: pa.DataType | str) -> dict[str, Any]:
    """The contracts with columns of one table retyped, added, or (a text) renamed to it."""
    contract = TABLES[contract_name]
    fields = []
    for known in contract.schema:
        change = types.pop(known.name, None)
        if isinstance(change, str):
            fields.append(pa.field(change, known.type, known.nullable))
        else:
            fields.append(known if change is None else pa.field(known.name, change, known.nullable))
    fields += [pa.field(name, dtype) for name, dtype in types.items()]
    return {**TABLES, contract_name: replace(contract, schema=pa.schema(fields))}


def users_workspace(path: Path, content: pa.Table) -> Workspace:
    workspace = Workspace.init(path)
    write_deltalake(str(workspace.events / USERS), content, configuration=tables.TABLE_PROPERTIES)
    tables.publish_dataset(workspace, tables.Dataset(source="test", run_id="r", versions={USERS: 0}))
    return workspace


def described(changes: list[Change], table: str) -> list[tuple[str, str | None, bool]]:
    return [(change.kind, change.column, change.rewrites) for change in changes if change.table == table]


def test_the_plan_names_every_difference(earlier: Workspace) -> None:
    changes = [change for change in migration.plan(earlier) if change.kind != "kept longer"]
    assert described(changes, EVENTS) == [("made optional", "item_id", False)]
    assert described(changes, ITEMS) == [
        ("added", "category", False), ("added", "brand", False), ("added", "group_id", False),
        ("added", "in_stock", False), ("added", "is_known", True),
    ]  # fmt: skip
    assert described(changes, ITEM_VERSIONS) == [
        ("renamed table", None, True), ("made optional", "price", False), ("added", "in_stock", False),
        ("added", "category", False),
    ]  # fmt: skip
    assert described(changes, QUARANTINE) == [("added", "batch", True), ("partitioned", None, True)]
    assert described(changes, USERS) == []


def test_tables_of_the_release_before_are_readable_afterwards(earlier: Workspace) -> None:
    migration.migrate(earlier)
    assert [row["event_id"] for row in rows(earlier, EVENTS)] == ["e1", "e2"]
    assert rows(earlier, EVENTS)[0] | EARLIER_ROWS["events"][0] == rows(earlier, EVENTS)[0]
    [item] = rows(earlier, ITEMS)
    assert (item["title"], item["price"], item["category"], item["is_known"]) == ("Tea", Decimal("1.5"), None, True)
    assert rows(earlier, ITEM_VERSIONS) == [
        {"item_id": "i", "valid_from_us": DAY_US, "valid_to_us": None, "price": Decimal("1.5"), "in_stock": None,
         "category": None}
    ]  # fmt: skip
    assert rows(earlier, QUARANTINE) == [
        {"batch": EARLIER_BATCH, "row_number": 4, "reason": "no_customer", "raw": "{}"}
    ]
    assert "item_prices" not in versions(earlier)
    for name in versions(earlier):
        assert tables.read_table(earlier, name).schema.equals(TABLES[name].schema)


def test_engines_read_files_of_both_shapes(earlier: Workspace) -> None:
    migration.migrate(earlier)
    with duckdb.session(earlier) as connection:
        for name in versions(earlier):
            found = connection.to_pyarrow(duckdb.scan_table(connection, earlier, name))
            assert sorted(map(str, found.to_pylist())) == sorted(map(str, rows(earlier, name)))


def test_only_what_has_to_be_is_written_again(earlier: Workspace) -> None:
    before = {name: set(tables.table_files(earlier, name)) for name in (EVENTS, USERS)}
    done = migration.migrate(earlier)
    assert done.rewritten == {
        ITEMS: ("",), ITEM_VERSIONS: ("",), QUARANTINE: ("",), LANDED: ("1970-01-02", "1970-01-03"), BATCHES: ("",),
    }  # fmt: skip
    assert {name: set(tables.table_files(earlier, name)) for name in before} == before


def test_a_search_without_a_product_fits_afterwards(earlier: Workspace) -> None:
    migration.migrate(earlier)
    content = tables.read_table(earlier, EVENTS).to_pylist()
    content.append(content[-1] | {"event_id": "e3", "event_type": "search", "item_id": None})
    write = tables.write_table(earlier, EVENTS, pa.Table.from_pylist(content, schema=TABLES[EVENTS].schema))
    assert write.replaced == ("1970-01-03",)
    assert tables.read_table(earlier, EVENTS, version=write.version)["item_id"].to_pylist() == ["i", "i", None]


def test_landed_rows_are_made_from_events_that_have_none(earlier: Workspace) -> None:
    migration.migrate(earlier)
    [first, _] = rows(earlier, LANDED)
    expected = {name: value for name, value in EARLIER_ROWS["events"][0].items() if name != "session_id"}
    expected |= {"batch": "online_retail", "row_number": 0, "title": "Tea", "country": "France", "guest_id": None}
    assert first | expected == first
    [batch] = rows(earlier, BATCHES)
    assert (batch["batch"], batch["num_rows"], batch["sha256"], batch["first_ts_us"]) == (
        "online_retail", 3, "", DAY_US,
    )  # fmt: skip
    assert json.loads(batch["counts"]) == {
        "events": {"purchase": 2}, "quarantined": {"no_customer": 1},
        "dates": {"1970-01-02": 1, "1970-01-03": 1}, "late": 0,
    }  # fmt: skip


def test_a_dry_run_says_the_same_and_writes_nothing(earlier: Workspace) -> None:
    def files() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in earlier.events.rglob("*") if path.is_file()}

    before = files()
    said = migration.migrate(earlier, dry_run=True)
    assert files() == before
    done = migration.migrate(earlier)
    assert (said.changes, said.rewritten, said.recomputed) == (done.changes, done.rewritten, done.recomputed)


def test_migrating_again_changes_nothing(earlier: Workspace) -> None:
    migration.migrate(earlier)
    before = versions(earlier)
    again = migration.migrate(earlier)
    assert (again.changes, again.rewritten, again.recomputed) == ((), {}, ())
    assert versions(earlier) == before
    assert {name: tables.table_version(earlier, name) for name in before} == before


@pytest.mark.parametrize("num_written", [0, 1, 3])
def test_a_crash_between_tables_leaves_the_last_dataset(
    earlier: Workspace, monkeypatch: pytest.MonkeyPatch, num_written: int
) -> None:
    before = versions(earlier)
    real, calls = migration._migrate_table, iter(range(10))

    def killed(*arguments: Any) -> int:
        if next(calls) == num_written:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(migration, "_migrate_table", killed)
        with pytest.raises(KeyboardInterrupt):
            migration.migrate(earlier)
    assert versions(earlier) == before
    assert DeltaTable(str(earlier.events / ITEMS), version=0).to_pyarrow_table()["title"].to_pylist() == ["Tea"]
    migration.migrate(earlier)
    assert [row["is_known"] for row in rows(earlier, ITEMS)] == [True]
    assert len(rows(earlier, ITEM_VERSIONS)) == len(rows(earlier, QUARANTINE)) == 1
    assert migration.plan(earlier) == []


def test_a_pin_of_the_earlier_shape_is_read_in_the_one_of_today(earlier: Workspace) -> None:
    pins.pin(earlier, "launch")
    migration.migrate(earlier)
    maintenance.vacuum(earlier, grace_hours=0, apply=True)
    for name in (EVENTS, ITEMS, ITEM_VERSIONS, QUARANTINE, USERS):
        assert travel.read_at(earlier, name, "launch").equals(tables.read_table(earlier, name))
    assert travel.read_at(earlier, ITEMS, "launch", columns=["is_known", "title"]).to_pydict() == {
        "is_known": [True], "title": ["Tea"],
    }  # fmt: skip
    with pytest.raises(InputError, match="There was no table landed at launch; there were: events, item_prices"):
        travel.read_at(earlier, LANDED, "launch")


def test_a_renamed_and_an_added_column(tmp_path: Path) -> None:
    content = pa.Table.from_pylist([{"user_id": "u", "country": "France"}], schema=USERS_TABLE.schema)
    workspace = users_workspace(tmp_path, content)
    contracts = altered(USERS, country="land", age=pa.int64())
    aliases = Aliases(columns={USERS: {"country": "land"}})
    done = migration.migrate(workspace, contracts=contracts, aliases=aliases)
    assert described(list(done.changes), USERS) == [("renamed", "land", True), ("added", "age", False)]
    found = DeltaTable(str(workspace.events / USERS), version=versions(workspace)[USERS]).to_pyarrow_table()
    assert found.to_pylist() == [{"user_id": "u", "land": "France", "age": None}]
    assert migration.plan(workspace, contracts=contracts, aliases=aliases) == []


def test_without_an_alias_a_renamed_column_is_refused(tmp_path: Path) -> None:
    workspace = users_workspace(tmp_path, pa.Table.from_pylist([], schema=USERS_TABLE.schema))
    with pytest.raises(InputError, match="users has a column country, which this Endcap doesn't know"):
        migration.migrate(workspace, contracts=altered(USERS, country="land"), aliases=Aliases())


@pytest.mark.parametrize(
    ("found", "values", "expected", "kept"),
    [
        (pa.int64(), [7, None], pa.string(), ["7", None]),
        (pa.int64(), [7, None], MONEY, [Decimal(7), None]),
        (pa.float64(), [1.1, None], MONEY, [Decimal("1.1"), None]),
    ],
)
def test_a_wider_type_keeps_the_values(
    tmp_path: Path, found: pa.DataType, values: list[Any], expected: pa.DataType, kept: list[Any]
) -> None:
    content = pa.table({"user_id": ["a", "b"], "country": pa.array(values, found)})
    workspace = users_workspace(tmp_path, content)
    done = migration.migrate(workspace, contracts=altered(USERS, country=expected), aliases=Aliases())
    assert [change.kind for change in done.changes if change.column == "country"] == ["retyped"]
    table = DeltaTable(str(workspace.events / USERS), version=versions(workspace)[USERS]).to_pyarrow_table()
    assert table.sort_by("user_id")["country"].to_pylist() == kept


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_loss_refuses_the_migration_with_its_count(tmp_path: Path, dry_run: bool) -> None:
    content = pa.table({"user_id": ["a", "b", "d"], "country": [1.5, 1 / 3, float("nan")]})
    workspace = users_workspace(tmp_path, content)
    with pytest.raises(InputError, match=r"users.country: 2 values don't survive as decimal128\(18, 4\)"):
        migration.migrate(workspace, dry_run=dry_run, contracts=altered(USERS, country=MONEY), aliases=Aliases())
    assert tables.table_version(workspace, USERS) == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"user_id": pa.string(), "country": pa.bool_()}, "users.country holds bool, which string can't keep"),
        ({"country": pa.string()}, "users.user_id must not be null, and earlier rows have no value"),
    ],
)
def test_what_can_not_be_migrated_is_said(tmp_path: Path, fields: Mapping[str, pa.DataType], message: str) -> None:
    workspace = users_workspace(tmp_path, pa.schema(list(fields.items())).empty_table())
    with pytest.raises(InputError, match=message):
        migration.plan(workspace)


def test_only_steps_that_read_something_altered_are_made_again(tmp_path: Path) -> None:
    workspace = Workspace.init(tmp_path)
    for name in (LANDED, BATCHES):
        tables.write_table(workspace, name, TABLES[name].schema.empty_table())
    tables.publish_dataset(workspace, tables.Dataset(source="t", run_id="r", versions={LANDED: 0, BATCHES: 0}))
    renamed = migration.migrate(
        workspace,
        dry_run=True,
        contracts=altered(LANDED, country="land"),
        aliases=Aliases(columns={LANDED: {c.COUNTRY: "land"}}),
    )
    assert renamed.recomputed == ()  # nothing here reads `land`


def test_steps_follow_from_the_columns_they_read(tmp_path: Path) -> None:
    workspace = Workspace.init(tmp_path)
    schema = pa.schema(
        [pa.field(f.name, pa.float64() if f.name == c.TITLE else f.type, f.nullable) for f in TABLES[LANDED].schema]
    )
    write_deltalake(str(workspace.events / LANDED), schema.empty_table(), partition_by=[c.EVENT_DATE])
    tables.publish_dataset(workspace, tables.Dataset(source="t", run_id="r", versions={LANDED: 0}))
    contracts = altered(LANDED, title=MONEY)
    done = migration.migrate(workspace, dry_run=True, contracts=contracts)
    assert done.recomputed == (ITEMS, "features")
    assert EVENTS in done.untouched
    assert USERS in done.untouched


def test_a_full_disk_leaves_the_tables_of_before(earlier: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tables.current_dataset(earlier)
    num_written = 0

    def full_at_the_third(*arguments: Any, **options: Any) -> None:
        nonlocal num_written
        num_written += 1
        if num_written == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_deltalake(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(migration, "write_deltalake", full_at_the_third)
        with pytest.raises(DiskFullError, match="The disk that holds"), explained(earlier, "The migration"):
            migration.migrate(earlier)
    assert num_written == 3
    assert tables.current_dataset(earlier) == before
    assert travel.read_at(earlier, EVENTS, 1).num_rows == len(EARLIER_ROWS["events"])
    migration.migrate(earlier)
    assert not migration.plan(earlier)
    assert [row["event_id"] for row in rows(earlier, EVENTS)] == ["e1", "e2"]
