"""A sparse matrix in a file in, seconds of implicit's ALS and the objective that it reached out, as JSON."""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import scipy.sparse as sp
from implicit.cpu.als import AlternatingLeastSquares
from threadpoolctl import threadpool_limits


def main(path: str, num_factors: int, l2: float, num_epochs: int, num_threads: int) -> None:
    """Fit once and print what it took; BLAS keeps to one thread, as implicit asks for."""
    weights = sp.csr_matrix(sp.load_npz(path))
    model = AlternatingLeastSquares(
        factors=num_factors, regularization=l2, iterations=num_epochs, num_threads=num_threads, random_state=7
    )
    with threadpool_limits(1):
        start = time.perf_counter()
        model.fit(weights, show_progress=False)
        seconds = time.perf_counter() - start
    np.savez(path + ".factors.npz", users=model.user_factors, items=model.item_factors)
    print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
