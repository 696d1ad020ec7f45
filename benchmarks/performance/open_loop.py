"""Rates and their seconds in, one row per request out: sent when it is due, whatever became of those before it.

A client of its own, in a process of its own: a closed loop, in which each connection waits for its answer, slows down
with the server and can't overload it. Times count from the moment at which a request was due.
"""

from __future__ import annotations

import argparse
import ctypes
import platform
import select
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.performance.processes import PREDICT_ROUTE

FAILED = 0
"""Status of a request that got no answer."""
NUM_CONNECTIONS = 768
_STEP = 7919  # as predict.lua walks through the customers
_GIVE_UP_SECONDS = 15.0
_CHUNK_BYTES = 1 << 16
# Linux's sched_setattr, which Python has no function for, and the turn to ask for: a process that waits for the processor
# as long as a usual turn takes, 3 ms, would measure its own lateness. Before Linux 6.12 it is asked for in vain.
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
_TURN_NANOSECONDS = 100_000
_SCHED_ATTR = struct.Struct("<IIQiIQQQ")
_BODY = b'{"instances":[{"customer_id":"customer-%06d","city":"city-%04d","age":%d}]}'


@dataclass(frozen=True)
class Phase:
    """So many requests a second for so long."""

    rate: float
    seconds: float


@dataclass(frozen=True)
class Outcomes:
    """What became of each request, in the order in which they were due: seconds since the first, and HTTP's status."""

    due: npt.NDArray[np.float64]
    sent: npt.NDArray[np.float64]
    done: npt.NDArray[np.float64]
    status: npt.NDArray[np.int64]

    @property
    def took(self) -> npt.NDArray[np.float64]:
        """Seconds from when it was due to its answer."""
        return self.done - self.due

    @property
    def lag(self) -> npt.NDArray[np.float64]:
        """Seconds by which the client itself was late."""
        return self.sent - self.due

    def part(self, chosen: npt.NDArray[np.bool_]) -> Outcomes:
        """Some of them."""
        return Outcomes(self.due[chosen], self.sent[chosen], self.done[chosen], self.status[chosen])


def drive(port: int, phases: Sequence[Phase], num_customers: int, num_cities: int, folder: Path) -> Outcomes:
    """Send what the phases say to the server on `port`, from a process of its own."""
    path = folder / "outcomes.npz"
    command = [sys.executable, "-m", __spec__.name if __spec__ else __name__, str(port), str(path)]
    command += [str(num_customers), str(num_cities), *(f"{phase.rate}:{phase.seconds}" for phase in phases)]
    subprocess.run(command, check=True, cwd=Path(__file__).resolve().parents[2])
    with np.load(path, allow_pickle=False) as found:
        return Outcomes(**{name: found[name] for name in ("due", "sent", "done", "status")})


def due_times(phases: Sequence[Phase]) -> npt.NDArray[np.float64]:
    """When each request is due: evenly within a phase."""
    times, start = [], 0.0
    for phase in phases:
        times.append(start + np.arange(round(phase.rate * phase.seconds)) / phase.rate)
        start += phase.seconds
    return np.concatenate(times)


class _Client:
    """Connections, and what is on its way on them."""

    def __init__(self, port: int, num_customers: int, num_cities: int) -> None:
        self._port, self._num_customers, self._num_cities = port, num_customers, num_cities
        self._epoll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._parts: dict[int, bytes] = {}
        self._asked: dict[int, int] = {}
        self._idle: deque[int] = deque()
        for _ in range(NUM_CONNECTIONS):
            self._connect()

    def run(self, due: npt.NDArray[np.float64]) -> Outcomes:
        """Send each when it is due, and wait for what is outstanding at the end."""
        num = len(due)
        self.sent, self.done = np.full(num, np.nan), np.full(num, np.nan)
        self.status = np.full(num, FAILED)
        times, place = due.tolist(), 0
        start = time.perf_counter() + 0.1
        self._start = start
        end = start + times[-1] + _GIVE_UP_SECONDS
        while (place < num or self._asked) and (now := time.perf_counter()) < end:
            while place < num and start + times[place] <= now and self._idle:
                self._send(place)
                place += 1
            wait = 0.0005 if place < num and not self._idle else start + times[place] - now if place < num else 0.05
            # Its wait is exact to the microsecond; epoll's own is in milliseconds.
            if select.select([self._epoll.fileno()], [], [], max(wait, 0.0))[0]:
                for number, _ in self._epoll.poll(0):
                    self._receive(number)
        unanswered = np.isnan(self.done)
        self.done[unanswered] = end - start
        self.sent[np.isnan(self.sent)] = end - start
        return Outcomes(due, self.sent, self.done, self.status)

    def _connect(self) -> None:
        connection = socket.create_connection(("127.0.0.1", self._port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(False)
        number = connection.fileno()
        self._sockets[number] = connection
        self._parts[number] = b""
        self._epoll.register(number, select.EPOLLIN)
        self._idle.append(number)

    def _send(self, place: int) -> None:
        number = self._idle.popleft()
        customer = (place * _STEP) % self._num_customers
        body = _BODY % (customer, customer % self._num_cities, 18 + customer % 60)
        head = b"POST %b HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self._asked[number] = place
        self.sent[place] = time.perf_counter() - self._start
        self._sockets[number].send(head % (PREDICT_ROUTE.encode(), len(body)) + body)

    def _receive(self, number: int) -> None:
        try:
            data = self._sockets[number].recv(_CHUNK_BYTES)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            self._replace(number)
            return
        data = self._parts[number] + data
        head, separator, body = data.partition(b"\r\n\r\n")
        if not separator or len(body) < _content_length(head):
            self._parts[number] = data
            return
        self._parts[number] = b""
        place = self._asked.pop(number)
        self.done[place] = time.perf_counter() - self._start
        self.status[place] = int(head[9:12])
        if b"connection: close" in head:
            self._replace(number)
        else:
            self._idle.append(number)

    def _replace(self, number: int) -> None:
        place = self._asked.pop(number, None)
        if place is not None:
            self.done[place] = time.perf_counter() - self._start
        elif number in self._idle:
            self._idle.remove(number)
        self._epoll.unregister(number)
        self._sockets.pop(number).close()
        self._connect()


def ask_for_short_turns() -> bool:
    """Have the processor oftener and for less long; false: the system doesn't know of it."""
    number = _SCHED_SETATTR.get(platform.machine())
    if sys.platform != "linux" or number is None:
        return False
    attributes = _SCHED_ATTR.pack(_SCHED_ATTR.size, 0, 0, 0, 0, _TURN_NANOSECONDS, 0, 0)
    return ctypes.CDLL(None).syscall(number, 0, attributes, 0) == 0


def _content_length(head: bytes) -> int:
    _, _, rest = head.partition(b"content-length: ")
    return int(rest.partition(b"\r\n")[0])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run as told on the command line, and write the outcomes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.performance.open_loop", description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("out", type=Path, help="an .npz file to write")
    parser.add_argument("num_customers", type=int)
    parser.add_argument("num_cities", type=int)
    parser.add_argument("phases", nargs="+", help="RATE:SECONDS")
    options = parser.parse_args(arguments)
    phases = [Phase(*map(float, phase.split(":"))) for phase in options.phases]
    ask_for_short_turns()
    outcomes: Any = _Client(options.port, options.num_customers, options.num_cities).run(due_times(phases))
    np.savez(options.out, due=outcomes.due, sent=outcomes.sent, done=outcomes.done, status=outcomes.status)


if __name__ == "__main__":
    main()
