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

CATEGORY: Final = "category"
BRAND: Final = "brand"
IN_STOCK: Final = "in_stock"
GROUP_ID: Final = "group_id"
IS_KNOWN: Final = "is_known"

COUNTRY: Final = "country"
GUEST_ID: Final = "guest_id"
SIDE: Final = "side"
ENTITY_ID: Final = "entity_id"

ROW_NUMBER: Final = "row_number"
REASON: Final = "reason"
RAW: Final = "raw"
BATCH: Final = "batch"
LANDED_AT_US: Final = "landed_at_us"

REQUEST_ID: Final = "request_id"
USER_KEY: Final = "user_key"
POSITION: Final = "position"
SCORE: Final = "score"
PROPENSITY: Final = "propensity"
SURFACE: Final = "surface"
RELEASE_DIGEST: Final = "release_digest"
EXPERIMENT: Final = "experiment"
VARIANT: Final = "variant"

START_US: Final = "start_us"
END_US: Final = "end_us"

HOUR: Final = "hour"
FEATURE: Final = "feature"
STATISTIC: Final = "statistic"
REFERENCE_VERSION: Final = "reference_version"
COUNT: Final = "count"

USER_NUM: Final = "user_num"
ITEM_NUM: Final = "item_num"

CATEGORY_SEPARATOR: Final = " > "
"""Parts a category's path, from the widest on."""
