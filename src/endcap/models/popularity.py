"""Purchases in, every product once in the order of its popularity out: what breaks the ties of all rankings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from endcap.contracts.errors import InputError
from endcap.models.purchases import DAY_US, FloatArray, IntArray, PurchaseLog, fade


@dataclass(frozen=True)
class Popularity:
    """Every product once, most popular first, and each product's place in that order."""

    order: IntArray
    places: IntArray
    scores: FloatArray  # by item, in [0, 1], strictly falling along `order`

    @classmethod
    def fit(
        cls, purchases: PurchaseLog, split_ts_us: int, window_days: int, half_life_days: float | None = None
    ) -> Self:
        """Count lines in the window before the split, or all lines fading by their age; then all lines, item number.

        With a `half_life_days` the window is not used.
        """
        if window_days <= 0:
            raise InputError(f"window_days is {window_days}; expected at least 1.")
        if half_life_days is None:
            weights = (purchases.ts_us >= split_ts_us - window_days * DAY_US).astype(np.int64)
        else:
            weights = fade(split_ts_us - purchases.ts_us, half_life_days)
        lately = np.bincount(purchases.item_nums, weights=weights, minlength=purchases.num_items)
        num_ever = np.bincount(purchases.item_nums, minlength=purchases.num_items)
        order = np.lexsort((np.arange(purchases.num_items), -num_ever, -lately)).astype(np.int64)
        places = np.empty_like(order)
        places[order] = np.arange(len(order))
        return cls(order, places, 1.0 - (places + 1) / (len(order) + 1))
