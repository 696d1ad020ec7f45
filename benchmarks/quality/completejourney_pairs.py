"""A grocer's purchases in, pairs of a household and a product that it may buy next, with what is known of them, out.

Everything that a pair's columns say was known before the moment at which it is asked for.
"""

# Shape suffixes: U = households asked, I = products, L = lines, C = codes of a level, P = pairs, F = columns

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import scipy.sparse as sp

from endcap.evaluation.customers import HeldOutCustomers
from endcap.models.als import Als
from endcap.models.ease import Ease
from endcap.models.item_knn import ItemKnn
from endcap.models.purchases import DAY_US, PurchaseLog

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]

LEVELS: Final = ("department", "product_category", "product_type", "brand", "manufacturer_id")
NESTED: Final = LEVELS[:3]
DEMOGRAPHICS: Final = ("age", "income", "home_ownership", "household_size", "household_comp", "kids_count")
GROUPS: Final = ("age", "income", "household_size")
WINDOWS: Final = (7, 14, 30, 90)
FADES: Final = (10.0, 30.0, 120.0)
_LIFT: Final = "_lift"
_UNKNOWN: Final = -1
_SMOOTHING: Final = 30.0
_GROUP_SMOOTHING: Final = 300.0
_NUM_POPULAR: Final = 60
_NUM_EACH: Final = 40
_NUM_OWN: Final = 150


@dataclass(frozen=True)
class Grocer:
    """Purchase lines in time order, what the shop says of products, and what is known of households, all as numbers."""

    log: PurchaseLog
    prices: FloatArray
    discounts: FloatArray
    stores: IntArray
    levels: Mapping[str, IntArray]
    """By level the code of each product, 0 where it isn't known."""
    households: Mapping[str, IntArray]
    """By demographic the code of each household, -1 where it isn't known."""

    @classmethod
    def read(cls, folder: Path) -> Grocer:
        """From the three files of the R package."""
        lines = pq.read_table(folder / "transactions.parquet", filters=[("quantity", ">", 0)])
        paid = pc.add(lines["sales_value"], lines["retail_disc"])
        lines = lines.append_column("paid", paid)
        by_purchase = lines.group_by(["household_id", "product_id", "basket_id"], use_threads=False)
        bought = by_purchase.aggregate([
            ("transaction_timestamp", "min"), ("sales_value", "sum"), ("paid", "sum"), ("quantity", "sum"), ("store_id", "min"),
        ]).sort_by([("transaction_timestamp_min", "ascending"), ("basket_id", "ascending"), ("product_id", "ascending")])  # fmt: skip
        users, user_ids = _codes(bought["household_id"])
        items, item_ids = _codes(bought["product_id"])
        baskets, _ = _codes(bought["basket_id"])
        moments = bought["transaction_timestamp_min"].cast(pa.int64()).to_numpy()
        log = PurchaseLog(users, items, baskets, moments, len(user_ids), len(item_ids))
        value, full, quantity = (
            bought[f"{name}_sum"].to_numpy().astype(np.float32) for name in ("sales_value", "paid", "quantity")
        )
        products = pq.read_table(folder / "products.parquet")
        products = products.take(pc.index_in(item_ids, value_set=products["product_id"].combine_chunks()))
        demographics = pq.read_table(folder / "demographics.parquet")
        places = pc.index_in(user_ids, value_set=demographics["household_id"].combine_chunks())
        known = demographics.take(places)
        return cls(
            log,
            value / np.maximum(quantity, 1),
            1 - value / np.maximum(full, 0.01),
            _codes(bought["store_id_min"])[0],
            {name: _codes(products[name])[0] + 1 for name in LEVELS},
            {name: _codes(known[name])[0] for name in DEMOGRAPHICS},
        )


@dataclass(frozen=True)
class Pairs:
    """Candidates of the households of one window, rising by household, in the order of `customers`, and product."""

    customers: HeldOutCustomers
    rows: IntArray
    """The household of each pair, as a row of `customers`."""
    items: IntArray
    columns: Mapping[str, FloatArray]
    """What is known of each pair, by name."""
    is_bought: npt.NDArray[np.bool_]
    is_own: npt.NDArray[np.bool_]


def pairs_of(grocer: Grocer, start_us: int, end_us: int, settings: Mapping[str, Mapping[str, Any]]) -> Pairs:
    """What households that bought before `start_us` may buy in `[start_us, end_us)`; `settings` are those of learned scores."""
    log = grocer.log
    before, within = log.ts_us < start_us, (log.ts_us >= start_us) & (log.ts_us < end_us)
    customers = HeldOutCustomers.from_purchases(
        earlier_user_nums=log.user_nums[before],
        earlier_item_nums=log.item_nums[before],
        earlier_basket_nums=log.basket_nums[before],
        test_user_nums=log.user_nums[within],
        test_item_nums=log.item_nums[within],
        num_items=log.num_items,
    )
    known = _Known(grocer, start_us, customers, settings)
    pairs = np.unique(np.concatenate([rows * log.num_items + items for rows, items in known.candidates()]))
    rows, items = np.divmod(pairs, log.num_items)
    return Pairs(
        customers,
        rows,
        items,
        dict(known.columns(rows, items)),
        customers.bought.contain(rows, items),
        customers.earlier.contain(rows, items),
    )


class _Known:
    """What may be known at one moment, as counts and as scores of every product for every household that is asked."""

    def __init__(
        self, grocer: Grocer, start_us: int, customers: HeldOutCustomers, settings: Mapping[str, Mapping[str, Any]]
    ) -> None:
        past = grocer.log.ts_us < start_us
        self._grocer, self._log = grocer, grocer.log.before(start_us)
        self._users = customers.user_nums
        self._prices, self._discounts, self._stores = (
            values[past] for values in (grocer.prices, grocer.discounts, grocer.stores)
        )
        self._age_L = ((start_us - self._log.ts_us) / DAY_US).astype(np.float32)
        self._num_I = self._sold()
        self._is_sold_I = self._num_I > 0
        self._popular_I = np.log(self._sold(self._age_L < 30) + 0.2 * self._sold(self._age_L < 120) + 0.02)
        self._popular_I[~self._is_sold_I] = -np.inf
        self._scores = dict(self._scored(start_us, settings))

    def _sold(self, weights_L: Any = None) -> FloatArray:
        counted = np.bincount(self._log.item_nums, weights=weights_L, minlength=self._log.num_items)
        return counted.astype(np.float32)

    def _matrix(self, columns_L: IntArray, num_columns: int, weights_L: Any = None) -> sp.csr_array:
        """Households that are asked by what each line is of, lines summed."""
        weights = np.ones(len(columns_L), np.float32) if weights_L is None else np.asarray(weights_L, np.float32)
        shape = (self._log.num_users, num_columns)
        return sp.csr_array(sp.csr_array((weights, (self._log.user_nums, columns_L)), shape=shape)[self._users])

    def _lift(self, codes_I: IntArray) -> FloatArray:
        """How much more than everybody a household buys of each code, logged; shares are smoothed."""
        num_codes = int(codes_I.max()) + 1
        own_UC = self._matrix(codes_I[self._log.item_nums], num_codes).toarray()
        share_C = np.bincount(codes_I, weights=self._num_I, minlength=num_codes) / self._num_I.sum()
        share_C = np.maximum(share_C, 1e-9)
        mixed_UC = (own_UC + _SMOOTHING * share_C) / (own_UC.sum(axis=1, keepdims=True) + _SMOOTHING)
        return np.log(mixed_UC / share_C).astype(np.float32)

    def _group_lift(self, codes: IntArray) -> FloatArray:
        """How much more than everybody the lines of each code are of a product, logged: `[num_codes, num_items]`."""
        is_known = codes >= 0
        shape = (int(codes.max()) + 1, self._log.num_items)
        ones = np.ones(int(is_known.sum()), np.float32)
        counted = sp.csr_array((ones, (codes[is_known], self._log.item_nums[is_known])), shape=shape).toarray()
        share_I = np.maximum(self._num_I / self._num_I.sum(), 1e-9)
        mixed = (counted + _GROUP_SMOOTHING * share_I) / (counted.sum(axis=1, keepdims=True) + _GROUP_SMOOTHING)
        return np.log(mixed / share_I).astype(np.float32)

    def _scored(self, start_us: int, settings: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, FloatArray]]:
        ease = Ease.fit(self._log, start_us, **settings[Ease.name])
        yield "ease", np.asarray(ease.score(self._users), np.float32)[:, ease.popularity.places]
        als = Als.fit(self._log, start_us, num_threads=1, **settings[Als.name])
        yield "als", (als.user_factors[self._users] @ als.item_factors.T)[:, als.popularity.places]
        near = ItemKnn.fit(self._log, start_us, **settings[ItemKnn.name])
        scores = np.asarray((near.bought[self._users] @ near.similarity).toarray(), np.float32)
        yield "co_purchase", scores[:, near.popularity.places]
        for name in NESTED:
            codes_I = self._grocer.levels[name]
            yield f"{name}{_LIFT}", self._lift(codes_I)[:, codes_I]
        stores_US = self._matrix(self._stores, int(self._stores.max()) + 1)
        share_US = stores_US / np.maximum(stores_US.sum(axis=1), 1)[:, None]
        yield f"store{_LIFT}", np.asarray(share_US @ self._group_lift(self._stores), np.float32)
        for name in GROUPS:
            codes = self._grocer.households[name]
            lift = self._group_lift(codes[self._log.user_nums])
            lift_UI = lift[codes[self._users]]
            lift_UI[codes[self._users] < 0] = 0.0
            yield f"{name}{_LIFT}", lift_UI
        yield "type_ease", self._type_ease(start_us)

    def _type_ease(self, start_us: int) -> FloatArray:
        """EASE among types of products, which are bought often enough to be learned from, times a product's share of its type."""
        log, codes_I = self._log, self._grocer.levels["product_type"]
        types = codes_I[log.item_nums]
        by_type = PurchaseLog(log.user_nums, types, log.basket_nums, log.ts_us, log.num_users, int(codes_I.max()) + 1)
        ease = Ease.fit(by_type, start_us, l2=100.0)
        scores_UC = np.asarray(ease.score(self._users), np.float32)[:, ease.popularity.places]
        weight_I = np.exp(self._popular_I)
        share_I = weight_I / np.maximum(np.bincount(codes_I, weights=weight_I), 1e-9)[codes_I]
        return np.asarray(scores_UC[:, codes_I] * share_I, np.float32)

    def candidates(self) -> Iterator[tuple[IntArray, IntArray]]:
        """Rows of households and products, source by source."""
        num = len(self._users)
        for window in WINDOWS:
            top = np.argsort(-self._sold(self._age_L < window) - 1e-3 * self._num_I, kind="stable")[:_NUM_POPULAR]
            yield np.repeat(np.arange(num), len(top)), np.tile(top, num)
        own = self._matrix(self._log.item_nums, self._log.num_items, np.exp2(-self._age_L / 120))
        yield _best_stored(own, _NUM_OWN)
        for name, scores in self._scores.items():
            whole = scores + self._popular_I if name.endswith(_LIFT) else scores
            best = np.argpartition(-whole, _NUM_EACH, axis=1)[:, :_NUM_EACH]
            rows = np.repeat(np.arange(num), _NUM_EACH)
            is_sold = self._is_sold_I[best.ravel()]
            yield rows[is_sold], best.ravel()[is_sold]

    def columns(self, rows_P: IntArray, items_P: IntArray) -> Iterator[tuple[str, FloatArray]]:
        """Each column of the pairs, by name."""
        yield from self._of_products(items_P)
        yield from self._of_households(rows_P)
        yield from self._of_both(rows_P, items_P)
        for name, scores in self._scores.items():
            yield name, scores[rows_P, items_P]

    def _of_products(self, items_P: IntArray) -> Iterator[tuple[str, FloatArray]]:
        total = len(self._log.ts_us)
        for window in WINDOWS:
            is_late = self._age_L < window
            yield f"sold_{window}d", (np.log1p(1e5 * self._sold(is_late) / max(is_late.sum(), 1)))[items_P]
        for half_life in FADES:
            faded_L = np.exp2(-self._age_L / half_life)
            yield f"sold_fading_{half_life:g}d", np.log1p(1e5 * self._sold(faded_L) / faded_L.sum())[items_P]
        yield "sold", np.log1p(1e5 * self._num_I / total)[items_P]
        num_I = np.maximum(self._num_I, 1)
        pairs = np.unique(self._log.user_nums * self._log.num_items + self._log.item_nums)
        buyers_I = np.bincount(pairs % self._log.num_items, minlength=self._log.num_items).astype(np.float32)
        yield "repeat_share", (1 - buyers_I / num_I)[items_P]
        yield "lines_per_buyer", ((self._num_I + 1) / (buyers_I + 1))[items_P]
        yield "price", (self._sold(self._prices) / num_I)[items_P]
        yield "discount", (self._sold(self._discounts) / num_I)[items_P]
        lately_L = self._age_L < 14
        yield "discount_14d", ((self._sold(self._discounts * lately_L) + 0.1) / (self._sold(lately_L) + 1))[items_P]
        first_I, last_I = np.zeros(len(num_I), np.float32), np.full(len(num_I), 1e4, np.float32)
        np.maximum.at(first_I, self._log.item_nums, self._age_L)
        np.minimum.at(last_I, self._log.item_nums, self._age_L)
        yield "days_since_first_sold", first_I[items_P]
        yield "days_since_last_sold", last_I[items_P]
        for name in NESTED:
            codes_I = self._grocer.levels[name]
            sold_C = np.bincount(codes_I, weights=self._sold(self._age_L < 30))
            yield f"{name}_sold_30d", np.log1p(sold_C)[codes_I[items_P]].astype(np.float32)
        yield "department", self._grocer.levels["department"][items_P].astype(np.float32)
        yield "brand", self._grocer.levels["brand"][items_P].astype(np.float32)

    def _of_households(self, rows_P: IntArray) -> Iterator[tuple[str, FloatArray]]:
        log = self._log
        num_U = np.bincount(log.user_nums, minlength=log.num_users)[self._users].astype(np.float32)
        yield "household_lines", num_U[rows_P]
        products_U = np.diff(self._matrix(log.item_nums, log.num_items).indptr)
        yield "household_products", (products_U / num_U).astype(np.float32)[rows_P]
        late = np.bincount(log.user_nums, weights=self._age_L < 60, minlength=log.num_users)[self._users]
        yield "household_lines_60d", late.astype(np.float32)[rows_P]
        last = np.full(log.num_users, 1e4, np.float32)
        np.minimum.at(last, log.user_nums, self._age_L)
        yield "days_since_last_purchase", last[self._users][rows_P]
        spent = np.bincount(log.user_nums, weights=self._prices, minlength=log.num_users)[self._users]
        yield "household_price", (spent / num_U).astype(np.float32)[rows_P]
        for name in DEMOGRAPHICS:
            yield f"household_{name}", self._grocer.households[name][self._users].astype(np.float32)[rows_P]

    def _of_both(self, rows_P: IntArray, items_P: IntArray) -> Iterator[tuple[str, FloatArray]]:
        log = self._log
        own = self._matrix(log.item_nums, log.num_items)
        yield "own_lines", _stored(own, rows_P, items_P)
        for half_life in (30.0, 120.0):
            faded = self._matrix(log.item_nums, log.num_items, np.exp2(-self._age_L / half_life))
            yield f"own_lines_fading_{half_life:g}d", _stored(faded, rows_P, items_P)
        for name in LEVELS:
            codes_I = self._grocer.levels[name]
            counted = self._matrix(codes_I[log.item_nums], int(codes_I.max()) + 1)
            yield f"own_lines_of_{name}", _stored(counted, rows_P, codes_I[items_P])
            faded = self._matrix(codes_I[log.item_nums], int(codes_I.max()) + 1, np.exp2(-self._age_L / 45))
            yield f"own_lines_of_{name}_fading", _stored(faded, rows_P, codes_I[items_P])
        yield f"brand{_LIFT}", self._lift(self._grocer.levels["brand"])[rows_P, self._grocer.levels["brand"][items_P]]


def _codes(column: pa.ChunkedArray) -> tuple[IntArray, pa.Array]:
    """Numbers in the order of the values' text, -1 for none, and the values."""
    texts = column.cast(pa.string()).combine_chunks()
    values = pc.unique(texts.drop_null()).sort()
    return pc.index_in(texts, value_set=values).fill_null(_UNKNOWN).to_numpy().astype(np.int64), values


def _stored(matrix: sp.csr_array, rows: IntArray, columns: IntArray) -> FloatArray:
    """Values at these cells, 0 where none is stored."""
    matrix.sum_duplicates()
    keys = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr)) * matrix.shape[1] + matrix.indices
    wanted = rows * matrix.shape[1] + columns
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, matrix.data[places], 0).astype(np.float32)


def _best_stored(matrix: sp.csr_array, most: int) -> tuple[IntArray, IntArray]:
    """Rows and columns of the `most` largest values of each row."""
    matrix.sum_duplicates()
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((-matrix.data, rows))
    place = np.arange(len(rows)) - matrix.indptr[rows]
    kept = order[place < most]
    return rows[kept], matrix.indices[kept].astype(np.int64)
