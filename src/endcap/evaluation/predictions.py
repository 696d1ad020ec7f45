"""Scores given to customer-product pairs and what then happened in, how good the scores are as probabilities or values out.

Every function takes one weight per row where a bootstrap needs it; without, each row counts once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from endcap.contracts.errors import InputError

NUM_BINS = 10
_SMALLEST_PROBABILITY = 1e-15

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Bin:
    """One bin of a reliability diagram: scores in `(low, high]` (the first bin holds its `low` too)."""

    low: float
    high: float
    mean_score: float
    observed: float
    num_rows: int


@dataclass(frozen=True)
class Calibration:
    """How far scores are from the rates that are observed.

    `expected_error` is the expected calibration error: the mean over rows of |mean score - observed rate| of the row's
    bin; `bias` is mean score minus observed rate over all rows. Empty bins are left out.
    """

    expected_error: float
    bias: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class GroupedAuc:
    """AUC customer by customer; customers with one class alone have none and are left out.

    `each` and `num_rows` are those of the customers who are left.
    """

    value: float
    num_left_out: int
    each: FloatArray
    num_rows: IntArray


@dataclass(frozen=True)
class TargetScale:
    """What was done to a target before it was learned: clipped to `[low, high]`, then `log(1 + x)` where `is_log`."""

    low: float = -np.inf
    high: float = np.inf
    is_log: bool = False

    def apply(self, values: FloatArray) -> FloatArray:
        """From the shop's own units to those that are learned."""
        clipped = np.clip(values, self.low, self.high)
        return np.asarray(np.log1p(clipped) if self.is_log else clipped, dtype=np.float64)

    def invert(self, values: FloatArray) -> FloatArray:
        """Back to the shop's own units, within the clip."""
        return np.asarray(np.clip(np.expm1(values) if self.is_log else values, self.low, self.high), dtype=np.float64)


@dataclass(frozen=True)
class Errors:
    """Root of the mean squared error, and mean absolute error, in the units of the values that were handed in."""

    rmse: float
    mae: float


def auc(labels: FloatArray, scores: FloatArray, weights: FloatArray | None = None) -> float:
    """The chance that a row labelled 1 scores above a row labelled 0; a tie counts half.

    Raises InputError when labels are no 0 or 1, a score is no number, or one class alone is there.
    """
    _check(labels, scores)
    weights = np.ones(len(labels)) if weights is None else weights
    positive, negative = float((weights * labels).sum()), float((weights * (1 - labels)).sum())
    if not positive or not negative:
        found, missing = (0, 1) if not positive else (1, 0)
        raise InputError(
            f"An AUC compares both classes: found {found} in all {len(labels):,} rows that have a score and an outcome "
            f"(column value), expected {missing} in some too. Add rows of that class: what was shown and left alone is 0."
        )
    return float(_won(labels, scores, weights, np.zeros(len(labels), np.int64), 1)[0] / (positive * negative))


def auc_statistic(labels: FloatArray, scores: FloatArray) -> Callable[[FloatArray], FloatArray]:
    """The AUC as a function of weights alone, for `weighted_intervals`: sorted once, NaN where one class is missing."""
    _check(labels, scores)
    order = np.argsort(scores, kind="stable")
    labels = labels[order]
    starts = np.flatnonzero(np.concatenate(([True], np.diff(scores[order]) > 0)))

    def statistic(weights: FloatArray) -> FloatArray:
        positives = np.add.reduceat(weights[order] * labels, starts)
        negatives = np.add.reduceat(weights[order] * (1 - labels), starts)
        num_pairs = positives.sum() * negatives.sum()
        if not num_pairs:
            return np.array([np.nan])
        below = np.cumsum(negatives) - negatives
        return np.array([(positives * (below + negatives / 2)).sum() / num_pairs])

    return statistic


def grouped_auc(labels: FloatArray, scores: FloatArray, groups: IntArray) -> GroupedAuc:
    """The mean of each customer's own AUC, weighted by their rows (Zhu et al., 2017).

    `groups` numbers the customer of each row from 0. Raises InputError when no customer has rows of both classes.
    """
    _check(labels, scores)
    num_groups = int(groups.max(initial=-1)) + 1
    num_rows = np.bincount(groups, minlength=num_groups)
    positive = np.bincount(groups, weights=labels, minlength=num_groups)
    negative = num_rows - positive
    both = (positive > 0) & (negative > 0)
    if not both.any():
        raise InputError(
            f"None of {int((num_rows > 0).sum()):,} customers has rows of both classes, so that no customer has an AUC; "
            "add rows labelled 0 (shown and left alone) to those labelled 1."
        )
    won = _won(labels, scores, np.ones(len(labels)), groups, num_groups)
    each = won[both] / (positive[both] * negative[both])
    value = float(np.average(each, weights=num_rows[both]))
    return GroupedAuc(value, int(((num_rows > 0) & ~both).sum()), each, num_rows[both].astype(np.int64))


def logloss(labels: FloatArray, probabilities: FloatArray, weights: FloatArray | None = None) -> float:
    """Mean of -log of the probability given to what happened; probabilities are kept 1e-15 away from 0 and 1.

    Raises InputError when labels are no 0 or 1, or a probability lies outside `[0, 1]`.
    """
    _check_probabilities(labels, probabilities)
    kept = np.clip(probabilities, _SMALLEST_PROBABILITY, 1 - _SMALLEST_PROBABILITY)
    losses = -np.where(labels == 1, np.log(kept), np.log1p(-kept))
    return float(np.average(losses, weights=weights))


def calibration(
    labels: FloatArray, probabilities: FloatArray, *, num_bins: int = NUM_BINS, equal_counts: bool = False
) -> Calibration:
    """Expected calibration error and the bins of a reliability diagram.

    Bins are equally wide in `[0, 1]`, or hold equally many rows (as far as ties allow) with `equal_counts`, which
    suits rare events. Raises InputError as `logloss` does.
    """
    _check_probabilities(labels, probabilities)
    edges = np.linspace(0, 1, num_bins + 1)
    if equal_counts:
        edges = np.unique(np.concatenate(([0.0], np.quantile(probabilities, edges[1:-1]), [1.0])))
    places = np.clip(np.searchsorted(edges, probabilities, side="left") - 1, 0, len(edges) - 2)
    counts = np.bincount(places, minlength=len(edges) - 1)
    scores = np.bincount(places, weights=probabilities, minlength=len(edges) - 1)
    happened = np.bincount(places, weights=labels, minlength=len(edges) - 1)
    bins = tuple(
        Bin(float(edges[i]), float(edges[i + 1]), float(scores[i] / n), float(happened[i] / n), int(n))
        for i, n in enumerate(counts)
        if n
    )
    expected = sum(abs(one.mean_score - one.observed) * one.num_rows for one in bins) / len(labels)
    return Calibration(float(expected), float(probabilities.mean() - labels.mean()), bins)


def errors(actual: FloatArray, predicted: FloatArray, weights: FloatArray | None = None) -> Errors:
    """RMSE and MAE of predictions. Raises InputError without rows or where a number is none."""
    _check_numbers(actual, predicted)
    gaps = predicted - actual
    return Errors(
        float(np.sqrt(np.average(gaps**2, weights=weights))), float(np.average(np.abs(gaps), weights=weights))
    )


def errors_in_own_units(
    actual: FloatArray, predicted: FloatArray, invert: Callable[[FloatArray], FloatArray]
) -> Errors:
    """RMSE and MAE in the target's own units: `actual` as the shop has it, unclipped; `predicted` as it was learned.

    `invert` brings predictions back, such as `TargetScale(...).invert`.
    """
    return errors(actual, invert(predicted))


def _won(labels: FloatArray, scores: FloatArray, weights: FloatArray, groups: IntArray, num_groups: int) -> FloatArray:
    """Per group, the weight of pairs in which the row labelled 1 scores above the one labelled 0; ties count half."""
    order = np.lexsort((scores, groups))
    groups, scores = groups[order], scores[order]
    positives, negatives = (weights * labels)[order], (weights * (1 - labels))[order]
    new = np.ones(len(order), dtype=np.bool_)
    new[1:] = (groups[1:] != groups[:-1]) | (scores[1:] != scores[:-1])
    starts = np.flatnonzero(new)
    tied_positives, tied_negatives = np.add.reduceat(positives, starts), np.add.reduceat(negatives, starts)
    below = np.cumsum(tied_negatives) - tied_negatives
    tied_groups = groups[starts]
    first = np.flatnonzero(np.concatenate(([True], np.diff(tied_groups) > 0)))
    below -= np.repeat(below[first], np.diff(np.append(first, len(starts))))
    won = tied_positives * (below + tied_negatives / 2)
    return np.bincount(tied_groups, weights=won, minlength=num_groups).astype(np.float64)


def _check(labels: FloatArray, scores: FloatArray) -> None:
    _check_numbers(labels, scores)
    if not np.isin(labels, (0, 1)).all():
        odd = float(labels[~np.isin(labels, (0, 1))][0])
        raise InputError(f"Labels hold {odd:g}; expected 0 (did not happen) and 1 (happened) alone.")


def _check_probabilities(labels: FloatArray, probabilities: FloatArray) -> None:
    _check(labels, probabilities)
    low, high = float(probabilities.min()), float(probabilities.max())
    if low < 0 or high > 1:
        raise InputError(
            f"Scores lie between {low:g} and {high:g}; probabilities between 0 and 1 were expected. Hand over calibrated "
            "probabilities, or ask for AUC alone, which needs none."
        )


def _check_numbers(labels: FloatArray, scores: FloatArray) -> None:
    if len(labels) != len(scores) or not len(labels):
        raise InputError(f"{len(labels)} outcomes and {len(scores)} scores; expected as many, and at least one row.")
    for name, values in (("outcomes", labels), ("scores", scores)):
        if not np.isfinite(values).all():
            raise InputError(
                f"{int((~np.isfinite(values)).sum())} of {len(values)} {name} are missing or not finite; leave those rows out."
            )
