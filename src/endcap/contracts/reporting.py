"""How long work speaks to whoever started it: stages report here, the command line renders."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Receives signs of life; an implementation must be cheap and never raise."""

    def event(self, event: str, **fields: object) -> None:
        """Something worth a line happened, such as a stage that ended."""
        ...

    def metric(self, step: int, metric: str, value: float) -> None:
        """A metric was measured; `step` counts epochs from 1, 0 is the whole run."""
        ...

    def progress(self, stage: str, done: float, total: float, note: str = "") -> None:
        """`done` of `total` units of a stage are finished; `done == total` ends it."""
        ...


class Silent:
    """A Reporter that says nothing: for tests and for use as a library."""

    def event(self, event: str, **fields: object) -> None:
        """Ignore it."""

    def metric(self, step: int, metric: str, value: float) -> None:
        """Ignore it."""

    def progress(self, stage: str, done: float, total: float, note: str = "") -> None:
        """Ignore it."""
