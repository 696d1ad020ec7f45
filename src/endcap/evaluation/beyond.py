"""Rankings, the catalog and what was popular before in, what they are beyond being right out: wide, diverse, novel.

Rankings are `[num_customers, depth]`, best first, padded with -1; products are numbered as the catalog is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from endcap.contracts.errors import InputError
from endcap.evaluation.metrics import NO_ITEM, RaggedSets, RankingArray

_ROWS_PER_CHUNK = 4096

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


def gini(counts: IntArray) -> float:
    """How unevenly `counts`, one per product of the catalog, are shared: 0 evenly, towards 1 a few products alone.

    Raises InputError when all are 0.
    """
    ordered = np.sort(counts).astype(np.float64)
    if not ordered.sum():
        raise InputError("No ranking names a product; there is nothing to share.")
    num_items = len(ordered)
    ranks = np.arange(1, num_items + 1)
    return float((2 * ranks - num_items - 1) @ ordered / (num_items * ordered.sum()))


def popularity_of(had: RaggedSets, num_items: int) -> FloatArray:
    """Each product's share of the customers who had it; one row of `had` per customer."""
    return np.asarray(np.bincount(had.values, minlength=num_items) / (len(had.offsets) - 1), dtype=np.float64)


def mean_over_list(rankings: RankingArray, values: FloatArray, k: int) -> FloatArray:
    """Each customer's mean of `values[product]` over the first `k` places that hold a product; NaN for an empty list."""
    shown = rankings[:, :k]
    held = shown != NO_ITEM
    total = np.where(held, values[shown], 0.0).sum(axis=1)
    counts = held.sum(axis=1)
    means = np.divide(total, counts, out=np.full(len(shown), np.nan), where=counts > 0)
    return np.asarray(means, dtype=np.float64)


def novelty_at(rankings: RankingArray, popularity: FloatArray, num_customers: int, k: int) -> FloatArray:
    """Mean self-information of the first `k` products: -log2 of the share of customers who had each (Zhou et al., 2010).

    A product that nobody had counts as had by one.
    """
    information = -np.log2(np.maximum(popularity, 1 / num_customers))
    return mean_over_list(rankings, information, k)


def diversity_by_category_at(rankings: RankingArray, categories: IntArray, k: int) -> FloatArray:
    """Share of the pairs among the first `k` products that are of different categories; NaN with fewer than two products.

    `categories` numbers each product's category from 0; -1 is unknown and like no other.
    """
    shown = rankings[:, :k]
    held = shown != NO_ITEM
    places = np.arange(shown.shape[1], dtype=np.int64)
    # A place without a product, or with one of unknown category, gets a number of its own.
    found = np.where(held, categories[shown], -1)
    found = np.sort(np.where(found >= 0, found, -1 - places), axis=1)
    same = found[:, 1:] == found[:, :-1]
    run = np.zeros(len(shown), dtype=np.int64)
    num_same = np.zeros(len(shown), dtype=np.int64)
    for column in same.T:  # the second of a run makes one pair, the third two more, …
        run = np.where(column, run + 1, 0)
        num_same += run
    return _share_of_pairs(held.sum(axis=1), num_same.astype(np.float64))


def diversity_by_vectors_at(rankings: RankingArray, vectors: FloatArray, k: int) -> FloatArray:
    """Mean of 1 - cosine over the pairs among the first `k` products; NaN with fewer than two products.

    `vectors` is `[num_items, dim]`; a vector of length 0 has cosine 0 with every other.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, lengths, out=np.zeros(vectors.shape), where=lengths > 0)
    shown = rankings[:, :k]
    held = shown != NO_ITEM
    similar = np.empty(len(shown))
    for start in range(0, len(shown), _ROWS_PER_CHUNK):
        part = slice(start, start + _ROWS_PER_CHUNK)
        taken = np.where(held[part][:, :, None], unit[shown[part]], 0.0)
        # The square of a sum holds each pair twice and each product with itself once.
        similar[part] = ((taken.sum(axis=1) ** 2).sum(axis=1) - (taken**2).sum(axis=(1, 2))) / 2
    return _share_of_pairs(held.sum(axis=1), similar)


def _share_of_pairs(num_held: IntArray, num_same: FloatArray) -> FloatArray:
    num_pairs = num_held * (num_held - 1) / 2
    shares = np.divide(num_same, num_pairs, out=np.full(len(num_held), np.nan), where=num_pairs > 0)
    return np.asarray(1 - shares, dtype=np.float64)
