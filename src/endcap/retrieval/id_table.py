"""Product ids by row in, the rows of any of them out: a table of hashes, a tenth the size of a dictionary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:  # it takes longer to import than the rest of this module to run
    import numpy.typing as npt

    IntArray = npt.NDArray[np.int64]
    RowsOf = Callable[[Sequence[Any]], IntArray]

# Ids that are Python objects at once while the table is made.
_IDS_PER_CHUNK: Final = 2**16
# Places for each id: more would leave the processor's caches, fewer are full where one looks.
_PLACES_PER_ID: Final = 2
# Spreads hashes that lie in a row, as those of numbers do: 2^64 divided by the golden ratio.
_SPREAD: Final = np.uint64(0x9E3779B97F4A7C15)


class IdTable:
    """Rows of product ids: open addressing in arrays, so that the ids of a whole batch are looked up side by side.

    One by one in a dictionary, each of them waits several times for memory that is in no cache. Texts are told apart by their
    64-bit hashes alone, which Python draws anew for each process: that one which isn't there is taken for one of a million
    others has a chance of one in 10^13. Numbers are compared.
    """

    def __init__(self, item_ids: npt.NDArray[Any]) -> None:
        """Take the ids by row: strings or int64, distinct."""
        num_ids = len(item_ids)
        self._numbers = item_ids if item_ids.dtype.kind == "i" else None
        self._hashes = np.empty(num_ids, dtype=np.int64)
        for start in range(0, num_ids, _IDS_PER_CHUNK):
            chunk = item_ids[start : start + _IDS_PER_CHUNK].tolist()
            self._hashes[start : start + len(chunk)] = _hashes_of(chunk)
        num_bits = max(4, (_PLACES_PER_ID * num_ids - 1).bit_length())
        self._shift, self._last = np.uint64(64 - num_bits), 2**num_bits - 1
        self._row_at = np.full(2**num_bits, -1, dtype=np.int32)
        rows = np.arange(num_ids)
        places = self._places_of(self._hashes)
        while len(rows):
            is_free = self._row_at.take(places) < 0
            self._row_at[places[is_free]] = rows[is_free]
            # Of several that want one place, one has it.
            is_out = self._row_at.take(places) != rows
            rows, places = rows[is_out], (places[is_out] + 1) & self._last

    def rows_of(self, ids: Sequence[str | int]) -> IntArray:
        """Rows of `ids`, in that order; -1 where there is no such id."""
        hashes = _hashes_of(ids)
        places = self._places_of(hashes)
        rows = self._row_at.take(places).astype(np.int64)
        while True:
            other = ((self._hashes.take(rows, mode="clip") != hashes) & (rows >= 0)).nonzero()[0]
            if not len(other):
                break
            places[other] = (places[other] + 1) & self._last
            rows[other] = self._row_at.take(places[other])
        return rows if self._numbers is None else self._compared(rows, self._numbers, ids)

    def _places_of(self, hashes: IntArray) -> IntArray:
        return ((hashes.view(np.uint64) * _SPREAD) >> self._shift).astype(np.int64)

    @staticmethod
    def _compared(rows: IntArray, numbers: IntArray, ids: Sequence[str | int]) -> IntArray:
        """Numbers of 62 bits and more share hashes."""
        found = numbers.take(rows, mode="clip").tolist()
        if found != list(ids):
            rows[[place for place, (one, wanted) in enumerate(zip(found, ids, strict=True)) if one != wanted]] = -1
        return rows


def _hashes_of(ids: Sequence[str | int]) -> IntArray:
    return np.fromiter(map(hash, ids), np.int64, len(ids))


def rows_of_lists(rows_of: RowsOf, lists: Sequence[Sequence[Any] | None]) -> list[IntArray | None]:
    """The rows of each list, where there is one, by one call of `rows_of` for all."""
    given = [ids for ids in lists if ids is not None]
    if not given:
        return [None] * len(lists)
    rows = rows_of([item_id for ids in given for item_id in ids])
    parts = iter(np.split(rows, list(accumulate(map(len, given)))[:-1]))
    return [None if ids is None else next(parts) for ids in lists]
