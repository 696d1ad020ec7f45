"""A model, the data of a quick test and its periods in, the eight metrics that are stored of it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from endcap.contracts.configuration import Configuration, ModelConfig
from endcap.evaluation.predictions import errors
from endcap.features.dataset import FeatureTables
from endcap.features.fitted import FittedFeatures
from endcap.features.split import EVAL, TEST
from endcap.flows.quicktest_record import EIGHT
from endcap.flows.rating import NETWORK, FittedRating, columns_of, period_of, rated_of
from endcap.flows.transformed import Transformed
from endcap.models.boosted_trees import BoostedTrees
from endcap.models.rating import RatedTwoTower, TargetMoments
from endcap.models.two_tower import TwoTower
from endcap.training.data import Catalog
from endcap.training.loop import MEAN, EvalPeriod, evaluate_model
from endcap.training.rating import learned_scale, predict

_RETRIEVED: Final = ("recall@5", "recall@10", "recall@50", "recall@100")
_ANY: Final = TargetMoments(0.0, 1.0)
"""Of a model whose own are loaded, or that is only counted."""


@dataclass(frozen=True)
class Measured:
    """What a model is measured on: the eval and the test period as the tuning's transforms see them."""

    tables: FeatureTables
    data: Transformed
    test_catalog: Catalog
    test: EvalPeriod


def validated(configuration: Configuration) -> str | None:
    """The metric of recommendations by which epochs are chosen; None of a model that only rates."""
    if configuration.model.model_type == "ranking":
        return None
    return f"validation/{configuration.training.metric}"


def model_of(fitted: FittedFeatures, model: ModelConfig) -> TwoTower:
    """A model of this shape, not trained."""
    shape = (fitted.columns("buyer"), fitted.columns("product"), fitted.definition.item_id, model)
    return TwoTower(*shape) if model.model_type == "retrieval" else RatedTwoTower(*shape, _ANY)


def measure_model(
    model: TwoTower,
    configuration: Configuration,
    rating: FittedRating | None,
    on: Measured,
    seen: Mapping[str, float] | None = None,
) -> dict[str, float | None]:
    """The eight, null where there is nothing to measure, and `validated` beside them.

    `seen` are the metrics of the eval period, where they are known already.
    """
    found: dict[str, float | None] = dict.fromkeys(EIGHT, None)
    name = validated(configuration)
    if name is not None:
        tested = evaluate_model(model, on.test_catalog, on.test)
        found |= {f"test/{metric}": tested[metric] for metric in _RETRIEVED}
        if seen is None and on.data.period is not None:
            seen = evaluate_model(model, on.data.catalog, on.data.period)
        if seen is not None:
            found[name] = seen[f"{MEAN}/{configuration.training.metric}"]
    if rating is not None and isinstance(model, RatedTwoTower):
        for label, period, catalog in (("test", TEST, on.test_catalog), ("validation", EVAL, on.data.catalog)):
            rmse, mae = _errors(model, configuration, rating, on, period, catalog)
            found |= {f"{label}/rmse": rmse, f"{label}/mae": mae}
    return found


def remarks_on(configuration: Configuration) -> list[str]:
    """Why some of the eight are null."""
    kind = configuration.model.model_type
    if kind == "ranking":
        return ["recall is null: a ranking model recommends nothing."]
    if kind == "multitask":
        return []
    if configuration.features.target is None:
        return ["rmse and mae are null: the FeatureConfig names no target."]
    return ["rmse and mae are null: a retrieval model predicts no target."]


def _errors(
    model: RatedTwoTower,
    configuration: Configuration,
    rating: FittedRating,
    on: Measured,
    period: str,
    catalog: Catalog,
) -> tuple[float, float]:
    """RMSE and MAE of the lines of a period in the target's own units, calibrated as the release would be."""
    asked = period_of(on.tables, on.data.fitted, rating.target, period)
    if configuration.model.ranker == "lightgbm" and rating.trees is not None:
        _, columns, _ = columns_of(on.tables, on.data.fitted, rating.target, [period])
        own = rating.calibrations[BoostedTrees.name].own_units(rating.trees.predict(columns))
    else:
        rated = rated_of(on.tables, configuration, on.data.fitted, "tune")
        own = rating.calibrations[NETWORK].own_units(
            learned_scale(configuration.training, rated.moments)(predict(model, catalog, asked))
        )
    told = errors(asked.value, own)
    return told.rmse, told.mae
