"""A comparison of ratings in, inline SVG out: what was predicted beside what it came to."""

from __future__ import annotations

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from endcap.evaluation.drawing import INK, MUTED, SERIES, STYLE, WIDTH_IN, Plot, svg_of
from endcap.evaluation.rating import RatingComparison


def calibration_curve(ratings: RatingComparison) -> Plot:
    """Mean actual by mean predicted of each tenth of the lines; on the diagonal a prediction means what it says."""
    predicted = [one.mean_predicted for one in ratings.bins]
    actual = [one.mean_actual for one in ratings.bins]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 3.1), layout="constrained")
        axes = figure.subplots()
        ends = [min(predicted + actual), max(predicted + actual)]
        axes.plot(ends, ends, color=MUTED, linewidth=0.9, linestyle=(0, (3, 2)))
        axes.plot(predicted, actual, color=SERIES[0], marker="o", markersize=4.0, linewidth=1.8)
        if ends[0] > 0 and ends[1] / ends[0] > 20:
            axes.set_xscale("log")
            axes.set_yscale("log")
            for axis in (axes.xaxis, axes.yaxis):
                # Labels of every ninth of a decade would lie on each other.
                axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
                axis.set_major_formatter(StrMethodFormatter("{x:g}"))
                axis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(f"mean predicted {ratings.target} (dashed: as predicted)")
        axes.set_ylabel(f"mean actual {ratings.target}")
        svg = svg_of(figure, "ratings-calibration")
    words = "; ".join(f"{p:.2f} predicted, {a:.2f} actual" for p, a in zip(predicted, actual, strict=True))
    return Plot("Predicted and actual, by tenths of the prediction", svg, words)


def predicted_by_slice(ratings: RatingComparison) -> Plot:
    """Mean predicted and mean actual of each kind of line."""
    places = range(len(ratings.slices))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 3.1), layout="constrained")
        axes = figure.subplots()
        axes.hlines(
            places,
            [min(one.mean_predicted, one.mean_actual) for one in ratings.slices],
            [max(one.mean_predicted, one.mean_actual) for one in ratings.slices],
            color=MUTED,
            linewidth=1.0,
        )
        axes.plot([one.mean_predicted for one in ratings.slices], places, "o", color=SERIES[0], markersize=6)
        axes.plot([one.mean_actual for one in ratings.slices], places, "D", color=INK, markersize=4, fillstyle="none")
        axes.set_yticks(places, [f"{one.label}\n({one.num_lines:,})" for one in ratings.slices])
        axes.invert_yaxis()
        axes.set_xlabel(f"mean {ratings.target}: dot predicted, diamond actual")
        axes.grid(axis="y", visible=False)
        svg = svg_of(figure, "ratings-slices")
    words = "; ".join(
        f"{one.label}: {one.mean_predicted:.2f} predicted, {one.mean_actual:.2f} actual" for one in ratings.slices
    )
    return Plot("Predicted and actual, by kind of line", svg, words)
