"""Rankings of products that nobody had bought before the test period in, how well each system places them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from endcap.evaluation.intervals import NUM_RESAMPLES, Interval, mean_intervals
from endcap.evaluation.metrics import RaggedSets, find_hits, measure

AMONG_ALL = ("recall@100", "ndcg@10")
AUC = "auc"
ALONE = ("ndcg@10", "recall@5", "recall@10")
_CUT = 10

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class ColdRankings:
    """One system's order of the cold products alone, `[num_customers, depth]`, padded with -1."""

    title: str
    rankings: IntArray


@dataclass(frozen=True)
class ColdSystem:
    """How one system did; `differences` are the model minus it, paired customer by customer, None for the model."""

    title: str
    metrics: Mapping[str, Interval]
    differences: Mapping[str, Interval] | None


@dataclass(frozen=True)
class ColdItems:
    """What the test period says of products that were first sold in it.

    `among_all` are metrics of one ranking of all products, cold and known, where only cold ones count: `auc` is the share of
    known products that a cold one stands above, in the mean over those that a customer bought. `by_chance` is what a ranking
    at random would have there. `systems` rank the cold products alone, the model first.
    """

    num_items: int
    num_all_items: int
    num_customers: int
    num_relevant: int
    among_all: Mapping[str, Interval]
    by_chance: Mapping[str, float]
    systems: tuple[ColdSystem, ...]

    def flat_metrics(self) -> dict[str, float]:
        """The model's means, such as `cold_items/recall@100`; those among cold products alone as `cold_items/alone/…`."""
        flat = {f"cold_items/{name}": interval.mean for name, interval in self.among_all.items()}
        return flat | {f"cold_items/alone/{name}": one.mean for name, one in self.systems[0].metrics.items()}


def measure_cold_items(
    among_all: IntArray,
    auc: FloatArray,
    systems: Sequence[ColdRankings],
    relevant: RaggedSets,
    num_items: int,
    num_known: int,
    *,
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
) -> ColdItems:
    """Measure the model and the others, and what drawing at random would give on average.

    Args:
        among_all: The model's ranking of all products; cold ones have numbers from 0, the others -1 or above the last cold.
        auc: Of each customer.
        systems: Orders of the cold products alone, the model first.
        relevant: Cold products that each customer bought, one or more each.
        num_items: Cold products.
        num_known: Products that were sold before.
        seed: Of the resamples.
        num_resamples: Bootstrap resamples of customers.
    """
    joint = measure(find_hits(among_all, relevant), relevant.lengths, AMONG_ALL) | {AUC: auc}
    each = [measure(find_hits(system.rankings, relevant), relevant.lengths, ALONE) for system in systems]
    each.append(_at_random(relevant.lengths, num_items, ALONE))
    chance = _at_random(relevant.lengths, num_items + num_known, AMONG_ALL) | {AUC: np.full(len(auc), 0.5)}
    columns = list(joint.values())
    for values in each:
        columns += [values[name] for name in ALONE]
    for values in each[1:]:
        columns += [each[0][name] - values[name] for name in ALONE]
    intervals = iter(mean_intervals(np.stack(columns, axis=1), seed=seed, num_resamples=num_resamples))
    among = {name: next(intervals) for name in joint}
    means = [{name: next(intervals) for name in ALONE} for _ in each]
    gaps = [None, *({name: next(intervals) for name in ALONE} for _ in each[1:])]
    titles = [*(system.title for system in systems), "drawn at random"]
    return ColdItems(
        num_items=num_items,
        num_all_items=num_items + num_known,
        num_customers=len(relevant.lengths),
        num_relevant=len(relevant.values),
        among_all=among,
        by_chance={name: float(values.mean()) for name, values in chance.items()},
        systems=tuple(ColdSystem(*parts) for parts in zip(titles, means, gaps, strict=True)),
    )


def _at_random(num_relevant: IntArray, num_items: int, names: Sequence[str]) -> dict[str, FloatArray]:
    """Expected value of each metric for an order drawn at random."""
    discounts = 1 / np.log2(np.arange(_CUT) + 2)
    ideal = np.cumsum(discounts)[np.minimum(num_relevant, _CUT) - 1]
    ndcg = num_relevant / num_items * discounts[: min(_CUT, num_items)].sum() / ideal
    expected = {name: np.full(len(num_relevant), min(int(name.split("@")[1]), num_items) / num_items) for name in names}
    return {name: ndcg if name.startswith("ndcg") else values for name, values in expected.items()}
