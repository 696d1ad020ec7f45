"""A run in, a run of a Vertex AI experiment out: parameters, metrics, the release as an artifact; files stay where they are."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from endcap.contracts.errors import InputError
from endcap.contracts.trackers import VertexConfig
from endcap.training.trackers.protocol import Outcome, TrackedModel, TrackedRun
from endcap.workspace.redaction import redact_values

MODEL_SCHEMA = "system.Model"
_EXECUTION_SCHEMA = "system.ContainerExecution"
_MAX_NAME = 128
_STATE: dict[Outcome, str] = {"finished": "COMPLETE", "failed": "FAILED", "stopped": "CANCELLED"}


class VertexTracker:
    """Vertex AI Experiments through Google's client. A run's name is its id, as that service writes ids."""

    name = "Vertex AI Experiments"

    def __init__(self, config: VertexConfig) -> None:
        """Remember where; nothing is imported or asked yet."""
        self._config = config
        self._sdk: Any = None
        self._run: Any = None

    def start(self, run: TrackedRun) -> None:
        """Make the run, or go on with the one of that id; an experiment that isn't there is made."""
        config = self._config
        if config.project is None or config.region is None:
            raise InputError(
                "trackers.vertex.experiment needs trackers.vertex.project and trackers.vertex.region, or PROJECT_ID and "
                "REGION of a job"
            )
        try:
            self._sdk = importlib.import_module("google.cloud.aiplatform")
        except ImportError as error:
            raise InputError('trackers.vertex needs Google\'s client: pip install "endcap[gcp]"') from error
        self._sdk.init(project=config.project, location=config.region)
        experiment = self._sdk.Experiment.get_or_create(config.experiment)
        name = run_name(run.run_id, str(config.experiment))
        found = self._sdk.ExperimentRun.get(name, experiment=experiment)
        if found is None:
            self._run = self._sdk.ExperimentRun.create(name, experiment=experiment, tensorboard=config.tensorboard)
            self._run.log_params(redact_values(run.parameters() | run.facts()))
            return
        self._run = found
        self._run.update_state(self._state("RUNNING"))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """The newest values stand in the run; with a TensorBoard, those of each epoch in it."""
        self._run.log_metrics(dict(values))
        if step > 0 and self._config.tensorboard is not None:
            self._run.log_time_series_metrics(dict(values), step=step)

    def artifact(self, path: Path, place: str) -> None:
        """Nothing: that service keeps no files."""

    def model(self, model: TrackedModel) -> None:
        """Note where the release is, and its digest, where that is asked for."""
        if not self._config.log_model:
            return
        told = redact_values({**model.labels, "version": str(model.version), "digest": model.digest})
        artifact = self._sdk.Artifact.create(MODEL_SCHEMA, uri=model.uri, display_name=model.name, metadata=told)
        # A default of that client's for credentials is a type, not None.
        with self._sdk.Execution.create(_EXECUTION_SCHEMA, display_name=self._run.name, credentials=None) as execution:
            execution.assign_output_artifacts([artifact])
        self._run.associate_execution(execution)

    def finish(self, outcome: Outcome) -> None:
        """Close the run."""
        if self._run is not None:
            self._run.update_state(self._state(_STATE[outcome]))

    def _state(self, name: str) -> Any:
        return getattr(self._sdk.gapic.Execution.State, name)


def run_name(run_id: str, experiment: str) -> str:
    """A run's id in lower-case letters, digits and -, short enough to stand behind the experiment's name."""
    name = re.sub(r"[^a-z0-9-]+", "-", run_id.lower()).strip("-")
    return name[-max(1, _MAX_NAME - len(experiment) - 1) :].lstrip("-")  # the end tells runs apart
