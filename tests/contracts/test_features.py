"""The FeatureConfig takes what makes sense, refuses what doesn't, and survives being written down."""

import json

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from endcap.contracts.features import Column, FeatureConfig

ID = {"type": "STRING", "is_primary_id": True, "embedding": {}}
HISTORY = {"type": "STRING", "sequence": {}}
PLAIN = {"buyer": {"user_id": ID}, "product": {"item_id": ID}}

DIM = st.integers(1, 1024)
EMBEDDING = st.fixed_dictionaries(
    {}, optional={"dim": DIM, "min_count": st.integers(1, 9), "max_vocab": st.integers(1, 99)}
)
TEXT = st.fixed_dictionaries({}, optional={"dim": DIM, "min_count": st.integers(1, 9)})
BUCKETS = st.fixed_dictionaries({}, optional={"n": st.integers(2, 1000), "dim": DIM})
CLIP = st.tuples(st.floats(0, 0.49), st.floats(0.5, 1)).map(lambda bounds: {"p_low": bounds[0], "p_high": bounds[1]})
STRINGS = st.fixed_dictionaries({"type": st.just("STRING"), "embedding": EMBEDDING}, optional={"text": TEXT})
NUMBERS = st.fixed_dictionaries(
    {"type": st.sampled_from(["INT64", "INTEGER", "FLOAT64", "FLOAT"]), "normalize": st.just({})},
    optional={"log": st.just({}), "clip": CLIP, "bucketize": BUCKETS},
)
MOMENTS = st.fixed_dictionaries(
    {"type": st.just("TIMESTAMP"), "cyclical": st.fixed_dictionaries({"period": st.sampled_from(["hour", "day_of_week"])})}
)  # fmt: skip
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)


@st.composite
def configs(draw):
    """Any two sides with one id each, and a history or none."""
    sides = {}
    for side in ("buyer", "product"):
        columns = draw(st.dictionaries(NAMES, STRINGS | NUMBERS | MOMENTS, max_size=4))
        sides[side] = {"the id": draw(STRINGS) | {"is_primary_id": True}, **columns}
        sides[side]["the id"]["is_primary_id"] = True
    sides["product"]["the id"]["embedding"] = {**sides["product"]["the id"]["embedding"], "min_count": 1}
    if draw(st.booleans()):
        sides["buyer"]["the history"] = {"type": "STRING", "sequence": {"max_length": draw(st.integers(1, 1000))}}
    return sides


@settings(max_examples=100, deadline=None)
@given(configs())
def test_a_valid_config_is_taken_and_survives_json_and_yaml(raw):
    config = FeatureConfig.model_validate(raw)
    assert config.user_id == config.item_id == "the id"
    assert config.history == ("the history" if "the history" in raw["buyer"] else None)
    assert [(side, name) for side, name, _ in config.columns()] == [
        (side, name) for side in ("buyer", "product") for name in raw[side]
    ]
    for exclude_none in (True, False):
        dumped = config.model_dump(mode="json", exclude_none=exclude_none)
        assert FeatureConfig.model_validate(json.loads(json.dumps(dumped))) == config
        assert FeatureConfig.model_validate(yaml.safe_load(yaml.safe_dump(dumped, allow_unicode=True))) == config


def test_types_have_bigquerys_other_names():
    assert Column.model_validate({"type": "INTEGER", "normalize": {}}).type == "INT64"
    assert Column.model_validate({"type": "FLOAT", "normalize": {}}).type == "FLOAT64"


def refusal(raw):
    with pytest.raises(ValidationError) as caught:
        FeatureConfig.model_validate(raw)
    return "\n".join(f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in caught.value.errors())


@pytest.mark.parametrize(
    ("buyer", "product", "said"),
    [
        ({"user_id": {**ID, "is_primary_id": False}}, {}, "buyer needs exactly one column with is_primary_id: true; found none"),
        ({"email": ID}, {}, "found ['user_id', 'email']"),
        ({}, {"item_id": {**ID, "embedding": {"min_count": 2}}}, "product item_id: min_count counts rows of the catalog"),
        ({}, {"sku": ID}, "product needs exactly one column with is_primary_id: true; found ['item_id', 'sku']"),
        ({"a": HISTORY, "b": HISTORY}, {}, "buyer takes one sequence column; found ['a', 'b']"),
        ({}, {"a": HISTORY}, "sequence is a buyer transform; found on product column(s) ['a']"),
        ({"x": {"type": "STRING", "normalize": {}}}, {}, "normalize needs a column of type INT64 or FLOAT64; found STRING"),
        ({"x": {"type": "FLOAT64", "embedding": {}}}, {}, "embedding needs a column of type STRING or INT64; found FLOAT64"),
        ({"x": {"type": "INT64", "cyclical": {"period": "hour"}}}, {}, "cyclical needs a column of type TIMESTAMP"),
        ({"x": {"type": "INT64", "sequence": {}}}, {}, "sequence needs a column of type STRING"),
        ({"x": {"type": "INT64", "log": {}}}, {}, "log needs normalize beside it"),
        ({"x": {"type": "FLOAT64", "clip": {}}}, {}, "the column reaches no tower"),
        ({"x": {"type": "STRING"}}, {}, "the column reaches no tower"),
        ({"x": {"type": "FLOAT64", "normalize": {}, "clip": {"p_low": 0.5, "p_high": 0.5}}}, {}, "p_low must lie below p_high"),
        ({"x": {"type": "FLOAT64", "normalize": {}, "clip": {"p_high": 1.5}}}, {}, "buyer.x.clip.p_high"),
        ({"x": {"type": "TIMESTAMP", "cyclical": {"period": "decade"}}}, {}, "buyer.x.cyclical.period"),
        ({"x": {"type": "DATE", "embedding": {}}}, {}, "buyer.x.type"),
        ({"x": {"type": "STRING", "embedding": {"width": 3}}}, {}, "buyer.x.embedding.width"),
        ({"x": {"type": "STRING", "embedding": {"dim": 0}}}, {}, "buyer.x.embedding.dim"),
        ({"x": {"type": "INT64", "bucketize": {"n": 1}}}, {}, "buyer.x.bucketize.n"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(buyer, product, said):
    raw = {"buyer": PLAIN["buyer"] | buyer, "product": PLAIN["product"] | product}
    assert said in refusal(raw)


def test_configuration_values_do_not_change():
    config = FeatureConfig.model_validate(PLAIN)
    with pytest.raises(ValidationError):
        config.buyer["user_id"].type = "INT64"
