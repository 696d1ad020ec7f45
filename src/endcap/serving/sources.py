"""A place where releases lie in, the versions that can be served from it out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from endcap.contracts.errors import InputError
from endcap.contracts.release import MANIFEST

if TYPE_CHECKING:
    from endcap.releases.registry import Registry


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
    # Imported for those that have one alone: it brings YAML along, which a server of one release starts sooner without.
    from endcap.releases.registry import FOLDER, Registry
    from endcap.releases.storage import FolderStore

    return Registry(FolderStore(folder / FOLDER)) if (folder / FOLDER).is_dir() else None


def _version_of(name: str) -> int | None:
    """The number that a folder's name is, written as one writes it: `7`, not `007`."""
    if not (name.isascii() and name.isdigit()) or len(name) > 18 or str(int(name)) != name:
        return None
    return int(name)
