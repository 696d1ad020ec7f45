"""A configuration and a reporter in, one that tells the configured trackers too out, through to the run's end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from endcap.contracts.configuration import Configuration
from endcap.contracts.errors import EndcapError
from endcap.contracts.reporting import Reporter
from endcap.contracts.trackers import TrackersConfig
from endcap.releases.bundle import Release
from endcap.releases.registry import Registration
from endcap.training.trackers.mlflow import MlflowTracker
from endcap.training.trackers.protocol import TrackedModel, TrackedRun, Tracker
from endcap.training.trackers.telling import Tracked
from endcap.training.trackers.vertex import VertexTracker
from endcap.training.trackers.wandb import WandbTracker
from endcap.workspace.layout import Workspace
from endcap.workspace.manifests import RUN_MANIFEST, Run, git_sha
from endcap.workspace.secrets import resolve


def trackers_of(config: TrackersConfig) -> list[Tracker]:
    """The trackers that are asked for; none of them reaches anything yet."""
    asked: list[Tracker] = []
    if config.mlflow.uri is not None:
        asked.append(MlflowTracker(config.mlflow))
    if config.wandb.enabled and config.wandb.mode != "disabled":
        asked.append(WandbTracker(config.wandb))
    if config.vertex.experiment is not None:
        asked.append(VertexTracker(config.vertex))
    return asked


@contextmanager
def tracked(config: TrackersConfig, report: Reporter) -> Iterator[Tracked]:
    """A reporter that tells trackers of its run, once that is started; the block's end is the run's."""
    for reference in (config.mlflow.password, config.mlflow.token, config.wandb.api_key):
        if reference is not None:
            # Known before any of them speaks, so that none can repeat another's. One that isn't found, its tracker tells.
            with suppress(EndcapError):
                resolve(reference)
    # Of several processes that train together the first alone tells: torchrun's number of this one.
    is_first = int(os.environ.get("RANK") or 0) == 0
    heard = Tracked(trackers_of(config) if is_first else [], report)
    try:
        yield heard
    except Exception:
        heard.finish("failed")
        raise
    except BaseException:  # asked to stop, by a signal or a person
        heard.finish("stopped")
        raise
    heard.finish("finished")


def start(
    heard: Tracked, run: Run, configuration: Configuration, versions: dict[str, int], dataset_version: int
) -> None:
    """Tell of a run and what it is made from."""
    described = configuration.model_dump(mode="json", exclude_none=True)
    heard.start(
        TrackedRun(
            run.run_id, configuration.experiment, run.folder, described, git_sha(), dataset_version, dict(versions)
        )
    )


def tell_of_release(
    heard: Tracked,
    workspace: Workspace,
    run: Run,
    release: Release,
    registration: Registration,
    release_dir: str | None = None,
) -> None:
    """Tell of all that a finished run made: its manifest, its report, its release.

    The release is told to be in `release_dir` under the run's id, where that is given.
    """
    uri = f"{release_dir.rstrip('/')}/{run.run_id}" if release_dir else release.path.absolute().as_uri()
    heard.artifact(run.folder / RUN_MANIFEST, "run")
    heard.artifact(workspace.reports / run.run_id, "report")
    manifest = release.manifest
    heard.model(
        TrackedModel(
            release.path,
            uri,
            manifest.name,
            registration.version,
            release.digest,
            registration.labels,
        )
    )
