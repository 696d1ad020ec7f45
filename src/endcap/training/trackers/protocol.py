"""What an outside system hears of a run: parameters, metrics, files, the model, the end."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

Outcome = Literal["finished", "failed", "stopped"]
"""How a run ended; a `stopped` one goes on when it is started again."""


@dataclass(frozen=True)
class TrackedRun:
    """A run as outside systems know it. The same `run_id` again is the same run there, gone on with."""

    run_id: str
    experiment: str
    folder: Path
    """Where a system may keep files of its own."""
    configuration: Mapping[str, Any]
    git_sha: str = "unknown"
    dataset_version: int = 0
    data_versions: Mapping[str, int] = field(default_factory=dict)

    def parameters(self) -> dict[str, str | int | float | bool]:
        """The configuration, a name a value, such as `training.learning_rate`; lists as JSON."""
        return dict(_flat(self.configuration, ""))

    def facts(self) -> dict[str, str | int]:
        """What the run was made from."""
        versions = {f"data_version.{name}": number for name, number in sorted(self.data_versions.items())}
        return {"run_id": self.run_id, "git_sha": self.git_sha, "dataset_version": self.dataset_version, **versions}


@dataclass(frozen=True)
class TrackedModel:
    """A sealed release: its folder here, where it can be found by others, and what tells it from all others."""

    path: Path
    uri: str
    name: str
    version: int
    digest: str
    labels: Mapping[str, str] = field(default_factory=dict)


class Tracker(Protocol):
    """One outside system. Whatever it raises is told once, and it hears no more of that run."""

    name: str
    """For people."""

    def start(self, run: TrackedRun) -> None:
        """Make the run there, or go on with it; its parameters and facts."""
        ...

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Metrics of an epoch, counted from 1, or of the whole run, which is 0."""
        ...

    def artifact(self, path: Path, place: str) -> None:
        """A file, or a folder with all in it, to be kept under `place`."""
        ...

    def model(self, model: TrackedModel) -> None:
        """The release that the run made; systems that weren't asked to keep models do nothing."""
        ...

    def finish(self, outcome: Outcome) -> None:
        """The last call of all."""
        ...


def metric_name(name: str) -> str:
    """A metric's name as all systems take it: `recall@10` is `recall_at_10`."""
    return re.sub(r"[^A-Za-z0-9_./-]", "_", name.replace("@", "_at_"))


def _flat(value: Any, name: str) -> Iterator[tuple[str, str | int | float | bool]]:
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from _flat(one, f"{name}.{key}" if name else str(key))
    elif isinstance(value, str | int | float | bool):
        yield name, value
    elif value is not None:
        yield name, json.dumps(value)
