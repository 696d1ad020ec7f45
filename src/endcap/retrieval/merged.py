"""A query graph, candidates and the manifest's retrieval in, one self-contained ONNX graph out: raw features to ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from endcap.contracts.errors import ArtifactError
from endcap.contracts.release import History, Retrieval

IDS_OUTPUT: Final = "product_ids"
SCORES_OUTPUT: Final = "scores"

# Everything added to the query graph is named below this, so that no name meets one of its own.
_PREFIX: Final = "retrieval/"
_ML_DOMAIN: Final = "ai.onnx.ml"
_ML_OPSET: Final = 3
_SCATTER_ADD_OPSET: Final = 16
# One protobuf message holds at most 2 GiB.
_MAX_BYTES: Final = 2**31 - 2**20


def write_merged_graph(
    path: Path,
    query_path: Path,
    vectors: npt.NDArray[np.float32],
    item_ids: Sequence[str] | Sequence[int],
    retrieval: Retrieval,
) -> None:
    """Write the graph of `merge_graph` to `path`."""
    path.write_bytes(merge_graph(query_path, vectors, item_ids, retrieval).SerializeToString())


def merge_graph(
    query_path: Path,
    vectors: npt.NDArray[np.float32],
    item_ids: Sequence[str] | Sequence[int],
    retrieval: Retrieval,
) -> onnx.ModelProto:
    """Extend the graph at `query_path` by exact search over `vectors` (`[num_items, dim]`, float32).

    Inputs: those of the query graph. Outputs: `product_ids` and `scores`, `[batch, top_k]`, best first. Boosts of a
    history's products are added to their scores; products that the catalog lacks, and padding (count 0), add
    nothing. Raises ArtifactError when the graph doesn't have what `retrieval` names.
    """
    model = onnx.load(str(query_path))
    _check_fit(model, query_path, vectors, item_ids, retrieval)
    if model.ByteSize() + vectors.nbytes > _MAX_BYTES:
        raise ArtifactError(
            f"{len(vectors):,} products of {vectors.shape[1]} dimensions do not fit one ONNX file of 2 GiB. "
            "Release without the merged graph."
        )
    graph = model.graph
    history = retrieval.history
    scores = f"{_PREFIX}products"
    _add_constant(graph, "candidates", np.ascontiguousarray(vectors.T))
    graph.node.append(helper.make_node("MatMul", [retrieval.vector_output, f"{_PREFIX}candidates"], [scores]))
    if history is not None and history.outputs:
        scores = _add_boosts(graph, history, item_ids, scores)
        if _ML_DOMAIN not in {opset.domain for opset in model.opset_import}:
            model.opset_import.append(helper.make_opsetid(_ML_DOMAIN, _ML_OPSET))
    _add_constant(graph, "k", np.array([retrieval.top_k], dtype=np.int64))
    ids_type = _add_ids(graph, item_ids)
    graph.node.extend(
        [
            helper.make_node("TopK", [scores, f"{_PREFIX}k"], [SCORES_OUTPUT, f"{_PREFIX}rows"], axis=1),
            helper.make_node("Gather", [f"{_PREFIX}ids", f"{_PREFIX}rows"], [IDS_OUTPUT], axis=0),
        ]
    )
    del graph.output[:]
    shape: list[str | int | None] = ["batch", retrieval.top_k]
    graph.output.extend(
        [
            helper.make_tensor_value_info(IDS_OUTPUT, ids_type, shape),
            helper.make_tensor_value_info(SCORES_OUTPUT, TensorProto.FLOAT, shape),
        ]
    )
    graph.name = "recommend"
    onnx.checker.check_model(model)
    return model


def _named(*names: str) -> list[str]:
    return [_PREFIX + name for name in names]


def _add_boosts(graph: onnx.GraphProto, history: History, item_ids: Sequence[Any], scores: str) -> str:
    """Nodes that add the boosts to the rows of the history's products and of their neighbors; name of the sum."""
    # Unknown products and padding land in one column behind the last product, which is cut off again.
    _add_constant(graph, "pads", np.array([0, 0, 0, 1], dtype=np.int64))
    graph.node.append(helper.make_node("Pad", [scores, *_named("pads")], _named("padded")))
    padded = _PREFIX + "padded"
    if history.boosts_output is not None:
        padded = _add_own(graph, history, history.boosts_output, item_ids, padded)
    if history.neighbor_items_output is not None and history.neighbor_boosts_output is not None:
        # A row of -1 is that last column.
        inputs = [padded, history.neighbor_items_output, history.neighbor_boosts_output]
        padded = _PREFIX + "with_neighbors"
        graph.node.append(helper.make_node("ScatterElements", inputs, [padded], axis=1, reduction="add"))
    _add_constant(graph, "slice_start", np.array([0], dtype=np.int64))
    _add_constant(graph, "slice_end", np.array([len(item_ids)], dtype=np.int64))
    _add_constant(graph, "slice_axis", np.array([1], dtype=np.int64))
    inputs = [padded, *_named("slice_start", "slice_end", "slice_axis")]
    graph.node.append(helper.make_node("Slice", inputs, _named("boosted_products")))
    return f"{_PREFIX}boosted_products"


def _add_own(graph: onnx.GraphProto, history: History, boosts_output: str, item_ids: Sequence[Any], padded: str) -> str:
    num_items = len(item_ids)
    takes_strings = _elem_type(graph, history.items_input) == TensorProto.STRING
    keys: dict[str, Any] = {"keys_strings": list(map(str, item_ids))} if takes_strings else {"keys_int64s": item_ids}
    _add_constant(graph, "zero", np.array(0, dtype=np.float32))
    graph.node.extend(
        [
            helper.make_node(
                "LabelEncoder",
                [history.items_input],
                _named("history_rows"),
                domain=_ML_DOMAIN,
                values_int64s=list(range(num_items)),
                default_int64=num_items,
                **keys,
            ),
            helper.make_node("Cast", [history.counts_input], _named("is_product"), to=TensorProto.BOOL),
            helper.make_node("Where", [*_named("is_product"), boosts_output, *_named("zero")], _named("boosts")),
            helper.make_node(
                "ScatterElements",
                [padded, *_named("history_rows", "boosts")],
                _named("boosted"),
                axis=1,
                reduction="add",
            ),
        ]
    )
    return f"{_PREFIX}boosted"


def _add_ids(graph: onnx.GraphProto, item_ids: Sequence[Any]) -> int:
    """The constant of product ids; its ONNX type."""
    name = f"{_PREFIX}ids"
    if isinstance(item_ids[0], str):
        encoded = [item_id.encode() for item_id in item_ids]
        graph.initializer.append(helper.make_tensor(name, TensorProto.STRING, [len(encoded)], encoded))
        return int(TensorProto.STRING)
    graph.initializer.append(numpy_helper.from_array(np.array(item_ids, dtype=np.int64), name))
    return int(TensorProto.INT64)


def _add_constant(graph: onnx.GraphProto, name: str, value: npt.NDArray[Any]) -> None:
    graph.initializer.append(numpy_helper.from_array(value, _PREFIX + name))


def _elem_type(graph: onnx.GraphProto, input_name: str) -> int:
    return next(int(value.type.tensor_type.elem_type) for value in graph.input if value.name == input_name)


def _check_fit(
    model: onnx.ModelProto,
    query_path: Path,
    vectors: npt.NDArray[np.float32],
    item_ids: Sequence[Any],
    retrieval: Retrieval,
) -> None:
    if vectors.shape != (len(item_ids), retrieval.dim) or len(item_ids) != retrieval.num_items:
        raise ArtifactError(
            f"Candidates of shape {vectors.shape} with {len(item_ids):,} ids; expected {retrieval.num_items:,} x "
            f"{retrieval.dim}. Release again."
        )
    needed_outputs = {retrieval.vector_output}
    needed_inputs: set[str] = set()
    history = retrieval.history
    if history is not None:
        needed_inputs = {history.items_input, history.ages_input, history.counts_input}
        if history.outputs:
            needed_outputs.update(history.outputs)
            opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
            if opset < _SCATTER_ADD_OPSET:
                raise ArtifactError(
                    f"{query_path} has ONNX opset {opset}; boosts need {_SCATTER_ADD_OPSET} or later. Export it again."
                )
    missing = needed_outputs - {value.name for value in model.graph.output}
    missing |= needed_inputs - {value.name for value in model.graph.input}
    if missing:
        raise ArtifactError(
            f"{query_path} lacks {', '.join(sorted(missing))}, which the manifest names. Release again."
        )
