"""A server and its capacity in, how it fares at 80% of that, at three times that, and afterwards out."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks.performance.open_loop import Outcomes, Phase, drive
from benchmarks.performance.processes import ServerProcess
from benchmarks.performance.quiet import quietest
from benchmarks.performance.serving_systems import say
from benchmarks.performance.synthetic import Size
from benchmarks.report import Report

NORMAL_SHARE, OVERLOAD = 0.8, 3.0
WINDOW_SECONDS = 0.25
# How far a window's p99 may be above that of normal load and still count as normal: windows are short.
_NORMAL_WITHIN = 1.5
_WARM_SECONDS = 1.0
_REFUSED = (429, 503)


@dataclass(frozen=True)
class Overload:
    """What the client of an open loop saw."""

    normal_p99_ms: float
    overload_p99_ms: float
    """Of the requests that were answered with 200."""
    refusal_p50_ms: float
    refusal_p99_ms: float
    accepted_per_second: float
    """During the overload."""
    num_refused: int
    num_failed: int
    """Neither answered nor refused, in all phases."""
    num_refused_normally: int
    recovery_seconds: float
    """From the end of the overload to the start of the first window with a p99 as under normal load and nothing refused."""
    client_lag_p99_ms: float
    """How late the client itself was."""


def measure_overload(
    server: ServerProcess, capacity: float, size: Size, seconds: float, folder: Path, report: Report
) -> None:
    """Normal load, overload and normal load again, without a pause; fill the report."""
    normal = Phase(NORMAL_SHARE * capacity, seconds)
    phases = [Phase(normal.rate, _WARM_SECONDS), normal, Phase(OVERLOAD * capacity, seconds), normal]
    say(f"open loop: {normal.rate:,.0f} a second, then {phases[2].rate:,.0f}, then {normal.rate:,.0f} again")

    def drive_once() -> Overload:
        return judge(drive(server.port, phases, size.num_customers, size.num_cities, folder), phases)

    (found,) = quietest(drive_once, 1)
    report.add(
        f"open loop, {NORMAL_SHARE:.0%} and {OVERLOAD:.0%} of capacity",
        "endcap",
        f"{size.num_items}x{size.dim}",
        capacity_per_second=round(capacity, 1),
        **{name: round(value, 3) for name, value in vars(found).items()},
    )
    report.ratios["serving.overload_accepted_p99"] = round(found.normal_p99_ms / found.overload_p99_ms, 3)
    report.ratios["serving.refusal_p99_ms"] = round(found.refusal_p99_ms, 3)
    report.ratios["serving.recovery_seconds"] = round(found.recovery_seconds, 3)


def judge(outcomes: Outcomes, phases: list[Phase]) -> Overload:
    """The figures of warm-up, normal load, overload and normal load."""
    starts = np.cumsum([0.0, *(phase.seconds for phase in phases)])
    _, normal, overload, after = (
        outcomes.part((outcomes.due >= start) & (outcomes.due < end)) for start, end in pairwise(starts)
    )
    refused = np.isin(overload.status, _REFUSED)
    accepted = overload.status == 200
    normal_p99 = _percentile(normal.took[normal.status == 200], 99)
    return Overload(
        normal_p99_ms=1e3 * normal_p99,
        overload_p99_ms=1e3 * _percentile(overload.took[accepted], 99),
        refusal_p50_ms=1e3 * _percentile(overload.took[refused], 50),
        refusal_p99_ms=1e3 * _percentile(overload.took[refused], 99),
        accepted_per_second=float(accepted.sum()) / phases[2].seconds,
        num_refused=int(refused.sum()),
        num_failed=int((~np.isin(outcomes.status, (200, *_REFUSED))).sum()),
        num_refused_normally=int(np.isin(normal.status, _REFUSED).sum()),
        recovery_seconds=_recovery(after, starts[3], normal_p99),
        client_lag_p99_ms=1e3 * _percentile(outcomes.lag, 99),
    )


def _recovery(after: Outcomes, start: float, normal_p99: float) -> float:
    """Seconds until a window is as before; nan when none is."""
    edge = start
    while edge + WINDOW_SECONDS <= after.due[-1]:
        window = after.part((after.due >= edge) & (after.due < edge + WINDOW_SECONDS))
        if (window.status == 200).all() and _percentile(window.took, 99) <= _NORMAL_WITHIN * normal_p99:
            return edge - start
        edge += WINDOW_SECONDS / 10
    return float("nan")


def _percentile(values: np.ndarray[tuple[int], np.dtype[np.float64]], percent: float) -> float:
    return float(np.percentile(values, percent)) if len(values) else float("nan")
