"""What `endcap submit` does: checks, shows what would be sent, submits, waits and tells the metrics."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
from rich.console import Console

from endcap.cli.reporting import JsonLinesReporter, reporter_for
from endcap.contracts.errors import InputError
from endcap.contracts.reporting import Reporter
from endcap.contracts.submission import MACHINES
from endcap.flows import submission as flow
from endcap.workspace.layout import MARKER, Workspace
from endcap.workspace.submission import load_submission

_SHOWN_METRICS = ("ndcg@10", "recall@10", "recall@100", "rmse", "mae")


@dataclass(frozen=True)
class Asked:
    """Where a job is to run, as it was asked for."""

    target: Literal["local", "vertex"]
    file: Path | None
    machine: str | None
    options: Mapping[str, Any]
    run_id: str | None
    timeout_minutes: float | None
    attach: str | None = None

    @property
    def timeout_s(self) -> float | None:
        """Seconds, as flows take them."""
        return None if self.timeout_minutes is None else self.timeout_minutes * 60


def run_submit(
    overrides: Sequence[str], asked: Asked, path: Path, log_format: str, *, dry_run: bool, wait: bool
) -> None:
    """Do what was asked; wrong input is told before anything starts."""
    workspace = Workspace.open(path) if (path / MARKER).is_file() or asked.target == "local" else None
    handle = _handle(asked, workspace)
    planned = _planned(overrides, asked, workspace, handle, wait=wait)
    console = Console()
    report = reporter_for(log_format, console)
    if dry_run:
        tell_request(planned, console, report)
        return
    launcher = flow.launcher_for(planned)
    result = flow.submit(
        planned, launcher, report, wait=wait or handle is not None, timeout_s=asked.timeout_s, attach=handle
    )
    tell_result(result, console, report, asked, path)


def config_for(asked: Asked, workspace: Workspace | None) -> Any:
    """The submission's settings. Raises InputError for anything wrong in file, options or environment."""
    options = dict(asked.options)
    if asked.machine is not None:
        options["machine"] = MACHINES[asked.machine].model_dump()
    return load_submission(asked.file, options, os.environ, workspace.path / "conf" if workspace else None)


def tell_request(planned: flow.Submission, console: Console, report: Reporter) -> None:
    """What would be sent, and where its buckets lie, as far as that can be asked from here."""
    request, unknown = planned.request(), list[str]()
    try:
        launcher = flow.launcher_for(planned)
    except InputError as error:  # without credentials a request can still be looked at
        unknown = [str(error)]
    else:
        unknown = flow.check_buckets(planned, launcher)
    if isinstance(report, JsonLinesReporter):
        report.event("job planned", run_id=planned.job.run_id, request=request, unchecked=unknown)
        return
    console.print_json(msgspec.json.encode(request).decode())
    for sentence in unknown:
        console.print(f"Not checked: {sentence}", soft_wrap=True, highlight=False)
    console.print("Nothing was submitted.")


def tell_result(result: flow.Result, console: Console, report: Reporter, asked: Asked, path: Path) -> None:
    """How it ended, or how to look after it."""
    if isinstance(report, JsonLinesReporter):
        ended = result.ended
        report.event(
            "job left to itself" if ended is None else "job ended",
            run_id=result.run_id,
            job=result.handle,
            url=result.console_url,
            attempts=ended.num_attempts if ended else 1,
            metrics=dict(result.metrics),
        )
        return
    if result.ended is None:
        console.print(f"Submitted {result.run_id} as {result.handle}.", soft_wrap=True, highlight=False)
        for name, text in _ways_on(result, asked, path):
            console.print(f"  {name:<8} {text}", soft_wrap=True, highlight=False)
        return
    again = "" if result.ended.num_attempts == 1 else f", in {result.ended.num_attempts} attempts"
    console.print(f"{result.run_id} succeeded after {result.ended.seconds / 60:.1f} minutes{again}.", highlight=False)
    for name, value in result.metrics.items():
        if name.rpartition("/")[2] in _SHOWN_METRICS:
            console.print(f"  {name:<40} {'–' if value is None else f'{value:.4f}'}", highlight=False)


def _planned(
    overrides: Sequence[str], asked: Asked, workspace: Workspace | None, handle: str | None, *, wait: bool
) -> flow.Submission:
    if handle is not None:
        return flow.plan_attached(config_for(asked, workspace), handle, workspace)
    if asked.target == "vertex":
        return flow.plan_vertex(config_for(asked, workspace), overrides, asked.run_id, os.environ, workspace)
    if asked.timeout_minutes is not None and not wait:
        raise InputError("Nobody would stop a process here after --timeout minutes: add --wait.")
    assert workspace is not None  # noqa: S101 - opened for a local job
    return flow.plan_local(workspace, overrides, asked.run_id)


def _handle(asked: Asked, workspace: Workspace | None) -> str | None:
    if asked.attach is None or "/" in asked.attach:
        return asked.attach
    if workspace is None:
        raise InputError(
            f"Found --attach {asked.attach} outside a workspace: expected the job's own name, such as "
            "projects/P/locations/R/customJobs/N, or --workspace, where it was submitted."
        )
    return flow.latest_job(workspace, asked.attach).jobs[-1]


def _ways_on(result: flow.Result, asked: Asked, path: Path) -> list[tuple[str, str]]:
    if asked.target == "vertex":
        again = shlex.join(["endcap", "submit", "--target", "vertex", "--attach", result.handle])
        return [("look", str(result.console_url)), ("wait", again)]
    log = path / "03_runs" / result.run_id / "job-1.jsonl"
    return [("log", f"tail -f {log}"), ("stop", f"kill {result.handle}")]
