"""The serving benchmark compares answers honestly, and its synthetic release is served by the command it uses."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort
import pyarrow.parquet as pq
import pytest

from benchmarks.performance.open_loop import Outcomes, Phase, drive, due_times
from benchmarks.performance.serving_large import recall_of
from benchmarks.performance.serving_overload import judge
from benchmarks.performance.serving_systems import instance, is_same_answer, our_start, running
from benchmarks.performance.synthetic import Size, add_items, category_name, make_weights, query_graph, write_release
from endcap.contracts.release import ITEMS
from endcap.releases.bundle import open_release
from endcap.serving.predictor import Predictor
from endcap.serving.requests import Recommend

SIZE = Size(num_items=500, dim=8, num_customers=50, num_cities=7, num_age_buckets=4, top_k=10)


def expected_vector(weights: Any, row: dict[str, Any]) -> Any:
    """The tower by hand."""
    customer = weights["customers"].tolist().index(row["customer_id"]) + 1
    city = weights["cities"].tolist().index(row["city"]) + 1
    bucket = int((np.float32(row["age"]) >= weights["age_bounds"]).sum())
    mean, std = weights["age_mean_std"]
    hidden = np.concatenate(
        [
            weights["customer_table"][customer],
            weights["city_table"][city],
            weights["age_table"][bucket],
            [(row["age"] - mean) / std],
        ]
    )
    for layer in range(3):
        hidden = hidden @ weights[f"kernel_{layer}"] + weights[f"bias_{layer}"]
        hidden = np.maximum(hidden, 0) if layer < 2 else hidden
    return hidden


def test_release_is_served_and_right(tmp_path: Path) -> None:
    weights = make_weights(SIZE, seed=1)
    write_release(tmp_path / "release", weights, SIZE, seed=1)
    with running(our_start(tmp_path / "release")) as server:
        row = instance(13, SIZE)
        answer = server.wait_for_answer({"instances": [row]})
        assert server.memory_mib() > 10
        assert server.cpu_seconds() > 0
        recall = recall_of(server, weights, SIZE, 30)
        outcomes = drive(server.port, [Phase(300, 0.5), Phase(100, 0.5)], SIZE.num_customers, SIZE.num_cities, tmp_path)
    scores = weights["candidates"] @ expected_vector(weights, row)
    best = np.argsort(-scores)[: SIZE.top_k]
    assert answer["predictions"][0]["product_ids"] == weights["item_ids"][best].tolist()
    np.testing.assert_allclose(answer["predictions"][0]["scores"], scores[best], rtol=1e-4)
    assert recall == 1.0
    assert outcomes.status.tolist() == [200] * 200
    assert (outcomes.due <= outcomes.sent).all()
    assert (outcomes.sent < outcomes.done).all()


def test_filters_and_exclusions_of_the_load_are_understood(tmp_path: Path) -> None:
    """What predict.lua sends beside the customer, by the columns that `add_items` gives a release."""
    weights = make_weights(SIZE, seed=1)
    write_release(tmp_path / "release", weights, SIZE, seed=1)
    add_items(tmp_path / "release", SIZE, seed=1)
    predictor = Predictor(open_release(tmp_path / "release"))
    limits = {"filter": {"category": category_name(3)}, "exclude": weights["item_ids"][:200].tolist()}
    asked = predictor.decoder.decode(msgspec.json.encode({"instances": [instance(13, SIZE) | limits]}))
    assert isinstance(asked, Recommend)
    assert predictor.retriever is not None
    (found,) = predictor.retriever.recommend(asked.queries, lambda _stage, _seconds, _instances: None)
    items = pq.read_table(tmp_path / "release" / ITEMS, columns=["category"])["category"].to_pylist()
    assert len(found.rows) == SIZE.top_k
    assert all(row >= 200 and items[row] == category_name(3) for row in found.rows.tolist())


def outcomes_of(rows: list[tuple[float, float, int]]) -> Outcomes:
    """Of (due, took, status)."""
    due, took, status = (np.array(column) for column in zip(*rows, strict=True))
    return Outcomes(due, due + 0.001, due + took, status)


def test_overload_judged_by_hand() -> None:
    phases = [Phase(1, 1), Phase(100, 1), Phase(100, 1), Phase(100, 1)]
    rows = [(0.0, 9.0, 200)]
    rows += [(1 + i / 100, 0.02, 200) for i in range(100)]
    rows += [(2 + i / 100, 0.03, 200) if i % 4 == 0 else (2 + i / 100, 0.002, 429) for i in range(99)]
    rows += [(2.99, 5.0, 0)]
    # Refused for a tenth of a second after the overload, slow for a second tenth.
    rows += [(3 + i / 100, 0.002, 429) if i < 10 else (3 + i / 100, 0.5 if i < 20 else 0.02, 200) for i in range(100)]
    found = judge(outcomes_of(rows), phases)
    assert found.normal_p99_ms == pytest.approx(20)
    assert found.overload_p99_ms == pytest.approx(30)
    assert found.refusal_p99_ms == pytest.approx(2)
    assert found.accepted_per_second == 25
    assert (found.num_refused, found.num_failed, found.num_refused_normally) == (74, 1, 0)
    assert found.recovery_seconds == pytest.approx(0.2)
    assert found.client_lag_p99_ms == pytest.approx(1)


def test_due_times_are_even_within_a_phase() -> None:
    assert due_times([Phase(2, 1), Phase(4, 0.5)]).tolist() == [0.0, 0.5, 1.0, 1.25]


def test_turns_of_the_processor_can_be_asked_for_without_rights() -> None:
    code = "from benchmarks.performance.open_loop import ask_for_short_turns; print(ask_for_short_turns())"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert asked.stdout.strip() == str(platform.machine() in ("x86_64", "aarch64"))


def test_query_graph_knows_unseen_values() -> None:
    weights = make_weights(SIZE, seed=2)
    session = ort.InferenceSession(query_graph(weights).SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {
        "customer_id": np.array(["nobody"], dtype=object),
        "city": np.array(["nowhere"], dtype=object),
        "age": np.array([200], dtype=np.float32),
    }
    assert np.isfinite(session.run(["vector"], feeds)[0]).all()


def answer_of(ids: str, scores: list[float]) -> dict[str, Any]:
    return {"product_ids": list(ids), "scores": scores}


def test_equal_answers_and_ties() -> None:
    assert is_same_answer(answer_of("abc", [3, 2, 1]), answer_of("abc", [3, 2.00001, 1]))
    assert not is_same_answer(answer_of("abc", [3, 2, 2]), answer_of("acb", [3, 2, 2]))
    assert not is_same_answer(answer_of("abc", [3, 2, 1]), answer_of("abd", [3, 2, 1]))


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (answer_of("abc", [3, 2, 1]), answer_of("acb", [3, 2, 1])),
        (answer_of("abc", [3, 2, 1]), answer_of("abc", [3, 2, 0.9])),
        (answer_of("abc", [3, 2, 1]), answer_of("adc", [3, 2, 1])),
    ],
)
def test_differences_beyond_ties_are_refused(mine: dict[str, Any], theirs: dict[str, Any]) -> None:
    with pytest.raises(AssertionError, match="differ"):
        is_same_answer(mine, theirs)
