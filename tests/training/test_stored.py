"""Questions on disk train exactly as those in memory, and damage is told."""

import pytest
import torch

from endcap.contracts.errors import ArtifactError
from endcap.models.two_tower import TwoTower
from endcap.training.data import Catalog, questions_of
from endcap.training.stored import open_questions, store_questions
from endcap.training.trainer import Trainer

DAY_US = 86_400_000_000


@pytest.fixture
def parts(small, random_questions, question_table, product_table, fit_features):
    products, table = product_table([100, 101, 102]), question_table(random_questions)
    fitted = fit_features(table, products.slice(24))
    return fitted, Catalog(fitted, products), questions_of(fitted, table), small(id_dropout=0.3)


def trained(parts, questions):
    fitted, catalog, _, configuration = parts
    torch.manual_seed(7)
    model = TwoTower(fitted.columns("buyer"), fitted.columns("product"), "item_id", configuration.model)
    trainer = Trainer(model, configuration.training, catalog, questions, 103 * DAY_US, 7)
    trainer.run_epoch(lambda *_: None)
    return trainer.losses


def test_they_train_as_those_in_memory(parts, tmp_path):
    folder = tmp_path / "questions"
    store_questions(parts[2], folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert trained(parts, open_questions(folder)) == trained(parts, parts[2])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_what_is_read_is_what_was_written(parts, tmp_path):
    store_questions(parts[2], tmp_path / "questions")
    found = open_questions(tmp_path / "questions")
    assert found.id_column == "user_id.embedding"
    assert list(found.history) == list(parts[2].history)
    assert found.targets.values.tolist() == parts[2].targets.values.tolist()
    assert found.day.tolist() == parts[2].day.tolist()
    for name, tensor in parts[2].tensors.items():
        torch.testing.assert_close(found.tensors[name], tensor, equal_nan=True)


@pytest.mark.parametrize("damage", ["missing", "cut", "foreign"])
def test_damage_is_told(damage, parts, tmp_path):
    folder = tmp_path / "questions"
    store_questions(parts[2], folder)
    path = folder / "targets.values.npy"
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-8])
    else:
        (folder / "manifest.json").write_text("{}")
    with pytest.raises(ArtifactError, match="Delete the folder and run again"):
        open_questions(folder)
