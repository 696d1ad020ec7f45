"""Who is judged on, and what they should have been shown."""

import numpy as np
import pytest

from endcap.contracts.errors import InputError
from endcap.evaluation.customers import Counting, HeldOutCustomers


def customers(**changed):
    purchases = {
        # User 7 has two baskets, user 3 one; user 5 comes in the test period alone, user 9 before it alone.
        "earlier_user_nums": np.array([7, 7, 7, 3, 9]),
        "earlier_item_nums": np.array([0, 1, 0, 2, 4]),
        "earlier_basket_nums": np.array([10, 10, 11, 12, 13]),
        "test_user_nums": np.array([3, 7, 7, 7, 5, 3]),
        "test_item_nums": np.array([2, 0, 4, 4, 1, 2]),
        "num_items": 4,
    }
    return HeldOutCustomers.from_purchases(**(purchases | changed))


def rows(sets):
    return [sets.values[a:b].tolist() for a, b in zip(sets.offsets[:-1], sets.offsets[1:], strict=True)]


def test_customers_of_both_periods_are_kept():
    found = customers()
    assert found.user_nums.tolist() == [3, 7]
    assert found.num_earlier_baskets.tolist() == [1, 2]
    assert rows(found.earlier) == [[2], [0, 1]]
    assert rows(found.bought) == [[2], [0, 4]]


def test_what_counts_under_each_counting():
    found = customers()
    assert rows(found.relevant(Counting.ALL_PURCHASES)) == [[2], [0, 4]]
    assert rows(found.relevant(Counting.NEW_TO_CUSTOMER)) == [[], [4]]


def test_nobody_in_both_periods_is_refused():
    with pytest.raises(InputError, match="No customer bought both"):
        customers(test_user_nums=np.array([1, 1, 1, 1, 5, 1]))
