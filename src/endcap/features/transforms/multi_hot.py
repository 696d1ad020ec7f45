"""Lists of values in, or texts that hold several, lists of dense indexes out."""

from __future__ import annotations

from typing import Self

import ibis.expr.types as ir
import msgspec
import pyarrow as pa

from endcap.contracts import features as config
from endcap.features.transforms.graph import GraphBuilder
from endcap.features.transforms.raw import canonical, lists_of
from endcap.features.transforms.vocabulary import OOV, Vocabulary, most_frequent

_END = "\x00"


class MultiHot(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="multi_hot"):
    """Index of each value of a row; values out of vocabulary are left out, a value that stands twice counts twice."""

    values: list[str]
    separator: str | None = None

    @classmethod
    def fit(cls, column: ir.Column, spec: config.MultiHot) -> Self:
        """Count in how many rows each value stands."""
        counted = column.name("value").as_table().group_by("value").aggregate(num_rows=lambda t: t.count()).to_pyarrow()
        counts: dict[str, int] = {}
        rows = canonical(counted["value"]).to_pylist()
        for row, count in zip(rows, counted["num_rows"].to_pylist(), strict=True):
            parts = _split(row, spec.separator) if spec.separator else row
            for value in {part for part in parts or [] if part}:
                counts[value] = counts.get(value, 0) + count
        often = ((value, count) for value, count in counts.items() if count >= spec.min_count)
        return cls(values=most_frequent(often, spec.max_vocab), separator=spec.separator)

    @property
    def size(self) -> int:
        """Number of indexes, with the one for padding."""
        return len(self.values) + 1

    def apply(self, column: pa.Array) -> pa.Array:
        """Lists of int64, of known values alone."""
        column = canonical(column)
        if pa.types.is_null(column.type):
            return pa.array([[]] * len(column), pa.list_(pa.int64()))
        if self.separator:
            column = pa.array([_split(text, self.separator) for text in column.to_pylist()], pa.list_(pa.string()))
        offsets, flat = lists_of(column)
        lists = pa.ListArray.from_arrays(offsets, self._vocabulary.apply(flat.cast(pa.string()))).to_pylist()
        return pa.array([[index for index in row if index != OOV] for row in lists], pa.list_(pa.int64()))

    def nodes(self, graph: GraphBuilder, tensor: str) -> str:
        """A LabelEncoder over [batch, length]; 0 where a value is left out and at the end."""
        if self.separator:
            # A part of its own at the end keeps the second dimension above 0 when every text of a batch is empty.
            ended = graph.node("StringConcat", [tensor, graph.constant([self.separator + _END])])
            tensor = graph.node_many("StringSplit", [ended], 2, delimiter=self.separator)[0]
        return self._vocabulary.nodes(graph, tensor)

    @property
    def _vocabulary(self) -> Vocabulary:
        return Vocabulary(values=list(self.values))


def _split(text: str | None, separator: str) -> list[str]:
    # As the graph does it: a text's end and the separator after it may hold a separator that begins earlier.
    return ((text or "") + separator + _END).split(separator)[:-1]
