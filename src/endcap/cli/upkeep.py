"""What the verbs of `endcap lake` do: call the workspace's upkeep, and print what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from endcap.cli.reporting import JsonLinesReporter, reporter_for
from endcap.engines.failures import explained
from endcap.flows.table_steps import settings_in_force
from endcap.ingest.identity import read_pairs
from endcap.ingest.merging import merge_users
from endcap.workspace import maintenance, migration, tables
from endcap.workspace import pins as pinned
from endcap.workspace.layout import Workspace

_NUM_NAMED = 5
_STEP_BYTES = 1000


class _Said:
    """Lines for people on a terminal, one JSON object each elsewhere."""

    def __init__(self, log_format: str) -> None:
        self.console = Console()
        self.report = reporter_for(log_format, self.console)
        self.is_json = isinstance(self.report, JsonLinesReporter)

    def row(self, event: str, **fields: object) -> None:
        """A line for machines alone."""
        if self.is_json:
            self.report.event(event, **fields)

    def text(self, line: str) -> None:
        """A line for people alone."""
        if not self.is_json:
            self.console.print(line, soft_wrap=True, highlight=False, markup=False)

    def table(self, titles: Sequence[str], rows: Sequence[Sequence[str]], *, num_texts: int = 1) -> None:
        """Rows for people alone; the first `num_texts` columns are text, the others numbers."""
        if self.is_json or not rows:
            return
        shown = Table(box=None, padding=(0, 1))
        for place, title in enumerate(titles):
            shown.add_column(title, justify="left" if place < num_texts else "right")
        for row in rows:
            shown.add_row(*row)
        self.console.print(shown)


def show_status(path: Path, log_format: str) -> None:
    """Print every table of the dataset in force."""
    said = _Said(log_format)
    workspace = Workspace.open(path)
    found, number = maintenance.status(workspace), tables.number_in_force(workspace)
    if found:
        said.text(f"Dataset version {number or 'unknown (of a release that did not count)'}.")
    for one in found:
        said.row("table", dataset_version=number, table=one.name, version=one.version, rows=one.num_rows, files=one.num_files,
                 small_files=one.num_small_files, bytes=one.num_bytes, bytes_on_disk=one.num_bytes_on_disk,
                 held_by=list(one.holders))  # fmt: skip
    rows = [
        (one.name, f"{one.version}", f"{one.num_rows:,}", f"{one.num_files:,}", f"{one.num_small_files:,}",
         _size(one.num_bytes), _size(one.num_bytes_on_disk))
        for one in found
    ]  # fmt: skip
    said.table(("table", "version", "rows", "files", "small", "size", "on disk"), rows)
    _say_holders(said, [holder for one in found for holder in one.holders])
    if not found:
        said.text("There are no tables yet. Fill them with: endcap ingest")


def run_compact(path: Path, log_format: str, *, table_names: Sequence[str] | None) -> None:
    """Merge small files and print how many became how many."""
    said = _Said(log_format)
    workspace = Workspace.open(path)
    with explained(workspace, "Merging files"):
        done = maintenance.compact(workspace, table_names=table_names)
    changed = [one for one in done if one.version != one.version_before]
    for one in done:
        said.row("compacted", table=one.name, version=one.version, files_before=one.num_files_before,
                 files=one.num_files, changed=one in changed)  # fmt: skip
    rows = [(one.name, f"{one.version}", f"{one.num_files_before:,}", f"{one.num_files:,}") for one in changed]
    said.table(("table", "version", "files before", "files"), rows)
    if not changed:
        said.text("Nothing to merge.")


def run_retain(path: Path, log_format: str, *, days: int, table_names: Sequence[str] | None, apply: bool) -> None:
    """Count expired dates, or take them out of force, and print the account."""
    said = _Said(log_format)
    workspace = Workspace.open(path)
    with explained(workspace, "Taking dates out of force"):
        done = maintenance.retain(workspace, days, table_names=table_names, apply=apply)
    for one in done:
        said.row("expired", table=one.name, dates=len(one.partitions), first=_first(one.partitions),
                 last=_last(one.partitions), rows=one.num_rows, bytes=one.num_bytes,
                 dates_left=one.num_partitions_left, held_by=list(one.still_held_by), applied=apply)  # fmt: skip
    rows = [
        (one.name, f"{len(one.partitions):,}", _first(one.partitions), _last(one.partitions), f"{one.num_rows:,}",
         _size(one.num_bytes), f"{one.num_partitions_left:,}")
        for one in done if one.partitions
    ]  # fmt: skip
    said.table(("table", "dates", "from", "to", "rows", "size", "dates left"), rows)
    _say_holders(said, [holder for one in done if one.partitions for holder in one.still_held_by])
    if not rows:
        said.text(f"No date lies more than {days} days back.")
    elif apply:
        said.text("These dates are out of force. Their files go with: endcap lake vacuum --apply")
    else:
        said.text("Nothing was changed. Do it with --apply.")


def run_vacuum(path: Path, log_format: str, *, apply: bool, grace_hours: float, keep_runs_days: int | None) -> None:
    """Count unneeded files, or delete them, and print how many."""
    said = _Said(log_format)
    workspace = Workspace.open(path)
    with explained(workspace, "Deleting files"):
        done = maintenance.vacuum(workspace, grace_hours=grace_hours, keep_runs_days=keep_runs_days, apply=apply)
    for one in done:
        said.row("unneeded", table=one.name, files=one.num_files, bytes=one.num_bytes,
                 versions_kept=list(one.versions_kept), applied=apply)  # fmt: skip
    rows = [
        (one.name, f"{one.num_files:,}", _size(one.num_bytes), f"{len(one.versions_kept):,}")
        for one in done if one.num_files
    ]  # fmt: skip
    said.table(("table", "files", "size", "versions kept"), rows)
    if not rows:
        said.text("Every file is needed by a version that is kept.")
    elif apply:
        said.text("Deleted.")
    else:
        said.text("Nothing was deleted. Do it with --apply.")


def run_pin(path: Path, log_format: str, name: str, *, dataset_version: int | None) -> None:
    """Pin a dataset version, by default the one in force."""
    said = _Said(log_format)
    made = pinned.pin(Workspace.open(path), name, dataset_version=dataset_version)
    said.row("pinned", pin=name, dataset_version=made.dataset_version, versions=made.versions)
    said.text(f"Pinned dataset version {made.dataset_version or 'unknown'}, {len(made.versions)} tables, as {name}.")


def run_unpin(path: Path, log_format: str, name: str) -> None:
    """Take a pin away."""
    said = _Said(log_format)
    pinned.unpin(Workspace.open(path), name)
    said.row("unpinned", pin=name)
    said.text(f"Pin {name} is gone.")


def show_pins(path: Path, log_format: str) -> None:
    """Print every pin."""
    said = _Said(log_format)
    found = pinned.pins(Workspace.open(path))
    for name, made in found.items():
        said.row(
            "pin",
            pin=name,
            pinned_at=made.pinned_at,
            dataset_version=made.dataset_version,
            of_run=made.run_id,
            versions=made.versions,
        )
    rows = [
        (
            name,
            made.pinned_at[:19],
            f"{made.dataset_version or ''}",
            made.run_id,
            " ".join(f"{table}@{at}" for table, at in made.versions.items()),
        )
        for name, made in found.items()
    ]
    said.table(("pin", "since (UTC)", "dataset version", "run", "versions"), rows, num_texts=5)
    if not found:
        said.text("There are no pins. Make one with: endcap lake pin NAME")


def run_migrate(path: Path, log_format: str, *, dry_run: bool) -> None:
    """Migrate, or say what that would do."""
    said = _Said(log_format)
    workspace = Workspace.open(path)
    with explained(workspace, "The migration"):
        done = migration.migrate(workspace, dry_run=dry_run)
    for one in done.changes:
        said.row("change", table=one.table, kind=one.kind, column=one.column, found=one.found, expected=one.expected,
                 rewrites=one.rewrites)  # fmt: skip
    said.row("migrated", applied=not dry_run, rewritten={name: len(of) for name, of in done.rewritten.items()},
             recomputed=list(done.recomputed), untouched=list(done.untouched))  # fmt: skip
    if not done.changes:
        said.text("Every table has today's shape.")
        return
    rows = [(one.table, one.kind, one.column or "", one.found, one.expected) for one in done.changes]
    said.table(("table", "change", "column", "found", "expected"), rows, num_texts=5)
    files = "; ".join(f"{name} ({_partitions(of)})" for name, of in done.rewritten.items()) or "none"
    said.text(f"Written again: {files}. All other files stay.")
    said.text(f"To be made again when next asked for: {', '.join(done.recomputed) or 'nothing'}.")
    said.text(f"Untouched: {', '.join(done.untouched) or 'nothing'}.")
    if dry_run:
        said.text("Nothing was changed.")


def run_identities(path: Path, log_format: str, file: Path) -> None:
    """Take pairs of a guest and a user from a file, and print how many dates changed."""
    said = _Said(log_format)
    workspace = Workspace.open(path)
    done = merge_users(workspace, read_pairs(file), settings_in_force(workspace), said.report)
    said.row("merged", guests=done.num_merged, changed=done.num_changed, ambiguous=done.num_ambiguous,
             dates=list(done.dates))  # fmt: skip
    said.text(f"{done.num_merged:,} guests count as users, {done.num_changed:,} of them otherwise than before.")
    if done.num_ambiguous:
        said.text(f"{done.num_ambiguous:,} guests were seen with several users and left alone.")
    said.text(f"Dates built anew: {_partitions(done.dates) if done.dates else 'none'}.")


def _partitions(values: Sequence[str]) -> str:
    if tuple(values) == ("",):
        return "whole"
    if len(values) == 1:
        return values[0]
    return f"{len(values)} partitions, {values[0]} to {values[-1]}" if values else "no rows"


def _say_holders(said: _Said, holders: Sequence[str]) -> None:
    names = list(dict.fromkeys(holders))
    more = len(names) - _NUM_NAMED
    if names:
        rest = f" and {more} more" if more > 0 else ""
        said.text(f"Versions of these tables are held by: {', '.join(names[:_NUM_NAMED])}{rest}.")


def _first(values: Sequence[str]) -> str:
    return values[0] if values else ""


def _last(values: Sequence[str]) -> str:
    return values[-1] if values else ""


def _size(num_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < _STEP_BYTES:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= _STEP_BYTES
    return f"{num_bytes:.1f} TB"
