"""Off-policy estimates: by hand, on simulated logs with a known value, and what is refused."""

import numpy as np
import pytest

from endcap.contracts.errors import InputError
from endcap.evaluation.off_policy import Log, doubly_robust, fold_rates, ips, snips

REWARDS = np.array([1.0, 0.0, 1.0, 0.0])
PROPENSITIES = np.array([0.5, 0.5, 0.25, 0.25])
TARGETS = np.array([0.25, 0.5, 0.5, 0.0])  # weights 1/2, 1, 2, 0


def small(**changed):
    return Log(**({"rewards": REWARDS, "propensities": PROPENSITIES, "targets": TARGETS} | changed))


def test_estimates_worked_by_hand():
    assert ips(small()).value.mean == pytest.approx((0.5 + 2) / 4)
    assert snips(small()).value.mean == pytest.approx((0.5 + 2) / 3.5)
    assert ips(small(), clip=1.0).value.mean == pytest.approx((0.5 + 1) / 4)
    modelled = small(expected=np.array([0.5, 0.5, 0.5, 0.5]), expected_target=np.array([0.6, 0.6, 0.4, 0.4]))
    corrections = 0.5 * 0.5 + 1 * -0.5 + 2 * 0.5 + 0
    assert doubly_robust(modelled).value.mean == pytest.approx((2.0 + corrections) / 4)
    found = ips(small())
    assert found.logged.mean == 0.5
    assert found.difference.mean == pytest.approx(0.125)
    assert found.effective_size == pytest.approx(3.5**2 / (0.25 + 1 + 4))
    assert (found.mean_weight, found.max_weight, found.share_clipped) == (0.875, 2.0, 0.0)
    assert ips(small(), clip=1.0).share_clipped == 0.25


def test_the_same_policy_earns_what_was_logged():
    same = small(targets=PROPENSITIES)
    for estimator in (ips, snips):
        found = estimator(same)
        assert found.value == found.logged
        assert (found.difference.mean, found.difference.low, found.difference.high) == (0, 0, 0)


def test_groups_widen_the_interval():
    rewards = np.tile([0.0, 1.0], 50)
    same = {"rewards": np.sort(rewards), "propensities": np.full(100, 0.5), "targets": np.full(100, 0.5)}
    alone = ips(Log(**same)).value
    together = ips(Log(**same, groups=np.arange(100) // 10)).value
    assert together.mean == alone.mean
    assert together.high - together.low > 2.5 * (alone.high - alone.low)


NUM_CONTEXTS, NUM_CHOICES, NUM_ROWS = 4, 6, 1500


def world():
    """Two policies in a world whose rates are known: `[num_contexts, num_choices]` each."""
    generator = np.random.default_rng(5)
    rates = generator.uniform(0.05, 0.5, (NUM_CONTEXTS, NUM_CHOICES))
    logging = generator.dirichlet(np.full(NUM_CHOICES, 4.0), NUM_CONTEXTS)
    target = generator.dirichlet(np.full(NUM_CHOICES, 2.0), NUM_CONTEXTS)
    return rates, logging, target


def simulate(seed):
    rates, logging, target = world()
    generator = np.random.default_rng(seed)
    contexts = generator.integers(0, NUM_CONTEXTS, NUM_ROWS)
    choices = (generator.random(NUM_ROWS)[:, None] > np.cumsum(logging, axis=1)[contexts]).sum(axis=1)
    rewards = (generator.random(NUM_ROWS) < rates[contexts, choices]).astype(float)
    modelled = fold_rates(choices, rewards, NUM_CHOICES, seed=seed)  # wrong in each context: it sees choices alone
    return Log(
        rewards=rewards,
        propensities=logging[contexts, choices],
        targets=target[contexts, choices],
        expected=modelled[np.arange(NUM_ROWS), choices],
        expected_target=(modelled * target[contexts]).sum(axis=1),
    )


@pytest.mark.parametrize("estimator", [ips, snips, doubly_robust])
def test_95_percent_intervals_hold_the_known_value_about_as_often(estimator):
    rates, logging, target = world()
    value, earned = (rates * target).sum(axis=1).mean(), (rates * logging).sum(axis=1).mean()
    assert abs(value - earned) > 0.01  # else the difference would be no test
    found = [estimator(simulate(seed)) for seed in range(300)]
    assert np.mean([each.value.low <= value <= each.value.high for each in found]) >= 0.92
    assert np.mean([each.difference.low <= value - earned <= each.difference.high for each in found]) >= 0.92
    assert np.mean([each.value.mean for each in found]) == pytest.approx(value, abs=0.003)
    assert (
        np.mean([each.logged.low <= value <= each.logged.high for each in found]) < 0.92
    )  # what is logged is no answer


def test_the_bootstrap_agrees_with_the_delta_method():
    log = simulate(1)
    for estimator in (ips, snips, doubly_robust):
        normal, drawn = estimator(log).value, estimator(log, method="bootstrap").value
        assert drawn.mean == pytest.approx(normal.mean)
        assert drawn.high - drawn.low == pytest.approx(normal.high - normal.low, rel=0.12)


def test_a_fair_model_narrows_the_interval():
    log = simulate(2)
    assert doubly_robust(log).value.high - doubly_robust(log).value.low < ips(log).value.high - ips(log).value.low


def test_rates_leave_out_the_rows_own_fold():
    choices, rewards = np.zeros(4, np.int64), np.array([1.0, 0.0, 0.0, 0.0])
    rates = fold_rates(choices, rewards, 2, num_folds=50, seed=3, strength=1.0)  # so many folds: each row has its own
    assert rates[0, 0] == 0.0
    assert rates[1, 0] == pytest.approx(1 / 3)
    assert rates[1, 1] == pytest.approx(1 / 3)  # never chosen: the mean of the others


def test_what_makes_an_estimate_doubtful_is_said():
    rows = 2000
    lacking = Log(rewards=np.zeros(rows), propensities=np.full(rows, 0.5), targets=np.full(rows, 0.1))
    assert any("mean weight is 0.200, not 1" in note for note in ips(lacking).notes)
    assert any("25.0% of the weights were cut at 1" in note for note in ips(small(), clip=1.0).notes)
    assert any("2 effective rows of 4" in note for note in ips(small()).notes)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"propensities": np.array([0.5, 0.0, 0.5, 0.5])}, "Propensities lie between 0 and 0.5"),
        ({"targets": np.array([0.5, 1.5, 0.5, 0.5])}, "Target probabilities lie between 0.5 and 1.5"),
        ({"targets": np.array([0.5])}, "targets: 1 values"),
        ({"rewards": np.array([0.5, np.nan, 0.5, 0.5])}, "Some rewards are missing"),
        ({"rewards": np.zeros(0)}, "The log has no rows"),
    ],
)
def test_logs_that_can_not_be_are_refused(changed, message):
    with pytest.raises(InputError, match=message):
        small(**changed)


def test_questions_without_an_answer_are_refused():
    with pytest.raises(InputError, match="none of the logged choices"):
        snips(small(targets=np.zeros(4)))
    with pytest.raises(InputError, match="needs a model's rewards"):
        doubly_robust(small())
    with pytest.raises(InputError, match="clip is 0"):
        ips(small(), clip=0)
