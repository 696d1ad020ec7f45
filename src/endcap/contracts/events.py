"""The shape of the checked tables: event types, sessions, schemas, keys and partitions, as every stage may rely on them.

Time is `ts_us`: microseconds since 1970-01-01 UTC. Money is decimal(18, 4) in the row's currency. `event_date` is the
UTC day of `ts_us`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from endcap.contracts import columns as c

VIEW_ITEM_LIST: Final = "view_item_list"
SELECT_ITEM: Final = "select_item"
VIEW_ITEM: Final = "view_item"
ADD_TO_WISHLIST: Final = "add_to_wishlist"
ADD_TO_CART: Final = "add_to_cart"
REMOVE_FROM_CART: Final = "remove_from_cart"
BEGIN_CHECKOUT: Final = "begin_checkout"
PURCHASE: Final = "purchase"
REFUND: Final = "refund"

EVENT_TYPES: Final = (
    VIEW_ITEM_LIST,
    SELECT_ITEM,
    VIEW_ITEM,
    ADD_TO_WISHLIST,
    ADD_TO_CART,
    REMOVE_FROM_CART,
    BEGIN_CHECKOUT,
    PURCHASE,
    REFUND,
)
"""Google Analytics 4's names for what happens in a shop."""

US_PER_MINUTE: Final = 60_000_000
US_PER_DAY: Final = 86_400_000_000

SESSION_GAP_MINUTES: Final = 30
"""A user's session ends when the next event comes more than this later; exactly this much later still belongs to it."""

MONEY_PRECISION: Final = 18
MONEY_SCALE: Final = 4
MONEY: Final = pa.decimal128(MONEY_PRECISION, MONEY_SCALE)

EVENTS: Final = "events"
ITEMS: Final = "items"
ITEM_PRICES: Final = "item_prices"
USERS: Final = "users"
QUARANTINE: Final = "quarantine"


@dataclass(frozen=True)
class TableContract:
    """One table: its exact schema, the columns that order and identify its rows, the column that partitions it."""

    name: str
    schema: pa.Schema
    key: tuple[str, ...]
    partition_by: str | None = None


def _required(name: str, dtype: pa.DataType) -> pa.Field:
    return pa.field(name, dtype, nullable=False)


EVENTS_TABLE: Final = TableContract(
    name=EVENTS,
    schema=pa.schema(
        [
            _required(c.EVENT_ID, pa.string()),
            _required(c.USER_ID, pa.string()),
            _required(c.ITEM_ID, pa.string()),
            _required(c.EVENT_TYPE, pa.string()),
            _required(c.TS_US, pa.int64()),
            _required(c.SESSION_ID, pa.string()),
            pa.field(c.VALUE, MONEY),
            pa.field(c.QUANTITY, pa.int64()),
            pa.field(c.CURRENCY, pa.string()),
            pa.field(c.PROPERTIES, pa.string()),
            pa.field(c.BASKET_ID, pa.string()),
            pa.field(c.PRICE, MONEY),
            _required(c.EVENT_DATE, pa.date32()),
        ]
    ),
    key=(c.TS_US, c.EVENT_ID),
    partition_by=c.EVENT_DATE,
)
"""One row per thing that happened. `value` = `price` x `quantity`; both are positive for a refund too, whose
`event_type` says which way the money went. `properties` is JSON text. `basket_id` groups the lines of one order."""

ITEMS_TABLE: Final = TableContract(
    name=ITEMS,
    schema=pa.schema(
        [
            _required(c.ITEM_ID, pa.string()),
            _required(c.TITLE, pa.string()),
            pa.field(c.PRICE, MONEY),
            pa.field(c.CURRENCY, pa.string()),
            pa.field(c.FIRST_SOLD_US, pa.int64()),
            pa.field(c.LAST_SOLD_US, pa.int64()),
        ]
    ),
    key=(c.ITEM_ID,),
)
"""One row per product that any event names, as of the end of the data: never join `price` to an earlier event, that is
what `item_prices` is for. A product that was only ever returned has no `first_sold_us` and `last_sold_us`."""

ITEM_PRICES_TABLE: Final = TableContract(
    name=ITEM_PRICES,
    schema=pa.schema(
        [
            _required(c.ITEM_ID, pa.string()),
            _required(c.VALID_FROM_US, pa.int64()),
            pa.field(c.VALID_TO_US, pa.int64()),
            _required(c.PRICE, MONEY),
        ]
    ),
    key=(c.ITEM_ID, c.VALID_FROM_US),
)
"""The price that held for `valid_from_us <= ts_us < valid_to_us`; the last range is open (null)."""

USERS_TABLE: Final = TableContract(
    name=USERS,
    schema=pa.schema([_required(c.USER_ID, pa.string()), pa.field(c.COUNTRY, pa.string())]),
    key=(c.USER_ID,),
)
"""One row per user that any event names; `country` as of the user's latest event."""

QUARANTINE_TABLE: Final = TableContract(
    name=QUARANTINE,
    schema=pa.schema(
        [
            _required(c.ROW_NUMBER, pa.int64()),
            _required(c.REASON, pa.string()),
            _required(c.RAW, pa.string()),
        ]
    ),
    key=(c.ROW_NUMBER,),
)
"""Rows that became no event: the row's place in the file (from 0), why, and the row itself as a JSON object of strings."""

TABLES: Final = {
    table.name: table for table in (EVENTS_TABLE, ITEMS_TABLE, ITEM_PRICES_TABLE, USERS_TABLE, QUARANTINE_TABLE)
}
