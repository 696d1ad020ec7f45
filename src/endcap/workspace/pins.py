"""The dataset in force and a name in, a pin out: table versions that stay readable and can be read again by that name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any, Final

import msgspec

from endcap.contracts.errors import ArtifactError, InputError
from endcap.contracts.events import EVENTS
from endcap.workspace import datasets, manifests, tables
from endcap.workspace.atomic import write_json
from endcap.workspace.exclusive import exclusive
from endcap.workspace.layout import Workspace

PINS: Final = "pins.json"
IN_FORCE: Final = "in force"
_PUBLISHERS: Final = ("run ingest-", "run identities-")
"""Runs whose manifests name what came into force at their end; others name what they read."""
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")


class Pin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Table versions that belonged together when they were pinned, and the run that made them.

    `dataset_version` is their number; 0 in pins of releases that didn't count.
    """

    pinned_at: str
    run_id: str
    versions: dict[str, int]
    dataset_version: int = 0


class Holder(msgspec.Struct, frozen=True):
    """Something that names table versions and so keeps them readable."""

    what: str
    """Such as `pin before_launch`, `run ingest-…`, `release shop/3`, `in force`."""
    versions: dict[str, int]
    ended_at: str | None = None
    """When the run ended; None for everything else."""


def pin(workspace: Workspace, name: str, *, dataset_version: int | None = None) -> Pin:
    """Give a dataset version (default: the one in force) a name; it stays readable until the name is taken away.

    Raises InputError when the name is taken or unfit, nothing was ingested, there is no such dataset version, or a
    vacuum deleted files of it.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name!r} can't name a pin: expected a letter, then letters, digits, '.', '_' or '-', 64 at most."
        )
    with exclusive(workspace):
        dataset = tables.current_dataset(workspace)
        if dataset is None:
            raise InputError(f"{workspace.path} holds no data to pin. Begin with: endcap ingest")
        found = pins(workspace)
        if name in found:
            raise InputError(
                f"There is a pin {name} already, of {found[name].pinned_at}. Choose another name, or take it away with: "
                f"endcap lake unpin {name}"
            )
        number, run_id, versions = dataset.number, dataset.run_id, dataset.versions
        if dataset_version is not None:
            chosen = datasets.publication(workspace, dataset_version)
            number, run_id, versions = dataset_version, chosen.run_id, chosen.versions
            for table, version in versions.items():
                refuse_lost_files(workspace, table, version)
        made = Pin(datetime.now(UTC).isoformat(), run_id, versions, number)
        _write(workspace, {**found, name: made})
        return made


def refuse_lost_files(workspace: Workspace, table: str, version: int) -> None:
    """Raise InputError when files of a table's version, which nothing held, went with a vacuum."""
    files = tables.stored_files(workspace, table, version)
    num_lost = sum(not Path(file).is_file() for file in files)
    if num_lost:
        raise InputError(
            f"Version {version} of {table} can't be read any more: {num_lost} of its {len(files)} files were deleted. "
            "A vacuum keeps what a pin, a run or a release holds; choose another version: endcap lake versions"
        )


def unpin(workspace: Workspace, name: str) -> None:
    """Take a pin away; what only it kept goes with the next vacuum. Raises InputError when there is no such pin."""
    with exclusive(workspace):
        found = pins(workspace)
        if name not in found:
            raise InputError(f"There is no pin {name}; there are: {', '.join(found) or 'none'}.")
        _write(workspace, {other: made for other, made in found.items() if other != name})


def pins(workspace: Workspace) -> dict[str, Pin]:
    """All pins by name, sorted. Raises ArtifactError when their file is damaged."""
    path = workspace.events / PINS
    if not path.is_file():
        return {}
    found: dict[str, Pin] = _decoded(path, dict[str, Pin])
    return dict(sorted(found.items()))


def versions_at(workspace: Workspace, at: str | int) -> dict[str, int]:
    """The table versions of a dataset version (a number), of a pin, or of what was in force at a moment.

    A moment is ISO 8601; a date alone means its end, in UTC. It is looked up in the log of datasets, and what came
    before the log in the manifests of ingests. Raises InputError when there is no such dataset version or pin, or
    nothing was ingested by then.
    """
    if isinstance(at, int):
        return datasets.publication(workspace, at).versions
    found = pins(workspace)
    if at in found:
        return found[at].versions
    moment = _moment(at)
    if moment is None:
        raise InputError(
            f"{at!r} is neither a pin nor a date; the pins are: {', '.join(found) or 'none'}, a date looks like 2026-01-31."
        )
    logged = [one for one in datasets.publications(workspace) if one.moment <= moment]
    if logged:
        return logged[-1].versions
    return _ingested_until(workspace, moment, at)


def _ingested_until(workspace: Workspace, moment: datetime, at: str) -> dict[str, int]:
    ingests = [
        (datetime.fromisoformat(holder.ended_at), holder.versions)
        for holder in runs(workspace)
        if EVENTS in holder.versions and holder.what.startswith(_PUBLISHERS) and holder.ended_at is not None
    ]
    before = [(ended, versions) for ended, versions in ingests if ended <= moment]
    if not before:
        raise InputError(f"{workspace.path} held no data at {at}: no ingest had ended by then.")
    return max(before, key=lambda run: run[0])[1]


def holders(workspace: Workspace, *, keep_runs_since: datetime | None = None) -> list[Holder]:
    """Everything that names table versions: the dataset in force, pins, releases and runs.

    Runs that ended before `keep_runs_since` are left out. Raises ArtifactError when one of their files is damaged:
    what it held is unknown then.
    """
    dataset = tables.current_dataset(workspace)
    found = [] if dataset is None else [Holder(IN_FORCE, dataset.versions)]
    found += [Holder(f"pin {name}", made.versions) for name, made in pins(workspace).items()]
    found += releases(workspace)
    for run in runs(workspace):
        ended = None if run.ended_at is None else datetime.fromisoformat(run.ended_at)
        if keep_runs_since is None or ended is None or ended >= keep_runs_since:
            found.append(run)
    return found


class _RunVersions(msgspec.Struct):
    ended_at: str | None = None
    data_versions: dict[str, int] = {}


class _Lineage(msgspec.Struct):
    data_versions: dict[str, int] = {}


class _ReleaseVersions(msgspec.Struct):
    lineage: _Lineage


def runs(workspace: Workspace) -> list[Holder]:
    """Finished runs with the table versions they read or wrote, in the order of their names."""
    found = []
    for path in sorted(workspace.runs.rglob(manifests.RUN_MANIFEST)):
        manifest: _RunVersions = _decoded(path, _RunVersions)
        name = path.parent.relative_to(workspace.runs).as_posix()
        found.append(Holder(f"run {name}", manifest.data_versions, manifest.ended_at))
    return found


def releases(workspace: Workspace) -> list[Holder]:
    """Releases with the table versions they come from, in the order of their names."""
    found = []
    for path in sorted(workspace.releases.rglob("manifest.json")):
        manifest: _ReleaseVersions = _decoded(path, _ReleaseVersions)
        name = path.parent.relative_to(workspace.releases).as_posix()
        found.append(Holder(f"release {name}", manifest.lineage.data_versions))
    return found


def _decoded(path: Path, wanted: Any) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes(), type=wanted)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"{path} can't be read, so nobody knows which table versions it needs: {error}. Restore it, or delete it "
            "with what it belongs to."
        ) from error


def _moment(text: str) -> datetime | None:
    try:
        if len(text) == len("2026-01-31"):
            return datetime.combine(date.fromisoformat(text), time.max, UTC)
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _write(workspace: Workspace, content: Mapping[str, Pin]) -> None:
    write_json(workspace.events / PINS, dict(sorted(content.items())))
