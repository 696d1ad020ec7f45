"""The gate's truth table: what blesses, what does not, and that the reasons carry the numbers."""

import dataclasses

import numpy as np
import pytest

from endcap.contracts.errors import InputError
from endcap.evaluation.gate import AnswerTime, Champion, GateEvidence, GraphParity, Thresholds, judge
from endcap.evaluation.off_policy import Log, ips

BETTER: dict = {"ahead": 0.03}
UNSURE = {"ahead": 0.005}
WORSE = {"ahead": -0.02}
EVEN = {"ahead": 0.0, "half_width": 0.0}


@pytest.mark.parametrize(
    ("every", "new", "status", "reason"),
    [
        (
            BETTER,
            BETTER,
            "BLESSED",
            "the best baseline, own most bought (difference +0.0300, 95% interval +0.0200 to +0.0400)",
        ),
        (UNSURE, BETTER, "NOT_BLESSED", "All purchases: ndcg@10 is 0.3550 against 0.3500"),
        (BETTER, UNSURE, "NOT_BLESSED", "Products new to the customer: ndcg@10 is 0.3550 against 0.3500"),
        (WORSE, BETTER, "NOT_BLESSED", "(difference −0.0200, 95% interval −0.0300 to −0.0100); the interval must lie"),
        (BETTER, WORSE, "NOT_BLESSED", "Products new to the customer: ndcg@10 is 0.3300"),
        (EVEN, BETTER, "NOT_BLESSED", "difference +0.0000"),
        ({"num_customers": 99}, BETTER, "NOT_BLESSED", "All purchases: measured on 99 customers; at least 100"),
        (BETTER, {"num_customers": 99}, "NOT_BLESSED", "Products new to the customer: measured on 99"),
        ({"num_customers": 100}, BETTER, "BLESSED", "All purchases: measured on 100 customers"),
        (
            {"slice_ahead": -0.02},
            BETTER,
            "NOT_BLESSED",
            "below own most bought for customers with 1 earlier baskets (500 cu",
        ),
        ({"slice_ahead": -0.005}, BETTER, "BLESSED", "none of 2 groups of customers"),
    ],
)
def test_both_countings_decide(make_comparison, every, new, status, reason):
    blessing = judge(GateEvidence(make_comparison(every, new)), Thresholds())
    assert blessing.status == status
    assert any(reason in found for found in blessing.reasons), blessing.reasons


def test_small_slices_do_not_count(make_comparison):
    compared = make_comparison({"slice_ahead": -0.02, "num_customers": 120})
    assert judge(GateEvidence(compared), Thresholds(min_slice_customers=61)).status == "BLESSED"
    assert judge(GateEvidence(compared), Thresholds(min_slice_customers=60)).status == "NOT_BLESSED"


def test_a_refusal_names_what_failed_alone(make_comparison):
    blessing = judge(GateEvidence(make_comparison(UNSURE, BETTER)), Thresholds())
    assert len(blessing.reasons) == 1


def test_min_customers_may_be_set(make_comparison):
    compared = make_comparison({"num_customers": 99}, {"num_customers": 99})
    assert judge(GateEvidence(compared), Thresholds(min_customers=99)).status == "BLESSED"


@pytest.mark.parametrize(
    ("minimum", "status", "reason"),
    [
        (0.38, "BLESSED", "all_purchases/recall@100 is 0.3800, at least the minimum of 0.3800."),
        (0.39, "NOT_BLESSED", "all_purchases/recall@100 is 0.3800, below the minimum of 0.3900."),
    ],
)
def test_minimums(make_comparison, minimum, status, reason):
    blessing = judge(GateEvidence(make_comparison()), Thresholds(at_least={"all_purchases/recall@100": minimum}))
    assert blessing.status == status
    assert reason in blessing.reasons


@pytest.mark.parametrize(
    ("every", "new", "status", "num_reasons_about_it"),
    [
        (0.37, 0.37, "BLESSED", 2),
        (0.38, 0.37, "NOT_BLESSED", 1),
        (0.37, 0.39, "NOT_BLESSED", 1),
        (0.4, 0.4, "NOT_BLESSED", 2),
    ],
)
def test_the_champion_must_be_beaten_on_both_counts(make_comparison, every, new, status, num_reasons_about_it):
    champion = {"all_purchases/ndcg@10": every, "new_to_customer/ndcg@10": new}
    blessing = judge(GateEvidence(make_comparison(), champion), Thresholds())
    assert blessing.status == status
    assert sum("the champion's" in reason for reason in blessing.reasons) == num_reasons_about_it


def test_another_metric_may_decide(make_comparison):
    reasons = judge(GateEvidence(make_comparison()), Thresholds(metric="recall@100")).reasons
    assert any("recall@100 is 0.3800" in reason for reason in reasons)


def test_unknown_metrics_are_refused_with_the_nearest_name(make_comparison):
    with pytest.raises(InputError, match="did you mean ndcg@10"):
        judge(GateEvidence(make_comparison()), Thresholds(metric="ndgc@10"))
    with pytest.raises(InputError, match="did you mean all_purchases/recall@50"):
        judge(GateEvidence(make_comparison()), Thresholds(at_least={"all_purchase/recall@50": 0.1}))
    with pytest.raises(InputError, match="measured are: all_purchases/"):
        judge(GateEvidence(make_comparison()), Thresholds(at_least={"zzz": 0.1}))
    with pytest.raises(InputError, match="The champion's metrics lack all_purchases/ndcg@10"):
        judge(GateEvidence(make_comparison(), {"new_to_customer/ndcg@10": 0.1}), Thresholds())


def champion_of(make_comparison, every=None, new=None):
    """The candidate beside one other system alone: `own most bought`, which stands for the champion."""
    compared = make_comparison(every, new)
    countings = {
        counting: dataclasses.replace(part, systems=(part.candidate, part.baselines[1]))
        for counting, part in compared.countings.items()
    }
    return Champion("recommender/3", dataclasses.replace(compared, countings=countings))


@pytest.mark.parametrize(
    ("every", "margin", "status", "reason"),
    [
        (
            BETTER,
            0.0,
            "BLESSED",
            "of the champion, recommender/3 (paired difference +0.0300, 95% interval +0.0200 to +0.0400).",
        ),
        (BETTER, 0.019, "BLESSED", "of the champion, recommender/3"),
        (
            BETTER,
            0.021,
            "NOT_BLESSED",
            "95% interval +0.0200 to +0.0400); the interval must lie above the margin of 0.0210.",
        ),
        (UNSURE, 0.0, "NOT_BLESSED", "95% interval −0.0050 to +0.0150); the interval must lie above zero."),
        ({"slice_ahead": -0.02}, 0.0, "NOT_BLESSED", "ndcg@10 is below own most bought for customers with 1 earlier"),
    ],
)
def test_the_champion_is_beaten_customer_by_customer(make_comparison, every, margin, status, reason):
    evidence = GateEvidence(make_comparison(), champion=champion_of(make_comparison, every))
    blessing = judge(evidence, Thresholds(champion_margin=margin))
    assert blessing.status == status
    assert any(reason in found for found in blessing.reasons), blessing.reasons


@pytest.mark.parametrize(("bound", "status"), [(0.009, "NOT_BLESSED"), (0.011, "BLESSED")])
def test_what_a_slice_may_lose_is_bounded(make_comparison, bound, status):
    # The slices' intervals are 0.01 wide to either side of -0.02: the upper end lies at -0.01.
    blessing = judge(GateEvidence(make_comparison({"slice_ahead": -0.02})), Thresholds(max_slice_loss=bound))
    assert blessing.status == status
    assert any(f"by more than {bound:.4f}" in reason for reason in blessing.reasons)


@pytest.mark.parametrize(
    ("more", "thresholds", "status", "reason"),
    [
        (
            {"parity": GraphParity(2e-6, 64_000)},
            {},
            "BLESSED",
            "by 2e-06 at most over 64,000 scores; no more than 0.001.",
        ),
        (
            {"parity": GraphParity(0.02, 10)},
            {},
            "NOT_BLESSED",
            "by 0.02 at most over 10 scores; expected at most 0.001.",
        ),
        ({"parity": GraphParity(float("nan"), 10)}, {}, "NOT_BLESSED", "expected at most 0.001"),
        (
            {"answer_time": AnswerTime(2.0, 9.5, 500)},
            {},
            "BLESSED",
            "9.5 ms at the 95th percentile of 500 requests; no bound",
        ),
        ({"answer_time": AnswerTime(2.0, 9.5, 500)}, {"max_answer_ms": 9.5}, "BLESSED", "within the bound of 9.5 ms."),
        ({"answer_time": AnswerTime(2.0, 9.5, 500)}, {"max_answer_ms": 9}, "NOT_BLESSED", "expected at most 9 ms."),
    ],
)
def test_how_the_release_answers_is_judged_too(make_comparison, more, thresholds, status, reason):
    blessing = judge(GateEvidence(make_comparison(), **more), Thresholds(**thresholds))
    assert blessing.status == status
    assert any(reason in found for found in blessing.reasons), blessing.reasons


@pytest.mark.parametrize(
    ("target_of_hits", "status", "reason"),
    [
        (0.9, "BLESSED", "the candidate earns more."),
        (0.5, "BLESSED", "would earn 0.5000 a row against 0.5000 earned (difference +0.0000"),
        (0.1, "NOT_BLESSED", "would earn 0.1000 a row against 0.5000 earned"),
    ],
)
def test_logged_propensities_are_evidence(make_comparison, target_of_hits, status, reason):
    # Two choices, each logged half the time; the first always earns 1, the second never.
    rewards = np.tile([1.0, 0.0], 200)
    log = Log(rewards, np.full(400, 0.5), np.where(rewards == 1, target_of_hits, 1 - target_of_hits))
    blessing = judge(GateEvidence(make_comparison(), estimates=[ips(log)]), Thresholds())
    assert blessing.status == status
    assert any(reason in found for found in blessing.reasons), blessing.reasons


@pytest.mark.parametrize(
    ("of_customers", "ahead", "status"),
    [
        (True, -0.02, "NOT_BLESSED"),
        (False, -0.02, "BLESSED"),
        (False, -0.2, "NOT_BLESSED"),
    ],
)
def test_groups_of_products_have_a_bound_of_their_own(make_comparison, of_customers, ahead, status):
    comparison = make_comparison({"slice_ahead": ahead}, {})
    countings = {
        counting: dataclasses.replace(
            part,
            slices=tuple(
                dataclasses.replace(piece, column="shelf", tells_customers_apart=of_customers) for piece in part.slices
            ),
        )
        for counting, part in comparison.countings.items()
    }
    blessing = judge(GateEvidence(dataclasses.replace(comparison, countings=countings)), Thresholds())
    assert blessing.status == status
    assert any("shelf: 1 (500 customers" in reason for reason in blessing.reasons) == (status == "NOT_BLESSED")
