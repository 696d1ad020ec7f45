"""Rankings of a candidate and of the baselines in, metrics, paired differences and slices with intervals out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from endcap.contracts.errors import InputError
from endcap.evaluation.customers import Counting, HeldOutCustomers
from endcap.evaluation.intervals import NUM_RESAMPLES, Interval, mean_intervals
from endcap.evaluation.metrics import (
    AUC,
    DEPTH,
    METRICS,
    RECALL_KS,
    RaggedSets,
    coverage_at,
    find_hits,
    measure,
    recall_curve,
)
from endcap.evaluation.slices import SliceColumn

ACTIVITY_SLICES = (("1", 1, 1), ("2-3", 2, 3), ("4-9", 4, 9), ("10+", 10, None))
EARLIER_BASKETS = "earlier baskets"

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class SystemRankings:
    """What one model or baseline recommends; rows stand in the order of the customers, `[num_customers, depth]`.

    `new_to_customer` is a ranking of its own, made without the customer's earlier products, not the other one cut
    short. Both are best first, padded with -1, and at least 100 deep or as deep as the catalog. `aucs` are each customer's,
    by counting, of systems that score the whole catalog; NaN where a customer has nothing to find.
    """

    name: str
    title: str
    all_purchases: IntArray
    new_to_customer: IntArray
    aucs: Mapping[Counting, FloatArray] = field(default_factory=dict)

    def of(self, counting: Counting) -> IntArray:
        """The ranking for one counting."""
        return self.all_purchases if counting is Counting.ALL_PURCHASES else self.new_to_customer


@dataclass(frozen=True)
class SystemScores:
    """How one system did: each metric with its interval, coverage by k, mean recall at k = 1, 2, … 100.

    `auc` is that of the whole catalog's scores, None of systems that have none.
    """

    name: str
    title: str
    metrics: Mapping[str, Interval]
    coverage: Mapping[int, float]
    recall_by_k: tuple[float, ...]
    auc: Interval | None = None


@dataclass(frozen=True)
class Slice:
    """One group of customers or of products: each system's metrics, and candidate minus baseline.

    A group of products counts those alone. Such groups share the places of one list, so that what one gains another loses:
    `tells_customers_apart` says whether each customer belongs to one group of the column alone.
    """

    label: str
    num_customers: int
    metrics: Mapping[str, Mapping[str, Interval]]  # system, metric
    differences: Mapping[str, Mapping[str, Interval]]  # baseline, metric
    column: str = EARLIER_BASKETS
    tells_customers_apart: bool = True

    @property
    def title(self) -> str:
        """The group in words."""
        if self.column == EARLIER_BASKETS:
            return f"{self.label} {self.column}"
        return f"{self.column}: {self.label}"


@dataclass(frozen=True)
class CountingComparison:
    """Everything measured under one counting; the candidate is the first system.

    `differences` are candidate minus baseline by baseline and metric, paired customer by customer. Slices without
    customers are left out.
    """

    counting: Counting
    num_customers: int
    num_relevant: int
    systems: tuple[SystemScores, ...]
    differences: Mapping[str, Mapping[str, Interval]]
    slices: tuple[Slice, ...]

    @property
    def by_activity(self) -> tuple[Slice, ...]:
        """Slices by earlier baskets."""
        return tuple(piece for piece in self.slices if piece.column == EARLIER_BASKETS)

    @property
    def by_columns(self) -> tuple[Slice, ...]:
        """All other slices."""
        return tuple(piece for piece in self.slices if piece.column != EARLIER_BASKETS)

    @property
    def candidate(self) -> SystemScores:
        """The scores of the system that is judged."""
        return self.systems[0]

    @property
    def baselines(self) -> tuple[SystemScores, ...]:
        """The scores of the systems that it must beat."""
        return self.systems[1:]

    def best_baseline(self, metric: str) -> SystemScores:
        """The baseline with the highest mean of `metric`; of equal ones the first."""
        return max(self.baselines, key=lambda system: system.metrics[metric].mean)


@dataclass(frozen=True)
class Comparison:
    """The candidate beside every baseline, under both countings."""

    countings: Mapping[Counting, CountingComparison]
    num_items: int
    num_resamples: int
    seed: int

    def flat_metrics(self) -> dict[str, float]:
        """The candidate's means as one flat table, such as `all_purchases/ndcg@10`; for manifests and trackers."""
        flat: dict[str, float] = {}
        for counting, part in self.countings.items():
            flat |= {f"{counting}/{name}": interval.mean for name, interval in part.candidate.metrics.items()}
            if part.candidate.auc is not None:
                flat[f"{counting}/{AUC}"] = part.candidate.auc.mean
            flat |= {f"{counting}/coverage@{k}": share for k, share in part.candidate.coverage.items()}
        return flat


def compare(
    candidate: SystemRankings,
    baselines: Sequence[SystemRankings],
    customers: HeldOutCustomers,
    *,
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
    slices: Sequence[SliceColumn] = (),
) -> Comparison:
    """Measure the candidate and the baselines on the same customers and the same resamples.

    Customers are sliced by activity; `slices` are further columns with a code for each pair of `customers.bought`.

    Raises InputError when there is no baseline, names repeat, a ranking has the wrong shape or holds a product twice
    or outside the catalog, or `new_to_customer` holds a product that the customer bought before.
    """
    systems = (candidate, *baselines)
    names = [system.name for system in systems]
    if not baselines or len(set(names)) != len(names):
        raise InputError(f"Systems to compare: {names}; expected a candidate, a baseline or more, and distinct names.")
    for system in systems:
        _check(system, customers)
    return Comparison(
        countings={
            counting: _compare_under(counting, systems, customers, slices, seed=seed, num_resamples=num_resamples)
            for counting in Counting
        },
        num_items=customers.num_items,
        num_resamples=num_resamples,
        seed=seed,
    )


def _check(system: SystemRankings, customers: HeldOutCustomers) -> None:
    depth = min(DEPTH, customers.num_items)
    for counting in Counting:
        shape = system.of(counting).shape
        if len(shape) != 2 or shape[0] != len(customers.user_nums) or shape[1] < depth:
            raise InputError(
                f"The rankings of {system.title} for {counting.label} have shape {shape}; "
                f"expected {len(customers.user_nums)} customers by at least {depth} products."
            )
    rows = np.arange(len(customers.user_nums))[:, None]
    num_repeats = int(customers.earlier.contain(rows, system.new_to_customer).sum())
    if num_repeats:
        raise InputError(
            f"The rankings of {system.title} for {Counting.NEW_TO_CUSTOMER.label} name {num_repeats} products that the "
            "customer bought before; leave those out before ranking."
        )


def _compare_under(
    counting: Counting,
    systems: Sequence[SystemRankings],
    customers: HeldOutCustomers,
    slices: Sequence[SliceColumn],
    *,
    seed: int,
    num_resamples: int,
) -> CountingComparison:
    everything = customers.relevant(counting)
    keep = everything.lengths > 0
    if not keep.any():
        raise InputError(f"No customer has anything to find under {counting.label}; give a longer test period.")
    relevant = everything.select(keep)
    num_irrelevant = customers.num_irrelevant(counting, everything)[keep]
    rankings = [system.of(counting)[keep][:, :DEPTH] for system in systems]
    per_customer, curves = [], []
    for ranking in rankings:
        hits = find_hits(ranking, relevant)
        measured = measure(hits, relevant.lengths, num_irrelevant=num_irrelevant)
        per_customer.append(np.stack(list(measured.values()), axis=1))
        curves.append(tuple(float(value) for value in recall_curve(hits, relevant.lengths, DEPTH)))
    names = [system.name for system in systems]
    metrics, differences = _intervals(names, per_customer, seed=seed, num_resamples=num_resamples)
    scores = tuple(
        SystemScores(
            name=system.name,
            title=system.title,
            metrics=metrics[system.name],
            coverage={k: coverage_at(ranking, customers.num_items, k) for k in RECALL_KS},
            recall_by_k=curve,
            auc=_auc(system, counting, keep, seed=seed, num_resamples=num_resamples),
        )
        for system, ranking, curve in zip(systems, rankings, curves, strict=True)
    )
    return CountingComparison(
        counting=counting,
        num_customers=int(keep.sum()),
        num_relevant=len(relevant.values),
        systems=scores,
        differences=differences,
        slices=(
            *_slices(names, per_customer, customers.num_earlier_baskets[keep], seed=seed, num_resamples=num_resamples),
            *_by_columns(counting, systems, customers, slices, seed=seed, num_resamples=num_resamples),
        ),
    )


def _auc(
    system: SystemRankings, counting: Counting, keep: BoolArray, *, seed: int, num_resamples: int
) -> Interval | None:
    if counting not in system.aucs:
        return None
    return mean_intervals(system.aucs[counting][keep][:, None], seed=seed, num_resamples=num_resamples)[0]


def _intervals(
    names: Sequence[str], per_customer: Sequence[FloatArray], *, seed: int, num_resamples: int
) -> tuple[dict[str, dict[str, Interval]], dict[str, dict[str, Interval]]]:
    """Each system's intervals, and each baseline's differences to the first system, from one set of resamples."""
    gaps = [per_customer[0] - other for other in per_customer[1:]]
    intervals = mean_intervals(np.concatenate([*per_customer, *gaps], axis=1), seed=seed, num_resamples=num_resamples)
    blocks = [
        dict(zip(METRICS, intervals[start : start + len(METRICS)], strict=True))
        for start in range(0, len(intervals), len(METRICS))
    ]
    num_systems = len(names)
    return (
        dict(zip(names, blocks[:num_systems], strict=True)),
        dict(zip(names[1:], blocks[num_systems:], strict=True)),
    )


def _slices(
    names: Sequence[str], per_customer: Sequence[FloatArray], num_baskets: IntArray, *, seed: int, num_resamples: int
) -> tuple[Slice, ...]:
    slices = []
    for label, low, high in ACTIVITY_SLICES:
        inside = (num_baskets >= low) & (num_baskets <= (high if high is not None else num_baskets.max()))
        if not inside.any():
            continue
        metrics, differences = _intervals(
            names, [values[inside] for values in per_customer], seed=seed, num_resamples=num_resamples
        )
        slices.append(Slice(label, int(inside.sum()), metrics, differences))
    return tuple(slices)


def _by_columns(
    counting: Counting,
    systems: Sequence[SystemRankings],
    customers: HeldOutCustomers,
    columns: Sequence[SliceColumn],
    *,
    seed: int,
    num_resamples: int,
) -> Iterator[Slice]:
    """A slice counts the pairs of its group alone: a customer belongs to it with one such pair or more."""
    bought = customers.bought
    names = [system.name for system in systems]
    for column in columns:
        pairs = np.unique(np.stack([bought.rows, column.codes], axis=1), axis=0)
        is_apart = len(np.unique(pairs[:, 0])) == len(pairs)
        for code, label in enumerate(column.labels):
            inside = column.codes == code
            relevant = RaggedSets.from_pairs(bought.rows[inside], bought.values[inside], len(customers.user_nums))
            if counting is Counting.NEW_TO_CUSTOMER:
                relevant = relevant.minus(customers.earlier)
            keep = relevant.lengths > 0
            if not keep.any():
                continue
            num_irrelevant = customers.num_irrelevant(counting, relevant)[keep]
            relevant = relevant.select(keep)
            per_customer = []
            for system in systems:
                hits = find_hits(system.of(counting)[keep][:, :DEPTH], relevant, is_checked=True)
                measured = measure(hits, relevant.lengths, num_irrelevant=num_irrelevant)
                per_customer.append(np.stack(list(measured.values()), axis=1))
            metrics, differences = _intervals(names, per_customer, seed=seed, num_resamples=num_resamples)
            yield Slice(label, int(keep.sum()), metrics, differences, column.name, is_apart)
