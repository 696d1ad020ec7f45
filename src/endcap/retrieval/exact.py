"""Query vectors in, the exact top products out: an int8 screen bounds every score, float32 settles the order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from endcap.contracts.errors import ArtifactError
from endcap.retrieval.screen import LIKELY, MAX_QUERIES, SURE, Candidates, Screen

if TYPE_CHECKING:  # it takes longer to import than the rest of this module to run
    import numpy.typing as npt

    Float32Array = npt.NDArray[np.float32]
    IntArray = npt.NDArray[np.int64]

# Shape suffixes: B = queries of one call, N = products, D = vector width, C = candidates that survive the screen.


# The screen pays off once it can leave out most products; below this many rows per wanted product it can't.
_MIN_ROWS_PER_RESULT = 16
_MAX_BLOCK_ROWS = 32
_PLACE_MASK = 2**32 - 1


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

    def __init__(self, vectors: Float32Array, item_ids: npt.NDArray[Any]) -> None:
        """Take `vectors` (float32 `[num_items, dim]`, finite) and `item_ids` (strings or int64, `[num_items]`).

        Raises ArtifactError when the two don't fit together.
        """
        _check_candidates(vectors, item_ids)
        self._vectors_ND = vectors
        self.item_ids = item_ids
        """Product ids by row."""
        self.has_string_ids = item_ids.dtype.kind == "U"
        """Whether product ids are strings; else they are int64."""
        self._row_by_id: dict[str | int, int] | None = None
        self._screen = Screen(vectors)

    @classmethod
    def open(cls, vectors_path: Path, item_ids_path: Path) -> ExactIndex:
        """Open the two `.npy` files of a release's candidates, the vectors memory-mapped.

        Raises ArtifactError when they can't be used.
        """
        return cls(_map_array(vectors_path), _map_array(item_ids_path))

    @property
    def num_items(self) -> int:
        """How many products can be found."""
        return int(self._vectors_ND.shape[0])

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return int(self._vectors_ND.shape[1])

    def ids_of(self, rows: IntArray) -> list[Any]:
        """Product ids of `rows`, in that order."""
        ids: list[Any] = self.item_ids.take(rows).tolist()
        return ids

    def rows_of(self, ids: Sequence[str | int]) -> IntArray:
        """Rows of `ids`, in that order; -1 where the catalog has no such product."""
        if self._row_by_id is None:
            # Only requests that name products need it, and it outweighs the vectors' int8 copy: made when first used.
            self._row_by_id = {item_id: row for row, item_id in enumerate(self.item_ids.tolist())}
        lookup = self._row_by_id.get
        return np.array([lookup(item_id, -1) for item_id in ids], dtype=np.int64)

    def scores(self, vectors_BD: Float32Array) -> Float32Array:
        """The inner product of each query with every product, `[num_queries, num_items]`."""
        return np.asarray(vectors_BD @ self._vectors_ND.T, dtype=np.float32)

    def search(
        self,
        vectors_BD: Float32Array,
        ks: Sequence[int],
        boosts: Sequence[Boosts | None] | None = None,
        exclude_rows: Sequence[IntArray | None] | None = None,
    ) -> list[Hits]:
        """Best `ks[b]` products of each query, fewer when the catalog less the excluded has fewer.

        `boosts[b].rows` are distinct. `exclude_rows[b]` may repeat. Raises ValueError for a query that isn't finite.
        """
        if not np.isfinite(vectors_BD).all():
            raise ValueError("A query vector has values that are not finite.")
        num_queries = len(ks)
        boosts = boosts if boosts is not None else [None] * num_queries
        exclude_rows = exclude_rows if exclude_rows is not None else [None] * num_queries
        hits: list[Hits] = []
        for start in range(0, num_queries, MAX_QUERIES):
            part = slice(start, start + MAX_QUERIES)
            hits += self._search_pass(vectors_BD[part], ks[part], boosts[part], exclude_rows[part])
        return hits

    def _search_pass(
        self,
        vectors_BD: Float32Array,
        ks: Sequence[int],
        boosts: Sequence[Boosts | None],
        exclude_rows: Sequence[IntArray | None],
    ) -> list[Hits]:
        # Each row that a query lowers or excludes may hold one place of the plain top: so many more are screened for,
        # and the top k of what is left is still among them. A row that is raised takes no place that it wouldn't keep.
        wanted = [
            k
            + (0 if boost is None else int(np.count_nonzero(boost.values < 0)))
            + (0 if excluded is None else len(excluded))
            for k, boost, excluded in zip(ks, boosts, exclude_rows, strict=True)
        ]
        rows_per_block = min(_MAX_BLOCK_ROWS, self.num_items // (_MIN_ROWS_PER_RESULT * max(wanted)))
        if rows_per_block <= 1:
            # One by one: the scores of all products for several queries are large, and there is little to share.
            return [self._search_all(*query) for query in zip(vectors_BD, ks, boosts, exclude_rows, strict=True)]
        candidates = self._screen.candidates(vectors_BD, wanted, rows_per_block, LIKELY)
        if len(candidates.rows) > self.num_items:
            # Vectors that rounding can't tell apart: all equal, or one of them far larger than the rest.
            return [self._search_all(*query) for query in zip(vectors_BD, ks, boosts, exclude_rows, strict=True)]
        hits = self._settle(candidates, vectors_BD, ks, boosts, exclude_rows)
        for query, (hit, k) in enumerate(zip(hits, ks, strict=True)):
            if len(hit.scores) < k or hit.scores[-1] <= candidates.ceilings[query]:
                one = slice(query, query + 1)
                sure = self._screen.candidates(vectors_BD[one], wanted[one], rows_per_block, SURE)
                hits[query : query + 1] = self._settle(sure, vectors_BD[one], ks[one], boosts[one], exclude_rows[one])
        return hits

    def _search_all(self, vector: Float32Array, k: int, boosts: Boosts | None, excluded: IntArray | None) -> Hits:
        scores = np.einsum("nd,d->n", self._vectors_ND, vector)
        return _best(np.arange(self.num_items), [self.num_items], scores, [k], [boosts], [excluded])[0]

    def _settle(
        self,
        candidates: Candidates,
        vectors_BD: Float32Array,
        ks: Sequence[int],
        boosts: Sequence[Boosts | None],
        exclude_rows: Sequence[IntArray | None],
    ) -> list[Hits]:
        """Exact top k of each query among its candidates and boosted rows, less the excluded.

        All queries go through NumPy together: each call hands over the interpreter's lock, and under load the
        waiting for it costs more than the work.
        """
        rows, lengths = candidates.rows, candidates.lengths
        if any(boost is not None for boost in boosts):
            rows, lengths = _with_boosted(rows, lengths, boosts)
        queries = np.repeat(vectors_BD, lengths, axis=0)
        # einsum sums each row by itself, in one order; a matrix product's last digits change with the rows around it.
        scores: Float32Array = np.einsum("cd,cd->c", self._vectors_ND.take(rows, axis=0), queries)
        return _best(rows, lengths, scores, ks, boosts, exclude_rows)


def _with_boosted(
    rows: IntArray, lengths: Sequence[int], boosts: Sequence[Boosts | None]
) -> tuple[IntArray, Sequence[int]]:
    """The candidates with each query's boosted rows among them."""
    parts = np.split(rows, np.cumsum(lengths)[:-1])
    merged = [
        part if boost is None else np.union1d(part, boost.rows) for part, boost in zip(parts, boosts, strict=True)
    ]
    return np.concatenate(merged), [len(part) for part in merged]


def _best(
    rows: IntArray,
    lengths: Sequence[int],
    scores: Float32Array,
    ks: Sequence[int],
    boosts: Sequence[Boosts | None],
    exclude_rows: Sequence[IntArray | None],
) -> list[Hits]:
    """Top k of each query, of rows and scores that lie one query after the other; `scores` is written to."""
    starts = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=starts[1:])
    num_found = list(lengths)
    for query, (boost, excluded) in enumerate(zip(boosts, exclude_rows, strict=True)):
        part = slice(starts[query], starts[query + 1])
        if boost is not None:
            scores[part][np.searchsorted(rows[part], boost.rows)] += boost.values
        if excluded is not None:
            is_out = np.isin(rows[part], excluded)
            scores[part][is_out] = -np.inf
            num_found[query] -= int(np.count_nonzero(is_out))
    # One row per query, filled up with what sorts last.
    width = max(lengths)
    is_filled = np.arange(width) < np.asarray(lengths)[:, None]
    keys = np.full((len(lengths), width), np.iinfo(np.int64).max)
    keys[is_filled] = _descending_keys(scores)
    keys.sort(axis=1)
    # Clipped: what fills a row up is in no answer.
    order = keys[:, : max(ks)] & _PLACE_MASK
    rows_BK, scores_BK = rows.take(order, mode="clip"), scores.take(order, mode="clip")
    return [
        Hits(rows_BK[query, : min(k, num)], scores_BK[query, : min(k, num)])
        for query, (k, num) in enumerate(zip(ks, num_found, strict=True))
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
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} can't be read as a NumPy array: {error}. Release again.") from error
    # A plain view: indexing numpy.memmap builds a subclass each time, which costs more than the read.
    return mapped.view(np.ndarray)


def _check_candidates(vectors: npt.NDArray[Any], item_ids: npt.NDArray[Any]) -> None:
    if vectors.dtype != np.float32 or vectors.ndim != 2 or 0 in vectors.shape or not vectors.flags.c_contiguous:
        raise ArtifactError(
            f"The candidates' vectors are {vectors.dtype} of shape {vectors.shape}; "
            "expected float32 of shape [products, dimensions] in C order. Release again."
        )
    if item_ids.dtype.kind != "U" and item_ids.dtype != np.int64:
        raise ArtifactError(f"The candidates' ids are {item_ids.dtype}; expected strings or int64. Release again.")
    if item_ids.shape != (vectors.shape[0],):
        raise ArtifactError(
            f"The candidates have {vectors.shape[0]:,} vectors but ids of shape {item_ids.shape}. Release again."
        )
