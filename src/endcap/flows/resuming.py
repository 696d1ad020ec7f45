"""A step's key in, the run that works on it out: the one that was stopped, else another; and what it keeps to go on from."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from endcap.contracts.configuration import TrainingConfig
from endcap.contracts.errors import ArtifactError, InputError
from endcap.contracts.release import MANIFEST, Lineage, ReleaseManifest
from endcap.contracts.reporting import Reporter
from endcap.contracts.stopping import Stop, Stopped
from endcap.releases.bundle import Release, open_release
from endcap.training.checkpoints import Checkpoints
from endcap.training.epochs import Keeping
from endcap.training.uploads import CheckpointStore, Uploads
from endcap.workspace import ledger
from endcap.workspace.layout import Workspace
from endcap.workspace.locations import Location
from endcap.workspace.manifests import Run

FOLDER = "checkpoints"


@dataclass(frozen=True)
class Started:
    """How a training run was started."""

    run_id: str | None = None
    """Given by whoever starts it, so that a restart elsewhere is known for the same run; else one is made up."""
    checkpoints: Location | None = None
    """Where copies of checkpoints go, below the run's id."""
    stop: Stop | None = None
    """Who may ask it to stop."""


class Resumable:
    """A run that may have been stopped before."""

    def __init__(
        self, workspace: Workspace, key: ledger.StepKey, started: Started, settings: TrainingConfig, report: Reporter
    ) -> None:
        """Takes up the run that was begun under `key`; call it while the key is claimed."""
        begun = ledger.find_begun(workspace, key)
        self.stop = started.stop or Stop()
        self.run = Run(workspace, key.step, run_id=started.run_id or begun)
        self.may_be_sealed = self.run.run_id in (begun, started.run_id)
        """Whether an earlier start of it may have come as far as the release."""
        self._workspace, self._key = workspace, key
        self._settings, self._report = settings, report
        self._uploads: Uploads | None = None
        if started.checkpoints is not None:
            self._uploads = Uploads(CheckpointStore(started.checkpoints / self.run.run_id), report)
        for left in self.run.folder.glob(".*.tmp"):  # of a start that was killed
            shutil.rmtree(left, ignore_errors=True)

    def begin(self) -> None:
        """From here on there is something to go on from: the next start under the key takes this run up."""
        ledger.record_begun(self._workspace, self._key, self.run.run_id)

    def keeping(self, stage: str) -> Keeping:
        """Checkpoints of a stage, and who may stop it."""
        folder = self.run.folder / FOLDER
        return Keeping(Checkpoints(folder, stage, self._settings, self._report, self._uploads), self.stop)

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """The run's work: asked to stop, it ends once all that was written is copied; refused before a step, it leaves nothing."""
        try:
            yield
        except InputError:
            if not (self.run.folder / FOLDER).is_dir():
                ledger.forget_begun(self._workspace, self._key)
            raise
        except Stopped:
            if self._uploads is not None:
                self._uploads.wait()
            raise

    def close(self) -> None:
        """Wait for uploads; what was only kept to go on from goes, but for copies elsewhere."""
        if self._uploads is not None:
            self._uploads.wait()
        shutil.rmtree(self.run.folder / FOLDER, ignore_errors=True)


def sealed_by(releases: Path, lineage: Lineage) -> Release | None:
    """The release that a run made, where it came as far and is whole; `releases` are the versions of one name.

    Raises InputError when a run of that id made one from other data or with another configuration.
    """
    for path in sorted(releases.glob(f"[0-9]*/{MANIFEST}")):
        try:
            manifest = msgspec.json.decode(path.read_bytes(), type=ReleaseManifest)
            if manifest.lineage.run_id != lineage.run_id:
                continue
            release = open_release(path.parent)
        except (msgspec.DecodeError, ArtifactError):
            continue
        if _made_from(manifest.lineage) != _made_from(lineage):
            raise InputError(
                f"The run {lineage.run_id} made {path.parent} from other data or with another configuration. Give this run "
                "an id of its own."
            )
        return release
    return None


def _made_from(lineage: Lineage) -> tuple[dict[str, Any], dict[str, int]]:
    # Who hears of a run may change between its starts.
    return {key: value for key, value in lineage.configuration.items() if key != "trackers"}, lineage.data_versions


@contextmanager
def staging(releases: Path, run_id: str) -> Iterator[Path]:
    """A folder for a release's parts, on the releases' own file system; it goes away unless it became a release."""
    folder = releases / f".staging-{run_id}"
    shutil.rmtree(folder, ignore_errors=True)  # of a start that was killed
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
