"""Products that nobody had bought: ranked by their description, beside the known ones, from the release's files."""

import numpy as np
import pyarrow as pa
import pytest

from endcap.flows import cold_items
from endcap.flows.cold_items import judge_cold_items
from endcap.flows.features import build_features
from endcap.flows.scoring import ExportedModel, encode_items


@pytest.fixture
def opened(trained_shop, recorder):
    tables = build_features(trained_shop.workspace, trained_shop.configuration, recorder)
    manifest = trained_shop.result.release.manifest
    inputs = manifest.signatures["serving_default"].inputs
    return tables, ExportedModel(trained_shop.result.release.path, manifest.retrieval, inputs)


def asked(tables, targets):
    """The test questions with other targets, as if nothing had been bought earlier."""
    questions = tables.table("test").slice(0, len(targets))
    place = questions.schema.get_field_index("targets")
    questions = questions.set_column(place, "targets", pa.array(targets, pa.list_(pa.string())))
    return questions.append_column("earlier", questions["user_history"])


def test_known_products_get_the_vectors_that_were_released(opened, trained_shop):
    tables, model = opened
    day = tables.split.test_start_us // 86_400_000_000
    products = tables.products_on(day).filter(
        pa.array(model.index.rows_of(tables.products_on(day)["item_id"].to_pylist()) >= 0)
    )
    vectors = encode_items(trained_shop.result.release.path, products)
    rows = model.index.rows_of(products["item_id"].to_pylist())
    released = np.load(trained_shop.result.release.file("candidates/vectors.npy"), allow_pickle=False)
    np.testing.assert_allclose(vectors, released[rows], rtol=1e-4, atol=1e-5)


def test_without_cold_products_there_is_nothing_to_say(opened, trained_shop):
    tables, model = opened
    folder, configuration = trained_shop.result.release.path, trained_shop.configuration
    assert judge_cold_items(tables, configuration, folder, model, asked(tables, [["20000"], []])) is None


def test_cold_products_stand_in_one_ranking_with_the_known_ones(opened, trained_shop, monkeypatch):
    tables, model = opened
    folder, configuration = trained_shop.result.release.path, trained_shop.configuration
    day = tables.split.test_start_us // 86_400_000_000
    some = tables.products_on(day).drop_columns(["day"]).slice(0, 3)
    fresh = some.set_column(some.schema.get_field_index("item_id"), "item_id", pa.array(["n0", "n1", "n2"]))
    monkeypatch.setattr(cold_items, "_cold_products", lambda *_: fresh)
    monkeypatch.setattr(cold_items, "_by_titles", lambda *_: np.array([[0, 1, 2], [2, 1, 0]]))
    found = judge_cold_items(tables, configuration, folder, model, asked(tables, [["n0", "gone"], ["n2", "n1"]]))
    assert (found.num_items, found.num_customers, found.num_relevant) == (3, 2, 3)
    assert found.num_all_items == 3 + model.index.num_items
    assert found.systems[0].title == "the model"
    assert found.systems[0].metrics["recall@5"].mean == 1.0
    assert 0 <= found.among_all["recall@100"].mean <= 1
    assert found.flat_metrics().keys() >= {"cold_items/recall@100", "cold_items/ndcg@10", "cold_items/alone/ndcg@10"}


def test_the_share_of_known_products_below_by_hand():
    # Cold ones are 0 to 2, known ones from 3 on: 1 stands above both known ones, 2 above one of them.
    assert cold_items._share_below(np.array([0, 1, 3, 2, 4]), np.array([1]), 3) == 1.0
    assert cold_items._share_below(np.array([0, 1, 3, 2, 4]), np.array([1, 2]), 3) == pytest.approx(0.75)
    assert cold_items._share_below(np.array([1, 0]), np.array([0]), 3) == 0.5
