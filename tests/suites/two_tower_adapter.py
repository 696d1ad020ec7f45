"""The two-tower model as the model suite takes it: a small FeatureConfig around the shop's purchases."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import scipy.sparse as sp
import torch
from safetensors.torch import load_file

from endcap.contracts.configuration import Configuration, ModelConfig
from endcap.contracts.release import Retrieval
from endcap.contracts.reporting import Silent
from endcap.evaluation.customers import Counting
from endcap.features.fitted import fit
from endcap.flows import fitting, packing
from endcap.flows.fitting import FittedModel
from endcap.flows.scoring import ExportedModel
from endcap.models.item_map import MapTables, solve_map
from endcap.models.neighbors import NeighborTables, count_neighbors
from endcap.models.two_tower import TwoTower
from endcap.training.data import Catalog, questions_of
from endcap.training.loop import Trained, fit_model
from tests.suites.model_suite import FIRST_DAY, LAST_DAY, NUM_PRODUCTS, Answer, Asked, Shop

DAY_US = 86_400_000_000
_DAYS = range(FIRST_DAY, LAST_DAY + 2)


@dataclasses.dataclass(frozen=True)
class TrainedTowers:
    """A trained model with its catalog."""

    model: FittedModel
    configuration: Configuration

    @torch.no_grad()
    def recommend(self, asked: Sequence[Asked], k: int, *, exclude_seen: bool) -> list[Answer]:
        """By the model in torch."""
        network, catalog = self.model.trained.model, self.model.catalog
        products = network.products(catalog.on(self.model.day))
        tensors, history = questions_of(self.model.fitted, _questions(asked)).batch(np.arange(len(asked)))
        query_BD, repeat_E = network.query(tensors, products, history)
        scores_BN = query_BD @ products.vector_ND.T
        near = network.near(history)
        if near is not None:
            scores_BN.index_put_((history.segments.question_E.unsqueeze(1), near[0]), near[1], accumulate=True)
        scores = scores_BN[:, 1:].numpy().copy()
        rows = {item: row for row, item in enumerate(catalog.item_ids)}
        entries = iter([] if repeat_E is None else repeat_E.tolist())
        for row, one in enumerate(asked):
            known = [rows.get(item) for item in one.history]
            for place, entry in zip(known, entries if repeat_E is not None else [], strict=False):
                if place is not None:
                    scores[row, place] += entry
            if exclude_seen:
                scores[row, [place for place in known if place is not None]] = -np.inf
        return [_best(catalog.item_ids, row, k) for row in scores]

    def numbers(self) -> Mapping[str, np.ndarray]:
        """The weights."""
        return {name: tensor.numpy() for name, tensor in self.model.trained.model.state_dict().items()}


@dataclasses.dataclass(frozen=True)
class ExportedTowers:
    """The graphs and candidates of a folder, as evaluation uses them."""

    exported: ExportedModel

    def recommend(self, asked: Sequence[Asked], k: int, *, exclude_seen: bool) -> list[Answer]:
        """By ONNX Runtime."""
        counting = Counting.NEW_TO_CUSTOMER if exclude_seen else Counting.ALL_PURCHASES
        index = self.exported.index
        questions = _questions(asked)
        vectors, boosts = self.exported.encode(questions)
        excluded = [index.rows_of(list(one.history)) for one in asked] if exclude_seen else None
        excluded = excluded and [np.unique(rows[rows >= 0]) for rows in excluded]
        hits = index.search(vectors, [k] * len(asked), boosts, excluded)
        ranked = self.exported.rank(
            "it", "it", questions.append_column("earlier", questions["user_history"]), np.arange(index.num_items), k
        )
        for hit, row in zip(hits, ranked.of(counting), strict=True):
            assert row[row >= 0].tolist() == hit.rows.tolist()
        return [Answer(tuple(index.ids_of(hit.rows)), tuple(hit.scores.tolist())) for hit in hits]

    def numbers(self) -> Mapping[str, np.ndarray]:
        """None that are learned again."""
        return {}


@dataclasses.dataclass(frozen=True)
class TwoTowerAdapter:
    """A configuration of the two-tower model: changes to columns, crosses, the model and its training."""

    buyer: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    product: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    crosses: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    training: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def fit(self, shop: Shop, seed: int) -> TrainedTowers:
        """Train on a question for every purchase, asked with what the customer had by then."""
        configuration = self._configuration(seed)
        asked, targets, moments = [], [], []
        for line in shop.purchases:
            before = [one.item_id for one in shop.purchases if one.user_id == line.user_id and one.day < line.day]
            asked.append(Asked(line.user_id, tuple(dict.fromkeys(before))))
            targets.append([line.item_id])
            moments.append(line.day * DAY_US + DAY_US // 2)
        questions = _questions(asked, targets, moments)
        products = _products(shop)
        fitted = fit(
            configuration.features, ibis.memtable(questions), ibis.memtable(products.slice(0, len(shop.items)))
        )
        catalog = Catalog(fitted, products)
        end_us = _DAYS[-1] * DAY_US
        trained = fit_model(
            configuration,
            fitted,
            catalog,
            questions_of(fitted, questions),
            end_us,
            Silent(),
            map_tables=_map_tables(shop, catalog, configuration.model),
            neighbor_tables=_neighbor_tables(shop, catalog, configuration.model),
        )
        return TrainedTowers(FittedModel(trained, fitted, catalog, _DAYS[-1]), configuration)

    def through_files(self, fitted: TrainedTowers, folder: Path) -> TrainedTowers:
        """A run's checkpoint: weights and fitted transforms."""
        fitting.save_checkpoint(fitted.model, folder / "checkpoint")
        features = fitting.read_features(folder / "checkpoint")
        columns = (features.columns("buyer"), features.columns("product"))
        network = TwoTower(*columns, features.definition.item_id, fitted.configuration.model)
        network.load_state_dict(load_file(folder / "checkpoint" / "model.safetensors"))
        items = tuple(fitted.model.catalog.item_ids)
        catalog = Catalog(features, _products(Shop(items, ())))
        model = FittedModel(Trained(network.eval(), [], 1), features, catalog, fitted.model.day)
        return TrainedTowers(model, fitted.configuration)

    def exported(self, fitted: TrainedTowers, folder: Path) -> ExportedTowers:
        """A release's graphs and candidates."""
        retrieval: Retrieval = packing.write_model(fitted.model, fitted.configuration, folder)
        return ExportedTowers(ExportedModel(folder, retrieval, packing.buyer_inputs(fitted.model.fitted)))

    def _configuration(self, seed: int) -> Configuration:
        features = {
            "buyer": {
                "user_id": {"type": "STRING", "is_primary_id": True, "embedding": {"dim": 6}},
                **self.buyer,
            },
            "product": {
                "item_id": {"type": "STRING", "is_primary_id": True, "embedding": {"dim": 8}},
                **self.product,
            },
            "crosses": self.crosses,
        }
        model = {"buyer_tower": [{"units": 8}], "product_tower": [{"units": 4}], "output_embedding_dim": 9}
        training = {
            "num_epochs": 25, "batch_size": 16, "num_negatives": 8, "learning_rate": 0.03, "warmup_steps": 5,
            "half_life_days": 1000, "weight_average": 0.9,
        }  # fmt: skip
        return Configuration.model_validate({
            "experiment": "suite",
            "seed": seed,
            "features": features,
            "model": {**model, **self.model},
            "training": {**training, **self.training},
        })  # fmt: skip


def _map_tables(shop: Shop, catalog: Catalog, model: ModelConfig) -> MapTables | None:
    if not model.item_map_dim:
        return None
    place = {item: row for row, item in enumerate(catalog.item_ids)}
    users = sorted({line.user_id for line in shop.purchases})
    bought = np.zeros((len(users), len(place)))
    for line in shop.purchases:
        bought[users.index(line.user_id), place[line.item_id]] = 1.0
    return solve_map(sp.csr_array(bought), model.item_map_dim, model.item_map_l2)


def _neighbor_tables(shop: Shop, catalog: Catalog, model: ModelConfig) -> NeighborTables | None:
    if not model.neighbors:
        return None
    users = sorted({line.user_id for line in shop.purchases})
    rows = [
        (users.index(line.user_id), catalog.item_ids.index(line.item_id), line.day * DAY_US) for line in shop.purchases
    ]
    user_nums, item_nums, moments = np.array(rows).T
    return count_neighbors(user_nums, item_nums, moments, catalog.num_items, model.neighbors)


def _questions(
    asked: Sequence[Asked], targets: list[list[str]] | None = None, moments: list[int] | None = None
) -> pa.Table:
    moments = moments or [_DAYS[-1] * DAY_US] * len(asked)
    ages = [[float(len(one.history) - place) for place in range(len(one.history))] for one in asked]
    return pa.table({
        "user_id": pa.array([one.user_id for one in asked], pa.string()),
        "event_time_us": pa.array(moments, pa.int64()),
        "num_products": pa.array([len(one.history) for one in asked], pa.int64()),
        "user_history": pa.array([list(one.history) for one in asked], pa.list_(pa.string())),
        "user_history_age_days": pa.array(ages, pa.list_(pa.float64())),
        "user_history_count": pa.array([[1] * len(one.history) for one in asked], pa.list_(pa.int64())),
        "targets": pa.array(targets or [[]] * len(asked), pa.list_(pa.string())),
    })  # fmt: skip


def _products(shop: Shop) -> pa.Table:
    """The same catalog every day: a title says the group, a price the product."""
    rows = [(day, item, int(item[1:])) for day in _DAYS for item in shop.items]
    return pa.table({
        "day": pa.array([day for day, *_ in rows], pa.int64()),
        "item_id": pa.array([item for _, item, _ in rows]),
        "title": [f"THING {'RED' if number < NUM_PRODUCTS else 'BLUE'} {number}" for *_, number in rows],
        "colour": ["red" if number < NUM_PRODUCTS else "blue" for *_, number in rows],
        "price": pa.array([float(number % NUM_PRODUCTS) for *_, number in rows], pa.float64()),
    })  # fmt: skip


def _best(item_ids: Sequence[str], scores: np.ndarray, k: int) -> Answer:
    order = [place for place in np.argsort(-scores, kind="stable")[:k] if np.isfinite(scores[place])]
    return Answer(tuple(item_ids[place] for place in order), tuple(float(scores[place]) for place in order))
