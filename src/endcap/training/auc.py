"""Scores of every product and what was bought in, the share of rightly ordered pairs out, question by question.

Legend: B questions, N products, R products that were bought.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from endcap.evaluation.metrics import RaggedSets

FloatArray = npt.NDArray[np.float64]

_CELLS = 1 << 22  # scores at once, and once more in order


def auc_of(score_BN: Tensor, bought: RaggedSets) -> FloatArray:
    """The AUC of each question over all products whose score isn't -inf: equal scores count half.

    Row `b` of `bought` holds columns of `score_BN`; those beyond its last column are products that can't be ranked and
    stand below every other. 0.5 where every ranked product was bought, NaN where nothing was.
    """
    num_rows = max(1, _CELLS // max(score_BN.shape[1], 1))
    parts = [slice(start, min(start + num_rows, len(score_BN))) for start in range(0, len(score_BN), num_rows)]
    return np.concatenate([np.zeros(0), *(_auc_of(score_BN[part], bought.between(part)) for part in parts)])


def _auc_of(score_BN: Tensor, bought: RaggedSets) -> FloatArray:
    num_columns = score_BN.shape[1]
    is_ranked = bought.values < num_columns
    rows, columns = bought.rows[is_ranked], bought.values[is_ranked]
    counts = bought.num_below(num_columns)
    nth = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    row_P, column_P, nth_P = (torch.from_numpy(one).to(score_BN.device) for one in (rows, columns, nth))
    bought_BR = score_BN.new_zeros(len(score_BN), int(counts.max(initial=0)))
    bought_BR[row_P, nth_P] = score_BN[row_P, column_P]
    rising_BN = _rising(score_BN)
    # Twice how many products each one stands above: an equal one, itself too, counts once.
    above_BR = torch.searchsorted(rising_BN, bought_BR) + torch.searchsorted(rising_BN, bought_BR, right=True)
    num_above = np.bincount(rows, above_BR[row_P, nth_P].cpu().numpy(), len(score_BN)) / 2
    num_out = torch.isneginf(score_BN).sum(1).cpu().numpy()
    # Those that were bought stand above each other in half of their pairs, itself included, whatever the order.
    num_right = num_above - counts * num_out - counts**2 / 2
    num_pairs = bought.lengths * (num_columns - num_out - counts)
    found = np.where(num_pairs > 0, num_right / np.maximum(num_pairs, 1), 0.5)
    return np.where(bought.lengths > 0, found, np.nan)


def _rising(score_BN: Tensor) -> Tensor:
    if score_BN.device.type != "cpu":
        return score_BN.sort(dim=1).values
    return torch.from_numpy(np.sort(score_BN.numpy(), axis=1))  # a tenth of the time that torch takes there
