"""The verbs of `endcap features`: feature tables, daily aggregates, and a look at what a FeatureConfig makes of the data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from endcap.cli.options import (
    DryRun,
    FirstDate,
    Jobs,
    LastDate,
    LogFormat,
    LogFormatOption,
    MemoryLimit,
    Overrides,
    WorkspaceOption,
)

_DEFAULT = "tables"


class _TablesByDefault(TyperGroup):
    """`endcap features [KEY=VALUE]...` is `endcap features tables [KEY=VALUE]...`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in {*self.commands, *ctx.help_option_names}:
            args = [_DEFAULT, *args]
        return super().parse_args(ctx, args)


features = typer.Typer(
    name="features",
    cls=_TablesByDefault,
    short_help="Build the feature tables; `build`: the features of a range of dates; `check`: what columns become.",
    help="""Build the feature tables.

`endcap features [KEY=VALUE]...` stands for `endcap features tables`.""",
    rich_markup_mode=None,
)


@features.command(short_help="Build the feature tables (the default).")
def tables(
    overrides: Overrides = None, workspace: WorkspaceOption = Path(), log_format: LogFormatOption = LogFormat.AUTO
) -> None:
    """Build the feature tables: questions, histories and catalogs as of their moment, split by time.

    `endcap train` does this by itself when they are missing.
    """
    from endcap.cli.train import run_features

    run_features(overrides or [], workspace, log_format)


@features.command(short_help="Make daily aggregates and windows of a range of dates.")
def build(
    first: FirstDate = None,
    last: LastDate = None,
    jobs: Jobs = 1,
    dry_run: DryRun = False,
    memory_limit: MemoryLimit = "1GB",
    workspace: WorkspaceOption = Path(),
    log_format: LogFormatOption = LogFormat.AUTO,
) -> None:
    """Make daily aggregates and the windows as of each midnight: `endcap backfill` with the steps daily and windows."""
    from endcap.cli.backfill import backfill_and_exit

    backfill_and_exit(workspace, first, last, ["daily", "windows"], log_format, jobs=jobs, dry_run=dry_run,
                      memory_limit=memory_limit)  # fmt: skip


@features.command(short_help="Show what each column becomes, before anything is trained.")
def check(
    config: Annotated[str, typer.Argument(help="A FeatureConfig: a YAML file, or a name in conf/features.")],
    data: Annotated[
        list[Path] | None,
        typer.Option(
            "--data",
            "-d",
            envvar="ENDCAP_WORKSPACE",
            help="A workspace; or a Parquet or CSV file with the columns of both sides; or, given twice, a file of buyer "
            "rows and one of product rows. By default the workspace here.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write a page with plots into.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object instead.")] = False,
    log_format: LogFormatOption = LogFormat.AUTO,
) -> None:
    """Fit a FeatureConfig on data and show what each column becomes: width, vocabulary, missing and unknown shares.

    Each column's distribution is shown before and after. Exit code 2 when the configuration or the data is wrong.
    """
    from endcap.cli.features_check import run_check

    run_check(config, data or [Path()], out, log_format, as_json=as_json)
