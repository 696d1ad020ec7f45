"""What `endcap features`, `train`, `evaluate` and `config` do."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer
import yaml
from rich.console import Console
from rich.table import Table

from endcap.cli.reporting import JsonLinesReporter, reporter_for
from endcap.contracts.configuration import Configuration
from endcap.contracts.errors import ColumnsError
from endcap.contracts.job import JobEnvironment
from endcap.contracts.reporting import Reporter
from endcap.contracts.stopping import Stop, stop_on_signals
from endcap.evaluation.compare import Comparison
from endcap.evaluation.rating import RATING_METRICS, RatingComparison
from endcap.evaluation.report import verdict
from endcap.workspace.configuration import load_configuration, named_by_file
from endcap.workspace.job_environment import job_workspace, read_job_environment
from endcap.workspace.layout import MARKER, Workspace

if TYPE_CHECKING:
    from endcap.flows.train_run import TrainResult

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


def run_train(
    overrides: list[str], path: Path, log_format: str, *, health_port: int | None = None, health_host: str = "127.0.0.1"
) -> None:
    """Train, and say how it went; where the environment is a training job's, as such a job."""
    job, workspace, configuration = _asked(overrides, path)
    console = Console()
    named = {} if job is None else _names(job)
    report = reporter_for(log_format, console, **named)
    try:
        with _heard_by_probes(report, health_port, health_host) as heard, stop_on_signals() as stop:
            result, place = _trained(job, workspace, configuration, heard, stop)
    except ColumnsError as error:
        raise named_by_file(error, overrides, workspace_conf(path)) from error
    if result is not None and not isinstance(report, JsonLinesReporter):
        show_comparison(console, result.comparison)
        show_ratings(console, result.ratings)
        blessing = result.release.manifest.blessing
        sentence = verdict(result.comparison, blessing, configuration.evaluation.metric, result.ratings)
        console.print(sentence.replace("`", ""))
        console.print(f"Release: {place}", soft_wrap=True)
        console.print(f"Report:  {result.report}", soft_wrap=True)


def run_together(num: int, overrides: list[str], path: Path, log_format: str, probed: list[str]) -> None:
    """Train with so many processes of this machine; what is wrong with what they are asked for is told once, before."""
    from endcap.training.launchers.torchrun import run_processes

    job, _, _ = _asked(overrides, path)
    options = ["--workspace", str(path), "--log-format", log_format, *probed]
    ended = run_processes(["-m", "train.main", *overrides, *options], num, job.cluster if job is not None else None)
    if ended.said:
        typer.echo(f"error: {ended.said}", err=True)
    if ended.exit_code:
        sys.exit(ended.exit_code)


def _asked(overrides: list[str], path: Path) -> tuple[JobEnvironment | None, Workspace, Configuration]:
    job = read_job_environment(os.environ, path)
    workspace = Workspace.open(path) if job is None else job_workspace(job, path)
    return job, workspace, configuration_for(overrides, path)


def _trained(
    job: JobEnvironment | None, workspace: Workspace, configuration: Configuration, report: Reporter, stop: Stop
) -> tuple[TrainResult | None, str]:
    """What the training gave, and where the release is."""
    if job is None:
        from endcap.flows.resuming import Started
        from endcap.flows.several import first_of_several
        from endcap.flows.train_run import train_run

        result = first_of_several(
            lambda: train_run(workspace, configuration, report, Started(stop=stop)), workspace, configuration, stop
        )
        return result, "" if result is None else str(result.release.path)
    if job.cluster is not None and job.cluster.world_size > 1:
        for name, value in job.cluster.environment().items():
            os.environ.setdefault(name, value)
    from endcap.flows.job import run_job

    done = run_job(job, workspace, configuration, report, stop)
    return (None, "") if done is None else (done.trained, str(done.place))


def _names(job: JobEnvironment) -> dict[str, str]:
    experiment = job.experiment_name if "EXPERIMENT_NAME" in job.given else ""
    return {"run_id": job.run_id or "", "request_id": job.request_id, "experiment": experiment}


@contextmanager
def _heard_by_probes(report: Reporter, port: int | None, host: str) -> Iterator[Reporter]:
    """The same reporter, which also answers probes on a port where one is asked for: of a machine's processes, the first."""
    if port is None or os.environ.get("LOCAL_RANK", "0") != "0":
        yield report
        return
    from endcap.monitoring.worker import WorkerHealth, listening

    health = WorkerHealth(report)
    with listening(health, host, port) as chosen:
        report.event("answering probes", url=f"http://{host}:{chosen}/healthz")
        yield health


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
