"""Runs, models and reporters that the trackers' tests share."""

from __future__ import annotations

from pathlib import Path

from endcap.contracts.reporting import Silent
from endcap.training.trackers.protocol import TrackedModel, TrackedRun

RUN_ID = "train-20261121T001640Z-5c9206"


class Told(Silent):
    """Keeps what a reporter hears."""

    def __init__(self):
        self.events, self.metrics = [], []

    def event(self, event, **fields):
        self.events.append((event, fields))

    def metric(self, step, metric, value):
        self.metrics.append((step, metric, value))


def a_run(folder: Path, run_id: str = RUN_ID) -> TrackedRun:
    return TrackedRun(
        run_id=run_id,
        experiment="baseline",
        folder=folder,
        configuration={
            "training": {"learning_rate": 0.003, "refit": True},
            "model": {"buyer_tower": [{"units": 64}], "top_k": 100},
            "seed": 7,
        },
        git_sha="494089d0000000000000000000000000000000ab",
        dataset_version=3,
        data_versions={"events": 5, "items": 2},
    )


def a_model(folder: Path) -> TrackedModel:
    """A release of two files."""
    path = folder / "release"
    (path / "candidates").mkdir(parents=True)
    (path / "manifest.json").write_text('{"name": "recommender"}')
    (path / "candidates" / "vectors.npy").write_bytes(b"\x93NUMPY")
    return TrackedModel(
        path, "gs://acme/models/run", "recommender", 4, "ab" * 32, {"is_blessed": "true", "model_type": "retrieval"}
    )
