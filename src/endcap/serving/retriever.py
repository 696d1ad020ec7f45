"""Queries in, the best products of each out: query graph, boosts of the history, exact search."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from endcap.contracts.errors import ArtifactError
from endcap.contracts.release import CANDIDATE_IDS, CANDIDATE_VECTORS, Retrieval
from endcap.releases.bundle import Release
from endcap.retrieval.exact import Boosts, ExactIndex, add_up
from endcap.retrieval.selection import Selection
from endcap.serving.buyers import Buyers, UserHistory
from endcap.serving.graphs import Graph
from endcap.serving.instances import Query

if TYPE_CHECKING:  # it takes longer to import than the rest of this module to run
    import numpy.typing as npt

    from endcap.serving.filtered import ProductFilters

    Float32Array = npt.NDArray[np.float32]

MAX_BATCH: Final = 64

Observe = Callable[[str, float, int], None]
"""Is told a stage, how many seconds it took, and for how many instances."""


class Recommendation(NamedTuple):
    """The products of one query, best first: rows of the candidates, and scores."""

    rows: npt.NDArray[np.int64]
    scores: Float32Array


class Retriever:
    """The part of a release that recommends. Several threads may ask."""

    def __init__(
        self,
        retrieval: Retrieval,
        graph: Graph,
        index: ExactIndex,
        buyers: Buyers,
        filters: ProductFilters | None = None,
    ) -> None:
        """Raises ArtifactError when the graph takes or gives something else than the manifest says."""
        self._filters = filters
        self._top_k = retrieval.top_k
        self._graph, self._index, self._buyers = graph, index, buyers
        self._has_own = retrieval.history is not None and retrieval.history.boosts_output is not None
        self._has_neighbors = retrieval.history is not None and retrieval.history.neighbor_items_output is not None
        self._outputs = [retrieval.vector_output, *(retrieval.history.outputs if retrieval.history is not None else [])]
        graph.check_fits(buyers.declared(retrieval.history), self._outputs)

    @property
    def item_ids(self) -> npt.NDArray[Any]:
        """Product ids by row of the candidates."""
        return self._index.item_ids

    def drop_id_pages(self) -> None:
        """Let go of the memory of product ids that were read for something that is done once."""
        self._index.drop_id_pages()

    def warm(self) -> None:
        """Answer a made-up query, so that the first real one finds everything allocated."""
        for size in (1, MAX_BATCH // 8):
            queries = [Query(self._buyers.stranger, self._top_k) for _ in range(size)]
            self.recommend(queries, lambda _stage, _seconds, _instances: None)

    def recommend(self, queries: Sequence[Query], observe: Observe) -> list[Recommendation]:
        """Answer each query."""
        answers: list[Recommendation] = []
        for start in range(0, len(queries), MAX_BATCH):
            answers += self._recommend_batch(queries[start : start + MAX_BATCH], observe)
        return answers

    def _recommend_batch(self, queries: Sequence[Query], observe: Observe) -> list[Recommendation]:
        started = time.perf_counter()
        histories = self._buyers.complete(queries, self._index.rows_of)
        outputs = self._graph.run(self._outputs, self._buyers.feed(queries, histories))
        between = time.perf_counter()
        boosts = self._boosts(histories, outputs[1:]) if len(outputs) > 1 else None
        exclude = [None if query.exclude is None else self._known_rows(query.exclude) for query in queries]
        ks = [min(query.k, self._index.num_items) for query in queries]
        selections = [self._selection(query) for query in queries]
        hits = self._index.search(outputs[0], ks, boosts, exclude, selections)
        answers = [Recommendation(hit.rows, hit.scores) for hit in hits]
        ended = time.perf_counter()
        observe("features_tower", between - started, len(queries))
        observe("search", ended - between, len(queries))
        return answers

    def _boosts(self, histories: Sequence[UserHistory], outputs: Sequence[npt.NDArray[Any]]) -> list[Boosts | None]:
        boosts: list[Boosts | None] = []
        for number, history in enumerate(histories):
            if not history.items:
                boosts.append(None)
                continue
            rows, values = [], []
            if self._has_own:
                rows.append(self._index.rows_of(history.items))
                values.append(outputs[0][number, : len(rows[0])])
            if self._has_neighbors:
                rows.append(outputs[-2][number])
                values.append(outputs[-1][number])
            boosts.append(add_up(np.concatenate(rows), np.concatenate(values)))
        return boosts

    def _selection(self, query: Query) -> Selection | None:
        found = None
        if query.filter is not None and self._filters is not None:
            found = self._filters.selection(query.filter)
        if query.only is not None:
            only = Selection.of(self._known_rows(query.only), self._index.num_items)
            found = only if found is None else found & only
        return found

    def _known_rows(self, ids: Sequence[Any]) -> npt.NDArray[np.int64]:
        rows = self._index.rows_of(ids)
        return np.unique(rows[rows >= 0])


def open_candidates(release: Release, retrieval: Retrieval) -> ExactIndex:
    """The candidates. Raises ArtifactError when they are not what the manifest says."""
    index = ExactIndex.open(release.file(CANDIDATE_VECTORS), release.file(CANDIDATE_IDS))
    if (index.num_items, index.dim) != (retrieval.num_items, retrieval.dim):
        raise ArtifactError(
            f"{release.path}: candidates are {index.num_items:,} x {index.dim}, the manifest says "
            f"{retrieval.num_items:,} x {retrieval.dim}. Release again."
        )
    if index.has_string_ids != (retrieval.item_id_type == "STRING"):
        raise ArtifactError(
            f"{release.path}: the type of the candidates' ids is not {retrieval.item_id_type}. Release again."
        )
    return index
