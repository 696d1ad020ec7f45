"""Products added while a release is served are found as if it had them, or refused by place."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper, numpy_helper

from endcap.contracts.release import ITEM_GRAPH, ITEMS, MANIFEST, ReleaseManifest
from endcap.releases.bundle import describe_files, encode_manifest, open_release
from endcap.serving import additions
from endcap.serving.answers import PredictWork
from endcap.serving.errors import RequestError
from endcap.serving.metrics import ModelCounts
from endcap.serving.predictor import Predictor
from tests.serving.test_predictor import write_release as write_tiny

MISSING = -(2**63)


def item_graph() -> onnx.ModelProto:
    """vector = (price, or 0.5 when it is missing; weight, or 0 when it is missing); item_id and tags change nothing."""
    nodes = [
        helper.make_node("IsNaN", ["price"], ["no_price"]),
        helper.make_node("Where", ["no_price", "half", "price"], ["known_price"]),
        helper.make_node("Equal", ["weight", "missing"], ["no_weight"]),
        helper.make_node("Cast", ["weight"], ["weight_float"], to=TensorProto.FLOAT),
        helper.make_node("Where", ["no_weight", "zero", "weight_float"], ["known_weight"]),
        helper.make_node("Unsqueeze", ["known_price", "one"], ["price_column"]),
        helper.make_node("Unsqueeze", ["known_weight", "one"], ["weight_column"]),
        helper.make_node("Concat", ["price_column", "weight_column"], ["vector"], axis=1),
        helper.make_node("Identity", ["item_id"], ["item_id_out"]),
        helper.make_node("Identity", ["tags"], ["tags_out"]),
    ]
    ends = {
        "item_id": (TensorProto.STRING, ["batch"]),
        "price": (TensorProto.FLOAT, ["batch"]),
        "weight": (TensorProto.INT64, ["batch"]),
        "tags": (TensorProto.STRING, ["batch", "length"]),
    }
    outputs = [helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["batch", 2])]
    outputs += [helper.make_tensor_value_info(f"{name}_out", *ends[name]) for name in ("item_id", "tags")]
    constants = {"half": np.float32(0.5), "zero": np.float32(0), "missing": np.int64(MISSING), "one": np.array([1])}
    graph = helper.make_graph(
        nodes,
        "item",
        [helper.make_tensor_value_info(name, *end) for name, end in ends.items()],
        outputs,
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def write_release(folder: Path, graph: onnx.ModelProto | None = None) -> Path:
    """The tiny release (10 at (1, 0), 20 at (0, 1), 30 at (-1, -1); the query's vector is `tastes`) with item.onnx."""
    write_tiny(folder)
    onnx.save(graph or item_graph(), str(folder / ITEM_GRAPH))
    items = {"item_id": [10, 20, 30], "category": ["a", "b", "a"], "price": [1.0, 2.0, 3.0], "in_stock": [True] * 3}
    pq.write_table(pa.table(items), folder / ITEMS)
    manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=ReleaseManifest)
    (folder / MANIFEST).write_bytes(encode_manifest(msgspec.structs.replace(manifest, files=describe_files(folder))))
    return folder


@pytest.fixture
def predictor(tmp_path: Path) -> Predictor:
    return Predictor(open_release(write_release(tmp_path / "r")))


def ask(predictor: Predictor, **asked: Any) -> list[tuple[int, float]]:
    """Ids and scores of one customer's answer, read from its JSON."""
    work = PredictWork(predictor, ModelCounts())
    instance = {"user_id": 1, "tastes": [1.0, 0.1]} | asked
    (body,) = work([predictor.decoder.decode(msgspec.json.encode({"instances": [instance]}))])
    assert isinstance(body, bytes)
    (answer,) = orjson.loads(body)["predictions"]
    return [(one, round(score, 4)) for one, score in zip(answer["product_ids"], answer["scores"], strict=True)]


def refusal(predictor: Predictor, items: Any) -> str:
    with pytest.raises(RequestError) as refused:
        predictor.add_items(items)
    assert refused.value.status == 400
    return refused.value.message


def test_added_products_stand_among_the_others(predictor: Predictor) -> None:
    assert ask(predictor, k=3) == [(10, 1.0), (20, 0.1), (30, -1.1)]
    assert predictor.add_items([{"item_id": 40, "price": 0.75, "weight": 1}, {"item_id": 50, "weight": 2}]) == 2
    # 40 at (0.75, 1), 50 at (0.5, 2).
    assert ask(predictor, k=5) == [(10, 1.0), (40, 0.85), (50, 0.7), (20, 0.1), (30, -1.1)]
    assert ask(predictor, k=1) == [(10, 1.0)]
    assert ask(predictor, exclude=[40, 10, 77], k=2) == [(50, 0.7), (20, 0.1)]
    assert ask(predictor, only=[50, 30, 77], k=5) == [(50, 0.7), (30, -1.1)]


def test_filters_know_what_was_said_of_them(predictor: Predictor) -> None:
    items = [
        {"item_id": 40, "price": 9, "category": "a > b", "in_stock": False},
        {"item_id": 50, "weight": 2, "in_stock": True},
    ]
    predictor.add_items(items)
    assert ask(predictor, filter={"category": "a"}, k=5) == [(40, 9.0), (10, 1.0), (30, -1.1)]
    assert ask(predictor, filter={"price": {"min": 3}}, k=5) == [(40, 9.0), (30, -1.1)]
    assert ask(predictor, filter={"in_stock": True}, k=2) == [(10, 1.0), (50, 0.7)]
    assert ask(predictor, filter={"in_stock": False}, k=5) == [(40, 9.0)]
    assert ask(predictor, filter={"category": "a"}, only=[40, 20], exclude=[10], k=5) == [(40, 9.0)]


def test_an_id_of_the_release_is_replaced_and_keeps_its_boosts(predictor: Predictor) -> None:
    assert ask(predictor, k=3, user_history=[20, 20])[0] == (20, 2.1)
    predictor.add_items([{"item_id": 20, "price": 3}])
    assert ask(predictor, k=3) == [(20, 3.0), (10, 1.0), (30, -1.1)]
    assert ask(predictor, k=3, user_history=[20, 20])[0] == (20, 5.0)
    assert ask(predictor, k=3, user_history=[20], exclude=[20]) == [(10, 1.0), (30, -1.1)]
    predictor.add_items([{"item_id": 20, "price": 0}])
    assert ask(predictor, k=3) == [(10, 1.0), (20, 0.0), (30, -1.1)]
    assert predictor.added_items == [{"item_id": 20, "price": 0}]


def test_added_products_in_a_history_are_passed_over(predictor: Predictor) -> None:
    predictor.add_items([{"item_id": 40, "price": 0.75}])
    assert ask(predictor, k=2, user_history=[40, 10, 40]) == [(10, 2.0), (40, 0.75)]


def test_ties_go_to_the_release_then_to_what_was_added_first(predictor: Predictor) -> None:
    predictor.add_items([{"item_id": 60, "price": 1}, {"item_id": 50, "price": 1}])
    assert ask(predictor, k=3) == [(10, 1.0), (60, 1.0), (50, 1.0)]
    assert ask(predictor, k=2) == [(10, 1.0), (60, 1.0)]


def test_k_may_be_as_many_as_there_are(predictor: Predictor) -> None:
    with pytest.raises(RequestError, match="expected 1 to 3"):
        ask(predictor, k=4)
    predictor.add_items([{"item_id": 40, "price": 2}, {"item_id": 10, "price": 2}])
    assert len(ask(predictor, k=4)) == 4
    with pytest.raises(RequestError, match="expected 1 to 4"):
        ask(predictor, k=5)


def test_another_version_is_given_what_it_lacks(predictor: Predictor, tmp_path: Path) -> None:
    predictor.add_items([{"item_id": 40, "price": 2}, {"item_id": 10, "price": 5}])
    other = Predictor(open_release(write_release(tmp_path / "other")))
    assert other.add_items(predictor.added_items, replace=False) == 1
    assert ask(other, k=2) == [(40, 2.0), (10, 1.0)]
    assert other.add_items([{"item_id": 10, "price": 5}], replace=False) == 0


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ({"item_id": 1}, "items: expected a list of objects, one a product; found an object."),
        ([], "items: expected a list of objects, one a product; found an empty list."),
        ([7], "items[0]: expected an object; found an integer."),
        (
            [{"price": 1}],
            "items[0]: missing item_id. A product takes: item_id (INT64); optional: price (FLOAT), weight",
        ),
        ([{"item_id": "x", "price": 1}], "items[0].item_id: expected a product id, an integer; found a string."),
        ([{"item_id": 2**63, "price": 1}], "items[0].item_id: expected an integer of 64 bits; found a larger one."),
        ([{"item_id": 4, "pric": 1}], "items[0]: unknown feature 'pric'. Did you mean price? A product takes:"),
        ([{"item_id": 4, "price": "1"}], "items[0].price: expected a number (FLOAT); found a string."),
        ([{"item_id": 4, "price": 1}, {"item_id": 5, "weight": 1.5}], "items[1].weight: expected an integer (INT64)"),
        ([{"item_id": 4, "tags": "red"}], "items[0].tags: expected a list of STRING; found a string."),
        (
            [{"item_id": 4, "price": 1, "category": 3}],
            "items[0].category: expected a category's name; found an integer.",
        ),
        ([{"item_id": 4, "price": 1, "in_stock": "yes"}], "items[0].in_stock: expected true or false; found a string."),
        ([{"item_id": 4}], "items[0]: says nothing of the product but its id."),
        ([{"item_id": 4, "price": 1}, {"item_id": 4, "price": 2}], "items[1].item_id: the id of items[0] again."),
    ],
)
def test_what_is_wrong_is_refused_by_place_and_nothing_is_added(predictor: Predictor, items: Any, said: str) -> None:
    assert said in refusal(predictor, items)
    assert predictor.added_items == []
    assert ask(predictor, k=1) == [(10, 1.0)]


def test_there_is_a_bound(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(additions, "MAX_ADDED", 2)
    predictor.add_items([{"item_id": 40, "price": 1}, {"item_id": 50, "price": 1}])
    assert "at most 2 products beside the release's; found 3" in refusal(predictor, [{"item_id": 60, "price": 1}])
    predictor.add_items([{"item_id": 50, "price": 2}])
    assert "expected at most 2 products; found 3" in refusal(predictor, [{}, {}, {}])


def test_a_vector_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    graph = item_graph()
    graph.graph.node[7].output[0] = "halved"
    graph.graph.node.append(helper.make_node("Div", ["halved", "nothing"], ["vector"]))
    graph.graph.initializer.append(numpy_helper.from_array(np.float32(0), "nothing"))
    predictor = Predictor(open_release(write_release(tmp_path / "r", graph)))
    assert "items[0]: its features give no finite vector" in refusal(predictor, [{"item_id": 4, "price": 1}])


def test_releases_that_take_no_products_say_so(tmp_path: Path, ranking_release: Path) -> None:
    without = Predictor(open_release(write_tiny(tmp_path / "r")))
    assert "This release has no item.onnx" in refusal(without, [{"item_id": 4, "price": 1}])
    assert without.added_items == []
    ranking = Predictor(open_release(ranking_release))
    assert "only scores given products" in refusal(ranking, [{"item_id": "4", "price": 1}])


def test_products_are_added_while_others_are_asked_for(predictor: Predictor) -> None:
    is_over = threading.Event()
    wrong: list[Any] = []

    def keep_asking() -> None:
        while not is_over.is_set():
            found = ask(predictor, k=3)
            # Each added one is at its number; the best are always the three added last, or the release's.
            if [score for _, score in found] != sorted((score for _, score in found), reverse=True):
                wrong.append(found)
            wrong.extend((item_id, score) for item_id, score in found if item_id > 100 and score != item_id)

    threads = [threading.Thread(target=keep_asking) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(101, 141):
        predictor.add_items([{"item_id": number, "price": number}])
    is_over.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert ask(predictor, k=3) == [(140, 140.0), (139, 139.0), (138, 138.0)]
