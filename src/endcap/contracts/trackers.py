"""Which outside systems hear of a training run, and what they are told beyond metrics and parameters."""

from __future__ import annotations

from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from endcap.contracts.features import Strict
from endcap.contracts.secrets import SecretReference


def without_credentials(uri: str | None) -> str | None:
    """The same URI; refused when it carries a user or a password, which would end up in every manifest."""
    if uri is not None and "@" in urlsplit(uri).netloc:
        raise ValueError(
            "found a user or a password in the address (not shown here), expected the address alone, such as "
            "https://mlflow.example.com. Give the user in trackers.mlflow.username and a reference in trackers.mlflow.password"
        )
    return uri


class MlflowConfig(Strict):
    """An MLflow server, or a folder or database of MLflow's."""

    uri: str | None = Field(None, min_length=1)
    """Tracking URI, such as `https://mlflow.example.com`; without, MLflow hears nothing."""
    experiment: str | None = Field(None, min_length=1)
    """Its experiment; by default EXPERIMENT_NAME of a job, else the configuration's `experiment`."""
    username: str | None = Field(None, min_length=1)
    """The user's name, where the server asks for one."""
    password: SecretReference | None = None
    """Reference to the user's password."""
    token: SecretReference | None = None
    """Reference to a bearer token, where the server asks for one."""
    log_model: bool = False
    """Whether the release's files are uploaded, and noted as a model."""

    _address = field_validator("uri")(without_credentials)

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password go together: give both, or neither")
        if self.token is not None and self.password is not None:
            raise ValueError("token and password are two ways in: give one of them")
        return self


class WandbConfig(Strict):
    """Weights & Biases."""

    enabled: bool = False
    """Whether it hears of runs; WANDB_ENABLED of a job decides over it."""
    entity: str | None = Field(None, min_length=1)
    """Team or user that the project belongs to; by default that of the key."""
    project: str = Field("endcap", min_length=1, max_length=128)
    """Its project."""
    mode: Literal["online", "offline", "disabled"] = "online"
    """`online`: sent as it happens. `offline`: written below the run's folder, for `wandb sync`. `disabled`: nothing."""
    api_key: SecretReference | None = None
    """Reference to the key; without, the variable WANDB_API_KEY is read."""
    log_model: bool = False
    """Whether the release's files are kept as an artifact of type model."""


class VertexConfig(Strict):
    """Vertex AI Experiments."""

    experiment: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9-]{0,127}$")
    """Its experiment, in lower-case letters, digits and -; without, Vertex hears nothing. VERTEX_EXPERIMENT of a job decides
    over it."""
    project: str | None = Field(None, min_length=1)
    """Google Cloud project; by default PROJECT_ID of a job."""
    region: str | None = Field(None, min_length=1)
    """Where the experiment lies, such as `europe-west4`; by default REGION of a job."""
    tensorboard: str | None = Field(None, pattern=r"^projects/[^/]+/locations/[^/]+/tensorboards/[^/]+$")
    """Vertex TensorBoard that keeps the metrics of each epoch; without, the last epoch's are kept alone."""
    log_model: bool = False
    """Whether the release's place and digest are noted as a model artifact; its files stay where they are."""

    @model_validator(mode="after")
    def _has_a_place(self) -> Self:
        if self.tensorboard is not None and self.experiment is None:
            raise ValueError("tensorboard says nothing without experiment: give both, or neither")
        return self


class TrackersConfig(Strict):
    """Outside systems that are told of a run. What is told changes nothing of the result, and none can fail a run."""

    mlflow: MlflowConfig = MlflowConfig()
    wandb: WandbConfig = WandbConfig()
    vertex: VertexConfig = VertexConfig()
    release_dir: str | None = Field(None, min_length=1)
    """Where others find releases, each under its run's id, such as `gs://acme-artifacts/models`; by default MODEL_DIR of a
    job, else the workspace's own folder."""

    def in_job(
        self,
        *,
        experiment_name: str | None = None,
        wandb_enabled: bool | None = None,
        vertex_experiment: str | None = None,
        project_id: str | None = None,
        region: str | None = None,
        model_dir: str | None = None,
    ) -> TrackersConfig:
        """The same as a job's environment says: what is None leaves the configuration as it is."""
        mlflow = {"experiment": self.mlflow.experiment or experiment_name}
        wandb = {"enabled": self.wandb.enabled if wandb_enabled is None else wandb_enabled}
        vertex = {
            "experiment": vertex_experiment or self.vertex.experiment,
            "project": self.vertex.project or project_id,
            "region": self.vertex.region or region,
        }
        return TrackersConfig(
            mlflow=MlflowConfig.model_validate(self.mlflow.model_dump() | mlflow),
            wandb=WandbConfig.model_validate(self.wandb.model_dump() | wandb),
            vertex=VertexConfig.model_validate(self.vertex.model_dump() | vertex),
            release_dir=self.release_dir or model_dir,
        )
