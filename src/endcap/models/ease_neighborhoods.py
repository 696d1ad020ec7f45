"""Who bought what in, a sparse map from own products to all products out: EASE where its matrix is too large.

Each product's ridge regression is restricted to the products that it was bought with most alike, as in Steck, "Markov
Random Fields for Collaborative Filtering" (NeurIPS 2019), with a neighborhood solved anew for each product.
"""

# Shape suffixes: B = a batch of products, N = neighbors

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from endcap.models.item_scores import CELLS_PER_CHUNK, top_leftmost

_SOLVES_PER_BATCH = 64


def solve_neighborhoods(bought: sp.csr_array, l2: float, num_neighbors: int) -> sp.csr_array:
    """`[num_items, num_items]`: column j holds the weights that predict product j from its neighbors, never from itself.

    Neighbors are those with the highest cosine over users, of equal ones the leftmost; a product that shares no user with
    another has none. Raises nothing: with `l2` above 0 every system has a solution.
    """
    num_items = bought.shape[1]
    gram = sp.csr_array(bought.T @ bought)
    gram.sort_indices()
    neighbors = _neighbors(gram, num_neighbors)
    # One sorted list of cells: any block of the matrix is then a search in it.
    cells = np.repeat(np.arange(num_items, dtype=np.int64), np.diff(gram.indptr)) * num_items + gram.indices
    rows, columns, values = [], [], []
    for start in range(0, num_items, _SOLVES_PER_BATCH):
        items = np.arange(start, min(start + _SOLVES_PER_BATCH, num_items))
        near_BN = neighbors[items]
        is_there_BN = near_BN >= 0
        block_BNN = _look_up(cells, gram.data, near_BN[:, :, None] * num_items + near_BN[:, None, :])
        block_BNN[~(is_there_BN[:, :, None] & is_there_BN[:, None, :])] = 0.0
        places = np.arange(near_BN.shape[1])
        block_BNN[:, places, places] += l2
        target_BN = _look_up(cells, gram.data, near_BN * num_items + items[:, None])
        target_BN[~is_there_BN] = 0.0
        solved_BN = np.linalg.solve(block_BNN, target_BN[:, :, None])[:, :, 0]
        rows.append(near_BN[is_there_BN])
        columns.append(np.broadcast_to(items[:, None], near_BN.shape)[is_there_BN])
        values.append(solved_BN[is_there_BN])
    pairs = (np.concatenate(rows), np.concatenate(columns))
    return sp.csr_array((np.concatenate(values), pairs), shape=(num_items, num_items))


def _neighbors(gram: sp.csr_array, num_neighbors: int) -> NDArray[np.int64]:
    """`[num_items, n]`: each product's nearest others by cosine, padded with -1."""
    num_items = gram.shape[0]
    width = min(num_neighbors, max(num_items - 1, 1))
    norms = np.sqrt(np.maximum(gram.diagonal(), 1.0))
    found = np.full((num_items, width), -1, dtype=np.int64)
    step = max(1, CELLS_PER_CHUNK // num_items)
    for start in range(0, num_items, step):
        items = np.arange(start, min(start + step, num_items))
        cosine = gram[items].toarray() / (norms[items, None] * norms[None, :])
        cosine[np.arange(len(items)), items] = 0.0
        places, best = top_leftmost(cosine, width)
        found[items] = np.where(best > 0, places, -1)
    return found


def _look_up(cells: NDArray[np.int64], values: NDArray[np.float64], wanted: NDArray[np.int64]) -> NDArray[np.float64]:
    """Values of the wanted cells, 0 where there is none."""
    places = np.minimum(np.searchsorted(cells, wanted), len(cells) - 1)
    return np.where(cells[places] == wanted, values[places], 0.0)
