"""Comparisons and evidence with chosen numbers, for the gate and the report."""

import pytest

from endcap.contracts.release import Blessing, Lineage
from endcap.evaluation.compare import Comparison, CountingComparison, Slice, SystemScores
from endcap.evaluation.customers import Counting
from endcap.evaluation.evidence import (
    BoughtProduct,
    CustomerExample,
    Epoch,
    Evidence,
    RecommendedProduct,
    TrainingHistory,
)
from endcap.evaluation.intervals import Interval
from endcap.evaluation.metrics import METRICS, RECALL_KS

BASELINES = {"popular_lately": ("popular lately", 0.14), "own_most_bought": ("own most bought", 0.35)}


def around(mean, half_width=0.01):
    return Interval(mean, mean - half_width, mean + half_width)


def counting_comparison(counting, *, ahead=0.03, half_width=0.01, num_customers=1000, slice_ahead=0.03):
    """The candidate `ahead` of the best baseline by `ahead`, with the same gap in each metric."""
    best = max(mean for _, mean in BASELINES.values())
    means = {"two_tower": ("two-tower model", best + ahead), **BASELINES}

    def differences(extra):
        return {
            name: dict.fromkeys(METRICS, around(best + extra - mean, half_width))
            for name, (_, mean) in BASELINES.items()
        }

    return CountingComparison(
        counting=counting,
        num_customers=num_customers,
        num_relevant=5000,
        systems=tuple(
            SystemScores(
                name=name,
                title=title,
                metrics=dict.fromkeys(METRICS, around(mean)),
                coverage=dict.fromkeys(RECALL_KS, 0.4),
                recall_by_k=tuple(mean * k / 100 for k in range(1, 101)),
            )
            for name, (title, mean) in means.items()
        ),
        differences=differences(ahead),
        slices=tuple(
            Slice(
                label,
                num_customers // 2,
                {name: dict.fromkeys(METRICS, around(mean, 0.02)) for name, (_, mean) in means.items()},
                differences(slice_ahead),
            )
            for label in ("1", "2-3")
        ),
    )


def comparison(all_purchases=None, new_to_customer=None):
    return Comparison(
        countings={
            Counting.ALL_PURCHASES: counting_comparison(Counting.ALL_PURCHASES, **(all_purchases or {})),
            Counting.NEW_TO_CUSTOMER: counting_comparison(Counting.NEW_TO_CUSTOMER, **(new_to_customer or {})),
        },
        num_items=3640,
        num_resamples=1000,
        seed=0,
    )


def evidence(compared, blessing=None, *, product_name="Jumbo bag", **changed):
    fields = {
        "name": "recommender",
        "created_at": "2026-02-11 09:14 UTC",
        "comparison": compared,
        "blessing": blessing or Blessing(status="BLESSED", reasons=["All purchases: better."]),
        "lineage": Lineage(
            run_id="run-1",
            git_sha="4be1f0c",
            seed=42,
            data_versions={"events": 3},
            configuration={"training": {"num_epochs": 3, "loss": "sampled_softmax"}, "layers": [64, 32]},
            library_versions={"numpy": "2.1.0"},
        ),
        "history": TrainingHistory(
            [Epoch(1, 8.0, {"ndcg@10": 0.3}), Epoch(2, 7.0, {"ndcg@10": 0.35}), Epoch(3, 6.5, {"ndcg@10": 0.34})],
            2,
            "ndcg@10",
        ),
        "examples": [
            CustomerExample(
                "0123456789abcdef" * 2,
                [BoughtProduct(product_name, 3, 2)],
                [RecommendedProduct(product_name, True, True), RecommendedProduct("Red lamp", False, False)],
                5,
            )
        ],
        "row_counts": {"purchases": 387777},
        "moments": {"test period begins": "2011-11-20 14:40 UTC"},
        "timings_s": {"training": 61.25},
        "digests": {"query.onnx": "ab" * 32},
    }
    return Evidence(**(fields | changed))


@pytest.fixture(scope="package")
def make_comparison():
    """A function that makes a comparison with chosen gaps for each counting."""
    return comparison


@pytest.fixture(scope="package")
def make_evidence():
    """A function that makes a report's evidence around a comparison."""
    return evidence
