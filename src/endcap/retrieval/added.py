"""An index and products that it lacks in, exact search over both out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from endcap.retrieval.exact import Boosts, ExactIndex, Hits
from endcap.retrieval.selection import Selection

if TYPE_CHECKING:  # it takes longer to import than the rest of this module to run
    import numpy.typing as npt

    Float32Array = npt.NDArray[np.float32]
    IntArray = npt.NDArray[np.int64]
    BoolArray = npt.NDArray[np.bool_]

# Shape suffixes: B = queries of one call, M = added products, D = vector width.


class AddedProducts:
    """Some products beside those of an index; never changed once made.

    Their rows follow the index's, in their order. One with an id of the index stands for that product: the index's row
    is found no more, and what a query adds to the score of that row is added to the new one's.
    """

    def __init__(self, index: ExactIndex, ids: Sequence[str | int], vectors_MD: Float32Array) -> None:
        """Take distinct `ids` and a finite vector each."""
        self._index, self._ids, self._vectors_MD = index, list(ids), vectors_MD
        self._row_by_id = {item_id: index.num_items + place for place, item_id in enumerate(self._ids)}
        own_M = index.rows_of(self._ids)
        places = np.flatnonzero(own_M >= 0)
        places = places[np.argsort(own_M[places])]
        # Rows of the index that are replaced, ascending, and by which.
        self._replaced, self._replacing = own_M[places], index.num_items + places

    def __len__(self) -> int:
        """How many there are."""
        return len(self._ids)

    @property
    def num_items(self) -> int:
        """How many products can be found altogether."""
        return self._index.num_items + len(self._ids) - len(self._replaced)

    def rows_of(self, ids: Sequence[str | int]) -> IntArray:
        """Rows of `ids`, in that order; -1 where there is no such product."""
        rows = self._index.rows_of(ids)
        for place, item_id in enumerate(ids):
            if (row := self._row_by_id.get(item_id)) is not None:
                rows[place] = row
        return rows

    def ids_of(self, rows: IntArray) -> list[Any]:
        """Product ids of `rows`, in that order."""
        own = rows < self._index.num_items
        ids = iter(self._index.ids_of(rows[own]))
        return [
            next(ids) if is_own else self._ids[row - self._index.num_items]
            for row, is_own in zip(rows.tolist(), own.tolist(), strict=True)
        ]

    def search(
        self,
        vectors_BD: Float32Array,
        ks: Sequence[int],
        boosts: Sequence[Boosts | None],
        exclude_rows: Sequence[IntArray | None],
        selections: Sequence[Selection | None],
        masks: Sequence[BoolArray | None],
    ) -> list[Hits]:
        """As the index's search, over both: by (-score, row). `boosts` are of rows of the index.

        `selections` are of the index's products, `masks` of the added ones, `[len(self)]`.
        """
        num_own = self._index.num_items
        moved = [None if boost is None else self._moved(boost) for boost in boosts]
        split = [
            (None, None) if rows is None else (rows[rows < num_own], rows[rows >= num_own]) for rows in exclude_rows
        ]
        hits = self._index.search(
            vectors_BD,
            [min(k, num_own) for k in ks],
            [None if boost is None else _part(boost, boost.rows < num_own) for boost in moved],
            [self._replaced if own is None else np.concatenate([own, self._replaced]) for own, _ in split],
            selections,
        )
        return [
            self._merged(hit, vectors_BD[b], k, moved[b], split[b][1], masks[b])
            for b, (hit, k) in enumerate(zip(hits, ks, strict=True))
        ]

    def _moved(self, boosts: Boosts) -> Boosts:
        """The boosts with the rows of replaced products where they are found."""
        if not len(self._replaced):
            return boosts
        places = np.minimum(self._replaced.searchsorted(boosts.rows), len(self._replaced) - 1)
        rows = np.where(self._replaced[places] == boosts.rows, self._replacing[places], boosts.rows)
        order = np.argsort(rows)
        return Boosts(rows[order], boosts.values[order])

    def _merged(
        self,
        hits: Hits,
        vector: Float32Array,
        k: int,
        boosts: Boosts | None,
        excluded: IntArray | None,
        mask: BoolArray | None,
    ) -> Hits:
        scores_M = np.einsum("nd,d->n", self._vectors_MD, vector)
        if boosts is not None:
            added = _part(boosts, boosts.rows >= self._index.num_items)
            scores_M[added.rows - self._index.num_items] += added.values
        may_be = np.ones(len(scores_M), np.bool_) if mask is None else mask.copy()
        if excluded is not None:
            may_be[excluded - self._index.num_items] = False
        if len(hits.scores) >= k:
            # Of equal scores the lower row comes first, and all of these are lower.
            may_be &= scores_M > hits.scores[-1]
        places = np.flatnonzero(may_be)
        if not len(places):
            return hits
        rows = np.concatenate([hits.rows, places + self._index.num_items])
        scores = np.concatenate([hits.scores, scores_M[places]])
        order = np.lexsort((rows, -scores))[:k]
        return Hits(rows[order], scores[order])


def _part(boosts: Boosts, chosen: BoolArray) -> Boosts:
    return Boosts(boosts.rows[chosen], boosts.values[chosen])
