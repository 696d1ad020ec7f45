"""Recommendations of one system or several and one truth in, metrics, paired differences and slices with intervals out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from endcap.contracts.errors import InputError
from endcap.evaluation.files import numbers_in
from endcap.evaluation.intervals import NUM_RESAMPLES, Interval, holm, mean_intervals, paired_p_values
from endcap.evaluation.lists import (
    ListRows,
    Lists,
    TruthRows,
    number_items,
    rank_lists,
    relevant_sets,
    wanting_users,
)
from endcap.evaluation.metrics import AUC, RECALL_KS, RaggedSets, find_hits, measure, metric_names, recall_curve
from endcap.evaluation.slices import SliceColumn
from endcap.evaluation.surroundings import Catalog, Past, Surroundings

CURVE_DEPTH = 100

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Settings:
    """What is measured: at which k, from which random stream, with how many resamples."""

    ks: tuple[int, ...] = RECALL_KS
    seed: int = 0
    num_resamples: int = NUM_RESAMPLES


@dataclass(frozen=True)
class System:
    """How one system did: means over customers, and totals that no customer has alone (`coverage@k`, `gini@k`)."""

    name: str
    metrics: Mapping[str, Interval]
    totals: Mapping[str, float]
    recall_by_k: tuple[float, ...]
    num_without_list: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Difference:
    """A system minus the first one, paired customer by customer.

    `p_value` is that of a randomization test, `p_corrected` the same after Holm's correction over all systems that are
    compared in this metric.
    """

    interval: Interval
    p_value: float
    p_corrected: float


@dataclass(frozen=True)
class RunSlice:
    """One group: every system's metrics on its truth rows, and the differences to the first system."""

    column: str
    label: str
    num_users: int
    metrics: Mapping[str, Mapping[str, Interval]]
    differences: Mapping[str, Mapping[str, Interval]]


@dataclass(frozen=True)
class RunsComparison:
    """One system, or several of which the first is the reference, on the same customers and the same resamples."""

    systems: tuple[System, ...]
    differences: Mapping[str, Mapping[str, Difference]]
    slices: tuple[RunSlice, ...]
    num_users: int
    num_relevant: int
    num_items: int | None
    settings: Settings
    notes: tuple[str, ...] = ()

    @property
    def reference(self) -> System:
        """The system that the others are compared with."""
        return self.systems[0]

    @property
    def others(self) -> tuple[System, ...]:
        """The systems that are compared with the first."""
        return self.systems[1:]


def compare_lists(
    systems: Sequence[ListRows],
    truth: TruthRows,
    *,
    settings: Settings | None = None,
    slices: Sequence[SliceColumn] = (),
    catalog: Catalog | None = None,
    past: Past | None = None,
) -> RunsComparison:
    """Measure every system on every customer of the truth; the first is the one that others are compared with.

    Each `SliceColumn` has a code per truth row. Raises InputError when names repeat, a k is below 1 or above the catalog,
    products are recommended that the catalog lacks, or ids don't match.
    """
    settings = settings or Settings()
    _check(systems, settings, catalog)
    user_ids = wanting_users(truth)
    item_ids = number_items(catalog.ids if catalog else None, [truth.items, *(system.items for system in systems)])
    relevant = relevant_sets(truth, user_ids, item_ids)
    surroundings = Surroundings.of(catalog, past, user_ids, item_ids)
    depth = max(*settings.ks, CURVE_DEPTH)
    num_items = surroundings.num_items
    all_lists, curves, per_customer = [], [], []
    for system in systems:
        _check_products(system, truth)
        lists = rank_lists(system, user_ids, item_ids, depth)
        hits = find_hits(lists.rankings, relevant, is_checked=True)
        all_lists.append(lists)
        curves.append(tuple(recall_curve(hits, relevant.lengths, CURVE_DEPTH).tolist()))
        beyond = surroundings.per_customer(lists.rankings, settings.ks)
        per_customer.append(_measured(hits, relevant, num_items, settings) | beyond)
    names = [system.name for system in systems]
    metrics = {name: _means(values, settings) for name, values in zip(names, per_customer, strict=True)}
    return RunsComparison(
        systems=tuple(
            System(
                lists.name,
                metrics[lists.name],
                surroundings.totals(lists.rankings, settings.ks),
                curve,
                lists.num_without_list,
                lists.notes,
            )
            for lists, curve in zip(all_lists, curves, strict=True)
        ),
        differences=_differences(names, per_customer, settings),
        slices=tuple(_slices(slices, all_lists, truth, user_ids, item_ids, num_items, settings)),
        num_users=len(user_ids),
        num_relevant=len(relevant.values),
        num_items=num_items,
        settings=settings,
        notes=_notes(truth, item_ids, catalog),
    )


def _measured(
    hits: NDArray[np.bool_], relevant: RaggedSets, num_items: int | None, settings: Settings
) -> dict[str, FloatArray]:
    """Every metric at each k; `auc@k` where the catalog's size is known, since it counts what was not wanted."""
    names = metric_names(settings.ks)
    if num_items is None:
        return measure(hits, relevant.lengths, names)
    names = (*names, *(f"{AUC}@{k}" for k in settings.ks))
    return measure(hits, relevant.lengths, names, num_items - relevant.num_below(num_items))


def _check(systems: Sequence[ListRows], settings: Settings, catalog: Catalog | None) -> None:
    names = [system.name for system in systems]
    if not systems or len(set(names)) != len(names):
        raise InputError(f"Systems to measure: {names}; expected one or more, with distinct names.")
    if not settings.ks or min(settings.ks) < 1:
        raise InputError(f"k is {list(settings.ks)}; expected whole numbers of 1 or more, such as 10.")
    if catalog is None:
        return
    if max(settings.ks) > len(catalog.ids):
        raise InputError(
            f"k = {max(settings.ks)} is more than the catalog's {len(catalog.ids):,} products; ask for a smaller k."
        )
    for system in systems:
        unknown = len(number_items(catalog.ids, [system.items])) - len(catalog.ids)
        if unknown:
            raise InputError(
                f"{system.name}: recommends {unknown:,} products that the catalog's {len(catalog.ids):,} don't hold. Check "
                "that both files name products by the same ids, and that the catalog is whole."
            )


def _check_products(system: ListRows, truth: TruthRows) -> None:
    """Refuse products that can't be those of the truth: none is among them, and their ids look otherwise."""
    if system.items.looks != truth.items.looks and (numbers_in(system.items.ids, truth.items.ids) < 0).all():
        raise InputError(
            f"{system.name}: none of its products is in the truth. Found {system.items.kind}; the truth has "
            f"{truth.items.kind}. Check that both files name products by the same ids."
        )


def _notes(truth: TruthRows, item_ids: pa.Array, catalog: Catalog | None) -> tuple[str, ...]:
    notes = []
    unwanted = int((~truth.kept).sum())
    if unwanted:
        notes.append(f"{unwanted:,} truth rows have a value of 0 or less: not wanted.")
    if catalog is not None and len(item_ids) > len(catalog.ids):
        notes.append(
            f"{len(item_ids) - len(catalog.ids):,} products of the truth are not in the catalog: no system can name them, and "
            "they count as misses."
        )
    return tuple(notes)


def _means(values: Mapping[str, FloatArray], settings: Settings) -> dict[str, Interval]:
    """Each metric's mean and interval over the customers who have it; all metrics of the same customers share resamples."""
    found: dict[str, Interval] = {}
    for names, has in _alike(values):
        columns = np.stack([values[name][has] for name in names], axis=1)
        intervals = mean_intervals(columns, seed=settings.seed, num_resamples=settings.num_resamples)
        found |= dict(zip(names, intervals, strict=True))
    return {name: found[name] for name in values if name in found}


def _alike(values: Mapping[str, FloatArray]) -> Iterable[tuple[list[str], NDArray[np.bool_]]]:
    """Metrics that the same customers have, together; those that nobody has are left out."""
    groups: dict[bytes, tuple[list[str], NDArray[np.bool_]]] = {}
    for name, column in values.items():
        has = ~np.isnan(column)
        if has.any():
            groups.setdefault(has.tobytes(), ([], has))[0].append(name)
    return groups.values()


def _differences(
    names: Sequence[str], per_customer: Sequence[Mapping[str, FloatArray]], settings: Settings
) -> dict[str, dict[str, Difference]]:
    found: dict[str, dict[str, Difference]] = {}
    for name, values in zip(names[1:], per_customer[1:], strict=True):
        gaps = {metric: column - per_customer[0][metric] for metric, column in values.items()}
        intervals = _means(gaps, settings)
        p_values: dict[str, float] = {}
        for metrics, has in _alike(gaps):
            columns = np.stack([gaps[metric][has] for metric in metrics], axis=1)
            p_values |= dict(zip(metrics, paired_p_values(columns, seed=settings.seed).tolist(), strict=True))
        found[name] = {metric: Difference(intervals[metric], p, p) for metric, p in p_values.items()}
    for metric in dict.fromkeys(metric for each in found.values() for metric in each):
        compared = [name for name in found if metric in found[name]]
        corrected = holm(np.array([found[name][metric].p_value for name in compared]))
        for name, p in zip(compared, corrected.tolist(), strict=True):
            found[name][metric] = Difference(found[name][metric].interval, found[name][metric].p_value, p)
    return found


def _slices(
    columns: Sequence[SliceColumn],
    all_lists: Sequence[Lists],
    truth: TruthRows,
    user_ids: pa.Array,
    item_ids: pa.Array,
    num_items: int | None,
    settings: Settings,
) -> Iterable[RunSlice]:
    for column in columns:
        for code, label in enumerate(column.labels):
            relevant = relevant_sets(truth, user_ids, item_ids, column.codes == code)
            keep = relevant.lengths > 0
            if not keep.any():
                continue
            relevant = relevant.select(keep)
            per_customer = [
                _measured(find_hits(lists.rankings[keep], relevant, is_checked=True), relevant, num_items, settings)
                for lists in all_lists
            ]
            names = [lists.name for lists in all_lists]
            gaps = {
                name: _means({m: values[m] - per_customer[0][m] for m in values}, settings)
                for name, values in zip(names[1:], per_customer[1:], strict=True)
            }
            means = {name: _means(values, settings) for name, values in zip(names, per_customer, strict=True)}
            yield RunSlice(column.name, label, int(keep.sum()), means, gaps)
