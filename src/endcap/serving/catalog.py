"""A release's products and their columns in, those that a person means out: by id, or by words of their titles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from endcap.contracts import columns as c
from endcap.contracts.errors import ArtifactError

if TYPE_CHECKING:
    import numpy.typing as npt

MAX_WORDS: Final = 8
MAX_CATEGORIES: Final = 1_000

_COLUMNS: Final = {c.TITLE: pa.string(), c.CATEGORY: pa.string(), c.PRICE: pa.float64(), c.IN_STOCK: pa.bool_()}
# Among what is found equally well, the products that sell most come first, where the release knows that.
_SALES: Final = "purchases_per_10k"


class Found(NamedTuple):
    """What a search came to."""

    num_found: int
    products: list[dict[str, Any]]
    """The first of them, each by its id and the columns that the release has; None: unknown."""


class Catalog:
    """The products of a release, those that sell most first."""

    def __init__(self, path: Path | None, item_ids: npt.NDArray[Any] | None = None) -> None:
        """Read `path`, the release's products, for the candidates `item_ids`; without these, for all that are there.

        Raises ArtifactError when the file can't be read or lacks the ids.
        """
        table = pa.table({c.ITEM_ID: pa.array(item_ids)}) if item_ids is not None else None
        if path is not None:
            try:
                present = pq.read_schema(path).names
                wanted = [name for name in (c.ITEM_ID, *_COLUMNS, _SALES) if name in present]
                table = _joined(pq.read_table(path, columns=wanted, use_threads=False), table)
            except (OSError, KeyError, pa.ArrowException) as error:
                raise ArtifactError(
                    f"{path} can't be read as the products' columns: {error}. Release again."
                ) from error
        if table is None:
            raise ArtifactError("The release names no products. Release again.")
        if _SALES in table.column_names:
            table = table.take(pc.sort_indices(table, sort_keys=[(_SALES, "descending")]))
        self.columns = [name for name in _COLUMNS if name in table.column_names]
        """What is known of the products beside their ids."""
        self._columns = {name: table[name].combine_chunks() for name in (c.ITEM_ID, *self.columns)}
        self._texts = self._searched_texts()

    @property
    def num_products(self) -> int:
        """How many products there are."""
        return len(self._columns[c.ITEM_ID])

    def search(self, asked: str, limit: int) -> Found:
        """Products that have every word in their id or title; whole id, start of the id and start of words come first.

        Without a word, those that sell most.
        """
        words = asked.lower().split()[:MAX_WORDS]
        rows = np.arange(self.num_products)
        texts = self._texts
        for word in words:
            is_hit = pc.match_substring(texts, word).to_numpy(zero_copy_only=False)
            rows, texts = rows[is_hit], texts.filter(pa.array(is_hit))
        if words:
            rows = rows[np.argsort(_distance(texts, words), kind="stable")]
        return Found(len(rows), self._products_of(rows[:limit]))

    def of(self, ids: Sequence[Any]) -> list[dict[str, Any]]:
        """The products of these ids, each once, in that order; those that the release doesn't have are left out."""
        mine = self._columns[c.ITEM_ID]
        # The few that are asked for are looked up by each product: a table of all products would have to be made each time.
        places = pc.index_in(mine, value_set=pa.array(dict.fromkeys(ids), mine.type))
        rows = np.flatnonzero(places.is_valid().to_numpy(zero_copy_only=False))
        order = np.argsort(places.drop_null().to_numpy())
        return self._products_of(rows[order])

    def describe(self) -> dict[str, Any]:
        """How many products there are, and what their columns hold."""
        described: dict[str, Any] = {"num_products": self.num_products, "columns": self.columns}
        if c.CATEGORY in self.columns:
            counts = _by_category(self._columns[c.CATEGORY])
            most = sorted(counts.most_common(MAX_CATEGORIES))
            described["num_categories"] = len(counts)
            described["categories"] = [{"name": name, "num_products": number} for name, number in most]
        if c.PRICE in self.columns:
            described["price"] = pc.min_max(self._columns[c.PRICE]).as_py()
        if c.IN_STOCK in self.columns:
            described["num_in_stock"] = pc.sum(self._columns[c.IN_STOCK]).as_py() or 0
        return described

    def _searched_texts(self) -> pa.Array:
        """A space, the id, a space and the title, so that a space stands before every word."""
        ids = self._columns[c.ITEM_ID].cast(pa.string())
        titles = self._columns[c.TITLE].fill_null("") if c.TITLE in self.columns else ""
        return pc.utf8_lower(pc.binary_join_element_wise("", ids, titles, " "))

    def _products_of(self, rows: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
        place = pa.array(rows)
        taken = {name: column.take(place).to_pylist() for name, column in self._columns.items()}
        taken = {"id" if name == c.ITEM_ID else name: values for name, values in taken.items()}
        return [dict(zip(taken, values, strict=True)) for values in zip(*taken.values(), strict=True)]


def _joined(table: pa.Table, candidates: pa.Table | None) -> pa.Table:
    """The columns as they are read, a row each of the candidates; null where the file doesn't know one."""
    ids = table[c.ITEM_ID]
    if candidates is not None:
        wanted = candidates[c.ITEM_ID]
        rows = pc.index_in(wanted, value_set=ids.cast(wanted.type).combine_chunks())
        table, ids = table.take(rows), wanted
    columns = {c.ITEM_ID: ids}
    for name, kind in _COLUMNS.items():
        if name in table.column_names:
            columns[name] = table[name].cast(kind)
    if c.PRICE in columns:
        prices = columns[c.PRICE]
        columns[c.PRICE] = pc.if_else(pc.is_finite(prices), prices, None)
    if _SALES in table.column_names:
        columns[_SALES] = table[_SALES]
    return pa.table(columns)


def _distance(texts: pa.Array, words: Sequence[str]) -> npt.NDArray[np.int64]:
    """0: the id itself, 1: the id's start, 2: each word starts one of the product's, 3: somewhere."""
    asked = " " + " ".join(words)
    distance = np.full(len(texts), 3)
    starts = np.ones(len(texts), dtype=np.bool_)
    for word in words:
        starts &= pc.match_substring(texts, " " + word).to_numpy(zero_copy_only=False)
    distance[starts] = 2
    for number, start in ((1, asked), (0, asked + " ")):
        distance[pc.starts_with(texts, start).to_numpy(zero_copy_only=False)] = number
    return distance


def _by_category(names: pa.Array) -> Counter[str]:
    """Products of each category, those of the categories below among them."""
    counts: Counter[str] = Counter()
    for one in pc.value_counts(names.drop_null()).to_pylist():
        parts = one["values"].split(c.CATEGORY_SEPARATOR)
        for depth in range(len(parts)):
            counts[c.CATEGORY_SEPARATOR.join(parts[: depth + 1])] += one["counts"]
    return counts
