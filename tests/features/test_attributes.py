"""What the shop says of users and products over time, as ranges with a column for each attribute."""

import datetime as dt
import json

import pyarrow as pa
import pytest

from endcap.contracts.errors import ColumnsError
from endcap.contracts.events import ATTRIBUTES_TABLE
from endcap.contracts.features import Column
from endcap.features.as_of import FOREVER_US
from endcap.features.attributes import names_of, ranges_of, unknown_columns

KNOWN = pa.table({"item_id": ["cup", "jug"], "title": ["CUP", "JUG"]})
TEXT = Column.model_validate({"type": "STRING", "embedding": {}})


def said(*rows):
    names = ATTRIBUTES_TABLE.schema.names
    return pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows], ATTRIBUTES_TABLE.schema)


def test_ranges_by_hand():
    table = said(
        ("a", "product", "cup", 0, '{"size":"S","colour":"red"}'),
        ("a", "product", "cup", 70, '{"size":"L"}'),
        ("b", "product", "cup", 70, '{"colour":"blue"}'),
        ("a", "buyer", "cup", 0, '{"age":"30"}'),
        ("a", "product", "pan", 0, '{"size":"S"}'),
    )
    found = ranges_of(KNOWN, "item_id", table, "product", {"size": TEXT, "colour": TEXT})
    assert found.to_pylist() == [
        {"item_id": "cup", "title": "CUP", "size": "S", "colour": "red", "from_us": 0, "until_us": 70},
        {"item_id": "cup", "title": "CUP", "size": "L", "colour": "blue", "from_us": 70, "until_us": FOREVER_US},
        {"item_id": "jug", "title": "JUG", "size": None, "colour": None, "from_us": 0, "until_us": FOREVER_US},
    ]
    assert (names_of(table, "product"), names_of(table, "buyer")) == (["colour", "size"], ["age"])


def test_before_the_first_word_nothing_is_known_and_histories_of_their_own_join_in():
    more = pa.table({"item_id": ["cup", "cup"], "category": ["A", "B"], "from_us": [10, 20]})
    table = said(("a", "product", "cup", 15, '{"size":"S"}'))
    found = ranges_of(KNOWN.slice(0, 1), "item_id", table, "product", {"size": TEXT, "category": TEXT}, more)
    rows = [(row["from_us"], row["until_us"], row["size"], row["category"]) for row in found.to_pylist()]
    assert rows == [(0, 10, None, None), (10, 15, None, "A"), (15, 20, "S", "A"), (20, FOREVER_US, "S", "B")]


@pytest.mark.parametrize(
    ("definition", "text", "value"),
    [
        ({"type": "INT64", "normalize": {}}, "7", 7),
        ({"type": "FLOAT64", "normalize": {}}, "7.5", 7.5),
        ({"type": "BOOL", "normalize": {}}, "true", True),
        ({"type": "DATE", "cyclical": {"period": "month"}}, "2026-02-03", dt.date(2026, 2, 3)),
        ({"type": "STRING", "multi_hot": {}}, '["a",null,"b"]', ["a", "b"]),
        ({"type": "STRING", "multi_hot": {"separator": "|"}}, "a|b", "a|b"),
    ],
)
def test_texts_become_what_the_configuration_says(definition, text, value):
    table = pa.table({
        "batch": ["a"], "side": ["product"], "entity_id": ["cup"], "valid_from_us": [0],
        "properties": [json.dumps({"x": text})],
    })  # fmt: skip
    found = ranges_of(KNOWN, "item_id", table, "product", {"x": Column.model_validate(definition)})
    assert found["x"].to_pylist() == [value, None]


@pytest.mark.parametrize(
    ("definition", "problem"),
    [
        ({"type": "INT64", "normalize": {}}, "features.product.x: the configuration says INT64"),
        ({"type": "STRING", "multi_hot": {}}, "Set separator"),
    ],
)
def test_texts_of_another_type_are_refused(definition, problem):
    table = said(("a", "product", "cup", 0, '{"x":"large"}'))
    with pytest.raises(ColumnsError, match=problem):
        ranges_of(KNOWN, "item_id", table, "product", {"x": Column.model_validate(definition)})


def test_unknown_columns_name_the_nearest():
    assert unknown_columns("buyer", ["age", "icnome"], ["age", "income"]) == [
        ("features.buyer.icnome", "the data has no such column; it has age, income. Did you mean income?")
    ]
