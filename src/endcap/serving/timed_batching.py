"""Requests in, answers out by TensorFlow Serving's rules: a batch is computed when it is full, or has waited long enough."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Hashable
from dataclasses import dataclass, field
from queue import SimpleQueue

from endcap.serving.batching import Batcher
from endcap.serving.errors import RequestError
from endcap.serving.jobs import Job, Kind
from endcap.serving.settings import BatchingSettings


@dataclass
class _Batch:
    """Requests of one kind that wait for others."""

    jobs: list[Job]
    timer: asyncio.TimerHandle
    num_rows: int = 0


@dataclass
class TimedBatcher(Batcher):
    """Batches as a batching file asks for them; each is computed by one of several threads.

    For entry scripts that set these parameters. Greedy batches answer sooner at every load that was measured.
    """

    settings: BatchingSettings = field(default_factory=BatchingSettings)
    _filling: dict[Kind, _Batch] = field(default_factory=dict)
    _full: SimpleQueue[list[Job] | None] = field(default_factory=SimpleQueue)

    def _start_threads(self) -> None:
        for number in range(self.settings.num_batch_threads):
            threading.Thread(target=self._run_timed, name=f"endcap-batches-{number}", daemon=True).start()

    def _stop_threads(self) -> None:
        for batch in self._filling.values():
            batch.timer.cancel()
        self._filling.clear()
        for _ in range(self.settings.num_batch_threads):
            self._full.put(None)

    def _admit(self, _kind: Kind, num_rows: int, _now: float, _connection: Hashable) -> None:
        most = self.settings.max_enqueued_batches * self.settings.max_batch_size
        if self._rows_waiting.total() + num_rows > most and self._rows_waiting.total():
            raise RequestError(
                503,
                f"Too busy: {self.settings.max_enqueued_batches:,} batches of {self.settings.max_batch_size:,} wait already. "
                "Send the request again after the seconds in Retry-After.",
                ((b"retry-after", b"1"),),
            )

    def _schedule(self, job: Job) -> None:
        batch = self._filling.get(job.kind)
        if batch is not None and batch.num_rows + job.num_rows > self.settings.max_batch_size:
            self._close(job.kind)
            batch = None
        if batch is None:
            seconds = self.settings.batch_timeout_micros / 1e6
            batch = self._filling[job.kind] = _Batch([], self._loop.call_later(seconds, self._close, job.kind))
        batch.jobs.append(job)
        batch.num_rows += job.num_rows
        if batch.num_rows >= self.settings.max_batch_size:
            self._close(job.kind)

    def _close(self, kind: Kind) -> None:
        """Nothing more joins the batch: to the threads with it."""
        batch = self._filling.pop(kind)
        batch.timer.cancel()
        self._num_with_worker += len(batch.jobs)
        self._full.put(batch.jobs)

    def _run_timed(self) -> None:
        while self._run_timed_once():
            pass

    def _run_timed_once(self) -> bool:
        jobs = self._full.get()
        if jobs is not None:
            self._work_off(jobs)
        return jobs is not None
