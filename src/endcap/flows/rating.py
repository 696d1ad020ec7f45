"""The table of lines and a training configuration in, what ratings are learned from, calibrated and judged by out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import ibis
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from endcap.contracts.configuration import Configuration
from endcap.contracts.errors import ArtifactError, InputError
from endcap.contracts.reporting import Reporter
from endcap.evaluation.predictions import TargetScale
from endcap.evaluation.rating import Calibration
from endcap.features.dataset import LINES, FeatureTables, day_of
from endcap.features.fitted import FittedFeatures
from endcap.features.lines import ITEM_MEAN, TARGET_VALUES, USER_MEAN
from endcap.features.split import EVAL, TRAIN
from endcap.features.transforms.target import FittedTarget
from endcap.flows.transformed import Stage
from endcap.models.boosted_trees import BoostedTrees
from endcap.models.rating import OwnLines, RatedTwoTower
from endcap.training.data import Catalog
from endcap.training.rating import learned_scale, predict
from endcap.training.rating_columns import column_names, raw_columns
from endcap.training.rating_data import (
    Rated,
    RatedPeriod,
    lines_with_products,
    rated_period,
    rated_questions,
)
from endcap.workspace.atomic import write_json

FloatArray = NDArray[np.float64]

NETWORK = "model"
_RATING = "rating.json"
_TREES = "lightgbm.txt"
_GROWING = "growing boosted trees"
_SHRINK = 20.0
"""Lines of its own by which a product's mean outweighs the mean of all."""


@dataclass(frozen=True)
class FittedRating:
    """What goes with a rating head: the target, the trees beside it, and what the eval period says each score means."""

    target: FittedTarget
    trees: BoostedTrees | None = None
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)


class _Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    target: FittedTarget
    calibrations: dict[str, Calibration]


@dataclass(frozen=True)
class PeriodLines:
    """Lines of one or several periods as tables: questions, and the product's feature row of each line."""

    questions: pa.Table
    products: pa.Table

    @property
    def question_nums(self) -> NDArray[np.int64]:
        """The row of each line's question."""
        return np.asarray(self.products["question_num"].to_numpy(), np.int64)


def scale_of(target: FittedTarget) -> TargetScale:
    """The target's clip and log, as evaluation knows them."""
    low, high = (target.clip.low, target.clip.high) if target.clip else (-np.inf, np.inf)
    return TargetScale(low, high, target.is_logged)


def rated_of(tables: FeatureTables, configuration: Configuration, fitted: FittedFeatures, stage: Stage) -> Rated:
    """Lines to learn from: of the train period with the eval period to measure on, or for a refit of both."""
    definition = configuration.features.target
    if definition is None:  # refused with the configuration already
        raise InputError("There is no features.target to learn ratings of; add one.")
    periods = [TRAIN] if stage == "tune" else [TRAIN, EVAL]
    lines = lines_in(tables, periods)
    rows = pa.table({definition.column: lines[TARGET_VALUES].combine_chunks().flatten()})
    target = FittedTarget.fit(ibis.memtable(rows), definition)
    train = rated_questions(fitted, target, lines, known_alone=True)
    if stage != "tune":
        return Rated(train, target)
    return Rated(train, target, period_of(tables, fitted, target, EVAL))


def lines_in(tables: FeatureTables, periods: Sequence[str]) -> pa.Table:
    """Questions of some periods. Raises InputError when there is none."""
    lines = tables.table(LINES)
    found = lines.filter(pc.is_in(lines["period"], value_set=pa.array(periods)))
    if not found.num_rows:
        raise InputError(f"No basket lies in the {' and '.join(periods)} period: give more data, or another split.")
    return found.combine_chunks()


def period_of(tables: FeatureTables, fitted: FittedFeatures, target: FittedTarget, period: str) -> RatedPeriod:
    """The lines of the eval or test period, each with its product as of its own day."""
    lines = lines_in(tables, [period])
    start_us = tables.split.eval_start_us if period == EVAL else tables.split.test_start_us
    return period_of_lines(tables, fitted, target, lines, day_of(start_us))


def period_of_lines(
    tables: FeatureTables, fitted: FittedFeatures, target: FittedTarget, lines: pa.Table, day: int
) -> RatedPeriod:
    """Lines to be predicted, each with its product as of its own day; `day` is that of the catalog of the histories."""
    return rated_period(fitted, target, lines, _products_of(tables, lines), day)


def _products_of(tables: FeatureTables, lines: pa.Table) -> pa.Table:
    return tables.products_until(day_of(int(pc.max(lines["event_time_us"]).as_py()))).combine_chunks()


def with_products(tables: FeatureTables, target: FittedTarget, lines: pa.Table) -> PeriodLines:
    """Questions and the product's feature row of each of their lines."""
    return PeriodLines(lines, lines_with_products(lines, _products_of(tables, lines), target))


def columns_of(
    tables: FeatureTables, fitted: FittedFeatures, target: FittedTarget, periods: Sequence[str]
) -> tuple[PeriodLines, FloatArray, FloatArray]:
    """Lines of some periods, their raw columns and their learned targets."""
    return columns_of_lines(tables, fitted, target, lines_in(tables, periods))


def columns_of_lines(
    tables: FeatureTables, fitted: FittedFeatures, target: FittedTarget, lines: pa.Table
) -> tuple[PeriodLines, FloatArray, FloatArray]:
    """The lines with their products, their raw columns and their learned targets."""
    rated = rated_questions(fitted, target, lines, known_alone=False)
    own = OwnLines(rated.count.values, rated.age_days.values, rated.last.values)
    found = with_products(tables, target, lines)
    columns = raw_columns(fitted, found.questions, found.products, found.question_nums, own)
    return found, columns, rated.target.values.double().numpy()


def fit_beside(
    tables: FeatureTables,
    configuration: Configuration,
    fitted: FittedFeatures,
    catalog: Catalog,
    model: RatedTwoTower,
    rated: Rated,
    report: Reporter,
) -> FittedRating:
    """Grow the trees on the train period, and calibrate every system on the eval period."""
    settings, target = configuration.evaluation.baselines, rated.target
    if rated.evaluate is None:
        raise InputError("Ratings are calibrated on the eval period; hand it over.")
    found, columns, learned = columns_of(tables, fitted, target, [EVAL])
    scores = {NETWORK: learned_scale(configuration.training, rated.moments)(predict(model, catalog, rated.evaluate))}
    trees = None
    if wants_trees(configuration):
        _, train_columns, train_learned = columns_of(tables, fitted, target, [TRAIN])
        names = column_names(fitted)
        trees = BoostedTrees.fit(
            names, train_columns, train_learned, settings.lightgbm, configuration.seed, evaluate=(columns, learned),
            heard=partial(report.progress, _GROWING),
        )  # fmt: skip
        report.progress(_GROWING, trees.num_trees, trees.num_trees)  # growth stops early as a rule
        scores[BoostedTrees.name] = trees.predict(columns)
    scores |= simple_scores(tables, target, found, [TRAIN])
    scale = scale_of(target)
    return FittedRating(
        target, trees, {name: Calibration.fit(values, learned, scale) for name, values in scores.items()}
    )


def wants_trees(configuration: Configuration) -> bool:
    """Whether boosted trees are grown: to be measured against, or to answer."""
    return configuration.model.ranker == "lightgbm" or "lightgbm" in configuration.evaluation.baselines.rated


def refit_beside(
    tables: FeatureTables,
    configuration: Configuration,
    fitted: FittedFeatures,
    target: FittedTarget,
    tuned: FittedRating,
    report: Reporter,
) -> FittedRating:
    """As many trees on everything before the test; what scores mean stays as the eval period said.

    The clip is the new target's: histories carry it into the model, and the exported graph takes it from the calibration.
    """
    trees = None
    if tuned.trees is not None:
        _, columns, learned = columns_of(tables, fitted, target, [TRAIN, EVAL])
        config = configuration.evaluation.baselines.lightgbm
        names = column_names(fitted)
        trees = BoostedTrees.fit(
            names, columns, learned, config, configuration.seed, num_trees=tuned.trees.num_trees,
            heard=partial(report.progress, _GROWING),
        )  # fmt: skip
    scale = scale_of(target)
    clipped = {
        name: msgspec.structs.replace(one, low=float(scale.low), high=float(scale.high))
        for name, one in tuned.calibrations.items()
    }
    return FittedRating(target, trees, clipped)


SIMPLE = {
    "mean": "the mean",
    "product_mean": "the product's mean so far",
    "customer_mean": "the customer's mean so far",
    "shrunk_product_mean": "the product's mean, few lines drawn to the mean",
    "own_usual": "what the customer last had of the product, else its mean",
}
"""Rules that a rating model has to beat, with titles."""


def simple_scores(
    tables: FeatureTables, target: FittedTarget, lines: PeriodLines, known: Sequence[str]
) -> dict[str, FloatArray]:
    """What each rule says of the lines; `known` are the periods that a mean of all lines is taken over."""
    before = lines_in(tables, known)
    learned = target.transform(before[TARGET_VALUES].combine_chunks().flatten()).astype(np.float64)
    mean = float(np.nanmean(learned))
    by_customer = lines.questions[USER_MEAN].to_numpy()[lines.question_nums]
    by_product = lines.products[ITEM_MEAN].to_numpy()
    shrunk = _shrunk(before, learned, mean, lines)
    last = _last_of(target, lines)
    return {
        "mean": np.full(len(by_product), mean),
        "product_mean": np.nan_to_num(by_product, nan=mean),
        "customer_mean": np.nan_to_num(by_customer, nan=mean),
        "shrunk_product_mean": shrunk,
        "own_usual": np.where(np.isnan(last), shrunk, last),
    }


def _shrunk(before: pa.Table, learned: FloatArray, mean: float, lines: PeriodLines) -> FloatArray:
    items = before["targets"].combine_chunks().flatten()
    ids = pc.unique(items)
    places = np.asarray(pc.index_in(items, value_set=ids))
    kept = np.isfinite(learned)
    num = np.bincount(places[kept], minlength=len(ids))
    total = np.bincount(places[kept], weights=learned[kept], minlength=len(ids))
    means = np.append((total + _SHRINK * mean) / (num + _SHRINK), mean)
    wanted = np.asarray(pc.index_in(lines.products["item_id"].combine_chunks(), value_set=ids).fill_null(len(ids)))
    return np.asarray(means[wanted], np.float64)


def _last_of(target: FittedTarget, lines: PeriodLines) -> FloatArray:
    """The last learned target of each line's product for its customer; NaN without one."""
    questions = lines.questions
    history = questions["user_history"].combine_chunks()
    offsets = np.asarray(history.offsets).astype(np.int64)
    flat = history.values.slice(offsets[0], offsets[-1] - offsets[0])
    values = questions["user_history_target"].combine_chunks()
    before = np.asarray(values.values.slice(np.asarray(values.offsets)[0], len(flat)), np.float64)
    ids = pc.unique(lines.products["item_id"].combine_chunks())
    entry = np.asarray(pc.index_in(flat, value_set=ids).fill_null(-1)).astype(np.int64)
    item = np.asarray(pc.index_in(lines.products["item_id"].combine_chunks(), value_set=ids)).astype(np.int64)
    key = np.repeat(np.arange(len(history)), np.diff(offsets)) * len(ids) + entry
    key[entry < 0] = -1
    order = np.argsort(key, kind="stable")
    wanted = lines.question_nums * len(ids) + item
    found = np.full(len(wanted), np.nan)
    if len(order):
        place = np.minimum(np.searchsorted(key[order], wanted), len(order) - 1)
        met = key[order][place] == wanted
        numbers = before[order[place[met]]]
        found[met] = np.where(numbers == 0, np.nan, target.transform(pa.array(numbers)))
    return found


def save_rating(rating: FittedRating, folder: Path) -> None:
    """Write the target, the calibrations and the trees (as text) into a checkpoint's folder."""
    write_json(folder / _RATING, _Stored(rating.target, dict(rating.calibrations)))
    if rating.trees is not None:
        (folder / _TREES).write_text(rating.trees.text, encoding="utf-8")


def load_rating(folder: Path) -> FittedRating:
    """What `save_rating` wrote. Raises ArtifactError when it isn't there or is damaged."""
    try:
        stored = msgspec.json.decode((folder / _RATING).read_bytes(), type=_Stored)
        path = folder / _TREES
        trees = BoostedTrees(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, msgspec.DecodeError) as error:
        raise ArtifactError(f"{folder / _RATING} can't be read: {error}. Train again.") from error
    return FittedRating(stored.target, trees, stored.calibrations)
