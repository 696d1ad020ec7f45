"""A workspace in, a scratch folder for a block of work out; what killed processes left there goes."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from endcap.workspace.layout import Workspace

ENGINE_PREFIX: Final = "duckdb-"
JOB_PREFIX: Final = "job-"
"""Folders for what a training job brings from elsewhere."""
WRITER_PREFIXES: Final = ("staged-", "shown-")
"""Folders that are made and removed by whoever holds the lock on the tables."""


@contextmanager
def claimed_folder(workspace: Workspace, prefix: str = ENGINE_PREFIX) -> Iterator[Path]:
    """Yield an empty folder that is removed at the end; a lock on it, which ends with the process, says that it is used."""
    folder, handle = _claim(workspace, prefix)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _claim(workspace: Workspace, prefix: str) -> tuple[Path, int]:
    workspace.scratch.mkdir(exist_ok=True)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=workspace.scratch))
        try:
            handle = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # swept before it was claimed
            continue
        fcntl.flock(handle, fcntl.LOCK_EX)
        if folder.is_dir():
            return folder, handle
        os.close(handle)


def sweep(workspace: Workspace) -> list[str]:
    """Remove scratch folders that no living process uses, and return their names, sorted.

    To be called by whoever has just got the lock on the tables: then nobody else uses a writer's folder.
    """
    found = sorted(workspace.scratch.glob("*")) if workspace.scratch.is_dir() else []
    ours = [folder for folder in found if folder.name.startswith((ENGINE_PREFIX, JOB_PREFIX, *WRITER_PREFIXES))]
    return [folder.name for folder in ours if _remove(folder)]


def _remove(folder: Path) -> bool:
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # in use, or on a file system without locks
        return False
    finally:
        os.close(handle)
    return True
