"""Search over an index and added products equals sorting the scores of all that can be found."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from endcap.retrieval.added import AddedProducts
from endcap.retrieval.exact import Boosts, ExactIndex
from endcap.retrieval.selection import Selection

small_floats = st.floats(-4, 4, width=16).map(lambda x: float(np.float32(x)))


def of_levels(draw: st.DrawFn, rows: int, dim: int) -> Any:
    # Few distinct values: ties are everywhere.
    return draw(hnp.arrays(np.int8, (rows, dim), elements=st.integers(-2, 2))).astype(np.float32)


@st.composite
def searches(draw: st.DrawFn) -> Any:
    num_own, num_added, dim = draw(st.integers(1, 120)), draw(st.integers(1, 20)), draw(st.integers(1, 4))
    vectors, more = of_levels(draw, num_own, dim), of_levels(draw, num_added, dim)
    replaced = draw(st.lists(st.integers(0, num_own - 1), max_size=num_added, unique=True))
    ids = [f"p{row}" for row in replaced] + [f"new{place}" for place in range(num_added - len(replaced))]
    order = draw(st.permutations(range(num_added)))
    query = draw(hnp.arrays(np.float32, dim, elements=small_floats))
    boosted = draw(st.lists(st.integers(0, num_own - 1), max_size=6, unique=True))
    boosts = {row: draw(small_floats) for row in boosted}
    every = [f"p{row}" for row in range(num_own)] + ids
    excluded = draw(st.none() | st.lists(st.sampled_from(every), max_size=8))
    allowed = draw(st.none() | st.lists(st.sampled_from(every), max_size=40))
    k = draw(st.integers(1, num_own + num_added + 2))
    return vectors, more, [ids[place] for place in order], query, boosts, excluded, allowed, k


@given(searches())
@settings(max_examples=40)
def test_equals_sorting_all_scores(search: Any) -> None:
    vectors, more, ids, query, boosts, excluded, allowed, k = search
    num_own = len(vectors)
    index = ExactIndex(vectors, np.array([f"p{row}" for row in range(num_own)]))
    added = AddedProducts(index, ids, more)

    # All that can be found, as a table: (id, row, vector); a replaced one is there once, under its new row.
    table = [(f"p{row}", row, vectors[row]) for row in range(num_own) if f"p{row}" not in ids]
    table += [(item_id, num_own + place, more[place]) for place, item_id in enumerate(ids)]
    assert added.num_items == len(table)
    scored = []
    for item_id, row, vector in table:
        score = np.einsum("nd,d->n", vector[None], query)[0]
        own = int(item_id[1:]) if item_id.startswith("p") else -1
        score = score + np.float32(boosts[own]) if own in boosts else score
        if item_id not in (excluded or []) and (allowed is None or item_id in allowed):
            scored.append((-score, row, item_id))
    expected = sorted(scored)[:k]

    rows = None if allowed is None else added.rows_of(allowed)
    mask = None
    if rows is not None:
        mask = np.isin(np.arange(len(ids)) + num_own, rows)
    (hits,) = added.search(
        query[None],
        [k],
        [Boosts(np.array(list(boosts)), np.array(list(boosts.values()), dtype=np.float32)) if boosts else None],
        [None if excluded is None else np.unique(added.rows_of(excluded))],
        [None if rows is None else Selection.of(rows[rows < num_own], num_own)],
        [mask],
    )
    assert added.ids_of(hits.rows) == [item_id for *_, item_id in expected]
    assert hits.rows.tolist() == [row for _, row, _ in expected]
    assert hits.scores.tolist() == [-score for score, *_ in expected]


def test_by_hand() -> None:
    index = ExactIndex(np.array([[1, 0], [0, 1], [1, 1]], dtype=np.float32), np.array([10, 20, 30]))
    added = AddedProducts(index, [40, 20], np.array([[2, 2], [3, 0]], dtype=np.float32))
    assert len(added) == 2
    assert added.num_items == 4
    assert added.rows_of([20, 10, 40, 99]).tolist() == [4, 0, 3, -1]
    vector = np.array([[1, 0]], dtype=np.float32)
    boosts = [Boosts(np.array([0, 1]), np.array([0.5, -2.5], dtype=np.float32))]
    (hits,) = added.search(vector, [9], boosts, [None], [None], [None])
    # 40 scores 2; 10 scores 1 and 0.5; 30 scores 1; 20, in its new place, 3 less 2.5.
    assert added.ids_of(hits.rows) == [40, 10, 30, 20]
    assert hits.scores.tolist() == [2.0, 1.5, 1.0, 0.5]
