"""Steps and a range of dates in, every partition of them done out: planned, run side by side, resumed, accounted for."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path

from endcap.contracts.errors import InputError
from endcap.contracts.reporting import Reporter
from endcap.engines import duckdb, failures
from endcap.flows.partitions import Context, Node, Outcome, Step, run_partition, why_not_done
from endcap.flows.schedule import Plan, Schedule
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
        outcomes = Schedule(planned, jobs, report, STEP).run(work)
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
