"""Runs compared in, inline SVG out: differences, recall by list length, slices, reliability."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from endcap.evaluation.drawing import INK, MUTED, NUM_SERIES, SERIES, STYLE, WIDTH_IN, Plot, recall_svg, svg_of
from endcap.evaluation.predictions import Calibration
from endcap.evaluation.runs import RunsComparison, RunSlice

_MAX_NAME = 24
_MINUS = "\u2212"


def differences(comparison: RunsComparison, metric: str, prefix: str) -> Plot:
    """Each other system minus the first, with its paired 95% interval, against the line of no difference."""
    rows = [(name, found[metric]) for name, found in comparison.differences.items() if metric in found]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 0.85 + 0.3 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for place, (_, difference) in enumerate(rows):
            interval = difference.interval
            color = SERIES[0] if interval.above_zero else SERIES[2] if interval.below_zero else MUTED
            axes.hlines(place, interval.low, interval.high, color=color, linewidth=2.0)
            filled = color if interval.above_zero or interval.below_zero else "none"
            axes.plot([interval.mean], [place], "o", color=color, markersize=5.5, markerfacecolor=filled)
        axes.axvline(0, color=INK, linewidth=1.0)
        axes.set_yticks(range(len(rows)), [shortened(name) for name, _ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.08)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.xaxis.set_major_formatter(FuncFormatter(_signed))
        axes.set_xlabel(f"{metric}, minus {shortened(comparison.reference.name)}")
        svg = svg_of(figure, f"{prefix}-difference-{metric}")
    words = "; ".join(
        f"{name}: {row.interval.mean:+.4f} ({row.interval.low:+.4f} to {row.interval.high:+.4f})" for name, row in rows
    )
    return Plot(f"Difference in {metric}", svg, f"Minus {comparison.reference.name}, 95% intervals. {words}.")


def recall_curves(comparison: RunsComparison, prefix: str) -> Plot:
    """Mean recall at each list length from 1 to 100, one curve per system."""
    svg = recall_svg([system.recall_by_k for system in comparison.systems], f"{prefix}-recall")
    words = "; ".join(
        f"{s.name}: {s.recall_by_k[9]:.1%} at 10, {s.recall_by_k[-1]:.1%} at 100" for s in comparison.systems
    )
    return Plot("Recall by list length", svg, f"Share of what was wanted that is found. {words}.")


def slice_bars(column: str, slices: Sequence[RunSlice], names: Sequence[str], metric: str, prefix: str) -> Plot:
    """One group of horizontal bars per slice, with 95% intervals: labels may be long, and there may be many."""
    thickness = 0.8 / len(names)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 0.8 + len(slices) * max(0.42, 0.16 * len(names))), layout="constrained")
        axes = figure.subplots()
        for index, name in enumerate(names):
            intervals = [piece.metrics[name][metric] for piece in slices]
            at = [place + (index - (len(names) - 1) / 2) * thickness for place in range(len(slices))]
            axes.barh(
                at, [i.mean for i in intervals], height=thickness * 0.86, color=SERIES[index % NUM_SERIES], linewidth=0
            )
            axes.hlines(at, [i.low for i in intervals], [i.high for i in intervals], color=INK, linewidth=0.9)
        axes.set_yticks(
            range(len(slices)),
            [f"{shortened(piece.label)}\n({piece.num_users:,})" for piece in slices],
            linespacing=1.2,
        )
        axes.set_ylim(len(slices) - 0.45, -0.55)
        axes.set_xlim(left=0)
        axes.set_xlabel(f"{metric}, mean over customers (their number)")
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:.2g}"))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
        svg = svg_of(figure, f"{prefix}-slices-{column}")
    words = "; ".join(
        f"{piece.label}: " + ", ".join(f"{name} {piece.metrics[name][metric].mean:.4f}" for name in names)
        for piece in slices
    )
    return Plot(f"{metric} by {column}", svg, f"Bars with 95% intervals. {words}.")


def reliability(name: str, calibration: Calibration, prefix: str) -> Plot:
    """Observed rate against mean score, bin by bin, beside the line of perfect calibration; dots grow with their rows."""
    most = max(one.num_rows for one in calibration.bins)
    top = max(max(one.mean_score, one.observed) for one in calibration.bins) * 1.08 or 1.0
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 3.3), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, top], [0, top], color=MUTED, linewidth=1.0, linestyle=(0, (3, 2)))
        axes.plot(
            [one.mean_score for one in calibration.bins], [one.observed for one in calibration.bins], color=SERIES[0]
        )
        for one in calibration.bins:
            size = 3 + 7 * (one.num_rows / most) ** 0.5
            axes.plot([one.mean_score], [one.observed], "o", color=SERIES[0], markersize=size)
        axes.set_xlim(0, top)
        axes.set_ylim(0, top)
        axes.set_xlabel("mean score of the bin")
        axes.set_ylabel("share that happened")
        svg = svg_of(figure, f"{prefix}-reliability-{name}")
    words = "; ".join(f"{one.mean_score:.3f}: {one.observed:.3f} of {one.num_rows:,}" for one in calibration.bins)
    return Plot(f"Reliability of {name}", svg, f"Mean score against observed rate. {words}.")


def shortened(name: str) -> str:
    """A name that fits beside a plot: the middle of a long one is left out."""
    return name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 9]}\u2026{name[-8:]}"


def _signed(value: float, _position: int | None = None) -> str:
    return "0" if abs(value) < 1e-12 else f"{value:+.3g}".replace("-", _MINUS)
