"""Landed rows and a source's catalog in, tables `catalog`, `items`, `item_versions` and `users` out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import ibis
import ibis.expr.types as ir
import pyarrow as pa
from ibis.backends.duckdb import Backend

from endcap.contracts import columns as c
from endcap.contracts import events as contract
from endcap.engines import duckdb, portable
from endcap.ingest import catalog
from endcap.ingest.landing import grouped, scan
from endcap.workspace import ledger, tables
from endcap.workspace.drafts import Draft
from endcap.workspace.layout import Workspace

MADE_FROM: Final = (contract.LANDED, contract.CATALOG, contract.IDENTITIES)
MADE: Final = (contract.ITEMS, contract.ITEM_VERSIONS, contract.USERS)

CODE: Final = (__name__, catalog.__name__, contract.__name__, portable.__name__)
"""Modules that decide what the tables hold."""


@dataclass(frozen=True)
class Derived:
    """How many products and users the tables hold, and how many products a catalog should name and doesn't."""

    num_items: int
    num_unknown_items: int
    num_users: int


def derive(connection: Backend, draft: Draft) -> Derived:
    """Make `items`, `item_versions` and `users` from all that is landed and stated."""
    rows = scan(connection, draft, contract.LANDED)
    stated = scan(connection, draft, contract.CATALOG) if _states_anything(draft) else None

    def small(table: ir.Table) -> ir.Table:
        # One pass over all rows each, columns apart: an engine that shared the rows between two would keep them all.
        return ibis.memtable(connection.to_pyarrow(table))

    prices, categories = (small(_changes(connection, draft, name)) for name in (c.PRICE, c.CATEGORY))
    versions = connection.to_pyarrow(catalog.item_versions(prices, categories, stated))
    draft.write(contract.ITEM_VERSIONS, versions)
    items = connection.to_pyarrow(catalog.items(small(catalog.facts(rows)), ibis.memtable(versions), stated))
    draft.write(contract.ITEMS, items)
    named = rows.select(c.USER_ID, c.COUNTRY, c.TS_US)
    if draft.has(contract.IDENTITIES):
        named = catalog.identified(named, scan(connection, draft, contract.IDENTITIES))
    users = connection.to_pyarrow(catalog.users(named))
    draft.write(contract.USERS, users)
    draft.derived = state_digest(draft.workspace, draft.versions)
    return _counted(items, users.num_rows)


def _changes(connection: Backend, draft: Draft, name: str) -> ir.Table:
    """When events first had another price or category, found dates after dates: at once it would need all events."""
    find = {c.PRICE: catalog.price_changes, c.CATEGORY: catalog.category_changes}[name]
    num_rows = draft.partition_rows(contract.LANDED)
    pieces = []
    for dates in list(grouped(num_rows, num_rows)) or [[]]:
        with duckdb.passing_memtables(connection):
            pieces.append(connection.to_pyarrow(find(scan(connection, draft, contract.LANDED, dates))))
    return catalog.changes(ibis.memtable(pa.concat_tables(pieces)), name)


def derived(connection: Backend, draft: Draft) -> Derived:
    """The counts of what the draft holds already."""
    items = connection.to_pyarrow(scan(connection, draft, contract.ITEMS).select(c.IS_KNOWN))
    num_users = connection.to_pyarrow(scan(connection, draft, contract.USERS).count()).as_py()
    return _counted(items, num_users)


def state_digest(workspace: Workspace, versions: Mapping[str, int]) -> str:
    """Hex digest of the files that the three tables consist of and are made from at `versions`, and of the code.

    Right after `derive` it says that to derive them again would change nothing, for as long as it is the same.
    """
    files = {
        name: [Path(file).name for file in tables.table_files(workspace, name, version=versions[name])]
        for name in (*MADE_FROM, *MADE)
        if name in versions
    }
    return ledger.digest_of([files, ledger.code_version_of(*CODE)])


def _states_anything(draft: Draft) -> bool:
    return any(draft.partition_rows(contract.CATALOG).values())


def _counted(items: pa.Table, num_users: int) -> Derived:
    return Derived(items.num_rows, items[c.IS_KNOWN].to_pylist().count(False), num_users)
