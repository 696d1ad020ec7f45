"""Boosted trees on columns made by rule: what they learn, when they stop, and that text brings them back."""

import numpy as np
import pytest

from endcap.contracts.baselines import TreesConfig
from endcap.models.boosted_trees import BoostedTrees

SETTINGS = TreesConfig(num_trees=40, learning_rate=0.3, num_leaves=8, min_lines=5, patience=5)
NAMES = ["step", "noise", "missing"]


def made(seed, num_lines=400):
    """A step in one column, and one more where another is missing."""
    rng = np.random.default_rng(seed)
    columns = rng.normal(size=(num_lines, 3))
    columns[rng.random(num_lines) < 0.4, 2] = np.nan
    return columns, np.where(columns[:, 0] > 0.5, 3.0, 0.0) + np.where(np.isnan(columns[:, 2]), 1.0, 0.0)


@pytest.fixture(scope="module")
def grown():
    return BoostedTrees.fit(NAMES, *made(1), SETTINGS, 7)


def test_a_step_and_what_is_missing_are_learned(grown):
    columns, target = made(2)
    assert grown.num_trees == len(grown.trees) == 40
    assert np.abs(grown.predict(columns) - target).mean() < 0.1


def test_text_and_seed_bring_back_the_same_trees(grown):
    columns, _ = made(2)
    np.testing.assert_array_equal(BoostedTrees(grown.text).predict(columns), grown.predict(columns))
    assert BoostedTrees.fit(NAMES, *made(1), SETTINGS, 7).text == grown.text
    assert BoostedTrees.fit(NAMES, *made(1), SETTINGS, 8).text != grown.text


def test_no_more_are_grown_when_the_eval_period_gets_no_better():
    columns, target = made(1)
    rng = np.random.default_rng(3)
    stopped = BoostedTrees.fit(
        NAMES, columns, target + rng.normal(size=400), SETTINGS, 7, evaluate=(columns[:50], rng.normal(size=50))
    )
    assert 1 <= stopped.num_trees < 40


def test_a_refit_has_as_many_as_it_is_told_and_tells_of_each():
    told = []
    grown = BoostedTrees.fit(NAMES, *made(1), SETTINGS, 7, num_trees=3, heard=lambda *grown: told.append(grown))
    assert grown.num_trees == 3
    assert told == [(1, 3), (2, 3), (3, 3)]
