"""Purchases by period in, what every baseline recommends for the test period out: tuned on eval, fitted up to the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from endcap.contracts.configuration import Configuration, EvaluationConfig
from endcap.contracts.errors import InputError
from endcap.evaluation.compare import SystemRankings
from endcap.evaluation.customers import Counting, HeldOutCustomers
from endcap.evaluation.ladder import LadderRow, Step, only, worth
from endcap.evaluation.metrics import DEPTH, find_hits, measure
from endcap.models.baselines import KINDS, LEARNED, fit_baseline
from endcap.models.item_knn import ItemKnn
from endcap.models.purchases import Baseline, PurchaseLog
from endcap.models.rules import OwnMostBought, PopularLately

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Setting = Mapping[str, Any]


@dataclass(frozen=True)
class PurchasePeriods:
    """All purchase lines as aligned arrays, and what each period may know of them.

    Item numbers from `num_items` upwards stand for products outside the catalog. `before_eval` and `before_test` mark
    what may be known when the period is asked for, `is_eval` what was bought in the eval period; the moments are those
    as of which ages count.
    """

    user_nums: IntArray
    item_nums: IntArray
    basket_nums: IntArray
    ts_us: IntArray
    num_users: int
    num_items: int
    before_eval: BoolArray
    is_eval: BoolArray
    before_test: BoolArray
    eval_start_us: int
    test_start_us: int

    def log(self, known: BoolArray) -> PurchaseLog:
        """The known lines of products of the catalog. Raises InputError when there are none."""
        keep = known & (self.item_nums < self.num_items)
        return PurchaseLog(
            self.user_nums[keep],
            self.item_nums[keep],
            self.basket_nums[keep],
            self.ts_us[keep],
            self.num_users,
            self.num_items,
        )

    def eval_customers(self) -> HeldOutCustomers:
        """Those who bought in the eval period and before it. Raises InputError when nobody did."""
        return HeldOutCustomers.from_purchases(
            earlier_user_nums=self.user_nums[self.before_eval],
            earlier_item_nums=self.item_nums[self.before_eval],
            earlier_basket_nums=self.basket_nums[self.before_eval],
            test_user_nums=self.user_nums[self.is_eval],
            test_item_nums=self.item_nums[self.is_eval],
            num_items=self.num_items,
        )


@dataclass(frozen=True)
class TunedBaseline:
    """What the eval period chose for one baseline under one counting; `value` is None where nothing could be measured."""

    name: str
    counting: Counting
    settings: Setting
    value: float | None
    num_tried: int

    @property
    def title(self) -> str:
        """Of the baseline, for people."""
        return str(getattr(KINDS[self.name], "title", "EASE"))

    @property
    def as_text(self) -> str:
        """The settings in one line."""
        return ", ".join(f"{key} {'none' if value is None else f'{value:g}'}" for key, value in self.settings.items())


@dataclass(frozen=True)
class RankedBaselines:
    """Every baseline's rankings for the test customers, and how each was tuned."""

    systems: Sequence[SystemRankings]
    tuned: Sequence[TunedBaseline]


def rank_baselines(
    periods: PurchasePeriods, customers: HeldOutCustomers, settings: EvaluationConfig
) -> RankedBaselines:
    """Tune each baseline on the eval period, under each counting by itself, and rank for the test customers.

    A counting's best settings are fitted again on everything before the test period.
    """
    log = periods.log(periods.before_test)
    depth = min(DEPTH, periods.num_items)
    systems, tuned = [], []
    for name in (name for name in KINDS if name not in LEARNED or name in settings.baselines.learned):
        chosen = tune(name, periods, settings)
        fitted: dict[tuple[Any, ...], Baseline] = {}
        rankings = {}
        title = ""
        for choice in chosen:
            key = tuple(choice.settings.values())
            if key not in fitted:
                fitted[key] = fit_baseline(name, log, periods.test_start_us, settings.popular_days, choice.settings)
            exclude_seen = choice.counting is Counting.NEW_TO_CUSTOMER
            ranked = fitted[key].recommend(customers.user_nums, depth, exclude_seen=exclude_seen)
            rankings[choice.counting] = ranked.item_nums
            title = fitted[key].title
        systems.append(
            SystemRankings(name, title, rankings[Counting.ALL_PURCHASES], rankings[Counting.NEW_TO_CUSTOMER])
        )
        tuned.extend(chosen)
    return RankedBaselines(systems, tuned)


def tune(name: str, periods: PurchasePeriods, settings: EvaluationConfig) -> list[TunedBaseline]:
    """The best settings of a baseline under each counting, by the mean of `settings.metric` on the eval period.

    One setting after the other, each time keeping the best so far; of equal ones the first. A search over all
    combinations would take a fit for each and gains little.
    """
    grid = getattr(settings.baselines, name).model_dump()
    try:
        customers = periods.eval_customers()
        log = periods.log(periods.before_eval)
    except InputError:  # nobody to tune on: the first of each list
        first = {key: values[0] for key, values in grid.items()}
        return [TunedBaseline(name, counting, first, None, 0) for counting in Counting]
    depth = min(DEPTH, periods.num_items)
    fitted: dict[tuple[Any, ...], dict[Counting, float]] = {}

    def measured(tried: Setting) -> dict[Counting, float]:
        key = tuple(tried.values())
        if key not in fitted:
            baseline = fit_baseline(name, log, periods.eval_start_us, settings.popular_days, tried)
            fitted[key] = dict(_measure(baseline, customers, depth, settings.metric))
        return fitted[key]

    return [_search(name, counting, grid, measured, fitted) for counting in Counting]


def _search(
    name: str,
    counting: Counting,
    grid: Mapping[str, Sequence[Any]],
    measured: Callable[[Setting], Mapping[Counting, float]],
    fitted: Mapping[tuple[Any, ...], Mapping[Counting, float]],
) -> TunedBaseline:
    best: dict[str, Any] = {key: values[0] for key, values in grid.items()}
    if all(len(values) == 1 for values in grid.values()):
        return TunedBaseline(name, counting, best, None, 0)
    for key, values in grid.items():
        tried = [{**best, key: value} for value in values]
        best = max(tried, key=lambda setting: measured(setting).get(counting, 0.0))
    return TunedBaseline(name, counting, best, measured(best).get(counting), len(fitted))


def _measure(
    baseline: Baseline, customers: HeldOutCustomers, depth: int, metric: str
) -> Iterator[tuple[Counting, float]]:
    for counting in Counting:
        everything = customers.relevant(counting)
        keep = everything.lengths > 0
        if not keep.any():
            continue
        exclude_seen = counting is Counting.NEW_TO_CUSTOMER
        ranked = baseline.recommend(customers.user_nums[keep], depth, exclude_seen=exclude_seen).item_nums
        relevant = everything.select(keep)
        num_irrelevant = customers.num_irrelevant(counting, everything)[keep]
        measured = measure(find_hits(ranked, relevant), relevant.lengths, [metric], num_irrelevant)
        yield counting, float(measured[metric].mean())


def climb(
    candidate: SystemRankings,
    baselines: Sequence[SystemRankings],
    customers: HeldOutCustomers,
    configuration: Configuration,
) -> dict[Counting, list[LadderRow]]:
    """What each fallback is worth: own repeats, the model, co-purchase, popular lately."""
    by_name = {system.name: system for system in baselines}
    ladders = {}
    for counting in Counting:
        if not customers.relevant(counting).lengths.any():
            continue
        depth = by_name[PopularLately.name].of(counting).shape[1]
        steps = [
            Step("the model", candidate.of(counting)[:, :depth]),
            Step(ItemKnn.title, by_name[ItemKnn.name].of(counting)),
            Step(PopularLately.title, by_name[PopularLately.name].of(counting)),
        ]
        if counting is Counting.ALL_PURCHASES:  # of products new to the customer none is a repeat
            own = by_name[OwnMostBought.name].all_purchases
            steps.insert(0, Step("own repeats", only(own, customers)))
        evaluation = configuration.evaluation
        ladders[counting] = worth(
            steps,
            customers,
            counting,
            evaluation.metric,
            seed=configuration.seed,
            num_resamples=evaluation.num_resamples,
        )
    return ladders
