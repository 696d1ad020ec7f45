"""A registration in, where its release comes from out: data, features, run, release."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from endcap.contracts.errors import ArtifactError, InputError
from endcap.releases.registry import Registration, Registry
from endcap.workspace.datasets import publication
from endcap.workspace.layout import Workspace
from endcap.workspace.manifests import read_manifest


def describe(workspace: Workspace, registry: Registry, registration: Registration) -> dict[str, Any]:
    """All that is known of a release, from its data onwards, as plain values.

    What the run's folder said is None where the folder is gone.
    """
    lineage = registration.lineage
    try:
        run = read_manifest(workspace, lineage.run_id)
    except (InputError, ArtifactError):
        run = None
    path = release_path(workspace, registration.name, registration.version)
    stands = [
        alias for alias, move in registry.aliases(registration.name).items() if move.version == registration.version
    ]
    features = None
    if run is not None:
        features = [
            {"file": Path(file.path).name, "folder": Path(file.path).parent.name, "sha256": file.sha256}
            for file in run.inputs
        ]
    return {
        "release": f"{registration.name}/{registration.version}",
        "status": registration.status,
        "aliases": stands,
        "digest": registration.digest,
        "registered_at": registration.registered_at,
        "is_here": path.is_dir(),
        "labels": registration.labels,
        "run": {
            "run_id": lineage.run_id,
            "git_sha": lineage.git_sha,
            "seed": lineage.seed,
            "started_at": run.started_at if run else None,
            "ended_at": run.ended_at if run else None,
        },
        "features": features,
        "data_versions": lineage.data_versions,
        "dataset_version": lineage.dataset_version or None,
        "sources": _sources(workspace, lineage.dataset_version),
        "library_versions": lineage.library_versions,
    }


def _sources(workspace: Workspace, dataset_version: int) -> list[dict[str, Any]] | None:
    """The files that the ingest of a dataset version read, with the version of data kept elsewhere where one is known.

    None where that isn't known any more.
    """
    if not dataset_version:
        return None
    try:
        ingested = read_manifest(workspace, publication(workspace, dataset_version).run_id)
    except (InputError, ArtifactError):
        return None
    return [
        {"file": Path(file.path).name, "sha256": file.sha256, "data_version": file.data_version or None}
        for file in ingested.inputs
    ]


def release_path(workspace: Workspace, name: str, version: int) -> Path:
    """Where a version's folder lies, whether it is there or not."""
    return workspace.releases / name / str(version)


def resolve(workspace: Workspace, said: str, name: str = "recommender") -> Path:
    """The release folder that a person means: `NAME@ALIAS`, `@ALIAS`, `NAME/VERSION`, or a path.

    Raises InputError when the alias stands nowhere.
    """
    if "@" in said and not Path(said).exists():
        given, _, alias = said.rpartition("@")
        name = given or name
        move = Registry.of(workspace).alias(name, alias)
        if move is None or move.version is None:
            raise InputError(
                f"{alias} of {name} names no release. Set it: endcap releases alias {name}/VERSION {alias} "
                f"--workspace {workspace.path}"
            )
        return release_path(workspace, name, move.version)
    below = workspace.releases / said
    return below if below.is_dir() and not Path(said).exists() else Path(said)
