"""A plan of partitions in, an outcome for each out: side by side as far as one needs no other, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace

from endcap.contracts.reporting import Reporter
from endcap.flows.partitions import Node, Outcome

_MAX_DEATHS = 3
_REPORT_EVERY_S = 30.0


@dataclass(frozen=True)
class Plan:
    """Each partition with what would become of it (`done`, `run` or `maybe`) and why, in the order of running.

    `maybe`: done as things stand, but something that it is made from runs first and may come out different.
    """

    partitions: tuple[Outcome, ...]
    needs: dict[Node, tuple[Node, ...]]

    @property
    def open(self) -> list[Outcome]:
        """What is not known to be done."""
        return [planned for planned in self.partitions if planned.state != "done"]


Work = Callable[[Node], Outcome]
"""Runs one partition; worker processes get a copy."""

_Submit = Callable[[Node], "Future[Outcome]"]


class Schedule:
    """Who may run when: a partition is ready once everything that it is made from is settled."""

    def __init__(self, planned: Plan, jobs: int, report: Reporter, stage: str) -> None:
        """`stage` is the name under which progress is told."""
        self._jobs = jobs
        self._report = report
        self._needs = planned.needs
        self._outcomes = {outcome.node: outcome for outcome in planned.partitions}
        self._waiting = [outcome.node for outcome in planned.open]
        self._settled = set(self._outcomes) - set(self._waiting)
        self._suspects: list[Node] = []
        self._deaths: Counter[Node] = Counter()
        self._progress = _Progress(planned, jobs, report, stage)

    def run(self, work: Work) -> tuple[Outcome, ...]:
        """Run until every partition has an outcome; they come in the order of the plan."""
        while self._waiting or self._suspects:
            with _workers(self._jobs, work) as submit:
                self._run_on(submit)
        return tuple(self._outcomes.values())

    def _run_on(self, submit: _Submit) -> None:
        """Run until all is settled, or until a worker process dies."""
        running: dict[Future[Outcome], Node] = {}
        broken = False
        while True:
            # Among those that ran when a worker died, only running one at a time tells which of them is to blame.
            room = 0 if broken else (1 if self._suspects else self._jobs) - len(running)
            for node in self._take(max(room, 0)):
                try:
                    running[submit(node)] = node
                except BrokenProcessPool:
                    broken = True
                    self._bury(node)
            if not running:
                return
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                node = running.pop(future)
                try:
                    self._settle(future.result())
                except BrokenProcessPool:
                    broken = True
                    self._bury(node)

    def _take(self, room: int) -> list[Node]:
        source = self._suspects or [node for node in self._waiting if self._settled.issuperset(self._needs[node])]
        taken = source[:room]
        self._suspects = [node for node in self._suspects if node not in taken]
        self._waiting = [node for node in self._waiting if node not in taken]
        return taken

    def _settle(self, outcome: Outcome) -> None:
        outcome = replace(outcome, why=outcome.why or self._outcomes[outcome.node].why)
        if outcome.state == "failed":
            self._report.event("partition failed", step=outcome.node.step, partition=outcome.node.partition,
                               tries=outcome.num_tries, error=outcome.error)  # fmt: skip
        self._outcomes[outcome.node] = outcome
        self._settled.add(outcome.node)
        if outcome.is_disk_full:
            self._skip_all()
        elif outcome.state == "failed":
            self._skip_dependents(outcome.node)
        left = [node for node in self._outcomes if node not in self._settled]
        self._progress.moved(outcome, left)

    def _skip_dependents(self, failed: Node) -> None:
        lost = {failed}
        for node in list(self._waiting):  # in the order of the plan: what is needed stands before what needs it
            if lost.intersection(self._needs[node]):
                lost.add(node)
                self._waiting.remove(node)
                self._skip(node, f"{failed} failed")

    def _skip_all(self) -> None:
        for node in (*self._waiting, *self._suspects):
            self._skip(node, "not begun: the disk is full")
        self._waiting, self._suspects = [], []

    def _skip(self, node: Node, error: str) -> None:
        self._outcomes[node] = replace(self._outcomes[node], state="skipped", error=error)
        self._settled.add(node)

    def _bury(self, node: Node) -> None:
        """Note that a worker process died while it ran the partition, or beside it."""
        self._deaths[node] += 1
        if self._deaths[node] < _MAX_DEATHS:
            self._suspects.append(node)
            return
        error = (
            f"The worker process died {_MAX_DEATHS} times over it, most likely killed for want of memory. "
            "Give fewer --jobs, or more memory."
        )
        self._settle(Outcome(node, "failed", "", num_tries=_MAX_DEATHS, error=error))


class _Progress:
    """Signs of life with an estimate of what is left, from how long partitions of each step took so far."""

    def __init__(self, planned: Plan, jobs: int, report: Reporter, stage: str) -> None:
        self._jobs, self._report, self._stage = jobs, report, stage
        self._total = len(planned.open)
        self._seconds: dict[str, list[float]] = {}
        self._chained = {node.step for node, needs in planned.needs.items() if node.step in {n.step for n in needs}}
        self._said_at = time.monotonic()
        if self._total:
            report.progress(stage, 0, self._total)

    def moved(self, outcome: Outcome, left: Sequence[Node]) -> None:
        """A partition was settled, and these are not yet."""
        self._seconds.setdefault(outcome.node.step, []).append(outcome.seconds)
        left_s = estimate_left_s(self._seconds, Counter(node.step for node in left), self._chained, self._jobs)
        done = self._total - len(left)
        note = f"about {duration(left_s)} left" if left else ""
        self._report.progress(self._stage, done, self._total, note)
        if time.monotonic() - self._said_at >= _REPORT_EVERY_S:
            self._said_at = time.monotonic()
            self._report.event(f"{self._stage} goes on", done=done, total=self._total, left_s=round(left_s))


def estimate_left_s(seconds: dict[str, list[float]], left: Counter[str], chained: set[str], num_workers: int) -> float:
    """Seconds until the partitions in `left` (how many of each step) are done.

    A step of which none has run yet counts as the mean of those that have. Partitions of the steps in `chained` run
    one after the other, however many workers there are.
    """
    measured = [value for values in seconds.values() for value in values]
    overall = sum(measured) / len(measured)
    means = {step: sum(seconds[step]) / len(seconds[step]) if step in seconds else overall for step in left}
    one_after_the_other = [means[step] * num for step, num in left.items() if step in chained]
    return max(sum(means[step] * num for step, num in left.items()) / num_workers, *one_after_the_other, 0.0)


def duration(seconds: float) -> str:
    """Seconds for people: `40 s`, `3 min`, `2 h 5 min`."""
    if seconds < 99:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 99 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def _workers(jobs: int, work: Work) -> Iterator[_Submit]:
    """Where partitions run: in this process when there is one job, else in processes that end with the block."""
    if jobs == 1:
        yield lambda node: _finished(work(node))
        return
    # Forking a process in which an engine's threads run can deadlock the child.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker)
    try:
        yield lambda node: executor.submit(work, node)
    finally:
        executor.shutdown(cancel_futures=True)


def _finished(outcome: Outcome) -> Future[Outcome]:
    future: Future[Outcome] = Future()
    future.set_result(outcome)
    return future


def _start_worker() -> None:
    """Bind the worker to its parent: it dies with it, and an interrupt at the terminal ends it without a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101 - this runs in a worker alone

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
