"""What `endcap backfill` and `endcap features build` do: plan or run steps over a range of dates, then say what became of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import groupby
from pathlib import Path

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from endcap.cli.reporting import JsonLinesReporter, reporter_for
from endcap.flows.backfill import BackfillResult, backfill
from endcap.flows.partitions import Outcome
from endcap.flows.steps import make_steps
from endcap.flows.table_steps import settings_in_force
from endcap.workspace.layout import Workspace

_STYLES = {"failed": "bold red", "skipped": "yellow", "run": "bold", "maybe": "bold", "ran": "green"}


@dataclass(frozen=True)
class _Stretch:
    """Partitions of a step that follow on each other and have the same in store."""

    step: str
    first: str
    last: str
    num_partitions: int
    state: str
    why: str


def run_backfill(
    workspace: Path,
    first: date,
    last: date,
    steps: Sequence[str],
    log_format: str,
    *,
    jobs: int,
    dry_run: bool,
    memory_mb: int,
    session_gap_minutes: int | None = None,
) -> int:
    """Run the steps over the dates and print what became of them; gives the exit code."""
    console = Console()
    report = reporter_for(log_format, console)
    opened = Workspace.open(workspace)
    settings = settings_in_force(opened)
    if session_gap_minutes is not None:
        settings = msgspec.structs.replace(settings, session_gap_minutes=session_gap_minutes)
    result = backfill(
        opened, first, last, make_steps(steps, settings), report, jobs=jobs, memory_mb=memory_mb, dry_run=dry_run
    )
    if isinstance(report, JsonLinesReporter):
        for one in _stretches(result.outcomes):
            report.event(
                "planned" if dry_run else "partitions", step_name=one.step, first=one.first, last=one.last,
                partitions=one.num_partitions, state=one.state, why=one.why,
            )  # fmt: skip
        return result.exit_code
    _show(console, result, dry_run=dry_run)
    return result.exit_code


def _show(console: Console, result: BackfillResult, *, dry_run: bool) -> None:
    table = Table("step", "partitions", "", "", "why", box=None, padding=(0, 2))
    for one in _stretches(result.outcomes):
        partitions = one.first if one.num_partitions == 1 else f"{one.first} to {one.last}"
        style = _STYLES.get(one.state, "dim")
        table.add_row(one.step, partitions, str(one.num_partitions), f"[{style}]{one.state}[/]", escape(one.why))
    console.print(table)
    counts = ", ".join(f"{number} {state}" for state, number in result.counts.items())
    console.print(f"{'Nothing was run. ' if dry_run else ''}Partitions: {counts}.", highlight=False)
    if result.failed:
        console.print("The same command again runs what failed and what was skipped, and nothing else.")


def _stretches(outcomes: Sequence[Outcome]) -> Iterator[_Stretch]:
    def of(outcome: Outcome) -> tuple[str, str, str]:
        return outcome.node.step, outcome.state, outcome.error or outcome.why

    for (step, state, why), group in groupby(outcomes, key=of):
        partitions = [outcome.node.partition for outcome in group]
        yield _Stretch(step, partitions[0], partitions[-1], len(partitions), state, why)
