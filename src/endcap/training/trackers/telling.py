"""What a run reports in, calls of its trackers out, each in a thread of its own: a slow or broken one holds up nothing."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from endcap.contracts.reporting import Reporter
from endcap.training.trackers.protocol import Outcome, TrackedModel, TrackedRun, Tracker, metric_name
from endcap.workspace.redaction import redact

END_S = 120.0
"""How long the end of a run waits for trackers that still upload."""
STOP_S = 3.0
"""The same when the run was told to stop: who stops it counts to ten."""


@dataclass(frozen=True)
class _Metric:
    step: int
    name: str
    value: float


@dataclass(frozen=True)
class _Told:
    call: Callable[[Tracker], None]


class Teller:
    """Tells one tracker, in order and in the background; after its first failure it is left alone."""

    def __init__(self, tracker: Tracker) -> None:
        self.name = tracker.name
        self.failure: str | None = None
        """What went wrong, redacted; set once."""
        self._tracker = tracker
        self._queue: SimpleQueue[_Metric | _Told | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"tracker-{tracker.name}", daemon=True)
        self._thread.start()

    def tell(self, call: Callable[[Tracker], None]) -> None:
        """Have `call` made after all that was told before."""
        if self.failure is None:
            self._queue.put(_Told(call))

    def metric(self, step: int, name: str, value: float) -> None:
        """Metrics of a step that wait together are told together."""
        if self.failure is None:
            self._queue.put(_Metric(step, name, value))

    def close(self) -> None:
        """Nothing more will be told."""
        self._queue.put(None)

    def wait(self, deadline: float) -> None:
        """Wait until all is told, or until `deadline` of the monotonic clock."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive() and self.failure is None:
            self.failure = "it has not taken all it was told in time"

    def _work(self) -> None:
        try:
            while self._tell_all(self._waiting()):
                pass
        except BaseException as error:  # whatever an outside library raises, the run goes on
            self.failure = redact(f"{type(error).__name__}: {error}")
            with suppress(BaseException):
                self._tracker.finish("failed")  # so that it lets go of what it holds

    def _waiting(self) -> list[_Metric | _Told | None]:
        waiting = [self._queue.get()]
        while not self._queue.empty():
            waiting.append(self._queue.get())
        return waiting

    def _tell_all(self, waiting: Sequence[_Metric | _Told | None]) -> bool:
        """Tell it all; whether there may be more."""
        step, values = 0, dict[str, float]()
        for found in waiting:
            if values and not (isinstance(found, _Metric) and found.step == step and found.name not in values):
                self._tracker.metrics(step, values)
                values = {}
            if found is None:
                return False
            if isinstance(found, _Metric):
                step = found.step
                values[found.name] = found.value
            else:
                found.call(self._tracker)
        if values:
            self._tracker.metrics(step, values)
        return True


class Tracked:
    """A Reporter that passes everything on, and tells the trackers of metrics, files and the model.

    Those of the whole run are told as `test/…`: a name is one series there, in which they would stand among the epochs.
    """

    def __init__(self, trackers: Sequence[Tracker], report: Reporter) -> None:
        self._report = report
        self._tellers = [Teller(tracker) for tracker in trackers]
        self._warned: set[str] = set()
        self._is_started = False

    def event(self, event: str, **fields: object) -> None:
        """Pass it on; trackers don't hear it."""
        self._report.event(event, **fields)
        self._warn()

    def metric(self, step: int, metric: str, value: float) -> None:
        """Pass it on, and tell it to all; one that is no number is kept from them."""
        self._report.metric(step, metric, value)
        if self._is_started and math.isfinite(value):
            name = metric_name(metric if step else f"test/{metric}")
            for teller in self._tellers:
                teller.metric(step, name, float(value))
        self._warn()

    def progress(self, stage: str, done: float, total: float, note: str = "") -> None:
        """Pass it on; trackers don't hear it."""
        self._report.progress(stage, done, total, note)

    def start(self, run: TrackedRun) -> None:
        """Tell all of the run, before anything else; a run that isn't told of is none to them."""
        self._is_started = True
        self._tell(lambda tracker: tracker.start(run))

    def artifact(self, path: Path, place: str) -> None:
        """Tell all of a file or folder that will stay where it is until the end."""
        self._tell(lambda tracker: tracker.artifact(path, place))

    def model(self, model: TrackedModel) -> None:
        """Tell all of the release."""
        self._tell(lambda tracker: tracker.model(model))

    def finish(self, outcome: Outcome, timeout_s: float | None = None) -> None:
        """Tell all of the end and wait, at most so long for all of them together."""
        if self._is_started:
            self._tell(lambda tracker: tracker.finish(outcome))
        seconds = timeout_s if timeout_s is not None else STOP_S if outcome == "stopped" else END_S
        deadline = time.monotonic() + seconds
        for teller in self._tellers:
            teller.close()
        for teller in self._tellers:
            teller.wait(deadline)
        self._warn()

    def _tell(self, call: Callable[[Tracker], None]) -> None:
        for teller in self._tellers:
            teller.tell(call)
        self._warn()

    def _warn(self) -> None:
        for teller in self._tellers:
            if teller.failure is not None and teller.name not in self._warned:
                self._warned.add(teller.name)
                self._report.event(
                    "a tracker failed; the run goes on without it", tracker=teller.name, error=teller.failure
                )
