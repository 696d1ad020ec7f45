"""A run in, a run of an MLflow server out: parameters, metrics by epoch, tags, artifacts, the release as a logged model."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from endcap.contracts.errors import InputError
from endcap.contracts.trackers import MlflowConfig
from endcap.training.trackers.protocol import Outcome, TrackedModel, TrackedRun
from endcap.workspace.redaction import redact_values
from endcap.workspace.secrets import resolve

RUN_TAG = "endcap.run_id"
MAX_TEXT = 5_000
_BATCH = 100
_STATUS: dict[Outcome, str] = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
# Its own defaults wait for minutes, write to standard output and tell its makers of each run.
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_T = TypeVar("_T")


class MlflowTracker:
    """MLflow through its client. A run is found again by the tag `endcap.run_id`."""

    name = "MLflow"

    def __init__(self, config: MlflowConfig) -> None:
        """Remember what to reach; nothing is imported or asked yet."""
        self._config = config
        self._client: Any = None
        self._run_id = ""
        self._run: TrackedRun | None = None
        self._environment: dict[str, str | None] = {}

    def start(self, run: TrackedRun) -> None:
        """Make the run, or go on with the one of that id; an experiment that isn't there is made."""
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        self._hand_over_secrets()
        try:
            mlflow = importlib.import_module("mlflow")
        except ImportError as error:
            raise InputError('trackers.mlflow needs MLflow: pip install "endcap[mlflow]"') from error
        self._client, self._run = mlflow.MlflowClient(tracking_uri=self._config.uri), run
        experiment = self._experiment(self._config.experiment or run.experiment)
        found = self._client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{run.run_id}'", max_results=1)
        facts = {f"endcap.{name}": str(value) for name, value in run.facts().items()}
        if found:
            self._run_id = found[0].info.run_id
            self._client.update_run(self._run_id, status="RUNNING")
            return
        tags = {**facts, "mlflow.source.git.commit": run.git_sha}
        self._run_id = self._client.create_run(experiment, run_name=run.run_id, tags=tags).info.run_id
        param = importlib.import_module("mlflow.entities").Param
        parameters = redact_values(run.parameters())
        for part in _parts([param(name, str(value)[:MAX_TEXT]) for name, value in parameters.items()], _BATCH):
            self._client.log_batch(self._run_id, params=part)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """All of a step at once."""
        metric = importlib.import_module("mlflow.entities").Metric
        now_ms = time.time_ns() // 1_000_000
        for part in _parts([metric(name, value, now_ms, step) for name, value in values.items()], _BATCH):
            self._client.log_batch(self._run_id, metrics=part)

    def artifact(self, path: Path, place: str) -> None:
        """Upload a file or a folder."""
        if path.is_dir():
            self._client.log_artifacts(self._run_id, str(path), artifact_path=place)
        else:
            self._client.log_artifact(self._run_id, str(path), artifact_path=place)

    def model(self, model: TrackedModel) -> None:
        """Keep the release's files as a logged model that names its digest, where that is asked for."""
        if not self._config.log_model or self._run is None:
            return
        entities = importlib.import_module("mlflow.entities")
        experiment = self._client.get_run(self._run_id).info.experiment_id
        tags = {**model.labels, "endcap_version": str(model.version), "endcap_digest": model.digest, "uri": model.uri}
        made = self._client.create_logged_model(experiment, name=model.name, source_run_id=self._run_id, tags=tags)
        self._client.log_model_artifacts(made.model_id, str(model.path))
        ready = entities.LoggedModelStatus.READY
        self._client.finalize_logged_model(made.model_id, ready)
        self._client.log_outputs(self._run_id, [entities.LoggedModelOutput(made.model_id, step=0)])

    def finish(self, outcome: Outcome) -> None:
        """Close the run, and take its secrets back from the environment."""
        try:
            if self._client is not None and self._run_id:
                self._client.set_terminated(self._run_id, status=_STATUS[outcome])
        finally:
            for name, before in self._environment.items():
                if before is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = before
            self._environment = {}

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        try:
            return str(self._client.create_experiment(name))
        except Exception:
            found = self._client.get_experiment_by_name(name)  # another run made it between the two calls
            if found is None:
                raise
            return str(found.experiment_id)

    def _hand_over_secrets(self) -> None:
        """MLflow's client reads them from the environment with each request."""
        config = self._config
        given = {
            "MLFLOW_TRACKING_USERNAME": config.username,
            "MLFLOW_TRACKING_PASSWORD": None if config.password is None else resolve(config.password),
            "MLFLOW_TRACKING_TOKEN": None if config.token is None else resolve(config.token),
        }
        for name, value in given.items():
            if value is not None:
                self._environment[name] = os.environ.get(name)
                os.environ[name] = value


def _parts(values: Sequence[_T], size: int) -> Iterator[list[_T]]:
    rest = iter(values)
    while part := list(islice(rest, size)):
        yield part
