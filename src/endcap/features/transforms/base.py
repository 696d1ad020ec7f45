"""A column in, a transformed column out: what every transform promises."""

from __future__ import annotations

from typing import Any, Protocol

import ibis.expr.types as ir
import pyarrow as pa

from endcap.features.transforms.graph import GraphBuilder


class Transform(Protocol):
    """A fitted transform: plain data (a tagged msgspec Struct), so that a run can store it as JSON and read it back.

    Each implementation also has a classmethod `fit`, an Ibis aggregate over the training rows. For any input,
    `apply` and the graph written by `nodes` give equal values.
    """

    def apply(self, column: pa.Array) -> pa.Array:
        """Transform a column; the result has as many rows."""
        ...

    def nodes(self, graph: GraphBuilder, tensor: str) -> str:
        """Write the same computation into `graph`, reading `tensor`; returns the result's name."""
        ...


def aggregate(expression: ir.Value) -> Any:
    """Run an Ibis scalar expression; missing becomes None."""
    return expression.to_pyarrow().as_py()
