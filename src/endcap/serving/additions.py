"""Products as a request describes them in, checked, with vectors by the release's `item.onnx`, out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from endcap.contracts import columns as c
from endcap.contracts.errors import ArtifactError
from endcap.contracts.release import ITEM_GRAPH, Tensor
from endcap.releases.bundle import Release
from endcap.serving.buyers import column_of, padded
from endcap.serving.checks import Feature, check_float, check_item_id, default_value, feature_of, kind_of, shown
from endcap.serving.errors import RequestError
from endcap.serving.graphs import Graph
from endcap.serving.retriever import Retriever

if TYPE_CHECKING:  # it takes longer to import than the rest of this module to run
    import numpy.typing as npt

    Float32Array = npt.NDArray[np.float32]

MAX_ADDED: Final = 10_000
"""Each query's search goes through all of them."""
_ROWS_PER_PASS: Final = 256
# What `item.onnx` reads as a missing integer (features.transforms.graph.MISSING_INT64).
_MISSING_INT64: Final = -(2**63)

Item = dict[str, Any]


@dataclass(frozen=True)
class _Added:
    """One added product: what the request said, its vector, and what filters go by."""

    said: Item
    vector: Float32Array
    filtered: dict[str, Any]


class Additions:
    """The products added to one release while it is served; `add` is for one thread at a time."""

    def __init__(self, release: Release, retriever: Retriever) -> None:
        """Load `item.onnx`. Raises RequestError 400 where the release has none, ArtifactError where it doesn't fit."""
        retrieval = release.manifest.retrieval
        if retrieval is None or not release.has(ITEM_GRAPH):
            raise RequestError(
                400,
                f"This release has no {ITEM_GRAPH}, which makes a product's vector from its features: it takes no new "
                "products. Releases that recommend by two towers have it.",
            )
        self._release, self._retrieval, self._retriever = release, retrieval, retriever
        self._graph = Graph(release, ITEM_GRAPH)
        self._graph.check_fits(dict(self._graph.types), [retrieval.vector_output])
        ranking = release.manifest.ranking
        columns = {one.column: one.tensor for one in ranking.product_inputs} if ranking is not None else {}
        is_id = ranking.item_input if ranking is not None else None
        self._id = next((column for column, tensor in columns.items() if tensor.name == is_id), c.ITEM_ID)
        self._features = [
            feature_of(_tensor(name, dtype, self._graph.ranks[name]))
            for name, dtype in self._graph.types.items()
            if name != self._id
        ]
        self._by_name = {feature.name: feature for feature in self._features}
        self._filtered_by = retriever.filtered_by
        self._known = [self._id, *dict.fromkeys([*self._by_name, *self._filtered_by])]
        self._check_fit()
        self._added: dict[Any, _Added] = {}

    @property
    def id_column(self) -> str:
        """The key that holds a product's id."""
        return self._id

    def _check_fit(self) -> None:
        own_type = self._graph.types.get(self._id)
        if not self._features:
            raise RequestError(
                400, f"The release's {ITEM_GRAPH} takes nothing of a product but its id: it takes no new products."
            )
        if own_type == "INT64" and self._retrieval.item_id_type == "STRING":
            raise ArtifactError(
                f"{self._release.path}: {ITEM_GRAPH} takes {self._id} as INT64, but ids are STRING. Release again."
            )

    @property
    def items(self) -> list[Item]:
        """What was added, as it was said, one each id: to be added again to another version."""
        return [one.said for one in self._added.values()]

    def add(self, items: Any, *, replace: bool) -> int:
        """Add products, or replace those of these ids; without `replace`, pass over ids of the release. How many it were.

        Raises RequestError 400 that names the place, what was expected and found; then none is added.
        """
        ids = self._check_ids(items)
        is_own = (self._retriever.own_rows_of(ids) >= 0).tolist()
        asked = {i: item for i, item in enumerate(items) if replace or not is_own[i]}
        if not asked:
            return 0
        values = [self._read(item, f"items[{i}]") for i, item in asked.items()]
        filtered = [self._read_filtered(item, f"items[{i}]") for i, item in asked.items()]
        vectors = self._vectors([ids[i] for i in asked], values)
        for i, vector in zip(asked, vectors, strict=True):
            if not np.isfinite(vector).all():
                raise RequestError(400, f"items[{i}]: its features give no finite vector. Leave out what is extreme.")
        added = dict(self._added)
        for (i, said), vector, by in zip(asked.items(), vectors, filtered, strict=True):
            added[ids[i]] = _Added(said, vector, by)
        if len(added) > MAX_ADDED:
            raise RequestError(
                400,
                f"items: expected at most {MAX_ADDED:,} products beside the release's; found {len(added):,}. "
                "Release anew, or leave some out.",
            )
        vectors = np.array([one.vector for one in added.values()], dtype=np.float32)
        columns = {name: [one.filtered[name] for one in added.values()] for name in self._filtered_by}
        self._retriever.search_also(list(added), vectors, columns)
        self._added = added
        return len(asked)

    def _check_ids(self, items: Any) -> list[Any]:
        if not isinstance(items, list) or not items:
            found = "an empty list" if items == [] else kind_of(items)
            raise RequestError(400, f"items: expected a list of objects, one a product; found {found}.")
        if len(items) > MAX_ADDED:
            raise RequestError(400, f"items: expected at most {MAX_ADDED:,} products; found {len(items):,}.")
        ids: dict[Any, int] = {}
        for i, item in enumerate(items):
            if not isinstance(item, dict):
                raise RequestError(400, f"items[{i}]: expected an object; found {kind_of(item)}.")
            if item.get(self._id) in (None, ""):
                raise RequestError(400, f"items[{i}]: missing {self._id}. {self._describe()}")
            place = f"items[{i}].{self._id}"
            item_id = check_item_id(item[self._id], self._retrieval.item_id_type, place)
            if isinstance(item_id, int) and not -(2**63) <= item_id < 2**63:
                raise RequestError(400, f"{place}: expected an integer of 64 bits; found a larger one.")
            if item_id in ids:
                raise RequestError(400, f"{place}: the id of items[{ids[item_id]}] again. Say each product once.")
            ids[item_id] = i
        return list(ids)

    def _read(self, item: Item, place: str) -> list[Any]:
        """The values that the graph takes, in the order of the features."""
        for name in item:
            if name not in self._known:
                nearest = get_close_matches(name, self._known, n=1)
                hint = f" Did you mean {nearest[0]}?" if nearest else ""
                raise RequestError(400, f"{place}: unknown feature {shown(name)}.{hint} {self._describe()}")
        values: list[Any] = []
        num_said = 0
        for feature in self._features:
            value = item.get(feature.name)
            if value is None:
                values.append([] if feature.is_list else default_value(feature.tensor))
                continue
            if feature.name == c.IN_STOCK and isinstance(value, bool) and feature.tensor.dtype == "INT64":
                value = int(value)
            values.append(feature.check(value, f"{place}.{feature.name}"))
            num_said += 1
        if not num_said:
            raise RequestError(
                400, f"{place}: says nothing of the product but its id. Say what it is like. {self._describe()}"
            )
        return values

    def _read_filtered(self, item: Item, place: str) -> dict[str, Any]:
        """What filters go by; None: unknown, which fits no filter."""
        found: dict[str, Any] = {}
        for name in self._filtered_by:
            value = item.get(name)
            if value is None or (name == c.CATEGORY and isinstance(value, list)):
                found[name] = None
            elif name == c.PRICE:
                found[name] = check_float(value, f"{place}.{name}")
            elif name == c.CATEGORY and not isinstance(value, str):
                raise RequestError(400, f"{place}.{name}: expected a category's name; found {kind_of(value)}.")
            elif name == c.IN_STOCK and not isinstance(value, bool) and value not in (0, 1):
                raise RequestError(400, f"{place}.{name}: expected true or false; found {kind_of(value)}.")
            else:
                found[name] = value if name == c.CATEGORY else bool(value)
        return found

    def _vectors(self, ids: Sequence[Any], values: Sequence[Sequence[Any]]) -> Float32Array:
        """A vector each, `[products, dim]`."""
        vectors = np.empty((len(ids), self._retrieval.dim), dtype=np.float32)
        for start in range(0, len(ids), _ROWS_PER_PASS):
            part = slice(start, start + _ROWS_PER_PASS)
            (found,) = self._graph.run([self._retrieval.vector_output], self._feed(ids[part], values[part]))
            if found.shape != vectors[part].shape:
                raise ArtifactError(
                    f"{self._release.path}: {ITEM_GRAPH} gives vectors of shape {found.shape}, expected "
                    f"{vectors[part].shape}. Release again."
                )
            vectors[part] = found
        return vectors

    def _feed(self, ids: Sequence[Any], values: Sequence[Sequence[Any]]) -> dict[str, npt.NDArray[Any]]:
        feeds = {
            feature.name: padded(column, feature.tensor.dtype, 1)
            if feature.is_list
            else column_of(column, feature.tensor)
            for feature, column in zip(self._features, zip(*values, strict=True), strict=True)
        }
        if (dtype := self._graph.types.get(self._id)) is not None:
            texts = dtype == "STRING"
            feeds[self._id] = np.array([str(one) if texts else one for one in ids], object if texts else np.int64)
        return feeds

    def _describe(self) -> str:
        optional = [_described(self._by_name.get(name), name) for name in self._known[1:]]
        return f"A product takes: {self._id} ({self._retrieval.item_id_type}); optional: {', '.join(optional)}."


def _described(feature: Feature | None, name: str) -> str:
    return f"{name} (for filters)" if feature is None else f"{name} ({feature.tensor.dtype})"


def _tensor(name: str, dtype: str | None, rank: int) -> Tensor:
    if dtype not in ("STRING", "INT64", "FLOAT"):
        raise ArtifactError(f"{ITEM_GRAPH} takes {name} of a type that no request can give. Release again.")
    shape = [-1] * rank
    return Tensor(name, dtype, shape, required=False, default=_MISSING_INT64 if dtype == "INT64" else None)  # type: ignore[arg-type]
