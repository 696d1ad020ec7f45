"""On any input, `apply` (Arrow) and `nodes` (ONNX Runtime) give the same values."""

import math

import ibis
import numpy as np
import onnxruntime
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.features.transforms.graph import MISSING_INT64, GraphBuilder
from endcap.features.transforms.moments import Cyclical
from endcap.features.transforms.numeric import Bucketize, Clip, Log, Normalize, from_int64
from endcap.features.transforms.text import Words
from endcap.features.transforms.vocabulary import Vocabulary

STRINGS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
FLOATS = st.floats(width=32) | st.sampled_from([0.0, -0.0, math.nan, math.inf, -math.inf, 1e-45, 3.4e38, -3.4e38])
INTS = st.integers(-(2**63), 2**63 - 1)


def run(transform, dtype, values):
    """The graph's answer to a one-dimensional batch."""
    graph = GraphBuilder("test")
    tensor = graph.input("x", dtype, ["batch"])
    out_type = "FLOAT" if isinstance(transform, Clip | Log | Normalize | Cyclical) else "INT64"
    shape = ["batch", None] if isinstance(transform, Words | Cyclical) else ["batch"]
    graph.output(transform.nodes(graph, tensor), "y", out_type, shape)
    session = onnxruntime.InferenceSession(graph.build().SerializeToString(), providers=["CPUExecutionProvider"])
    array = np.array(values, dtype={"STRING": object, "FLOAT": np.float32, "INT64": np.int64}[dtype])
    return session.run(None, {"x": array})[0]


@settings(max_examples=60, deadline=None)
@given(st.lists(STRINGS, max_size=20, unique=True), st.lists(st.none() | STRINGS, min_size=1, max_size=20))
def test_vocabulary_of_strings(vocabulary, values):
    transform = Vocabulary(values=[value for value in vocabulary if value])
    values = values + vocabulary
    graph = run(transform, "STRING", [value or "" for value in values])
    assert transform.apply(pa.array(values, pa.string())).to_pylist() == graph.tolist()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(INTS.filter(lambda v: v != MISSING_INT64), max_size=20, unique=True),
    st.lists(st.none() | INTS, min_size=1),
)
def test_vocabulary_of_integers(vocabulary, values):
    transform = Vocabulary(values=vocabulary, integers=True)
    values = values + vocabulary
    graph = run(transform, "INT64", [MISSING_INT64 if value is None else value for value in values])
    assert transform.apply(pa.array(values, pa.int64())).to_pylist() == graph.tolist()


BOUNDS = st.floats(-1e6, 1e6, width=32)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(FLOATS | st.none(), min_size=1, max_size=30),
    st.one_of(
        st.tuples(BOUNDS, BOUNDS).map(sorted).map(lambda pair: Clip(low=pair[0], high=pair[1])),
        st.just(Log()),
        st.tuples(BOUNDS, st.floats(0.125, 1e6, width=32)).map(lambda pair: Normalize(mean=pair[0], std=pair[1])),
        st.lists(BOUNDS, max_size=9, unique=True).map(sorted).map(lambda values: Bucketize(boundaries=values)),
    ),
)
def test_numbers(values, transform):
    graph = run(transform, "FLOAT", [math.nan if value is None else value for value in values])
    applied = transform.apply(pa.array(values, pa.float32())).to_numpy()
    if isinstance(transform, Log):  # two math libraries: the last digit may differ
        np.testing.assert_allclose(applied, graph, rtol=3e-7, atol=0)
    else:
        np.testing.assert_array_equal(applied, graph)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.none() | INTS.filter(lambda v: v != MISSING_INT64), min_size=1))
def test_integers_become_the_same_numbers(values):
    graph = GraphBuilder("test")
    graph.output(from_int64(graph, graph.input("x", "INT64", ["batch"])), "y", "FLOAT", ["batch"])
    session = onnxruntime.InferenceSession(graph.build().SerializeToString(), providers=["CPUExecutionProvider"])
    raw = np.array([MISSING_INT64 if value is None else value for value in values], np.int64)
    wide = Clip(low=-3e38, high=3e38).apply(pa.array(values, pa.int64())).to_numpy()
    np.testing.assert_array_equal(wide, session.run(None, {"x": raw})[0])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.none() | INTS | st.integers(0, 4_102_444_800_000_000), min_size=1),
    st.sampled_from(["hour", "day_of_week"]),
)
def test_cyclical(values, period):
    transform = Cyclical(period=period)
    graph = run(transform, "INT64", [MISSING_INT64 if value is None else value for value in values])
    applied = np.array(transform.apply(pa.array(values, pa.int64())).to_pylist(), np.float32)
    np.testing.assert_array_equal(applied, graph)


@settings(max_examples=60, deadline=None)
@given(st.lists(STRINGS, max_size=8), st.lists(st.none() | STRINGS, min_size=1, max_size=8))
def test_words(texts, values):
    from endcap.contracts.features import Text

    table = ibis.memtable(pa.table({"text": pa.array([*texts, "Red CUP", "red, mug"], pa.string())}))
    transform = Words.fit(table.text, Text(min_count=1))
    values = [*values, *texts, "RED cup", "", "   ", "mug unseen"]
    graph = run(transform, "STRING", [value or "" for value in values])
    applied = transform.apply(pa.array(values, pa.string())).to_pylist()
    assert [[index for index in row if index] for row in graph.tolist()] == applied


def test_words_share_one_index_across_case_and_punctuation():
    from endcap.contracts.features import Text

    table = ibis.memtable(pa.table({"text": ["RED CUP,", "red plate", "Ångström cup"]}))
    transform = Words.fit(table.text, Text(min_count=2))
    assert transform.num_words == 2
    assert transform.apply(pa.array(["Red cup", "RED CUP, plate", "blue"])).to_pylist() == [[2, 1], [2, 1], []]


@pytest.mark.parametrize(("day", "expected"), [("2026-11-16", 0), ("2026-11-22", 6)])
def test_monday_is_the_first_day(day, expected):
    moment = int(np.datetime64(day, "us").astype(np.int64))
    sine, cosine = Cyclical(period="day_of_week").apply(pa.array([moment]))[0].as_py()
    assert math.isclose(sine, math.sin(2 * math.pi * expected / 7), abs_tol=1e-6)
    assert math.isclose(cosine, math.cos(2 * math.pi * expected / 7), abs_tol=1e-6)
