"""AUC, log loss, calibration and errors against pairs counted one by one and values worked by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.contracts.errors import InputError
from endcap.evaluation.intervals import weighted_intervals
from endcap.evaluation.predictions import (
    TargetScale,
    auc,
    auc_statistic,
    calibration,
    errors,
    errors_in_own_units,
    grouped_auc,
    logloss,
)

rows = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=40)


def counted(labels, scores, weights=None):
    """The AUC by looking at each pair; None where one class is missing."""
    weights = [1.0] * len(labels) if weights is None else weights
    won = total = 0.0
    for i, j in [(i, j) for i in range(len(labels)) for j in range(len(labels)) if labels[i] > labels[j]]:
        total += weights[i] * weights[j]
        won += weights[i] * weights[j] * (1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0)
    return won / total if total else None


@settings(deadline=None)
@given(rows, st.randoms(use_true_random=False))
def test_auc_counts_pairs(given_rows, random):
    labels, scores, groups = (np.array(column) for column in zip(*given_rows, strict=True))
    labels, scores = labels.astype(float), scores / 5
    weights = np.array([float(random.randint(0, 2)) for _ in labels])
    for weight in (np.ones(len(labels)), weights):
        expected = counted(labels, scores, weight)
        drawn = auc_statistic(labels, scores)(weight)[0]
        if expected is None:
            assert math.isnan(drawn)
        else:
            assert drawn == pytest.approx(expected)
            assert auc(labels, scores, weight) == pytest.approx(expected)
    each = {g: counted(labels[groups == g], scores[groups == g]) for g in np.unique(groups)}
    sizes = {g: int((groups == g).sum()) for g, value in each.items() if value is not None}
    if not sizes:
        with pytest.raises(InputError, match="no customer has an AUC"):
            grouped_auc(labels, scores, groups)
    else:
        found = grouped_auc(labels, scores, groups)
        assert found.value == pytest.approx(sum(each[g] * n for g, n in sizes.items()) / sum(sizes.values()))
        assert (len(found.each), found.num_left_out) == (len(sizes), len(each) - len(sizes))


def test_logloss_by_hand_and_finite_where_a_probability_is_wrong_for_sure():
    found = logloss(np.array([1.0, 0.0]), np.array([0.8, 0.4]))
    assert found == pytest.approx(-(math.log(0.8) + math.log(0.6)) / 2)
    assert logloss(np.array([1.0]), np.array([0.0])) == pytest.approx(-math.log(1e-15))
    assert logloss(np.array([1.0, 0.0]), np.array([0.8, 0.4]), np.array([0.0, 1.0])) == pytest.approx(-math.log(0.6))


def test_calibration_by_hand():
    labels = np.array([0.0, 0.0, 1.0, 1.0, 1.0])
    probabilities = np.array([0.0, 0.1, 0.1, 0.85, 0.95])
    found = calibration(labels, probabilities, num_bins=5)
    assert [(one.low, one.high, one.num_rows) for one in found.bins] == [(0.0, 0.2, 3), (0.8, 1.0, 2)]
    assert [one.observed for one in found.bins] == pytest.approx([1 / 3, 1.0])
    assert found.expected_error == pytest.approx((3 * abs(0.2 / 3 - 1 / 3) + 2 * 0.1) / 5)
    assert found.bias == pytest.approx(2.0 / 5 - 3 / 5)
    even = calibration(np.tile(labels, 20), np.linspace(0, 0.1, 100), num_bins=4, equal_counts=True)
    assert [one.num_rows for one in even.bins] == [25, 25, 25, 25]


def test_errors_also_in_the_targets_own_units():
    actual = np.array([0.0, 9.0, 1000.0])
    scale = TargetScale(low=0.0, high=99.0, is_log=True)
    assert scale.apply(actual).tolist() == pytest.approx([0.0, math.log(10), math.log(100)])
    assert scale.invert(scale.apply(actual)).tolist() == pytest.approx([0.0, 9.0, 99.0])
    learned = np.array([0.0, math.log(8), 50.0])  # predicts 0, 7 and something far too large
    found = errors_in_own_units(actual, learned, scale.invert)
    assert found.mae == pytest.approx((0 + 2 + 901) / 3)
    assert found.rmse == pytest.approx(math.sqrt((4 + 901**2) / 3))
    plain = errors(np.array([1.0, 2.0]), np.array([1.0, 5.0]), np.array([3.0, 1.0]))
    assert (plain.rmse, plain.mae) == (pytest.approx(1.5), pytest.approx(0.75))


def test_intervals_of_what_is_no_mean_draw_whole_customers():
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(100), 20)
    gaps = np.repeat(generator.normal(size=100), 20)  # a customer's errors are all alike
    (wide,) = weighted_intervals(lambda w: np.array([np.average(gaps, weights=w)]), groups, seed=1, num_resamples=300)
    (narrow,) = weighted_intervals(
        lambda w: np.array([np.average(gaps, weights=w)]), np.arange(2000), seed=1, num_resamples=300
    )
    assert wide.mean == narrow.mean == pytest.approx(gaps.mean())
    assert wide.high - wide.low == pytest.approx(2 * 1.96 * gaps.std() / 10, rel=0.15)
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: auc(np.ones(2), np.ones(2)), "found 1 in all 2 rows .* expected 0 in some too"),
        (lambda: auc(np.array([0.0, 2.0]), np.ones(2)), "Labels hold 2; expected 0"),
        (lambda: auc(np.ones(2), np.array([0.1, np.nan])), "1 of 2 scores are missing"),
        (lambda: logloss(np.ones(2), np.array([0.1, 1.4])), "between 0.1 and 1.4; probabilities between 0 and 1"),
        (lambda: errors(np.ones(0), np.ones(0)), "at least one row"),
        (lambda: errors(np.ones(2), np.ones(3)), "2 outcomes and 3 scores"),
    ],
)
def test_what_has_no_answer_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
