"""A candidate's rankings and the release in production in, the two beside each other on the same customers out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from endcap.contracts.errors import InputError
from endcap.contracts.release import DEFAULT_SIGNATURE
from endcap.evaluation.compare import SystemRankings, compare
from endcap.evaluation.customers import Counting, HeldOutCustomers
from endcap.evaluation.gate import Champion
from endcap.evaluation.metrics import NO_ITEM
from endcap.flows.scoring import ExportedModel
from endcap.releases.bundle import Release

IntArray = npt.NDArray[np.int64]

NAME = "champion"


def beside_champion(
    champion: Release,
    candidate: SystemRankings,
    questions: pa.Table,
    customers: HeldOutCustomers,
    item_ids: list[Any],
    *,
    test_start_us: int,
    seed: int,
    num_resamples: int,
) -> Champion:
    """Ask the champion's own files the candidate's questions, and compare the two customer by customer.

    `questions` are in the order of `customers`; `item_ids` is the candidate's catalog. Raises InputError when the champion
    was made of purchases of the test period, or asks for columns that the questions lack: it can't be compared fairly.
    """
    manifest = champion.manifest
    title = title_of(champion)
    need_earlier(champion, test_start_us)
    if manifest.retrieval is None:
        raise InputError(
            f"The champion, {title}, scores pairs and recommends nothing that could be compared. Let champion name a "
            "release that recommends, or give this model another release.name."
        )
    inputs = manifest.signatures[DEFAULT_SIGNATURE].inputs
    need_inputs(champion, {tensor.name for tensor in inputs}, questions.column_names)
    model = ExportedModel(champion.path, manifest.retrieval, inputs)
    numbers = _numbers(model, item_ids)
    depth = candidate.all_purchases.shape[1]
    asked = min(depth + int((numbers == NO_ITEM).sum()), len(numbers))
    ranked = model.rank(NAME, title, questions, numbers, asked)
    rankings = {counting: _close_up(ranked.of(counting), depth) for counting in Counting}
    other = SystemRankings(NAME, title, rankings[Counting.ALL_PURCHASES], rankings[Counting.NEW_TO_CUSTOMER])
    return Champion(title, compare(candidate, [other], customers, seed=seed, num_resamples=num_resamples))


def title_of(champion: Release) -> str:
    """The champion's name and version."""
    return f"{champion.manifest.name}/{champion.path.name}"


def need_earlier(champion: Release, test_start_us: int) -> None:
    """Raise InputError when the champion was made of purchases of the test period."""
    told = champion.manifest.as_of
    if round(datetime.fromisoformat(told).timestamp() * 1e6) > test_start_us:
        raise InputError(
            f"The champion, {title_of(champion)}, was trained on purchases up to {told}, which is within the test period: it "
            "would win by memory. Judge on newer data, or without a champion."
        )


def need_inputs(champion: Release, wanted: set[str], names: Sequence[str]) -> None:
    """Raise InputError when the champion wants columns that the candidate's tables lack."""
    missing = sorted(wanted - set(names))
    if missing:
        raise InputError(
            f"The champion, {title_of(champion)}, asks for {', '.join(missing)}, which the candidate's features lack. Keep those "
            "columns in the feature configuration, or judge without a champion."
        )


def _numbers(model: ExportedModel, item_ids: list[Any]) -> IntArray:
    """The candidate's number of each product of the champion; -1 for those that are not sold any more."""
    places = {item_id: number for number, item_id in enumerate(item_ids)}
    own = model.index.ids_of(np.arange(model.index.num_items))
    return np.array([places.get(item_id, NO_ITEM) for item_id in own], dtype=np.int64)


def _close_up(rankings: IntArray, depth: int) -> IntArray:
    """The first `depth` products of each row, without the gaps that products left which are not sold any more."""
    turned = np.argsort(rankings == NO_ITEM, axis=1, kind="stable")
    closed = np.take_along_axis(rankings, turned, axis=1)[:, :depth]
    return np.pad(closed, ((0, 0), (0, depth - closed.shape[1])), constant_values=NO_ITEM)
