"""What `endcap ingest` does: read an export, then say where every row went."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from endcap.cli.reporting import JsonLinesReporter, reporter_for
from endcap.contracts.events import SESSION_GAP_MINUTES
from endcap.contracts.reporting import Reporter
from endcap.ingest.pipeline import IngestResult, ingest_file
from endcap.workspace.layout import Workspace


def run_ingest(
    path: Path, source: str, workspace: Path, log_format: str, *, session_gap_minutes: int, replace: bool
) -> None:
    """Ingest a file and print the account of its rows."""
    console = Console()
    report = reporter_for(log_format, console)
    result = ingest_with(
        report, Workspace.open(workspace), source, path, session_gap_minutes=session_gap_minutes, replace=replace
    )
    if isinstance(report, JsonLinesReporter):
        account = result.account
        report.event("ingested", rows=account.num_rows, purchases=account.num_purchases, refunds=account.num_refunds,
                     duplicates=account.num_duplicates, quarantined=account.quarantined, changed=result.changed)  # fmt: skip
        return
    show_account(console, result)


def ingest_with(
    report: Reporter,
    workspace: Workspace,
    source: str,
    path: Path,
    *,
    session_gap_minutes: int = SESSION_GAP_MINUTES,
    replace: bool = False,
) -> IngestResult:
    """Ingest with the pipeline's own progress passed on to a Reporter."""
    return ingest_file(
        workspace,
        source,
        path,
        session_gap_minutes=session_gap_minutes,
        replace=replace,
        progress=lambda stage, share: report.progress("ingesting", share * 100, 100, stage),
    )


def show_account(console: Console, result: IngestResult) -> None:
    """Print where every row went; the parts add up to the rows read."""
    account = result.account
    table = Table("rows", "", box=None, show_header=False, padding=(0, 2))
    table.add_row(f"{account.num_rows:>9,}", "rows read")
    table.add_row(f"{account.num_purchases:>9,}", "purchases")
    table.add_row(f"{account.num_refunds:>9,}", "refunds")
    table.add_row(f"{account.num_duplicates:>9,}", "duplicates, dropped")
    for reason, count in account.quarantined.items():
        table.add_row(f"{count:>9,}", f"in quarantine: {reason.replace('_', ' ')}")
    console.print(table)
    if not result.changed:
        console.print("Nothing changed: the tables hold exactly this already.")
