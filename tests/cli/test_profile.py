"""`endcap profile` and `endcap drift` as typed: pages, a short table, numbers, and what is wrong said plainly."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from endcap.contracts.events import EVENTS, EVENTS_TABLE, US_PER_DAY
from endcap.workspace import tables
from endcap.workspace.layout import Workspace


@pytest.fixture
def shop(tmp_path: Path) -> Workspace:
    """A workspace with a view on each of three days."""
    workspace = Workspace.init(tmp_path / "shop")
    rows = [
        {"event_id": f"e{day}", "user_id": "u", "item_id": "i", "event_type": "view_item", "ts_us": day * US_PER_DAY,
         "session_id": f"s{day}", "event_date": date(1970, 1, 1 + day)}
        for day in range(3)
    ]  # fmt: skip
    version = tables.write_table(workspace, EVENTS, pa.Table.from_pylist(rows, EVENTS_TABLE.schema)).version
    tables.publish_dataset(workspace, tables.Dataset(source="t", run_id="r", versions={EVENTS: version}))
    return workspace


def test_profile_then_drift(endcap: Callable[..., Any], shop: Workspace) -> None:
    said = endcap("profile", "-w", shop.path, "--log-format", "text")
    assert said.code == 0
    assert [word for word in said.out.split() if word.startswith("1970")] == ["1970-01-01", "1970-01-03"]
    index = shop.reports / "profiles" / "index.html"
    assert f"Pages: {index}" in said.out
    said = endcap("drift", "-w", shop.path, "--log-format", "text")
    assert "Drift table, version 0:" in said.out
    assert "3 of 3 days changed." in said.out
    assert "view_item.item_id" in said.out
    said = endcap("drift", "--from", "1970-01-02", "--to", "1970-01-02", "-w", shop.path, "--log-format", "text")
    assert "nothing changed" in said.out
    said = endcap("profile", "--table", "events", "--version", 0, "-w", shop.path, "--log-format", "text")
    assert f"Page: {shop.reports / 'profiles' / 'events-v0.html'}" in said.out
    assert "<h2>Drift</h2>" in (shop.reports / "profiles" / "events-v0.html").read_text("utf-8")


def test_lines_for_machines(endcap: Callable[..., Any], shop: Workspace) -> None:
    lines = [json.loads(line) for line in endcap("profile", "-w", shop.path, "--log-format", "json").out.splitlines()]
    found = next(line for line in lines if line["event"] == "profiled")
    assert (found["table"], found["version"], found["rows"]) == ("events", 0, 3)
    assert Path(found["page"]).is_file()
    lines = [json.loads(line) for line in endcap("drift", "-w", shop.path, "--log-format", "json").out.splitlines()]
    assert next(line for line in lines if line["event"] == "drift measured")["days"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["profile", "--table", "evens"], "There is no table evens; the tables are: events"),
        (["profile", "--table", "items"], "holds no table items: nothing to profile. Ingest first: endcap ingest"),
        (["profile", "--table", "events", "--version", "9"], "has no version 9"),
        (["profile", "--version", "1"], "--version 1 belongs to one table: say which with --table."),
        (["drift", "--from", "yesterday"], "--from yesterday is no day; expected one such as 2026-01-31."),
        (["drift", "--from", "2020-01-01", "--to", "2020-01-02"], "they reach from 1970-01-01 to 1970-01-03"),
    ],
)
def test_what_is_wrong_is_said(endcap: Callable[..., Any], shop: Workspace, arguments: list[str], message: str) -> None:
    said = endcap(*arguments, "-w", shop.path)
    assert said.code == 2
    assert message in said.err


def test_nothing_is_ingested(endcap: Callable[..., Any], tmp_path: Path) -> None:
    Workspace.init(tmp_path)
    for command, what in (
        ("profile", "holds no tables: nothing to profile"),
        ("drift", "holds no events: nothing to compare"),
    ):
        said = endcap(command, "-w", tmp_path)
        assert said.code == 2
        assert what in said.err
        assert "endcap ingest --source KIND PATH" in said.err
