"""What happened and what several systems predicted in, their errors side by side with intervals over customers out.

Errors are told twice: on the learned scale (clipped and logged, where the target is) and in the shop's own units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from endcap.contracts.errors import InputError
from endcap.contracts.release import Blessing
from endcap.evaluation.gate import GraphParity, Thresholds
from endcap.evaluation.intervals import NUM_RESAMPLES, PERCENTILES, Interval, resample_means
from endcap.evaluation.predictions import TargetScale

RATING_METRICS = ("rmse", "mae", "rmse_own_units", "mae_own_units")
NUM_DECILES = 10

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A straight line from scores to what is expected of them."""

    slope: float = 1.0
    intercept: float = 0.0

    @classmethod
    def fit(cls, scores: FloatArray, target: FloatArray) -> Self:
        """By least squares; scores that don't differ, or run against the target, give its mean."""
        spread = float(scores.var())
        slope = float(((scores - scores.mean()) * (target - target.mean())).mean()) / spread if spread > 1e-12 else 0.0
        slope = max(slope, 0.0)
        return cls(slope, float(target.mean() - slope * scores.mean()))

    def apply(self, scores: FloatArray) -> FloatArray:
        """On the learned scale."""
        return np.asarray(self.slope * scores + self.intercept, np.float64)


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What brings a system's scores to the target's learned scale, and from there to means in the shop's own units.

    The inverse of a logged mean is a median: `smearing`, the mean of e to the residuals, makes a mean of it (Duan, JASA
    1983). It is 1 where the target isn't logged.
    """

    line: Line
    smearing: float
    low: float
    high: float
    is_log: bool

    @classmethod
    def fit(cls, scores: FloatArray, target: FloatArray, scale: TargetScale) -> Self:
        """`target` as it is learned; `scale` says how it was made."""
        line = Line.fit(scores, target)
        smearing = float(np.exp(target - line.apply(scores)).mean()) if scale.is_log else 1.0
        return cls(line, smearing, float(scale.low), float(scale.high), scale.is_log)

    def own_units(self, scores: FloatArray) -> FloatArray:
        """Means in the shop's own units, within the clip."""
        learned = self.line.apply(scores)
        if self.is_log:
            learned = self.smearing * np.exp(np.minimum(learned, 80.0)) - 1.0
            return np.asarray(np.clip(learned, max(self.low, 0.0), self.high), np.float64)
        return np.asarray(np.clip(learned, self.low, self.high), np.float64)


@dataclass(frozen=True)
class Lines:
    """What happened: one row a line. `value` in own units, `learned` as it was learned, the customer's number from 0."""

    value: FloatArray
    learned: FloatArray
    customer: IntArray
    slices: Mapping[str, BoolArray] = field(default_factory=dict)


@dataclass(frozen=True)
class RatedSystem:
    """What one system predicts of each line, calibrated: on the learned scale and in own units."""

    name: str
    title: str
    learned: FloatArray
    own_units: FloatArray


@dataclass(frozen=True)
class RatingScores:
    """How one system did."""

    name: str
    title: str
    metrics: Mapping[str, Interval]


@dataclass(frozen=True)
class RatingSlice:
    """Some of the lines: the candidate's RMSE and that of each other system, and what was predicted of them."""

    label: str
    num_lines: int
    rmse: Mapping[str, float]
    mean_predicted: float
    mean_actual: float


@dataclass(frozen=True)
class CalibrationBin:
    """A tenth of the lines by the candidate's prediction: what it said and what it came to, in own units."""

    low: float
    high: float
    mean_predicted: float
    mean_actual: float
    num_lines: int


@dataclass(frozen=True)
class RatingComparison:
    """The candidate (the first system) beside the others on the same lines and resamples.

    `differences` are RMSE of the candidate minus that of another system, on the learned scale, paired; `ratios` the former
    over the latter, `own_units_ratios` the same in own units. They are below 0 and 1 where the candidate is better. Own
    units are clipped where the target is.
    """

    target: str
    num_lines: int
    num_customers: int
    systems: Sequence[RatingScores]
    differences: Mapping[str, Interval]
    ratios: Mapping[str, Interval]
    slices: Sequence[RatingSlice]
    bins: Sequence[CalibrationBin]
    probabilities: Mapping[str, float] = field(default_factory=dict)
    """Of a target between 0 and 1: auc, grouped auc and logloss of the candidate."""
    own_units_ratios: Mapping[str, Interval] = field(default_factory=dict)

    @property
    def candidate(self) -> RatingScores:
        """The system that is judged."""
        return self.systems[0]

    def flat_metrics(self) -> dict[str, float]:
        """The candidate's values; for manifests and trackers."""
        return {name: one.mean for name, one in self.candidate.metrics.items()} | dict(self.probabilities)


def compare_ratings(
    target: str,
    lines: Lines,
    systems: Sequence[RatedSystem],
    scale: TargetScale,
    *,
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
) -> RatingComparison:
    """Measure all systems on the same lines and the same resamples of customers.

    Raises InputError without lines or without a system beside the candidate.
    """
    if len(systems) < 2 or not len(lines.value):
        raise InputError(
            f"{len(lines.value):,} lines and {len(systems)} systems to compare; expected one line and two systems at least."
        )
    bounded = np.clip(lines.value, scale.low, scale.high)
    sums = _per_customer(lines, systems, bounded)
    means = sums.mean(axis=0)
    resampled = resample_means(sums, seed=seed, num_resamples=num_resamples)
    measured, draws = _errors(means[None, :])[0], _errors(resampled)
    scores = [
        RatingScores(
            system.name,
            system.title,
            {name: _interval(measured[i, j], draws[:, i, j]) for j, name in enumerate(RATING_METRICS)},
        )
        for i, system in enumerate(systems)
    ]
    others = list(enumerate(systems))[1:]
    return RatingComparison(
        target=target,
        num_lines=len(lines.value),
        num_customers=len(sums),
        systems=scores,
        differences={
            one.name: _interval(measured[0, 0] - measured[i, 0], draws[:, 0, 0] - draws[:, i, 0]) for i, one in others
        },
        ratios={
            one.name: _interval(measured[0, 0] / measured[i, 0], draws[:, 0, 0] / draws[:, i, 0]) for i, one in others
        },
        slices=_slices(lines, systems, bounded),
        bins=_bins(systems[0].own_units, bounded),
        own_units_ratios={
            one.name: _interval(measured[0, 2] / measured[i, 2], draws[:, 0, 2] / draws[:, i, 2]) for i, one in others
        },
    )


def judge_ratings(
    comparison: RatingComparison,
    *,
    trees: str | None,
    max_loss: float,
    min_customers: int,
    parity: GraphParity | None = None,
    max_parity_gap: float = Thresholds.max_parity_gap,
    champion: str | None = None,
    champion_margin: float = Thresholds.champion_margin,
) -> Blessing:
    """Bless a candidate that beats each simple rule beyond doubt and comes within `max_loss` of the boosted trees' RMSE.

    `trees` names that system among the others; None where it didn't run, or is the candidate itself. `parity` says how far
    the exported graph is from what was trained, where both were asked. Below the system `champion`, where there is one, the
    whole interval must lie by more than `champion_margin`.
    """
    enough = comparison.num_customers >= min_customers
    measured = f"measured on {comparison.num_lines:,} lines of {comparison.num_customers:,} customers"
    reasons = [(enough, f"Ratings: {measured}; at least {min_customers:,} customers are asked for.")]
    if parity is not None:
        passed = parity.max_gap <= max_parity_gap  # NaN does not pass
        told = f"rank.onnx differs from what was trained by {parity.max_gap:.2g} at most over {parity.num_compared:,} lines"
        rule = f"{'no more than' if passed else 'expected at most'} {max_parity_gap:.2g}"
        reasons.append((passed, f"Ratings: {told}; {rule}."))
    rmse = comparison.candidate.metrics["rmse"].mean
    for system in comparison.systems[1:]:
        difference, ratio = comparison.differences[system.name], comparison.ratios[system.name]
        told = f"rmse is {rmse:.4f} against {system.metrics['rmse'].mean:.4f} of {system.title}"
        if system.name == trees:
            told += f" (ratio {ratio.mean:.4f}, 95% interval {ratio.low:.4f} to {ratio.high:.4f})"
            passed = ratio.mean <= 1 + max_loss
            rule = f"no more than {1 + max_loss:.4f} times as much {'' if passed else 'is '}allowed"
            reasons.append((passed, f"Ratings: {told}; {rule}."))
            continue
        told += f" (difference {difference.mean:+.4f}, 95% interval {difference.low:+.4f} to {difference.high:+.4f})"
        margin = champion_margin if system.name == champion else 0.0
        passed = difference.high < -margin
        bound = f"{-margin:.4f}" if margin else "zero"
        reasons.append((passed, f"Ratings: {told}{'' if passed else f'; the interval must lie below {bound}'}."))
    failed = [reason for passed, reason in reasons if not passed]
    return Blessing("NOT_BLESSED", failed) if failed else Blessing("BLESSED", [reason for _, reason in reasons])


def _per_customer(lines: Lines, systems: Sequence[RatedSystem], bounded: FloatArray) -> FloatArray:
    """Sums over each customer's lines: how many, then squared and absolute errors of each system on both scales."""
    numbers, customer = np.unique(lines.customer, return_inverse=True)
    columns = [np.ones(len(customer))]
    for system in systems:
        as_learned, own = system.learned - lines.learned, system.own_units - bounded
        columns += [as_learned**2, np.abs(as_learned), own**2, np.abs(own)]
    return np.stack([np.bincount(customer, weights=column, minlength=len(numbers)) for column in columns], axis=1)


def _errors(means: FloatArray) -> FloatArray:
    """From means over customers `[rows, 1 + 4 * systems]` to `[rows, systems, 4]`: as `RATING_METRICS` says."""
    share = (means[:, 1:] / means[:, :1]).reshape(len(means), -1, len(RATING_METRICS))
    share[:, :, [0, 2]] = np.sqrt(share[:, :, [0, 2]])
    return share


def _interval(value: float, draws: FloatArray) -> Interval:
    low, high = np.percentile(draws, PERCENTILES)
    return Interval(float(value), float(low), float(high))


def _slices(lines: Lines, systems: Sequence[RatedSystem], bounded: FloatArray) -> list[RatingSlice]:
    return [
        RatingSlice(
            label,
            int(inside.sum()),
            {one.name: float(np.sqrt(((one.learned - lines.learned)[inside] ** 2).mean())) for one in systems},
            float(systems[0].own_units[inside].mean()),
            float(bounded[inside].mean()),
        )
        for label, inside in lines.slices.items()
        if inside.any()
    ]


def _bins(predicted: FloatArray, actual: FloatArray) -> list[CalibrationBin]:
    order = np.argsort(predicted, kind="stable")
    return [
        CalibrationBin(
            float(predicted[rows[0]]),
            float(predicted[rows[-1]]),
            float(predicted[rows].mean()),
            float(actual[rows].mean()),
            len(rows),
        )
        for rows in np.array_split(order, min(NUM_DECILES, len(order)))
    ]
