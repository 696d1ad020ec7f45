"""Strings or integers in, dense indexes out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import ibis.expr.types as ir
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from endcap.contracts.features import Embedding
from endcap.features.transforms.graph import MISSING_INT64, GraphBuilder
from endcap.features.transforms.hashing import bin_integers, bin_integers_nodes, bin_strings, bin_strings_nodes
from endcap.features.transforms.raw import canonical

OOV = 0
"""Index of anything that training did not see often enough, of null and of padding."""


class Vocabulary(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="vocabulary"):
    """Index of each value: 0 is out of vocabulary, 1 the most frequent value; ties in the value's order.

    With more than one vector out of vocabulary, 0 is missing alone, and a hash of the value picks one of `num_oov` indexes
    after the last value's.
    """

    values: list[str | int]
    integers: bool = False
    num_oov: int = 1

    @classmethod
    def fit(cls, column: ir.Column, config: Embedding) -> Self:
        """Count each value of `column`; null and the empty string never enter."""
        counted = column.name("value").as_table().group_by("value").aggregate(num_rows=lambda t: t.count())
        rows = counted.filter((counted["num_rows"] >= config.min_count) & counted["value"].notnull()).to_pyarrow()
        pairs = zip(canonical(rows["value"]).to_pylist(), rows["num_rows"].to_pylist(), strict=True)
        values = most_frequent(pairs, config.max_vocab)
        integers = column.type().is_integer() or column.type().is_boolean()
        return cls(values=values, integers=integers, num_oov=config.oov)

    @property
    def size(self) -> int:
        """Number of indexes, with those for out of vocabulary."""
        return self.first_oov + (self.num_oov if self.num_oov > 1 else 0)

    @property
    def first_oov(self) -> int:
        """The index after the last value's: from here on, hashes of values out of vocabulary."""
        return len(self.values) + 1

    def apply(self, column: pa.Array) -> pa.Array:
        """Indexes as int64."""
        column = canonical(column).cast(pa.int64() if self.integers else pa.string())
        value_set = pa.array(self.values, type=column.type)
        found = pc.index_in(column, value_set=value_set, skip_nulls=True)
        indexes = pc.add(pc.fill_null(found, -1), 1).cast(pa.int64())
        if self.num_oov == 1:
            return indexes
        places = np.asarray(indexes).copy()
        unseen = np.flatnonzero((places == OOV) & ~np.asarray(pc.is_null(column)))
        if len(unseen):
            places[unseen] = self._hashed(column.take(pa.array(unseen)))
        return pa.array(places)

    def _hashed(self, unseen: pa.Array) -> Any:
        encoded = unseen.dictionary_encode()
        distinct = encoded.dictionary
        if self.integers:
            bins = self.first_oov + bin_integers(np.asarray(distinct), self.num_oov)
        else:
            texts = distinct.to_pylist()
            bins = np.where([text == "" for text in texts], OOV, self.first_oov + bin_strings(texts, self.num_oov))
        return bins[np.asarray(encoded.indices)]

    def nodes(self, graph: GraphBuilder, tensor: str) -> str:
        """A LabelEncoder, and a hash of what it doesn't know."""
        known = graph.label_encoder(tensor, self.values, list(range(1, self.first_oov)), OOV, integers=self.integers)
        if self.num_oov == 1:
            return known
        if self.integers:
            bins = bin_integers_nodes(graph, tensor, self.num_oov)
            missing = graph.constant_int64([MISSING_INT64])
        else:
            bins = bin_strings_nodes(graph, tensor, self.num_oov)
            missing = graph.constant([""])
        zero = graph.constant_int64([OOV])
        hashed = graph.node("Add", [bins, graph.constant_int64([self.first_oov])])
        hashed = graph.node("Where", [graph.node("Equal", [tensor, missing]), zero, hashed])
        return graph.node("Where", [graph.node("Equal", [known, zero]), hashed, known])


def most_frequent(counts: Iterable[tuple[Any, int]], most: int) -> list[Any]:
    """The most frequent values, ties in the value's order; null and the empty string left out."""
    kept = [(value, count) for value, count in counts if value is not None and value != ""]
    return [value for value, _ in sorted(kept, key=lambda pair: (-pair[1], pair[0]))[:most]]
