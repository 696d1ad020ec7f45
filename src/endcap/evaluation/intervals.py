"""One number per customer in, means with 95% intervals over customers out.

The bootstrap draws customers, not purchases: a customer's purchases hang together, and one who buys a lot counts once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from endcap.contracts.errors import InputError

NUM_RESAMPLES = 1000
NUM_FLIPS = 2000
PERCENTILES = (2.5, 97.5)
_DRAWS_PER_CHUNK = 4_000_000
# A multiple of what any processor's registers hold of one row of a matrix product.
_COLUMNS_AT_ONCE = 32

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Interval:
    """A mean over customers and the 95% interval around it."""

    mean: float
    low: float
    high: float

    @property
    def above_zero(self) -> bool:
        """Whether the whole interval lies above zero."""
        return self.low > 0

    @property
    def below_zero(self) -> bool:
        """Whether the whole interval lies below zero."""
        return self.high < 0


def resample_means(values: FloatArray, *, seed: int, num_resamples: int = NUM_RESAMPLES) -> FloatArray:
    """Means of `values` `[num_customers, num_columns]` over customers drawn with replacement: `[num_resamples, num_columns]`.

    Each resample's draws are turned into a weight per customer (multinomial counts), so that one matrix product serves
    all columns, and columns of one call share their draws. Raises InputError without customers.
    """
    num_customers = len(values)
    if not num_customers:
        raise InputError("There is no customer to resample; the test period holds nobody who bought before it.")
    if num_resamples < 1:
        raise InputError(f"num_resamples is {num_resamples}; expected at least 1.")
    generator = np.random.default_rng(seed)
    num_columns = values.shape[1]
    # Filled up: columns that are left over by a processor's registers are added up in another order, so that equal columns
    # would not have equal means.
    filled = np.zeros((num_customers, -(-num_columns // _COLUMNS_AT_ONCE) * _COLUMNS_AT_ONCE))
    filled[:, :num_columns] = values
    means = np.empty((num_resamples, num_columns))
    rows_per_chunk = max(1, _DRAWS_PER_CHUNK // num_customers)
    for start in range(0, num_resamples, rows_per_chunk):
        num_rows = min(rows_per_chunk, num_resamples - start)
        drawn = generator.integers(0, num_customers, size=(num_rows, num_customers))
        drawn += np.arange(num_rows)[:, None] * num_customers
        weights = np.bincount(drawn.ravel(), minlength=num_rows * num_customers).reshape(num_rows, num_customers)
        means[start : start + num_rows] = (weights.astype(np.float64) @ filled)[:, :num_columns] / num_customers
    return means


def mean_intervals(values: FloatArray, *, seed: int, num_resamples: int = NUM_RESAMPLES) -> list[Interval]:
    """The percentile interval of each column's mean; `values` is `[num_customers, num_columns]`."""
    resampled = resample_means(values, seed=seed, num_resamples=num_resamples)
    return _intervals(values.mean(axis=0), resampled)


def paired_intervals(
    values: FloatArray, others: FloatArray, *, seed: int, num_resamples: int = NUM_RESAMPLES
) -> list[Interval]:
    """The percentile interval of each column's mean difference `values - others`, customer by customer."""
    return mean_intervals(values - others, seed=seed, num_resamples=num_resamples)


def _intervals(means: FloatArray, resampled: FloatArray) -> list[Interval]:
    low, high = np.percentile(resampled, PERCENTILES, axis=0)
    return [Interval(float(m), float(a), float(b)) for m, a, b in zip(means, low, high, strict=True)]


def weighted_intervals(
    statistic: Callable[[FloatArray], FloatArray], customers: IntArray, *, seed: int, num_resamples: int = NUM_RESAMPLES
) -> list[Interval]:
    """The interval of each number that `statistic` gives, where it is no mean over customers, such as an AUC or an RMSE.

    `statistic` takes one weight per row; a row's weight is how often its customer, `customers[row]` from 0, was drawn.
    Resamples in which a number is NaN (one class alone, say) don't count for it. Raises InputError without rows.
    """
    if not len(customers):
        raise InputError("There is no row to resample; hand over at least one.")
    generator = np.random.default_rng(seed)
    num_customers = int(customers.max()) + 1
    resampled = []
    for _ in range(num_resamples):
        drawn = generator.integers(0, num_customers, size=num_customers)
        resampled.append(statistic(np.bincount(drawn, minlength=num_customers).astype(np.float64)[customers]))
    low, high = np.nanpercentile(np.array(resampled), PERCENTILES, axis=0)
    values = statistic(np.ones(len(customers)))
    return [Interval(float(m), float(a), float(b)) for m, a, b in zip(values, low, high, strict=True)]


def paired_p_values(differences: FloatArray, *, seed: int, num_flips: int = NUM_FLIPS) -> FloatArray:
    """How probable a mean difference as large as each column's is if the two runs were exchangeable customer by customer.

    `differences` is `[num_customers, num_columns]`. Fisher's randomization test, two-sided: signs are flipped at random,
    and the share of flips with a mean at least as far from zero is the p-value (the unflipped one counts as a flip).
    """
    num_customers = len(differences)
    if not num_customers:
        raise InputError("There is no customer to test on; hand over at least one.")
    generator = np.random.default_rng(seed)
    observed = np.abs(differences.sum(axis=0))
    tolerance = 1e-12 * np.abs(differences).sum(axis=0)  # sums in another order differ in their last digits
    rows_per_chunk = max(1, _DRAWS_PER_CHUNK // num_customers)
    num_as_far = np.ones(differences.shape[1])
    for start in range(0, num_flips, rows_per_chunk):
        num_rows = min(rows_per_chunk, num_flips - start)
        signs = generator.integers(0, 2, size=(num_rows, num_customers), dtype=np.int8).astype(np.float64) * 2 - 1
        num_as_far += (np.abs(signs @ differences) >= observed - tolerance).sum(axis=0)
    return np.asarray(num_as_far / (num_flips + 1), dtype=np.float64)


def holm(p_values: FloatArray) -> FloatArray:
    """P-values corrected for being several, so that the chance of one false alarm stays what it was (Holm, 1979)."""
    order = np.argsort(p_values, kind="stable")
    corrected = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1))
    result = np.empty_like(p_values)
    result[order] = np.minimum(corrected, 1.0)
    return result
