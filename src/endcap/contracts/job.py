"""What a training job's environment says, checked and typed: tables, places, trackers, its part in a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

REQUIRED: Final = (
    "PROJECT_ID",
    "REGION",
    "ARTIFACT_BUCKET",
    "STAGING_PREFIX",
    "EXPERIMENT_NAME",
    "DATASET_RECSYS",
    "DATASET_DRIFT",
    "REQUESTS_TABLE",
    "FEEDBACK_TABLE",
    "DRIFT_TABLE",
    "MODEL_DIR",
    "CHECKPOINT_DIR",
    "VERTEX_EXPERIMENT",
)
"""Variables that a job in a cloud can't do without."""

OPTIONAL: Final = ("WANDB_ENABLED", "USER_KEY_SECRET", "RUN_ID", "REQUEST_ID")
"""Variables that a job anywhere may have."""

STANDING_IN: Final = {"MODEL_DIR": "AIP_MODEL_DIR", "CHECKPOINT_DIR": "AIP_CHECKPOINT_DIR"}
"""What Vertex AI says for a variable that isn't set."""

PLATFORM: Final = ("AIP_MODEL_DIR", "AIP_CHECKPOINT_DIR", "AIP_TENSORBOARD_LOG_DIR", "CLUSTER_SPEC")
"""What Vertex AI sets by itself."""

LOCAL_PROJECT: Final = "local"
"""The project whose warehouse is a folder."""

REQUESTS_COLUMNS: Final = (
    "request_id", "user_key", "request_time", "release_digest", "surface", "item_ids", "scores", "positions",
    "propensities", "experiment", "variant",
)  # fmt: skip
"""Columns of the warehouse's table of requests."""

FEEDBACK_COLUMNS: Final = ("request_id", "item_id", "event_type", "event_time", "value")
"""Columns of the warehouse's table of feedback."""


@dataclass(frozen=True)
class Cluster:
    """A machine's part among those that train together."""

    rank: int
    """Of this machine, from 0; 0 writes what is written once."""
    world_size: int
    """How many machines there are."""
    master_addr: str
    """The machine of rank 0."""
    master_port: int
    """Where it listens for the others."""

    def environment(self) -> dict[str, str]:
        """The same as torchrun's variables."""
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.world_size),
            "MASTER_ADDR": self.master_addr,
            "MASTER_PORT": str(self.master_port),
        }


@dataclass(frozen=True)
class JobEnvironment:
    """One job's environment, whole. Places are local paths, `gs://…` or `s3://…`; tables are `DATASET.TABLE` or places."""

    project_id: str
    """The cloud project that holds the warehouse; `local` has a folder for one."""
    region: str
    """Where the job runs and its data lie."""
    artifact_bucket: str
    """Where everything the job writes lies."""
    staging_prefix: str
    """The folder that holds `interactions.parquet` and `items.parquet`."""
    experiment_name: str
    """Under which trackers and log lines file the run."""
    dataset_recsys: str
    """The warehouse's dataset of the logs."""
    dataset_drift: str
    """The warehouse's dataset of drift."""
    requests_table: str
    """What was shown."""
    feedback_table: str
    """What came of it."""
    drift_table: str
    """Statistics by hour."""
    model_dir: str
    """Below it the release is written."""
    checkpoint_dir: str
    """Below it checkpoints are written."""
    wandb_enabled: bool | None = None
    """Whether Weights & Biases hears of the run; None: as configured."""
    user_key_secret: str | None = None
    """`secret://…` of the key that hashes users in the table of requests; None: the job's workspace has one of its own."""
    vertex_experiment: str | None = None
    """The experiment of Vertex AI that hears of the run; None: as configured."""
    tensorboard_dir: str | None = None
    """Where Vertex AI looks for TensorBoard's logs."""
    run_id: str | None = None
    """The run's name, the same when the job starts again; None: the run names itself."""
    request_id: str = ""
    """Of whoever asked for the job; it stands in every log line."""
    cluster: Cluster | None = None
    """Its part among several machines; None where nothing says that there are any."""
    warehouse: str = ""
    """The folder that stands for the warehouse of the project `local`."""
    is_strict: bool = False
    """Whether it runs in a cloud, or with its data there."""
    given: frozenset[str] = frozenset()
    """Names of the variables that were set."""
