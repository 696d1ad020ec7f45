"""Releases with integer products, lists as features and damaged parts; histories by hand."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper

from endcap.contracts.errors import ArtifactError
from endcap.contracts.release import (
    FORMAT_VERSION,
    MANIFEST,
    Blessing,
    History,
    Lineage,
    ReleaseManifest,
    Retrieval,
    Signature,
    Tensor,
)
from endcap.releases.bundle import describe_files, encode_manifest, open_release
from endcap.retrieval.build import write_candidates
from endcap.serving.buyers import distinct_history
from endcap.serving.instances import Query
from endcap.serving.predictor import Predictor

OUTPUTS = [
    Tensor(name="product_ids", dtype="INT64", shape=[-1, 2]),
    Tensor(name="scores", dtype="FLOAT", shape=[-1, 2]),
]
INPUTS = [
    Tensor(name="user_id", dtype="INT64", shape=[-1]),
    Tensor(name="tastes", dtype="FLOAT", shape=[-1, 2], required=False, default=0.5),
]
HISTORY = History(
    items_input="items", ages_input="ages", counts_input="counts", max_length=3, boosts_output="counts_out"
)


def write_release(folder: Path, inputs: list[Tensor] = INPUTS, users: Any = None, **changes: Any) -> Path:
    """vector = tastes + 0 * user_id; boosts = counts; products 10, 20, 30 at (1, 0), (0, 1), (-1, -1)."""
    folder.mkdir()
    nodes = [
        helper.make_node("Identity", ["tastes"], ["vector"]),
        helper.make_node("Cast", ["counts"], ["counts_out"], to=TensorProto.FLOAT),
        helper.make_node("Identity", ["user_id"], ["user_id_out"]),
        helper.make_node("Identity", ["items"], ["items_out"]),
        helper.make_node("Identity", ["ages"], ["ages_out"]),
    ]
    ends = {
        "user_id": (TensorProto.INT64, ["batch"]),
        "tastes": (TensorProto.FLOAT, ["batch", 2]),
        "items": (TensorProto.STRING, ["batch", "length"]),
        "ages": (TensorProto.FLOAT, ["batch", "length"]),
        "counts": (TensorProto.INT64, ["batch", "length"]),
    }
    outputs = [helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["batch", 2])]
    outputs.append(helper.make_tensor_value_info("counts_out", TensorProto.FLOAT, ["batch", "length"]))
    outputs += [helper.make_tensor_value_info(f"{name}_out", *ends[name]) for name in ("user_id", "items", "ages")]
    graph = helper.make_graph(
        nodes, "query", [helper.make_tensor_value_info(name, *end) for name, end in ends.items()], outputs
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(model, str(folder / "query.onnx"))
    write_candidates(folder, [10, 20, 30], np.array([[1, 0], [0, 1], [-1, -1]], dtype=np.float32))
    if users is not None:
        pq.write_table(pa.table(users), folder / "features.parquet")
    retrieval = Retrieval(
        algorithm="brute_force",
        vector_output="vector",
        dim=2,
        num_items=3,
        top_k=2,
        item_id_type="INT64",
        primary_id="user_id",
        history=HISTORY,
    )
    manifest = ReleaseManifest(
        format_version=FORMAT_VERSION,
        name="tiny",
        created_at="",
        as_of="",
        files=describe_files(folder),
        signatures={"serving_default": Signature(inputs=inputs, outputs=changes.pop("outputs", OUTPUTS))},
        retrieval=msgspec.structs.replace(retrieval, **changes),
        lineage=Lineage(run_id="", git_sha="", seed=0, data_versions={}, configuration={}, library_versions={}),
        metrics={},
        blessing=Blessing(status="BLESSED", reasons=[]),
    )
    (folder / MANIFEST).write_bytes(encode_manifest(manifest))
    return folder


def answers(folder: Path, *instances: dict[str, Any]) -> list[tuple[list[int], list[float]]]:
    predictor = Predictor(open_release(folder))
    predictor.warm()
    queries = predictor.decoder.decode(msgspec.json.encode({"instances": instances})).queries
    retriever = predictor.retriever
    assert retriever is not None
    found = retriever.recommend(queries, lambda _stage, _seconds, _instances: None)
    return [
        (retriever.item_ids[recommendation.rows].tolist(), recommendation.scores.tolist()) for recommendation in found
    ]


def test_threads_that_ask_at_once_get_what_each_asked(tmp_path: Path) -> None:
    retriever = Predictor(open_release(write_release(tmp_path / "r"))).retriever
    assert retriever is not None
    wrong: list[int] = []

    def ask(number: int) -> None:
        direction = [1.0, 0.0] if number % 2 else [0.0, 1.0]
        for _ in range(200):
            (found,) = retriever.recommend([Query([1, direction], 1)], lambda _stage, _seconds, _instances: None)
            if found.rows.tolist() != [1 - number % 2]:
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_integer_products_and_list_features(tmp_path: Path) -> None:
    folder = write_release(tmp_path / "r")
    found = answers(
        folder,
        {"user_id": 1, "tastes": [3, 2]},
        {"user_id": 1, "tastes": [3, 2], "user_history": [30, 30, 99, 30, 20]},
        {"user_id": 1, "tastes": [3, 2], "exclude": [10, 77]},
    )
    assert found == [([10, 20], [3.0, 2.0]), ([10, 20], [3.0, 3.0]), ([20, 30], [2.0, -5.0])]


def test_snapshot_of_lists(tmp_path: Path) -> None:
    users = {
        "user_id": [7, 8],
        "tastes": pa.array([[0.0, 4.0], None], pa.list_(pa.float64())),
        "items": [[30], None],
        "ages": [[1.0], None],
        "counts": [[9], None],
    }
    found = answers(write_release(tmp_path / "r", users=users), {"user_id": 7}, {"user_id": 8, "tastes": [1, 0]})
    assert found == [([30, 20], [5.0, 4.0]), ([10, 20], [1.0, 0.0])]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 3}, "candidates are 3 x 2, the manifest says 3 x 3"),
        ({"item_id_type": "STRING"}, "ids is not STRING"),
        ({"vector_output": "embedding"}, "lacks the output embedding"),
        ({"history": None}, "takes items \\(STRING\\), the manifest says nothing of it"),
        ({"inputs": [INPUTS[0]]}, "takes tastes \\(FLOAT\\), the manifest says nothing of it"),
        ({"inputs": [*INPUTS, Tensor(name="city", dtype="STRING", shape=[-1])]}, "does not take city"),
        ({"users": {"tastes": [[1.0, 2.0]]}}, "lacks the column user_id; it has tastes"),
        ({"users": {"user_id": [1, 1]}}, "2 rows for 1 users"),
        ({"users": {"user_id": ["x"]}}, "can't be read as a snapshot"),
        ({"users": {"user_id": [1], "items": [[10]]}}, "has a part of items, ages, counts"),
    ],
)
def test_parts_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = write_release(tmp_path / "r", **changes)
    with pytest.raises(ArtifactError, match=message):
        Predictor(open_release(folder))


def test_distinct_history_by_hand() -> None:
    history = distinct_history(["a", "b", "a", "c", "d", "b", "b"], 3)
    assert history.items == ["c", "d", "b"]
    assert history.counts == [1.0, 1.0, 3.0]
    assert history.ages == [0.0, 0.0, 0.0]
    assert history.values == [0.0, 0.0, 0.0]
    assert distinct_history([], 3) == ([], [], [], [], ())
