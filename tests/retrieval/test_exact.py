"""Exact search equals sorting every score, whatever the vectors, boosts, exclusions and ties."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from endcap.contracts.errors import ArtifactError
from endcap.retrieval.exact import Boosts, ExactIndex, NotFiniteError, add_up
from endcap.retrieval.screen import SAFE_LEVELS
from endcap.retrieval.selection import Selection


def brute_force(
    vectors: Any, query: Any, k: int, boosts: Boosts | None = None, excluded: Any = None, selected: Any = None
) -> Any:
    scores = np.einsum("nd,d->n", vectors, query)
    if boosts is not None:
        scores[boosts.rows] += boosts.values
    rows = np.arange(len(vectors)) if selected is None else np.unique(selected)
    if excluded is not None:
        rows = np.setdiff1d(rows, excluded)
    order = rows[np.lexsort((rows, -scores[rows]))][:k]
    return order, scores[order]


def assert_same(hits: Any, expected: Any) -> None:
    np.testing.assert_array_equal(hits.rows, expected[0])
    np.testing.assert_array_equal(hits.scores, expected[1])


def index_of(vectors: Any) -> ExactIndex:
    return ExactIndex(vectors, np.array([f"p{row}" for row in range(len(vectors))]), aside=True)


def test_small_example_by_hand() -> None:
    index = index_of(np.array([[1, 0], [0, 1], [1, 1], [-1, 0]], dtype=np.float32))
    (hits,) = index.search(np.array([[2, 1]], dtype=np.float32), [3])
    assert index.ids_of(hits.rows) == ["p2", "p0", "p1"]
    assert hits.scores.tolist() == [3.0, 2.0, 1.0]


def test_boost_lifts_and_exclusion_removes() -> None:
    index = index_of(np.array([[1, 0], [0, 1], [1, 1], [-1, 0]], dtype=np.float32))
    boosts = Boosts(np.array([3, 2]), np.array([10, -5], dtype=np.float32))
    (hits,) = index.search(np.array([[2, 1]], dtype=np.float32), [4], [boosts], [np.array([1])])
    assert index.ids_of(hits.rows) == ["p3", "p0", "p2"]
    assert hits.scores.tolist() == [8.0, 2.0, -2.0]


small_floats = st.floats(-4, 4, width=16).map(lambda x: float(np.float32(x)))


@st.composite
def searches(draw: st.DrawFn) -> Any:
    num_items = draw(st.integers(1, 400))
    dim = draw(st.integers(1, 5))
    # Few distinct values: ties are everywhere.
    levels = draw(hnp.arrays(np.int8, (num_items, dim), elements=st.integers(-2, 2)))
    scale = draw(st.sampled_from([0.0, 1e-3, 1.0, 0.3, 1e6]))
    vectors = (levels * np.float32(scale)).astype(np.float32)
    num_queries = draw(st.integers(1, 11))
    queries = draw(hnp.arrays(np.float32, (num_queries, dim), elements=small_floats))
    ks = [draw(st.integers(1, num_items + 5)) if draw(st.booleans()) else 1 for _ in range(num_queries)]
    boosts, excluded, selected = [], [], []
    for _ in range(num_queries):
        rows = draw(st.lists(st.integers(0, num_items - 1), max_size=5, unique=True))
        values = [draw(small_floats) for _ in rows]
        boosts.append(Boosts(np.array(rows), np.array(values, dtype=np.float32)) if rows else None)
        out = draw(st.lists(st.integers(0, num_items - 1), max_size=5))
        excluded.append(np.array(out) if out else None)
        some = draw(st.none() | st.lists(st.integers(0, num_items - 1), max_size=num_items // 2))
        selected.append(None if some is None else np.array(some, dtype=np.int64))
    return vectors, queries, ks, boosts, excluded, selected


@given(searches())
def test_equals_brute_force(search: Any) -> None:
    vectors, queries, ks, boosts, excluded, selected = search
    selections = [None if rows is None else Selection.of(rows, len(vectors)) for rows in selected]
    index = index_of(vectors)
    hits = index.search(queries, ks, boosts, excluded, selections)
    aside = index.finish(index.begin(queries, ks, boosts, excluded, selections, aside=True))
    for b in range(len(queries)):
        assert_same(hits[b], aside[b])
        assert_same(hits[b], brute_force(vectors, queries[b], ks[b], boosts[b], excluded[b], selected[b]))


@pytest.mark.parametrize("levels", ["safe", "of this machine"])
@pytest.mark.parametrize("kind", ["normal", "outlier", "equal", "clustered", "heavy_tail", "duplicated"])
def test_equals_brute_force_on_large_catalogs(kind: str, levels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if levels == "safe":
        monkeypatch.setattr("endcap.retrieval.screen.item_levels", lambda: SAFE_LEVELS)
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((20_011, 16)).astype(np.float32)
    if kind == "outlier":
        vectors[77] *= 1000
    elif kind == "equal":
        vectors[:] = vectors[0]
    elif kind == "clustered":
        vectors = (vectors * 1e-4 + np.repeat(vectors[:3], 6671, axis=0)[:20_011]).astype(np.float32)
    elif kind == "heavy_tail":
        vectors = np.sign(vectors) * np.abs(vectors) ** 5
    elif kind == "duplicated":
        vectors[10_000:] = vectors[:10_011]
    queries = rng.standard_normal((17, 16)).astype(np.float32)
    queries[3] = 0
    queries[4] *= 1e-20
    index = index_of(vectors)
    for k in (1, 100, 600):
        boosts: list[Boosts | None] = [None] * 17
        excluded: list[Any] = [None] * 17
        boosts[1] = Boosts(np.array([20_010, 0, 5]), np.array([9, -9, 2.5], dtype=np.float32))
        excluded[2] = brute_force(vectors, queries[2], 150)[0]
        excluded[5] = excluded[6] = brute_force(vectors, queries[5], 150)[0]
        selected: list[Any] = [None] * 17
        # Large and small, of the best and of the worst, none, and with excluded and boosted rows inside and outside of it.
        selected[1] = selected[4] = np.arange(0, 20_011, 2)
        selected[5], selected[6] = np.arange(5_000), brute_force(vectors, queries[6], 200)[0]
        selected[7], selected[8] = brute_force(vectors, -queries[7], 2_000)[0], np.array([], dtype=np.int64)
        selections = [None if rows is None else Selection.of(rows, 20_011) for rows in selected]
        hits = index.search(queries, [k] * 17, boosts, excluded, selections)
        # Of those that a pass of all products answers, two begun at once.
        parts = [slice(0, 7), slice(9, 17)]
        begun = [
            index.begin(queries[part], [k] * len(queries[part]), boosts[part], excluded[part], aside=True)
            for part in parts
        ]
        for part, one in zip(parts, begun, strict=True):
            for b, hit in zip(range(17)[part], index.finish(one), strict=True):
                assert_same(hit, brute_force(vectors, queries[b], k, boosts[b], excluded[b]))
        for b in range(17):
            assert_same(hits[b], brute_force(vectors, queries[b], k, boosts[b], excluded[b], selected[b]))


@pytest.mark.parametrize("num_items", [3200, 3201, 3231])
def test_the_last_product_excluded_though_it_is_the_best(num_items: int) -> None:
    vectors = np.random.default_rng(4).standard_normal((num_items, 8)).astype(np.float32)
    query = vectors[:1].copy()
    vectors[-1] = 9 * vectors[0]
    index = index_of(vectors)
    (found,), (without,) = index.search(query, [2]), index.search(query, [2], None, [np.array([num_items - 1])])
    assert found.rows[0] == num_items - 1
    assert_same(without, brute_force(vectors, query[0], 2, None, np.array([num_items - 1])))


def test_answer_does_not_depend_on_the_batch() -> None:
    rng = np.random.default_rng(5)
    vectors = rng.standard_normal((5000, 24)).astype(np.float32)
    queries = rng.standard_normal((13, 24)).astype(np.float32)
    index = index_of(vectors)
    together = index.search(queries, [50] * 13)
    for b in range(13):
        (alone,) = index.search(queries[b : b + 1], [50])
        assert_same(alone, together[b])


def test_k_above_the_catalog_gives_the_whole_catalog() -> None:
    rng = np.random.default_rng(6)
    vectors = rng.standard_normal((40, 4)).astype(np.float32)
    (hits,) = index_of(vectors).search(vectors[:1], [1000])
    assert sorted(hits.rows.tolist()) == list(range(40))


def test_rows_of_unknown_ids_are_minus_one() -> None:
    strings = index_of(np.eye(3, dtype=np.float32))
    assert strings.rows_of(["p2", "nobody", "p0", ""]).tolist() == [2, -1, 0, -1]
    integers = ExactIndex(np.eye(3, dtype=np.float32), np.array([10, 20, 30]))
    assert integers.rows_of([30, 31]).tolist() == [2, -1]


def test_refuses_a_query_that_is_not_finite() -> None:
    with pytest.raises(ValueError, match="not finite"):
        index_of(np.eye(3, dtype=np.float32)).search(np.array([[1, np.nan, 0]], dtype=np.float32), [1])


@pytest.mark.parametrize("is_selected", [False, True])
def test_long_queries_are_answered_as_far_as_numbers_go(is_selected: bool) -> None:
    rng = np.random.default_rng(11)
    vectors = rng.standard_normal((2000, 16)).astype(np.float32)
    query = rng.standard_normal((1, 16)).astype(np.float32)
    selection = Selection.of(np.arange(0, 2000, 2), 2000) if is_selected else None
    index = index_of(vectors)
    (plain,) = index.search(query, [10], selections=[selection])
    (long,) = index.search(query * np.float32(2.0**55), [10], selections=[selection])
    assert long.rows.tolist() == plain.rows.tolist()
    assert np.isfinite(long.scores).all()
    for factor in (2.0**66, 2.0**125):
        with pytest.raises(NotFiniteError, match="too long"):
            index.search(query * np.float32(factor), [10], selections=[selection])


def test_refuses_a_boost_that_is_not_finite() -> None:
    boost = Boosts(np.array([1]), np.array([np.inf], dtype=np.float32))
    with pytest.raises(NotFiniteError, match="boost"):
        index_of(np.eye(3, dtype=np.float32)).search(np.ones((1, 3), dtype=np.float32), [1], [boost])


def save(folder: Path, vectors: Any, ids: Any) -> tuple[Path, Path]:
    np.save(folder / "vectors.npy", vectors, allow_pickle=False)
    np.save(folder / "ids.npy", ids, allow_pickle=True)
    return folder / "vectors.npy", folder / "ids.npy"


def test_opens_memory_mapped_files(tmp_path: Path) -> None:
    index = ExactIndex.open(*save(tmp_path, np.eye(3, dtype=np.float32), np.array(["a", "b", "ü"])))
    (hits,) = index.search(np.array([[1, 2, 3]], dtype=np.float32), [2])
    assert index.ids_of(hits.rows) == ["ü", "b"]
    index.drop_id_pages()
    assert index.ids_of(hits.rows) == ["ü", "b"]
    assert index.rows_of(["b"]).tolist() == [1]


@pytest.mark.parametrize(
    ("vectors", "ids", "message"),
    [
        (np.eye(3), np.array(["a", "b", "c"]), "float64"),
        (np.eye(3, dtype=np.float32), np.array(["a", "b"]), "3 vectors"),
        (np.eye(3, dtype=np.float32), np.array(["a", "b", None]), "can't be read"),
        (np.full((2, 2), np.nan, dtype=np.float32), np.array(["a", "b"]), "not finite"),
        (np.eye(2, dtype=np.float32), np.array([0.5, 1.5]), "expected strings or int64"),
    ],
)
def test_damaged_candidates_are_refused(tmp_path: Path, vectors: Any, ids: Any, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        ExactIndex.open(*save(tmp_path, vectors, ids))


def test_rows_that_repeat_are_added_up():
    boosts = add_up(np.array([4, -1, 2, 4, 2]), np.array([1, 9, 0.5, 2, -0.5], np.float32))
    assert boosts.rows.tolist() == [2, 4]
    assert boosts.values.tolist() == [0.0, 3.0]
    assert boosts.values.dtype == np.float32
    assert not len(add_up(np.array([-1]), np.array([1], np.float32)).rows)
