"""Anyone's Parquet or CSV file in, a table with the columns that were asked for and ids that can be matched out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from endcap.contracts import columns as c
from endcap.contracts.errors import InputError

USER_KEY = "user_key"
ITEM_IDS = "item_ids"
RANK = "rank"
_CSV_SUFFIXES = (".csv", ".csv.gz")
_IDS = (c.USER_ID, USER_KEY, c.ITEM_ID)
_LARGEST_WHOLE_FLOAT = 2**53
_BLOCK = 1 << 16  # rows at a time: small enough to stay in the processor's cache

IntArray = NDArray[np.int64]
CodeArray = NDArray[np.int64] | NDArray[np.int32]


@dataclass(frozen=True)
class Ids:
    """A column of ids: `ids` are the distinct ones as text, `codes` says which of them stands in each row."""

    codes: CodeArray
    ids: pa.Array

    @property
    def kind(self) -> str:
        """What the ids look like, for messages that must not show one."""
        if not len(self.ids):
            return "none at all"
        lengths = pc.min_max(pc.utf8_length(self.ids)).as_py()
        return f"{len(self.ids):,} distinct ids, {self.looks}, {lengths['min']} to {lengths['max']} characters long"

    @property
    def looks(self) -> str:
        """Whether the ids are digits alone."""
        num_digits = int(pc.sum(pc.utf8_is_digit(self.ids)).as_py() or 0)
        return {0: "none of digits alone", len(self.ids): "all of digits"}.get(num_digits, f"{num_digits:,} of digits")


def read_file(path: Path, role: str) -> pa.Table:
    """The table in `path`: a Parquet file, a folder of Parquet files, or a CSV file with a header.

    `role` names the file in messages, such as "the truth". In a CSV file ids are read as text, so that leading zeros
    stay, and an empty field is a missing value. Raises InputError when there is no such file, it is empty, or it can't be
    read.
    """
    if not path.exists():
        raise InputError(
            f"{role}: {path} does not exist. Give the path of a Parquet file, a folder of them, or a CSV file."
        )
    if path.is_file() and not path.stat().st_size:
        raise InputError(f"{role}: {path} is empty (0 bytes); a Parquet or CSV file with rows was expected.")
    is_csv = path.name.lower().endswith(_CSV_SUFFIXES)
    try:
        # Texts of ids arrive as codes, the way Parquet keeps them: made into strings, they would be hashed row by row.
        table = _read_csv(path) if is_csv else _read_parquet(path)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OSError) as error:
        expected = "CSV with one header line and commas" if is_csv else "Parquet (what ends in .csv is read as CSV)"
        raise InputError(f"{role}: {path} can't be read; {expected} was expected. {_first_line(error)}") from error
    if not table.num_rows:
        raise InputError(f"{role}: {path} has no rows; at least one was expected.")
    return table


def user_column(table: pa.Table, role: str) -> str:
    """The name of the column of users: `user_id`, or `user_key` where ids are hashed."""
    found = [name for name in (c.USER_ID, USER_KEY) if name in table.column_names]
    if len(found) != 1:
        raise InputError(
            f"{role}: found {'both of' if found else 'neither of'} the columns user_id and user_key; expected one of them. "
            f"The columns are {', '.join(table.column_names)}."
        )
    return found[0]


def need_columns(table: pa.Table, names: Sequence[str], role: str) -> None:
    """Raise InputError unless the table has all columns `names`."""
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise InputError(
            f"{role}: found the columns {', '.join(table.column_names)}; expected {', '.join(missing)} too. "
            "Rename the columns of the file, or add what is missing."
        )


def ids_of(column: pa.ChunkedArray | pa.Array, name: str, role: str) -> Ids:
    """A column of ids as codes and distinct texts.

    Text stays as it is; whole numbers, also those that a missing value had turned into floating point, become their
    digits, so that 17850, 17850.0 and "17850" are one id. Raises InputError on missing ids and on other types.
    """
    if column.null_count:
        raise InputError(
            f"{role}: {column.null_count:,} of {len(column):,} rows have no {name}; every row needs one. Leave those rows out."
        )
    if pa.types.is_integer(column.type) and (found := _of_near_integers(column)) is not None:
        return found
    flat = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    encoded = flat if pa.types.is_dictionary(flat.type) else pc.dictionary_encode(flat)
    if isinstance(encoded, pa.ChunkedArray):  # too large for one chunk
        encoded = encoded.unify_dictionaries().combine_chunks()
    indices = np.asarray(encoded.indices)
    codes = indices if indices.dtype == np.int32 else indices.astype(np.int64)
    return Ids(codes, _as_text(encoded.dictionary, name, role))


def numbers_of(column: pa.ChunkedArray, name: str, role: str, *, needed: bool = True) -> NDArray[Any]:
    """A column of numbers as an array. Raises InputError on other types, and on missing or infinite ones if `needed`."""
    kind = column.type
    if not (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_boolean(kind)
    ):
        raise InputError(f"{role}: column {name} holds {kind}, expected numbers.")
    if pa.types.is_integer(kind) and not column.null_count:
        return np.asarray(column.to_numpy())
    values = np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
    num_bad = int((~np.isfinite(values)).sum())
    if needed and num_bad:
        raise InputError(
            f"{role}: column {name} is missing or not finite in {num_bad:,} of {len(values):,} rows; expected a number in "
            "each. Fill them or leave those rows out."
        )
    return values


def numbers_in(ids: pa.Array, universe: pa.Array) -> IntArray:
    """The place of each of `ids` in `universe`, -1 where it is not there."""
    return np.asarray(pc.index_in(ids, value_set=universe).fill_null(-1)).astype(np.int64)


def _of_near_integers(column: pa.ChunkedArray | pa.Array) -> Ids | None:
    """Whole numbers that lie close together, by counting instead of hashing; None for others."""
    low, high = pc.min_max(column).as_py().values()
    if low is None or high - low > 4 * len(column) or max(abs(low), abs(high)) >= 2**63:
        return None
    is_there = np.zeros(high - low + 1, dtype=np.bool_)
    is_narrow = high - low < 2**31
    codes: CodeArray = np.empty(len(column), np.int32) if is_narrow else np.empty(len(column), np.int64)
    start = 0
    for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
        values = np.asarray(chunk)
        for first in range(0, len(values), _BLOCK):
            above_low = values[first : first + _BLOCK].astype(np.int64, copy=False) - low
            is_there[above_low] = True
            codes[start : start + len(above_low)] = above_low
            start += len(above_low)
    numbers = (np.cumsum(is_there) - 1).astype(codes.dtype)
    for first in range(0, len(codes), _BLOCK):
        block = codes[first : first + _BLOCK]
        block[:] = numbers[block]
    return Ids(codes, pa.array(np.flatnonzero(is_there) + low).cast(pa.string()))


def _as_text(values: pa.Array, name: str, role: str) -> pa.Array:
    kind = values.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind):
        return values.cast(pa.string())
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_string_view(kind):
        return values.cast(pa.string())
    if pa.types.is_floating(kind):
        numbers = np.asarray(values.cast(pa.float64()))
        if (
            np.isfinite(numbers).all()
            and (numbers == np.trunc(numbers)).all()
            and (np.abs(numbers) < _LARGEST_WHOLE_FLOAT).all()
        ):
            return pa.array(numbers.astype(np.int64)).cast(pa.string())
        raise InputError(
            f"{role}: column {name} holds fractions (or numbers too large to be exact) where ids were expected; "
            "write ids as text or as whole numbers."
        )
    raise InputError(
        f"{role}: column {name} holds {kind} where ids were expected; write ids as text or as whole numbers."
    )


def _read_parquet(path: Path) -> pa.Table:
    """The table, with whole numbers as 32 bits where the file says that they fit.

    Memory that is touched for the first time is what reading a long file costs most: numbers are read some rows at a time
    through the same memory, and kept half as wide.
    """
    if path.is_dir():
        return pq.read_table(path, read_dictionary=list(_IDS))
    as_codes = [name for name in pq.read_schema(path).names if name in _IDS]
    with pq.ParquetFile(path, read_dictionary=as_codes) as file:
        narrow = _narrow_columns(file)
        num_rows = file.metadata.num_rows
        numbers = {name: np.empty(num_rows, np.int32) for name in narrow}
        rest, start = [], 0
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            for name, filled in numbers.items():
                place = start
                for chunk in table[name].chunks:
                    filled[place : place + len(chunk)] = chunk
                    place += len(chunk)
            rest.append(table.drop_columns(narrow))
            start += table.num_rows
        names = file.schema_arrow.names
    if not rest:
        return pq.read_table(path)
    left = iter(pa.concat_tables(rest).columns)
    columns = [pa.array(numbers[name]) if name in numbers else next(left) for name in names]
    return pa.table(columns, names=names)


def _narrow_columns(file: pq.ParquetFile) -> list[str]:
    """Columns of 64-bit integers without a null whose least and largest numbers, as the file keeps them, need 32 bits."""
    found = []
    metadata, names = file.metadata, file.schema_arrow.names
    places = {metadata.schema.column(place).path: place for place in range(metadata.num_columns)}
    for field in file.schema_arrow:
        if field.type != pa.int64() or names.count(field.name) > 1:
            continue
        groups = [metadata.row_group(one).column(places[field.name]) for one in range(metadata.num_row_groups)]
        told = [group.statistics for group in groups]
        if all(
            one is not None
            and one.has_min_max
            and one.has_null_count
            and not one.null_count
            and -(2**31) <= one.min <= one.max < 2**31
            for one in told
        ):
            found.append(field.name)
    return found


def _read_csv(path: Path) -> pa.Table:
    types: Mapping[str, Any] = dict.fromkeys(_IDS, pa.string())
    options = pa_csv.ConvertOptions(
        column_types=types, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=True
    )
    return pa_csv.read_csv(path, convert_options=options)


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0][:200] if str(error) else ""
