"""Overrides and a place to run in, a trained run out: checked here, run there, waited for, its metrics fetched."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from endcap.contracts.configuration import Configuration
from endcap.contracts.errors import ArtifactError, InputError, TransientError
from endcap.contracts.job import OPTIONAL, REQUIRED
from endcap.contracts.release import MANIFEST, ReleaseManifest
from endcap.contracts.reporting import Reporter
from endcap.contracts.submission import SubmissionConfig, label_of
from endcap.flows.quicktest_cloud import place_of
from endcap.training.launchers.local import LocalLauncher
from endcap.training.launchers.protocol import Job, Launcher
from endcap.training.launchers.refusals import problems_of, refuse
from endcap.training.launchers.vertex import VertexLauncher
from endcap.training.launchers.vertex_request import as_mapping, custom_job
from endcap.training.launchers.waiting import Ended, Waiting
from endcap.workspace.atomic import write_json
from endcap.workspace.configuration import load_configuration
from endcap.workspace.job_environment import read_job_environment
from endcap.workspace.layout import Workspace
from endcap.workspace.locations import Location
from endcap.workspace.manifests import git_sha, new_run_id, read_manifest

Target = Literal["local", "vertex"]

STEP: Final = "job"
RECORD: Final = "submission.json"

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_NAME = re.compile(r"projects/([^/]+)/locations/([^/]+)/customJobs/[^/]+")
_LOCAL_RESUBMISSIONS = 3


class SubmissionRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was submitted: `jobs` are the handles of each start, the latest last. Times are ISO 8601 in UTC."""

    run_id: str
    target: Target
    submitted_at: str
    arguments: list[str]
    jobs: list[str]


@dataclass(frozen=True)
class Submission:
    """A job that was checked and may be submitted."""

    target: Target
    job: Job
    config: SubmissionConfig
    workspace: Workspace | None
    """Where the record is kept and a local job runs."""
    buckets: Sequence[str] = field(default_factory=tuple)
    """Of the places that the job reads and writes: where they lie is asked before it starts."""

    def request(self) -> dict[str, Any]:
        """What would be sent."""
        if self.target == "vertex":
            return as_mapping(custom_job(self.config, self.job, 1))
        return {"command": [*(self.job.command or ("python", "-m", "train.main")), *self.job.arguments],
                "environment": dict(self.job.environment)}  # fmt: skip


@dataclass(frozen=True)
class Result:
    """A job that was submitted, and, where it was waited for, how it ended."""

    run_id: str
    handle: str
    console_url: str | None = None
    ended: Ended | None = None
    metrics: Mapping[str, float | int | None] = field(default_factory=dict)


def plan_local(
    workspace: Workspace,
    overrides: Sequence[str],
    run_id: str | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Submission:
    """A training on this machine. Raises InputError when the configuration or the job's environment is wrong."""
    load_configuration(overrides, workspace.path / "conf")
    found = read_job_environment(environment, workspace.path)
    chosen = checked_run_id(run_id or (found.run_id if found else None))
    arguments = (*overrides, "--workspace", str(workspace.path.resolve()), "--log-format", "json")
    # A run that is no job of a cloud names itself; under RUN_ID alone it would take itself for one.
    job = Job(chosen, arguments, environment={"RUN_ID": chosen} if found is not None else {})
    return Submission(
        "local", job, SubmissionConfig(max_resubmissions=_LOCAL_RESUBMISSIONS, poll_seconds=0.5), workspace
    )


def plan_vertex(
    config: SubmissionConfig,
    overrides: Sequence[str],
    run_id: str | None = None,
    environment: Mapping[str, str] = os.environ,
    workspace: Workspace | None = None,
) -> Submission:
    """A training as a CustomJob, checked as far as that needs no network.

    Raises InputError with every problem: configuration, machine, region, environment.
    """
    configuration = load_configuration(overrides)  # as the image has it: a workspace's own conf/ isn't there
    if not any(override.startswith("experiment=") for override in overrides):
        # What was checked is what is trained, whatever the image's TRAIN_ARGS name.
        overrides = (f"experiment={configuration.experiment}", *overrides)
    return _to_vertex(
        config,
        configuration,
        lambda _: _on_gpus(overrides, configuration, config),
        run_id,
        environment,
        workspace,
    )


def plan_quicktest(
    config: SubmissionConfig,
    configuration: Configuration,
    source_run: str,
    run_id: str,
    workspace: Workspace,
    *,
    timeout_minutes: float | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Submission:
    """A quick test as a CustomJob, checked as `plan_vertex` does; its data are to be staged before it starts."""
    limit = () if timeout_minutes is None else ("--timeout", f"{timeout_minutes:g}")

    def arguments(variables: Mapping[str, str]) -> tuple[str, ...]:
        staged = str(place_of(variables["STAGING_PREFIX"], run_id))
        return ("endcap", "quicktest", "--source-run", source_run, "--staged", staged, *limit, "--log-format", "json")

    return _to_vertex(config, configuration, arguments, run_id, environment, workspace)


def _to_vertex(
    config: SubmissionConfig,
    configuration: Configuration,
    arguments: Callable[[Mapping[str, str]], tuple[str, ...]],
    run_id: str | None,
    environment: Mapping[str, str],
    workspace: Workspace | None,
) -> Submission:
    """A job of whatever program; `arguments` are made from its environment."""
    refuse(list(problems_of(config, configuration.training.device)))
    base = (config.base_output_directory or f"gs://{config.bucket_name}/endcap").rstrip("/")
    config = config.model_copy(update={"base_output_directory": base})
    chosen = checked_run_id(run_id)
    variables = environment_for(config, configuration, chosen, environment)
    read_job_environment(variables, Path())
    labels = {"experiment": label_of(variables["EXPERIMENT_NAME"]), "git_sha": label_of(git_sha())}
    job = Job(chosen, arguments(variables), environment=variables, labels=labels)
    places = [
        f"gs://{config.bucket_name}",
        base,
        *(variables[name] for name in ("STAGING_PREFIX", "MODEL_DIR", "CHECKPOINT_DIR")),
    ]
    buckets = {Location.parse(place).bucket: None for place in places if place.startswith("gs://")}
    return Submission("vertex", job, config, workspace, tuple(buckets))


def plan_attached(config: SubmissionConfig, handle: str, workspace: Workspace | None = None) -> Submission:
    """A CustomJob that runs already, by its name; on other machines like its own, should these be taken away.

    Raises InputError when there is none.
    """
    found = _NAME.fullmatch(handle)
    if found is None:
        raise InputError(
            f"Found the job {handle!r}; expected a job of Vertex AI, such as projects/P/locations/R/customJobs/N. A process "
            "on this machine is looked at by its log."
        )
    config = config.model_copy(update={"project": found[1], "region": found[2]})
    return Submission("vertex", VertexLauncher(config).job_of(handle), config, workspace)


def checked_run_id(run_id: str | None) -> str:
    """The id, or a new one. Raises InputError for what is no id."""
    if run_id is not None and not _RUN_ID.fullmatch(run_id):
        raise InputError(
            f"Found the run id {run_id!r}; expected up to 63 letters, digits, '_' and '-', such as nightly-42."
        )
    return run_id or new_run_id(STEP)


def environment_for(
    config: SubmissionConfig, configuration: Configuration, run_id: str, given: Mapping[str, str]
) -> dict[str, str]:
    """The job's environment: the submission's own `env` counts before what is set here, that before what follows."""
    base = str(config.base_output_directory)
    recsys, drift = (config.env.get(name) or given.get(name) or fallback
                     for name, fallback in (("DATASET_RECSYS", "recsys"), ("DATASET_DRIFT", "drift")))  # fmt: skip
    experiment = config.env.get("EXPERIMENT_NAME") or given.get("EXPERIMENT_NAME") or configuration.experiment
    follows = {
        "STAGING_PREFIX": f"gs://{config.bucket_name}/staging",
        "EXPERIMENT_NAME": experiment,
        "DATASET_RECSYS": recsys,
        "DATASET_DRIFT": drift,
        "REQUESTS_TABLE": f"{recsys}.requests",
        "FEEDBACK_TABLE": f"{recsys}.feedback",
        "DRIFT_TABLE": f"{drift}.hourly",
        # The same that the service derives from base_output_directory, whichever of them a program reads.
        "MODEL_DIR": f"{base}/model",
        "CHECKPOINT_DIR": f"{base}/checkpoints",
        "VERTEX_EXPERIMENT": re.sub(r"[^a-z0-9-]", "-", experiment.lower()).strip("-"),
    }
    set_here = {name: given[name] for name in (*REQUIRED, *OPTIONAL) if name in given}
    bound = {
        "PROJECT_ID": str(config.project),
        "REGION": str(config.region),
        "ARTIFACT_BUCKET": f"gs://{config.bucket_name}",
        "RUN_ID": run_id,
    }
    return {**follows, **set_here, **config.env, **bound}


def launcher_for(submission: Submission) -> Launcher:
    """The place that a submission goes to. Raises InputError when it can't be reached with what is installed here."""
    if submission.target == "vertex":
        return VertexLauncher(submission.config)
    assert submission.workspace is not None  # noqa: S101 - a local job has one
    return LocalLauncher(submission.workspace.runs)


def check_buckets(submission: Submission, launcher: Launcher) -> list[str]:
    """Refuse buckets that lie elsewhere; gives what could not be asked, as sentences.

    Raises InputError when one does.
    """
    if not isinstance(launcher, VertexLauncher):
        return []
    problems, unknown = [], []
    for bucket in submission.buckets:
        try:
            if (problem := launcher.bucket_problem(bucket)) is not None:
                problems.append(problem)
        except (InputError, TransientError) as error:
            unknown.append(f"Where gs://{bucket} lies could not be asked: {error}")
    refuse(problems)
    return unknown


def submit(
    submission: Submission,
    launcher: Launcher,
    report: Reporter,
    *,
    wait: bool,
    timeout_s: float | None = None,
    attach: str | None = None,
) -> Result:
    """Start the job, or take up one by its handle; with `wait` stay to its end and fetch its metrics.

    Raises JobFailedError when it ended badly, InputError when it was refused, TransientError when nobody answers.
    """
    if attach is None and (unknown := check_buckets(submission, launcher)):
        raise InputError("Nothing was submitted. " + " ".join(unknown))
    job = replace(submission.job, timeout_s=timeout_s)
    note = _noting(submission)
    url = launcher.console_url if isinstance(launcher, VertexLauncher) else lambda _: None
    attempt = launcher.take_up(attach) if attach is not None and isinstance(launcher, VertexLauncher) else 1
    if not wait:
        handle = launcher.start(job, 1)
        note(handle, 1)
        return Result(job.run_id, handle, url(handle))
    ended = Waiting(
        launcher,
        job,
        report,
        timeout_s=timeout_s,
        max_resubmissions=submission.config.max_resubmissions,
        poll_s=submission.config.poll_seconds,
        on_start=note,
    ).run(attach, attempt)
    return Result(job.run_id, ended.handle, url(ended.handle), ended, fetch_metrics(submission, ended, report))


def fetch_metrics(submission: Submission, ended: Ended, report: Reporter) -> Mapping[str, float | int | None]:
    """Of the release that the job wrote, else of its run here, else what its log told."""
    model_dir = submission.job.environment.get("MODEL_DIR") or os.environ.get("MODEL_DIR")
    try:
        if model_dir is not None:
            place = Location.parse(model_dir) / ended.run_id / MANIFEST
            return msgspec.json.decode(place.read_bytes(), type=ReleaseManifest).metrics
        if submission.workspace is not None:
            return read_manifest(submission.workspace, ended.run_id).metrics
    except (ArtifactError, InputError, TransientError, msgspec.DecodeError) as error:
        report.event("the release's metrics could not be fetched: these are the log's", error=str(error))
    return ended.metrics


def latest_job(workspace: Workspace, run_id: str) -> SubmissionRecord:
    """What was submitted from here under a run's id. Raises InputError when nothing was."""
    try:
        return msgspec.json.decode((workspace.runs / run_id / RECORD).read_bytes(), type=SubmissionRecord)
    except (OSError, msgspec.DecodeError) as error:
        raise InputError(
            f"Nothing is known here of a submission {run_id!r}: expected {workspace.runs / run_id / RECORD}, or the job's own "
            "name, such as projects/P/locations/R/customJobs/N."
        ) from error


def asking_for_gpu(configuration: Configuration, config: SubmissionConfig) -> Configuration:
    """The configuration; a machine with a GPU means one, so that a missing driver is an error and no slow run."""
    if config.machine.accelerator_type is None or configuration.training.device != "auto":
        return configuration
    return configuration.model_copy(update={"training": configuration.training.model_copy(update={"device": "cuda"})})


def _on_gpus(overrides: Sequence[str], configuration: Configuration, config: SubmissionConfig) -> tuple[str, ...]:
    """The program's arguments: a process for each GPU of a machine, unless the training is to use none."""
    asking = asking_for_gpu(configuration, config)
    device = () if asking is configuration else (f"training.device={asking.training.device}",)
    num = config.machine.accelerator_count if asking.training.device == "cuda" else 1
    return (*(("--processes", str(num)) if num > 1 else ()), *overrides, *device)


def _noting(submission: Submission) -> Callable[[str, int], None]:
    workspace, jobs = submission.workspace, _submitted_before(submission)

    def note(handle: str, _: int) -> None:
        jobs.append(handle)
        if workspace is None:
            return
        now = datetime.now(UTC).isoformat(timespec="seconds")
        job = submission.job
        folder = workspace.runs / job.run_id
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / RECORD, SubmissionRecord(job.run_id, submission.target, now, list(job.arguments), jobs))

    return note


def _submitted_before(submission: Submission) -> list[str]:
    """Handles of earlier starts under the same run id, as far as they are known here."""
    if submission.workspace is None:
        return []
    try:
        return list(latest_job(submission.workspace, submission.job.run_id).jobs)
    except InputError:
        return []
