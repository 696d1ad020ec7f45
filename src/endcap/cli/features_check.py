"""What `endcap features check` does: show what each column becomes, in the terminal, as JSON and as a page."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from endcap.cli.reporting import JsonLinesReporter, reporter_for
from endcap.cli.train import workspace_conf
from endcap.contracts.errors import ColumnsError, InputError
from endcap.contracts.reporting import Silent
from endcap.features.described import Described, Encoded, FeatureCheck
from endcap.features.distributions import Distribution
from endcap.workspace.configuration import load_features

_BLOCKS = "▁▂▃▄▅▆▇█"
_MOST_BARS = 16


def run_check(config: str, data: Sequence[Path], out: Path | None, log_format: str, *, as_json: bool) -> None:
    """Check a FeatureConfig on data; write a page into `out` where one is given."""
    from endcap.flows.feature_check import check_features
    from endcap.monitoring.feature_page import write_page

    conf = next((folder for place in data if (folder := workspace_conf(place)) is not None), None)
    features, path = load_features(config, conf)
    console = Console()
    report = Silent() if as_json else reporter_for(log_format, console)
    try:
        found = check_features(features, str(path), data, report)
    except ColumnsError as error:
        raise InputError("\n".join(f"{path}: {key}: {text}" for key, text in error.problems)) from error
    page = write_page(found, out) if out is not None else None
    if as_json:
        sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
        return
    if isinstance(report, JsonLinesReporter):
        for remark in found.remarks:
            report.event("remark on the features", remark=remark)
        report.event("features checked", config=found.config, buyers=found.num_buyers, products=found.num_products,
                     page=str(page) if page else None)  # fmt: skip
        return
    show_check(console, found)
    if page is not None:
        console.print(f"Page: {page}", soft_wrap=True)


def show_check(console: Console, found: FeatureCheck) -> None:
    """Print one table a side, and the remarks."""
    later = f", {found.num_later:,} later ones" if found.num_later else ""
    console.print(
        f"{found.config} on {found.data}: {found.num_buyers:,} buyer rows{later}, {found.num_products:,} products"
    )
    for side in ("buyer", "product"):
        table = Table(title=f"{side}: {found.dim(side)} numbers a row", title_justify="left", box=None, padding=(0, 1))
        for heading, justify in (
            ("column", "left"), ("missing", "right"), ("before", "left"), ("becomes", "left"), ("width", "right"),
            ("values", "right"), ("unknown", "right"), ("later", "right"), ("after", "left"),
        ):  # fmt: skip
            table.add_column(heading, justify=justify)  # type: ignore[arg-type]
        for column in found.columns:
            if column.side == side:
                _add_rows(table, column)
        console.print(table)
    for remark in found.remarks:
        console.print(Text(f"! {remark}"), soft_wrap=True)


def _add_rows(table: Table, column: Described) -> None:
    before = blocks(column.before) if column.before else ""
    head = [
        f"{column.name} {column.type}" if column.before else f"{column.name}: {column.type}",
        _percent(column.share_missing),
        before,
    ]
    for encoded in column.becomes:
        after = " ".join(blocks(distribution) for distribution in encoded.after)
        table.add_row(*map(Text, [*head, " → ".join(encoded.steps), str(encoded.dim), *_shares(encoded), after]))
        head = ["", "", ""]


def _shares(encoded: Encoded) -> list[str]:
    shares = (encoded.share_unknown, encoded.share_unknown_later)
    return [
        f"{encoded.num_values:,}" if encoded.num_values else "",
        *("" if s is None else _percent(s) for s in shares),
    ]


def blocks(found: Distribution) -> str:
    """The bars as a line of blocks; a bar that is not quite empty is never quite empty."""
    counts = [bar.count for bar in found.bars]
    if len(counts) > _MOST_BARS:
        per_bar = -(-len(counts) // _MOST_BARS)
        counts = [sum(counts[start : start + per_bar]) for start in range(0, len(counts), per_bar)]
    highest = max(counts, default=0)
    return "".join(
        " " if not count else _BLOCKS[min(count * len(_BLOCKS) // highest, len(_BLOCKS) - 1)] for count in counts
    )


def _percent(share: float) -> str:
    return "<0.1%" if 0 < share < 0.0005 else f"{share:.1%}"
