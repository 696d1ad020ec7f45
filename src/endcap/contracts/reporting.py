"""How long work speaks to whoever started it: stages report here, the command line renders."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Receives signs of life; an implementation must be cheap and never raise."""

    def event(self, event: str, **fields: object) -> None:
        """Something worth a line happened, such as a stage that ended."""
        ...

    def metric(self, step: int, metric: str, value: float) -> None:
        """A metric was measured; `step` counts epochs from 1, 0 is the whole run.

        Of recommendations a plain name, such as `ndcg@10`, counts all purchases: of the eval period in an epoch, of the test
        period in the whole run. A refit's epochs count anew, under `refit/…`.
        """
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


class Renaming:
    """A Reporter that passes everything on to another, with `prefix` before the names of metrics.

    For epochs that count anew within a run, so that nobody takes them for those before.
    """

    def __init__(self, report: Reporter, prefix: str) -> None:
        self._report, self._prefix = report, prefix

    def event(self, event: str, **fields: object) -> None:
        """Pass it on."""
        self._report.event(event, **fields)

    def metric(self, step: int, metric: str, value: float) -> None:
        """Pass it on under its longer name."""
        self._report.metric(step, f"{self._prefix}{metric}", value)

    def progress(self, stage: str, done: float, total: float, note: str = "") -> None:
        """Pass it on."""
        self._report.progress(stage, done, total, note)
