"""Numbers in, bounded, logged, normalized or bucketed numbers out.

Everything is float32, as in the graph; missing is NaN and stays NaN until `Normalize` or `Bucketize` gives it a place.
"""

from __future__ import annotations

import math
from typing import Self

import ibis
import ibis.expr.types as ir
import msgspec
import numpy as np
import pyarrow as pa
from onnx import TensorProto

from endcap.contracts import features as config
from endcap.features.transforms.base import aggregate
from endcap.features.transforms.graph import MISSING_INT64, GraphBuilder
from endcap.features.transforms.raw import canonical

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_SUM_LIMIT = 1e9  # keeps the exact decimal sums below within 38 digits


def to_float32(column: pa.Array) -> np.ndarray:
    """A numeric Arrow column as float32; null becomes NaN."""
    values = canonical(column).cast(pa.float64(), safe=False)
    with np.errstate(over="ignore"):
        return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float64).astype(np.float32)


def from_int64(graph: GraphBuilder, tensor: str) -> str:
    """Nodes that turn an int64 tensor into float32, a missing integer into NaN."""
    missing = graph.node("Equal", [tensor, graph.constant(np.array([MISSING_INT64], np.int64))])
    nan = graph.constant(np.array([np.nan], np.float32))
    # By way of float64, as `to_float32` goes: a direct conversion may round otherwise.
    wide = graph.node("Cast", [tensor], to=TensorProto.DOUBLE)
    return graph.node("Where", [missing, nan, graph.node("Cast", [wide], to=TensorProto.FLOAT)])


class Clip(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="clip"):
    """Numbers between two bounds; NaN passes."""

    low: float
    high: float

    @classmethod
    def fit(cls, column: ir.NumericColumn, spec: config.Clip) -> Self:
        """Exact quantiles of the finite values; a column without any is not bounded."""
        finite = _finite(column)
        low, high = aggregate(finite.quantile(spec.p_low)), aggregate(finite.quantile(spec.p_high))
        if low is None or high is None:
            return cls(low=-_FLOAT32_MAX, high=_FLOAT32_MAX)
        return cls(low=float(np.float32(low)), high=float(np.float32(high)))

    def expression(self, column: ir.NumericColumn) -> ir.NumericColumn:
        """The same bounds on an Ibis column."""
        number = column.cast("float64")  # NaN is the greatest of all numbers to some engines
        return number.isnan().ifelse(ibis.null("float64"), number).clip(self.low, self.high)

    def apply(self, column: pa.Array) -> pa.Array:
        """Bounded float32."""
        return pa.array(np.clip(to_float32(column), np.float32(self.low), np.float32(self.high)))

    def nodes(self, graph: GraphBuilder, tensor: str) -> str:
        """Two selections rather than Clip, whose NaN differs between kernels."""
        low, high = graph.constant(np.array([self.low], np.float32)), graph.constant(np.array([self.high], np.float32))
        raised = graph.node("Where", [graph.node("Less", [tensor, low]), low, tensor])
        return graph.node("Where", [graph.node("Greater", [raised, high]), high, raised])


class Log(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="log"):
    """log(1 + x); below 0 counts as 0; NaN passes."""

    @classmethod
    def fit(cls, column: ir.NumericColumn, spec: config.Log) -> Self:  # noqa: ARG003 - every transform fits alike
        """Nothing to learn."""
        return cls()

    def expression(self, column: ir.NumericColumn) -> ir.NumericColumn:
        """The same on an Ibis column."""
        # Not the greatest of both: on some engines that of null and 0 is 0, and a missing number would count as one.
        return ((column < 0).ifelse(0.0, column) + 1.0).ln()

    def apply(self, column: pa.Array) -> pa.Array:
        """Logged float32."""
        values = to_float32(column)
        return pa.array(np.log(np.where(values < 0, np.float32(0), values) + np.float32(1)))

    def nodes(self, graph: GraphBuilder, tensor: str) -> str:
        """Where, Add, Log."""
        zero, one = graph.constant(np.zeros(1, np.float32)), graph.constant(np.ones(1, np.float32))
        positive = graph.node("Where", [graph.node("Less", [tensor, zero]), zero, tensor])
        return graph.node("Log", [graph.node("Add", [positive, one])])


class Normalize(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="normalize"):
    """(x - mean) / std within ±10; NaN becomes 0, the mean."""

    mean: float
    std: float
    limit: float = 10.0

    @classmethod
    def fit(cls, column: ir.NumericColumn, spec: config.Normalize) -> Self:  # noqa: ARG003 - as above
        """Mean and population deviation of the finite values, by decimal sums: equal on any engine, in any order."""
        number = column.cast("float64").name("number").as_table()
        # A filter, and not a choice in each row: Ibis would write the whole chain of transforms out at every mention.
        finite = number.filter(number.number.notnull() & ~(number.number.isnan() | number.number.isinf()))
        table = finite.select(x=finite.number.clip(-_SUM_LIMIT, _SUM_LIMIT).cast("decimal(18,6)"))
        found = table.aggregate(num_rows=table.count(), total=table.x.sum()).to_pyarrow().to_pylist()[0]
        num_rows = found["num_rows"]
        if not num_rows:
            return cls(mean=0.0, std=1.0)
        mean = float(found["total"]) / num_rows
        centred = table.select(d=(table.x.cast("float64") - mean).cast("decimal(18,6)"))
        # Ibis takes a product of decimals for one of the same scale: without a cast the result would not fit.
        square = float(aggregate((centred.d * centred.d).cast("decimal(38,6)").sum())) / num_rows
        std = math.sqrt(square)
        return cls(mean=float(np.float32(mean)), std=float(np.float32(std)) if std > 1e-6 else 1.0)

    def apply(self, column: pa.Array) -> pa.Array:
        """Normalized float32."""
        with np.errstate(over="ignore"):
            z = (to_float32(column) - np.float32(self.mean)) / np.float32(self.std)
        limit = np.float32(self.limit)
        return pa.array(np.where(np.isnan(z), np.float32(0), np.clip(z, -limit, limit)))

    def nodes(self, graph: GraphBuilder, tensor: str) -> str:
        """Sub, Div, then the limits and NaN by selection."""
        mean, std = graph.constant(np.array([self.mean], np.float32)), graph.constant(np.array([self.std], np.float32))
        z = graph.node("Div", [graph.node("Sub", [tensor, mean]), std])
        low, high = (
            graph.constant(np.array([-self.limit], np.float32)),
            graph.constant(np.array([self.limit], np.float32)),
        )
        z = graph.node("Where", [graph.node("Less", [z, low]), low, z])
        z = graph.node("Where", [graph.node("Greater", [z, high]), high, z])
        zero = graph.constant(np.zeros(1, np.float32))
        return graph.node("Where", [graph.node("IsNaN", [z]), zero, z])


class Bucketize(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="bucketize"):
    """Index of the quantile bucket: 0 holds NaN, 1 what lies below the first boundary, and so on."""

    boundaries: list[float]

    @classmethod
    def fit(cls, column: ir.NumericColumn, spec: config.Bucketize) -> Self:
        """Exact quantiles of the finite values; equal boundaries are merged."""
        quantiles = [i / spec.n for i in range(1, spec.n)]
        found = aggregate(_finite(column).quantile(quantiles))
        values = sorted({float(np.float32(value)) for value in found or []})
        return cls(boundaries=values)

    @property
    def size(self) -> int:
        """Number of indexes, with the one for missing numbers."""
        return len(self.boundaries) + 2

    def apply(self, column: pa.Array) -> pa.Array:
        """Indexes as int64."""
        values = to_float32(column)
        index = np.searchsorted(np.array(self.boundaries or [np.inf], np.float32), values, side="right") + 1
        return pa.array(np.where(np.isnan(values), 0, index).astype(np.int64))

    def nodes(self, graph: GraphBuilder, tensor: str) -> str:
        """One comparison with each boundary, summed."""
        # Infinity as the only boundary of none: a comparison with an empty row is not portable.
        boundaries = graph.constant(np.array(self.boundaries or [np.inf], np.float32)[None, :])
        last = graph.constant(np.array([-1], np.int64))
        one = graph.constant(np.ones(1, np.int64))
        column = graph.node("Unsqueeze", [tensor, last])
        above = graph.node("Cast", [graph.node("GreaterOrEqual", [column, boundaries])], to=TensorProto.INT64)
        index = graph.node("Add", [graph.node("ReduceSum", [above, last], keepdims=0), one])
        missing = graph.node("IsNaN", [tensor])
        return graph.node("Where", [missing, graph.constant(np.zeros(1, np.int64)), index])


def _finite(column: ir.NumericColumn) -> ir.NumericColumn:
    number = column.cast("float64")
    return (number.isnan() | number.isinf()).ifelse(ibis.null("float64"), number)
