"""A run in, a run of Weights & Biases out: sent as it happens, or written to files that `wandb sync` sends later."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from endcap.contracts.errors import InputError
from endcap.contracts.trackers import WandbConfig
from endcap.training.trackers.protocol import Outcome, TrackedModel, TrackedRun
from endcap.workspace.redaction import redact_values, remember
from endcap.workspace.secrets import resolve

EPOCH = "epoch"
_INIT_TIMEOUT_S = 30.0
_KEY_VARIABLE = "WANDB_API_KEY"
# What its client would gather by itself: output, code, hardware, user, command line. A run tells its own facts.
_GATHERS_NOTHING = {
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "disable_job_creation": True,
    "save_code": False,
    "silent": True,
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}


class WandbTracker:
    """Weights & Biases through its client. The run's id is ours, so that a run gone on with is one run there."""

    name = "Weights & Biases"

    def __init__(self, config: WandbConfig) -> None:
        """Remember how to reach it; nothing is imported or asked yet."""
        self._config = config
        self._run: Any = None

    def start(self, run: TrackedRun) -> None:
        """Make the run, or go on with the one of that id."""
        try:
            wandb = importlib.import_module("wandb")
        except ImportError as error:
            raise InputError('trackers.wandb needs its client: pip install "endcap[wandb]"') from error
        folder = run.folder / "trackers"
        folder.mkdir(parents=True, exist_ok=True)
        # The key goes in by a setting: logging in would write it to the user's .netrc.
        settings = wandb.Settings(api_key=self._key(), init_timeout=_INIT_TIMEOUT_S, **_GATHERS_NOTHING)
        self._run = wandb.init(
            entity=self._config.entity,
            project=self._config.project,
            id=run.run_id,
            name=run.run_id,
            group=run.experiment,
            resume="allow",
            mode=self._config.mode,
            dir=str(folder),
            config=redact_values({**run.configuration, "endcap": run.facts()}),
            settings=settings,
        )
        # Metrics are drawn over epochs; a resumed run tells of some again, which a counter of calls would refuse.
        self._run.define_metric(EPOCH, hidden=True)
        self._run.define_metric("*", step_metric=EPOCH)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """A row an epoch; those of the whole run go to its summary."""
        if step == 0:
            self._run.summary.update(dict(values))
        else:
            self._run.log({EPOCH: step, **values})

    def artifact(self, path: Path, place: str) -> None:
        """Keep a file or a folder as an artifact of the run."""
        self._keep(path, f"{self._run.id}-{place}", place, {})

    def model(self, model: TrackedModel) -> None:
        """Keep the release's files as an artifact of type model, where that is asked for."""
        if self._config.log_model:
            told = {**model.labels, "version": model.version, "digest": model.digest, "uri": model.uri}
            self._keep(model.path, model.name, "model", told)

    def finish(self, outcome: Outcome) -> None:
        """Close the run, and wait until its files are written or sent."""
        if self._run is not None:
            self._run.finish(exit_code=0 if outcome == "finished" else 1)

    def _keep(self, path: Path, name: str, kind: str, told: Mapping[str, Any]) -> None:
        artifact = importlib.import_module("wandb").Artifact(name, type=kind, metadata=dict(told))
        files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
        for file in files:
            name = file.relative_to(path).as_posix() if path.is_dir() else file.name
            # Its client would first copy files that might change to the user's home; these don't.
            artifact.add_file(str(file), name=name, policy="immutable", skip_cache=True)
        self._run.log_artifact(artifact)

    def _key(self) -> str | None:
        if self._config.api_key is not None:
            return resolve(self._config.api_key)
        key = os.environ.get(_KEY_VARIABLE)
        if key is not None:
            remember(key, _KEY_VARIABLE)
        return key
