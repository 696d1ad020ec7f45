"""A release's files and the test period in, how well products are placed that were first sold in it out.

Nobody had bought them, so all that is known is what they are called and what they belong to: their vectors come from
`item.onnx`, as those of a shop's new products do.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from endcap.contracts import columns as c
from endcap.contracts.configuration import Configuration
from endcap.contracts.release import CANDIDATE_VECTORS
from endcap.evaluation.cold_items import ColdItems, ColdRankings, measure_cold_items
from endcap.evaluation.metrics import DEPTH, RaggedSets
from endcap.features.dataset import FeatureTables, day_of
from endcap.flows.scoring import CHUNK, ExportedModel, encode_items
from endcap.models.title_neighbors import TitleNeighbors
from endcap.retrieval.exact import ExactIndex

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


def judge_cold_items(
    tables: FeatureTables, configuration: Configuration, folder: Path, model: ExportedModel, questions: pa.Table
) -> ColdItems | None:
    """Rank what nobody had bought before the test period, together with all other products and alone.

    Args:
        tables: Feature tables; products that no earlier purchase names are the cold ones.
        configuration: Its seed and number of resamples.
        folder: The release's files.
        model: The same, opened.
        questions: Of the test period, with `targets` and what each customer bought `earlier`.

    Returns None when there is no such product, or no customer bought one.
    """
    products = _cold_products(tables, model)
    cold_ids = products[c.ITEM_ID].combine_chunks()
    number = {item_id: place for place, item_id in enumerate(cold_ids.to_pylist())}
    wanted = [[number[item] for item in row if item in number] for row in questions["targets"].to_pylist()]
    keep = [row for row, places in enumerate(wanted) if places]
    if not keep:
        return None
    asked = questions.take(pa.array(keep))
    relevant = RaggedSets.from_lists([wanted[row] for row in keep])
    vectors = encode_items(folder, products)
    known = np.load(folder / CANDIDATE_VECTORS, allow_pickle=False)
    ids = np.array(list(number))
    everything = ExactIndex(np.concatenate([vectors, known]), np.concatenate([ids, model.index.item_ids]))
    joint, auc, alone = _rank(model, everything, ExactIndex(vectors, ids), asked, relevant)
    near = ColdRankings(TitleNeighbors.title, _by_titles(tables, products, asked))
    return measure_cold_items(
        joint,
        auc,
        [ColdRankings("the model", alone), near],
        relevant,
        len(cold_ids),
        len(known),
        seed=configuration.seed,
        num_resamples=configuration.evaluation.num_resamples,
    )


def _cold_products(tables: FeatureTables, model: ExportedModel) -> pa.Table:
    purchases, is_known = tables.purchases_before("test")
    sold = pc.unique(purchases[c.ITEM_ID].filter(pa.array(is_known)))
    products = tables.products_on(day_of(tables.split.test_start_us)).drop_columns(["day"])
    products = products.filter(pc.invert(pc.is_in(products[c.ITEM_ID], value_set=sold)))
    return products.filter(pa.array(model.index.rows_of(products[c.ITEM_ID].to_pylist()) < 0))


def _rank(
    model: ExportedModel, everything: ExactIndex, cold: ExactIndex, asked: pa.Table, relevant: RaggedSets
) -> tuple[IntArray, FloatArray, IntArray]:
    """Rows of all products without the customer's own ones, the AUC of what was bought there, rows of cold products alone."""
    joint = np.full((asked.num_rows, min(DEPTH, everything.num_items)), -1, np.int64)
    alone = np.full((asked.num_rows, min(DEPTH, cold.num_items)), -1, np.int64)
    auc = np.zeros(asked.num_rows)
    bought = np.split(relevant.values, np.cumsum(relevant.lengths)[:-1])
    for start in range(0, asked.num_rows, CHUNK):
        part = asked.slice(start, CHUNK)
        vectors, boosts = model.encode(part)
        if boosts is not None:  # known products stand after the cold ones
            boosts = [one and one._replace(rows=one.rows + cold.num_items) for one in boosts]
        own = [everything.rows_of(ids) for ids in part["earlier"].to_pylist()]
        own = [np.unique(rows[rows >= 0]) for rows in own]
        for number, hit in enumerate(everything.search(vectors, [everything.num_items] * len(own), boosts, own), start):
            auc[number] = _share_below(hit.rows, bought[number], cold.num_items)
            shown = hit.rows[: joint.shape[1]]
            joint[number, : len(shown)] = shown
        for number, hit in enumerate(cold.search(vectors, [alone.shape[1]] * len(own)), start):
            alone[number, : len(hit.rows)] = hit.rows
    return joint, auc, alone


def _share_below(ranked: IntArray, bought: IntArray, num_cold: int) -> float:
    """The share of known products that stand below those of `bought`, in the mean; 0.5 where no known one is left."""
    is_known = ranked >= num_cold
    if not is_known.any():
        return 0.5
    below = is_known.sum() - np.cumsum(is_known)
    return float(below[np.isin(ranked, bought)].mean() / is_known.sum())


def _by_titles(tables: FeatureTables, cold: pa.Table, asked: pa.Table) -> IntArray:
    products = tables.products_on(day_of(tables.split.test_start_us))
    number = {item_id: place for place, item_id in enumerate(products[c.ITEM_ID].to_pylist())}
    candidates = np.array([number[item_id] for item_id in cold[c.ITEM_ID].to_pylist()], np.int64)
    own = [
        np.array([number[item_id] for item_id in dict.fromkeys(row) if item_id in number], np.int64)
        for row in asked["earlier"].to_pylist()
    ]
    return TitleNeighbors(products[c.TITLE].to_pylist(), candidates).rank(own, min(DEPTH, len(candidates)))
