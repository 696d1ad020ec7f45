"""`endcap ingest` on a clickstream: the account for people and for machines, and its options."""

import errno
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.cli.ingest import memory_mb
from endcap.contracts.errors import InputError
from endcap.workspace import tables
from endcap.workspace.layout import Workspace

NOON_US = 1_767_268_800_000_000


@pytest.fixture
def clicks(tmp_path):
    rows = [
        ("e1", "u", "i", "view_item", 0),
        ("e2", "u", "i", "add_to_cart", 1),
        ("e2", "u", "i", "add_to_cart", 1),
        ("e3", "u", "i", "purchase", 2),
        ("e4", None, "i", "view_item", 3),
        *[(f"b{place}", "bot", "i", "view_item", place) for place in range(4)],
    ]
    names = ["event_id", "user_id", "item_id", "event_type"]
    columns = {name: [row[place] for row in rows] for place, name in enumerate(names)}
    columns["event_time"] = pa.array([NOON_US + row[4] for row in rows], pa.timestamp("us", "UTC"))
    path = tmp_path / "clicks.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def test_the_account_names_every_fate(endcap, tmp_path, clicks):
    workspace = Workspace.init(tmp_path / "shop").path
    arguments = ("ingest", clicks, "--source", "files", "-w", workspace, "--max-events-per-day", 3)
    said = endcap(*arguments, "--memory-limit", "512MB", "--log-format", "text")
    assert (said.code, said.err) == (0, "")
    lines = [" ".join(line.split()) for line in said.out.splitlines()]
    assert lines[1:8] == [
        "9 rows read",
        "5 product views",
        "1 products put into carts",
        "1 purchases",
        "1 duplicates, dropped",
        "1 in quarantine: missing user",
        "4 events on these dates are in quarantine: bot",
    ]
    told = json.loads(endcap(*arguments, "--log-format", "json").out.splitlines()[-1])
    assert told["events"] == {"view_item": 5, "add_to_cart": 1, "purchase": 1}
    assert (told["rows"], told["duplicates"], told["quarantined"]) == (9, 1, {"missing_user": 1})
    assert (told["batches"], told["batches_skipped"], told["changed"]) == (0, 1, False)


def test_too_many_bad_rows(endcap, tmp_path, clicks):
    workspace = Workspace.init(tmp_path / "shop").path
    said = endcap("ingest", clicks, "--source", "files", "-w", workspace, "--max-quarantined-share", 0.1)
    assert said.code == 2
    assert "1 of 9 rows can't be used (1 missing_user), more than 10%; nothing was written" in said.err
    assert not list((workspace / "01_events").iterdir())


def test_a_format_has_to_be_said(endcap, tmp_path, clicks):
    said = endcap("ingest", clicks, "-w", tmp_path)
    assert said.code == 2
    assert "--source" in said.err
    assert "--suggest" in said.err


def test_a_suggestion_needs_no_workspace(endcap, tmp_path, clicks):
    said = endcap("ingest", "--suggest", clicks, "--log-format", "text")
    assert said.code == 0
    assert "user_id: user_id" in said.out


def write_day(folder, day, price=1):
    folder.mkdir(exist_ok=True)
    (folder / "events.csv").write_text(f"user_id,item_id,event_type,ts\nu,i,view_item,2026-01-0{day}T10:00:00\n")
    (folder / "items.csv").write_text(f"item_id,price\ni,{price}\n,7\n")
    return folder / "events.csv"


def test_another_day_by_the_same_file_name_is_refused_with_the_ways_out(endcap, tmp_path):
    workspace = Workspace.init(tmp_path / "shop").path
    assert endcap("ingest", write_day(tmp_path / "day1", 1), "-s", "files", "-w", workspace).code == 0
    second = write_day(tmp_path / "day2", 2)
    said = endcap("ingest", second, "-s", "files", "-w", workspace)
    assert (said.code, said.out.count("\n") < 3) == (2, True)
    for part in (str(second), "files/events.csv", "2026-01-01", "rename the file", "another name:", "--replace"):
        assert part in said.err
    assert endcap("ingest", second.rename(second.with_name("2.csv")), "-s", "files", "-w", workspace).code == 0
    days = tables.read_table(Workspace.open(workspace), "events")["event_date"].to_pylist()
    assert [str(day) for day in days] == ["2026-01-01", "2026-01-02"]


MAPPING = """
columns: {user_id: user_id, item_id: item_id, event_type: event_type, ts: ts}
catalog: {path: items.csv, columns: {item_id: item_id, price: price}}
"""


def test_settings_stay_and_a_catalog_is_dated_and_accounted_for(endcap, tmp_path):
    workspace = Workspace.init(tmp_path / "shop").path
    (tmp_path / "mapping.yaml").write_text(MAPPING)
    event = write_day(tmp_path / "day", 1)
    given = ("ingest", event, "-s", "files", "--mapping", tmp_path / "mapping.yaml", "-w", workspace)
    first = endcap(*given, "--catalog-as-of", "2026-02-01", "--log-format", "text")
    assert "1 of 2 rows of the catalog count" in first.out
    assert "1 of them were left out: missing item" in first.out
    second = endcap(*given, "--session-gap-minutes", 10, "--log-format", "text")
    assert "All dates are built again with other settings: session_gap_minutes is 10, 30 until now." in second.out
    assert "Nothing changed" in endcap(*given, "--log-format", "text").out
    versions = tables.read_table(Workspace.open(workspace), "item_versions").to_pylist()
    assert [row["valid_from_us"] for row in versions] == [1_769_904_000_000_000]
    late = endcap(*given, "--catalog-as-of", "2026-01-31")
    assert late.code == 2
    assert "snapshots of a catalog come in the order of their moments" in late.err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("missing_user=0.1", "1 of 9 rows can't be used (1 missing_user), more than 10%"),
        ("missing_user", "--max-quarantined is 'missing_user'; expected a reason and a share"),
        ("no_such=0.1", "--max-quarantined no_such: source files knows no such reason; expected one of: malformed_row"),
    ],
)
def test_limits_of_single_reasons(endcap, tmp_path, clicks, given, message):
    workspace = Workspace.init(tmp_path / "shop").path
    said = endcap("ingest", clicks, "--source", "files", "-w", workspace, "--max-quarantined", given)
    assert said.code == 2
    assert message in said.err


def test_a_full_disk_is_one_line(endcap, tmp_path, clicks, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "some/file")

    monkeypatch.setattr(Workspace, "open", full)
    said = endcap("ingest", clicks, "--source", "files", "-w", tmp_path)
    assert said.code == 2
    assert said.err.startswith("error: The disk that holds some/file is full (No space left on device)")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(("text", "size"), [("2GB", 2000), ("512mb", 512), ("1.5 G", 1500), ("64", 64)])
def test_sizes_of_memory(text, size):
    assert memory_mb(text) == size


@pytest.mark.parametrize("text", ["", "much", "63MB", "-2GB", "2TB"])
def test_no_sizes_of_memory(text):
    with pytest.raises(InputError, match="expected a size such as 2GB or 512MB, 64MB at least"):
        memory_mb(text)
