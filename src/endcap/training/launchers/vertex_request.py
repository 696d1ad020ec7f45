"""A submission and a job in, the CustomJob that asks Vertex AI for it out."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlsplit

from endcap.contracts.errors import InputError
from endcap.contracts.submission import SubmissionConfig, label_of
from endcap.training.launchers.protocol import Job, Phase, Status

RUN_LABEL: Final = "endcap_run_id"
ATTEMPT_LABEL: Final = "endcap_attempt"

_PHASES: Final[Mapping[str, Phase]] = {
    "JOB_STATE_UNSPECIFIED": Phase.PENDING,
    "JOB_STATE_QUEUED": Phase.PENDING,
    "JOB_STATE_PENDING": Phase.PENDING,
    "JOB_STATE_SUCCEEDED": Phase.SUCCEEDED,
    "JOB_STATE_PARTIALLY_SUCCEEDED": Phase.FAILED,
    "JOB_STATE_FAILED": Phase.FAILED,
    "JOB_STATE_EXPIRED": Phase.FAILED,
    "JOB_STATE_CANCELLED": Phase.CANCELLED,
}
"""Others are of jobs under way."""

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_STOPPED = re.compile(r"status of 143\b|\bSIGTERM\b|signal 15\b")
_KILLED = re.compile(r"status of 137\b|\bSIGKILL\b|signal 9\b")
_MEMORY = re.compile(r"memory|\bOOM", re.IGNORECASE)
_TAKEN_AWAY = re.compile(r"preempt|STOCKOUT", re.IGNORECASE)
_CODES_OF_THE_PLACE = (10, 14)
"""google.rpc.Code ABORTED and UNAVAILABLE: the machine's fault, not the program's."""


def client_module(name: str) -> Any:
    """A module of Google's clients. Raises InputError when they aren't installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f'Vertex AI is reached through its own client, and {name} is not installed: pip install "endcap[gcp]".'
        ) from error


def checked_plain(endpoint: str) -> str:
    """An http:// address of this machine. Raises InputError for another's: requests would travel in the clear."""
    if urlsplit(endpoint).hostname not in _LOOPBACK:
        raise InputError(f"Found the endpoint {endpoint}; expected https:// for any address but this machine's own.")
    return endpoint


def custom_job(config: SubmissionConfig, job: Job, attempt: int) -> Any:
    """The request, as the official client's message."""
    api = client_module("google.cloud.aiplatform_v1")
    return api.CustomJob(
        display_name=job.run_id if attempt == 1 else f"{job.run_id}-{attempt}",
        labels={**config.labels, **job.labels, **labels_of(job, attempt)},
        encryption_spec=api.EncryptionSpec(kms_key_name=config.kms_key) if config.kms_key else None,
        job_spec=api.CustomJobSpec(
            worker_pool_specs=_pools(api, config, job),
            scheduling=_scheduling(api, config, job),
            service_account=config.service_account or "",
            network=config.network or "",
            base_output_directory=api.GcsDestination(output_uri_prefix=config.base_output_directory),
        ),
    )


def custom_job_like(earlier: Any, job: Job, attempt: int) -> Any:
    """The request for another attempt at a job that was asked for before, on the same machines."""
    api = client_module("google.cloud.aiplatform_v1")
    asked = api.CustomJobSpec(earlier.job_spec)
    if job.timeout_s:
        asked.scheduling.timeout = timedelta(seconds=max(1, round(job.timeout_s)))
    return api.CustomJob(
        display_name=f"{job.run_id}-{attempt}",
        labels={**dict(earlier.labels), **labels_of(job, attempt)},
        encryption_spec=earlier.encryption_spec if "encryption_spec" in earlier else None,
        job_spec=asked,
    )


def labels_of(job: Job, attempt: int) -> dict[str, str]:
    """By which an attempt is found again."""
    return {RUN_LABEL: label_of(job.run_id), ATTEMPT_LABEL: str(attempt)}


def as_mapping(message: Any) -> dict[str, Any]:
    """A message of the client in JSON's terms, with the names of the service's own description."""
    found: dict[str, Any] = client_module("google.protobuf.json_format").MessageToDict(
        type(message).pb(message), preserving_proto_field_name=True
    )
    return found


def status_of(job: Any) -> Status:
    """What a CustomJob's state means."""
    is_spot = job.job_spec.scheduling.strategy.name == "SPOT"
    phase = _PHASES.get(job.state.name, Phase.RUNNING)
    detail = str(job.error.message) or (f"the service calls it {job.state.name}" if phase.is_over else "")
    if phase is Phase.FAILED and was_preempted(job.error.code, detail, is_spot=is_spot):
        phase = Phase.PREEMPTED
    return Status(phase, detail)


def was_preempted(code: int, message: str, *, is_spot: bool) -> bool:
    """Whether a failed job's machine was taken away: a trainer that is told to stop exits with 143.

    An exit by SIGKILL counts on spot machines alone, and not where memory is spoken of.
    """
    if _STOPPED.search(message) or _TAKEN_AWAY.search(message) or code in _CODES_OF_THE_PLACE:
        return True
    return is_spot and _KILLED.search(message) is not None and _MEMORY.search(message) is None


def _pools(api: Any, config: SubmissionConfig, job: Job) -> list[Any]:
    machine: dict[str, Any] = {"machine_type": config.machine.machine_type}
    if config.machine.accelerator_type is not None:
        machine["accelerator_type"] = api.AcceleratorType[config.machine.accelerator_type]
        machine["accelerator_count"] = config.machine.accelerator_count
    container = api.ContainerSpec(
        image_uri=config.image_uri,
        command=list(job.command),
        args=list(job.arguments),
        env=[{"name": name, "value": value} for name, value in sorted(job.environment.items())],
    )
    disk = {"boot_disk_type": config.boot_disk_type, "boot_disk_size_gb": config.boot_disk_size_gb}
    # The first pool holds the one that leads, the second all others: the service knows no other split.
    return [
        api.WorkerPoolSpec(machine_spec=machine, replica_count=num, container_spec=container, disk_spec=disk)
        for num in (1, config.replica_count - 1)
        if num
    ]


def _scheduling(api: Any, config: SubmissionConfig, job: Job) -> Any:
    asked = [config.timeout_minutes and config.timeout_minutes * 60, job.timeout_s]
    given = [seconds for seconds in asked if seconds]
    return api.Scheduling(
        timeout=timedelta(seconds=max(1, round(min(given)))) if given else None,
        restart_job_on_worker_restart=config.restart_job_on_worker_restart,
        strategy=api.Scheduling.Strategy[config.strategy],
        max_wait_duration=timedelta(minutes=config.max_wait_minutes) if config.strategy == "FLEX_START" else None,
    )
