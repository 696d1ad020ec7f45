"""Table versions that belong together in, a numbered dataset in force out, with a log of all that ever were in force.

The log holds one small file for each number. It is written before the file that puts the dataset in force, and names
the dataset that was in force before: what never came into force is in nobody's past, and doesn't count.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from endcap.contracts.errors import ArtifactError, InputError
from endcap.workspace.atomic import write_json
from endcap.workspace.layout import Workspace

DATASET: Final = "dataset.json"
LOG: Final = "publications"

_UNCOUNTED: Final = 1
"""The number of a dataset that was put in force before datasets were counted."""


class Dataset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Table versions that belong together, and the run that made them."""

    source: str
    """Names of the sources that were ingested, sorted and joined by `+`."""
    run_id: str
    versions: dict[str, int]
    build: str = ""
    """Digest of the settings and the code that all events were built with; empty while dates differ in them."""
    settings: dict[str, int] = {}
    """The settings that events are built with unless told otherwise, by their names."""
    derived: str = ""
    """Digest of the files that items, item_versions and users consist of and are made from, and of the code that made
    them; empty is unknown."""
    number: int = 0
    """The dataset version: how many datasets were put in force in this workspace, this one included; 0 is unknown.

    `publish_dataset` gives it."""


class Publication(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A dataset that came into force: its number, when (ISO 8601, UTC), and what it consists of.

    `follows` is the number of the one before; 0 for the first.
    """

    dataset_version: int
    follows: int
    published_at: str
    source: str
    run_id: str
    versions: dict[str, int]
    settings: dict[str, int] = {}

    @property
    def moment(self) -> datetime:
        """When it came into force."""
        return datetime.fromisoformat(self.published_at)


def current_dataset(workspace: Workspace) -> Dataset | None:
    """The table versions in force, or None before the first ingest. Raises ArtifactError when the file is damaged."""
    path = workspace.events / DATASET
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=Dataset)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"{path} can't be read: {error}. Delete it and ingest again; nothing else is lost."
        ) from error


def publish_dataset(workspace: Workspace, dataset: Dataset) -> Dataset:
    """Put the versions of `dataset` in force, all at once, and return it with its number.

    The number is the next one when versions or settings differ from those in force, else it stays.
    """
    before = current_dataset(workspace)
    number = number_of(workspace, dataset.versions, dataset.settings)
    follows = before.number if before is not None else 0
    if before is not None and not before.number:
        # Put in force by a release that didn't count: it is the first of the log, so that it can be asked for.
        follows = _UNCOUNTED
        since = datetime.fromtimestamp((workspace.events / DATASET).stat().st_mtime, UTC)
        _record(workspace, before, _UNCOUNTED, 0, since)
    if before is None or number not in (before.number, follows):
        _record(workspace, dataset, number, follows, datetime.now(UTC))
    dataset = msgspec.structs.replace(dataset, number=number)
    write_json(workspace.events / DATASET, dataset)
    return dataset


def number_of(workspace: Workspace, versions: Mapping[str, int], settings: Mapping[str, int] | None = None) -> int:
    """The number that `publish_dataset` would give; for manifests that are written before it, by whoever may publish.

    Settings are those in force by default.
    """
    before = current_dataset(workspace)
    if before is None:
        return max((int(path.stem) for path in (workspace.events / LOG).glob("*.json")), default=0) + 1
    number = before.number or _UNCOUNTED
    is_same = before.versions == versions and settings in (None, before.settings)
    return number if is_same else number + 1


def number_in_force(workspace: Workspace) -> int:
    """The number of the dataset in force; 0 when there is none or it is of a release that didn't count."""
    dataset = current_dataset(workspace)
    return 0 if dataset is None else dataset.number


def publications(workspace: Workspace) -> list[Publication]:
    """Every dataset that came into force, by its number; what releases that didn't count put in force is missing.

    Raises ArtifactError when an entry of the log is damaged.
    """
    dataset = current_dataset(workspace)
    number = 0 if dataset is None else dataset.number
    found: list[Publication] = []
    while number and (path := _entry(workspace, number)).is_file():
        found.append(_read(path))
        number = found[-1].follows if found[-1].follows < number else 0
    return found[::-1]


def publication(workspace: Workspace, number: int) -> Publication:
    """The dataset of a number. Raises InputError when none of that number ever came into force."""
    known = {one.dataset_version: one for one in publications(workspace)}
    if number not in known:
        found = f"there are {min(known)} to {max(known)}" if known else "none was numbered yet"
        raise InputError(
            f"{workspace.path} has no dataset version {number}; {found}. List them with: endcap lake versions"
        )
    return known[number]


def _record(workspace: Workspace, dataset: Dataset, number: int, follows: int, since: datetime) -> None:
    entry = Publication(
        dataset_version=number,
        follows=follows,
        published_at=since.isoformat(),
        source=dataset.source,
        run_id=dataset.run_id,
        versions=dataset.versions,
        settings=dataset.settings,
    )
    write_json(_entry(workspace, number), entry)


def _entry(workspace: Workspace, number: int) -> Path:
    return workspace.events / LOG / f"{number:08d}.json"


def _read(path: Path) -> Publication:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Publication)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"{path} can't be read: {error}. Restore it, or delete it: then this dataset version can't be asked for."
        ) from error
