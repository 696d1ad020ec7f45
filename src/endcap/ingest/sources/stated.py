"""A source's word on products in, its good rows and an account of those that were left out or weakened out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

import ibis
import ibis.expr.types as ir
import msgspec
from ibis.backends.duckdb import Backend

from endcap.contracts import columns as c
from endcap.ingest import reader
from endcap.ingest.lines import BROKEN
from endcap.ingest.sources.normalized import (
    BAD_PRICE,
    BROKEN_TEXT,
    MALFORMED_ROW,
    MAX_ID_LENGTH,
    MISSING_ITEM,
    TEXT_TOO_LONG,
    UNREADABLE_TIME,
)
from endcap.ingest.sources.protocol import CATALOG_TYPES, Source

REPEATED: Final = "repeated"
BAD_STOCK: Final = "bad_stock"
_REASONS: Final = (MALFORMED_ROW, BROKEN_TEXT, TEXT_TOO_LONG, MISSING_ITEM, UNREADABLE_TIME, REPEATED)
_WEAK: Final = (BAD_PRICE, BAD_STOCK)


class SideAccount(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where rows went that are no events: a catalog's, or a request log's."""

    num_rows: int = 0
    left_out: dict[str, int] = {}
    """Rows that count for nothing by reason; each row has one."""
    weakened: dict[str, int] = {}
    """Rows that count without a cell which can't be used, by reason; a row may have several."""

    @property
    def num_kept(self) -> int:
        """Rows that count."""
        return self.num_rows - sum(self.left_out.values())


@dataclass(frozen=True)
class Stated:
    """What an export says about products (`CATALOG_TYPES`, unique by item and moment), and the account of its rows."""

    rows: ir.Table
    account: SideAccount


@runtime_checkable
class JudgingSource(Protocol):
    """A source that says of each row about products what became of it."""

    def judged_catalog(self, connection: Backend, path: Path) -> ir.Table | None:
        """What `judged` gives for the catalog at `path`; None where there is none."""


def stated(connection: Backend, source: Source, path: Path) -> Stated | None:
    """What the export at `path` says about products; None when it says nothing."""
    if not isinstance(source, JudgingSource):
        rows = source.catalog(connection, path)
        if rows is None:
            return None
        return Stated(rows, SideAccount(num_rows=int(connection.to_pyarrow(rows.count()).as_py())))
    found = source.judged_catalog(connection, path)
    return None if found is None else Stated(kept(found), account_of(connection, found, _REASONS, _WEAK))


def kept(judged_rows: ir.Table) -> ir.Table:
    """The rows that count."""
    return judged_rows.filter(judged_rows[c.REASON].isnull()).select(*CATALOG_TYPES)


def account_of(
    connection: Backend, judged_rows: ir.Table, reasons: Sequence[str], weak: Sequence[str] = ()
) -> SideAccount:
    """Count rows with a `reason` that may be null, and good ones with flags of the names `weak`."""
    good = judged_rows[c.REASON].isnull()
    counts = {reason: (judged_rows[c.REASON] == reason).fill_null(False) for reason in reasons}
    counts |= {name: good & judged_rows[name].fill_null(False) for name in weak}
    sums = {name: found.cast("int64").sum().fill_null(0) for name, found in counts.items()}
    (row,) = connection.to_pyarrow(judged_rows.aggregate(num_rows=judged_rows.count(), **sums)).to_pylist()
    return SideAccount(
        num_rows=row["num_rows"],
        left_out={reason: int(row[reason]) for reason in reasons if row[reason]},
        weakened={name: int(row[name]) for name in weak if row[name]},
    )


def judged(
    rows: ir.Table, values: Mapping[str, ir.Value], *, bad_time: ir.BooleanValue, flags: Mapping[str, ir.BooleanValue]
) -> ir.Table:
    """The values with the catalog's types, `row_number`, a `reason` (null for a row that counts) and the `flags`.

    A row without an id or with a moment that can't be read is left out; of equal keys the last row counts.
    """
    typed = {name: values[name].cast(dtype) for name, dtype in CATALOG_TYPES.items()}
    named = rows.select(
        **typed,
        **flags,
        row_number=rows[c.ROW_NUMBER],
        bad_time=bad_time,
        is_malformed=rows[reader.MALFORMED_LINE].notnull(),
    )
    item = named[c.ITEM_ID]
    first = ibis.cases(
        (named["is_malformed"], MALFORMED_ROW),
        (item.contains(BROKEN), BROKEN_TEXT),
        (item.length() > MAX_ID_LENGTH, TEXT_TOO_LONG),
        (item.isnull(), MISSING_ITEM),
        (named["bad_time"], UNREADABLE_TIME),
        else_=ibis.null("string"),
    )
    named = named.mutate(**{c.REASON: first})
    same = ibis.window(
        group_by=[named[c.REASON], named[c.ITEM_ID], named[c.VALID_FROM_US]], order_by=named[c.ROW_NUMBER].desc()
    )
    placed = named.mutate(is_again=ibis.row_number().over(same) > 0)
    again = (placed[c.REASON].isnull() & placed["is_again"]).ifelse(REPEATED, placed[c.REASON])
    return placed.mutate(**{c.REASON: again}).drop("is_again", "is_malformed", "bad_time")
