"""A training job's environment and a configuration in; its input brought, a release and the run's record at its places out."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Final

import msgspec

from endcap.contracts.configuration import Configuration
from endcap.contracts.errors import ArtifactError, ConflictError
from endcap.contracts.job import JobEnvironment
from endcap.contracts.release import MANIFEST, ReleaseManifest
from endcap.contracts.reporting import Reporter
from endcap.contracts.stopping import Stop
from endcap.flows.job_input import bring_input
from endcap.flows.resuming import Started
from endcap.flows.several import first_of_several
from endcap.flows.train_run import TrainResult, train_run
from endcap.workspace.layout import Workspace
from endcap.workspace.locations import Location
from endcap.workspace.manifests import RUN_MANIFEST

RECORD: Final = "record"
"""The folder, beside a run's checkpoints, with the run's own manifest and what it came to."""
_ENVIRONMENT: Final = "job.json"
_OF_TRACKERS: Final = ("EXPERIMENT_NAME", "WANDB_ENABLED", "VERTEX_EXPERIMENT", "PROJECT_ID", "REGION", "MODEL_DIR")


@dataclass(frozen=True)
class JobResult:
    """What a job came to."""

    run_id: str
    place: Location
    """The release's."""
    trained: TrainResult | None
    """None where the release was there already."""


def run_job(
    job: JobEnvironment,
    workspace: Workspace,
    configuration: Configuration,
    report: Reporter,
    stop: Stop | None = None,
) -> JobResult | None:
    """Bring the input, train, and write the release to `MODEL_DIR/RUN_ID` and the record to `CHECKPOINT_DIR/RUN_ID`.

    A run whose release is there already does nothing; one that was stopped goes on from its checkpoints there. Of several
    processes the first alone writes; the others give None. Raises ConflictError where `RUN_ID` names a run of another
    configuration; all else as the stages do.
    """
    configuration, stop = _told(job, configuration), stop or Stop()
    if os.environ.get("RANK", "0") != "0" and os.environ.get("LOCAL_RANK", "0") == "0":
        bring_input(job, workspace, report)  # on a machine of its own, which shares no folder with the first process
    return first_of_several(
        lambda: _run_job(job, workspace, configuration, report, stop), workspace, configuration, stop
    )


def _run_job(
    job: JobEnvironment, workspace: Workspace, configuration: Configuration, report: Reporter, stop: Stop
) -> JobResult:
    models, checkpoints = Location.parse(job.model_dir), Location.parse(job.checkpoint_dir)
    if job.run_id is not None:
        if _is_done(models / job.run_id, configuration):
            place = models / job.run_id
            report.event("nothing to train: this run's release is there already", release=str(place))
            return JobResult(job.run_id, place, None)
        # Also shows, before hours of work, that the place can be written to.
        _record_environment(job, checkpoints / job.run_id / RECORD)
    bring_input(job, workspace, report)
    started = Started(run_id=job.run_id, checkpoints=checkpoints, stop=stop)
    trained = train_run(workspace, configuration, report, started)
    run_id = job.run_id or trained.run_id
    record = checkpoints / run_id / RECORD
    _record_environment(job, record)
    _write_record(workspace, trained, record)
    (models / run_id).upload_folder(trained.release.path, last=MANIFEST)
    report.event("release written", release=str(models / run_id), digest=trained.release.digest[:12])
    return JobResult(run_id, models / run_id, trained)


def _told(job: JobEnvironment, configuration: Configuration) -> Configuration:
    """The configuration with the trackers that the job's environment names."""
    given = {name.lower(): getattr(job, name.lower()) for name in _OF_TRACKERS if name in job.given}
    return configuration.model_copy(update={"trackers": configuration.trackers.in_job(**given)})


def _is_done(place: Location, configuration: Configuration) -> bool:
    """Whether the run's release stands at `place`."""
    if not (place / MANIFEST).exists():
        return False
    try:
        found = msgspec.json.decode((place / MANIFEST).read_bytes(), type=ReleaseManifest).lineage.configuration
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{place / MANIFEST} can't be read as a release's manifest: {error}. Remove it.") from error
    described = configuration.model_dump(mode="json", exclude_none=True)
    keys = sorted(key for key in {*found, *described} - {"trackers"} if found.get(key) != described.get(key))
    if keys:
        raise ConflictError(
            f"{place} holds the release of a run with another configuration: {', '.join(keys)} differ. Give this run a "
            "RUN_ID of its own."
        )
    return True


def _record_environment(job: JobEnvironment, record: Location) -> None:
    told = {name: value for name, value in asdict(job).items() if value is not None}
    told["given"] = sorted(job.given)
    (record / _ENVIRONMENT).write_bytes(msgspec.json.format(msgspec.json.encode(told), indent=2))


def _write_record(workspace: Workspace, trained: TrainResult, record: Location) -> None:
    """The run's final weights and its manifest, that last."""
    folder = workspace.runs / trained.run_id
    files = [path for name in ("checkpoint-eval", "checkpoint") for path in sorted((folder / name).glob("*"))]
    for path in [*files, folder / RUN_MANIFEST]:
        (record / path.relative_to(folder).as_posix()).upload_file(path)
