"""Rows of a catalog in, what a search needs to stay among them out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # it takes longer to import than the rest of this module to run
    import numpy.typing as npt

    IntArray = npt.NDArray[np.int64]
    BoolArray = npt.NDArray[np.bool_]


class Selection:
    """Some of the products: those that a query may find."""

    def __init__(self, mask: BoolArray) -> None:
        """Take which rows are among them, `[num_items]`."""
        self.mask = mask
        """Which rows are among them, `[num_items]`."""
        self.rows: IntArray = mask.nonzero()[0]
        """The rows, ascending."""

    @classmethod
    def of(cls, rows: IntArray, num_items: int) -> Selection:
        """From rows of a catalog of `num_items` products, in any order; they may repeat."""
        mask = np.zeros(num_items, dtype=np.bool_)
        mask[rows] = True
        return cls(mask)

    def __and__(self, other: Selection) -> Selection:
        """What is in both."""
        return Selection(self.mask & other.mask)

    @property
    def num_bytes(self) -> int:
        """Memory that it takes."""
        return self.mask.nbytes + self.rows.nbytes


def places_of(wanted: IntArray, rows: IntArray) -> IntArray:
    """Where those of `wanted` that are among the ascending `rows` stand there."""
    if not len(rows):
        return np.empty(0, dtype=np.int64)
    places = np.minimum(rows.searchsorted(wanted), len(rows) - 1)
    return np.asarray(places[rows[places] == wanted])
