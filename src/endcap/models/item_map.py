"""Who bought what in, EASE's map from own products to all products as two narrow tables out.

The map (Steck, WWW 2019) is a matrix of products by products. Of its predictions for the users at hand the leading
singular directions are kept (Halko, Martinsson and Tropp, SIAM Review 2011), so that it takes part in an inner product.
"""

# Shape suffixes: U = users, N = products, R = width of the map, S = R and some more for accuracy

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from endcap.models.ease import MAX_EXACT, solve_weights

_EXTRA = 16
_NUM_ROUNDS = 5
_LEAST = 1e-5  # of the largest singular value: what is below is rounding

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class MapTables:
    """What each product adds to a query vector as part of a history, and where it lies itself as a candidate; `[N, R]`.

    Sums of `leads` times `candidates` are EASE's scores times `sqrt(N)`; the columns of `candidates` have length `sqrt(N)`
    and are orthogonal, so that over all products scores spread as far as the query vector is long.
    """

    leads_NR: FloatArray
    candidates_NR: FloatArray


def solve_map(bought_UN: sp.csr_array, dim: int, l2: float, max_exact: int = MAX_EXACT) -> MapTables:
    """The map of what was bought (1 where a user bought a product) in `dim` directions; those that it lacks are zero.

    Of more than `max_exact` products each is predicted from its 100 nearest alone, as the baseline EASE is there. Raises InputError when the weights have no solution in single precision.
    """
    weights_NN = solve_weights(bought_UN, l2, max_exact=max_exact)
    bought_UN = bought_UN.astype(np.float32)
    num_items = bought_UN.shape[1]
    width = min(dim + _EXTRA, num_items)
    start_NS = np.random.default_rng(0).standard_normal((num_items, width)).astype(np.float32)
    basis_NS = np.linalg.qr(start_NS)[0]
    for _ in range(_NUM_ROUNDS):
        predicted_US = bought_UN @ (weights_NN @ basis_NS)
        basis_NS = np.linalg.qr(weights_NN.T @ (bought_UN.T @ predicted_US))[0]
    _, sizes_S, turns_SS = np.linalg.svd(bought_UN @ (weights_NN @ basis_NS), full_matrices=False)
    kept = min(dim, int(np.count_nonzero(sizes_S > _LEAST * max(float(sizes_S.max(initial=0.0)), _LEAST))))
    directions_NR = np.zeros((num_items, dim), np.float32)
    directions_NR[:, :kept] = basis_NS @ turns_SS[:kept].T
    leads_NR = np.asarray(weights_NN @ directions_NR, dtype=np.float32)
    return MapTables(leads_NR, directions_NR * np.float32(np.sqrt(num_items)))
