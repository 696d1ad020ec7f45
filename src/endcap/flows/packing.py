"""A trained model in, the parts of a release in a folder out, and its manifest but for the digests."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from endcap.contracts.configuration import Configuration
from endcap.contracts.release import (
    FALLBACK_POPULAR,
    FORMAT_VERSION,
    ITEM_GRAPH,
    ITEMS,
    MERGED_GRAPH,
    QUERY_GRAPH,
    USER_FEATURES,
    Blessing,
    Lineage,
    ReleaseManifest,
    Retrieval,
    Signature,
    Tensor,
)
from endcap.features.dataset import FeatureTables
from endcap.features.fitted import FittedFeatures
from endcap.features.transforms.raw import canonical
from endcap.flows.fitting import FittedModel
from endcap.retrieval.build import write_candidates
from endcap.retrieval.merged import write_merged_graph
from endcap.training.export import VECTOR, export_items, export_query, history_spec, item_vectors
from endcap.workspace.atomic import write_json

SIGNATURE = "serving_default"
_ARROW_TYPES: dict[str, pa.DataType] = {"STRING": pa.string(), "INT64": pa.int64(), "FLOAT": pa.float32()}


def write_model(model: FittedModel, configuration: Configuration, folder: Path) -> Retrieval:
    """Export the graphs and the candidates, and say how they are searched."""
    trained = model.trained.model.eval()
    with torch.no_grad():
        products = trained.products(model.catalog.on(model.day))
    export_query(trained, model.fitted, products, folder / QUERY_GRAPH)
    export_items(trained, model.fitted, folder / ITEM_GRAPH)
    vectors = item_vectors(products)
    write_candidates(folder, model.catalog.item_ids, vectors)
    retrieval = Retrieval(
        algorithm=configuration.model.retrieval_algorithm,
        vector_output=VECTOR,
        dim=vectors.shape[1],
        num_items=len(vectors),
        top_k=min(configuration.model.top_k, len(vectors)),
        item_id_type="STRING",
        primary_id=model.fitted.definition.user_id,
        history=history_spec(model.fitted, has_boosts=trained.repeat_head is not None),
    )
    write_merged_graph(folder / MERGED_GRAPH, folder / QUERY_GRAPH, vectors, model.catalog.item_ids, retrieval)
    return retrieval


def write_tables(model: FittedModel, tables: FeatureTables, top_k: int, folder: Path) -> None:
    """Write what the server shows and falls back on: products, users' features at the end of the data, popular products."""
    products = tables.products_on(model.day)
    products = products.filter(pa.compute.is_in(products["item_id"], value_set=pa.array(model.catalog.item_ids)))
    pq.write_table(products.drop_columns(["day"]), folder / ITEMS, compression="zstd")
    snapshot = tables.table("snapshot")
    columns = {tensor.name: _as_input(snapshot, tensor) for tensor in buyer_inputs(model.fitted) if _is_kept(tensor)}
    pq.write_table(pa.table(columns), folder / USER_FEATURES, compression="zstd")
    popular = products.sort_by([("purchases_30d_per_10k", "descending"), ("item_id", "ascending")])["item_id"]
    path = folder / FALLBACK_POPULAR
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"product_ids": popular.slice(0, top_k).to_pylist()})


def manifest_of(
    name: str,
    tables: FeatureTables,
    retrieval: Retrieval,
    fitted: FittedFeatures,
    lineage: Lineage,
    metrics: Mapping[str, float],
    blessing: Blessing,
) -> ReleaseManifest:
    """The manifest, before its files are known."""
    outputs = [
        Tensor("product_ids", retrieval.item_id_type, [-1, retrieval.top_k]),
        Tensor("scores", "FLOAT", [-1, retrieval.top_k]),
    ]
    return ReleaseManifest(
        format_version=FORMAT_VERSION,
        name=name,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        as_of=datetime.fromtimestamp(tables.split.test_start_us / 1e6, UTC).isoformat(),
        files={},
        signatures={SIGNATURE: Signature(inputs=buyer_inputs(fitted), outputs=outputs)},
        retrieval=retrieval,
        lineage=lineage,
        metrics=dict(metrics),
        blessing=blessing,
    )


def buyer_inputs(fitted: FittedFeatures) -> list[Tensor]:
    """Raw inputs of the query graph, as the signature states them."""
    return fitted.raw_inputs("buyer")


def _is_kept(tensor: Tensor) -> bool:
    """A moment belongs to a request, not to a user: without one, the server takes the present."""
    return not (tensor.dtype == "INT64" and tensor.default is None and not tensor.required)


def _as_input(snapshot: pa.Table, tensor: Tensor) -> pa.Array:
    dtype = _ARROW_TYPES[tensor.dtype]
    return canonical(snapshot[tensor.name]).cast(pa.list_(dtype) if len(tensor.shape) == 2 else dtype)
