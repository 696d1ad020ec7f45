"""Batches and how long they took in, what the next will take and whether more is asked than can be done out."""

from __future__ import annotations

import math
from typing import Final

# Share of the latest batch in the running means.
_SMOOTHING: Final = 0.1
# What is assumed of a batch until others of another size tell: so much of its time is for its rows, as against for its
# being a batch; and how much that assumption weighs, in batches that differ by one row.
_PRIOR_SHARE, _PRIOR_WEIGHT = 0.5, 1.0
# How far back the pressure remembers. As long as bursts may be; what comes above that in an overload waits.
_MEMORY_SECONDS: Final = 0.15


class Pace:
    """Seconds of a batch by its rows: a straight line through those so far, the later the more they count."""

    def __init__(self, rows: int, seconds: float) -> None:
        """Begin with one batch."""
        self._rows, self._seconds = float(rows), seconds
        self._variance = self._covariance = 0.0
        self._fit()

    def add(self, rows: int, seconds: float) -> None:
        """One more batch."""
        more_rows, more_seconds = rows - self._rows, seconds - self._seconds
        self._rows += _SMOOTHING * more_rows
        self._seconds += _SMOOTHING * more_seconds
        rest = 1 - _SMOOTHING
        self._variance = rest * (self._variance + _SMOOTHING * more_rows * more_rows)
        self._covariance = rest * (self._covariance + _SMOOTHING * more_rows * more_seconds)
        self._fit()

    def _fit(self) -> None:
        mean = self._seconds / self._rows
        slope = (self._covariance + _PRIOR_WEIGHT * _PRIOR_SHARE * mean) / (self._variance + _PRIOR_WEIGHT)
        self.per_row = min(max(slope, 0.0), mean)
        """Seconds that one more row takes."""
        self.fixed = self._seconds - self.per_row * self._rows
        """Seconds that a batch takes whatever its rows."""

    def seconds(self, rows: int, full: int) -> float:
        """How long so many rows take, in batches of at most `full`."""
        return math.ceil(rows / full) * self.fixed + rows * self.per_row


class Pressure:
    """How much is asked of the server, as a multiple of what it can do."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._asked = 0.0
        self._at = -math.inf

    def add(self, seconds: float, now: float) -> float:
        """Note a request for so many seconds of work, and say how much is asked with it."""
        self._asked = seconds + self._asked * math.exp((self._at - now) / _MEMORY_SECONDS)
        self._at = now
        return self._asked / _MEMORY_SECONDS
