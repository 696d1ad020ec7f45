from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from endcap.contracts.errors import ArtifactError, InputError, TransientError
from endcap.contracts.events import EVENTS, EVENTS_TABLE, ITEMS, QUARANTINE, QUARANTINE_TABLE, USERS, USERS_TABLE
from endcap.workspace import tables
from endcap.workspace.layout import Workspace

DAY_US = 86_400_000_000


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.init(tmp_path)


def events(*days: int, price: str = "1.50") -> pa.Table:
    """One purchase on each of `days` after 1970-01-01; a day given twice has two."""
    rows = [
        {
            "event_id": f"e{place}-{day}",
            "user_id": "u",
            "item_id": "i",
            "event_type": "purchase",
            "ts_us": day * DAY_US,
            "session_id": "s",
            "price": Decimal(price),
            "event_date": date.fromordinal(date(1970, 1, 1).toordinal() + day),
        }
        for place, day in enumerate(days)
    ]
    return pa.Table.from_pylist(rows, schema=EVENTS_TABLE.schema)


def users(**countries: str | None) -> pa.Table:
    rows = [{"user_id": user, "country": country} for user, country in countries.items()]
    return pa.Table.from_pylist(rows, schema=USERS_TABLE.schema)


def publish(workspace: Workspace, **versions: int) -> None:
    tables.publish_dataset(workspace, tables.Dataset(source="test", run_id="r", versions=versions))


def test_write_and_read_back_in_key_order(workspace: Workspace) -> None:
    written = events(3, 1, 2, 1)
    result = tables.write_table(workspace, EVENTS, written)
    assert (result.version, result.changed, result.num_rows) == (0, True, 4)
    assert result.replaced == ("1970-01-02", "1970-01-03", "1970-01-04")
    publish(workspace, events=0)
    found = tables.read_table(workspace, EVENTS)
    assert found.equals(written.sort_by([("ts_us", "ascending"), ("event_id", "ascending")]))
    assert found.schema.equals(EVENTS_TABLE.schema)


def test_columns_are_chosen_and_the_order_stays(workspace: Workspace) -> None:
    tables.write_table(workspace, EVENTS, events(2, 1))
    publish(workspace, events=0)
    found = tables.read_table(workspace, EVENTS, columns=["price", "event_id"])
    assert found.column_names == ["price", "event_id"]
    assert found["event_id"].to_pylist() == ["e1-1", "e0-2"]


def test_the_same_content_in_any_order_is_no_new_version(workspace: Workspace) -> None:
    tables.write_table(workspace, EVENTS, events(1, 2, 3))
    again = tables.write_table(workspace, EVENTS, events(1, 2, 3).take([2, 0, 1]))
    assert (again.version, again.changed, again.replaced, again.removed) == (0, False, (), ())


def test_only_partitions_that_differ_are_written(workspace: Workspace) -> None:
    tables.write_table(workspace, EVENTS, events(1, 2, 3))
    publish(workspace, events=0)
    before = set(tables.table_files(workspace, EVENTS))
    new = pa.concat_tables([events(1), events(9, 2, price="9.00").slice(1), events(8, 8, 4).slice(2)])
    result = tables.write_table(workspace, EVENTS, new)
    assert (result.version, result.changed) == (1, True)
    assert (result.replaced, result.removed) == (("1970-01-03", "1970-01-05"), ("1970-01-04",))
    after = set(tables.table_files(workspace, EVENTS, version=1))
    assert len(before & after) == 1
    assert "event_date=1970-01-02" in next(iter(before & after))
    assert tables.read_table(workspace, EVENTS, version=1).num_rows == 3
    # The version in force stays readable as it was.
    assert tables.read_table(workspace, EVENTS).equals(events(1, 2, 3))


def test_dates_can_only_go(workspace: Workspace) -> None:
    tables.write_table(workspace, EVENTS, events(1, 2))
    result = tables.write_table(workspace, EVENTS, events(1))
    assert (result.replaced, result.removed) == ((), ("1970-01-03",))
    publish(workspace, events=result.version)
    assert tables.read_table(workspace, EVENTS).equals(events(1))
    assert tables.partition_dates(workspace, EVENTS) == ["1970-01-02"]


def test_a_table_can_become_empty_and_full_again(workspace: Workspace) -> None:
    for content in (events(), events(1), events()):
        version = tables.write_table(workspace, EVENTS, content).version
        publish(workspace, events=version)
        assert tables.read_table(workspace, EVENTS).equals(content)


def test_unpartitioned_tables_are_replaced_whole(workspace: Workspace) -> None:
    assert tables.write_table(workspace, USERS, users(a="France", b=None)).version == 0
    assert not tables.write_table(workspace, USERS, users(b=None, a="France")).changed
    result = tables.write_table(workspace, USERS, users(a="Spain"))
    assert (result.version, result.changed) == (1, True)
    assert tables.read_table(workspace, USERS, version=1).equals(users(a="Spain"))
    assert tables.read_table(workspace, USERS, version=0).equals(users(a="France", b=None))


def test_the_version_in_force_is_kept_when_a_newer_one_was_abandoned(workspace: Workspace) -> None:
    tables.write_table(workspace, USERS, users(a="France"))
    publish(workspace, users=0)
    tables.write_table(workspace, USERS, users(a="Spain"))
    back = tables.write_table(workspace, USERS, users(a="France"))
    assert (back.version, back.changed) == (0, False)


def test_any_delta_reader_can_read_it(workspace: Workspace) -> None:
    tables.write_table(workspace, EVENTS, events(1))
    protocol = DeltaTable(str(tables.table_path(workspace, EVENTS))).protocol()
    assert (protocol.min_reader_version, protocol.min_writer_version) == (1, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop_columns(["item_id"]), "Table events lacks the column item_id; found: event_id, user_id"),
        (lambda t: t.append_column("extra", t["item_id"]), "Table events has no column extra; expected: event_id"),
        (
            lambda t: t.set_column(4, "ts_us", pa.array(["noon"] * t.num_rows)),
            "column ts_us: found string, expected int64",
        ),
        (
            lambda t: t.set_column(11, "price", pa.array([Decimal("1.23456")] * t.num_rows, pa.decimal128(18, 5))),
            r"column price: found decimal128\(18, 5\), expected decimal128\(18, 4\)",
        ),
        (
            lambda t: t.set_column(1, "user_id", pa.array([None] * t.num_rows, pa.string())),
            "column user_id: found 2 nulls, expected none",
        ),
        (
            lambda t: pa.concat_tables([t, t.slice(1)]),
            "several rows with the same ts_us, event_id; expected one each",
        ),
    ],
)
def test_what_breaks_the_contract_is_refused(
    workspace: Workspace, change: Callable[[pa.Table], pa.Table], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        tables.write_table(workspace, EVENTS, change(events(1, 2)))
    assert not list(workspace.events.iterdir())


def test_equal_times_are_fine_and_types_that_fit_are_widened(workspace: Workspace) -> None:
    data = events(1, 1)
    data = data.set_column(7, "quantity", pa.array([1, 2], pa.int32()))
    tables.write_table(workspace, EVENTS, data)
    assert tables.read_table(workspace, EVENTS, version=0)["quantity"].to_pylist() == [1, 2]


def test_reading_before_any_ingest(workspace: Workspace) -> None:
    with pytest.raises(InputError, match=r"holds no events yet\. Fill it with: endcap ingest"):
        tables.read_table(workspace, EVENTS)
    assert tables.current_dataset(workspace) is None
    assert tables.table_version(workspace, EVENTS) is None
    assert tables.partition_dates(workspace, EVENTS) == []


def test_reading_what_is_not_there(workspace: Workspace) -> None:
    tables.write_table(workspace, USERS, users(a="France"))
    publish(workspace, users=0, items=0)
    with pytest.raises(InputError, match=r"has no version 7: its versions are 0 to 0"):
        tables.read_table(workspace, USERS, version=7)
    with pytest.raises(InputError, match="has no version 0: there is no such table"):
        tables.read_table(workspace, ITEMS)
    with pytest.raises(InputError, match="Table users has no column age; it has: user_id, country"):
        tables.read_table(workspace, USERS, columns=["age"])
    with pytest.raises(InputError, match="There is no table orders; the tables are: events"):
        tables.read_table(workspace, "orders")


@pytest.mark.parametrize("damage", ["file_gone", "file_garbled", "log_garbled"])
def test_damage_is_told(workspace: Workspace, damage: str) -> None:
    tables.write_table(workspace, USERS, users(a="France"))
    publish(workspace, users=0)
    path = tables.table_path(workspace, USERS)
    part = Path(tables.table_files(workspace, USERS)[0])
    match damage:
        case "file_gone":
            part.unlink()
        case "file_garbled":
            part.write_bytes(b"\0" * part.stat().st_size)
        case "log_garbled":
            next((path / "_delta_log").glob("*.json")).write_bytes(b"{nonsense")
    with pytest.raises(ArtifactError, match="users"):
        tables.read_table(workspace, USERS)


def test_a_damaged_dataset_file(workspace: Workspace) -> None:
    (workspace.events / tables.DATASET).write_bytes(b'{"source": 1}')
    with pytest.raises(ArtifactError, match=r"dataset\.json can't be read"):
        tables.current_dataset(workspace)


def test_a_folder_without_a_log_is_no_table_yet(workspace: Workspace) -> None:
    tables.write_table(workspace, USERS, users(a="France"))
    shutil.rmtree(tables.table_path(workspace, USERS) / "_delta_log")
    result: Any = tables.write_table(workspace, USERS, users(a="Spain"))
    assert result.version == 0
    assert tables.read_table(workspace, USERS, version=0).equals(users(a="Spain"))


def test_only_named_partitions_are_replaced(workspace: Workspace) -> None:
    publish(workspace, events=tables.write_table(workspace, EVENTS, events(1, 2, 3)).version)
    files = set(tables.table_files(workspace, EVENTS))
    result = tables.replace_partitions(
        workspace, EVENTS, events(9, 2, price="9.00").slice(1), ["1970-01-03", "1970-01-04", "1970-01-06"]
    )
    assert (result.version, result.changed) == (1, True)
    assert (result.replaced, result.removed) == (("1970-01-03",), ("1970-01-04",))
    assert tables.partition_rows(workspace, EVENTS, version=1) == {"1970-01-02": 1, "1970-01-03": 1}
    assert len(files & set(tables.table_files(workspace, EVENTS, version=1))) == 1
    assert tables.read_table(workspace, EVENTS).num_rows == 3


def test_partitions_with_the_same_content_are_no_new_version(workspace: Workspace) -> None:
    publish(workspace, events=tables.write_table(workspace, EVENTS, events(1, 2, 2)).version)
    again = tables.replace_partitions(workspace, EVENTS, events(1, 2, 2).slice(1).take([1, 0]), ["1970-01-03"])
    assert (again.version, again.changed, again.replaced, again.removed) == (0, False, (), ())
    assert tables.replace_partitions(workspace, EVENTS, events(), ["1980-01-01"]).version == 0


def test_rows_of_other_partitions_are_refused(workspace: Workspace) -> None:
    with pytest.raises(InputError, match="found rows of partition 1970-01-02, which was not named"):
        tables.replace_partitions(workspace, EVENTS, events(1), ["1970-01-03"])


def test_changes_build_on_each_other_and_undo_what_never_came_into_force(workspace: Workspace) -> None:
    publish(workspace, events=tables.write_table(workspace, EVENTS, events(1)).version)
    tables.replace_partitions(workspace, EVENTS, events(5), ["1970-01-06"])  # of a writer that was killed
    first = tables.replace_partitions(workspace, EVENTS, events(2), ["1970-01-03"])
    second = tables.replace_partitions(workspace, EVENTS, events(3), ["1970-01-04"], since=first.version)
    assert list(tables.partition_rows(workspace, EVENTS, version=second.version)) == [
        "1970-01-02",
        "1970-01-03",
        "1970-01-04",
    ]
    versions = tables.list_versions(workspace, EVENTS)
    assert [version.version for version in versions] == list(range(second.version, -1, -1))
    assert versions[0].ts_us >= versions[-1].ts_us > 1_700_000_000_000_000
    assert "RESTORE" in {version.operation for version in versions}


def test_what_was_written_before_anything_came_into_force_goes(workspace: Workspace) -> None:
    tables.replace_partitions(workspace, EVENTS, events(5), ["1970-01-06"])
    result = tables.replace_partitions(workspace, EVENTS, events(2), ["1970-01-03"])
    assert list(tables.partition_rows(workspace, EVENTS, version=result.version)) == ["1970-01-03"]


def test_chosen_partitions_are_read_alone(workspace: Workspace) -> None:
    publish(workspace, events=tables.write_table(workspace, EVENTS, events(3, 1, 2)).version)
    found = tables.read_partitions(workspace, EVENTS, ["1970-01-04", "1970-01-02", "1999-01-01"], columns=["event_id"])
    assert found["event_id"].to_pylist() == ["e1-1", "e0-3"]
    assert tables.read_partitions(workspace, EVENTS, []).num_rows == 0
    assert len(tables.table_files(workspace, EVENTS, partitions=["1970-01-04"])) == 1
    assert tables.table_files(workspace, EVENTS, partitions=[]) == []
    assert tables.list_versions(workspace, USERS) == []


def test_partitions_of_any_text(workspace: Workspace) -> None:
    names = ["ga4/events_1", "it's 5%2F", "007", "a=b:c d", "é"]
    rows = pa.Table.from_pylist(
        [{"batch": name, "row_number": 0, "reason": "r", "raw": "{}"} for name in names], schema=QUARANTINE_TABLE.schema
    )
    publish(workspace, quarantine=tables.replace_partitions(workspace, QUARANTINE, rows, names).version)
    for name in names:
        assert tables.read_partitions(workspace, QUARANTINE, [name])["batch"].to_pylist() == [name]
    left = tables.replace_partitions(workspace, QUARANTINE, rows.slice(0, 0), names[1:])
    assert tables.read_table(workspace, QUARANTINE, version=left.version)["batch"].to_pylist() == names[:1]


def hold_the_lock(path: Path, seconds: float) -> subprocess.Popen[str]:
    code = (
        "import sys, time; from pathlib import Path; from endcap.workspace import tables; "
        "from endcap.workspace.layout import Workspace\n"
        f"with tables.exclusive(Workspace.open(Path({str(path)!r}))): print('held', flush=True); time.sleep({seconds})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_one_process_writes_at_a_time_and_a_killed_one_holds_up_nobody(workspace: Workspace) -> None:
    with hold_the_lock(workspace.path, 60) as process:
        told = r"has been writing the tables of .* Try again"
        with pytest.raises(TransientError, match=told), tables.exclusive(workspace, wait_s=0.2):
            pass
        process.kill()
        process.wait()
    with tables.exclusive(workspace, wait_s=0.2):
        pass
