"""What a model is told of its inputs: the transformed columns, their kinds and sizes."""

from __future__ import annotations

from typing import Literal

import msgspec

Side = Literal["buyer", "product"]


class EncodedColumn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One transformed column.

    `index`: int64 [batch], embedded (`cardinality` rows, 0 = out of vocabulary or missing).
    `bag`: int64 [batch, words], embedded and averaged, 0 is padding.
    `number`: float32 [batch, `dim`].
    `sequence`: three tensors [batch, length]: `NAME` int64 indexes of products (0 = padding or unknown product),
    `NAME.age_days` float32 and `NAME.count` float32; then `NAME.num_TYPE` float32 for each of `counted`.
    """

    name: str
    source: str
    kind: Literal["index", "bag", "number", "sequence"]
    cardinality: int
    dim: int
    counted: list[str] = []
    """Types of events that a sequence counts by themselves."""

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the tensors that carry the column."""
        if self.kind == "sequence":
            own = (f"{self.name}.num_{event_type}" for event_type in self.counted)
            return (self.name, f"{self.name}.age_days", f"{self.name}.count", *own)
        return (self.name,)
