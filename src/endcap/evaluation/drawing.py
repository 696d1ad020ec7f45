"""A figure in, inline SVG out that takes its colours from the page, so that it reads in light and in dark."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

NUM_SERIES = 6
# Matplotlib can't write CSS variables; these colours, used nowhere else, are swapped for them in the SVG's text.
INK, MUTED, GRID = "#010101", "#020202", "#030303"
SERIES = tuple(f"#1100{index:02x}" for index in range(NUM_SERIES))
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--rule"} | {
    color: f"--series-{index}" for index, color in enumerate(SERIES)
}
DASHES: tuple[Any, ...] = ("solid", (0, (1.2, 1.4)), (0, (5, 1.8)), (0, (6, 1.5, 1.2, 1.5)), (0, (3, 1)), (0, (2, 3)))
STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 9.0,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.facecolor": "none",
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
}
WIDTH_IN = 4.6


@dataclass(frozen=True)
class Plot:
    """One figure: a heading that says what it shows, its drawing as SVG text, and the same in words."""

    title: str
    svg: str
    description: str


def in_percent(axes: Axes) -> None:
    """Shares on the y axis as percent."""
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:.0%}"))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))


def recall_svg(curves: Sequence[Sequence[float]], prefix: str) -> str:
    """Mean recall at each list length from 1 on, a curve a system."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 3.1), layout="constrained")
        axes = figure.subplots()
        # The first system's thick line lies beneath, so that another on the very same curve stays visible.
        for index, curve in enumerate(curves):
            series = index % NUM_SERIES
            axes.plot(
                range(1, len(curve) + 1),
                curve,
                color=SERIES[series],
                linestyle=DASHES[series],
                linewidth=3.0 if index == 0 else 1.4,
            )
        axes.set_xlim(0, 100)
        axes.set_xticks([1, 10, 25, 50, 75, 100])
        axes.set_ylim(bottom=0)
        axes.set_xlabel("k, products shown")
        axes.set_ylabel("recall@k, mean over customers")
        in_percent(axes)
        return svg_of(figure, prefix)


def svg_of(figure: Figure, prefix: str) -> str:
    """The figure as one `<svg>` element: page colours, own ids, no metadata, no namespace addresses, no comments."""
    prefix = re.sub(r"[^a-z0-9-]", "-", prefix)
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": prefix}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for pattern in (r"<!--.*?-->", r"<metadata>.*?</metadata>", r"<style.*?</style>", r' xmlns(:\w+)?="[^"]*"'):
        text = re.sub(pattern, "", text, flags=re.DOTALL)
    text = text.replace("xlink:href", "href")
    for pattern, replacement in (
        (r'\bid="', f'id="{prefix}-'),
        (r"url\(#", f"url(#{prefix}-"),
        (r'href="#', f'href="#{prefix}-'),
    ):
        text = re.sub(pattern, replacement, text)
    for color, variable in _VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    return _compact(text.replace("<svg", '<svg aria-hidden="true" focusable="false"', 1).splitlines())


def _compact(lines: Sequence[str]) -> str:
    return "\n".join(line.strip() for line in lines if line.strip())
