"""Requests in from the event loop, answers back to it: whatever has queued while the last batch ran is the next batch.

Light batches are computed on the event loop itself: a hand-over to a thread and the waiting for the interpreter's lock
cost more than they do; of full ones the product of the search, which needs no interpreter, is computed beside it. Heavy
ones, which would keep the loop from everything else, go to a worker thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final, NamedTuple

from endcap.serving.errors import RequestError
from endcap.serving.jobs import (
    FULL,
    MAX_BATCH_INSTANCES,
    Job,
    Kind,
    Work,
    full_batch_of,
    place_of,
    refusal_of,
    timed_out,
)
from endcap.serving.metrics import QUEUE, Metrics
from endcap.serving.pace import Lately, Pace, Pressure, batches_that_may_wait
from endcap.serving.pending import Pending
from endcap.serving.requests import PredictRequest
from endcap.serving.turning_away import Refusals

if TYPE_CHECKING:
    from endcap.serving.jobs import Answer

logger = logging.getLogger(__name__)

# What takes longer for as many instances as a full batch has at most, as estimated, is not for the event loop.
MAX_SECONDS_ON_LOOP: Final = 0.02
# Products in a request's answer, over which writing it down alone takes long.
MAX_RESULTS_ON_LOOP: Final = 16_000
# Whoever waits no longer than this need not be refused, whatever is asked altogether: two clients can't overload a server.
_SHORT_WAIT_SECONDS: Final = 0.01
# So few connections, each of which waits for its answer before it asks again, can't overload a server either, whatever a
# batch takes: they ask as fast as they are answered. Refused, they would ask again at once, as in a flood. Of gRPC, where
# a connection has many calls under way at once, these are counted too; a flood over few connections waits up to so many.
FEW_CONNECTIONS: Final = 128
_SWEEP_SECONDS: Final = 0.05
# Of so many requests and more, what can be computed on a thread is: to hand it over costs as much as it saves of fewer.
MIN_REQUESTS_ASIDE: Final = 4


_Took = dict[Kind, tuple[int, float]]  # rows and seconds


class _Begun(NamedTuple):
    """A batch of one kind on the event loop, whose first part is done."""

    jobs: list[Job]
    waited_for: list[Job]
    pending: Pending[Sequence[Answer]]
    seconds: float
    number: int
    """Of all that were begun."""


@dataclass
class Batcher:
    """Greedy batches without a timer: what waits, up to a full one, is computed as soon as the batch before is done.

    One batcher serves all versions of all models: what they wait for is the same processor. The queue is bounded by
    time: a request that would wait longer than `max_wait_seconds`, as estimated from the batches so far, is refused with
    429. So is, while more is asked than can be done, and by many, one that would not be in one of the next batches: a longer
    queue would make all wait and none be answered sooner. Either the event loop or the worker thread computes, never both at once: the
    loop does while nothing is with the worker, which only the loop hands work to and counts back. What needs no interpreter is
    computed beside the loop, which finishes the batch before meanwhile, and reads and writes.
    """

    metrics: Metrics
    max_wait_seconds: float = 1.0
    max_seconds_on_loop: float = MAX_SECONDS_ON_LOOP
    _queue: SimpleQueue[Job | None] = field(default_factory=SimpleQueue)
    _light: deque[Job] = field(default_factory=deque)
    _begun: _Begun | None = None
    _num_begun: int = 0
    # Whether the loop is to go on with light batches.
    _is_due: bool = False
    _num_with_worker: int = 0
    _num_waiting: int = 0
    _rows_waiting: Counter[Kind] = field(default_factory=Counter)
    _paces: dict[Kind, Pace] = field(default_factory=dict)
    _pressure: Pressure = field(default_factory=Pressure)
    _asking: Lately = field(default_factory=Lately)
    _refusals: Refusals = field(default_factory=Refusals)
    # Parts of full batches that were queued, and that were begun: each is written to on one side alone.
    _share_queued: int = 0
    _share_begun: int = 0

    def start(self) -> None:
        """Start the threads and the watch over deadlines; called on the event loop that submits."""
        self._loop = asyncio.get_running_loop()
        self._open: set[Job] = set()
        self._sweep_handle = self._loop.call_later(_SWEEP_SECONDS, self._sweep)
        self._start_threads()

    def _start_threads(self) -> None:
        threading.Thread(target=self._run, name="endcap-batches", daemon=True).start()

    def stop(self) -> None:
        """Refuse what still waits with 503 and end the threads after the batch that runs."""
        self._stop_threads()
        self._sweep_handle.cancel()
        for job in self._open:
            if not job.answer.done():
                job.answer.set_exception(RequestError(503, "The server is shutting down. Send the request again."))

    def _stop_threads(self) -> None:
        self._queue.put(None)

    @property
    def num_waiting(self) -> int:
        """Instances accepted and not yet answered."""
        return self._num_waiting

    def is_idle(self, work: Work) -> bool:
        """Whether no request that `work` is to answer waits or is being computed."""
        return not any(rows for (other, _), rows in self._rows_waiting.items() if other is work)

    def forget(self, work: Work) -> None:
        """Drop what is known of an idle `work`, so that its memory can go."""
        for known in (self._rows_waiting, self._paces):
            for kind in [kind for kind in known if kind[0] is work]:
                del known[kind]

    def submit(
        self, work: Work, request: PredictRequest, timeout_seconds: float, connection: Hashable = None
    ) -> asyncio.Future[Answer]:
        """Queue a request that came on `connection`. Raises RequestError 429 when the wait would be too long.

        The future gives the answer, or raises RequestError: 504 after `timeout_seconds`; 429 where so many are refused that
        not all can be told at once.
        """
        now = time.perf_counter()
        kind = (work, type(request))
        num_rows = request.num_rows
        try:
            self._admit(kind, num_rows, now, connection)
        except RequestError as error:
            if error.status == 429:
                self.metrics.count("endcap_refused_total", (QUEUE,))
            held = self._refusals.hold(error, now, timeout_seconds, self._loop)
            if held is None:
                raise
            return held
        job = Job(request, kind, num_rows, now, now + timeout_seconds, self._loop.create_future())
        self._num_waiting += len(request.queries)
        self._rows_waiting[kind] += job.num_rows
        self._share_queued += job.share
        self._open.add(job)
        self._schedule(job)
        return job.answer

    def _admit(self, kind: Kind, num_rows: int, now: float, connection: Hashable) -> None:
        num_asking = self._asking.add(connection, now)
        pace, full = self._paces.get(kind), full_batch_of(kind)
        # Of an unknown pace nothing is said: a burst that is the first would seem a flood.
        per_batch = pace.seconds(full) if pace is not None and pace.is_known else 0.0
        pressure = self._pressure.add(num_rows / full, per_batch, now)
        # What is only supposed refuses nobody: one small batch that was held up would refuse the burst behind it.
        wait = sum(
            self._paces[other].least_seconds(rows)
            for other, rows in self._rows_waiting.items()
            if rows and other in self._paces
        )
        if wait <= self.max_wait_seconds and (
            wait <= _SHORT_WAIT_SECONDS
            or max(num_asking, len(self._open)) <= FEW_CONNECTIONS
            or self._share_queued - self._share_begun < FULL * batches_that_may_wait(pressure)
        ):
            return
        reason = (
            f"the estimated wait is {wait:.1f} s, the limit {self.max_wait_seconds:.1f} s"
            if wait > self.max_wait_seconds
            else f"{pressure:.1f} times what this server can do is asked of it"
        )
        raise RequestError(
            429,
            f"Too busy: {reason}. Send the request again after the seconds in Retry-After.",
            ((b"retry-after", str(max(1, round(wait))).encode()),),
        )

    def _schedule(self, job: Job) -> None:
        if self._num_with_worker or self._is_heavy(job):
            self._finish_begun()
            self._hand_over([*self._light, job])
            self._light.clear()
        else:
            self._light.append(job)
            # Beside a batch that was begun the next one fills, as it would if the loop were computing.
            if not self._is_due and (self._begun is None or self._is_full):
                self._is_due = True
                self._loop.call_soon(self._run_on_loop)

    def _is_heavy(self, job: Job) -> bool:
        pace, full = self._paces.get(job.kind), full_batch_of(job.kind)
        # What a full batch takes counts once it was seen: what is supposed of it may be twice that.
        rows = full if pace is not None and pace.is_known else job.num_rows
        return (
            job.share > FULL
            or (0.0 if pace is None else pace.seconds(rows))
            >= self.max_seconds_on_loop * min(1.0, full / MAX_BATCH_INSTANCES)
            or job.request.num_results > MAX_RESULTS_ON_LOOP
        )

    def _full_seconds(self, kind: Kind) -> float:
        """How long a full batch takes; nothing while that is only supposed: small ones alone would never tell."""
        pace = self._paces.get(kind)
        return pace.seconds(full_batch_of(kind)) if pace is not None and pace.is_known else 0.0

    def _hand_over(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self._num_with_worker += 1
            self._queue.put(job)

    def _run_on_loop(self) -> None:
        """One batch of light requests, or its beginning; those behind them let the loop's other work go first."""
        self._is_due = False
        jobs = self._take_light()  # none: with the worker, ahead of a heavy request that came in between
        begun = self._begin(jobs) if self._is_worth_a_thread(jobs) else None
        self._finish_begun()
        self._begun = begun
        if jobs and begun is None:
            self._settle(jobs, self._compute(jobs))
        if self._light and (begun is None or self._is_full):
            # Two turns of the loop later: the answers just settled are handed on in the next and written at its end,
            # and what came in meanwhile is read.
            self._is_due = True
            self._loop.call_soon(self._loop.call_soon, self._run_on_loop)
        elif begun is not None:
            self._go_on_when_done(begun)

    @property
    def _is_full(self) -> bool:
        """Whether a full batch waits."""
        return self._share_queued - self._share_begun >= FULL

    def _is_worth_a_thread(self, jobs: Sequence[Job]) -> bool:
        """Whether there is something to do in between: others to finish, or, as after a full batch, to read and to write."""
        if not jobs or any(job.kind != jobs[0].kind for job in jobs):
            return False
        return sum(job.share for job in jobs) >= FULL or (self._begun is not None and len(jobs) >= MIN_REQUESTS_ASIDE)

    def _go_on_when_done(self, begun: _Begun) -> None:
        """The batch is finished once that can be done without waiting, or when a full one is behind it."""
        # By its number: the product keeps what it is to notify, and would keep the batch, which keeps the product.
        number = begun.number

        def go_on() -> None:
            if self._begun is not None and self._begun.number == number and not self._is_due:
                self._run_on_loop()

        def notify(_product: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the server stopped meanwhile
                self._loop.call_soon_threadsafe(go_on)

        if begun.pending.product is None:
            self._loop.call_soon(go_on)
        else:
            begun.pending.product.add_done_callback(notify)

    def _take_light(self) -> list[Job]:
        jobs: list[Job] = []
        share, seconds = 0, 0.0
        while self._light and share < FULL and seconds < self.max_seconds_on_loop:
            job = self._light.popleft()
            share += job.share
            seconds += job.share / FULL * self._full_seconds(job.kind)
            jobs.append(job)
        self._share_begun += share
        return jobs

    def _begin(self, jobs: list[Job]) -> _Begun:
        started = time.perf_counter()
        waited_for = self._waited_for(jobs, started)
        self._num_begun += 1
        pending: Pending[Sequence[Answer]] = Pending(list)
        if waited_for:
            try:
                pending = jobs[0].kind[0].begin([job.request for job in waited_for])
            except Exception as error:
                self._answer_each(waited_for, error)
                waited_for = []
        return _Begun(jobs, waited_for, pending, time.perf_counter() - started, self._num_begun)

    def _finish_begun(self) -> None:
        begun, self._begun = self._begun, None
        if begun is None:
            return
        took: _Took = {}
        if begun.waited_for:
            started = time.perf_counter()
            self._answer(begun.waited_for, begun.pending.finish)
            num_rows = sum(job.num_rows for job in begun.waited_for)
            took[begun.jobs[0].kind] = num_rows, begun.seconds + time.perf_counter() - started
        self._settle(begun.jobs, took)

    def _sweep(self) -> None:
        now = time.perf_counter()
        for job in [job for job in self._open if job.deadline <= now]:
            if not job.answer.done():
                job.answer.set_exception(timed_out(job, now))
        self._sweep_handle = self._loop.call_later(_SWEEP_SECONDS, self._sweep)

    def _deliver(self, jobs: list[Job], took: _Took) -> None:
        """On the event loop: what the worker computed."""
        self._num_with_worker -= len(jobs)
        self._settle(jobs, took)

    def _settle(self, jobs: list[Job], took: _Took) -> None:
        self._open.difference_update(jobs)
        for kind, (num_rows, seconds) in took.items():
            if kind not in self._paces:
                self._paces[kind] = Pace(full_batch_of(kind))
            self._paces[kind].add(num_rows, seconds)
        for job in jobs:
            self._num_waiting -= len(job.request.queries)
            self._rows_waiting[job.kind] -= job.num_rows
            # Done before: past its deadline, or the client went away.
            if job.answer.done():
                continue
            if job.result is None or isinstance(job.result, RequestError):
                job.answer.set_exception(job.result or RequestError(500, "The request got no answer."))
            else:
                job.answer.set_result(job.result)

    def _run(self) -> None:
        while self._run_once():
            pass

    def _run_once(self) -> bool:
        """One batch of the worker's. In a call of its own: a thread that waits holds on to no request, nor to its version."""
        jobs = self._take()
        if jobs:
            self._work_off(jobs)
        return bool(jobs)

    def _work_off(self, jobs: list[Job]) -> None:
        """On a worker thread: compute a batch and hand it to the loop."""
        took = self._compute(jobs)
        # The loop is closed when the server stopped while the batch ran.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._deliver, jobs, took)

    def _compute(self, jobs: list[Job]) -> _Took:
        """Fill in the results of the jobs that are waited for, those of one kind together; rows and seconds of each kind."""
        took: _Took = {}
        started = time.perf_counter()
        waited_for = self._waited_for(jobs, started)
        while waited_for:
            kind = waited_for[0].kind
            alike = [job for job in waited_for if job.kind == kind]
            waited_for = [job for job in waited_for if job.kind != kind]
            started = time.perf_counter()
            self._answer(alike, self._work_of(alike))
            took[kind] = (sum(job.num_rows for job in alike), time.perf_counter() - started)
        return took

    def _waited_for(self, jobs: Sequence[Job], now: float) -> list[Job]:
        for job in jobs:
            self.metrics.queue.observe(now - job.arrived)
        return [job for job in jobs if self._is_waited_for(job, now)]

    def _is_waited_for(self, job: Job, now: float) -> bool:
        if job.answer.done():  # past its deadline, or the client went away
            return False
        if job.deadline <= now:
            job.result = timed_out(job, now)
        return job.deadline > now

    def _take(self) -> list[Job]:
        """Wait for a request, then take what else has queued, oldest first, until the batch is full. Empty: stop."""
        jobs: list[Job] = []
        share = 0
        while share < FULL and (not jobs or self._queue.qsize()):
            job = self._queue.get()
            if job is None:
                return []
            share += job.share
            jobs.append(job)
        self._share_begun += share
        return jobs

    def _work_of(self, jobs: list[Job]) -> Callable[[], Sequence[Answer]]:
        return lambda: jobs[0].kind[0]([job.request for job in jobs])

    def _answer(self, jobs: list[Job], compute: Callable[[], Sequence[Answer]]) -> None:
        """Fill in the results of jobs of one kind."""
        self.metrics.batch_size.observe(sum(len(job.request.queries) for job in jobs))
        try:
            for job, result in zip(jobs, compute(), strict=True):
                job.result = result
        except Exception as error:
            self._answer_each(jobs, error)

    def _answer_each(self, jobs: list[Job], error: Exception) -> None:
        """One request that can't be computed must not fail those that happened to arrive with it."""
        if len(jobs) == 1:
            jobs[0].result = refusal_of(error)
            return
        for job in jobs:
            self._answer([job], self._work_of([job]))
        if not any(isinstance(job.result, RequestError) for job in jobs):  # else that one's error is told
            logger.error(
                "%d requests could only be computed one by one: %s in %s",
                len(jobs), type(error).__name__, place_of(error),
            )  # fmt: skip
