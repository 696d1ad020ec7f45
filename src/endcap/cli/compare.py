"""What `endcap compare` and `endcap evaluate --recommendations` do: measure, print a table, write a page."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from endcap.contracts.errors import InputError
from endcap.evaluation.assess import Files, ScoreMeaning, ScoreQuality, assess
from endcap.evaluation.intervals import Interval
from endcap.evaluation.runs import RunsComparison, Settings
from endcap.evaluation.runs_page import Section, beyond_metrics, figures_json, headline_metrics, main_k, write_runs
from endcap.flows.comparing import compare_runs
from endcap.workspace.layout import MARKER, Workspace

_MAX_SHOWN_SLICES = 24


def run_evaluate_files(
    files: Files,
    *,
    ks: Sequence[int],
    slices: Sequence[str],
    score_means: ScoreMeaning | None,
    seed: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure one file of recommendations, and say how it did."""
    found = assess(files, settings=_settings(ks, seed), slices=slices, score_means=score_means)
    (name,) = files.recommendations
    _tell(f"{name} against {files.truth.name}", [Section("", found.comparison, found.scores)], out, as_json=as_json)


def run_compare(
    runs: Sequence[str],
    path: Path,
    *,
    truth: Path | None,
    items: Path | None,
    ks: Sequence[int],
    slices: Sequence[str],
    seed: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Compare runs, and say how they differ; the page goes to the workspace's reports unless `out` is given."""
    sections = compare_runs(runs, path, truth=truth, items=items, slices=slices, settings=_settings(ks, seed))
    names = [system.name for system in sections[0].comparison.systems]
    if out is None and (path / MARKER).is_file():
        out = Workspace.open(path).reports / f"compare-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    others = names[1] if len(names) == 2 else f"{len(names) - 1} runs"
    _tell(f"{others} against {names[0]}", sections, out, as_json=as_json)


def _settings(ks: Sequence[int], seed: int) -> Settings:
    if not ks:
        return Settings(seed=seed)
    if min(ks) < 1:
        raise InputError(f"--k {min(ks)}: expected a whole number of 1 or more, such as 10.")
    return Settings(ks=tuple(sorted(set(ks))), seed=seed)


def _tell(title: str, sections: Sequence[Section], out: Path | None, *, as_json: bool) -> None:
    console = Console()
    if as_json:
        sys.stdout.write(figures_json(title, sections).decode())
    else:
        for section in sections:
            _show(console, section)
    if out is not None:
        page = write_runs(title, sections, out).page
        Console(stderr=as_json).print(f"Page: {page}", soft_wrap=True)


def _show(console: Console, section: Section) -> None:
    comparison = section.comparison
    heading = f"{comparison.num_users:,} customers, {comparison.num_relevant:,} products to find"
    console.print(f"{section.title}: {heading}" if section.title else heading, highlight=False)
    for note in comparison.notes:
        console.print(f"  {note}", highlight=False, soft_wrap=True)
    for system in comparison.systems:
        for note in system.notes:
            console.print(f"  {system.name}: {note}", highlight=False, soft_wrap=True, markup=False)
    console.print(_results(comparison))
    if comparison.others:
        console.print(_differences(comparison))
    if comparison.slices:
        console.print(_slices(comparison))
    for name, quality in section.scores.items():
        _show_scores(console, name, quality)


def _results(comparison: RunsComparison) -> Table:
    table = Table("metric", *(system.name for system in comparison.systems), box=None, padding=(0, 2))
    for metric in [*headline_metrics(comparison), *beyond_metrics(comparison)]:
        table.add_row(metric, *(_spread(system.metrics.get(metric)) for system in comparison.systems))
    for name in comparison.reference.totals:
        if name.endswith(f"@{main_k(comparison)}"):
            table.add_row(name, *(f"{system.totals[name]:.4f}" for system in comparison.systems))
    return table


def _differences(comparison: RunsComparison) -> Table:
    table = Table(f"minus {comparison.reference.name}", "metric", "difference", "95% interval", "p, corrected",
                  box=None, padding=(0, 2))  # fmt: skip
    metrics = dict.fromkeys((f"ndcg@{main_k(comparison)}", f"recall@{max(comparison.settings.ks)}"))
    for name, found in comparison.differences.items():
        for metric in metrics:
            row = found[metric]
            interval = f"{row.interval.low:+.4f} to {row.interval.high:+.4f}"
            table.add_row(name, metric, f"{row.interval.mean:+.4f}", interval, f"{row.p_corrected:.4f}")
    return table


def _slices(comparison: RunsComparison) -> Table:
    metric = f"ndcg@{main_k(comparison)}"
    names = [system.name for system in comparison.systems]
    table = Table(f"{metric} by", "", "customers", *names, box=None, padding=(0, 2))
    for piece in comparison.slices[:_MAX_SHOWN_SLICES]:
        means = [_spread(piece.metrics[name][metric]) for name in names]
        table.add_row(piece.column, piece.label, f"{piece.num_users:,}", *means)
    return table


def _show_scores(console: Console, name: str, quality: ScoreQuality) -> None:
    table = Table(f"scores of {name}", "", box=None, padding=(0, 2))
    for metric, interval in quality.metrics.items():
        table.add_row(metric, _spread(interval))
    if quality.calibration is not None:
        table.add_row("calibration error", f"{quality.calibration.expected_error:.4f}")
        table.add_row("bias", f"{quality.calibration.bias:+.4f}")
    table.add_row("pairs with score and outcome", f"{quality.num_pairs:,}")
    console.print(table)


def _spread(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.mean:.4f} ± {(interval.high - interval.low) / 2:.4f}"
