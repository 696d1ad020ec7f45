"""Distributions in, plots out, in the look of the evaluation report."""

from __future__ import annotations

import matplotlib as mpl
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from endcap.evaluation.drawing import SERIES, STYLE, WIDTH_IN, Plot, svg_of
from endcap.features.distributions import Distribution

_HEIGHT_IN = 1.9
_ROW_IN = 0.2
_LONGEST = 24
_SHORT, _MANY_LABELS, _FEW_LABELS = 6, 7, 4
_MISSING = "missing"


def drawn(found: Distribution, prefix: str, title: str) -> Plot:
    """Upright bars for what has an order, lying ones with their names for values; missing rows in another colour."""
    labels = [bar.label for bar in found.bars]
    counts = [bar.count for bar in found.bars]
    colors = [SERIES[0]] * len(counts)
    if found.num_missing:
        labels, counts, colors = [*labels, _MISSING], [*counts, found.num_missing], [*colors, SERIES[2]]
    with mpl.rc_context(STYLE):
        height = _HEIGHT_IN if found.is_ordered else 0.5 + _ROW_IN * max(len(labels), 3)
        figure = Figure(figsize=(WIDTH_IN, height), layout="constrained")
        axes = figure.subplots()
        places = range(len(labels))
        if found.is_ordered:
            axes.bar(places, counts, color=colors, width=0.9)
            axes.grid(axis="x", visible=False)
            most_shown = _MANY_LABELS if max(map(len, labels), default=0) <= _SHORT else _FEW_LABELS
            every = max(1, -(-len(labels) // most_shown))
            shown = [place for place in places if place % every == 0 or labels[place] == _MISSING]
            if len(shown) > 1 and labels[shown[-1]] == _MISSING and shown[-1] - shown[-2] < every:
                del shown[-2]
            axes.set_xticks(shown, [labels[place] for place in shown])
            axes.set_xlabel(found.what)
            counted: Axis = axes.yaxis
        else:
            axes.barh(places, counts, color=colors, height=0.8)
            axes.grid(axis="y", visible=False)
            axes.set_yticks(list(places), [_cut(label) for label in labels])
            axes.invert_yaxis()
            counted = axes.xaxis
        counted.set_major_locator(MaxNLocator(nbins=4, integer=True))
        counted.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:,.0f}"))
        svg = svg_of(figure, prefix)
    most = max(zip(counts, labels, strict=True), default=(0, ""), key=lambda pair: pair[0])
    words = f"{title}, by {found.what}. {found.summary}." if found.summary else f"{title}, by {found.what}."
    return Plot(title, svg, f"{words} Most rows: {most[1]}, {most[0]:,}." if counts else f"{words} No rows.")


def _cut(label: str) -> str:
    # A dollar sign would begin a formula.
    text = label if len(label) <= _LONGEST else f"{label[: _LONGEST - 1]}…"
    return text.replace("$", r"\$")
