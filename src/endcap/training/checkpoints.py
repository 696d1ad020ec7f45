"""States of training in, checkpoints that are whole or not there out; the newest whole one back.

`FOLDER/STAGE/NAME` holds one: tensors, values and a manifest with their digests. It is written aside and comes into being
by one rename; its copy at another location by its manifest, which is uploaded last. Names rise with the steps.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from endcap.contracts.configuration import TrainingConfig
from endcap.contracts.errors import ArtifactError, InputError
from endcap.contracts.reporting import Reporter
from endcap.training.state import State
from endcap.training.uploads import CheckpointStore, Uploads
from endcap.workspace.atomic import publish_folder, write_bytes, write_json
from endcap.workspace.locations import MANIFEST
from endcap.workspace.manifests import describe_input

FINISHED: Final = "finished"
"""Name of a stage's last checkpoint: the weights that were chosen, without what only training needs."""
FORMAT_VERSION: Final = 1

_TENSORS: Final = "tensors.safetensors"
_VALUES: Final = "values.json"
_SHARE_OF_TIME: Final = 0.02


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sha256: str
    num_bytes: int


class _Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`key` is the digest of what is trained on and how; `value` is the eval metric right after an epoch."""

    format_version: int
    stage: str
    step: int
    num_epochs: int
    value: float | None
    key: str
    files: dict[str, _File]


class Checkpoints:
    """The checkpoints of one stage of a run; `store`, where there is one, gets a copy of each in the background."""

    def __init__(
        self, folder: Path, stage: str, settings: TrainingConfig, report: Reporter, uploads: Uploads | None = None
    ) -> None:
        """`folder` is the run's, on a local disk; those of its stages stand below it."""
        self._folder, self._stage, self._settings, self._report = folder / stage, stage, settings, report
        self._uploads = uploads
        self._last_s, self._last_step, self._cost_s = time.monotonic(), 0, 0.0
        self._values: dict[str, float] = {}
        self._newest = ""
        self.seconds = 0.0
        """That writing took so far."""

    def latest(self, key: str) -> State | None:
        """The newest whole one; None where there is none. Damaged ones are told and left out.

        Raises InputError when it is of other data or another configuration: those are not gone on with.
        """
        self._sweep()
        self._values = self._measured()
        remote = [] if self._store is None else self._store.names(self._stage)
        for name in sorted({*self._names(), *remote}, reverse=True):
            for is_remote in (False, True):
                folder = self._folder / name
                if (name not in remote) if is_remote else not folder.is_dir():
                    continue
                try:
                    if is_remote:
                        self._fetch(name)
                    state, manifest = _read(folder)
                except ArtifactError as error:
                    self._report.event("a damaged checkpoint was left out", checkpoint=folder, error=str(error))
                    continue
                self._refuse_other(folder, manifest, key)
                self._last_step, self._newest = manifest.step, name
                if self._uploads is not None and name not in remote:  # the process ended before it was copied
                    self._uploads.offer(folder, self._stage, self._kept())
                told = {"stage": self._stage, "at_step": manifest.step, "epochs": manifest.num_epochs}
                self._report.event("going on from a checkpoint", **told, checkpoint=folder)
                return state
        return None

    def is_due(self, step: int, *, epoch_ended: bool = False) -> bool:
        """Whether it is time for the next one: by the configuration, and so that all take a fiftieth of the time at most."""
        settings = self._settings
        if settings.checkpoint_steps and step - self._last_step >= settings.checkpoint_steps:
            return True
        passed_s = time.monotonic() - self._last_s
        is_cheap = self._cost_s <= passed_s * _SHARE_OF_TIME
        return is_cheap and (epoch_ended or passed_s >= settings.checkpoint_minutes * 60)

    def write(self, step: int, num_epochs: int, state: State, key: str, value: float | None = None) -> None:
        """Write one, and drop those that needn't be kept: all but the last few, and the best after an epoch.

        A disk that is full or a file system that is gone is told and doesn't end training.
        """
        self._publish(f"{step:010d}-{num_epochs:04d}", step, num_epochs, state, key, value)

    def finish(self, step: int, num_epochs: int, state: State, key: str) -> None:
        """Write the stage's last one; those before it go."""
        self._publish(FINISHED, step, num_epochs, state, key, None)

    def flush(self) -> None:
        """Wait until everything is uploaded."""
        if self._uploads is not None:
            self._uploads.wait()

    @property
    def _store(self) -> CheckpointStore | None:
        return None if self._uploads is None else self._uploads.store

    def _publish(self, name: str, step: int, num_epochs: int, state: State, key: str, value: float | None) -> None:
        if name == self._newest:  # gone on from, and no step made since
            return
        started = time.monotonic()
        target = self._folder / name
        try:
            # Left by a run that was cut short after it, and not taken up: damaged.
            shutil.rmtree(target, ignore_errors=True)
            with publish_folder(target) as aside:
                save_file(state.tensors, aside / _TENSORS)
                write_bytes(aside / _VALUES, json.dumps(state.values).encode())
                described = {one: describe_input(aside / one) for one in (_TENSORS, _VALUES)}
                files = {one: _File(file.sha256, file.num_bytes) for one, file in described.items()}
                write_json(
                    aside / MANIFEST, _Manifest(FORMAT_VERSION, self._stage, step, num_epochs, value, key, files)
                )
        except (OSError, SafetensorError) as error:
            self._report.event(
                "a checkpoint could not be written; training goes on", checkpoint=target, error=str(error)
            )
            return
        finally:
            self._last_s, self._last_step = time.monotonic(), step
            self._cost_s = self._last_s - started
            self.seconds += self._cost_s
        self._newest = name
        if value is not None:
            self._values[name] = value
        kept = self._kept()
        if self._uploads is not None:
            self._uploads.offer(target, self._stage, kept)
        for other in self._names():
            if other not in kept and (self._uploads is None or not self._uploads.needs(self._folder / other)):
                _remove(self._folder / other)

    def _kept(self) -> set[str]:
        names = self._names()
        if FINISHED in names:
            return {FINISHED}
        measured = [name for name in names if name in self._values]
        best = max(measured, key=lambda name: self._values[name], default=None)
        return {*names[-self._settings.num_checkpoints :], *([] if best is None else [best])}

    def _names(self) -> list[str]:
        return sorted(path.parent.name for path in self._folder.glob(f"[!.]*/{MANIFEST}"))

    def _fetch(self, name: str) -> None:
        assert self._store is not None  # noqa: S101 - whoever calls has its names
        shutil.rmtree(self._folder / name, ignore_errors=True)
        self._store.fetch(self._stage, name, self._folder / name)

    @staticmethod
    def _refuse_other(folder: Path, manifest: _Manifest, key: str) -> None:
        if manifest.key != key:
            raise InputError(
                f"{folder} was written by a run on other data or with another configuration: found the key "
                f"{manifest.key[:12]}, expected {key[:12]}. Give this run another RUN_ID, or delete {folder.parent.parent}."
            )

    def _measured(self) -> dict[str, float]:
        """Eval metrics of those that were written after an epoch."""
        found: dict[str, float] = {}
        for name in self._names():
            try:
                manifest = msgspec.json.decode((self._folder / name / MANIFEST).read_bytes(), type=_Manifest)
            except msgspec.DecodeError:
                continue
            if manifest.value is not None:
                found[name] = manifest.value
        return found

    def _sweep(self) -> None:
        """Remove what a process that was killed left aside."""
        for left in self._folder.glob(".*.tmp"):
            shutil.rmtree(left, ignore_errors=True)


def _read(folder: Path) -> tuple[State, _Manifest]:
    """Raises ArtifactError when something is missing or altered."""
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=_Manifest)
        if manifest.format_version != FORMAT_VERSION:
            raise ArtifactError(f"{folder} has format version {manifest.format_version}, expected {FORMAT_VERSION}.")
        _check(folder, manifest.files)
        values: dict[str, Any] = json.loads((folder / _VALUES).read_bytes())
        return State(load_file(folder / _TENSORS), values), manifest
    except (OSError, ValueError, msgspec.DecodeError, SafetensorError) as error:
        raise ArtifactError(f"{folder} can't be read as a checkpoint: {error}. The one before it is tried.") from error


def _check(folder: Path, files: Mapping[str, _File]) -> None:
    if files.keys() != {_TENSORS, _VALUES}:
        raise ArtifactError(f"{folder / MANIFEST} names {', '.join(files)}; expected {_TENSORS} and {_VALUES}.")
    for name, expected in files.items():
        found = describe_input(folder / name)
        if (found.sha256, found.num_bytes) != (expected.sha256, expected.num_bytes):
            raise ArtifactError(
                f"{folder / name} is not the file that was written: found {found.num_bytes:,} bytes with the digest "
                f"{found.sha256[:12]}, expected {expected.num_bytes:,} with {expected.sha256[:12]}."
            )


def _remove(folder: Path) -> None:
    # The manifest first: what is left, should this be cut short, is no checkpoint.
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
