"""The command `endcap submit`: its options, and the place that they name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from endcap.cli.options import LogFormat, LogFormatOption, Overrides, WorkspaceOption

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help="Project, machine, image and limits as YAML; by default conf/submit.yaml."),
]
MachineOption = Annotated[
    Literal["l4", "t4", "cpu"] | None,
    typer.Option(help="g2-standard-8 with an L4, n1-standard-8 with a T4 or without; else as the file says, or an L4."),
]
StrategyOption = Annotated[
    Literal["standard", "spot", "flex-start"] | None,
    typer.Option(help="spot: cheaper, may be taken away and is then submitted again; flex-start: waits for GPUs."),
]


def submit(
    overrides: Overrides = None,
    target: Annotated[
        Literal["local", "vertex"], typer.Option(help="Where it runs: here as a process, or on Vertex AI.")
    ] = "local",
    config: ConfigOption = None,
    machine: MachineOption = None,
    strategy: StrategyOption = None,
    replicas: Annotated[int | None, typer.Option(min=1, help="Machines that train together.")] = None,
    image: Annotated[str | None, typer.Option(help="The training image.")] = None,
    project: Annotated[str | None, typer.Option(help="Google Cloud project; by default PROJECT_ID.")] = None,
    region: Annotated[str | None, typer.Option(help="Such as us-central1; by default REGION.")] = None,
    bucket: Annotated[str | None, typer.Option(help="In that region; by default ARTIFACT_BUCKET.")] = None,
    service_account: Annotated[str | None, typer.Option(help="Whom the job acts as.")] = None,
    run_id: Annotated[
        str | None, typer.Option(help="The run's name; one that was given before goes on from its checkpoint.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check, and print what would be sent.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Stay until it ends, tell its log, fetch its metrics; Ctrl-C cancels it.")
    ] = False,
    timeout: Annotated[
        float | None, typer.Option(metavar="MINUTES", min=0.01, help="Cancel it after so many minutes.")
    ] = None,
    attach: Annotated[
        str | None, typer.Option(metavar="RUN|JOB", help="Wait for a job of Vertex AI that was submitted before.")
    ] = None,
    workspace: WorkspaceOption = Path(),
    log_format: LogFormatOption = LogFormat.AUTO,
) -> None:
    """Run `endcap train` as a job, on this machine or a rented one.

    Everything that can be checked is checked before a machine is rented: configuration, machine and region, the bucket's
    region, the job's environment. A job whose machine is taken away is submitted again, and goes on from its
    checkpoint, as long as --wait looks after it.
    """
    from endcap.cli.submit import Asked, run_submit

    options: dict[str, Any] = {
        "image_uri": image, "project": project, "region": region, "bucket": bucket, "service_account": service_account,
        "replica_count": replicas, "strategy": strategy and strategy.upper().replace("-", "_"),
    }  # fmt: skip
    asked = Asked(target, config, machine, options, run_id, timeout, attach)
    run_submit(overrides or [], asked, workspace, log_format, dry_run=dry_run, wait=wait)
