"""The FeatureConfig: which columns feed the towers, and how each is transformed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

_TYPE_ALIASES = {"INTEGER": "INT64", "FLOAT": "FLOAT64"}
ColumnType = Annotated[
    Literal["STRING", "INT64", "FLOAT64", "TIMESTAMP"],
    BeforeValidator(lambda value: _TYPE_ALIASES.get(value, value) if isinstance(value, str) else value),
]


class Strict(BaseModel):
    """Base of each part of the configuration: unknown keys are errors, values don't change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Embedding(Strict):
    """One learned vector for each value that training saw often enough."""

    dim: int = Field(16, ge=1, le=1024)
    """Width of the vector."""
    min_count: int = Field(1, ge=1)
    """Values in fewer rows share the out-of-vocabulary vector."""
    max_vocab: int = Field(1_000_000, ge=1)
    """The most frequent values that are kept."""


class Clip(Strict):
    """Bounds a number by two quantiles of the training rows."""

    p_low: float = Field(0.0, ge=0, le=1)
    """Lower quantile."""
    p_high: float = Field(1.0, ge=0, le=1)
    """Upper quantile."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.p_low >= self.p_high:
            raise ValueError(f"p_low must lie below p_high; found p_low={self.p_low}, p_high={self.p_high}")
        return self


class Log(Strict):
    """log(1 + x) of a number, negative numbers counted as 0. Comes after clip."""


class Normalize(Strict):
    """Z-score by the training rows' mean and standard deviation; a missing number becomes 0. Comes after clip and log."""


class Bucketize(Strict):
    """Embeds the quantile bucket that a number falls into. Comes after clip."""

    n: int = Field(10, ge=2, le=1000)
    """Number of buckets, each with about as many training rows; one more holds missing numbers."""
    dim: int = Field(8, ge=1, le=1024)
    """Width of a bucket's vector."""


class Cyclical(Strict):
    """Sine and cosine of a moment's place in a period (UTC)."""

    period: Literal["hour", "day_of_week"]
    """`hour`: time of day; `day_of_week`: whole day of the week."""


class Text(Strict):
    """Mean of learned vectors of a text's words; words are separated by spaces and compared without case."""

    dim: int = Field(32, ge=1, le=1024)
    """Width of a word's vector."""
    min_count: int = Field(2, ge=1)
    """Words in fewer texts are left out."""
    max_vocab: int = Field(100_000, ge=1)
    """The most frequent words that are kept."""


class Sequence(Strict):
    """The user's last distinct products, each with its age and how often it was bought."""

    max_length: int = Field(200, ge=1, le=1000)
    """Most distinct products; the longest ago are left out."""


class Column(Strict):
    """One raw column and its transforms; several may be combined."""

    type: ColumnType
    is_primary_id: bool = False
    embedding: Embedding | None = None
    clip: Clip | None = None
    log: Log | None = None
    normalize: Normalize | None = None
    bucketize: Bucketize | None = None
    cyclical: Cyclical | None = None
    text: Text | None = None
    sequence: Sequence | None = None

    @model_validator(mode="after")
    def _fits_type(self) -> Self:
        needs: dict[str, tuple[str, ...]] = {
            "embedding": ("STRING", "INT64"),
            "clip": ("INT64", "FLOAT64"),
            "log": ("INT64", "FLOAT64"),
            "normalize": ("INT64", "FLOAT64"),
            "bucketize": ("INT64", "FLOAT64"),
            "cyclical": ("TIMESTAMP",),
            "text": ("STRING",),
            "sequence": ("STRING",),
        }
        for kind, types in needs.items():
            if getattr(self, kind) is not None and self.type not in types:
                raise ValueError(f"{kind} needs a column of type {' or '.join(types)}; found {self.type}")
        if self.log and not self.normalize:
            raise ValueError("log needs normalize beside it, so that a missing number has a place: add normalize: {}")
        if not any((self.embedding, self.normalize, self.bucketize, self.cyclical, self.text, self.sequence)):
            raise ValueError(
                "the column reaches no tower: give it one of embedding, normalize, bucketize, cyclical, text, sequence"
            )
        return self


class FeatureConfig(Strict):
    """Columns of the buyer (query) tower and of the product (item) tower, by name."""

    buyer: dict[str, Column]
    product: dict[str, Column]

    @model_validator(mode="after")
    def _one_primary_id_each(self) -> Self:
        for side, columns in (("buyer", self.buyer), ("product", self.product)):
            ids = [name for name, column in columns.items() if column.is_primary_id]
            if len(ids) != 1:
                raise ValueError(f"{side} needs exactly one column with is_primary_id: true; found {ids or 'none'}")
        sequences = [name for name, column in self.buyer.items() if column.sequence]
        if len(sequences) > 1:
            raise ValueError(f"buyer takes one sequence column; found {sequences}")
        item_id = self.product[self.item_id].embedding
        if item_id is not None and item_id.min_count > 1:
            raise ValueError(
                f"product {self.item_id}: min_count counts rows of the catalog, where each product has one; leave it at 1"
            )
        misplaced = [name for name, column in self.product.items() if column.sequence]
        if misplaced:
            raise ValueError(f"sequence is a buyer transform; found on product column(s) {misplaced}")
        return self

    @property
    def user_id(self) -> str:
        """Name of the buyer side's primary id."""
        return next(name for name, column in self.buyer.items() if column.is_primary_id)

    @property
    def item_id(self) -> str:
        """Name of the product side's primary id."""
        return next(name for name, column in self.product.items() if column.is_primary_id)

    @property
    def history(self) -> str | None:
        """Name of the buyer's sequence column, if there is one."""
        return next((name for name, column in self.buyer.items() if column.sequence), None)

    def columns(self) -> Iterator[tuple[str, str, Column]]:
        """Each column as (side, name, definition), buyer first."""
        for name, column in self.buyer.items():
            yield "buyer", name, column
        for name, column in self.product.items():
            yield "product", name, column
