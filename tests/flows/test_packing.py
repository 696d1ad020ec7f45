"""What a release says of its ranking: each input under one name, and how it may be asked."""

import pytest

from endcap.contracts.errors import InputError
from endcap.contracts.release import History, Retrieval, Tensor
from endcap.features.fitted import FittedFeatures
from endcap.flows.packing import ranking_of, signatures_of

CONFIG = {
    "buyer": {
        "user_id": {"type": "STRING", "is_primary_id": True, "embedding": {"dim": 4}},
        "country": {"type": "STRING", "embedding": {"dim": 4}},
        "seen": {"type": "STRING", "sequence": {"max_length": 9}},
    },
    "product": {
        "item_id": {"type": "STRING", "is_primary_id": True, "embedding": {"dim": 4}},
        "country": {"type": "STRING", "embedding": {"dim": 4}},
        "stock": {"type": "INT64", "normalize": {}},
        "tags": {"type": "STRING", "multi_hot": {"dim": 4}},
    },
    "target": {"column": "value", "clip": {"p_low": 0.01, "p_high": 0.99}, "log": {}},
}


def fitted(**changes):
    return FittedFeatures(config=CONFIG | changes, outputs=[])


def test_a_name_that_both_sides_have_is_the_buyers_and_the_product_s_is_said_to_be_so():
    ranking = ranking_of(fitted(), "pounds")
    named = [(one.tensor.name, one.column, one.tensor.shape) for one in ranking.product_inputs]
    assert named == [
        ("item_id", "item_id", [-1]), ("product.country", "country", [-1]), ("stock", "stock", [-1]),
        ("tags", "tags", [-1, -1]),
    ]  # fmt: skip
    assert (ranking.item_input, ranking.primary_id, ranking.item_id_type) == ("item_id", "user_id", "STRING")
    assert (ranking.target, ranking.units, ranking.prediction_output) == ("value", "pounds", "prediction")
    assert ranking.history == History("seen", "seen_age_days", "seen_count", 9, values_input="seen_target")


def test_pairs_are_asked_for_by_the_product_s_id_and_its_features_are_optional():
    ranking = ranking_of(fitted(), "pounds")
    signatures = signatures_of(fitted(), None, ranking)
    assert signatures["serving_default"] == signatures["serve_ranking"]
    inputs = {tensor.name: tensor for tensor in signatures["serve_ranking"].inputs}
    assert [name for name, tensor in inputs.items() if tensor.required] == ["user_id", "item_id"]
    assert inputs["item_id"].shape == inputs["product.country"].shape == [-1, -1]
    assert inputs["tags"].shape == [-1, -1, -1]
    assert inputs["country"].shape == [-1]
    assert signatures["serve_ranking"].outputs[1] == Tensor("scores", "FLOAT", [-1, -1])


def test_a_release_that_does_both_recommends_by_default():
    retrieval = Retrieval("brute_force", "vector", 8, 5, 3, "STRING", "user_id")
    signatures = signatures_of(fitted(), retrieval, ranking_of(fitted(), "pounds"))
    assert signatures["serving_default"].outputs[0] == Tensor("product_ids", "STRING", [-1, 3])
    assert list(signatures_of(fitted(), retrieval, None)) == ["serving_default"]


def test_without_a_target_there_is_nothing_to_rank_by():
    with pytest.raises(InputError, match=r"needs features\.target"):
        ranking_of(fitted(target=None), "pounds")
