"""Splits by time and by customer: baskets stay whole, no part is empty, everybody's last basket is the one held out."""

import ibis
import pyarrow as pa
import pytest

from endcap.contracts.configuration import SplitConfig
from endcap.contracts.errors import InputError
from endcap.features.split import Split, split_by_time, split_purchases, with_periods


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


def bought(rows):
    users, moments = zip(*rows, strict=True)
    return ibis.memtable(
        pa.table(
            {"user_id": users, "item_id": [f"p{n}" for n in range(len(rows))], "ts_us": pa.array(moments, pa.int64())}
        )
    )


def periods(purchases, config):
    marked = with_periods(purchases, config, split_purchases(purchases, config)).order_by("user_id", "ts_us", "item_id")
    return [(row["user_id"], row["ts_us"], row["period"]) for row in marked.to_pyarrow().to_pylist()]


def test_periods_by_time():
    rows = [("ann", moment) for moment in range(100, 110)]
    assert [period for *_, period in periods(bought(rows), SplitConfig())] == ["train"] * 8 + ["eval", "test"]


def test_the_last_basket_of_each_customer():
    rows = [("ann", 1), ("ann", 2), ("ann", 3), ("ann", 4), ("ann", 4), ("bob", 9), ("bob", 7), ("eve", 5)]
    config = SplitConfig(kind="leave_last_out")
    assert split_purchases(bought(rows), config) == Split(10, 10, 10, 4, 1, 3, "leave_last_out")
    assert periods(bought(rows), config) == [
        ("ann", 1, "train"), ("ann", 2, "train"), ("ann", 3, "eval"), ("ann", 4, "test"), ("ann", 4, "test"),
        ("bob", 7, "train"), ("bob", 9, "test"), ("eve", 5, "train"),
    ]  # fmt: skip


def test_customers_at_random():
    rows = [(f"u{user:03d}", moment) for user in range(400) for moment in ((1, 2, 3) if user % 10 else (5,))]
    config = SplitConfig(kind="random", eval_fraction=0.2, test_fraction=0.1)
    found = periods(bought(rows), config)
    assert periods(bought(rows[::-1]), config) == found
    by_user = {}
    for user, _, period in found:
        by_user.setdefault(user, []).append(period)
    kinds = {tuple(parts) for parts in by_user.values()}
    # A customer with one basket can't be asked, but if drawn isn't trained on either.
    assert kinds == {
        ("train",) * 3, ("context", "context", "eval"), ("context", "context", "test"), ("train",), ("context",),
    }  # fmt: skip
    num = {part: sum(parts[-1] == part for parts in by_user.values()) for part in ("eval", "test")}
    assert 50 <= num["eval"] <= 95
    assert 20 <= num["test"] <= 52
    split = split_purchases(bought(rows), config)
    assert (split.num_eval, split.num_test, split.end_us) == (num["eval"], num["test"], 6)
    other = periods(bought(rows), SplitConfig(kind="random", eval_fraction=0.2, test_fraction=0.1, seed=1))
    assert other != found
    # Who is drawn depends on the customer alone, whoever else there is.
    few = dict.fromkeys(user for user, *_ in found[:300])
    assert periods(bought([row for row in rows if row[0] in few]), config) == [row for row in found if row[0] in few]


@pytest.mark.parametrize("kind", ["leave_last_out", "random"])
def test_an_empty_part_is_refused(kind):
    with pytest.raises(InputError, match=f"The {kind} split leaves a part empty: found purchases: .* for train"):
        split_purchases(bought([("ann", 1), ("bob", 2)]), SplitConfig(kind=kind))
