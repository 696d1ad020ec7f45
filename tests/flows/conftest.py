"""Signs of life collected, for flows that report; the small shop with a model that recommends and predicts what is spent."""

from __future__ import annotations

import pytest

from tests.conftest import TrainedShop


class Recorder:
    """A Reporter that remembers."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []
        self.metrics: list[tuple[int, str, float]] = []
        self.ended: list[str] = []

    def event(self, event: str, **fields: object) -> None:
        self.events.append((event, fields))

    def metric(self, step: int, metric: str, value: float) -> None:
        self.metrics.append((step, metric, value))

    def progress(self, stage: str, done: float, total: float, note: str = "") -> None:
        del note
        if done >= total:
            self.ended.append(stage)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(scope="session")
def rated_shop(trained_once, configured) -> TrainedShop:
    """A multitask release beside a few boosted trees; not to be changed: copy it."""
    configuration = configured(
        "model=multitask", "features=online_retail_spend", "training.num_epochs=1", "training.refit=false",
        "model.rating_head=[{units: 8}]", "evaluation.baselines.learned=[]", "evaluation.baselines.lightgbm.num_trees=20",
        "evaluation.baselines.lightgbm.num_leaves=8", "evaluation.baselines.popular_lately.half_life_days=[null]",
        "evaluation.baselines.own_most_bought.half_life_days=[null]",
        "evaluation.baselines.co_purchase={half_life_days: [null], num_neighbors: [100], shrink: [0.0]}",
    )  # fmt: skip
    return trained_once("rated", configuration)
