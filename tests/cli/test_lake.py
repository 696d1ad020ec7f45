from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from endcap.contracts.events import EVENTS, LANDED, LANDED_TABLE, USERS, USERS_TABLE
from endcap.engines import duckdb
from endcap.ingest import build, derived
from endcap.ingest.quality import IngestSettings
from endcap.workspace import tables
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


@pytest.fixture
def shop(tmp_path: Path) -> Workspace:
    """A workspace with events of 50, 10 and 2 days ago."""
    workspace = Workspace.init(tmp_path / "shop")
    draft = Draft(workspace)
    draft.write(LANDED, landed((50, "g"), (10, "u"), (2, "g")))
    settings = IngestSettings()
    with duckdb.session(workspace) as connection:
        build.build_dates(connection, draft, draft.partition_rows(LANDED), settings, lambda *_: None)
        derived.derive(connection, draft)
    tables.publish_dataset(workspace, tables.Dataset("test", "r", draft.versions, build.build_digest(settings)))
    return workspace


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
    assert "as launch." in text(endcap, shop, "pin", "launch")
    assert re.search(r"^ *launch .* events@0 ", text(endcap, shop, "pins"), flags=re.MULTILINE)
    twice = endcap("lake", "pin", "launch", "-w", shop.path)
    assert twice.code == 2
    assert "There is a pin launch already" in twice.err
    assert text(endcap, shop, "unpin", "launch") == "Pin launch is gone.\n"
    assert endcap("lake", "unpin", "launch", "-w", shop.path).code == 2


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
