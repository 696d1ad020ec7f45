"""How finely products are rounded, and that what is left out can be left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from endcap.retrieval import screen
from endcap.retrieval.screen import FINE_LEVELS, LIKELY, SAFE_LEVELS, SURE, Screen, item_levels


class Saturating:
    """A processor that adds pairs of products up in 16 bits, as those without VNNI do."""

    def __init__(self, matrix: Any) -> None:
        self._matrix = matrix.astype(np.int64)

    def run(self, _outputs: Any, feeds: Any) -> list[Any]:
        products = feeds["query"].astype(np.int64)[:, :, None] * self._matrix
        pairs = (products[:, ::2] + products[:, 1::2]).clip(-(2**15), 2**15 - 1)
        return [(pairs.sum(axis=1) - 128 * self._matrix.sum(axis=0)).astype(np.int32)]


def test_products_are_rounded_as_finely_as_the_processor_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert item_levels() in (SAFE_LEVELS, FINE_LEVELS)
    item_levels.cache_clear()
    matrices = []
    monkeypatch.setattr(screen, "int8_product_graph", lambda matrix, _zero, _block: matrices.append(matrix))
    monkeypatch.setattr(screen, "_open_session", lambda _model, _num_threads: Saturating(matrices[-1]))
    assert item_levels() == SAFE_LEVELS
    item_levels.cache_clear()


@pytest.mark.parametrize("slack", [LIKELY, SURE])
def test_what_is_left_out_scores_no_more_than_the_ceiling(slack: float) -> None:
    rng = np.random.default_rng(8)
    vectors = rng.standard_normal((10_007, 16)).astype(np.float32)
    queries = rng.standard_normal((5, 16)).astype(np.float32)
    excluded = [np.arange(b, 10_007, 50) if b else None for b in range(5)]
    tested = Screen(vectors)
    found = tested.candidates(tested.start(queries), [20] * 5, 32, slack, excluded, [None] * 5)
    parts = np.split(found.rows, np.cumsum(found.lengths)[:-1])
    for query, rows, out, ceiling in zip(queries, parts, excluded, found.ceilings, strict=True):
        assert (np.diff(rows) > 0).all()
        scores = vectors @ query
        scores[rows] = -np.inf
        if out is not None:
            assert not np.isin(out, rows).any()
            scores[out] = -np.inf
        assert scores.max() <= ceiling
