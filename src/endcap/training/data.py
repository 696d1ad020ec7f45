"""Feature tables and fitted transforms in, tensors out: questions with ragged histories, catalogs by day.

Columns live as whole tensors and a batch is a slice of them: no loader over rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from endcap.contracts.encoded import EncodedColumn
from endcap.contracts.errors import InputError
from endcap.contracts.features import Column
from endcap.features.fitted import FittedFeatures
from endcap.features.lines import USER_MEAN
from endcap.features.point_in_time import DAY_US, STRANGER
from endcap.features.products import UNSOLD
from endcap.features.signals import WEIGHT
from endcap.features.transforms.vocabulary import Vocabulary
from endcap.models.segments import RaggedSegments
from endcap.models.towers import History

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

_WORDS = ("STRING", "BYTES")
"""Columns of these types seldom change from day to day; numbers, moments and flags do."""
_LEAST_WEIGHT = 1e-12
"""Below this mean, weights are as good as zero."""


@dataclass(frozen=True)
class Ragged:
    """Lists of many rows, one after the other: row i is `values[offsets[i]:offsets[i + 1]]`."""

    offsets: IntArray
    values: Tensor

    def lengths(self, rows: IntArray) -> IntArray:
        """Length of each list."""
        return self.offsets[rows + 1] - self.offsets[rows]

    def take(self, rows: IntArray, lengths: IntArray) -> Tensor:
        """The first `lengths` values of each list, one after the other."""
        starts = np.repeat(self.offsets[rows] - (np.cumsum(lengths) - lengths), lengths)
        return self.values[torch.from_numpy(starts + np.arange(int(lengths.sum())))]


@dataclass(frozen=True)
class Questions:
    """Questions as tensors; `day` is the day whose catalog they meet, `targets` are item indexes that are known.

    `stranger` holds, for the columns that tell of past purchases, what they are for a user without any: one row, or for
    crosses with other columns as many rows as there are questions.
    """

    tensors: dict[str, Tensor]
    stranger: dict[str, Tensor]
    history: dict[str, Ragged] | None
    targets: Ragged
    day: IntArray
    bought_us: IntArray
    id_column: str | None
    weight: npt.NDArray[np.float64] | None = None
    """How much each question counts beside others; alike without."""

    def __len__(self) -> int:
        """Number of questions."""
        return len(self.day)

    def batch(
        self,
        rows: IntArray,
        hide_id: BoolArray | None = None,
        hide_history: BoolArray | None = None,
        hide_profile: BoolArray | None = None,
    ) -> tuple[dict[str, Tensor], History | None]:
        """Columns and histories of some questions, with parts hidden where asked for.

        Hiding the profile makes the columns that tell of past purchases those of a stranger; hiding the history hides
        the profile and the id too.
        """
        places = torch.from_numpy(rows)
        tensors = {name: values[places] for name, values in self.tensors.items()}
        if hide_history is not None:
            hide_id = hide_history if hide_id is None else hide_id | hide_history
            hide_profile = hide_history if hide_profile is None else hide_profile | hide_history
        if hide_profile is not None:
            hidden = torch.from_numpy(hide_profile)
            for name, value in self.stranger.items():
                stranger = value if len(value) == 1 else value[places]
                tensors[name] = torch.where(hidden.unsqueeze(1) if value.ndim == 2 else hidden, stranger, tensors[name])
        if hide_id is not None and self.id_column is not None:
            tensors[self.id_column] = torch.where(torch.from_numpy(hide_id), 0, tensors[self.id_column])
        if self.history is None:
            return tensors, None
        items, ages, counts, *counted = self.history.values()
        lengths = items.lengths(rows)
        if hide_history is not None:
            lengths = np.where(hide_history, 0, lengths)
        segments = RaggedSegments(torch.from_numpy(lengths))
        told_EK = torch.stack([one.take(rows, lengths) for one in counted], 1) if counted else None
        if told_EK is not None and hide_profile is not None:  # a request that lists products says no more of them
            told_EK = told_EK * ~torch.from_numpy(np.repeat(hide_profile, lengths)).unsqueeze(1)
        return tensors, History(
            items.take(rows, lengths), ages.take(rows, lengths), counts.take(rows, lengths), segments, told_EK
        )


class CatalogColumns(NamedTuple):
    """Product columns as tensors: those that are the same every day, and those with a day of `days` as first dimension."""

    days: IntArray
    still: dict[str, Tensor]
    moving: dict[str, Tensor]


class Catalog:
    """Product columns by day; index 0 of every tensor is the unknown product."""

    def __init__(self, fitted: FittedFeatures, products: pa.Table | CatalogColumns) -> None:
        """`products` are feature rows by `day` and `item_id`, the same products on each day, or a catalog's own columns."""
        self.item_ids: list[str] = [str(value) for value in vocabulary_of(fitted).values]
        self.id_column = f"{fitted.definition.item_id}.embedding"
        """The tensor that carries the product's own index."""
        self.columns = self._of_rows(fitted, products) if isinstance(products, pa.Table) else products
        self._day_place = {int(day): place for place, day in enumerate(self.columns.days)}
        self._unsold = _unsold(fitted)

    def _of_rows(self, fitted: FittedFeatures, products: pa.Table) -> CatalogColumns:
        days = np.unique(products["day"].to_numpy())
        known = products.filter(pc.is_in(products["item_id"], value_set=pa.array(self.item_ids)))
        if known.num_rows != len(days) * len(self.item_ids):
            raise InputError(
                f"The catalog has {known.num_rows:,} rows; expected {len(self.item_ids):,} products on each of "
                f"{len(days):,} days. Delete the feature tables and run `endcap features` again."
            )
        columns = fitted.columns("product")
        last = known.slice(known.num_rows - len(self.item_ids))
        ids = fitted.apply("product", last)[self.id_column]
        order = np.argsort(np.asarray(ids))
        stays = {
            name: column.type in _WORDS and _stays(known[name], last[name])
            for name, column in fitted.definition.product.items()
        }
        still: dict[str, Tensor] = {}
        for name, values in fitted.apply("product", last).items():
            column = next(column for column in columns if column.name == name)
            if all(stays[source] for source in fitted.sources_of("product", column)):
                still[name] = _with_unknown(dense(column, values)[torch.from_numpy(order)])
        moving_names = [column.name for column in columns if column.name not in still]
        moving: dict[str, Tensor] = {}
        applied = fitted.apply("product", known, moving_names)
        for name in moving_names:
            column = next(column for column in columns if column.name == name)
            flat = dense(column, applied[name])
            by_day = flat.reshape(len(days), len(self.item_ids), *flat.shape[1:])[:, torch.from_numpy(order)]
            moving[name] = torch.cat([torch.zeros_like(by_day[:, :1]), by_day], 1)
        return CatalogColumns(days, still, moving)

    @property
    def num_items(self) -> int:
        """Known products; their indexes are 1 to this."""
        return len(self.item_ids)

    def on(self, day: int, rows: Tensor | None = None) -> dict[str, Tensor]:
        """Columns of every product, or of some, as of a day, by name; raises InputError for a day without a catalog."""
        if day not in self._day_place:
            raise InputError(f"There is no catalog for day {day}; there are {len(self._day_place):,} days.")
        place = self._day_place[day]
        columns = self.columns.still | {name: values[place] for name, values in self.columns.moving.items()}
        return columns if rows is None else {name: values[rows] for name, values in columns.items()}

    def unsold(self, columns: dict[str, Tensor], shown_N: Tensor | None) -> dict[str, Tensor]:
        """The columns with what tells of sales as of a product without any, for the rows of `shown_N`."""
        if shown_N is None:
            return columns
        told = {
            name: torch.where(shown_N.unsqueeze(1) if value.ndim == 2 else shown_N, value, columns[name])
            for name, value in self._unsold.items()
        }
        return columns | told


def questions_of(fitted: FittedFeatures, table: pa.Table) -> Questions:
    """Questions from a feature table; targets that no vocabulary knows are left out."""
    applied = fitted.apply("buyer", table)
    tensors: dict[str, Tensor] = {}
    history: dict[str, Ragged] | None = None
    for column in fitted.columns("buyer"):
        if column.kind == "sequence":
            history = {name: _ragged(applied[name]) for name in column.tensors}
        else:
            tensors[column.name] = dense(column, applied[column.name])
    lists = table["targets"].combine_chunks()
    indexes = np.asarray(vocabulary_of(fitted).apply(lists.values))[lists.offsets[0].as_py() :]
    offsets = np.asarray(lists.offsets) - lists.offsets[0].as_py()
    row = np.repeat(np.arange(table.num_rows), np.diff(offsets))
    known = indexes > 0
    counts = np.bincount(row[known], minlength=table.num_rows)
    targets = Ragged(np.concatenate([[0], np.cumsum(counts)]), torch.from_numpy(indexes[known]))
    moments = table["event_time_us"].to_numpy()
    bought = table["bought_us"].to_numpy() if "bought_us" in table.column_names else moments
    id_column = f"{fitted.definition.user_id}.embedding"
    return Questions(
        tensors,
        _stranger(fitted, table),
        history,
        targets,
        moments // DAY_US,
        bought,
        id_column if id_column in tensors else None,
        table[WEIGHT].to_numpy() if WEIGHT in table.column_names else None,
    )


_UNMET: dict[str, float | None] = {**STRANGER, USER_MEAN: None}
"""What tells of past purchases, as it is of a user without any."""


def _stranger(fitted: FittedFeatures, table: pa.Table) -> dict[str, Tensor]:
    strangers: dict[str, Tensor] = {}
    columns = fitted.columns("buyer")
    told = {column.name: [name in _UNMET for name in fitted.sources_of("buyer", column)] for column in columns}
    for rows, names in (
        (table.slice(0, 1), {name for name, is_told in told.items() if all(is_told)}),
        (table, {name for name, is_told in told.items() if any(is_told) and not all(is_told)}),
    ):
        if not names:
            continue
        for name, value in _UNMET.items():
            place = rows.schema.get_field_index(name)
            if place >= 0:
                values = pa.array([value] * rows.num_rows, type=rows.schema.field(name).type)
                rows = rows.set_column(place, name, values)
        applied = fitted.apply("buyer", rows)
        strangers |= {column.name: dense(column, applied[column.name]) for column in columns if column.name in names}
    return strangers


def _unsold(fitted: FittedFeatures) -> dict[str, Tensor]:
    """One row of the product columns that tell of sales alone, for a product that nobody has bought."""
    told = {
        column.name: column
        for column in fitted.columns("product")
        if all(name in UNSOLD for name in fitted.sources_of("product", column))
    }
    product = fitted.definition.product
    row = pa.table({
        name: pa.array([UNSOLD.get(name)], pa.float64()) if name in UNSOLD else pa.nulls(1, _arrow_type(column))
        for name, column in product.items()
    })  # fmt: skip
    applied = fitted.apply("product", row) if told else {}
    return {name: dense(column, applied[name]) for name, column in told.items()}


def _arrow_type(column: Column) -> pa.DataType:
    one = {"STRING": pa.string(), "BYTES": pa.binary(), "FLOAT64": pa.float64(), "NUMERIC": pa.float64()}
    kind = one.get(column.type, pa.int64())
    return pa.list_(kind) if column.holds_lists else kind


def vocabulary_of(fitted: FittedFeatures) -> Vocabulary:
    """The vocabulary that numbers the products. Raises InputError when the FeatureConfig embeds no product id."""
    name = f"{fitted.definition.item_id}.embedding"
    for output in fitted.outputs:
        if output.side == "product" and output.column.name == name and isinstance(output.chain[-1], Vocabulary):
            return output.chain[-1]
    raise InputError(
        f"features.product.{fitted.definition.item_id}: a retrieval model needs an embedding of the product's id."
    )


def dense(column: EncodedColumn, values: pa.Array) -> Tensor:
    """A transformed column as one tensor: bags padded with 0, numbers with their width as second dimension."""
    if column.kind == "bag":
        lengths = np.asarray(pc.list_value_length(values).fill_null(0))
        words = np.zeros((len(values), max(int(lengths.max(initial=0)), 1)), np.int64)
        row = np.repeat(np.arange(len(values)), lengths)
        words[row, np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)] = np.asarray(
            values.flatten()
        )
        return torch.from_numpy(words)
    if column.kind == "number":
        flat = np.asarray(values.flatten() if pa.types.is_fixed_size_list(values.type) else values, dtype=np.float32)
        return torch.from_numpy(flat.reshape(len(values), column.dim).copy())
    return torch.from_numpy(np.array(values, dtype=np.int64))


def _ragged(values: pa.Array) -> Ragged:
    offsets = np.asarray(values.offsets).astype(np.int64)
    flat = np.array(values.values)[offsets[0] : offsets[-1]]
    return Ragged(offsets - offsets[0], torch.from_numpy(flat))


def _stays(values: pa.ChunkedArray, last: pa.ChunkedArray) -> bool:
    """Whether a raw column says on each day what it says on the last."""
    return all(values.slice(start, len(last)).equals(last) for start in range(0, len(values), max(len(last), 1)))


def _with_unknown(values: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(values[:1]), values])


def weights_of(questions: Questions, half_life_days: float, end_us: int) -> Tensor:
    """Weight of each question: halves every `half_life_days` before `end_us`, falls with the root of its targets.

    Weight times number of targets is 1 in the mean over questions. Raises InputError when the weights of all are 0.
    """
    lengths = questions.targets.lengths(np.arange(len(questions)))
    age_days = (end_us - questions.bought_us) / DAY_US
    weight = 0.5 ** (age_days / half_life_days) / np.sqrt(np.maximum(lengths, 1))
    if questions.weight is not None:
        weight = weight * questions.weight
    mean = float((weight * lengths).sum() / max(len(questions), 1))
    if mean < _LEAST_WEIGHT and lengths.any():
        raise InputError(
            f"training.half_life_days: with {half_life_days:g} the weights of all {len(questions):,} questions sum to zero, "
            f"since the last was bought {float(age_days[lengths > 0].min()):.1f} days before the end of training. Expected "
            "days or weeks, such as 40."
        )
    return torch.from_numpy((weight / max(mean, _LEAST_WEIGHT)).astype(np.float32))
