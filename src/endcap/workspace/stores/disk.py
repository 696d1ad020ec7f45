"""A local path in, its bytes out; what is written is whole or not there, as in an object store."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO, Final

from endcap.contracts.errors import DiskFullError, InputError, TransientError
from endcap.workspace.atomic import DEFAULT_MODE
from endcap.workspace.stores.store import Condition, Content, ReplacedError, Sink, Stat, conflict, missing

_READ_BYTES: Final = 1 << 20
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Disk:
    """The local file system. A file's generation is its inode and time: every write makes another file."""

    def stat(self, key: str) -> Stat | None:
        """What is known of a file; None when there is none."""
        with explained(key):
            try:
                found = Path(key).stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
        return _described(found) if _is_file(found) else None

    def fetch(self, key: str, stat: Stat, into: Sink) -> None:
        """Append the bytes of exactly this generation. Raises ReplacedError when another one took its place."""
        with explained(key):
            try:
                file = Path(key).open("rb")  # noqa: SIM115 - closed below
            except FileNotFoundError:
                raise missing(key) from None
            with file:
                if _described(os.fstat(file.fileno())).generation != stat.generation:
                    raise ReplacedError(f"{key} was replaced while it was read. Try again.")
                while chunk := file.read(_READ_BYTES):
                    into.write(chunk)

    def write(self, key: str, content: Content, condition: Condition) -> Stat:
        """Put all of it there, or nothing. Raises ConflictError when the condition doesn't hold."""
        with written_aside(Path(key), lambda aside, path: self._publish(aside, path, condition)) as file:
            _copy(content, file)
        found = self.stat(key)
        return found if found is not None else Stat(content.num_bytes, "")

    def _publish(self, aside: Path, path: Path, condition: Condition) -> None:
        if condition.if_absent:
            try:
                # A link, unlike a rename, never takes the place of a file that is there.
                os.link(aside, path)
            except FileExistsError:
                raise conflict(str(path), self.stat(str(path)), condition) from None
        elif condition.if_generation is not None:
            with _alone(path.parent):
                found = self.stat(str(path))
                if found is None or found.generation != condition.if_generation:
                    raise conflict(str(path), found, condition)
                aside.replace(path)
        else:
            aside.replace(path)

    def list(self, prefix: str) -> Iterator[tuple[str, Stat]]:
        """Every file below the folder `prefix`; files that are being written aside don't count."""
        with explained(prefix):
            for folder, names, files in os.walk(prefix, onerror=_refuse):
                names.sort()
                for name in files:
                    path = Path(folder) / name
                    if not _is_aside(path) and (stat := self.stat(str(path))):
                        yield str(path), stat

    def names(self, prefix: str) -> Sequence[str]:
        """Names directly below the folder `prefix`, of files and of folders."""
        path = Path(prefix)
        with explained(prefix):
            return [entry.name for entry in path.iterdir() if not _is_aside(entry)] if path.is_dir() else []

    def delete(self, key: str) -> None:
        """Take a file away; nothing happens where there is none."""
        with explained(key):
            Path(key).unlink(missing_ok=True)


@contextmanager
def written_aside(path: Path, publish: Callable[[Path, Path], object] = Path.replace) -> Iterator[BinaryIO]:
    """A file to write that `publish` puts at `path` when the block ends without an error, safe on the disk."""
    with explained(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".tmp", dir=path.parent)
        aside = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fchmod(file.fileno(), DEFAULT_MODE)
                os.fsync(file.fileno())
            publish(aside, path)
        finally:
            aside.unlink(missing_ok=True)
        _sync(path.parent)


def _copy(content: Content, file: BinaryIO) -> None:
    if isinstance(content.source, bytes):
        file.write(content.source)
        return
    with content.source.open("rb") as source:
        shutil.copyfileobj(source, file, _READ_BYTES)
    if file.tell() != content.num_bytes:
        raise TransientError(f"{content.source} changed while it was copied. Try again when nobody writes it.")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def explained(key: str) -> Iterator[None]:
    """Turn the system's errors about a file into errors on purpose that say what to do."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _FULL:
            raise DiskFullError(
                f"The disk that holds {key} is full ({reason}): what was there before still stands. Free some space and "
                "try again."
            ) from error
        if isinstance(error, PermissionError):
            raise InputError(
                f"{key} may not be read or written: {reason}. Change its permissions, or run as a user who may."
            ) from error
        if isinstance(error, (FileExistsError, IsADirectoryError, NotADirectoryError)):
            raise InputError(f"{key}: {reason}: found a file where a folder is expected, or the reverse.") from error
        raise TransientError(f"{key}: {reason}. What was there before still stands; try again.") from error


def _refuse(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # a folder that vanished has no files
        raise error


def _is_aside(path: Path) -> bool:
    return path.name.startswith(".") and path.suffix == ".tmp"


def _is_file(found: os.stat_result) -> bool:
    return S_ISREG(found.st_mode)


def _described(found: os.stat_result) -> Stat:
    return Stat(
        num_bytes=found.st_size,
        generation=f"{found.st_mtime_ns}-{found.st_ino}",
        written_at=datetime.fromtimestamp(found.st_mtime, UTC).isoformat(),
    )


def _sync(folder: Path) -> None:
    # A rename is durable only once the folder that holds the name is on disk too.
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
