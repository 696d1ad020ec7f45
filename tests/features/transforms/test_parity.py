"""On any input, `apply` (Arrow) and `nodes` (ONNX Runtime) give the same values."""

import math

import ibis
import numpy as np
import onnxruntime
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from endcap.contracts import features as config
from endcap.features.transforms.crosses import CrossBins
from endcap.features.transforms.graph import MISSING_INT64, GraphBuilder
from endcap.features.transforms.hashing import bin_integers, bin_strings
from endcap.features.transforms.moments import Cyclical, Steps
from endcap.features.transforms.multi_hot import MultiHot
from endcap.features.transforms.numeric import Bucketize, Clip, Log, Normalize, from_int64
from endcap.features.transforms.text import Words
from endcap.features.transforms.vocabulary import Vocabulary

STRINGS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
FLOATS = st.floats(width=32) | st.sampled_from([0.0, -0.0, math.nan, math.inf, -math.inf, 1e-45, 3.4e38, -3.4e38])
INTS = st.integers(-(2**63), 2**63 - 1)


INTS = INTS | st.just(MISSING_INT64)  # a value of its own in no face: it stands for a missing one
SAMPLES = settings(max_examples=40, deadline=None)
NUMPY = {"STRING": object, "FLOAT": np.float32, "INT64": np.int64}


def answer(graph, feeds):
    session = onnxruntime.InferenceSession(graph.build().SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def run(transform, dtype, values):
    """The graph's answer to a batch: of scalars, or of lists padded to one length."""
    is_list = bool(values) and isinstance(values[0], list)
    graph = GraphBuilder("test")
    tensor = graph.input("x", dtype, ["batch", "length"] if is_list else ["batch"])
    out_type = "FLOAT" if isinstance(transform, Clip | Log | Normalize | Cyclical) else "INT64"
    shape = ["batch", None] if isinstance(transform, Words | Cyclical | MultiHot) else ["batch"]
    graph.output(transform.nodes(graph, tensor), "y", out_type, shape)
    if is_list:
        width = max(map(len, values))
        values = [[*row, *[""] * (width - len(row))] for row in values]
        return answer(graph, {"x": np.array(values, object).reshape(len(values), width)})
    return answer(graph, {"x": np.array(values, dtype=NUMPY[dtype])})


def known(rows):
    """Indexes of each row without padding."""
    return [[index for index in row if index] for row in rows.tolist()]


@SAMPLES
@given(
    st.lists(STRINGS, max_size=20, unique=True),
    st.lists(st.none() | STRINGS, min_size=1, max_size=20),
    st.sampled_from([1, 2, 7, 1000]),
)
def test_vocabulary_of_strings(vocabulary, values, num_oov):
    transform = Vocabulary(values=[value for value in vocabulary if value], num_oov=num_oov)
    values = values + vocabulary
    graph = run(transform, "STRING", [value or "" for value in values])
    assert transform.apply(pa.array(values, pa.string())).to_pylist() == graph.tolist()


@SAMPLES
@given(
    st.lists(INTS.filter(lambda v: v != MISSING_INT64), max_size=20, unique=True),
    st.lists(st.none() | INTS, min_size=1),
    st.sampled_from([1, 2, 7, 1000]),
)
def test_vocabulary_of_integers(vocabulary, values, num_oov):
    transform = Vocabulary(values=vocabulary, integers=True, num_oov=num_oov)
    values = values + vocabulary
    graph = run(transform, "INT64", [MISSING_INT64 if value is None else value for value in values])
    assert transform.apply(pa.array(values, pa.int64())).to_pylist() == graph.tolist()


BOUNDS = st.floats(-1e6, 1e6, width=32)


@SAMPLES
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


@SAMPLES
@given(st.lists(st.none() | INTS.filter(lambda v: v != MISSING_INT64), min_size=1))
def test_integers_become_the_same_numbers(values):
    graph = GraphBuilder("test")
    graph.output(from_int64(graph, graph.input("x", "INT64", ["batch"])), "y", "FLOAT", ["batch"])
    session = onnxruntime.InferenceSession(graph.build().SerializeToString(), providers=["CPUExecutionProvider"])
    raw = np.array([MISSING_INT64 if value is None else value for value in values], np.int64)
    wide = Clip(low=-3e38, high=3e38).apply(pa.array(values, pa.int64())).to_numpy()
    np.testing.assert_array_equal(wide, session.run(None, {"x": raw})[0])


MOMENTS = st.none() | INTS | st.integers(0, 4_102_444_800_000_000)
PERIODS = ["hour", "day_of_week", "day_of_month", "month", "day_of_year", "week"]


@SAMPLES
@given(st.lists(MOMENTS, min_size=1), st.lists(st.sampled_from(PERIODS), min_size=1, unique=True))
def test_cyclical(values, periods):
    transform = Cyclical(periods=periods)
    raw = [MISSING_INT64 if value is None else value for value in values]
    applied = np.array(transform.apply(pa.array(values, pa.int64())).to_pylist(), np.float32)
    np.testing.assert_array_equal(applied, run(transform, "INT64", raw))
    steps = Steps(periods[0])
    indexes = steps.apply(pa.array(values, pa.int64())).to_pylist()
    assert indexes == run(steps, "INT64", raw).tolist()
    assert max(indexes) < steps.size


@SAMPLES
@given(
    st.lists(STRINGS, max_size=8),
    st.lists(st.none() | STRINGS, min_size=1, max_size=8),
    st.integers(1, 3),
    st.sampled_from([(100, 0), (100, 7), (2, 5), (0, 1), (0, 1000)]),
)
def test_words(texts, values, ngrams, kept):
    texts = [*texts, "Red CUP", "red, mug", "a Red cup of tea", "red cup"]
    table = ibis.memtable(pa.table({"text": pa.array(texts, pa.string())}))
    transform = Words.fit(table.text, config.Text(min_count=1, ngrams=ngrams, max_vocab=kept[0], oov=kept[1]))
    values = [*values, *texts, "RED cup", "", "   ", "mug unseen", "RED unseen cup", "Of TEA"]
    graph = run(transform, "STRING", [value or "" for value in values])
    applied = transform.apply(pa.array(values, pa.string())).to_pylist()
    assert known(graph) == applied
    assert max(map(max, filter(None, applied))) < transform.size


@SAMPLES
@given(
    st.lists(STRINGS, max_size=8, unique=True),
    st.lists(st.none() | st.lists(st.none() | STRINGS, max_size=5), min_size=1),
)
def test_multi_hot_of_lists(vocabulary, rows):
    transform = MultiHot(values=[value for value in vocabulary if value])
    rows = [*rows, vocabulary]
    graph = run(transform, "STRING", [[value or "" for value in row or []] for row in rows])
    assert transform.apply(pa.array(rows, pa.list_(pa.string()))).to_pylist() == known(graph)


@SAMPLES
@given(
    st.lists(st.text("ab >é\x00", max_size=4), max_size=8, unique=True),
    st.lists(st.none() | st.text("ab >é", max_size=12), min_size=1, max_size=8),
    st.sampled_from([" > ", ">", "ab"]),
)
@example([" >"], [None], " > ")
def test_multi_hot_of_texts(vocabulary, texts, separator):
    kept = [value for value in vocabulary if value and separator not in value and "\x00" not in value]
    transform = MultiHot(values=kept, separator=separator)
    texts = [*texts, separator.join(kept), separator, ""]
    graph = run(transform, "STRING", [text or "" for text in texts])
    assert transform.apply(pa.array(texts, pa.string())).to_pylist() == known(graph)


@SAMPLES
@given(
    st.integers(1, 9).flatmap(
        lambda rows: st.lists(st.lists(st.integers(0, 2**31 - 1), min_size=rows, max_size=rows), min_size=2, max_size=5)
    ),
    st.integers(2, 10_000_000),
)
def test_crosses(columns, num_bins):
    transform, graph = CrossBins(num_bins), GraphBuilder("test")
    names = [graph.input(f"x{place}", "INT64", ["batch"]) for place in range(len(columns))]
    graph.output(transform.nodes_of_all(graph, names), "y", "INT64", ["batch"])
    found = answer(graph, {name: np.array(column, np.int64) for name, column in zip(names, columns, strict=True)})
    applied = transform.apply_all([pa.array(column, pa.int64()) for column in columns])
    assert applied.to_pylist() == found.tolist()
    for index, parts in zip(found.tolist(), zip(*columns, strict=True), strict=True):
        assert (index == 0) == (0 in parts)
        assert index < transform.size


def test_hashes_are_those_that_are_published():
    """MurmurHash3_x86_32, seed 0, as its own tests have it; whole, torn and empty last blocks."""
    said = bin_strings(["", "foo", "hello, world", "The quick brown fox jumps over the lazy dog"], 2**32)
    assert said.tolist() == [0, 0xF6A5C420, 0x149BBB7F, 0x2E4FF723]


def test_hashes_spread():
    """Neighbours fall into about as many bins as chance would have it: 1 - 1/e of them."""
    ids, some = np.arange(10_000), np.arange(1, 101)
    grid = CrossBins(10_000).apply_all([pa.array(np.repeat(some, 100)), pa.array(np.tile(some, 100))])
    for bins in (bin_strings([f"user-{number}" for number in ids], 10_000), bin_integers(ids, 10_000), grid):
        assert 0.6 < len(np.unique(bins)) / 10_000 < 0.66


def test_runs_of_words_by_hand():
    table = ibis.memtable(pa.table({"text": ["red cup", "Red CUP", "red cup of tea", "cup of tea", "of tea red"]}))
    transform = Words.fit(table.text, config.Text(min_count=2, ngrams=3))
    words = {"cup": 1, "red": 2, "of": 3, "tea": 4}  # in 4, 4, 3 and 3 texts, then by name
    runs = {"red cup": 5, "of tea": 6, "cup of": 7, "cup of tea": 8}  # in 3, 3, 2 and 2, then by their words
    said = transform.apply(pa.array(["RED cup of TEA", "cup unseen of tea"])).to_pylist()
    assert said == [
        [words["red"], words["cup"], words["of"], words["tea"], runs["red cup"], runs["cup of"], runs["of tea"], runs["cup of tea"]],
        [words["cup"], words["of"], words["tea"], runs["of tea"]],
    ]  # fmt: skip
    assert transform.size == 9


def test_words_and_runs_out_of_vocabulary_have_bins_of_their_own():
    table = ibis.memtable(pa.table({"text": ["red cup", "Red CUP", "blue mug"]}))
    transform = Words.fit(table.text, config.Text(min_count=2, ngrams=2, oov=100_000))
    assert transform.first_oov == 4  # padding, cup, red, red cup
    first, again, other, none = transform.apply(pa.array(["red plate", "RED plate", "red PLATE", ""])).to_pylist()
    assert (first[0], len(first)) == (2, 3)  # red, plate, red plate
    assert all(4 <= index < transform.size for index in first[1:])
    assert len(set(first)) == 3
    assert again[1] == first[1]
    assert again[2] != first[2]  # runs go by spelling
    assert other[1] != first[1]
    assert none == []


def test_several_values_in_one_row_by_hand():
    rows = [["toys", "wood"], ["toys", "toys"], None, [], ["wood", ""], ["rare"]]
    table = ibis.memtable(pa.table({"x": pa.array(rows, pa.list_(pa.string()))}))
    transform = MultiHot.fit(table.x, config.MultiHot(min_count=2))
    assert transform.values == ["toys", "wood"]  # rows that hold one, not how often
    assert transform.apply(pa.array(rows)).to_pylist() == [[1, 2], [1, 1], [], [], [2], []]
    joined = ibis.memtable(pa.table({"x": pa.array(["toys > wood", "toys", None, ""], pa.string())}))
    assert MultiHot.fit(joined.x, config.MultiHot(separator=" > ")).values == ["toys", "wood"]


def test_crossed_indexes_by_hand():
    """The fifth power of ((0 + 3 + 1) m mod p + 5 + 1) m mod p, into 7 bins numbered from 1."""
    m, p = 1_640_531_527, 2**31 - 1
    expected = pow(((4 * m % p) + 6) * m, 5, p) % 7 + 1
    assert CrossBins(7).apply_all([pa.array([3, 0, 3]), pa.array([5, 5, 0])]).to_pylist() == [expected, 0, 0]


def test_values_out_of_vocabulary_have_bins_of_their_own():
    vocabulary = Vocabulary(values=["a", "b"], num_oov=5)
    assert vocabulary.size == 8
    said = vocabulary.apply(pa.array(["a", "b", None, "", "zoë"])).to_pylist()
    assert said[:4] == [1, 2, 0, 0]
    assert said[4] == 3 + bin_strings(["zoë"], 5)[0]


@pytest.mark.parametrize(
    ("moment", "steps"),
    [
        ("2026-11-21T13:59:59.999999", {"hour": 13, "day_of_week": 5, "day_of_month": 20, "month": 10, "day_of_year": 324, "week": 46}),
        ("2024-02-29", {"hour": 0, "day_of_week": 3, "day_of_month": 28, "month": 1, "day_of_year": 59, "week": 8}),
        ("2024-12-31T23:00", {"hour": 23, "day_of_week": 1, "day_of_month": 30, "month": 11, "day_of_year": 365, "week": 52}),
        ("1969-12-31T23:59:59", {"hour": 23, "day_of_week": 2, "day_of_month": 30, "month": 11, "day_of_year": 364, "week": 52}),
        ("1900-03-01", {"hour": 0, "day_of_week": 3, "day_of_month": 0, "month": 2, "day_of_year": 59, "week": 8}),
        ("2400-02-29", {"hour": 0, "day_of_week": 1, "day_of_month": 28, "month": 1, "day_of_year": 59, "week": 8}),
    ],
)  # fmt: skip
def test_steps_of_the_calendar(moment, steps):
    column = pa.array([int(np.datetime64(moment, "us").astype(np.int64))])
    assert {period: Steps(period).apply(column)[0].as_py() - 1 for period in steps} == steps


@pytest.mark.parametrize(("day", "expected"), [("2026-11-16", 0), ("2026-11-22", 6)])
def test_monday_is_the_first_day(day, expected):
    moment = int(np.datetime64(day, "us").astype(np.int64))
    sine, cosine = Cyclical(periods=["day_of_week"]).apply(pa.array([moment]))[0].as_py()
    assert math.isclose(sine, math.sin(2 * math.pi * expected / 7), abs_tol=1e-6)
    assert math.isclose(cosine, math.cos(2 * math.pi * expected / 7), abs_tol=1e-6)
