"""What `endcap ingest` does: read an export, then say where every row went."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from endcap.cli.reporting import JsonLinesReporter, reporter_for
from endcap.contracts.errors import InputError
from endcap.ingest.pipeline import IngestResult, ingest
from endcap.ingest.quality import IngestSettings
from endcap.ingest.sources.stated import SideAccount
from endcap.workspace.layout import Workspace

_UNITS: Final = {"": 1, "M": 1, "MB": 1, "G": 1000, "GB": 1000}
_PLURALS: Final = {
    "view_item_list": "lists shown",
    "select_item": "products chosen from lists",
    "view_item": "product views",
    "add_to_wishlist": "wishes",
    "add_to_cart": "products put into carts",
    "remove_from_cart": "products taken out of carts",
    "begin_checkout": "checkouts begun",
    "purchase": "purchases",
    "refund": "refunds",
    "search": "searches",
}


def run_ingest(
    path: Path,
    source: str,
    workspace: Path,
    log_format: str,
    *,
    settings: IngestSettings,
    mapping: Path | None,
    replace: bool,
    memory_limit: str,
) -> None:
    """Ingest an export and print the account of its rows."""
    console = Console()
    report = reporter_for(log_format, console)
    result = ingest(
        Workspace.open(workspace),
        source,
        path,
        options={} if mapping is None else {"mapping": str(mapping)},
        settings=settings,
        replace=replace,
        report=report,
        memory_mb=memory_mb(memory_limit),
    )
    if isinstance(report, JsonLinesReporter):
        account, built = result.account, result.build
        report.event(
            "ingested", rows=account.num_rows, events=account.events, duplicates=account.num_duplicates,
            quarantined=account.quarantined, late=account.num_late, repeated=built.num_repeated, bots=built.num_bots,
            unknown_items=result.num_unknown_items, batches=result.num_landed_batches,
            batches_skipped=result.num_skipped_batches, changed=result.changed, notes=result.notes,
            catalog=msgspec.to_builtins(result.catalog), requests=msgspec.to_builtins(result.requests),
        )  # fmt: skip
        return
    show_account(console, result)


def memory_mb(text: str) -> int:
    """Megabytes of a text such as `2GB` or `512MB`. Raises InputError for anything else and for less than 64 MB."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([MG]?B?)", text.strip().upper())
    size = int(float(found[1]) * _UNITS[found[2]]) if found and found[2] in _UNITS else 0
    if size < 64:
        raise InputError(f"--memory-limit is {text!r}; expected a size such as 2GB or 512MB, 64MB at least.")
    return size


def shares(texts: Sequence[str]) -> dict[str, float]:
    """Shares by reason of texts such as `bad_price=0.01`. Raises InputError for anything else."""
    found = {}
    for text in texts:
        reason, _, share = text.partition("=")
        try:
            found[reason.strip()] = float(share)
        except ValueError as error:
            raise InputError(
                f"--max-quarantined is {text!r}; expected a reason and a share, such as bad_price=0.01."
            ) from error
    return found


def show_account(console: Console, result: IngestResult) -> None:
    """Print where every row went; the parts add up to the rows read."""
    account, built = result.account, result.build
    table = Table("rows", "", box=None, show_header=False, padding=(0, 2))
    table.add_row(f"{account.num_rows:>9,}", "rows read")
    for event_type, count in account.events.items():
        table.add_row(f"{count:>9,}", _PLURALS[event_type])
    table.add_row(f"{account.num_duplicates:>9,}", "duplicates, dropped")
    for reason, count in account.quarantined.items():
        table.add_row(f"{count:>9,}", f"in quarantine: {_words(reason)}")
    console.print(table)
    for count, sentence in (
        (account.num_late, "of the events came late"),
        (built.num_repeated, "rows on the dates that were built were brought by another batch too: kept once"),
        (built.num_bots, "events on these dates are in quarantine: bot"),
        (result.num_unknown_items, "products are in no catalog yet: kept, and marked as unknown"),
    ):
        if count:
            console.print(f"  [dim]{count:,} {sentence}[/]", highlight=False)
    for what, side in (("catalog", result.catalog), ("log's lists", result.requests)):
        if side is not None:
            _show_side(console, what, side)
    for note in result.notes:
        console.print(note, highlight=False)
    if not result.changed:
        console.print("Nothing changed: the tables hold exactly this already.")


def _show_side(console: Console, what: str, account: SideAccount) -> None:
    """Print where rows went that are no events."""
    lines = [f"{account.num_kept:,} of {account.num_rows:,} rows of the {what} count"]
    lines += [f"{count:,} of them were left out: {_words(reason)}" for reason, count in account.left_out.items()]
    lines += [
        f"{count:,} of them count without a cell that can't be used: {_words(reason)}"
        for reason, count in account.weakened.items()
    ]
    for line in lines:
        console.print(f"  [dim]{line}[/]", highlight=False)


def _words(reason: str) -> str:
    return reason.replace("_", " ")
