"""Instances of a request in, checked and in the signature's order out: queries for products, or pairs to be scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from endcap.contracts.release import DType, History, Ranking, Retrieval, Signature, Tensor
from endcap.serving.checks import Feature, check_item_id, check_item_ids, feature_of, kind_of, shown
from endcap.serving.errors import RequestError
from endcap.serving.filters import Filter, check_filter

if TYPE_CHECKING:  # it takes longer to import than the rest of this module to run
    import numpy as np
    import numpy.typing as npt

    from endcap.retrieval.id_table import RowsOf

USER_HISTORY: Final = "user_history"
K: Final = "k"
EXCLUDE: Final = "exclude"
ONLY: Final = "only"
FILTER: Final = "filter"

# Products in one answer over all instances: what bounds the answer's size and the memory it takes.
MAX_RESULTS: Final = 500_000
# Each is a row of the graph, history and all: a second's work.
MAX_PAIRS: Final = 10_000


# Product ids in histories, exclusions and choices over all instances: each is looked up.
MAX_IDS: Final = 500_000


def check_num_ids(num_before: int, *lists: list[Any] | None) -> int:
    """The ids of an instance's lists with those of the instances before it. Raises RequestError (400) for too many."""
    num_ids = num_before
    for ids in lists:
        if ids is not None:
            num_ids += len(ids)
    if num_ids > MAX_IDS:
        raise RequestError(
            400,
            f"Expected at most {MAX_IDS:,} product ids in histories, exclude and only of all instances. Send them in parts.",
        )
    return num_ids


class Query(msgspec.Struct):
    """One customer to recommend to. `values` stand in the order of the reader's `features`; None: left out."""

    values: list[Any]
    k: int
    history: list[Any] | None = None
    exclude: list[Any] | None = None
    only: list[Any] | None = None
    filter: Filter | None = None


class Limits(NamedTuple):
    """What a request says of all its instances, as it came."""

    k: Any = None
    exclude: Any = None
    only: Any = None
    filter: Any = None


class Pairs(msgspec.Struct):
    """One customer, as in a `Query`, and products to score.

    `rows` are the products' in the release, -1 for one that it doesn't have. `given` holds what the request says of them, by
    input: a value each, None where it says nothing.
    """

    values: list[Any]
    history: list[Any] | None
    item_ids: list[Any]
    rows: npt.NDArray[np.int64]
    given: dict[str, list[Any]]


class CustomerReader(ABC):
    """What an instance of any signature says of the customer."""

    def __init__(
        self, signature_name: str, tensors: Sequence[Tensor], history: History | None, item_id_type: DType
    ) -> None:
        """Take the buyer's inputs, how the history goes in, and the type of product ids."""
        self.signature_name = signature_name
        self.item_id_type = item_id_type
        self.history_names: tuple[str, ...] = ()
        """Keys that give the history."""
        parts: set[str] = set()
        if history is not None:
            parts = {*history.inputs, USER_HISTORY}
            self.history_names = tuple({USER_HISTORY: None, history.items_input: None})
        self.features = [feature_of(tensor) for tensor in tensors if tensor.name not in parts]
        """The buyer's inputs but for the history, in the order of a query's values."""
        self._known = {feature.name for feature in self.features} | set(self.history_names)

    @property
    def client_inputs(self) -> list[Tensor]:
        """The inputs that a client may give of a customer, `user_history` among them where the release takes one."""
        tensors = [feature.tensor for feature in self.features]
        if self.history_names:
            tensors.append(Tensor(name=USER_HISTORY, dtype=self.item_id_type, shape=[-1, -1], required=False))
        return tensors

    def _read_values(self, instance: dict[str, Any], place: str) -> tuple[list[Any], int]:
        """The buyer's values, and how many keys of the instance they took."""
        values: list[Any] = []
        num_known = 0
        for feature in self.features:
            value = instance.get(feature.name)
            if value is None:
                if feature.tensor.required:
                    raise self._missing(place, feature.name)
                num_known += feature.name in instance
            else:
                value = feature.check(value, f"{place}.{feature.name}")
                num_known += 1
            values.append(value)
        return values, num_known

    def _read_history(self, instance: dict[str, Any], place: str) -> list[Any] | None:
        history = None
        for name in self.history_names:
            if instance.get(name) is not None:
                history = check_item_ids(instance[name], self.item_id_type, f"{place}.{name}")
        return history

    def _refuse_unknown(self, instance: dict[str, Any], place: str) -> None:
        for name in instance:
            if name not in self._known:
                nearest = get_close_matches(name, self._known, n=1)
                hint = f" Did you mean {nearest[0]}?" if nearest else ""
                raise RequestError(400, f"{place}: unknown feature {shown(name)}.{hint} {self._describe_signature()}")

    def _missing(self, place: str, name: str) -> RequestError:
        return RequestError(400, f"{place}: missing feature {name}. {self._describe_signature()}")

    def _describe_signature(self) -> str:
        required = [_described(feature) for feature in self.features if feature.tensor.required]
        optional = [_described(feature) for feature in self.features if not feature.tensor.required]
        optional += [f"{USER_HISTORY} (product ids)"] if self.history_names else []
        more_required, more_optional = self._describe_rest()
        required, optional = required + more_required, optional + more_optional
        return (
            f"{self.signature_name} takes: {', '.join(required) or 'nothing'}; "
            f"optional: {', '.join(optional) or 'nothing'}."
        )

    @abstractmethod
    def _describe_rest(self) -> tuple[list[str], list[str]]:
        """What an instance must and may hold beside the customer."""


class QueryReader(CustomerReader):
    """Instances that ask for recommendations."""

    def __init__(
        self, signature_name: str, signature: Signature, retrieval: Retrieval, filtered_by: Sequence[str] = ()
    ) -> None:
        """Take the signature, what is recommended from, and the columns that filters may name."""
        super().__init__(signature_name, signature.inputs, retrieval.history, retrieval.item_id_type)
        self._top_k = retrieval.top_k
        self.num_items = retrieval.num_items
        """The most that `k` may be."""
        self.filtered_by = filtered_by
        """What a filter may name."""
        self._known |= {K, EXCLUDE, ONLY, FILTER}

    def read(self, instances: Sequence[dict[str, Any]], place: str, limits: Limits) -> list[Query]:
        """Check the instances."""
        default = Query(
            [],
            self._top_k if limits.k is None else self._check_k(limits.k, K),
            exclude=self._check_ids(limits.exclude, EXCLUDE),
            only=self._check_ids(limits.only, ONLY),
            filter=self._check_filter(limits.filter, FILTER),
        )
        queries: list[Query] = []
        num_ids = 0
        for i, instance in enumerate(instances):
            query = self._read_one(instance, f"{place}[{i}]", default)
            # As they are read: what is said for all instances once counts for, and is copied for, each.
            num_ids = check_num_ids(num_ids, query.history, query.exclude, query.only)
            queries.append(query)
        num_results = sum(query.k for query in queries)
        if num_results > MAX_RESULTS:
            raise RequestError(
                400,
                f"Expected at most {MAX_RESULTS:,} products in one answer (k of all instances); found {num_results:,}.",
            )
        return queries

    def _read_one(self, instance: dict[str, Any], place: str, default: Query) -> Query:
        values, num_known = self._read_values(instance, place)
        query = Query(values, default.k, None, default.exclude, default.only, default.filter)
        if num_known != len(instance):
            self._refuse_unknown(instance, place)
            query.history = self._read_history(instance, place)
            if instance.get(K) is not None:
                query.k = self._check_k(instance[K], f"{place}.{K}")
            if (more := self._check_ids(instance.get(EXCLUDE), f"{place}.{EXCLUDE}")) is not None:
                query.exclude = (query.exclude or []) + more
            if (only := self._check_ids(instance.get(ONLY), f"{place}.{ONLY}")) is not None:
                query.only = only
            if (asked := self._check_filter(instance.get(FILTER), f"{place}.{FILTER}")) is not None:
                query.filter = asked
        return query

    def _check_ids(self, ids: Any, place: str) -> list[Any] | None:
        return None if ids is None else check_item_ids(ids, self.item_id_type, place)

    def _check_filter(self, asked: Any, place: str) -> Filter | None:
        return None if asked is None else check_filter(asked, place, self.filtered_by)

    def _check_k(self, k: Any, place: str) -> int:
        num_items = self.num_items
        if not isinstance(k, int) or isinstance(k, bool):
            raise RequestError(400, f"{place}: expected a whole number from 1 to {num_items:,}; found {kind_of(k)}.")
        if not 1 <= k <= num_items:
            found = k if abs(k) < 10**12 else "a larger number"
            raise RequestError(
                400, f"{place}: expected 1 to {num_items:,}, the number of products in the catalog; found {found}."
            )
        return k

    def _describe_rest(self) -> tuple[list[str], list[str]]:
        filtered = [f"{FILTER} ({', '.join(self.filtered_by)})"] if self.filtered_by else []
        return [], [f"{K} (INT64)", f"{EXCLUDE} (product ids)", f"{ONLY} (product ids)", *filtered]


class PairsReader(CustomerReader):
    """Instances that ask what given products are worth to a customer."""

    def __init__(self, signature_name: str, tensors: Sequence[Tensor], ranking: Ranking, rows_of: RowsOf) -> None:
        """Take the buyer's inputs, what is said of products, and where a product stands in the release."""
        super().__init__(signature_name, tensors, ranking.history, ranking.item_id_type)
        self._rows_of = rows_of
        self.item_name = ranking.item_input
        """The key of the products to be scored."""
        self.product_features = [
            feature_of(one.tensor) for one in ranking.product_inputs if one.tensor.name != ranking.item_input
        ]
        """What may be said of a product beside its id."""
        self._known |= {self.item_name, *(feature.name for feature in self.product_features)}

    @property
    def client_inputs(self) -> list[Tensor]:
        """The inputs that a client may give of a customer and of products."""
        item = Tensor(name=self.item_name, dtype=self.item_id_type, shape=[-1, -1])
        products = [
            Tensor(name=feature.name, dtype=feature.tensor.dtype, shape=[-1, *feature.tensor.shape], required=False)
            for feature in self.product_features
        ]
        return [*super().client_inputs, item, *products]

    def read(self, instances: Sequence[dict[str, Any]], place: str, limits: Limits) -> list[Pairs]:
        """Check the instances. A request for scores limits nothing."""
        for name, value in limits._asdict().items():
            if value is not None:
                raise RequestError(
                    400, f"{name}: {self.signature_name} scores every product that is given. Leave {name} out."
                )
        pairs: list[Pairs] = []
        num_ids = 0
        for i, instance in enumerate(instances):
            one = self._read_one(instance, f"{place}[{i}]")
            num_ids = check_num_ids(num_ids, one.history, one.item_ids)
            pairs.append(one)
        num_pairs = sum(len(one.item_ids) for one in pairs)
        if num_pairs > MAX_PAIRS:
            raise RequestError(
                400,
                f"Expected at most {MAX_PAIRS:,} pairs of a customer and a product in one request; found {num_pairs:,}. "
                "Send them in parts.",
            )
        return pairs

    def _read_one(self, instance: dict[str, Any], place: str) -> Pairs:
        values, _ = self._read_values(instance, place)
        self._refuse_unknown(instance, place)
        ids = instance.get(self.item_name)
        if ids is None:
            raise self._missing(place, self.item_name)
        is_single = not isinstance(ids, list)
        where = f"{place}.{self.item_name}"
        if is_single:
            ids = [check_item_id(ids, self.item_id_type, where)]
        elif not ids:
            raise RequestError(400, f"{where}: expected a product id or several; found an empty list.")
        check_item_ids(ids, self.item_id_type, where)
        given = {
            feature.name: self._read_products(feature, instance[feature.name], place, len(ids), is_single=is_single)
            for feature in self.product_features
            if instance.get(feature.name) is not None
        }
        rows = self._rows_of(ids)
        for i in (rows < 0).nonzero()[0].tolist():
            if all(column[i] is None for column in given.values()):
                raise self._not_sold(ids[i], where if is_single else f"{where}[{i}]")
        return Pairs(values, self._read_history(instance, place), ids, rows, given)

    def _read_products(self, feature: Feature, value: Any, place: str, num_items: int, *, is_single: bool) -> list[Any]:
        """What is said of each product: a value where one id is given, a list of values where a list of ids is."""
        where = f"{place}.{feature.name}"
        if is_single:
            return [feature.check(value, where)]
        if not isinstance(value, list) or len(value) != num_items:
            found = f"{len(value):,}" if isinstance(value, list) else kind_of(value)
            raise RequestError(
                400,
                f"{where}: expected a list of {num_items:,} values, one for each product of {self.item_name}; found {found}.",
            )
        return [None if one is None else feature.check(one, f"{where}[{i}]") for i, one in enumerate(value)]

    def _not_sold(self, item_id: Any, where: str) -> RequestError:
        if not self.product_features:
            return RequestError(
                400,
                f"{where}: the release has no product {shown(str(item_id))}, and knows products by their ids alone.",
            )
        features = ", ".join(_described(feature) for feature in self.product_features)
        return RequestError(
            400,
            f"{where}: the release has no product {shown(str(item_id))}. Say what it is like by some of these, beside its id: "
            f"{features}.",
        )

    def _describe_rest(self) -> tuple[list[str], list[str]]:
        return [f"{self.item_name} (a product id, or a list of them)"], [
            _described(feature) for feature in self.product_features
        ]


def _described(feature: Feature) -> str:
    return f"{feature.name} ({feature.tensor.dtype})"
