"""What the benchmark of the demo shop says is what the runs' comparisons say."""

import dataclasses

import pytest

from benchmarks.quality.online_retail import METRIC, add_rows
from benchmarks.report import Report
from endcap.evaluation.customers import Counting


def test_a_row_for_each_counting_and_baseline_and_the_worst_ratio(trained_shop):
    comparison = trained_shop.result.comparison
    report = Report("demo", [])
    add_rows(report, 7, comparison)
    part = comparison.countings[Counting.NEW_TO_CUSTOMER]
    rows = [row for row in report.rows if row["work"] == Counting.NEW_TO_CUSTOMER.label]
    assert [row["system"] for row in rows] == [baseline.title for baseline in part.baselines]
    for row, baseline in zip(rows, part.baselines, strict=True):
        assert row["difference_percent"] == pytest.approx(row["model_percent"] - row["baseline_percent"])
        assert row["low_percent"] == 100 * part.differences[baseline.name][METRIC].low
        assert row["size"] == f"seed 7, {part.num_customers:,} customers"
    key = "quality.online_retail.new_to_customer"
    best = max(baseline.metrics[METRIC].mean for baseline in part.baselines)
    assert report.ratios[key] == pytest.approx(part.candidate.metrics[METRIC].mean / best)

    report.ratios[key] = 0.5
    add_rows(report, 8, dataclasses.replace(comparison, seed=8))
    assert report.ratios[key] == 0.5
    assert len(report.rows) == 2 * sum(len(one.baselines) for one in comparison.countings.values())
