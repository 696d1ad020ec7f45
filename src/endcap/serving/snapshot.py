"""A release's `features.parquet` in, one user's feature values by primary id out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from endcap.contracts.errors import ArtifactError

_ARROW_TYPES = {"STRING": pa.string(), "INT64": pa.int64(), "FLOAT": pa.float32()}


class UserSnapshot:
    """Feature values of the users known when the release was made; they stay in Arrow until asked for."""

    def __init__(self, path: Path, primary_id: str, primary_type: str, wanted: Mapping[str, tuple[str, bool]]) -> None:
        """Read from `path` those of the `wanted` columns that it has: name to (STRING, INT64 or FLOAT; is a list).

        Raises ArtifactError when the file can't be read, lacks the primary id, repeats one or has other types.
        """
        try:
            present = pq.read_schema(path).names
            if primary_id not in present:
                raise ArtifactError(
                    f"{path} lacks the column {primary_id}; it has {', '.join(present)}. Release again."
                )
            self.names = frozenset(wanted) & frozenset(present)
            table = pq.read_table(path, columns=[primary_id, *sorted(self.names)], use_threads=False)
            ids = table.column(primary_id).cast(_ARROW_TYPES[primary_type]).to_pylist()
            self._columns = {
                name: table.column(name).cast(_arrow_type(*wanted[name])).combine_chunks() for name in self.names
            }
        except (OSError, ValueError, pa.ArrowException) as error:
            raise ArtifactError(f"{path} can't be read as a snapshot of features: {error}. Release again.") from error
        self._row_by_id = {user_id: row for row, user_id in enumerate(ids)}
        if len(self._row_by_id) != len(ids):
            raise ArtifactError(
                f"{path} has {len(ids):,} rows for {len(self._row_by_id):,} users; expected one each. Release again."
            )

    def row_of(self, user_id: Any) -> int | None:
        """The user's row, None when the snapshot doesn't know them."""
        return self._row_by_id.get(user_id)

    def value(self, row: int, name: str) -> Any:
        """A feature of the user in `row`: a scalar, a list, or None where it is null or NaN or not in the file."""
        if name not in self.names:
            return None
        value = self._columns[name][row].as_py()
        return None if isinstance(value, float) and math.isnan(value) else value


def _arrow_type(dtype: str, is_list: bool) -> pa.DataType:
    return pa.list_(_ARROW_TYPES[dtype]) if is_list else _ARROW_TYPES[dtype]
