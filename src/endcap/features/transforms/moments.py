"""Moments in (microseconds since 1970, UTC), their place in periods out: as an index, or as sine and cosine."""

from __future__ import annotations

import math
from functools import cache
from typing import Self

import ibis.expr.types as ir
import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from onnx import TensorProto

from endcap.contracts import features as config
from endcap.features.transforms.graph import MISSING_INT64, GraphBuilder
from endcap.features.transforms.raw import canonical

_DAY_US = 86_400_000_000
_HOUR_US = _DAY_US // 24
_CYCLE_DAYS = 146_097  # 400 years, after which the calendar repeats
_NUM_STEPS: dict[str, int] = {
    "hour": 24, "day_of_week": 7, "day_of_month": 31, "month": 12, "day_of_year": 366, "week": 53
}  # fmt: skip
_THURSDAY = 3  # 1970-01-01; Monday is 0


class Steps(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="steps"):
    """Index of a moment's step in a period, from 1; 0 where the moment is missing."""

    period: str

    @property
    def size(self) -> int:
        """Number of indexes, with the one for missing."""
        return _NUM_STEPS[self.period] + 1

    def apply(self, column: pa.Array) -> pa.Array:
        """Indexes as int64."""
        moments = canonical(column).cast(pa.int64()).fill_null(MISSING_INT64).to_numpy()
        if self.period == "hour":
            step = np.mod(moments // _HOUR_US, 24)
        elif self.period == "day_of_week":
            step = np.mod(moments // _DAY_US + _THURSDAY, 7)
        else:
            step = _calendar(self.period)[np.mod(moments // _DAY_US, _CYCLE_DAYS)].astype(np.int64)
        return pa.array(np.where(moments == MISSING_INT64, 0, step + 1))

    def nodes(self, graph: GraphBuilder, tensor: str) -> str:
        """Integer arithmetic; for the calendar a look-up by the day's place in its 400 years."""
        if self.period == "hour":
            step = _modulo(graph, _floored(graph, tensor, _HOUR_US), 24)
        elif self.period == "day_of_week":
            days = graph.node("Add", [_floored(graph, tensor, _DAY_US), graph.constant_int64([_THURSDAY])])
            step = _modulo(graph, days, 7)
        else:
            place = _modulo(graph, _floored(graph, tensor, _DAY_US), _CYCLE_DAYS)
            found = graph.node("Gather", [graph.constant(_calendar(self.period)), place])
            step = graph.node("Cast", [found], to=TensorProto.INT64)
        index = graph.node("Add", [step, graph.constant_int64([1])])
        missing = graph.node("Equal", [tensor, graph.constant_int64([MISSING_INT64])])
        return graph.node("Where", [missing, graph.constant_int64([0]), index])


class Cyclical(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="cyclical"):
    """Sine and cosine for each period; both 0 where the moment is missing."""

    periods: list[str]

    @classmethod
    def fit(cls, column: ir.Column, spec: config.Cyclical) -> Self:  # noqa: ARG003 - every transform fits alike
        """Nothing to learn."""
        return cls(periods=list(spec.period))

    @property
    def dim(self) -> int:
        """Numbers a row."""
        return 2 * len(self.periods)

    def apply(self, column: pa.Array) -> pa.Array:
        """Fixed-size lists of float32: sine and cosine of each period."""
        parts = [_angles(period)[np.asarray(Steps(period).apply(column))] for period in self.periods]
        numbers = np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
        return pa.FixedSizeListArray.from_arrays(pa.array(numbers.reshape(-1)), self.dim)

    def nodes(self, graph: GraphBuilder, tensor: str) -> str:
        """A look-up by the step: no trigonometry that could differ."""
        parts = [
            graph.node("Gather", [graph.constant(_angles(period)), Steps(period).nodes(graph, tensor)])
            for period in self.periods
        ]
        return graph.node("Concat", parts, axis=1) if len(parts) > 1 else parts[0]


def _angles(period: str) -> npt.NDArray[np.float32]:
    """Sine and cosine by the index of the step."""
    num_steps = _NUM_STEPS[period]
    angles = [2 * math.pi * step / num_steps for step in range(num_steps)]
    return np.array([(0.0, 0.0)] + [(math.sin(angle), math.cos(angle)) for angle in angles], np.float32)


@cache
def _calendar(period: str) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """The period's step on each day of the 400 years from 1970 on."""
    days = np.arange(_CYCLE_DAYS).astype("datetime64[D]")
    months = days.astype("datetime64[M]")
    if period == "month":
        return np.asarray(months.astype(np.int64) % 12, np.uint8)
    if period == "day_of_month":
        return np.asarray((days - months).astype(np.int64), np.uint8)
    day_of_year: npt.NDArray[np.int64] = (days - days.astype("datetime64[Y]")).astype(np.int64)
    return np.asarray(day_of_year // 7, np.uint8) if period == "week" else np.asarray(day_of_year, np.uint16)


def _floored(graph: GraphBuilder, tensor: str, step: int) -> str:
    """Nodes for the quotient, rounded down."""
    zero, divisor = graph.constant_int64([0]), graph.constant_int64([step])
    rest = graph.node("Mod", [tensor, divisor])
    # Div truncates towards zero; flooring by subtracting the rest first would overflow near the smallest integer.
    inexact = graph.node("Not", [graph.node("Equal", [rest, zero])])
    lower = graph.node("And", [graph.node("Less", [tensor, zero]), inexact])
    truncated = graph.node("Div", [tensor, divisor])
    return graph.node("Sub", [truncated, graph.node("Cast", [lower], to=TensorProto.INT64)])


def _modulo(graph: GraphBuilder, tensor: str, size: int) -> str:
    return graph.node("Mod", [tensor, graph.constant_int64([size])])
