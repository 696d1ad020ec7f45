"""The comparison against hand-worked customers and against the metrics taken one by one."""

import numpy as np
import pytest

from endcap.contracts.errors import InputError
from endcap.evaluation.compare import SystemRankings, compare
from endcap.evaluation.customers import Counting, HeldOutCustomers
from endcap.evaluation.intervals import paired_intervals
from endcap.evaluation.metrics import METRICS, RaggedSets, find_hits, measure
from endcap.evaluation.slices import SliceColumn

NUM_ITEMS = 6
# Customer 0 bought 0 before and 0, 1 later; customer 1 bought 2 before and again; customer 2 bought 3 before, 7 later,
# which nobody sold before.
CUSTOMERS = HeldOutCustomers(
    user_nums=np.array([0, 1, 2]),
    bought=RaggedSets.from_lists([[0, 1], [2], [7]]),
    earlier=RaggedSets.from_lists([[0], [2], [3]]),
    num_earlier_baskets=np.array([1, 3, 12]),
    num_items=NUM_ITEMS,
)


def system(name, every, new):
    return SystemRankings(name, name.replace("_", " "), np.array(every), np.array(new))


GOOD = system(
    "good",
    [[0, 1, 2, 3, 4, 5], [2, 0, 1, 3, 4, 5], [0, 1, 2, 3, 4, 5]],
    [[1, 2, 3, 4, 5, -1], [0, 1, 3, 4, 5, -1], [0, 1, 2, 4, 5, -1]],
)
POOR = system(
    "poor",
    [[5, 0, 4, 3, 2, 1], [0, 2, 1, 3, 4, 5], [5, 4, 3, 2, 1, 0]],
    [[5, 1, 4, 3, 2, -1], [0, 1, 3, 4, 5, -1], [5, 4, 2, 1, 0, -1]],
)


def test_both_countings_worked_by_hand():
    comparison = compare(GOOD, [POOR], CUSTOMERS, seed=0)
    every = comparison.countings[Counting.ALL_PURCHASES]
    assert (every.num_customers, every.num_relevant) == (3, 4)
    assert [scores.name for scores in every.systems] == ["good", "poor"]
    assert every.candidate.metrics["mrr"].mean == pytest.approx((1 + 1 + 0) / 3)
    assert every.baselines[0].metrics["mrr"].mean == pytest.approx((1 / 2 + 1 / 2 + 0) / 3)
    assert every.differences["poor"]["mrr"].mean == pytest.approx(1 / 3)
    new = comparison.countings[Counting.NEW_TO_CUSTOMER]
    assert (new.num_customers, new.num_relevant) == (2, 2)
    assert new.candidate.metrics["mrr"].mean == pytest.approx((1 + 0) / 2)
    assert new.baselines[0].metrics["mrr"].mean == pytest.approx((1 / 2 + 0) / 2)
    assert every.candidate.coverage[5] == pytest.approx(5 / 6)
    assert new.candidate.coverage[5] == 1.0


def test_customers_without_anything_new_leave_that_counting_alone():
    comparison = compare(GOOD, [POOR], CUSTOMERS, seed=0)
    slices = {
        counting: [(piece.label, piece.num_customers) for piece in part.slices]
        for counting, part in comparison.countings.items()
    }
    assert slices == {
        Counting.ALL_PURCHASES: [("1", 1), ("2-3", 1), ("10+", 1)],
        Counting.NEW_TO_CUSTOMER: [("1", 1), ("10+", 1)],
    }


def test_a_slice_holds_its_own_customers():
    part = compare(GOOD, [POOR], CUSTOMERS, seed=0).countings[Counting.ALL_PURCHASES]
    assert [piece.metrics["poor"]["mrr"].mean for piece in part.slices] == [0.5, 0.5, 0.0]
    assert [piece.differences["poor"]["mrr"].mean for piece in part.slices] == [0.5, 0.5, 0.0]


def random_case(seed, num_customers=60, num_items=120):
    generator = np.random.default_rng(seed)
    earlier = RaggedSets.from_lists([generator.integers(0, 40, 5).tolist() for _ in range(num_customers)])
    bought = RaggedSets.from_lists([generator.integers(0, num_items + 9, 8).tolist() for _ in range(num_customers)])
    customers = HeldOutCustomers(
        np.arange(num_customers), bought, earlier, generator.integers(1, 15, num_customers), num_items
    )
    systems = []
    for name in ("a", "b", "c"):
        every = np.array([generator.permutation(num_items)[:100] for _ in range(num_customers)])
        new = np.array([40 + generator.permutation(num_items - 40) for _ in range(num_customers)])
        systems.append(SystemRankings(name, name, every, np.pad(new, ((0, 0), (0, 20)), constant_values=-1)))
    return customers, systems


def test_numbers_are_those_of_the_parts():
    customers, (candidate, *baselines) = random_case(1)
    comparison = compare(candidate, baselines, customers, seed=9, num_resamples=200)
    for counting, part in comparison.countings.items():
        relevant = customers.relevant(counting)
        keep = relevant.lengths > 0
        num_out = customers.earlier.lengths if counting is Counting.NEW_TO_CUSTOMER else 0
        num_irrelevant = (customers.num_items - relevant.num_below(customers.num_items) - num_out)[keep]
        relevant = relevant.select(keep)
        values = [
            np.stack(
                list(measure(find_hits(ranked, relevant), relevant.lengths, METRICS, num_irrelevant).values()), axis=1
            )
            for ranked in (s.of(counting)[keep] for s in (candidate, *baselines))
        ]
        assert [part.candidate.metrics[name].mean for name in METRICS] == pytest.approx(values[0].mean(axis=0))
        expected = paired_intervals(values[0], values[2], seed=9, num_resamples=200)
        for name, interval in zip(METRICS, expected, strict=True):
            found = part.differences["c"][name]
            assert (found.mean, found.low, found.high) == pytest.approx((interval.mean, interval.low, interval.high))
        assert part.candidate.recall_by_k[9] == pytest.approx(part.candidate.metrics["recall@10"].mean)
        assert len(part.candidate.recall_by_k) == 100


def test_the_same_seed_gives_the_same_comparison():
    customers, (candidate, *baselines) = random_case(2)
    assert compare(candidate, baselines, customers, seed=1) == compare(candidate, baselines, customers, seed=1)


def test_the_order_of_customers_changes_no_mean():
    customers, systems = random_case(3)
    order = np.random.default_rng(0).permutation(len(customers.user_nums))

    def turned(sets):
        return RaggedSets.from_lists([sets.values[sets.offsets[i] : sets.offsets[i + 1]].tolist() for i in order])

    shuffled = HeldOutCustomers(
        customers.user_nums[order],
        turned(customers.bought),
        turned(customers.earlier),
        customers.num_earlier_baskets[order],
        customers.num_items,
    )
    turned_systems = [
        SystemRankings(s.name, s.title, s.all_purchases[order], s.new_to_customer[order]) for s in systems
    ]
    straight = compare(systems[0], systems[1:], customers, seed=0, num_resamples=10).flat_metrics()
    assert compare(
        turned_systems[0], turned_systems[1:], shuffled, seed=0, num_resamples=10
    ).flat_metrics() == pytest.approx(straight)


def test_the_best_baseline_depends_on_metric_and_counting():
    customers, (candidate, *baselines) = random_case(4)
    for part in compare(candidate, baselines, customers, seed=0, num_resamples=10).countings.values():
        for metric in METRICS:
            best = part.best_baseline(metric)
            assert best.metrics[metric].mean == max(scores.metrics[metric].mean for scores in part.baselines)


def test_flat_metrics_name_counting_and_metric():
    flat = compare(GOOD, [POOR], CUSTOMERS, seed=0).flat_metrics()
    assert flat["all_purchases/mrr"] == pytest.approx(2 / 3)
    assert flat["new_to_customer/mrr"] == pytest.approx(1 / 2)
    assert {"all_purchases/recall@100", "new_to_customer/ndcg@10", "all_purchases/coverage@10"} <= set(flat)


def test_the_auc_of_a_system_that_scores_the_whole_catalog():
    aucs = {Counting.ALL_PURCHASES: np.array([1.0, 0.5, 0.0]), Counting.NEW_TO_CUSTOMER: np.array([0.5, np.nan, 0.25])}
    scored = SystemRankings(GOOD.name, GOOD.title, GOOD.all_purchases, GOOD.new_to_customer, aucs)
    found = compare(scored, [POOR], CUSTOMERS, seed=0)
    flat = found.flat_metrics()
    assert (flat["all_purchases/auc"], flat["new_to_customer/auc"]) == (
        0.5,
        0.375,
    )  # of customers with something to find
    every = found.countings[Counting.ALL_PURCHASES]
    assert every.candidate.auc.low < 0.5 < every.candidate.auc.high
    assert every.baselines[0].auc is None
    # Product 0 and 1 stand above the four others, 2 above five, 7 is unknown; in the other list 0 above 3 and 1 above none.
    assert flat["all_purchases/auc@100"] == pytest.approx((1 + 1 + 0) / 3)
    assert every.baselines[0].metrics["auc@100"].mean == pytest.approx((3 / 8 + 4 / 5 + 0) / 3)
    assert flat["new_to_customer/auc@100"] == pytest.approx((1 + 0) / 2)


def test_what_can_not_be_compared_is_refused():
    with pytest.raises(InputError, match="a baseline or more"):
        compare(GOOD, [], CUSTOMERS, seed=0)
    with pytest.raises(InputError, match="distinct names"):
        compare(GOOD, [GOOD], CUSTOMERS, seed=0)
    short = system("short", [[0, 1]] * 3, [[4, 5]] * 3)
    with pytest.raises(InputError, match="expected 3 customers by at least 6 products"):
        compare(GOOD, [short], CUSTOMERS, seed=0)
    repeats = SystemRankings("repeats", "repeats", GOOD.all_purchases, GOOD.all_purchases)
    with pytest.raises(InputError, match="name 3 products that the customer bought before"):
        compare(repeats, [POOR], CUSTOMERS, seed=0)


def test_a_counting_without_customers_is_refused():
    nothing_new = HeldOutCustomers(
        CUSTOMERS.user_nums, CUSTOMERS.earlier, CUSTOMERS.earlier, CUSTOMERS.num_earlier_baskets, NUM_ITEMS
    )
    with pytest.raises(InputError, match="products new to the customer; give a longer test period"):
        compare(GOOD, [POOR], nothing_new, seed=0)


def test_slices_by_columns_worked_by_hand():
    # The pairs, in order: customer 0 with products 0 and 1, customer 1 with 2, customer 2 with 7.
    shelf = SliceColumn("shelf", ("low", "high"), np.array([0, 1, 1, -1]))
    country = SliceColumn("country", ("here", "there"), np.array([0, 0, 1, 0]))
    comparison = compare(GOOD, [POOR], CUSTOMERS, seed=0, slices=[shelf, country])
    every = comparison.countings[Counting.ALL_PURCHASES]
    assert len(every.by_activity) == 3
    found = {piece.title: piece for piece in every.by_columns}
    assert {title: piece.num_customers for title, piece in found.items()} == {
        "shelf: low": 1, "shelf: high": 2, "country: here": 2, "country: there": 1
    }  # fmt: skip
    assert found["shelf: high"].metrics["good"]["mrr"].mean == pytest.approx((1 / 2 + 1) / 2)
    assert found["shelf: high"].metrics["poor"]["mrr"].mean == pytest.approx((1 / 6 + 1 / 2) / 2)
    assert found["shelf: high"].differences["poor"]["mrr"].mean == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert found["country: here"].tells_customers_apart
    assert not found["shelf: low"].tells_customers_apart
    new = comparison.countings[Counting.NEW_TO_CUSTOMER]
    assert [piece.title for piece in new.by_columns] == ["shelf: high", "country: here"]  # 0 and 2 were bought before
