"""A file of labelled rows in, a checked spine out: numbered questions of a user about a product at a moment.

Columns of a spine: `query_num` (int64, from 0, in the order of the rows), `row_number` (the row of the file), `place`
(null; of a negative its place among those of its row), `user_id`, `item_id`, `event_time_us`, `label` where there is
one, then the file's other columns as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from endcap.contracts import columns as c
from endcap.contracts.errors import InputError
from endcap.features.exact import MOMENT_US, QUERY_NUM
from endcap.features.negatives import PLACE
from endcap.features.split import PERIOD

LABEL: Final = "label"
_TIME: Final = "event_time"
_NEEDED: Final = (c.USER_ID, c.ITEM_ID)
_MADE: Final = (QUERY_NUM, c.ROW_NUMBER, PLACE, PERIOD)
_MOMENT: Final = pa.timestamp("us", tz="UTC")


def read_spine(path: Path) -> pa.Table:
    """Read a Parquet or CSV file of labelled rows. A moment without a time zone is in UTC.

    Raises InputError when the file can't be read, lacks a column, has one that is made here, a row without a user or a
    moment, or a label other than 0 and 1.
    """
    found = _read(path)
    names = found.column_names
    times = [name for name in (_TIME, MOMENT_US) if name in names]
    if missing := [name for name in _NEEDED if name not in names]:
        raise InputError(f"{path} has no column {missing[0]}; it has: {', '.join(names)}. Rename one.")
    if len(times) != 1:
        raise InputError(
            f"{path} has {' and '.join(times) or 'no moment'}; expected one of {_TIME} (a timestamp) and {MOMENT_US} "
            f"(microseconds since 1970, UTC). It has: {', '.join(names)}."
        )
    if taken := [name for name in _MADE if name in names]:
        raise InputError(f"{path} has a column {taken[0]}, which the spine gets here. Rename it.")
    if not found.num_rows:
        raise InputError(f"{path} has no rows; expected some with {c.USER_ID}, {c.ITEM_ID} and {times[0]}.")
    checked = {
        c.USER_ID: _ids(path, found, c.USER_ID),
        c.ITEM_ID: _ids(path, found, c.ITEM_ID),
        MOMENT_US: _moments(path, times[0], found[times[0]]),
    }
    for name in (c.USER_ID, MOMENT_US):
        if checked[name].null_count:
            row = pc.index(pc.is_null(checked[name]), True).as_py()
            raise InputError(
                f"{path}: {checked[name].null_count:,} rows have no {name}, the first is row {row:,} (from 0). Leave them out."
            )
    if LABEL in names:
        checked[LABEL] = _labels(path, found[LABEL])
    others = {name: found[name] for name in names if name not in (*_NEEDED, *times, LABEL)}
    numbers = pa.array(np.arange(found.num_rows, dtype=np.int64))
    places = pa.nulls(found.num_rows, pa.int64())
    return pa.table({QUERY_NUM: numbers, c.ROW_NUMBER: numbers, PLACE: places, **checked, **others})


def with_negatives(spine: pa.Table, negatives: pa.Table) -> pa.Table:
    """Each row of the spine, followed by its negatives, numbered anew.

    A negative has its row's user, moment and `period`, the label 0, and nulls in the file's other columns. Rows of a spine
    without labels get the label 1. `negatives`: `query_num` (the spine's), `place`, `item_id`.
    """
    if LABEL not in spine.column_names:
        spine = spine.append_column(LABEL, pa.array(np.ones(spine.num_rows, np.int64)))
    rows = spine.take(negatives[QUERY_NUM])
    kept = {c.ROW_NUMBER, c.USER_ID, MOMENT_US, PERIOD}
    made = {
        PLACE: negatives[PLACE],
        c.ITEM_ID: negatives[c.ITEM_ID],
        LABEL: pa.array(np.zeros(negatives.num_rows, np.int64)),
    }
    columns = {
        name: rows[name]
        if name in kept
        else made.get(name, pa.nulls(negatives.num_rows, spine.schema.field(name).type))
        for name in spine.column_names
    }
    both = pa.concat_tables([spine, pa.table(columns, schema=spine.schema)])
    order = np.lexsort((both[PLACE].fill_null(-1).to_numpy(), both[c.ROW_NUMBER].to_numpy()))
    placed = both.take(pa.array(order))
    numbers = pa.array(np.arange(placed.num_rows, dtype=np.int64))
    return placed.set_column(placed.column_names.index(QUERY_NUM), QUERY_NUM, numbers)


def positives(spine: pa.Table) -> pa.Table:
    """The rows that negatives are drawn for: those that name a product, and have the label 1 where there are labels."""
    wanted = pc.is_valid(spine[c.ITEM_ID])
    if LABEL in spine.column_names:
        wanted = pc.and_(wanted, pc.fill_null(pc.equal(spine[LABEL], 1), False))
    return spine.filter(wanted)


def _read(path: Path) -> pa.Table:
    if not path.is_file():
        raise InputError(f"There is no file {path}; expected Parquet or CSV with labelled rows.")
    try:
        if path.suffix.lower() == ".csv":
            as_text = pa_csv.ConvertOptions(
                column_types=dict.fromkeys(_NEEDED, pa.string()), strings_can_be_null=True, null_values=[""]
            )
            return pa_csv.read_csv(path, convert_options=as_text)
        return pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} can't be read: {error}. Expected a Parquet file, or a CSV named *.csv.") from error


def _ids(path: Path, found: pa.Table, name: str) -> pa.ChunkedArray:
    values = found[name]
    kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
        raise InputError(f"{path}: {name} is {values.type}; expected text or whole numbers.")
    return values.cast(kind).cast(pa.string())


def _moments(path: Path, name: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    expected = pa.types.is_integer if name == MOMENT_US else pa.types.is_timestamp
    if not expected(values.type):
        meant = "microseconds since 1970 as whole numbers" if name == MOMENT_US else "a timestamp"
        raise InputError(f"{path}: {name} is {values.type}; expected {meant}. Microseconds are called {MOMENT_US}.")
    if name == MOMENT_US:
        return values.cast(pa.int64())
    if values.type.tz is None:
        values = values.cast(pa.timestamp(values.type.unit, tz="UTC"))
    try:
        return values.cast(_MOMENT, safe=False).cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: {name} has moments out of range: {error}.") from error


def _labels(path: Path, values: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        labels = values.cast(pa.int64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"{path}: label is {values.type}; expected 0 and 1: {error}.") from error
    others = pc.unique(labels.filter(pc.invert(pc.is_in(labels, value_set=pa.array([0, 1, None], pa.int64())))))
    if len(others):
        raise InputError(f"{path}: label has the value {others[0].as_py()}; expected 0, 1 or nothing.")
    return labels
