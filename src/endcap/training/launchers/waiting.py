"""A job and a place to run it in, its end out: polled, its log told, started again when its machine was taken away."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from endcap.contracts.errors import EndcapError, InputError, TransientError
from endcap.contracts.reporting import Reporter
from endcap.training.launchers.protocol import Job, Launcher, Phase, Status

MAX_SILENT_POLLS: Final = 20
"""How often in a row the place may not answer before waiting ends. The job itself goes on."""

_FEWEST_SECONDS: Final = 60.0  # that a job is started again for
_EVENT = ("event", "message")
_TOLD_OTHERWISE = frozenset(
    {*_EVENT, "self", "step", "metric", "value", "ts", "level", "run_id", "request_id", "experiment"}
)


class JobFailedError(InputError):
    """A job ended, and not well."""


@dataclass(frozen=True)
class Ended:
    """A job that succeeded."""

    handle: str
    num_attempts: int
    seconds: float
    run_id: str
    """As the job itself named its run."""
    metrics: Mapping[str, float]
    """The last value of each metric that the job told of the whole run."""


class Waiting:
    """Waits for one job, through as many starts as it takes."""

    def __init__(
        self,
        launcher: Launcher,
        job: Job,
        report: Reporter,
        *,
        timeout_s: float | None = None,
        max_resubmissions: int = 0,
        poll_s: float = 15.0,
        on_start: Callable[[str, int], None] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`on_start` hears of the handle of each start and its number."""
        self._launcher, self._job, self._report = launcher, job, report
        self._max_resubmissions, self._poll_s, self._sleep = max_resubmissions, poll_s, sleep
        self._on_start = on_start
        self._started = time.monotonic()
        self._deadline = None if timeout_s is None else self._started + timeout_s
        self._timeout_s = timeout_s
        self._run_id, self._metrics = job.run_id, dict[str, float]()
        self._is_log_readable = True

    def run(self, handle: str | None = None, attempt: int = 1) -> Ended:
        """Start the job, or take one that was started by its handle, and stay until it ends.

        Ctrl-C and the time being over cancel it.

        Raises JobFailedError when it failed or was cancelled, InputError when it is refused.
        """
        while True:
            handle = handle or self._start(attempt)
            status = self._until_over(handle)
            if status.phase is Phase.SUCCEEDED:
                seconds = time.monotonic() - self._started
                return Ended(handle, attempt, seconds, self._run_id, dict(self._metrics))
            if status.phase is not Phase.PREEMPTED:
                raise JobFailedError(f"The job {handle} {status.phase.value}: {status.detail or 'no reason was given'}")
            self._refuse_another(handle, attempt, status)
            attempt += 1
            self._report.event("submitting again", job=handle, reason=status.detail, attempt=attempt)
            handle = None

    def _start(self, attempt: int) -> str:
        job = self._job
        if (left := self._left_s()) is not None:
            job = replace(job, timeout_s=left if job.timeout_s is None else min(left, job.timeout_s))
        handle = self._launcher.start(job, attempt)
        if self._on_start is not None:
            self._on_start(handle, attempt)
        self._report.event("job submitted", job=handle, attempt=attempt, run_id=job.run_id)
        return handle

    def _refuse_another(self, handle: str, attempt: int, status: Status) -> None:
        left = self._left_s()
        if attempt > self._max_resubmissions:
            raise JobFailedError(
                f"The machine of {handle} was taken away ({status.detail}), as in all {attempt} attempts. Its checkpoint is "
                "kept: submit again with the same --run-id to go on, or take machines that stay, strategy STANDARD."
            )
        if left is not None and left < _FEWEST_SECONDS:
            raise JobFailedError(
                f"The machine of {handle} was taken away ({status.detail}), and the time given is over. Its checkpoint is "
                "kept: submit again with the same --run-id to go on."
            )

    def _until_over(self, handle: str) -> Status:
        phase, num_silent = None, 0
        try:
            while True:
                try:
                    status = self._launcher.status(handle)
                except TransientError as error:
                    status, num_silent = None, num_silent + 1
                    self._told_silent(handle, num_silent, error)
                if status is not None:
                    num_silent = 0
                    if status.phase is not phase:
                        phase = status.phase
                        self._report.event("job " + phase.value, job=handle)
                    self._tell_lines(handle)
                    if status.phase.is_over:
                        return status
                left = self._left_s()
                if left is not None and left <= 0:
                    raise JobFailedError(self._timed_out(handle))
                self._sleep(self._poll_s if left is None else min(self._poll_s, max(left, 0.01)))
        except KeyboardInterrupt:
            self._cancel(handle)
            raise

    def _told_silent(self, handle: str, num_silent: int, error: TransientError) -> None:
        if num_silent == 1:
            self._report.event("the place doesn't answer; asking again", error=str(error))
        if num_silent >= MAX_SILENT_POLLS:
            raise TransientError(
                f"Nothing was heard of {handle} {num_silent} times in a row: {error}. The job may well go on; look with "
                "--attach once the network is back."
            ) from error

    def _timed_out(self, handle: str) -> str:
        self._cancel(handle)
        given = self._timeout_s or 0.0
        return (
            f"The job {handle} wasn't done after {given / 60:g} minutes and was cancelled. Its checkpoint is kept: submit "
            "again with the same --run-id and a longer --timeout to go on."
        )

    def _cancel(self, handle: str) -> None:
        try:
            self._launcher.cancel(handle)
        except EndcapError as error:
            self._report.event("the job could not be cancelled: do it by hand", job=handle, error=str(error))
        else:
            self._report.event("job cancelled", job=handle)

    def _tell_lines(self, handle: str) -> None:
        if not self._is_log_readable:
            return
        try:
            for line in self._launcher.lines(handle):
                self._tell(line)
        except TransientError:  # what is missed is told at the next look
            return
        except EndcapError as error:  # the log is company; the job's state is what counts
            self._is_log_readable = False
            self._report.event("the job's log can't be read; going on without", error=str(error))

    def _tell(self, line: Mapping[str, Any]) -> None:
        self._run_id = str(line.get("run_id") or self._run_id)
        metric, value, step = line.get("metric"), line.get("value"), line.get("step")
        if isinstance(metric, str) and isinstance(value, int | float) and isinstance(step, int | float):
            if step == 0:
                self._metrics[metric] = float(value)
            self._report.metric(int(step), metric, float(value))
            return
        said = next((str(line[name]) for name in _EVENT if line.get(name)), "")
        rest = {name: each for name, each in line.items() if name not in _TOLD_OTHERWISE and each is not None}
        if said or rest:
            self._report.event(said or "job said", **rest)

    def _left_s(self) -> float | None:
        return None if self._deadline is None else self._deadline - time.monotonic()
