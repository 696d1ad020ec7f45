"""Queries in, the best products of each out: query graph, boosts of the history, exact search."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from endcap.contracts.errors import ArtifactError
from endcap.contracts.release import CANDIDATE_IDS, CANDIDATE_VECTORS, Retrieval
from endcap.releases.bundle import Release
from endcap.retrieval.added import AddedProducts
from endcap.retrieval.exact import Boosts, ExactIndex, Hits, NotFiniteError, add_up
from endcap.retrieval.id_table import rows_of_lists
from endcap.retrieval.selection import Selection
from endcap.serving.buyers import Buyers, UserHistory
from endcap.serving.errors import numbers_too_large
from endcap.serving.graphs import Graph
from endcap.serving.instances import Query
from endcap.serving.pending import Pending

if TYPE_CHECKING:  # it takes longer to import than the rest of this module to run
    import numpy.typing as npt

    from endcap.serving.filtered import ProductFilters

    Float32Array = npt.NDArray[np.float32]
    IntArray = npt.NDArray[np.int64]
    BoolArray = npt.NDArray[np.bool_]

MAX_BATCH: Final = 64

Observe = Callable[[str, float, int], None]
"""Is told a stage, how many seconds it took, and for how many instances."""


class Recommendation(NamedTuple):
    """The products of one query, best first: rows of the candidates, and scores."""

    rows: npt.NDArray[np.int64]
    scores: Float32Array
    ids: list[Any] | None = None
    """The products' ids, where a row is none of the candidates': an added product's."""


class _Added(NamedTuple):
    """Products that are searched beside the release's."""

    products: AddedProducts
    filters: ProductFilters | None


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
        self._added: _Added | None = None
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

    @property
    def num_items(self) -> int:
        """How many products can be found."""
        return self._index.num_items if self._added is None else self._added.products.num_items

    @property
    def queries_at_once(self) -> int:
        """How many queries share one pass over all products: more take as much longer."""
        return self._index.queries_at_once

    @property
    def filtered_by(self) -> Sequence[str]:
        """What can be filtered by."""
        return () if self._filters is None else self._filters.columns

    def own_rows_of(self, ids: Sequence[Any]) -> IntArray:
        """Rows of the release's products, -1 for ids that it lacks."""
        return self._index.rows_of(ids)

    def search_also(self, ids: Sequence[Any], vectors: Float32Array, columns: Mapping[str, Sequence[Any]]) -> None:
        """Find these products too, and no others beside the release's; `columns` is what filters go by. For any thread."""
        filters = None
        if columns:
            from endcap.serving.filtered import ProductFilters

            filters = ProductFilters.of(columns)
        self._added = _Added(AddedProducts(self._index, ids, vectors), filters)

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
            answers += self.begin(queries[start : start + MAX_BATCH], observe).finish()
        return answers

    def begin(
        self, queries: Sequence[Query], observe: Observe, *, aside: bool = False
    ) -> Pending[list[Recommendation]]:
        """Begin to answer; `aside`: a large part of the search is computed on a thread, where that can be."""
        if len(queries) > MAX_BATCH:
            return Pending(lambda: self.recommend(queries, observe))
        started = time.perf_counter()
        added = self._added
        # The graphs know the release's own products alone.
        histories = self._buyers.complete(queries, self._index.rows_of)
        feed = self._buyers.feed(queries, histories)
        fed = time.perf_counter()
        outputs = self._graph.run(self._outputs, feed)
        between = time.perf_counter()
        boosts = self._boosts(histories, outputs[1:])
        try:
            search = self._begin_search(queries, outputs[0], boosts, added, aside=aside)
        except NotFiniteError as error:
            raise self._refusal_of(queries, error) from None
        observe("features", fed - started, len(queries))
        observe("tower", between - fed, len(queries))
        seconds = time.perf_counter() - between

        def finish() -> list[Recommendation]:
            resumed = time.perf_counter()
            answers = search.finish()
            observe("search", seconds + time.perf_counter() - resumed, len(queries))
            return answers

        return Pending(finish, search.product)

    def _refusal_of(self, queries: Sequence[Query], error: NotFiniteError) -> Exception:
        """The error, unless it is for the numbers that the requests give."""
        plain = [Query(self._buyers.without_numbers(query.values), query.k, query.history) for query in queries]
        histories = self._buyers.complete(plain, self._index.rows_of)
        outputs = self._graph.run(self._outputs, self._buyers.feed(plain, histories))
        try:
            self._index.check_queries(outputs[0], self._boosts(histories, outputs[1:]))
        except NotFiniteError:
            return error
        return numbers_too_large()

    def _begin_search(
        self,
        queries: Sequence[Query],
        vectors: Float32Array,
        boosts: Sequence[Boosts | None] | None,
        added: _Added | None,
        *,
        aside: bool,
    ) -> Pending[list[Recommendation]]:
        rows_of = self._index.rows_of if added is None else added.products.rows_of
        named = rows_of_lists(rows_of, [ids for query in queries for ids in (query.exclude, query.only)])
        known = [None if rows is None else rows[rows >= 0] for rows in named]
        exclude, only = known[::2], known[1::2]
        selections = [self._selection(query, rows) for query, rows in zip(queries, only, strict=True)]
        if added is None:
            ks = [min(query.k, self._index.num_items) for query in queries]
            begun = self._index.begin(vectors, ks, boosts, exclude, selections, aside=aside)
            return Pending(
                lambda: [Recommendation(hit.rows, hit.scores) for hit in self._index.finish(begun)], begun.product
            )
        masks = [self._mask(query, rows, added) for query, rows in zip(queries, only, strict=True)]
        ks = [query.k for query in queries]
        hits = added.products.search(vectors, ks, boosts or [None] * len(ks), exclude, selections, masks)
        return Pending(lambda: [self._with_ids(hit, added.products) for hit in hits])

    def _boosts(
        self, histories: Sequence[UserHistory], outputs: Sequence[npt.NDArray[Any]]
    ) -> list[Boosts | None] | None:
        if not outputs:
            return None
        boosts: list[Boosts | None] = []
        own = rows_of_lists(self._index.rows_of, [history.items if self._has_own else None for history in histories])
        for number, (history, own_rows) in enumerate(zip(histories, own, strict=True)):
            if not history.items:
                boosts.append(None)
                continue
            rows, values = [], []
            if own_rows is not None:
                rows.append(own_rows)
                values.append(outputs[0][number, : len(own_rows)])
            if self._has_neighbors:
                rows.append(outputs[-2][number])
                values.append(outputs[-1][number])
            boosts.append(add_up(np.concatenate(rows), np.concatenate(values)))
        return boosts

    def _selection(self, query: Query, only: IntArray | None) -> Selection | None:
        """Which of the release's products may be found; `only` are rows of any."""
        found = None
        if query.filter is not None and self._filters is not None:
            found = self._filters.selection(query.filter)
        if only is not None:
            chosen = Selection.of(only[only < self._index.num_items], self._index.num_items)
            found = chosen if found is None else found & chosen
        return found

    def _mask(self, query: Query, only: IntArray | None, added: _Added) -> BoolArray | None:
        """Which of the added products may be found."""
        mask = None
        if query.filter is not None and added.filters is not None:
            mask = added.filters.selection(query.filter).mask
        if only is not None:
            chosen = np.zeros(len(added.products), dtype=np.bool_)
            chosen[only[only >= self._index.num_items] - self._index.num_items] = True
            mask = chosen if mask is None else mask & chosen
        return mask

    def _with_ids(self, hit: Hits, added: AddedProducts) -> Recommendation:
        has_added = bool((hit.rows >= self._index.num_items).any())
        return Recommendation(hit.rows, hit.scores, added.ids_of(hit.rows) if has_added else None)


def open_candidates(release: Release, retrieval: Retrieval) -> ExactIndex:
    """The candidates. Raises ArtifactError when they are not what the manifest says."""
    index = ExactIndex.open(release.file(CANDIDATE_VECTORS), release.file(CANDIDATE_IDS), aside=True)
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
