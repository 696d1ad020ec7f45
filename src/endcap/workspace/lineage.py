"""Altered columns in, the steps that read them, and what is made from those steps' tables, out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from endcap.contracts import columns as c
from endcap.contracts import events as contract

DAILY: Final = "daily"
WINDOWS: Final = "windows"
FEATURES: Final = "features"

_ALL: Final = None
_SESSION_INPUTS: Final = tuple(
    name for name in contract.EVENTS_TABLE.schema.names if name in contract.LANDED_TABLE.schema.names
)
_VALIDITY: Final = (c.ITEM_ID, c.VALID_FROM_US, c.VALID_TO_US)

READS: Final[dict[str, dict[str, tuple[str, ...] | None]]] = {
    contract.IDENTITIES: {
        contract.LANDED: (c.GUEST_ID, c.USER_ID, c.EVENT_DATE),
        contract.IDENTITY_PAIRS: _ALL,
    },
    contract.EVENTS: {
        contract.LANDED: (*_SESSION_INPUTS, c.BATCH, c.ROW_NUMBER),
        contract.IDENTITIES: _ALL,
    },
    contract.ITEMS: {
        contract.LANDED: (c.ITEM_ID, c.TITLE, c.CATEGORY, c.BRAND, c.PRICE, c.CURRENCY, c.QUANTITY, c.TS_US),
        contract.CATALOG: _ALL,
    },
    contract.ITEM_VERSIONS: {
        contract.LANDED: (c.ITEM_ID, c.PRICE, c.QUANTITY, c.CATEGORY, c.TS_US, c.EVENT_TYPE, c.EVENT_ID),
        contract.CATALOG: _ALL,
    },
    contract.USERS: {contract.LANDED: (c.USER_ID, c.COUNTRY, c.TS_US, c.EVENT_ID), contract.IDENTITIES: _ALL},
    contract.DRIFT: {contract.EVENTS: _ALL},
    DAILY: {
        contract.EVENTS: (c.USER_ID, c.ITEM_ID, c.EVENT_TYPE, c.TS_US, c.SESSION_ID, c.BASKET_ID, c.VALUE),
        contract.ITEM_VERSIONS: (c.CATEGORY, *_VALIDITY),
    },
    WINDOWS: {
        DAILY: _ALL,
        contract.ITEM_VERSIONS: (c.CATEGORY, c.PRICE, *_VALIDITY),
    },
    FEATURES: {
        contract.EVENTS: (c.USER_ID, c.ITEM_ID, c.EVENT_TYPE, c.TS_US, c.BASKET_ID, c.PRICE, c.VALUE, c.QUANTITY),
        contract.ITEMS: (c.ITEM_ID, c.TITLE, c.BRAND, c.GROUP_ID),
        contract.ITEM_VERSIONS: (c.CATEGORY, c.IN_STOCK, *_VALIDITY),
        contract.USERS: _ALL,
        contract.ATTRIBUTES: _ALL,
    },
}
"""By step (a step that makes a table has its name): the tables and columns that it reads; None: all of them."""


def columns_read(step: str, table: str) -> tuple[str, ...]:
    """The columns of a table that a step reads. What a step asks for comes from here, so that it reads no others."""
    columns = READS[step][table]
    return tuple(contract.TABLES[table].schema.names) if columns is None else columns


def readers_of(altered: Iterable[tuple[str, str | None]]) -> tuple[str, ...]:
    """Steps that read one of the altered (table, column), and all that reads what those make, in the order of `READS`.

    A column of None is the table as a whole.
    """
    pending = list(altered)
    found: set[str] = set()
    while pending:
        table, column = pending.pop()
        for step, reads in READS.items():
            columns = reads.get(table, ())
            if step not in found and (columns is None or (columns and (column is None or column in columns))):
                found.add(step)
                pending.append((step, None))
    return tuple(step for step in READS if step in found)
