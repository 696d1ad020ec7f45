from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ibis.backends.duckdb import Backend

from endcap.contracts.errors import InputError
from endcap.ingest.sources import logs
from endcap.ingest.sources.logs import Logs
from endcap.ingest.sources.stated import SideAccount, account_of

T0 = 1_769_817_600_000_000

Write = Callable[..., Path]


def request(**changes: Any) -> dict[str, Any]:
    good = {
        "request_id": "r1", "user_key": "k1", "request_time": "2026-01-31T00:00:00Z", "release_digest": "d1",
        "surface": "home", "item_ids": ["a", "b", "c"], "scores": [0.9, 0.8, 0.7], "positions": [1, 2, 3],
        "propensities": [0.5, 0.3, 0.2], "experiment": None, "variant": None,
    }  # fmt: skip
    return good | changes


def feedback(kind: str = "click", **changes: Any) -> dict[str, Any]:
    good = {"request_id": "r1", "item_id": "b", "event_type": kind, "event_time": "2026-01-31T00:00:05Z", "value": None}
    return good | changes


@pytest.fixture
def shown(connection: Backend) -> Callable[[Path], list[dict[str, Any]]]:
    def run(path: Path) -> list[dict[str, Any]]:
        judged = Logs().judged_requests(connection, path)
        assert judged is not None
        rows = logs.shown(judged.filter(judged["reason"].isnull()))
        return connection.to_pyarrow(rows.order_by(["ts_us", "request_id", "position"])).to_pylist()

    return run


def test_feedback_gets_the_user_of_its_request(events: Callable[..., Any], write: Write, tmp_path: Path) -> None:
    write("requests.jsonl", [request()])
    write("feedback.jsonl", [feedback(), feedback("purchase", value="12.5"), feedback(request_id="r9"), feedback("?")])
    rows = events(Logs(), tmp_path)
    assert [(row["user_id"], row["item_id"], row["event_type"], row["reason"]) for row in rows] == [
        ("k1", "b", "select_item", None),
        ("k1", "b", "purchase", None),
        (None, "b", "select_item", "unknown_request"),
        ("k1", "b", None, "unknown_event_type"),
    ]
    assert (rows[1]["value"], rows[1]["ts_us"]) == (Decimal("12.5000"), T0 + 5_000_000)
    assert rows[0]["properties"] == '{"request_id":"r1","release_digest":"d1","surface":"home"}'


def test_feedback_without_requests(events: Callable[..., Any], write: Write, tmp_path: Path) -> None:
    write("feedback.jsonl", [feedback()])
    assert [row["reason"] for row in events(Logs(), tmp_path)] == ["unknown_request"]


def test_every_row_of_requests_is_accounted_for(connection: Backend, write: Write, tmp_path: Path) -> None:
    rows = [
        request(), request(), request(request_id=None), request(request_id="r2", user_key=""), "{torn",
        request(request_id="r3", request_time=None), request(request_id="r4", request_time="soon"),
        request(request_id="r5", request_time=5), request(request_id="r6", item_ids=[]),
    ]  # fmt: skip
    write("requests.jsonl", rows)
    judged = Logs().judged_requests(connection, tmp_path)
    assert judged is not None
    reasons = ("malformed_row", "missing_request", "missing_user", "missing_time", "unreadable_time",
               "time_out_of_range", "repeated")  # fmt: skip
    assert account_of(connection, judged, logs.REQUEST_REASONS) == SideAccount(9, dict.fromkeys(reasons, 1))
    write("feedback/a.jsonl", [feedback()])
    assert Logs().judged_requests(connection, tmp_path / "feedback" / "..") is not None


def test_what_was_shown(shown: Callable[..., Any], write: Write, tmp_path: Path) -> None:
    write("requests/2026-01-31.jsonl", [request(), request(request_id="r2", user_key="k2", item_ids=["a"])])
    found = shown(tmp_path)
    assert [(row["request_id"], row["item_id"], row["position"]) for row in found] == [
        ("r1", "a", 1), ("r1", "b", 2), ("r1", "c", 3), ("r2", "a", 1),
    ]  # fmt: skip
    assert found[1] == {
        "batch": "logs/requests/2026-01-31.jsonl", "request_id": "r1", "user_key": "k1", "item_id": "b", "ts_us": T0,
        "position": 2, "score": 0.8, "propensity": 0.3, "surface": "home", "release_digest": "d1", "experiment": None,
        "variant": None,
    }  # fmt: skip


def test_lists_that_do_not_fit(shown: Callable[..., Any], write: Write, tmp_path: Path) -> None:
    short = request(item_ids=["a", "a", None, "b"], scores=[1], positions=None, propensities="x")
    write("requests.jsonl", [short, request(request_id=None), request(request_id="r3", item_ids=None)])
    found = shown(tmp_path)
    assert [(row["item_id"], row["position"], row["score"], row["propensity"]) for row in found] == [
        ("a", 0, 1.0, None),
        ("b", 3, None, None),
    ]


def test_parquet_logs(shown: Callable[..., Any], events: Callable[..., Any], tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([request(request_time=T0)]), tmp_path / "requests.parquet")
    pq.write_table(pa.Table.from_pylist([feedback(event_time=T0 + 1)]), tmp_path / "feedback.parquet")
    assert [row["ts_us"] for row in shown(tmp_path)] == [T0] * 3
    assert [row["ts_us"] for row in events(Logs(), tmp_path)] == [T0 + 1]


def test_a_day_of_feedback_depends_on_the_requests_of_thirty_days(write: Write, tmp_path: Path) -> None:
    for day in ("2025-12-31", "2026-01-01", "2026-01-31", "2026-02-01"):
        write(f"requests/{day}.jsonl", [request()])
    write("feedback/20260131.jsonl", [feedback()])
    (batch,) = Logs().batches(tmp_path)
    assert batch.name == "logs/feedback/20260131.jsonl"
    assert [path.name for path in batch.paths] == ["20260131.jsonl", "2026-01-01.jsonl", "2026-01-31.jsonl"]


def test_a_folder_a_day_or_a_replica(write: Write, tmp_path: Path) -> None:
    for place in ("2026-01-31/a", "2026-01-31/b", "2026-02-01/a"):
        write(f"x/{place}/feedback.jsonl", [feedback()])
    names = [batch.name for batch in Logs().batches(tmp_path / "x")]
    assert names == [f"logs/{place}/feedback.jsonl" for place in ("2026-01-31/a", "2026-01-31/b", "2026-02-01/a")]
    assert [batch.name for batch in Logs().batches(tmp_path / "x" / "2026-02-01")] == names[2:]


def test_no_logs(write: Write, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no folder"):
        Logs().batches(write("other.csv", "a\n1\n"))
    with pytest.raises(InputError, match="holds neither requests"):
        Logs().batches(tmp_path)
