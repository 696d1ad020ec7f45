"""Query vectors in, for each a short list of rows that is sure to hold its top products: int8 scores with a bound."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import onnxruntime as ort

from endcap.contracts.errors import ArtifactError
from endcap.retrieval.candidates import LOWEST, Bounds, Candidates, merged, strided_maxima
from endcap.retrieval.gathered import MOST_TOGETHER, Gathered, Memory
from endcap.retrieval.onnx_bytes import int8_product_graph
from endcap.retrieval.selection import Selection

if TYPE_CHECKING:  # it takes longer to import than the rest of this module to run
    import numpy.typing as npt

    Float32Array = npt.NDArray[np.float32]
    IntArray = npt.NDArray[np.int64]
    Int32Array = npt.NDArray[np.int32]
    _Binding = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32], npt.NDArray[np.int32], ort.IOBinding]


# Levels of products, from -N to N. On processors without VNNI, uint8 x int8 products are added pairwise in 16 bits, and
# 255 * 64 * 2 just fits; on others, twice as many halve the error.
SAFE_LEVELS: Final = 64
FINE_LEVELS: Final = 127
_QUERY_LEVELS = 127
_QUERY_ZERO = 128
_ROWS_PER_CHUNK = 8192
# Processors with AMX multiply 64 numbers of a product at a time, and fill shorter ones up. Of products half as wide the
# catalog is folded: its second half stands below the first, and each query is asked of both. That takes half of the
# memory there and two thirds of the time of a single query; elsewhere it costs a tenth of the time of a full pass.
_WIDTH_FOLDED: Final = 32
# What vectors of zeros are divided by.
_SMALLEST_SCALE = 1e-18

# Neighbors whose maximum tells whether to look at each of them.
BLOCK_ROWS: Final = 32

# Queries of one pass: more share the reading of the vectors and the cost of each call, but their scores (queries x
# products x 4 bytes) should stay in the processor's caches, and of a large catalog be no burden: there, eight queries
# cost as much per query as sixteen.
MAX_QUERIES: Final = 16
_MAX_SCORES: Final = 2**23
# The product and the maxima are half of a search and need no interpreter: they take a second core along where there is
# one. Without spinning, which would take the core from the event loop.
_NUM_THREADS: Final = min(2, os.cpu_count() or 1)
# Numbers in the vectors of all products, up to which a pass is short enough to be computed by one thread, beside the event
# loop: the loop uses the other core meanwhile, and two threads take half as much processor time again. Of more, the scores of
# the passes that are begun at once would be a burden.
_MOST_ASIDE: Final = 2**23
_QUERY_NUMBERS = np.arange(MAX_QUERIES)

_CACHE_LINE: Final = 64

_FLOAT32_UNIT = 2.0**-24


# How many bounds below the k-th best rounded score the rows are kept. Two is sure: one for that row's own error, one
# for the error of a row below it. One and a bit nearly always does, for half the rows.
SURE: Final = 2.0
LIKELY: Final = 1.2


class _Layout(NamedTuple):
    """How the products lie in the matrix: `folds` parts of the catalog one below the other, each of whole blocks."""

    dim: int
    folds: int
    blocks_per_fold: int

    @property
    def num_columns(self) -> int:
        """Products, those that fill up the last part among them."""
        return self.folds * self.blocks_per_fold * BLOCK_ROWS


class _Buffers:
    """What one pass writes to: arrays of ours, for ones made anew for each call are paid in page faults."""

    def __init__(self, max_queries: int, layout: _Layout) -> None:
        dim, folds, blocks = layout
        self._folds = folds
        # For each query as many rows as there are parts, each with its levels where that part stands, and zeros elsewhere.
        self._levels = np.full((max_queries * folds, folds * dim), _QUERY_ZERO, dtype=np.uint8)
        self._scores = _aligned(max_queries * folds, blocks * BLOCK_ROWS)
        self._maxima = _aligned(max_queries * folds, blocks)
        self._bindings: dict[tuple[ort.InferenceSession, int], _Binding] = {}
        self.memory = Memory()
        """For what is gathered of the scores."""

    def bound(self, num_queries: int, session: ort.InferenceSession) -> _Binding:
        """The part that so many queries use, and what binds it to the session.

        Levels are `[query, part, part, dim]`, scores and maxima have a row per query.
        """
        key = (session, num_queries)
        if key not in self._bindings:
            num_rows = num_queries * self._folds
            levels, scores, maxima = self._levels[:num_rows], self._scores[:num_rows], self._maxima[:num_rows]
            binding = session.io_binding()
            binding.bind_input("query", "cpu", 0, np.uint8, levels.shape, levels.ctypes.data)
            for name, array in (("scores", scores), ("maxima", maxima)):
                binding.bind_output(name, "cpu", 0, np.int32, array.shape, array.ctypes.data)
            self._bindings[key] = (
                levels.reshape(num_queries, self._folds, self._folds, -1),
                scores.reshape(num_queries, -1),
                maxima.reshape(num_queries, -1),
                binding,
            )
        return self._bindings[key]


def _aligned(num_rows: int, num_columns: int) -> Int32Array:
    """Uninitialized, from the beginning of a cache line on: NumPy's begin anywhere, and writing 6 MB takes a sixth longer there."""
    size = num_rows * num_columns * np.dtype(np.int32).itemsize
    raw = np.empty(size + _CACHE_LINE, dtype=np.uint8)
    start = -raw.ctypes.data % _CACHE_LINE
    return raw[start : start + size].view(np.int32).reshape(num_rows, num_columns)


class Started(NamedTuple):
    """A pass over all products for some queries: its product is being computed, or is there."""

    buffers: _Buffers
    bounds: Bounds
    scores: Int32Array
    maxima: Int32Array
    selections: Sequence[Selection | None]
    gathered: Gathered | None
    """The scores of the selections, where all queries have one and together they are small."""
    product: Future[None] | None
    """Where it is computed aside."""

    def part(self, query: int) -> Started:
        """What belongs to one query."""
        part = slice(query, query + 1)
        return self._replace(bounds=self.bounds.take([query]), scores=self.scores[part], maxima=self.maxima[part])

    def gather(self, query: int, selection: Selection) -> Gathered:
        """The scores of one query's selection, until those of another are gathered."""
        gathered = Gathered([query], [selection], self.scores.shape[1], self.buffers.memory)
        gathered.collect(self.scores)
        return gathered


class Screen:
    """int8 copy of the product vectors with the largest error that rounding put into any of them.

    With x the vector, x' its rounded copy and q, q' likewise the query, the bound is
    |q.x - q'.x'| <= |q| |x - x'| + |q - q'| |x'|, and the rounding of float32 sums on top.
    """

    def __init__(self, vectors_ND: Float32Array, *, aside: bool = False) -> None:
        """Round `vectors_ND` (float32). Raises ArtifactError when a value isn't finite.

        `aside`: so that passes can be computed aside, where the catalog isn't large.
        """
        num_items, dim = vectors_ND.shape
        largest = float(max(vectors_ND.max(), -vectors_ND.min()))
        if not np.isfinite(largest):
            raise ArtifactError("The candidates' vectors hold values that are not finite. Train and release again.")
        self._scale = max(largest / item_levels(), _SMALLEST_SCALE)
        folds = 2 if dim <= _WIDTH_FOLDED else 1
        self._layout = _Layout(dim, folds, -(-num_items // (folds * BLOCK_ROWS)))
        rounded, self._max_error, self._max_rounded, max_norm = _rounded(vectors_ND, self._layout, self._scale)
        # float32 sums of `dim` products are off by at most about dim * unit * |q| |x|; twice that for good measure,
        # and for the float32 arithmetic of this very computation.
        self._summing_error = 2 * (dim + 4) * _FLOAT32_UNIT * max(max_norm, self._max_rounded)
        self._num_items = num_items
        self.longest_query = float(np.finfo(np.float32).max) / max(2 * max_norm, 1.0)
        """Up to this length of a query every score is a number of float32."""
        self.max_queries: int = max(1, min(MAX_QUERIES, _MAX_SCORES // num_items))
        """How many queries one pass takes at most."""
        graph = int8_product_graph(rounded, _QUERY_ZERO, BLOCK_ROWS)
        self._direct = _open_session(graph, _NUM_THREADS)
        self._aside = _open_session(graph, 1) if aside and num_items * dim <= _MOST_ASIDE else None
        self._idle: list[_Buffers] = []

    def start(
        self,
        vectors_BD: Float32Array,
        selections: Sequence[Selection | None] | None = None,
        *,
        aside: bool = False,
    ) -> Started:
        """Begin a pass for at most `max_queries` queries; `aside`: on a thread, where that was wished for at the start.

        Rows that are not in `selections[b]` are no candidates.
        """
        bounds, levels_BD = self._round(vectors_BD)
        session = (self._aside if aside else None) or self._direct
        buffers = self._take_buffers()
        levels, scores, maxima, binding = buffers.bound(len(levels_BD), session)
        for fold in range(self._layout.folds):
            np.add(levels_BD, _QUERY_ZERO, out=levels[:, fold, fold], casting="unsafe")
        selections = selections or [None] * len(levels_BD)
        gathered = _gathered(selections, scores.shape[1], buffers.memory)
        product = None
        if session is not self._direct:
            product = _thread().submit(_compute, session, binding, buffers, scores, gathered)
        else:
            _compute(session, binding, buffers, scores, gathered)
        return Started(buffers, bounds, scores, maxima, selections, gathered, product)

    def candidates(
        self,
        started: Started,
        num_wanted: Sequence[int],
        rows_per_block: int,
        slack: float,
        excluded: Sequence[IntArray | None],
    ) -> Candidates:
        """Rows that rounded scores put among the `num_wanted[b]` best of each query, and `slack` bounds below.

        Rows that are `excluded[b]` take no place of another; where too few others are there, they are among the candidates.

        With a slack of `SURE` the true best are among the rows. With less they are when the worst of them scores no
        less than the ceiling, which is likely from `LIKELY` on. The catalog must have at least `max(num_wanted)`
        blocks of `rows_per_block` rows, of at most `BLOCK_ROWS`.
        """
        if started.product is not None:
            started.product.result()
        try:
            if started.gathered is not None:
                return started.gathered.best(started.bounds, num_wanted, slack, excluded)
            if not any(selection is not None for selection in started.selections):
                return self._best_of_all(started, num_wanted, rows_per_block, slack, excluded)
            return merged(
                self._best_of_all(started.part(query), [wanted], rows_per_block, slack, [out])
                if selection is None
                else started.gather(query, selection).best(started.bounds.take([query]), [wanted], slack, [out])
                for query, (selection, wanted, out) in enumerate(
                    zip(started.selections, num_wanted, excluded, strict=True)
                )
            )
        finally:
            self._idle.append(started.buffers)

    def _take_buffers(self) -> _Buffers:
        """A set that no pass uses; there are as many as were begun at once."""
        try:
            return self._idle.pop()
        except IndexError:
            return _Buffers(self.max_queries, self._layout)

    def _round(self, vectors_BD: Float32Array) -> tuple[Bounds, Float32Array]:
        """The queries' levels, and what that does to the scores."""
        scales_B = np.maximum(np.abs(vectors_BD).max(axis=1) / np.float32(_QUERY_LEVELS), np.float32(_SMALLEST_SCALE))
        levels_BD = np.rint(vectors_BD / scales_B[:, None])
        lost_BD = vectors_BD - levels_BD * scales_B[:, None]
        errors_B = _norms(vectors_BD).astype(np.float64) * (self._max_error + self._summing_error)
        errors_B += _norms(lost_BD) * self._max_rounded
        return Bounds(scales_B.astype(np.float64) * self._scale, errors_B), levels_BD

    def _lower(self, scores_BN: Int32Array, maxima_BK: Int32Array, excluded: Sequence[IntArray | None]) -> None:
        """Put the excluded rows below all others."""
        for scores_N, maxima_K, rows in zip(scores_BN, maxima_BK, excluded, strict=True):
            if rows is None or not len(rows):
                continue
            scores_N[rows] = LOWEST
            scores_N[self._num_items :] = scores_N[self._num_items - 1]
            blocks = rows // BLOCK_ROWS
            maxima_K[blocks] = scores_N.reshape(-1, BLOCK_ROWS).take(blocks, axis=0).max(axis=1)

    def _best_of_all(
        self,
        started: Started,
        num_wanted: Sequence[int],
        rows_per_block: int,
        slack: float,
        excluded: Sequence[IntArray | None],
    ) -> Candidates:
        scores_BN, maxima_BK = started.scores, started.maxima
        self._lower(scores_BN, maxima_BK, excluded)
        num_queries, num_columns = scores_BN.shape
        # The k-th largest of the block maxima is reached by at least k rows.
        highest = (
            maxima_BK[:, : -(-self._num_items // BLOCK_ROWS)]  # a block of copies alone counts no row of its own
            if rows_per_block == BLOCK_ROWS
            else strided_maxima(scores_BN[:, : self._num_items], rows_per_block)
        )
        places = [highest.shape[1] - num for num in num_wanted]
        ordered = np.partition(highest, sorted(set(places)), axis=1)
        numbers_B = _QUERY_NUMBERS[:num_queries]
        limits_B, ceilings = started.bounds.limits(ordered[numbers_B, places], slack)
        # Flat: `nonzero` of a matrix takes many times as long.
        blocks_H = (maxima_BK >= limits_B[:, None]).ravel().nonzero()[0]
        scores_HR = scores_BN.reshape(-1, BLOCK_ROWS).take(blocks_H, axis=0)
        reached = (scores_HR >= limits_B[blocks_H // maxima_BK.shape[1], None]).ravel().nonzero()[0]
        keys: IntArray = blocks_H.take(reached // BLOCK_ROWS) * BLOCK_ROWS + reached % BLOCK_ROWS
        if num_columns > self._num_items:
            keys = keys[keys % num_columns < self._num_items]
        lengths = np.diff(keys.searchsorted(np.arange(num_queries + 1) * num_columns))
        keys -= np.repeat(numbers_B * num_columns, lengths)
        return Candidates(keys, lengths.tolist(), ceilings)


def _rounded(
    vectors_ND: Float32Array, layout: _Layout, scale: float
) -> tuple[npt.NDArray[np.int8], float, float, float]:
    """The matrix of the product; the largest norms of what rounding took, of what it left, and of the vectors."""
    matrix_FDN = np.empty((layout.folds, layout.dim, layout.num_columns // layout.folds), dtype=np.int8)
    max_error, max_rounded, max_norm = 0.0, 0.0, 0.0
    per_unit = np.float32(1.0 / scale)
    for fold, matrix_DN in enumerate(matrix_FDN):
        width = matrix_DN.shape[1]
        part = vectors_ND[fold * width : (fold + 1) * width]
        for start in range(0, len(part), _ROWS_PER_CHUNK):
            chunk = part[start : start + _ROWS_PER_CHUNK]
            levels = np.rint(chunk * per_unit)
            matrix_DN[:, start : start + len(chunk)] = levels.astype(np.int8).T
            restored = levels * np.float32(scale)
            max_error = max(max_error, float(_norms(chunk - restored).max()))
            max_rounded = max(max_rounded, float(_norms(restored).max()))
            max_norm = max(max_norm, float(_norms(chunk).max()))
        # Filled up with copies of the last row, which leave the maximum of its block as it is.
        matrix_DN[:, len(part) :] = np.rint(vectors_ND[-1:] * per_unit).T
    return matrix_FDN.reshape(layout.folds * layout.dim, -1), max_error, max_rounded, max_norm


@cache
def _thread() -> ThreadPoolExecutor:
    """What computes products while others do something else."""
    return ThreadPoolExecutor(1, "endcap-product")


def _compute(
    session: ort.InferenceSession,
    binding: ort.IOBinding,
    _buffers: _Buffers,
    scores: Int32Array,
    gathered: Gathered | None,
) -> None:
    """The product; on a thread, where it holds on to what it writes to, whether or not anybody waits for it."""
    session.run_with_iobinding(binding)
    if gathered is not None:
        gathered.collect(scores)


def _gathered(selections: Sequence[Selection | None], num_columns: int, memory: Memory) -> Gathered | None:
    """What gathers the scores of all selections, where all queries have one and together they are small."""
    given = [selection for selection in selections if selection is not None]
    if len(given) < len(selections):
        return None
    if len(given) > 1 and len(given) * max(len(selection.rows) for selection in given) > MOST_TOGETHER:
        return None
    return Gathered(range(len(given)), given, num_columns, memory)


# A thread isn't there in a process that is forked off.
os.register_at_fork(after_in_child=_thread.cache_clear)


@cache
def item_levels() -> int:
    """How fine products may be rounded, by what this machine's products of the largest numbers come to."""
    dim = 64
    matrix = np.full((dim, BLOCK_ROWS), FINE_LEVELS, dtype=np.int8)
    matrix[:, ::2] *= -1
    session = _open_session(int8_product_graph(matrix, _QUERY_ZERO, BLOCK_ROWS), 1)
    for num_queries in (1, MAX_QUERIES):  # one and several go different ways
        levels = np.full((num_queries, dim), _QUERY_ZERO + _QUERY_LEVELS, dtype=np.uint8)
        (scores,) = session.run(["scores"], {"query": levels})
        if (np.abs(scores) != dim * _QUERY_LEVELS * FINE_LEVELS).any():
            return SAFE_LEVELS
    return FINE_LEVELS


def _norms(rows: Float32Array) -> Float32Array:
    norms: Float32Array = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    return norms


def _open_session(model: bytes, num_threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
