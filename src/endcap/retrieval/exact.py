"""Query vectors in, the exact top products out: an int8 screen bounds every score, float32 settles the order."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from endcap.contracts.errors import ArtifactError
from endcap.retrieval.candidates import Candidates
from endcap.retrieval.id_table import IdTable
from endcap.retrieval.screen import BLOCK_ROWS, LIKELY, SURE, Screen, Started
from endcap.retrieval.selection import Selection, places_of

if TYPE_CHECKING:  # it takes longer to import than the rest of this module to run
    from concurrent.futures import Future

    import numpy.typing as npt

    Float32Array = npt.NDArray[np.float32]
    IntArray = npt.NDArray[np.int64]

# Shape suffixes: B = queries of one call, N = products, D = vector width, C = candidates that survive the screen.


# The screen pays off once it can leave out most products; below this many rows per wanted product it can't.
_MIN_ROWS_PER_RESULT = 16
# Of fewer rows than one in so many, each is scored: the screen goes through all of them.
_MIN_SHARE_SCREENED = 48
_PLACE_MASK = 2**32 - 1
_LAST_KEY = 2**63 - 1
_IDS_PER_CHUNK = 2**16
# Of Unicode: the last code point, and those that stand for none.
_LAST_CODE, _FIRST_SURROGATE, _LAST_SURROGATE = 0x10FFFF, 0xD800, 0xDFFF


class NotFiniteError(ValueError):
    """A query holds what is no number, or none that has an end."""


class Hits(NamedTuple):
    """The best products of one query, best first: rows of the candidate table and their scores."""

    rows: IntArray
    scores: Float32Array


class Boosts(NamedTuple):
    """Scores added to the inner product of some products: distinct rows and one float32 each."""

    rows: IntArray
    values: Float32Array


def add_up(rows: IntArray, values: Float32Array) -> Boosts:
    """Boosts of rows that may repeat: each gets the sum of its values. Rows below 0 are none."""
    known = rows >= 0
    distinct, places = np.unique(rows[known], return_inverse=True)
    sums = np.bincount(places, values[known], len(distinct))
    return Boosts(distinct, sums.astype(np.float32))


class ExactIndex:
    """Inner-product search over all products of a release.

    A score is `einsum("nd,d->n", vectors, query)` in float32, plus the query's boost of that row. The order is by
    (-score, row) and doesn't depend on which other queries share the batch.
    """

    def __init__(self, vectors: Float32Array, item_ids: npt.NDArray[Any], *, aside: bool = False) -> None:
        """Take `vectors` (float32 `[num_items, dim]`, finite) and `item_ids` (strings or int64, `[num_items]`).

        `aside`: so that searches can be computed aside.

        Raises ArtifactError when the two don't fit together.
        """
        _check_candidates(vectors, item_ids)
        self._vectors_ND = vectors
        self.item_ids = item_ids
        """Product ids by row."""
        self.has_string_ids = item_ids.dtype.kind == "U"
        """Whether product ids are strings; else they are int64."""
        self._id_table: IdTable | None = None
        self._screen = Screen(vectors, aside=aside)

    @classmethod
    def open(cls, vectors_path: Path, item_ids_path: Path, *, aside: bool = False) -> ExactIndex:
        """Open the two `.npy` files of a release's candidates, the vectors memory-mapped.

        Raises ArtifactError when they can't be used.
        """
        return cls(_map_array(vectors_path), _map_array(item_ids_path), aside=aside)

    @property
    def num_items(self) -> int:
        """How many products can be found."""
        return int(self._vectors_ND.shape[0])

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return int(self._vectors_ND.shape[1])

    @property
    def queries_at_once(self) -> int:
        """How many queries share one pass over all products."""
        return self._screen.max_queries

    def ids_of(self, rows: IntArray) -> list[Any]:
        """Product ids of `rows`, in that order."""
        ids: list[Any] = self.item_ids.take(rows).tolist()
        return ids

    def rows_of(self, ids: Sequence[str | int]) -> IntArray:
        """Rows of `ids`, in that order; -1 where the catalog has no such product."""
        if self._id_table is None:
            # Only requests that name products need it: made when first used.
            self._id_table = IdTable(self.item_ids)
            self.drop_id_pages()
        return self._id_table.rows_of(ids)

    def drop_id_pages(self) -> None:
        """Let go of the memory that the ids' file takes, until ids are read again: most answers are made without."""
        owner: Any = self.item_ids
        while isinstance(owner, np.ndarray):
            owner = owner.base
        if isinstance(owner, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            owner.madvise(mmap.MADV_DONTNEED)

    def scores(self, vectors_BD: Float32Array) -> Float32Array:
        """The inner product of each query with every product, `[num_queries, num_items]`."""
        return np.asarray(vectors_BD @ self._vectors_ND.T, dtype=np.float32)

    def search(
        self,
        vectors_BD: Float32Array,
        ks: Sequence[int],
        boosts: Sequence[Boosts | None] | None = None,
        exclude_rows: Sequence[IntArray | None] | None = None,
        selections: Sequence[Selection | None] | None = None,
    ) -> list[Hits]:
        """Best `ks[b]` products of each query, fewer when the selection (or the catalog) less the excluded has fewer.

        `boosts[b].rows` are distinct. `exclude_rows[b]` may repeat. Raises NotFiniteError where scores wouldn't be finite.
        """
        return self.finish(self.begin(vectors_BD, ks, boosts, exclude_rows, selections))

    def check_queries(self, vectors_BD: Float32Array, boosts: Sequence[Boosts | None] | None) -> None:
        """Raise NotFiniteError unless all scores of all queries are numbers of float32."""
        for boost in boosts or ():
            if boost is not None and not np.isfinite(boost.values).all():
                raise NotFiniteError("A boost is not finite.")
        lengths = np.sqrt(np.einsum("bd,bd->b", vectors_BD, vectors_BD))
        if not (lengths <= self._screen.longest_query).all():  # NaN isn't either
            raise NotFiniteError("A query vector is too long, or has values that are not finite.")

    def begin(
        self,
        vectors_BD: Float32Array,
        ks: Sequence[int],
        boosts: Sequence[Boosts | None] | None = None,
        exclude_rows: Sequence[IntArray | None] | None = None,
        selections: Sequence[Selection | None] | None = None,
        *,
        aside: bool = False,
    ) -> Begun:
        """Begin a `search`; `aside`: where one pass is all, on a thread, while the caller does something else."""
        self.check_queries(vectors_BD, boosts)
        num_queries = len(ks)
        asked = _Asked(
            vectors_BD,
            ks,
            boosts if boosts is not None else [None] * num_queries,
            exclude_rows if exclude_rows is not None else [None] * num_queries,
            selections if selections is not None else [None] * num_queries,
        )
        if aside and 0 < num_queries <= self._screen.max_queries and self._is_all_screened(asked):
            return Begun(asked, self._screen.start(vectors_BD, asked.selections, aside=True))
        return Begun(asked, None)

    def finish(self, begun: Begun) -> list[Hits]:
        """What a search that was begun finds."""
        asked = begun.asked
        if begun.started is not None:
            return self._search_screened(asked.within_selections(), begun.started)
        hits: list[Hits] = []
        at_once = self._screen.max_queries
        for start in range(0, len(asked.ks), at_once):
            hits += self._search_pass(asked.part(slice(start, start + at_once)))
        return hits

    def _is_all_screened(self, asked: _Asked) -> bool:
        return self._rows_per_block(_num_wanted(asked)) > 1 and not any(map(self._is_small, asked.selections))

    def _is_small(self, selection: Selection | None) -> bool:
        return selection is not None and len(selection.rows) * _MIN_SHARE_SCREENED < self.num_items

    def _rows_per_block(self, wanted: Sequence[int]) -> int:
        return min(BLOCK_ROWS, self.num_items // (_MIN_ROWS_PER_RESULT * max(wanted)))

    def _search_pass(self, asked: _Asked) -> list[Hits]:
        if not any(selection is not None for selection in asked.selections):
            return self._search_screened(asked)
        asked = asked.within_selections()
        is_small = [self._is_small(selection) for selection in asked.selections]
        screened = iter(self._search_screened(asked.take([place for place, small in enumerate(is_small) if not small])))
        return [
            self._search_rows(asked.take([place])) if small else next(screened) for place, small in enumerate(is_small)
        ]

    def _search_screened(self, asked: _Asked, started: Started | None = None) -> list[Hits]:
        """Queries whose selections, where they have one, are not small, of which a pass may have been `started`."""
        if not asked.ks:
            return []
        wanted = _num_wanted(asked)
        rows_per_block = self._rows_per_block(wanted)
        if rows_per_block <= 1:
            # One by one: the scores of all products for several queries are large, and there is little to share.
            return [self._search_rows(asked.take([query])) for query in range(len(asked.ks))]
        candidates = self._candidates(asked, wanted, rows_per_block, LIKELY, started)
        if len(candidates.rows) > self.num_items:
            # Vectors that rounding can't tell apart: all equal, or one of them far larger than the rest.
            return [self._search_rows(asked.take([query])) for query in range(len(asked.ks))]
        hits = self._settle(candidates, asked)
        for query, (hit, k) in enumerate(zip(hits, asked.ks, strict=True)):
            ceiling = candidates.ceilings[query]
            if ceiling > -math.inf and (len(hit.scores) < k or hit.scores[-1] <= ceiling):
                one = asked.take([query])
                sure = self._candidates(one, [wanted[query]], rows_per_block, SURE)
                hits[query : query + 1] = self._settle(sure, one)
        return hits

    def _candidates(
        self, asked: _Asked, wanted: Sequence[int], rows_per_block: int, slack: float, started: Started | None = None
    ) -> Candidates:
        started = started or self._screen.start(asked.vectors, asked.selections)
        return self._screen.candidates(started, wanted, rows_per_block, slack, asked.exclude_rows)

    def _search_rows(self, asked: _Asked) -> Hits:
        """One query: each product of its selection, or of the catalog, is scored."""
        (selection,), (vector,) = asked.selections, asked.vectors
        if selection is None:
            rows, vectors = np.arange(self.num_items), self._vectors_ND
        elif not len(selection.rows):
            return Hits(selection.rows, np.empty(0, dtype=np.float32))
        else:
            rows, vectors = selection.rows, self._vectors_ND.take(selection.rows, axis=0)
        scores = np.einsum("nd,d->n", vectors, vector)
        return _best(rows, [len(rows)], scores, asked)[0]

    def _settle(self, candidates: Candidates, asked: _Asked) -> list[Hits]:
        """Exact top k of each query among its candidates and boosted rows, less the excluded.

        All queries go through NumPy together: each call hands over the interpreter's lock, and under load the
        waiting for it costs more than the work.
        """
        rows, lengths = candidates.rows, candidates.lengths
        if any(boost is not None for boost in asked.boosts):
            rows, lengths = _with_boosted(rows, lengths, asked.boosts)
        # Among other candidates there are none of them, and to look for them takes as long as a tenth of a search.
        excluded = [
            None if ceiling > -math.inf and boost is None else out
            for ceiling, boost, out in zip(candidates.ceilings, asked.boosts, asked.exclude_rows, strict=True)
        ]
        queries = np.repeat(asked.vectors, lengths, axis=0)
        # einsum sums each row by itself, in one order; a matrix product's last digits change with the rows around it.
        scores: Float32Array = np.einsum("cd,cd->c", self._vectors_ND.take(rows, axis=0), queries)
        return _best(rows, lengths, scores, asked._replace(exclude_rows=excluded))


class _Asked(NamedTuple):
    """Queries, each with what belongs to it."""

    vectors: Float32Array
    ks: Sequence[int]
    boosts: Sequence[Boosts | None]
    exclude_rows: Sequence[IntArray | None]
    selections: Sequence[Selection | None]

    def part(self, part: slice) -> _Asked:
        """Some that stand side by side."""
        return _Asked(
            self.vectors[part], self.ks[part], self.boosts[part], self.exclude_rows[part], self.selections[part]
        )

    def take(self, places: Sequence[int]) -> _Asked:
        """Those at the places."""
        return _Asked(
            self.vectors[places],
            [self.ks[place] for place in places],
            [self.boosts[place] for place in places],
            [self.exclude_rows[place] for place in places],
            [self.selections[place] for place in places],
        )

    def within_selections(self) -> _Asked:
        """With boosts of rows of each query's selection alone."""
        return self._replace(
            boosts=[
                boost
                if boost is None or selection is None
                else Boosts(boost.rows[selection.mask[boost.rows]], boost.values[selection.mask[boost.rows]])
                for boost, selection in zip(self.boosts, self.selections, strict=True)
            ]
        )


class Begun(NamedTuple):
    """A search that was begun."""

    asked: _Asked
    started: Started | None
    """The pass over all products, where it is computed aside."""

    @property
    def product(self) -> Future[None] | None:
        """Done when there is no more to wait for; None: there is nothing."""
        return self.started.product if self.started is not None else None


def _num_wanted(asked: _Asked) -> list[int]:
    """How many products each query screens for.

    Each row that a query lowers may hold one place of the plain top: so many more are screened for, and the top k of what
    is left is still among them. A row that is raised takes no place that it wouldn't keep.
    """
    return [
        k + (0 if boost is None else int(np.count_nonzero(boost.values < 0)))
        for k, boost in zip(asked.ks, asked.boosts, strict=True)
    ]


def _with_boosted(
    rows: IntArray, lengths: Sequence[int], boosts: Sequence[Boosts | None]
) -> tuple[IntArray, Sequence[int]]:
    """The candidates with each query's boosted rows among them."""
    parts = np.split(rows, np.cumsum(lengths)[:-1])
    merged = [
        part if boost is None else np.union1d(part, boost.rows) for part, boost in zip(parts, boosts, strict=True)
    ]
    return np.concatenate(merged), [len(part) for part in merged]


def _best(rows: IntArray, lengths: Sequence[int], scores: Float32Array, asked: _Asked) -> list[Hits]:
    """Top k of each query, of rows and scores that lie one query after the other; `scores` is written to."""
    starts = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=starts[1:])
    num_found = list(lengths)
    for query, (boost, excluded) in enumerate(zip(asked.boosts, asked.exclude_rows, strict=True)):
        part = slice(starts[query], starts[query + 1])
        if boost is not None:
            scores[part][np.searchsorted(rows[part], boost.rows)] += boost.values
        if excluded is not None:
            is_out = np.zeros(lengths[query], np.bool_)
            is_out[places_of(excluded, rows[part])] = True
            scores[part][is_out] = -np.inf
            num_found[query] -= int(np.count_nonzero(is_out))
    # One row per query, filled up with what sorts last.
    width = max(lengths)
    is_filled = np.arange(width) < np.asarray(lengths)[:, None]
    keys = np.full((len(lengths), width), _LAST_KEY)
    keys[is_filled] = _descending_keys(scores)
    keys.sort(axis=1)
    # Clipped: what fills a row up is in no answer.
    order = keys[:, : max(asked.ks)] & _PLACE_MASK
    rows_BK, scores_BK = rows.take(order, mode="clip"), scores.take(order, mode="clip")
    return [
        Hits(rows_BK[query, : min(k, num)], scores_BK[query, : min(k, num)])
        for query, (k, num) in enumerate(zip(asked.ks, num_found, strict=True))
    ]


def _descending_keys(scores: Float32Array) -> IntArray:
    """Distinct integers that ascend as scores fall, equal scores in their order: the place is in the lower 32 bits.

    Sorting them takes a fraction of a stable argsort of the scores.
    """
    # Adding zero turns -0 into 0. The bits of floats from 0 up ascend with them; those of negative ones the other way.
    bits = (np.float32(0) - scores).view(np.int32)
    bits ^= (bits >> 31) & np.int32(0x7FFFFFFF)
    keys: IntArray = bits.astype(np.int64) << 32
    keys |= np.arange(len(scores))
    return keys


def _map_array(path: Path) -> npt.NDArray[Any]:
    try:
        mapped: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # of a damaged head: whatever reading it as Python's literals fails with
        raise ArtifactError(f"{path} can't be read as a NumPy array: {error}. Release again.") from error
    # A plain view: indexing numpy.memmap builds a subclass each time, which costs more than the read.
    return mapped.view(np.ndarray)


def _check_candidates(vectors: npt.NDArray[Any], item_ids: npt.NDArray[Any]) -> None:
    if vectors.dtype != np.float32 or vectors.ndim != 2 or 0 in vectors.shape or not vectors.flags.c_contiguous:
        raise ArtifactError(
            f"The candidates' vectors are {vectors.dtype} of shape {vectors.shape}; "
            "expected float32 of shape [products, dimensions] in C order. Release again."
        )
    is_text = item_ids.dtype.kind == "U" and item_ids.dtype.isnative and item_ids.dtype.itemsize > 0
    if not is_text and item_ids.dtype != np.int64:
        raise ArtifactError(f"The candidates' ids are {item_ids.dtype}; expected strings or int64. Release again.")
    if item_ids.shape != (vectors.shape[0],):
        raise ArtifactError(
            f"The candidates have {vectors.shape[0]:,} vectors but ids of shape {item_ids.shape}. Release again."
        )
    if is_text and not _is_unicode(item_ids):
        raise ArtifactError("The candidates' ids hold what is no text: their file is damaged. Release again.")


def _is_unicode(item_ids: npt.NDArray[Any]) -> bool:
    """Whether every id is text: NumPy would fail at the damaged ones when they are read, one by one."""
    for start in range(0, len(item_ids), _IDS_PER_CHUNK):
        codes = np.ascontiguousarray(item_ids[start : start + _IDS_PER_CHUNK]).view(np.uint32)
        if codes.max() > _LAST_CODE or ((codes >= _FIRST_SURROGATE) & (codes <= _LAST_SURROGATE)).any():
            return False
    return True
