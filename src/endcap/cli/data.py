"""The verbs of `endcap data`: versions of data that are kept elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from endcap.cli.options import LogFormat, LogFormatOption

data = typer.Typer(
    name="data",
    short_help="Fetch versions of data kept elsewhere: pull.",
    help="Fetch versions of data that are kept elsewhere.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@data.callback()
def _group() -> None:
    pass


@data.command(short_help="Fetch what .dvc files name.")
def pull(
    dvc_files: Annotated[
        list[str], typer.Argument(metavar="FILE.dvc...", help="What `dvc add` wrote: paths, gs:// or s3://.")
    ],
    to: Annotated[
        Path | None,
        typer.Option(
            help="Where the data go, the content of a tracked folder straight into it; by default beside FILE.dvc."
        ),
    ] = None,
    remote: Annotated[
        str | None,
        typer.Option(help="A remote of FILE.dvc's repository, or a place: a folder, gs://, s3://; by default its own."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace files that differ; remove what a tracked folder doesn't have.")
    ] = False,
    workspace: Annotated[
        Path | None,
        typer.Option("--workspace", "-w", envvar="ENDCAP_WORKSPACE", help="Remembers the version of what it reads."),
    ] = None,
    log_format: LogFormatOption = LogFormat.AUTO,
) -> None:
    """Fetch the data that .dvc files name from their remote, each file checked by its digest; DVC itself isn't needed.

    What is there already stays. With a workspace, manifests of later runs name the version of the files that they read.
    """
    from rich.console import Console

    from endcap.cli.reporting import JsonLinesReporter, reporter_for
    from endcap.workspace.data_versions import pull as pull_data
    from endcap.workspace.layout import Workspace

    console = Console()
    report = reporter_for(log_format, console)
    home = Workspace.open(workspace) if workspace is not None else None
    pulled = pull_data(dvc_files, home, to=to, remote=remote, force=force)
    if isinstance(report, JsonLinesReporter):
        report.event(
            "data pulled", data_version=pulled.data_version, files=len(pulled.files), fetched=pulled.num_fetched
        )
    else:
        said = f"{len(pulled.files)} files of {pulled.data_version}, {pulled.num_fetched} fetched."
        console.print(said, soft_wrap=True, highlight=False, markup=False)
