"""A release's exported files and the test period in, each customer's AUC over the whole catalog out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from endcap.evaluation.customers import Counting, HeldOutCustomers
from endcap.flows.scoring import CHUNK, ExportedModel
from endcap.training.auc import auc_of

_CELLS = 1 << 24


def aucs_on_test(
    model: ExportedModel, questions: pa.Table, customers: HeldOutCustomers
) -> dict[Counting, npt.NDArray[np.float64]]:
    """By counting, in the order of `customers`, which `questions` have too; a product's number is its row in the index."""
    num_rows = max(1, min(CHUNK, _CELLS // model.index.num_items))
    fresh = customers.relevant(Counting.NEW_TO_CUSTOMER)
    parts: dict[Counting, list[npt.NDArray[np.float64]]] = {counting: [] for counting in Counting}
    for start in range(0, questions.num_rows, num_rows):
        part = slice(start, min(start + num_rows, questions.num_rows))
        score_BN = torch.from_numpy(model.scores(model.prepare(questions.slice(start, num_rows))))
        parts[Counting.ALL_PURCHASES].append(auc_of(score_BN, customers.bought.between(part)))
        earlier = customers.earlier.between(part)
        is_ranked = earlier.values < model.index.num_items
        score_BN[earlier.rows[is_ranked], earlier.values[is_ranked]] = -torch.inf
        parts[Counting.NEW_TO_CUSTOMER].append(auc_of(score_BN, fresh.between(part)))
    return {counting: np.concatenate([np.zeros(0), *found]) for counting, found in parts.items()}
