"""Evidence in, a report out: `report.md`, and `index.html` as one page that needs no network and no scripts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup, escape

from endcap.contracts.release import Blessing
from endcap.evaluation import drawing, plots
from endcap.evaluation.compare import Comparison, CountingComparison
from endcap.evaluation.evidence import Evidence
from endcap.evaluation.intervals import Interval
from endcap.evaluation.metrics import RECALL_KS
from endcap.evaluation.pages import environment
from endcap.evaluation.rating import RATING_METRICS, RatingComparison
from endcap.evaluation.rating_plots import calibration_curve, predicted_by_slice

MARKDOWN = "report.md"
PAGE = "index.html"
HEADLINE_METRICS = (
    "ndcg@10", "recall@5", "recall@10", "recall@50", "recall@100", "mrr", "hit_rate@10", "map@10", "auc@100"
)  # fmt: skip
DIFFERENCE_METRICS = ("ndcg@10", "recall@100")
SLICE_METRIC = "recall@100"
_PLUS_MINUS = "\u00b1"
# An underscore between letters or digits is no emphasis in CommonMark, and NOT_BLESSED should read as it is written.
_MARKUP = re.compile(r"[\\*\[\]|~#]|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])")


@dataclass(frozen=True)
class ReportPaths:
    """Where the two forms of the report are."""

    markdown: Path
    page: Path


def write_report(evidence: Evidence, folder: Path) -> ReportPaths:
    """Write both forms into `folder`, which is made if need be; equal evidence gives equal bytes."""
    contents = {MARKDOWN: render_markdown(evidence), PAGE: render_page(evidence)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        partial = folder / f".{name}.partial"
        partial.write_text(content, encoding="utf-8", newline="\n")
        partial.replace(folder / name)
    return ReportPaths(folder / MARKDOWN, folder / PAGE)


def verdict(
    comparison: Comparison | None, blessing: Blessing, metric: str, ratings: RatingComparison | None = None
) -> str:
    """The outcome in one sentence; names of baselines stand in backticks.

    A baseline counts as beaten when the paired interval lies above zero, as lost to when the mean difference is zero or
    below; in between the sentence says that the model does not clearly beat it.
    """
    parts = [] if comparison is None else comparison.countings.values()
    faults = [fault for part in parts if (fault := _fault(part, metric)) is not None]
    if faults:
        return f"The model {' and '.join(faults)}: {blessing.status}"
    sentence = f"The model beats every baseline on both counts: {blessing.status}"
    if ratings is not None:
        told = f"rmse of {ratings.target} is {ratings.candidate.metrics['rmse'].mean:.4f} as learned"
        first = ratings.systems[1]
        told += f", against {first.metrics['rmse'].mean:.4f} of `{first.title}`"
        beats = "The model" if comparison is None else "The model beats every baseline on both counts, and its"
        whole = f"{beats}{chr(39) + 's' if comparison is None else ''} {told}"
        if blessing.status != "BLESSED" and blessing.reasons[0].startswith("Ratings: rmse"):
            return f"{whole}, which is not enough: {blessing.status}"
        sentence = f"{whole}: {blessing.status}"
    return sentence if blessing.status == "BLESSED" else f"{sentence}, for another reason: {blessing.reasons[0]}"


def render_markdown(evidence: Evidence) -> str:
    """The report as Markdown: the verdict is its first line."""
    text = _environment(markdown=True).get_template("report.md.jinja").render(_context(evidence))
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def render_page(evidence: Evidence) -> str:
    """The report as one HTML page with inline style and inline SVG."""
    comparison, ratings = evidence.comparison, evidence.ratings
    parts = comparison.countings.values() if comparison is not None else []
    metrics = _difference_metrics(evidence)
    drawings = {
        "ratings": [] if ratings is None else [calibration_curve(ratings), predicted_by_slice(ratings)],
        "forest": [plots.forest(comparison, metric) for metric in metrics] if comparison is not None else [],
        "recall": [plots.recall_by_k(part) for part in parts],
        "activity": [plots.activity_bars(part, SLICE_METRIC) for part in parts],
        "learning": plots.learning_curves(evidence.history) if evidence.history and evidence.history.epochs else [],
    }
    template = _environment(markdown=False).get_template("report.html.jinja")
    return template.render(_context(evidence) | {"plots": drawings, "num_series": drawing.NUM_SERIES})


def _fault(part: CountingComparison, metric: str) -> str | None:
    """How the candidate stands to the baseline that it does worst against, unless it beats them all."""
    unbeaten = [baseline for baseline in part.baselines if not part.differences[baseline.name][metric].above_zero]
    if not unbeaten:
        return None
    worst = min(unbeaten, key=lambda baseline: part.differences[baseline.name][metric].mean)
    difference = part.differences[worst.name][metric]
    words = "LOSES to" if difference.mean <= 0 else "does not clearly beat"
    numbers = f"{metric} {part.candidate.metrics[metric].mean:.4f} against {worst.metrics[metric].mean:.4f}"
    return f"{words} `{worst.title}` on {part.counting.label} ({numbers})"


def _difference_metrics(evidence: Evidence) -> tuple[str, ...]:
    return tuple(dict.fromkeys((evidence.metric, *DIFFERENCE_METRICS)))


def _context(evidence: Evidence) -> dict[str, Any]:
    return {
        "evidence": evidence,
        "comparison": evidence.comparison,
        "parts": [] if evidence.comparison is None else list(evidence.comparison.countings.values()),
        "ratings": evidence.ratings,
        "rating_metrics": RATING_METRICS,
        "blessing": evidence.blessing,
        "lineage": evidence.lineage,
        "verdict": verdict(evidence.comparison, evidence.blessing, evidence.metric, evidence.ratings),
        "headline_metrics": HEADLINE_METRICS,
        "difference_metrics": _difference_metrics(evidence),
        "slice_metric": SLICE_METRIC,
        "coverage_ks": RECALL_KS,
        "configuration": dict(_flatten(evidence.lineage.configuration)),
    }


def _environment(*, markdown: bool) -> Environment:
    return environment({
        "half_width": _half_width,
        "percent": lambda value: f"{value:.1%}",
        "seconds": _seconds,
        "sentence": lambda text: text[:1].upper() + text[1:],
        "text": _markdown_text if markdown else _page_text,
        "product": _markdown_product if markdown else escape,
    })  # fmt: skip


def _half_width(interval: Interval) -> str:
    return f"{_PLUS_MINUS}\u202f{(interval.high - interval.low) / 2:.4f}"


def _seconds(value: float) -> str:
    return f"{value:.1f}\u202fs" if value < 120 else f"{value / 60:.1f}\u202fmin"


def _page_text(value: object) -> Markup:
    """Escaped text in which `backticks` mark a name."""
    return Markup(re.sub(r"`([^`]+)`", r'<span class="name">\1</span>', str(escape(str(value)))))  # noqa: S704


def _markdown_text(value: object) -> Markup:
    """Text that neither HTML nor Markdown reads as markup, within one cell of a table; `backticks` mark a name."""
    text = " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return Markup(_MARKUP.sub(r"\\\g<0>", text))  # noqa: S704


def _markdown_product(name: object) -> Markup:
    """A product's name: a shop's text, so that its backticks mean nothing either."""
    return Markup(_markdown_text(name).replace("`", r"\`"))  # noqa: S704


def _flatten(configuration: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys with their values as JSON, sorted."""
    for key in sorted(configuration):
        value = configuration[key]
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
