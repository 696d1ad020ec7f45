"""Batches and how long they took in, what the next will take and whether more is asked than can be done out."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Final

import msgspec

# Share of the latest batch in the running means.
_SMOOTHING: Final = 0.1
# A batch during which the process was put aside says nothing of the next: it counts as so many times the mean. What is
# slower for good is known ten batches later all the same.
_MOST_SLOWER: Final = 2.0
# Until a large batch has told, so much of a small one's time is taken to be for its rows, as against for its being one.
_SHARE_OF_ROWS: Final = 0.5
# How far back the pressure remembers, in full batches and at least in seconds: as long as bursts may be, for what comes
# in the beginning of an overload is taken for one.
_MEMORY_BATCHES: Final = 6
_MEMORY_SECONDS: Final = 0.15
# More asked than so many times what can be done is an overload; less may be the estimate's error.
_OVERLOAD: Final = 1.25
_OVERLOAD_BATCHES: Final = 4.0
# From here on no more may wait than keep the processor busy.
_FLOOD: Final = 2.0
_FLOOD_BATCHES: Final = 0.75


class _Mean(msgspec.Struct):
    rows: float
    seconds: float
    num_batches: int = 1

    def add(self, rows: int, seconds: float) -> None:
        if self.seconds > 0:
            seconds = min(seconds, _MOST_SLOWER * self.seconds * max(1.0, rows / self.rows))
        self.num_batches += 1
        # A first one that was held up would else be remembered for forty batches of those that were not.
        share = _SMOOTHING if seconds > self.seconds else max(_SMOOTHING, 1 / self.num_batches)
        self.rows += share * (rows - self.rows)
        self.seconds += share * (seconds - self.seconds)


class Pace:
    """Seconds of a batch by its rows: a line through the mean of small batches and the mean of large ones.

    Small ones alone say little of a full one, and come alone for hours: what large ones took is kept meanwhile.
    """

    def __init__(self, full: int) -> None:
        """Take how many rows a full batch has."""
        self._full = full
        self._small: _Mean | None = None
        self._large: _Mean | None = None
        self._per_row = self._fixed = 0.0

    def add(self, rows: int, seconds: float) -> None:
        """One more batch."""
        if 2 * rows < self._full:
            self._small = _with(self._small, rows, seconds)
        else:
            self._large = _with(self._large, rows, seconds)
        self._fit()

    def _fit(self) -> None:
        small, large = self._small, self._large
        if small is None or large is None:
            one = small or large
            if one is None:
                return
            self._per_row = one.seconds / one.rows * (_SHARE_OF_ROWS if large is None else 1.0)
        else:
            slope = (large.seconds - small.seconds) / (large.rows - small.rows)
            self._per_row = min(max(slope, 0.0), large.seconds / large.rows)
            one = large
        self._fixed = one.seconds - self._per_row * one.rows

    @property
    def is_known(self) -> bool:
        """Whether the time of a full batch was seen, and isn't only supposed."""
        return self._large is not None

    def seconds(self, rows: int) -> float:
        """How long so many rows take, in full batches."""
        return math.ceil(rows / self._full) * self._fixed + rows * self._per_row

    def least_seconds(self, rows: int) -> float:
        """How long so many rows take at least: until a large batch has told, each takes what a small one took."""
        if self.is_known or self._small is None:
            return self.seconds(rows)
        return min(self.seconds(rows), math.ceil(rows / self._full) * self._small.seconds)


def _with(mean: _Mean | None, rows: int, seconds: float) -> _Mean:
    if mean is None:
        return _Mean(float(rows), seconds)
    mean.add(rows, seconds)
    return mean


class Pressure:
    """How much is asked of the server, as a multiple of what it can do."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._asked = 0.0
        self._at = -math.inf

    def add(self, batches: float, seconds_per_batch: float, now: float) -> float:
        """Note a request for so much of a batch, and say how much is asked with it."""
        memory = max(_MEMORY_SECONDS, _MEMORY_BATCHES * seconds_per_batch)
        self._asked = batches * seconds_per_batch + self._asked * math.exp((self._at - now) / memory)
        self._at = now
        return self._asked / memory


def batches_that_may_wait(pressure: float) -> float:
    """So many while so many times what can be done is asked: any number short of an overload, then fewer and fewer."""
    if pressure <= _OVERLOAD:
        return math.inf
    share = max(0.0, _FLOOD - pressure) / (_FLOOD - _OVERLOAD)
    return _FLOOD_BATCHES + share * (_OVERLOAD_BATCHES - _FLOOD_BATCHES)


class Lately:
    """How many different ones there were in the last second, or in the one before where those were more."""

    def __init__(self) -> None:
        """Begin with none."""
        self._second = -1
        self._num_before = 0
        self._seen: set[Hashable] = set()

    def add(self, one: Hashable, now: float) -> int:
        """Note one, and say how many there were with it."""
        second = int(now)
        if second != self._second:
            self._num_before = len(self._seen) if second == self._second + 1 else 0
            self._second, self._seen = second, set()
        self._seen.add(one)
        return max(self._num_before, len(self._seen))
