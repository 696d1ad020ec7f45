"""Scores of a batch in, its loss out.

Legend: B questions, E entries of their histories, T targets over all questions, S shared negatives, N products.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

import torch
from torch import Tensor

from endcap.training.log_sums import log_sum_of_scores

NegativeKind = Literal["popularity", "uniform", "in_batch", "mixed"]

_LOWEST = -1e30  # stands for a question without any candidate
_LEAST_SUM = 1e-30


@dataclass(frozen=True)
class Negatives:
    """Products drawn for a step, rising, without repeats, and the log of the chance that each was drawn."""

    item_S: Tensor
    log_chance_S: Tensor
    num_hard: int = 0
    """How many of them each question meets: those that the model scores highest for it; 0: all."""

    @property
    def has_easy(self) -> bool:
        """Whether questions meet some of them only."""
        return 0 < self.num_hard < len(self.item_S)

    def on(self, device: torch.device) -> Negatives:
        """The same on another device."""
        return replace(self, item_S=self.item_S.to(device), log_chance_S=self.log_chance_S.to(device))


class NegativeSampler:
    """Draws products for a step, and knows how likely each was to be among them."""

    def __init__(
        self,
        num_targets_N: Tensor,
        num_negatives: int,
        generator: torch.Generator,
        kind: NegativeKind = "popularity",
        num_hard: int = 0,
    ) -> None:
        """`num_targets_N` counts how often each product is a target; index 0, the unknown product, is never drawn.

        `popularity` draws in proportion to count^0.75, as word2vec does (Mikolov et al., 2013), `uniform` every product
        alike, `in_batch` takes what the step's other questions bought, `mixed` those and uniform ones beside them (Yang
        et al., WWW 2020). `num_hard` of them are kept for each question (dynamic negative sampling, Zhang et al., SIGIR
        2013).
        """
        share = num_targets_N.double().clone()
        share[0] = 0.0
        weights = share.pow(0.75) if kind == "popularity" else torch.ones_like(share)
        weights[0] = 0.0
        self._kind, self._num_hard = kind, num_hard
        self._num_drawn = 0 if kind == "in_batch" else num_negatives
        self._chance_N = weights / weights.sum()
        self._share_N = share / share.sum().clamp(min=1.0)
        self._generator = generator
        # The chance to be among the drawn at all: draws are with replacement, repeats are dropped.
        self._log_missed_N = self._num_drawn * torch.log1p(-self._chance_N.clamp(max=1 - 1e-12))
        self._log_unbought_N = torch.log1p(-self._share_N.clamp(max=1 - 1e-12))

    def draw(self, bought_T: Tensor) -> Negatives:
        """Negatives for one step, whose questions bought `bought_T`."""
        parts = []
        if self._num_drawn:
            parts.append(
                torch.multinomial(self._chance_N, self._num_drawn, replacement=True, generator=self._generator)
            )
        log_missed_N = self._log_missed_N
        if self._kind in ("in_batch", "mixed"):
            parts.append(bought_T)
            log_missed_N = log_missed_N + len(bought_T) * self._log_unbought_N
        item_S = torch.unique(torch.cat(parts))
        chance_S = -torch.expm1(log_missed_N[item_S])
        return Negatives(item_S, torch.log(chance_S.clamp(min=1e-9)).float(), self._num_hard)


@dataclass(frozen=True)
class Targets:
    """What was bought: item and question of each target, [T]; weight of each question, [B]."""

    item_T: Tensor
    question_T: Tensor
    weight_B: Tensor
    num_all: int | None = None
    """Questions of the step in all processes together; without, all are here."""

    @property
    def num_questions(self) -> int:
        """What a sum over questions is divided by."""
        return len(self.weight_B) if self.num_all is None else self.num_all

    def on(self, device: torch.device) -> Targets:
        """The same on another device."""
        return replace(
            self,
            item_T=self.item_T.to(device),
            question_T=self.question_T.to(device),
            weight_B=self.weight_B.to(device),
        )


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
    bought_E, _ = _bought(scored, targets)
    key_T = targets.question_T * num_items + targets.item_T
    fresh_T = ~torch.isin(key_T, scored.question_E * num_items + scored.item_E)
    question_T, item_T = targets.question_T[fresh_T], targets.item_T[fresh_T]

    drawn_B = _log_sum_of_drawn(scored, targets, negatives)
    target_T = torch.nn.functional.embedding(item_T, scored.vector_ND)
    logit_T = (torch.nn.functional.embedding(question_T, scored.query_BD) * target_T).sum(1)
    logit_E = scored.score_E

    # The highest of all, so that no exponent is above 0 and the sum is never below 1.
    shift_B = drawn_B.detach()
    shift_B = shift_B.scatter_reduce(0, scored.question_E[known_E], logit_E.detach()[known_E], "amax")
    shift_B = shift_B.scatter_reduce(0, question_T, logit_T.detach(), "amax").clamp(min=_LOWEST)
    sum_B = torch.exp(drawn_B - shift_B)
    exponent_E = torch.where(known_E, logit_E - shift_B[scored.question_E], -torch.inf)
    sum_B = sum_B.index_add(0, scored.question_E, torch.exp(exponent_E))
    sum_B = sum_B.index_add(0, question_T, torch.exp(logit_T - shift_B[question_T]))
    log_sum_B = torch.log(sum_B) + shift_B

    num_targets_B = torch.bincount(targets.question_T, minlength=num_questions).to(log_sum_B.dtype)
    won_B = logit_T.new_zeros(num_questions).index_add(0, question_T, logit_T)
    won_B = won_B.index_add(0, scored.question_E, logit_E * bought_E)
    return ((num_targets_B * log_sum_B - won_B) * targets.weight_B).sum() / targets.num_questions


def _log_sum_of_drawn(scored: Scored, targets: Targets, negatives: Negatives) -> Tensor:
    """Log of the sum over the drawn products that count of exp(score - log chance), [B]; very low where none counts."""
    if negatives.has_easy:
        logit_BS, free_BS = _negative_logits(scored, targets, negatives)
        logit_BS = (logit_BS - negatives.log_chance_S).masked_fill(~free_BS, -torch.inf)
        shift_B = logit_BS.detach().amax(1).clamp(min=_LOWEST)
        return shift_B + torch.log(torch.exp(logit_BS - shift_B.unsqueeze(1)).sum(1).clamp(min=_LEAST_SUM))
    vector_SD = torch.nn.functional.embedding(negatives.item_S, scored.vector_ND)
    taken = _taken(scored, targets, negatives)
    return log_sum_of_scores(scored.query_BD, vector_SD, -negatives.log_chance_S, *taken)


def pairwise_loss(scored: Scored, targets: Targets, negatives: Negatives) -> Tensor:
    """BPR (Rendle et al., UAI 2009): each target's score should lie above those of the drawn negatives.

    What the customer has and didn't buy counts as a negative too. Drawn products that the question has or bought are
    left out. The mean over a target's negatives, weighed by question.
    """
    logit_BS, free_BS = _negative_logits(scored, targets, negatives)
    logit_T = target_logits(scored, targets)
    lost_TS = torch.nn.functional.softplus(logit_BS[targets.question_T] - logit_T.unsqueeze(1))
    free_TS = free_BS[targets.question_T]
    lost_T = (lost_TS * free_TS).sum(1)
    num_T = free_TS.sum(1)
    target_P, entry_P = _pairs(scored, targets)
    own_P = torch.nn.functional.softplus(scored.score_E[entry_P] - logit_T[target_P])
    lost_T = lost_T.index_add(0, target_P, own_P)
    num_T = num_T + torch.bincount(target_P, minlength=len(num_T))
    return _weighed(lost_T / num_T.clamp(min=1), targets)


def pointwise_loss(scored: Scored, targets: Targets, negatives: Negatives) -> Tensor:
    """Binary cross-entropy: targets are 1; drawn negatives, and what the customer has and didn't buy, are 0.

    For each target as much weight as for all negatives of its question together.
    """
    logit_BS, free_BS = _negative_logits(scored, targets, negatives)
    logit_T = target_logits(scored, targets)
    lost_B = (torch.nn.functional.softplus(logit_BS) * free_BS).sum(1)
    num_B = free_BS.sum(1).to(lost_B.dtype)
    _, rest_E = _bought(scored, targets)
    lost_B = lost_B.index_add(0, scored.question_E[rest_E], torch.nn.functional.softplus(scored.score_E[rest_E]))
    num_B = num_B + torch.bincount(scored.question_E[rest_E], minlength=len(num_B))
    mean_B = lost_B / num_B.clamp(min=1)
    return _weighed(torch.nn.functional.softplus(-logit_T) + mean_B[targets.question_T], targets)


def target_logits(scored: Scored, targets: Targets) -> Tensor:
    """The whole score of each target, [T]: as part of the history where it is in it."""
    num_items = len(scored.vector_ND)
    target_TD = torch.nn.functional.embedding(targets.item_T, scored.vector_ND)
    logit_T = (torch.nn.functional.embedding(targets.question_T, scored.query_BD) * target_TD).sum(1)
    if not len(scored.item_E):
        return logit_T
    key_E, order_E = torch.sort(scored.question_E * num_items + scored.item_E)
    key_T = targets.question_T * num_items + targets.item_T
    place_T = torch.searchsorted(key_E, key_T).clamp(max=len(key_E) - 1)
    return torch.where(key_E[place_T] == key_T, scored.score_E[order_E[place_T]], logit_T)


def _negative_logits(scored: Scored, targets: Targets, negatives: Negatives) -> tuple[Tensor, Tensor]:
    """Scores of the drawn products, [B, S], and which of them count: neither the question's own nor bought, and hard enough.

    The correction by the chance of being drawn holds for hard ones too: over the draws they stand for all products above
    the same bar.
    """
    vector_SD = torch.nn.functional.embedding(negatives.item_S, scored.vector_ND)
    logit_BS = scored.query_BD @ vector_SD.T
    taken_BS = torch.zeros_like(logit_BS, dtype=torch.bool)
    taken_BS[_taken(scored, targets, negatives)] = True
    if negatives.has_easy:
        open_BS = logit_BS.detach().masked_fill(taken_BS, -torch.inf)
        hardest_BH = torch.topk(open_BS, negatives.num_hard, dim=1).indices
        is_easy_BS = torch.ones_like(taken_BS).scatter_(1, hardest_BH, False)
        taken_BS = taken_BS | is_easy_BS
    return logit_BS, ~taken_BS


def _taken(scored: Scored, targets: Targets, negatives: Negatives) -> tuple[Tensor, Tensor]:
    """Cells of (question, drawn product) where the question has or bought the product, by their places."""
    known_E = scored.item_E > 0
    question = torch.cat([scored.question_E[known_E], targets.question_T])
    item = torch.cat([scored.item_E[known_E], targets.item_T])
    place = torch.searchsorted(negatives.item_S, item).clamp(max=len(negatives.item_S) - 1)
    found = negatives.item_S[place] == item
    return question[found], place[found]


def _bought(scored: Scored, targets: Targets) -> tuple[Tensor, Tensor]:
    """Which known entries were bought, and which weren't."""
    num_items = len(scored.vector_ND)
    known_E = scored.item_E > 0
    is_target_E = torch.isin(
        scored.question_E * num_items + scored.item_E, targets.question_T * num_items + targets.item_T
    )
    return is_target_E & known_E, ~is_target_E & known_E


def _pairs(scored: Scored, targets: Targets) -> tuple[Tensor, Tensor]:
    """Each target with each entry of its question that wasn't bought: places among targets and among entries."""
    _, rest_E = _bought(scored, targets)
    entry_R = torch.nonzero(rest_E).squeeze(1)
    num_B = torch.bincount(scored.question_E[entry_R], minlength=len(scored.query_BD))
    first_B = torch.cumsum(num_B, 0) - num_B
    num_T = num_B[targets.question_T]
    target_P = torch.repeat_interleave(torch.arange(len(num_T), device=num_T.device), num_T)
    within_P = torch.arange(len(target_P), device=num_T.device) - torch.repeat_interleave(
        torch.cumsum(num_T, 0) - num_T, num_T
    )
    return target_P, entry_R[first_B[targets.question_T][target_P] + within_P]


def _weighed(loss_T: Tensor, targets: Targets) -> Tensor:
    return (loss_T * targets.weight_B[targets.question_T]).sum() / targets.num_questions


LOSSES: Final[Mapping[str, Callable[[Scored, Targets, Negatives], Tensor]]] = {
    "sampled_softmax": sampled_softmax,
    "in_batch": sampled_softmax,
    "bpr": pairwise_loss,
    "bce": pointwise_loss,
}
"""By their names in the configuration; `in_batch` is a softmax over what the step's questions bought."""
