"""The verbs of `endcap features`: tables to train on, dates, a file's rows, pairs, and what a FeatureConfig makes of them."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

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


class _OrTables(TyperGroup):
    """A group whose verb may be left out: then it is `tables`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        first = args[0] if args else ""
        if first not in self.commands and first not in ("-h", "--help"):
            args = [_DEFAULT, *args]
        return super().parse_args(ctx, args)


features = typer.Typer(
    name="features",
    cls=_OrTables,
    short_help="Build features: tables to train on; check, build, spine, covisitation.",
    help="""Build features.

`endcap features` alone builds the tables that a training run starts from (the same as `endcap features tables`).""",
    rich_markup_mode=None,
)

Out = Annotated[Path, typer.Option("--out", "-o", help="Folder to make; it must not exist.")]


@features.command(name=_DEFAULT, short_help="Questions, histories and catalogs as of their moment, split.")
def build_tables(
    overrides: Overrides = None, workspace: WorkspaceOption = Path(), log_format: LogFormatOption = LogFormat.AUTO
) -> None:
    """Build the feature tables: questions, histories and catalogs as of their moment, split by time.

    `endcap train` does this by itself when they are missing.
    """
    from endcap.cli.train import run_features

    run_features(overrides or [], workspace, log_format)


@features.command(short_help="Daily aggregates and windows of a range of dates.")
def build(
    first: FirstDate = None,
    last: LastDate = None,
    jobs: Jobs = 1,
    dry_run: DryRun = False,
    memory_limit: MemoryLimit = "1GB",
    workspace: WorkspaceOption = Path(),
    log_format: LogFormatOption = LogFormat.AUTO,
) -> None:
    """Make daily aggregates and the windows as of each midnight, as far as something changed.

    The same as `endcap backfill` with the steps daily and windows.
    """
    run_dates(workspace, first, last, ["daily", "windows"], log_format, jobs=jobs, dry_run=dry_run,
              memory_limit=memory_limit)  # fmt: skip


def run_dates(
    workspace: Path,
    first: datetime | None,
    last: datetime | None,
    steps: list[str],
    log_format: str,
    *,
    jobs: int,
    dry_run: bool,
    memory_limit: str,
    session_gap_minutes: int | None = None,
) -> None:
    """Run steps over a range of dates and leave with what became of it."""
    if first is None or last is None:
        raise typer.BadParameter("give the first and the last date: --from 2026-01-01 --to 2026-01-31")
    from endcap.cli.backfill import run_backfill
    from endcap.cli.ingest import memory_mb

    code = run_backfill(
        workspace, first.date(), last.date(), steps, log_format, jobs=jobs, dry_run=dry_run,
        memory_mb=memory_mb(memory_limit), session_gap_minutes=session_gap_minutes,
    )  # fmt: skip
    raise typer.Exit(code)


@features.command(short_help="Features of the rows of a file, each as of its moment.")
def spine(
    file: Annotated[
        Path,
        typer.Argument(
            help="Parquet or CSV with user_id, item_id, event_time (or event_time_us), label if there is one."
        ),
    ],
    out: Out,
    groups: Annotated[
        str | None,
        typer.Option(
            help="Of user, item, user_category, user_item, price, repurchase, sequence, history; by default all but history."
        ),
    ] = None,
    negatives: Annotated[
        Literal["uniform", "popularity", "in_category", "impressions"] | None,
        typer.Option(help="Add products that weren't the answer to each row of label 1, drawn like this."),
    ] = None,
    num_negatives: Annotated[int, typer.Option(help="Of each row.")] = 4,
    exclude_bought: Annotated[
        bool, typer.Option("--exclude-bought", help="Draw nothing that the user had bought before.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the negatives and of --split random.")] = 0,
    split: Annotated[
        Literal["time", "leave_last_out", "random"] | None,
        typer.Option(help="Add a column `period`: train, eval, test (random also: context)."),
    ] = None,
    eval_fraction: Annotated[float, typer.Option(help="Share in eval; of users for random.")] = 0.1,
    test_fraction: Annotated[float, typer.Option(help="Share in test, likewise.")] = 0.1,
    sequence_length: Annotated[int, typer.Option(help="Rows of a question in sequence and history.")] = 20,
    memory_limit: MemoryLimit = "1GB",
    workspace: WorkspaceOption = Path(),
    log_format: LogFormatOption = LogFormat.AUTO,
) -> None:
    """Compute features for labelled rows, exact to the microsecond: nothing at or after a row's moment counts.

    Writes spine.parquet, a Parquet file for each group (keyed by query_num) and manifest.json. A sample is made again
    without what came later; when anything differs, nothing is kept and the exit code is 2.
    """
    from endcap.cli.spine import run_spine, split_config

    run_spine(
        file, out, workspace, log_format, groups=groups, negatives=negatives, num_negatives=num_negatives, seed=seed,
        exclude_bought=exclude_bought, split=split_config(split, eval_fraction, test_fraction, seed),
        sequence_length=sequence_length, memory_limit=memory_limit,
    )  # fmt: skip


@features.command(short_help="Which products go together.")
def covisitation(
    out: Out,
    before: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"], metavar="DATE", help="Count what happened before this day (UTC); by default all."
        ),
    ] = None,
    window_days: Annotated[float | None, typer.Option(help="Count only so many days back.")] = None,
    half_life_days: Annotated[float | None, typer.Option(help="After so many days a meeting weighs half.")] = None,
    within_days: Annotated[
        float | None, typer.Option(help="Bought by one customer so many days apart; by default in the same basket.")
    ] = None,
    min_support: Annotated[int, typer.Option(help="Leave out pairs that met less often.")] = 2,
    top_n: Annotated[int, typer.Option(help="Most rows of a product.")] = 50,
    by: Annotated[
        Literal["item", "group"], typer.Option(help="group: the variants of a product count as one.")
    ] = "item",
    memory_limit: MemoryLimit = "1GB",
    workspace: WorkspaceOption = Path(),
    log_format: LogFormatOption = LogFormat.AUTO,
) -> None:
    """Count products seen in one session (covisits), right after one another (next_items), bought together.

    Writes a Parquet file of each and manifest.json.
    """
    from endcap.cli.spine import run_covisitation

    run_covisitation(
        out, workspace, log_format, before=None if before is None else before.date(), window_days=window_days,
        half_life_days=half_life_days, within_days=within_days, min_support=min_support, top_n=top_n, by=by,
        memory_limit=memory_limit,
    )  # fmt: skip


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
