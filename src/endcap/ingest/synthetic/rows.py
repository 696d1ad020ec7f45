"""Columns of made-up events by number, before they become text; taking, joining and splitting them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from endcap.contracts.events import (
    ADD_TO_CART,
    BEGIN_CHECKOUT,
    PURCHASE,
    REFUND,
    REMOVE_FROM_CART,
    SEARCH,
    SELECT_ITEM,
    VIEW_ITEM,
    VIEW_ITEM_LIST,
)

TYPES: Final = (
    VIEW_ITEM_LIST,
    SEARCH,
    SELECT_ITEM,
    VIEW_ITEM,
    ADD_TO_CART,
    REMOVE_FROM_CART,
    BEGIN_CHECKOUT,
    PURCHASE,
    REFUND,
)
LIST_CODE, SEARCH_CODE, SELECT_CODE, VIEW_CODE, CART_CODE, REMOVE_CODE, CHECKOUT_CODE, PURCHASE_CODE, REFUND_CODE = (
    range(len(TYPES))
)


@dataclass(frozen=True)
class Rows:
    """One entry per event in each array."""

    number: npt.NDArray[np.int64]
    """Its own, of which its id is made."""
    ts_us: npt.NDArray[np.int64]
    user: npt.NDArray[np.int32]
    """A person's number; from the number of people on, a bot's."""
    item: npt.NDArray[np.int32]
    """-1 for none."""
    event_type: npt.NDArray[np.uint8]
    quantity: npt.NDArray[np.int16]
    """0 for none."""
    price: npt.NDArray[np.int64]
    """In ten-thousandths; 0 for none."""
    category: npt.NDArray[np.int16]
    """As of the event; -1 for none."""
    basket: npt.NDArray[np.int64]
    """-1 for none."""
    properties: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        """Number of events."""
        return len(self.ts_us)

    def take(self, chosen: npt.NDArray[Any] | slice) -> Rows:
        """The events at these places, or where this is true."""
        if isinstance(chosen, np.ndarray) and chosen.dtype == np.bool_:
            chosen = np.flatnonzero(chosen)  # once, not once for each column
        return Rows(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})


def concatenate(parts: Sequence[Rows]) -> Rows:
    """All events, in the order of the parts; at least one part."""
    if len(parts) == 1:
        return parts[0]
    return Rows(**{field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Rows)})


class Shelf:
    """Rows put away for a later day."""

    def __init__(self, last_day: int) -> None:
        """Nothing is held yet; what comes due after `last_day` never happens."""
        self._last_day = last_day
        self._held: dict[int, list[Rows]] = {}

    def put(self, rows: Rows, days: npt.NDArray[np.int64]) -> None:
        """Hold each row until its day."""
        for day in np.unique(days).tolist():
            if day <= self._last_day:
                self._held.setdefault(day, []).append(rows.take(days == day))

    def due(self, day: int) -> list[Rows]:
        """What was held for that day, in the order in which it was put away."""
        return self._held.pop(day, [])
