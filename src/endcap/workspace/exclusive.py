"""A workspace in, the sole right to write its tables out, for as long as a block or its process lives."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from endcap.contracts.errors import TransientError
from endcap.workspace import scratch
from endcap.workspace.layout import Workspace

WAIT_S: Final = 60.0
"""How long a writer waits for another one."""

_POLL_S: Final = 0.05


@contextmanager
def exclusive(workspace: Workspace, *, wait_s: float = WAIT_S) -> Iterator[None]:
    """Be the only one who writes tables; the lock ends with the process, however it ends.

    What killed processes left in the scratch folder is removed.

    Raises TransientError when another process still writes after `wait_s`.
    """
    handle = os.open(workspace.events, os.O_RDONLY)  # a folder can be locked too, and needs no file of its own
    try:
        _wait_for(handle, workspace, wait_s)
        scratch.sweep(workspace)
        yield
    finally:
        os.close(handle)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Be the only one who writes below `folder`, which is made where it isn't there; waits for whoever does."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def is_anybody_in(folder: Path) -> bool:
    """Whether a living process holds `folder` by `alone_in` at this moment."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _wait_for(handle: int, workspace: Workspace, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise TransientError(
                    f"Another process has been writing the tables of {workspace.path} for {wait_s:.0f} s. Try again "
                    "when it is done."
                ) from None
            time.sleep(_POLL_S)
        else:
            return
