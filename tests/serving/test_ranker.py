"""Parts of a ranking release that don't fit each other are refused at the start; ids may be integers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from endcap.contracts.errors import ArtifactError
from endcap.contracts.release import ITEMS, QUERY_GRAPH, RANK_GRAPH, ProductInput, Ranking, Signature, Tensor
from endcap.releases.bundle import open_release
from endcap.serving.errors import RequestError
from endcap.serving.predictor import Predictor
from tests.serving import pairs
from tests.serving.conftest import HISTORY, INPUTS, RETRIEVAL_SIGNATURE, seal, write_ranking_release, write_retrieval

SIGNATURE = pairs.signature_of(INPUTS)


def resealed(folder: Path, ranking: Ranking | None = None, **parts: Any) -> Path:
    """A ranking release in which the given columns of the products, or the graph's output, are others."""
    write_ranking_release(folder)
    if "output" in parts:
        onnx.save(pairs.rank_graph(INPUTS, HISTORY, parts.pop("output")), str(folder / RANK_GRAPH))
    pairs.write_items(folder / ITEMS, **parts)
    signatures = dict.fromkeys(("serving_default", "serve_ranking"), SIGNATURE)
    seal(folder, None, signatures, ranking or pairs.ranking_of(HISTORY))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"price": None}, r"items\.parquet lacks price, which rank\.onnx takes"),
        ({"item_id": ["p1"] * 10}, "10 rows for 1 products"),
        ({"price": ["dear"] * 10}, "can't be read as the products' features"),
        ({"output": "score"}, r"rank\.onnx lacks the output prediction"),
    ],
)
def test_parts_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        Predictor(open_release(resealed(tmp_path / "r", **changes)))


def test_inputs_that_the_graph_does_not_take_are_refused(tmp_path: Path) -> None:
    ranking = pairs.ranking_of(HISTORY)
    more = msgspec.structs.replace(
        ranking, product_inputs=[*ranking.product_inputs, ProductInput(Tensor("size", "FLOAT", [-1]), "price")]
    )
    with pytest.raises(ArtifactError, match=r"rank\.onnx does not take size"):
        Predictor(open_release(resealed(tmp_path / "r", more)))


def test_both_signatures_must_tell_of_customers_alike(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    retrieval = write_retrieval(folder)
    onnx.save(pairs.rank_graph(INPUTS, HISTORY), str(folder / RANK_GRAPH))
    pairs.write_items(folder / ITEMS)
    signatures = {"serving_default": RETRIEVAL_SIGNATURE, "serve_ranking": pairs.signature_of(INPUTS[::-1])}
    seal(folder, retrieval, signatures, pairs.ranking_of(HISTORY))
    with pytest.raises(ArtifactError, match="tell of customers by different inputs"):
        Predictor(open_release(folder))
    assert (folder / QUERY_GRAPH).is_file()


def test_ids_may_be_integers(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    folder.mkdir()
    ends = {"user_id": TensorProto.STRING, "item_id": TensorProto.INT64, "price": TensorProto.FLOAT}
    nodes = [
        helper.make_node("Cast", ["item_id"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["number", "price"], ["prediction"]),
    ]
    graph = helper.make_graph(
        nodes,
        "rank",
        [helper.make_tensor_value_info(name, kind, ["batch"]) for name, kind in ends.items()],
        [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, ["batch"])],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), str(folder / RANK_GRAPH)
    )
    pairs.write_items(folder / ITEMS, item_id=list(range(10)))
    products = [ProductInput(Tensor("item_id", "INT64", [-1]), "item_id"), pairs.PRODUCT_INPUTS[2]]
    ranking = Ranking("prediction", "value", "", "user_id", "item_id", "INT64", products)
    signature = Signature([INPUTS[0], *(one.tensor for one in products)], [])
    seal(folder, None, dict.fromkeys(("serving_default", "serve_ranking"), signature), ranking)
    predictor = Predictor(open_release(folder))
    predictor.warm()
    assert predictor.ranker is not None
    asked = {"instances": [{"user_id": "ann", "item_id": [3, 9, 70], "price": [None, 0.25, 2]}]}
    queries = predictor.decoder.decode(msgspec.json.encode(asked)).queries
    (scores,) = predictor.ranker.score(queries, lambda _stage, _seconds, _instances: None)  # type: ignore[arg-type]
    assert scores.tolist() == np.float32([6.5, 9.25, 72]).tolist()
    for mixed in ([3, "9"], "3", [3.0], [True]):
        with pytest.raises(RequestError, match="expected a product id, an integer; found"):
            predictor.decoder.decode(msgspec.json.encode({"instances": [{"user_id": "ann", "item_id": mixed}]}))
