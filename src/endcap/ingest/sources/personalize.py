"""Amazon Personalize's data sets of interactions and items as CSV in, events and a catalog out.

Columns: `USER_ID, ITEM_ID, TIMESTAMP` (seconds), perhaps `EVENT_TYPE, EVENT_VALUE, IMPRESSION`; of items `ITEM_ID` and
perhaps `CATEGORY_L1` to `CATEGORY_L3` (several values parted by |, of which the first counts), `PRICE, CREATION_TIMESTAMP`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Final

import ibis.expr.types as ir

from endcap.contracts.events import VIEW_ITEM
from endcap.ingest.sources import normalized
from endcap.ingest.sources.event_words import known_words
from endcap.ingest.sources.mapped import event_fields
from endcap.ingest.sources.mapping import CatalogMapping, Cell, EventMapping, column
from endcap.ingest.sources.roles import RoleSource

NAME: Final = "personalize"
_TYPE: Final = "EVENT_TYPE"

MAPPING: Final = EventMapping(
    name=NAME,
    columns={
        "user_id": column("USER_ID"),
        "item_id": column("ITEM_ID"),
        "event_type": column(_TYPE, optional=True),
        "ts": column("TIMESTAMP", format="s"),
    },
    event_types=known_words(),
    properties=("EVENT_VALUE", "IMPRESSION", "RECOMMENDATION_ID"),
    catalog=CatalogMapping(
        path="items.csv",
        columns={
            "item_id": column("ITEM_ID"),
            "valid_from": column("CREATION_TIMESTAMP", format="s", optional=True),
            "title": column("TITLE", "PRODUCT_NAME", "NAME", optional=True),
            "category": Cell(levels=("CATEGORY_L1", "CATEGORY_L2", "CATEGORY_L3"), optional=True),
            "brand": column("BRAND", optional=True),
            "price": column("PRICE", optional=True),
        },
    ),
)


@dataclass(frozen=True)
class Personalize(RoleSource):
    """Interactions, with items in files beside them. Without `EVENT_TYPE` every interaction is a view."""

    name: str = NAME
    mapping: EventMapping = MAPPING
    is_folding: bool = True
    has_optional_properties: bool = True

    def normalize(self, rows: ir.Table) -> ir.Table:
        """See `Source.normalize`."""
        mapping = self.mapping
        if _TYPE not in rows.columns:
            mapping = dataclasses.replace(
                mapping, columns={**mapping.columns, "event_type": Cell(constant=VIEW_ITEM)}, event_types={}
            )
        return normalized.normalize(event_fields(rows, mapping, is_folding=self.is_folding))
