"""Arrow tables in, versioned Delta tables out, and back: only partitions whose content differs are written.

Each table has its own Delta versions. The dataset file names the versions that belong together and is replaced last,
so a reader never sees tables of two different ingests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from endcap.contracts.errors import ArtifactError, InputError, TransientError
from endcap.contracts.events import TABLES, TableContract
from endcap.workspace.atomic import write_json
from endcap.workspace.layout import Workspace

DATASET = "dataset.json"


@dataclass(frozen=True)
class TableWrite:
    """What writing a table came to: its version afterwards, and the partitions replaced and removed."""

    name: str
    version: int
    changed: bool
    num_rows: int
    replaced: tuple[str, ...]
    removed: tuple[str, ...]


class Dataset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Table versions that belong together, and the run that made them."""

    source: str
    run_id: str
    versions: dict[str, int]


def table_path(workspace: Workspace, name: str) -> Path:
    """The folder of the table `name`; read its files only through `table_files`, the folder also holds old ones."""
    return workspace.events / name


def current_dataset(workspace: Workspace) -> Dataset | None:
    """The table versions in force, or None before the first ingest. Raises ArtifactError when the file is damaged."""
    path = workspace.events / DATASET
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=Dataset)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"{path} can't be read: {error}. Delete it and ingest again; nothing else is lost."
        ) from error


def publish_dataset(workspace: Workspace, dataset: Dataset) -> None:
    """Put the versions of `dataset` in force, all at once."""
    write_json(workspace.events / DATASET, dataset)


def table_version(workspace: Workspace, name: str) -> int | None:
    """The newest Delta version of the table, published or not; None when there is no table."""
    path = table_path(workspace, name)
    return _open(path).version() if DeltaTable.is_deltatable(str(path)) else None


def table_files(workspace: Workspace, name: str, *, version: int | None = None) -> list[str]:
    """Parquet files of one version (default: the one in force), sorted; the partition column is in the paths alone."""
    return sorted(_open_version(workspace, name, version).file_uris())


def read_table(
    workspace: Workspace, name: str, *, version: int | None = None, columns: Sequence[str] | None = None
) -> pa.Table:
    """Read one version of a table (default: the one in force) in the order of its key.

    Raises InputError when nothing was ingested or the version or a column doesn't exist, ArtifactError when files
    are missing or damaged.
    """
    wanted = chosen_columns(name, columns)
    contract = TABLES[name]
    table = _open_version(workspace, name, version)
    return _read(table, contract, [*wanted, *(key for key in contract.key if key not in wanted)]).select(wanted)


def chosen_columns(name: str, columns: Sequence[str] | None) -> list[str]:
    """`columns`, or all of the table's; raises InputError when the table or a column doesn't exist."""
    if name not in TABLES:
        raise InputError(f"There is no table {name}; the tables are: {', '.join(TABLES)}.")
    names = TABLES[name].schema.names
    wanted = list(names if columns is None else columns)
    if unknown := [column for column in wanted if column not in names]:
        raise InputError(f"Table {name} has no column {unknown[0]}; it has: {', '.join(names)}.")
    return wanted


def write_table(workspace: Workspace, name: str, data: pa.Table) -> TableWrite:
    """Make `data` the whole content of the table, in one commit that touches only partitions whose content differs.

    The same content leaves the version as it is. Raises InputError when `data` breaks the table's contract,
    TransientError when another writer won.
    """
    contract = TABLES[name]
    data = checked(contract, data)
    path = table_path(workspace, name)
    if not DeltaTable.is_deltatable(str(path)):
        path.mkdir(parents=True, exist_ok=True)
        _commit(path, contract, data, predicate=None)
        replaced = tuple(sorted(_partitions(contract, data)))
        return TableWrite(name, _open(path).version(), True, data.num_rows, replaced, ())
    newest = _open(path)
    before = _read(newest, contract, contract.schema.names)
    if before.equals(data):
        return TableWrite(name, newest.version(), False, data.num_rows, (), ())
    # An ingest that was cut short may have left a newer version than the one in force.
    published = _published_version(workspace, name)
    in_force = _open(path, published) if published is not None and published < newest.version() else None
    if in_force is not None and _read(in_force, contract, contract.schema.names).equals(data):
        return TableWrite(name, in_force.version(), False, data.num_rows, (), ())
    old, new = _partitions(contract, before), _partitions(contract, data)
    replaced = tuple(sorted(date for date, rows in new.items() if date not in old or not rows.equals(old[date])))
    removed = tuple(sorted(old.keys() - new.keys()))
    if contract.partition_by is None:
        _commit(path, contract, data, predicate=None)
    else:
        dates = ", ".join(f"'{date}'" for date in (*replaced, *removed))
        changed = pa.concat_tables([contract.schema.empty_table(), *(new[date] for date in replaced)])
        _commit(path, contract, changed, predicate=f"{contract.partition_by} IN ({dates})")
    return TableWrite(name, _open(path).version(), True, data.num_rows, replaced, removed)


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
    table = _in_key_order(contract, pa.table(columns, schema=contract.schema))
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


def _in_key_order(contract: TableContract, table: pa.Table) -> pa.Table:
    ordered = table.sort_by([(key, "ascending") for key in contract.key])
    return ordered.combine_chunks()


def _open(path: Path, version: int | None = None) -> DeltaTable:
    try:
        return DeltaTable(str(path), version=version)
    except TableNotFoundError as error:
        raise InputError(f"There is no table at {path}. Fill it with: endcap ingest") from error
    except DeltaError as error:
        at = "" if version is None else f" at version {version}"
        raise ArtifactError(
            f"The table {path} can't be opened{at}: {error}. Ingest again, or restore the folder."
        ) from error


def _open_version(workspace: Workspace, name: str, version: int | None) -> DeltaTable:
    if name not in TABLES:
        raise InputError(f"There is no table {name}; the tables are: {', '.join(TABLES)}.")
    if version is None:
        version = _published_version(workspace, name)
    if version is None:
        raise InputError(f"{workspace.path} holds no {name} yet. Fill it with: endcap ingest")
    newest = table_version(workspace, name)
    if newest is None or not 0 <= version <= newest:
        found = "there is no such table" if newest is None else f"its versions are 0 to {newest}"
        raise InputError(f"{table_path(workspace, name)} has no version {version}: {found}. Ingest again.")
    return _open(table_path(workspace, name), version)


def _published_version(workspace: Workspace, name: str) -> int | None:
    dataset = current_dataset(workspace)
    return None if dataset is None else dataset.versions.get(name)


def _read(table: DeltaTable, contract: TableContract, columns: list[str]) -> pa.Table:
    schema = pa.schema([contract.schema.field(column) for column in columns])
    try:
        found = table.to_pyarrow_table(columns=columns)
    except (DeltaError, OSError, pa.ArrowException) as error:
        raise ArtifactError(
            f"Table {contract.name} can't be read at version {table.version()}: {error}. Restore its folder, or delete "
            "the folder and ingest again."
        ) from error
    return _in_key_order(contract, found.cast(schema))


def _partitions(contract: TableContract, table: pa.Table) -> dict[str, pa.Table]:
    """Slices by partition value, each in the order of the key; the whole table under "" without partitions."""
    if contract.partition_by is None:
        return {"": table}
    if table.num_rows == 0:
        return {}
    # A stable sort keeps the order of the key inside each partition.
    dates = table.column(contract.partition_by).to_numpy().astype("datetime64[D]")
    order = np.argsort(dates, kind="stable")
    ordered = table.take(pa.array(order)).combine_chunks()
    values, starts = np.unique(dates[order], return_index=True)
    stops = [*starts[1:], table.num_rows]
    return {
        str(value): ordered.slice(start, stop - start) for value, start, stop in zip(values, starts, stops, strict=True)
    }


def partition_dates(workspace: Workspace, name: str) -> list[str]:
    """ISO dates of the partitions in force, sorted; empty before the first ingest."""
    contract = TABLES[name]
    if contract.partition_by is None or current_dataset(workspace) is None:
        return []
    table = _open_version(workspace, name, None)
    return sorted({str(partition[contract.partition_by]) for partition in table.partitions()})


def _commit(path: Path, contract: TableContract, data: pa.Table, *, predicate: str | None) -> None:
    try:
        write_deltalake(
            str(path),
            data,
            mode="overwrite",
            partition_by=[contract.partition_by] if contract.partition_by else None,
            predicate=predicate,
        )
    except CommitFailedError as error:
        raise TransientError(
            f"Another writer changed the table {path} at the same time: {error}. Try again."
        ) from error
    except OSError as error:
        raise TransientError(
            f"The table {path} could not be written: {error}. Its last version is unharmed."
        ) from error
