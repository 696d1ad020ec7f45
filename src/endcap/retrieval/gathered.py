"""The scores of a pass and selections in, those of the selections alone side by side out, and the best among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from endcap.retrieval.candidates import LOWEST, Bounds, Candidates, strided_maxima
from endcap.retrieval.selection import Selection

if TYPE_CHECKING:  # it takes longer to import than the rest of this module to run
    import numpy.typing as npt

    IntArray = npt.NDArray[np.int64]
    Int32Array = npt.NDArray[np.int32]

# Scores that are gathered together: 1.5 MB with where they come from. Where selections are larger, each is by itself.
MOST_TOGETHER: Final = 2**17
# The k-th best score is bounded by that of the maxima of groups: so many groups for each wanted product raise the number of
# candidates by a seventh, and there is a twelfth to sort.
_GROUPS_PER_RESULT: Final = 4
_MOST_ROWS_PER_GROUP: Final = 16


class Memory:
    """What gathered scores are written to, pass after pass: arrays made anew are paid in page faults."""

    def __init__(self) -> None:
        """Nothing is taken until selections are asked for."""
        self._places: IntArray | None = None
        self._scores: Int32Array | None = None

    def matrices(self, num_rows: int, num_columns: int) -> tuple[IntArray, Int32Array]:
        """Uninitialized, for places and for scores."""
        size = num_rows * num_columns
        if size > MOST_TOGETHER:
            places, scores = np.empty(size, dtype=np.int64), np.empty(size, dtype=np.int32)
        else:
            if self._places is None or self._scores is None:
                self._places = np.empty(MOST_TOGETHER, dtype=np.int64)
                self._scores = np.empty(MOST_TOGETHER, dtype=np.int32)
            places, scores = self._places[:size], self._scores[:size]
        return places.reshape(num_rows, num_columns), scores.reshape(num_rows, num_columns)


class Gathered:
    """The scores of some queries' selections, a row a query, as wide as the largest selection.

    NumPy is asked for all queries at once: each call hands over the interpreter's lock, and a thread that has to wait for it
    again and again keeps everybody waiting.
    """

    def __init__(
        self, queries: Sequence[int], selections: Sequence[Selection], num_columns: int, memory: Memory
    ) -> None:
        """Take which queries of the pass, what each may find, and how many scores the pass has for a query."""
        self._queries = queries
        self._selections = selections
        self._num_columns = num_columns
        width = max(1, *(len(selection.rows) for selection in selections))
        self._places_QW, self._scores_QW = memory.matrices(len(queries), width)
        for row, query, selection in zip(self._places_QW, queries, selections, strict=True):
            np.add(selection.rows, query * num_columns, out=row[: len(selection.rows)])
            row[len(selection.rows) :] = 0

    def collect(self, scores_BN: Int32Array) -> None:
        """Take over what the pass has computed, of all its queries."""
        # Clipped: else NumPy would write to an array of its own first.
        scores_BN.reshape(-1).take(self._places_QW, out=self._scores_QW, mode="clip")

    def best(
        self, bounds: Bounds, num_wanted: Sequence[int], slack: float, excluded: Sequence[IntArray | None]
    ) -> Candidates:
        """The candidates of each query. Of all arguments: what belongs to these queries."""
        scores_QW = self._scores_QW
        num_queries, width = scores_QW.shape
        for scores, selection, rows in zip(scores_QW, self._selections, excluded, strict=True):
            scores[len(selection.rows) :] = LOWEST
            if rows is not None and len(rows):
                scores[selection.rows.searchsorted(rows[selection.mask.take(rows)])] = LOWEST
        rows_per_group = min(width // (_GROUPS_PER_RESULT * max(num_wanted)), _MOST_ROWS_PER_GROUP)
        highest = strided_maxima(scores_QW, max(1, rows_per_group))
        places = [max(highest.shape[1] - wanted, 0) for wanted in num_wanted]
        ordered = np.partition(highest, sorted(set(places)), axis=1)
        numbers = np.arange(num_queries)
        limits, ceilings = bounds.limits(ordered[numbers, places], slack)
        reached = (scores_QW >= limits[:, None]).ravel().nonzero()[0]
        if (limits == LOWEST).any():  # what fills a row up reaches that
            widths = np.asarray([len(selection.rows) for selection in self._selections])
            reached = reached[reached % width < widths[reached // width]]
        lengths = np.diff(reached.searchsorted(np.arange(num_queries + 1) * width))
        rows = self._places_QW.reshape(-1).take(reached)
        rows -= np.repeat(np.asarray(self._queries) * self._num_columns, lengths)
        return Candidates(rows, lengths.tolist(), ceilings)
