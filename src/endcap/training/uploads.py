"""Folders of checkpoints in, copies of them at a location out, in the background."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from endcap.contracts.errors import ConflictError
from endcap.contracts.reporting import Reporter
from endcap.workspace.locations import MANIFEST, Location


class CheckpointStore:
    """Checkpoints of a run in a place of its own, such as a bucket. One is there once its manifest is."""

    def __init__(self, location: Location) -> None:
        self._location = location

    def names(self, stage: str) -> list[str]:
        """Of the whole checkpoints of a stage."""
        return [file.parent.name for file in (self._location / stage).list() if file.name == MANIFEST]

    def begun(self, stage: str) -> list[str]:
        """Of all checkpoints of a stage that something is there of, whole or not."""
        return list((self._location / stage).names())

    def publish(self, folder: Path, stage: str) -> None:
        """Upload a folder under its own name, in place of what is there."""
        target = self._location / stage / folder.name
        try:
            target.upload_folder(folder)
        except ConflictError:  # of a start whose copy was damaged, so that this one went back behind it
            target.delete_folder()
            target.upload_folder(folder)

    def fetch(self, stage: str, name: str, target: Path) -> None:
        """Download one to `target`, which must not exist. Raises ArtifactError when something of it is missing."""
        (self._location / stage / name).download_folder(target)

    def remove(self, stage: str, name: str) -> None:
        """Remove one, its manifest first."""
        (self._location / stage / name).delete_folder()


@dataclass(frozen=True)
class _Upload:
    folder: Path
    stage: str
    kept: frozenset[str]


class Uploads:
    """A thread that uploads one checkpoint after another; of a stage only the newest waits."""

    def __init__(self, store: CheckpointStore, report: Reporter) -> None:
        self.store, self._report = store, report
        self._waiting: dict[str, _Upload] = {}
        self._current: _Upload | None = None
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def offer(self, folder: Path, stage: str, kept: Iterable[str]) -> None:
        """Have a folder uploaded; `kept` are the names that stay in the store."""
        with self._changed:
            self._waiting[stage] = _Upload(folder, stage, frozenset(kept))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="checkpoint uploads", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def needs(self, folder: Path) -> bool:
        """Whether a folder is still to be read."""
        with self._changed:
            asked = [*self._waiting.values(), *([] if self._current is None else [self._current])]
            return any(one.folder == folder for one in asked)

    def wait(self) -> None:
        """Until nothing is left to upload."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and self._current is None)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting))
                self._current = self._waiting.pop(next(iter(self._waiting)))
            try:
                self._upload(self._current)
            except Exception as error:  # a copy that fails must not end training
                told = {"checkpoint": self._current.folder, "error": str(error)}
                self._report.event("a checkpoint could not be uploaded; training goes on", **told)
            finally:
                with self._changed:
                    self._current = None
                    self._changed.notify_all()

    def _upload(self, upload: _Upload) -> None:
        self.store.publish(upload.folder, upload.stage)
        for name in self.store.begun(upload.stage):  # also what an upload that failed left there
            if name not in upload.kept:
                self.store.remove(upload.stage, name)
