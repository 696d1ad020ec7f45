"""Pairs of a guest and a user that the shop gives in, the dates with these guests' events built anew out."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import pyarrow as pa

from endcap.contracts import columns as c
from endcap.contracts.errors import InputError
from endcap.contracts.events import IDENTITIES, IDENTITY_PAIRS, IDENTITY_PAIRS_TABLE
from endcap.contracts.reporting import Reporter
from endcap.engines import duckdb
from endcap.ingest import build, derived, identity, impressions
from endcap.ingest.quality import IngestSettings
from endcap.workspace import manifests, tables
from endcap.workspace.drafts import Draft
from endcap.workspace.exclusive import exclusive
from endcap.workspace.layout import Workspace

STEP: Final = "identities"


@dataclass(frozen=True)
class MergeResult:
    """What giving pairs came to: guests that count as users, and dates (ISO, sorted) that were built anew."""

    num_merged: int
    num_changed: int
    num_ambiguous: int
    dates: tuple[str, ...]


def merge_users(
    workspace: Workspace,
    pairs: pa.Table,
    settings: IngestSettings,
    report: Reporter,
    *,
    memory_mb: int = duckdb.DEFAULT_MEMORY_MB,
) -> MergeResult:
    """Add `pairs` to those given before, and let the events of these guests count as their users'.

    A guest given again gets the later user. What `settings` leaves open is as in force. All tables come into force
    together; the same pairs again change nothing.
    Raises InputError before the first ingest, TransientError when another process writes tables.
    """
    with exclusive(workspace):
        draft = Draft(workspace)
        if draft.dataset is None:
            raise InputError(f"{workspace.path} holds no data yet, so nobody can be merged. Begin with: endcap ingest")
        settings = build.settings_in_force(workspace, settings)
        run = manifests.Run(workspace, STEP)
        draft.write(IDENTITY_PAIRS, _with_earlier(draft, pairs))
        with duckdb.session(workspace, memory_mb=memory_mb) as connection:
            found = identity.resolve(connection, workspace, draft.versions)
            if found.num_changed:
                draft.write(IDENTITIES, found.identities)
                build.build_dates(
                    connection, draft, found.dates, settings,
                    lambda what, share: report.progress("merging guests", round(share * 100, 1), 100, what),
                )  # fmt: skip
                derived.derive(connection, draft)
                with tempfile.TemporaryDirectory(prefix="shown-", dir=workspace.scratch) as folder:
                    impressions.write(connection, draft, None, Path(folder))
        if draft.versions != draft.dataset.versions:
            number = tables.number_of(workspace, draft.versions, settings.built_with)
            run.finish(
                data_versions=draft.versions, dataset_version=number, configuration=msgspec.to_builtins(settings)
            )
            own = build.build_digest(settings)
            changed = msgspec.structs.replace(
                draft.dataset, versions=draft.versions, run_id=run.run_id, settings=settings.built_with,
                derived=draft.derived, build=own if draft.dataset.build == own else "",
            )  # fmt: skip
            tables.publish_dataset(workspace, changed)
        report.progress("merging guests", 100, 100, f"{len(found.dates)} dates built anew")
    return MergeResult(found.identities.num_rows, found.num_changed, found.num_ambiguous, found.dates)


def _with_earlier(draft: Draft, pairs: pa.Table) -> pa.Table:
    known: dict[str, str] = {}
    earlier = (
        [tables.read_table(draft.workspace, IDENTITY_PAIRS, version=draft.versions[IDENTITY_PAIRS])]
        if draft.has(IDENTITY_PAIRS)
        else []
    )
    for table in (*earlier, pairs):
        known |= dict(zip(table[c.GUEST_ID].to_pylist(), table[c.USER_ID].to_pylist(), strict=True))
    return pa.table([list(known), list(known.values())], schema=IDENTITY_PAIRS_TABLE.schema)
