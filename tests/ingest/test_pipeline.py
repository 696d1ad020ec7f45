from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.contracts.errors import InputError, TransientError
from endcap.contracts.events import (
    BATCHES,
    EVENTS,
    ITEM_VERSIONS,
    ITEMS,
    LANDED,
    OPEN_SESSIONS,
    QUARANTINE,
    TABLES,
    USERS,
)
from endcap.contracts.reporting import Silent
from endcap.ingest.landing import RowAccount
from endcap.ingest.pipeline import ingest
from endcap.ingest.quality import IngestSettings
from endcap.workspace import ledger, manifests, tables
from endcap.workspace.layout import Workspace

SOURCE = "online_retail"
WRITTEN = (LANDED, QUARANTINE, BATCHES, EVENTS, OPEN_SESSIONS, ITEM_VERSIONS, ITEMS, USERS)


def snapshot(workspace: Workspace) -> dict[str, pa.Table]:
    """What the tables hold, but for when it landed."""
    return {
        name: tables.read_table(
            workspace, name, columns=[column for column in TABLES[name].schema.names if column != "landed_at_us"]
        )
        for name in WRITTEN
    }


def versions_on_disk(workspace: Workspace) -> dict[str, int | None]:
    return {name: tables.table_version(workspace, name) for name in WRITTEN}


@pytest.fixture
def shop(invoices: Callable[..., Path], line: Any) -> Path:
    """Two days, two customers, a refund, a duplicate, and three lines for the quarantine."""
    return invoices(
        line(),
        line(StockCode="71053", Description="WHITE METAL LANTERN", UnitPrice=3.39),
        line(),
        line(InvoiceNo="C536380", Quantity=-1, InvoiceDate=datetime(2010, 12, 1, 8, 56)),
        line(InvoiceNo="536381", CustomerID=13047.0, Country="France", InvoiceDate=datetime(2010, 12, 2, 0, 0)),
        line(StockCode="POST"),
        line(CustomerID=None),
        line(CustomerID=None),
        line(UnitPrice=0.0),
    )


def test_account_and_tables_by_hand(workspace: Workspace, shop: Path) -> None:
    result = ingest(workspace, SOURCE, shop)
    assert result.changed
    assert result.account == RowAccount(
        num_rows=9,
        events={"purchase": 3, "refund": 1},
        num_duplicates=2,
        quarantined={"no_customer": 1, "not_a_product": 1, "price_not_positive": 1},
    )
    found = snapshot(workspace)
    assert {name: table.num_rows for name, table in found.items()} == {
        EVENTS: 4,
        ITEMS: 2,
        ITEM_VERSIONS: 2,
        USERS: 2,
        QUARANTINE: 3,
        LANDED: 4,
        BATCHES: 1,
        OPEN_SESSIONS: 0,
    }
    events = found[EVENTS].to_pylist()
    assert [event["event_date"] for event in events] == [date(2010, 12, 1)] * 3 + [date(2010, 12, 2)]
    assert [event["event_type"] for event in events] == ["purchase", "purchase", "refund", "purchase"]
    assert len({event["session_id"] for event in events if event["user_id"] == "17850"}) == 1
    assert found[USERS].to_pylist() == [
        {"user_id": "13047", "country": "France"},
        {"user_id": "17850", "country": "United Kingdom"},
    ]
    assert [(row["row_number"], row["reason"]) for row in found[QUARANTINE].to_pylist()] == [
        (5, "not_a_product"),
        (6, "no_customer"),
        (8, "price_not_positive"),
    ]
    raw = json.loads(found[QUARANTINE].to_pylist()[1]["raw"])
    assert raw == {
        "InvoiceNo": "536365",
        "StockCode": "85123A",
        "Description": "WHITE HANGING HEART T-LIGHT HOLDER",
        "Quantity": "6",
        "InvoiceDate": "2010-12-01 08:26:00",
        "UnitPrice": "2.55",
        "CustomerID": None,
        "Country": "United Kingdom",
    }


def test_the_last_microsecond_of_a_day_belongs_to_it(workspace: Workspace, invoices: Any, line: Any) -> None:
    ingest(
        workspace,
        SOURCE,
        invoices(
            line(InvoiceDate=datetime(2010, 12, 1, 23, 59, 59, 999_999)),
            line(InvoiceDate=datetime(2010, 12, 2)),
        ),
    )
    events = tables.read_table(workspace, EVENTS).to_pylist()
    assert [event["event_date"] for event in events] == [date(2010, 12, 1), date(2010, 12, 2)]
    assert events[0]["session_id"] == events[1]["session_id"]


def test_the_same_file_twice_changes_nothing(workspace: Workspace, shop: Path) -> None:
    first = ingest(workspace, SOURCE, shop)
    files = sorted(path for path in workspace.path.rglob("*") if path.is_file())
    second = ingest(workspace, SOURCE, shop)
    assert not second.changed
    assert (second.account, second.versions, second.manifest_path) == (
        first.account,
        first.versions,
        first.manifest_path,
    )
    assert sorted(path for path in workspace.path.rglob("*") if path.is_file()) == files


@pytest.mark.parametrize("damage", ["deleted", "garbage"])
def test_the_same_file_changes_nothing_without_the_ledger(workspace: Workspace, shop: Path, damage: str) -> None:
    first = ingest(workspace, SOURCE, shop)
    before, versions = snapshot(workspace), versions_on_disk(workspace)
    if damage == "deleted":
        shutil.rmtree(workspace.ledger)
    else:
        for entry in workspace.ledger.rglob("*.json"):
            entry.write_bytes(b"{\xff")
    second = ingest(workspace, SOURCE, shop)
    assert not second.changed
    assert (second.account, second.versions) == (first.account, first.versions)
    assert versions_on_disk(workspace) == versions
    assert snapshot(workspace) == before


def test_rows_in_another_order_are_the_same_events(workspace: Workspace, shop: Path) -> None:
    ingest(workspace, SOURCE, shop)
    before = snapshot(workspace)
    rows = pq.read_table(shop)
    pq.write_table(rows.take(list(range(rows.num_rows))[::-1]), shop)
    second = ingest(workspace, SOURCE, shop)
    assert second.versions[EVENTS] == 0
    after = snapshot(workspace)
    for name in (EVENTS, OPEN_SESSIONS, ITEMS, ITEM_VERSIONS, USERS):  # the others tell rows by their place in the file
        assert after[name] == before[name]


def test_a_grown_file_touches_only_its_new_day(workspace: Workspace, shop: Path, line: Any) -> None:
    ingest(workspace, SOURCE, shop)
    old_files = set(tables.table_files(workspace, EVENTS))
    rows = pq.read_table(shop)
    more = pa.Table.from_pylist([line(InvoiceNo="536400", InvoiceDate=datetime(2010, 12, 3))], schema=rows.schema)
    pq.write_table(pa.concat_tables([rows, more]), shop)
    result = ingest(workspace, SOURCE, shop)
    assert result.changed
    assert (result.versions[EVENTS], result.versions[USERS], result.versions[QUARANTINE]) == (1, 0, 0)
    new_files = set(tables.table_files(workspace, EVENTS))
    assert old_files < new_files
    assert len(new_files - old_files) == 1
    assert tables.read_table(workspace, EVENTS, version=0).num_rows == 4


def test_dates_are_not_lost_by_accident(workspace: Workspace, shop: Path, invoices: Any, line: Any) -> None:
    ingest(workspace, SOURCE, shop)
    before = snapshot(workspace)
    partial = invoices(line(), name="partial.parquet")
    with pytest.raises(InputError, match=r"partial\.parquet lacks 1 dates .*\(2010-12-02 to 2010-12-02\)"):
        ingest(workspace, SOURCE, partial)
    assert snapshot(workspace) == before
    assert ingest(workspace, SOURCE, partial, replace=True).changed
    assert tables.partition_dates(workspace, EVENTS) == ["2010-12-01"]
    assert tables.read_table(workspace, USERS).num_rows == 1


def test_back_to_an_earlier_file(workspace: Workspace, shop: Path, invoices: Any, line: Any) -> None:
    ingest(workspace, SOURCE, shop)
    before = snapshot(workspace)
    ingest(workspace, SOURCE, invoices(line(), name="other.parquet"), replace=True)
    back = ingest(workspace, SOURCE, shop)
    assert back.changed
    assert snapshot(workspace) == before


class CrashError(Exception):
    """Stands for a killed process: nothing after it runs."""


def crash_at(point: str, patch: pytest.MonkeyPatch) -> None:
    def crash(*arguments: Any, **options: Any) -> None:
        raise CrashError

    def until(write: Callable[..., tables.TableWrite]) -> Callable[..., tables.TableWrite]:
        def write_until(workspace: Workspace, name: str, *data: Any, **options: Any) -> tables.TableWrite:
            if name == point:
                raise CrashError
            return write(workspace, name, *data, **options)

        return write_until

    match point:
        case "manifest":
            patch.setattr(manifests.Run, "finish", crash)
        case "dataset":
            patch.setattr(tables, "publish_dataset", crash)
        case "ledger":
            patch.setattr(ledger, "record_entry", crash)
        case _:
            patch.setattr(tables, "write_table", until(tables.write_table))
            patch.setattr(tables, "replace_partitions", until(tables.replace_partitions))


CRASH_POINTS = [*WRITTEN, "manifest", "dataset"]


def crash_everywhere(workspace: Workspace, path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Crash once at each point before the data come into force, one after the other."""
    for point in CRASH_POINTS:
        with monkeypatch.context() as patch:
            crash_at(point, patch)
            with pytest.raises(CrashError):
                ingest(workspace, SOURCE, path)
        yield point


@pytest.mark.slow  # a loop of crashes; those of a later ingest are fast enough
def test_a_crash_in_the_first_ingest_leaves_no_data_and_a_rerun_repairs(
    workspace: Workspace, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in crash_everywhere(workspace, shop, monkeypatch):
        assert tables.current_dataset(workspace) is None
        with pytest.raises(InputError, match="holds no events yet"):
            tables.read_table(workspace, EVENTS)
    assert ingest(workspace, SOURCE, shop).changed
    clean = Workspace.init(workspace.path.parent / "clean")
    ingest(clean, SOURCE, shop)
    assert snapshot(workspace) == snapshot(clean)
    assert not list(workspace.scratch.iterdir())


def test_a_crash_leaves_the_last_good_state_and_a_rerun_repairs(
    workspace: Workspace, shop: Path, invoices: Any, line: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = invoices(line(), line(StockCode="POST"), name="old.parquet")
    ingest(workspace, SOURCE, old)
    before = snapshot(workspace)
    for _ in crash_everywhere(workspace, shop, monkeypatch):
        assert snapshot(workspace) == before
        assert not ingest(workspace, SOURCE, old).changed
    assert ingest(workspace, SOURCE, shop).changed
    clean = Workspace.init(workspace.path.parent / "clean")
    ingest(clean, SOURCE, shop)
    assert snapshot(workspace) == snapshot(clean)


def test_a_crash_before_the_ledger_costs_a_rerun_and_nothing_else(
    workspace: Workspace, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        crash_at("ledger", patch)
        with pytest.raises(CrashError):
            ingest(workspace, SOURCE, shop)
    versions = versions_on_disk(workspace)
    again = ingest(workspace, SOURCE, shop)
    assert not again.changed
    assert versions_on_disk(workspace) == versions


def test_the_old_file_again_without_ledger_after_a_crash(
    workspace: Workspace, shop: Path, invoices: Any, line: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = invoices(line(), name="old.parquet")
    ingest(workspace, SOURCE, old)
    with monkeypatch.context() as patch:
        patch.setattr(tables, "publish_dataset", lambda *_: (_ for _ in ()).throw(OSError("disk")))
        with pytest.raises(TransientError, match="stopped by the system: disk"):
            ingest(workspace, SOURCE, shop)
    shutil.rmtree(workspace.ledger)
    assert versions_on_disk(workspace)[EVENTS] == 1
    again = ingest(workspace, SOURCE, old)
    assert not again.changed
    assert again.versions[EVENTS] == 0


def test_a_deleted_table_comes_back(workspace: Workspace, shop: Path) -> None:
    ingest(workspace, SOURCE, shop)
    before = snapshot(workspace)
    shutil.rmtree(tables.table_path(workspace, ITEMS))
    ingest(workspace, SOURCE, shop)
    assert snapshot(workspace) == before


def test_the_manifest_tells_what_was_read_and_found(workspace: Workspace, shop: Path) -> None:
    result = ingest(workspace, SOURCE, shop, settings=IngestSettings(session_gap_minutes=10))
    manifest = manifests.read_manifest(workspace, result.manifest_path.parent.name)
    assert manifest.inputs == [manifests.describe_input(shop)]
    assert manifest.configuration["source"] == SOURCE
    assert manifest.configuration["session_gap_minutes"] == 10
    assert manifest.data_versions == result.versions
    assert manifest.metrics["num_rows"] == 9
    assert manifest.metrics["num_sessions"] == 3
    assert {"check", "stage", "land", "build", "derive"} <= manifest.timings_s.keys()
    dataset = tables.current_dataset(workspace)
    assert dataset is not None
    assert dataset.run_id == manifest.run_id


def test_another_gap_is_another_dataset(workspace: Workspace, shop: Path) -> None:
    ingest(workspace, SOURCE, shop)
    narrow = ingest(workspace, SOURCE, shop, settings=IngestSettings(session_gap_minutes=10))
    assert narrow.changed
    assert (narrow.versions[EVENTS], narrow.versions[ITEMS]) == (1, 0)


def test_progress_grows_to_one(workspace: Workspace, shop: Path) -> None:
    shares: list[float] = []

    class Listener(Silent):
        def progress(self, stage: str, done: float, total: float, note: str = "") -> None:
            shares.append(done / total)

    ingest(workspace, SOURCE, shop, report=Listener())
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_unknown_source(workspace: Workspace, shop: Path) -> None:
    with pytest.raises(InputError, match=r"no source 'retail'; the sources are: online_retail"):
        ingest(workspace, "retail", shop)


def test_bad_gap(workspace: Workspace, shop: Path) -> None:
    with pytest.raises(InputError, match="session_gap_minutes is 0"):
        ingest(workspace, SOURCE, shop, settings=IngestSettings(session_gap_minutes=0))


@pytest.mark.parametrize("kind", ["missing", "no_good_row", "damaged", "broken_text"])
def test_bad_files_leave_nothing_behind(workspace: Workspace, invoices: Any, line: Any, kind: str) -> None:
    path = invoices(line(CustomerID=None))
    match kind:
        case "missing":
            path.unlink()
        case "damaged":
            content = bytearray(path.read_bytes())
            content[4:200] = bytes(196)
            path.write_bytes(content)
        case "broken_text":
            path = invoices(line(Description="XXXXXXXX"))
            path.write_bytes(path.read_bytes().replace(b"XXXXXXXX", b"XX\xff\xfeXXXX"))
    with pytest.raises(InputError, match=r"invoices\.parquet"):
        ingest(workspace, SOURCE, path)
    assert not list(workspace.events.iterdir())
    assert not list(workspace.runs.iterdir())
    assert not workspace.ledger.exists()
