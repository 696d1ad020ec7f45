"""A function that scores every product for some users in, rankings out: exact top k, ties in popularity order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endcap.models.own_products import OwnProducts
from endcap.models.popularity import Popularity
from endcap.models.purchases import NO_ITEM, FloatArray, IntArray, Ranked

CELLS_PER_CHUNK = 8_000_000
"""Cells of a dense block of scores."""


def rank_scores(
    score: Callable[[IntArray], NDArray[Any]],
    popularity: Popularity,
    own: OwnProducts,
    user_nums: IntArray,
    k: int,
    *,
    exclude_seen: bool,
) -> Ranked:
    """The `k` best products for each user; with `exclude_seen`, none that the user bought before.

    `score` gives `[num_users, num_items]` for some users, a block that may be written to, with the products in the
    order of `popularity`: so that of equal scores the most popular product comes first.
    """
    own.check(user_nums, k)
    num_items = len(popularity.order)
    item_nums = np.full((len(user_nums), k), NO_ITEM, dtype=np.int64)
    scores = np.full((len(user_nums), k), -np.inf)
    width = min(k, num_items)
    rows_per_chunk = max(1, CELLS_PER_CHUNK // num_items)
    for start in range(0, len(user_nums), rows_per_chunk):
        chunk = user_nums[start : start + rows_per_chunk]
        chunk_scores = score(chunk)
        if exclude_seen:
            row, _, index = own.rows(chunk)
            chunk_scores[row, popularity.places[own.item_nums[index]]] = -np.inf
        places, best = top_leftmost(chunk_scores, width)
        stop = start + len(chunk)
        scores[start:stop, :width] = best
        item_nums[start:stop, :width] = np.where(np.isneginf(best), NO_ITEM, popularity.order[places])
    return Ranked(item_nums, scores)


def top_leftmost(scores: NDArray[Any], k: int) -> tuple[IntArray, FloatArray]:
    """Columns and scores of the `k` highest of each row, highest first; of equal ones the leftmost."""
    num_rows, num_columns = scores.shape
    kth = np.partition(scores, num_columns - k, axis=1)[:, num_columns - k, None]
    chosen = scores >= kth
    # Only where more than k columns reach the k-th score is there a tie to break; few rows need these wide passes.
    tied = np.flatnonzero(np.count_nonzero(chosen, axis=1) > k)
    above = scores[tied] > kth[tied]
    level = chosen[tied] & ~above
    room = k - np.count_nonzero(above, axis=1)[:, None]
    chosen[tied] = above | (level & (np.cumsum(level, axis=1) <= room))
    columns = np.nonzero(chosen)[1].reshape(num_rows, k)
    best = np.take_along_axis(scores, columns, axis=1)
    order = np.argsort(-best, axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1), np.take_along_axis(best, order, axis=1).astype(np.float64)
