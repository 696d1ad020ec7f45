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
SEARCH: Final = "search"

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
    SEARCH,
)
"""Google Analytics 4's names for what happens in a shop."""

ITEM_OPTIONAL: Final = (SEARCH, BEGIN_CHECKOUT, VIEW_ITEM_LIST)
"""Types whose events may name no item."""

US_PER_MINUTE: Final = 60_000_000
US_PER_DAY: Final = 86_400_000_000

SESSION_GAP_MINUTES: Final = 30
"""A user's session ends when the next event comes more than this later; exactly this much later still belongs to it."""

MONEY_PRECISION: Final = 18
MONEY_SCALE: Final = 4
MONEY: Final = pa.decimal128(MONEY_PRECISION, MONEY_SCALE)

EVENTS: Final = "events"
ITEMS: Final = "items"
ITEM_VERSIONS: Final = "item_versions"
USERS: Final = "users"
QUARANTINE: Final = "quarantine"
LANDED: Final = "landed"
BATCHES: Final = "batches"
OPEN_SESSIONS: Final = "open_sessions"
IDENTITIES: Final = "identities"
IDENTITY_PAIRS: Final = "identity_pairs"
CATALOG: Final = "catalog"
ATTRIBUTES: Final = "attributes"
IMPRESSIONS: Final = "impressions"
BOTS_BATCH: Final = "bots/"
"""Events of bots stand in `quarantine` under this and their date."""

DRIFT: Final = "drift"
DRIFT_DAYS: Final = "drift_days"


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
            pa.field(c.ITEM_ID, pa.string()),
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
"""One row per thing that happened. `value` is what the source says that the row came to, after discounts where it knows
them, else `price` x `quantity`; all are positive for a refund too, whose `event_type` says which way the money went. `properties` is JSON text. `basket_id` groups the lines of one order.
`item_id` is null for types of `ITEM_OPTIONAL` alone."""

ITEMS_TABLE: Final = TableContract(
    name=ITEMS,
    schema=pa.schema(
        [
            _required(c.ITEM_ID, pa.string()),
            _required(c.TITLE, pa.string()),
            pa.field(c.CATEGORY, pa.string()),
            pa.field(c.BRAND, pa.string()),
            pa.field(c.GROUP_ID, pa.string()),
            pa.field(c.PRICE, MONEY),
            pa.field(c.CURRENCY, pa.string()),
            pa.field(c.IN_STOCK, pa.bool_()),
            pa.field(c.FIRST_SOLD_US, pa.int64()),
            pa.field(c.LAST_SOLD_US, pa.int64()),
            _required(c.IS_KNOWN, pa.bool_()),
        ]
    ),
    key=(c.ITEM_ID,),
)
"""One row per product that any event or catalog names, as of the end of the data: never join `price`, `in_stock` or
`category` to an earlier event, that is what `item_versions` is for. `category` is a path, its parts joined by ` > `,
the widest first. `group_id` is shared by the variants of one product. `is_known` is false for a product that a catalog
should name and doesn't (yet). A product that was never sold has no `first_sold_us` and `last_sold_us`."""

ITEM_VERSIONS_TABLE: Final = TableContract(
    name=ITEM_VERSIONS,
    schema=pa.schema(
        [
            _required(c.ITEM_ID, pa.string()),
            _required(c.VALID_FROM_US, pa.int64()),
            pa.field(c.VALID_TO_US, pa.int64()),
            pa.field(c.PRICE, MONEY),
            pa.field(c.IN_STOCK, pa.bool_()),
            pa.field(c.CATEGORY, pa.string()),
        ]
    ),
    key=(c.ITEM_ID, c.VALID_FROM_US),
)
"""What held for `valid_from_us <= ts_us < valid_to_us`; the last range is open (null). Neighbouring ranges differ."""

CATALOG_TABLE: Final = TableContract(
    name=CATALOG,
    schema=pa.schema(
        [
            _required(c.BATCH, pa.string()),
            _required(c.ITEM_ID, pa.string()),
            _required(c.VALID_FROM_US, pa.int64()),
            pa.field(c.TITLE, pa.string()),
            pa.field(c.CATEGORY, pa.string()),
            pa.field(c.BRAND, pa.string()),
            pa.field(c.GROUP_ID, pa.string()),
            pa.field(c.PRICE, MONEY),
            pa.field(c.CURRENCY, pa.string()),
            pa.field(c.IN_STOCK, pa.bool_()),
        ]
    ),
    key=(c.BATCH, c.ITEM_ID, c.VALID_FROM_US),
    partition_by=c.BATCH,
)
"""What the shop's catalogs said about products, from which moment on; `items` and `item_versions` are made of it."""

ATTRIBUTES_TABLE: Final = TableContract(
    name=ATTRIBUTES,
    schema=pa.schema(
        [
            _required(c.BATCH, pa.string()),
            _required(c.SIDE, pa.string()),
            _required(c.ENTITY_ID, pa.string()),
            _required(c.VALID_FROM_US, pa.int64()),
            _required(c.PROPERTIES, pa.string()),
        ]
    ),
    key=(c.BATCH, c.SIDE, c.ENTITY_ID, c.VALID_FROM_US),
    partition_by=c.BATCH,
)
"""What the shop's files say of users (`side` is `buyer`) and products (`product`) beyond the columns of the other tables, from
which moment on. `properties` is a JSON object of texts; a list is the text of a JSON array."""

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
            _required(c.BATCH, pa.string()),
            _required(c.ROW_NUMBER, pa.int64()),
            _required(c.REASON, pa.string()),
            _required(c.RAW, pa.string()),
        ]
    ),
    key=(c.BATCH, c.ROW_NUMBER),
    partition_by=c.BATCH,
)
"""Rows that became no event: the row's place in its batch (from 0), why, and the row as a JSON object of strings."""

LANDED_TABLE: Final = TableContract(
    name=LANDED,
    schema=pa.schema(
        [
            _required(c.BATCH, pa.string()),
            _required(c.ROW_NUMBER, pa.int64()),
            _required(c.EVENT_ID, pa.string()),
            _required(c.USER_ID, pa.string()),
            pa.field(c.GUEST_ID, pa.string()),
            pa.field(c.ITEM_ID, pa.string()),
            _required(c.EVENT_TYPE, pa.string()),
            _required(c.TS_US, pa.int64()),
            pa.field(c.VALUE, MONEY),
            pa.field(c.QUANTITY, pa.int64()),
            pa.field(c.CURRENCY, pa.string()),
            pa.field(c.PROPERTIES, pa.string()),
            pa.field(c.BASKET_ID, pa.string()),
            pa.field(c.PRICE, MONEY),
            pa.field(c.TITLE, pa.string()),
            pa.field(c.CATEGORY, pa.string()),
            pa.field(c.BRAND, pa.string()),
            pa.field(c.COUNTRY, pa.string()),
            _required(c.EVENT_DATE, pa.date32()),
        ]
    ),
    key=(c.TS_US, c.EVENT_ID, c.BATCH, c.ROW_NUMBER),
    partition_by=c.EVENT_DATE,
)
"""Every good row as its source gave it, before it is deduplicated across batches, merged by identity and put into
sessions: what `events` can be made from again, date by date. `guest_id` is the device's id when the user is known."""

BATCHES_TABLE: Final = TableContract(
    name=BATCHES,
    schema=pa.schema(
        [
            _required(c.BATCH, pa.string()),
            _required("source", pa.string()),
            _required("sha256", pa.string()),
            _required("num_rows", pa.int64()),
            _required("num_duplicates", pa.int64()),
            _required("counts", pa.string()),
            pa.field("first_ts_us", pa.int64()),
            pa.field("last_ts_us", pa.int64()),
            pa.field(c.LANDED_AT_US, pa.int64()),
        ]
    ),
    key=(c.BATCH,),
)
"""One row per batch (a file, or a day's table) in force. `counts` is a JSON object: good rows by event type under
`events`, rows in quarantine by reason under `quarantined`; with the duplicates they add up to `num_rows`.
`landed_at_us` is the clock's moment at which its ingest began, null where nobody knows it any more."""

OPEN_SESSIONS_TABLE: Final = TableContract(
    name=OPEN_SESSIONS,
    schema=pa.schema(
        [
            _required(c.USER_ID, pa.string()),
            _required(c.SESSION_ID, pa.string()),
            _required(c.START_US, pa.int64()),
            _required(c.END_US, pa.int64()),
            _required(c.EVENT_DATE, pa.date32()),
        ]
    ),
    key=(c.EVENT_DATE, c.USER_ID),
    partition_by=c.EVENT_DATE,
)
"""Sessions that an event early on the next day would continue: the session's first and so far last moment."""

IDENTITIES_TABLE: Final = TableContract(
    name=IDENTITIES,
    schema=pa.schema([_required(c.GUEST_ID, pa.string()), _required(c.USER_ID, pa.string())]),
    key=(c.GUEST_ID,),
)
"""Which user a guest turned out to be; events of the guest count as the user's."""

IDENTITY_PAIRS_TABLE: Final = TableContract(
    name=IDENTITY_PAIRS,
    schema=pa.schema([_required(c.GUEST_ID, pa.string()), _required(c.USER_ID, pa.string())]),
    key=(c.GUEST_ID,),
)
"""What the shop said itself about guests; a guest paired with itself is to stay a guest."""

IMPRESSIONS_TABLE: Final = TableContract(
    name=IMPRESSIONS,
    schema=pa.schema(
        [
            pa.field(c.BATCH, pa.string()),
            _required(c.REQUEST_ID, pa.string()),
            pa.field(c.USER_KEY, pa.string()),
            _required(c.USER_ID, pa.string()),
            _required(c.ITEM_ID, pa.string()),
            _required(c.TS_US, pa.int64()),
            _required(c.POSITION, pa.int64()),
            pa.field(c.SCORE, pa.float64()),
            pa.field(c.PROPENSITY, pa.float64()),
            pa.field(c.SURFACE, pa.string()),
            pa.field(c.RELEASE_DIGEST, pa.string()),
            pa.field(c.EXPERIMENT, pa.string()),
            pa.field(c.VARIANT, pa.string()),
            _required("num_clicks", pa.int64()),
            _required("num_carts", pa.int64()),
            _required("num_purchases", pa.int64()),
            pa.field(c.VALUE, MONEY),
            _required(c.EVENT_DATE, pa.date32()),
        ]
    ),
    key=(c.TS_US, c.REQUEST_ID, c.POSITION),
    partition_by=c.EVENT_DATE,
)
"""One row per product shown in answer to a request, with what came of it: feedback joined on request and product,
whichever batch brought either. `user_key` is the log's hashed key, `user_id` the user whose key it is, or the key itself
where no table names such a user. `batch` is the file of requests. `value` is that of its purchases."""

DRIFT_TABLE: Final = TableContract(
    name=DRIFT,
    schema=pa.schema(
        [
            _required(c.HOUR, pa.int64()),
            _required(c.FEATURE, pa.string()),
            _required(c.STATISTIC, pa.string()),
            pa.field(c.VALUE, pa.float64()),
            _required(c.REFERENCE_VERSION, pa.string()),
            _required(c.COUNT, pa.int64()),
            _required(c.EVENT_DATE, pa.date32()),
        ]
    ),
    key=(c.HOUR, c.FEATURE, c.STATISTIC),
    partition_by=c.EVENT_DATE,
)
"""How an hour's data differ from a reference. `hour` is its first microsecond; `count` the rows looked at."""

DRIFT_DAYS_TABLE: Final = TableContract(
    name=DRIFT_DAYS,
    schema=pa.schema(
        [
            _required(c.EVENT_DATE, pa.date32()),
            _required(c.FEATURE, pa.string()),
            _required(c.STATISTIC, pa.string()),
            pa.field(c.VALUE, pa.float64()),
            _required(c.REFERENCE_VERSION, pa.string()),
            _required(c.COUNT, pa.int64()),
        ]
    ),
    key=(c.EVENT_DATE, c.FEATURE, c.STATISTIC),
    partition_by=c.EVENT_DATE,
)
"""The same of whole days."""

MEASURED: Final = (DRIFT, DRIFT_DAYS)
"""Tables of numbers about data, which are no part of any dataset: their newest version is in force."""

TABLES: Final = {
    table.name: table
    for table in (
        EVENTS_TABLE,
        ITEMS_TABLE,
        ITEM_VERSIONS_TABLE,
        USERS_TABLE,
        QUARANTINE_TABLE,
        LANDED_TABLE,
        BATCHES_TABLE,
        OPEN_SESSIONS_TABLE,
        IDENTITIES_TABLE,
        IDENTITY_PAIRS_TABLE,
        CATALOG_TABLE,
        ATTRIBUTES_TABLE,
        IMPRESSIONS_TABLE,
        DRIFT_TABLE,
        DRIFT_DAYS_TABLE,
    )
}
