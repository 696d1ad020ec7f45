"""What `endcap quicktest` does: checks, says, trains here or in the background, compares."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from endcap.cli.reporting import JsonLinesReporter, reporter_for
from endcap.cli.submit import Asked
from endcap.cli.train import workspace_conf
from endcap.contracts.reporting import Reporter
from endcap.flows import quicktest as flow
from endcap.flows.quicktest_record import EIGHT, LOG, STEP, Record, best_of, records_of
from endcap.workspace.configuration import load_features, load_model
from endcap.workspace.layout import Workspace
from endcap.workspace.manifests import new_run_id

_MAX_CHANGES = 4
_ID_WIDTH = 23
_ALWAYS_SHOWN: Final = EIGHT[:4]


@dataclass(frozen=True)
class Options:
    """A quick test as it was asked for."""

    source_run: str
    features: str | None
    model: str | None
    overrides: list[str]
    epochs: int | None
    timeout_minutes: float | None

    def command(self, path: Path, run_id: str) -> list[str]:
        """The same, for a process of its own."""
        parts = ["quicktest", *self.overrides, "--source-run", self.source_run, "--workspace", str(path)]
        options = {
            "features": self.features,
            "model": self.model,
            "epochs": self.epochs,
            "timeout": self.timeout_minutes,
        }
        for name, value in options.items():
            if value is not None:
                parts += [f"--{name}", str(value)]
        return [*parts, "--wait", "--run-id", run_id, "--log-format", "json"]


def run_quicktest(
    asked: Options,
    path: Path,
    log_format: str,
    *,
    dry_run: bool,
    wait: bool,
    run_id: str | None,
    where: Asked | None = None,
) -> None:
    """Do what was asked, on a rented machine with `where`; wrong input is told before anything starts."""
    workspace = Workspace.open(path)
    planned = _planned(workspace, asked, path)
    if where is not None:
        from endcap.cli.quicktest_vertex import run_on_vertex

        run_on_vertex(asked, planned, workspace, where, log_format, dry_run=dry_run, wait=wait, run_id=run_id)
        return
    console = Console()
    report = reporter_for(log_format, console)
    is_json = isinstance(report, JsonLinesReporter)
    if dry_run:
        _tell_plan(console, planned, asked, report if is_json else None)
        return
    if not wait:
        _start(workspace, asked, path, console, report if is_json else None)
        return
    timeout_s = None if asked.timeout_minutes is None else asked.timeout_minutes * 60
    record = flow.run_quicktest(workspace, planned, report, timeout_s=timeout_s, run_id=run_id)
    if is_json:
        report.event("quick test ended", **msgspec.to_builtins(record))
        return
    show_quicktests(console, workspace, record)


def show_quicktests(console: Console, workspace: Workspace, own: Record) -> None:
    """A quick test that ended, beside the earlier ones of its source run."""
    _show(console, records_of(workspace, own.source_run), own.source_run, own=own)
    for remark in own.remarks:
        console.print(f"  {remark}", soft_wrap=True)


def list_quicktests(path: Path, source_run: str, log_format: str) -> None:
    """Show the quick tests of a source run."""
    workspace = Workspace.open(path)
    source = flow.find_source(workspace, source_run)
    records = records_of(workspace, source)
    console = Console()
    report = reporter_for(log_format, console)
    if isinstance(report, JsonLinesReporter):
        for record in records:
            report.event("quick test", **msgspec.to_builtins(record))
        return
    if not records:
        console.print(f"No quick test of {source} yet. Begin with: endcap quicktest --source-run {source} --model NAME",
                      soft_wrap=True)  # fmt: skip
        return
    _show(console, records, source)


def _planned(workspace: Workspace, asked: Options, path: Path) -> flow.Plan:
    conf = workspace_conf(path)
    return flow.plan(
        workspace,
        flow.find_source(workspace, asked.source_run),
        features=load_features(asked.features, conf) if asked.features is not None else None,
        model=load_model(asked.model, conf)[0] if asked.model is not None else None,
        overrides=asked.overrides,
        num_epochs=asked.epochs,
    )


def _tell_plan(console: Console, planned: flow.Plan, asked: Options, report: Reporter | None) -> None:
    told: dict[str, Any] = {
        "source_run": planned.source_run,
        "changes": planned.changes,
        "training_questions": planned.num_questions,
        "eval_customers": planned.num_eval,
        "test_customers": planned.num_test,
        "products": planned.num_products,
        "parameters": planned.num_parameters,
        "epochs": planned.configuration.training.num_epochs,
        "estimated_s": planned.estimated_s,
        "has_transformed_data": planned.folder.is_dir(),
        "timeout_minutes": asked.timeout_minutes,
    }
    if report is not None:
        report.event("quick test planned", **told)
        return
    about = "unknown" if planned.estimated_s is None else f"about {_duration(planned.estimated_s)}"
    console.print(f"Would train on the data of {planned.source_run}:", soft_wrap=True, highlight=False)
    console.print(f"  rows        {planned.num_questions:,} training questions, {planned.num_products:,} products")
    console.print(f"  measured on {planned.num_eval:,} eval customers, {planned.num_test:,} test customers")
    console.print(f"  model       {planned.num_parameters:,} parameters")
    console.print(
        f"  differs in  {', '.join(_changes(planned.changes, len(planned.changes))) or 'as the source run'}",
        soft_wrap=True,
    )
    console.print(f"  epochs      {told['epochs']}, {about} by the source run's own")
    if not planned.folder.is_dir():
        console.print("  first       its transformed data are gone, and are made again without fitting")
    console.print("Nothing was trained.")


def _start(workspace: Workspace, asked: Options, path: Path, console: Console, report: Reporter | None) -> None:
    """Begin in a process of its own, which outlives this one and its terminal."""
    run_id = new_run_id(STEP)
    folder = workspace.runs / run_id
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "endcap", *asked.command(path.resolve(), run_id)]
    said_to = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(folder / LOG), os.O_WRONLY | os.O_CREAT, 0o644),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    pid = os.posix_spawn(command[0], command, os.environ, file_actions=said_to, setsid=True)
    if report is not None:
        report.event("quick test started", run_id=run_id, pid=pid, log=str(folder / LOG))
        return
    again = shlex.join(["endcap", "quicktest", "--list", "--source-run", asked.source_run, "-w", str(path)])
    console.print(f"Started {run_id} in the background.", soft_wrap=True, highlight=False)
    for name, text in (("compare", again), ("log", f"tail -f {folder / LOG}"), ("stop", f"kill {pid}")):
        console.print(f"  {name:<8} {text}", soft_wrap=True, highlight=False)


def _show(console: Console, records: list[Record], source_run: str, own: Record | None = None) -> None:
    """One row a quick test, the source run's own model first; the best of each column in bold, with a star."""
    source = next((record.source_metrics for record in records if record.source_metrics), {})
    rows = [source, *(record.metrics for record in records)]
    validated = sorted({name for row in rows for name in row if name not in EIGHT})
    measured = [name for name in EIGHT if name in _ALWAYS_SHOWN or any(row.get(name) is not None for row in rows)]
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title=f"Quick tests of {source_run}", title_justify="left")
    table.add_column("quick test, and how it differs", overflow="fold", min_width=_ID_WIDTH)
    table.add_column("epoch", no_wrap=True)
    for name in (*validated, *measured):
        period, _, metric = name.partition("/")
        table.add_column(
            f"{'eval' if period == 'validation' else period}\n{metric.replace('@', chr(10) + '@')}", no_wrap=True
        )
    best = {name: best_of(rows, name) for name in (*validated, *measured)}
    cells = [_cell(source.get(name), best[name]) for name in (*validated, *measured)]
    table.add_row("the source run's model after tuning", "", *cells)
    for record in records:
        cells = [_cell(record.metrics.get(name), best[name]) for name in (*validated, *measured)]
        name = record.run_id.removeprefix(f"{STEP}-")
        state = "" if record.state == "completed" else f" ({record.state.replace('_', ' ')})"
        epoch = f"{record.chosen_epoch or '–'} of {record.num_epochs}"
        is_own = own is not None and record.run_id == own.run_id
        told = "\n  ".join([f"{name}{state}", *(_changes(record.changes, _MAX_CHANGES) or ["as the source run"])])
        table.add_row(told, epoch, *cells, style="bold" if is_own else None)
    console.print(table)
    console.print("* the best of its column. Choose by the validation metric: the test period is for a last look.",
                  soft_wrap=True)  # fmt: skip
    if own is not None and own.seconds is not None:
        console.print(f"{own.run_id} took {_duration(own.seconds)}.", soft_wrap=True, highlight=False)


def _cell(value: float | None, best: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}{'*' if value == best else ''}"


def _changes(changes: dict[str, Any], num_shown: int) -> list[str]:
    changes = {key: value for key, value in changes.items() if key != "training.num_epochs"}  # told beside
    shown = [f"{key.partition('.')[2] or key}={_value(value)}" for key, value in list(changes.items())[:num_shown]]
    more = len(changes) - num_shown
    return [*shown, *([f"and {more} more"] if more > 0 else [])]


def _value(value: Any) -> str:
    if isinstance(value, list):  # layers
        return "[" + " ".join(str(v.get("units", v)) if isinstance(v, dict) else str(v) for v in value) + "]"
    return str(value)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} minutes"
