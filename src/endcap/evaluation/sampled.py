"""Scores of products that were bought and of sampled others in, sampled metrics out, which no other name may carry.

Ranking a product among a sample flatters every model, and not evenly: the order of models may differ from the one
against all products (Krichene and Rendle, 2020). They serve to compare with published numbers, never to judge.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from endcap.contracts.errors import InputError

FloatArray = NDArray[np.float64]


def measure_sampled(
    positive_scores: FloatArray, negative_scores: FloatArray, ks: Sequence[int] = (10,)
) -> dict[str, FloatArray]:
    """`sampled_hit_rate@k`, `sampled_ndcg@k` and `sampled_mrr` of each bought product.

    `positive_scores` is `[num_products]`, `negative_scores` the scores of each one's own sample
    `[num_products, num_samples]`. A product stands behind every sampled one with an equal score. Raises InputError when
    the shapes don't fit or a score is not finite.
    """
    if negative_scores.ndim != 2 or len(negative_scores) != len(positive_scores) or not negative_scores.shape[1]:
        raise InputError(
            f"{len(positive_scores)} scores with samples of shape {negative_scores.shape}; "
            "expected one row of at least one sampled product for each."
        )
    if not (np.isfinite(positive_scores).all() and np.isfinite(negative_scores).all()):
        raise InputError("Scores are not all finite; hand over a number for each product.")
    ranks = 1 + (negative_scores >= positive_scores[:, None]).sum(axis=1)
    measured: dict[str, FloatArray] = {}
    for k in ks:
        inside = ranks <= k
        measured[f"sampled_hit_rate@{k}"] = inside.astype(np.float64)
        measured[f"sampled_ndcg@{k}"] = np.where(inside, 1 / np.log2(ranks + 1), 0.0)
    measured["sampled_mrr"] = 1 / ranks
    return measured
