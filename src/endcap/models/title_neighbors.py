"""Titles of products and of what customers have in, products with the nearest titles out: TF-IDF and cosine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

from endcap.models.purchases import FloatArray, IntArray

# Shape suffixes: B = customers, C = candidates, W = words


class TitleNeighbors:
    """Words of a title weigh by how often they stand in it and how few titles have them."""

    title = "nearest titles (TF-IDF)"

    def __init__(self, titles: Sequence[str | None], candidates: IntArray) -> None:
        """`titles` by product number; `candidates` are the numbers that are ranked."""
        words = [Counter((text or "").casefold().split()) for text in titles]
        numbers = {word: number for number, word in enumerate(sorted({word for row in words for word in row}))}
        rows = np.repeat(np.arange(len(words)), [len(row) for row in words])
        columns = np.array([numbers[word] for row in words for word in row], np.int64)
        counts = np.array([count for row in words for count in row.values()], np.float64)
        document_counts = np.bincount(columns, minlength=len(numbers))
        weights = counts * (np.log((1 + len(words)) / (1 + document_counts[columns])) + 1)
        table = sp.csr_array((weights, (rows, columns)), shape=(len(words), max(len(numbers), 1)))
        lengths = np.sqrt(np.asarray(table.multiply(table).sum(axis=1)).ravel())
        self._table = sp.csr_array(sp.diags_array(1 / np.maximum(lengths, 1e-12)) @ table)
        self._candidates_CW = self._table[candidates]

    def rank(self, own: Sequence[IntArray], depth: int) -> IntArray:
        """Places among the candidates, `[len(own), depth]`, nearest to the sum of the own products' titles first.

        Equal ones stand in the order of the candidates; -1 where there are no more.
        """
        num_candidates = self._candidates_CW.shape[0]
        ranked = np.full((len(own), depth), -1, np.int64)
        lengths = np.array([len(products) for products in own])
        rows = np.repeat(np.arange(len(own)), lengths)
        products = np.concatenate([*own, np.zeros(0, np.int64)]).astype(np.int64)
        chosen = sp.csr_array((np.ones(len(rows)), (rows, products)), shape=(len(own), self._table.shape[0]))
        score_BC: FloatArray = np.asarray((chosen @ self._table @ self._candidates_CW.T).todense())
        shown = min(depth, num_candidates)
        ranked[:, :shown] = np.argsort(-score_BC, axis=1, kind="stable")[:, :shown]
        return ranked
