"""Feature tables and a configuration in, a trained model out: tuned on the eval period, then refitted up to the test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
from safetensors.torch import save_file

from endcap.contracts.configuration import Configuration
from endcap.contracts.events import PURCHASE
from endcap.contracts.reporting import Renaming, Reporter, Silent
from endcap.features.dataset import FeatureTables
from endcap.features.fitted import FittedFeatures
from endcap.flows.rating import FittedRating, fit_beside, rated_of, refit_beside, save_rating
from endcap.flows.transformed import Transformed, transform
from endcap.models.item_map import MapTables, solve_map
from endcap.models.neighbors import NeighborTables, count_neighbors
from endcap.models.rating import RatedTwoTower
from endcap.training.data import Catalog
from endcap.training.distributed import Task, ranks
from endcap.training.epochs import Keeping
from endcap.training.loop import Trained, fit_model
from endcap.workspace.atomic import publish_folder, write_json

REFITTING = "training on all before the test"
"""The stage of a refit, as progress names it."""


@dataclass(frozen=True)
class FittedModel:
    """A trained model, what its inputs were transformed with, and its catalog."""

    trained: Trained
    fitted: FittedFeatures
    catalog: Catalog
    day: int
    rating: FittedRating | None = None
    """What goes with a rating head."""


def tune(
    tables: FeatureTables, configuration: Configuration, report: Reporter, keeping: Keeping | None = None
) -> FittedModel:
    """Train on the train period and keep the epoch that does best on the eval period."""
    data = transform(tables, configuration.features, "tune", report)
    ranks().lead(Task.TUNE)
    return tune_on(tables, data, configuration, report, keeping)


def tune_on(
    tables: FeatureTables,
    data: Transformed,
    configuration: Configuration,
    report: Reporter,
    keeping: Keeping | None = None,
) -> FittedModel:
    """The same on data that are transformed already, by the configuration's features."""
    rated = (
        None if configuration.model.model_type == "retrieval" else rated_of(tables, configuration, data.fitted, "tune")
    )
    trained = fit_model(
        configuration,
        data.fitted,
        data.catalog,
        data.questions,
        data.end_us,
        report,
        evaluate=data.period,
        rated=rated,
        map_tables=_map_tables(tables, configuration, data.catalog, "eval"),
        neighbor_tables=neighbors_before("eval", tables, configuration, data.catalog),
        keeping=keeping,
    )
    rating = None
    if rated is not None and isinstance(trained.model, RatedTwoTower) and ranks().is_first:
        rating = fit_beside(tables, configuration, data.fitted, data.catalog, trained.model, rated, report)
    return FittedModel(trained, data.fitted, data.catalog, data.day, rating)


def refit(
    tables: FeatureTables,
    configuration: Configuration,
    num_epochs: int,
    report: Reporter,
    tuned: FittedRating | None = None,
    keeping: Keeping | None = None,
) -> FittedModel:
    """Train on everything before the test period, for as many epochs as the eval period chose.

    `tuned` is what the eval period said of ratings, where the model has them.
    """
    data = transform(tables, configuration.features, "refit", Silent())  # heard already while tuning
    ranks().lead(Task.REFIT, num_epochs)
    is_rated = configuration.model.model_type != "retrieval"
    rated = rated_of(tables, configuration, data.fitted, "refit") if is_rated else None
    trained = fit_model(
        configuration,
        data.fitted,
        data.catalog,
        data.questions,
        data.end_us,
        Renaming(report, "refit/"),
        num_epochs=num_epochs,
        stage=REFITTING,
        map_tables=_map_tables(tables, configuration, data.catalog, "test"),
        neighbor_tables=neighbors_before("test", tables, configuration, data.catalog),
        rated=rated,
        keeping=keeping,
    )
    rating = None
    if tuned is not None and rated is not None:
        rating = refit_beside(tables, configuration, data.fitted, rated.target, tuned, report)
    return FittedModel(trained, data.fitted, data.catalog, data.day, rating)


def _map_tables(
    tables: FeatureTables, configuration: Configuration, catalog: Catalog, period: Literal["eval", "test"]
) -> MapTables | None:
    """The item map of what may be known when `period` is asked for; None where the model has none."""
    model = configuration.model
    if not model.item_map_dim:
        return None
    purchases, is_known = tables.purchases_before(period)
    known = purchases.filter(pa.array(is_known))
    items = pc.index_in(known["item_id"], value_set=pa.array(catalog.item_ids)).fill_null(-1).to_numpy()
    users = pc.rank(known["user_id"], tiebreaker="dense").to_numpy().astype(np.int64) - 1
    inside = items >= 0
    shape = (int(users.max(initial=0)) + 1, catalog.num_items)
    bought = sp.csr_array((np.ones(int(inside.sum())), (users[inside], items[inside])), shape=shape)
    bought.sum_duplicates()
    bought.data[:] = 1.0
    return solve_map(bought, model.item_map_dim, model.item_map_l2)


def neighbors_before(
    period: Literal["eval", "test"], tables: FeatureTables, configuration: Configuration, catalog: Catalog
) -> NeighborTables | None:
    """Who is met with whom in what may be known when `period` is asked for; None where the model takes no neighbors."""
    model, name = configuration.model, configuration.features.history
    sequence = configuration.features.buyer[name].sequence if name else None
    if not model.neighbors or sequence is None:
        return None
    purchases, is_known = tables.purchases_before(period)
    acts = [purchases.filter(pa.array(is_known))] if PURCHASE in sequence.event_types else []
    signals = tables.signals_before(period)
    if signals is not None:
        acts.append(signals.filter(pc.is_in(signals["event_type"], value_set=pa.array(sequence.event_types))))
    known = pa.concat_tables([part.select(["user_id", "item_id", "ts_us"]) for part in acts])
    item_nums = (
        pc.index_in(known["item_id"], value_set=pa.array(catalog.item_ids)).fill_null(-1).to_numpy().astype(np.int64)
    )
    user_nums = pc.rank(known["user_id"], tiebreaker="dense").to_numpy().astype(np.int64) - 1
    inside = item_nums >= 0
    return count_neighbors(
        user_nums[inside],
        item_nums[inside],
        known["ts_us"].to_numpy()[inside],
        catalog.num_items,
        model.neighbors,
        model.neighbor_popularity,
        model.neighbor_shrink,
    )


def save_checkpoint(model: FittedModel, folder: Path) -> None:
    """Write weights, fitted transforms and the story of the epochs into `folder`, all or nothing."""
    with publish_folder(folder) as aside:
        weights = {name: tensor.contiguous() for name, tensor in model.trained.model.state_dict().items()}
        save_file(weights, aside / "model.safetensors")
        write_json(aside / "features.json", model.fitted)
        if model.rating is not None:
            save_rating(model.rating, aside)
        epochs = [
            {"epoch": record.epoch, "loss": record.loss, "metrics": record.metrics} for record in model.trained.epochs
        ]
        write_json(aside / "epochs.json", {"chosen_epoch": model.trained.chosen_epoch, "epochs": epochs})


def read_features(folder: Path) -> FittedFeatures:
    """The fitted transforms of a checkpoint."""
    return msgspec.json.decode((folder / "features.json").read_bytes(), type=FittedFeatures)
