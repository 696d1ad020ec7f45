"""Feature tables and a configuration in, a trained model out: tuned on the eval period, then refitted up to the test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import ibis
import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from safetensors.torch import save_file

from endcap.contracts.configuration import Configuration
from endcap.contracts.reporting import Reporter, Silent
from endcap.evaluation.metrics import RaggedSets
from endcap.features.dataset import LABEL_COLUMNS, FeatureTables, day_of
from endcap.features.fitted import FittedFeatures, fit
from endcap.features.remarks import remarks_on
from endcap.training.data import Catalog, questions_of
from endcap.training.loop import EvalPeriod, Trained, fit_model
from endcap.workspace.atomic import publish_folder, write_json


@dataclass(frozen=True)
class FittedModel:
    """A trained model, what its inputs were transformed with, and its catalog."""

    trained: Trained
    fitted: FittedFeatures
    catalog: Catalog
    day: int


def tune(tables: FeatureTables, configuration: Configuration, report: Reporter) -> FittedModel:
    """Train on the train period and keep the epoch that does best on the eval period."""
    split = tables.split
    baskets = tables.table("baskets")
    train = baskets.filter(pc.equal(baskets["period"], "train"))
    fitted, catalog, day = _prepare(tables, configuration, train, split.eval_start_us, report)
    period = _eval_period(tables, fitted, catalog, day)
    trained = fit_model(
        configuration, fitted, catalog, questions_of(fitted, train), split.eval_start_us, report, evaluate=period
    )
    return FittedModel(trained, fitted, catalog, day)


def refit(tables: FeatureTables, configuration: Configuration, num_epochs: int, report: Reporter) -> FittedModel:
    """Train on everything before the test period, for as many epochs as the eval period chose."""
    baskets = tables.table("baskets")
    end_us = tables.split.test_start_us
    fitted, catalog, day = _prepare(tables, configuration, baskets, end_us, Silent())  # heard already while tuning
    questions = questions_of(fitted, baskets)
    trained = fit_model(
        configuration,
        fitted,
        catalog,
        questions,
        end_us,
        report,
        num_epochs=num_epochs,
        stage="training on all before the test",
    )
    return FittedModel(trained, fitted, catalog, day)


def save_checkpoint(model: FittedModel, folder: Path) -> None:
    """Write weights, fitted transforms and the story of the epochs into `folder`, all or nothing."""
    with publish_folder(folder) as aside:
        weights = {name: tensor.contiguous() for name, tensor in model.trained.model.state_dict().items()}
        save_file(weights, aside / "model.safetensors")
        write_json(aside / "features.json", model.fitted)
        epochs = [
            {"epoch": record.epoch, "loss": record.loss, "metrics": record.metrics} for record in model.trained.epochs
        ]
        write_json(aside / "epochs.json", {"chosen_epoch": model.trained.chosen_epoch, "epochs": epochs})


def read_features(folder: Path) -> FittedFeatures:
    """The fitted transforms of a checkpoint."""
    return msgspec.json.decode((folder / "features.json").read_bytes(), type=FittedFeatures)


def _prepare(
    tables: FeatureTables, configuration: Configuration, questions: pa.Table, end_us: int, report: Reporter
) -> tuple[FittedFeatures, Catalog, int]:
    """Fit the transforms on what was known at `end_us`; products that were sold by then are the catalog."""
    day = day_of(end_us)
    features, known = rows_to_fit(tables, questions, end_us)
    fitted = fit(configuration.features, ibis.memtable(features), ibis.memtable(known))
    for remark in remarks_on(fitted, features, known):
        report.event("remark on the features", remark=remark)
    return fitted, Catalog(fitted, tables.products_until(day)), day


def rows_to_fit(tables: FeatureTables, questions: pa.Table, end_us: int) -> tuple[pa.Table, pa.Table]:
    """What transforms are fitted on: the questions without their answers, and the products that were sold by `end_us`."""
    known = tables.products_on(day_of(end_us))
    # A product first sold on the day itself has no features as of midnight yet: it waits for the next release.
    known = known.filter(pc.is_valid(known["days_since_first_sold"]))
    features = questions.drop_columns([name for name in LABEL_COLUMNS if name in questions.column_names])
    return features, known.drop_columns(["day"])


def _eval_period(tables: FeatureTables, fitted: FittedFeatures, catalog: Catalog, day: int) -> EvalPeriod:
    """The eval questions, with what was bought in the period and earlier as numbers after the catalog's order."""
    asked = tables.table("eval")
    numbers = {item_id: number for number, item_id in enumerate(catalog.item_ids)}
    bought = [[numbers.setdefault(item, len(numbers)) for item in row] for row in asked["targets"].to_pylist()]
    place = {user_id: row for row, user_id in enumerate(asked["user_id"].to_pylist())}
    purchases, is_known = tables.purchases_before("eval")
    before = purchases.filter(pa.array(is_known))
    earlier: list[list[int]] = [[] for _ in bought]
    for user_id, item in zip(before["user_id"].to_pylist(), before["item_id"].to_pylist(), strict=True):
        if (row := place.get(user_id)) is not None:
            earlier[row].append(numbers.setdefault(item, len(numbers)))
    return EvalPeriod(questions_of(fitted, asked), RaggedSets.from_lists(bought), RaggedSets.from_lists(earlier), day)
