"""A FeatureConfig fitted on rows: the same numbers from Arrow, from the graph, and after a round trip through JSON."""

import ibis
import msgspec
import numpy as np
import onnxruntime
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.contracts.errors import ColumnsError, InputError
from endcap.contracts.features import FeatureConfig
from endcap.features.fitted import FittedFeatures, check_columns, fit
from endcap.features.point_in_time import STRANGER
from endcap.features.remarks import remarks_on
from endcap.features.transforms.graph import MISSING_INT64
from endcap.features.transforms.raw import canonical

CONFIG = {
    "buyer": {
        "user_id": {"type": "STRING", "is_primary_id": True, "embedding": {"dim": 4, "min_count": 2}},
        "segment": {"type": "INT64", "embedding": {"dim": 2}},
        "event_time_us": {"type": "TIMESTAMP", "cyclical": {"period": "day_of_week"}},
        "spent": {
            "type": "FLOAT64", "clip": {"p_low": 0.0, "p_high": 0.9}, "log": {}, "normalize": {},
            "bucketize": {"n": 3, "dim": 5},
        },
        "visits": {"type": "INT64", "normalize": {}, "bucketize": {"n": 2, "dim": 3}},
        "user_history": {"type": "STRING", "sequence": {"max_length": 3}},
    },
    "product": {
        "item_id": {"type": "STRING", "is_primary_id": True, "embedding": {"dim": 8}},
        "title": {"type": "STRING", "text": {"dim": 6, "min_count": 1}, "embedding": {"dim": 3}},
        "price": {"type": "FLOAT64", "normalize": {}},
    },
}  # fmt: skip


def buyers(rows):
    names = ("user_id", "segment", "event_time_us", "spent", "visits", "user_history")
    types = (pa.string(), pa.int64(), pa.int64(), pa.float64(), pa.int64(), pa.list_(pa.string()))
    columns = [pa.array(values, kind) for values, kind in zip(zip(*rows, strict=True), types, strict=True)]
    table = pa.table(dict(zip(names, columns, strict=True)))
    lengths = [len(row[5]) for row in rows]
    table = table.append_column(
        "user_history_age_days", pa.array([[1.5 * n for n in range(k)] for k in lengths], pa.list_(pa.float64()))
    )
    return table.append_column(
        "user_history_count", pa.array([list(range(1, k + 1)) for k in lengths], pa.list_(pa.int64()))
    )


def products(rows):
    ids, titles, prices = zip(*rows, strict=True)
    return pa.table({"item_id": ids, "title": titles, "price": pa.array(prices, pa.float64())})


BUYERS = buyers([
    ("ann", 7, 0, 10.0, 1, ["cup"]),
    ("ann", 7, 86_400_000_000, 20.0, 3, ["cup", "jug"]),
    ("bob", 9, 5, 30.0, 5, []),
    ("eve", None, 5, None, None, ["jug"]),
    ("eve", 9, 5, 1000.0, 7, []),
])  # fmt: skip
PRODUCTS = products([("jug", "Blue JUG", 4.0), ("cup", "red cup", 8.0), ("pan", "red pan, blue", None)])


@pytest.fixture(scope="module")
def fitted():
    return fit(FeatureConfig.model_validate(CONFIG), ibis.memtable(BUYERS), ibis.memtable(PRODUCTS))


def test_columns_in_the_order_of_the_configuration_with_kinds_and_sizes(fitted):
    described = [
        (column.name, column.source, column.kind, column.cardinality, column.dim) for column in fitted.columns("buyer")
    ]
    assert described == [
        ("user_id.embedding", "user_id", "index", 3, 4),  # ann and eve; bob asked but once
        ("segment.embedding", "segment", "index", 3, 2),
        ("event_time_us.cyclical", "event_time_us", "number", 0, 2),
        ("spent.bucketize", "spent", "index", 4, 5),
        ("spent.normalize", "spent", "number", 0, 1),
        ("visits.bucketize", "visits", "index", 3, 3),
        ("visits.normalize", "visits", "number", 0, 1),
        ("user_history.sequence", "user_history", "sequence", 4, 8),
    ]
    assert [(column.name, column.cardinality) for column in fitted.columns("product")] == [
        ("item_id.embedding", 4), ("title.embedding", 4), ("title.text", 6), ("price.normalize", 0)
    ]  # fmt: skip


def test_application_by_hand(fitted):
    said = fitted.apply("buyer", BUYERS)
    assert said["user_id.embedding"].to_pylist() == [1, 1, 0, 2, 2]
    assert said["segment.embedding"].to_pylist() == [1, 1, 2, 0, 2]
    assert said["visits.normalize"].to_pylist() == pytest.approx([-3 / 5**0.5, -1 / 5**0.5, 1 / 5**0.5, 0, 3 / 5**0.5])
    items = dict(zip(PRODUCTS["item_id"].to_pylist(), fitted.apply("product", PRODUCTS)["item_id.embedding"].to_pylist(),
                     strict=True))  # fmt: skip
    assert said["user_history.sequence"].to_pylist() == [
        [items["cup"]], [items["cup"], items["jug"]], [], [items["jug"]], []
    ]  # fmt: skip
    assert said["user_history.sequence.age_days"].to_pylist() == [[0.0], [0.0, 1.5], [], [0.0], []]
    assert said["user_history.sequence.count"].to_pylist() == [[1.0], [1.0, 2.0], [], [1.0], []]
    words = fitted.apply("product", PRODUCTS)["title.text"].to_pylist()
    assert words[0][0] == words[2][2]  # Blue and blue
    assert words[1][0] == words[2][0]  # red and red


def test_clip_comes_before_log_and_normalize(fitted):
    """The one big spender counts as the ninth decile, there and in what mean and deviation are taken of."""
    clipped = np.minimum([10, 20, 30, 1000], np.quantile([10, 20, 30, 1000], 0.9))
    logged = np.log1p(clipped)
    expected = (logged - logged.mean()) / logged.std()
    said = fitted.apply("buyer", BUYERS)["spent.normalize"].to_pylist()
    assert [said[0], said[1], said[2], said[4]] == pytest.approx(expected.tolist(), abs=1e-4)
    assert said[3] == 0.0


def test_raw_inputs_ask_for_the_primary_id_alone(fitted):
    stated = [(t.name, t.dtype, t.shape, t.required, t.default) for t in fitted.raw_inputs("buyer")]
    assert stated == [
        ("user_id", "STRING", [-1], True, None),
        ("segment", "INT64", [-1], False, MISSING_INT64),
        ("event_time_us", "INT64", [-1], False, None),
        ("spent", "FLOAT", [-1], False, None),
        ("visits", "INT64", [-1], False, MISSING_INT64),
        ("user_history", "STRING", [-1, -1], False, ""),
        ("user_history_age_days", "FLOAT", [-1, -1], False, 0.0),
        ("user_history_count", "INT64", [-1, -1], False, 0),
    ]
    assert [(t.name, t.required) for t in fitted.raw_inputs("product")] == [
        ("item_id", True), ("title", False), ("price", False)
    ]  # fmt: skip


def test_json_round_trip(fitted):
    again = msgspec.json.decode(msgspec.json.encode(fitted), type=FittedFeatures)
    assert again == fitted
    assert again.definition == FeatureConfig.model_validate(CONFIG)
    for side, table in (("buyer", BUYERS), ("product", PRODUCTS)):
        mine, theirs = again.apply(side, table), fitted.apply(side, table)
        assert {name: values.to_pylist() for name, values in mine.items()} == {
            name: values.to_pylist() for name, values in theirs.items()
        }


def graph_answers(fitted, side, feeds):
    model = fitted.graph(side).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds), strict=True))


TEXT = st.sampled_from(["ann", "eve", "cup", "jug", "", "nobody", "Zoë", "東京", "red  CUP", "blue,"])
INTS = st.none() | st.sampled_from([7, 9, 0, -1, 2**62, -(2**62)])
MOMENTS = st.integers(-(10**17), 10**17)
FLOATS = st.none() | st.floats(width=32)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(TEXT, INTS, MOMENTS, FLOATS, INTS, st.lists(TEXT, max_size=4)), min_size=1, max_size=6))
def test_the_graph_gives_what_arrow_gives(fitted, rows):
    table = buyers(rows)
    said = fitted.apply("buyer", table)
    width = max(1, *(len(row[5]) for row in rows))
    feeds = {}
    for tensor in fitted.raw_inputs("buyer"):
        kind = {"STRING": object, "INT64": np.int64, "FLOAT": np.float32}[tensor.dtype]
        values = table[tensor.name].to_pylist()
        if len(tensor.shape) == 2:
            values = [[*value, *[tensor.default] * (width - len(value))] for value in values]
        else:
            missing = {"STRING": "", "INT64": MISSING_INT64, "FLOAT": np.nan}[tensor.dtype]
            values = [missing if value is None else value for value in values]
        feeds[tensor.name] = np.array(values, kind).reshape(len(rows), *([width] if len(tensor.shape) == 2 else []))
    graph = graph_answers(fitted, "buyer", feeds)
    assert graph.keys() == said.keys()
    for name, values in said.items():
        found = graph[name]
        if name.startswith("user_history"):
            for row, expected in enumerate(values.to_pylist()):
                assert found[row, : len(expected)].tolist() == expected
                assert not found[row, len(expected) :].any()
            continue
        expected = np.array(values.to_pylist()).reshape(found.shape)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6, err_msg=name)


def changed(**columns):
    side = {**CONFIG["buyer"], **columns}
    return FeatureConfig.model_validate({**CONFIG, "buyer": {k: v for k, v in side.items() if v is not None}})


def test_columns_that_the_data_lacks_are_named_all_at_once_with_the_nearest():
    config = changed(
        visit={"type": "INT64", "normalize": {}},
        spent={"type": "INT64", "normalize": {}},
        segment={"type": "STRING", "embedding": {}},
    )
    with pytest.raises(InputError) as caught:
        check_columns(config, BUYERS.schema, PRODUCTS.schema)
    lines = str(caught.value).splitlines()
    assert lines == [
        "features.buyer.segment: the configuration says STRING, the data has int64.",
        "features.buyer.spent: the configuration says INT64, the data has double.",
        (
            f"features.buyer.visit: the data has no such column; it has {', '.join(sorted(BUYERS.column_names))}. "
            "Did you mean visits?"
        ),
    ]
    with pytest.raises(InputError, match=r"features\.buyer\.visit"):
        fit(config, ibis.memtable(BUYERS), ibis.memtable(PRODUCTS))


@pytest.mark.parametrize(
    ("column", "definition"),
    [
        ("user_history", {"type": "STRING", "embedding": {}}),
        ("spent", {"type": "TIMESTAMP", "cyclical": {"period": "hour"}}),
        ("segment", {"type": "STRING", "sequence": {}}),
        ("segment", {"type": "STRING", "multi_hot": {}}),
        ("user_history", {"type": "STRING", "multi_hot": {"separator": ","}}),
        ("spent", {"type": "BOOL", "normalize": {}}),
    ],
)
def test_a_column_of_another_type_is_refused(column, definition):
    columns = {column: definition} | ({"user_history": None} if "sequence" in definition else {})
    with pytest.raises(InputError, match=rf"features\.buyer\.{column}: the configuration says"):
        check_columns(changed(**columns), BUYERS.schema, PRODUCTS.schema)


def test_a_history_needs_an_embedding_of_the_products_id():
    product = {**CONFIG["product"], "item_id": {"type": "STRING", "is_primary_id": True, "text": {"min_count": 1}}}
    config = FeatureConfig.model_validate({**CONFIG, "product": product})
    with pytest.raises(InputError, match=r"user_history: a sequence needs an embedding on product\.item_id"):
        fit(config, ibis.memtable(BUYERS), ibis.memtable(PRODUCTS))


def test_large_strings_are_strings():
    schema = pa.schema([field.with_type(pa.large_string()) if field.type == pa.string() else field
                        for field in BUYERS.schema])  # fmt: skip
    check_columns(FeatureConfig.model_validate(CONFIG), schema, PRODUCTS.schema)


def test_what_a_request_leaves_out_is_what_training_says_of_a_stranger():
    buyer = {
        name: {"type": "INT64" if name.startswith("num") else "FLOAT64", "log": {}, "normalize": {}}
        for name in STRANGER
    }
    rows = {name: pa.array([1, 2, None], pa.int64() if name.startswith("num") else pa.float64()) for name in STRANGER}
    config = FeatureConfig.model_validate({
        "buyer": {"user_id": CONFIG["buyer"]["user_id"], **buyer}, "product": CONFIG["product"]
    })  # fmt: skip
    fitted = fit(config, ibis.memtable(pa.table({"user_id": ["a", "b", "c"], **rows})), ibis.memtable(PRODUCTS))
    defaults = {tensor.name: tensor.default for tensor in fitted.raw_inputs("buyer") if not tensor.required}
    assert defaults == STRANGER


def test_a_sequence_needs_its_ages_and_counts():
    config = FeatureConfig.model_validate(CONFIG)
    with pytest.raises(ColumnsError) as caught:
        check_columns(config, BUYERS.drop_columns(["user_history_count"]).schema, PRODUCTS.schema)
    assert caught.value.problems == [(
        "features.buyer.user_history",
        "a sequence needs lists of numbers in user_history_count beside it; the data has no such column.",
    )]  # fmt: skip


def test_columns_without_any_value_are_fitted_and_remarked():
    """Nothing of it is refused: a column may be empty in one shop or on one day."""
    config = FeatureConfig.model_validate({
        "buyer": {
            "user_id": {"type": "STRING", "is_primary_id": True, "embedding": {"min_count": 9}},
            "mood": {"type": "STRING", "embedding": {}, "text": {}},
            "spent": {"type": "NUMERIC", "clip": {}, "log": {}, "normalize": {}, "bucketize": {}},
            "joined": {"type": "DATE", "cyclical": {"period": "month"}},
            "level": {"type": "INT64", "normalize": {}},
            "tags": {"type": "STRING", "multi_hot": {}},
        },
        "product": {"item_id": CONFIG["product"]["item_id"]},
        "crosses": {"all": {"columns": ["mood", "spent", "joined"], "n": 5}},
    })  # fmt: skip
    table = pa.table({
        "user_id": ["a", "b", "c"], "mood": pa.array([None, "", None], pa.string()),
        "spent": pa.array([None] * 3, pa.decimal128(18, 4)), "joined": pa.array([None] * 3, pa.date32()),
        "level": [7, 7, None], "tags": pa.array([[], None, [None]], pa.list_(pa.string())),
    })  # fmt: skip
    fitted = fit(config, ibis.memtable(table), ibis.memtable(PRODUCTS))
    said = fitted.apply("buyer", table)
    assert (
        said["mood.embedding"].to_pylist()
        == said["spent.bucketize"].to_pylist()
        == said["all.cross"].to_pylist()
        == [0] * 3
    )
    assert said["spent.normalize"].to_pylist() == said["level.normalize"].to_pylist() == [0.0] * 3
    assert said["joined.cyclical"].to_pylist() == [[0.0, 0.0]] * 3
    assert said["mood.text"].to_pylist() == said["tags.multi_hot"].to_pylist() == [[], [], []]
    fitted.graph("buyer")
    assert remarks_on(fitted, table, PRODUCTS) == [
        "features.buyer.user_id.embedding: no value stands in min_count=9 rows, so it says nothing. Lower min_count, or leave it out.",
        "features.buyer.mood: missing in all 3 rows, so it says nothing. Fill it, or leave it out.",
        "features.buyer.spent: missing in all 3 rows, so it says nothing. Fill it, or leave it out.",
        "features.buyer.joined: missing in all 3 rows, so it says nothing. Fill it, or leave it out.",
        "features.buyer.level.normalize: the same number in every row, so it says nothing. Leave it out.",
        "features.buyer.tags.multi_hot: no value stands in min_count=1 rows, so it says nothing. Lower min_count, or leave it out.",
    ]  # fmt: skip


def test_a_column_of_nulls_has_any_type():
    config = changed(segment={"type": "STRING", "embedding": {}, "multi_hot": {"separator": ","}})
    place = BUYERS.schema.get_field_index("segment")
    table = BUYERS.set_column(place, "segment", pa.nulls(BUYERS.num_rows))
    check_columns(config, table.schema, PRODUCTS.schema)
    said = fit(
        config, ibis.memtable(BUYERS.set_column(place, "segment", pa.array(["a,b"] * 5))), ibis.memtable(PRODUCTS)
    )
    assert said.apply("buyer", table)["segment.embedding"].to_pylist() == [0] * 5
    assert said.apply("buyer", table)["segment.multi_hot"].to_pylist() == [[]] * 5


def test_moments_of_any_form_are_microseconds():
    day = int(np.datetime64("2026-11-21", "us").astype(np.int64))
    for column in (
        pa.array([day, None]), pa.array([day * 1000, None], pa.timestamp("ns")), pa.array([day, None], pa.timestamp("us", "UTC")),
        pa.array([day // 86_400_000_000, None], pa.int32()).cast(pa.date32()),
    ):  # fmt: skip
        assert canonical(column).to_pylist() == [day, None]
    assert canonical(pa.array([b"\xff", None])).to_pylist() == ["/w==", None]
    assert canonical(pa.array([True, None])).to_pylist() == [1, None]
    assert canonical(pa.array(["x", None]).dictionary_encode()).to_pylist() == ["x", None]
    assert canonical(pa.array([MISSING_INT64, 1])).to_pylist() == [None, 1]


def test_a_cross_says_what_its_columns_say_together():
    config = changed().model_dump(exclude_none=True)
    config["crosses"] = {"x": {"columns": ["segment", "visits"], "n": 10_000}}
    fitted = fit(FeatureConfig.model_validate(config), ibis.memtable(BUYERS), ibis.memtable(PRODUCTS))
    column = fitted.columns("buyer")[-1]
    assert (column.name, column.kind, column.cardinality, column.dim) == ("x.cross", "index", 10_001, 8)
    assert fitted.sources_of("buyer", column) == ["segment", "visits"]
    bins = fitted.apply("buyer", BUYERS)["x.cross"].to_pylist()
    parts = list(
        zip(BUYERS["segment"].to_pylist(), fitted.apply("buyer", BUYERS)["visits.bucketize"].to_pylist(), strict=True)
    )
    assert [index == 0 for index in bins] == [segment is None or bucket == 0 for segment, bucket in parts]
    assert len({index for index in bins if index}) == len(
        {pair for pair, index in zip(parts, bins, strict=True) if index}
    )


def test_columns_asked_by_name_come_with_those_they_are_crossed_from():
    crossed = CONFIG | {"crosses": {"dear": {"side": "product", "columns": ["price", "title"], "n": 8, "dim": 2}}}
    crossed["product"] = CONFIG["product"] | {"price": {"type": "FLOAT64", "bucketize": {"n": 2, "dim": 2}}}
    one = fit(FeatureConfig.model_validate(crossed), ibis.memtable(BUYERS), ibis.memtable(PRODUCTS))
    every = one.apply("product", PRODUCTS)
    for names in (["title.text"], ["dear.cross"], []):
        some = one.apply("product", PRODUCTS, names)
        assert set(some) == {*names, *(["price.bucketize", "title.embedding"] if names == ["dear.cross"] else [])}
        assert all(some[name].equals(every[name]) for name in some)
