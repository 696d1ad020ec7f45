"""Purchases in, each user's own products with their number of lines and last purchase out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import scipy.sparse as sp

from endcap.contracts.errors import InputError
from endcap.models.purchases import FloatArray, IntArray, PurchaseLog, fade, faded_lines


@dataclass(frozen=True)
class OwnProducts:
    """Each user's distinct products as rows of a CSR layout, most bought first, ties in popularity order."""

    offsets: IntArray
    item_nums: IntArray
    counts: FloatArray  # lines, older ones faded where a half-life was given
    last_us: IntArray

    @classmethod
    def fit(
        cls, purchases: PurchaseLog, places: IntArray, split_ts_us: int = 0, half_life_days: float | None = None
    ) -> Self:
        """Count lines; with `half_life_days` a line counts half for each so many days before `split_ts_us`."""
        pairs = purchases.user_nums * purchases.num_items + purchases.item_nums
        distinct, rows = np.unique(pairs, return_inverse=True)
        units = np.bincount(rows, weights=fade(split_ts_us - purchases.ts_us, half_life_days))
        last_us = np.full(len(distinct), np.iinfo(np.int64).min)
        np.maximum.at(last_us, rows, purchases.ts_us)
        users, items = np.divmod(distinct, purchases.num_items)
        order = np.lexsort((places[items], -units, users))
        offsets = np.zeros(purchases.num_users + 1, dtype=np.int64)
        np.cumsum(np.bincount(users, minlength=purchases.num_users), out=offsets[1:])
        return cls(offsets, items[order], faded_lines(units[order].astype(np.int64)), last_us[order])

    @property
    def num_users(self) -> int:
        """Users that the purchases number, with or without a purchase."""
        return len(self.offsets) - 1

    def rows(self, user_nums: IntArray) -> tuple[IntArray, IntArray, IntArray]:
        """Position in `user_nums`, place within the user's row and index into the arrays, for each product."""
        lengths = self.offsets[user_nums + 1] - self.offsets[user_nums]
        row = np.repeat(np.arange(len(user_nums)), lengths)
        place = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return row, place, np.repeat(self.offsets[user_nums], lengths) + place

    def matrix(self, values: FloatArray, num_items: int) -> sp.csr_array:
        """`[num_users, num_items]` with `values`, aligned with `item_nums`, where a user bought a product."""
        matrix = sp.csr_array((values, self.item_nums, self.offsets), shape=(self.num_users, num_items))
        matrix.sort_indices()
        return matrix

    def check(self, user_nums: IntArray, k: int) -> None:
        """Raises InputError when a user number or `k` is out of range."""
        if len(user_nums) and (user_nums.min() < 0 or user_nums.max() >= self.num_users):
            raise InputError(
                f"User numbers range from {user_nums.min()} to {user_nums.max()}; "
                f"the baseline knows 0 to {self.num_users - 1}."
            )
        if k < 1:
            raise InputError(f"k is {k}; expected at least 1.")
