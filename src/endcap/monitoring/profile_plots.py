"""A table's profile in, plots out, in the look of the evaluation report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, DayLocator, HourLocator
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from endcap.evaluation.drawing import NUM_SERIES, SERIES, STYLE, WIDTH_IN, Plot, svg_of
from endcap.monitoring.account import Sessions
from endcap.monitoring.profile import TIME, ColumnProfile, DayCount

_OTHER = "other"
MANY_DAYS = 15
HEIGHT_IN = 2.5


@dataclass(frozen=True)
class Drawn:
    """Plots that share their series, whose names stand in the order of the colours."""

    series: tuple[str, ...]
    plots: tuple[Plot, ...]


def rows_by_day(days: Sequence[DayCount]) -> Drawn:
    """Rows per day, one layer per event type, the commonest lowest; rare types as one."""
    totals: dict[str, int] = defaultdict(int)
    for row in days:
        totals[row.event_type] += row.count
    names = sorted(totals, key=lambda name: (-totals[name], name))
    shown = names if len(names) <= NUM_SERIES else [*names[: NUM_SERIES - 1], _OTHER]
    counts: dict[str, dict[date, int]] = {name: defaultdict(int) for name in shown}
    for row in days:
        counts[row.event_type if row.event_type in counts else _OTHER][row.day] += row.count
    first, last = min(row.day for row in days), max(row.day for row in days)
    axis = [first + timedelta(days=i) for i in range((last - first).days + 1)]
    layers = [[counts[name][day] for day in axis] for name in shown]
    most = max(axis, key=lambda day: sum(counts[name][day] for name in shown))
    words = (
        f"{len(axis):,} days from {first} to {last}, {sum(1 for day in axis if any(counts[n][day] for n in shown)):,} of "
        f"them with rows; most on {most}: {sum(counts[name][most] for name in shown):,}."
    )
    svg = _layers("rows-by-day", axis, layers, "rows")
    return Drawn(tuple(name for name in shown if name), (Plot("Rows per day", svg, words),))


def sessions_plots(found: Sessions) -> tuple[Plot, ...]:
    """Sessions by day, and by their number of events."""
    axis = [day for day, _ in found.days]
    filled = [axis[0] + timedelta(days=i) for i in range((axis[-1] - axis[0]).days + 1)]
    counts = dict(found.days)
    by_day = _layers("sessions-by-day", filled, [[counts.get(day, 0) for day in filled]], "sessions")
    words = f"{found.num_sessions:,} sessions from {axis[0]} to {axis[-1]}."
    sizes = "; ".join(f"{label}: {count:,}" for label, count in found.sizes)
    with mpl.rc_context(STYLE):
        figure, axes = new_figure()
        axes.bar([label for label, _ in found.sizes], [count for _, count in found.sizes], color=SERIES[0], width=0.8)
        axes.set_xlabel("events in the session")
        _counted(axes, "sessions")
        by_size = svg_of(figure, "session-sizes")
    return (
        Plot("Sessions per day", by_day, words),
        Plot("Events per session", by_size, f"Sessions by number of events. {sizes}."),
    )


def histogram(column: ColumnProfile) -> Plot:
    """The column's values in equal bars."""
    with mpl.rc_context(STYLE):
        figure, axes = new_figure()
        lows: list[Any] = [bar.low for bar in column.bars]
        widths: list[Any] = [bar.high - bar.low for bar in column.bars]
        if column.kind == TIME:
            lows = [moment_of(low) for low in lows]
            widths = [timedelta(microseconds=width) for width in widths]
            dated(axes)
        else:
            axes.xaxis.set_major_formatter(FuncFormatter(short))
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
        axes.bar(lows, [bar.count for bar in column.bars], width=widths, align="edge", color=SERIES[0], linewidth=0)
        axes.set_xlabel(column.name)
        _counted(axes, "rows")
        svg = svg_of(figure, f"histogram-{column.name}")
    numbers = ", ".join(f"{name} {value:,.6g}" for name, value in column.quantiles.items())
    return Plot(column.name, svg, f"Distribution of {column.name}: {numbers}.")


def _layers(prefix: str, days: Sequence[date], layers: Sequence[Sequence[int]], label: str) -> str:
    with mpl.rc_context(STYLE):
        figure, axes = new_figure()
        # A step for each whole day: the last one needs an end.
        at: list[Any] = [*days, days[-1] + timedelta(days=1)]
        values = [[*layer, layer[-1]] for layer in layers]
        axes.stackplot(at, values, colors=SERIES[: len(layers)], step="post", linewidth=0)
        axes.margins(x=0)
        dated(axes, len(days))
        _counted(axes, label)
        return svg_of(figure, prefix)


def new_figure(width_in: float = WIDTH_IN, height_in: float = HEIGHT_IN) -> tuple[Figure, Axes]:
    """An empty figure, to be filled under the style of `drawing`."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    axes = figure.subplots()
    axes.grid(axis="x", visible=False)
    return figure, axes


def dated(axes: Axes, num_days: int = MANY_DAYS, *, is_small: bool = False, is_hourly: bool = False) -> None:
    """Dates or moments on the x axis; few days get whole days only, small plots few of them."""
    # Matplotlib's dates have no types.
    locator: Any = AutoDateLocator(minticks=2 if is_small else 3, maxticks=5 if is_small else 6)  # type: ignore[no-untyped-call]
    if num_days < MANY_DAYS and not (is_hourly and not is_small):
        locator = DayLocator(interval=-(-num_days // (3 if is_small else 5)))  # type: ignore[no-untyped-call]
    if is_hourly and is_small and num_days <= 2:
        locator = HourLocator(byhour=(0, 12))  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]


def _counted(axes: Axes, label: str) -> None:
    axes.set_ylabel(label)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(short))


def short(value: float, _position: int | None = None) -> str:
    """A number in few letters, for an axis."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}".replace("-", "\u2212")
    return f"{value:.3g}".replace("-", "\u2212")


def moment_of(ts_us: float) -> datetime:
    """Microseconds since 1970 as a moment in UTC."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=ts_us)
