"""The configuration's bounds, defaults, and what its parts ask of each other."""

import pytest
from pydantic import ValidationError

from endcap.contracts.configuration import Configuration
from endcap.contracts.encoded import EncodedColumn
from endcap.evaluation.metrics import METRICS, RECALL_KS

ID = {"type": "STRING", "is_primary_id": True, "embedding": {}}
HISTORY = {"type": "STRING", "sequence": {}}


def configuration(**changes):
    fields = {
        "experiment": "mine",
        "features": {"buyer": {"user_id": ID, "user_history": HISTORY}, "product": {"item_id": ID}},
        "model": {"buyer_tower": [], "product_tower": []},
    }
    return Configuration.model_validate(fields | changes)


def test_what_is_not_said_has_a_default():
    said = configuration()
    assert (said.seed, said.split.test_fraction, said.training.refit, said.release.name) == (
        7,
        0.1,
        True,
        "recommender",
    )
    assert said.model.repeat_head
    assert Configuration.model_validate(said.model_dump(mode="json", exclude_none=True)) == said


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("split", {"test_fraction": 0}), ("split", {"eval_fraction": 0.5}), ("split", {"kind": "newest"}),
        ("split", {"seed": 3}), ("split", {"kind": "leave_last_out", "test_fraction": 0.2}),
        ("split", {"kind": "leave_last_out", "seed": 3}), ("split", {"kind": "random", "seed": -1}),
        ("training", {"num_epochs": 0}), ("training", {"batch_size": 1}), ("training", {"weight_average": 1}),
        ("training", {"id_dropout": -0.1}), ("training", {"half_life_days": 0}), ("training", {"patience": 0}),
        ("training", {"metric": "accuracy"}), ("training", {"epochs": 3}),
        ("model", {"buyer_tower": [], "product_tower": [], "output_embedding_dim": 1}),
        ("model", {"buyer_tower": [{"units": 0}], "product_tower": []}), ("model", {"product_tower": []}),
        ("model", {"buyer_tower": [], "product_tower": [], "top_k": 1001}),
        ("questions", {"lag_days": -1}), ("evaluation", {"num_resamples": 99}), ("evaluation", {"metric": "ndgc@10"}),
        ("evaluation", {"thresholds": {"recall@100": 0.5}}), ("evaluation", {"thresholds": {"all_purchases/x": 0.5}}),
        ("release", {"name": "a/b"}), ("release", {"name": ".."}), ("release", {"name": ""}), ("release", {"name": "x" * 65}),
    ],
)  # fmt: skip
def test_what_lies_outside_is_refused(part, values):
    with pytest.raises(ValidationError) as caught:
        configuration(**{part: values})
    assert all(error["loc"][0] == part for error in caught.value.errors())


def test_a_split_takes_the_fields_of_its_kind():
    assert configuration(split={"kind": "leave_last_out"}).split.kind == "leave_last_out"
    assert configuration(split={"kind": "random", "test_fraction": 0.2, "seed": 3}).split.seed == 3
    with pytest.raises(ValidationError, match="seed says nothing with kind=time: leave it out, or set kind=random"):
        configuration(split={"seed": 3})


@pytest.mark.parametrize("seed", [-1, 2**32, "seven"])
def test_a_seed_is_a_number_of_32_bits(seed):
    with pytest.raises(ValidationError):
        configuration(seed=seed)


def test_an_experiment_has_a_name():
    with pytest.raises(ValidationError, match="name the experiment"):
        configuration(experiment="")


def test_a_repeat_head_needs_a_history():
    features = {"buyer": {"user_id": ID}, "product": {"item_id": ID}}
    with pytest.raises(ValidationError, match="needs a buyer column with a `sequence` transform"):
        configuration(features=features)
    model = {"buyer_tower": [], "product_tower": [], "repeat_head": False}
    assert configuration(features=features, model=model).features.history is None


def test_an_item_map_needs_a_history_and_leaves_room():
    shape = {"buyer_tower": [], "product_tower": [], "item_map_dim": 8}
    features = {"buyer": {"user_id": ID}, "product": {"item_id": ID}}
    with pytest.raises(ValidationError, match="item_map_dim needs a buyer column with a `sequence` transform"):
        configuration(features=features, model=shape | {"repeat_head": False})
    with pytest.raises(ValidationError, match="item_map_dim is 8 of output_embedding_dim 9: leave at least 2"):
        configuration(model=shape | {"output_embedding_dim": 9})
    assert configuration(model=shape | {"output_embedding_dim": 10}).model.tower_dim == 1


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_that_is_measured_can_be_asked_for(metric):
    names = [f"{counting}/{metric}" for counting in ("all_purchases", "new_to_customer")]
    said = configuration(evaluation={"metric": metric, "thresholds": dict.fromkeys(names, 0.25)})
    assert (said.evaluation.metric, list(said.evaluation.thresholds)) == (metric, names)


@pytest.mark.parametrize("k", RECALL_KS)
def test_coverage_can_be_a_threshold(k):
    name = f"new_to_customer/coverage@{k}"
    assert configuration(evaluation={"thresholds": {name: 0.1}}).evaluation.thresholds == {name: 0.1}


def test_a_sequence_is_carried_by_three_tensors():
    sequence = EncodedColumn("h.sequence", "h", "sequence", 5, 4)
    assert sequence.tensors == ("h.sequence", "h.sequence.age_days", "h.sequence.count")
    assert EncodedColumn("c.embedding", "c", "index", 5, 4).tensors == ("c.embedding",)
