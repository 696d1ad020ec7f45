"""Query vectors and drawn products in, the log of the sum of their exponentiated scores out, with its gradient.

Legend: B questions, S drawn products, D vector width, C cells of the score matrix that don't count.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_LEAST_SUM = 1e-30  # a question for which nothing counts has the sum 0


class _LogSum(torch.autograd.Function):
    """One matrix of scores, worked on in place: written out, each step of it would be another matrix to fill and to keep."""

    @staticmethod
    def forward(
        ctx: Any, query_BD: Tensor, vector_SD: Tensor, bias_S: Tensor, row_C: Tensor, place_C: Tensor
    ) -> Tensor:
        score_BS = torch.addmm(bias_S, query_BD, vector_SD.T)
        score_BS[row_C, place_C] = -torch.inf
        shift_B = score_BS.amax(1).clamp(min=torch.finfo(score_BS.dtype).min)
        weight_BS = score_BS.sub_(shift_B.unsqueeze(1)).exp_()
        sum_B = weight_BS.sum(1)
        ctx.save_for_backward(query_BD, vector_SD, weight_BS, sum_B)
        return shift_B + torch.log(sum_B)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_B: Tensor) -> tuple[Tensor | None, ...]:
        query_BD, vector_SD, weight_BS, sum_B = ctx.saved_tensors
        share_B1 = (grad_B / sum_B.clamp(min=_LEAST_SUM)).unsqueeze(1)
        return (weight_BS @ vector_SD) * share_B1, weight_BS.T @ (query_BD * share_B1), None, None, None


def log_sum_of_scores(query_BD: Tensor, vector_SD: Tensor, bias_S: Tensor, row_C: Tensor, place_C: Tensor) -> Tensor:
    """Log of the sum over S of exp(query · vector + bias), [B]; -inf where no cell counts.

    `row_C` and `place_C` name cells that don't count, repeats allowed. No gradient flows to the bias.
    """
    result: Tensor = _LogSum.apply(query_BD, vector_SD, bias_S, row_C, place_C)  # type: ignore[no-untyped-call]
    return result
