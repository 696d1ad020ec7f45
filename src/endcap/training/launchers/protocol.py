"""What a job is and what a place that runs jobs can do with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol


class Phase(Enum):
    """Where a job stands."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    PREEMPTED = "preempted"
    """Ended because its machine was taken away: the same job may be started again."""
    CANCELLED = "cancelled"

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen."""
        return self not in (Phase.PENDING, Phase.RUNNING)


@dataclass(frozen=True)
class Job:
    """A training to run. Started again under the same `run_id`, it goes on from its last checkpoint."""

    run_id: str
    arguments: tuple[str, ...]
    """Of the image's entry, or of `command` where that is given."""
    command: tuple[str, ...] = ()
    """Program instead of the image's own entry."""
    environment: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float | None = None
    """After how long the place itself stops it."""


@dataclass(frozen=True)
class Status:
    """Where a job stands, and why."""

    phase: Phase
    detail: str = ""


class Launcher(Protocol):
    """A place that runs jobs. A handle names one start of a job there.

    Each method raises TransientError when the place can't be reached, InputError when it refuses.
    """

    def start(self, job: Job, attempt: int) -> str:
        """Start a job; `attempt` counts from 1. The same attempt is never started twice."""
        ...

    def status(self, handle: str) -> Status:
        """Where it stands."""
        ...

    def lines(self, handle: str) -> Iterator[Mapping[str, Any]]:
        """What it said since the last call, one mapping a line, with `event` or `message`."""
        ...

    def cancel(self, handle: str) -> None:
        """Ask it to end: it writes a checkpoint first."""
        ...
