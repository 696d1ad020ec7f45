"""A place where releases lie in, the versions that can be served from it out."""

from __future__ import annotations

import atexit
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from endcap.contracts.errors import InputError
from endcap.contracts.release import MANIFEST, REGISTRY

if TYPE_CHECKING:
    from endcap.releases.registry import Registry
    from endcap.workspace.locations import Location


class Source(Protocol):
    """Where the versions of one model come from. Asked again and again, off the event loop."""

    def versions(self) -> list[int]:
        """The versions that are whole, ascending."""
        ...

    def fetch(self, version: int) -> Path:
        """The folder of a version on this machine. Raises an EndcapError where it can't be had."""
        ...

    def labels(self) -> Mapping[str, int]:
        """Names that the source itself gives to versions."""
        ...

    def changed_at(self, version: int) -> float:
        """When something of the version was last written, 0 where that can't be told."""
        ...

    def drop(self, version: int) -> None:
        """The version is served no more: what was fetched for it may go."""
        ...


class OneRelease:
    """A single release: its folder's name is the version when it is a number, else 1."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._version = _version_of(path.name) or 1

    def versions(self) -> list[int]:
        """The one."""
        return [self._version]

    def fetch(self, version: int) -> Path:
        """The release's folder."""
        if version != self._version:
            raise InputError(f"{self._path} is version {self._version}; version {version} was asked for.")
        return self._path

    def labels(self) -> Mapping[str, int]:
        """None."""
        return {}

    def changed_at(self, version: int) -> float:
        """When a file of it was last written."""
        return _changed_at(self.fetch(version))

    def drop(self, version: int) -> None:
        """Nothing: it lies where it was made."""


class VersionsFolder:
    """A folder of releases whose names are their versions. In a workspace, the registry's aliases are labels."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._registry = _registry_in(path.parent)

    def versions(self) -> list[int]:
        """Those that have a manifest: it is written last, so that half an upload is none."""
        found = []
        for folder in self._path.iterdir() if self._path.is_dir() else ():
            version = _version_of(folder.name)
            if version is not None and (folder / MANIFEST).is_file():
                found.append(version)
        return sorted(found)

    def fetch(self, version: int) -> Path:
        """The version's folder."""
        return self._path / str(version)

    def labels(self) -> Mapping[str, int]:
        """The registry's aliases, where the folder is a workspace's."""
        if self._registry is None:
            return {}
        moves = self._registry.aliases(self._path.name)
        return {alias: move.version for alias, move in moves.items() if move.version is not None}

    def changed_at(self, version: int) -> float:
        """When a file of it was last written."""
        return _changed_at(self.fetch(version))

    def drop(self, version: int) -> None:
        """Nothing: it lies where it was made."""


class AliasOfReleases:
    """What an alias of the registry stands at: a move of the alias is a change of the version."""

    def __init__(self, folder: Path, name: str, alias: str) -> None:
        """Take the workspace's folder of releases, and the alias of one of its names."""
        self._folder = folder / name
        self._registry = _registry_in(folder)
        self._name, self._alias = name, alias

    def versions(self) -> list[int]:
        """The one that the alias names; none where it names none."""
        move = self._registry.alias(self._name, self._alias) if self._registry is not None else None
        return [move.version] if move is not None and move.version is not None else []

    def fetch(self, version: int) -> Path:
        """The version's folder."""
        return self._folder / str(version)

    def labels(self) -> Mapping[str, int]:
        """The alias itself."""
        versions = self.versions()
        return {self._alias: versions[0]} if versions else {}

    def changed_at(self, version: int) -> float:
        """When a file of it was last written."""
        return _changed_at(self.fetch(version))

    def drop(self, version: int) -> None:
        """Nothing: it lies where it was made."""


class RemoteReleases:
    """A release, or a folder of versions, in a bucket: what is served is fetched to a folder of this machine first."""

    def __init__(self, place: Location, cache: Path) -> None:
        """Take the place, and the folder that versions are fetched to. Raises InputError where there is no release."""
        self._place, self._cache = place, cache
        self._is_one = (place / MANIFEST).exists()
        if not self._is_one and not self.versions():
            raise InputError(
                f"{place} is no release: it has no {MANIFEST}, and nothing below it that is named by a number has one. "
                "Give the place of a release, or of its versions."
            )

    def versions(self) -> list[int]:
        """Those that have a manifest: it is uploaded last."""
        if self._is_one:
            return [_version_of(self._place.name) or 1]
        numbered = {_version_of(name): name for name in self._place.names()}
        return sorted(
            number
            for number, name in numbered.items()
            if number is not None and (self._place / name / MANIFEST).exists()
        )

    def fetch(self, version: int) -> Path:
        """A copy of the version, made where there is none yet."""
        target = self._cache / str(version)
        if not target.exists():
            try:
                (self._place if self._is_one else self._place / str(version)).download_folder(target)
            except (InputError, OSError):
                # Another worker may have been at it: whoever is first gives the copy its name.
                if not target.exists():
                    raise
        return target

    def labels(self) -> Mapping[str, int]:
        """None."""
        return {}

    def changed_at(self, version: int) -> float:  # noqa: ARG002 (the protocol's)
        """Nobody tells without fetching it again."""
        return 0.0

    def drop(self, version: int) -> None:
        """The copy goes. A worker that has it open still reads it to the end."""
        shutil.rmtree(self._cache / str(version), ignore_errors=True)


def source_at(place: str, cache: Path | None = None) -> Source:
    """The source that a path or an address (`gs://…`, `s3://…`) names.

    Versions of an address are fetched below `cache`, by default a folder of this process that goes with it. Raises
    InputError where there is nothing to serve.
    """
    if "://" not in place:
        return source_of(Path(place))
    from endcap.workspace.locations import Location

    location = Location.parse(place)
    if cache is None:
        import tempfile

        cache = Path(tempfile.mkdtemp(prefix="endcap-releases-"))
        atexit.register(shutil.rmtree, cache, ignore_errors=True)
    return RemoteReleases(location, cache / location.name)


def check_allowed(place: str, roots: Sequence[str]) -> None:
    """Raise InputError unless a place is one of the roots or below one, as both are once links and `..` are resolved."""
    if any(_is_below(place, root) for root in roots):
        return
    raise InputError(
        f"{place} is no place that this server may take models from: expected {', '.join(roots)}, or a place below. Name "
        "others at the start: --model-root PLACE."
    )


def _is_below(place: str, root: str) -> bool:
    if "://" in place or "://" in root:
        # Places in buckets have no links; one with `..` is refused wherever it is parsed.
        return ".." not in place.split("/") and (place.rstrip("/") + "/").startswith(root.rstrip("/") + "/")
    return Path(place).resolve().is_relative_to(Path(root).resolve())


def source_of(path: Path) -> Source:
    """The source that a local path is. Raises InputError where there is nothing to serve."""
    if (path / MANIFEST).is_file():
        return OneRelease(path)
    folder = VersionsFolder(path)
    if folder.versions():
        return folder
    nothing = f"it has no {MANIFEST}, and no folder below it that is named by a number and has one"
    raise InputError(
        f"{path} is no release: {nothing if path.exists() else 'it does not exist'}. Give a release's folder, such as one "
        "below 04_releases of a workspace, or the folder that holds its versions."
    )


def _registry_in(folder: Path) -> Registry | None:
    """The registry of a workspace's folder of releases; elsewhere there is none."""
    if not (folder / REGISTRY).is_dir():
        return None
    # Imported for those that have one alone: it brings YAML along, which takes a tenth of a start.
    from endcap.releases.registry import Registry
    from endcap.releases.storage import FolderStore

    return Registry(FolderStore(folder / REGISTRY))


def _changed_at(folder: Path) -> float:
    try:
        return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
    except OSError:  # just being replaced, or gone
        return 0.0


def _version_of(name: str) -> int | None:
    """The number that a folder's name is, written as one writes it: `7`, not `007`."""
    if not (name.isascii() and name.isdigit()) or len(name) > 18 or str(int(name)) != name:
        return None
    return int(name)
