"""How `endcap ingest --source files` reads the events and the catalog of a made-up shop."""

from __future__ import annotations

from typing import Final

from endcap.contracts import columns as c

MAPPING_FILE: Final = "mapping.yaml"

_EVENT_NAMES: Final = (
    c.EVENT_ID, c.USER_ID, c.GUEST_ID, c.ITEM_ID, c.EVENT_TYPE, c.VALUE, c.PRICE, c.QUANTITY, c.CURRENCY, c.CATEGORY,
    c.BRAND, c.BASKET_ID,
)  # fmt: skip
_CATALOG_NAMES: Final = (c.ITEM_ID, c.TITLE, c.CATEGORY, c.BRAND, c.GROUP_ID, c.PRICE, c.CURRENCY, c.IN_STOCK)

MAPPING: Final = "\n".join(
    [
        "columns:",
        *(f"  {name}: {name}" for name in _EVENT_NAMES),
        f"  ts: {{column: {c.TS_US}, format: us}}",
        "catalog:",
        "  path: item_versions.parquet",
        "  columns:",
        *(f"    {name}: {name}" for name in _CATALOG_NAMES),
        f"    valid_from: {{column: {c.VALID_FROM_US}, format: us}}",
        "",
    ]
)
