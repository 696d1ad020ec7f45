"""Landed rows and a source's catalog in, tables `catalog`, `items`, `item_versions` and `users` out."""

from __future__ import annotations

from dataclasses import dataclass

import ibis
import ibis.expr.types as ir
import pyarrow as pa
from ibis.backends.duckdb import Backend

from endcap.contracts import columns as c
from endcap.contracts import events as contract
from endcap.ingest import catalog
from endcap.ingest.landing import scan
from endcap.ingest.sources.protocol import CATALOG_TYPES
from endcap.workspace.drafts import Draft
from endcap.workspace.tables import TableWrite


@dataclass(frozen=True)
class Derived:
    """How many products and users the tables hold, and how many products a catalog should name and doesn't."""

    num_items: int
    num_unknown_items: int
    num_users: int


def write_catalog(connection: Backend, draft: Draft, batch: str, stated: ir.Table) -> TableWrite:
    """Make `stated` (of `CATALOG_TYPES`) all that the batch says about products."""
    whole = stated.mutate(**{c.BATCH: ibis.literal(batch)})
    types = {c.BATCH: "string", **CATALOG_TYPES}
    named = whole.select(**{name: whole[name].cast(dtype) for name, dtype in types.items()})
    return draft.replace(contract.CATALOG, connection.to_pyarrow(named), [batch])


def derive(connection: Backend, draft: Draft) -> Derived:
    """Make `items`, `item_versions` and `users` from all that is landed and stated."""
    rows = scan(connection, draft, contract.LANDED)
    stated = scan(connection, draft, contract.CATALOG) if _states_anything(draft) else None

    def small(table: ir.Table) -> ir.Table:
        # One pass over all rows each, columns apart: an engine that shared the rows between two would keep them all.
        return ibis.memtable(connection.to_pyarrow(table))

    prices, categories = small(catalog.price_changes(rows)), small(catalog.category_changes(rows))
    versions = connection.to_pyarrow(catalog.item_versions(prices, categories, stated))
    draft.write(contract.ITEM_VERSIONS, versions)
    items = connection.to_pyarrow(catalog.items(small(catalog.facts(rows)), ibis.memtable(versions), stated))
    draft.write(contract.ITEMS, items)
    named = rows.select(c.USER_ID, c.COUNTRY, c.TS_US)
    if draft.has(contract.IDENTITIES):
        named = catalog.identified(named, scan(connection, draft, contract.IDENTITIES))
    users = connection.to_pyarrow(catalog.users(named))
    draft.write(contract.USERS, users)
    return _counted(items, users.num_rows)


def derived(connection: Backend, draft: Draft) -> Derived:
    """The counts of what the draft holds already."""
    items = connection.to_pyarrow(scan(connection, draft, contract.ITEMS).select(c.IS_KNOWN))
    num_users = connection.to_pyarrow(scan(connection, draft, contract.USERS).count()).as_py()
    return _counted(items, num_users)


def _states_anything(draft: Draft) -> bool:
    return any(draft.partition_rows(contract.CATALOG).values())


def _counted(items: pa.Table, num_users: int) -> Derived:
    return Derived(items.num_rows, items[c.IS_KNOWN].to_pylist().count(False), num_users)
