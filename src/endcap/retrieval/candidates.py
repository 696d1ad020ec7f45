"""Rounded scores and what rounding did to them in, the rows that may be the best of each query out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:  # it takes longer to import than the rest of this module to run
    import numpy.typing as npt

    IntArray = npt.NDArray[np.int64]
    Int32Array = npt.NDArray[np.int32]
    FloatArray = npt.NDArray[np.float64]

LOWEST: Final = np.int32(np.iinfo(np.int32).min)
"""The score of what is excluded."""


class Candidates(NamedTuple):
    """Rows that may be the best of each query; no row left out scores above the query's ceiling."""

    rows: IntArray
    """Ascending within a query, all of the first query, then all of the second, and so on."""
    lengths: Sequence[int]
    """How many rows each query has."""
    ceilings: Sequence[float]
    """One per query; -inf where no row was left out: then excluded ones are among them."""


class Bounds(NamedTuple):
    """What rounding does to the scores of each query."""

    units: FloatArray
    """What a rounded score of 1 stands for; one a query."""
    errors: FloatArray
    """By how much a score may be off; one a query."""

    def take(self, queries: Sequence[int]) -> Bounds:
        """Those of some queries."""
        return Bounds(self.units[queries], self.errors[queries])

    def limits(self, kth_scores: Int32Array, slack: float) -> tuple[Int32Array, list[float]]:
        """From which rounded score on rows are kept, `slack` bounds below the k-th best; the ceiling of the others."""
        cutoffs = np.floor(kth_scores - slack * self.errors / self.units)
        # A cutoff below every int32 keeps every row.
        limits = np.maximum(cutoffs, float(LOWEST)).astype(np.int32)
        ceilings: FloatArray = np.where(limits > LOWEST, cutoffs * self.units + self.errors, -math.inf)
        return limits, ceilings.tolist()


def strided_maxima(scores_BN: Int32Array, rows_per_group: int) -> Int32Array:
    """Maxima of groups of columns that lie one stride apart, which lets the maximum run along vector registers.

    Columns past the last whole group are left out.
    """
    num_queries, num_columns = scores_BN.shape
    num_groups = num_columns // rows_per_group
    grouped = scores_BN[:, : num_groups * rows_per_group].reshape(num_queries, rows_per_group, num_groups)
    maxima: Int32Array = np.maximum.reduce(grouped, axis=1)
    return maxima


def merged(parts: Iterable[Candidates]) -> Candidates:
    """The candidates of queries one after the other."""
    rows, lengths, ceilings = zip(*parts, strict=True)
    return Candidates(
        np.concatenate(rows), [num for part in lengths for num in part], [one for part in ceilings for one in part]
    )
