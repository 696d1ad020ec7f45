"""Query vectors in, for each a short list of rows that is sure to hold its top products: int8 scores with a bound."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import onnxruntime as ort

from endcap.contracts.errors import ArtifactError
from endcap.retrieval.onnx_bytes import int8_product_graph
from endcap.retrieval.selection import Selection

if TYPE_CHECKING:  # it takes longer to import than the rest of this module to run
    import numpy.typing as npt

    Float32Array = npt.NDArray[np.float32]
    IntArray = npt.NDArray[np.int64]
    Int32Array = npt.NDArray[np.int32]
    _Binding = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32], ort.IOBinding]


# Seven bits for products: on processors without VNNI, uint8 x int8 products are added pairwise in 16 bits, and
# 255 * 64 * 2 just fits.
_ITEM_LEVELS = 64
_QUERY_LEVELS = 127
_QUERY_ZERO = 128
_ROWS_PER_CHUNK = 8192
# What vectors of zeros are divided by.
_SMALLEST_SCALE = 1e-18

# Rows whose maximum tells whether to look at each.
_GROUP_ROWS = 4

# Queries of one pass: more share the reading of the vectors and the cost of each call, but their scores (queries x
# products x 4 bytes) should stay in the processor's caches, and of a large catalog be no burden: there, eight queries
# cost as much per query as sixteen.
MAX_QUERIES: Final = 16
_MAX_SCORES: Final = 2**23
# The product is a third of a search and needs no interpreter: it takes a second core along where there is one. Without
# spinning, which would take the core from the event loop.
_NUM_THREADS: Final = min(2, os.cpu_count() or 1)
_QUERY_NUMBERS = np.arange(MAX_QUERIES)

_FLOAT32_UNIT = 2.0**-24
_LOWEST: Final = np.int32(np.iinfo(np.int32).min)


# How many bounds below the k-th best rounded score the rows are kept. Two is sure: one for that row's own error, one
# for the error of a row below it. One and a bit nearly always does, for half the rows.
SURE: Final = 2.0
LIKELY: Final = 1.2


class Candidates(NamedTuple):
    """Rows that may be the best of each query; no row left out scores above the query's ceiling."""

    rows: IntArray
    """Ascending within a query, all of the first query, then all of the second, and so on."""
    lengths: Sequence[int]
    """How many rows each query has."""
    ceilings: Sequence[float]
    """One per query; none where no row was left out."""


class _Buffers(NamedTuple):
    """What one search writes to: scores of all products, and by number of queries the part of them that it uses."""

    scores: Int32Array
    bindings: dict[int, _Binding]


class Screen:
    """int8 copy of the product vectors with the largest error that rounding put into any of them.

    With x the vector, x' its rounded copy and q, q' likewise the query, the bound is
    |q.x - q'.x'| <= |q| |x - x'| + |q - q'| |x'|, and the rounding of float32 sums on top.
    """

    def __init__(self, vectors_ND: Float32Array) -> None:
        """Round `vectors_ND` (float32). Raises ArtifactError when a value isn't finite."""
        num_items, dim = vectors_ND.shape
        largest = float(max(vectors_ND.max(), -vectors_ND.min()))
        if not np.isfinite(largest):
            raise ArtifactError("The candidates' vectors hold values that are not finite. Train and release again.")
        self._scale = max(largest / _ITEM_LEVELS, _SMALLEST_SCALE)
        rounded_DN = np.empty((dim, num_items), dtype=np.int8)
        max_error, max_rounded, max_norm = 0.0, 0.0, 0.0
        for start in range(0, num_items, _ROWS_PER_CHUNK):
            chunk = vectors_ND[start : start + _ROWS_PER_CHUNK]
            levels = np.rint(chunk * np.float32(1.0 / self._scale))
            rounded_DN[:, start : start + len(chunk)] = levels.astype(np.int8).T
            restored = levels * np.float32(self._scale)
            max_error = max(max_error, float(_norms(chunk - restored).max()))
            max_rounded = max(max_rounded, float(_norms(restored).max()))
            max_norm = max(max_norm, float(_norms(chunk).max()))
        self._max_error, self._max_rounded = max_error, max_rounded
        # float32 sums of `dim` products are off by at most about dim * unit * |q| |x|; twice that for good measure,
        # and for the float32 arithmetic of this very computation.
        self._summing_error = 2 * (dim + 4) * _FLOAT32_UNIT * max(max_norm, max_rounded)
        self._num_items = num_items
        self.max_queries = max(1, min(MAX_QUERIES, _MAX_SCORES // num_items))
        """How many queries one pass takes at most."""
        self._session = _open_session(int8_product_graph(rounded_DN, _QUERY_ZERO))
        self._dim = dim
        # One set for each search that runs at once: one as long as there is one thread.
        self._idle_buffers = [self._make_buffers()]

    def candidates(
        self,
        vectors_BD: Float32Array,
        num_wanted: Sequence[int],
        rows_per_block: int,
        slack: float,
        excluded: Sequence[IntArray | None],
        selections: Sequence[Selection | None],
    ) -> Candidates:
        """Rows that rounded scores put among the `num_wanted[b]` best of each query, and `slack` bounds below.

        Rows that are `excluded[b]`, or not in `selections[b]`, take no place of another; where too few others are there, they are
        among the candidates.


        With a slack of `SURE` the true best are among the rows. With less they are when the worst of them scores no
        less than the ceiling, which is likely from `LIKELY` on. The catalog must have at least `max(num_wanted)`
        blocks of `rows_per_block` rows.
        """
        try:
            buffers = self._idle_buffers.pop()
        except IndexError:
            buffers = self._make_buffers()
        try:
            return self._candidates(
                buffers, vectors_BD, num_wanted, rows_per_block, slack, list(zip(excluded, selections, strict=True))
            )
        finally:
            self._idle_buffers.append(buffers)

    def _candidates(
        self,
        buffers: _Buffers,
        vectors_BD: Float32Array,
        num_wanted: Sequence[int],
        rows_per_block: int,
        slack: float,
        limits: Sequence[tuple[IntArray | None, Selection | None]],
    ) -> Candidates:
        num_queries = len(vectors_BD)
        scales_B = np.maximum(np.abs(vectors_BD).max(axis=1) / np.float32(_QUERY_LEVELS), np.float32(_SMALLEST_SCALE))
        levels_BD = np.rint(vectors_BD / scales_B[:, None])
        errors_BD = vectors_BD - levels_BD * scales_B[:, None]
        bounds_B = _norms(vectors_BD).astype(np.float64) * (self._max_error + self._summing_error)
        bounds_B += _norms(errors_BD) * self._max_rounded
        units_B = scales_B.astype(np.float64) * self._scale

        scores_BN = self._multiply(buffers, levels_BD)
        for scores_N, (out, selection) in zip(scores_BN, limits, strict=True):
            if out is not None:
                scores_N[out] = _LOWEST
            if selection is not None:
                selection.lower_others(scores_N, _LOWEST)
        # The k-th largest of the block maxima is reached by at least k rows; rows past the last whole block can't
        # lower it. Blocks are made of groups, so that the rows above the cutoff are looked for in few.
        group_rows = math.gcd(_GROUP_ROWS, rows_per_block)
        group_maxima = _strided_maxima(scores_BN, group_rows)
        block_maxima = _strided_maxima(group_maxima, rows_per_block // group_rows)
        places = [block_maxima.shape[1] - num for num in num_wanted]
        ordered = np.partition(block_maxima, sorted(set(places)), axis=1)
        reached_B = ordered[_QUERY_NUMBERS[:num_queries], places]
        cutoffs_B = np.floor(reached_B - slack * bounds_B / units_B)
        ceilings_B = cutoffs_B * units_B + bounds_B
        # A cutoff below every int32 keeps every row.
        limits_B = np.maximum(cutoffs_B, -(2.0**31)).astype(np.int32)
        keys = self._rows_above(scores_BN, limits_B, group_maxima, group_rows)
        starts = keys.searchsorted(np.arange(num_queries + 1) * self._num_items)
        lengths = np.diff(starts)
        keys -= np.repeat(_QUERY_NUMBERS[:num_queries] * self._num_items, lengths)
        return Candidates(keys, lengths.tolist(), ceilings_B.tolist())

    def _rows_above(
        self, scores_BN: Int32Array, limits_B: Int32Array, group_maxima: Int32Array, group_rows: int
    ) -> IntArray:
        """Rows that reach their query's limit, as query * num_items + row, ascending.

        Only groups whose maximum reaches the limit are looked into: a pass over all scores costs several times more.
        """
        num_groups = group_maxima.shape[1]
        num_grouped = num_groups * group_rows
        # Flat, then divided: `nonzero` of a matrix takes many times as long.
        query_G, group_G = np.divmod((group_maxima >= limits_B[:, None]).ravel().nonzero()[0], num_groups)
        first_rows = np.arange(0, num_grouped, num_groups)
        keys_RG = first_rows[:, None] + (query_G * self._num_items + group_G)
        reaches = scores_BN.ravel().take(keys_RG) >= limits_B[query_G]
        keys: IntArray = keys_RG.ravel().take(reaches.ravel().nonzero()[0])
        if num_grouped < self._num_items:
            query, row = (scores_BN[:, num_grouped:] >= limits_B[:, None]).nonzero()
            keys = np.concatenate([keys, query * self._num_items + num_grouped + row])
        keys.sort()
        return keys

    def _make_buffers(self) -> _Buffers:
        return _Buffers(np.empty((self.max_queries, self._num_items), dtype=np.int32), {})

    def _multiply(self, buffers: _Buffers, levels_BD: Float32Array) -> Int32Array:
        """int32 scores `[queries, products]`, valid until the buffers are used again."""
        num_queries = len(levels_BD)
        if num_queries not in buffers.bindings:
            buffers.bindings[num_queries] = self._bind(buffers.scores[:num_queries])
        levels, scores, binding = buffers.bindings[num_queries]
        np.add(levels_BD, _QUERY_ZERO, out=levels, casting="unsafe")
        self._session.run_with_iobinding(binding)
        return scores

    def _bind(self, scores: Int32Array) -> _Binding:
        """Input and output in arrays of ours: ones made anew for each call are paid in page faults."""
        levels = np.empty((len(scores), self._dim), dtype=np.uint8)
        binding = self._session.io_binding()
        binding.bind_input("query", "cpu", 0, np.uint8, levels.shape, levels.ctypes.data)
        binding.bind_output("scores", "cpu", 0, np.int32, scores.shape, scores.ctypes.data)
        return levels, scores, binding


def _strided_maxima(scores_BN: Int32Array, rows_per_group: int) -> Int32Array:
    """Maxima of groups of columns that lie one stride apart, which lets the maximum run along vector registers.

    Columns past the last whole group are left out.
    """
    num_queries, num_columns = scores_BN.shape
    num_groups = num_columns // rows_per_group
    grouped = scores_BN[:, : num_groups * rows_per_group].reshape(num_queries, rows_per_group, num_groups)
    maxima: Int32Array = np.maximum.reduce(grouped, axis=1)
    return maxima


def _norms(rows: Float32Array) -> Float32Array:
    norms: Float32Array = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    return norms


def _open_session(model: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = _NUM_THREADS
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
