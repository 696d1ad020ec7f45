from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from endcap.contracts.events import BATCHES, EVENTS, LANDED, LANDED_TABLE, USERS, USERS_TABLE
from endcap.engines import duckdb
from endcap.ingest import build, derived
from endcap.ingest.quality import IngestSettings
from endcap.workspace import manifests, tables
from endcap.workspace.drafts import Draft
from endcap.workspace.layout import Workspace

Endcap = Callable[..., Any]
TODAY = datetime.now(UTC).date()


def landed(*rows: tuple[int, str]) -> pa.Table:
    """Views (days ago, user)."""
    first = date(1970, 1, 1)
    found = []
    for place, (days_ago, user) in enumerate(rows):
        day = TODAY - timedelta(days=days_ago)
        found.append(
            {
                "batch": "b", "row_number": place, "event_id": f"e{place}", "user_id": user, "item_id": "i",
                "event_type": "view_item", "ts_us": (day - first).days * 86_400_000_000 + place, "event_date": day,
            }
        )  # fmt: skip
    return pa.Table.from_pylist(found, schema=LANDED_TABLE.schema)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with events of 50, 10 and 2 days ago; not to be changed: take `shop`."""
    workspace = Workspace.init(tmp_path_factory.mktemp("lake") / "shop")
    draft = Draft(workspace)
    draft.write(LANDED, landed((50, "g"), (10, "u"), (2, "g")))
    settings = IngestSettings()
    with duckdb.session(workspace) as connection:
        build.build_dates(connection, draft, draft.partition_rows(LANDED), settings, lambda *_: None)
        derived.derive(connection, draft)
    tables.publish_dataset(workspace, tables.Dataset("test", "r", draft.versions, build.build_digest(settings)))
    return workspace


@pytest.fixture
def shop(built: Workspace, copy_of: Callable[[Workspace], Workspace]) -> Workspace:
    """The same, the test's own."""
    return copy_of(built)


def append(workspace: Workspace, *users: str) -> None:
    """One small file per user."""
    dataset = tables.current_dataset(workspace)
    assert dataset is not None
    for user in users:
        row = pa.Table.from_pylist([{"user_id": user, "country": None}], schema=USERS_TABLE.schema)
        write_deltalake(str(tables.table_path(workspace, USERS)), row, mode="append")
    dataset.versions[USERS] = tables.table_version(workspace, USERS) or 0
    tables.publish_dataset(workspace, dataset)


def text(endcap: Endcap, workspace: Workspace, *arguments: object) -> str:
    said = endcap("lake", *arguments, "-w", workspace.path, "--log-format", "text")
    assert said.code == 0, said.err
    out: str = said.out
    return out


def lines(endcap: Endcap, workspace: Workspace, *arguments: object) -> list[dict[str, Any]]:
    said = endcap("lake", *arguments, "-w", workspace.path, "--log-format", "json")
    assert said.code == 0, said.err
    return [json.loads(line) for line in said.out.splitlines()]


def test_status_shows_files_and_holders(endcap: Endcap, shop: Workspace) -> None:
    append(shop, "x", "y")
    text(endcap, shop, "pin", "launch")
    out = text(endcap, shop, "status")
    assert re.search(r"^ *users +2 +4 +3 +3 ", out, flags=re.MULTILINE)
    assert "Versions of these tables are held by: in force, pin launch.\n" in out
    by_name = {line["table"]: line for line in lines(endcap, shop, "status")}
    assert (by_name[EVENTS]["files"], by_name[EVENTS]["rows"], by_name[USERS]["small_files"]) == (3, 3, 3)


def test_small_files_become_few(endcap: Endcap, shop: Workspace) -> None:
    append(shop, "x", "y")
    out = text(endcap, shop, "compact")
    assert re.search(r"^ *users +3 +3 +1 *$", out, flags=re.MULTILINE)
    assert text(endcap, shop, "compact") == "Nothing to merge.\n"
    assert [line["changed"] for line in lines(endcap, shop, "compact", "-t", USERS)] == [False]


def test_retention_counts_until_told_to_apply(endcap: Endcap, shop: Workspace) -> None:
    before = tables.current_dataset(shop)
    out = text(endcap, shop, "retain", "--days", 30)
    old = TODAY - timedelta(days=50)
    assert re.search(rf"^ *events +1 +{old} +{old} +1 ", out, flags=re.MULTILINE)
    assert "Nothing was changed. Do it with --apply." in out
    assert tables.current_dataset(shop) == before
    assert "out of force" in text(endcap, shop, "retain", "--days", 30, "--apply")
    assert tables.read_table(shop, EVENTS).num_rows == tables.read_table(shop, LANDED).num_rows == 2
    assert text(endcap, shop, "retain", "--days", 30, "--apply") == "No date lies more than 30 days back.\n"
    [one] = lines(endcap, shop, "retain", "--days", 5, "-t", EVENTS)
    assert (one["dates"], one["rows"], one["dates_left"], one["applied"]) == (1, 1, 1, False)


def test_a_vacuum_counts_until_told_to_apply(endcap: Endcap, shop: Workspace) -> None:
    assert text(endcap, shop, "vacuum") == "Every file is needed by a version that is kept.\n"
    text(endcap, shop, "retain", "--days", 30, "--apply")
    files = set(shop.events.rglob("*.parquet"))
    out = text(endcap, shop, "vacuum", "--grace-hours", 0)
    assert "Nothing was deleted. Do it with --apply." in out
    assert set(shop.events.rglob("*.parquet")) == files
    assert text(endcap, shop, "vacuum", "--grace-hours", 0, "--apply").endswith("Deleted.\n")
    assert len(files - set(shop.events.rglob("*.parquet"))) == 2  # of events and landed
    assert tables.read_table(shop, EVENTS).num_rows == 2


def test_pins_come_and_go(endcap: Endcap, shop: Workspace) -> None:
    assert "There are no pins" in text(endcap, shop, "pins")
    assert "Pinned dataset version 1," in text(endcap, shop, "pin", "launch")
    assert re.search(r"^ *launch .* 1 +r .* events@0 ", text(endcap, shop, "pins"), flags=re.MULTILINE)
    twice = endcap("lake", "pin", "launch", "-w", shop.path)
    assert twice.code == 2
    assert "There is a pin launch already" in twice.err
    assert text(endcap, shop, "unpin", "launch") == "Pin launch is gone.\n"
    assert endcap("lake", "unpin", "launch", "-w", shop.path).code == 2


def test_tables_are_read_as_they_were(endcap: Endcap, shop: Workspace, tmp_path: Path) -> None:
    before = tables.read_table(shop, EVENTS)
    text(endcap, shop, "pin", "launch", "--dataset-version", 1)
    text(endcap, shop, "retain", "--days", 30, "--apply")
    text(endcap, shop, "vacuum", "--grace-hours", 0, "--apply")
    assert "Dataset version 2." in text(endcap, shop, "status")
    assert {line["dataset_version"] for line in lines(endcap, shop, "status")} == {2}
    out = text(endcap, shop, "versions")
    assert re.search(r"^ *2 .* events@1 landed@1", out, flags=re.MULTILINE)
    assert re.search(r"^ *1 .* launch *$", out, flags=re.MULTILINE)
    newest, first = lines(endcap, shop, "versions")
    assert (newest["dataset_version"], newest["pins"], first["pins"]) == (2, [], ["launch"])
    assert len(lines(endcap, shop, "read", EVENTS)) == 2
    for way in (["--dataset-version", 1], ["--at", "launch"], ["--at", first["published_at"]], ["--version", 0]):
        found = [line["row"] for line in lines(endcap, shop, "read", EVENTS, *way)]
        assert [row["ts_us"] for row in found] == before["ts_us"].to_pylist()
        assert found[1]["user_id"] == shop.user_key("u")
    assert len(lines(endcap, shop, "read", EVENTS, "--at", "launch", "--limit", 2)) == 2
    assert shop.user_key("g") in text(endcap, shop, "read", EVENTS)
    written = tmp_path / "events.parquet"
    text(endcap, shop, "read", EVENTS, "--dataset-version", 1, "--out", written, "--raw-ids")
    assert pq.read_table(written).equals(before)
    text(endcap, shop, "read", EVENTS, "--out", tmp_path / "e.csv", "--limit", 1)
    assert [shop.user_key("u") in line for line in (tmp_path / "e.csv").read_text().splitlines()] == [False, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["events", "--at", "launch", "--version", "0"], "goes without --at"),
        (["events", "--at", "launch", "--dataset-version", "1"], "give one of them"),
        (["events", "--dataset-version", "7"], "no dataset version 7; there are 1 to 1"),
        (["evens"], "There is no table evens"),
        (["events", "--out", "e.txt"], "expected one of: .parquet, .csv"),
        (["events", "--out", "none/e.csv"], "There is no folder none"),
        (["events", "--raw-ids"], "--raw-ids goes with --out"),
        (["drift"], "holds no drift"),
    ],
)
def test_what_can_not_be_read_is_said(endcap: Endcap, shop: Workspace, arguments: list[str], message: str) -> None:
    said = endcap("lake", "read", *arguments, "-w", shop.path)
    assert said.code == 2
    assert message in said.err


def test_a_migration_is_told_before_it_is_done(endcap: Endcap, shop: Workspace) -> None:
    assert text(endcap, shop, "migrate") == "Every table has today's shape.\n"
    content = pa.table({"user_id": ["u"], "country": [7]})
    write_deltalake(str(tables.table_path(shop, USERS)), content, mode="overwrite", schema_mode="overwrite")
    dataset = tables.current_dataset(shop)
    assert dataset is not None
    dataset.versions[USERS] = 1
    tables.publish_dataset(shop, dataset)
    out = text(endcap, shop, "migrate", "--dry-run")
    assert re.search(r"^ *users +retyped +country +int64 +string *$", out, flags=re.MULTILINE)
    assert "Written again: users (whole). All other files stay." in out
    assert "To be made again when next asked for: features." in out
    assert "Nothing was changed." in out
    *_, last = lines(endcap, shop, "migrate")
    assert (last["rewritten"], last["recomputed"], last["applied"]) == ({"users": 1}, ["features"], True)
    assert tables.read_table(shop, USERS).to_pylist() == [{"user_id": "u", "country": "7"}]


def test_guests_become_users(endcap: Endcap, shop: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("guest_id,user_id\ng,u\n")
    out = text(endcap, shop, "identities", path)
    assert "1 guests count as users, 1 of them otherwise than before." in out
    assert f"Dates built anew: 2 partitions, {TODAY - timedelta(days=50)} to {TODAY - timedelta(days=2)}." in out
    assert tables.read_table(shop, EVENTS)["user_id"].to_pylist() == ["u", "u", "u"]
    missing = endcap("lake", "identities", tmp_path / "no.csv", "-w", shop.path)
    assert missing.code == 2
    assert "is no file" in missing.err


def test_an_empty_workspace_is_no_error_to_look_at(endcap: Endcap, tmp_path: Path) -> None:
    workspace = Workspace.init(tmp_path)
    assert "endcap ingest" in text(endcap, workspace, "status")
    assert endcap("lake", "compact", "-w", tmp_path).code == 2


def test_an_ingest_into_tables_of_an_earlier_release_names_the_migration(endcap: Endcap, tmp_path: Path) -> None:
    workspace = Workspace.init(tmp_path / "shop")
    for number in (1, 2):
        rows = f"event_id,user_id,item_id,event_type,event_time\ne{number},u,i,view_item,2026-01-0{number}T10:00:00Z\n"
        (tmp_path / f"{number}.csv").write_text(rows)

    def ingest(number: int) -> Any:
        return endcap("ingest", "--source", "files", tmp_path / f"{number}.csv", "-w", workspace.path)

    first = ingest(1)
    assert first.code == 0, first.err
    dataset = tables.current_dataset(workspace)
    assert dataset is not None
    folder = str(tables.table_path(workspace, BATCHES))
    known = tables.read_table(workspace, BATCHES).drop_columns(["landed_at_us"])
    write_deltalake(folder, known, mode="overwrite", schema_mode="overwrite")
    tables.publish_dataset(workspace, msgspec.structs.replace(dataset, versions={**dataset.versions, BATCHES: 1}))
    refused = ingest(2)
    assert refused.code == 2
    assert "Table batches has the shape of an earlier release: it has no column landed_at_us" in refused.err
    assert "endcap lake migrate (first look with: endcap lake migrate --dry-run)" in refused.err
    assert tables.version_in_force(workspace, BATCHES) == 1
    out = text(endcap, workspace, "migrate", "--dry-run")
    assert re.search(r"^ *batches +added +landed_at_us ", out, flags=re.MULTILINE)
    assert ingest(2).code == 2
    text(endcap, workspace, "migrate")
    again = ingest(2)
    assert again.code == 0, again.err
    assert tables.read_table(workspace, EVENTS)["event_id"].to_pylist() == ["e1", "e2"]
    moments = tables.read_table(workspace, BATCHES)["landed_at_us"].to_pylist()
    assert [moment is None for moment in moments] == [True, False]
    listed = lines(endcap, workspace, "versions")
    numbers = [line["dataset_version"] for line in listed]
    manifest = manifests.read_manifest(workspace, listed[0]["of_run"])
    assert (manifest.dataset_version, manifest.data_versions) == (numbers[0], listed[0]["versions"])
    assert numbers == sorted(numbers, reverse=True)
    assert tables.number_in_force(workspace) == numbers[0]
