"""Files of recommendations and a file of truth in, everything that can be said of them out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from endcap.contracts import columns as c
from endcap.contracts.errors import InputError
from endcap.evaluation import predictions
from endcap.evaluation.files import CodeArray, ids_of, need_columns, numbers_in, read_file, user_column
from endcap.evaluation.intervals import Interval, weighted_intervals
from endcap.evaluation.lists import ListRows, TruthRows, read_lists, read_truth
from endcap.evaluation.predictions import Calibration
from endcap.evaluation.runs import RunsComparison, Settings, compare_lists
from endcap.evaluation.slices import SliceColumn, slice_by, slice_by_count
from endcap.evaluation.surroundings import Past, read_catalog, read_past

PAST_GROUPS = (("none", 0, 0), ("1", 1, 1), ("2-3", 2, 3), ("4-9", 4, 9), ("10+", 10, None))
SCORE_MEANINGS = ("probability", "value")
_TRUTH, _PRODUCTS, _CUSTOMERS, _HISTORY = "the truth", "the products", "the customers", "the history"
_PREDICTION_RESAMPLES = 200

ScoreMeaning = Literal["probability", "value"]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Files:
    """What to read: `recommendations` by the name of their system; the others where they are known.

    `items` is the catalog (`item_id`, perhaps `category`, `vector` and whatever to slice by), `history` what customers had
    before (`user_id`, `item_id`), `users` whatever to slice customers by (`user_id`, …).
    """

    recommendations: Mapping[str, Path]
    truth: Path
    items: Path | None = None
    history: Path | None = None
    users: Path | None = None


@dataclass(frozen=True)
class ScoreQuality:
    """How good the scores of pairs that have both a score and an outcome are, with 95% intervals over customers."""

    num_pairs: int
    num_unscored: int
    metrics: Mapping[str, Interval]
    calibration: Calibration | None = None


@dataclass(frozen=True)
class Assessment:
    """The rankings measured, and the quality of the scores by system where their meaning is known."""

    comparison: RunsComparison
    scores: Mapping[str, ScoreQuality] = field(default_factory=dict)


def assess(
    files: Files,
    *,
    settings: Settings | None = None,
    slices: Sequence[str] = (),
    score_means: ScoreMeaning | None = None,
) -> Assessment:
    """Measure the recommendations in `files` against the truth.

    `slices` name columns, looked for in the truth, then among products, then among customers. With a history, customers
    are also sliced by how much they had before, and products by whether anybody had them. `score_means` says what the
    column `score` holds: the probability of `value` being 1, or an estimate of `value`. Raises InputError with what was
    found, what was expected and what to do.
    """
    settings = settings or Settings()
    table = read_file(files.truth, _TRUTH)
    truth = read_truth(table, _TRUTH)
    items = read_file(files.items, _PRODUCTS) if files.items else None
    users = read_file(files.users, _CUSTOMERS) if files.users else None
    past = read_past(read_file(files.history, _HISTORY), _HISTORY) if files.history else None
    tables = {name: read_file(path, name) for name, path in files.recommendations.items()}
    systems = [read_lists(found, name, name) for name, found in tables.items()]
    columns = [slice_column(name, table, truth, items, users) for name in slices] + (
        _past_slices(truth, past) if past else []
    )
    comparison = compare_lists(
        systems,
        truth,
        settings=settings,
        slices=columns,
        catalog=read_catalog(items, _PRODUCTS) if items is not None else None,
        past=past,
    )
    if score_means is None:
        return Assessment(comparison)
    scores = {
        system.name: score_quality(_with_scores(system, tables[system.name]), truth, score_means, settings.seed)
        for system in systems
    }
    return Assessment(comparison, scores)


def score_quality(lists: ListRows, truth: TruthRows, score_means: ScoreMeaning, seed: int) -> ScoreQuality:
    """Join scores and outcomes pair by pair and measure them; `lists.order` holds minus the score.

    Raises InputError when the truth has no column `value`, no pair has both, or the outcomes don't fit the meaning.
    """
    if truth.values is None:
        raise InputError(
            "the truth: found no column value; scores are compared with it. Add value: 1 for what happened and 0 for what "
            "was shown and left alone, or the number that was to be predicted."
        )
    users = numbers_in(lists.users.ids, truth.users.ids)[lists.users.codes]
    items = numbers_in(lists.items.ids, truth.items.ids)[lists.items.codes]
    inside = (users >= 0) & (items >= 0)
    num_items = np.int64(len(truth.items.ids))
    keys, first = np.unique(users[inside] * num_items + items[inside], return_index=True)
    wanted = truth.users.codes * num_items + truth.items.codes
    if not len(keys):
        raise InputError(
            f"{lists.name}: none of its pairs of customer and product is in the truth; scores need outcomes."
        )
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    both = keys[places] == wanted
    if not both.any():
        raise InputError(
            f"{lists.name}: none of its pairs of customer and product is in the truth; scores need outcomes."
        )
    scores = -np.asarray(lists.order, dtype=np.float64)[inside][first][places[both]]
    groups = np.unique(truth.users.codes[both], return_inverse=True)[1].astype(np.int64)
    measured, calibrated = _measure_scores(truth.values[both], scores, groups, score_means, seed)
    return ScoreQuality(int(both.sum()), int((~both).sum()), measured, calibrated)


def _measure_scores(
    actual: FloatArray, scores: FloatArray, groups: NDArray[np.int64], score_means: ScoreMeaning, seed: int
) -> tuple[dict[str, Interval], Calibration | None]:
    if score_means == "value":
        predictions.errors(actual, scores)  # refuses what is no number, before it is resampled
        return _resampled(lambda weights: _both_errors(actual, scores, weights), ("rmse", "mae"), groups, seed), None
    predictions.auc(actual, scores)  # refuses one class alone, before it is resampled
    ranked = predictions.auc_statistic(actual, scores)

    def auc_and_logloss(weights: FloatArray) -> FloatArray:
        return np.append(ranked(weights), predictions.logloss(actual, scores, weights))

    found = _resampled(auc_and_logloss, ("auc", "logloss"), groups, seed)
    with suppress(InputError):  # nobody has both classes: there is no such number
        grouped = predictions.grouped_auc(actual, scores, groups)
        found |= _resampled(
            lambda weights: np.array([np.average(grouped.each, weights=weights * grouped.num_rows)]),
            ("grouped_auc",),
            np.arange(len(grouped.each)),
            seed,
        )
    return found, predictions.calibration(actual, scores)


def _resampled(
    statistic: Callable[[FloatArray], FloatArray], names: Sequence[str], groups: NDArray[np.int64], seed: int
) -> dict[str, Interval]:
    intervals = weighted_intervals(statistic, groups, seed=seed, num_resamples=_PREDICTION_RESAMPLES)
    return dict(zip(names, intervals, strict=True))


def _both_errors(actual: FloatArray, scores: FloatArray, weights: FloatArray) -> FloatArray:
    found = predictions.errors(actual, scores, weights)
    return np.array([found.rmse, found.mae])


def _with_scores(lists: ListRows, table: pa.Table) -> ListRows:
    """The same rows in the order of their scores, where a rank had decided."""
    if lists.by_score:
        return lists
    need_columns(table, [c.ITEM_ID, c.SCORE], lists.name)
    without_rank = table.select([user_column(table, lists.name), c.ITEM_ID, c.SCORE])
    return read_lists(without_rank, lists.name, lists.name)


def slice_column(
    name: str, table: pa.Table, truth: TruthRows, items: pa.Table | None, users: pa.Table | None
) -> SliceColumn:
    """The groups of the column `name`: of the truth's `table`, of products, or of customers; InputError where none has it."""
    if name in table.column_names:
        return slice_by(name, table[name].take(pa.array(truth.parents)))
    if items is not None and name in items.column_names:
        known = ids_of(items[c.ITEM_ID], c.ITEM_ID, _PRODUCTS)
        return _looked_up(name, items, known.ids.take(pa.array(known.codes)), truth.items.ids, truth.items.codes)
    if users is not None and name in users.column_names:
        known = ids_of(users[user_column(users, _CUSTOMERS)], c.USER_ID, _CUSTOMERS)
        if len(known.ids) < users.num_rows:
            raise InputError(f"{_CUSTOMERS}: some customers have several rows; expected one row each.")
        return _looked_up(name, users, known.ids.take(pa.array(known.codes)), truth.users.ids, truth.users.codes)
    known_columns = dict.fromkeys(
        column for part in (table, items, users) if part is not None for column in part.column_names
    )
    raise InputError(
        f"Slices by {name!r}: found no such column; the files have {', '.join(known_columns)}. Name one of these, or hand over "
        "the file that has it (--items or --users)."
    )


def _looked_up(name: str, table: pa.Table, known: pa.Array, wanted: pa.Array, codes: CodeArray) -> SliceColumn:
    places = numbers_in(wanted, known)[codes]
    return slice_by(name, table[name].take(pa.array(places, mask=places < 0)))


def _past_slices(truth: TruthRows, past: Past) -> list[SliceColumn]:
    counts = np.append(np.bincount(past.users.codes, minlength=len(past.users.ids)), 0)  # the last: nobody of the past
    earlier = counts[numbers_in(truth.users.ids, past.users.ids)][truth.users.codes]
    is_known = numbers_in(truth.items.ids, past.items.ids)[truth.items.codes] >= 0
    products = SliceColumn("product", ("had by somebody before", "had by nobody before"), 1 - is_known.astype(np.int64))
    return [slice_by_count("earlier events", earlier, PAST_GROUPS), products]
