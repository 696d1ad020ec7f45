"""Logs ingested into a workspace, folder after folder: what was shown, to whom, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from endcap.contracts.reporting import Silent
from endcap.ingest.merging import merge_users
from endcap.ingest.pipeline import IngestResult, ingest
from endcap.ingest.quality import IngestSettings
from endcap.workspace import tables
from endcap.workspace.layout import Workspace

CSV = "user_id,item_id,event_type,event_time\n"


@pytest.fixture
def request_row(workspace: Workspace) -> Callable[..., dict[str, Any]]:
    def row(number: str, user: str, *items: str, day: int = 1) -> dict[str, Any]:
        return {
            "request_id": number, "user_key": workspace.user_key(user), "request_time": f"2026-01-{day:02}T12:00:00Z",
            "release_digest": "d", "surface": "home", "item_ids": list(items), "scores": None, "positions": None,
            "propensities": None, "experiment": None, "variant": None,
        }  # fmt: skip

    return row


def click(
    number: str, item: str, kind: str = "click", day: int = 1, second: int = 5, value: Any = None
) -> dict[str, Any]:
    at = f"2026-01-{day:02}T12:00:{second:02}Z"
    return {"request_id": number, "item_id": item, "event_type": kind, "event_time": at, "value": value}


@pytest.fixture
def bring(workspace: Workspace, tmp_path: Path) -> Callable[..., IngestResult]:
    """Write files of logs below a folder, and ingest it."""

    def run(folder: str, **files: list[dict[str, Any]]) -> IngestResult:
        for name, rows in files.items():
            path = tmp_path / folder / f"{name}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return ingest(workspace, "logs", tmp_path / folder)

    return run


@pytest.fixture
def shown(workspace: Workspace) -> Callable[[], dict[tuple[str, str], tuple[Any, ...]]]:
    def run() -> dict[tuple[str, str], tuple[Any, ...]]:
        return {
            (row["request_id"], row["item_id"]): (row["user_id"], row["num_clicks"], row["num_purchases"], row["value"])
            for row in tables.read_table(workspace, "impressions").to_pylist()
        }

    return run


def users_of(workspace: Workspace) -> list[str]:
    return sorted(set(tables.read_table(workspace, "events")["user_id"].to_pylist()))


def test_feedback_of_a_later_folder_completes_what_was_shown(
    workspace: Workspace, bring: Any, shown: Any, request_row: Any
) -> None:
    bring("2026-01-01", requests=[request_row("r1", "u1", "a", "b")], feedback=[click("r1", "a"), click("r1", "a")])
    key = workspace.user_key("u1")
    assert shown() == {("r1", "a"): (key, 1, 0, None), ("r1", "b"): (key, 0, 0, None)}
    late = [click("r1", "b", "purchase", 2, value="2.5"), click("r1", "a", day=2), click("r2", "c", day=2)]
    second = bring("2026-01-02", requests=[request_row("r2", "u1", "c", day=2)], feedback=late)
    assert (second.account.quarantined, second.account.num_events) == ({}, 3)
    expected = {
        ("r1", "a"): (key, 2, 0, None), ("r1", "b"): (key, 0, 1, Decimal("2.5")), ("r2", "c"): (key, 1, 0, None),
    }  # fmt: skip
    assert shown() == expected
    for folder in ("2026-01-01", "2026-01-02"):
        again = bring(folder)
        assert (again.changed, again.versions) == (False, second.versions)
    bring("2026-01-02", feedback=late[1:])
    assert shown() == expected | {("r1", "b"): (key, 0, 0, None)}


def test_a_second_replica_of_the_same_day_leaves_the_first(bring: Any, shown: Any, request_row: Any) -> None:
    bring("2026-01-01/x", requests=[request_row("r1", "u1", "a")])
    bring("2026-01-01/y", requests_y=[request_row("r2", "u1", "a"), request_row("r1", "u1", "a")])
    assert sorted(shown()) == [("r1", "a"), ("r2", "a")]
    bring("2026-01-01/y", requests_y=[request_row("r3", "u1", "a")])
    assert sorted(shown()) == [("r1", "a"), ("r3", "a")]


@pytest.mark.parametrize("is_first", [True, False])
def test_keys_become_the_users_whose_they_are(
    workspace: Workspace, bring: Any, shown: Any, request_row: Any, tmp_path: Path, *, is_first: bool
) -> None:
    stream = tmp_path / "events.csv"
    stream.write_text(CSV + "u1,a,view,2026-01-01 11:59:00\nu2,a,view,2026-01-01 12:00:00\n")
    rows = [request_row("r1", "u1", "a"), request_row("r2", "stranger", "a")]
    if is_first:
        ingest(workspace, "files", stream)
    bring("2026-01-01", requests=rows, feedback=[click("r1", "a"), click("r2", "a")])
    if not is_first:
        ingest(workspace, "files", stream)
    key = workspace.user_key("stranger")
    assert users_of(workspace) == sorted([key, "u1", "u2"])
    assert sorted(tables.read_table(workspace, "users")["user_id"].to_pylist()) == sorted([key, "u1", "u2"])
    assert shown() == {("r1", "a"): ("u1", 1, 0, None), ("r2", "a"): (key, 1, 0, None)}
    of_u1 = [row for row in tables.read_table(workspace, "events").to_pylist() if row["user_id"] == "u1"]
    assert [row["event_type"] for row in of_u1] == ["view_item", "select_item"]
    assert len({row["session_id"] for row in of_u1}) == 1
    assert not bring("2026-01-01").changed
    assert not ingest(workspace, "files", stream).changed


def test_the_key_of_a_guest_is_that_of_the_user_they_turn_out_to_be(
    workspace: Workspace, bring: Any, shown: Any, request_row: Any, tmp_path: Path
) -> None:
    bring("2026-01-01", requests=[request_row("r1", "device", "a")], feedback=[click("r1", "a")])
    stream = tmp_path / "events.csv"
    stream.write_text(
        "user_id,guest_id,item_id,event_type,event_time\n,device,a,view,2026-01-01\nu1,device,a,view,2026-01-02\n"
    )
    ingest(workspace, "files", stream)
    assert users_of(workspace) == ["u1"]
    assert shown() == {("r1", "a"): ("u1", 1, 0, None)}
    pairs = pa.table({"guest_id": ["u1"], "user_id": ["u0"]})
    merge_users(workspace, pairs, IngestSettings(), Silent())
    assert users_of(workspace) == ["u0"]
    assert shown() == {("r1", "a"): ("u0", 1, 0, None)}
    assert not bring("2026-01-01").changed
