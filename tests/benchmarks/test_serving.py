"""The serving benchmark compares answers honestly, and its synthetic release is served by the command it uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from benchmarks.performance.processes import ServerProcess, free_port
from benchmarks.performance.serving import instance, is_same_answer, our_command
from benchmarks.performance.synthetic import Size, make_weights, query_graph, write_release

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
    port = free_port()
    server = ServerProcess("endcap", our_command(tmp_path / "release", port), port, {}, tmp_path / "log", tmp_path)
    try:
        row = instance(13, SIZE)
        answer = server.wait_for_answer({"instances": [row]})
        assert server.memory_mib() > 10
        assert server.cpu_seconds() > 0
    finally:
        server.stop()
    scores = weights["candidates"] @ expected_vector(weights, row)
    best = np.argsort(-scores)[: SIZE.top_k]
    assert answer["predictions"][0]["product_ids"] == weights["item_ids"][best].tolist()
    np.testing.assert_allclose(answer["predictions"][0]["scores"], scores[best], rtol=1e-4)


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
