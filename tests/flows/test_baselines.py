"""Baselines are tuned on the eval period, each counting by itself, blind to the test period."""

from dataclasses import replace

import numpy as np
import pytest

from endcap.contracts.configuration import EvaluationConfig
from endcap.evaluation.customers import Counting
from endcap.flows.baselines import PurchasePeriods, rank_baselines, tune
from endcap.models.baselines import KINDS
from endcap.models.purchases import DAY_US

EVAL, TEST, END = 50 * DAY_US, 60 * DAY_US, 70 * DAY_US


@pytest.fixture
def periods():
    """Product 0 sold long ago and often, product 1 lately and less; in the eval period everybody buys product 1."""
    lines = [(user, 0, user, 10) for user in range(6)] + [(user, 0, 10 + user, 12) for user in range(6)]
    lines += [(user, 1, 20 + user, 48) for user in range(3)] + [(user, 2, 30 + user, 25) for user in range(6)]
    lines += [(user, 1, 40 + user, 55) for user in range(6)] + [(user, 3, 50 + user, 65) for user in range(6)]
    users, items, baskets, days = np.array(lines).T
    ts_us = days * DAY_US
    return PurchasePeriods(
        users, items, baskets, ts_us, 6, 4, ts_us < EVAL, (ts_us >= EVAL) & (ts_us < TEST), ts_us < TEST, EVAL, TEST
    )


def settings(**grids):
    return EvaluationConfig.model_validate({"popular_days": 100, "metric": "mrr", "baselines": grids})


def test_the_eval_period_chooses(periods):
    """In a window of 100 days product 1 stands third, after 0 and 2; with a half-life of 2 days it stands first."""
    grid = settings(popular_lately={"half_life_days": [None, 2]})
    chosen = {choice.counting: choice for choice in tune("popular_lately", periods, grid)}
    assert chosen[Counting.ALL_PURCHASES].settings == {"half_life_days": 2}
    assert chosen[Counting.ALL_PURCHASES].value == 1.0
    assert chosen[Counting.ALL_PURCHASES].as_text == "half_life_days 2"


def test_of_equal_settings_the_first_is_kept(periods):
    grid = settings(popular_lately={"half_life_days": [2, 1]})
    assert [choice.settings for choice in tune("popular_lately", periods, grid)] == [{"half_life_days": 2}] * 2


def test_each_counting_has_its_own_best(periods):
    """Of products new to the customer, in the eval period 1, the list without own products has 1 at the top anyway."""
    grid = settings(popular_lately={"half_life_days": [None, 2]})
    chosen = {choice.counting: choice for choice in tune("popular_lately", periods, grid)}
    assert chosen[Counting.NEW_TO_CUSTOMER].settings == {"half_life_days": None}
    assert chosen[Counting.NEW_TO_CUSTOMER].value == 1.0


def test_the_test_period_changes_neither_choice_nor_rankings(periods):
    blind = replace(periods, item_nums=np.where(periods.ts_us >= TEST, 2, periods.item_nums))
    customers = periods.eval_customers()
    one, other = (rank_baselines(given, customers, settings()) for given in (periods, blind))
    assert one.tuned == other.tuned
    assert [system.name for system in one.systems] == list(KINDS)
    for mine, theirs in zip(one.systems, other.systems, strict=True):
        np.testing.assert_array_equal(mine.all_purchases, theirs.all_purchases)
        np.testing.assert_array_equal(mine.new_to_customer, theirs.new_to_customer)


@pytest.mark.parametrize(("learned", "expected"), [([], []), (["als"], ["als"]), (["als", "ease"], ["ease", "als"])])
def test_learned_baselines_are_run_as_asked_for_beside_the_rules(periods, learned, expected):
    ranked = rank_baselines(periods, periods.eval_customers(), settings(learned=learned))
    assert [system.name for system in ranked.systems] == ["popular_lately", "own_most_bought", "co_purchase", *expected]


def test_what_is_ranked_was_fitted_up_to_the_test_period(periods):
    """Product 1 leads by all that was bought before the test period, eval period included: 9 lines against 12 of 0."""
    grid = settings(popular_lately={"half_life_days": [5]})
    ranked = {system.name: system for system in rank_baselines(periods, periods.eval_customers(), grid).systems}
    assert ranked["popular_lately"].all_purchases[0].tolist() == [1, 2, 0, 3]


def test_without_customers_in_the_eval_period_the_first_settings_are_taken(periods):
    nobody = replace(periods, is_eval=np.zeros_like(periods.is_eval))
    chosen = tune("ease", nobody, settings(ease={"l2": [7, 8]}))
    assert [(choice.settings["l2"], choice.value) for choice in chosen] == [(7, None)] * 2
