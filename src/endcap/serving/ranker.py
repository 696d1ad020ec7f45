"""Customers with products in, a prediction for each pair out: the customer's row beside each product's, through one graph."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from endcap.contracts.release import Ranking
from endcap.serving.buyers import Buyers
from endcap.serving.errors import numbers_too_large
from endcap.serving.graphs import Graph
from endcap.serving.instances import Pairs
from endcap.serving.products import ProductTable

if TYPE_CHECKING:  # it takes longer to import than the rest of this module to run
    import numpy.typing as npt

    from endcap.serving.retriever import Observe

    Float32Array = npt.NDArray[np.float32]

# Rows of one pass: each carries its customer's whole history.
MAX_ROWS: Final = 256


class Ranker:
    """The part of a release that scores pairs."""

    def __init__(self, ranking: Ranking, graph: Graph, buyers: Buyers, products: ProductTable) -> None:
        """Raises ArtifactError when the graph takes or gives something else than the manifest says."""
        self._graph, self._buyers, self._products = graph, buyers, products
        self._outputs = [ranking.prediction_output]
        declared = {one.tensor.name: one.tensor.dtype for one in ranking.product_inputs}
        graph.check_fits(buyers.declared(ranking.history) | declared, self._outputs)

    def warm(self) -> None:
        """Score made-up pairs, so that the first real one finds everything allocated."""
        item_id = "" if self._graph.types[self._products.item_input] == "STRING" else 0
        for size in (1, 8):
            rows = np.zeros(1, dtype=np.int64)
            self._predictions([Pairs(self._buyers.stranger, None, [item_id], rows, {}) for _ in range(size)])

    def score(self, asked: Sequence[Pairs], observe: Observe) -> list[Float32Array]:
        """The predictions of each customer's products, in their order.

        Where one isn't finite, raises RequestError (400) if that is for the numbers of the requests, else ValueError.
        """
        started = time.perf_counter()
        scores = self._predictions(asked)
        if not np.isfinite(scores).all():
            raise self._not_finite(asked)
        observe("ranking", time.perf_counter() - started, len(asked))
        return np.split(scores, np.cumsum([len(pairs.item_ids) for pairs in asked])[:-1])

    def _not_finite(self, asked: Sequence[Pairs]) -> Exception:
        plain = [
            Pairs(self._buyers.without_numbers(pairs.values), pairs.history, pairs.item_ids, pairs.rows, {})
            for pairs in asked
        ]
        if np.isfinite(self._predictions(plain)).all():
            return numbers_too_large()
        return ValueError("A prediction is not finite.")

    def _predictions(self, asked: Sequence[Pairs]) -> Float32Array:
        """Of all pairs, customer by customer."""
        histories = self._buyers.complete(asked, self._products.rows_of)
        owners = np.repeat(np.arange(len(asked)), [len(pairs.item_ids) for pairs in asked])
        products = self._products.feed(asked)
        scores = np.empty(len(owners), dtype=np.float32)
        for start in range(0, len(owners), MAX_ROWS):
            part = slice(start, start + MAX_ROWS)
            first, last = owners[part][0], owners[part][-1] + 1
            buyers = self._buyers.feed(asked[first:last], histories[first:last])
            feeds = {name: values[owners[part] - first] for name, values in buyers.items()}
            feeds |= {name: values[part] for name, values in products.items()}
            scores[part] = self._graph.run(self._outputs, feeds)[0].reshape(-1)
        return scores
