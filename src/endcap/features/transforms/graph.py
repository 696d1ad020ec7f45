"""Raw tensor names in, an ONNX preprocessing graph out: the thin builder that each transform's `nodes` writes into."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 20  # StringSplit and StringConcat came with it
ML_OPSET = 4  # LabelEncoder with tensors as attributes
IR_VERSION = 10
MURMUR_DOMAIN = "com.microsoft"
"""Of the one operator that is ONNX Runtime's own."""

MISSING_INT64 = -(2**63)
"""Stands for a missing integer or moment: a tensor holds no null. A missing number is NaN, a missing string empty."""

ONNX_TYPES = {"STRING": TensorProto.STRING, "INT64": TensorProto.INT64, "FLOAT": TensorProto.FLOAT}


class GraphBuilder:
    """Collects nodes and constants under unique names, then seals them as a checked model."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._num_names = 0

    def input(self, name: str, dtype: str, shape: list[int | str | None]) -> str:
        """Declare a graph input; `dtype` is STRING, INT64 or FLOAT. Returns its name."""
        self._inputs.append(helper.make_tensor_value_info(name, ONNX_TYPES[dtype], shape))
        return name

    def output(self, tensor: str, name: str, dtype: str, shape: list[int | str | None]) -> None:
        """Publish `tensor` as the graph output `name`."""
        self._nodes.append(helper.make_node("Identity", [tensor], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, ONNX_TYPES[dtype], shape))

    def constant(self, values: np.ndarray | list[Any]) -> str:
        """Store an array; a list of str becomes a string tensor. Returns its name."""
        name = self._fresh("constant")
        if isinstance(values, list):
            tensor = helper.make_tensor(name, TensorProto.STRING, [len(values)], [v.encode() for v in values])
        else:
            tensor = numpy_helper.from_array(values, name)
        self._constants.append(tensor)
        return name

    def constant_int64(self, values: list[int]) -> str:
        """Store a vector of int64. Returns its name."""
        return self.constant(np.array(values, np.int64))

    def node(self, op: str, inputs: list[str], *, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output; returns the output's name."""
        return self.node_many(op, inputs, 1, domain=domain, **attributes)[0]

    def node_many(
        self, op: str, inputs: list[str], num_outputs: int, *, domain: str = "", **attributes: Any
    ) -> list[str]:
        """Add a node with several outputs; returns their names."""
        outputs = [self._fresh(op) for _ in range(num_outputs)]
        self._nodes.append(helper.make_node(op, inputs, outputs, domain=domain, **attributes))
        return outputs

    def label_encoder(
        self, tensor: str, keys: Sequence[str | int], values: list[int], default: int, *, integers: bool = False
    ) -> str:
        """Map string (or int64) keys to int64 values; keys that aren't there give `default`."""
        if not keys:  # ONNX Runtime wants at least one key
            keys, values = [0 if integers else ""], [default]
        kind = {"keys_int64s" if integers else "keys_strings": list(keys)}
        return self.node(
            "LabelEncoder", [tensor], domain="ai.onnx.ml", values_int64s=values, default_int64=default, **kind
        )

    def build(self) -> onnx.ModelProto:
        """The finished, checked model."""
        graph = helper.make_graph(self._nodes, self._name, self._inputs, self._outputs, self._constants)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
        if any(node.domain == MURMUR_DOMAIN for node in self._nodes):
            opsets.append(helper.make_opsetid(MURMUR_DOMAIN, 1))
        model = helper.make_model(
            graph,
            opset_imports=opsets,
            ir_version=IR_VERSION,
            producer_name="endcap",
        )
        onnx.checker.check_model(model)
        return model

    def _fresh(self, stem: str) -> str:
        self._num_names += 1
        return f"{stem}_{self._num_names}"
