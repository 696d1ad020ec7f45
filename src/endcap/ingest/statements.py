"""What an export's catalog says about products in, table `catalog` out: who said what, and since when it holds.

A statement with a moment of its own holds from that moment. A catalog without moments is a snapshot: it holds from the
moment at which it was taken, and what it says differently than the snapshot before is added. The first snapshot's names,
categories, brands and groups hold from the beginning, because they hardly ever change and events before it need some;
its prices and stock don't.
"""

from __future__ import annotations

import functools
import operator
from datetime import UTC, datetime
from typing import Final

import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from endcap.contracts import columns as c
from endcap.contracts.errors import InputError
from endcap.contracts.events import CATALOG, CATALOG_TABLE
from endcap.ingest.landing import scan
from endcap.ingest.quality import US_PER_SECOND
from endcap.ingest.sources.mapped import MappedSource
from endcap.ingest.sources.protocol import CATALOG_TYPES, Source
from endcap.workspace.drafts import Draft

SNAPSHOTS: Final = "@snapshots"
"""Ends the name of the batch that holds what a catalog said without moments."""

_ATTRIBUTES: Final = tuple(name for name in CATALOG_TYPES if name not in (c.ITEM_ID, c.VALID_FROM_US))
_PASSING: Final = (c.PRICE, c.IN_STOCK)
_TYPES: Final = ibis.Schema.from_pyarrow(CATALOG_TABLE.schema)


def catalog_name(source: Source) -> str:
    """What a source's catalog is called: by the mapping's own name, so that exports of one mapping share one."""
    if isinstance(source, MappedSource) and source.mapping.catalog is not None:
        return f"{source.mapping.name}/{source.mapping.catalog.path}"
    return source.name


def write(
    connection: Backend, draft: Draft, name: str, stated: ir.Table, as_of_us: int, *, is_whole: bool = False
) -> bool:
    """Bring what a catalog states (`CATALOG_TYPES`) into the draft, and say whether that changed anything.

    A `valid_from_us` of 0 or null counts as none: that row is part of the snapshot as of `as_of_us`. Of rows with
    moments those of the same product and moment are replaced; where the export `is_whole`, all are. Raises InputError
    for a snapshot from before the latest one that was ingested.
    """
    # Once into memory: it is looked at several times, and may be read from text.
    known = ibis.memtable(connection.to_pyarrow(stated.select(**_typed(stated, CATALOG_TYPES))))
    has_moment = (known[c.VALID_FROM_US] != 0).fill_null(False)
    dated, undated = known.filter(has_moment), known.filter(~has_moment)
    changed = False
    batch = name + SNAPSHOTS
    if _num_rows(connection, undated):
        held = scan(connection, draft, CATALOG, [batch])
        changed |= _replace(connection, draft, batch, _with_snapshot(connection, name, held, undated, max(as_of_us, 1)))
    if _num_rows(connection, dated) or is_whole:
        held = scan(connection, draft, CATALOG, [name])
        kept = held.filter(False) if is_whole else held.anti_join(dated, [c.ITEM_ID, c.VALID_FROM_US])
        changed |= _replace(connection, draft, name, _united(kept, dated))
    return changed or not draft.has(CATALOG)


def _num_rows(connection: Backend, rows: ir.Table) -> int:
    number: int = connection.to_pyarrow(rows.count()).as_py()
    return number


def _with_snapshot(connection: Backend, name: str, held: ir.Table, snapshot: ir.Table, as_of_us: int) -> ir.Table:
    """The earlier snapshots' statements and what this one says differently."""
    latest_us = connection.to_pyarrow(held[c.VALID_FROM_US].max()).as_py()
    if latest_us is not None and as_of_us < latest_us:
        raise InputError(
            f"The catalog {name} is to hold as of {_written(as_of_us)}, but one as of {_written(latest_us)} was ingested "
            "before: snapshots of a catalog come in the order of their moments. Leave --catalog-as-of out, or give a "
            "later one."
        )
    here = snapshot.mutate(**{c.VALID_FROM_US: ibis.literal(as_of_us, "int64")})
    earlier = held.filter(held[c.VALID_FROM_US] < as_of_us)
    if not _num_rows(connection, earlier.filter(earlier[c.VALID_FROM_US] > 0)):
        lasting = {name: ibis.null(CATALOG_TYPES[name]) for name in _PASSING}
        begin = snapshot.mutate(**{c.VALID_FROM_US: ibis.literal(0, "int64")}, **lasting)
        return _united(begin, here)
    in_force = earlier.group_by(c.ITEM_ID).aggregate(
        **{
            f"held_{name}": earlier[name].argmax(earlier[c.VALID_FROM_US], where=earlier[name].notnull())
            for name in _ATTRIBUTES
        }
    )
    before = in_force.rename(held_item_id=c.ITEM_ID)
    joined = here.left_join(before, here[c.ITEM_ID] == before["held_item_id"])
    differs = [joined[name].notnull() & ~joined[name].identical_to(joined[f"held_{name}"]) for name in _ATTRIBUTES]
    told = joined.filter(joined["held_item_id"].isnull() | functools.reduce(operator.or_, differs))
    return _united(earlier, told)


def _united(held: ir.Table, said: ir.Table) -> ir.Table:
    first, second = (rows.select(**_typed(rows, CATALOG_TYPES)) for rows in (held, said))
    return first.union(second)


def _typed(rows: ir.Table, types: object) -> dict[str, ir.Value]:
    return {name: rows[name].cast(CATALOG_TYPES[name]) for name in types}  # type: ignore[attr-defined]


def _replace(connection: Backend, draft: Draft, batch: str, content: ir.Table) -> bool:
    named = content.mutate(**{c.BATCH: ibis.literal(batch)})
    # What a table promises never to be null, an expression can't.
    types = {name: dtype.copy(nullable=True) for name, dtype in _TYPES.items()}
    rows = connection.to_pyarrow(named.select(**{name: named[name].cast(dtype) for name, dtype in types.items()}))
    return draft.replace(CATALOG, rows, [batch]).changed


def _written(moment_us: int) -> str:
    return datetime.fromtimestamp(moment_us / US_PER_SECOND, UTC).isoformat(timespec="seconds")
