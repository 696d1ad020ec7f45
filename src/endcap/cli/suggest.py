"""What `endcap ingest --suggest` does: look at a file, then say how to ingest it and what would become of its rows."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from endcap.cli.reporting import JsonLinesReporter, reporter_for
from endcap.ingest.suggest import Suggestion, Trial, suggest

_FILE = "mapping.yaml"


def run_suggest(path: Path, log_format: str = "auto") -> None:
    """Print the suggestion for the export at `path`."""
    console = Console()
    report = reporter_for(log_format, console)
    suggestion = suggest(path)
    if isinstance(report, JsonLinesReporter):
        trial = suggestion.trial
        report.event(
            "suggested", source=suggestion.source, doubts=suggestion.doubts,
            mapping=None if suggestion.mapping is None else suggestion.mapping.as_dict(),
            rows=trial and trial.num_rows, kept=trial and trial.kept, lost=trial and trial.lost,
            duplicates=trial and trial.num_duplicates,
        )  # fmt: skip
        return
    show_suggestion(console, suggestion)


def show_suggestion(console: Console, suggestion: Suggestion) -> None:
    """Print what was found, the mapping to save, what became of the rows tried, and the command that comes next."""
    table = Table("field", "column", "", "why", box=None, padding=(0, 2, 0, 0))
    for finding in suggestion.findings:
        table.add_row(finding.field, escape(finding.column), finding.sureness, escape(finding.why))
    console.print(table)
    if suggestion.mapping is not None:
        console.print(f"\n# save as {_FILE}", highlight=False)
        console.print(escape(suggestion.mapping.as_yaml()), highlight=False, soft_wrap=True)
    if suggestion.trial is not None:
        _show_trial(console, suggestion.trial)
    for doubt in suggestion.doubts:
        console.print(f"Decide: {escape(doubt)}", soft_wrap=True)
    option = "" if suggestion.mapping is None else f" --mapping {_FILE}"
    command = f"endcap ingest --source {suggestion.source}{option} {suggestion.path}"
    console.print(f"Next: {escape(command)}", soft_wrap=True, highlight=False)


def _show_trial(console: Console, trial: Trial) -> None:
    table = Table("rows", "", box=None, show_header=False, padding=(0, 2))
    table.add_row(f"{trial.num_rows:>9,}", "rows tried")
    for name, count in trial.kept.items():
        table.add_row(f"{count:>9,}", f"kept: {name}")
    if trial.num_duplicates:
        table.add_row(f"{trial.num_duplicates:>9,}", "duplicates, dropped")
    for reason, count in trial.lost.items():
        table.add_row(f"{count:>9,}", f"lost: {reason.replace('_', ' ')}")
    console.print(table)
