"""How finely products are rounded, and that what is left out can be left out."""

from __future__ import annotations

import threading
import weakref
from typing import Any

import numpy as np
import pytest

from endcap.retrieval import screen
from endcap.retrieval.screen import FINE_LEVELS, LIKELY, SAFE_LEVELS, SURE, Screen, item_levels
from endcap.retrieval.selection import Selection


class Saturating:
    """A processor that adds pairs of products up in 16 bits, as those without VNNI do."""

    def __init__(self, matrix: Any) -> None:
        self._matrix = matrix.astype(np.int64)

    def run(self, _outputs: Any, feeds: Any) -> list[Any]:
        products = feeds["query"].astype(np.int64)[:, :, None] * self._matrix
        pairs = (products[:, ::2] + products[:, 1::2]).clip(-(2**15), 2**15 - 1)
        return [(pairs.sum(axis=1) - 128 * self._matrix.sum(axis=0)).astype(np.int32)]


def test_a_block_of_copies_counts_no_row_of_its_own() -> None:
    # The last product is the best: its copies fill half a block and the block behind, and are none of the three best.
    vectors = np.linspace(0.0, 1.0, 32 * 4 + 16, dtype=np.float32)[:, None] * np.ones((1, 8), dtype=np.float32)
    tested = Screen(vectors)
    queries = np.ones((1, 8), dtype=np.float32)
    found = tested.candidates(tested.start(queries), [3], 32, SURE, [None])
    best_of_blocks = [143, 127, 95]
    assert set(best_of_blocks) <= set(found.rows.tolist())
    assert max(found.rows) == 143


def test_a_pass_that_nobody_waits_for_keeps_what_it_writes_to() -> None:
    tested = Screen(np.ones((64, 8), dtype=np.float32), aside=True)
    may_go_on = threading.Event()
    screen._thread().submit(may_go_on.wait, 10)
    started = tested.start(np.ones((2, 8), dtype=np.float32), aside=True)
    product, buffers = started.product, weakref.ref(started.buffers)
    del started
    assert buffers() is not None
    may_go_on.set()
    assert product is not None
    product.result(10)
    screen._thread().submit(bool).result(10)  # the thread has let go of the pass
    assert buffers() is None


@pytest.mark.parametrize("num_items", [31, 3_000, 200_000])
def test_each_query_s_scores_begin_with_a_cache_line(num_items: int) -> None:
    tested = Screen(np.ones((num_items, 2), dtype=np.float32))
    scores = tested.start(np.ones((3, 2), dtype=np.float32)).scores
    assert [row.ctypes.data % 64 for row in scores] == [0, 0, 0]


def test_products_are_rounded_as_finely_as_the_processor_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert item_levels() in (SAFE_LEVELS, FINE_LEVELS)
    item_levels.cache_clear()
    matrices = []
    monkeypatch.setattr(screen, "int8_product_graph", lambda matrix, _zero, _block: matrices.append(matrix))
    monkeypatch.setattr(screen, "_open_session", lambda _model, _num_threads: Saturating(matrices[-1]))
    assert item_levels() == SAFE_LEVELS
    item_levels.cache_clear()


@pytest.mark.parametrize("slack", [LIKELY, SURE])
@pytest.mark.parametrize("dim", [16, 32, 33])
# They end within a block, with one behind which a block of copies stands, with the second part, and one product later.
@pytest.mark.parametrize("num_items", [10_007, 10_016, 10_048, 10_049])
def test_what_is_left_out_scores_no_more_than_the_ceiling(slack: float, dim: int, num_items: int) -> None:
    rng = np.random.default_rng(8)
    vectors = rng.standard_normal((num_items, dim)).astype(np.float32)
    queries = rng.standard_normal((5, dim)).astype(np.float32)
    excluded = [np.arange(b, num_items, 50) if b else None for b in range(5)]
    tested = Screen(vectors)
    found = tested.candidates(tested.start(queries), [20] * 5, 32, slack, excluded)
    parts = np.split(found.rows, np.cumsum(found.lengths)[:-1])
    for query, rows, out, ceiling in zip(queries, parts, excluded, found.ceilings, strict=True):
        assert (np.diff(rows) > 0).all()
        scores = vectors @ query
        scores[rows] = -np.inf
        if out is not None:
            assert not np.isin(out, rows).any()
            scores[out] = -np.inf
        assert scores.max() <= ceiling


@pytest.mark.parametrize("aside", [False, True])
@pytest.mark.parametrize("most_together", [0, screen.MOST_TOGETHER])
def test_within_selections_the_candidates_are_those_of_each_query_alone(
    monkeypatch: pytest.MonkeyPatch, aside: bool, most_together: int
) -> None:
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((5_000, 16)).astype(np.float32)
    queries = rng.standard_normal((4, 16)).astype(np.float32)
    selections = [Selection(rng.random(5_000) < share) for share in (0.1, 0.9, 0.002, 0.3)]
    excluded = [rng.integers(0, 5_000, 200) for _ in range(4)]
    tested = Screen(vectors, aside=True)
    alone = [
        tested.candidates(tested.start(queries[[q]], [selections[q]]), [20], 8, SURE, [excluded[q]]) for q in range(4)
    ]
    monkeypatch.setattr(screen, "MOST_TOGETHER", most_together)
    found = tested.candidates(tested.start(queries, selections, aside=aside), [20] * 4, 8, SURE, excluded)
    for query, rows in enumerate(np.split(found.rows, np.cumsum(found.lengths)[:-1])):
        best = np.setdiff1d(selections[query].rows, excluded[query])
        best = best[np.argsort(-(vectors[best] @ queries[query]))[:20]]
        assert set(best.tolist()) <= set(rows.tolist()) <= set(selections[query].rows.tolist())
        assert set(best.tolist()) <= set(alone[query].rows.tolist())
    assert found.lengths[2] == len(selections[2].rows) < 20
    # A query without a selection beside others with one finds what it finds alone.
    mixed = tested.candidates(
        tested.start(queries, [*selections[:3], None], aside=aside), [20] * 4, 8, SURE, [*excluded[:3], None]
    )
    plain = tested.candidates(tested.start(queries[3:]), [20], 8, SURE, [None])
    assert mixed.rows[-mixed.lengths[3] :].tolist() == plain.rows.tolist()
    assert mixed.ceilings[3:] == plain.ceilings
