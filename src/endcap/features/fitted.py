"""A FeatureConfig and training rows in, fitted transforms out: applied to Arrow, or written as an ONNX graph."""

from __future__ import annotations

import difflib
from typing import Any

import ibis.expr.types as ir
import msgspec
import pyarrow as pa
from onnx import ModelProto, TensorProto

from endcap.contracts.encoded import EncodedColumn, Side
from endcap.contracts.errors import InputError
from endcap.contracts.features import Column, FeatureConfig
from endcap.contracts.release import DType, Tensor
from endcap.features.point_in_time import STRANGER
from endcap.features.transforms.base import Transform
from endcap.features.transforms.graph import MISSING_INT64, GraphBuilder
from endcap.features.transforms.moments import Cyclical
from endcap.features.transforms.numeric import Bucketize, Clip, Log, Normalize, from_int64
from endcap.features.transforms.text import Words
from endcap.features.transforms.vocabulary import Vocabulary

AnyTransform = Vocabulary | Clip | Log | Normalize | Bucketize | Cyclical | Words

_RAW_TYPES: dict[str, DType] = {"STRING": "STRING", "INT64": "INT64", "FLOAT64": "FLOAT", "TIMESTAMP": "INT64"}
_ARROW_TYPES = {"STRING": pa.types.is_string, "INT64": pa.types.is_integer, "FLOAT64": pa.types.is_floating}


class Output(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One transformed column and the transforms that lead to it, in order."""

    column: EncodedColumn
    side: Side
    chain: list[AnyTransform]


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

    def apply(self, side: Side, table: pa.Table) -> dict[str, pa.Array]:
        """Transformed columns of `table` by tensor name; sequences are lists, oldest first."""
        result: dict[str, pa.Array] = {}
        for output in self._of(side):
            name, source = output.column.name, output.column.source
            values = table[source].combine_chunks()
            if output.column.kind == "sequence":
                result |= self._apply_sequence(output, table)
                continue
            for transform in output.chain:
                values = transform.apply(values)
            result[name] = values
        return result

    def _apply_sequence(self, output: Output, table: pa.Table) -> dict[str, pa.Array]:
        source = output.column.source
        items = table[source].combine_chunks()
        offsets = items.offsets
        indexes = output.chain[0].apply(items.values)
        lists = {output.column.tensors[0]: pa.ListArray.from_arrays(offsets, indexes)}
        for tensor, suffix in zip(output.column.tensors[1:], ("age_days", "count"), strict=True):
            column = table[f"{source}_{suffix}"].combine_chunks()
            lists[tensor] = pa.ListArray.from_arrays(column.offsets, column.values.cast(pa.float32()))
        return lists

    def raw_inputs(self, side: Side) -> list[Tensor]:
        """The graph's inputs, as a release's signature states them. Only the primary id is required."""
        tensors: list[Tensor] = []
        definition = self.definition
        for name, column in (definition.buyer if side == "buyer" else definition.product).items():
            if column.sequence:
                tensors.append(Tensor(name, "STRING", [-1, -1], required=False, default=""))
                tensors.append(Tensor(f"{name}_age_days", "FLOAT", [-1, -1], required=False, default=0.0))
                tensors.append(Tensor(f"{name}_count", "INT64", [-1, -1], required=False, default=0))
                continue
            dtype = _RAW_TYPES[column.type]
            default: float | int | None = STRANGER.get(name)
            if default is None and dtype == "INT64" and column.type != "TIMESTAMP":
                default = MISSING_INT64
            tensors.append(Tensor(name, dtype, [-1], required=column.is_primary_id, default=default))
        return tensors

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
            counts = builder.node("Cast", [f"{tensor}_count"], to=TensorProto.FLOAT)
            builder.output(counts, column.tensors[2], "FLOAT", ["batch", "length"])
            return
        definition = self.definition
        raw = (definition.buyer if output.side == "buyer" else definition.product)[tensor]
        if raw.type == "INT64" and isinstance(output.chain[0], Clip | Log | Normalize | Bucketize):
            tensor = from_int64(builder, tensor)
        for transform in output.chain:
            tensor = transform.nodes(builder, tensor)
        shape: dict[str, list[int | str | None]] = {
            "index": ["batch"], "bag": ["batch", "words"], "number": ["batch", column.dim]
        }  # fmt: skip
        if column.kind == "number" and not isinstance(output.chain[-1], Cyclical):
            tensor = builder.node("Unsqueeze", [tensor, builder.constant_int64([-1])])
        builder.output(tensor, column.name, "FLOAT" if column.kind == "number" else "INT64", shape[column.kind])

    def _of(self, side: Side) -> list[Output]:
        return [output for output in self.outputs if output.side == side]


def fit(config: FeatureConfig, buyers: ir.Table, products: ir.Table) -> FittedFeatures:
    """Fit every transform on the training rows: `buyers` one row a question, `products` one row a product.

    Raises InputError when a column is missing or of another type than the FeatureConfig says.
    """
    check_columns(config, buyers.schema().to_pyarrow(), products.schema().to_pyarrow())
    item_ids = config.product[config.item_id]
    outputs: list[Output] = []
    for side, name, column in config.columns():
        table = buyers if side == "buyer" else products
        if column.sequence:
            continue
        outputs.extend(_fit_column("buyer" if side == "buyer" else "product", name, column, table[name]))
    if config.history:
        if item_ids.embedding is None:
            raise InputError(
                f"features.buyer.{config.history}: a sequence needs an embedding on product.{config.item_id}"
            )
        ids = next(o for o in outputs if o.side == "product" and o.column.source == config.item_id)
        encoded = EncodedColumn(
            f"{config.history}.sequence", config.history, "sequence", ids.column.cardinality, ids.column.dim
        )
        outputs.append(Output(encoded, "buyer", ids.chain))
    return FittedFeatures(config=config.model_dump(mode="json", exclude_none=True), outputs=outputs)


def _fit_column(side: Side, name: str, column: Column, values: ir.Column) -> list[Output]:
    outputs: list[Output] = []

    def add(kind: str, encoded: str, cardinality: int, dim: int, chain: list[Any]) -> None:
        described = EncodedColumn(f"{name}.{encoded}", name, kind, cardinality, dim)  # type: ignore[arg-type]
        outputs.append(Output(described, side, chain))

    if column.embedding:
        vocabulary = Vocabulary.fit(values, column.embedding)
        add("index", "embedding", vocabulary.size, column.embedding.dim, [vocabulary])
    if column.text:
        words = Words.fit(values, column.text)
        add("bag", "text", words.size, column.text.dim, [words])
    if column.cyclical:
        add("number", "cyclical", 0, 2, [Cyclical.fit(values, column.cyclical)])
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


def check_columns(config: FeatureConfig, buyers: pa.Schema, products: pa.Schema) -> None:
    """Raise InputError, every problem in one message, when the data lacks what the FeatureConfig names."""
    problems: list[str] = []
    for side, name, column in config.columns():
        schema = buyers if side == "buyer" else products
        if name not in schema.names:
            close = difflib.get_close_matches(name, schema.names, n=1, cutoff=0.5)
            hint = f" Did you mean {close[0]}?" if close else ""
            problems.append(
                f"features.{side}.{name}: the data has no such column; it has {', '.join(sorted(schema.names))}.{hint}"
            )
            continue
        found = schema.field(name).type
        if column.sequence:
            fits = pa.types.is_list(found) or pa.types.is_large_list(found)
        elif column.type == "TIMESTAMP":
            fits = pa.types.is_int64(found)
        else:
            fits = _ARROW_TYPES[column.type](found) or (column.type == "STRING" and pa.types.is_large_string(found))
        if not fits:
            problems.append(f"features.{side}.{name}: the configuration says {column.type}, the data has {found}.")
    if problems:
        raise InputError("\n".join(problems))
