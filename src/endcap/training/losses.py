"""Scores of a batch in, its loss out.

Legend: B questions, E entries of their histories, T targets over all questions, S shared negatives, N products.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_LOWEST = -1e30  # stands for a question without any candidate


@dataclass(frozen=True)
class Negatives:
    """Products drawn for a step, rising, without repeats, and the log of the chance that each was drawn."""

    item_S: Tensor
    log_chance_S: Tensor


class NegativeSampler:
    """Draws products in proportion to popularity^0.75, as word2vec does (Mikolov et al., 2013)."""

    def __init__(self, num_targets_N: Tensor, num_negatives: int, generator: torch.Generator) -> None:
        """`num_targets_N` counts how often each product is a target; index 0, the unknown product, is never drawn."""
        chance = num_targets_N.double().pow(0.75)
        chance[0] = 0.0
        self._chance_N = chance / chance.sum()
        self._num_negatives = num_negatives
        self._generator = generator
        # The chance to be among the drawn at all: draws are with replacement, repeats are dropped.
        drawn = -torch.expm1(num_negatives * torch.log1p(-self._chance_N.clamp(max=1 - 1e-12)))
        self._log_chance_N = torch.log(drawn.clamp(min=1e-9)).float()

    def draw(self) -> Negatives:
        """Negatives for one step."""
        drawn = torch.multinomial(self._chance_N, self._num_negatives, replacement=True, generator=self._generator)
        item_S = torch.unique(drawn)
        return Negatives(item_S, self._log_chance_N[item_S])


@dataclass(frozen=True)
class Targets:
    """What was bought: item and question of each target, [T]; weight of each question, [B]."""

    item_T: Tensor
    question_T: Tensor
    weight_B: Tensor


@dataclass(frozen=True)
class Scored:
    """What the model says of a batch: query and item vectors; for the entries of histories, their whole score."""

    query_BD: Tensor
    vector_ND: Tensor
    item_E: Tensor
    question_E: Tensor
    score_E: Tensor


def sampled_softmax(scored: Scored, targets: Targets, negatives: Negatives) -> Tensor:
    """Softmax cross-entropy of each target against the question's history, its targets and the drawn negatives.

    Negatives are corrected by -log of their chance of being drawn (Yi et al., RecSys 2019), so that popular products
    aren't punished for being drawn often. Products of the history and targets take part exactly, uncorrected; where a
    negative is one of them it is left out, and a target that is in the history is scored once, as part of it.
    """
    num_questions, num_items = len(scored.query_BD), len(scored.vector_ND)
    known_E = scored.item_E > 0
    key_E = scored.question_E * num_items + scored.item_E
    key_T = targets.question_T * num_items + targets.item_T
    bought_E = torch.isin(key_E, key_T) & known_E
    fresh_T = ~torch.isin(key_T, key_E)
    question_T, item_T = targets.question_T[fresh_T], targets.item_T[fresh_T]

    vector_S = torch.nn.functional.embedding(negatives.item_S, scored.vector_ND)
    logit_BS = scored.query_BD @ vector_S.T - negatives.log_chance_S
    taken_BS = torch.zeros_like(logit_BS, dtype=torch.bool)
    _mark(taken_BS, negatives.item_S, scored.question_E[known_E], scored.item_E[known_E])
    _mark(taken_BS, negatives.item_S, question_T, item_T)
    logit_BS = logit_BS.masked_fill(taken_BS, -torch.inf)

    target_T = torch.nn.functional.embedding(item_T, scored.vector_ND)
    logit_T = (torch.nn.functional.embedding(question_T, scored.query_BD) * target_T).sum(1)
    logit_E = scored.score_E

    # The highest of all candidates, so that no exponent is above 0 and the sum is never below 1.
    shift_B = logit_BS.detach().amax(1)
    shift_B = shift_B.scatter_reduce(0, scored.question_E[known_E], logit_E.detach()[known_E], "amax")
    shift_B = shift_B.scatter_reduce(0, question_T, logit_T.detach(), "amax").clamp(min=_LOWEST)
    sum_B = torch.exp(logit_BS - shift_B.unsqueeze(1)).sum(1)
    exponent_E = torch.where(known_E, logit_E - shift_B[scored.question_E], -torch.inf)
    sum_B = sum_B.index_add(0, scored.question_E, torch.exp(exponent_E))
    sum_B = sum_B.index_add(0, question_T, torch.exp(logit_T - shift_B[question_T]))
    log_sum_B = torch.log(sum_B) + shift_B

    num_targets_B = torch.bincount(targets.question_T, minlength=num_questions).to(log_sum_B.dtype)
    won_B = logit_T.new_zeros(num_questions).index_add(0, question_T, logit_T)
    won_B = won_B.index_add(0, scored.question_E, logit_E * bought_E)
    return ((num_targets_B * log_sum_B - won_B) * targets.weight_B).sum() / num_questions


def _mark(taken_BS: Tensor, item_S: Tensor, question: Tensor, item: Tensor) -> None:
    """Set the cells of (question, item) pairs that are among the rising `item_S`."""
    place = torch.searchsorted(item_S, item).clamp(max=len(item_S) - 1)
    found = item_S[place] == item
    taken_BS[question[found], place[found]] = True
