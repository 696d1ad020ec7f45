"""A step's key in, whether it is done already and what it gave out: reruns skip finished work."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import msgspec

from endcap.workspace.atomic import write_json
from endcap.workspace.layout import Workspace


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


def digest_of(value: Any) -> str:
    """Hex digest of a configuration or a list of inputs; the order of keys doesn't matter."""
    return hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()


def code_version_of(*module_names: str) -> str:
    """Hex digest of the source of imported modules: a step whose code changed is no longer done."""
    digest = hashlib.sha256()
    for name in module_names:
        file = getattr(sys.modules[name], "__file__", None)
        if file is None:
            raise ValueError(f"Module {name} has no source file; name the modules that hold the step's code")
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()


def find_entry(workspace: Workspace, key: StepKey) -> LedgerEntry | None:
    """The entry under `key`, or None when the step is not done. A damaged entry counts as not done."""
    path = _path(workspace, key)
    if not path.is_file():
        return None
    try:
        entry = msgspec.json.decode(path.read_bytes(), type=LedgerEntry)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return entry if entry.key == key else None


def record_entry(workspace: Workspace, entry: LedgerEntry) -> Path:
    """Mark the step as done. Call it last, when everything the step gives is on disk."""
    path = _path(workspace, entry.key)
    write_json(path, entry)
    return path


def _path(workspace: Workspace, key: StepKey) -> Path:
    return workspace.ledger / key.step / f"{key.digest}.json"
