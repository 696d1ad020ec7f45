"""A bound socket and a number in, as many processes out that answer on it: started, watched, replaced, stopped."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Final, NoReturn

import msgspec

from endcap.contracts.errors import ArtifactError, EndcapError, InputError

logger = logging.getLogger(__name__)

# Platforms kill 10 s after SIGTERM; a worker drains within 9.3 s.
_STOP_SECONDS: Final = 9.6
_POLL_SECONDS: Final = 0.05
# A worker that dies again and again is replaced ever more seldom.
_FIRST_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 30.0
# One that lived so long starts the pauses anew.
_SETTLED_SECONDS: Final = 60.0
_PR_SET_PDEATHSIG: Final = 1

Worker = Callable[[int, Callable[[], None]], None]
"""Serves as the worker of a number (from 0) until it is told to stop; calls what it is given once it answers."""


class _Report(msgspec.Struct):
    """What a worker tells once: that it answers, or why it can't."""

    kind: str = "ready"
    message: str = ""


@dataclass
class _Slot:
    """One worker's place."""

    number: int
    pid: int = 0
    started_at: float = 0.0
    pause_seconds: float = _FIRST_PAUSE_SECONDS
    starts_at: float = 0.0
    """When to start again, where no process is."""


class Supervisor:
    """Keeps a number of worker processes going. Loads nothing itself, so that it can fork."""

    def __init__(self, num_workers: int, work: Worker) -> None:
        self._slots = [_Slot(number) for number in range(num_workers)]
        self._work = work
        self._is_told_to_stop = False

    def run(self, on_ready: Callable[[], None]) -> None:
        """Start the workers, call `on_ready` once all answer, and replace those that die, until SIGTERM or SIGINT.

        Raises InputError or ArtifactError, as a worker did that can't start.
        """
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signal_number, self._stop)
        try:
            self._await_first([self._start(slot) for slot in self._slots])
            if not self._is_told_to_stop:
                on_ready()
            while not self._is_told_to_stop:
                self._replace()
                time.sleep(_POLL_SECONDS)
        finally:
            self._end()

    def _stop(self, _signal_number: int, _frame: FrameType | None) -> None:
        self._is_told_to_stop = True

    def _start(self, slot: _Slot) -> int:
        """Fork a worker; what its report is read from."""
        reading, writing = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            _be_worker(slot.number, self._work, writing, parent)
        os.close(writing)
        slot.pid, slot.started_at = pid, time.monotonic()
        return reading

    def _await_first(self, reports: list[int]) -> None:
        """Wait until every worker has said that it answers."""
        try:
            for reading in reports:
                while not self._is_told_to_stop and not select.select([reading], [], [], _POLL_SECONDS)[0]:
                    continue
                if self._is_told_to_stop:
                    return
                said = os.read(reading, 2**16)
                report = (
                    msgspec.json.decode(said, type=_Report) if said else _Report("died", "a worker died at its start")
                )
                if report.kind != "ready":
                    raise {"InputError": InputError, "ArtifactError": ArtifactError}.get(report.kind, EndcapError)(
                        report.message
                    )
        finally:
            for reading in reports:
                os.close(reading)

    def _replace(self) -> None:
        """Start workers anew in the place of those that died, after a pause that grows while they go on dying."""
        now = time.monotonic()
        for slot in self._slots:
            if slot.pid:
                ended, status = os.waitpid(slot.pid, os.WNOHANG)
                if not ended:
                    continue
                logger.error("Worker %d ended with %d and is replaced", slot.number, os.waitstatus_to_exitcode(status))
                if now - slot.started_at > _SETTLED_SECONDS:
                    slot.pause_seconds = _FIRST_PAUSE_SECONDS
                slot.pid, slot.starts_at = 0, now + slot.pause_seconds
                slot.pause_seconds = min(2 * slot.pause_seconds, _LONGEST_PAUSE_SECONDS)
            elif now >= slot.starts_at:
                os.close(self._start(slot))

    def _end(self) -> None:
        """Tell all workers to stop, wait, and kill what still is there."""
        end = time.monotonic() + _STOP_SECONDS
        self._signal(signal.SIGTERM)
        while any(slot.pid for slot in self._slots) and time.monotonic() < end:
            self._reap()
            time.sleep(_POLL_SECONDS)
        self._signal(signal.SIGKILL)

    def _signal(self, signal_number: int) -> None:
        for slot in self._slots:
            if slot.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(slot.pid, signal_number)

    def _reap(self) -> None:
        for slot in self._slots:
            if slot.pid and os.waitpid(slot.pid, os.WNOHANG)[0]:
                slot.pid = 0


def _be_worker(number: int, work: Worker, writing: int, parent: int) -> NoReturn:
    """The forked process: work, report once, and never return into the supervisor's code."""
    code = 0
    try:
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signal_number, signal.SIG_DFL)
        _end_with(parent)
        work(number, lambda: _report(writing, _Report()))
    except EndcapError as error:
        _report(writing, _Report(type(error).__name__, str(error)))
        code = 2
    except BaseException as error:
        logger.exception("A worker failed")
        _report(writing, _Report("EndcapError", f"a worker failed: {type(error).__name__}; its log tells where"))
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _end_with(parent: int) -> None:
    """Be told to stop when the supervisor is gone, however it went."""
    with contextlib.suppress(AttributeError):  # not Linux
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def _report(writing: int, report: _Report) -> None:
    with contextlib.suppress(OSError):  # nobody waits for it: the supervisor reads only the first ones
        os.write(writing, msgspec.json.encode(report))
        os.close(writing)
