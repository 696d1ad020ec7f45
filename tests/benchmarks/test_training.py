"""The training benchmark hands the same rows to both sides, and its metrics and recalls are what they are called."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.performance.data import INVOICES, run_child
from benchmarks.performance.training import KS, MAX_WANTED, largest_difference, peer_libraries, write_lists
from benchmarks.performance.training_jobs import evaluate, train_two_tower
from benchmarks.performance.two_tower_data import write_made_up, write_shop

COLUMNS = {"user_id", "country", "event_time_us", "days_since_last_purchase", "num_products", "item_id"}


def rows_of(folder: Path, name: str) -> list[dict[str, Any]]:
    return pq.read_table(folder / f"{name}.parquet").to_pylist()


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made_up")
    assert write_made_up(3_000, 300, 120, folder, held_out=500) == 2_500
    return folder


def test_made_up_rows_say_what_was_known_before_them(made_up: Path) -> None:
    rows = rows_of(made_up, "interactions") + rows_of(made_up, "held_out")
    assert set(rows[0]) == COLUMNS
    assert [row["event_time_us"] for row in rows] == sorted(row["event_time_us"] for row in rows)
    seen: dict[str, list[int]] = {}
    for row in rows:
        before = seen.setdefault(row["user_id"], [])
        assert row["num_products"] == len(before)
        days = (row["event_time_us"] - before[-1]) / 864e8 if before else None
        assert row["days_since_last_purchase"] == (None if days is None else pytest.approx(days))
        before.append(row["event_time_us"])
    known = {row["item_id"] for row in rows_of(made_up, "products")}
    assert {row["item_id"] for row in rows} <= known


def test_the_shops_rows_are_its_customers_purchases(tmp_path: Path) -> None:
    lines = pq.read_table(INVOICES).slice(0, 20_000)
    pq.write_table(lines, tmp_path / "invoices.parquet")
    num_rows = write_shop(tmp_path / "invoices.parquet", tmp_path / "shop", held_out=100)
    rows = rows_of(tmp_path / "shop", "interactions") + rows_of(tmp_path / "shop", "held_out")
    assert num_rows == len(rows) - 100
    bought = {
        (str(int(line["CustomerID"])), line["StockCode"], line["InvoiceDate"])
        for line in lines.to_pylist()
        if line["CustomerID"] is not None and line["Quantity"] > 0 and line["UnitPrice"] > 0
    }
    assert len(rows) == len(bought)
    assert set(rows[0]) == COLUMNS
    by_user = sorted(rows, key=lambda row: (row["user_id"], row["event_time_us"]))
    for _, group in itertools.groupby(by_user, key=lambda row: row["user_id"]):
        first = next(group)
        assert (first["days_since_last_purchase"], first["num_products"]) == (None, 0)


def test_two_epochs_learn_more_than_chance(made_up: Path) -> None:
    seconds, result = train_two_tower(made_up, batch_size=128, num_threads=1)
    assert seconds > result["transforms_seconds"] > 0
    assert result["num_steps"] == 20
    assert 0.85 < result["recall_at_100"] <= 1  # of 120 products
    assert np.isfinite(result["loss"])


@pytest.mark.parametrize("as_text", [False, True])
def test_made_up_lists_are_distinct_and_measured_alike_with_numbers_and_texts(tmp_path: Path, as_text: bool) -> None:
    recommendations, truth = write_lists(tmp_path, 60, 300, as_text=as_text)
    lists, wanted = pq.read_table(recommendations), pq.read_table(truth)
    assert pa.types.is_string(lists["user_id"].type) == as_text
    pairs = set(zip(lists["user_id"].to_pylist(), lists["item_id"].to_pylist(), strict=True))
    assert len(pairs) == lists.num_rows == 6_000
    sets: dict[Any, set[Any]] = {}
    for row in wanted.to_pylist():
        sets.setdefault(row["user_id"], set()).add(row["item_id"])
    assert max(map(len, sets.values())) <= MAX_WANTED
    near = [row for row in lists.to_pylist() if row["rank"] <= 10]
    recalls = dict.fromkeys(sets, 0.0)
    for row in near:
        recalls[row["user_id"]] += (row["item_id"] in sets[row["user_id"]]) / len(sets[row["user_id"]])
    _, found = evaluate(recommendations, truth)
    assert found["recall@10"] == pytest.approx(np.mean(list(recalls.values())), abs=1e-12)
    assert found["recall@100"] > found["recall@10"] > 0
    assert len(found) == 6 * len(KS)


def test_metrics_that_differ_by_definition_are_not_compared() -> None:
    ours = {"map@5": 0.5, "map@50": 0.5, "recall@5": 0.25}
    assert largest_difference(ours, {"map@5": 0.1, "map@50": 0.5, "recall@5": 0.3}) == (2, pytest.approx(0.05))


@pytest.mark.slow
def test_a_job_runs_by_itself(tmp_path: Path) -> None:
    files = map(str, write_lists(tmp_path, 20, 200, as_text=True))
    sample = run_child([sys.executable, "-m", "benchmarks.performance.training_jobs", "evaluation", *files])
    assert 0 < sample.seconds < 60
    assert set(sample.result) >= {"ndcg@10", "mrr@100"}


def test_peers_are_pinned() -> None:
    assert {"tensorflow-recommenders", "rectools", "implicit"} <= set(peer_libraries())
