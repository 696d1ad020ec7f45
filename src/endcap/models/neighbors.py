"""What users met together in, each product's strongest neighbors out: sparse links that no narrow map could carry.

Links of a large catalog that few users share are of high rank: each says something of a handful of products alone. So they
are kept as they are counted, and added to the scores of a history's neighbors (item-based nearest neighbors by session, as in
Ludewig and Jannach, UMUAI 2018).
"""

# Shape suffixes: A = acts, N = products, K = neighbors of a product

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from endcap.contracts.events import SESSION_GAP_MINUTES
from endcap.models.item_knn import number_sessions
from endcap.models.item_scores import CELLS_PER_CHUNK

_CROWD = 0.25  # a session of n products says less of each pair: (n - 1) to the minus this
_LEAD = 0.5  # exponent of how many sessions the product itself is in
_MINUTES_PER_DAY = 24 * 60

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class NeighborTables:
    """The neighbors of each product by falling weight, `[N, K]`: numbers of products, -1 behind the last, and weights, 0 there."""

    items_NK: NDArray[np.int32]
    weights_NK: NDArray[np.float32]


def count_neighbors(
    user_nums: IntArray,
    item_nums: IntArray,
    ts_us: IntArray,
    num_items: int,
    num_neighbors: int,
    popularity: float = 0.1,
    shrink: float = 3.0,
) -> NeighborTables:
    """Count acts by session; of equal weights the lower number is nearer.

    The weight from product i to j is c / (n_i^0.5 n_j^popularity) · c / (c + shrink): c are the sessions with both, each of
    m products counted (m - 1)^-0.25, and n_i all sessions with i.
    """
    tables = NeighborTables(
        np.full((num_items, num_neighbors), -1, np.int32), np.zeros((num_items, num_neighbors), np.float32)
    )
    if not len(item_nums):
        return tables
    sessions_A = number_sessions(user_nums, ts_us, SESSION_GAP_MINUTES / _MINUTES_PER_DAY)
    met = sp.csr_array((np.ones(len(item_nums)), (sessions_A, item_nums)), shape=(int(sessions_A.max()) + 1, num_items))
    met.sum_duplicates()
    met.data[:] = 1.0
    lengths = np.diff(met.indptr)
    thinned = met.copy()
    thinned.data = np.repeat(np.maximum(lengths - 1.0, 1.0) ** -_CROWD, lengths)
    num_sessions_N = np.maximum(np.bincount(met.indices, minlength=num_items), 1).astype(np.float64)
    by_item = sp.csr_array(met.T)
    rows_per_chunk = max(1, CELLS_PER_CHUNK // num_items)
    for start in range(0, num_items, rows_per_chunk):
        together = sp.csr_array(by_item[start : start + rows_per_chunk] @ thinned)
        rows, columns = np.repeat(np.arange(together.shape[0]), np.diff(together.indptr)), together.indices
        apart = rows + start != columns
        rows, columns, counts = rows[apart] + start, columns[apart], together.data[apart]
        weights = counts / (num_sessions_N[rows] ** _LEAD * num_sessions_N[columns] ** popularity)
        weights *= counts / (counts + shrink)
        order = np.lexsort((columns, -weights, rows))
        rows, columns, weights = rows[order], columns[order], weights[order]
        ranks = np.arange(len(rows)) - np.searchsorted(rows, rows)
        near = ranks < num_neighbors
        tables.items_NK[rows[near], ranks[near]] = columns[near]
        tables.weights_NK[rows[near], ranks[near]] = weights[near]
    return tables
