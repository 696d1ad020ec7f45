"""Tables of an earlier shape in, the same rows in the shape of today's contracts out, and what has to be made again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import msgspec
import pyarrow as pa
import pyarrow.dataset as pa_dataset
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError

from endcap.contracts import columns as c
from endcap.contracts.errors import ArtifactError, InputError, TransientError
from endcap.contracts.events import (
    BATCHES,
    EVENTS,
    ITEM_VERSIONS,
    ITEMS,
    LANDED,
    QUARANTINE,
    TABLES,
    USERS,
    TableContract,
)
from endcap.workspace import earlier, lineage, tables
from endcap.workspace.conversion import converted, is_widening
from endcap.workspace.exclusive import exclusive
from endcap.workspace.layout import Workspace

Kind = Literal[
    "renamed table", "added", "renamed", "retyped", "made optional", "partitioned", "kept longer", "made from events"
]


@dataclass(frozen=True)
class Aliases:
    """What a schema alone can't tell: earlier names, and what stands in added columns that must not be null."""

    tables: Mapping[str, str] = field(default_factory=dict)
    """Today's name by the earlier one."""
    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By today's table: today's column by the earlier one."""
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By today's table: the value of a column that earlier rows lack; null without."""


ALIASES: Final = Aliases(
    tables={"item_prices": ITEM_VERSIONS},
    defaults={ITEMS: {c.IS_KNOWN: True}, QUARANTINE: {c.BATCH: earlier.EARLIER_BATCH}},
)


@dataclass(frozen=True)
class Change:
    """One difference between a stored table and its contract."""

    table: str
    kind: Kind
    column: str | None
    found: str
    expected: str
    rewrites: bool
    """Whether files have to be written again; otherwise the table's metadata alone changes."""
    alters_values: bool
    """Whether a step that reads the column sees anything else than before."""


@dataclass(frozen=True)
class Migration:
    """What a migration does, or did. Partitions are named by their value; "" stands for a table without any."""

    changes: tuple[Change, ...]
    rewritten: dict[str, tuple[str, ...]]
    recomputed: tuple[str, ...]
    """Steps that read something altered: they run again when next asked for."""
    untouched: tuple[str, ...]
    versions: dict[str, int]
    """Of the dataset in force afterwards."""


def plan(
    workspace: Workspace, *, contracts: Mapping[str, TableContract] = TABLES, aliases: Aliases = ALIASES
) -> list[Change]:
    """Compare the schemas of the tables in force with their contracts, in the order of table and column.

    Reads no rows. Raises InputError, naming every problem, when a table or column is unknown, a type doesn't widen or
    a required column has no default.
    """
    dataset = tables.current_dataset(workspace)
    changes: list[Change] = []
    problems: list[str] = []
    for stored, version in sorted(dataset.versions.items() if dataset else ()):
        name = aliases.tables.get(stored, stored)
        if name not in contracts:
            problems.append(f"there is a table {stored}, which this Endcap doesn't know")
            continue
        table = _open(workspace, stored, version)
        if name != stored:
            changes.append(Change(name, "renamed table", None, stored, name, rewrites=True, alters_values=True))
        found, wrong = _compare(table, contracts[name], aliases)
        changes += found
        problems += wrong
    if dataset and LANDED not in dataset.versions and {EVENTS, ITEMS, USERS, QUARANTINE} <= dataset.versions.keys():
        changes += [
            Change(name, "made from events", None, "nothing", name, rewrites=True, alters_values=False)
            for name in (LANDED, BATCHES)
        ]
    if problems:
        raise InputError(
            f"{workspace.path} can't be migrated: {'; '.join(problems)}. Use the Endcap that wrote it, or ingest into "
            "another workspace."
        )
    return changes


def migrate(
    workspace: Workspace,
    *,
    dry_run: bool = False,
    contracts: Mapping[str, TableContract] = TABLES,
    aliases: Aliases = ALIASES,
) -> Migration:
    """Bring the tables in force into the shape of their contracts; all of them come into force as one, at the end.

    Values that a narrower type would lose refuse the migration before anything is written, also in a dry run. Doing it
    again changes nothing; when it is cut short the dataset before stays in force, and the next try begins anew. Raises
    InputError as `plan` does and for lossy columns with counts, TransientError when another process writes.
    """
    with exclusive(workspace):
        changes = plan(workspace, contracts=contracts, aliases=aliases)
        dataset = tables.current_dataset(workspace)
        versions = dict(dataset.versions) if dataset else {}
        is_landed_lost = any(change.kind == "made from events" for change in changes)
        stored_changes = [change for change in changes if change.kind != "made from events"]
        by_table = {
            name: [change for change in stored_changes if change.table == name] for name in _tables_of(stored_changes)
        }
        stored = {aliases.tables.get(name, name): name for name in versions}
        _refuse_losses(workspace, by_table, stored, versions, contracts, aliases)
        rewritten = {}
        for name, found in by_table.items():
            version = versions[stored[name]]
            if any(change.rewrites for change in found):
                rewritten[name] = _partitions(_open(workspace, stored[name], version))
            if not dry_run:
                written = _migrate_table(workspace, stored[name], version, contracts[name], found, aliases)
                del versions[stored[name]]
                versions[name] = written
        if is_landed_lost:
            rewritten[LANDED] = _partitions(_open(workspace, EVENTS, versions[EVENTS]))
            rewritten[BATCHES] = ("",)
            if not dry_run:
                versions |= _landed_from_events(workspace, versions)
        recomputed = lineage.readers_of((change.table, change.column) for change in changes if change.alters_values)
        if not dry_run and dataset is not None and versions != dataset.versions:
            ordered = dict(sorted(versions.items()))
            tables.publish_dataset(workspace, msgspec.structs.replace(dataset, versions=ordered))
        untouched = tuple(step for step in lineage.READS if step not in recomputed)
        return Migration(tuple(changes), rewritten, recomputed, untouched, versions)


def _landed_from_events(workspace: Workspace, versions: Mapping[str, int]) -> dict[str, int]:
    def read(name: str) -> pa.Table:
        return tables.read_table(workspace, name, version=versions[name])

    landed = earlier.landed_of(read(EVENTS), read(ITEMS), read(USERS))
    batches = earlier.batch_of(landed, read(QUARANTINE))
    return {
        name: tables.write_table(workspace, name, content).version
        for name, content in ((LANDED, landed), (BATCHES, batches))
    }


def _compare(table: DeltaTable, contract: TableContract, aliases: Aliases) -> tuple[list[Change], list[str]]:
    found = pa.schema(table.schema())
    renamed = aliases.columns.get(contract.name, {})
    defaults = aliases.defaults.get(contract.name, {})
    stored = {renamed.get(name, name): found.field(name) for name in found.names}
    changes: list[Change] = []
    problems: list[str] = []

    def add(kind: Kind, column: str | None, was: object, expected: object, *, rewrites: bool, alters: bool) -> None:
        changes.append(Change(contract.name, kind, column, str(was), str(expected), rewrites, alters))

    for wanted in contract.schema:
        have = stored.get(wanted.name)
        if have is None:
            has_default = wanted.name in defaults
            if not wanted.nullable and not has_default:
                problems.append(
                    f"{contract.name}.{wanted.name} must not be null, and earlier rows have no value for it"
                )
            add("added", wanted.name, "nothing", wanted.type, rewrites=has_default, alters=has_default)
            continue
        if have.name != wanted.name:
            add("renamed", wanted.name, have.name, wanted.name, rewrites=True, alters=True)
        if have.type != wanted.type:
            if not is_widening(have.type, wanted.type):
                problems.append(f"{contract.name}.{wanted.name} holds {have.type}, which {wanted.type} can't keep")
            add("retyped", wanted.name, have.type, wanted.type, rewrites=True, alters=True)
        if not have.nullable and wanted.nullable:
            add("made optional", wanted.name, "required", "may be null", rewrites=False, alters=False)
    unknown = [name for name in stored if name not in contract.schema.names]
    problems += [f"{contract.name} has a column {name}, which this Endcap doesn't know" for name in unknown]
    partitioned = table.metadata().partition_columns
    if partitioned != ([contract.partition_by] if contract.partition_by else []):
        was = ", ".join(partitioned) or "nothing"
        add("partitioned", None, was, contract.partition_by or "nothing", rewrites=True, alters=False)
    if any(table.metadata().configuration.get(key) != value for key, value in tables.TABLE_PROPERTIES.items()):
        add("kept longer", None, "log: 30 days", "log: for good", rewrites=False, alters=False)
    return changes, problems


def _refuse_losses(
    workspace: Workspace,
    by_table: Mapping[str, Sequence[Change]],
    stored: Mapping[str, str],
    versions: Mapping[str, int],
    contracts: Mapping[str, TableContract],
    aliases: Aliases,
) -> None:
    problems = []
    for name, changes in by_table.items():
        retyped = [str(change.column) for change in changes if change.kind == "retyped"]
        if not retyped:
            continue
        table = _open(workspace, stored[name], versions[stored[name]])
        earlier = {new: old for old, new in aliases.columns.get(name, {}).items()}
        lost = dict.fromkeys(retyped, 0)
        names = {column: earlier[column] if earlier.get(column) in _names(table) else column for column in retyped}
        rows = rows_of(workspace, stored[name], versions[stored[name]])
        for batch in rows.to_batches(columns=list(names.values())):
            for column in retyped:
                lost[column] += converted(batch.column(names[column]), contracts[name].schema.field(column).type)[1]
        problems += [
            f"{name}.{column}: {count} values don't survive as {contracts[name].schema.field(column).type}"
            for column, count in lost.items()
            if count
        ]
    if problems:
        raise InputError(
            f"{workspace.path} can't be migrated without loss: {'; '.join(problems)}. Nothing was written. Mend these "
            "values in the source and ingest again, or go on with the Endcap that wrote them."
        )


def _migrate_table(
    workspace: Workspace,
    stored: str,
    version: int,
    contract: TableContract,
    changes: Sequence[Change],
    aliases: Aliases,
) -> int:
    path = tables.table_path(workspace, contract.name)
    try:
        if any(change.rewrites for change in changes):
            batches = converted_batches(rows_of(workspace, stored, version).to_batches(), contract, aliases)
            _write(path.as_posix(), contract, pa.RecordBatchReader.from_batches(contract.schema, batches))
        else:
            table = DeltaTable(str(path))
            if table.version() != version:
                table.restore(version)
            if any(change.kind != "kept longer" for change in changes):
                # No file holds such a row, so the schema is all that is committed; an append wouldn't relax a column.
                nothing = f"{contract.partition_by or contract.key[0]} IS NULL"
                _write(path.as_posix(), contract, contract.schema.empty_table(), predicate=nothing)
        table = DeltaTable(str(path))
        if any(table.metadata().configuration.get(key) != value for key, value in tables.TABLE_PROPERTIES.items()):
            table.alter.set_table_properties(tables.TABLE_PROPERTIES)
    except CommitFailedError as error:
        raise TransientError(
            f"Another writer changed the table {path} at the same time: {error}. Try again."
        ) from error
    except (DeltaError, OSError) as error:
        raise ArtifactError(
            f"The table {path} can't be migrated: {error}. The dataset in force is unharmed; look for missing files or a "
            "full disk."
        ) from error
    return DeltaTable(str(path)).version()


def _write(
    path: str, contract: TableContract, rows: pa.RecordBatchReader | pa.Table, *, predicate: str | None = None
) -> None:
    write_deltalake(
        path,
        rows,
        mode="overwrite",
        schema_mode="overwrite",
        predicate=predicate,
        partition_by=[contract.partition_by] if contract.partition_by else [],
        configuration=tables.TABLE_PROPERTIES,
    )


def converted_batches(
    batches: Iterable[pa.RecordBatch], contract: TableContract, aliases: Aliases = ALIASES
) -> Iterator[pa.RecordBatch]:
    """Stored rows in the contract's shape, a batch at a time. Raises InputError when a value would be lost."""
    earlier = {new: old for old, new in aliases.columns.get(contract.name, {}).items()}
    defaults = aliases.defaults.get(contract.name, {})
    for batch in batches:
        columns = []
        for wanted in contract.schema:
            name = wanted.name if wanted.name in batch.schema.names else earlier.get(wanted.name, wanted.name)
            if name not in batch.schema.names:
                value = pa.scalar(defaults.get(wanted.name), wanted.type)
                columns.append(pa.repeat(value, batch.num_rows))
                continue
            column, num_lost = converted(batch.column(name), wanted.type)
            if num_lost:
                raise InputError(
                    f"Table {contract.name}, column {wanted.name}: {num_lost} values don't survive as {wanted.type}. Mend "
                    "them in the source and ingest again."
                )
            columns.append(column)
        yield pa.RecordBatch.from_arrays(columns, schema=contract.schema)


def _open(workspace: Workspace, name: str, version: int) -> DeltaTable:
    path = tables.table_path(workspace, name)
    try:
        return DeltaTable(str(path), version=version)
    except DeltaError as error:
        raise ArtifactError(
            f"The table {path} can't be opened at version {version}: {error}. Restore its folder, or ingest again."
        ) from error


def rows_of(workspace: Workspace, name: str, version: int) -> pa_dataset.Dataset:
    """A version of a table as it is stored, whatever its shape."""
    table = _open(workspace, name, version)
    schema, by = pa.schema(table.schema()), table.metadata().partition_columns
    return tables.files_as_one(table.file_uris(), schema, by[0] if by else None)


def _names(table: DeltaTable) -> list[str]:
    return [str(name) for name in pa.schema(table.schema()).names]


def _tables_of(changes: Sequence[Change]) -> list[str]:
    return list(dict.fromkeys(change.table for change in changes))


def _partitions(table: DeltaTable) -> tuple[str, ...]:
    columns = table.metadata().partition_columns
    if not columns:
        return ("",)
    return tuple(sorted({str(partition[columns[0]]) for partition in table.partitions()}))
