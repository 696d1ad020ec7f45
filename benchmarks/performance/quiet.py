"""A measurement in, its results out from the rounds that were disturbed least.

Virtual machines share their processors with others, and are told how much of the time these took.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from benchmarks.performance.serving_systems import say

T = TypeVar("T")

QUIET_PERCENT = 1.0
"""Of the processors' time, that others may take of a round."""
MAX_TRIES = 3
"""So many times the rounds wanted are measured at most."""

_STOLEN = 7


class Ticks(NamedTuple):
    """The processors' time since the machine started."""

    stolen: int
    """Wanted by this machine while others were computing."""
    all: int

    def stolen_percent(self, since: Ticks) -> float:
        """Share of the time since then that others took."""
        return 100 * (self.stolen - since.stolen) / max(self.all - since.all, 1)


def processor_ticks(stat: Path = Path("/proc/stat")) -> Ticks:
    """As of this moment."""
    # user, nice, system, idle, iowait, irq, softirq, steal; what follows is part of the first two.
    ticks = [int(field) for field in stat.read_text(encoding="ascii").splitlines()[0].split()[1:]][: _STOLEN + 1]
    return Ticks(ticks[_STOLEN], sum(ticks))


def quietest(
    measure: Callable[[], T], num_rounds: int, *, read_ticks: Callable[[], Ticks] = processor_ticks
) -> list[T]:
    """Results of so many rounds: each that others disturbed is measured again, and the least disturbed ones count."""
    rounds: list[tuple[float, T]] = []
    num_quiet = 0
    while num_quiet < num_rounds and len(rounds) < MAX_TRIES * num_rounds:
        before = read_ticks()
        result = measure()
        stolen = read_ticks().stolen_percent(before)
        rounds.append((stolen, result))
        num_quiet += stolen <= QUIET_PERCENT
        if stolen > QUIET_PERCENT and len(rounds) < MAX_TRIES * num_rounds:
            say(f"other machines took {stolen:.0f}% of the processors: once more")
    return [result for _, result in sorted(rounds, key=lambda one: one[0])[:num_rounds]]
