"""What the shop's files say of users and products over time in, one table of ranges with a column for each attribute out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
import pyarrow as pa

from endcap.contracts import columns as c
from endcap.contracts.encoded import Side
from endcap.contracts.errors import ColumnsError
from endcap.contracts.features import Column
from endcap.features.as_of import FOREVER_US, FROM_US, UNTIL_US

_TYPES: Final[dict[str, pa.DataType]] = {
    "INT64": pa.int64(), "FLOAT64": pa.float64(), "NUMERIC": pa.float64(), "BOOL": pa.bool_(),
    "TIMESTAMP": pa.timestamp("us"), "DATETIME": pa.timestamp("us"), "DATE": pa.date32(),
}  # fmt: skip


def names_of(attributes: pa.Table, side: Side) -> list[str]:
    """What table `attributes` says anything of, sorted."""
    return sorted({name for row in _said(attributes, side) for name in row[1]})


def ranges_of(
    known: pa.Table,
    key: str,
    attributes: pa.Table,
    side: Side,
    columns: Mapping[str, Column],
    more: pa.Table | None = None,
) -> pa.Table:
    """Each row of `known` once for every time in which all its attributes stay, from 0 to forever.

    Args:
        known: What doesn't change, one row an id.
        key: The column of `known` that holds the ids.
        attributes: Table `attributes`, of both sides.
        side: Whose attributes.
        columns: Those that are wanted, as the FeatureConfig has them: their types decide what the texts become.
        more: Columns with a history of their own: `key`, `from_us`, and names of `columns`.

    Raises ColumnsError when a text isn't of its column's type.
    """
    said: dict[str, list[tuple[int, str, dict[str, Any]]]] = {}
    for entity, row, since, batch in _said(attributes, side):
        said.setdefault(entity, []).append((since, batch, {name: row[name] for name in columns if name in row}))
    if more is not None:
        own = [name for name in more.column_names if name not in (key, FROM_US)]
        for entry in more.to_pylist():
            said.setdefault(entry[key], []).append((entry[FROM_US], "", {name: entry[name] for name in own}))
    places: list[int] = []
    starts: list[int] = []
    values: dict[str, list[Any]] = {name: [] for name in columns}
    for place, entity in enumerate(known[key].to_pylist()):
        for start, held in _over_time(said.get(entity, ())):
            places.append(place)
            starts.append(start)
            for name in columns:
                values[name].append(held.get(name))
    untils = [
        starts[row + 1] if row + 1 < len(places) and places[row + 1] == place else FOREVER_US
        for row, place in enumerate(places)
    ]
    ranges = known.take(pa.array(places, pa.int64()))
    for name, column in columns.items():
        ranges = _with(ranges, name, _typed(f"features.{side}.{name}", column, values[name]))
    return _with(_with(ranges, FROM_US, pa.array(starts, pa.int64())), UNTIL_US, pa.array(untils, pa.int64()))


def unknown_columns(side: Side, wanted: Iterable[str], known: Sequence[str]) -> list[tuple[str, str]]:
    """Problems as of ColumnsError: columns that a FeatureConfig names and nobody has."""
    problems = []
    for name in wanted:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f" Did you mean {close[0]}?" if close else ""
            problem = f"the data has no such column; it has {', '.join(sorted(known))}.{hint}"
            problems.append((f"features.{side}.{name}", problem))
    return problems


def _said(attributes: pa.Table, side: Side) -> Iterable[tuple[str, dict[str, Any], int, str]]:
    for row in attributes.to_pylist():
        if row[c.SIDE] == side:
            yield row[c.ENTITY_ID], msgspec.json.decode(row[c.PROPERTIES]), row[c.VALID_FROM_US], row[c.BATCH]


def _over_time(said: Iterable[tuple[int, str, dict[str, Any]]]) -> list[tuple[int, dict[str, Any]]]:
    """What held from which moment on: each statement changes what it names, the last batch in the alphabet last."""
    held: dict[str, Any] = {}
    found: dict[int, dict[str, Any]] = {0: {}}
    for since, _, row in sorted(said, key=lambda one: one[:2]):
        held = {**held, **row}
        found[max(since, 0)] = held
    kept: list[tuple[int, dict[str, Any]]] = []
    for since, row in found.items():
        if not kept or kept[-1][1] != row:
            kept.append((since, row))
    return kept


def _typed(key: str, column: Column, values: list[Any]) -> pa.Array:
    if column.holds_lists:
        return pa.array([_as_list(key, value) for value in values], pa.list_(pa.string()))
    wanted = _TYPES.get(column.type)
    if wanted is None:
        return pa.array([None if value is None else str(value) for value in values], pa.string())
    try:
        if all(value is None or isinstance(value, bool) for value in values):
            return pa.array(values, pa.bool_()).cast(wanted)
        return pa.array([None if value is None else str(value) for value in values], pa.string()).cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ColumnsError(
            [(key, f"the configuration says {column.type}, the data has texts that are none: {error}.")]
        ) from error


def _as_list(key: str, value: str | None) -> list[str] | None:
    if value is None:
        return None
    try:
        found = msgspec.json.decode(value)
    except msgspec.DecodeError:
        found = None
    if not isinstance(found, list):
        raise ColumnsError(
            [
                (
                    key,
                    "the configuration wants lists, the data has plain texts. Set separator where one text holds several.",
                )
            ]
        )
    return [str(one) for one in found if one is not None]


def _with(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.append_column(name, values) if place < 0 else table.set_column(place, name, values)
