"""A release's `rank.onnx` and the test period in, its errors beside trees and simple rules and a verdict out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pyarrow as pa
from numpy.typing import NDArray

from endcap.contracts.configuration import Configuration
from endcap.contracts.errors import InputError
from endcap.contracts.release import RANK_GRAPH, RANKING_SIGNATURE, Blessing, Ranking, Tensor
from endcap.contracts.stopping import uninterrupted
from endcap.evaluation.gate import GraphParity
from endcap.evaluation.rating import (
    Lines,
    RatedSystem,
    RatingComparison,
    compare_ratings,
    judge_ratings,
)
from endcap.features.dataset import FeatureTables
from endcap.features.fitted import FittedFeatures
from endcap.features.lines import TARGET_VALUES
from endcap.features.split import EVAL, TEST, TRAIN
from endcap.features.transforms.target import FittedTarget
from endcap.flows.champion import NAME as CHAMPION
from endcap.flows.champion import need_earlier, need_inputs, title_of
from endcap.flows.rating import NETWORK, SIMPLE, FittedRating, PeriodLines, columns_of, scale_of, simple_scores
from endcap.flows.scoring import feed
from endcap.models.boosted_trees import BoostedTrees
from endcap.releases.bundle import Release
from endcap.training.export_rating import LEARNED

FloatArray = NDArray[np.float64]

_QUESTIONS_AT_ONCE = 16


def judge_ratings_on_test(
    tables: FeatureTables,
    configuration: Configuration,
    folder: Path,
    ranking: Ranking,
    fitted: FittedFeatures,
    rating: FittedRating,
    parity: GraphParity | None = None,
    champion: Release | None = None,
) -> tuple[RatingComparison, Blessing]:
    """Predict every line of the test period with the release's own graph, beside the trees and the rules, and judge.

    `parity` says how far the graph is from what was trained, where that is at hand. A `champion` predicts the same lines with
    its own graph, and must be beaten too. Raises InputError when it can't be compared fairly.
    """
    found, columns, learned = columns_of(tables, fitted, rating.target, [TEST])
    own_units, as_learned = predict_pairs(folder / RANK_GRAPH, fitted, ranking, found)
    ranker = configuration.model.ranker
    title = "boosted trees" if ranker == "lightgbm" else "the model"
    systems = [RatedSystem(NETWORK, title, as_learned, own_units)]
    scores = {}
    if rating.trees is not None and ranker != "lightgbm":
        scores[BoostedTrees.name] = rating.trees.predict(columns)
    scores |= simple_scores(tables, rating.target, found, [TRAIN, EVAL])
    for name, values in scores.items():
        calibration = rating.calibrations[name]
        told = BoostedTrees.title if name == BoostedTrees.name else SIMPLE[name]
        systems.append(RatedSystem(name, told, calibration.line.apply(values), calibration.own_units(values)))
    if champion is not None:
        systems.append(_of_champion(champion, found, rating.target, tables.split.test_start_us))
    lines = Lines(
        value=found.products[TARGET_VALUES].to_numpy(),
        learned=learned,
        customer=_customers(found),
        slices=slices_of(found, columns),
    )
    settings = configuration.evaluation
    comparison = compare_ratings(
        rating.target.column,
        lines,
        systems,
        scale_of(rating.target),
        seed=configuration.seed,
        num_resamples=settings.num_resamples,
    )
    blessing = judge_ratings(
        comparison,
        trees=BoostedTrees.name if BoostedTrees.name in scores else None,
        max_loss=settings.max_rating_loss,
        min_customers=settings.min_customers,
        parity=parity,
        champion=None if champion is None else CHAMPION,
        champion_margin=settings.champion_margin,
    )
    return comparison, blessing


def _of_champion(champion: Release, lines: PeriodLines, target: FittedTarget, test_start_us: int) -> RatedSystem:
    """What the champion's own graph predicts of each line, brought to the candidate's learned scale."""
    need_earlier(champion, test_start_us)
    manifest = champion.manifest
    ranking = manifest.ranking
    if ranking is None or ranking.target != target.column:
        raise InputError(
            f"The champion, {title_of(champion)}, predicts {'nothing' if ranking is None else ranking.target}; expected "
            f"{target.column}. Let champion name a release that predicts it, or give this model another release.name."
        )
    graph = champion.path / RANK_GRAPH
    wanted = {value.name for value in _session(graph).get_inputs()}
    products = {one.tensor.name: one.column for one in ranking.product_inputs}
    buyer = [one for one in manifest.signatures[RANKING_SIGNATURE].inputs if one.name in wanted - set(products)]
    need_inputs(champion, {one.name for one in buyer}, lines.questions.column_names)
    need_inputs(champion, {products[name] for name in wanted & set(products)}, lines.products.column_names)
    own_units, learned = _predict(graph, buyer, ranking, lines)
    was_logged = "log" in manifest.lineage.configuration.get("features", {}).get("target", {})
    if was_logged != target.is_logged:
        learned = scale_of(target).apply(own_units)
    return RatedSystem(CHAMPION, f"the champion, {title_of(champion)}", learned, own_units)


def predict_pairs(
    path: Path, fitted: FittedFeatures, ranking: Ranking, lines: PeriodLines
) -> tuple[FloatArray, FloatArray]:
    """What the graph says of each line: in the shop's own units, and as it was learned."""
    return _predict(path, (*fitted.raw_inputs("buyer"), *fitted.rating_inputs()), ranking, lines)


def _session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1  # one order of summation: the same scores on every run
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _predict(
    path: Path, inputs: Sequence[Tensor], ranking: Ranking, lines: PeriodLines
) -> tuple[FloatArray, FloatArray]:
    session = _session(path)
    wanted = {value.name for value in session.get_inputs()}
    buyer = [tensor for tensor in inputs if tensor.name in wanted]
    product = [one for one in ranking.product_inputs if one.tensor.name in wanted]
    question = lines.question_nums
    parts: list[list[NDArray[Any]]] = []
    for start in range(0, lines.questions.num_rows, _QUESTIONS_AT_ONCE):
        first, last = np.searchsorted(question, [start, start + _QUESTIONS_AT_ONCE])
        if first == last:
            continue
        asked = lines.questions.slice(start, _QUESTIONS_AT_ONCE)
        rows = lines.products.slice(first, last - first)
        places = question[first:last] - start
        feeds = {tensor.name: feed(tensor, asked)[places] for tensor in buyer}
        feeds |= {one.tensor.name: _column(one.tensor, rows, one.column) for one in product}
        with uninterrupted():
            parts.append(session.run([ranking.prediction_output, LEARNED], feeds))
    own_units, learned = (np.concatenate([part[n] for part in parts]).astype(np.float64) for n in range(2))
    return own_units, learned


def _column(tensor: Tensor, rows: pa.Table, column: str) -> NDArray[Any]:
    named = Tensor(column, tensor.dtype, tensor.shape, tensor.required, tensor.default)
    return feed(named, rows)


def _customers(lines: PeriodLines) -> NDArray[np.int64]:
    ids = lines.questions["user_id"].to_numpy(zero_copy_only=False).astype(str)
    _, numbers = np.unique(ids, return_inverse=True)
    return np.asarray(numbers[lines.question_nums], np.int64)


def slices_of(lines: PeriodLines, columns: FloatArray) -> dict[str, NDArray[np.bool_]]:
    """Lines of a kind: by whether the customer had the product, by the customer's baskets, by the product's age."""
    had = columns[:, -3] > 0
    slices = {"product bought before": had, "product new to the customer": ~had}
    if "num_baskets" in lines.questions.column_names:
        baskets = lines.questions["num_baskets"].to_numpy()[lines.question_nums]
        for label, low, high in (
            ("no basket before", 0, 0),
            ("1-3 baskets before", 1, 3),
            ("4-9 baskets before", 4, 9),
        ):
            slices[label] = (baskets >= low) & (baskets <= high)
        slices["10+ baskets before"] = baskets >= 10
    if "days_since_first_sold" in lines.products.column_names:
        age = lines.products["days_since_first_sold"].to_numpy()
        slices["product sold for less than 30 days"] = ~(age >= 30)
    return slices
