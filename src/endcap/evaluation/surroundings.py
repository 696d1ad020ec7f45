"""The catalog and what customers had before in, every list's breadth, diversity, novelty and popularity out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from endcap.contracts import columns as c
from endcap.contracts.errors import InputError
from endcap.evaluation import beyond
from endcap.evaluation.files import Ids, ids_of, need_columns, numbers_in, user_column
from endcap.evaluation.metrics import RaggedSets, RankingArray, exposures

VECTOR = "vector"

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Catalog:
    """All products that could be recommended, with what diversity needs of them where it is known.

    `categories` are numbers from 0, -1 for unknown; `vectors` are `[num_items, dim]`.
    """

    ids: pa.Array
    categories: IntArray | None = None
    vectors: FloatArray | None = None


@dataclass(frozen=True)
class Past:
    """What customers had before the truth: one row per event, customer and product."""

    users: Ids
    items: Ids


@dataclass(frozen=True)
class Surroundings:
    """Everything about products and customers that is not the truth, on the numbering of one comparison.

    `popularity` is each product's share of the customers of the past who had it; `own_popularity` each customer's mean of
    it over what they had, NaN for those without a past.
    """

    num_items: int | None = None
    categories: IntArray | None = None
    vectors: FloatArray | None = None
    popularity: FloatArray | None = None
    own_popularity: FloatArray | None = None
    num_past_users: int = 0

    @classmethod
    def of(cls, catalog: Catalog | None, past: Past | None, user_ids: pa.Array, item_ids: pa.Array) -> Surroundings:
        """Bring both onto the numbering; products beyond the catalog are of no category and have no vector."""
        pad = len(item_ids) - (len(catalog.ids) if catalog else 0)
        popularity, own, num_users = None, None, 0
        if past is not None:
            num_users = len(past.users.ids)
            had = RaggedSets.from_pairs(past.users.codes, past.items.codes, num_users)
            shares = beyond.popularity_of(had, len(past.items.ids))
            places = numbers_in(item_ids, past.items.ids)
            popularity = np.where(places >= 0, shares[places], 0.0)
            own = _own_popularity(had, shares, numbers_in(user_ids, past.users.ids))
        return cls(
            num_items=len(catalog.ids) if catalog else None,
            categories=None
            if catalog is None or catalog.categories is None
            else np.pad(catalog.categories, (0, pad), constant_values=-1),
            vectors=None if catalog is None or catalog.vectors is None else np.pad(catalog.vectors, ((0, pad), (0, 0))),
            popularity=popularity,
            own_popularity=own,
            num_past_users=num_users,
        )

    def per_customer(self, rankings: RankingArray, ks: tuple[int, ...]) -> dict[str, FloatArray]:
        """What each list is like; NaN where a list is too short, or a customer has no past, to tell."""
        found: dict[str, FloatArray] = {}
        for k in ks:
            if self.categories is not None and k > 1:
                found[f"diversity@{k}"] = beyond.diversity_by_category_at(rankings, self.categories, k)
            if self.vectors is not None and k > 1:
                found[f"vector_diversity@{k}"] = beyond.diversity_by_vectors_at(rankings, self.vectors, k)
            if self.popularity is not None and self.own_popularity is not None:
                found[f"novelty@{k}"] = beyond.novelty_at(rankings, self.popularity, self.num_past_users, k)
                popularity = beyond.mean_over_list(rankings, self.popularity, k)
                found[f"popularity@{k}"] = popularity
                found[f"popularity_gap@{k}"] = popularity - self.own_popularity
        return found

    def totals(self, rankings: RankingArray, ks: tuple[int, ...]) -> dict[str, float]:
        """What only all lists together have: coverage of the catalog, and how unevenly it is shown."""
        if self.num_items is None:
            return {}
        totals: dict[str, float] = {}
        for k in ks:
            counts = exposures(rankings, self.num_items, k)
            totals |= {f"coverage@{k}": float((counts > 0).mean()), f"gini@{k}": beyond.gini(counts)}
        return totals


def read_catalog(table: pa.Table, role: str = "the products") -> Catalog:
    """`item_id`, with `category` (text) and `vector` (numbers) where there are such columns.

    Raises InputError when an id is missing or stands twice, or vectors are of different lengths.
    """
    need_columns(table, [c.ITEM_ID], role)
    items = ids_of(table[c.ITEM_ID], c.ITEM_ID, role)
    if len(items.ids) < table.num_rows:
        raise InputError(
            f"{role}: {table.num_rows - len(items.ids):,} of {table.num_rows:,} rows repeat an item_id; expected one row per "
            "product."
        )
    ids = items.ids.take(pa.array(items.codes))
    categories = None
    if c.CATEGORY in table.column_names:
        encoded = table[c.CATEGORY].combine_chunks().dictionary_encode()
        categories = np.asarray(encoded.indices.fill_null(-1)).astype(np.int64)
    return Catalog(ids, categories, _vectors(table, role) if VECTOR in table.column_names else None)


def read_past(table: pa.Table, role: str = "the history") -> Past:
    """`user_id` and `item_id`, one row per event."""
    need_columns(table, [c.ITEM_ID], role)
    user = user_column(table, role)
    return Past(ids_of(table[user], user, role), ids_of(table[c.ITEM_ID], c.ITEM_ID, role))


def _vectors(table: pa.Table, role: str) -> FloatArray:
    lists = table[VECTOR].combine_chunks()
    if not (
        pa.types.is_list(lists.type) or pa.types.is_fixed_size_list(lists.type) or pa.types.is_large_list(lists.type)
    ):
        raise InputError(f"{role}: column vector holds {lists.type}; expected a list of numbers per product.")
    flat = np.asarray(lists.flatten().cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
    lengths = set(np.unique(np.asarray(pc.list_value_length(lists).fill_null(-1))).tolist())
    if len(lengths) != 1 or not np.isfinite(flat).all() or -1 in lengths:
        raise InputError(
            f"{role}: vectors have the lengths {sorted(lengths)[:5]} (-1: missing) or hold what is no number; expected one "
            "length for all, and finite numbers."
        )
    return flat.reshape(len(lists), -1)


def _own_popularity(had: RaggedSets, shares: FloatArray, places: IntArray) -> FloatArray:
    """The mean share of customers who had a product, over what each customer had; `places` are rows of `had` or -1."""
    sums = np.bincount(had.rows, weights=shares[had.values], minlength=len(had.lengths))
    return np.where(places >= 0, (sums / had.lengths)[places], np.nan)
