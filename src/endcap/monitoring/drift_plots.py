"""Numbers of the drift tables in, plots over days and hours out: what differs most comes first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from endcap.contracts import columns as c
from endcap.evaluation.drawing import DASHES, MUTED, NUM_SERIES, SERIES, STYLE, Plot, svg_of
from endcap.monitoring.drift import ALL, JS, LAG_MAX, LAG_P50, LAG_P95, NULL_RATE, NUM_ROWS, PSI, UNSEEN_RATE
from endcap.monitoring.profile_plots import Drawn, dated, moment_of, new_figure, short

MODERATE_PSI, LARGE_PSI = 0.1, 0.25
NUM_TYPES: Final = 6
NUM_SMALL: Final = 6
"""Small plots of one statistic; the columns that differ most."""

NUM_HOURLY: Final = 3
MIN_ROWS: Final = 50
"""Hours and days with fewer rows don't decide which columns come first: they differ by chance."""

_SMALL_IN: Final = (2.7, 1.45)
_LAG_NAMES: Final = {LAG_P50: "median", LAG_P95: "95%", LAG_MAX: "longest"}
_UNITS: Final = ((86_400.0, "days"), (3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))

Rows = Sequence[Mapping[str, Any]]


@dataclass
class Line:
    """One statistic of one feature over days or hours; `counts` are the rows behind each value."""

    feature: str
    values: dict[Any, float] = field(default_factory=dict)
    counts: dict[Any, int] = field(default_factory=dict)

    @property
    def solid(self) -> list[float]:
        """Values that enough rows are behind."""
        return [value for at, value in self.values.items() if self.counts[at] >= MIN_ROWS]

    @property
    def highest(self) -> float:
        """The highest value that enough rows are behind; -1 when there is none."""
        return max(self.solid, default=-1.0)

    @property
    def spread(self) -> float:
        """How far such values lie apart; -1 when there is none."""
        return max(self.solid) - min(self.solid) if self.solid else -1.0


@dataclass(frozen=True)
class Multiples:
    """Small plots of one statistic, one for each column, and how many columns were left out."""

    title: str
    note: str
    plots: tuple[Plot, ...]
    num_left_out: int


def psi_by_day(days: Rows) -> Drawn | None:
    """The population stability index of each day, a plot per event type, a line per column."""
    lines = lines_of(days, PSI)
    columns = sorted({_column(name) for name in lines} - {c.EVENT_TYPE})[:NUM_SERIES]
    plots = []
    for kind in _commonest(days):
        drawn = [lines[name].values if (name := f"{kind}.{column}") in lines else {} for column in columns]
        if any(drawn):
            title = f"PSI of {kind} by day"
            plots.append(_plot(f"psi-{kind}", title, "PSI", drawn, columns, marks=(MODERATE_PSI, LARGE_PSI)))
    return Drawn(tuple(columns), tuple(plots)) if plots else None


def mix_by_day(days: Rows) -> tuple[Plot, ...]:
    """The index of the event types' mix by day."""
    mix = lines_of(days, PSI).get(f"{ALL}.{c.EVENT_TYPE}")
    if mix is None:
        return ()
    marks = (MODERATE_PSI, LARGE_PSI)
    return (_plot("psi-mix", "PSI of the event types' mix by day", "PSI", [mix.values], ["PSI"], marks=marks),)


def columns_by_day(days: Rows) -> tuple[Multiples, ...]:
    """Jensen–Shannon distance, nulls and unseen values by day, a small plot per event type and column."""
    found = []
    by_height = _ranked(lines_of(days, JS), "highest")
    found.append(
        _multiples(
            "js", "Jensen–Shannon by day", f"The highest of days with at least {MIN_ROWS} rows first.", by_height
        )
    )
    nulls = {name: line for name, line in lines_of(days, NULL_RATE).items() if len(set(line.values.values())) > 1}
    note = "Columns whose share of nulls changed, the largest change first."
    found.append(_multiples("nulls", "Nulls by day", note, _ranked(nulls, "spread"), percent=True))
    unseen = {name: line for name, line in lines_of(days, UNSEEN_RATE).items() if any(line.values.values())}
    note = f"Rows whose value the reference lacks, the highest of days with at least {MIN_ROWS} rows first; columns without any are left out."
    found.append(_multiples("unseen", "Unseen values by day", note, _ranked(unseen, "highest"), percent=True))
    return tuple(one for one in found if one.plots)


def by_hour(hours: Rows) -> tuple[Plot, ...]:
    """Rows and lag of each hour, all event types together."""
    plots = []
    rows = lines_of(hours, NUM_ROWS).get(ALL)
    if rows is not None:
        plots.append(_plot("hourly-rows", "Rows per hour", "rows", [rows.values], ["rows"]))
    lags = {name: lines_of(hours, name).get(ALL) for name in _LAG_NAMES}
    known = {_LAG_NAMES[name]: line.values for name, line in lags.items() if line is not None}
    if known:
        longest = max(value for values in known.values() for value in values.values())
        size, unit = next((one for one in _UNITS if longest >= 2 * one[0]), _UNITS[-1])
        drawn = [{at: value / size for at, value in values.items()} for values in known.values()]
        title = "Lag from event to table, by hour of the event"
        plots.append(_plot("hourly-lag", title, unit, drawn, list(known)))
    return tuple(plots)


def columns_by_hour(hours: Rows) -> Multiples | None:
    """The index by hour of the columns that differ most."""
    lines = _ranked(lines_of(hours, PSI), "highest")
    marks = (MODERATE_PSI, LARGE_PSI)
    note = f"The highest of hours with at least {MIN_ROWS} rows first."
    found = _multiples("hourly-psi", "PSI by hour", note, lines, marks=marks, num_shown=NUM_HOURLY)
    return found if found.plots else None


def lag_names(hours: Rows) -> tuple[str, ...]:
    """The lines of the plot of lags, for its legend."""
    return tuple(shown for name, shown in _LAG_NAMES.items() if ALL in lines_of(hours, name))


def lines_of(rows: Rows, statistic: str) -> dict[str, Line]:
    """Values of a statistic over days or hours by feature; unknown ones are left out."""
    found: dict[str, Line] = {}
    for row in rows:
        if row[c.STATISTIC] == statistic and row[c.VALUE] is not None:
            at = moment_of(row[c.HOUR]) if c.HOUR in row else row[c.EVENT_DATE]
            line = found.setdefault(row[c.FEATURE], Line(row[c.FEATURE]))
            line.values[at], line.counts[at] = row[c.VALUE], row[c.COUNT]
    return found


def _ranked(lines: Mapping[str, Line], by: str) -> list[Line]:
    return sorted(lines.values(), key=lambda line: (-getattr(line, by), -max(line.values.values()), line.feature))


def _column(feature: str) -> str:
    return feature.partition(".")[2]


def _commonest(days: Rows) -> list[str]:
    totals: dict[str, float] = defaultdict(float)
    for name, line in lines_of(days, NUM_ROWS).items():
        if name != ALL:
            totals[name] += sum(line.values.values())
    return sorted(totals, key=lambda kind: (-totals[kind], kind))[:NUM_TYPES]


def _multiples(
    prefix: str,
    title: str,
    note: str,
    lines: Sequence[Line],
    *,
    marks: Sequence[float] = (),
    percent: bool = False,
    num_shown: int = NUM_SMALL,
) -> Multiples:
    """A small plot for each of the first lines, all on one scale."""
    shown = lines[:num_shown]
    highest = max((value for line in shown for value in line.values.values()), default=0.0)
    plots = []
    for line in shown:
        with mpl.rc_context(STYLE):
            figure, axes = new_figure(*_SMALL_IN)
            _draw(axes, [line.values], marks=marks, highest=highest, is_small=True)
            axes.set_ylim(0, highest * 1.08 or 1.0)
            axes.yaxis.set_major_locator(MaxNLocator(nbins=3))
            if percent:
                _in_percent(axes)
            svg = svg_of(figure, f"{prefix}-{line.feature}")
        words = f"{title}, {line.feature}: last {line.values[max(line.values)]:,.4g}, highest {max(line.values.values()):,.4g}."
        plots.append(Plot(line.feature, svg, words))
    return Multiples(title, note, tuple(plots), len(lines) - len(shown))


def _plot(
    prefix: str,
    title: str,
    label: str,
    lines: Sequence[Mapping[Any, float]],
    names: Sequence[str],
    *,
    marks: Sequence[float] = (),
) -> Plot:
    with mpl.rc_context(STYLE):
        figure, axes = new_figure()
        highest = max(value for line in lines for value in line.values())
        _draw(axes, lines, marks=marks, highest=highest, is_small=False)
        axes.set_ylim(bottom=min(0.0, *(value for line in lines for value in line.values())))
        axes.set_ylabel(label)
        if label == "rows":
            axes.yaxis.set_major_formatter(FuncFormatter(short))
        svg = svg_of(figure, prefix)
    shown = "; ".join(
        f"{name}: last {line[max(line)]:,.4g}, highest {max(line.values()):,.4g}"
        for name, line in zip(names, lines, strict=True)
        if line
    )
    return Plot(title, svg, f"{title}. {shown}.")


def _draw(
    axes: Axes, lines: Sequence[Mapping[Any, float]], *, marks: Sequence[float], highest: float, is_small: bool
) -> None:
    for mark in marks:
        if mark <= 2 * highest or mark == marks[0]:
            axes.axhline(mark, color=MUTED, linewidth=0.9, linestyle=(0, (3, 2)))
    for index, line in enumerate(lines):
        at = sorted(line)
        series = index % NUM_SERIES
        marker = "o" if len(at) <= 31 else None
        values = [line[one] for one in at]
        axes.plot(
            at, values, color=SERIES[series], linewidth=1.5, linestyle=DASHES[series], marker=marker, markersize=2.8
        )
    moments = sorted({moment for line in lines for moment in line})
    is_hourly = isinstance(moments[0], datetime)
    dated(axes, (moments[-1] - moments[0]).days + 1, is_small=is_small, is_hourly=is_hourly)


def _in_percent(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value * 100:.3g}%"))
