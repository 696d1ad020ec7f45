"""An export of a known source in, checked tables of one dataset version and an account of every row out."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import ibis.expr.types as ir
import msgspec
from duckdb import Error as DuckDBError
from duckdb import OutOfMemoryException
from ibis.backends.duckdb import Backend

from endcap.contracts import events as contract
from endcap.contracts.errors import InputError
from endcap.contracts.reporting import Reporter, Silent
from endcap.engines import duckdb
from endcap.engines.failures import explained, first_line, is_denied, is_disk_full
from endcap.ingest import attributes, build, derived, identity, impressions, landing, planning, statements
from endcap.ingest.build import DateResult
from endcap.ingest.landing import RowAccount, Staged
from endcap.ingest.planning import Work
from endcap.ingest.quality import IngestSettings
from endcap.ingest.sources import configuration_of, make_source
from endcap.ingest.sources.protocol import Batch, DescribingSource, Source
from endcap.ingest.sources.stated import SideAccount
from endcap.ingest.sources.stated import stated as stated_of
from endcap.workspace import ledger, manifests, tables
from endcap.workspace.drafts import Draft
from endcap.workspace.layout import Workspace

STEP: Final = "ingest"
_DERIVED: Final = frozenset({contract.ITEMS, contract.ITEM_VERSIONS, contract.USERS})
_NOTHING: Final = "nothing to do: all of this is ingested already"
_DEFAULTS: Final = IngestSettings()


class BuildAccount(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What became of the landed rows of the dates that were built: events, rows that another batch brought too, bots."""

    num_dates: int = 0
    num_landed: int = 0
    num_events: int = 0
    num_repeated: int = 0
    num_bots: int = 0
    num_sessions: int = 0


@dataclass(frozen=True)
class IngestResult:
    """What an ingest came to. `changed` is false when the tables already held exactly this."""

    account: RowAccount
    """Rows of all batches of this export, whether they were read again or known already."""
    build: BuildAccount
    versions: dict[str, int]
    manifest_path: Path
    changed: bool
    num_landed_batches: int
    num_skipped_batches: int
    num_unknown_items: int
    catalog: SideAccount | None = None
    """Where the rows of the export's catalog went; None when it has none."""
    requests: SideAccount | None = None
    """The same for the products that a log says were shown."""
    notes: tuple[str, ...] = ()
    """Sentences on what the caller may not expect."""


def ingest(
    workspace: Workspace,
    source: str | Source,
    path: Path,
    *,
    options: Mapping[str, str] | None = None,
    settings: IngestSettings = _DEFAULTS,
    replace: bool = False,
    report: Reporter | None = None,
    memory_mb: int = duckdb.DEFAULT_MEMORY_MB,
) -> IngestResult:
    """Bring the batches of the export at `path` into the workspace's tables.

    A batch takes the place of the one of the same name; a source that is a whole export takes the place of all its
    batches. Batches that are in the tables already are skipped, and where content is the same nothing is written; the
    tables come into force together, at the end. `replace` allows that dates are lost which replaced batches brought.

    `options` are the source's own, such as the file of a mapping. What `settings` leaves open is as in force. Raises
    InputError when the source is unknown, the export doesn't fit it or may not be read, too many rows are bad, or dates
    would be lost; TransientError when another process writes tables, or memory or disk run out; ArtifactError when the
    tables' files are damaged.
    """
    said = report or Silent()
    with explained(workspace, f"the ingest of {path}"):
        chosen = make_source(source, options, path) if isinstance(source, str) else source
        with tables.exclusive(workspace):
            run = manifests.Run(workspace, STEP)
            draft = Draft(workspace)
            _say(said, "looking at the export", 0.0)
            with run.stage("check"):
                work = planning.plan(draft, chosen, path, build.settings_in_force(workspace, settings))
            return _Ingest(draft, work, run, said, memory_mb).carry_out(replace=replace)


def _say(report: Reporter, what: str, share: float) -> None:
    report.progress("ingesting", round(share * 100, 1), 100, what)


class _Ingest:
    """One ingest under way."""

    def __init__(self, draft: Draft, work: Work, run: manifests.Run, report: Reporter, memory_mb: int) -> None:
        self._draft = draft
        self._work = work
        self._run = run
        self._report = report
        self._memory_mb = memory_mb
        self._missing = draft.missing()
        self._built: list[DateResult] = []

    def carry_out(self, *, replace: bool) -> IngestResult:
        work, draft = self._work, self._draft
        with (
            duckdb.session(draft.workspace, memory_mb=self._memory_mb) as connection,
            tempfile.TemporaryDirectory(prefix="shown-", dir=draft.workspace.scratch) as told,
        ):
            stated = stated_of(connection, work.source, work.path)
            shown = impressions.of_source(connection, work.source, work.path, Path(told))
            if not work.batches and stated is None and shown is None:
                raise InputError(f"{work.path} holds neither events nor a catalog of {work.source.name}.")
            source = impressions.knowing(connection, draft, work.source, shown, Path(told))
            with tempfile.TemporaryDirectory(prefix="staged-", dir=draft.workspace.scratch) as folder:
                staged = self._stage(connection, source, Path(folder))
                planning.refuse_nothing_usable(work, staged)
                if not replace:
                    planning.refuse_lost_dates(work, staged)
                changed = self._land(connection, staged)
            changed |= self._identify(connection)
            self._build(connection, changed)
            if shown is not None or changed:
                impressions.write(connection, draft, shown, Path(told))
            counts = self._derive(connection, None if stated is None else stated.rows, bool(changed))
            self._describe(connection)
        return dataclasses.replace(
            self._finish(staged, counts),
            catalog=None if stated is None else stated.account,
            requests=None if shown is None else shown.account,
        )

    def _stage(self, connection: Backend, source: Source, folder: Path) -> list[Staged]:
        work = self._work
        staged = []
        with self._run.stage("stage"):
            for place, batch in enumerate(work.todo):
                _say(self._report, f"reading and judging {batch.name}", 0.02 + 0.33 * place / len(work.todo))
                with _reading(batch):
                    staged.append(
                        landing.stage(
                            connection, source, batch, sha256=work.digests[batch.name], folder=folder,
                            settings=work.settings, now_us=work.now_us,
                        )
                    )  # fmt: skip
        return staged

    def _land(self, connection: Backend, staged: list[Staged]) -> set[str]:
        if self._missing & {contract.LANDED, contract.BATCHES, contract.QUARANTINE}:
            for name in (contract.LANDED, contract.BATCHES):
                self._draft.versions.pop(name, None)
        if not staged and not self._work.gone:
            return set()
        with self._run.stage("land"):
            return landing.land(
                connection, self._draft, staged, self._work.gone,
                lambda what, share: _say(self._report, what, 0.35 + 0.2 * share),
            )  # fmt: skip

    def _identify(self, connection: Backend) -> set[str]:
        with self._run.stage("identify"):
            found = identity.resolve(connection, self._draft.workspace, self._draft.versions)
            if found.identities.num_rows or self._draft.has(contract.IDENTITIES):
                self._draft.write(contract.IDENTITIES, found.identities)
            return set(found.dates)

    def _build(self, connection: Backend, changed: set[str]) -> None:
        dataset = self._draft.dataset
        dates = set(changed)
        is_stale = dataset is None or dataset.build != build.build_digest(self._work.settings)
        if is_stale or self._missing - _DERIVED:
            for name in self._missing & {contract.EVENTS, contract.OPEN_SESSIONS}:
                self._draft.versions.pop(name, None)
            dates |= (
                self._draft.partition_rows(contract.LANDED).keys() | self._draft.partition_rows(contract.EVENTS).keys()
            )
        if not dates and self._draft.has(contract.EVENTS):
            return
        with self._run.stage("build"):
            self._built = build.build_dates(
                connection, self._draft, dates, self._work.settings,
                lambda what, share: _say(self._report, what, 0.55 + 0.3 * share),
            )  # fmt: skip
            if not self._draft.has(contract.EVENTS):
                self._draft.replace(contract.EVENTS, contract.EVENTS_TABLE.schema.empty_table(), [])

    def _derive(self, connection: Backend, stated: ir.Table | None, landed_changed: bool) -> derived.Derived:
        draft, work = self._draft, self._work
        _say(self._report, "describing products and users", 0.9)
        with self._run.stage("derive"):
            must = landed_changed or bool(self._missing) or not draft.versions.keys() >= _DERIVED
            if stated is not None:
                as_of_us = work.settings.catalog_as_of_us
                must |= statements.write(
                    connection, draft, statements.catalog_name(work.source), stated,
                    work.now_us if as_of_us is None else as_of_us, is_whole=work.source.is_whole_export,
                )  # fmt: skip
            return derived.derive(connection, draft) if must else derived.derived(connection, draft)

    def _describe(self, connection: Backend) -> None:
        work, as_of_us = self._work, self._work.settings.catalog_as_of_us
        said = work.source.attributes(connection, work.path) if isinstance(work.source, DescribingSource) else {}
        if said:
            with self._run.stage("describe"):
                as_of_us = work.now_us if as_of_us is None else as_of_us
                for file, table in said.items():
                    # A snapshot is compared with what its own file said before.
                    name = f"{statements.catalog_name(work.source)}/{file}"
                    attributes.write(connection, self._draft, name, table, as_of_us)

    def _finish(self, staged: Sequence[Staged], counts: derived.Derived) -> IngestResult:
        draft, work = self._draft, self._work
        dataset, in_force = draft.dataset, landing.landings(draft)
        built = build.build_digest(work.settings)
        source = "+".join(sorted({landed.source for landed in in_force.values()} | {work.source.name}))
        account = landing.total((in_force[b.name] for b in work.batches), landing.reasons_of(work.source))
        chosen = work.settings.built_with
        before = (dataset.versions, dataset.source, dataset.build, dataset.settings) if dataset else None
        changed = before != (draft.versions, source, built, chosen)
        manifest_path = _manifest_of(draft.workspace, dataset)
        if staged or changed or manifest_path is None:
            # In this order: a dataset in force always has its run's manifest, and only what is wholly done is skipped.
            manifest_path = self._run.finish(
                inputs=work.inputs, data_versions=draft.versions, configuration=self._configuration(),
                metrics=self._metrics(account, counts),
                dataset_version=tables.number_of(draft.workspace, draft.versions, chosen),
            )  # fmt: skip
            if changed:
                tables.publish_dataset(
                    draft.workspace,
                    tables.Dataset(
                        source, self._run.run_id, draft.versions, build=built, settings=chosen, derived=draft.derived
                    ),
                )
            for one in staged:
                key = planning.land_key(work, one.batch.name)
                ledger.record_entry(draft.workspace, ledger.LedgerEntry(key=key, run_id=self._run.run_id, outputs={}))
        _say(self._report, "done" if staged or changed else _NOTHING, 1.0)
        return IngestResult(
            account=account,
            build=self._build_account(),
            versions=draft.versions,
            manifest_path=manifest_path,
            changed=changed,
            num_landed_batches=len(staged),
            num_skipped_batches=len(work.batches) - len(staged),
            num_unknown_items=counts.num_unknown_items,
            notes=self._notes(),
        )

    def _notes(self) -> tuple[str, ...]:
        dataset, chosen = self._draft.dataset, self._work.settings.built_with
        before = dataset.settings if dataset is not None else {}
        told = [
            f"{name} is {value}, {before[name]} until now"
            for name, value in chosen.items()
            if before.get(name, value) != value
        ]
        return (f"All dates are built again with other settings: {'; '.join(told)}.",) if told else ()

    def _configuration(self) -> dict[str, Any]:
        return {
            "source": self._work.source.name,
            **configuration_of(self._work.source),
            **msgspec.to_builtins(self._work.settings),
        }

    def _build_account(self) -> BuildAccount:
        return BuildAccount(
            num_dates=len(self._built),
            **{
                name: sum(getattr(result, name) for result in self._built)
                for name in ("num_landed", "num_events", "num_repeated", "num_bots", "num_sessions")
            },
        )

    def _metrics(self, account: RowAccount, counts: derived.Derived) -> dict[str, float | int]:
        built = self._build_account()
        metrics: dict[str, float | int] = {
            "num_rows": account.num_rows,
            "num_duplicates": account.num_duplicates,
            "num_late": account.num_late,
            "num_items": counts.num_items,
            "num_unknown_items": counts.num_unknown_items,
            "num_users": counts.num_users,
            "num_sessions": built.num_sessions,
            "num_repeated": built.num_repeated,
            "num_bots": built.num_bots,
        }
        metrics |= {f"num_{event_type}": count for event_type, count in account.events.items()}
        return metrics | {f"num_quarantined_{reason}": count for reason, count in account.quarantined.items()}


def _manifest_of(workspace: Workspace, dataset: tables.Dataset | None) -> Path | None:
    path = workspace.runs / dataset.run_id / manifests.RUN_MANIFEST if dataset else None
    return path if path and path.is_file() else None


@contextmanager
def _reading(batch: Batch) -> Iterator[None]:
    """What stops the engine while it reads a batch is the batch's fault, but for memory and disk."""
    try:
        yield
    except OutOfMemoryException:
        raise
    except DuckDBError as error:
        paths = ", ".join(map(str, batch.paths))
        if is_disk_full(error):
            raise
        if is_denied(error):
            raise InputError(
                f"{paths} may not be read: {first_line(error)}. Change its permissions, or ingest as a user who may."
            ) from error
        raise InputError(
            f"{paths} can't be read to its end: {first_line(error)}. Export it again, or copy it again in full."
        ) from error
