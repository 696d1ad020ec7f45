"""Rows that a search stays among."""

import numpy as np
import pytest

from endcap.retrieval.selection import Selection, places_of


@pytest.mark.parametrize("rows", [[], [3, 1, 3], [0, 1, 2, 3, 5], list(range(6))])
def test_of_rows_in_any_order(rows):
    selection = Selection.of(np.array(rows, dtype=np.int64), 6)
    assert selection.rows.tolist() == sorted(set(rows))
    assert selection.mask.tolist() == [row in rows for row in range(6)]


def test_the_products_in_both():
    first, second = Selection.of(np.array([3, 1, 3, 7]), 9), Selection.of(np.array([7, 0, 3]), 9)
    assert (first & second).rows.tolist() == [3, 7]


def test_places_of_rows_that_are_there():
    rows = np.array([2, 4, 8])
    assert places_of(np.array([8, 3, 2, 9, 0, 8]), rows).tolist() == [2, 0, 2]
    assert places_of(np.array([1]), np.array([], dtype=np.int64)).tolist() == []
