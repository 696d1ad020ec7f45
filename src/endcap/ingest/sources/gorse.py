"""Gorse's feedback and items as CSV or JSON-lines in, events and a catalog out.

Feedback: type, user, item, timestamp, perhaps value and comment; items: id, hidden or not, categories, timestamp, labels,
comment. Names are those of its API (`FeedbackType`) or of its exports (`feedback_type`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from endcap.ingest.sources.event_words import known_words
from endcap.ingest.sources.mapping import CatalogMapping, Cell, EventMapping, column
from endcap.ingest.sources.roles import RoleSource

NAME: Final = "gorse"

_ITEM: Final = ("ItemId", "item_id", "itemId")

MAPPING: Final = EventMapping(
    name=NAME,
    columns={
        "user_id": column("UserId", "user_id", "userId"),
        "item_id": column(*_ITEM),
        "event_type": column("FeedbackType", "feedback_type", "feedbackType"),
        "ts": column("Timestamp", "time_stamp", "timestamp"),
    },
    event_types=known_words(),
    properties=("Value", "value", "Comment", "comment"),
    catalog=CatalogMapping(
        path="items",
        columns={
            "item_id": column(*_ITEM),
            "title": column("Comment", "comment", optional=True),
            "category": Cell(levels=("Categories", "categories"), optional=True),
            "in_stock": column("IsHidden", "is_hidden", "isHidden", optional=True, negate=True),
        },
    ),
)


@dataclass(frozen=True)
class Gorse(RoleSource):
    """Feedback, with items in files beside it. A hidden item is out of stock; the first category counts."""

    name: str = NAME
    mapping: EventMapping = MAPPING
    is_folding: bool = True
    has_optional_properties: bool = True
