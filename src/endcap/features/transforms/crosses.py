"""Indexes of several columns in, the bin of their combination out."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import pyarrow as pa
from onnx import TensorProto

from endcap.features.transforms.graph import GraphBuilder
from endcap.features.transforms.hashing import IntArray, bins_of, bins_of_nodes, mix, mix_nodes


class CrossBins(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="cross"):
    """Bin of each row from 1; 0 where one of the columns is missing or out of vocabulary."""

    num_bins: int

    @property
    def size(self) -> int:
        """Number of indexes, with the one for rows that lack a part."""
        return self.num_bins + 1

    def apply_all(self, columns: Sequence[pa.Array]) -> pa.Array:
        """Bins as int64, from a column of indexes each."""
        indexes: list[IntArray] = [np.asarray(column) for column in columns]
        state = np.zeros(len(indexes[0]), np.int64)
        for index in indexes:
            state = mix(state, index)
        whole = np.all([index > 0 for index in indexes], axis=0)
        return pa.array(np.where(whole, bins_of(state, self.num_bins) + 1, 0))

    def nodes_of_all(self, graph: GraphBuilder, tensors: Sequence[str]) -> str:
        """The same as nodes, from an int64 tensor each."""
        state: str | None = None
        lowest = graph.node("Min", list(tensors))
        for tensor in tensors:
            state = mix_nodes(graph, state, tensor)
        bins = bins_of_nodes(graph, str(state), self.num_bins)
        numbered = graph.node("Add", [bins, graph.constant_int64([1])])
        whole = graph.node("Cast", [graph.node("Greater", [lowest, graph.constant_int64([0])])], to=TensorProto.INT64)
        return graph.node("Mul", [numbered, whole])
