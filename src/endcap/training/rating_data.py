"""The table of lines and fitted transforms in, tensors out: questions, and ragged lists of the pairs they are asked of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from endcap.contracts.errors import InputError
from endcap.features.fitted import FittedFeatures
from endcap.features.lines import HISTORY_TARGET, TARGET_VALUES
from endcap.features.point_in_time import DAY_US
from endcap.features.transforms.target import FittedTarget
from endcap.models.rating import OwnLines, TargetMoments
from endcap.training.data import Questions, Ragged, dense, questions_of, vocabulary_of

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RatedQuestions:
    """Questions and, for each, its lines: item index (0 unknown), learned target, what the history says of the product."""

    questions: Questions
    item: Ragged
    target: Ragged
    count: Ragged
    age_days: Ragged
    last: Ragged

    def own(self, rows: IntArray, lengths: IntArray) -> OwnLines:
        """What the histories of some questions say of their lines."""
        return OwnLines(*(ragged.take(rows, lengths) for ragged in (self.count, self.age_days, self.last)))


@dataclass(frozen=True)
class RatedPeriod:
    """Lines to be predicted: each with its product's columns as of its own day, and its target in the shop's units."""

    rated: RatedQuestions
    product: dict[str, Tensor]
    value: FloatArray
    day: int
    """Whose catalog tells what histories are made of."""


@dataclass(frozen=True)
class Rated:
    """What a rating head is trained on, and what it is measured on after each epoch (None: nothing)."""

    train: RatedQuestions
    target: FittedTarget
    evaluate: RatedPeriod | None = None

    @property
    def moments(self) -> TargetMoments:
        """Of the learned target."""
        values = self.train.target.values.double()
        return TargetMoments(float(values.mean()), max(float(values.std(correction=0)), 1e-6))


def rated_questions(
    fitted: FittedFeatures, target: FittedTarget, lines: pa.Table, *, known_alone: bool
) -> RatedQuestions:
    """Lines whose target is missing are left out, and with `known_alone` those of products that no vocabulary knows.

    Raises InputError when none is left.
    """
    questions = questions_of(fitted, lines)
    lists = lines["targets"].combine_chunks()
    offsets = np.asarray(lists.offsets).astype(np.int64)
    items = np.asarray(vocabulary_of(fitted).apply(lists.values))[offsets[0] : offsets[-1]].astype(np.int64)
    rows = np.repeat(np.arange(lines.num_rows), np.diff(offsets))
    learned = target.transform(_flat(lines[TARGET_VALUES]))
    kept = np.isfinite(learned) & ((items > 0) | (not known_alone))
    if not kept.any():
        raise InputError(
            f"None of {len(items):,} lines has both a {target.column} and a product that the catalog knows: there is "
            "nothing to learn from. Check features.target and the split."
        )
    rows, items = rows[kept], items[kept]
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=lines.num_rows))]).astype(np.int64)
    own = _own(fitted, target, lines, questions, rows, items)
    return RatedQuestions(
        questions,
        Ragged(starts, torch.from_numpy(items)),
        Ragged(starts, torch.from_numpy(learned[kept].astype(np.float32))),
        *(Ragged(starts, torch.from_numpy(values.astype(np.float32))) for values in own),
    )


def _own(
    fitted: FittedFeatures, target: FittedTarget, lines: pa.Table, questions: Questions, rows: IntArray, items: IntArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Count, age and last learned target of each line's product in its question's history."""
    count, age, last = np.zeros(len(rows)), np.zeros(len(rows)), np.full(len(rows), np.nan)
    if questions.history is None:
        return count, age, last
    items_of, ages_of, counts_of = questions.history.values()
    entry = items_of.values.numpy()
    num_items = int(max(entry.max(initial=0), items.max(initial=0))) + 1
    key = np.repeat(np.arange(len(questions)), np.diff(items_of.offsets)) * num_items + entry
    order = np.argsort(key, kind="stable")
    wanted = rows * num_items + items
    place = np.minimum(np.searchsorted(key[order], wanted), max(len(order) - 1, 0))
    found = (items > 0) & (key[order][place] == wanted) if len(order) else np.zeros(len(rows), np.bool_)
    met = order[place[found]]
    count[found], age[found] = counts_of.values.numpy()[met], ages_of.values.numpy()[met]
    name = f"{fitted.definition.history}_{HISTORY_TARGET}"
    if name in lines.column_names:
        before = _flat(lines[name])
        last[found] = np.where(np.asarray(before) == 0, np.nan, target.transform(before))[met]
    return count, age, last


def rated_period(
    fitted: FittedFeatures, target: FittedTarget, lines: pa.Table, products: pa.Table, day: int
) -> RatedPeriod:
    """`products` are feature rows by `day` and `item_id`, the same products on each day, that of every line among them."""
    rated = rated_questions(fitted, target, lines, known_alone=False)
    rows = lines_with_products(lines, products, target)
    tensors = fitted.apply("product", rows)
    columns = {column.name: dense(column, tensors[column.name]) for column in fitted.columns("product")}
    return RatedPeriod(rated, columns, rows[TARGET_VALUES].to_numpy(), day)


def lines_with_products(lines: pa.Table, products: pa.Table, target: FittedTarget) -> pa.Table:
    """One row a line that has a target, in order: the product's feature row of its day, `question_num`, `target_values`."""
    lists = lines["targets"].combine_chunks()
    offsets = np.asarray(lists.offsets).astype(np.int64)
    values = _flat(lines[TARGET_VALUES])
    kept = np.flatnonzero(np.isfinite(target.transform(values)))
    question = np.repeat(np.arange(lines.num_rows), np.diff(offsets))[kept]
    ids = lists.values.slice(offsets[0], offsets[-1] - offsets[0]).take(pa.array(kept))
    days = products["day"].to_numpy()
    first_day, num_items = int(days.min()), int(np.searchsorted(days, days.min(), side="right"))
    catalog = products["item_id"].slice(0, num_items).combine_chunks()
    item = np.asarray(pa.compute.index_in(ids, value_set=catalog).fill_null(-1))
    day = lines["event_time_us"].to_numpy()[question] // DAY_US
    if len(item) and (item.min() < 0 or day.min() < first_day or day.max() > days.max()):
        raise InputError(
            "The catalog lacks products or days of the lines. Delete the feature tables and run `endcap features` again."
        )
    rows = products.take(pa.array((day - first_day) * num_items + item))
    return rows.append_column("question_num", pa.array(question)).append_column(
        TARGET_VALUES, pa.array(np.asarray(values)[kept])
    )


def _flat(lists: pa.ChunkedArray) -> pa.Array:
    combined = lists.combine_chunks()
    offsets = np.asarray(combined.offsets)
    return combined.values.slice(offsets[0], offsets[-1] - offsets[0])
