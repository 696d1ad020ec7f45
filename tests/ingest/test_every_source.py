"""Each source through the whole ingest: a delivery, the same again, and one of its days changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.ingest.pipeline import IngestResult, ingest
from endcap.workspace import tables
from endcap.workspace.layout import Workspace

Row = tuple[str | None, str]
"""A user and a product; nobody makes a row that can't be used."""

ROWS: tuple[Row, ...] = (("u1", "a"), ("u2", "b"), ("u1", "a"), (None, "c"))
"""Of a day: two events, one of them twice, and one without a user."""


def seconds(day: int, row: Row) -> int:
    """A moment of the day for each product."""
    return int(datetime.fromisoformat(f"2026-01-{day:02}T12:00:00+00:00").timestamp()) + ord(row[1])


def moment(day: int, row: Row) -> str:
    return datetime.fromtimestamp(seconds(day, row)).strftime("%Y-%m-%d %H:%M:%S")


def csv(header: str, line: Callable[[int, Row], str]) -> Callable[[int, Sequence[Row]], str]:
    return lambda day, rows: "\n".join([header, *(line(day, row) for row in rows)]) + "\n"


def lines(event: Callable[[int, Row], dict[str, Any]]) -> Callable[[int, Sequence[Row]], str]:
    return lambda day, rows: "".join(json.dumps(event(day, row)) + "\n" for row in rows)


def of_ga4(day: int, row: Row) -> dict[str, Any]:
    return {
        "event_timestamp": str(seconds(day, row) * 1_000_000), "event_name": "view_item", "user_pseudo_id": row[0],
        "items": [{"item_id": row[1], "price": 2.5}],
    }  # fmt: skip


def of_google(day: int, row: Row) -> dict[str, Any]:
    return {
        "eventType": "detail-page-view", "visitorId": row[0], "eventTime": moment(day, row),
        "productDetails": [{"product": {"id": row[1]}}],
    }  # fmt: skip


def of_staging(day: int, rows: Sequence[Row]) -> pa.Table:
    users, items = zip(*rows, strict=True)
    at = pa.array([seconds(day, row) * 1_000_000 for row in rows], pa.timestamp("us", "UTC"))
    return pa.table({"user_id": users, "item_id": items, "event_type": ["view"] * len(rows), "event_time": at})


def of_feedback(day: int, row: Row) -> dict[str, Any]:
    return {
        "request_id": f"{day}-{row[0]}", "item_id": row[1], "event_type": "click", "event_time": moment(day, row),
        "value": None,
    }  # fmt: skip


@dataclass(frozen=True)
class Export:
    """How a source's day is written, and into which file; `{}` is the day."""

    place: str
    content: Callable[[int, Sequence[Row]], Any]


EXPORTS = {
    "files": Export(
        "events-{}.csv",
        csv("user_id,item_id,event_type,event_time", lambda d, r: f"{r[0] or ''},{r[1]},view,{moment(d, r)}"),
    ),
    "ga4": Export("events_202601{}.json", lines(of_ga4)),
    "google_retail": Export("events-{}.jsonl", lines(of_google)),
    "personalize": Export(
        "interactions-{}.csv", csv("USER_ID,ITEM_ID,TIMESTAMP", lambda d, r: f"{r[0] or ''},{r[1]},{seconds(d, r)}")
    ),
    "gorse": Export(
        "feedback-{}.csv",
        csv("feedback_type,user_id,item_id,time_stamp", lambda d, r: f"read,{r[0] or ''},{r[1]},{moment(d, r)}"),
    ),
    "rees46": Export(
        "2026-01-{}.csv",
        csv(
            "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session",
            lambda d, r: f"{moment(d, r)} UTC,view,{r[1]},1,home.mugs,acme,2.50,{r[0] or ''},s",
        ),
    ),
    "staging": Export("interactions.parquet/part-{}.parquet", of_staging),
    "logs": Export("feedback/2026-01-{}.jsonl", lines(of_feedback)),
}


@pytest.fixture
def deliver(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., IngestResult]:
    """Write days of a source's export, and ingest all of it."""
    monkeypatch.setenv("TZ", "UTC")
    folder = tmp_path / "export"

    def run(source: str, days: dict[int, Sequence[Row]]) -> IngestResult:
        for day, rows in days.items():
            path = folder / EXPORTS[source].place.format(f"{day:02}")
            path.parent.mkdir(parents=True, exist_ok=True)
            content = EXPORTS[source].content(day, rows)
            if isinstance(content, pa.Table):
                pq.write_table(content, path)
            else:
                path.write_text(content)
            if source == "logs":
                write_requests(folder / "requests" / path.name, day)
        return ingest(workspace, source, folder)

    return run


def write_requests(path: Path, day: int) -> None:
    path.parent.mkdir(exist_ok=True)
    rows = [
        {"request_id": f"{day}-{user}", "user_key": user, "request_time": f"2026-01-{day:02}", "item_ids": ["a", "b"]}
        for user in ("u1", "u2")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def events_of(workspace: Workspace) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in tables.read_table(workspace, "events").to_pylist():
        found.setdefault(str(row["event_date"]), []).append(f"{row['user_id']} {row['item_id']}")
    return {date: sorted(rows) for date, rows in found.items()}


def batches_of(workspace: Workspace) -> dict[str, dict[str, Any]]:
    return {row["batch"]: row for row in tables.read_table(workspace, "batches").to_pylist()}


def adds_up(result: IngestResult) -> bool:
    account = result.account
    return account.num_rows == account.num_events + account.num_duplicates + account.num_quarantined


@pytest.mark.parametrize("source", EXPORTS)
def test_a_delivery_the_same_again_and_a_changed_day(workspace: Workspace, deliver: Any, source: str) -> None:
    first = deliver(source, {1: ROWS, 2: ROWS})
    account = first.account
    assert adds_up(first)
    assert (account.num_rows, account.num_events, account.num_duplicates, account.num_quarantined) == (8, 4, 2, 2)
    assert list(account.quarantined) == (["unknown_request"] if source == "logs" else ["missing_user"])
    assert events_of(workspace) == {"2026-01-01": ["u1 a", "u2 b"], "2026-01-02": ["u1 a", "u2 b"]}
    before = batches_of(workspace)
    assert len(before) == 2

    again = deliver(source, {})
    assert (again.changed, again.num_landed_batches, again.num_skipped_batches) == (False, 0, 2)
    assert (again.versions, again.account) == (first.versions, account)

    changed = deliver(source, {2: [*ROWS, ("u2", "a")]})
    assert adds_up(changed)
    assert (changed.changed, changed.num_landed_batches, changed.num_skipped_batches) == (True, 1, 1)
    assert (changed.account.num_rows, changed.account.num_events) == (9, 5)
    assert events_of(workspace) == {"2026-01-01": ["u1 a", "u2 b"], "2026-01-02": ["u1 a", "u2 a", "u2 b"]}
    after = batches_of(workspace)
    one, two = sorted(after)
    assert (after[one], list(after)) == (before[one], list(before))
    assert after[two] != before[two]


def test_days_of_ga4_that_change_take_their_own_place(workspace: Workspace, deliver: Any, tmp_path: Path) -> None:
    deliver("ga4", dict.fromkeys((1, 2, 3, 4), ROWS))
    # Four days on, the export holds the last three days anew and one more; the first is gone from it.
    for path in (tmp_path / "export").iterdir():
        path.unlink()
    second = deliver("ga4", {2: ROWS, 3: [*ROWS, ("u9", "z")], 4: ROWS[1:], 5: ROWS})
    assert (second.num_landed_batches, second.num_skipped_batches) == (3, 1)
    days = events_of(workspace)
    assert sorted(days) == [f"2026-01-{day:02}" for day in (1, 2, 3, 4, 5)]
    assert days["2026-01-03"] == ["u1 a", "u2 b", "u9 z"]
    assert sorted(batches_of(workspace)) == [f"ga4/events_202601{day:02}" for day in (1, 2, 3, 4, 5)]
    again = deliver("ga4", {})
    assert (again.changed, again.versions) == (False, second.versions)
