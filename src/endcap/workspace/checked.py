"""An Arrow table in, the same rows held to a table's contract out: columns, types, nulls, unique keys in their order."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from endcap.contracts.errors import InputError
from endcap.contracts.events import TableContract


def checked(contract: TableContract, data: pa.Table) -> pa.Table:
    """`data` with exactly the contract's columns and types, in the order of its key.

    Raises InputError naming table, column, found and expected when a column is missing, unknown, of a type that
    doesn't convert without loss, or null where it must not be, and when two rows have the same key.
    """
    names, expected = set(data.column_names), contract.schema.names
    if missing := [name for name in expected if name not in names]:
        raise InputError(f"Table {contract.name} lacks the column {missing[0]}; found: {', '.join(data.column_names)}.")
    if unknown := [name for name in data.column_names if name not in expected]:
        raise InputError(f"Table {contract.name} has no column {unknown[0]}; expected: {', '.join(expected)}.")
    columns = []
    for wanted in contract.schema:
        column = data.column(wanted.name)
        try:
            column = column.cast(wanted.type)
        except pa.ArrowException as error:
            raise InputError(
                f"Table {contract.name}, column {wanted.name}: found {column.type}, expected {wanted.type}: {error}"
            ) from error
        if not wanted.nullable and column.null_count:
            raise InputError(
                f"Table {contract.name}, column {wanted.name}: found {column.null_count} nulls, expected none."
            )
        columns.append(column)
    table = in_key_order(contract, pa.table(columns, schema=contract.schema))
    if _has_equal_neighbours(table.select(contract.key)):
        raise InputError(
            f"Table {contract.name} has several rows with the same {', '.join(contract.key)}; expected one each."
        )
    return table


def _has_equal_neighbours(keys: pa.Table) -> bool:
    equal = np.ones(max(keys.num_rows - 1, 0), dtype=bool)
    for column in keys.columns:
        equal &= pc.equal(column.slice(1), column.slice(0, len(equal))).to_numpy()
    return bool(equal.any())


def in_key_order(contract: TableContract, table: pa.Table) -> pa.Table:
    """The rows in the order of the contract's key."""
    ordered = table.sort_by([(key, "ascending") for key in contract.key])
    return ordered.combine_chunks()


def partitions_of(contract: TableContract, table: pa.Table) -> dict[str, pa.Table]:
    """Slices by the text of their partition's value, each in the order of `table`; without partitions all under ""."""
    if contract.partition_by is None:
        return {"": table}
    if table.num_rows == 0:
        return {}
    values = pc.dictionary_encode(table.column(contract.partition_by).combine_chunks().cast(pa.string()))
    codes = values.indices.to_numpy()
    # A stable sort keeps the order of the key inside each partition.
    order = np.argsort(codes, kind="stable")
    ordered = table if (codes[1:] >= codes[:-1]).all() else table.take(pa.array(order)).combine_chunks()
    found, starts = np.unique(codes[order], return_index=True)
    stops = [*starts[1:], table.num_rows]
    names = values.dictionary.to_pylist()
    return {
        names[code]: ordered.slice(start, stop - start) for code, start, stop in zip(found, starts, stops, strict=True)
    }
