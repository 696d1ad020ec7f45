"""Systems compared on one truth: worked by hand, and that pairing, slices and surroundings are what they say."""

import math

import numpy as np
import pyarrow as pa
import pytest

from endcap.contracts.errors import InputError
from endcap.evaluation.intervals import paired_intervals
from endcap.evaluation.lists import read_lists, read_truth
from endcap.evaluation.runs import Settings, compare_lists
from endcap.evaluation.slices import slice_by
from endcap.evaluation.surroundings import read_catalog, read_past

TRUTH = pa.table(
    {"user_id": [1, 1, 2, 3], "item_id": ["a", "b", "c", "new"], "device": ["phone", "desk", "phone", "desk"]}
)
GOOD = {"user_id": [1, 2, 3], "item_ids": [["a", "x", "b"], ["c", "a"], ["a"]]}
POOR = {"user_id": [1, 2], "item_ids": [["x", "a"], ["a", "c"]]}
SMALL = Settings(ks=(1, 2), num_resamples=50)


def lists(rows, name):
    return read_lists(pa.table(rows), name)


def both(**more):
    return compare_lists([lists(GOOD, "good"), lists(POOR, "poor")], read_truth(TRUTH), settings=SMALL, **more)


def test_two_systems_worked_by_hand():
    found = both()
    assert (found.num_users, found.num_relevant, found.num_items) == (3, 4, None)
    good, poor = found.systems
    assert good.metrics["recall@2"].mean == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert good.metrics["precision@2"].mean == pytest.approx((1 / 2 + 1 / 2 + 0) / 3)
    assert good.metrics["mrr@2"].mean == pytest.approx(2 / 3)
    assert poor.metrics["mrr@2"].mean == pytest.approx((1 / 2 + 1 / 2) / 3)
    assert poor.metrics["hit_rate@1"].mean == 0
    assert poor.num_without_list == 1
    second = 1 / math.log2(3)
    assert poor.metrics["ndcg@2"].mean == pytest.approx((second / (1 + second) + second) / 3)
    assert found.differences["poor"]["mrr@2"].interval.mean == pytest.approx(-1 / 3)
    assert good.recall_by_k[2] == pytest.approx((1 + 1 + 0) / 3)
    assert len(good.recall_by_k) == 100


def test_a_slice_counts_its_own_rows_alone():
    found = both(slices=[slice_by("device", TRUTH["device"])])
    pieces = {piece.label: piece for piece in found.slices}
    assert {label: piece.num_users for label, piece in pieces.items()} == {"phone": 2, "desk": 2}
    assert pieces["phone"].metrics["good"]["recall@1"].mean == 1.0  # a and c, of customers 1 and 2
    assert pieces["desk"].metrics["good"]["recall@2"].mean == 0.0  # b stands third, new nowhere
    assert pieces["phone"].differences["poor"]["recall@1"].mean == -1.0


def test_differences_are_paired_and_corrected_for_being_several():
    generator = np.random.default_rng(0)
    users = np.repeat(np.arange(200), 4)
    truth = pa.table({"user_id": users, "item_id": generator.integers(0, 40, 800)})
    systems = [
        lists(
            {"user_id": np.arange(200), "item_ids": [generator.permutation(40)[:20].tolist() for _ in range(200)]}, name
        )
        for name in ("first", "second", "third")
    ]
    alone = [compare_lists([system], read_truth(truth), settings=Settings(ks=(5,))).reference for system in systems]
    found = compare_lists(systems, read_truth(truth), settings=Settings(ks=(5,), seed=4, num_resamples=200))
    assert [system.metrics["recall@5"].mean for system in found.systems] == [s.metrics["recall@5"].mean for s in alone]
    gap = found.differences["third"]["recall@5"]
    assert gap.interval.mean == pytest.approx(alone[2].metrics["recall@5"].mean - alone[0].metrics["recall@5"].mean)
    p_values = [found.differences[name]["recall@5"].p_value for name in ("second", "third")]
    corrected = [found.differences[name]["recall@5"].p_corrected for name in ("second", "third")]
    assert min(corrected) == pytest.approx(min(1, 2 * min(p_values)))
    spread = gap.interval.high - gap.interval.low
    assert spread < alone[0].metrics["recall@5"].high - alone[0].metrics["recall@5"].low + 0.05
    (same,) = paired_intervals(np.zeros((3, 1)), np.zeros((3, 1)), seed=0)
    assert (same.low, same.high) == (0, 0)


def test_the_catalog_and_the_past_add_what_lists_are_like():
    catalog = read_catalog(pa.table({"item_id": ["a", "b", "c", "x", "y"], "category": ["A", "A", "B", None, "B"],
                                     "vector": [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]}))  # fmt: skip
    past = read_past(pa.table({"user_id": [1, 1, 2, 7], "item_id": ["a", "a", "a", "x"]}))
    found = both(catalog=catalog, past=past)
    good, poor = found.systems
    assert (good.totals["coverage@1"], poor.totals["coverage@1"]) == (2 / 5, 2 / 5)
    assert good.metrics["diversity@2"].mean == 1.0  # a and x (of unknown category), c and a: all different
    assert good.metrics["vector_diversity@2"].mean == pytest.approx((1 + 0) / 2)
    share_a, share_x = 2 / 3, 1 / 3
    assert good.metrics["popularity@1"].mean == pytest.approx((share_a + 0 + share_a) / 3)
    assert good.metrics["popularity_gap@1"].mean == pytest.approx(((share_a - share_a) + (0 - share_a)) / 2)
    assert poor.metrics["novelty@1"].mean == pytest.approx((-math.log2(share_x) - math.log2(share_a)) / 2)
    # Customer 1 wants a and b of five, 2 wants c, 3 what nobody sells: a stands above the three others, b and the rest by chance.
    assert good.metrics["auc@2"].mean == pytest.approx(((3 + 2 / 2) / 6 + 1 + 0.3) / 3)
    assert "auc@2" not in both().reference.metrics  # nobody knows what was not wanted
    assert found.notes[0].startswith("1 products of the truth are not in the catalog")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda: compare_lists([lists(GOOD, "a"), lists(POOR, "a")], read_truth(TRUTH)), "with distinct names"),
        (lambda: compare_lists([lists(GOOD, "a")], read_truth(TRUTH), settings=Settings(ks=(0,))), "k is \\[0\\]"),
        (
            lambda: both(catalog=read_catalog(pa.table({"item_id": ["a"]}))),
            "k = 2 is more than the catalog's 1 products",
        ),
        (
            lambda: both(catalog=read_catalog(pa.table({"item_id": ["a", "b"]}))),
            "good: recommends 2 products that the catalog's 2 don't hold",
        ),
        (lambda: read_catalog(pa.table({"item_id": ["a", "a"]})), "1 of 2 rows repeat an item_id"),
        (lambda: read_catalog(pa.table({"item_id": ["a", "b"], "vector": [[1.0], [1.0, 2.0]]})), "lengths \\[1, 2\\]"),
    ],
)
def test_what_can_not_be_measured_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        given()
