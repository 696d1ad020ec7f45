"""Errors of predicted targets by hand: calibration, pairing over customers, tenths, and the verdict."""

import numpy as np
import pytest

from endcap.contracts.errors import InputError
from endcap.evaluation.predictions import TargetScale
from endcap.evaluation.rating import Calibration, Line, Lines, RatedSystem, compare_ratings, judge_ratings

LOGGED = TargetScale(0.0, 1000.0, is_log=True)
PLAIN = TargetScale()


def made(num_lines=400, num_customers=40, noise=(0.1, 0.2, 0.5)):
    rng = np.random.default_rng(5)
    learned = rng.normal(2.0, 0.5, num_lines)
    value = np.expm1(learned)
    customer = rng.integers(0, num_customers, num_lines)
    systems = []
    for place, (name, spread) in enumerate(zip(("model", "lightgbm", "mean"), noise, strict=True)):
        predicted = learned + np.random.default_rng(place).normal(0, spread, num_lines)
        systems.append(RatedSystem(name, name.title(), predicted, np.expm1(predicted)))
    return Lines(value, learned, customer, {"first": np.arange(num_lines) < 100}), systems


def test_a_line_is_least_squares_and_never_falls():
    assert Line.fit(np.array([1.0, 2.0, 3.0]), np.array([3.0, 5.0, 7.0])) == Line(2.0, 1.0)
    assert Line.fit(np.array([1.0, 2.0]), np.array([2.0, 1.0])) == Line(0.0, 1.5)
    assert Line.fit(np.array([1.0, 1.0]), np.array([2.0, 4.0])) == Line(0.0, 3.0)


def test_smearing_makes_means_of_logs_right():
    rng = np.random.default_rng(3)
    score = rng.normal(2.0, 0.3, 50_000)
    learned = score + rng.normal(0, 0.6, 50_000)
    calibration = Calibration.fit(score, learned, LOGGED)
    assert calibration.smearing == pytest.approx(np.exp(0.6**2 / 2), rel=0.02)
    assert calibration.own_units(score).mean() == pytest.approx(np.expm1(learned).mean(), rel=0.01)
    assert np.expm1(calibration.line.apply(score)).mean() < 0.9 * np.expm1(learned).mean()


def test_predictions_in_own_units_stay_within_the_clip():
    calibration = Calibration(Line(), 1.5, 1.0, 50.0, is_log=True)
    assert calibration.own_units(np.array([-9.0, 100.0, 2.0])).tolist() == [1.0, 50.0, 1.5 * np.exp(2.0) - 1.0]
    assert Calibration.fit(np.array([0.0, 1.0]), np.array([0.0, 1.0]), PLAIN).smearing == 1.0


def test_errors_are_those_of_all_lines_and_intervals_hold_them():
    lines, systems = made()
    found = compare_ratings("value", lines, systems, LOGGED, seed=7, num_resamples=200)
    errors = systems[0].learned - lines.learned
    metrics = found.candidate.metrics
    assert metrics["rmse"].mean == pytest.approx(np.sqrt((errors**2).mean()))
    assert metrics["mae"].mean == pytest.approx(np.abs(errors).mean())
    assert metrics["rmse"].low < metrics["rmse"].mean < metrics["rmse"].high
    assert found.ratios["mean"].mean == pytest.approx(metrics["rmse"].mean / found.systems[2].metrics["rmse"].mean)
    assert found.differences["mean"].below_zero
    assert found.slices[0].num_lines == 100
    assert [one.num_lines for one in found.bins] == [40] * 10
    assert found.flat_metrics()["rmse"] == metrics["rmse"].mean


def test_one_customer_of_many_lines_is_one_draw():
    lines, systems = made(num_customers=1)
    found = compare_ratings("value", lines, systems, LOGGED, seed=7, num_resamples=100)
    assert found.candidate.metrics["rmse"].low == found.candidate.metrics["rmse"].high


@pytest.mark.parametrize(
    ("noise", "status", "reason"),
    [
        ((0.1, 0.2, 0.5), "BLESSED", "(ratio 0.5"),
        ((0.2, 0.1, 0.5), "NOT_BLESSED", "allowed"),
        ((0.5, 0.5, 0.5), "NOT_BLESSED", "the interval must lie below zero"),
    ],
)
def test_a_verdict_is_about_the_trees_and_every_rule(noise, status, reason):
    lines, systems = made(noise=noise)
    found = compare_ratings("value", lines, systems, LOGGED, seed=7, num_resamples=200)
    verdict = judge_ratings(found, trees="lightgbm", max_loss=0.01, min_customers=10)
    assert verdict.status == status
    assert any(reason in one for one in verdict.reasons)


def test_too_few_customers_bless_nothing():
    lines, systems = made()
    found = compare_ratings("value", lines, systems, LOGGED, seed=7, num_resamples=100)
    verdict = judge_ratings(found, trees="lightgbm", max_loss=0.01, min_customers=100)
    assert verdict.status == "NOT_BLESSED"
    assert "40 customers; at least 100" in verdict.reasons[0]


def test_nothing_beside_the_candidate_is_refused():
    lines, systems = made()
    with pytest.raises(InputError, match="1 systems to compare"):
        compare_ratings("value", lines, systems[:1], LOGGED, seed=7)
