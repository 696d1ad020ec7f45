"""Moments in (microseconds since 1970, UTC), sine and cosine of their place in a period out."""

from __future__ import annotations

import math
from typing import Self

import ibis.expr.types as ir
import msgspec
import numpy as np
import pyarrow as pa
from onnx import TensorProto

from endcap.contracts import features as config
from endcap.features.transforms.graph import MISSING_INT64, GraphBuilder

_DAY_US = 86_400_000_000


class Cyclical(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="cyclical"):
    """Two numbers a row; both 0 where the moment is missing."""

    period: str

    @classmethod
    def fit(cls, column: ir.Column, spec: config.Cyclical) -> Self:  # noqa: ARG003 - every transform fits alike
        """Nothing to learn."""
        return cls(period=spec.period)

    @property
    def _step_us(self) -> int:
        return _DAY_US if self.period == "day_of_week" else _DAY_US // 24

    @property
    def _num_steps(self) -> int:
        return 7 if self.period == "day_of_week" else 24

    @property
    def _offset(self) -> int:
        return 3 if self.period == "day_of_week" else 0  # 1970-01-01 was a Thursday; Monday is 0

    def apply(self, column: pa.Array) -> pa.Array:
        """Fixed-size lists of two float32: sine, cosine."""
        moments = column.cast(pa.int64()).fill_null(MISSING_INT64).to_numpy()
        steps = np.mod(moments // self._step_us + self._offset, self._num_steps)
        table = self._table()[np.where(moments == MISSING_INT64, self._num_steps, steps)]
        return pa.FixedSizeListArray.from_arrays(pa.array(table.reshape(-1)), 2)

    def nodes(self, graph: GraphBuilder, tensor: str) -> str:
        """Integer arithmetic, then a look-up: no trigonometry that could differ."""
        step, offset = np.array([self._step_us], np.int64), np.array([self._offset], np.int64)
        size, missing = np.array([self._num_steps], np.int64), np.array([MISSING_INT64], np.int64)
        rest = graph.node("Mod", [tensor, graph.constant(step)])
        # Div truncates towards zero; flooring by subtracting the rest first would overflow near the smallest integer.
        zero = graph.constant(np.zeros(1, np.int64))
        inexact = graph.node("Not", [graph.node("Equal", [rest, zero])])
        lower = graph.node("And", [graph.node("Less", [tensor, zero]), inexact])
        truncated = graph.node("Div", [tensor, graph.constant(step)])
        floored = graph.node("Sub", [truncated, graph.node("Cast", [lower], to=TensorProto.INT64)])
        index = graph.node("Mod", [graph.node("Add", [floored, graph.constant(offset)]), graph.constant(size)])
        is_missing = graph.node("Equal", [tensor, graph.constant(missing)])
        index = graph.node("Where", [is_missing, graph.constant(size), index])
        return graph.node("Gather", [graph.constant(self._table()), index])

    def _table(self) -> np.ndarray:
        angles = [2 * math.pi * i / self._num_steps for i in range(self._num_steps)]
        rows = [(math.sin(angle), math.cos(angle)) for angle in angles] + [(0.0, 0.0)]
        return np.array(rows, np.float32)
