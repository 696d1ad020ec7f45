"""What `endcap profile` and `endcap drift` do: look at the tables, write pages and numbers, say where they are."""

from __future__ import annotations

import webbrowser
from datetime import date, timedelta
from pathlib import Path

from rich.console import Console
from rich.table import Table

from endcap.cli.reporting import JsonLinesReporter, reporter_for
from endcap.contracts.errors import InputError
from endcap.contracts.events import TABLES
from endcap.monitoring import drift, profile, profile_page
from endcap.workspace import tables
from endcap.workspace.layout import Workspace
from endcap.workspace.pins import refuse_lost_files, versions_at

DEFAULT_DAYS = 7
_NUM_SHOWN = 8


def run_profile(
    path: Path, log_format: str, *, table: str | None, version: int | None, dataset_version: int | None, show: bool
) -> None:
    """Profile one table, or all of a dataset (default: the one in force), and say where the pages are."""
    console = Console()
    workspace = Workspace.open(path)
    report = reporter_for(log_format, console)
    if table is None and version is not None:
        raise InputError(f"--version {version} belongs to one table: say which with --table.")
    versions: dict[str, int | None] = {table: version} if table is not None else _tables_in_force(workspace)
    if dataset_version is not None:
        versions = _of_dataset(workspace, dataset_version, table, version)
    page = workspace.path
    shown = Table("table", "version", "rows", "columns", "with nulls", "from", "to", box=None, padding=(0, 1))
    for name, chosen in versions.items():
        found = profile.profile_table(workspace, name, report, version=chosen)
        page = profile_page.write_profile(workspace, found)
        num_with_nulls = sum(1 for column in found.columns if column.num_nulls)
        days = (f"{found.days[0].day}", f"{found.days[-1].day}") if found.days else ("", "")
        shown.add_row(
            name, f"{found.version}", f"{found.num_rows:,}", f"{len(found.columns)}", f"{num_with_nulls}", *days
        )
        if isinstance(report, JsonLinesReporter):
            report.event("profiled", table=name, version=found.version, rows=found.num_rows, page=str(page))
    if table is None:
        page = page.parent / profile_page.INDEX
    if not isinstance(report, JsonLinesReporter):
        console.print(shown)
        console.print(f"{'Page' if table else 'Pages'}: {page}", soft_wrap=True)
    if show:
        webbrowser.open(page.resolve().as_uri())


def run_drift(
    path: Path, log_format: str, *, first: str | None, last: str | None, reference_version: int | None
) -> None:
    """Measure drift day by day, and say what differs most on the last one."""
    console = Console()
    workspace = Workspace.open(path)
    report = reporter_for(log_format, console)
    dates = drift.event_dates(workspace)
    until = _day("--to", last) if last is not None else date.fromisoformat(dates[-1])
    since = _day("--from", first) if first is not None else until - timedelta(days=DEFAULT_DAYS - 1)
    since = since if first is not None else max(since, min(until, date.fromisoformat(dates[0])))
    result = drift.measure_drift(workspace, report, first=since, last=until, reference_version=reference_version)
    if isinstance(report, JsonLinesReporter):
        report.event("drift measured", days=len(result.days), numbers=result.num_rows, version=result.version,
                     changed=result.changed)  # fmt: skip
        return
    changed = f"{len(result.replaced)} of {len(result.days)} days changed" if result.changed else "nothing changed"
    console.print(f"Drift table, version {result.version}: {result.num_rows:,} numbers, {changed}.", soft_wrap=True)
    rows = [row for row in profile_page.read_drift(workspace).days if row["event_date"] <= result.days[-1]]
    strongest = profile_page.last_day(rows)[:_NUM_SHOWN]
    if strongest:
        shown = Table("event type and column", "PSI", "Jensen–Shannon", "unseen", "rows", box=None, padding=(0, 2))
        for row in strongest:
            figures = [
                "" if row[name] is None else f"{row[name]:.4f}" for name in (drift.PSI, drift.JS, drift.UNSEEN_RATE)
            ]
            shown.add_row(row["feature"], *figures, f"{row['count']:,}")
        console.print(f"{result.days[-1]}, what differs most:")
        console.print(shown)
    console.print("Plots: endcap profile --table events", soft_wrap=True)


def _of_dataset(workspace: Workspace, number: int, table: str | None, version: int | None) -> dict[str, int | None]:
    if version is not None:
        raise InputError(f"--version {version} and --dataset-version {number} both say when: give one of them.")
    found: dict[str, int | None] = {name: at for name, at in versions_at(workspace, number).items() if name in TABLES}
    if table is not None and table not in found:
        raise InputError(f"Dataset version {number} has no table {table}; it has: {', '.join(sorted(found))}.")
    wanted = {name: at for name, at in found.items() if table in (None, name)}
    for name, at in wanted.items():
        refuse_lost_files(workspace, name, at or 0)
    return wanted


def _tables_in_force(workspace: Workspace) -> dict[str, int | None]:
    dataset = tables.current_dataset(workspace)
    if dataset is None:
        raise InputError(
            f"{workspace.path} holds no tables: nothing to profile. Ingest first: endcap ingest --source KIND PATH"
        )
    return {name: None for name in TABLES if name in dataset.versions}


def _day(option: str, text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"{option} {text} is no day; expected one such as 2026-01-31.") from error
