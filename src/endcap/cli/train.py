"""What `endcap features`, `train`, `evaluate` and `config` do."""

from __future__ import annotations

import sys
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from endcap.cli.reporting import JsonLinesReporter, reporter_for
from endcap.contracts.configuration import Configuration
from endcap.contracts.errors import ColumnsError
from endcap.contracts.stopping import stop_on_signals
from endcap.evaluation.compare import Comparison
from endcap.evaluation.rating import RATING_METRICS, RatingComparison
from endcap.evaluation.report import verdict
from endcap.workspace.configuration import load_configuration, named_by_file
from endcap.workspace.layout import MARKER, Workspace

_SHOWN_METRICS = ("ndcg@10", "recall@10", "recall@100")


def run_features(overrides: list[str], path: Path, log_format: str) -> None:
    """Build the feature tables and say where they are."""
    from endcap.flows.features import build_features

    console = Console()
    workspace = Workspace.open(path)
    report = reporter_for(log_format, console)
    tables = build_features(workspace, configuration_for(overrides, path), report)
    if not isinstance(report, JsonLinesReporter):
        console.print(f"Feature tables: {tables.folder}", soft_wrap=True)


def run_train(overrides: list[str], path: Path, log_format: str) -> None:
    """Train, and say how it went."""
    workspace = Workspace.open(path)
    configuration = configuration_for(overrides, path)
    from endcap.flows.resuming import Started
    from endcap.flows.several import first_of_several
    from endcap.flows.train_run import train_run

    console = Console()
    report = reporter_for(log_format, console)
    try:
        with stop_on_signals() as stop:
            result = first_of_several(
                lambda: train_run(workspace, configuration, report, Started(stop=stop)), workspace, configuration, stop
            )
    except ColumnsError as error:
        raise named_by_file(error, overrides, workspace_conf(path)) from error
    if result is not None and not isinstance(report, JsonLinesReporter):
        show_comparison(console, result.comparison)
        show_ratings(console, result.ratings)
        blessing = result.release.manifest.blessing
        sentence = verdict(result.comparison, blessing, configuration.evaluation.metric, result.ratings)
        console.print(sentence.replace("`", ""))
        console.print(f"Release: {result.release.path}", soft_wrap=True)
        console.print(f"Report:  {result.report}", soft_wrap=True)


def run_evaluate(release: Path, path: Path, log_format: str) -> None:
    """Score a release again, and say how it did."""
    from endcap.flows.train_run import evaluate_release

    console = Console()
    report = reporter_for(log_format, console)
    result = evaluate_release(Workspace.open(path), release, report)
    if not isinstance(report, JsonLinesReporter):
        show_comparison(console, result.comparison)
        show_ratings(console, result.ratings)
        console.print(f"Report: {result.report}", soft_wrap=True)


def show_configuration(overrides: list[str], path: Path) -> None:
    """Print the whole configuration as YAML."""
    configuration = configuration_for(overrides, path)
    described = configuration.model_dump(mode="json", exclude_none=True)
    yaml.safe_dump(described, sys.stdout, sort_keys=False, default_flow_style=None, width=120)


def configuration_for(overrides: list[str], path: Path) -> Configuration:
    """The configuration, with the workspace's own `conf/` where `path` is a workspace that has one."""
    return load_configuration(overrides, workspace_conf(path))


def workspace_conf(path: Path) -> Path | None:
    """The `conf/` of a workspace; None where `path` is no workspace."""
    return path / "conf" if (path / MARKER).is_file() else None


def show_comparison(console: Console, comparison: Comparison | None) -> None:
    """Print the model beside the baselines, one table a counting; nothing where nothing is recommended."""
    if comparison is None:
        return
    for counting, part in comparison.countings.items():
        table = Table(
            "",
            *(f"{metric}" for metric in _SHOWN_METRICS),
            title=f"{counting.label}, {part.num_customers:,} customers",
            title_justify="left",
        )
        for system in part.systems:
            cells = [
                f"{interval.mean:.4f} ± {(interval.high - interval.low) / 2:.4f}"
                for interval in (system.metrics[metric] for metric in _SHOWN_METRICS)
            ]
            table.add_row(system.title, *cells, style="bold" if system is part.candidate else None)
        console.print(table)


def show_ratings(console: Console, ratings: RatingComparison | None) -> None:
    """Print the errors of predicted targets, a line a system; nothing where none are predicted."""
    if ratings is None:
        return
    title = f"{ratings.target} of a line, {ratings.num_lines:,} lines of {ratings.num_customers:,} customers"
    table = Table("", *RATING_METRICS, title=title, title_justify="left")
    for system in ratings.systems:
        cells = [f"{one.mean:.4f} ± {(one.high - one.low) / 2:.4f}" for one in system.metrics.values()]
        table.add_row(system.title, *cells, style="bold" if system is ratings.candidate else None)
    console.print(table)
