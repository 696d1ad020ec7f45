"""What a model trains on is made once and kept: the same numbers as made in memory, whole or made again, not too many."""

import os
import shutil

import numpy as np
import pytest
import torch

from endcap.contracts.reporting import Silent
from endcap.features.dataset import FeatureTables
from endcap.flows import fitting, transformed
from endcap.flows.features import build_features
from endcap.flows.transformed import FOLDER, NUM_KEPT, key_of, open_test_period, restore, transform
from endcap.training.data import Catalog, questions_of


@pytest.fixture(scope="module")
def shop(trained_shop, tmp_path_factory):
    """Feature tables in a folder of the module's own, without what the training kept."""
    tables = build_features(trained_shop.workspace, trained_shop.configuration, Silent())
    folder = tmp_path_factory.mktemp("features") / "tables"
    shutil.copytree(tables.folder, folder, ignore=shutil.ignore_patterns(FOLDER))
    return FeatureTables(folder, tables.split)


@pytest.fixture
def tables(shop, tmp_path):
    shutil.copytree(shop.folder, tmp_path / "tables")
    return FeatureTables(tmp_path / "tables", shop.split)


def no_fit(*_):
    raise AssertionError("fitted again")


def equal(questions, others):
    assert len(questions) == len(others)
    for name, tensor in questions.tensors.items():
        assert torch.equal(tensor, others.tensors[name]), name
    for name, tensor in questions.stranger.items():
        assert torch.equal(tensor, others.stranger[name]), name
    for name, ragged in (questions.history or {}).items():
        np.testing.assert_array_equal(ragged.offsets, others.history[name].offsets)
        assert torch.equal(ragged.values, others.history[name].values), name
    np.testing.assert_array_equal(questions.targets.offsets, others.targets.offsets)
    assert torch.equal(questions.targets.values, others.targets.values)
    np.testing.assert_array_equal(questions.day, others.day)
    np.testing.assert_array_equal(questions.bought_us, others.bought_us)
    assert questions.id_column == others.id_column


@pytest.mark.parametrize("rows_at_once", [7, 1 << 18])
def test_what_is_kept_is_what_the_transforms_give(tables, configured, monkeypatch, rows_at_once):
    """In one part or in many, and a day's catalog is that of the day."""
    monkeypatch.setattr(transformed, "_ROWS_AT_ONCE", rows_at_once)
    crossed = "++features.crosses={place_and_week: {columns: [country, event_time_us], n: 16, dim: 2}}"
    features = configured(crossed).features
    found = transform(tables, features, "tune", Silent())
    asked = tables.table("baskets")
    asked = asked.filter(np.asarray(asked["period"]) == "train")
    equal(found.questions, questions_of(found.fitted, asked))
    products = tables.products_until(found.day)
    expected = Catalog(found.fitted, products)
    for day in (int(products["day"][0].as_py()), found.day):
        for name, tensor in expected.on(day).items():
            assert torch.equal(found.catalog.on(day)[name], tensor), (day, name)
    equal(found.period.questions, questions_of(found.fitted, tables.table("eval")))
    bought = tables.table("eval")["targets"].to_pylist()
    known = [len(set(row) & set(found.catalog.item_ids)) for row in bought]
    inside = found.period.bought.values < found.catalog.num_items
    assert np.bincount(found.period.bought.rows[inside], minlength=len(bought)).tolist() == known
    assert found.period.bought.lengths.tolist() == [len(row) for row in bought]


def test_the_second_training_fits_nothing_and_gives_the_same_model(tables, configured, monkeypatch, recorder):
    first = fitting.tune(tables, configured(), recorder)
    monkeypatch.setattr(transformed, "fit", no_fit)
    monkeypatch.setattr(transformed, "questions_of", no_fit)
    second = fitting.tune(tables, configured(), recorder)
    assert second.trained.epochs == first.trained.epochs
    for name, tensor in first.trained.model.state_dict().items():
        assert torch.equal(second.trained.model.state_dict()[name], tensor), name
    other = fitting.tune(tables, configured("training.learning_rate=0.01"), Silent())
    assert other.trained.epochs != first.trained.epochs


def test_other_features_or_another_stage_are_another_set(tables, configured, monkeypatch):
    transform(tables, configured().features, "tune", Silent())
    monkeypatch.setattr(transformed, "fit", no_fit)
    other = configured("features.buyer.country.embedding.min_count=1").features
    for features, stage in ((configured().features, "refit"), (other, "tune")):
        with pytest.raises(AssertionError, match="fitted again"):
            transform(tables, features, stage, Silent())
    monkeypatch.setattr(transformed.ledger, "code_version_of", lambda *_: "another")
    with pytest.raises(AssertionError, match="fitted again"):
        transform(tables, configured().features, "tune", Silent())


def test_remarks_are_heard_each_time(tables, configured, recorder):
    features = configured("features.buyer.country.embedding.min_count=100000").features
    for _ in range(2):
        recorder.events.clear()
        transform(tables, features, "tune", recorder)
        ((event, fields),) = recorder.events
        assert event == "remark on the features"
        assert "features.buyer.country.embedding" in fields["remark"]


@pytest.mark.parametrize(
    "damage", ["questions/day.npy", "catalog/manifest.json", "features.json", "eval/bought/values.npy"]
)
def test_a_damaged_set_is_made_again(tables, configured, damage):
    features = configured().features
    folder = transform(tables, features, "tune", Silent()).folder
    path = folder / damage
    path.write_bytes(path.read_bytes()[:-9])
    whole = transform(tables, features, "tune", Silent())
    assert whole.folder == folder
    asked = tables.table("baskets")
    equal(whole.questions, questions_of(whole.fitted, asked.filter(np.asarray(asked["period"]) == "train")))


def test_a_training_that_dies_leaves_nothing_and_the_next_one_clears_up(tables, configured, monkeypatch):
    def dying(*_):
        raise RuntimeError("the machine went down")

    with monkeypatch.context() as patched:
        patched.setattr(transformed.stored, "store_parts", dying)
        with pytest.raises(RuntimeError, match="the machine went down"):
            transform(tables, configured().features, "tune", Silent())
    assert list((tables.folder / FOLDER).iterdir()) == []
    left = tables.folder / FOLDER / ".killed.tmp"  # as a process leaves it that had no time to clear up
    left.mkdir()
    transform(tables, configured().features, "tune", Silent())
    assert [path.name for path in (tables.folder / FOLDER).iterdir()] == [key_of(configured().features, "tune")]


def test_only_the_sets_used_last_are_kept(tables, configured):
    sets = tables.folder.parent / "earlier" / FOLDER
    for number in range(NUM_KEPT):
        (sets / f"set{number}").mkdir(parents=True)
        os.utime(sets / f"set{number}", (number, number))
    found = transform(tables, configured().features, "tune", Silent())
    assert found.folder.is_dir()
    assert sorted(path.name for path in sets.iterdir()) == [f"set{number}" for number in range(1, NUM_KEPT)]


def test_a_set_that_is_gone_is_restored_without_fitting(tables, configured, monkeypatch):
    found = transform(tables, configured().features, "tune", Silent())
    expected = {name: tensor.clone() for name, tensor in found.questions.tensors.items()}
    shutil.rmtree(found.folder)
    monkeypatch.setattr(transformed, "fit", no_fit)
    again = restore(tables, found.fitted, "tune", found.folder)
    assert {name: torch.equal(tensor, expected[name]) for name, tensor in again.questions.tensors.items()} == (
        dict.fromkeys(expected, True)
    )


def test_the_test_period_meets_the_catalog_of_its_first_day(tables, configured, monkeypatch):
    found = transform(tables, configured().features, "tune", Silent())
    catalog, period = open_test_period(tables, found)
    assert catalog.item_ids == found.catalog.item_ids
    assert period.day > found.day
    equal(period.questions, questions_of(found.fitted, tables.table("test")))
    expected = Catalog(found.fitted, tables.products_on(period.day)).on(period.day)
    monkeypatch.setattr(transformed, "questions_of", no_fit)
    mapped, again = open_test_period(tables, found)
    assert again.bought.values.tolist() == period.bought.values.tolist()
    assert all(torch.equal(mapped.on(period.day)[name], tensor) for name, tensor in expected.items())
