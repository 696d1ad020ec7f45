"""Questions on disk train exactly as those in memory, and damage is told."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from endcap.contracts.errors import ArtifactError
from endcap.models.towers import Towers
from endcap.training.data import Catalog, Ragged, questions_of
from endcap.training.stored import open_catalog, open_questions, store_catalog, store_parts, store_questions
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
    model = Towers(fitted.columns("buyer"), fitted.columns("product"), "item_id", configuration.model)
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


def test_lists_that_get_wider_and_columns_said_once_are_put_together(parts, tmp_path):
    """Of a bag, later parts may have longer rows: all get the width of the longest."""
    whole = parts[2]

    def part(rows, width, stranger):
        bag = torch.ones(len(rows), width, dtype=torch.int64) * torch.tensor(rows).unsqueeze(1)
        tensors = {"words": bag, "user_id.embedding": whole.tensors["user_id.embedding"][rows]}
        return replace(
            whole,
            tensors=tensors,
            stranger={"once": torch.tensor([5]), "each": torch.tensor(stranger)},
            targets=Ragged(np.arange(len(rows) + 1), torch.tensor(rows)),
            history=None,
            day=whole.day[rows],
            bought_us=whole.bought_us[rows],
        )

    store_parts([part([0, 1], 2, [7, 8]), part([2, 3, 4], 3, [9, 10, 11]), part([5, 6], 1, [12, 13])], tmp_path / "q")
    found = open_questions(tmp_path / "q")
    assert found.tensors["words"].tolist() == [
        [0, 0, 0], [1, 1, 0], [2, 2, 2], [3, 3, 3], [4, 4, 4], [5, 0, 0], [6, 0, 0]
    ]  # fmt: skip
    assert found.stranger["once"].tolist() == [5]
    assert found.stranger["each"].tolist() == [7, 8, 9, 10, 11, 12, 13]
    assert found.targets.offsets.tolist() == list(range(8))
    assert found.targets.values.tolist() == list(range(7))
    assert found.day.tolist() == whole.day[:7].tolist()


def test_every_field_of_questions_is_stored(parts, tmp_path):
    """A field that were forgotten would train something else from disk."""
    store_questions(parts[2], tmp_path / "q")
    found = open_questions(tmp_path / "q")
    for field in fields(found):
        there, expected = ("".join(str(getattr(each, field.name)).split()) for each in (found, parts[2]))
        assert there.replace("memmap", "array") == expected, field.name


def test_no_questions_are_stored_too(parts, question_table, tmp_path, random_questions):
    none = questions_of(parts[0], question_table(random_questions).slice(0, 0))
    store_questions(none, tmp_path / "q")
    assert len(open_questions(tmp_path / "q")) == 0


def test_a_catalog_is_read_as_it_was_written(parts, tmp_path):
    store_catalog(parts[1], tmp_path / "catalog")
    found = open_catalog(parts[0], tmp_path / "catalog")
    assert (found.item_ids, found.num_items) == (parts[1].item_ids, parts[1].num_items)
    for day in (100, 102):
        for name, tensor in parts[1].on(day).items():
            assert torch.equal(found.on(day)[name], tensor)
    (tmp_path / "catalog" / "days.npy").unlink()
    with pytest.raises(ArtifactError, match=r"days\.npy"):
        open_catalog(parts[0], tmp_path / "catalog")
