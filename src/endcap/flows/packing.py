"""A trained model in, the parts of a release in a folder out, and its manifest but for the digests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from endcap.contracts.configuration import Configuration
from endcap.contracts.errors import InputError
from endcap.contracts.release import (
    DEFAULT_SIGNATURE,
    FALLBACK_POPULAR,
    FORMAT_VERSION,
    ITEM_GRAPH,
    ITEMS,
    MERGED_GRAPH,
    QUERY_GRAPH,
    RANK_GRAPH,
    RANKING_SIGNATURE,
    USER_FEATURES,
    Blessing,
    History,
    Lineage,
    Ranking,
    ReleaseManifest,
    Retrieval,
    Signature,
    Tensor,
)
from endcap.features.dataset import FeatureTables
from endcap.features.fitted import FittedFeatures
from endcap.features.lines import HISTORY_TARGET
from endcap.features.transforms.raw import canonical
from endcap.flows.fitting import FittedModel
from endcap.flows.rating import NETWORK
from endcap.models.boosted_trees import BoostedTrees
from endcap.models.rating import RatedTwoTower
from endcap.retrieval.build import write_candidates
from endcap.retrieval.merged import write_merged_graph
from endcap.training.export import VECTOR, export_items, export_query, history_spec, item_vectors
from endcap.training.export_rating import PREDICTION, export_ranker
from endcap.training.export_trees import export_trees
from endcap.workspace.atomic import write_json

_ARROW_TYPES: dict[str, pa.DataType] = {"STRING": pa.string(), "INT64": pa.int64(), "FLOAT": pa.float32()}


def write_ranker(model: FittedModel, configuration: Configuration, folder: Path) -> Ranking:
    """Export what scores pairs, and say how it is asked."""
    trained, rating, definition = model.trained.model.eval(), model.rating, model.fitted.definition
    if rating is None or not isinstance(trained, RatedTwoTower) or definition.target is None:
        raise InputError(
            "A release that ranks needs a model with a rating head; train with model_type=ranking or multitask."
        )
    path = folder / RANK_GRAPH
    if configuration.model.ranker == "lightgbm" and rating.trees is not None:
        export_trees(rating.trees, model.fitted, rating.calibrations[BoostedTrees.name], path)
    else:
        with torch.no_grad():
            products = trained.learned_products(model.catalog.on(model.day))
        is_bce = configuration.training.rating_loss == "bce"
        export_ranker(trained, model.fitted, products, rating.calibrations[NETWORK], path, is_bce=is_bce)
    return ranking_of(model.fitted, f"{definition.target.column} of a customer's line of the product")


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
        history=history_spec(
            model.fitted, has_boosts=trained.has_repeat_head, has_neighbors=trained.neighbors is not None
        ),
    )
    write_merged_graph(folder / MERGED_GRAPH, folder / QUERY_GRAPH, vectors, model.catalog.item_ids, retrieval)
    return retrieval


def write_tables(model: FittedModel, tables: FeatureTables, standing: pa.Table, top_k: int, folder: Path) -> None:
    """Write what the server filters by and falls back on: products, users' features at the end of the data, popular products.

    `standing` is what `standing_at` says of the model's day.
    """
    products = write_items(tables, model.day, standing, model.catalog.item_ids, folder)
    write_snapshot(model.fitted, tables, folder)
    write_popular(products, top_k, folder)


def write_items(tables: FeatureTables, day: int, standing: pa.Table, item_ids: Sequence[str], folder: Path) -> pa.Table:
    """Write and give the features of the catalog's products as of `day`, in the form that the graphs take.

    Of `standing` comes what isn't among them.
    """
    products = tables.products_on(day).drop_columns(["day"])
    products = products.filter(pc.is_in(products["item_id"], value_set=pa.array(item_ids)))
    rows = pc.index_in(products["item_id"].combine_chunks(), value_set=standing["item_id"].combine_chunks())
    for name in standing.column_names:
        if name not in products.column_names:
            products = products.append_column(name, standing[name].combine_chunks().take(rows))
    products = pa.table({name: canonical(products[name]) for name in products.column_names})
    pq.write_table(products, folder / ITEMS, compression="zstd")
    return products


def write_snapshot(fitted: FittedFeatures, tables: FeatureTables, folder: Path) -> None:
    """Write every known customer's features at the end of the data."""
    snapshot = tables.table("snapshot")
    inputs = [*buyer_inputs(fitted), *fitted.rating_inputs()]
    columns = {tensor.name: _as_input(snapshot, tensor) for tensor in inputs if _is_kept(tensor)}
    pq.write_table(pa.table(columns), folder / USER_FEATURES, compression="zstd")


def write_popular(products: pa.Table, top_k: int, folder: Path) -> None:
    """Write the most bought products of the last 30 days."""
    popular = products.sort_by([("purchases_30d_per_10k", "descending"), ("item_id", "ascending")])["item_id"]
    path = folder / FALLBACK_POPULAR
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"product_ids": popular.slice(0, top_k).to_pylist()})


def ranking_of(fitted: FittedFeatures, units: str) -> Ranking:
    """How the `rank.onnx` of these features scores pairs; `units` says in a few words what a prediction is a number of."""
    definition = fitted.definition
    if definition.target is None:
        raise InputError("A ranking release needs features.target: the column whose value is predicted for a pair.")
    inputs = fitted.pair_inputs()
    item = next(one for one in inputs if one.column == definition.item_id)
    return Ranking(
        prediction_output=PREDICTION,
        target=definition.target.column,
        units=units,
        primary_id=definition.user_id,
        item_input=item.tensor.name,
        item_id_type="INT64" if item.tensor.dtype == "INT64" else "STRING",
        product_inputs=inputs,
        history=_with_values(history_spec(fitted, has_boosts=False)),
    )


def _with_values(history: History | None) -> History | None:
    """The history as `rank.onnx` takes it: with the last known target of each of its products."""
    if history is None:
        return None
    return msgspec.structs.replace(history, values_input=f"{history.items_input}_{HISTORY_TARGET}")


def signature_of_retrieval(fitted: FittedFeatures, retrieval: Retrieval) -> Signature:
    """A customer in, the best `top_k` products out."""
    outputs = [
        Tensor("product_ids", retrieval.item_id_type, [-1, retrieval.top_k]),
        Tensor("scores", "FLOAT", [-1, retrieval.top_k]),
    ]
    return Signature(inputs=buyer_inputs(fitted), outputs=outputs)


def signature_of_ranking(fitted: FittedFeatures, ranking: Ranking) -> Signature:
    """A customer and products in, a score for each of these out; the products' features may stand beside their ids."""
    products = [
        msgspec.structs.replace(
            one.tensor, shape=[-1, *one.tensor.shape], required=one.tensor.name == ranking.item_input
        )
        for one in ranking.product_inputs
    ]
    outputs = [Tensor("product_ids", ranking.item_id_type, [-1, -1]), Tensor("scores", "FLOAT", [-1, -1])]
    return Signature(inputs=[*buyer_inputs(fitted), *fitted.rating_inputs(), *products], outputs=outputs)


def signatures_of(fitted: FittedFeatures, retrieval: Retrieval | None, ranking: Ranking | None) -> dict[str, Signature]:
    """Every way to ask the release: `serving_default` recommends where it can, else it ranks as `serve_ranking` does."""
    signatures: dict[str, Signature] = {}
    if ranking is not None:
        signatures = dict.fromkeys((DEFAULT_SIGNATURE, RANKING_SIGNATURE), signature_of_ranking(fitted, ranking))
    if retrieval is not None:
        signatures[DEFAULT_SIGNATURE] = signature_of_retrieval(fitted, retrieval)
    return signatures


def manifest_of(
    name: str,
    tables: FeatureTables,
    retrieval: Retrieval | None,
    fitted: FittedFeatures,
    lineage: Lineage,
    metrics: Mapping[str, float],
    blessing: Blessing,
    ranking: Ranking | None = None,
) -> ReleaseManifest:
    """The manifest, before its files are known."""
    return ReleaseManifest(
        format_version=FORMAT_VERSION,
        name=name,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        as_of=datetime.fromtimestamp(tables.split.test_start_us / 1e6, UTC).isoformat(),
        files={},
        signatures=signatures_of(fitted, retrieval, ranking),
        retrieval=retrieval,
        lineage=lineage,
        metrics=dict(metrics),
        blessing=blessing,
        ranking=ranking,
    )


def buyer_inputs(fitted: FittedFeatures) -> list[Tensor]:
    """Raw inputs of the query graph, and the buyer's of the ranking graph, as the signatures state them."""
    return fitted.raw_inputs("buyer")


def _is_kept(tensor: Tensor) -> bool:
    """A moment belongs to a request, not to a user: without one, the server takes the present."""
    return not (tensor.dtype == "INT64" and tensor.default is None and not tensor.required)


def _as_input(snapshot: pa.Table, tensor: Tensor) -> pa.Array:
    dtype = _ARROW_TYPES[tensor.dtype]
    return canonical(snapshot[tensor.name]).cast(pa.list_(dtype) if len(tensor.shape) == 2 else dtype)
