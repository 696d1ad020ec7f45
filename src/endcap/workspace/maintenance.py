"""A workspace's Delta tables in, the same data in fewer files, without expired dates or without unneeded files out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError

from endcap.contracts import columns as c
from endcap.contracts.errors import ArtifactError, EndcapError, InputError, TransientError
from endcap.contracts.events import BATCHES, BOTS_BATCH, MEASURED, QUARANTINE, TABLES
from endcap.workspace import pins, tables
from endcap.workspace.exclusive import exclusive
from endcap.workspace.layout import Workspace

TARGET_BYTES: Final = 128 * 1024 * 1024
"""Files of one partition are merged up to this size."""

GRACE_HOURS: Final = 24.0
"""Whoever began to read a version keeps it at least this long."""


@dataclass(frozen=True)
class TableStatus:
    """One table as it lies on disk. Small files are those that `compact` would merge with others."""

    name: str
    version: int
    num_rows: int
    num_files: int
    num_small_files: int
    num_bytes: int
    """Of the version in force."""
    num_bytes_on_disk: int
    """Of all versions and of what nobody needs."""
    holders: tuple[str, ...]
    """What keeps versions of the table readable: `in force`, pins, runs, releases."""


@dataclass(frozen=True)
class Compaction:
    """What merging small files of one table came to; the version is the same when there was nothing to merge."""

    name: str
    version_before: int
    version: int
    num_files_before: int
    num_files: int


@dataclass(frozen=True)
class Expired:
    """Partitions of one table that lie beyond its retention."""

    name: str
    partitions: tuple[str, ...]
    num_rows: int
    num_bytes: int
    num_partitions_left: int
    still_held_by: tuple[str, ...]
    """Pins, runs and releases whose versions of the table keep these files on disk."""


@dataclass(frozen=True)
class Vacuumed:
    """Files of one table that no kept version needs."""

    name: str
    num_files: int
    num_bytes: int
    versions_kept: tuple[int, ...]


def status(workspace: Workspace) -> list[TableStatus]:
    """The tables of the dataset in force and those of numbers about data, by name; empty before the first ingest."""
    dataset = tables.current_dataset(workspace)
    found = []
    held = pins.holders(workspace)
    for name, version in sorted(_current(workspace, dataset).items() if dataset else ()):
        path = tables.table_path(workspace, name)
        files = _files(_open(path, version))
        found.append(
            TableStatus(
                name=name,
                version=version,
                num_rows=sum(file.num_rows for file in files),
                num_files=len(files),
                num_small_files=_num_small(files, TARGET_BYTES),
                num_bytes=sum(file.num_bytes for file in files),
                num_bytes_on_disk=sum(file.stat().st_size for file in _data_files(path)),
                holders=tuple(holder.what for holder in held if name in holder.versions),
            )
        )
    return found


def compact(
    workspace: Workspace, *, table_names: Sequence[str] | None = None, target_bytes: int = TARGET_BYTES
) -> list[Compaction]:
    """Merge small files inside each partition; contents stay as they are, and all tables come into force as one.

    Files of versions before stay on disk until a vacuum. Raises InputError for an unknown table, TransientError when
    another writer won: then the dataset in force is what it was.
    """

    def change(table: DeltaTable) -> None:
        table.optimize.compact(target_size=target_bytes)

    done = []
    with exclusive(workspace):
        dataset = _dataset(workspace)
        before_all = _current(workspace, dataset)
        versions = dict(before_all)
        for name in _chosen(versions, table_names):
            before = _files(_open(tables.table_path(workspace, name), versions[name]))
            after = before
            if _num_small(before, target_bytes):
                versions[name] = _changed(workspace, name, versions[name], change)
                after = _files(_open(tables.table_path(workspace, name), versions[name]))
                _check_rows(name, before, after)
            done.append(Compaction(name, before_all[name], versions[name], len(before), len(after)))
        _publish(workspace, dataset, versions)
    return done


def retain(
    workspace: Workspace,
    days: int,
    *,
    table_names: Sequence[str] | None = None,
    today: date | None = None,
    apply: bool = False,
) -> list[Expired]:
    """Find partitions of dates more than `days` before today (UTC), and with `apply` take them out of force.

    By default all tables that are partitioned by date: `landed` too, else the dates would come back with the next
    build. Of the quarantine go the bots' rows of these dates, and the rows of batches whose newest event (or, without
    any, whose landing) lies before them. Versions before keep the rows until nothing holds them and a vacuum deletes
    their files. Raises InputError for a table without dates, TransientError when another writer won.
    """
    if days < 1:
        raise InputError(f"days is {days}; expected a whole number above 0.")
    first_kept = ((today or datetime.now(UTC).date()) - timedelta(days=days)).isoformat()

    done = []
    with exclusive(workspace):
        dataset = _dataset(workspace)
        versions = _current(workspace, dataset)
        held = [holder for holder in pins.holders(workspace) if holder.what != pins.IN_FORCE]
        for name in _dated(versions, table_names):
            files = _files(_open(tables.table_path(workspace, name), versions[name]))
            by_batch = _days_of_batches(workspace, versions, files) if name == QUARANTINE else None
            expired = [
                file
                for file in files
                if (file.partition if by_batch is None else by_batch.get(file.partition, first_kept)) < first_kept
            ]
            partitions = tuple(sorted({file.partition for file in expired}))
            done.append(
                Expired(
                    name=name,
                    partitions=partitions,
                    num_rows=sum(file.num_rows for file in expired),
                    num_bytes=sum(file.num_bytes for file in expired),
                    num_partitions_left=len({file.partition for file in files} - set(partitions)),
                    still_held_by=tuple(holder.what for holder in held if name in holder.versions),
                )
            )
            if apply and expired:
                versions[name] = _changed(workspace, name, versions[name], partial(_drop, partitions))
        _publish(workspace, dataset, versions)
    return done


def _days_of_batches(workspace: Workspace, versions: Mapping[str, int], files: Sequence[_File]) -> dict[str, str]:
    """By partition of the quarantine, the last day that it is about; batches that tell none are left out."""
    bots = {file.partition for file in files if file.partition.startswith(BOTS_BATCH)}
    days = {name: name.removeprefix(BOTS_BATCH) for name in bots}
    if BATCHES in versions:
        wanted = [c.BATCH, "last_ts_us", c.LANDED_AT_US]
        for row in tables.read_table(workspace, BATCHES, version=versions[BATCHES], columns=wanted).to_pylist():
            newest_us = row["last_ts_us"] if row["last_ts_us"] is not None else row[c.LANDED_AT_US]
            if newest_us is not None:
                days[row[c.BATCH]] = (date(1970, 1, 1) + timedelta(microseconds=newest_us)).isoformat()
    return days


def _drop(partitions: Sequence[str], table: DeltaTable) -> None:
    # Whole partitions: a commit without rewriting a file.
    values = ", ".join("'" + value.replace("'", "''") + "'" for value in partitions)
    table.delete(f"{table.metadata().partition_columns[0]} IN ({values})")


def vacuum(
    workspace: Workspace,
    *,
    grace_hours: float = GRACE_HOURS,
    keep_runs_days: int | None = None,
    now: datetime | None = None,
    apply: bool = False,
) -> list[Vacuumed]:
    """Find files that no kept version needs, and with `apply` delete them.

    Kept are the versions that the dataset in force, pins, releases and finished runs name, the newest one, and every
    version that could be read in the last `grace_hours`; files younger than that stay too. With `keep_runs_days`, runs
    that ended earlier hold nothing any more. Raises ArtifactError, and deletes nothing at all, when a kept version's
    files can't be told or one of them is missing.
    """
    if grace_hours < 0 or (keep_runs_days is not None and keep_runs_days < 0):
        raise InputError(f"grace_hours is {grace_hours}, keep_runs_days {keep_runs_days}; expected 0 or more.")
    moment = now or datetime.now(UTC)
    cutoff = moment - timedelta(hours=grace_hours)
    with exclusive(workspace):
        since = None if keep_runs_days is None else moment - timedelta(days=keep_runs_days)
        named: dict[str, set[int]] = defaultdict(set)
        for holder in pins.holders(workspace, keep_runs_since=since):
            for name, version in holder.versions.items():
                named[name].add(version)
        found: list[tuple[Vacuumed, list[Path]]] = []
        # A table that left the dataset, renamed by a migration, is cleared like the others.
        for path in sorted(path.parent for path in workspace.events.glob("*/_delta_log")):
            kept = _kept_versions(path, named[path.name], cutoff)
            unneeded = [file for file in _unneeded(path, kept) if file.stat().st_mtime < cutoff.timestamp()]
            num_bytes = sum(file.stat().st_size for file in unneeded)
            found.append((Vacuumed(path.name, len(unneeded), num_bytes, tuple(sorted(kept))), unneeded))
        if apply:
            for _, unneeded in found:
                for file in unneeded:
                    file.unlink(missing_ok=True)
        return [done for done, _ in found]


def _kept_versions(path: Path, named: set[int], cutoff: datetime) -> set[int]:
    newest = _open(path)
    cutoff_us = cutoff.timestamp() * 1e6
    commits = [(commit["version"], commit["timestamp"] * 1000) for commit in newest.history()]
    recent = {version for version, ts_us in commits if ts_us >= cutoff_us}
    before = [version for version, ts_us in commits if ts_us < cutoff_us]
    # What was the newest when the grace began was readable then.
    recent |= {max(before)} if before else set()
    return {newest.version()} | recent | {version for version in named if version <= newest.version()}


def _unneeded(path: Path, versions: set[int]) -> list[Path]:
    needed: set[Path] = set()
    for version in versions:
        needed |= {Path(uri).resolve() for uri in _open(path, version).file_uris()}
    on_disk = {file.resolve() for file in _data_files(path)}
    if missing := sorted(needed - on_disk):
        raise ArtifactError(
            f"{len(missing)} files that versions of the table {path} need are missing, such as {missing[0].name}; "
            "nothing was deleted. Restore them, or take away the pins of these versions."
        )
    return sorted(on_disk - needed)


def _data_files(path: Path) -> list[Path]:
    return [file for file in path.rglob("*.parquet") if "_delta_log" not in file.relative_to(path).parts]


@dataclass(frozen=True)
class _File:
    partition: str
    num_rows: int
    num_bytes: int


def _files(table: DeltaTable) -> list[_File]:
    actions = pa.table(table.get_add_actions(flatten=True))
    columns = table.metadata().partition_columns
    num = actions.num_rows
    partitions = actions.column(f"partition.{columns[0]}").cast(pa.string()).to_pylist() if columns else [""] * num
    rows, sizes = actions.column("num_records").to_pylist(), actions.column("size_bytes").to_pylist()
    return [_File(partition, count, size) for partition, count, size in zip(partitions, rows, sizes, strict=True)]


def _num_small(files: Sequence[_File], target_bytes: int) -> int:
    small: dict[str, int] = defaultdict(int)
    for file in files:
        small[file.partition] += file.num_bytes < target_bytes
    return sum(count for count in small.values() if count > 1)


def _check_rows(name: str, before: Sequence[_File], after: Sequence[_File]) -> None:
    counts = [sum(file.num_rows for file in files) for files in (before, after)]
    if counts[0] != counts[1]:
        raise EndcapError(
            f"Table {name} has {counts[1]} rows after its files were merged, {counts[0]} before: the version before "
            "stays in force. Please report this."
        )


def _changed(workspace: Workspace, name: str, version: int, change: Callable[[DeltaTable], None]) -> int:
    """The version after `change`, which builds on `version`: newer ones that never came into force are undone first."""
    path = tables.table_path(workspace, name)
    table = _open(path)
    try:
        if table.version() != version:
            table.restore(version)
        change(table)
    except CommitFailedError as error:
        raise TransientError(
            f"Another writer changed the table {path} at the same time: {error}. Try again."
        ) from error
    except (DeltaError, OSError) as error:
        raise ArtifactError(
            f"The table {path} can't be rewritten: {error}. The dataset in force is unharmed; look for missing files or "
            "a full disk."
        ) from error
    return _open(path).version()


def _open(path: Path, version: int | None = None) -> DeltaTable:
    try:
        return DeltaTable(str(path), version=version)
    except DeltaError as error:
        at = "" if version is None else f" at version {version}"
        raise ArtifactError(
            f"The table {path} can't be opened{at}: {error}. Restore its folder, or ingest again."
        ) from error


def _dataset(workspace: Workspace) -> tables.Dataset:
    dataset = tables.current_dataset(workspace)
    if dataset is None:
        raise InputError(f"{workspace.path} holds no tables yet. Fill them with: endcap ingest")
    return dataset


def _current(workspace: Workspace, dataset: tables.Dataset) -> dict[str, int]:
    """The versions in force, and the newest ones of tables that are no part of a dataset."""
    measured = {name: tables.table_version(workspace, name) for name in MEASURED}
    return {**dataset.versions, **{name: version for name, version in measured.items() if version is not None}}


def _chosen(versions: Mapping[str, int], table_names: Sequence[str] | None) -> list[str]:
    wanted = list(versions if table_names is None else table_names)
    if unknown := [name for name in wanted if name not in versions]:
        raise InputError(f"The dataset has no table {unknown[0]}; it has: {', '.join(sorted(versions))}.")
    return sorted(wanted)


def _dated(versions: Mapping[str, int], table_names: Sequence[str] | None) -> list[str]:
    dated = [
        name
        for name in versions
        if name == QUARANTINE or (name in TABLES and TABLES[name].partition_by == c.EVENT_DATE)
    ]
    wanted = _chosen(versions, dated if table_names is None else table_names)
    if timeless := [name for name in wanted if name not in dated]:
        raise InputError(f"Table {timeless[0]} has no dates to go by; these tables have: {', '.join(sorted(dated))}.")
    return wanted


def _publish(workspace: Workspace, dataset: tables.Dataset, versions: dict[str, int]) -> None:
    named = {name: version for name, version in versions.items() if name in dataset.versions}
    if named != dataset.versions:
        tables.publish_dataset(workspace, msgspec.structs.replace(dataset, versions=named))
