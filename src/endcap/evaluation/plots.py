"""Measurements in, inline SVG out: each plot takes its colours from the page, so that it reads in light and in dark."""

from __future__ import annotations

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from endcap.evaluation.compare import Comparison, CountingComparison, SystemScores
from endcap.evaluation.drawing import (
    INK,
    MUTED,
    NUM_SERIES,
    SERIES,
    STYLE,
    WIDTH_IN,
    Plot,
    in_percent,
    recall_svg,
    svg_of,
)
from endcap.evaluation.evidence import TrainingHistory
from endcap.evaluation.intervals import Interval


def learning_curves(history: TrainingHistory) -> list[Plot]:
    """Training loss by epoch and, where it was measured, the eval metric; a line marks the epoch that was kept."""
    epochs = [epoch.epoch for epoch in history.epochs]
    losses = [epoch.loss for epoch in history.epochs]
    measured = {e.epoch: e.metrics[history.metric] for e in history.epochs if history.metric in e.metrics}
    words = f"From {losses[0]:.4f} to {losses[-1]:.4f} over {len(epochs)} epochs."
    curves = [_curve("Training loss by epoch", "mean loss per example", epochs, losses, history.chosen_epoch, words)]
    if measured:
        title = f"Eval {history.metric}: epoch {history.chosen_epoch} kept"
        if history.chosen_epoch in measured:
            title += f" at {measured[history.chosen_epoch]:.4f}"
        label = history.metric
        words = f"Highest {max(measured.values()):.4f}, last {list(measured.values())[-1]:.4f}."
        curves.append(_curve(title, label, list(measured), list(measured.values()), history.chosen_epoch, words))
    return curves


def _curve(title: str, label: str, epochs: list[int], values: list[float], chosen_epoch: int, words: str) -> Plot:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 2.6), layout="constrained")
        axes = figure.subplots()
        axes.axvline(chosen_epoch, color=MUTED, linewidth=0.9, linestyle=(0, (3, 2)))
        axes.plot(epochs, values, color=SERIES[0], marker="o", markersize=3.0, linewidth=1.8)
        if chosen_epoch in epochs:
            axes.plot([chosen_epoch], [values[epochs.index(chosen_epoch)]], "o", color=SERIES[0], markersize=7)
        axes.set_xlabel("epoch (dashed: kept)")
        axes.set_ylabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        axes.grid(axis="x", visible=False)
        axes.margins(x=0.04, y=0.12)
        svg = svg_of(figure, f"learning-{label}")
    return Plot(title, svg, words)


def recall_by_k(part: CountingComparison) -> Plot:
    """Mean recall at each list length from 1 to 100, one curve per system."""
    svg = recall_svg([system.recall_by_k for system in part.systems], f"recall-{part.counting}")
    words = "; ".join(f"{s.title}: {_share(s, 10)} at 10, {_share(s, 100)} at 100" for s in part.systems)
    return Plot(f"Recall by list length, {part.counting.label}", svg, f"Share of relevant products found. {words}.")


def activity_bars(part: CountingComparison, metric: str = "recall@100") -> Plot:
    """One group of bars per slice of customers by earlier baskets, with 95% intervals."""
    num_systems = len(part.systems)
    width = 0.8 / num_systems
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 3.1), layout="constrained")
        axes = figure.subplots()
        for index, system in enumerate(part.systems):
            intervals = [piece.metrics[system.name][metric] for piece in part.by_activity]
            at = [place + (index - (num_systems - 1) / 2) * width for place in range(len(intervals))]
            means = [interval.mean for interval in intervals]
            axes.bar(at, means, width=width * 0.86, color=SERIES[index % NUM_SERIES], linewidth=0)
            axes.vlines(at, [i.low for i in intervals], [i.high for i in intervals], color=INK, linewidth=0.9)
        axes.set_xticks(
            range(len(part.by_activity)),
            [f"{piece.label}\n({piece.num_customers:,})" for piece in part.by_activity],
            linespacing=1.35,
        )
        axes.set_xlabel("baskets before the test period (customers)")
        axes.set_ylabel(f"{metric}, mean over customers")
        axes.set_ylim(bottom=0)
        axes.grid(axis="x", visible=False)
        in_percent(axes)
        svg = svg_of(figure, f"activity-{part.counting}")
    words = "; ".join(
        f"{piece.label} baskets: "
        + ", ".join(f"{s.title} {piece.metrics[s.name][metric].mean:.1%}" for s in part.systems)
        for piece in part.by_activity
    )
    heading = f"{metric.capitalize()} by activity, {part.counting.label}"
    return Plot(heading, svg, f"Bars with 95% intervals. {words}.")


def forest(comparison: Comparison, metric: str) -> Plot:
    """Candidate minus each baseline with its paired 95% interval, against the line of no difference."""
    parts = list(comparison.countings.values())
    heights = [len(part.baselines) for part in parts]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 0.55 + 0.32 * len(parts) + 0.25 * sum(heights)), layout="constrained")
        panels = figure.subplots(len(parts), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        for part, axes in zip(parts, panels, strict=True):
            for place, baseline in enumerate(part.baselines):
                _difference(axes, place, part.differences[baseline.name][metric])
            axes.axvline(0, color=INK, linewidth=1.0)
            axes.set_title(part.counting.label, weight="bold")
            axes.set_yticks(range(len(part.baselines)), [baseline.title for baseline in part.baselines])
            axes.set_ylim(len(part.baselines) - 0.4, -0.6)
            axes.spines["left"].set_visible(False)
            axes.grid(axis="y", visible=False)
        for axes in panels[:-1]:
            axes.spines["bottom"].set_visible(False)
        lowest = panels[-1]
        lowest.margins(x=0.08)
        lowest.xaxis.set_major_locator(MaxNLocator(nbins=5))
        lowest.xaxis.set_major_formatter(FuncFormatter(_signed))
        lowest.set_xlabel(f"\u2190 baseline better \u00b7 {metric} \u00b7 model better \u2192")
        svg = svg_of(figure, f"forest-{metric}")
    words = "; ".join(
        f"{part.counting.label}, against {baseline.title}: {i.mean:+.4f} ({i.low:+.4f} to {i.high:+.4f})"
        for part in parts
        for baseline in part.baselines
        for i in (part.differences[baseline.name][metric],)
    )
    return Plot(f"Difference in {metric}, 95% intervals", svg, f"Model minus baseline, paired over customers. {words}.")


def _difference(axes: Axes, place: float, interval: Interval) -> None:
    """One row of a forest plot: hollow where the interval holds zero."""
    color = SERIES[0] if interval.above_zero else SERIES[2] if interval.below_zero else MUTED
    axes.hlines(place, interval.low, interval.high, color=color, linewidth=2.0)
    filled = color if interval.above_zero or interval.below_zero else "none"
    axes.plot([interval.mean], [place], "o", color=color, markersize=5.5, markerfacecolor=filled)


def _signed(value: float, _position: int | None = None) -> str:
    return "0" if abs(value) < 1e-12 else f"{value:+.3g}".replace("-", "\u2212")


def _share(system: SystemScores, k: int) -> str:
    depth = min(k, len(system.recall_by_k))  # a catalog smaller than k is recommended whole
    return f"{system.recall_by_k[depth - 1]:.1%}"
