"""Purchase lines as aligned number arrays in, the shape of every ranking made from them out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from endcap.contracts.errors import InputError

DAY_US = 24 * 60 * 60 * 1_000_000
NO_ITEM = -1

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

_FADE_UNITS = 1 << 20


@dataclass(frozen=True)
class PurchaseLog:
    """Purchase lines, in any order; the four arrays are aligned.

    `user_nums` lie in `[0, num_users)`, `item_nums` in `[0, num_items)`, `ts_us` are microseconds since 1970, UTC;
    `basket_nums` are 0 or more, one for each basket over all users. Raises InputError when lengths or ranges don't fit.
    """

    user_nums: IntArray
    item_nums: IntArray
    basket_nums: IntArray
    ts_us: IntArray
    num_users: int
    num_items: int

    def __post_init__(self) -> None:
        lengths = {len(values) for values in (self.user_nums, self.item_nums, self.basket_nums, self.ts_us)}
        if len(lengths) != 1:
            raise InputError(f"Purchase arrays have lengths {sorted(lengths)}; give four aligned arrays.")
        if not len(self.user_nums) or not self.num_items:
            raise InputError("There are no purchases to fit a baseline on; check the split moment and the source.")
        for name, values, limit in (
            ("user_nums", self.user_nums, self.num_users),
            ("item_nums", self.item_nums, self.num_items),
            ("basket_nums", self.basket_nums, np.iinfo(np.int64).max),
        ):
            low, high = int(values.min()), int(values.max())
            if low < 0 or high >= limit:
                raise InputError(f"{name} range from {low} to {high}; expected 0 to {limit - 1}.")

    def before(self, moment_us: int) -> PurchaseLog:
        """The lines earlier than `moment_us`. Raises InputError when there are none."""
        keep = self.ts_us < moment_us
        return PurchaseLog(
            self.user_nums[keep],
            self.item_nums[keep],
            self.basket_nums[keep],
            self.ts_us[keep],
            self.num_users,
            self.num_items,
        )


@dataclass(frozen=True)
class Ranked:
    """Best first: `item_nums` and `scores`, both `[num_users, k]`; short rows end in -1 and -inf.

    Scores never rise along a row; they are comparable within a row only.
    """

    item_nums: IntArray
    scores: FloatArray


class Baseline(Protocol):
    """What every baseline can do, and the name under which it is reported."""

    @property
    def name(self) -> str:
        """Of the system, in tables for machines."""
        ...

    @property
    def title(self) -> str:
        """Of the system, for people."""
        ...

    def recommend(self, user_nums: IntArray, k: int, *, exclude_seen: bool) -> Ranked:
        """The `k` best products for each user; with `exclude_seen`, none that the user bought before."""
        ...


def fade(ages_us: IntArray, half_life_days: float | None) -> IntArray:
    """Weight of lines of these ages in whole units: halved each `half_life_days`, or all equal.

    Integers, so that sums don't depend on the order of the lines.
    """
    if half_life_days is None:
        return np.full(len(ages_us), _FADE_UNITS, dtype=np.int64)
    if not half_life_days > 0:
        raise InputError(f"half_life_days is {half_life_days}; expected more than 0, or none.")
    return np.asarray(np.rint(_FADE_UNITS * np.exp2(-ages_us / (half_life_days * DAY_US))), dtype=np.int64)


def faded_lines(units: IntArray) -> FloatArray:
    """Sums of `fade` as numbers of lines."""
    return units / _FADE_UNITS
