"""What an engine, a table or the disk raised in, an error that says whose turn it is and what to do out."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from deltalake.exceptions import DeltaError
from duckdb import Error as DuckDBError
from duckdb import OutOfMemoryException
from pyarrow import ArrowException

from endcap.contracts.errors import ArtifactError, DiskFullError, EndcapError, InputError, TransientError
from endcap.workspace.layout import Workspace

_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DENIED: Final = (errno.EACCES, errno.EPERM, errno.EROFS)
# How engines written in other languages say it; the last is DuckDB's, whose spilling stops short of a full disk.
_FULL_TEXTS: Final = (
    "No space left on device",
    "Disk quota exceeded",
    "File too large",
    "max_temp_directory_size",
)
_FOREIGN: Final = (OSError, RuntimeError, DuckDBError, DeltaError, ArrowException)
_DENIED_TEXTS: Final = ("Permission denied", "Operation not permitted", "Read-only file system")


def is_disk_full(error: BaseException | None) -> bool:
    """Whether the error, or one that it came from, says that the disk, the quota or the largest size of a file is full."""
    return _says(error, _FULL, _FULL_TEXTS, DiskFullError)


def is_denied(error: BaseException | None) -> bool:
    """Whether the error, or one that it came from, says that a file may not be read or written."""
    return _says(error, _DENIED, _DENIED_TEXTS, PermissionError)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether the error, or one that it came from, is the engine's that has come to the end of its memory."""
    return _says(error, (), (), OutOfMemoryException)


def _says(
    error: BaseException | None, codes: tuple[int, ...], texts: tuple[str, ...], kind: type[BaseException]
) -> bool:
    if error is None:
        return False
    if isinstance(error, kind) or (isinstance(error, OSError) and error.errno in codes):
        return True
    # A file may be called by any name: in errors with a number the number tells.
    is_told_by_text = isinstance(error, _FOREIGN) and getattr(error, "errno", None) is None
    if is_told_by_text and any(text in str(error) for text in texts):
        return True
    return any(_says(before, codes, texts, kind) for before in {error.__cause__, error.__context__})


def first_line(error: BaseException) -> str:
    """The first line of what the error says, without a full stop; the name of its class where it says nothing."""
    return str(error).partition("\n")[0].rstrip(". ") or type(error).__name__


def plain(error: OSError, place: object) -> EndcapError | None:
    """A full disk or a missing permission as an error that says what to do; None for anything else.

    `place` is named where the error names no file.
    """
    if is_disk_full(error):
        return DiskFullError(
            f"The disk that holds {error.filename or place} is full ({error.strerror or first_line(error)}): what was "
            "there before still stands. Free some space and run the same command again."
        )
    if is_denied(error):
        return InputError(
            f"{error.filename or place} may not be read or written: {error.strerror or first_line(error)}. Change its "
            "permissions, or run the command as a user who may."
        )
    return None


@contextmanager
def explained(workspace: Workspace, what: str) -> Iterator[None]:
    """Turn what stops the block into errors on purpose, `what` being what it did, such as "the ingest of a.csv".

    Nothing that the block has not put in force may count. Raises DiskFullError for a full disk, InputError for a
    missing permission, TransientError where memory runs out or the system fails otherwise, ArtifactError where an
    engine can't work with the tables' files. Faults of the program pass as they are.
    """
    try:
        yield
    except Exception as error:
        found = _named(error, workspace, what)
        if found is None:
            raise
        raise found from error


def _named(error: Exception, workspace: Workspace, what: str) -> EndcapError | None:
    if is_disk_full(error) and not isinstance(error, DiskFullError):
        return DiskFullError(
            f"The disk that holds {workspace.path} is full: {what} could not be written, what was there before still "
            "stands. Free some space and run the same command again."
        )
    if isinstance(error, EndcapError):
        return None
    if isinstance(error, OSError):
        return plain(error, workspace.path) or TransientError(
            f"{what} was stopped by the system: {first_line(error)}. What was there before still stands; run the same "
            "command again."
        )
    if isinstance(error, OutOfMemoryException):
        return TransientError(
            f"{what} needs more memory than the engine may use: free some memory, or allow more with --memory-limit."
        )
    if not isinstance(error, DuckDBError | DeltaError):
        return None
    if is_denied(error):
        return InputError(
            f"{what} was stopped: {first_line(error)}. Change the file's permissions, or run the command as a user who may."
        )
    return ArtifactError(
        f"{what} was stopped by the engine: {first_line(error)}. What was there before still stands. Run the same command "
        "again; if it ends the same way, a file of the tables may be damaged: restore the workspace's 01_events, or delete "
        "it and ingest again."
    )
