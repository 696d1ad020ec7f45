"""The FeatureConfig: which columns feed the towers, and how each is transformed."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from endcap.contracts.encoded import Side

_TYPE_ALIASES = {"INTEGER": "INT64", "FLOAT": "FLOAT64", "DECIMAL": "NUMERIC", "BOOLEAN": "BOOL"}
ColumnType = Annotated[
    Literal["STRING", "BYTES", "INT64", "FLOAT64", "NUMERIC", "TIMESTAMP", "DATETIME", "DATE", "BOOL"],
    BeforeValidator(lambda value: _TYPE_ALIASES.get(value, value) if isinstance(value, str) else value),
]
"""As in BigQuery; INTEGER, FLOAT, DECIMAL and BOOLEAN are other names of INT64, FLOAT64, NUMERIC and BOOL."""

_VALUES = ("STRING", "BYTES", "INT64", "BOOL")
_NUMBERS = ("INT64", "FLOAT64", "NUMERIC")
_MOMENTS = ("TIMESTAMP", "DATETIME", "DATE")
_TYPES_OF: dict[str, tuple[str, ...]] = {
    "embedding": _VALUES,
    "clip": _NUMBERS,
    "log": _NUMBERS,
    "normalize": (*_NUMBERS, "BOOL"),
    "bucketize": _NUMBERS,
    "cyclical": _MOMENTS,
    "multi_hot": ("STRING",),
    "text": ("STRING",),
    "sequence": ("STRING",),
}
"""Types of columns that each transform takes."""
_REACHES_TOWER = ("embedding", "normalize", "bucketize", "cyclical", "multi_hot", "text", "sequence")
_OF_LISTS = ("multi_hot", "sequence")

Signal = Literal["purchase", "add_to_cart", "add_to_wishlist", "view_item", "select_item"]
"""Types of events that tell what a user wants."""
PURCHASE: Final[Signal] = "purchase"
Period = Literal["hour", "day_of_week", "day_of_month", "month", "day_of_year", "week"]


class Strict(BaseModel):
    """Base of each part of the configuration: unknown keys are errors, values don't change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Embedding(Strict):
    """One learned vector for each value that training saw often enough."""

    dim: int = Field(16, ge=1, le=1024)
    """Width of the vector."""
    min_count: int = Field(1, ge=1)
    """Values in fewer rows share the out-of-vocabulary vector."""
    max_vocab: int = Field(1_000_000, ge=0)
    """The most frequent values that are kept; 0: none, so that every value is hashed into one of `oov` vectors."""
    oov: int = Field(1, ge=1, le=10_000_000)
    """Vectors for values out of vocabulary. 1: all share one, with missing values; more: a hash picks one of them."""

    @model_validator(mode="after")
    def _hashes_or_keeps(self) -> Self:
        if self.max_vocab == 0 and self.oov == 1:
            raise ValueError("max_vocab=0 hashes every value, which needs oov: 2 or more vectors; found oov=1")
        return self


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
    """Sine and cosine of a moment's place in a period (UTC), for one period or several."""

    period: Annotated[list[Period], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)] = (
        Field(min_length=1)
    )
    """`hour` of the day, `day_of_week`, `day_of_month`, `month`, `day_of_year`, `week` of the year (from January 1st)."""

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        if len(set(self.period)) < len(self.period):
            raise ValueError(f"period names each period once; found {', '.join(self.period)}")
        return self


class MultiHot(Strict):
    """Mean of learned vectors of a list's values, such as the categories of a product; the order says nothing."""

    dim: int = Field(16, ge=1, le=1024)
    """Width of a value's vector."""
    min_count: int = Field(1, ge=1)
    """Values in fewer rows are left out."""
    max_vocab: int = Field(100_000, ge=1)
    """The most frequent values that are kept."""
    separator: str | None = Field(None, min_length=1)
    """What parts the values where the column holds them as one text, such as ` > `; without, the column holds lists."""


class Text(Strict):
    """Mean of learned vectors of a text's words; words are separated by spaces and compared without case."""

    dim: int = Field(32, ge=1, le=1024)
    """Width of a word's vector."""
    min_count: int = Field(2, ge=1)
    """Words in fewer texts are left out."""
    max_vocab: int = Field(100_000, ge=0, le=1_000_000)
    """The most frequent words that are kept, and as many runs of each length; 0: none, so that all are hashed into `oov`
    vectors."""
    ngrams: int = Field(1, ge=1, le=3)
    """Runs of up to so many words that are kept have vectors too; 1: words alone."""
    oov: int = Field(0, ge=0, le=10_000_000)
    """Vectors for words and runs out of vocabulary, as they are spelled: a hash picks one of them. 0: they are left out."""

    encoder: str | None = Field(None, min_length=1)
    """A Parquet file of given vectors, columns `word` and `vector` (lists of `dim` numbers), that words start from."""
    trainable: bool = True
    """Whether given vectors are learned on; false: they stay, and words without one say nothing."""

    @model_validator(mode="after")
    def _fixed_words_are_given(self) -> Self:
        if not self.trainable and (self.encoder is None or self.ngrams > 1 or self.oov):
            raise ValueError(
                "trainable=false needs an encoder, ngrams=1 and oov=0: runs and hashes have no given vectors"
            )
        return self

    @model_validator(mode="after")
    def _hashes_or_keeps(self) -> Self:
        if self.max_vocab == 0 and self.oov == 0:
            raise ValueError("max_vocab=0 hashes every word, which needs oov: 1 or more vectors; found oov=0")
        return self


class Sequence(Strict):
    """The user's last distinct products, each with its age and how often the user met it."""

    max_length: int = Field(200, ge=1, le=1000)
    """Most distinct products; the longest ago are left out."""
    event_types: list[Signal] = Field(default_factory=lambda: [PURCHASE], min_length=1)
    """What fills it: `purchase` alone, or views, carts and wishes too. Of several, each is also counted by itself."""

    @property
    def counted(self) -> list[str]:
        """Types that are counted by themselves: none where there is one type alone."""
        return list(self.event_types) if len(self.event_types) > 1 else []

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        if len(set(self.event_types)) < len(self.event_types):
            raise ValueError(f"event_types names each type once; found {', '.join(self.event_types)}")
        return self


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
    multi_hot: MultiHot | None = None
    text: Text | None = None
    sequence: Sequence | None = None

    @property
    def holds_lists(self) -> bool:
        """Whether a row of the raw column is a list of values."""
        return self.sequence is not None or (self.multi_hot is not None and self.multi_hot.separator is None)

    @property
    def transforms(self) -> list[str]:
        """Names of the transforms that are set, in the order of the configuration's keys."""
        return [name for name in _TYPES_OF if getattr(self, name) is not None]

    @model_validator(mode="after")
    def _fits_type(self) -> Self:
        for kind in self.transforms:
            if self.type not in (types := _TYPES_OF[kind]):
                raise ValueError(f"{kind} needs a column of type {' or '.join(types)}; found {self.type}")
        if self.log and not self.normalize:
            raise ValueError("log needs normalize beside it, so that a missing number has a place: add normalize: {}")
        if not set(self.transforms) & set(_REACHES_TOWER):
            raise ValueError(f"the column reaches no tower: give it one of {', '.join(_REACHES_TOWER)}")
        alone = next((kind for kind in _OF_LISTS if getattr(self, kind) is not None), None)
        if alone and self.holds_lists and len(self.transforms) > 1:
            others = ", ".join(kind for kind in self.transforms if kind != alone)
            raise ValueError(f"{alone} takes lists, which {others} can't: found both on one column")
        if self.cyclical and self.type == "DATE" and "hour" in self.cyclical.period:
            raise ValueError("a DATE has no hour: use another period, or a TIMESTAMP")
        if self.is_primary_id:
            self._check_id()
        return self

    def _check_id(self) -> None:
        if self.type not in ("STRING", "INT64"):
            raise ValueError(f"a primary id is of type STRING or INT64; found {self.type}")
        if self.embedding and self.embedding.oov > 1:
            raise ValueError(
                "a primary id takes oov: 1: training hides ids to learn what to say of unknown ones, which is one vector"
            )
        if self.holds_lists:
            raise ValueError(f"a primary id is one value a row; {' and '.join(self.transforms)} takes lists")


class Cross(Strict):
    """Columns of one side together, such as country and device: one learned vector for each bin of their combinations."""

    side: Side = "buyer"
    """Whose columns they are."""
    columns: list[str] = Field(min_length=2, max_length=5)
    """Two or more columns, each with embedding, bucketize or cyclical (of one period): what is crossed are those
    values, buckets and steps. A row in which one is missing or out of vocabulary has a vector of its own."""
    n: int = Field(1000, ge=2, le=10_000_000)
    """Bins that combinations are hashed into."""
    dim: int = Field(8, ge=1, le=1024)
    """Width of a bin's vector."""


class Target(Strict):
    """The number that a rating head predicts: clipped, then logged; errors are told in the column's own units."""

    column: str
    """Name of a column of the labelled rows."""
    clip: Clip | None = None
    log: Log | None = None


class FeatureConfig(Strict):
    """Columns of the buyer (query) tower and of the product (item) tower, by name; crosses of them; the target."""

    buyer: dict[str, Column]
    product: dict[str, Column]
    crosses: dict[str, Cross] = Field(default_factory=dict)
    target: Target | None = None

    @model_validator(mode="after")
    def _one_primary_id_each(self) -> Self:
        for side, columns in (("buyer", self.buyer), ("product", self.product)):
            ids = [name for name, column in columns.items() if column.is_primary_id]
            if len(ids) != 1:
                raise ValueError(f"{side} needs exactly one column with is_primary_id: true; found {ids or 'none'}")
        item_id = self.product[self.item_id].embedding
        if item_id is not None and item_id.min_count > 1:
            raise ValueError(
                f"product {self.item_id}: min_count counts rows of the catalog, where each product has one; leave it at 1"
            )
        return self

    @model_validator(mode="after")
    def _sequences_fit(self) -> Self:
        sequences = [name for name, column in self.buyer.items() if column.sequence]
        if len(sequences) > 1:
            raise ValueError(f"buyer takes one sequence column; found {sequences}")
        misplaced = [name for name, column in self.product.items() if column.sequence]
        if misplaced:
            raise ValueError(f"sequence is a buyer transform; found on product column(s) {misplaced}")
        for name in sequences:
            of_ids, ids = self.buyer[name].type, self.product[self.item_id].type
            if of_ids != ids:
                raise ValueError(
                    f"buyer {name} holds ids of product {self.item_id}, so both are of one type; found {of_ids} and {ids}. "
                    "A sequence takes STRING: set both to it"
                )
        return self

    @model_validator(mode="after")
    def _crosses_fit(self) -> Self:
        for name, cross in self.crosses.items():
            columns = self.side(cross.side)
            if name in columns:
                raise ValueError(f"crosses.{name}: {cross.side} has a column of that name; give the cross another")
            if len(set(cross.columns)) < len(cross.columns):
                raise ValueError(f"crosses.{name}: names a column twice: {', '.join(cross.columns)}")
            for source in cross.columns:
                if problem := _why_not_crossed(source, columns):
                    raise ValueError(f"crosses.{name}: {cross.side} {source} {problem}")
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

    def side(self, side: Side) -> dict[str, Column]:
        """Columns of one side, by name."""
        return self.buyer if side == "buyer" else self.product

    def columns(self) -> Iterator[tuple[Side, str, Column]]:
        """Each column as (side, name, definition), buyer first."""
        for name, column in self.buyer.items():
            yield "buyer", name, column
        for name, column in self.product.items():
            yield "product", name, column


def _why_not_crossed(name: str, columns: dict[str, Column]) -> str | None:
    """What keeps a column out of crosses; None when nothing does."""
    column = columns.get(name)
    if column is None:
        close = difflib.get_close_matches(name, columns, n=1, cutoff=0.5)
        return f"is no column; expected one of {', '.join(columns)}." + (f" Did you mean {close[0]}?" if close else "")
    if column.is_primary_id:
        return "is the primary id, which training hides now and then; a cross would give it away"
    if column.cyclical and len(column.cyclical.period) > 1 and not (column.embedding or column.bucketize):
        return f"has several periods ({', '.join(column.cyclical.period)}); expected one"
    if not (column.embedding or column.bucketize or column.cyclical):
        return f"has {', '.join(column.transforms)}; expected embedding, bucketize or cyclical"
    return None
