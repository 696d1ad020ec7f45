"""The staging form in (`interactions.parquet` and `items.parquet`, each a file or a folder of parts), events and a catalog out.

Interactions: `user_id, item_id, event_type, event_time`, perhaps amounts, currency, basket and session. Items: `item_id`,
perhaps `title`, `category_path` or `category`, `brand`, `price` and more.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from endcap.contracts.errors import InputError
from endcap.ingest import door
from endcap.ingest.sources import cells
from endcap.ingest.sources.event_words import known_words
from endcap.ingest.sources.mapped import MappedSource
from endcap.ingest.sources.mapping import CatalogMapping, EventMapping, column
from endcap.ingest.sources.protocol import Batch

NAME: Final = "staging"

_INTERACTIONS: Final = "interactions.parquet"
_ITEMS: Final = "items.parquet"

MAPPING: Final = EventMapping(
    name=NAME,
    columns={
        "event_id": column("event_id", optional=True),
        "user_id": column("user_id"),
        "item_id": column("item_id"),
        "event_type": column("event_type"),
        "ts": column("event_time", "event_timestamp", "timestamp"),
        "value": column("value", optional=True),
        "price": column("price", optional=True),
        "quantity": column("quantity", optional=True),
        "currency": column("currency", optional=True),
        "basket_id": column("basket_id", optional=True),
        "session_id": column("session_id", optional=True),
        "country": column("country", optional=True),
    },
    event_types=known_words(),
    properties=("rating",),
    catalog=CatalogMapping(
        path=_ITEMS,
        columns={
            "item_id": column("item_id"),
            "valid_from": column("valid_from", optional=True),
            "title": column("title", optional=True),
            "category": column("category_path", "category", optional=True, separator=cells.ANY_SEPARATOR),
            "brand": column("brand", optional=True),
            "group_id": column("group_id", optional=True),
            "price": column("price", optional=True),
            "currency": column("currency", optional=True),
            "in_stock": column("in_stock", optional=True),
        },
    ),
)


@dataclass(frozen=True)
class Staging(MappedSource):
    """All interactions and items there are, as a training job finds them. Each part is a batch."""

    name: str = NAME
    mapping: EventMapping = MAPPING
    is_whole_export: bool = True
    is_folding: bool = True
    has_optional_properties: bool = True

    def batches(self, path: Path) -> list[Batch]:
        """See `Source.batches`."""
        if not path.exists():
            raise InputError(f"{path} does not exist. Give the folder that holds {_INTERACTIONS}.")
        place = path / _INTERACTIONS if path.is_dir() and path.name != _INTERACTIONS else path
        if place.name != _INTERACTIONS or not place.exists():
            raise InputError(
                f"{path} holds no {_INTERACTIONS}, the interactions of source {NAME}. Give the folder that holds it."
            )
        if place.is_file():
            door.check_has_rows(place)
            return [Batch(f"{NAME}/{place.name}", (place,))]
        return [Batch(f"{NAME}/{place.name}/{name}", (file,)) for name, file in door.parts(place, NAME).items()]

    def _catalog_path(self, path: Path) -> Path | None:
        folder = path.parent if path.name == _INTERACTIONS else path
        place = folder / _ITEMS
        return place if place.exists() else None
