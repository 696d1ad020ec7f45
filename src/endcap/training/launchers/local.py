"""A job in, a process of this machine out, which outlives the one that started it."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from endcap.contracts.errors import InputError
from endcap.training.launchers.protocol import Job, Phase, Status

GRACE_S: Final = 30.0
"""How long a process may take to write its checkpoint after SIGTERM."""

_PROGRAM: Final = ("-m", "train.main")
_NUM_LAST_WORDS, _LAST_BYTES = 5, 1 << 14
_POLL_S = 0.05
_TAKEN_AWAY = (signal.SIGTERM, signal.SIGKILL)


class LocalLauncher:
    """Runs jobs as processes with their own sessions; `03_runs/RUN/job-1.jsonl` holds what the first attempt said."""

    def __init__(self, runs: Path, *, grace_s: float = GRACE_S) -> None:
        self._runs, self._grace_s = runs, grace_s
        self._logs: dict[str, Path] = {}
        self._read: dict[str, int] = {}
        self._ended: dict[str, Status] = {}

    def start(self, job: Job, attempt: int) -> str:
        """Start `python -m train.main ARGUMENTS`, or the job's own command; the handle is the process's id."""
        log = self.log_of(job, attempt)
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, *(job.command or _PROGRAM), *job.arguments]
        said_to = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        environment = {**os.environ, **job.environment}
        pid = os.posix_spawn(command[0], command, environment, file_actions=said_to, setsid=True)
        handle = str(pid)
        self._logs[handle], self._read[handle] = log, 0
        return handle

    def log_of(self, job: Job, attempt: int) -> Path:
        """What an attempt says, line by line."""
        return self._runs / job.run_id / f"job-{attempt}.jsonl"

    def status(self, handle: str) -> Status:
        """Running, or how it ended: an end by SIGTERM or SIGKILL counts as the machine's, not the job's."""
        if handle not in self._ended:
            pid, code = os.waitpid(self._pid(handle), os.WNOHANG)
            if pid == 0:
                return Status(Phase.RUNNING)
            self._ended[handle] = self._judged(handle, os.waitstatus_to_exitcode(code))
        return self._ended[handle]

    def lines(self, handle: str) -> Iterator[Mapping[str, Any]]:
        """Whole lines alone; what is no JSON becomes a message."""
        with self._logs[handle].open("rb") as file:
            file.seek(self._read[handle])
            for line in file:
                if not line.endswith(b"\n") and handle not in self._ended:
                    return  # half of it is still to come
                self._read[handle] += len(line)
                yield _parsed(line)

    def cancel(self, handle: str) -> None:
        """SIGTERM, and SIGKILL to all that it started where it doesn't end in time."""
        pid = self._pid(handle)
        self._signal(pid, signal.SIGTERM)
        until = time.monotonic() + self._grace_s
        while not self.status(handle).phase.is_over:
            if time.monotonic() > until:
                self._signal(pid, signal.SIGKILL)
            time.sleep(_POLL_S)
        self._ended[handle] = Status(Phase.CANCELLED, "by the one who started it")

    def _judged(self, handle: str, code: int) -> Status:
        if code == 0:
            return Status(Phase.SUCCEEDED)
        for ending in _TAKEN_AWAY:
            if code in (-ending, 128 + ending):
                return Status(Phase.PREEMPTED, f"ended by {ending.name}")
        return Status(Phase.FAILED, f"exit code {code}: {_last_words(self._logs[handle])}")

    def _pid(self, handle: str) -> int:
        if handle not in self._logs:
            raise InputError(f"{handle} is no process that was started here. Look with: ps -p {handle}")
        return int(handle)

    @staticmethod
    def _signal(pid: int, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(
                pid, number
            )  # its session's whole group; torchrun hands signals on to workers in sessions of their own


def _parsed(line: bytes) -> Mapping[str, Any]:
    text = line.decode(errors="replace").rstrip()
    try:
        found = msgspec.json.decode(text)
    except msgspec.DecodeError:
        found = None
    return found if isinstance(found, dict) else {"message": text}


def _last_words(log: Path) -> str:
    """What it said last beside its JSON lines: the error."""
    lines = log.read_bytes()[-_LAST_BYTES:].splitlines()
    said = [str(found["message"]) for line in lines if (found := _parsed(line)).keys() == {"message"} and line.strip()]
    return "; ".join(said[-_NUM_LAST_WORDS:]) or f"see {log}"
