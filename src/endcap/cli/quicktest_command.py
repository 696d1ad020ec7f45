"""The command `endcap quicktest`: its options, and which of its three jobs they ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from endcap.cli.options import LogFormat, LogFormatOption, Overrides, WorkspaceOption
from endcap.cli.submit_command import ConfigOption, MachineOption


def quicktest(
    source_run: Annotated[
        str,
        typer.Option("--source-run", help="Id of a run of `endcap train`, or its release: NAME/VERSION, NAME@ALIAS."),
    ],
    overrides: Overrides = None,
    features: Annotated[
        str | None,
        typer.Option(help="A FeatureConfig, by name or file, to be the source run's; by default the source run's own."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A ModelConfig, by name or file; by default the source run's own.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Most passes over the training questions; 2 by default.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be trained, on how many rows, and about how long.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Stay until it ends, and show the comparison; without, it goes on by itself.")
    ] = False,
    timeout: Annotated[
        float | None, typer.Option(metavar="MINUTES", min=0, help="Stop cleanly after so many minutes.")
    ] = None,
    target: Annotated[
        Literal["local", "vertex"], typer.Option(help="Where it runs: here, or as a job of Vertex AI.")
    ] = "local",
    config: ConfigOption = None,
    machine: MachineOption = None,
    list_tests: Annotated[bool, typer.Option("--list", help="Only show the quick tests of the source run.")] = False,
    run_id: Annotated[str | None, typer.Option(hidden=True)] = None,
    staged: Annotated[str | None, typer.Option(hidden=True)] = None,
    workspace: WorkspaceOption = Path(),
    log_format: LogFormatOption = LogFormat.AUTO,
) -> None:
    """Try a model on the transformed data of an earlier run: nothing is fitted again, no release is made.

    Overrides are of model.*, training.* and seed. Eight metrics are kept in the run's manifest: test recall at 5, 10, 50
    and 100, and rmse and mae of test and validation. Choose by the validation metric beside them.
    """
    if staged is not None:
        from endcap.cli.quicktest_vertex import run_staged_quicktest

        run_staged_quicktest(staged, workspace, log_format, timeout)
        return
    from endcap.cli.quicktest import Options, list_quicktests, run_quicktest
    from endcap.cli.submit import Asked

    if list_tests:
        list_quicktests(workspace, source_run, log_format)
        return
    asked = Options(source_run, features, model, overrides or [], epochs, timeout)
    where = Asked("vertex", config, machine, {}, run_id, None) if target == "vertex" else None
    run_quicktest(asked, workspace, log_format, dry_run=dry_run, wait=wait, run_id=run_id, where=where)
