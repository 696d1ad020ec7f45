"""Purchases before and after the split moment in, the customers to judge on and what each should have been shown out."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from endcap.contracts.errors import InputError
from endcap.evaluation.metrics import RaggedSets

IntArray = NDArray[np.int64]


class Counting(StrEnum):
    """Which of a customer's later purchases count."""

    ALL_PURCHASES = "all_purchases"
    NEW_TO_CUSTOMER = "new_to_customer"

    @property
    def label(self) -> str:
        """The counting in words."""
        return {"all_purchases": "all purchases", "new_to_customer": "products new to the customer"}[self.value]


@dataclass(frozen=True)
class HeldOutCustomers:
    """Customers who bought both in the test period and before it; row `i` of every field is the same customer.

    `bought` are the distinct products of the test period, `earlier` those of any time before it; products outside the
    catalog have numbers from `num_items` upwards. `num_earlier_baskets` counts baskets before the test period.
    """

    user_nums: IntArray
    bought: RaggedSets
    earlier: RaggedSets
    num_earlier_baskets: IntArray
    num_items: int

    @classmethod
    def from_purchases(
        cls,
        *,
        earlier_user_nums: IntArray,
        earlier_item_nums: IntArray,
        earlier_basket_nums: IntArray,
        test_user_nums: IntArray,
        test_item_nums: IntArray,
        num_items: int,
    ) -> HeldOutCustomers:
        """Purchase lines of both periods, each as aligned arrays in any order.

        `earlier_basket_nums` number baskets uniquely over all users. A customer without earlier purchases is left out;
        they may carry any user number that no earlier line has. Raises InputError when no customer is left.
        """
        user_nums = np.intersect1d(earlier_user_nums, test_user_nums).astype(np.int64)
        if not len(user_nums):
            raise InputError(
                "No customer bought both before and in the test period, so nothing can be measured; "
                "check the split moment or give more data."
            )
        earlier_rows, earlier_kept = _rows_of(user_nums, earlier_user_nums)
        test_rows, test_kept = _rows_of(user_nums, test_user_nums)
        baskets = RaggedSets.from_pairs(earlier_rows, earlier_basket_nums[earlier_kept], len(user_nums))
        return cls(
            user_nums=user_nums,
            bought=RaggedSets.from_pairs(test_rows, test_item_nums[test_kept], len(user_nums)),
            earlier=RaggedSets.from_pairs(earlier_rows, earlier_item_nums[earlier_kept], len(user_nums)),
            num_earlier_baskets=baskets.lengths,
            num_items=num_items,
        )

    def relevant(self, counting: Counting) -> RaggedSets:
        """What a ranking should name; rows may be empty where only products new to the customer count."""
        return self.bought if counting is Counting.ALL_PURCHASES else self.bought.minus(self.earlier)

    def num_irrelevant(self, counting: Counting, relevant: RaggedSets) -> IntArray:
        """How many products of the catalog each customer could have been shown besides the `relevant` ones."""
        num_shown = self.num_items - relevant.num_below(self.num_items)
        if counting is Counting.NEW_TO_CUSTOMER:
            num_shown -= self.earlier.num_below(self.num_items)
        return num_shown


def _rows_of(user_nums: IntArray, wanted: IntArray) -> tuple[IntArray, NDArray[np.bool_]]:
    """The row of each wanted user that is among the sorted `user_nums`, and which of them are."""
    places = np.minimum(np.searchsorted(user_nums, wanted), len(user_nums) - 1)
    kept = user_nums[places] == wanted
    return places[kept], kept
