"""Tables and partitions in, digests of what they hold out: a partition is read again only when its files are others."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypedDict

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from endcap.contracts import columns as c
from endcap.contracts.events import ITEM_VERSIONS, LANDED, TABLES
from endcap.workspace import ledger, tables
from endcap.workspace.dated import content_digest
from endcap.workspace.layout import Workspace

ABSENT = "absent"
_INPUTS = "inputs"


class Content(TypedDict):
    """What was read: `state` names its files, so equal states have equal digests; `digest` is of the rows alone."""

    state: str
    digest: str


def landed_dates(workspace: Workspace) -> list[str]:
    """ISO dates in force that events can be made for, sorted."""
    version = tables.version_in_force(workspace, LANDED)
    return [] if version is None else list(_partition_files(workspace, LANDED, version))


def files_in_force(workspace: Workspace, name: str, partitions: Sequence[str] | None = None) -> list[str]:
    """Names of the files that a table, or some of its partitions, consist of: they change whenever its rows do."""
    version = tables.version_in_force(workspace, name)
    if version is None:
        return [ABSENT]
    if partitions is None:
        return [Path(file).name for file in tables.table_files(workspace, name, version=version)]
    found = _partition_files(workspace, name, version)
    return [file for partition in partitions for file in found.get(partition, ())]


@lru_cache(maxsize=16)
def _partition_files(workspace: Workspace, name: str, version: int) -> dict[str, list[str]]:
    """File names by partition, sorted: to open a table once for each of its partitions would take longer than all else."""
    files: dict[str, list[str]] = {}
    for path in map(Path, tables.table_files(workspace, name, version=version)):
        files.setdefault(path.parent.name.partition("=")[2], []).append(path.name)
    return dict(sorted(files.items()))


def partition_content(
    workspace: Workspace,
    name: str,
    partition: str,
    columns: Sequence[str],
    latest: ledger.LedgerEntry | None,
) -> Content:
    """What some columns of a partition in force hold; `latest` may know it from when it was made."""
    version = tables.version_in_force(workspace, name)
    if version is None:
        return Content(state=ABSENT, digest=ABSENT)
    state = ledger.digest_of([files_in_force(workspace, name, [partition]), list(columns)])
    digest = known_digest(latest, name, state)
    return Content(state=state, digest=digest or _read(workspace, name, partition, tuple(columns), version, state))


def is_as_before(workspace: Workspace, name: str, partition: str, version: int | None) -> bool:
    """Whether a partition in force holds the rows, be it in other files, that it held at `version` (None: no table)."""
    now = tables.version_in_force(workspace, name)
    if now is None or version is None:
        return now == version
    files = [_partition_files(workspace, name, one).get(partition, []) for one in (version, now)]
    columns = tuple(TABLES[name].schema.names)
    return files[0] == files[1] or len(
        {_read(workspace, name, partition, columns, one, ledger.digest_of(state))
         for one, state in zip((version, now), files, strict=True)}
    ) == 1  # fmt: skip


def known_digest(latest: ledger.LedgerEntry | None, name: str, state: str) -> str | None:
    """The digest that the entry's step noted for an input in this very state."""
    noted = latest.outputs.get(_INPUTS, {}).get(name) if latest is not None else None
    return str(noted["digest"]) if noted is not None and noted["state"] == state else None


@lru_cache(maxsize=4096)
def _read(workspace: Workspace, name: str, partition: str, columns: tuple[str, ...], version: int, state: str) -> str:
    del state  # what the digest is remembered under
    contract = TABLES[name]
    needed = [field for field in contract.schema if field.name != contract.partition_by]
    files = tables.table_files(workspace, name, version=version, partitions=[partition])
    # The files themselves: a table of many partitions takes longer to open than one of them to read.
    found = ds.dataset(files, schema=pa.schema(needed), format="parquet") if files else pa.schema(needed).empty_table()
    key = [column for column in contract.key if column != contract.partition_by]
    wanted = [column for column in columns if column != contract.partition_by]
    rows = found.to_table(columns=[*dict.fromkeys((*wanted, *key))]) if files else found
    return content_digest(rows.sort_by([(column, "ascending") for column in key]).select(wanted))


def versions_content(
    workspace: Workspace, before_us: int, columns: Sequence[str], latest: ledger.LedgerEntry | None
) -> Content:
    """What was known of products before a moment."""
    version = tables.version_in_force(workspace, ITEM_VERSIONS)
    if version is None:
        return Content(state=ABSENT, digest=ABSENT)
    state = f"{version}@{before_us}"
    digest = known_digest(latest, ITEM_VERSIONS, state)
    return Content(state=state, digest=digest or content_digest(versions_before(workspace, before_us, columns)))


def versions_before(workspace: Workspace, before_us: int, columns: Sequence[str]) -> pa.Table:
    """`item_versions` as it stood before a moment: later versions are left out, and the end of those that held then.

    So that what happens to products later changes nothing about an earlier date. Columns that aren't asked for are null.
    """
    version = tables.version_in_force(workspace, ITEM_VERSIONS)
    schema = TABLES[ITEM_VERSIONS].schema
    if version is None:
        return schema.empty_table()
    every = _versions(workspace, version)
    held = every.filter(pc.less(every[c.VALID_FROM_US], before_us))
    end = held[c.VALID_TO_US]
    still = pc.if_else(pc.fill_null(pc.less(end, before_us), False), end, pa.scalar(None, pa.int64()))
    held = held.set_column(held.schema.get_field_index(c.VALID_TO_US), c.VALID_TO_US, still)
    for name in set(schema.names) - {*columns, c.ITEM_ID, c.VALID_FROM_US, c.VALID_TO_US}:
        empty = pa.nulls(held.num_rows, schema.field(name).type)
        held = held.set_column(held.schema.get_field_index(name), name, empty)
    return held


@lru_cache(maxsize=1)
def _versions(workspace: Workspace, version: int) -> pa.Table:
    return tables.read_table(workspace, ITEM_VERSIONS, version=version)
