"""Metrics against values worked out by hand and against plain Python."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.contracts.errors import InputError
from endcap.evaluation.metrics import (
    METRICS,
    RECALL_KS,
    RaggedSets,
    coverage_at,
    exposures,
    find_hits,
    measure,
    metric_names,
    read_rankings,
    recall_curve,
)
from endcap.evaluation.predictions import auc

NUM_ITEMS = 30


def test_one_customer_worked_by_hand():
    # Hits at ranks 2 and 4 of 6; three relevant products, one of them unknown to every model.
    rankings = np.array([[9, 1, 8, 2, 7, 6]])
    relevant = RaggedSets.from_lists([[1, 2, NUM_ITEMS + 4]])
    measured = measure(find_hits(rankings, relevant), relevant.lengths, num_irrelevant=np.array([NUM_ITEMS - 2]))
    values = {name: value[0] for name, value in measured.items()}
    ideal = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    assert values == pytest.approx(
        {
            "recall@5": 2 / 3,
            "recall@10": 2 / 3,
            "recall@50": 2 / 3,
            "recall@100": 2 / 3,
            "ndcg@10": (1 / math.log2(3) + 1 / math.log2(5)) / ideal,
            "mrr": 1 / 2,
            "hit_rate@10": 1.0,
            "map@10": (1 / 2 + 2 / 4) / 3,
            # Of 28 others the first hit stands above all but 1, the second above all but 2; the unknown one below all.
            "auc@100": (27 + 26) / (3 * 28),
        }
    )


def test_the_ideal_stops_at_k():
    rankings = np.arange(20)[None, :]
    relevant = RaggedSets.from_lists([range(20)])
    hits = find_hits(rankings, relevant)
    values = measure(hits, relevant.lengths, ("ndcg@10", "recall@10", "map@10"))
    assert values["ndcg@10"][0] == pytest.approx(1.0)
    assert values["recall@10"][0] == 0.5
    assert values["map@10"][0] == pytest.approx(1.0)


def test_padding_is_never_a_hit():
    hits = find_hits(np.array([[-1, -1, 0], [-1, -1, -1]]), RaggedSets.from_lists([[0], [0]]))
    assert hits.tolist() == [[False, False, True], [False, False, False]]


def test_a_product_of_another_customer_is_no_hit():
    hits = find_hits(np.array([[0, 1], [1, 0], [2, 3]]), RaggedSets.from_lists([[1], [5], []]))
    assert hits.tolist() == [[False, True], [False, False], [False, False]]


def test_recall_curve_is_the_mean_at_each_k():
    relevant = RaggedSets.from_lists([[0, 1], [2]])
    hits = find_hits(np.array([[0, 5, 1], [5, 2, 0]]), relevant)
    np.testing.assert_allclose(recall_curve(hits, relevant.lengths, 3), [0.25, 0.75, 1.0])


def test_coverage_counts_each_product_once_and_no_padding():
    rankings = np.array([[0, 1, 2], [1, 0, -1]])
    assert coverage_at(rankings, 10, 2) == 0.2
    assert coverage_at(rankings, 10, 3) == 0.3
    with pytest.raises(InputError, match="catalog has 0 to 1"):
        coverage_at(rankings, 2, 3)


def test_bad_rankings_are_refused():
    with pytest.raises(InputError, match="1 rankings name a product twice"):
        find_hits(np.array([[3, 1, 3], [1, -1, -1]]), RaggedSets.from_lists([[1], [1]]))
    with pytest.raises(InputError, match="2 rankings for 1 customers"):
        find_hits(np.array([[3], [1]]), RaggedSets.from_lists([[1]]))
    relevant = RaggedSets.from_lists([[], [1]])
    with pytest.raises(InputError, match="1 customers have no relevant product"):
        measure(find_hits(np.array([[3], [1]]), relevant), relevant.lengths)


def test_sets_are_sorted_without_repeats():
    sets = RaggedSets.from_pairs(np.array([1, 0, 1, 1]), np.array([7, 3, 2, 7]), 3)
    assert sets.offsets.tolist() == [0, 1, 3, 3]
    assert sets.values.tolist() == [3, 2, 7]
    assert sets.select(np.array([False, True, True])).offsets.tolist() == [0, 2, 2]
    with pytest.raises(InputError, match="-1"):
        RaggedSets.from_pairs(np.array([0]), np.array([-1]), 1)


@given(st.lists(st.tuples(st.sets(st.integers(0, 9)), st.sets(st.integers(0, 9))), min_size=1, max_size=6))
def test_minus_is_the_difference_of_each_row(rows):
    left = RaggedSets.from_lists([sorted(a) for a, _ in rows])
    rest = left.minus(RaggedSets.from_lists([sorted(b) for _, b in rows]))
    for index, (a, b) in enumerate(rows):
        assert rest.values[rest.offsets[index] : rest.offsets[index + 1]].tolist() == sorted(a - b)


@st.composite
def cases(draw):
    num_customers = draw(st.integers(1, 5))
    depth = draw(st.integers(1, 14))
    rankings, relevant = [], []
    for _ in range(num_customers):
        ranking = draw(st.lists(st.integers(0, NUM_ITEMS - 1), unique=True, max_size=depth))
        rankings.append(ranking + [-1] * (depth - len(ranking)))
        relevant.append(draw(st.sets(st.integers(0, NUM_ITEMS + 5), min_size=1, max_size=14)))
    return rankings, relevant


def plain_metrics(ranking, relevant):
    hit = [item in relevant for item in ranking]
    first = next((rank for rank, value in enumerate(hit, start=1) if value), None)
    gained = sum(1 / math.log2(rank + 1) for rank, value in enumerate(hit[:10], start=1) if value)
    best = sum(1 / math.log2(rank + 1) for rank in range(1, min(10, len(relevant)) + 1))
    precisions = [sum(hit[:rank]) / rank for rank, value in enumerate(hit[:10], start=1) if value]
    return {
        **{f"recall@{k}": sum(hit[:k]) / len(relevant) for k in RECALL_KS},
        "ndcg@10": gained / best,
        "mrr": 1 / first if first else 0.0,
        "hit_rate@10": float(any(hit[:10])),
        "map@10": sum(precisions) / min(10, len(relevant)),
        "auc@100": plain_auc(ranking, relevant, 100),
    }


def plain_auc(ranking, relevant, k):
    """Pair by pair; a place that holds nothing is one of the products that weren't wanted."""
    others = [item for item in range(NUM_ITEMS) if item not in relevant]
    spare = [item for item in others if item not in ranking[:k]]
    places = [spare.pop() if item < 0 and spare else item for item in (ranking + [-1] * k)[:k]]
    place_of = {item: place for place, item in enumerate(places) if item >= 0}
    pairs = [(place_of.get(good, k), place_of.get(bad, k)) for good in relevant for bad in others]
    return sum((good < bad) + (good == bad) / 2 for good, bad in pairs) / len(pairs) if pairs else 0.5


def all_of(rankings, sets, names=METRICS):
    num_irrelevant = NUM_ITEMS - sets.num_below(NUM_ITEMS)
    return measure(find_hits(np.array(rankings), sets), sets.lengths, names, num_irrelevant)


@settings(deadline=None)
@given(cases())
def test_metrics_are_those_of_plain_python_and_lie_between_0_and_1(case):
    rankings, relevant = case
    sets = RaggedSets.from_lists([sorted(values) for values in relevant])
    measured = all_of(rankings, sets)
    assert tuple(measured) == METRICS
    for index, (ranking, wanted) in enumerate(zip(rankings, relevant, strict=True)):
        found = {name: values[index] for name, values in measured.items()}
        assert found == pytest.approx(plain_metrics(ranking, wanted))
        assert all(0.0 <= value <= 1.0 + 1e-12 for value in found.values())


@settings(deadline=None)
@given(cases(), st.integers(1, 16))
def test_what_lies_past_k_counts_as_in_random_order(case, k):
    rankings, relevant = case
    sets = RaggedSets.from_lists([sorted(values) for values in relevant])
    found = all_of(rankings, sets, [f"auc@{k}"])[f"auc@{k}"]
    expected = [plain_auc(ranking, wanted, k) for ranking, wanted in zip(rankings, relevant, strict=True)]
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("k", [8, 100])
def test_a_list_of_the_whole_catalog_has_the_plain_auc(k):
    rankings = np.array([np.random.default_rng(seed).permutation(8) for seed in range(20)])
    sets = RaggedSets.from_lists([[seed % 8, (3 * seed + 1) % 8] for seed in range(20)])
    hits = find_hits(rankings, sets)
    found = measure(hits, sets.lengths, [f"auc@{k}"], 8 - sets.lengths)[f"auc@{k}"]
    for row, value in enumerate(found):
        assert value == pytest.approx(auc(hits[row].astype(float), -np.arange(8.0)))


def test_the_limited_auc_must_know_the_catalog():
    relevant = RaggedSets.from_lists([[1]])
    hits = find_hits(np.array([[1, 2]]), relevant)
    assert measure(hits, relevant.lengths, ["auc@2"], np.array([0]))["auc@2"][0] == 0.5  # nothing stands against it
    with pytest.raises(InputError, match=r"auc@2 counts pairs .* the catalog's size is unknown"):
        measure(hits, relevant.lengths, ["auc@2"])


@settings(deadline=None)
@given(cases(), st.randoms(use_true_random=False))
def test_the_order_of_customers_changes_no_customers_value(case, random):
    rankings, relevant = case
    order = list(range(len(rankings)))
    random.shuffle(order)
    sets = RaggedSets.from_lists([sorted(values) for values in relevant])
    shuffled = RaggedSets.from_lists([sorted(relevant[index]) for index in order])
    straight = all_of(rankings, sets)
    turned = all_of(np.array(rankings)[order], shuffled)
    for name in METRICS:
        np.testing.assert_array_equal(straight[name][order], turned[name])


@settings(deadline=None)
@given(cases(), st.randoms(use_true_random=False))
def test_renaming_the_products_changes_nothing(case, random):
    rankings, relevant = case
    names = list(range(NUM_ITEMS + 6))
    random.shuffle(names)
    renamed = [[names[item] if item >= 0 else -1 for item in ranking] for ranking in rankings]
    sets = RaggedSets.from_lists([sorted(values) for values in relevant])
    renamed_sets = RaggedSets.from_lists([sorted(names[item] for item in values) for values in relevant])
    straight = all_of(rankings, sets)
    num_irrelevant = NUM_ITEMS - sets.num_below(NUM_ITEMS)
    turned = measure(find_hits(np.array(renamed), renamed_sets), renamed_sets.lengths, METRICS, num_irrelevant)
    for name in METRICS:
        np.testing.assert_array_equal(straight[name], turned[name])


@pytest.mark.parametrize("kind", [pa.list_(pa.int64()), pa.large_list(pa.int32()), pa.list_(pa.int64(), 2)])
def test_rankings_are_read_in_the_order_asked_for(kind):
    lists = pa.array([[5, 6], [1, 2], [3, 4]], type=kind)
    table = pa.table({"user_num": pa.chunked_array([[9, 2], [4]]), "item_nums": lists})
    assert read_rankings(table, np.array([2, 9]), depth=3).tolist() == [[1, 2, -1], [5, 6, -1]]
    assert read_rankings(table, np.array([4]), depth=1).tolist() == [[3]]


def test_lists_of_unequal_length_are_padded():
    table = pa.table({"user_num": [0, 1, 2], "item_nums": [[7], [], [1, 2, 3]]})
    assert read_rankings(table, np.array([0, 1, 2]), depth=2).tolist() == [[7, -1], [-1, -1], [1, 2]]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user_num": [1]}, "lacks \\['item_nums'\\]"),
        ({"user_num": [1, 1], "item_nums": [[1], [2]]}, "several rows for one customer"),
        ({"user_num": [2], "item_nums": [[1]]}, "lacks 1 of 1 customers"),
    ],
)
def test_tables_that_do_not_fit_are_refused(columns, message):
    with pytest.raises(InputError, match=message):
        read_rankings(pa.table(columns), np.array([1]), depth=2)


def test_any_metric_can_be_taken_at_any_k():
    relevant = RaggedSets.from_lists([[1, 2]])
    hits = find_hits(np.array([[9, 1, 8, 2]]), relevant)
    names = ("precision@3", "precision@8", "mrr@1", "mrr@2", "map@4", "hit_rate@1", "recall@2")
    values = {name: value[0] for name, value in measure(hits, relevant.lengths, names).items()}
    assert values == pytest.approx(
        dict(zip(names, (1 / 3, 2 / 8, 0, 1 / 2, (1 / 2 + 2 / 4) / 2, 0, 1 / 2), strict=True))
    )
    assert metric_names((1, 5))[:4] == ("recall@1", "recall@5", "precision@1", "precision@5")
    for name, nearest in {
        "ndgc@7": "ndcg@7",
        "recall": "recall@10",
        "recall@0": "recall@10",
        "recall@x": "recall@10",
    }.items():
        with pytest.raises(InputError, match=f"Did you mean {nearest}"):
            measure(hits, relevant.lengths, [name])


def test_products_far_apart_and_many_customers_are_found_too():
    generator = np.random.default_rng(0)
    rankings = np.array([generator.permutation(60)[:20] for _ in range(500)])
    relevant = RaggedSets.from_lists([generator.choice(90, 7, replace=False).tolist() for _ in range(500)])
    expected = relevant.contain(np.arange(500)[:, None], rankings)
    assert expected.any()
    np.testing.assert_array_equal(find_hits(rankings, relevant), expected)
    far = 3 * 10**8
    rankings[3, 5:] = -1
    expected = relevant.contain(np.arange(500)[:, None], rankings)
    spread = RaggedSets(relevant.offsets, relevant.values * far)
    np.testing.assert_array_equal(find_hits(np.where(rankings < 0, -1, rankings * far), spread), expected)
    with pytest.raises(InputError, match="500 rankings name a product twice"):
        find_hits(np.full((500, 2), far), spread)


def test_exposures_count_customers():
    assert exposures(np.array([[0, 1, 2], [1, -1, -1]]), 4, 2).tolist() == [1, 2, 0, 0]
