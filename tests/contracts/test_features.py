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
    {}, optional={"dim": DIM, "min_count": st.integers(1, 9), "max_vocab": st.integers(1, 99), "oov": st.integers(1, 9)}
)
TEXT = st.fixed_dictionaries({}, optional={"dim": DIM, "min_count": st.integers(1, 9), "ngrams": st.integers(1, 3)})
SEVERAL = st.fixed_dictionaries({}, optional={"dim": DIM, "min_count": st.integers(1, 9)})
BUCKETS = st.fixed_dictionaries({}, optional={"n": st.integers(2, 1000), "dim": DIM})
CLIP = st.tuples(st.floats(0, 0.49), st.floats(0.5, 1)).map(lambda bounds: {"p_low": bounds[0], "p_high": bounds[1]})
LISTS = st.fixed_dictionaries({"type": st.just("STRING"), "multi_hot": SEVERAL})
FLAGS = st.fixed_dictionaries(
    {"type": st.sampled_from(["BOOL", "BOOLEAN"]), "embedding": EMBEDDING, "normalize": st.just({})}
)
STRINGS = st.fixed_dictionaries({"type": st.just("STRING"), "embedding": EMBEDDING}, optional={"text": TEXT})
NUMBERS = st.fixed_dictionaries(
    {"type": st.sampled_from(["INT64", "INTEGER", "FLOAT64", "FLOAT", "NUMERIC"]), "normalize": st.just({})},
    optional={"log": st.just({}), "clip": CLIP, "bucketize": BUCKETS},
)
PERIODS = st.sampled_from(["day_of_week", "day_of_month", "month", "day_of_year", "week"])
MOMENTS = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["TIMESTAMP", "DATETIME", "DATE"]),
        "cyclical": st.fixed_dictionaries({"period": PERIODS | st.lists(PERIODS, min_size=1, max_size=5, unique=True)}),
    }
)  # fmt: skip
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)


@st.composite
def configs(draw):
    """Any two sides with one id each, and a history or none."""
    sides = {}
    for side in ("buyer", "product"):
        columns = draw(st.dictionaries(NAMES, STRINGS | NUMBERS | MOMENTS | LISTS | FLAGS, max_size=4))
        sides[side] = {"the id": draw(STRINGS) | {"is_primary_id": True}, **columns}
        sides[side]["the id"]["is_primary_id"] = True
        sides[side]["the id"]["embedding"] = {**sides[side]["the id"]["embedding"], "oov": 1}
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
        ({"x": {"type": "STRING", "normalize": {}}}, {}, "normalize needs a column of type INT64 or FLOAT64 or NUMERIC or BOOL; found STRING"),
        ({"x": {"type": "FLOAT64", "embedding": {}}}, {}, "embedding needs a column of type STRING or BYTES or INT64 or BOOL; found FLOAT64"),
        ({"x": {"type": "INT64", "cyclical": {"period": "hour"}}}, {}, "cyclical needs a column of type TIMESTAMP"),
        ({"x": {"type": "INT64", "sequence": {}}}, {}, "sequence needs a column of type STRING"),
        ({"x": {"type": "INT64", "log": {}}}, {}, "log needs normalize beside it"),
        ({"x": {"type": "FLOAT64", "clip": {}}}, {}, "the column reaches no tower"),
        ({"x": {"type": "STRING"}}, {}, "the column reaches no tower"),
        ({"x": {"type": "FLOAT64", "normalize": {}, "clip": {"p_low": 0.5, "p_high": 0.5}}}, {}, "p_low must lie below p_high"),
        ({"x": {"type": "FLOAT64", "normalize": {}, "clip": {"p_high": 1.5}}}, {}, "buyer.x.clip.p_high"),
        ({"x": {"type": "TIMESTAMP", "cyclical": {"period": "decade"}}}, {}, "buyer.x.cyclical.period"),
        ({"x": {"type": "GEOGRAPHY", "embedding": {}}}, {}, "buyer.x.type"),
        ({"x": {"type": "DATE", "embedding": {}}}, {}, "embedding needs a column of type"),
        ({"x": {"type": "DATE", "cyclical": {"period": ["month", "hour"]}}}, {}, "a DATE has no hour"),
        ({"x": {"type": "DATE", "cyclical": {"period": ["month", "month"]}}}, {}, "period names each period once"),
        ({"x": {"type": "DATE", "cyclical": {"period": []}}}, {}, "buyer.x.cyclical.period"),
        ({"x": {"type": "STRING", "embedding": {"max_vocab": 0}}}, {}, "max_vocab=0 hashes every value, which needs oov"),
        ({"x": {"type": "STRING", "multi_hot": {}, "embedding": {}}}, {}, "multi_hot takes lists, which embedding can't"),
        ({"x": {"type": "INT64", "multi_hot": {}}}, {}, "multi_hot needs a column of type STRING"),
        ({"x": {**HISTORY, "text": {}}}, {}, "sequence takes lists, which text can't"),
        ({"user_id": {**ID, "embedding": {"oov": 9}}}, {}, "a primary id takes oov: 1"),
        ({"user_id": {"type": "BOOL", "is_primary_id": True, "embedding": {}}}, {}, "a primary id is of type STRING or INT64"),
        ({"user_id": {"type": "STRING", "is_primary_id": True, "multi_hot": {}}}, {}, "a primary id is one value a row"),
        ({"x": HISTORY}, {"item_id": {**ID, "type": "INT64"}}, "both are of one type; found STRING and INT64"),
        ({"x": {"type": "STRING", "embedding": {"width": 3}}}, {}, "buyer.x.embedding.width"),
        ({"x": {"type": "STRING", "embedding": {"dim": 0}}}, {}, "buyer.x.embedding.dim"),
        ({"x": {"type": "INT64", "bucketize": {"n": 1}}}, {}, "buyer.x.bucketize.n"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(buyer, product, said):
    raw = {"buyer": PLAIN["buyer"] | buyer, "product": PLAIN["product"] | product}
    assert said in refusal(raw)


CROSSED = {
    "buyer": {
        "user_id": ID, "city": {"type": "STRING", "embedding": {}}, "note": {"type": "STRING", "text": {}},
        "spent": {"type": "FLOAT64", "normalize": {}, "bucketize": {}},
        "seen": {"type": "TIMESTAMP", "cyclical": {"period": ["hour", "month"]}},
        "joined": {"type": "DATE", "cyclical": {"period": "month"}},
    },
    "product": {"item_id": ID, "brand": {"type": "STRING", "embedding": {}}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("cross", "said"),
    [
        ({"columns": ["city", "brand"]}, "crosses.x: buyer brand is no column; expected one of user_id, city, note"),
        ({"columns": ["city", "spend"]}, "Did you mean spent?"),
        ({"columns": ["city", "user_id"]}, "crosses.x: buyer user_id is the primary id"),
        ({"columns": ["city", "city"]}, "crosses.x: names a column twice: city, city"),
        ({"columns": ["city", "note"]}, "crosses.x: buyer note has text; expected embedding, bucketize or cyclical"),
        ({"columns": ["city", "seen"]}, "crosses.x: buyer seen has several periods (hour, month); expected one"),
        ({"columns": ["city"]}, "crosses.x.columns"),
        ({"columns": ["city", "spent"], "bins": 7}, "crosses.x.bins"),
    ],
)
def test_a_cross_that_makes_no_sense_is_refused(cross, said):
    assert said in refusal({**CROSSED, "crosses": {"x": cross}})


def test_a_cross_has_a_name_of_its_own():
    assert "buyer has a column of that name" in refusal(
        {**CROSSED, "crosses": {"city": {"columns": ["city", "spent"]}}}
    )


def test_crosses_and_target_are_taken_and_survive_json():
    raw = {
        **CROSSED,
        "crosses": {"x": {"columns": ["city", "spent", "joined"], "n": 7}},
        "target": {"column": "value", "clip": {"p_high": 0.99}, "log": {}},
    }
    config = FeatureConfig.model_validate(raw)
    assert FeatureConfig.model_validate(json.loads(config.model_dump_json(exclude_none=True))) == config
    assert (config.crosses["x"].side, config.crosses["x"].n, config.target.clip.p_high) == ("buyer", 7, 0.99)


def test_configuration_values_do_not_change():
    config = FeatureConfig.model_validate(PLAIN)
    with pytest.raises(ValidationError):
        config.buyer["user_id"].type = "INT64"
