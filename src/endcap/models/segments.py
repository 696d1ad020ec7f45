"""Entries of many questions in one flat list: which belong together, summed and spread alike in training and export.

Legend: B questions, E entries (products of histories) over all questions, D any width.
"""

from __future__ import annotations

from copy import copy
from typing import Protocol

import torch
from torch import Tensor


class Segments(Protocol):
    """How E entries belong to B questions; a question's entries stand together, oldest first."""

    def total(self, x_ED: Tensor) -> Tensor:
        """Sum of each question's entries, [B, D]."""
        ...

    def lowest(self, x_E: Tensor) -> Tensor:
        """Least of each question's entries, [B]; infinity without any. No gradient."""
        ...

    def spread(self, x_BD: Tensor) -> Tensor:
        """Each entry gets its question's row, [E, D]."""
        ...


class RaggedSegments:
    """Histories one after the other, none padded: what training uses."""

    def __init__(self, lengths_B: Tensor) -> None:
        self._num_questions = len(lengths_B)
        self.question_E = torch.repeat_interleave(torch.arange(self._num_questions), lengths_B)

    def on(self, device: torch.device) -> RaggedSegments:
        """The same on another device."""
        there = copy(self)
        there.question_E = self.question_E.to(device, non_blocking=True)
        return there

    def total(self, x_ED: Tensor) -> Tensor:
        """Sum of each question's entries, [B, D]."""
        return x_ED.new_zeros(self._num_questions, x_ED.shape[1]).index_add(0, self.question_E, x_ED)

    def lowest(self, x_E: Tensor) -> Tensor:
        """Least of each question's entries, [B]; infinity without any. No gradient."""
        start = x_E.new_full((self._num_questions,), torch.inf)
        return start.scatter_reduce(0, self.question_E, x_E.detach(), "amin")

    def spread(self, x_BD: Tensor) -> Tensor:
        """Each entry gets its question's row, [E, D]."""
        return torch.nn.functional.embedding(self.question_E, x_BD)


class PaddedSegments:
    """Histories as rows of a [B, length] matrix, flattened: what the exported graph uses."""

    def __init__(self, known_BL: Tensor) -> None:
        self._known_BL = known_BL
        self._num_questions, self._length = known_BL.shape

    def total(self, x_ED: Tensor) -> Tensor:
        """Sum of each question's entries, [B, D]."""
        return x_ED.reshape(self._num_questions, self._length, x_ED.shape[1]).sum(1)

    def lowest(self, x_E: Tensor) -> Tensor:
        """Least of each question's entries that are known, [B]; infinity without any."""
        x_BL = x_E.reshape(self._num_questions, self._length)
        return torch.where(self._known_BL, x_BL, torch.full_like(x_BL, torch.inf)).amin(1)

    def spread(self, x_BD: Tensor) -> Tensor:
        """Each entry gets its question's row, [E, D]."""
        wide = x_BD.unsqueeze(1).expand(-1, self._length, -1)
        return wide.reshape(self._num_questions * self._length, x_BD.shape[1])
