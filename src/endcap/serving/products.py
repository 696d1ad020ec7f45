"""A release's `items.parquet` in, the product side of pairs out: by row, with what a request says instead."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from endcap.contracts.errors import ArtifactError
from endcap.contracts.release import ProductInput, Ranking
from endcap.serving.buyers import NUMPY_TYPES, padded
from endcap.serving.checks import default_value, is_list
from endcap.serving.instances import Pairs

if TYPE_CHECKING:  # it takes longer to import than the rest of this module to run
    import numpy.typing as npt

_ARROW_TYPES: Final = {"STRING": pa.string(), "INT64": pa.int64(), "FLOAT": pa.float32()}


class ProductTable:
    """What the release knows of its products.

    Every column has one row more, which stands for a product that the release doesn't have: row -1 in NumPy's count.
    Numbers lie as arrays, texts and lists in Arrow until a pair asks for them.
    """

    def __init__(self, path: Path, ranking: Ranking) -> None:
        """Read the columns that the ranking graph takes.

        Raises ArtifactError when the file can't be read, lacks one or has other types, or repeats a product.
        """
        self.item_input = ranking.item_input
        """The input that carries a product's id."""
        self._id_type = NUMPY_TYPES[ranking.item_id_type]
        self._inputs = [one for one in ranking.product_inputs if one.tensor.name != ranking.item_input]
        id_column = next(one.column for one in ranking.product_inputs if one.tensor.name == ranking.item_input)
        wanted = list(dict.fromkeys([id_column, *(one.column for one in self._inputs)]))
        try:
            present = pq.read_schema(path).names
            if missing := [name for name in wanted if name not in present]:
                raise ArtifactError(f"{path} lacks {', '.join(missing)}, which rank.onnx takes. Release again.")
            table = pq.read_table(path, columns=wanted, use_threads=False)
            ids = table.column(id_column).cast(_ARROW_TYPES[ranking.item_id_type]).to_pylist()
            self._columns = {one.tensor.name: _column(table.column(one.column), one) for one in self._inputs}
        except (OSError, ValueError, pa.ArrowException) as error:
            raise ArtifactError(f"{path} can't be read as the products' features: {error}. Release again.") from error
        self._row_by_id = {item_id: row for row, item_id in enumerate(ids)}
        if len(self._row_by_id) != len(ids) or None in self._row_by_id:
            raise ArtifactError(
                f"{path} has {len(ids):,} rows for {len(self._row_by_id):,} products; expected one each. Release again."
            )

    def rows_of(self, ids: Sequence[Any]) -> npt.NDArray[np.int64]:
        """Rows of the products, in that order; -1 for those that the release doesn't have."""
        lookup = self._row_by_id.get
        return np.array([lookup(item_id, -1) for item_id in ids], dtype=np.int64)

    def feed(self, asked: Sequence[Pairs]) -> dict[str, npt.NDArray[Any]]:
        """The product inputs of the graph: a row each product of each customer, in that order."""
        rows = np.concatenate([pairs.rows for pairs in asked])
        ids = [item_id for pairs in asked for item_id in pairs.item_ids]
        feeds = {}
        for one in self._inputs:
            name = one.tensor.name
            values = _taken(self._columns[name], rows, one)
            place = 0
            for pairs in asked:
                for i, value in enumerate(pairs.given.get(name, ())):
                    if value is not None:
                        values[place + i] = value
                place += len(pairs.item_ids)
            feeds[name] = (
                padded(values, one.tensor.dtype, max(one.tensor.shape[1], 0)) if is_list(one.tensor) else values
            )
        return feeds | {self.item_input: np.array(ids, dtype=self._id_type)}


def _column(column: pa.ChunkedArray, one: ProductInput) -> Any:
    """A column with a last row for what is unknown: an array of numbers, or Arrow's of texts and lists."""
    tensor = one.tensor
    dtype = _ARROW_TYPES[tensor.dtype]
    if is_list(tensor):
        return pa.concat_arrays([*column.cast(pa.list_(dtype)).chunks, pa.array([[]], pa.list_(dtype))])
    missing = pa.array([default_value(tensor)], dtype)
    whole = pa.concat_arrays([*column.cast(dtype).chunks, missing])
    whole = whole.fill_null(missing[0])
    return whole if tensor.dtype == "STRING" else whole.to_numpy(zero_copy_only=False)


def _taken(column: Any, rows: npt.NDArray[np.int64], one: ProductInput) -> Any:
    """The rows, as an array that may be written to; of lists, as a list of them."""
    if isinstance(column, np.ndarray):
        return column[rows]
    taken = column.take(pa.array(np.where(rows < 0, len(column) - 1, rows)))
    if is_list(one.tensor):
        return [[] if values is None else values for values in taken.to_pylist()]
    return np.array(taken.to_pylist(), dtype=object)
