"""What requests say of customers in, a graph's inputs out: what they leave out comes from the snapshot, else by default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from endcap.contracts.errors import ArtifactError
from endcap.contracts.release import USER_FEATURES, DType, History, Tensor
from endcap.releases.bundle import Release
from endcap.retrieval.id_table import rows_of_lists
from endcap.serving.checks import Feature, default_value, takes_present_time
from endcap.serving.instances import Pairs, Query

if TYPE_CHECKING:  # it takes longer to import than the rest of this module to run
    import numpy.typing as npt

    from endcap.retrieval.id_table import RowsOf
    from endcap.serving.snapshot import UserSnapshot

    IntArray = npt.NDArray[np.int64]

NUMPY_TYPES: Final[dict[str, Any]] = {"STRING": object, "INT64": np.int64, "FLOAT": np.float32}
PADDING: Final[dict[str, Any]] = {"STRING": "", "INT64": 0, "FLOAT": 0.0}


class UserHistory(NamedTuple):
    """A user's distinct recent products, oldest first, with ages in days, how often each, and its last known target.

    `by_type` holds how often in each type of event, for the release's `type_inputs`; empty where nobody knows.
    """

    items: list[Any]
    ages: list[float]
    counts: list[float]
    values: list[float]
    by_type: Sequence[list[float]] = ()


EMPTY_HISTORY: Final = UserHistory([], [], [], [])


class Buyers:
    """The customers' side of one release, the same for each of its graphs."""

    def __init__(
        self,
        release: Release,
        features: Sequence[Feature],
        history: History | None,
        item_id_type: DType,
        primary_id: str,
        graph_types: Mapping[str, str | None],
    ) -> None:
        """Open the snapshot, where the release has one. Raises ArtifactError when it doesn't fit the features.

        `graph_types` are those of the graphs' inputs.
        """
        self.history = history
        self._features = features
        self._item_id_type = item_id_type
        self._primary_id = primary_id
        self._history_types: dict[str, Any] = {
            name: graph_types.get(name) or "STRING" for name in (history.inputs if history else ())
        }
        self._primary_place = next(
            (place for place, feature in enumerate(features) if feature.name == primary_id), None
        )
        self._snapshot = self._open_snapshot(release.file(USER_FEATURES)) if release.has(USER_FEATURES) else None

    def knows(self, query: Query | Pairs) -> bool | None:
        """Whether the snapshot has the customer; None where there is none to look into."""
        if self._snapshot is None or self._primary_place is None:
            return None
        return self._snapshot.row_of(query.values[self._primary_place]) is not None

    def declared(self, history: History | None) -> dict[str, str | None]:
        """The inputs that this fills of a graph that takes `history` so, and their types; None: any."""
        features = {feature.name: feature.tensor.dtype for feature in self._features}
        return {**features, **(history.inputs if history is not None else {})}

    @property
    def stranger(self) -> list[Any]:
        """Values of a made-up customer, to warm up with."""
        return [[] if feature.is_list else PADDING[feature.tensor.dtype] for feature in self._features]

    def without_numbers(self, values: Sequence[Any]) -> list[Any]:
        """The values less all numbers but the customer's id, so that `complete` fills these in."""
        return [
            value if feature.tensor.dtype == "STRING" or feature.name == self._primary_id else None
            for feature, value in zip(self._features, values, strict=True)
        ]

    def complete(self, queries: Sequence[Query | Pairs], rows_of: RowsOf) -> list[UserHistory]:
        """Fill what the queries leave out, and gather their histories; `rows_of` says which products are known (not -1)."""
        histories: list[UserHistory] = []
        given = rows_of_lists(rows_of, [query.history if self.history is not None else None for query in queries])
        for query, rows in zip(queries, given, strict=True):
            values = query.values
            row = None
            if self._snapshot is not None and self._primary_place is not None:
                row = self._snapshot.row_of(values[self._primary_place])
            if None in values:
                for place, feature in enumerate(self._features):
                    if values[place] is None:
                        values[place] = self._absent_value(feature, row)
            histories.append(self._history_of(query.history, rows, row))
        return histories

    def feed(self, queries: Sequence[Query | Pairs], histories: Sequence[UserHistory]) -> dict[str, npt.NDArray[Any]]:
        """The graphs' inputs, a row a completed query; those that a graph doesn't take are left out by it."""
        feeds: dict[str, npt.NDArray[Any]] = {}
        for place, feature in enumerate(self._features):
            feeds[feature.name] = column_of([query.values[place] for query in queries], feature.tensor)
        if self.history is not None:
            length = max(1, *(len(history.items) for history in histories)) if histories else 1
            parts = list(zip(*(_parts(self.history, history) for history in histories), strict=True))
            for (name, dtype), part in zip(self._history_types.items(), parts, strict=True):
                is_text = dtype == "STRING" and self._item_id_type != "STRING"
                feeds[name] = padded([list(map(str, items)) for items in part] if is_text else part, dtype, length)
        return feeds

    def _absent_value(self, feature: Feature, row: int | None) -> Any:
        if row is not None and self._snapshot is not None:
            value = self._snapshot.value(row, feature.name)
            if value is not None:
                return value
        if feature.is_list:
            length = max(feature.tensor.shape[1], 1)
            return [] if feature.tensor.default is None else [feature.tensor.default] * length
        return default_value(feature.tensor)

    def _history_of(self, items: list[Any] | None, rows: IntArray | None, row: int | None) -> UserHistory:
        """Of the products that the request gives, which stand at `rows`, else of the customer's `row` in the snapshot."""
        if self.history is None:
            return EMPTY_HISTORY
        if items is None or rows is None:
            return self._history_in_snapshot(self.history, row)
        sold = [item for item, is_known in zip(items, (rows >= 0).tolist(), strict=True) if is_known]
        history = distinct_history(sold, self.history.max_length)
        if self.history.values_input is None:
            return history
        known = self._history_in_snapshot(self.history, row)
        values = dict(zip(known.items, known.values, strict=True))
        return history._replace(values=[values.get(item, 0.0) for item in history.items])

    def _history_in_snapshot(self, history: History, row: int | None) -> UserHistory:
        if row is None or self._snapshot is None:
            return EMPTY_HISTORY
        items, ages, counts, *rest = (self._snapshot.value(row, name) or [] for name in self._history_types)
        told = rest.pop(0) if history.values_input is not None and rest else []
        values = [value or 0.0 for value in told] if told else [0.0] * len(items)
        start = max(len(items) - history.max_length, 0)
        by_type = [one[start:] for one in rest]
        return UserHistory(items[start:], ages[start:], counts[start:], values[start:], by_type)

    def _open_snapshot(self, path: Path) -> UserSnapshot:
        # Arrow is imported for releases that need it alone: it costs some 40 MB.
        from endcap.serving.snapshot import UserSnapshot

        if self._primary_place is None:
            raise ArtifactError(
                f"{path}: the signature has no input {self._primary_id} to find users by. Release again."
            )
        wanted: dict[str, tuple[str, bool]] = {
            feature.name: (feature.tensor.dtype, feature.is_list)
            for feature in self._features
            if feature.name != self._primary_id and not takes_present_time(feature.tensor)
        }
        wanted.update((name, (dtype, True)) for name, dtype in self._history_types.items())
        if self.history is not None:
            # Products by the catalog's ids, whatever type the graph wants them in.
            wanted[self.history.items_input] = (self._item_id_type, True)
        primary_type = self._features[self._primary_place].tensor.dtype
        snapshot = UserSnapshot(path, self._primary_id, primary_type, wanted)
        history = list(self._history_types)[:3]  # values are known where the release predicts them
        if 0 < len(snapshot.names & set(history)) < len(history):
            names = ", ".join(history)
            raise ArtifactError(f"{path} has a part of {names}; expected all or none. Release again.")
        return snapshot


def distinct_history(items: Sequence[Any], max_length: int) -> UserHistory:
    """A list of purchases, oldest first, as distinct products in the order of their last purchase, with counts.

    Only the last `max_length` products are kept; their ages are 0 days.
    """
    counts: dict[Any, float] = {}
    for item in items:
        counts[item] = counts.pop(item, 0.0) + 1.0
    last = list(counts)[-max_length:]
    return UserHistory(last, [0.0] * len(last), [counts[item] for item in last], [0.0] * len(last))


def column_of(values: Sequence[Any], tensor: Tensor) -> npt.NDArray[Any]:
    """Values of one input, a row each, as its graph takes them."""
    if len(tensor.shape) > 1 and tensor.shape[1] != 1:
        return padded(values, tensor.dtype, max(tensor.shape[1], 0))
    column = np.array(values, dtype=NUMPY_TYPES[tensor.dtype])
    return column if len(tensor.shape) == 1 else column[:, None]


def padded(values: Sequence[Sequence[Any]], dtype: str, length: int) -> npt.NDArray[Any]:
    """`[batch, length]`, or as long as the longest list, filled up on the right."""
    width = max([length, 1, *map(len, values)])
    rows = np.full((len(values), width), PADDING[dtype], dtype=NUMPY_TYPES[dtype])
    for row, elements in enumerate(values):
        rows[row, : len(elements)] = elements
    return rows


def _parts(taken: History, history: UserHistory) -> list[list[Any]]:
    """The lists of a history that the graph takes, in the order of `History.inputs`."""
    values = [history.values] if taken.values_input is not None else []
    nothing: list[list[Any]] = [[]] * len(taken.type_inputs)
    return [history.items, history.ages, history.counts, *values, *(history.by_type or nothing)]
