"""A trained model and its fitted transforms in, `query.onnx` and `item.onnx` from raw features to vectors out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import compose
from torch import Tensor, nn

from endcap.contracts.encoded import EncodedColumn, Side
from endcap.contracts.release import History as HistorySpec
from endcap.features.fitted import FittedFeatures
from endcap.features.transforms.graph import IR_VERSION
from endcap.models.segments import PaddedSegments
from endcap.models.towers import History, Products
from endcap.models.two_tower import TwoTower
from endcap.training.torch_nodes import FUNCTIONS
from endcap.training.tracing import Dim, Trace

VECTOR = "vector"
BOOSTS = "history_boosts"
NEIGHBOR_ITEMS = "neighbor_items"
NEIGHBOR_BOOSTS = "neighbor_boosts"
_TOWER = "tower/"
_FEATURES = "features/"


class _QueryGraph(nn.Module):
    """The query side with the catalog of the release's day baked in."""

    def __init__(self, model: TwoTower, columns: Sequence[EncodedColumn], products: Products) -> None:
        super().__init__()
        self._model, self._columns = model, columns
        self._names = [name for column in columns for name in column.tensors]
        self.base_ND: Tensor
        self.numbers_NF: Tensor
        self.register_buffer("base_ND", products.base_ND)
        self.register_buffer("numbers_NF", products.numbers_NF)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        tensors = dict(zip(self._names, inputs, strict=True))
        products = Products(self.base_ND, self.base_ND, self.numbers_NF)
        sequence = next((column for column in self._columns if column.kind == "sequence"), None)
        if sequence is None:
            return (self._model.query(tensors, products, None)[0],)
        item_BL, age_BL, count_BL, *counted = (tensors[name] for name in sequence.tensors)
        counted_EK = torch.stack([x_BL.reshape(-1) for x_BL in counted], 1) if counted else None
        segments = PaddedSegments(item_BL > 0)
        history = History(item_BL.reshape(-1), age_BL.reshape(-1), count_BL.reshape(-1), segments, counted_EK)
        vector_BD, repeat_E = self._model.query(tensors, products, history)
        answers = (vector_BD,) if repeat_E is None else (vector_BD, repeat_E.reshape(item_BL.shape))
        near = self._model.near(history)
        if near is None:
            return answers
        # Rows of the candidates, which lack the unknown product: none is -1.
        wide = (item_BL.shape[0], item_BL.shape[1] * near[0].shape[1])
        return (*answers, near[0].reshape(wide) - 1, near[1].reshape(wide))


class _ItemGraph(nn.Module):
    """The item tower alone, so that a product that nobody has bought yet gets a vector without training."""

    def __init__(self, model: TwoTower, columns: Sequence[EncodedColumn]) -> None:
        super().__init__()
        self._model = model
        self._names = [column.name for column in columns]

    def forward(self, *inputs: Tensor) -> Tensor:
        return self._model.products(dict(zip(self._names, inputs, strict=True))).vector_ND


def export_query(model: TwoTower, fitted: FittedFeatures, products: Products, path: Path) -> None:
    """Write the graph from raw buyer features to `vector` and what `history_spec` names of the history's products and their neighbors."""
    columns = fitted.columns("buyer")
    history = history_spec(fitted, has_boosts=model.has_repeat_head, has_neighbors=model.neighbors is not None)
    outputs = [VECTOR, *(history.outputs if history is not None else [])]
    tower = export_module(_QueryGraph(model.eval(), columns, products), given_columns(columns), outputs)
    _merge(fitted, "buyer", tower, outputs, path)


def export_items(model: TwoTower, fitted: FittedFeatures, path: Path) -> None:
    """Write the graph from raw product features to `vector`."""
    columns = fitted.columns("product")
    tower = export_module(_ItemGraph(model.eval(), columns), given_columns(columns), [VECTOR])
    _merge(fitted, "product", tower, [VECTOR], path)


def item_vectors(products: Products) -> npt.NDArray[np.float32]:
    """Vectors of the known products, in the order of the vocabulary."""
    return np.ascontiguousarray(products.vector_ND[1:].detach().numpy(), dtype=np.float32)


def history_spec(fitted: FittedFeatures, *, has_boosts: bool, has_neighbors: bool = False) -> HistorySpec | None:
    """How the query graph takes histories; None when the FeatureConfig has none."""
    name = fitted.definition.history
    sequence = fitted.definition.buyer[name].sequence if name else None
    if name is None or sequence is None:
        return None
    return HistorySpec(
        items_input=name,
        ages_input=f"{name}_age_days",
        counts_input=f"{name}_count",
        max_length=sequence.max_length,
        boosts_output=BOOSTS if has_boosts else None,
        type_inputs=tuple(f"{name}_num_{event_type}" for event_type in sequence.counted),
        neighbor_items_output=NEIGHBOR_ITEMS if has_neighbors else None,
        neighbor_boosts_output=NEIGHBOR_BOOSTS if has_neighbors else None,
    )


@dataclass(frozen=True)
class Given:
    """An input of a module that is exported: its name in the graph, its type and its dimensions."""

    name: str
    dtype: torch.dtype
    dims: tuple[Dim, ...]


def given_columns(columns: Sequence[EncodedColumn], prefix: str = "") -> list[Given]:
    """Transformed columns as a module takes them; `prefix` goes before their names."""
    given: list[Given] = []
    for column in columns:
        # Bags of one request are of different lengths, the tensors of a sequence are of one.
        length = "length" if column.kind == "sequence" else f"{prefix}{column.name} length"
        for name in column.tensors:
            dtype = torch.int64 if name == column.name and column.kind != "number" else torch.float32
            width: dict[str, tuple[Dim, ...]] = {"index": (), "number": (column.dim,)}
            given.append(Given(prefix + name, dtype, ("batch", *width.get(column.kind, (length,)))))
    return given


def export_module(module: nn.Module, given: Sequence[Given], outputs: Sequence[str]) -> onnx.ModelProto:
    """A module that is done training as a graph."""
    trace = Trace("towers", FUNCTIONS, {**dict(module.named_parameters()), **dict(module.named_buffers())})
    with torch.no_grad():
        answers = module(*(trace.traced_input(one.name, one.dtype, one.dims) for one in given))
    for answer, name in zip(answers if isinstance(answers, tuple) else (answers,), outputs, strict=True):
        trace.publish(answer, name)
    return trace.build()


def _merge(fitted: FittedFeatures, side: Side, tower: onnx.ModelProto, outputs: list[str], path: Path) -> None:
    """Join the preprocessing graph and the tower: one ir_version, one opset, a prefix each."""
    features = fitted.graph(side)
    tower.ir_version = features.ir_version = IR_VERSION
    raw = [value.name for value in features.graph.input]
    tensors = [name for column in fitted.columns(side) for name in column.tensors]
    merged = compose.merge_models(
        compose.add_prefix(features, _FEATURES),
        compose.add_prefix(tower, _TOWER),
        io_map=[(_FEATURES + name, _TOWER + name) for name in tensors],
    )
    finish(merged, {_FEATURES + name: name for name in raw} | {_TOWER + name: name for name in outputs}, path)


def finish(merged: onnx.ModelProto, names: dict[str, str], path: Path) -> None:
    """Give inputs and outputs their public names, say each set of operators once, check, and write."""
    merged.producer_name = "endcap"
    _rename(merged, names)
    # Each part brought its own.
    opsets = {opset.domain: opset for opset in merged.opset_import}
    del merged.opset_import[:]
    merged.opset_import.extend(opsets.values())
    onnx.checker.check_model(merged)
    onnx.save(merged, path)


def _rename(model: onnx.ModelProto, names: dict[str, str]) -> None:
    for value in (*model.graph.input, *model.graph.output):
        value.name = names.get(value.name, value.name)
    # Two parts may take the same raw column.
    inputs = {value.name: value for value in reversed(model.graph.input)}
    if len(inputs) < len(model.graph.input):
        kept = [value for value in model.graph.input if inputs[value.name] is value]
        del model.graph.input[:]
        model.graph.input.extend(kept)
    for node in model.graph.node:
        for tensors in (node.input, node.output):
            for place, name in enumerate(tensors):
                tensors[place] = names.get(name, name)
