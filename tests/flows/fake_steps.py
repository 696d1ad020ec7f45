"""Steps over small text files, which fail as they are told: importable by worker processes."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from endcap.contracts.errors import InputError, TransientError
from endcap.flows.partitions import Context, Node
from endcap.workspace import ledger
from endcap.workspace.atomic import write_text
from endcap.workspace.layout import Workspace


@dataclass(frozen=True)
class Raw:
    """One text per date, what the first step reads."""

    workspace: Workspace

    def write(self, day: date, text: str) -> None:
        write_text(self.workspace.events / "raw" / f"{day}.txt", text)


@dataclass(frozen=True)
class Copy:
    """Writes its input, with its own name and setting before it, once for each date.

    It reads the outputs of the step `of`, or the raw texts; `chained` also reads its own output of the day before.
    `failing` maps a date to how it goes wrong there.
    """

    name: str
    of: str | None = None
    setting: str = ""
    chained: bool = False
    failing: dict[str, str] = field(default_factory=dict)

    def partitions(self, workspace: Workspace, first: date, last: date) -> list[str]:
        days = sorted(path.stem for path in (workspace.events / "raw").glob("*.txt"))
        return [day for day in days if str(first) <= day <= str(last)]

    def needs(self, workspace: Workspace, partition: str) -> list[Node]:
        before = [Node(self.name, _day_before(partition))] if self.chained else []
        return [*before, *([Node(self.of, partition)] if self.of else [])]

    def key(self, workspace: Workspace, partition: str) -> ledger.StepKey:
        return ledger.StepKey(
            step=self.name,
            partition=partition,
            inputs_digest=ledger.digest_of([_text(path) for path in self._inputs(workspace, partition)]),
            configuration_digest=ledger.digest_of(self.setting),
            code_version="1",
        )

    def run(self, workspace: Workspace, partition: str, context: Context) -> dict[str, Any]:
        with (workspace.path / "ran.txt").open("a") as log:
            log.write(f"{self.name} {partition} {os.getpid()} {context.memory_mb}\n")
        self._go_wrong(workspace, partition)
        text = "|".join([self.name + self.setting, *(_text(path) for path in self._inputs(workspace, partition))])
        write_text(output(workspace, self.name, partition), text)
        return {"length": len(text)}

    def is_there(self, workspace: Workspace, entry: ledger.LedgerEntry) -> bool:
        return output(workspace, self.name, entry.key.partition).is_file()

    def made_elsewhere(self, workspace: Workspace, partition: str) -> bool:
        return False

    def is_gone(self, workspace: Workspace, partition: str) -> bool:
        return False

    def _inputs(self, workspace: Workspace, partition: str) -> list[Path]:
        own = [output(workspace, self.name, _day_before(partition))] if self.chained else []
        raw = workspace.events / "raw" / f"{partition}.txt"
        return [*own, output(workspace, self.of, partition) if self.of else raw]

    def _go_wrong(self, workspace: Workspace, partition: str) -> None:
        how, _, times = self.failing.get(partition, "").partition(":")
        if not how or (times and ran(workspace)[self.name, partition] > int(times)):
            return
        if how == "transient":
            raise TransientError("The store answered 503. Try again.")
        if how == "input":
            raise InputError("The file has no column price. Export it again.")
        if how == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if how == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "nap":
            time.sleep(0.05)
            return
        if how == "meet":  # goes on once another process has run something too
            deadline = time.monotonic() + 60
            while len(_processes(workspace)) < 2 and time.monotonic() < deadline:
                time.sleep(0.01)
            return
        raise ZeroDivisionError("division by zero")


def output(workspace: Workspace, step: str, partition: str) -> Path:
    return workspace.features / step / f"{partition}.txt"


def ran(workspace: Workspace) -> Counter[tuple[str, str]]:
    """How often each partition was begun."""
    log = workspace.path / "ran.txt"
    lines = log.read_text().splitlines() if log.is_file() else []
    return Counter((line.split()[0], line.split()[1]) for line in lines)


def _processes(workspace: Workspace) -> set[str]:
    return {line.split()[2] for line in (workspace.path / "ran.txt").read_text().splitlines()}


def _day_before(partition: str) -> str:
    return str(date.fromisoformat(partition) - timedelta(days=1))


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else "nothing"
