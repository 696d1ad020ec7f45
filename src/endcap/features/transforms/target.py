"""What a rating head learns: numbers in, clipped and logged numbers out, and back into the shop's own units."""

from __future__ import annotations

from typing import Self

import ibis
import ibis.expr.types as ir
import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from endcap.contracts import features as config
from endcap.contracts.errors import ColumnsError
from endcap.features.transforms.base import aggregate
from endcap.features.transforms.numeric import Clip, Log
from endcap.features.transforms.raw import canonical

FloatArray = npt.NDArray[np.float64]


class FittedTarget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The target of a FeatureConfig, its bounds fitted on training rows."""

    column: str
    clip: Clip | None = None
    is_logged: bool = False

    @classmethod
    def fit(cls, rows: ir.Table, spec: config.Target) -> Self:
        """Exact quantiles of the training rows' target.

        Raises ColumnsError when the rows lack the column, have nothing in it, or the same number everywhere.
        """
        if spec.column not in rows.columns:
            raise _refusal(f"the data has no column {spec.column}; it has {', '.join(sorted(rows.columns))}.")
        if not rows[spec.column].type().is_numeric():
            raise _refusal(f"{spec.column} has to hold numbers; found {rows[spec.column].type()}.")
        values = rows[spec.column].cast("float64")
        values = (values.isnan() | values.isinf()).ifelse(ibis.null("float64"), values)
        num_rows = aggregate(rows.count())
        fitted = cls(spec.column, Clip.fit(values, spec.clip) if spec.clip else None, spec.log is not None)
        clipped = fitted.clip.expression(values) if fitted.clip else values
        low, high = aggregate(clipped.min()), aggregate(clipped.max())
        if low is None:
            raise _refusal(f"{spec.column} is missing in all {num_rows:,} training rows.")
        if low == high or (fitted.is_logged and high <= 0):
            bounds = " after clip" if spec.clip else ""
            found = f"{low:g}" if low == high else f"nothing above 0 ({low:g} to {high:g}), which log makes one number"
            raise _refusal(
                f"{spec.column} is constant{bounds}: found {found} in all {num_rows:,} training rows, which leaves nothing "
                "to learn. Name another column, or widen clip."
            )
        return fitted

    def transform(self, values: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.float32]:
        """What the head is to predict; missing is NaN."""
        column = canonical(values)
        if self.clip:
            column = self.clip.apply(column)
        if self.is_logged:
            column = Log().apply(column)
        return np.asarray(column.to_numpy(zero_copy_only=False), np.float32)

    def inverse(self, predicted: npt.ArrayLike) -> FloatArray:
        """Predictions in the column's own units; what lies beyond the bounds of training is the bound."""
        numbers = np.asarray(predicted, np.float64)
        if self.is_logged:
            numbers = np.expm1(np.clip(numbers, 0.0, np.log(np.finfo(np.float64).max)))
        return np.clip(numbers, self.clip.low, self.clip.high) if self.clip else numbers


def _refusal(problem: str) -> ColumnsError:
    return ColumnsError([("features.target.column", problem)])
