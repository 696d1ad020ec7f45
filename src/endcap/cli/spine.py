"""What `endcap features spine` and `endcap features covisitation` do: build, then say what took how long."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from endcap.cli.ingest import memory_mb
from endcap.cli.reporting import JsonLinesReporter, reporter_for
from endcap.contracts.configuration import SplitConfig
from endcap.contracts.errors import InputError
from endcap.flows.covisitation import CovisitationSettings, build_covisitation
from endcap.flows.spine import SpineSettings, build_spine_features
from endcap.workspace.layout import Workspace

_DEFAULT_FRACTION = 0.1


def split_config(kind: str | None, eval_fraction: float, test_fraction: float, seed: int) -> SplitConfig | None:
    """The split that the options ask for. Raises InputError for shares that make none."""
    if kind is None:
        return None
    shares = {"eval_fraction": eval_fraction, "test_fraction": test_fraction}
    if kind == "leave_last_out" and any(share != _DEFAULT_FRACTION for share in shares.values()):
        raise InputError("--split leave_last_out has no shares: leave out --eval-fraction and --test-fraction.")
    for name, share in shares.items():
        if not 0 < share < 0.5:
            raise InputError(f"{name.replace('_', '-')} is {share}; expected more than 0 and less than 0.5.")
    chosen: dict[str, Any] = {"kind": kind, **shares}
    return SplitConfig(**chosen, seed=seed) if kind == "random" else SplitConfig(**chosen)


def run_spine(
    file: Path,
    out: Path,
    workspace: Path,
    log_format: str,
    *,
    groups: str | None,
    memory_limit: str,
    **options: Any,
) -> None:
    """Build the features of a file's rows and print a line for each group."""
    console = Console()
    report = reporter_for(log_format, console)
    if groups is not None:
        options["groups"] = tuple(dict.fromkeys(name.strip() for name in groups.split(",") if name.strip()))
    result = build_spine_features(
        Workspace.open(workspace), file, out, SpineSettings(**options), report, memory_mb=memory_mb(memory_limit)
    )
    if isinstance(report, JsonLinesReporter):
        report.event("spine built", path=out, rows=result.num_rows, seconds=_rounded(result.seconds), **result.figures)
        return
    _show(console, result.num_rows, result.seconds)
    figures = result.figures
    console.print(
        f"{figures['num_asked']:,} rows of {file.name}; {figures['num_unknown_users']:,} with a user and "
        f"{figures['num_unknown_items']:,} with a product that the tables don't know.",
        highlight=False,
        soft_wrap=True,
    )
    if "num_negatives" in figures:
        console.print(
            f"{figures['num_negatives']:,} negatives; none could be drawn for {figures['num_without_negatives']:,} rows.",
            highlight=False,
        )
    console.print("Leak check: no sampled feature counts anything at or after its moment.")
    console.print(f"Features: {out}", soft_wrap=True)


def run_covisitation(out: Path, workspace: Path, log_format: str, *, memory_limit: str, **options: Any) -> None:
    """Count which products go together and print a line for each table."""
    console = Console()
    report = reporter_for(log_format, console)
    num_rows, seconds = build_covisitation(
        Workspace.open(workspace), out, CovisitationSettings(**options), report, memory_mb=memory_mb(memory_limit)
    )
    if isinstance(report, JsonLinesReporter):
        report.event("covisitation built", path=out, rows=num_rows, seconds=_rounded(seconds))
        return
    _show(console, num_rows, seconds)
    console.print(f"Tables: {out}", soft_wrap=True)


def _show(console: Console, num_rows: Mapping[str, int], seconds: Mapping[str, float]) -> None:
    table = Table("group", box=None, padding=(0, 2))
    for name in ("seconds", "rows"):
        table.add_column(name, justify="right")
    for name, taken in seconds.items():
        table.add_row(name, f"{taken:.1f}", f"{num_rows[name]:,}" if name in num_rows else "")
    console.print(table)


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    return {name: round(taken, 3) for name, taken in seconds.items()}
