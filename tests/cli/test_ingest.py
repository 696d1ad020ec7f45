"""`endcap ingest` on a clickstream: the account for people and for machines, and its options."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.cli.ingest import memory_mb
from endcap.contracts.errors import InputError
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


@pytest.mark.parametrize(("text", "size"), [("2GB", 2000), ("512mb", 512), ("1.5 G", 1500), ("64", 64)])
def test_sizes_of_memory(text, size):
    assert memory_mb(text) == size


@pytest.mark.parametrize("text", ["", "much", "63MB", "-2GB", "2TB"])
def test_no_sizes_of_memory(text):
    with pytest.raises(InputError, match="expected a size such as 2GB or 512MB, 64MB at least"):
        memory_mb(text)
