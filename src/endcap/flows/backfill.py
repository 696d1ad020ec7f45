"""Steps and a range of dates in, every partition of them done out: planned, run side by side, resumed, accounted for."""

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
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path

from endcap.contracts.errors import InputError
from endcap.contracts.reporting import Reporter
from endcap.engines import duckdb, failures
from endcap.flows.partitions import Context, Node, Outcome, Step, run_partition, why_not_done
from endcap.workspace import ledger
from endcap.workspace.atomic import write_json
from endcap.workspace.datasets import current_dataset
from endcap.workspace.layout import Workspace
from endcap.workspace.manifests import Run

STEP = "backfill"
PARTITIONS_FILE = "partitions.json"
EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_STOPPED = 3
MIN_MEMORY_MB = 128
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


@dataclass(frozen=True)
class BackfillResult:
    """What a backfill came to: an outcome for each partition of its plan. `run_id` is empty for a dry run.

    `stopped` says why it ended early: what was not begun by then is skipped.
    """

    run_id: str
    outcomes: tuple[Outcome, ...]
    stopped: str | None = None

    @property
    def counts(self) -> dict[str, int]:
        """How many partitions there are of each state."""
        return dict(Counter(outcome.state for outcome in self.outcomes))

    @property
    def failed(self) -> list[Outcome]:
        """What failed, and what was left out because of that."""
        return [outcome for outcome in self.outcomes if outcome.state in ("failed", "skipped")]

    @property
    def exit_code(self) -> int:
        """0 when everything is done, 1 when something failed, 3 when it was stopped early."""
        if self.stopped is not None:
            return EXIT_STOPPED
        return EXIT_FAILED if self.failed else EXIT_DONE


def backfill(
    workspace: Workspace,
    first: date,
    last: date,
    steps: Sequence[Step],
    report: Reporter,
    *,
    jobs: int = 1,
    memory_mb: int = duckdb.DEFAULT_MEMORY_MB,
    dry_run: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> BackfillResult:
    """Make every partition of `steps` between two dates (both included) what it would be if it were made today.

    What is done already is left alone, whoever did it. `jobs` worker processes share `memory_mb`. A partition that
    fails leaves out what is made from it and nothing else, but for a full disk, which ends the backfill: whatever came
    next would fail too. A dry run writes nothing. `steps` come in the order of the data. Raises InputError when the range holds no data or the arguments don't fit.
    """
    _check_share(jobs, memory_mb)
    planned = plan(workspace, first, last, steps)
    if dry_run:
        return BackfillResult("", planned.partitions)
    run = Run(workspace, STEP)
    report.event("backfill started", run_id=run.run_id, partitions=len(planned.partitions), to_run=len(planned.open))
    work = _Work(workspace, {step.name: step for step in steps}, _share(run, jobs, memory_mb), sleep)
    with run.stage("partitions"):
        outcomes = _Schedule(planned, jobs, report).run(work)
    stopped = next((outcome.error for outcome in outcomes if outcome.is_disk_full), None)
    result = _accounted(workspace, run, BackfillResult(run.run_id, outcomes, stopped), first, last, steps, jobs)
    if result.stopped is not None:
        report.event("backfill stopped", why=result.stopped, **result.counts)
        return result
    report.event("backfill finished", **result.counts)
    _tell_what_is_behind(workspace, last, steps, result, report)
    return result


def plan(workspace: Workspace, first: date, last: date, steps: Sequence[Step]) -> Plan:
    """What would run, and why. Raises InputError when there is nothing between the dates."""
    if first > last:
        raise InputError(f"The range goes from {first} to {last}: expected the earlier date first.")
    partitions: dict[Node, Outcome] = {}
    needs: dict[Node, tuple[Node, ...]] = {}
    for step in steps:
        for partition in step.partitions(workspace, first, last):
            node = Node(step.name, partition)
            needs[node] = tuple(need for need in step.needs(workspace, partition) if need in partitions)
            why = why_not_done(workspace, step, partition, step.key(workspace, partition))
            unsettled = [need for need in needs[node] if partitions[need].state != "done"]
            if why is not None:
                partitions[node] = Outcome(node, "run", why)
            elif unsettled:
                partitions[node] = Outcome(node, "maybe", f"if {unsettled[0].step} comes out different")
            else:
                partitions[node] = Outcome(node, "done", "nothing changed")
    if not partitions:
        raise InputError(f"There is nothing between {first} and {last}: no data was ingested for these dates.")
    return Plan(tuple(partitions.values()), needs)


def _check_share(jobs: int, memory_mb: int) -> None:
    if jobs < 1:
        raise InputError(f"There can't be {jobs} jobs: expected a whole number above 0.")
    if memory_mb // jobs < MIN_MEMORY_MB:
        raise InputError(
            f"{jobs} jobs would have {memory_mb // jobs} MB each, {MIN_MEMORY_MB} are needed: give at most "
            f"{max(memory_mb // MIN_MEMORY_MB, 1)} jobs, or more memory."
        )


def _share(run: Run, jobs: int, memory_mb: int) -> Context:
    num_threads = max(duckdb.DEFAULT_NUM_THREADS // jobs, 1)
    return Context(run_id=run.run_id, memory_mb=memory_mb // jobs, num_threads=num_threads)


@dataclass(frozen=True)
class _Work:
    """What a worker process needs to run any partition."""

    workspace: Workspace
    steps: dict[str, Step]
    context: Context
    sleep: Callable[[float], None] = field(repr=False)

    def __call__(self, node: Node) -> Outcome:
        return run_partition(self.workspace, self.steps[node.step], node.partition, self.context, sleep=self.sleep)


_Submit = Callable[[Node], "Future[Outcome]"]


class _Schedule:
    """Who may run when: a partition is ready once everything that it is made from is settled."""

    def __init__(self, planned: Plan, jobs: int, report: Reporter) -> None:
        self._jobs = jobs
        self._report = report
        self._needs = planned.needs
        self._outcomes = {outcome.node: outcome for outcome in planned.partitions}
        self._waiting = [outcome.node for outcome in planned.open]
        self._settled = set(self._outcomes) - set(self._waiting)
        self._suspects: list[Node] = []
        self._deaths: Counter[Node] = Counter()
        self._progress = _Progress(planned, jobs, report)

    def run(self, work: _Work) -> tuple[Outcome, ...]:
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

    def __init__(self, planned: Plan, jobs: int, report: Reporter) -> None:
        self._jobs = jobs
        self._report = report
        self._total = len(planned.open)
        self._seconds: dict[str, list[float]] = {}
        self._chained = {node.step for node, needs in planned.needs.items() if node.step in {n.step for n in needs}}
        self._said_at = time.monotonic()
        if self._total:
            report.progress(STEP, 0, self._total)

    def moved(self, outcome: Outcome, left: Sequence[Node]) -> None:
        """A partition was settled, and these are not yet."""
        self._seconds.setdefault(outcome.node.step, []).append(outcome.seconds)
        left_s = estimate_left_s(self._seconds, Counter(node.step for node in left), self._chained, self._jobs)
        done = self._total - len(left)
        note = f"about {duration(left_s)} left" if left else ""
        self._report.progress(STEP, done, self._total, note)
        if time.monotonic() - self._said_at >= _REPORT_EVERY_S:
            self._said_at = time.monotonic()
            self._report.event("backfill goes on", done=done, total=self._total, left_s=round(left_s))


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
def _workers(jobs: int, work: _Work) -> Iterator[_Submit]:
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


def _tell_what_is_behind(
    workspace: Workspace, last: date, steps: Sequence[Step], result: BackfillResult, report: Reporter
) -> None:
    """Say so, once for each step, when dates after the range were made before and would come out different."""
    looked_at = {outcome.node for outcome in result.outcomes}
    for step in steps:
        behind: dict[str, str] = {}
        for partition in step.partitions(workspace, last + timedelta(days=1), date.max):
            is_made = ledger.find_latest(workspace, step.name, partition) is not None
            if Node(step.name, partition) in looked_at or partition <= str(last) or not is_made:
                continue
            why = why_not_done(workspace, step, partition, step.key(workspace, partition))
            if why is not None:
                behind[partition] = why
        if behind:
            first = min(behind)
            report.event("later dates are behind", step=step.name, since=first, dates=len(behind), why=behind[first])


def _accounted(
    workspace: Workspace, run: Run, result: BackfillResult, first: date, last: date, steps: Sequence[Step], jobs: int
) -> BackfillResult:
    """The result, its account written where there is room for it."""
    try:
        _write_manifest(workspace, run, result, first, last, steps, jobs)
    except OSError as error:
        if not failures.is_disk_full(error):
            raise
        why = (
            f"The disk that holds {run.folder} is full: the account of the run could not be written, which of its "
            "partitions are done is known all the same. Free some space and run the same command again."
        )
        return replace(result, stopped=result.stopped or why)
    return result


def _write_manifest(
    workspace: Workspace, run: Run, result: BackfillResult, first: date, last: date, steps: Sequence[Step], jobs: int
) -> Path:
    partitions = [
        {
            "step": outcome.node.step,
            "partition": outcome.node.partition,
            "state": outcome.state,
            "why": outcome.why,
            "seconds": round(outcome.seconds, 3),
            "num_tries": outcome.num_tries,
            "error": outcome.error,
            "details": outcome.details,
        }
        for outcome in result.outcomes
    ]
    write_json(run.folder / PARTITIONS_FILE, partitions)
    configuration = {"from": str(first), "to": str(last), "steps": [step.name for step in steps], "jobs": jobs}
    metrics: dict[str, float | int] = {f"num_{state}": number for state, number in result.counts.items()}
    for step in steps:
        metrics[f"seconds_{step.name}"] = sum(part.seconds for part in result.outcomes if part.node.step == step.name)
    dataset = current_dataset(workspace)
    return run.finish(
        data_versions=dataset.versions if dataset else {},
        dataset_version=dataset.number if dataset else 0,
        configuration=configuration,
        metrics=metrics,
    )
