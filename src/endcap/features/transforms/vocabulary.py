"""Strings or integers in, dense indexes out."""

from __future__ import annotations

from typing import Self

import ibis.expr.types as ir
import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from endcap.contracts.features import Embedding
from endcap.features.transforms.graph import GraphBuilder

OOV = 0
"""Index of anything that training did not see often enough, of null and of padding."""


class Vocabulary(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="vocabulary"):
    """Index of each value: 0 is out of vocabulary, 1 the most frequent value; ties in the value's order."""

    values: list[str | int]
    integers: bool = False

    @classmethod
    def fit(cls, column: ir.Column, config: Embedding) -> Self:
        """Count each value of `column`; null and the empty string never enter."""
        counted = column.name("value").as_table().group_by("value").aggregate(num_rows=lambda t: t.count())
        rows = counted.filter((counted["num_rows"] >= config.min_count) & counted["value"].notnull()).to_pyarrow()
        pairs = sorted(
            zip(rows["value"].to_pylist(), rows["num_rows"].to_pylist(), strict=True), key=lambda p: (-p[1], p[0])
        )
        values = [value for value, _ in pairs if value != ""][: config.max_vocab]
        return cls(values=values, integers=column.type().is_integer())

    @property
    def size(self) -> int:
        """Number of indexes, with the one for out of vocabulary."""
        return len(self.values) + 1

    def apply(self, column: pa.Array) -> pa.Array:
        """Indexes as int64."""
        value_set = pa.array(self.values, type=column.type)
        found = pc.index_in(column, value_set=value_set, skip_nulls=True)
        return pc.add(pc.fill_null(found, -1), 1).cast(pa.int64())

    def nodes(self, graph: GraphBuilder, tensor: str) -> str:
        """A LabelEncoder."""
        return graph.label_encoder(tensor, self.values, list(range(1, self.size)), OOV, integers=self.integers)
