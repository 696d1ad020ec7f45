"""Events in the order of time in, which file each stands in, and at which place, out: late ones and repeats included."""

from __future__ import annotations

import numpy as np

from endcap.ingest.synthetic.draws import DELIVERY, Ints, stream
from endcap.ingest.synthetic.plan import Plan
from endcap.ingest.synthetic.rows import Rows, Shelf, concatenate

_MAX_LATE_DAYS = 3
_REPEAT_NEXT_DAY = 0.2
_JITTER_US = 120_000_000


class Delivery:
    """Puts each day's events into files by the day on which they arrive."""

    def __init__(self, plan: Plan) -> None:
        """Nothing is under way yet."""
        self.num_duplicates = 0
        self.num_late = 0
        self._plan = plan
        self._late = Shelf(plan.num_days - 1)

    def day(self, rows: Rows, day: int) -> Rows:
        """The rows of that day's file, in the order of arrival, given the day's events; call it day by day."""
        plan, last = self._plan, self._plan.num_days - 1
        rng = stream(plan.seed, DELIVERY, day)
        count = len(rows)
        is_late = (rng.random(count) < plan.late_share) & (day < last)
        arrival = np.where(is_late, np.minimum(day + rng.integers(1, _MAX_LATE_DAYS + 1, count), last), day)
        repeated = np.flatnonzero(rng.random(count) < plan.duplicate_share)
        is_next_day = rng.random(len(repeated)) < _REPEAT_NEXT_DAY
        repeat_arrival = np.minimum(arrival[repeated] + is_next_day, last)
        self.num_duplicates += len(repeated)
        self.num_late += int(is_late.sum())
        both = concatenate([rows, rows.take(repeated)])
        both_arrival = np.concatenate([arrival, repeat_arrival])
        on_time = both_arrival == day
        self._late.put(both.take(~on_time), both_arrival[~on_time])
        here = concatenate([both.take(on_time), *self._late.due(day)])
        return here.take(self._order(rng, here, day))

    def _order(self, rng: np.random.Generator, rows: Rows, day: int) -> Ints:
        """Nearly by time; what is late comes at the hour of its own day."""
        midnight = self._plan.start_us + day * 86_400_000_000
        of_day = (rows.ts_us - midnight) % 86_400_000_000
        return np.argsort(of_day + rng.integers(0, _JITTER_US, len(rows)), kind="stable")
