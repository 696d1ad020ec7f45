"""A table's profile and its drift numbers in, plots out, in the look of the evaluation report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, DayLocator
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from endcap.contracts import columns as c
from endcap.evaluation.drawing import DASHES, MUTED, NUM_SERIES, SERIES, STYLE, WIDTH_IN, Plot, svg_of
from endcap.monitoring.account import Sessions
from endcap.monitoring.drift import ALL, DAY_PREFIX, LAG_SECONDS, NUM_ROWS, PSI, UNSEEN_RATE
from endcap.monitoring.profile import TIME, ColumnProfile, DayCount

MODERATE_PSI, LARGE_PSI = 0.1, 0.25
NUM_TYPES = 6
NUM_HOURS = 24 * 7
_OTHER = "other"
_MANY_DAYS = 15
_HEIGHT_IN = 2.5


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
        figure, axes = _figure()
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
        figure, axes = _figure()
        lows: list[Any] = [bar.low for bar in column.bars]
        widths: list[Any] = [bar.high - bar.low for bar in column.bars]
        if column.kind == TIME:
            lows = [_moment(low) for low in lows]
            widths = [timedelta(microseconds=width) for width in widths]
            _dated(axes)
        else:
            axes.xaxis.set_major_formatter(FuncFormatter(_short))
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
        axes.bar(lows, [bar.count for bar in column.bars], width=widths, align="edge", color=SERIES[0], linewidth=0)
        axes.set_xlabel(column.name)
        _counted(axes, "rows")
        svg = svg_of(figure, f"histogram-{column.name}")
    numbers = ", ".join(f"{name} {value:,.6g}" for name, value in column.quantiles.items())
    return Plot(column.name, svg, f"Distribution of {column.name}: {numbers}.")


def psi_by_day(rows: Sequence[Mapping[str, Any]]) -> Drawn | None:
    """The population stability index of each day, a plot per event type, a line per column."""
    found = _daily(rows, PSI)
    columns = sorted({column for by_column in found.values() for column in by_column} - {c.EVENT_TYPE})[:NUM_SERIES]
    plots = []
    for kind in _commonest(rows):
        lines = [found.get(kind, {}).get(column, {}) for column in columns]
        if any(lines):
            title = f"PSI of {kind} by day"
            plots.append(_lines(f"psi-{kind}", title, "PSI", lines, columns, marks=(MODERATE_PSI, LARGE_PSI)))
    return Drawn(tuple(columns), tuple(plots)) if plots else None


def other_drift(rows: Sequence[Mapping[str, Any]]) -> tuple[Plot, ...]:
    """The event types' mix, unseen values and lag by day, and rows by hour of the last week."""
    plots = []
    mix = _daily(rows, PSI).get(ALL, {}).get(c.EVENT_TYPE, {})
    if mix:
        marks = (MODERATE_PSI, LARGE_PSI)
        plots.append(_lines("psi-mix", "PSI of the event types' mix by day", "PSI", [mix], ["PSI"], marks=marks))
    unseen = _daily(rows, UNSEEN_RATE)
    for column in (c.ITEM_ID, c.USER_ID):
        kinds = [kind for kind in _commonest(rows) if column in unseen.get(kind, {})][:1]
        for kind in kinds:
            title = f"Values of {column} that the reference lacks, {kind}, by day"
            line = unseen[kind][column]
            plots.append(_lines(f"unseen-{column}", title, "share of rows", [line], ["unseen"], percent=True))
    lag = _daily(rows, LAG_SECONDS).get(ALL, {}).get("", {})
    if lag:
        days = {day: value / 86_400 for day, value in lag.items()}
        plots.append(_lines("lag", "Lag from a day's beginning to its last batch", "days", [days], ["lag"]))
    hours = {row[c.HOUR]: row[c.VALUE] for row in rows if (row[c.FEATURE], row[c.STATISTIC]) == (ALL, NUM_ROWS)}
    last = {_moment(hour): hours[hour] for hour in sorted(hours)[-NUM_HOURS:]}
    if last:
        plots.append(_lines("rows-by-hour", "Rows per hour, the last week measured", "rows", [last], ["rows"]))
    return tuple(plots)


def _commonest(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    totals = {kind: sum(by_day.get("", {}).values()) for kind, by_day in _daily(rows, NUM_ROWS).items() if kind != ALL}
    return sorted(totals, key=lambda kind: (-totals[kind], kind))[:NUM_TYPES]


def _daily(rows: Sequence[Mapping[str, Any]], statistic: str) -> dict[str, dict[str, dict[Any, float]]]:
    """Values of a statistic by event type, column ("" for the type itself) and day."""
    found: dict[str, dict[str, dict[Any, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        if row[c.STATISTIC] == statistic and row[c.FEATURE].startswith(DAY_PREFIX) and row[c.VALUE] is not None:
            kind, _, column = row[c.FEATURE].removeprefix(DAY_PREFIX).partition(".")
            found[kind][column][row[c.EVENT_DATE]] = row[c.VALUE]
    return found


def _lines(
    prefix: str,
    title: str,
    label: str,
    lines: Sequence[Mapping[Any, float]],
    names: Sequence[str],
    *,
    marks: Sequence[float] = (),
    percent: bool = False,
) -> Plot:
    with mpl.rc_context(STYLE):
        figure, axes = _figure()
        highest = max(value for line in lines for value in line.values())
        for mark in marks:
            if mark <= 2 * highest or mark == marks[0]:
                axes.axhline(mark, color=MUTED, linewidth=0.9, linestyle=(0, (3, 2)))
        for index, line in enumerate(lines):
            days = sorted(line)
            marker = "o" if len(days) <= 31 else None
            values = [line[day] for day in days]
            series = index % NUM_SERIES
            style = DASHES[series]
            axes.plot(days, values, color=SERIES[series], linewidth=1.5, linestyle=style, marker=marker, markersize=2.8)
        num_days = len({day for line in lines for day in line})
        _dated(axes, _MANY_DAYS if label == "rows" else num_days)
        axes.set_ylim(bottom=0)
        axes.set_ylabel(label)
        if percent:
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value * 100:.3g}%"))
        svg = svg_of(figure, prefix)
    shown = "; ".join(
        f"{name}: last {line[max(line)]:,.4g}, highest {max(line.values()):,.4g}"
        for name, line in zip(names, lines, strict=True)
        if line
    )
    return Plot(title, svg, f"{title}. {shown}.")


def _layers(prefix: str, days: Sequence[date], layers: Sequence[Sequence[int]], label: str) -> str:
    with mpl.rc_context(STYLE):
        figure, axes = _figure()
        # A step for each whole day: the last one needs an end.
        at: list[Any] = [*days, days[-1] + timedelta(days=1)]
        values = [[*layer, layer[-1]] for layer in layers]
        axes.stackplot(at, values, colors=SERIES[: len(layers)], step="post", linewidth=0)
        axes.margins(x=0)
        _dated(axes, len(days))
        _counted(axes, label)
        return svg_of(figure, prefix)


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH_IN, _HEIGHT_IN), layout="constrained")
    axes = figure.subplots()
    axes.grid(axis="x", visible=False)
    return figure, axes


def _dated(axes: Axes, num_days: int = _MANY_DAYS) -> None:
    # Matplotlib's dates have no types.
    locator: Any = AutoDateLocator(minticks=3, maxticks=6)  # type: ignore[no-untyped-call]
    if num_days < _MANY_DAYS:
        locator = DayLocator(interval=-(-num_days // 5))  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]


def _counted(axes: Axes, label: str) -> None:
    axes.set_ylabel(label)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(_short))


def _short(value: float, _position: int | None = None) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}".replace("-", "\u2212")
    return f"{value:.3g}".replace("-", "\u2212")


def _moment(ts_us: float) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=ts_us)
