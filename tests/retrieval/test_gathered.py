"""What is gathered of a pass's scores tells the best of each query's selection, whatever the sizes beside it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from endcap.retrieval.candidates import Bounds
from endcap.retrieval.gathered import MOST_TOGETHER, Gathered, Memory
from endcap.retrieval.selection import Selection

EXACT = Bounds(np.ones(2), np.zeros(2))


def test_each_query_s_best_are_found_among_its_selection() -> None:
    scores = np.array([[9, 1, 8, 2, 7, 3], [1, 2, 3, 4, 5, 6]], dtype=np.int32)
    gathered = Gathered(
        range(2), [Selection.of(np.array(rows), 6) for rows in ([1, 3, 5], [0, 1, 2, 3, 4, 5])], 6, Memory()
    )
    gathered.collect(scores)
    found = gathered.best(EXACT, [2, 1], 1.0, [None, np.array([5])])
    assert (found.rows.tolist(), found.lengths, found.ceilings) == ([3, 5, 4], [2, 1], [2.0, 5.0])


def test_where_fewer_are_there_than_wanted_all_are_kept_and_nothing_that_fills_a_row_up() -> None:
    scores = np.arange(12, dtype=np.int32).reshape(2, 6)
    gathered = Gathered(range(2), [Selection.of(np.array(rows), 6) for rows in ([4], [0, 1, 2, 3, 4, 5])], 6, Memory())
    gathered.collect(scores)
    found = gathered.best(EXACT, [3, 3], 1.0, [np.array([4]), None])
    assert (found.rows.tolist(), found.lengths) == ([4, 3, 4, 5], [1, 3])
    assert found.ceilings == [-math.inf, 9.0]


def test_none_is_found_where_none_is_selected() -> None:
    gathered = Gathered([0], [Selection.of(np.array([], dtype=np.int64), 6)], 6, Memory())
    gathered.collect(np.ones((1, 6), dtype=np.int32))
    found = gathered.best(EXACT.take([0]), [3], 1.0, [None])
    assert (found.rows.tolist(), found.lengths, found.ceilings) == ([], [0], [-math.inf])


@pytest.mark.parametrize("size", [MOST_TOGETHER, MOST_TOGETHER + 1])
def test_memory_is_kept_up_to_a_size(size: int) -> None:
    memory = Memory()
    first, second = memory.matrices(1, size), memory.matrices(1, size)
    is_kept = size == MOST_TOGETHER
    assert [np.shares_memory(*arrays) for arrays in zip(first, second, strict=True)] == [is_kept] * 2
    assert [array.shape for array in first] == [(1, size)] * 2


@given(st.data())
def test_what_is_left_out_scores_no_more_than_the_ceiling_and_none_of_the_best_is(data: st.DataObject) -> None:
    num_items, num_queries = data.draw(st.integers(1, 400)), data.draw(st.integers(1, 4))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    scores = rng.integers(-50, 50, (num_queries, num_items), dtype=np.int32)
    errors = np.full(num_queries, data.draw(st.sampled_from([0.0, 3.0])))
    bounds = Bounds(np.full(num_queries, 2.0), errors)
    shares, outs = ([data.draw(st.sampled_from(options)) for _ in range(num_queries)] for options in
                    ((0.0, 0.1, 0.5, 1.0), (0.0, 0.2, 1.0)))  # fmt: skip
    selections = [Selection(rng.random(num_items) < share) for share in shares]
    excluded = [(rng.random(num_items) < share).nonzero()[0] for share in outs]
    wanted = [data.draw(st.integers(1, 30)) for _ in range(num_queries)]
    gathered = Gathered(range(num_queries), selections, num_items, Memory())
    gathered.collect(scores)
    found = gathered.best(bounds, wanted, 1.0, excluded)
    rows_of_each = np.split(found.rows, np.cumsum(found.lengths)[:-1])
    for query, rows in enumerate(rows_of_each):
        assert (np.diff(rows) > 0).all()
        assert selections[query].mask[rows].all()
        may_be_found = np.setdiff1d(selections[query].rows, excluded[query])
        left_out = np.setdiff1d(may_be_found, rows)
        assert not len(left_out) or scores[query, left_out].max() * 2.0 + errors[query] <= found.ceilings[query] + 1e-9
        if len(left_out):
            best = np.sort(scores[query, may_be_found])[-wanted[query] :]
            assert np.isin(may_be_found[scores[query, may_be_found] >= best[0]], rows).all()
            assert len(may_be_found) > wanted[query]
