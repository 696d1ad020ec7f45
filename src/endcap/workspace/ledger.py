"""A step's key in, whether it is done already, what it gave and why it has to run again out: reruns skip finished work.

Below `.ledger`: `<step>/` holds an entry for every key that was ever finished, `latest/` the entry that was finished
last for each partition, `attempts/` what was begun and not finished, `claims/` the locks of what is running, `runs/` which
run works on a key that it may take several starts to finish.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from endcap.workspace.atomic import write_json
from endcap.workspace.layout import Workspace

T = TypeVar("T")

_ATTEMPTS = "attempts"
_CLAIMS = "claims"
_LATEST = "latest"
_RUNS = "runs"
_PARTS = {"inputs_digest": "inputs", "configuration_digest": "configuration", "code_version": "code"}


class StepKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a step's outcome depends on. Equal keys give equal outcomes, so a key that is done is never run again."""

    step: str
    partition: str
    inputs_digest: str
    configuration_digest: str
    code_version: str

    @property
    def digest(self) -> str:
        """Hex digest of all parts; names the entry's file."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()


class LedgerEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A finished step: its key, the run that did it, and what it gave."""

    key: StepKey
    run_id: str
    outputs: dict[str, Any]


class Attempt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A step that was begun and not finished. `error` is null while it runs, and for good when it was killed.

    `num_attempts` counts beginnings under this key since the partition was last finished; `at` is ISO 8601 in UTC.
    """

    key: StepKey
    run_id: str
    num_attempts: int
    error: str | None
    at: str


class Begun(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A run that was begun under a key and goes on under its own id when it was stopped."""

    key: StepKey
    run_id: str


def digest_of(value: Any) -> str:
    """Hex digest of a configuration or a list of inputs; the order of keys doesn't matter."""
    return hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()


@lru_cache(maxsize=256)
def code_version_of(*module_names: str) -> str:
    """Hex digest of the source of imported modules: a step whose code changed is no longer done.

    Read once in a process, which goes on with the code that it has loaded when the files change below it.
    """
    digest = hashlib.sha256()
    for name in module_names:
        file = getattr(sys.modules[name], "__file__", None)
        if file is None:
            raise ValueError(f"Module {name} has no source file; name the modules that hold the step's code")
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()


def find_entry(workspace: Workspace, key: StepKey) -> LedgerEntry | None:
    """The entry under `key`, or None when the step is not done. A damaged entry counts as not done.

    For steps whose outputs stand beside those of other keys. A step that overwrites its partition asks
    `why_not_done`: another key may have been at the partition since.
    """
    entry = _read(_path(workspace, key), LedgerEntry)
    return entry if entry is not None and entry.key == key else None


def find_latest(workspace: Workspace, step: str, partition: str) -> LedgerEntry | None:
    """The entry that was recorded last for a step's partition, under whatever key."""
    entry = _read(_of_partition(workspace, _LATEST, step, partition), LedgerEntry)
    return entry if entry is not None and (entry.key.step, entry.key.partition) == (step, partition) else None


def find_attempt(workspace: Workspace, step: str, partition: str) -> Attempt | None:
    """What was begun on a step's partition and is not finished, or None."""
    attempt = _read(_of_partition(workspace, _ATTEMPTS, step, partition), Attempt)
    return attempt if attempt is not None and (attempt.key.step, attempt.key.partition) == (step, partition) else None


def why_not_done(workspace: Workspace, key: StepKey, latest: LedgerEntry | None) -> str | None:
    """Why a step that overwrites its partition has to run under `key`; None when it is done.

    `latest` is what `find_latest` gives for it. Names the parts of the key that differ from it, or that the last run
    was cut short: a run that was begun may have overwritten part of what the entry before it stands for.
    """
    attempt = find_attempt(workspace, key.step, key.partition)
    if attempt is not None and attempt.error is not None:
        return f"failed: {attempt.error}"
    if attempt is not None:
        return "cut short"
    if latest is None:
        return "not in the ledger yet"
    changed = [name for part, name in _PARTS.items() if getattr(key, part) != getattr(latest.key, part)]
    return f"{', '.join(changed)} changed" if changed else None


def record_attempt(workspace: Workspace, key: StepKey, run_id: str, *, error: str | None = None) -> Attempt:
    """Note that the step begins under `key`, or with `error` that the beginning noted last has failed."""
    before = find_attempt(workspace, key.step, key.partition)
    so_far = before.num_attempts if before is not None and before.key == key else 0
    number = max(so_far, 1) if error is not None else so_far + 1
    attempt = Attempt(key=key, run_id=run_id, num_attempts=number, error=error, at=datetime.now(UTC).isoformat())
    write_json(_of_partition(workspace, _ATTEMPTS, key.step, key.partition), attempt)
    return attempt


def record_entry(workspace: Workspace, entry: LedgerEntry) -> Path:
    """Mark the step as done. Call it last, when everything the step gives is on disk."""
    path = _path(workspace, entry.key)
    step, partition = entry.key.step, entry.key.partition
    write_json(path, entry)
    write_json(_of_partition(workspace, _LATEST, step, partition), entry)
    forget_begun(workspace, entry.key)
    # Last: until here a crash leaves the note, and with it the step undone.
    _of_partition(workspace, _ATTEMPTS, step, partition).unlink(missing_ok=True)
    return path


def find_begun(workspace: Workspace, key: StepKey) -> str | None:
    """The id of the run that was begun under `key` and didn't end, or None."""
    begun = _read(workspace.ledger / _RUNS / key.step / f"{key.digest}.json", Begun)
    return begun.run_id if begun is not None and begun.key == key else None


def record_begun(workspace: Workspace, key: StepKey, run_id: str) -> None:
    """Note which run works on `key`, until the entry is recorded."""
    write_json(workspace.ledger / _RUNS / key.step / f"{key.digest}.json", Begun(key, run_id))


def forget_begun(workspace: Workspace, key: StepKey) -> None:
    """No run works on a key any longer."""
    (workspace.ledger / _RUNS / key.step / f"{key.digest}.json").unlink(missing_ok=True)


@contextmanager
def claim(workspace: Workspace, step: str, partition: str) -> Iterator[None]:
    """Hold a step's partition alone; waits while another process holds it. Look at the ledger again inside the block.

    The kernel releases it when the process dies, however that happens.
    """
    path = _of_partition(workspace, _CLAIMS, step, partition).with_suffix(".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = _hold(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: whoever waits for this very file sees that it is gone
        os.close(handle)


def _hold(path: Path) -> int:
    """The handle of a lock that is held, and that is the one that stands at `path`."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if path.stat().st_ino == os.fstat(handle).st_ino:
                return handle
        except FileNotFoundError:  # deleted by the one that held it, and not made again yet
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def is_claimed(workspace: Workspace, step: str, partition: str) -> bool:
    """Whether a process holds the step's partition at this moment."""
    path = _of_partition(workspace, _CLAIMS, step, partition).with_suffix(".lock")
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _path(workspace: Workspace, key: StepKey) -> Path:
    return workspace.ledger / key.step / f"{key.digest}.json"


def _of_partition(workspace: Workspace, kind: str, step: str, partition: str) -> Path:
    # A partition may be named with slashes.
    return workspace.ledger / kind / step / f"{hashlib.sha256(partition.encode()).hexdigest()[:32]}.json"


def _read(path: Path, kind: type[T]) -> T | None:
    """What the file holds; None when it isn't there or is damaged."""
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
