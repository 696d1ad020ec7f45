"""A sealed release in, all that it can answer out: what reads requests, what recommends, and what scores pairs."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import msgspec

from endcap.contracts.errors import ArtifactError
from endcap.contracts.release import DEFAULT_SIGNATURE, ITEMS, RANKING_SIGNATURE, Ranking, Retrieval
from endcap.releases.bundle import Release
from endcap.serving.buyers import Buyers
from endcap.serving.errors import RequestError
from endcap.serving.graphs import Graphs, open_graphs
from endcap.serving.instances import CustomerReader, PairsReader, QueryReader
from endcap.serving.requests import RequestDecoder
from endcap.serving.retriever import Retriever, open_candidates

if TYPE_CHECKING:
    from endcap.retrieval.exact import ExactIndex
    from endcap.serving.additions import Additions
    from endcap.serving.filtered import ProductFilters
    from endcap.serving.products import ProductTable
    from endcap.serving.ranker import Ranker


class Predictor:
    """One release, loaded."""

    def __init__(self, release: Release, graphs: Future[Graphs] | None = None) -> None:
        """Load the graphs (unless they are being loaded as `graphs`), the candidates, the products and the snapshot.

        Raises ArtifactError when they don't fit each other.
        """
        self.release = release
        self._adding = threading.Lock()
        self._additions: Additions | None = None
        retrieval, ranking = release.manifest.retrieval, release.manifest.ranking
        index = open_candidates(release, retrieval) if retrieval is not None else None
        products = _read_products(release, ranking) if ranking is not None else None
        filters = _read_filters(release, index) if index is not None else None
        readers = _readers(release, products, filters.columns if filters is not None else ())
        self.decoder = RequestDecoder(readers)
        query, rank = graphs.result() if graphs is not None else open_graphs(release)
        self.buyers = _buyers(
            release, list(readers.values()), {**(rank.types if rank else {}), **(query.types if query else {})}
        )
        self.retriever: Retriever | None = None
        self.ranker: Ranker | None = None
        if retrieval is not None and query is not None and index is not None:
            self.retriever = Retriever(retrieval, query, index, self.buyers, filters)
        if ranking is not None and rank is not None and products is not None:
            from endcap.serving.ranker import Ranker

            self.ranker = Ranker(ranking, rank, self.buyers, products)

    def add_items(self, items: Any, *, replace: bool = True) -> int:
        """Find these products too from here on: objects of features as `item.onnx` takes them, each with its id. How many it were.

        They are found until the release is unloaded. One of an id that is there already replaces that product; without
        `replace`, ids of the release are passed over. Raises RequestError 400, and then adds none. For any thread.
        """
        if self.retriever is None:
            raise RequestError(400, "This release only scores given products: it takes no new ones to recommend.")
        with self._adding:
            if self._additions is None:
                from endcap.serving.additions import Additions

                self._additions = Additions(self.release, self.retriever)
            num_items = self._additions.add(items, replace=replace)
            reader = self.decoder.readers[DEFAULT_SIGNATURE]
            if isinstance(reader, QueryReader):
                reader.num_items = self.retriever.num_items
        return num_items

    @property
    def added_items(self) -> list[dict[str, Any]]:
        """What `add_items` was given, the latest of each id: another version is given it by `add_items(…, replace=False)`."""
        return [] if self._additions is None else self._additions.items

    @property
    def added_id(self) -> str | None:
        """The key that holds the id of an added product; None before one was added."""
        return None if self._additions is None else self._additions.id_column

    def warm(self) -> None:
        """Answer made-up requests, so that the first real one finds everything allocated.

        Raises ArtifactError where the release can't: its digests are right, but it was made of damaged parts.
        """
        for part in (self.retriever, self.ranker):
            if part is None:
                continue
            try:
                part.warm()
            except Exception as error:  # of ONNX Runtime, or of ours at numbers that aren't finite
                raise ArtifactError(
                    f"{self.release.path} can't answer a made-up request: {type(error).__name__}: {error}. Release again."
                ) from error


def _read_products(release: Release, ranking: Ranking) -> ProductTable:
    # Arrow is imported for releases that need it alone: it costs some 40 MB.
    from endcap.serving.products import ProductTable

    return ProductTable(release.file(ITEMS), ranking)


def _read_filters(release: Release, index: ExactIndex) -> ProductFilters | None:
    if not release.has(ITEMS):
        return None
    from endcap.serving.filtered import ProductFilters

    return ProductFilters.open(release.file(ITEMS), index.item_ids)


def _readers(
    release: Release, products: ProductTable | None, filtered_by: Sequence[str]
) -> dict[str, QueryReader | PairsReader]:
    """What reads the instances of each signature."""
    manifest = release.manifest
    readers: dict[str, QueryReader | PairsReader] = {}
    if manifest.ranking is not None and products is not None:
        of_products = {one.tensor.name for one in manifest.ranking.product_inputs}
        tensors = [tensor for tensor in manifest.signatures[RANKING_SIGNATURE].inputs if tensor.name not in of_products]
        for name in (RANKING_SIGNATURE, DEFAULT_SIGNATURE):
            readers[name] = PairsReader(name, tensors, manifest.ranking, products.rows_of)
    if manifest.retrieval is not None:
        readers[DEFAULT_SIGNATURE] = QueryReader(
            DEFAULT_SIGNATURE, manifest.signatures[DEFAULT_SIGNATURE], manifest.retrieval, filtered_by
        )
    return readers


def _buyers(release: Release, readers: list[CustomerReader], graph_types: dict[str, str | None]) -> Buyers:
    """The customers' side, which all signatures share."""
    sides = [side for side in (release.manifest.ranking, release.manifest.retrieval) if side is not None]
    if len({_customers_of(side) for side in sides}) > 1 or any(
        [feature.tensor for feature in reader.features] != [feature.tensor for feature in readers[0].features]
        for reader in readers
    ):
        raise ArtifactError(
            f"{release.path}: {DEFAULT_SIGNATURE} and {RANKING_SIGNATURE} tell of customers by different inputs. Release again."
        )
    side = sides[0]  # of both the ranking's, whose history may have values
    return Buyers(release, readers[0].features, side.history, side.item_id_type, side.primary_id, graph_types)


def _customers_of(side: Retrieval | Ranking) -> tuple[object, ...]:
    history = side.history and msgspec.structs.replace(
        side.history,
        boosts_output=None,
        values_input=None,
        neighbor_items_output=None,
        neighbor_boosts_output=None,
    )
    return side.primary_id, side.item_id_type, history
