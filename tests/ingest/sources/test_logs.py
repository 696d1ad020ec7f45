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
from endcap.contracts.events import IMPRESSIONS_TABLE
from endcap.ingest.sources.logs import Logs

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
def impressions(connection: Backend) -> Callable[[Path], list[dict[str, Any]]]:
    def run(path: Path) -> list[dict[str, Any]]:
        table = connection.to_pyarrow(
            Logs().impressions(connection, path).order_by(["ts_us", "request_id", "position"])
        )
        expected = [field for field in IMPRESSIONS_TABLE.schema if field.name != "event_date"]
        assert [(field.name, field.type) for field in table.schema] == [(field.name, field.type) for field in expected]
        return table.to_pylist()

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


def test_impressions_with_outcomes(impressions: Callable[..., Any], write: Write, tmp_path: Path) -> None:
    write("requests/2026-01-31.jsonl", [request(), request(), request(request_id="r2", user_key="k2", item_ids=["a"])])
    clicks = [feedback(), feedback(), feedback(event_time="2026-01-31T00:00:06Z")]  # the second row stands twice
    bought = [
        feedback("purchase", item_id="c", value=10),
        feedback("purchase", item_id="c", value=2.5),
        feedback("cart"),
    ]
    write("feedback/2026-01-31.jsonl", clicks + bought)
    write(
        "feedback/2026-03-31.jsonl",
        [feedback(event_time="2026-03-31"), feedback(item_id="z"), feedback(request_id="r9")],
    )
    found = impressions(tmp_path)
    assert [(row["request_id"], row["item_id"], row["position"]) for row in found] == [
        ("r1", "a", 1), ("r1", "b", 2), ("r1", "c", 3), ("r2", "a", 1),
    ]  # fmt: skip
    counts = [(row["num_clicks"], row["num_carts"], row["num_purchases"], row["value"]) for row in found]
    assert counts == [(0, 0, 0, None), (3, 1, 0, None), (0, 0, 2, Decimal("12.5000")), (0, 0, 0, None)]
    assert found[1] | {"num_clicks": 0, "num_carts": 0} == {
        "request_id": "r1", "user_id": "k1", "item_id": "b", "ts_us": T0, "position": 2, "score": 0.8,
        "propensity": 0.3, "surface": "home", "release_digest": "d1", "experiment": None, "variant": None,
        "num_clicks": 0, "num_carts": 0, "num_purchases": 0, "value": None,
    }  # fmt: skip


def test_lists_that_do_not_fit(impressions: Callable[..., Any], write: Write, tmp_path: Path) -> None:
    short = request(item_ids=["a", "a", None, "b"], scores=[1], positions=None, propensities="x")
    write("requests.jsonl", [short, request(request_id=None), request(request_id="r3", item_ids=None)])
    found = impressions(tmp_path)
    assert [(row["item_id"], row["position"], row["score"], row["propensity"]) for row in found] == [
        ("a", 0, 1.0, None),
        ("b", 3, None, None),
    ]


def test_parquet_logs(impressions: Callable[..., Any], tmp_path: Path) -> None:
    rows = [request(request_time=T0)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "requests.parquet")
    pq.write_table(pa.Table.from_pylist([feedback(event_time=T0 + 1)]), tmp_path / "feedback.parquet")
    assert [row["num_clicks"] for row in impressions(tmp_path)] == [0, 1, 0]


def test_a_day_of_feedback_depends_on_the_requests_of_thirty_days(write: Write, tmp_path: Path) -> None:
    for day in ("2025-12-31", "2026-01-01", "2026-01-31", "2026-02-01"):
        write(f"requests/{day}.jsonl", [request()])
    write("feedback/20260131.jsonl", [feedback()])
    (batch,) = Logs().batches(tmp_path)
    assert batch.name == "logs/feedback/20260131.jsonl"
    assert [path.name for path in batch.paths] == ["20260131.jsonl", "2026-01-01.jsonl", "2026-01-31.jsonl"]


def test_no_logs(write: Write, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no folder"):
        Logs().batches(write("other.csv", "a\n1\n"))
    with pytest.raises(InputError, match="holds neither requests"):
        Logs().batches(tmp_path)
