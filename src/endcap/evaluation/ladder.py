"""Rankings of several systems in, what each step of a ladder of fallbacks is worth on the test period out.

A customer's list is filled by the first step that has something for them, then by the next, down to what is popular. The
ladder that begins one step lower is what remains when the step above can't answer.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from endcap.contracts.errors import InputError
from endcap.evaluation.customers import Counting, HeldOutCustomers
from endcap.evaluation.intervals import NUM_RESAMPLES, Interval, mean_intervals
from endcap.evaluation.metrics import NO_ITEM, find_hits, measure

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Step:
    """One step: what it alone recommends, `[num_customers, depth]`, best first, padded with -1 where it has no more."""

    title: str
    rankings: IntArray


@dataclass(frozen=True)
class LadderRow:
    """A ladder that begins at one step and ends at the last.

    `share_answered` is the share of the places in all lists that its first step fills; `gain` is its metric minus that
    of the ladder that begins one step lower, paired over customers, None for the last step.
    """

    first: str
    depth: int
    share_answered: float
    metric: Interval
    gain: Interval | None


def worth(
    steps: Sequence[Step],
    customers: HeldOutCustomers,
    counting: Counting,
    metric: str,
    *,
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
) -> list[LadderRow]:
    """One row for each step, the whole ladder first.

    Raises InputError when there is no step, rankings differ in shape, or nobody has anything to find.
    """
    if not steps or len({step.rankings.shape for step in steps}) != 1:
        raise InputError(
            f"Found steps of the shapes {[step.rankings.shape for step in steps]}; expected one shape for all."
        )
    everything = customers.relevant(counting)
    keep = everything.lengths > 0
    if not keep.any():
        raise InputError(f"No customer has anything to find under {counting.label}; give a longer test period.")
    relevant = everything.select(keep)
    num_irrelevant = customers.num_irrelevant(counting, everything)[keep]
    values = []
    for place in range(len(steps)):
        filled = fill([step.rankings[keep] for step in steps[place:]])
        values.append(measure(find_hits(filled, relevant), relevant.lengths, [metric], num_irrelevant)[metric])
    gains = [upper - lower for upper, lower in itertools.pairwise(values)]
    intervals = mean_intervals(np.stack([*values, *gains], axis=1), seed=seed, num_resamples=num_resamples)
    return [
        LadderRow(
            first=step.title,
            depth=len(steps) - place,
            share_answered=float((step.rankings[keep] != NO_ITEM).mean()),
            metric=intervals[place],
            gain=intervals[len(steps) + place] if place < len(gains) else None,
        )
        for place, step in enumerate(steps)
    ]


def fill(rankings: Sequence[IntArray]) -> IntArray:
    """One list a row: the first ranking's products, then those of the next that aren't there yet, and so on."""
    num_rows, depth = rankings[0].shape
    joined = np.concatenate(rankings, axis=1)
    order = np.argsort(joined, axis=1, kind="stable")
    ordered = np.take_along_axis(joined, order, axis=1)
    is_repeat = np.zeros(joined.shape, dtype=bool)
    # The sort is stable: of equal products the one that stands first in the list comes first.
    np.put_along_axis(
        is_repeat,
        order,
        np.concatenate([np.zeros((num_rows, 1), bool), ordered[:, 1:] == ordered[:, :-1]], axis=1),
        axis=1,
    )
    joined[is_repeat] = NO_ITEM
    picked = np.argsort(joined == NO_ITEM, axis=1, kind="stable")[:, :depth]
    return np.take_along_axis(joined, picked, axis=1)


def only(rankings: IntArray, customers: HeldOutCustomers) -> IntArray:
    """The products of each row that the customer bought before, in their order: the step of repeats."""
    rows = np.arange(len(rankings))[:, None]
    return np.where(customers.earlier.contain(rows, rankings), rankings, NO_ITEM)
