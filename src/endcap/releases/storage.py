"""Named documents that are written once and never changed: all that the registry asks of a place to keep it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Protocol

from endcap.contracts.errors import ConflictError
from endcap.workspace.locations import Location


class AlreadyThereError(ConflictError):
    """The document exists: somebody else wrote it first."""


class DocumentStore(Protocol):
    """Where the registry lives: a folder, or a bucket whose writes ask for generation 0.

    Names are POSIX paths. `create` is atomic among all writers, whole or not at all, and that is what everything that
    must not collide is built on.
    """

    def create(self, name: str, data: bytes) -> None:
        """Write a document that isn't there yet. Raises AlreadyThereError when it is."""
        ...

    def read(self, name: str) -> bytes | None:
        """A document's bytes, or None when there is none."""
        ...

    def names(self, folder: str) -> list[str]:
        """Names directly below `folder`, without it, sorted; of documents and of folders."""
        ...


class FolderStore:
    """Documents as files below a local folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def create(self, name: str, data: bytes) -> None:
        """Write a document that isn't there yet. Raises AlreadyThereError when it is."""
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fchmod(file.fileno(), 0o644)
                os.fsync(file.fileno())
            # A link, unlike a rename, never takes the place of a file that is there.
            os.link(aside, path)
        except FileExistsError as error:
            raise AlreadyThereError(f"{path} exists already and is never changed; read it again.") from error
        finally:
            Path(aside).unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def read(self, name: str) -> bytes | None:
        """A document's bytes, or None when there is none."""
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def names(self, folder: str) -> list[str]:
        """Names directly below `folder`, without it, sorted; of documents and of folders."""
        path = self._folder / folder
        if not path.is_dir():
            return []
        return sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))


class LocationStore:
    """Documents as objects below a location, local or in a bucket: the store itself lets one of several writers win."""

    def __init__(self, folder: Location) -> None:
        self._folder = folder

    def create(self, name: str, data: bytes) -> None:
        """Write a document that isn't there yet. Raises AlreadyThereError when it is."""
        try:
            (self._folder / name).write_bytes(data, if_absent=True)
        except ConflictError as error:
            raise AlreadyThereError(str(error)) from error

    def read(self, name: str) -> bytes | None:
        """A document's bytes, or None when there is none."""
        place = self._folder / name
        return place.read_bytes() if place.exists() else None

    def names(self, folder: str) -> list[str]:
        """Names directly below `folder`, without it, sorted; of documents and of folders."""
        place = self._folder / folder if folder else self._folder
        return [name for name in place.names() if not name.startswith(".")]
