"""Runs compared in, one HTML page and one JSON file out: tables and plots that need no network and no scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec

from endcap.evaluation import runs_plots as plots
from endcap.evaluation.assess import ScoreQuality
from endcap.evaluation.drawing import NUM_SERIES
from endcap.evaluation.intervals import Interval
from endcap.evaluation.metrics import AUC, FAMILIES
from endcap.evaluation.pages import environment
from endcap.evaluation.runs import RunsComparison
from endcap.workspace.atomic import write_bytes, write_text

PAGE = "index.html"
FIGURES = "figures.json"
MAIN_K = 10


@dataclass(frozen=True)
class Section:
    """One comparison under a heading, such as a counting; an empty title for the only one."""

    title: str
    comparison: RunsComparison
    scores: Mapping[str, ScoreQuality] = field(default_factory=dict)


@dataclass(frozen=True)
class RunsPaths:
    """Where the page and the figures are."""

    page: Path
    figures: Path


def write_runs(title: str, sections: Sequence[Section], folder: Path) -> RunsPaths:
    """Write the page and all figures as JSON into `folder`; equal comparisons give equal bytes."""
    write_bytes(folder / FIGURES, figures_json(title, sections))
    write_text(folder / PAGE, render_runs(title, sections))
    return RunsPaths(folder / PAGE, folder / FIGURES)


def figures_json(title: str, sections: Sequence[Section]) -> bytes:
    """Every number, as indented JSON; a number that can't be told is null."""
    content = {"title": title, "sections": [msgspec.to_builtins(section) for section in sections]}
    return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"


def main_k(comparison: RunsComparison) -> int:
    """The k that one figure is shown at: 10 where it was measured, else the first that was."""
    ks = comparison.settings.ks
    return MAIN_K if MAIN_K in ks else ks[0]


def headline_metrics(comparison: RunsComparison) -> list[str]:
    """What the tables show of the ranking metrics: each family at the main k, then recall at the others."""
    k = main_k(comparison)
    names = [f"{family}@{k}" for family in ("ndcg", "recall", "hit_rate", "mrr", "map", "precision", AUC)]
    return [name for name in names if name in comparison.reference.metrics] + [
        f"recall@{other}" for other in comparison.settings.ks if other != k
    ]


def beyond_metrics(comparison: RunsComparison) -> list[str]:
    """What was measured of the lists beyond their being right, at the main k."""
    k = main_k(comparison)
    names = dict.fromkeys(name for system in comparison.systems for name in system.metrics)
    return [name for name in names if name.endswith(f"@{k}") and name.partition("@")[0] not in (*FAMILIES, AUC)]


def render_runs(title: str, sections: Sequence[Section]) -> str:
    """The page."""
    page = environment({
        "spread": _spread,
        "p_value": lambda value: "< 0.001" if value < 0.001 else f"{value:.3f}",
        "short": plots.shortened,
    })  # fmt: skip
    prepared = [_prepared(section, f"s{number}") for number, section in enumerate(sections)]
    return page.get_template("runs.html.jinja").render(
        title=title, sections=prepared, num_series=NUM_SERIES, several=len(sections[0].comparison.systems) > 1
    )


def _prepared(section: Section, prefix: str) -> dict[str, Any]:
    comparison = section.comparison
    k = main_k(comparison)
    names = [system.name for system in comparison.systems]
    shown = list(dict.fromkeys((f"ndcg@{k}", f"recall@{max(comparison.settings.ks)}")))
    by_column = [(column, list(pieces)) for column, pieces in groupby(comparison.slices, lambda piece: piece.column)]
    return {
        "title": section.title,
        "comparison": comparison,
        "scores": section.scores,
        "headline": headline_metrics(comparison),
        "beyond": beyond_metrics(comparison),
        "totals": [f"{name}@{k}" for name in ("coverage", "gini") if f"{name}@{k}" in comparison.reference.totals],
        "shown": shown,
        "slices": [
            (column, pieces, plots.slice_bars(column, pieces, names, shown[0], prefix)) for column, pieces in by_column
        ],
        "differences": [plots.differences(comparison, metric, prefix) for metric in shown] if comparison.others else [],
        "recall": plots.recall_curves(comparison, prefix),
        "reliability": [
            plots.reliability(name, quality.calibration, prefix)
            for name, quality in section.scores.items()
            if quality.calibration is not None
        ],
    }


def _spread(interval: Interval) -> str:
    return f"\u00b1\u202f{(interval.high - interval.low) / 2:.4f}"
