"""Logged choices with their probabilities in, what another policy would have earned out, with 95% intervals.

A policy that was never live is judged on the log of one that was: rows are weighted by how much more often the other
policy makes the logged choice. This needs the logged policy to try everything that the other one would do (support),
and probabilities that were true when they were logged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from endcap.contracts.errors import InputError
from endcap.evaluation.intervals import NUM_RESAMPLES, PERCENTILES, Interval

_Z = 1.959963984540054  # of a 95% interval
_FEW_EFFECTIVE = 50
_SUPPORT_Z = 4.0

Method = Literal["normal", "bootstrap"]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Log:
    """One row per logged choice, as aligned arrays.

    `propensities` are the logged policy's probabilities of what it chose, `targets` the other policy's of the same choice
    in the same situation. `groups` number what hangs together (a request, a customer): intervals are over groups. For
    doubly robust estimates, `expected` is a model's reward for the logged choice, and `expected_target` the mean of the
    model's rewards over what the other policy would choose; the model must not have seen the row itself (`fold_rates`).
    """

    rewards: FloatArray
    propensities: FloatArray
    targets: FloatArray
    groups: IntArray | None = None
    expected: FloatArray | None = None
    expected_target: FloatArray | None = None

    def __post_init__(self) -> None:
        """Raise InputError when arrays don't fit each other or hold what can't be."""
        num_rows = len(self.rewards)
        if not num_rows:
            raise InputError("The log has no rows; at least one logged choice with its propensity is needed.")
        given = {"propensities": self.propensities, "targets": self.targets, "groups": self.groups,
                 "expected": self.expected, "expected_target": self.expected_target}  # fmt: skip
        for name, values in given.items():
            if values is not None and (len(values) != num_rows or not np.isfinite(values).all()):
                raise InputError(f"{name}: {len(values)} values, some perhaps missing, for {num_rows} rows; expected a "
                                 "number for each.")  # fmt: skip
        if not np.isfinite(self.rewards).all():
            raise InputError("Some rewards are missing or not finite; expected a number for each row (0 for none).")
        if float(self.propensities.min()) <= 0 or float(self.propensities.max()) > 1:
            raise InputError(
                f"Propensities lie between {self.propensities.min():g} and {self.propensities.max():g}; expected above 0 and "
                "at most 1: the probability with which the logged policy chose what it chose."
            )
        if float(self.targets.min()) < 0 or float(self.targets.max()) > 1:
            raise InputError(
                f"Target probabilities lie between {self.targets.min():g} and {self.targets.max():g}; expected 0 to 1."
            )


@dataclass(frozen=True)
class Estimate:
    """What the other policy would earn per row, and how it stands to what the logged one did earn.

    `effective_size` is how many unweighted rows would tell as much (Kish); `mean_weight` should be near 1.
    """

    estimator: str
    value: Interval
    logged: Interval
    difference: Interval
    num_rows: int
    effective_size: float
    mean_weight: float
    max_weight: float
    share_clipped: float
    notes: tuple[str, ...]


def ips(log: Log, *, clip: float | None = None, method: Method = "normal", seed: int = 0) -> Estimate:
    """Inverse propensity scoring: mean of weight × reward (Horvitz and Thompson, 1952).

    `clip` bounds the weights: less spread, at the price of a bias towards 0.
    """
    weights = _weights(log, clip)
    return _estimate("IPS", log, weights, weights * log.rewards, None, clip, method, seed)


def snips(log: Log, *, clip: float | None = None, method: Method = "normal", seed: int = 0) -> Estimate:
    """Self-normalized IPS: the weighted mean of rewards (Swaminathan and Joachims, 2015); never outside their range."""
    weights = _weights(log, clip)
    if not weights.sum():
        raise InputError("The other policy makes none of the logged choices, so that nothing can be said of it.")
    return _estimate("SNIPS", log, weights, weights * log.rewards, weights, clip, method, seed)


def doubly_robust(log: Log, *, clip: float | None = None, method: Method = "normal", seed: int = 0) -> Estimate:
    """A model's expectation, corrected by the weighted errors that it makes on the log (Dudík et al., 2011).

    Right on average when either the propensities or the model are, and narrower than IPS where the model is any good.
    Raises InputError when the log has no model's rewards.
    """
    if log.expected is None or log.expected_target is None:
        raise InputError(
            "A doubly robust estimate needs a model's rewards: set expected and expected_target of the log."
        )
    weights = _weights(log, clip)
    values = log.expected_target + weights * (log.rewards - log.expected)
    return _estimate("DR", log, weights, values, None, clip, method, seed)


def fold_rates(choices: IntArray, rewards: FloatArray, num_choices: int, *, num_folds: int = 5, seed: int = 0,
               strength: float = 100.0) -> FloatArray:  # fmt: skip
    """A plain model for `doubly_robust`: each choice's mean reward, fitted without the row's own fold.

    Means are drawn to the overall mean as by `strength` rows of it. Returns `[num_rows, num_choices]`: the reward
    expected of every choice as the row's fold sees it. Folds are drawn row by row.
    """
    tables, folds = fold_tables(choices, rewards, num_choices, num_folds=num_folds, seed=seed, strength=strength)
    return np.asarray(tables[folds], dtype=np.float64)


def fold_tables(choices: IntArray, rewards: FloatArray, num_choices: int, *, num_folds: int = 5, seed: int = 0,
                strength: float = 100.0) -> tuple[FloatArray, IntArray]:  # fmt: skip
    """The same as one row `[num_choices]` for each fold, and the fold of each logged row."""
    folds = np.random.default_rng(seed).integers(0, num_folds, size=len(choices))
    tables = np.empty((num_folds, num_choices))
    for fold in range(num_folds):
        others = folds != fold
        overall = float(rewards[others].mean()) if others.any() else float(rewards.mean())
        counts = np.bincount(choices[others], minlength=num_choices)
        totals = np.bincount(choices[others], weights=rewards[others], minlength=num_choices)
        tables[fold] = (totals + strength * overall) / (counts + strength)
    return tables, folds


def _weights(log: Log, clip: float | None) -> FloatArray:
    if clip is not None and clip <= 0:
        raise InputError(f"clip is {clip:g}; expected a weight above 0, such as 10, or none.")
    weights = log.targets / log.propensities
    return weights if clip is None else np.minimum(weights, clip)


def _estimate(
    estimator: str,
    log: Log,
    weights: FloatArray,
    values: FloatArray,
    divisors: FloatArray | None,
    clip: float | None,
    method: Method,
    seed: int,
) -> Estimate:
    """The mean of `values`, or their sum over that of `divisors`; both beside the mean of rewards."""
    groups = np.arange(len(values)) if log.groups is None else np.unique(log.groups, return_inverse=True)[1]
    sums = np.stack([
        np.bincount(groups, weights=values),
        np.bincount(groups, weights=np.ones(len(values)) if divisors is None else divisors),
        np.bincount(groups, weights=log.rewards),
        np.bincount(groups).astype(np.float64),
    ], axis=1)  # fmt: skip
    value, logged, difference = _normal(sums) if method == "normal" else _bootstrapped(sums, seed)
    raw = log.targets / log.propensities
    effective = float(weights.sum() ** 2 / (weights**2).sum()) if weights.any() else 0.0
    return Estimate(
        estimator=estimator,
        value=value,
        logged=logged,
        difference=difference,
        num_rows=len(values),
        effective_size=effective,
        mean_weight=float(weights.mean()),
        max_weight=float(weights.max()),
        share_clipped=float((raw > weights).mean()),
        notes=_notes(raw, effective, clip),
    )


def _ratios(totals: FloatArray) -> FloatArray:
    value, logged = totals[..., 0] / totals[..., 1], totals[..., 2] / totals[..., 3]
    return np.stack([value, logged, value - logged], axis=-1)


def _normal(sums: FloatArray) -> tuple[Interval, Interval, Interval]:
    """Intervals by the delta method: each number is a ratio of sums over groups."""
    ratios = _ratios(sums.sum(axis=0))
    num_groups = len(sums)
    first = (sums[:, 0] - ratios[0] * sums[:, 1]) / sums[:, 1].mean()
    second = (sums[:, 2] - ratios[1] * sums[:, 3]) / sums[:, 3].mean()
    found = []
    for ratio, influence in zip(ratios, (first, second, first - second), strict=True):
        half = _Z * float(np.sqrt((influence**2).sum() / max(num_groups - 1, 1) / num_groups))
        found.append(Interval(float(ratio), float(ratio) - half, float(ratio) + half))
    return found[0], found[1], found[2]


def _bootstrapped(sums: FloatArray, seed: int) -> tuple[Interval, Interval, Interval]:
    generator = np.random.default_rng(seed)
    num_groups = len(sums)
    totals = np.empty((NUM_RESAMPLES, 4))
    for number in range(NUM_RESAMPLES):
        drawn = np.bincount(generator.integers(0, num_groups, size=num_groups), minlength=num_groups)
        totals[number] = drawn @ sums
    low, high = np.nanpercentile(_ratios(totals), PERCENTILES, axis=0)
    ratios = _ratios(sums.sum(axis=0))
    found = [Interval(float(m), float(a), float(b)) for m, a, b in zip(ratios, low, high, strict=True)]
    return found[0], found[1], found[2]


def _notes(raw: FloatArray, effective: float, clip: float | None) -> tuple[str, ...]:
    notes = []
    if effective < _FEW_EFFECTIVE:
        notes.append(
            f"The weights leave {effective:.0f} effective rows of {len(raw):,}: too few for the interval to be trusted."
        )
    spread = float(raw.std()) / len(raw) ** 0.5
    if abs(float(raw.mean()) - 1) > _SUPPORT_Z * spread + 1e-9:
        notes.append(
            f"The mean weight is {raw.mean():.3f}, not 1: the log lacks choices that the other policy makes, or the "
            "probabilities are not those that were in force."
        )
    if clip is not None and (raw > clip).any():
        notes.append(f"{(raw > clip).mean():.1%} of the weights were cut at {clip:g}: the value is biased towards 0.")
    return tuple(notes)
