"""Every column of the shared tables, named once: a typo becomes an import error instead of an empty result."""

from __future__ import annotations

from typing import Final

EVENT_ID: Final = "event_id"
USER_ID: Final = "user_id"
ITEM_ID: Final = "item_id"
EVENT_TYPE: Final = "event_type"
TS_US: Final = "ts_us"
SESSION_ID: Final = "session_id"
VALUE: Final = "value"
QUANTITY: Final = "quantity"
CURRENCY: Final = "currency"
PROPERTIES: Final = "properties"
BASKET_ID: Final = "basket_id"
PRICE: Final = "price"
EVENT_DATE: Final = "event_date"

TITLE: Final = "title"
FIRST_SOLD_US: Final = "first_sold_us"
LAST_SOLD_US: Final = "last_sold_us"
VALID_FROM_US: Final = "valid_from_us"
VALID_TO_US: Final = "valid_to_us"

COUNTRY: Final = "country"

ROW_NUMBER: Final = "row_number"
REASON: Final = "reason"
RAW: Final = "raw"

USER_NUM: Final = "user_num"
ITEM_NUM: Final = "item_num"
