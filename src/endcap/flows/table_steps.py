"""Landed rows of a workspace in, its `events` by date and its products and users as a whole out: one step each."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from typing import Any, Final

import msgspec

from endcap.contracts.errors import InputError
from endcap.contracts.events import (
    CATALOG,
    EVENTS,
    EVENTS_TABLE,
    IDENTITIES,
    ITEM_VERSIONS,
    ITEMS,
    LANDED,
    OPEN_SESSIONS,
    USERS,
)
from endcap.contracts.events import __name__ as contract_module
from endcap.engines import duckdb
from endcap.flows.contents import Content, files_in_force, known_digest, landed_dates, partition_content
from endcap.flows.partitions import Context, Node
from endcap.ingest import build, catalog, derived, quality, sessions
from endcap.ingest.quality import IngestSettings
from endcap.workspace import ledger, manifests, tables
from endcap.workspace.drafts import Draft
from endcap.workspace.layout import Workspace

EVENTS_STEP: Final = "events"
CATALOG_STEP: Final = "catalog"
WHOLE: Final = "all"
"""Partition of a step that isn't divided."""

_DERIVED: Final = (ITEMS, ITEM_VERSIONS, USERS)


def settings_in_force(workspace: Workspace) -> IngestSettings:
    """The settings of the ingest that made the tables in force; the defaults where nobody knows them any more."""
    dataset = tables.current_dataset(workspace)
    if dataset is None:
        raise InputError(f"{workspace.path} holds no data yet. Fill it with: endcap ingest")
    try:
        told = manifests.read_manifest(workspace, dataset.run_id).configuration
        known = {name: value for name, value in told.items() if name in IngestSettings.__struct_fields__}
        return msgspec.convert(known, IngestSettings)
    except (InputError, msgspec.ValidationError):
        return IngestSettings()


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
        code = (__name__, build.__name__, sessions.__name__, quality.__name__, contract_module)
        chosen = [self.settings.session_gap_minutes, self.settings.max_events_per_user_per_day]
        return ledger.StepKey(
            step=self.name,
            partition=partition,
            inputs_digest=self._landed(workspace, partition)["digest"],
            configuration_digest=ledger.digest_of(chosen),
            code_version=ledger.code_version_of(*code),
        )

    def run(self, workspace: Workspace, partition: str, context: Context) -> dict[str, Any]:
        """Build the date and put it in force."""
        landed = self._landed(workspace, partition)
        key = self.key(workspace, partition)
        result = build.build_date(workspace, partition, self.settings, memory_mb=context.memory_mb)
        self._note_settings(workspace, key)
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
        """Whether an ingest built the date, with these settings and this code, after any backfill did."""
        dataset = tables.current_dataset(workspace)
        if dataset is None or dataset.build != build.build_digest(self.settings):
            return False
        latest = ledger.find_latest(workspace, self.name, partition)
        return latest is None or not _holds(workspace, latest)

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

    def _note_settings(self, workspace: Workspace, key: ledger.StepKey) -> None:
        """Say in the dataset which settings all of its dates have; while they differ, that no ingest can rely on any."""
        own = build.build_digest(self.settings)
        with tables.exclusive(workspace):
            dataset = tables.current_dataset(workspace)
            if dataset is None or dataset.build == own:
                return
            others = [day for day in landed_dates(workspace) if day != key.partition]
            noted = own if all(self._has_settings_of(workspace, day, key) for day in others) else ""
            if dataset.build != noted:
                tables.publish_dataset(workspace, msgspec.structs.replace(dataset, build=noted))

    def _has_settings_of(self, workspace: Workspace, day: str, key: ledger.StepKey) -> bool:
        made = ledger.find_latest(workspace, self.name, day)
        same = made is not None and (made.key.configuration_digest, made.key.code_version) == (
            key.configuration_digest,
            key.code_version,
        )
        return same and ledger.find_attempt(workspace, self.name, day) is None


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
        code = (__name__, derived.__name__, catalog.__name__, contract_module)
        return ledger.StepKey(
            step=self.name,
            partition=partition,
            inputs_digest=ledger.digest_of([files_in_force(workspace, name) for name in (LANDED, CATALOG, IDENTITIES)]),
            configuration_digest=ledger.digest_of({}),
            code_version=ledger.code_version_of(*code),
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
            if draft.versions != draft.dataset.versions:
                tables.publish_dataset(workspace, msgspec.structs.replace(draft.dataset, versions=draft.versions))
        made = {name: files_in_force(workspace, name) for name in _DERIVED}
        return {"num_items": counts.num_items, "num_users": counts.num_users, "made": ledger.digest_of(made)}

    def is_there(self, workspace: Workspace, entry: ledger.LedgerEntry) -> bool:
        """Whether the tables in force consist of the entry's files."""
        made = {name: files_in_force(workspace, name) for name in _DERIVED}
        return bool(entry.outputs.get("made") == ledger.digest_of(made))

    def made_elsewhere(self, workspace: Workspace, partition: str) -> bool:
        """An ingest makes them too, but doesn't say with which code."""
        del workspace, partition
        return False


def _events(workspace: Workspace, day: str, latest: ledger.LedgerEntry | None) -> Content:
    return partition_content(workspace, EVENTS, day, EVENTS_TABLE.schema.names, latest)


def _holds(workspace: Workspace, entry: ledger.LedgerEntry) -> bool:
    """Whether the date's events in force are those that the entry's run made, be it in other files."""
    made: Content = entry.outputs.get("made", Content(state="", digest=""))
    noted = msgspec.structs.replace(entry, outputs={"inputs": {EVENTS: made}})
    return _events(workspace, entry.key.partition, noted)["digest"] == made["digest"]


@lru_cache(maxsize=4096)
def _inputs_digest(workspace: Workspace, day: str, state: str) -> str:
    del state  # part of what the digest is remembered under
    # Settings are a part of the key of their own.
    return build.date_inputs_digest(workspace, day, IngestSettings())


def _day_before(day: str) -> str:
    return str(date.fromisoformat(day) - timedelta(days=1))
