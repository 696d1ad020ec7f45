"""What `endcap quicktest --target vertex` does: sends data and plan, has it run there, brings the record back."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from pathlib import Path

import msgspec
from rich.console import Console

from endcap.cli.quicktest import Options, show_quicktests
from endcap.cli.reporting import JsonLinesReporter, reporter_for
from endcap.cli.submit import Asked, config_for, tell_request
from endcap.contracts.errors import ArtifactError, InputError
from endcap.flows import quicktest as flow
from endcap.flows import quicktest_cloud as cloud
from endcap.flows import submission
from endcap.flows.quicktest_record import STEP
from endcap.workspace.job_environment import read_job_environment
from endcap.workspace.layout import Workspace
from endcap.workspace.manifests import new_run_id


def run_on_vertex(
    asked: Options,
    planned: flow.Plan,
    workspace: Workspace,
    where: Asked,
    log_format: str,
    *,
    dry_run: bool,
    wait: bool,
    run_id: str | None,
) -> None:
    """Send it, and with `wait` show what it came to beside earlier quick tests. One that ended is not run again."""
    console = Console()
    report = reporter_for(log_format, console)
    chosen = run_id or new_run_id(STEP)
    config = config_for(where, workspace)
    planned = replace(planned, configuration=submission.asking_for_gpu(planned.configuration, config))
    job = submission.plan_quicktest(
        config, planned.configuration, planned.source_run, chosen, workspace,
        timeout_minutes=asked.timeout_minutes,
    )  # fmt: skip
    if dry_run:
        tell_request(job, console, report)
        return
    variables = job.job.environment
    record = cloud.fetch(workspace, chosen, variables["MODEL_DIR"]) if run_id is not None else None
    if record is None or record.state != "completed":
        launcher = submission.launcher_for(job)
        submission.check_buckets(job, launcher)
        cloud.stage(workspace, planned, chosen, variables["STAGING_PREFIX"])
        sent = submission.submit(job, launcher, report, wait=wait)
        if not wait:
            _tell_started(
                sent, asked, workspace.path, console, None if not isinstance(report, JsonLinesReporter) else report
            )
            return
        record = cloud.fetch(workspace, sent.run_id, variables["MODEL_DIR"])
    if record is None:
        raise ArtifactError(
            f"{chosen} ended well and left no record below {variables['MODEL_DIR']}/{chosen}: the image may be of another "
            "version. Build it from this one."
        )
    if isinstance(report, JsonLinesReporter):
        report.event("quick test ended", **msgspec.to_builtins(record))
        return
    show_quicktests(console, workspace, record)


def run_staged_quicktest(place: str, path: Path, log_format: str, timeout_minutes: float | None) -> None:
    """Do a quick test that was sent here: what the job itself calls."""
    job = read_job_environment(os.environ, path)
    if job is None:
        raise InputError("--staged is for a job that was submitted: its environment, such as MODEL_DIR, is not set.")
    timeout_s = None if timeout_minutes is None else timeout_minutes * 60
    report = reporter_for(log_format, Console())
    record = cloud.run_staged(place, job, report, timeout_s=timeout_s)
    report.event("quick test ended", state=record.state)


def _tell_started(
    sent: submission.Result, asked: Options, path: Path, console: Console, report: JsonLinesReporter | None
) -> None:
    if report is not None:
        report.event("quick test submitted", run_id=sent.run_id, job=sent.handle, url=sent.console_url)
        return
    again = [
        "endcap",
        "quicktest",
        "--source-run",
        asked.source_run,
        "--target",
        "vertex",
        "--wait",
        "--run-id",
        sent.run_id,
    ]
    console.print(f"Submitted {sent.run_id} as {sent.handle}.", soft_wrap=True, highlight=False)
    for name, text in (("look", str(sent.console_url)), ("fetch", shlex.join([*again, "-w", str(path)]))):
        console.print(f"  {name:<8} {text}", soft_wrap=True, highlight=False)
