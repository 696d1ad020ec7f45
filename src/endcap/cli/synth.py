"""What `endcap synth` does: make up a shop, then say what lies where."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import cast

from rich.console import Console

from endcap.cli.reporting import JsonLinesReporter, reporter_for
from endcap.contracts.errors import InputError
from endcap.ingest.synthetic import Format, Plan, generate, parse_count
from endcap.ingest.synthetic.mapping import MAPPING_FILE
from endcap.workspace.layout import Workspace


def run_synth(
    out: Path,
    events: str,
    days: int,
    users: str | None,
    items: str | None,
    seed: int,
    start: str,
    duplicates: float,
    late: float,
    file_format: str,
    log_format: str,
    workspace: Path | None,
) -> None:
    """Make up a shop below `out`, its logs hashed by the workspace's key if there is one, and tell its figures."""
    plan = Plan(
        num_events=parse_count(events),
        num_days=days,
        num_users=None if users is None else parse_count(users),
        num_items=None if items is None else parse_count(items),
        seed=seed,
        start=_date(start),
        duplicate_share=duplicates,
        late_share=late,
        file_format=cast("Format", file_format),
    )
    console = Console()
    report = reporter_for(log_format, console)
    user_key = None if workspace is None else Workspace.open(workspace).user_key
    truth = generate(out, plan, report, user_key=user_key)
    told = ("num_rows", "num_events", "num_duplicates", "num_late", "num_people", "num_items", "num_sessions")
    report.event("made up", path=out, **{name: truth[name] for name in told})
    if not isinstance(report, JsonLinesReporter):
        mapping, where = out / MAPPING_FILE, workspace or "WORKSPACE"
        console.print(
            f"Next: endcap ingest --source files --mapping {mapping} {out / 'events'} --workspace {where}",
            soft_wrap=True,
        )


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"{text!r} is no date; expected one such as 2026-01-31.") from error
