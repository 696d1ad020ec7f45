"""Given word vectors start a table of words, or fix it; a file that doesn't fit is named."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError

from endcap.contracts.errors import InputError
from endcap.contracts.features import FeatureConfig
from endcap.contracts.reporting import Silent
from endcap.features.remarks import remarks_on
from endcap.features.word_vectors import digests_of
from endcap.training.data import Catalog, questions_of
from endcap.training.loop import fit_model

DAY_US = 86_400_000_000
VECTORS = {"red": [9.0, 0.0, 0.0], "blue": [0.0, 9.0, 0.0], "nowhere": [1.0, 1.0, 1.0]}


@pytest.fixture
def vectors(tmp_path):
    path = tmp_path / "vectors.parquet"
    pq.write_table(pa.table({"word": list(VECTORS), "vector": list(VECTORS.values())}), path)
    return path


def features_with(features, **text):
    title = {"type": "STRING", "text": {"dim": 3, "min_count": 1, **text}}
    return features | {"product": features["product"] | {"title": title}}


@pytest.fixture
def trained(vectors, features, small, random_questions, question_table, product_table, fit_features):
    def train(**text):
        table, products = question_table(random_questions), product_table([100, 101, 102])
        fitted = fit_features(table, products.slice(24), features_with(features, encoder=str(vectors), **text))
        catalog, configuration = Catalog(fitted, products), small(num_epochs=1)
        found = fit_model(
            configuration, fitted, catalog, questions_of(fitted, table), 103 * DAY_US, Silent(), num_epochs=1
        )
        words = next(output.chain[-1] for output in fitted.outputs if output.column.name == "title.text")
        weight = found.model.members[0].item_tower.encoder.table("title.text").weight.detach()
        return {word: weight[row] for row, word in enumerate(words.words, start=1)}, fitted, table, products

    return train


def test_a_fixed_table_holds_what_was_given_and_zeros(trained):
    found, *_ = trained(trainable=False)
    assert found["red"].tolist() == VECTORS["red"]
    assert found["blue"].tolist() == VECTORS["blue"]
    assert found["thing"].tolist() == [0.0, 0.0, 0.0]


def test_a_trained_table_starts_there_and_moves(trained):
    found, *_ = trained()
    assert found["red"].tolist() != VECTORS["red"]
    torch.testing.assert_close(found["red"], torch.tensor(VECTORS["red"]), rtol=0, atol=1.0)
    assert float(found["thing"].norm()) < 2


def test_the_share_of_words_with_a_vector_is_told(trained):
    _, fitted, table, products = trained(trainable=False)
    (remark,) = [one for one in remarks_on(fitted, table, products.slice(24)) if "have a vector" in one]
    assert remark.startswith("features.product.title.text.encoder: 2 of 15 words (13%) have a vector in ")


def test_another_file_under_the_same_name_is_another_run(vectors, features):
    config = FeatureConfig.model_validate(features_with(features, encoder=str(vectors)))
    before = digests_of(config)
    pq.write_table(pa.table({"word": ["red"], "vector": [[1.0, 2.0, 3.0]]}), vectors)
    assert digests_of(config) != before


def test_files_that_do_not_fit_are_named(trained, vectors):
    pq.write_table(pa.table({"word": ["red"], "vector": [[1.0, 2.0]]}), vectors)
    with pytest.raises(InputError, match=r"features.product.title.text.dim: 3, but the vectors of .* have 2 numbers"):
        trained()
    pq.write_table(pa.table({"word": ["red"], "vector": [[1.0, np.nan, 0.0]]}), vectors)
    with pytest.raises(InputError, match="numbers that are missing or not finite"):
        trained()
    pq.write_table(pa.table({"token": ["red"], "vector": [[1.0, 2.0, 0.0]]}), vectors)
    with pytest.raises(InputError, match=r"has token \(string\), vector \(list<.*expected word \(string\) and vector"):
        trained()
    vectors.unlink()
    with pytest.raises(
        InputError, match=r"features.product.title.text.encoder: .* is no file; expected a Parquet file"
    ):
        trained()


@pytest.mark.parametrize("text", [{"trainable": False}, {"encoder": "x", "trainable": False, "ngrams": 2}])
def test_a_fixed_table_needs_vectors_for_all_it_holds(features, text):
    with pytest.raises(ValidationError, match="trainable"):
        FeatureConfig.model_validate(features_with(features, **text))
