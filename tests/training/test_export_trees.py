"""The graph of boosted trees predicts what the trees do, of pairs with all there is and of pairs where nearly all is missing."""

import copy

import ibis
import numpy as np
import pyarrow as pa
import pytest

from endcap.contracts.baselines import TreesConfig
from endcap.contracts.features import Target
from endcap.contracts.release import RANK_GRAPH
from endcap.evaluation.rating import Calibration, Line
from endcap.features.transforms.target import FittedTarget
from endcap.flows.packing import ranking_of
from endcap.flows.rating import PeriodLines
from endcap.flows.rating_verdict import predict_pairs
from endcap.models.boosted_trees import BoostedTrees
from endcap.models.rating import OwnLines
from endcap.training.export_trees import export_trees
from endcap.training.rating_columns import column_names, raw_columns
from endcap.training.rating_data import lines_with_products, rated_questions

DAYS = [100, 101, 102]
CITIES = ["Oslo", "Köln", "Bergen"]


def lines_of(table, rng, *, strange=False):
    """Questions with what was spent; of strange customers in strange places, with gaps wherever there may be some."""
    num = table.num_rows
    spent = [[float(np.exp(rng.normal(1, 1))) for _ in row] for row in table["targets"].to_pylist()]
    last = [[float(np.exp(rng.normal(1, 1))) for _ in row] for row in table["user_history"].to_pylist()]
    cities = [CITIES[place] for place in rng.integers(0, 3, num)]
    if strange:
        last = [[0.0 if rng.random() < 0.5 else value for value in row] for row in last]
        cities = [(None, "Rome", "")[place] for place in rng.integers(0, 3, num)]
        gaps = [None if rng.random() < 0.5 else 3.5 for _ in range(num)]
        users = pa.array([f"nobody {row}" for row in range(num)])
        table = table.set_column(0, "user_id", users)
        place = table.column_names.index("days_since_last_purchase")
        table = table.set_column(place, "days_since_last_purchase", pa.array(gaps, pa.float64()))
    floats = pa.list_(pa.float64())
    return (
        table.append_column("city", pa.array(cities, pa.string()))
        .append_column("target_values", pa.array(spent, floats))
        .append_column("user_history_target", pa.array(last, floats))
    )


@pytest.fixture(scope="module")
def questions(random_questions, question_table):
    return question_table(random_questions)


@pytest.fixture(scope="module")
def fitted(questions, product_table, fit_features, features):
    columns = copy.deepcopy(features)
    columns["buyer"]["city"] = {"type": "STRING", "embedding": {"dim": 2}}
    columns["target"] = {"column": "value", "clip": {"p_high": 0.95}, "log": {}}
    table = lines_of(questions, np.random.default_rng(4)).drop_columns(["target_values", "user_history_target"])
    return fit_features(table, product_table(DAYS).slice(24), columns)


@pytest.fixture(scope="module")
def target(questions):
    values = lines_of(questions, np.random.default_rng(4))["target_values"].combine_chunks().flatten()
    spec = Target(column="value", clip={"p_high": 0.95}, log={})
    return FittedTarget.fit(ibis.memtable(pa.table({"value": values})), spec)


@pytest.fixture
def asked(fitted, target, product_table):
    """A function that gives lines with their products, their columns, and what was learned of them."""

    def of(lines, products=None):
        rated = rated_questions(fitted, target, lines, known_alone=False)
        rows = lines_with_products(lines, products or product_table(DAYS), target)
        found = PeriodLines(lines, rows)
        own = OwnLines(rated.count.values, rated.age_days.values, rated.last.values)
        columns = raw_columns(fitted, found.questions, found.products, found.question_nums, own)
        return found, columns, rated.target.values.double().numpy()

    return of


@pytest.fixture
def exported(asked, questions, fitted, target, tmp_path):
    """Trees that were grown with some values missing, their calibration and their graph."""
    _, columns, learned = asked(lines_of(questions, np.random.default_rng(4)))
    rng = np.random.default_rng(5)
    columns = np.repeat(columns, 8, axis=0)
    columns[rng.random(columns.shape) < 0.1] = np.nan
    learned = np.repeat(learned, 8) + rng.normal(0, 0.3, len(columns))
    settings = TreesConfig(num_trees=30, learning_rate=0.2, num_leaves=16, min_lines=2)
    trees = BoostedTrees.fit(column_names(fitted), columns, learned, settings, 7)
    calibration = Calibration(Line(0.9, 0.1), 1.2, target.clip.low, target.clip.high, is_log=True)
    export_trees(trees, fitted, calibration, tmp_path / RANK_GRAPH)
    return trees, calibration, tmp_path / RANK_GRAPH


@pytest.mark.parametrize("strange", [False, True])
def test_the_graph_predicts_what_the_trees_do(strange, asked, exported, questions, fitted, product_table):
    trees, calibration, path = exported
    products = product_table(DAYS)
    if strange:
        gaps = pa.array([None if row % 3 else 4.0 for row in range(products.num_rows)], pa.float64())
        products = products.set_column(products.column_names.index("price"), "price", gaps)
    found, columns, _ = asked(lines_of(questions, np.random.default_rng(6), strange=strange), products)
    own_units, learned = predict_pairs(path, fitted, ranking_of(fitted, "value"), found)
    expected = trees.predict(columns)
    np.testing.assert_allclose(learned, calibration.line.apply(expected), atol=1e-5)
    np.testing.assert_allclose(own_units, calibration.own_units(expected), rtol=1e-4)
    assert len(np.unique(learned.round(4))) > 5
    assert np.isnan(columns).any() == strange or np.isnan(columns[:, -2:]).any()
