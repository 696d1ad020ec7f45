"""Which settings of the baselines are tried on the eval period: a baseline is beaten at its best, not at its default."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from endcap.contracts.features import Strict

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class PopularGrid(Strict):
    """Popular lately."""

    half_life_days: list[Positive | None] = Field(default=[None, 5.0, 10.0, 20.0], min_length=1)
    """A purchase counts half for each so many days of its age; null: all of the last `evaluation.popular_days` alike."""


class OwnGrid(Strict):
    """Own most bought."""

    half_life_days: list[Positive | None] = Field(default=[None, 60.0, 120.0, 240.0], min_length=1)
    """A purchase counts half for each so many days of its age; null: all alike."""


class CoPurchaseGrid(Strict):
    """Co-purchase."""

    half_life_days: list[Positive | None] = Field(default=[None, 60.0], min_length=1)
    """An own product counts half for each so many days since it was last bought; null: all alike."""
    num_neighbors: list[Count] = Field(default=[500, 100], min_length=1)
    """Products that one leads to."""
    shrink: list[NotNegative] = Field(default=[0.0, 20.0], min_length=1)
    """Shared baskets below which a similarity is trusted less."""
    session_gap_days: list[Positive | None] = Field(default=[None], min_length=1)
    """Bought together is what a customer buys without a longer pause; null: in one basket."""


class EaseGrid(Strict):
    """EASE."""

    l2: list[Positive] = Field(default=[200.0, 500.0, 1000.0], min_length=1)
    """Penalty on the squares of the weights."""
    num_neighbors: list[Count] = Field(default=[100], min_length=1)
    """Products that one is predicted from, where products and customers are both too many for the exact solution."""


class AlsGrid(Strict):
    """ALS."""

    half_life_days: list[Positive | None] = Field(default=[None, 60.0], min_length=1)
    """A purchase counts half for each so many days of its age; null: all alike."""
    alpha: list[Positive] = Field(default=[1.0, 10.0], min_length=1)
    """How much more a bought pair weighs than the others."""
    l2: list[Positive] = Field(default=[1.0, 30.0], min_length=1)
    """Penalty on the squares of the factors."""
    num_factors: list[Count] = Field(default=[64], min_length=1)
    """Width of the factors."""
    num_epochs: list[Count] = Field(default=[15], min_length=1)
    """Times that both sides are solved for."""


class TreesConfig(Strict):
    """Boosted trees (LightGBM) that predict a line's target from its raw columns."""

    num_trees: Count = 600
    """Most trees; the eval period chooses how many."""
    learning_rate: float = Field(0.05, gt=0, le=1)
    """Share of each tree that is added."""
    num_leaves: int = Field(63, ge=2, le=4096)
    """Most leaves of a tree."""
    min_lines: Count = 50
    """Fewest lines of a leaf."""
    column_share: float = Field(0.8, gt=0, le=1)
    """Share of the columns that a tree may use."""
    line_share: float = Field(0.8, gt=0, le=1)
    """Share of the lines that a tree is grown on."""
    l2: NotNegative = 1.0
    """Penalty on the squares of leaf values."""
    patience: Count = 30
    """Trees without a lower eval error after which no more are grown."""


class BaselinesConfig(Strict):
    """Which baselines are learned beside the three rules, and settings to try; the first of each list begins the search."""

    learned: list[Literal["ease", "als"]] = Field(default=["ease", "als"])
    """Run and to be beaten beside popular lately, own most bought and co-purchase, which always are."""
    rated: list[Literal["lightgbm"]] = Field(default=["lightgbm"])
    """Learned beside every ranking model, which may come to a little more error at most (`evaluation.max_rating_loss`)."""
    lightgbm: TreesConfig = TreesConfig()
    popular_lately: PopularGrid = PopularGrid()
    own_most_bought: OwnGrid = OwnGrid()
    co_purchase: CoPurchaseGrid = CoPurchaseGrid()
    ease: EaseGrid = EaseGrid()
    als: AlsGrid = AlsGrid()
