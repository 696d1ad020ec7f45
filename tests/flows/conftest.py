"""Signs of life collected, for flows that report."""

from __future__ import annotations

import pytest


class Recorder:
    """A Reporter that remembers."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []
        self.metrics: list[tuple[int, str, float]] = []
        self.ended: list[str] = []

    def event(self, event: str, **fields: object) -> None:
        self.events.append((event, fields))

    def metric(self, step: int, metric: str, value: float) -> None:
        self.metrics.append((step, metric, value))

    def progress(self, stage: str, done: float, total: float, note: str = "") -> None:
        del note
        if done >= total:
            self.ended.append(stage)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()
