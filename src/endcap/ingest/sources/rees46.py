"""REES46's clickstream as it publishes it in, views, carts and purchases out.

Columns: `event_time` with the suffix UTC, `event_type`, `product_id`, `category_id`, dotted `category_code`, `brand`,
`price`, `user_id`, `user_session`. There are no orders: what a session bought is taken for one.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Final

import ibis
import ibis.expr.types as ir

from endcap.contracts.events import ADD_TO_CART, PURCHASE, REMOVE_FROM_CART, VIEW_ITEM
from endcap.ingest.sources import cells, normalized
from endcap.ingest.sources.mapped import MappedSource, event_fields
from endcap.ingest.sources.mapping import EventMapping, column

NAME: Final = "rees46"

MAPPING: Final = EventMapping(
    name=NAME,
    columns={
        "user_id": column("user_id"),
        "item_id": column("product_id"),
        "event_type": column("event_type"),
        "ts": column("event_time"),
        "price": column("price"),
        "session_id": column("user_session"),
        "category": column("category_code", separator="."),
        "brand": column("brand"),
    },
    event_types={
        "view": VIEW_ITEM,
        "cart": ADD_TO_CART,
        "remove_from_cart": REMOVE_FROM_CART,
        "purchase": PURCHASE,
    },
)


@dataclass(frozen=True)
class Rees46(MappedSource):
    """REES46's files, such as one a month."""

    name: str = NAME
    mapping: EventMapping = MAPPING

    def normalize(self, rows: ir.Table) -> ir.Table:
        """See `Source.normalize`."""
        fields = event_fields(rows, self.mapping)
        session = cells.text(rows["user_session"])
        basket = (fields.event_type == PURCHASE).ifelse(session, ibis.null("string"))
        return normalized.normalize(dataclasses.replace(fields, basket=basket))
