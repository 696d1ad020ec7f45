"""Product ids by row in, the rows of any of them out: a table of hashes, a tenth the size of a dictionary."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:  # it takes longer to import than the rest of this module to run
    import numpy.typing as npt

    IntArray = npt.NDArray[np.int64]
    UintArray = npt.NDArray[np.uint64]
    RowsOf = Callable[[Sequence[Any]], IntArray]

# Ids that are Python objects at once while the table is made.
_IDS_PER_CHUNK: Final = 2**16
# Places for each id: more would leave the processor's caches, fewer are full where one looks.
_PLACES_PER_ID: Final = 2
# Behind each text of many; ids that hold it are looked up one by one.
_END: Final = "\n"
_WORD: Final = 8
_HALF_WORD: Final = np.uint64(32)
# Spreads hashes that lie in a row, as those of numbers do: 2^64 divided by the golden ratio.
_SPREAD: Final = np.uint64(0x9E3779B97F4A7C15)


class IdTable:
    """Rows of product ids: open addressing in an array, so that the ids of a whole batch are looked up side by side.

    One by one in a dictionary, each of them waits several times for memory that is in no cache; here, once. A place holds a row,
    and of its id's hash, spread, the bits that the place doesn't tell. Texts are told apart by their
    64-bit hashes alone, which are drawn anew for each process: that one which isn't there is taken for one of a million
    others has a chance of one in 10^13. Numbers are compared.
    """

    def __init__(self, item_ids: npt.NDArray[Any]) -> None:
        """Take the ids by row: strings or int64, distinct."""
        num_ids = len(item_ids)
        self._numbers = item_ids if item_ids.dtype.kind == "i" else None
        self._row_bits = np.uint64(num_ids.bit_length())
        self._no_row = np.uint64((1 << num_ids.bit_length()) - 1)
        num_bits = max(4, (_PLACES_PER_ID * num_ids - 1).bit_length())
        self._shift, self._last = np.uint64(64 - num_bits), 2**num_bits - 1
        self._even = _EvenTexts(item_ids.dtype.itemsize // 4) if self._numbers is None else None
        if not self._fill(item_ids, 2**num_bits):
            self._even = None
            self._fill(item_ids, 2**num_bits)

    def _fill(self, item_ids: npt.NDArray[Any], num_places: int) -> bool:
        """Whether all ids were of the kind that is supposed of them."""
        self._places = np.full(num_places, self._no_row)
        for start in range(0, len(item_ids), _IDS_PER_CHUNK):
            chunk = item_ids[start : start + _IDS_PER_CHUNK].tolist()
            hashes = _spread_hashes(chunk) if self._even is None else self._even.hashes(chunk)
            if hashes is None:
                return False
            self._add(hashes, np.arange(start, start + len(chunk), dtype=np.uint64))
        return True

    def _add(self, hashes: UintArray, rows: UintArray) -> None:
        places, entries = self._looked_for(hashes)
        entries |= rows
        while len(entries):
            is_free = self._places.take(places) & self._no_row == self._no_row
            self._places[places[is_free]] = entries[is_free]
            # Of several that want one place, one has it.
            is_out = self._places.take(places) != entries
            entries, places = entries[is_out], (places[is_out] + 1) & self._last

    def rows_of(self, ids: Sequence[str | int]) -> IntArray:
        """Rows of `ids`, in that order; -1 where there is no such id."""
        hashes = _spread_hashes(ids) if self._even is None else self._even.hashes(ids)
        if hashes is None:
            return self._rows_of_odd(ids)
        places, wanted = self._looked_for(hashes)
        found = self._places.take(places)
        while True:
            is_other = (found ^ wanted > self._no_row) & (found & self._no_row != self._no_row)
            other = is_other.nonzero()[0]
            if not len(other):
                break
            places[other] = (places[other] + 1) & self._last
            found[other] = self._places.take(places[other])
        rows = (found & self._no_row).astype(np.int64)
        rows[rows == int(self._no_row)] = -1
        return rows if self._numbers is None else self._compared(rows, self._numbers, ids)

    def _rows_of_odd(self, ids: Sequence[Any]) -> IntArray:
        """Where some are none that the table could hold."""
        rows = np.full(len(ids), -1)
        even = [place for place, one in enumerate(ids) if self._even is not None and self._even.fits(one)]
        if even:
            rows[even] = self.rows_of([ids[place] for place in even])
        return rows

    def _looked_for(self, hashes: UintArray) -> tuple[IntArray, UintArray]:
        """Where each is looked for first, and what stands there but for the row."""
        return (hashes >> self._shift).astype(np.int64), hashes << self._row_bits

    @staticmethod
    def _compared(rows: IntArray, numbers: IntArray, ids: Sequence[str | int]) -> IntArray:
        """Numbers of 62 bits and more share hashes."""
        found = numbers.take(rows, mode="clip").tolist()
        if found != list(ids):
            rows[[place for place, (one, wanted) in enumerate(zip(found, ids, strict=True)) if one != wanted]] = -1
        return rows


class _EvenTexts:
    """Hashes of texts of one length in ASCII, as most shops' ids are: by their bytes, all at once, in three fifths of the time."""

    def __init__(self, length: int) -> None:
        """Take the length of each."""
        self._length = length
        num_words = -(-length // _WORD)
        # Odd ones lose nothing of what they multiply.
        self._factors = np.frombuffer(os.urandom(_WORD * num_words), dtype=np.uint64) | np.uint64(1)

    def fits(self, text: str) -> bool:
        """Whether it is one of these."""
        return len(text) == self._length and text.isascii() and _END not in text

    def hashes(self, texts: Sequence[Any]) -> UintArray | None:
        """One each; None where not all `fits`."""
        num, width = len(texts), self._length + 1
        joined = _END.join([*texts, ""])
        if len(joined) != num * width or not joined.isascii() or joined.count(_END) != num:
            return None
        letters = np.frombuffer(joined.encode(), dtype=np.uint8).reshape(num, width)
        if (letters[:, -1] != ord(_END)).any():
            return None
        padded = np.zeros((num, _WORD * len(self._factors)), dtype=np.uint8)
        padded[:, : self._length] = letters[:, :-1]
        hashes = np.zeros(num, dtype=np.uint64)
        for word, factor in zip(padded.view(np.uint64).T, self._factors, strict=True):
            hashes ^= hashes >> _HALF_WORD
            hashes += word
            hashes *= factor
        hashes ^= hashes >> _HALF_WORD
        hashes *= _SPREAD
        return hashes


def _spread_hashes(ids: Sequence[str | int]) -> UintArray:
    return np.fromiter(map(hash, ids), np.int64, len(ids)).view(np.uint64) * _SPREAD


def rows_of_lists(rows_of: RowsOf, lists: Sequence[Sequence[Any] | None]) -> list[IntArray | None]:
    """The rows of each list, where there is one, by one call of `rows_of` for all."""
    given = [ids for ids in lists if ids is not None]
    if not given:
        return [None] * len(lists)
    rows = rows_of([item_id for ids in given for item_id in ids])
    parts = iter(np.split(rows, list(accumulate(map(len, given)))[:-1]))
    return [None if ids is None else next(parts) for ids in lists]
