"""Raw columns of lines and their learned targets in, boosted trees and their predictions out: LightGBM, one thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from endcap.contracts.baselines import TreesConfig

FloatArray = NDArray[np.float64]


class BoostedTrees:
    """A fitted ensemble; the same columns, settings and seed give the same trees."""

    name = "lightgbm"
    title = "LightGBM"

    def __init__(self, text: str) -> None:
        """`text` is LightGBM's own form of a model, as `text` gives it."""
        import lightgbm

        self.text = text
        self._booster = lightgbm.Booster(model_str=text)

    @classmethod
    def fit(
        cls,
        names: Sequence[str],
        columns_PC: FloatArray,
        target_P: FloatArray,
        config: TreesConfig,
        seed: int,
        *,
        evaluate: tuple[FloatArray, FloatArray] | None = None,
        num_trees: int | None = None,
        heard: Callable[[int, int], None] = lambda *_: None,
    ) -> Self:
        """Grow trees on squared error: until `evaluate` (columns, target) gets no better, or exactly `num_trees`.

        `heard` is told, tree by tree, how many have grown and how many there may be.
        """
        import lightgbm

        parameters: dict[str, Any] = {
            "objective": "regression",
            "learning_rate": config.learning_rate,
            "num_leaves": config.num_leaves,
            "min_data_in_leaf": config.min_lines,
            "feature_fraction": config.column_share,
            "bagging_fraction": config.line_share,
            "bagging_freq": 1 if config.line_share < 1 else 0,
            "lambda_l2": config.l2,
            "seed": seed,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": 1,
            "verbosity": -1,
        }
        rows = lightgbm.Dataset(columns_PC, target_P, feature_name=[f"column_{n}" for n in range(len(names))])
        most = num_trees or config.num_trees
        called: list[Callable[..., Any]] = [lambda state: heard(state.iteration + 1, most)]
        sets: list[lightgbm.Dataset] = []
        if evaluate is not None:
            sets = [lightgbm.Dataset(*evaluate, reference=rows)]
            called.append(lightgbm.early_stopping(config.patience, verbose=False))
        booster = lightgbm.train(parameters, rows, most, valid_sets=sets, callbacks=called)
        best = booster.best_iteration if evaluate is not None else booster.num_trees()
        return cls(booster.model_to_string(num_iteration=max(best, 1)))

    @property
    def num_trees(self) -> int:
        """How many trees there are."""
        return int(self._booster.num_trees())

    @property
    def trees(self) -> list[dict[str, Any]]:
        """Each tree as nested nodes, as LightGBM describes them."""
        return [tree["tree_structure"] for tree in self._booster.dump_model()["tree_info"]]

    def predict(self, columns_PC: FloatArray) -> FloatArray:
        """The learned target of each line."""
        return np.asarray(self._booster.predict(columns_PC, num_threads=1), np.float64)
