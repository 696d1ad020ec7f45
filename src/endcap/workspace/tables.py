"""Arrow tables in, versioned Delta tables out, and back: only partitions whose content differs are written.

Partitions are named by the text of their value: `2026-01-31`, or a batch's name. Each table has its own Delta versions. The dataset file names the versions that belong together and is replaced last,
so a reader never sees tables of two different ingests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.dataset as pa_dataset
import pyarrow.fs as pa_fs
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from endcap.contracts.errors import ArtifactError, InputError, TransientError
from endcap.contracts.events import TABLES, TableContract
from endcap.workspace.checked import checked as checked
from endcap.workspace.checked import in_key_order, partitions_of
from endcap.workspace.datasets import DATASET as DATASET
from endcap.workspace.datasets import Dataset as Dataset
from endcap.workspace.datasets import current_dataset as current_dataset
from endcap.workspace.datasets import number_in_force as number_in_force
from endcap.workspace.datasets import number_of as number_of
from endcap.workspace.datasets import publish_dataset as publish_dataset
from endcap.workspace.exclusive import exclusive as exclusive
from endcap.workspace.layout import Workspace

TABLE_PROPERTIES: Final = {"delta.logRetentionDuration": "interval 36500 days"}
"""Delta's default is 30 days: then log entries go at the next checkpoint, and versions before can't be opened again."""

_US_PER_MS = 1000


@dataclass(frozen=True)
class TableWrite:
    """What writing a table came to: its version afterwards, and the partitions replaced and removed."""

    name: str
    version: int
    changed: bool
    num_rows: int
    replaced: tuple[str, ...]
    removed: tuple[str, ...]


@dataclass(frozen=True)
class TableVersion:
    """One version of a table: when it was committed (microseconds since 1970) and by which Delta operation."""

    version: int
    ts_us: int
    operation: str


def table_path(workspace: Workspace, name: str) -> Path:
    """The folder of the table `name`; read its files only through `table_files`, the folder also holds old ones."""
    return workspace.events / name


def table_version(workspace: Workspace, name: str) -> int | None:
    """The newest Delta version of the table, published or not; None when there is no table."""
    path = table_path(workspace, name)
    return _open(path).version() if DeltaTable.is_deltatable(str(path)) else None


def version_in_force(workspace: Workspace, name: str) -> int | None:
    """The version that the dataset names; None when it names none."""
    dataset = current_dataset(workspace)
    return None if dataset is None else dataset.versions.get(name)


def list_versions(workspace: Workspace, name: str) -> list[TableVersion]:
    """Every version that the table's log tells of, the newest first; empty when there is no table."""
    path = table_path(workspace, name)
    if not DeltaTable.is_deltatable(str(path)):
        return []
    return [
        TableVersion(commit["version"], commit["timestamp"] * _US_PER_MS, commit["operation"])
        for commit in _open(path).history()
    ]


def table_files(
    workspace: Workspace, name: str, *, version: int | None = None, partitions: Sequence[str] | None = None
) -> list[str]:
    """Parquet files of one version (default: the one in force), sorted; the partition column is in the paths alone.

    `partitions` leaves out the files of all others.
    """
    table = _open_version(workspace, name, version)
    if partitions is None:
        return sorted(table.file_uris())
    return sorted(
        table.file_uris(file_pruning_predicate=_in_partitions(TABLES[name], partitions)) if partitions else ()
    )


def stored_files(workspace: Workspace, name: str, version: int) -> list[str]:
    """Parquet files of one version, sorted, whatever the table is called today; there are none of what isn't a table.

    A vacuum may have deleted some. Raises ArtifactError when the version's log is lost or damaged.
    """
    path = table_path(workspace, name)
    return sorted(_open(path, version).file_uris()) if DeltaTable.is_deltatable(str(path)) else []


def partition_rows(workspace: Workspace, name: str, *, version: int | None = None) -> dict[str, int]:
    """Numbers of rows by partition, sorted, of one version (default: the one in force); read from the log alone."""
    contract = TABLES[name]
    actions = pa.table(_open_version(workspace, name, version).get_add_actions(flatten=True))
    counts: dict[str, int] = {}
    values = actions.column(f"partition.{contract.partition_by}").cast(pa.string()).to_pylist()
    for value, num_rows in zip(values, actions.column("num_records").to_pylist(), strict=True):
        counts[value] = counts.get(value, 0) + num_rows
    return dict(sorted(counts.items()))


def read_table(
    workspace: Workspace, name: str, *, version: int | None = None, columns: Sequence[str] | None = None
) -> pa.Table:
    """Read one version of a table (default: the one in force) in the order of its key.

    Raises InputError when nothing was ingested or the version or a column doesn't exist, ArtifactError when files
    are missing or damaged.
    """
    return _read_chosen(workspace, name, version, columns, None)


def read_partitions(
    workspace: Workspace,
    name: str,
    partitions: Sequence[str],
    *,
    version: int | None = None,
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """Read some partitions alone, otherwise like `read_table`; those that the table lacks have no rows."""
    return _read_chosen(workspace, name, version, columns, partitions)


def _read_chosen(
    workspace: Workspace,
    name: str,
    version: int | None,
    columns: Sequence[str] | None,
    partitions: Sequence[str] | None,
) -> pa.Table:
    wanted = chosen_columns(name, columns)
    contract = TABLES[name]
    table = _open_version(workspace, name, version)
    needed = [*wanted, *(key for key in contract.key if key not in wanted)]
    return _read(table, contract, needed, partitions).select(wanted)


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
        replaced = tuple(sorted(partitions_of(contract, data)))
        return TableWrite(name, _open(path).version(), True, data.num_rows, replaced, ())
    newest = _open(path)
    before = _read(newest, contract, contract.schema.names)
    if before.equals(data):
        return TableWrite(name, newest.version(), False, data.num_rows, (), ())
    # An ingest that was cut short may have left a newer version than the one in force.
    published = version_in_force(workspace, name)
    in_force = _open(path, published) if published is not None and published < newest.version() else None
    if in_force is not None and _read(in_force, contract, contract.schema.names).equals(data):
        return TableWrite(name, in_force.version(), False, data.num_rows, (), ())
    old, new = partitions_of(contract, before), partitions_of(contract, data)
    replaced = tuple(sorted(date for date, rows in new.items() if date not in old or not rows.equals(old[date])))
    removed = tuple(sorted(old.keys() - new.keys()))
    if contract.partition_by is None:
        _commit(path, contract, data, predicate=None)
    else:
        _commit_partitions(path, contract, new, replaced, removed)
    return TableWrite(name, _open(path).version(), True, data.num_rows, replaced, removed)


def replace_partitions(
    workspace: Workspace, name: str, data: pa.Table, partitions: Sequence[str], *, since: int | None = None
) -> TableWrite:
    """Make `data` the whole content of the named partitions, in one commit; all others stay as they are.

    The change builds on the version `since` (default: the one in force): whatever was committed after it and never
    came into force is undone first. The same content leaves the version at `since`. Only the named partitions are
    read. Raises InputError when `data` breaks the contract or has rows of other partitions, TransientError when
    another writer won.
    """
    contract = TABLES[name]
    data = checked(contract, data)
    new = partitions_of(contract, data)
    if foreign := sorted(new.keys() - set(partitions)):
        raise InputError(f"Table {name}: found rows of partition {foreign[0]}, which was not named.")
    path = table_path(workspace, name)
    base = since if since is not None else version_in_force(workspace, name)
    newest = _open(path) if DeltaTable.is_deltatable(str(path)) else None
    if newest is None or base is None or base > newest.version():
        path.mkdir(parents=True, exist_ok=True)
        _commit(path, contract, data, predicate=None)
        return TableWrite(name, _open(path).version(), True, data.num_rows, tuple(sorted(new)), ())
    before = newest if newest.version() == base else _open(path, base)
    old = partitions_of(contract, _read(before, contract, contract.schema.names, partitions))
    replaced = tuple(sorted(value for value, rows in new.items() if value not in old or not rows.equals(old[value])))
    removed = tuple(sorted(old.keys() - new.keys()))
    if not replaced and not removed:
        return TableWrite(name, base, False, data.num_rows, (), ())
    if newest.version() != base:
        restore(path, newest, base)
    _commit_partitions(path, contract, new, replaced, removed)
    return TableWrite(name, _open(path).version(), True, data.num_rows, replaced, removed)


def _commit_partitions(
    path: Path, contract: TableContract, new: Mapping[str, pa.Table], replaced: Sequence[str], removed: Sequence[str]
) -> None:
    # Few large chunks are written a good deal faster than one for each partition.
    changed = pa.concat_tables([contract.schema.empty_table(), *(new[value] for value in replaced)]).combine_chunks()
    _commit(path, contract, changed, predicate=_in_partitions(contract, [*replaced, *removed]))


def restore(path: Path, table: DeltaTable, version: int) -> None:
    """Undo what was committed to `table` after `version`, by one more commit."""
    try:
        table.restore(version)
    except DeltaError as error:
        raise ArtifactError(
            f"The table {path} can't be taken back to version {version}, which is in force: {error}. Restore its "
            "folder, or delete it and ingest again."
        ) from error


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
        version = version_in_force(workspace, name)
    if version is None:
        raise InputError(f"{workspace.path} holds no {name} yet. Fill it with: endcap ingest")
    path = table_path(workspace, name)
    newest = _open(path) if DeltaTable.is_deltatable(str(path)) else None
    if newest is None or not 0 <= version <= newest.version():
        found = "there is no such table" if newest is None else f"its versions are 0 to {newest.version()}"
        raise InputError(f"{path} has no version {version}: {found}. Ingest again.")
    # Opened once more only where it isn't the newest: to open a table is to read its log.
    return newest if newest.version() == version else _open(path, version)


def _read(
    table: DeltaTable, contract: TableContract, columns: list[str], partitions: Sequence[str] | None = None
) -> pa.Table:
    refuse_earlier_shape(contract, table)
    schema = pa.schema([contract.schema.field(column) for column in columns])
    if partitions is not None and not partitions:
        return schema.empty_table()
    chosen = None if partitions is None else _in_partitions(contract, partitions)
    try:
        files = table.file_uris(file_pruning_predicate=chosen)
        found = files_as_one(files, contract.schema, contract.partition_by).to_table(columns=columns)
    except (DeltaError, OSError, pa.ArrowException) as error:
        raise ArtifactError(
            f"Table {contract.name} can't be read at version {table.version()}: {error}. Restore its folder, or delete "
            "the folder and ingest again."
        ) from error
    return in_key_order(contract, found.cast(schema))


def files_as_one(files: Sequence[str], schema: pa.Schema, partition_by: str | None) -> pa_dataset.FileSystemDataset:
    """Files of a table as one; columns that some of them lack are null in them.

    Delta's own data set would make an expression of every column's range in every file, which takes longer than to read
    small ones.
    """
    layout = None
    if partition_by is not None:
        layout = pa_dataset.partitioning(pa.schema([schema.field(partition_by)]), flavor="hive")
    if not files:
        return pa_dataset.FileSystemDataset([], schema, pa_dataset.ParquetFileFormat(), pa_fs.LocalFileSystem())
    return pa_dataset.dataset(sorted(files), schema=schema, format="parquet", partitioning=layout)


def refuse_earlier_shape(contract: TableContract, table: DeltaTable) -> None:
    """Raise InputError, naming the command that mends it, when a table lacks columns or types of its contract."""
    found = {field.name: field for field in pa.schema(table.schema())}
    for wanted in contract.schema:
        have = found.get(wanted.name)
        if have is None:
            problem = f"it has no column {wanted.name}"
        elif have.type != wanted.type:
            problem = f"its column {wanted.name} holds {have.type}, expected {wanted.type}"
        elif wanted.nullable and not have.nullable:
            problem = f"its column {wanted.name} may not be null, expected that it may"
        else:
            continue
        raise InputError(
            f"Table {contract.name} has the shape of an earlier release: {problem}. Nothing was written. Bring all tables "
            "into today's shape with: endcap lake migrate (first look with: endcap lake migrate --dry-run)"
        )


@lru_cache(maxsize=1024)
def _refuse_earlier(path: Path, version: int) -> None:
    # A version's shape never changes: one look at each is enough. What is missing or damaged is a case of its own.
    try:
        table = DeltaTable(str(path), version=version)
    except DeltaError:
        return
    refuse_earlier_shape(TABLES[path.name], table)


def refuse_earlier_shapes(workspace: Workspace, versions: Mapping[str, int]) -> None:
    """Raise InputError, naming the command that mends it, when a table isn't of today's shape or name."""
    for name, version in versions.items():
        if name not in TABLES:
            raise InputError(
                f"{workspace.path} has a table {name}, which this release doesn't know by that name. Nothing was written. "
                "Bring all tables into today's shape with: endcap lake migrate (first look with: endcap lake migrate "
                "--dry-run)"
            )
        _refuse_earlier(table_path(workspace, name), version)


def _in_partitions(contract: TableContract, partitions: Sequence[str]) -> str:
    values = ", ".join("'" + value.replace("'", "''") + "'" for value in partitions)
    return f"{contract.partition_by} IN ({values})"


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
            configuration=TABLE_PROPERTIES,
        )
    except CommitFailedError as error:
        raise TransientError(
            f"Another writer changed the table {path} at the same time: {error}. Try again."
        ) from error
    except OSError as error:
        raise TransientError(
            f"The table {path} could not be written: {error}. Its last version is unharmed."
        ) from error
