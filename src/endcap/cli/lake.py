"""The verbs of `endcap lake`: what lies in the tables' folders, and how it is kept in order."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from endcap.cli.options import LogFormat, LogFormatOption, WorkspaceOption

lake = typer.Typer(
    name="lake",
    short_help="Keep the tables in order: status, versions, read, compact, retain, vacuum, pins, migrate, identities.",
    help="""Keep the tables in order.

What deletes something (retain, vacuum) only counts, unless told to --apply.""",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Tables = Annotated[
    list[str] | None, typer.Option("--table", "-t", help="One table; again for more; by default all that apply.")
]
Apply = Annotated[bool, typer.Option("--apply", help="Do it; without, only count.")]
DatasetVersion = Annotated[
    int | None,
    typer.Option("--dataset-version", min=1, help="A number of `endcap lake versions`; by default in force."),
]
PinName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the pin: letters, digits, '.', '_', '-'.")]


@lake.command(short_help="Show tables, files and what holds old versions.")
def status(workspace: WorkspaceOption = Path(), log_format: LogFormatOption = LogFormat.AUTO) -> None:
    """Show each table's version, rows, files and bytes, and what keeps its old versions readable."""
    from endcap.cli.upkeep import show_status

    show_status(workspace, log_format)


@lake.command(short_help="Merge small files.")
def compact(
    table: Tables = None, workspace: WorkspaceOption = Path(), log_format: LogFormatOption = LogFormat.AUTO
) -> None:
    """Merge small files inside each partition; contents stay as they are.

    The files before stay on disk until `endcap lake vacuum`.
    """
    from endcap.cli.upkeep import run_compact

    run_compact(workspace, log_format, table_names=table)


@lake.command(short_help="Take dates beyond their retention out of force.")
def retain(
    days: Annotated[int, typer.Option(min=1, help="Dates more than this many days before today go.")],
    table: Tables = None,
    apply: Apply = False,
    workspace: WorkspaceOption = Path(),
    log_format: LogFormatOption = LogFormat.AUTO,
) -> None:
    """Count the dates that lie beyond their retention; with --apply take them out of force.

    Their files go with a vacuum, once no pin, release or run holds a version that has them.
    """
    from endcap.cli.upkeep import run_retain

    run_retain(workspace, log_format, days=days, table_names=table, apply=apply)


@lake.command(short_help="Delete files that no kept version needs.")
def vacuum(
    apply: Apply = False,
    grace_hours: Annotated[
        float, typer.Option(min=0.0, help="What could be read within these hours stays readable.")
    ] = 24.0,
    keep_runs_days: Annotated[
        int | None, typer.Option(min=0, help="Runs that ended earlier hold nothing any more; by default all hold.")
    ] = None,
    workspace: WorkspaceOption = Path(),
    log_format: LogFormatOption = LogFormat.AUTO,
) -> None:
    """Count files that no kept version needs; with --apply delete them.

    Versions in force, and those that a pin, a release or a run's manifest names, are kept.
    """
    from endcap.cli.upkeep import run_vacuum

    run_vacuum(workspace, log_format, apply=apply, grace_hours=grace_hours, keep_runs_days=keep_runs_days)


@lake.command(short_help="List the dataset versions: what was in force, and since when.")
def versions(workspace: WorkspaceOption = Path(), log_format: LogFormatOption = LogFormat.AUTO) -> None:
    """List the dataset versions, the newest first: since when, by which run, which tables changed, which pins hold it."""
    from endcap.cli.reading import show_versions

    show_versions(workspace, log_format)


@lake.command(short_help="Show a table, or write it to a file, as it is or was.")
def read(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="Such as events.")],
    dataset_version: DatasetVersion = None,
    at: Annotated[
        str | None,
        typer.Option(metavar="MOMENT", help="A pin, or a moment such as 2026-01-31 or 2026-01-31T12:00:00Z."),
    ] = None,
    version: Annotated[int | None, typer.Option(min=0, help="A version of this table alone.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write to FILE.parquet or FILE.csv instead of the terminal.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="The first rows alone; on the terminal 20 by default.")
    ] = None,
    raw_ids: Annotated[
        bool, typer.Option("--raw-ids", help="With --out: ids of people and free text as they are, not hashed.")
    ] = False,
    workspace: WorkspaceOption = Path(),
    log_format: LogFormatOption = LogFormat.AUTO,
) -> None:
    """Show a table's rows in the order of its key, as of a dataset version, a moment, a pin or a version of its own.

    Tables of an earlier shape come in today's. Ids of people are hashed.
    """
    from endcap.cli.reading import run_read
    from endcap.contracts.errors import InputError

    if dataset_version is not None and at is not None:
        raise InputError("--dataset-version and --at both say when: give one of them.")
    run_read(workspace, log_format, table, at=dataset_version if at is None else at, version=version, out=out,
             limit=limit, raw_ids=raw_ids)  # fmt: skip


@lake.command(short_help="Name a dataset version, so that it stays.")
def pin(
    name: PinName,
    dataset_version: DatasetVersion = None,
    workspace: WorkspaceOption = Path(),
    log_format: LogFormatOption = LogFormat.AUTO,
) -> None:
    """Name a dataset version, by default the one in force; it stays readable until the pin is taken away."""
    from endcap.cli.upkeep import run_pin

    run_pin(workspace, log_format, name, dataset_version=dataset_version)


@lake.command(short_help="Take a pin away.")
def unpin(name: PinName, workspace: WorkspaceOption = Path(), log_format: LogFormatOption = LogFormat.AUTO) -> None:
    """Take a pin away; what only it kept goes with the next vacuum."""
    from endcap.cli.upkeep import run_unpin

    run_unpin(workspace, log_format, name)


@lake.command(short_help="List the pins.")
def pins(workspace: WorkspaceOption = Path(), log_format: LogFormatOption = LogFormat.AUTO) -> None:
    """List the pins with their versions."""
    from endcap.cli.upkeep import show_pins

    show_pins(workspace, log_format)


@lake.command(short_help="Bring tables of an earlier release into today's shape.")
def migrate(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
    workspace: WorkspaceOption = Path(),
    log_format: LogFormatOption = LogFormat.AUTO,
) -> None:
    """Bring tables of an earlier release into today's shape, and say what has to be made again.

    Refused, before anything is written, when a value would be lost.
    """
    from endcap.cli.upkeep import run_migrate

    run_migrate(workspace, log_format, dry_run=dry_run)


@lake.command(short_help="Say which users guests turned out to be.")
def identities(
    file: Annotated[Path, typer.Argument(help="CSV, JSON lines or Parquet with the columns guest_id and user_id.")],
    workspace: WorkspaceOption = Path(),
    log_format: LogFormatOption = LogFormat.AUTO,
) -> None:
    """Merge guests with users as a file says, and build the dates anew that have rows of these guests.

    What the file says beats what logins showed. A guest paired with itself stays a guest.
    """
    from endcap.cli.upkeep import run_identities

    run_identities(workspace, log_format, file)
