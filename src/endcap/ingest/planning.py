"""An export and a workspace in, which of its batches are to be read, and what would be lost by that, out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from endcap.contracts import events as contract
from endcap.contracts.errors import InputError
from endcap.ingest import landing, quality
from endcap.ingest.landing import Landing, Staged
from endcap.ingest.quality import IngestSettings
from endcap.ingest.sources import configuration_of, modules_of
from endcap.ingest.sources.protocol import Batch, Source
from endcap.workspace import ledger, manifests
from endcap.workspace.drafts import Draft

LAND_STEP: Final = "land"
_MOST_NAMED: Final = 5


@dataclass(frozen=True)
class Work:
    """What is to be done for an export: `todo` is read anew, `gone` are batches of its source that it lacks."""

    source: Source
    path: Path
    settings: IngestSettings
    now_us: int
    """The moment of the ingest."""
    batches: tuple[Batch, ...]
    digests: dict[str, str]
    inputs: tuple[manifests.InputFile, ...]
    known: dict[str, Landing]
    """The batches in force, of all sources."""
    todo: tuple[Batch, ...]
    gone: tuple[str, ...]

    @property
    def latest_us(self) -> int:
        """The last moment that an event may have."""
        return self.now_us + self.settings.future_days * contract.US_PER_DAY


def plan(draft: Draft, source: Source, path: Path, settings: IngestSettings) -> Work:
    """Look at the export's batches: those of known content, read with these settings and this code, are done.

    A batch with events of the future is done only until the first of them may be one.
    """
    batches = tuple(source.batches(path))
    described = {batch.name: [manifests.describe_input(file) for file in batch.paths] for batch in batches}
    digests = {name: ledger.digest_of([file.sha256 for file in files]) for name, files in described.items()}
    known = landing.landings(draft) if not draft.missing() else {}
    work = Work(
        source=source,
        path=path,
        settings=settings,
        now_us=settings.now_us,
        batches=batches,
        digests=digests,
        inputs=tuple(file for files in described.values() for file in files),
        known=known,
        todo=(),
        gone=tuple(
            name
            for name, landed in known.items()
            if source.is_whole_export and landed.source == source.name and name not in digests
        ),
    )
    todo = tuple(batch for batch in batches if not _is_done(draft, work, batch.name))
    return Work(**{**vars(work), "todo": todo})


def _is_done(draft: Draft, work: Work, name: str) -> bool:
    landed = work.known.get(name)
    if landed is None or landed.sha256 != work.digests[name]:
        return False
    due_us = landed.counts.first_future_us
    if due_us is not None and due_us <= work.latest_us:
        return False
    return ledger.find_entry(draft.workspace, land_key(work, name)) is not None


def land_key(work: Work, batch: str) -> ledger.StepKey:
    """What the landed rows of a batch depend on."""
    source, settings = work.source, work.settings
    chosen = [
        source.name, configuration_of(source), settings.late_days, settings.future_days,
        settings.max_quarantined_share, settings.max_quarantined,
    ]  # fmt: skip
    return ledger.StepKey(
        step=LAND_STEP,
        partition=batch,
        inputs_digest=work.digests[batch],
        configuration_digest=ledger.digest_of(chosen),
        code_version=ledger.code_version_of(landing.__name__, quality.__name__, contract.__name__, *modules_of(source)),
    )


def refuse_lost_dates(work: Work, staged: Sequence[Staged]) -> None:
    """Raise InputError where dates that the tables hold would be gone with the batches that brought them."""
    if work.source.is_whole_export:
        _refuse_less_than_whole(work, staged)
        return
    for one in staged:
        before = work.known.get(one.batch.name)
        # The same file, read anew by another mapping or other code, is no other export.
        if before is None or before.sha256 == one.landing.sha256:
            continue
        lost = sorted(before.counts.dates.keys() - one.landing.counts.dates.keys())
        if lost:
            paths = ", ".join(str(path) for path in one.batch.paths)
            raise InputError(
                f"{paths} would take the place of the batch {one.batch.name}, which was ingested before, and "
                f"{_dates(lost)} would be lost with it: a batch replaces the one of the same name. If this is "
                "another export, rename the file, or give its mapping another name: (see docs/sources.md). To drop these "
                "dates on purpose, ingest with --replace."
            )


def _refuse_less_than_whole(work: Work, staged: Sequence[Staged]) -> None:
    if not (staged or work.gone):
        return
    own = [landed for landed in work.known.values() if landed.source == work.source.name]
    read = {batch.name for batch in work.todo}
    kept = {date for one in staged for date in one.landing.counts.dates}
    kept |= {date for one in own if one.name in work.digests and one.name not in read for date in one.counts.dates}
    lost = sorted({date for landed in own for date in landed.counts.dates} - kept)
    if lost:
        raise InputError(
            f"{work.path} lacks {len(lost)} dates that the workspace holds ({lost[0]} to {lost[-1]}): a file is the "
            "whole export of its source, so they would be lost. Give the full export, or ingest with --replace to drop "
            "them on purpose."
        )


def _dates(dates: Sequence[str]) -> str:
    if len(dates) <= _MOST_NAMED:
        return f"the {'date' if len(dates) == 1 else 'dates'} {', '.join(dates)}"
    return f"{len(dates)} dates ({dates[0]} to {dates[-1]})"


def refuse_nothing_usable(work: Work, staged: Iterable[Staged]) -> None:
    """Raise InputError when a whole export was read and gave no event, though it holds rows that should be events."""
    found = list(staged)
    if len(found) != len(work.batches) or any(one.landing.account.num_events for one in found):
        return
    if any(one.landing.account.num_bad for one in found):
        reasons = ", ".join(f"{n} {reason}" for one in found for reason, n in one.landing.counts.quarantined.items())
        raise InputError(
            f"{work.path} holds no row that can be used ({reasons}); nothing was written. Check the export."
        )
