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
from endcap.workspace import manifests, tables
from endcap.workspace.atomic import write_json
from endcap.workspace.exclusive import exclusive
from endcap.workspace.layout import Workspace

PINS: Final = "pins.json"
IN_FORCE: Final = "in force"
_PUBLISHERS: Final = ("run ingest-", "run identities-")
"""Runs whose manifests name what came into force at their end; others name what they read."""
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")


class Pin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Table versions that belonged together when they were pinned, and the run that made them."""

    pinned_at: str
    run_id: str
    versions: dict[str, int]


class Holder(msgspec.Struct, frozen=True):
    """Something that names table versions and so keeps them readable."""

    what: str
    """Such as `pin before_launch`, `run ingest-…`, `release shop/3`, `in force`."""
    versions: dict[str, int]
    ended_at: str | None = None
    """When the run ended; None for everything else."""


def pin(workspace: Workspace, name: str) -> Pin:
    """Give the versions in force a name; they stay readable until it is taken away.

    Raises InputError when the name is taken or unfit, or nothing was ingested.
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
        made = Pin(pinned_at=datetime.now(UTC).isoformat(), run_id=dataset.run_id, versions=dataset.versions)
        _write(workspace, {**found, name: made})
        return made


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


def versions_at(workspace: Workspace, at: str) -> dict[str, int]:
    """The table versions of a pin, or those in force at a moment (ISO 8601; a date alone means its end, in UTC).

    A moment is looked up in the manifests of ingests. Raises InputError when there is no such pin or no ingest yet.
    """
    found = pins(workspace)
    if at in found:
        return found[at].versions
    moment = _moment(at)
    if moment is None:
        raise InputError(
            f"{at!r} is neither a pin nor a date; the pins are: {', '.join(found) or 'none'}, a date looks like 2026-01-31."
        )
    ingests = [
        holder
        for holder in runs(workspace)
        if EVENTS in holder.versions and holder.what.startswith(_PUBLISHERS) and holder.ended_at is not None
    ]
    before = [holder for holder in ingests if datetime.fromisoformat(str(holder.ended_at)) <= moment]
    if not before:
        raise InputError(f"{workspace.path} held no data at {at}: no ingest had ended by then.")
    return max(before, key=lambda holder: datetime.fromisoformat(str(holder.ended_at))).versions


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
