"""Boosted trees and fitted transforms in, `rank.onnx` from raw columns to a calibrated prediction out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from onnx import TensorProto

from endcap.contracts.encoded import Side
from endcap.evaluation.rating import Calibration
from endcap.features.fitted import FittedFeatures
from endcap.features.transforms.graph import GraphBuilder
from endcap.features.transforms.numeric import from_int64
from endcap.models.boosted_trees import BoostedTrees
from endcap.training.export_rating import BUYER, LEARNED, PREDICTION, PRODUCT, write_pairs
from endcap.training.rating_columns import SIDES, encoded_of, numbers_of

_RAW: Final = "raw "
_FLOAT_MAX: Final = 3e38


def export_trees(trees: BoostedTrees, fitted: FittedFeatures, calibration: Calibration, path: Path) -> None:
    """Write the graph of pairs; the same inputs and outputs as that of a rating head."""
    graph = GraphBuilder("trees")
    columns: list[str] = []
    raw: dict[str, str] = {}
    taken = {tensor.name for tensor in fitted.raw_inputs("buyer")}
    for side in SIDES:
        types = {tensor.name: tensor.dtype for tensor in fitted.raw_inputs(side)}
        for name in numbers_of(fitted, side):
            public = f"product.{name}" if side == "product" and name in taken else name
            raw[f"{_RAW}{side} {name}"] = public
            tensor = graph.input(f"{_RAW}{side} {name}", types[name], ["batch"])
            columns.append(_column(graph, from_int64(graph, tensor) if types[name] == "INT64" else tensor))
    for side in SIDES:
        columns += _encoded(graph, fitted, side)
    columns += _own(graph, fitted, calibration)
    matrix = graph.node("Concat", columns, axis=1)
    scores = graph.node("TreeEnsembleRegressor", [matrix], domain="ai.onnx.ml", **_ensemble(trees))
    _calibrated(graph, graph.node("Squeeze", [scores, graph.constant_int64([1])]), calibration)
    built = graph.build()
    inputs = [value.name for value in built.graph.input]
    extra = {tensor.name: tensor.name for tensor in fitted.rating_inputs()}
    write_pairs(fitted, built, inputs, raw | extra, path)


def _column(graph: GraphBuilder, tensor: str) -> str:
    return graph.node("Unsqueeze", [tensor, graph.constant_int64([1])])


def _encoded(graph: GraphBuilder, fitted: FittedFeatures, side: Side) -> Iterator[str]:
    prefix = BUYER if side == "buyer" else PRODUCT
    kinds = {column.name: column.kind for column in fitted.columns(side)}
    for name, width in encoded_of(fitted, side).items():
        if kinds[name] == "index":
            tensor = graph.input(prefix + name, "INT64", ["batch"])
            yield _column(graph, graph.node("Cast", [tensor], to=TensorProto.FLOAT))
        else:
            yield graph.input(prefix + name, "FLOAT", ["batch", width])


def _own(graph: GraphBuilder, fitted: FittedFeatures, calibration: Calibration) -> list[str]:
    """Count, age and last learned target of the pair's product in the history, NaN where there is none."""
    item = graph.input(f"{PRODUCT}{fitted.definition.item_id}.embedding", "INT64", ["batch"])
    sequence = next((column for column in fitted.columns("buyer") if column.kind == "sequence"), None)
    nan, zero = (graph.constant(np.array([value], np.float32)) for value in (np.nan, 0.0))
    if sequence is None:
        none = graph.node("Mul", [graph.node("Cast", [item], to=TensorProto.FLOAT), zero])
        return [_column(graph, none), *[_column(graph, graph.node("Add", [none, nan]))] * 2]
    items, ages, counts = (BUYER + name for name in sequence.tensors)
    graph.input(items, "INT64", ["batch", "length"])
    graph.input(ages, "FLOAT", ["batch", "length"])
    graph.input(counts, "FLOAT", ["batch", "length"])
    (last,) = [graph.input(tensor.name, "FLOAT", ["batch", "last length"]) for tensor in fitted.rating_inputs()]
    same = graph.node("Equal", [items, _column(graph, item)])
    known = graph.node("Greater", [items, graph.constant_int64([0])])
    match = graph.node("Cast", [graph.node("And", [same, known])], to=TensorProto.FLOAT)

    def total(values: str) -> str:
        return graph.node("ReduceSum", [graph.node("Mul", [values, match]), graph.constant_int64([1])], keepdims=0)

    count, age = total(counts), total(ages)
    # As many as the history has products, whatever came: a client may give the one without the other.
    empty = graph.node("Mul", [ages, zero])
    length = graph.node("Slice", [graph.node("Shape", [items]), *(graph.constant_int64([n]) for n in (1, 2))])
    aligned = graph.node(
        "Slice",
        [graph.node("Concat", [last, empty], axis=1), graph.constant_int64([0]), length, graph.constant_int64([1])],
    )
    aligned = graph.node("Where", [graph.node("IsNaN", [aligned]), zero, aligned])
    value = total(aligned)
    low, high = (graph.constant(np.array([x], np.float32)) for x in _bounds(calibration))
    learned = graph.node("Min", [graph.node("Max", [value, low]), high])
    if calibration.is_log:
        one = graph.constant(np.ones(1, np.float32))
        learned = graph.node("Log", [graph.node("Add", [graph.node("Max", [learned, zero]), one])])
    learned = graph.node("Where", [graph.node("Equal", [value, zero]), nan, learned])
    has = graph.node("Greater", [count, zero])
    return [_column(graph, count), _column(graph, graph.node("Where", [has, age, nan])), _column(graph, learned)]


def _bounds(calibration: Calibration) -> tuple[float, float]:
    return max(calibration.low, -_FLOAT_MAX), min(calibration.high, _FLOAT_MAX)


def _calibrated(graph: GraphBuilder, scores: str, calibration: Calibration) -> None:
    def constant(value: float) -> str:
        return graph.constant(np.array([value], np.float32))

    line = calibration.line
    learned = graph.node("Add", [graph.node("Mul", [scores, constant(line.slope)]), constant(line.intercept)])
    low, high = _bounds(calibration)
    own = learned
    if calibration.is_log:
        grown = graph.node("Exp", [graph.node("Min", [learned, constant(80.0)])])
        own = graph.node("Sub", [graph.node("Mul", [grown, constant(calibration.smearing)]), constant(1.0)])
        low = max(low, 0.0)
    own = graph.node("Min", [graph.node("Max", [own, constant(low)]), constant(high)])
    graph.output(own, PREDICTION, "FLOAT", ["batch"])
    graph.output(learned, LEARNED, "FLOAT", ["batch"])


def _ensemble(trees: BoostedTrees) -> dict[str, Any]:
    """Attributes of ONNX's TreeEnsembleRegressor: every node of every tree in one list each."""
    lists: dict[str, list[Any]] = {
        name: []
        for name in (
            "nodes_treeids", "nodes_nodeids", "nodes_featureids", "nodes_values", "nodes_modes", "nodes_truenodeids",
            "nodes_falsenodeids", "nodes_missing_value_tracks_true", "target_treeids", "target_nodeids", "target_ids",
            "target_weights",
        )
    }  # fmt: skip
    for number, root in enumerate(trees.trees):
        _write_tree(lists, number, root)
    return {**lists, "n_targets": 1, "aggregate_function": "SUM", "post_transform": "NONE"}


def _write_tree(lists: dict[str, list[Any]], tree: int, root: dict[str, Any]) -> None:
    pending = [(0, root)]
    num_nodes = 1
    while pending:
        place, node = pending.pop()
        is_leaf = "leaf_value" in node
        children = (0, 0) if is_leaf else (num_nodes, num_nodes + 1)
        if not is_leaf:
            num_nodes += 2
            pending += [(children[0], node["left_child"]), (children[1], node["right_child"])]
        else:
            lists["target_treeids"].append(tree)
            lists["target_nodeids"].append(place)
            lists["target_ids"].append(0)
            lists["target_weights"].append(float(node["leaf_value"]))
        for name, value in (
            ("treeids", tree),
            ("nodeids", place),
            ("featureids", 0 if is_leaf else int(node["split_feature"])),
            ("values", 0.0 if is_leaf else _threshold(float(node["threshold"]))),
            ("modes", "LEAF" if is_leaf else "BRANCH_LEQ"),
            ("truenodeids", children[0]),
            ("falsenodeids", children[1]),
            ("missing_value_tracks_true", 0 if is_leaf else int(_missing_goes_left(node))),
        ):
            lists[f"nodes_{name}"].append(value)


def _threshold(value: float) -> float:
    """The largest float32 that isn't above it: a float32 is at most the one when it is at most the other."""
    found = np.float32(np.clip(value, -_FLOAT_MAX, _FLOAT_MAX))
    return float(np.nextafter(found, np.float32(-np.inf)) if float(found) > value else found)


def _missing_goes_left(node: dict[str, Any]) -> bool:
    """Where LightGBM sends what is missing: its learned side, or as a zero where training saw nothing missing."""
    if node["missing_type"] == "NaN":
        return bool(node["default_left"])
    return float(node["threshold"]) >= 0.0
