"""Where a job runs and on what: machines, images, labels and limits, checked before anything is rented."""

from __future__ import annotations

import re
from typing import Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from endcap.contracts.features import Strict
from endcap.contracts.secrets import SCHEME, is_reference

L4: Final = "NVIDIA_L4"
T4: Final = "NVIDIA_TESLA_T4"

Strategy = Literal["STANDARD", "SPOT", "FLEX_START"]
Accelerator = Literal[
    "NVIDIA_L4", "NVIDIA_TESLA_T4", "NVIDIA_TESLA_V100", "NVIDIA_TESLA_A100", "NVIDIA_A100_80GB", "NVIDIA_H100_80GB",
    "NVIDIA_H200_141GB", "NVIDIA_B200",
]  # fmt: skip

_LABEL_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_LABEL_VALUE = re.compile(r"[a-z0-9_-]{0,63}")
_SECRET_NAME = re.compile(r"(KEY|TOKEN|PASSWORD|SECRET|CREDENTIAL)", re.IGNORECASE)
_REGION = r"^[a-z]+-[a-z]+\d+$"
_MAX_OWN_LABELS = 56  # 64 in all, some are ours


class MachineConfig(Strict):
    """One machine of a job."""

    machine_type: str = Field("g2-standard-8", pattern=r"^[a-z0-9]+(-[a-z0-9]+)+$")
    """Compute Engine's name of the machine."""
    accelerator_type: Accelerator | None = L4
    """GPUs of the machine; null: none."""
    accelerator_count: int = Field(1, ge=0, le=16)
    """How many GPUs."""

    @model_validator(mode="after")
    def _counted(self) -> Self:
        if (self.accelerator_type is None) != (self.accelerator_count == 0):
            raise ValueError(
                f"accelerator_type is {self.accelerator_type} and accelerator_count {self.accelerator_count}: "
                "expected a type and 1 or more, or null and 0"
            )
        return self


MACHINES: Final[dict[str, MachineConfig]] = {
    "l4": MachineConfig(),
    "t4": MachineConfig(machine_type="n1-standard-8", accelerator_type=T4, accelerator_count=1),
    "cpu": MachineConfig(machine_type="n1-standard-8", accelerator_type=None, accelerator_count=0),
}
"""What `--machine` names."""


class SubmissionConfig(Strict):
    """A job on rented machines: what `conf/submit.yaml` of a workspace may say, and options may change."""

    project: str | None = Field(None, min_length=1)
    """Google Cloud project; by default `PROJECT_ID` of the environment."""
    region: str | None = Field(None, pattern=_REGION)
    """Where the job runs, such as us-central1; by default `REGION` of the environment."""
    bucket: str | None = Field(None, pattern=r"^(gs://)?[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]/?$")
    """Bucket of data, checkpoints and releases, in the job's region; by default `ARTIFACT_BUCKET` of the environment."""
    image_uri: str | None = Field(None, pattern=r"^[^\s/]+(/[^\s/]+)+$")
    """Training image, such as us-central1-docker.pkg.dev/PROJECT/endcap/endcap-train-cuda:latest."""
    machine: MachineConfig = MachineConfig()
    """Each machine of the job."""
    replica_count: int = Field(1, ge=1, le=100)
    """How many machines train together."""
    boot_disk_type: Literal["pd-ssd", "pd-standard", "hyperdisk-balanced"] = "pd-ssd"
    """Kind of each machine's disk."""
    boot_disk_size_gb: int = Field(100, ge=100, le=64_000)
    """Size of each machine's disk."""
    strategy: Strategy = "STANDARD"
    """STANDARD: on-demand machines. SPOT: cheaper ones that may be taken away. FLEX_START: waits until the GPUs are free."""
    max_wait_minutes: float = Field(1440, ge=0)
    """How long a job with FLEX_START may wait for its machines; 0: as long as it takes."""
    timeout_minutes: float | None = Field(None, gt=0, le=7 * 24 * 60)
    """After how long the job is stopped; without, the service's own limit of 7 days."""
    restart_job_on_worker_restart: bool = True
    """Whether the whole job starts again, from its checkpoint, when one of its machines did."""
    service_account: str | None = Field(None, pattern=r"^[^@\s]+@[^@\s]+$")
    """Whom the job acts as; without, the service's own account, which often may do more than it needs."""
    base_output_directory: str | None = Field(None, pattern=r"^gs://[^\s/]+(/[^\s/]+)*/?$")
    """Folder below which model/ and checkpoints/ of all runs lie; by default gs://BUCKET/endcap."""
    network: str | None = Field(None, pattern=r"^projects/[^/]+/global/networks/[^/]+$")
    """Private network that the machines are attached to."""
    kms_key: str | None = Field(None, pattern=r"^projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+$")
    """Key of the customer's own that the job's disks are encrypted with."""
    labels: dict[str, str] = Field(default_factory=dict, max_length=_MAX_OWN_LABELS)
    """Shown beside the job and on its bill."""
    env: dict[str, str] = Field(default_factory=dict)
    """Further environment of the container. Secrets stand here as secret://NAME alone."""
    max_resubmissions: int = Field(6, ge=0, le=100)
    """How often a job is submitted again after its machine was taken away."""
    poll_seconds: float = Field(15, gt=0, le=600)
    """Time between two looks at the job."""
    accelerator_regions: list[str] = Field(default_factory=list)
    """Regions known to offer `machine.accelerator_type` beside those that Endcap knows of."""
    api_endpoint: str | None = Field(None, min_length=1)
    """Address of the training service where it isn't the region's own, such as a private endpoint."""
    log_endpoint: str | None = Field(None, min_length=1)
    """Address of the log service where it isn't https://logging.googleapis.com."""

    @field_validator("labels")
    @classmethod
    def _are_labels(cls, value: dict[str, str]) -> dict[str, str]:
        for key, text in value.items():
            if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(text):
                raise ValueError(
                    f"found the label {key}={text}, expected at most 63 of a-z, 0-9, _ and - each, the name beginning "
                    "with a letter, such as team=search"
                )
        return value

    @field_validator("env")
    @classmethod
    def _has_no_secret(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if _SECRET_NAME.search(name) and not is_reference(text):
                raise ValueError(  # never the value itself
                    f"{name} looks like a secret in the clear, and a job's request is shown and logged; expected a "
                    f"reference, such as {name}: {SCHEME}{name.lower().replace('_', '-')}"
                )
        return value

    @model_validator(mode="after")
    def _waits_for_gpus(self) -> Self:
        if self.strategy == "FLEX_START" and self.machine.accelerator_type in (None, T4):
            raise ValueError(
                f"strategy is FLEX_START with machine.accelerator_type {self.machine.accelerator_type}: expected one that "
                "is queued for, NVIDIA_L4 or newer; take STANDARD or SPOT for this machine"
            )
        return self

    @property
    def bucket_name(self) -> str | None:
        """The bucket without gs://."""
        return self.bucket.removeprefix("gs://").rstrip("/") if self.bucket else None


def label_of(text: str) -> str:
    """The same as a label's value: capitals lowered, other characters turned into `-`, at most 63."""
    return re.sub(r"[^a-z0-9_-]", "-", text.lower())[:63]
