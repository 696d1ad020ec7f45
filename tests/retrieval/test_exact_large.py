"""Recall is 1.0 against every float32 score of a large catalog: alone, within a filter, less exclusions, with boosts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from endcap.retrieval.exact import Boosts, ExactIndex
from endcap.retrieval.selection import Selection

K = 100


def check_recall(num_items: int, dim: int, num_queries: int) -> None:
    """Each query is asked in five ways; all must find what sorting all of its scores finds, in that order."""
    rng = np.random.default_rng(21)
    vectors = rng.standard_normal((num_items, dim), dtype=np.float32)
    # Popular products are longer, as trained ones are.
    vectors *= rng.lognormal(0, 0.3, (num_items, 1)).astype(np.float32)
    category = rng.integers(0, 20, num_items)
    categories = [Selection(category == number) for number in range(20)]
    queries = rng.standard_normal((num_queries, dim), dtype=np.float32)
    seen = [rng.choice(num_items, 200, replace=False) for _ in range(num_queries)]
    index = ExactIndex(vectors, np.arange(num_items))
    found: dict[str, list[Any]] = {}
    within = [categories[number % 20] for number in range(num_queries)]
    scores = [np.einsum("nd,d->n", vectors, query) for query in queries]
    # Those seen before are among the best: leaving them out must make room for others.
    seen = [np.concatenate([rows[:150], np.argsort(-scores[i])[:50]]) for i, rows in enumerate(seen)]
    boosts = [Boosts(np.unique(rows[:20]), np.full(len(np.unique(rows[:20])), 3, np.float32)) for rows in seen]
    ks = [K] * num_queries
    found["plain"] = index.search(queries, ks)
    found["excluded"] = index.search(queries, ks, exclude_rows=seen)
    found["within"] = index.search(queries, ks, selections=within)
    found["both"] = index.search(queries, ks, exclude_rows=seen, selections=within)
    found["boosted"] = index.search(queries, ks, boosts, [rows[100:] for rows in seen], within)
    num_right = dict.fromkeys(found, 0)
    for i in range(num_queries):
        boosted = scores[i].copy()
        boosted[boosts[i].rows] += boosts[i].values
        for name, hits in found.items():
            expected = (boosted if name == "boosted" else scores[i]).copy()
            if name not in ("plain", "excluded"):
                expected[~within[i].mask] = -np.inf
            if name in ("excluded", "both"):
                expected[seen[i]] = -np.inf
            elif name == "boosted":
                expected[seen[i][100:]] = -np.inf
            rows = best_of(expected)
            num_right[name] += int(np.isin(hits[i].rows, rows).sum())
            assert hits[i].rows.tolist() == rows.tolist(), name
            np.testing.assert_array_equal(hits[i].scores, expected[rows])
    assert {name: num / (K * num_queries) for name, num in num_right.items()} == dict.fromkeys(found, 1.0)


def best_of(scores: Any) -> Any:
    """Rows of the K best, ties by row: a sort of those that reach the K-th best alone."""
    reached = np.flatnonzero(scores >= np.partition(scores, len(scores) - K)[len(scores) - K])
    return reached[np.lexsort((reached, -scores[reached]))][:K]


def test_recall_is_one_at_a_hundred_thousand() -> None:
    check_recall(100_000, 32, 16)


@pytest.mark.slow
def test_recall_is_one_at_a_million() -> None:
    check_recall(1_000_000, 64, 64)
