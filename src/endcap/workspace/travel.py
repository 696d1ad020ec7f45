"""A dataset version, a pin, a moment or a table's own version in, its rows as they were out, in today's shape."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.dataset as pa_dataset

from endcap.contracts.errors import ArtifactError, InputError
from endcap.contracts.events import TABLES
from endcap.workspace import migration, pins, tables
from endcap.workspace.checked import in_key_order
from endcap.workspace.layout import Workspace


def read_at(workspace: Workspace, name: str, at: str | int, *, columns: Sequence[str] | None = None) -> pa.Table:
    """A table as of a dataset version (a number), a pin or a moment (see `pins.versions_at`), in the order of its key.

    Raises InputError when there is no such dataset version, pin, moment or table, when a vacuum deleted its files, or
    values don't survive in today's types.
    """
    return _joined(name, list(pieces_at(workspace, name, at, columns=columns)), columns)


def read_version(workspace: Workspace, name: str, version: int, *, columns: Sequence[str] | None = None) -> pa.Table:
    """A table as of one of its own versions, otherwise like `read_at`."""
    return _joined(name, list(pieces_of_version(workspace, name, version, columns=columns)), columns)


def pieces_at(
    workspace: Workspace, name: str, at: str | int, *, columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """The rows of `read_at` partition after partition, so that memory holds one at a time."""
    versions = pins.versions_at(workspace, at)
    wanted = tables.chosen_columns(name, columns)
    stored = next((found for found in versions if migration.ALIASES.tables.get(found, found) == name), None)
    if stored is None:
        raise InputError(f"There was no table {name} at {at}; there were: {', '.join(sorted(versions))}.")
    return _pieces(workspace, name, stored, versions[stored], wanted)


def pieces_of_version(
    workspace: Workspace, name: str, version: int, *, columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """The rows of `read_version` partition after partition."""
    wanted = tables.chosen_columns(name, columns)
    newest = tables.table_version(workspace, name)
    if newest is None or not 0 <= version <= newest:
        found = "there is no such table" if newest is None else f"its versions are 0 to {newest}"
        raise InputError(f"{tables.table_path(workspace, name)} has no version {version}: {found}.")
    return _pieces(workspace, name, name, version, wanted)


def _pieces(workspace: Workspace, name: str, stored: str, version: int, wanted: list[str]) -> Iterator[pa.Table]:
    pins.refuse_lost_files(workspace, stored, version)
    contract = TABLES[name]
    rows = migration.rows_of(workspace, stored, version)
    # Partitions in their order hold the rows in the order of the key.
    by_value: dict[object, list[pa_dataset.Fragment]] = defaultdict(list)
    for fragment in rows.get_fragments():
        keys = pa_dataset.get_partition_keys(fragment.partition_expression)
        by_value[next(iter(keys.values()), "")].append(fragment)
    for value in sorted(by_value, key=str):
        piece = pa_dataset.FileSystemDataset(by_value[value], rows.schema, rows.format, rows.filesystem)
        try:
            batches = list(migration.converted_batches(piece.to_batches(), contract))
        except (OSError, pa.ArrowException) as error:
            raise ArtifactError(
                f"Table {stored} can't be read at version {version}: {error}. Restore its folder."
            ) from error
        yield in_key_order(contract, pa.Table.from_batches(batches, contract.schema)).select(wanted)


def _joined(name: str, pieces: list[pa.Table], columns: Sequence[str] | None) -> pa.Table:
    schema = TABLES[name].schema
    empty = schema.empty_table().select(tables.chosen_columns(name, columns))
    return pa.concat_tables([empty, *pieces]).combine_chunks()
