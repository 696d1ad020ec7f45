"""A trained model and its exported files in, what the gate wants to know beside rankings out: parity, time, estimates."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pyarrow as pa
import torch

from endcap.contracts.configuration import Configuration
from endcap.contracts.release import MERGED_GRAPH, RANK_GRAPH, Ranking, Retrieval, Tensor
from endcap.contracts.reporting import Reporter
from endcap.contracts.stopping import uninterrupted
from endcap.evaluation.gate import AnswerTime, GraphParity
from endcap.evaluation.off_policy import Estimate
from endcap.features.dataset import FeatureTables
from endcap.features.split import TEST
from endcap.flows.fitting import FittedModel
from endcap.flows.logged import estimates_from_log
from endcap.flows.rating import NETWORK, columns_of_lines, lines_in, period_of_lines
from endcap.flows.rating_verdict import predict_pairs
from endcap.flows.scoring import ExportedModel, GraphFeed
from endcap.models.boosted_trees import BoostedTrees
from endcap.models.rating import RatedTwoTower
from endcap.retrieval.merged import IDS_OUTPUT, SCORES_OUTPUT
from endcap.training.data import questions_of
from endcap.training.loop import score_all
from endcap.training.rating import learned_scale, predict
from endcap.workspace.layout import Workspace

# Shape suffixes: B = questions, N = products, K = length of the answer, P = lines

_NUM_COMPARED = 256
_MAX_SCORES = 20_000_000
_NUM_TIMED = 200
_NUM_WARM_UP = 10


@dataclass(frozen=True)
class Gathered:
    """Evidence beside the rankings; None and empty where there is none."""

    parity: GraphParity | None = None
    answer_time: AnswerTime | None = None
    estimates: Sequence[Estimate] = ()


def gather(
    workspace: Workspace,
    tables: FeatureTables,
    configuration: Configuration,
    final: FittedModel,
    folder: Path,
    retrieval: Retrieval,
    inputs: list[Tensor],
    report: Reporter,
) -> Gathered:
    """Ask the trained model and the files in `folder` the same real questions of the test period, and time the files.

    The release's choices are held against a log of what was shown where the workspace has one with propensities.
    """
    exported = ExportedModel(folder, retrieval, inputs)
    questions = tables.table("test")
    if not questions.num_rows:
        return Gathered()
    return Gathered(
        parity=measure_parity(final, exported, folder, questions),
        answer_time=time_answers(exported, retrieval.top_k, questions),
        estimates=estimates_from_log(workspace, tables, configuration, exported, report),
    )


def measure_parity(final: FittedModel, exported: ExportedModel, folder: Path, questions: pa.Table) -> GraphParity:
    """How far `query.onnx` with the candidates, and `model.onnx`, are from the trained model.

    Every score of every product is compared; of the merged graph's lists each place: its score with the model's for that
    product, and the model's for that product with the model's own score at that place. So products that stand in
    another order count by how much less they should have scored.
    """
    questions = _spread(questions, min(_NUM_COMPARED, max(1, _MAX_SCORES // exported.index.num_items)))
    trained_BN = _scores_of(final, questions)
    asked = exported.prepare(questions)
    scores_BN = exported.scores(asked)[:, exported.index.rows_of(final.catalog.item_ids)]
    gap = float(np.abs(scores_BN - trained_BN).max())
    merged = _merged_lists(folder, final, asked)
    if merged is None:
        return GraphParity(gap, scores_BN.size)
    nums_BK, listed_BK = merged
    own_BK = np.take_along_axis(trained_BN, nums_BK, axis=1)
    best_BK = -np.sort(-trained_BN, axis=1)[:, : nums_BK.shape[1]]
    gap = float(np.max([gap, np.abs(own_BK - listed_BK).max(), np.abs(own_BK - best_BK).max()]))
    order_BK = np.argsort(-trained_BN, axis=1, kind="stable")[:, : nums_BK.shape[1]]
    num_equal = int((order_BK == nums_BK).all(axis=1).sum())
    return GraphParity(gap, scores_BN.size + nums_BK.size, num_lists=len(nums_BK), num_equal_lists=num_equal)


def measure_rating_parity(
    tables: FeatureTables, configuration: Configuration, final: FittedModel, folder: Path, ranking: Ranking
) -> GraphParity | None:
    """How far `rank.onnx` is from the trained head or trees and their calibration, over real lines of the test period.

    Gaps are on the learned scale; in the shop's own units they count in shares of the prediction, where that is above 1.
    """
    rating, model = final.rating, final.trained.model
    if rating is None or not isinstance(model, RatedTwoTower):
        return None
    lines = _spread(lines_in(tables, [TEST]), _NUM_COMPARED)
    found, columns, _ = columns_of_lines(tables, final.fitted, rating.target, lines)
    if configuration.model.ranker == "lightgbm" and rating.trees is not None:
        calibration, trained_P = rating.calibrations[BoostedTrees.name], rating.trees.predict(columns)
    else:
        period = period_of_lines(tables, final.fitted, rating.target, lines, final.day)
        to_learned = learned_scale(configuration.training, model.moments)
        calibration, trained_P = rating.calibrations[NETWORK], to_learned(predict(model, final.catalog, period))
    own_P, learned_P = predict_pairs(folder / RANK_GRAPH, final.fitted, ranking, found)
    expected_P = calibration.own_units(trained_P)
    gap = np.abs(learned_P - calibration.line.apply(trained_P)).max()
    own_gap = (np.abs(own_P - expected_P) / np.maximum(np.abs(expected_P), 1.0)).max()
    return GraphParity(float(np.max([gap, own_gap])), len(learned_P))


def time_answers(exported: ExportedModel, top_k: int, questions: pa.Table) -> AnswerTime:
    """How long one question after the other takes in this process, from raw columns to the best products."""
    asked = [exported.prepare(questions.slice(row % questions.num_rows, 1)) for row in range(_NUM_TIMED + _NUM_WARM_UP)]
    taken_ms: list[float] = []
    for one in asked:
        started = time.perf_counter()
        exported.answer(one, top_k)
        taken_ms.append((time.perf_counter() - started) * 1000)
    p50, p95 = np.percentile(taken_ms[_NUM_WARM_UP:], (50, 95))
    return AnswerTime(float(p50), float(p95), _NUM_TIMED)


def _spread(table: pa.Table, num_rows: int) -> pa.Table:
    """So many rows, from the first to the last."""
    return table.take(pa.array(np.unique(np.linspace(0, table.num_rows - 1, num_rows).astype(np.int64))))


@torch.no_grad()
def _scores_of(final: FittedModel, questions: pa.Table) -> npt.NDArray[np.float32]:
    """The trained model's score of every product, `[B, N]`, in the catalog's order."""
    model = final.trained.model.eval()
    products = model.products(final.catalog.on(final.day))
    asked = questions_of(final.fitted, questions)
    scores_BN: npt.NDArray[np.float32] = score_all(model, products, asked, np.arange(len(asked)))[:, 1:].numpy()
    return scores_BN


def _merged_lists(
    folder: Path, final: FittedModel, asked: GraphFeed
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]] | None:
    """Products, by their place in the catalog, and scores of the merged graph's lists; None where there is no such graph."""
    if not (folder / MERGED_GRAPH).is_file():
        return None
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(folder / MERGED_GRAPH), options, providers=["CPUExecutionProvider"])
    with uninterrupted():
        ids_BK, scores_BK = session.run([IDS_OUTPUT, SCORES_OUTPUT], asked.feeds)
    places = {item_id: place for place, item_id in enumerate(final.catalog.item_ids)}
    nums = [[places[str(item_id)] for item_id in row] for row in ids_BK]
    return np.array(nums, dtype=np.int64).reshape(scores_BK.shape), scores_BK
