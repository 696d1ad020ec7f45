"""Feature tables written by hand: customers who buy again, or buy what goes with what they have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import ibis
import numpy as np
import pyarrow as pa
import pytest

from endcap.contracts.configuration import Configuration
from endcap.contracts.features import FeatureConfig
from endcap.features.fitted import FittedFeatures, fit

DAY_US = 86_400_000_000
FEATURES = {
    "buyer": {
        "user_id": {"type": "STRING", "is_primary_id": True, "embedding": {"dim": 3}},
        "days_since_last_purchase": {"type": "FLOAT64", "log": {}, "normalize": {}},
        "num_baskets": {"type": "INT64", "log": {}, "normalize": {}, "bucketize": {"n": 3, "dim": 2}},
        "event_time_us": {"type": "TIMESTAMP", "cyclical": {"period": "day_of_week"}},
        "user_history": {"type": "STRING", "sequence": {"max_length": 4}},
    },
    "product": {
        "item_id": {"type": "STRING", "is_primary_id": True, "embedding": {"dim": 6}},
        "title": {"type": "STRING", "text": {"dim": 3, "min_count": 1}},
        "price": {"type": "FLOAT64", "normalize": {}},
    },
}
ITEMS = [f"p{number}" for number in range(12)]


@dataclass(frozen=True)
class Asked:
    """A question in a few words: who, on which day, with which (product, age in days, count), and what is bought."""

    user_id: str
    day: int
    history: tuple[tuple[str, float, int], ...]
    targets: tuple[str, ...]


def _question_table(asked: list[Asked]) -> pa.Table:
    lists = [[[entry[place] for entry in question.history] for question in asked] for place in range(3)]
    moments = [question.day * DAY_US + 3_600_000_000 for question in asked]
    return pa.table({
        "user_id": pa.array([question.user_id for question in asked], pa.string()),
        "event_time_us": pa.array(moments, pa.int64()),
        "bought_us": pa.array([moment + DAY_US // 2 for moment in moments], pa.int64()),
        "days_since_last_purchase": pa.array(
            [min((age for _, age, _ in question.history), default=None) for question in asked], pa.float64()
        ),
        "num_baskets": pa.array([max((n for *_, n in question.history), default=0) for question in asked], pa.int64()),
        "user_history": pa.array(lists[0], pa.list_(pa.string())),
        "user_history_age_days": pa.array(lists[1], pa.list_(pa.float64())),
        "user_history_count": pa.array(lists[2], pa.list_(pa.int64())),
        "targets": pa.array([list(question.targets) for question in asked], pa.list_(pa.string())),
    })  # fmt: skip


def _product_table(days: list[int]) -> pa.Table:
    rows = [(day, item) for day in days for item in ITEMS]
    return pa.table({
        "day": pa.array([day for day, _ in rows], pa.int64()),
        "item_id": pa.array([item for _, item in rows], pa.string()),
        "title": pa.array([f"THING {item} {'red' if int(item[1:]) % 2 else 'blue'}" for _, item in rows], pa.string()),
        "price": pa.array([int(item[1:]) + day / 10 for day, item in rows], pa.float64()),
    })  # fmt: skip


@pytest.fixture(scope="session")
def asked() -> type[Asked]:
    return Asked


@pytest.fixture(scope="session")
def question_table() -> Callable[[list[Asked]], pa.Table]:
    return _question_table


@pytest.fixture(scope="session")
def product_table() -> Callable[[list[int]], pa.Table]:
    return _product_table


@pytest.fixture(scope="session")
def fit_features() -> Callable[..., FittedFeatures]:
    """A function that fits the small FeatureConfig, changed at will, on questions and one day's products."""

    def fitted(questions: pa.Table, products: pa.Table, features: dict | None = None) -> FittedFeatures:
        config = FeatureConfig.model_validate(features or FEATURES)
        return fit(config, ibis.memtable(questions), ibis.memtable(products))

    return fitted


@pytest.fixture(scope="session")
def features() -> dict:
    return FEATURES


@pytest.fixture(scope="session")
def small() -> Callable[..., Configuration]:
    """A function that gives a configuration around the small FeatureConfig, with other training settings at will."""

    def configuration(seed: int = 7, model: dict | None = None, **training: object) -> Configuration:
        shape = {
            "buyer_tower": [{"units": 6}], "product_tower": [{"units": 4}], "output_embedding_dim": 7, "dropout": 0.1
        }  # fmt: skip
        settings = {"num_epochs": 4, "batch_size": 8, "num_negatives": 6, "learning_rate": 0.02}
        return Configuration.model_validate(
            {
                "experiment": "small",
                "seed": seed,
                "features": FEATURES,
                "model": shape | (model or {}),
                "training": settings | training,
            }
        )

    return configuration


def _random_history(rng: np.random.Generator) -> tuple[tuple[str, float, int], ...]:
    items = rng.choice(ITEMS, int(rng.integers(0, 4)), replace=False)
    return tuple((str(item), float(rng.integers(1, 30)), int(rng.integers(1, 6))) for item in items)


@pytest.fixture(scope="session")
def random_questions() -> list[Asked]:
    """Thirty questions on three days without a pattern."""
    rng = np.random.default_rng(3)
    return [
        Asked(
            f"u{number % 9}",
            100 + number % 3,
            _random_history(rng),
            tuple(sorted(str(item) for item in rng.choice(ITEMS, int(rng.integers(1, 4)), replace=False))),
        )
        for number in range(30)
    ]
