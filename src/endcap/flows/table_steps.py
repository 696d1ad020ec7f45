"""Landed rows of a workspace in, its `events` by date and its products and users as a whole out: one step each."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from typing import Any, Final

import msgspec

from endcap.contracts.errors import ArtifactError, InputError
from endcap.contracts.events import EVENTS, EVENTS_TABLE, IDENTITIES, LANDED, OPEN_SESSIONS
from endcap.engines import duckdb
from endcap.flows.contents import (
    Content,
    files_in_force,
    is_as_before,
    known_digest,
    landed_dates,
    partition_content,
)
from endcap.flows.partitions import Context, Node
from endcap.ingest import build, derived
from endcap.ingest.quality import IngestSettings
from endcap.workspace import ledger, manifests, tables
from endcap.workspace.drafts import Draft
from endcap.workspace.layout import Workspace

EVENTS_STEP: Final = "events"
CATALOG_STEP: Final = "catalog"
WHOLE: Final = "all"
"""Partition of a step that isn't divided."""


def settings_in_force(workspace: Workspace) -> IngestSettings:
    """The settings that the events in force are built with. Raises InputError before the first ingest."""
    if tables.current_dataset(workspace) is None:
        raise InputError(f"{workspace.path} holds no data yet. Fill it with: endcap ingest")
    return build.settings_in_force(workspace)


@dataclass(frozen=True)
class Events:
    """The events of each date: landed rows deduplicated, merged by identity, rid of bots, put into sessions.

    A date depends on its landed rows and on the sessions that were open when it began, and so on the date before.
    """

    settings: IngestSettings
    name: str = EVENTS_STEP

    def partitions(self, workspace: Workspace, first: date, last: date) -> list[str]:
        """Dates with landed rows."""
        return [day for day in landed_dates(workspace) if str(first) <= day <= str(last)]

    def needs(self, workspace: Workspace, partition: str) -> list[Node]:
        """The date before: a session may go on past midnight."""
        del workspace
        return [Node(self.name, _day_before(partition))]

    def key(self, workspace: Workspace, partition: str) -> ledger.StepKey:
        """Its inputs are contents: the same rows in other files are the same."""
        return ledger.StepKey(
            step=self.name,
            partition=partition,
            inputs_digest=self._landed(workspace, partition)["digest"],
            configuration_digest=ledger.digest_of(self.settings.built_with),
            code_version=ledger.code_version_of(__name__, *build.CODE),
        )

    def run(self, workspace: Workspace, partition: str, context: Context) -> dict[str, Any]:
        """Build the date and put it in force, with these settings as those that later ingests go on with."""
        landed = self._landed(workspace, partition)
        result = build.build_date(
            workspace,
            partition,
            self.settings,
            are_others_built=self._are_others_built(workspace, partition),
            memory_mb=context.memory_mb,
        )
        return {
            "num_events": result.num_events,
            "num_sessions": result.num_sessions,
            "changed": result.changed,
            "inputs": {LANDED: landed},
            "made": _events(workspace, partition, None),
        }

    def is_there(self, workspace: Workspace, entry: ledger.LedgerEntry) -> bool:
        """Whether the date's events in force are those of the entry."""
        return _holds(workspace, entry)

    def made_elsewhere(self, workspace: Workspace, partition: str) -> bool:
        """Whether an ingest built the date, with these settings and this code, after any backfill did.

        What was altered since counts for nothing: neither where the entry's own key would give what the entry had, nor
        where the date is another than the run left that put the dataset in force.
        """
        dataset = tables.current_dataset(workspace)
        if dataset is None or dataset.build != build.build_digest(self.settings):
            return False
        latest = ledger.find_latest(workspace, self.name, partition)
        if latest is not None:
            return latest.key != self.key(workspace, partition) and not _holds(workspace, latest)
        return _is_as_left(workspace, dataset, partition)

    def is_gone(self, workspace: Workspace, partition: str) -> bool:
        """Never: an ingest takes the events away together with their landed rows."""
        del workspace, partition
        return False

    def _landed(self, workspace: Workspace, partition: str) -> Content:
        state = ledger.digest_of(
            [
                files_in_force(workspace, LANDED, [partition]),
                files_in_force(workspace, OPEN_SESSIONS, [_day_before(partition)]),
                files_in_force(workspace, IDENTITIES),
            ]
        )
        known = known_digest(ledger.find_latest(workspace, self.name, partition), LANDED, state)
        return Content(state=state, digest=known or _inputs_digest(workspace, partition, state))

    def _are_others_built(self, workspace: Workspace, partition: str) -> bool:
        """Whether all other dates are what they would be with these settings, so that the dataset can say so."""
        dataset = tables.current_dataset(workspace)
        if dataset is None or dataset.build == build.build_digest(self.settings):
            return True
        key = self.key(workspace, partition)
        # The last first: a backfill goes the other way, so it is what isn't done yet.
        return all(self._is_built(workspace, day, key) for day in reversed(landed_dates(workspace)) if day != partition)

    def _is_built(self, workspace: Workspace, day: str, key: ledger.StepKey) -> bool:
        made = ledger.find_latest(workspace, self.name, day)
        if made is None or ledger.find_attempt(workspace, self.name, day) is not None:
            return False
        same = (made.key.configuration_digest, made.key.code_version) == (key.configuration_digest, key.code_version)
        # An ingest with other settings may have been at it since.
        return same and _holds(workspace, made)


@dataclass(frozen=True)
class Catalog:
    """Products, what held for them over time, and users: made from everything that is landed, as a whole."""

    name: str = CATALOG_STEP

    def partitions(self, workspace: Workspace, first: date, last: date) -> list[str]:
        """The one partition, for any range with landed rows."""
        landed = landed_dates(workspace)
        return [WHOLE] if any(str(first) <= day <= str(last) for day in landed) else []

    def needs(self, workspace: Workspace, partition: str) -> list[Node]:
        """Nothing: it is made from landed rows."""
        del workspace, partition
        return []

    def key(self, workspace: Workspace, partition: str) -> ledger.StepKey:
        """Its inputs are files: to look at the content of all landed rows would take as long as to run."""
        return ledger.StepKey(
            step=self.name,
            partition=partition,
            inputs_digest=ledger.digest_of([files_in_force(workspace, name) for name in derived.MADE_FROM]),
            configuration_digest=ledger.digest_of({}),
            code_version=ledger.code_version_of(__name__, *derived.CODE),
        )

    def run(self, workspace: Workspace, partition: str, context: Context) -> dict[str, Any]:
        """Derive the three tables and put them in force."""
        del partition
        with tables.exclusive(workspace):
            draft = Draft(workspace)
            if draft.dataset is None:
                raise InputError(f"{workspace.path} holds no data yet. Fill it with: endcap ingest")
            with duckdb.session(workspace, memory_mb=context.memory_mb, num_threads=context.num_threads) as connection:
                counts = derived.derive(connection, draft)
            if (draft.versions, draft.derived) != (draft.dataset.versions, draft.dataset.derived):
                changed = msgspec.structs.replace(draft.dataset, versions=draft.versions, derived=draft.derived)
                tables.publish_dataset(workspace, changed)
        return {"num_items": counts.num_items, "num_users": counts.num_users, "made": _derived_files(workspace)}

    def is_there(self, workspace: Workspace, entry: ledger.LedgerEntry) -> bool:
        """Whether the tables in force consist of the entry's files."""
        return bool(entry.outputs.get("made") == _derived_files(workspace))

    def made_elsewhere(self, workspace: Workspace, partition: str) -> bool:
        """Whether an ingest derived them from the same files with the same code, and they are what it made."""
        del partition
        dataset = tables.current_dataset(workspace)
        return dataset is not None and dataset.derived == derived.state_digest(workspace, dataset.versions)

    def is_gone(self, workspace: Workspace, partition: str) -> bool:
        """Never: without any landed rows there is no partition."""
        del workspace, partition
        return False


def _derived_files(workspace: Workspace) -> str:
    return ledger.digest_of({name: files_in_force(workspace, name) for name in derived.MADE})


def _events(workspace: Workspace, day: str, latest: ledger.LedgerEntry | None) -> Content:
    return partition_content(workspace, EVENTS, day, EVENTS_TABLE.schema.names, latest)


def _holds(workspace: Workspace, entry: ledger.LedgerEntry) -> bool:
    """Whether the date's events in force are those that the entry's run made, be it in other files."""
    made: Content = entry.outputs.get("made", Content(state="", digest=""))
    noted = msgspec.structs.replace(entry, outputs={"inputs": {EVENTS: made}})
    return _events(workspace, entry.key.partition, noted)["digest"] == made["digest"]


def _is_as_left(workspace: Workspace, dataset: tables.Dataset, day: str) -> bool:
    """Whether the date's events, and what they are made from, are those of the run that put the dataset in force."""
    parts = ((EVENTS, day), (LANDED, day), (OPEN_SESSIONS, _day_before(day)))
    try:
        left = manifests.read_manifest(workspace, dataset.run_id).data_versions
        return all(is_as_before(workspace, name, partition, left.get(name)) for name, partition in parts)
    except (ArtifactError, InputError, OSError):
        return False


@lru_cache(maxsize=4096)
def _inputs_digest(workspace: Workspace, day: str, state: str) -> str:
    del state  # part of what the digest is remembered under
    # Settings are a part of the key of their own.
    return build.date_inputs_digest(workspace, day, IngestSettings())


def _day_before(day: str) -> str:
    return str(date.fromisoformat(day) - timedelta(days=1))
