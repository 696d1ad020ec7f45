"""What is known of products (a release's `items.parquet`) and a filter in, the products that fit it out."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from endcap.contracts import columns as c
from endcap.contracts.errors import ArtifactError
from endcap.retrieval.selection import Selection
from endcap.serving.filters import FILTERS, Filter

if TYPE_CHECKING:  # it takes longer to import than the rest of this module to run
    import numpy.typing as npt

# What filters asked lately may take; each is asked by many customers, and finding its products takes a pass over all.
_MAX_BYTES: Final = 64 * 2**20


class ProductFilters:
    """Which products fit a filter."""

    def __init__(self, table: pa.Table) -> None:
        """Take what can be filtered by, a row each product; null where it is unknown, which fits no filter.

        Raises pyarrow's errors for columns of other types.
        """
        self._num_items = table.num_rows
        self.columns: list[str] = table.column_names
        """What can be filtered by."""
        self._read(table)
        self._selections: OrderedDict[Filter, Selection] = OrderedDict()
        self._num_bytes = 0
        self._turn = threading.Lock()

    @classmethod
    def open(cls, path: Path, item_ids: npt.NDArray[Any]) -> ProductFilters:
        """Read from `path` what can be filtered by; `item_ids` are the candidates', by row.

        Raises ArtifactError when the file can't be read or lacks the ids.
        """
        try:
            present = pq.read_schema(path).names
            columns = [name for name in FILTERS if name in present]
            table = pq.read_table(path, columns=[c.ITEM_ID, *columns], use_threads=False)
            ids = table[c.ITEM_ID].cast(pa.int64() if item_ids.dtype.kind == "i" else pa.string())
            rows = pc.index_in(pa.array(item_ids), value_set=ids.combine_chunks())
            return cls(table.take(rows).select(columns))  # null where the file doesn't know a candidate
        except (OSError, KeyError, ValueError, pa.ArrowException) as error:
            raise ArtifactError(f"{path} can't be read as the products' columns: {error}. Release again.") from error

    @classmethod
    def of(cls, columns: Mapping[str, Sequence[Any]]) -> ProductFilters:
        """Of values as they stand, None where unknown."""
        types = {c.CATEGORY: pa.string(), c.PRICE: pa.float64(), c.IN_STOCK: pa.bool_()}
        return cls(pa.table({name: pa.array(values, types[name]) for name, values in columns.items()}))

    def _read(self, table: pa.Table) -> None:
        if c.CATEGORY in self.columns:
            encoded = table[c.CATEGORY].cast(pa.string()).combine_chunks().dictionary_encode()
            self._names: list[str] = encoded.dictionary.to_pylist()
            self._name_N = encoded.indices.fill_null(len(self._names)).to_numpy(zero_copy_only=False).astype(np.int32)
        if c.PRICE in self.columns:
            self._price_N = table[c.PRICE].cast(pa.float64()).fill_null(np.nan).to_numpy()
        if c.IN_STOCK in self.columns:
            stock = table[c.IN_STOCK].cast(pa.bool_())
            self._is_in_stock_N = stock.fill_null(False).to_numpy()
            self._is_out_of_stock_N = pc.invert(stock).fill_null(False).to_numpy()

    def selection(self, asked: Filter) -> Selection:
        """The products that fit; one of which a column is unknown fits no filter by that column."""
        with self._turn:
            return self._selection(asked)

    def _selection(self, asked: Filter) -> Selection:
        found = self._selections.get(asked)
        if found is not None:
            self._selections.move_to_end(asked)
            return found
        mask = np.ones(self._num_items, dtype=np.bool_)
        for part in self._masks(asked):
            mask &= part
        found = Selection(mask)
        self._selections[asked] = found
        self._num_bytes += found.num_bytes
        while self._num_bytes > _MAX_BYTES and len(self._selections) > 1:
            _, oldest = self._selections.popitem(last=False)
            self._num_bytes -= oldest.num_bytes
        return found

    def _masks(self, asked: Filter) -> Iterable[npt.NDArray[np.bool_]]:
        if asked.categories is not None:
            below = tuple(name + c.CATEGORY_SEPARATOR for name in asked.categories)
            wanted = [name in asked.categories or name.startswith(below) for name in self._names]
            yield np.array([*wanted, False])[self._name_N]
        if asked.lowest_price is not None:
            yield self._price_N >= asked.lowest_price
        if asked.highest_price is not None:
            yield self._price_N <= asked.highest_price
        if asked.in_stock is not None:
            yield self._is_in_stock_N if asked.in_stock else self._is_out_of_stock_N
