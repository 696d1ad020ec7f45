"""A step and one of its partitions in, its outcome out: claimed, looked up, run with retries, entered in the ledger."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal, NamedTuple, Protocol

import tenacity

from endcap.contracts.errors import EndcapError, TransientError
from endcap.engines.failures import explained, is_disk_full, is_out_of_memory
from endcap.workspace import ledger
from endcap.workspace.layout import Workspace

MAX_TRIES = 4
_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 30.0
GONE = "no rows are left for it: what was made of it is deleted"

State = Literal["done", "run", "maybe", "ran", "unchanged", "failed", "skipped"]


class Node(NamedTuple):
    """One partition of one step."""

    step: str
    partition: str

    def __str__(self) -> str:
        return f"{self.step} {self.partition}"


@dataclass(frozen=True)
class Context:
    """On whose behalf a partition is run, and what that may take."""

    run_id: str
    memory_mb: int
    num_threads: int


class Step(Protocol):
    """Work that is divided into partitions, each of which overwrites its own outputs as a whole or not at all.

    A step goes to worker processes, so it holds values alone.
    """

    @property
    def name(self) -> str:
        """How the command line and the ledger name it."""

    def partitions(self, workspace: Workspace, first: date, last: date) -> list[str]:
        """Partitions that the dates from `first` to `last` (both included) touch, in the order to run them."""

    def needs(self, workspace: Workspace, partition: str) -> list[Node]:
        """What has to be done before, directly; whatever isn't part of the backfill counts as done."""

    def key(self, workspace: Workspace, partition: str) -> ledger.StepKey:
        """The key as things stand; inputs that aren't there have a digest too."""

    def run(self, workspace: Workspace, partition: str, context: Context) -> dict[str, Any]:
        """Do the work and return what goes into the ledger; the same work twice leaves the same outputs."""

    def is_there(self, workspace: Workspace, entry: ledger.LedgerEntry) -> bool:
        """Whether what `entry` stands for still is where the step put it."""

    def made_elsewhere(self, workspace: Workspace, partition: str) -> bool:
        """Whether something that keeps no ledger made the partition since, just as the step would."""

    def is_gone(self, workspace: Workspace, partition: str) -> bool:
        """Whether nothing is left to make the partition from, so that to run it deletes what was made of it."""


@dataclass(frozen=True)
class Outcome:
    """What became of a partition. `details` is the traceback of a fault that was not raised on purpose.

    `is_disk_full`: it failed because nothing can be written, and so would whatever comes next.
    """

    node: Node
    state: State
    why: str
    seconds: float = 0.0
    num_tries: int = 0
    error: str | None = None
    details: str | None = None
    is_disk_full: bool = False


def why_not_done(workspace: Workspace, step: Step, partition: str, key: ledger.StepKey) -> str | None:
    """Why the partition has to run; None when it is done and its outputs are there."""
    latest = ledger.find_latest(workspace, step.name, partition)
    why = ledger.why_not_done(workspace, key, latest)
    if why is None and latest is not None and not step.is_there(workspace, latest):
        why = "outputs missing or altered"
    if why is not None and step.is_gone(workspace, partition):
        return GONE
    begun = ledger.find_attempt(workspace, step.name, partition) is not None
    return None if why is not None and not begun and step.made_elsewhere(workspace, partition) else why


def run_partition(
    workspace: Workspace,
    step: Step,
    partition: str,
    context: Context,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> Outcome:
    """Run the partition unless it is done, and never beside another process that runs it.

    Never raises for what goes wrong inside the step: that is an outcome, so that other partitions go on.
    """
    node = Node(step.name, partition)
    start = time.perf_counter()
    try:
        with explained(workspace, str(node)), ledger.claim(workspace, *node):
            return _run_claimed(workspace, step, node, context, sleep, start)
    except Exception as error:  # whatever it is, it is this partition's alone
        on_purpose = isinstance(error, EndcapError)
        return Outcome(
            node,
            "failed",
            why="",
            seconds=time.perf_counter() - start,
            error=str(error) if on_purpose else f"{type(error).__name__}: {error}",
            details=None if on_purpose else "".join(traceback.format_exception(error)),
            is_disk_full=is_disk_full(error),
        )


def _run_claimed(
    workspace: Workspace,
    step: Step,
    node: Node,
    context: Context,
    sleep: Callable[[float], None],
    start: float,
) -> Outcome:
    # Looked up inside the claim: whoever held it before may have done the work.
    key = step.key(workspace, node.partition)
    why = why_not_done(workspace, step, node.partition, key)
    if why is None:
        latest = ledger.find_latest(workspace, step.name, node.partition)
        if latest is not None and latest.run_id == context.run_id:
            # On this run's behalf, by a worker process that died before it could say so.
            return Outcome(node, "ran", why="")
        return Outcome(node, "unchanged", why="its inputs came out as they were")
    num_tries = 0

    def attempt() -> None:
        nonlocal num_tries
        num_tries += 1
        with explained(workspace, str(node)):
            ledger.record_attempt(workspace, key, context.run_id)
            outputs = step.run(workspace, node.partition, context)
            ledger.record_entry(workspace, ledger.LedgerEntry(key=key, run_id=context.run_id, outputs=outputs))

    try:
        tenacity.Retrying(
            retry=tenacity.retry_if_exception(_may_pass),
            wait=tenacity.wait_exponential_jitter(initial=_FIRST_WAIT_S, max=_LONGEST_WAIT_S, jitter=_FIRST_WAIT_S),
            stop=tenacity.stop_after_attempt(MAX_TRIES),
            sleep=sleep,
            reraise=True,
        )(attempt)
    except Exception as error:
        with contextlib.suppress(OSError):  # a disk that is full can't take the note either
            ledger.record_attempt(workspace, key, context.run_id, error=_first_line(error))
        raise
    return Outcome(node, "ran", why, seconds=time.perf_counter() - start, num_tries=num_tries)


def _may_pass(error: BaseException) -> bool:
    """Whether to try again in a moment may help: it doesn't give anybody room on the disk or in memory."""
    return isinstance(error, TransientError) and not is_disk_full(error) and not is_out_of_memory(error)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
