"""Time splits: baskets stay whole, no period is empty."""

import ibis
import pyarrow as pa
import pytest

from endcap.contracts.configuration import SplitConfig
from endcap.contracts.errors import InputError
from endcap.features.split import Split, split_by_time


def purchases_at(moments):
    return ibis.memtable(pa.table({"ts_us": pa.array(moments, pa.int64())}))


def test_ten_purchases_in_ten_moments():
    split = split_by_time(purchases_at(range(100, 110)), SplitConfig())
    assert split == Split(108, 109, 110, 8, 1, 1)


def test_a_basket_stays_whole():
    split = split_by_time(
        purchases_at([1, 2, 3, 4, 5, 6, 7, 7, 9, 9]), SplitConfig(eval_fraction=0.3, test_fraction=0.1)
    )
    assert split == Split(7, 9, 10, 6, 2, 2)


@pytest.mark.parametrize("moments", [[], [1], [1] * 50, [1] * 49 + [2]])
def test_an_empty_period_is_refused(moments):
    with pytest.raises(InputError, match="leaves a period empty: found"):
        split_by_time(purchases_at(moments), SplitConfig())
