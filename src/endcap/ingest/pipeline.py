"""An export of a known source in, checked tables of one dataset version and an account of every row out."""

from __future__ import annotations

import tempfile
import time
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
from endcap.contracts.errors import InputError, TransientError
from endcap.contracts.reporting import Reporter, Silent
from endcap.engines import duckdb
from endcap.ingest import build, derived, identity, impressions, landing, quality
from endcap.ingest.build import DateResult
from endcap.ingest.landing import RowAccount, Staged
from endcap.ingest.quality import IngestSettings
from endcap.ingest.sources import configuration_of, make_source, modules_of
from endcap.ingest.sources.protocol import Batch, Source
from endcap.workspace import ledger, manifests, tables
from endcap.workspace.drafts import Draft
from endcap.workspace.layout import Workspace

STEP: Final = "ingest"
_LAND_STEP: Final = "land"
_US_PER_SECOND: Final = 1_000_000
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


@dataclass(frozen=True)
class _Work:
    """What is to be done for an export: `todo` is read anew, `gone` are batches of its source that it lacks."""

    source: Source
    path: Path
    settings: IngestSettings
    batches: tuple[Batch, ...]
    digests: dict[str, str]
    inputs: tuple[manifests.InputFile, ...]
    todo: tuple[Batch, ...]
    gone: tuple[str, ...]


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
    tables come into force together, at the end. `replace` allows that a whole export lacks dates which the tables hold
    from its source.

    `options` are the source's own, such as the file of a mapping. Raises InputError when the source is unknown, the export doesn't fit it, too many rows are bad, or dates would be
    lost; TransientError when another process writes tables, or memory or disk run out.
    """
    chosen = make_source(source, options, path) if isinstance(source, str) else source
    said = report or Silent()
    with tables.exclusive(workspace):
        run = manifests.Run(workspace, STEP)
        draft = Draft(workspace)
        _say(said, "looking at the export", 0.0)
        with run.stage("check"):
            work = _plan(draft, chosen, path, settings)
        return _Ingest(draft, work, run, said, memory_mb).carry_out(replace=replace)


def _say(report: Reporter, what: str, share: float) -> None:
    report.progress("ingesting", round(share * 100, 1), 100, what)


def _plan(draft: Draft, source: Source, path: Path, settings: IngestSettings) -> _Work:
    batches = tuple(source.batches(path))
    described = {batch.name: [manifests.describe_input(file) for file in batch.paths] for batch in batches}
    digests = {name: ledger.digest_of([file.sha256 for file in files]) for name, files in described.items()}
    known = landing.landings(draft) if not draft.missing() else {}
    todo = [
        batch
        for batch in batches
        if batch.name not in known
        or known[batch.name].sha256 != digests[batch.name]
        or ledger.find_entry(draft.workspace, _land_key(source, batch.name, digests[batch.name], settings)) is None
    ]
    gone = [
        name
        for name, landed in known.items()
        if source.is_whole_export and landed.source == source.name and name not in digests
    ]
    inputs = tuple(file for files in described.values() for file in files)
    return _Work(source, path, settings, batches, digests, inputs, tuple(todo), tuple(gone))


def _land_key(source: Source, batch: str, sha256: str, settings: IngestSettings) -> ledger.StepKey:
    chosen = [source.name, configuration_of(source), settings.late_days, settings.max_quarantined_share]
    return ledger.StepKey(
        step=_LAND_STEP,
        partition=batch,
        inputs_digest=sha256,
        configuration_digest=ledger.digest_of(chosen),
        code_version=ledger.code_version_of(landing.__name__, quality.__name__, contract.__name__, *modules_of(source)),
    )


class _Ingest:
    """One ingest under way."""

    def __init__(self, draft: Draft, work: _Work, run: manifests.Run, report: Reporter, memory_mb: int) -> None:
        self._draft = draft
        self._work = work
        self._run = run
        self._report = report
        self._memory_mb = memory_mb
        self._missing = draft.missing()
        self._built: list[DateResult] = []

    def carry_out(self, *, replace: bool) -> IngestResult:
        work = self._work
        with _engine(self._draft.workspace, work.path, self._memory_mb) as connection:
            stated = work.source.catalog(connection, work.path)
            shown = impressions.of_source(connection, work.source, work.path)
            if not work.batches and stated is None and shown is None:
                raise InputError(f"{work.path} holds neither events nor a catalog of {work.source.name}.")
            with tempfile.TemporaryDirectory(prefix="staged-", dir=self._draft.workspace.scratch) as folder:
                staged = self._stage(connection, Path(folder))
                if not replace:
                    self._refuse_lost_dates(staged)
                changed = self._land(connection, staged)
            changed |= self._identify(connection)
            self._build(connection, changed)
            if shown is not None:
                with tempfile.TemporaryDirectory(prefix="shown-", dir=self._draft.workspace.scratch) as folder:
                    impressions.write(connection, self._draft, shown, Path(folder))
            counts = self._derive(connection, stated, bool(changed))
        return self._finish(staged, counts)

    def _stage(self, connection: Backend, folder: Path) -> list[Staged]:
        work = self._work
        latest_us = work.settings.latest_us
        if latest_us is None:
            latest_us = int(time.time() * _US_PER_SECOND)
        latest_us += work.settings.future_days * contract.US_PER_DAY
        staged = []
        with self._run.stage("stage"):
            for place, batch in enumerate(work.todo):
                _say(self._report, f"reading and judging {batch.name}", 0.02 + 0.33 * place / len(work.todo))
                with _reading(batch):
                    staged.append(
                        landing.stage(
                            connection, work.source, batch, sha256=work.digests[batch.name], folder=folder,
                            settings=work.settings, latest_us=latest_us,
                        )
                    )  # fmt: skip
        if staged and not any(one.landing.account.num_events for one in staged) and len(staged) == len(work.batches):
            found = ", ".join(f"{n} {reason}" for one in staged for reason, n in one.landing.counts.quarantined.items())
            raise InputError(
                f"{work.path} holds no row that can be used ({found}); nothing was written. Check the export."
            )
        return staged

    def _refuse_lost_dates(self, staged: Sequence[Staged]) -> None:
        work = self._work
        if not work.source.is_whole_export or not (staged or work.gone):
            return
        known = landing.landings(self._draft) if not self._missing else {}
        own = [landed for landed in known.values() if landed.source == work.source.name]
        kept = {date for one in staged for date in one.landing.counts.dates}
        kept |= {date for one in own if one.name in work.digests and one.name not in {b.name for b in work.todo}
                 for date in one.counts.dates}  # fmt: skip
        lost = sorted({date for landed in own for date in landed.counts.dates} - kept)
        if lost:
            raise InputError(
                f"{work.path} lacks {len(lost)} dates that the workspace holds ({lost[0]} to {lost[-1]}): a file is the "
                "whole export of its source, so they would be lost. Give the full export, or ingest with replace to "
                "drop them on purpose."
            )

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
                name = work.source.name if work.source.is_whole_export else f"{work.source.name}/{work.path.name}"
                must |= derived.write_catalog(connection, draft, name, stated).changed
            return derived.derive(connection, draft) if must else derived.derived(connection, draft)

    def _finish(self, staged: Sequence[Staged], counts: derived.Derived) -> IngestResult:
        draft, work = self._draft, self._work
        dataset, in_force = draft.dataset, landing.landings(draft)
        built = build.build_digest(work.settings)
        source = "+".join(sorted({landed.source for landed in in_force.values()} | {work.source.name}))
        account = landing.total((in_force[b.name] for b in work.batches), landing.reasons_of(work.source))
        before = (dataset.versions, dataset.source, dataset.build) if dataset else None
        changed = before != (draft.versions, source, built)
        manifest_path = _manifest_of(draft.workspace, dataset)
        if staged or changed or manifest_path is None:
            # In this order: a dataset in force always has its run's manifest, and only what is wholly done is skipped.
            manifest_path = self._run.finish(
                inputs=work.inputs, data_versions=draft.versions, configuration=self._configuration(),
                metrics=self._metrics(account, counts),
            )  # fmt: skip
            if changed:
                tables.publish_dataset(
                    draft.workspace, tables.Dataset(source, self._run.run_id, draft.versions, build=built)
                )
            for one in staged:
                key = _land_key(work.source, one.batch.name, one.landing.sha256, work.settings)
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
        )

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
def _engine(workspace: Workspace, path: Path, memory_mb: int) -> Iterator[Backend]:
    """A connection that says what to do when memory runs out."""
    with duckdb.session(workspace, memory_mb=memory_mb) as connection:
        try:
            yield connection
        except OutOfMemoryException as error:
            raise TransientError(
                f"{path} needs more memory than the engine may use ({memory_mb} MB): free some memory, or allow more "
                "with --memory-limit."
            ) from error


@contextmanager
def _reading(batch: Batch) -> Iterator[None]:
    """What stops the engine while it reads a batch is the batch's fault, but for memory."""
    try:
        yield
    except OutOfMemoryException:
        raise
    except DuckDBError as error:
        paths, first_line = ", ".join(map(str, batch.paths)), str(error).partition("\n")[0]
        raise InputError(
            f"{paths} can't be read to its end: {first_line}. Export it again, or copy it again in full."
        ) from error
