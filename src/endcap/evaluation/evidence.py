"""What a report is made of: plain records that a flow fills in and `report` reads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from endcap.contracts.errors import InputError
from endcap.contracts.release import Blessing, Lineage
from endcap.evaluation.cold_items import ColdItems
from endcap.evaluation.compare import Comparison
from endcap.evaluation.customers import Counting
from endcap.evaluation.ladder import LadderRow
from endcap.evaluation.rating import RatingComparison

_USER_KEY = re.compile(r"[0-9a-f]{16,128}")


@dataclass(frozen=True)
class Epoch:
    """One pass over the training data: its mean loss and the metrics on the eval period after it."""

    epoch: int
    loss: float
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingHistory:
    """All epochs in order, the one whose weights were kept, and the eval metric that chose it."""

    epochs: Sequence[Epoch]
    chosen_epoch: int
    metric: str


@dataclass(frozen=True)
class BoughtProduct:
    """A product that a customer bought, `days_ago` before the split moment."""

    name: str
    days_ago: int
    num_times: int = 1


@dataclass(frozen=True)
class RecommendedProduct:
    """A product as recommended: whether it was then bought, and whether the customer knew it."""

    name: str
    hit: bool
    bought_before: bool


@dataclass(frozen=True)
class CustomerExample:
    """One customer's recommendations beside what they bought.

    `user_key` is the pseudonym under the workspace key, hexadecimal, never the shop's own id. `num_bought_later` counts
    distinct products of the test period. Raises InputError when the key does not look like a pseudonym.
    """

    user_key: str
    bought_lately: Sequence[BoughtProduct]
    recommended: Sequence[RecommendedProduct]
    num_bought_later: int

    def __post_init__(self) -> None:
        if not _USER_KEY.fullmatch(self.user_key):
            raise InputError(
                "An example's user_key is no pseudonym: expected 16 to 128 hexadecimal digits, as the workspace key "
                "makes them. Never put the shop's own ids into a report."
            )


@dataclass(frozen=True)
class Evidence:
    """Everything that a report shows.

    `moments` names the split moments in time order, as text in UTC; `row_counts`, `timings_s` and `digests` are shown in
    the order given. `metric` is the one that the gate judged on.
    """

    name: str
    created_at: str
    comparison: Comparison | None
    blessing: Blessing
    lineage: Lineage
    history: TrainingHistory | None = None
    examples: Sequence[CustomerExample] = ()
    row_counts: Mapping[str, int] = field(default_factory=dict)
    moments: Mapping[str, str] = field(default_factory=dict)
    timings_s: Mapping[str, float] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    metric: str = "ndcg@10"
    ladders: Mapping[Counting, Sequence[LadderRow]] = field(default_factory=dict)
    cold_items: ColdItems | None = None
    baseline_settings: Sequence[tuple[str, Counting, str]] = ()
    """Title, counting and the settings that the eval period chose, as text."""
    ratings: RatingComparison | None = None
    """Where the release predicts targets; one of this and `comparison` is there."""
