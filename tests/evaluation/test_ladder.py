"""The ladder of fallbacks, on lists filled by hand."""

import numpy as np
import pytest

from endcap.contracts.errors import InputError
from endcap.evaluation.customers import Counting, HeldOutCustomers
from endcap.evaluation.ladder import Step, fill, only, worth

REPEATS = np.array([[4, -1, -1], [-1, -1, -1]])
MODEL = np.array([[4, 2, 1], [3, 2, -1]])
POPULAR = np.array([[0, 1, 2], [0, 1, 2]])


@pytest.fixture
def customers():
    """Customer 0 bought 4 and then 2 and 4; customer 1 bought 0 and then 1."""
    return HeldOutCustomers.from_purchases(
        earlier_user_nums=np.array([0, 1]),
        earlier_item_nums=np.array([4, 0]),
        earlier_basket_nums=np.array([0, 1]),
        test_user_nums=np.array([0, 0, 1]),
        test_item_nums=np.array([2, 4, 1]),
        num_items=5,
    )


def test_lists_are_filled_from_above_without_naming_a_product_twice():
    assert fill([REPEATS, MODEL, POPULAR]).tolist() == [[4, 2, 1], [3, 2, 0]]
    assert fill([REPEATS, POPULAR]).tolist() == [[4, 0, 1], [0, 1, 2]]
    assert fill([REPEATS]).tolist() == REPEATS.tolist()


def test_repeats_are_what_was_bought_before(customers):
    assert only(np.array([[1, 4, 0], [4, 0, -1]]), customers).tolist() == [[-1, 4, -1], [-1, 0, -1]]


def test_each_step_has_its_worth(customers):
    steps = [Step("repeats", REPEATS), Step("model", MODEL), Step("popular", POPULAR)]
    rows = worth(steps, customers, Counting.ALL_PURCHASES, "recall@2", seed=1, num_resamples=100)
    assert [(row.first, row.depth) for row in rows] == [("repeats", 3), ("model", 2), ("popular", 1)]
    # Among the first two: repeats or the model find 4 and 2 of customer 0, nothing of 1; popular finds 1 of customer 1.
    assert [row.metric.mean for row in rows] == [0.5, 0.5, 0.5]
    assert [row.gain.mean if row.gain else None for row in rows] == [0.0, 0.0, None]
    assert [row.share_answered for row in rows] == [1 / 6, 5 / 6, 1.0]
    first = worth(steps, customers, Counting.ALL_PURCHASES, "recall@1", seed=1, num_resamples=100)
    assert [row.metric.mean for row in first] == [0.25, 0.25, 0.0]
    assert first[1].gain.mean == 0.25


def test_steps_of_different_depth_are_refused(customers):
    with pytest.raises(InputError, match="expected one shape for all"):
        worth([Step("a", MODEL), Step("b", MODEL[:, :2])], customers, Counting.ALL_PURCHASES, "mrr", seed=1)
