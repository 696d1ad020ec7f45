"""A FeatureConfig and training rows in, fitted transforms out: applied to Arrow, or written as an ONNX graph."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import ibis.expr.types as ir
import msgspec
import pyarrow as pa
from onnx import ModelProto, TensorProto

from endcap.contracts.encoded import EncodedColumn, Side
from endcap.contracts.errors import ColumnsError
from endcap.contracts.features import Column, Cross, FeatureConfig
from endcap.contracts.release import DType, ProductInput, Tensor
from endcap.features.agreement import check_columns, companions_of
from endcap.features.lines import HISTORY_TARGET
from endcap.features.point_in_time import STRANGER
from endcap.features.transforms.base import Transform
from endcap.features.transforms.crosses import CrossBins
from endcap.features.transforms.graph import MISSING_INT64, GraphBuilder
from endcap.features.transforms.moments import Cyclical, Steps
from endcap.features.transforms.multi_hot import MultiHot
from endcap.features.transforms.numeric import Bucketize, Clip, Log, Normalize, from_int64
from endcap.features.transforms.raw import canonical, lists_of
from endcap.features.transforms.text import Words
from endcap.features.transforms.vocabulary import Vocabulary

__all__ = ["FittedFeatures", "Output", "check_columns", "fit"]

AnyTransform = Vocabulary | Clip | Log | Normalize | Bucketize | Cyclical | Steps | MultiHot | Words

_PRESENT = "event_time_us"
"""The moment of the question: a request that leaves it out is asked now."""
_RAW_TYPES: dict[str, DType] = {
    "STRING": "STRING", "BYTES": "STRING", "INT64": "INT64", "BOOL": "INT64", "FLOAT64": "FLOAT", "NUMERIC": "FLOAT",
    "TIMESTAMP": "INT64", "DATETIME": "INT64", "DATE": "INT64",
}  # fmt: skip


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One column of a cross: the output whose index it is, or the raw column and what makes an index of it."""

    output: str | None = None
    source: str = ""
    chain: list[AnyTransform] = []


class Output(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One transformed column and the transforms that lead to it, in order; or what a cross is made of."""

    column: EncodedColumn
    side: Side
    chain: list[AnyTransform] = []
    crossed: list[Part] = []
    bins: CrossBins | None = None


class FittedFeatures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that turns raw columns into a model's inputs; plain data, stored as JSON."""

    config: dict[str, Any]
    outputs: list[Output]

    @property
    def definition(self) -> FeatureConfig:
        """The FeatureConfig that was fitted."""
        return FeatureConfig.model_validate(self.config)

    def columns(self, side: Side) -> list[EncodedColumn]:
        """What the model is told of one side's inputs, in the order of the configuration."""
        return [output.column for output in self.outputs if output.side == side]

    def sources_of(self, side: Side, column: EncodedColumn) -> list[str]:
        """Raw columns that a transformed column is made of: several for a cross."""
        cross = self.definition.crosses.get(column.source)
        return cross.columns if cross is not None and cross.side == side else [column.source]

    def apply(self, side: Side, table: pa.Table, names: Collection[str] | None = None) -> dict[str, pa.Array]:
        """Transformed columns of `table` by tensor name; sequences are lists, oldest first.

        With `names`, those columns alone, and what they are crossed from.
        """
        asked = None if names is None else self._with_parts(names)
        result: dict[str, pa.Array] = {}
        for output in self._of(side):
            if asked is not None and output.column.name not in asked:
                continue
            name, source = output.column.name, output.column.source
            if output.column.kind == "sequence":
                result |= self._apply_sequence(output, table)
            elif output.bins is not None:
                parts = [
                    result[part.output] if part.output else _chained(part.chain, canonical(table[part.source]))
                    for part in output.crossed
                ]
                result[name] = output.bins.apply_all(parts)
            else:
                result[name] = _chained(output.chain, canonical(table[source]))
        return result

    def _with_parts(self, names: Collection[str]) -> set[str]:
        crossed = (output.crossed for output in self.outputs if output.column.name in names)
        return {*names, *(part.output for parts in crossed for part in parts if part.output)}

    def _apply_sequence(self, output: Output, table: pa.Table) -> dict[str, pa.Array]:
        source = output.column.source
        offsets, items = lists_of(canonical(table[source]))
        lists = {output.column.tensors[0]: pa.ListArray.from_arrays(offsets, _chained(output.chain, items))}
        for tensor, companion in zip(output.column.tensors[1:], self._companions(output), strict=True):
            places, numbers = lists_of(canonical(table[companion]))
            lists[tensor] = pa.ListArray.from_arrays(places, numbers.cast(pa.float32()))
        return lists

    def _companions(self, output: Output) -> list[str]:
        sequence = self.definition.buyer[output.column.source].sequence
        return companions_of(output.column.source, sequence) if sequence is not None else []

    def raw_inputs(self, side: Side) -> list[Tensor]:
        """The graph's inputs, as a release's signature states them. Only the primary id is required."""
        tensors: list[Tensor] = []
        definition = self.definition
        for name, column in definition.side(side).items():
            if column.sequence:
                tensors.append(Tensor(name, "STRING", [-1, -1], required=False, default=""))
                tensors.append(Tensor(f"{name}_age_days", "FLOAT", [-1, -1], required=False, default=0.0))
                tensors += [
                    Tensor(companion, "INT64", [-1, -1], required=False, default=0)
                    for companion in companions_of(name, column.sequence)[1:]
                ]
                continue
            if column.holds_lists:
                tensors.append(Tensor(name, "STRING", [-1, -1], required=False, default=""))
                continue
            dtype = _RAW_TYPES[column.type]
            default: float | int | None = STRANGER.get(name) if side == "buyer" else None
            if default is None and dtype == "INT64" and (side, name) != ("buyer", _PRESENT):
                default = MISSING_INT64
            tensors.append(Tensor(name, dtype, [-1], required=column.is_primary_id, default=default))
        return tensors

    def rating_inputs(self) -> list[Tensor]:
        """What a graph of pairs takes of the buyer beside the others: the last target of each product of the history."""
        definition = self.definition
        if definition.target is None or definition.history is None:
            return []
        name = f"{definition.history}_{HISTORY_TARGET}"
        return [Tensor(name, "FLOAT", [-1, -1], required=False, default=0.0)]

    def pair_inputs(self) -> list[ProductInput]:
        """The product's inputs of a graph that takes both sides, under names that the buyer's don't have."""
        taken = {tensor.name for tensor in self.raw_inputs("buyer")}
        return [
            ProductInput(
                msgspec.structs.replace(tensor, name=f"product.{tensor.name}") if tensor.name in taken else tensor,
                column=tensor.name,
            )
            for tensor in self.raw_inputs("product")
        ]

    def graph(self, side: Side) -> ModelProto:
        """Raw inputs to transformed tensors, in ONNX."""
        builder = GraphBuilder(f"{side}_features")
        for raw in self.raw_inputs(side):
            builder.input(raw.name, raw.dtype, ["batch"] if len(raw.shape) == 1 else ["batch", "length"])
        for output in self._of(side):
            self._write(builder, output)
        return builder.build()

    def _write(self, builder: GraphBuilder, output: Output) -> None:
        column, tensor = output.column, output.column.source
        if column.kind == "sequence":
            indexes = output.chain[0].nodes(builder, tensor)
            builder.output(indexes, column.tensors[0], "INT64", ["batch", "length"])
            builder.output(f"{tensor}_age_days", column.tensors[1], "FLOAT", ["batch", "length"])
            for companion, name in zip(self._companions(output)[1:], column.tensors[2:], strict=True):
                counts = builder.node("Cast", [companion], to=TensorProto.FLOAT)
                builder.output(counts, name, "FLOAT", ["batch", "length"])
            return
        if output.bins is not None:
            parts = [part.output or _written(part.chain, builder, part.source) for part in output.crossed]
            builder.output(output.bins.nodes_of_all(builder, parts), column.name, "INT64", ["batch"])
            return
        raw_type = self.definition.side(output.side)[tensor].type
        if _RAW_TYPES[raw_type] == "INT64" and isinstance(output.chain[0], Clip | Log | Normalize | Bucketize):
            tensor = from_int64(builder, tensor)
        tensor = _written(output.chain, builder, tensor)
        if column.kind == "number" and not isinstance(output.chain[-1], Cyclical):
            tensor = builder.node("Unsqueeze", [tensor, builder.constant_int64([-1])])
        shape: dict[str, list[int | str | None]] = {
            # Bags of one graph are of different lengths.
            "index": ["batch"], "bag": ["batch", f"length of {column.name}"], "number": ["batch", column.dim]
        }  # fmt: skip
        builder.output(tensor, column.name, "FLOAT" if column.kind == "number" else "INT64", shape[column.kind])

    def _of(self, side: Side) -> list[Output]:
        return [output for output in self.outputs if output.side == side]


def _chained(chain: list[AnyTransform], values: pa.Array) -> pa.Array:
    for transform in chain:
        values = transform.apply(values)
    return values


def _written(chain: list[AnyTransform], builder: GraphBuilder, tensor: str) -> str:
    for transform in chain:
        tensor = transform.nodes(builder, tensor)
    return tensor


def fit(config: FeatureConfig, buyers: ir.Table, products: ir.Table) -> FittedFeatures:
    """Fit every transform on the training rows: `buyers` one row a question, `products` one row a product.

    Raises ColumnsError when a column is missing or of another type than the FeatureConfig says, or a sequence has no
    vocabulary of products.
    """
    check_columns(config, buyers.schema().to_pyarrow(), products.schema().to_pyarrow())
    item_ids = config.product[config.item_id]
    outputs: list[Output] = []
    for side, name, column in config.columns():
        if not column.sequence:
            outputs.extend(_fit_column(side, name, column, (buyers if side == "buyer" else products)[name]))
    if config.history:
        if item_ids.embedding is None:
            problem = f"a sequence needs an embedding on product.{config.item_id}"
            raise ColumnsError([(f"features.buyer.{config.history}", problem)])
        ids = next(o for o in outputs if o.side == "product" and o.column.source == config.item_id)
        sequence = config.buyer[config.history].sequence
        encoded = EncodedColumn(
            f"{config.history}.sequence",
            config.history,
            "sequence",
            ids.column.cardinality,
            ids.column.dim,
            sequence.counted if sequence is not None else [],
        )
        outputs.append(Output(encoded, "buyer", ids.chain))
    outputs += [_crossed(name, cross, config) for name, cross in config.crosses.items()]
    return FittedFeatures(config=config.model_dump(mode="json", exclude_none=True), outputs=outputs)


def _fit_column(side: Side, name: str, column: Column, values: ir.Column) -> list[Output]:
    outputs: list[Output] = []

    def add(kind: str, encoded: str, cardinality: int, dim: int, chain: list[Any]) -> None:
        described = EncodedColumn(f"{name}.{encoded}", name, kind, cardinality, dim)  # type: ignore[arg-type]
        outputs.append(Output(described, side, chain))

    if column.embedding:
        vocabulary = Vocabulary.fit(values, column.embedding)
        add("index", "embedding", vocabulary.size, column.embedding.dim, [vocabulary])
    if column.multi_hot:
        several = MultiHot.fit(values, column.multi_hot)
        add("bag", "multi_hot", several.size, column.multi_hot.dim, [several])
    if column.text:
        words = Words.fit(values, column.text)
        add("bag", "text", words.size, column.text.dim, [words])
    if column.cyclical:
        cyclical = Cyclical.fit(values, column.cyclical)
        add("number", "cyclical", 0, cyclical.dim, [cyclical])
    if not (column.bucketize or column.normalize):
        return outputs
    values = values.cast("int64") if column.type == "BOOL" else values.cast("float64")
    chain: list[Transform] = []
    if column.clip:
        clip = Clip.fit(values, column.clip)
        values, chain = clip.expression(values), [clip]
    if column.bucketize:  # before log: quantiles don't change under it, and an ulp between two logs would
        buckets = Bucketize.fit(values, column.bucketize)
        add("index", "bucketize", buckets.size, column.bucketize.dim, [*chain, buckets])
    if column.log:
        log = Log.fit(values, column.log)
        values, chain = log.expression(values), [*chain, log]
    if column.normalize:
        add("number", "normalize", 0, 1, [*chain, Normalize.fit(values, column.normalize)])
    return outputs


def _crossed(name: str, cross: Cross, config: FeatureConfig) -> Output:
    """A cross of the columns' values where they are embedded, else of their buckets, else of their steps in a period."""
    parts: list[Part] = []
    for source in cross.columns:
        column = config.side(cross.side)[source]
        if column.embedding or column.bucketize:
            parts.append(Part(output=f"{source}.{'embedding' if column.embedding else 'bucketize'}"))
        elif column.cyclical:
            parts.append(Part(source=source, chain=[Steps(column.cyclical.period[0])]))
    bins = CrossBins(cross.n)
    return Output(
        EncodedColumn(f"{name}.cross", name, "index", bins.size, cross.dim), cross.side, crossed=parts, bins=bins
    )
