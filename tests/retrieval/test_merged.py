"""The merged graph gives what the query graph and a search over every product give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from endcap.contracts.errors import ArtifactError
from endcap.contracts.release import History, Retrieval
from endcap.retrieval.merged import merge_graph, write_merged_graph

HISTORY = History(
    items_input="user_history",
    ages_input="user_history_age_days",
    counts_input="user_history_count",
    max_length=4,
    boosts_output="boosts",
)


def retrieval_of(num_items: int, dim: int, top_k: int, kind: str, history: History | None) -> Retrieval:
    return Retrieval(
        algorithm="brute_force",
        vector_output="vector",
        dim=dim,
        num_items=num_items,
        top_k=top_k,
        item_id_type=kind,  # type: ignore[arg-type]
        primary_id="user_id",
        history=history,
    )


def write_query_graph(path: Path, rng: Any, dim: int, items_type: int | None) -> None:
    """vector = table[user]; boosts = 0.5 * counts - ages + 3."""
    table = rng.standard_normal((4, dim)).astype(np.float32)
    nodes = [
        helper.make_node(
            "LabelEncoder",
            ["user_id"],
            ["user_row"],
            domain="ai.onnx.ml",
            keys_strings=["ann", "bob", "cyd"],
            values_int64s=[1, 2, 3],
            default_int64=0,
        ),
        helper.make_node("Gather", ["table", "user_row"], ["vector"]),
    ]
    inputs = [helper.make_tensor_value_info("user_id", TensorProto.STRING, ["batch"])]
    outputs = [helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["batch", dim])]
    constants = [numpy_helper.from_array(table, "table")]
    if items_type is not None:
        shape = ["batch", "length"]
        inputs += [
            helper.make_tensor_value_info(HISTORY.items_input, items_type, shape),
            helper.make_tensor_value_info(HISTORY.ages_input, TensorProto.FLOAT, shape),
            helper.make_tensor_value_info(HISTORY.counts_input, TensorProto.INT64, shape),
        ]
        nodes += [
            helper.make_node("Cast", [HISTORY.counts_input], ["counts"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["counts", "half"], ["weighted"]),
            helper.make_node("Sub", ["weighted", HISTORY.ages_input], ["fresh"]),
            helper.make_node("Add", ["fresh", "three"], ["boosts"]),
        ]
        constants += [numpy_helper.from_array(np.float32(0.5), "half"), numpy_helper.from_array(np.float32(3), "three")]
        outputs.append(helper.make_tensor_value_info("boosts", TensorProto.FLOAT, shape))
    graph = helper.make_graph(nodes, "query", inputs, outputs, constants)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))


def expected_of(query: Path, feeds: Any, vectors: Any, ids: Any, k: int) -> tuple[Any, Any]:
    outputs = ort.InferenceSession(str(query), providers=["CPUExecutionProvider"]).run(None, feeds)
    scores = outputs[0] @ vectors.T
    if len(outputs) > 1:
        for b, history in enumerate(feeds[HISTORY.items_input]):
            for place, item in enumerate(history):
                if feeds[HISTORY.counts_input][b, place] and str(item) in list(map(str, ids)):
                    scores[b, list(map(str, ids)).index(str(item))] += outputs[1][b, place]
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.array(ids, dtype=object)[order], np.take_along_axis(scores, order, axis=1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["STRING", "INT64"])
@pytest.mark.parametrize("has_boosts", [False, True])
def test_equals_its_parts(tmp_path: Path, seed: int, kind: str, has_boosts: bool) -> None:
    rng = np.random.default_rng(seed)
    num_items, dim, k = int(rng.integers(5, 60)), int(rng.integers(2, 9)), int(rng.integers(1, 6))
    ids: list[Any] = [f"p{n}" for n in range(num_items)] if kind == "STRING" else list(range(num_items))
    vectors = rng.standard_normal((num_items, dim)).astype(np.float32)
    # Integer ids start at 0, which is also what pads them.
    items_type = {"STRING": TensorProto.STRING, "INT64": TensorProto.INT64}[kind] if has_boosts else None
    query = tmp_path / "query.onnx"
    write_query_graph(query, rng, dim, items_type)
    feeds: dict[str, Any] = {"user_id": np.array(["ann", "nobody", "cyd"], dtype=object)}
    if has_boosts:
        picked = np.array([rng.permutation(num_items)[:4] for _ in range(3)])
        items = np.array(
            [[ids[row] for row in rows] for rows in picked], dtype=object if kind == "STRING" else np.int64
        )
        counts = rng.integers(1, 5, (3, 4))
        items[1, 2:] = "" if kind == "STRING" else 0
        counts[1, 2:] = 0
        items[2, 0] = "gone" if kind == "STRING" else 10**9
        feeds[HISTORY.items_input] = items
        feeds[HISTORY.ages_input] = rng.random((3, 4)).astype(np.float32)
        feeds[HISTORY.counts_input] = counts
    retrieval = retrieval_of(num_items, dim, k, kind, HISTORY if has_boosts else None)
    write_merged_graph(tmp_path / "model.onnx", query, vectors, ids, retrieval)
    session = ort.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    found_ids, found_scores = session.run(["product_ids", "scores"], feeds)
    expected_ids, expected_scores = expected_of(query, feeds, vectors, ids, k)
    assert found_ids.tolist() == expected_ids.tolist()
    np.testing.assert_allclose(found_scores, expected_scores, rtol=1e-5, atol=1e-6)


def test_names_what_the_graph_lacks(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    write_query_graph(tmp_path / "query.onnx", rng, 3, None)
    vectors = rng.standard_normal((4, 3)).astype(np.float32)
    with pytest.raises(ArtifactError, match="lacks boosts, user_history, user_history_age_days, user_history_count"):
        merge_graph(tmp_path / "query.onnx", vectors, list("abcd"), retrieval_of(4, 3, 2, "STRING", HISTORY))
    with pytest.raises(ArtifactError, match=r"shape \(4, 3\) with 3 ids"):
        merge_graph(tmp_path / "query.onnx", vectors, list("abc"), retrieval_of(4, 3, 2, "STRING", None))


def test_neighbors_add_to_the_rows_that_they_name(tmp_path: Path) -> None:
    vectors = np.array([[1], [2], [3], [4]], np.float32)
    inputs = [
        helper.make_tensor_value_info("user_id", TensorProto.STRING, ["batch"]),
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1]),
        helper.make_tensor_value_info("near", TensorProto.INT64, ["batch", "wide"]),
        helper.make_tensor_value_info("more", TensorProto.FLOAT, ["batch", "wide"]),
    ]
    pairs = {"x": "vector", "near": "neighbor_items", "more": "neighbor_boosts"}
    outputs = [
        helper.make_tensor_value_info(pairs[value.name], value.type.tensor_type.elem_type, ["batch", None])
        for value in inputs[1:]
    ]
    histories = [
        helper.make_tensor_value_info(name, kind, ["batch", "length"])
        for name, kind in (
            (HISTORY.items_input, TensorProto.STRING),
            (HISTORY.ages_input, TensorProto.FLOAT),
            (HISTORY.counts_input, TensorProto.INT64),
        )
    ]
    nodes = [helper.make_node("Identity", [name], [output]) for name, output in pairs.items()]
    graph = helper.make_graph(nodes, "query", [*inputs, *histories], outputs)
    query = tmp_path / "query.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), str(query))
    history = History(
        HISTORY.items_input, HISTORY.ages_input, HISTORY.counts_input, 4,
        neighbor_items_output="neighbor_items", neighbor_boosts_output="neighbor_boosts",
    )  # fmt: skip
    write_merged_graph(tmp_path / "model.onnx", query, vectors, list("abcd"), retrieval_of(4, 1, 4, "STRING", history))
    session = ort.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    feeds = {
        "user_id": np.array(["ann"], object), "x": np.ones((1, 1), np.float32), "near": np.array([[1, 0, 1, -1]]),
        "more": np.array([[2, 0.5, 2, 99]], np.float32), HISTORY.items_input: np.array([["b"]], object),
        HISTORY.ages_input: np.zeros((1, 1), np.float32), HISTORY.counts_input: np.ones((1, 1), np.int64),
    }  # fmt: skip
    ids, scores = session.run(["product_ids", "scores"], feeds)
    assert ids.tolist() == [["b", "d", "c", "a"]]
    assert scores.tolist() == [[6.0, 4.0, 3.0, 1.5]]
