"""A plan and a day in, how much of the traffic falls on it and at which hours, out."""

from __future__ import annotations

from typing import Final

import numpy as np

from endcap.contracts.events import US_PER_DAY
from endcap.ingest.synthetic.draws import Floats, Ints
from endcap.ingest.synthetic.plan import Plan

WEEKDAY_FACTORS: Final = (0.97, 0.93, 0.92, 0.95, 0.98, 1.08, 1.22)
"""Monday to Sunday."""
GROWTH: Final = 0.15
"""How much more happens on the last day than on the first, weekdays aside."""

_HOURS: Final = np.array(
    [14, 9, 6, 5, 5, 8, 15, 27, 38, 45, 50, 54, 58, 55, 52, 53, 57, 64, 74, 86, 95, 90, 62, 32], dtype=np.float64
)
_WEEKEND_HOURS: Final = np.roll(_HOURS, 1) + 8.0


def is_weekend(plan: Plan, day: int) -> bool:
    """Whether that day is a Saturday or Sunday."""
    return (plan.start.weekday() + day) % 7 >= 5


def day_targets(plan: Plan) -> Ints:
    """Events on each day, which add up to the plan's."""
    days = np.arange(plan.num_days)
    weekday = (plan.start.weekday() + days) % 7
    weights = np.array(WEEKDAY_FACTORS)[weekday] * (1 + GROWTH * days / max(plan.num_days - 1, 1))
    bounds = np.rint(plan.num_events * np.cumsum(weights) / weights.sum()).astype(np.int64)
    targets: Ints = np.diff(bounds, prepend=0)
    return targets


def start_times(rng: np.random.Generator, plan: Plan, day: int, count: int) -> Ints:
    """Moments on that day, microseconds since 1970."""
    hours: Floats = _WEEKEND_HOURS if is_weekend(plan, day) else _HOURS
    edges = np.concatenate([[0.0], np.cumsum(hours) / hours.sum()])
    of_day = np.interp(rng.random(count), edges, np.arange(25) / 24.0)
    moments: Ints = plan.start_us + day * US_PER_DAY + (of_day * (US_PER_DAY - 1)).astype(np.int64)
    return moments
