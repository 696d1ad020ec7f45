"""A running server in, what a closed loop of connections sees of it out: throughput, latency, processor time, memory."""

from __future__ import annotations

import json
import math
import resource
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.performance.processes import ServerProcess
from benchmarks.performance.quiet import processor_ticks, quietest
from benchmarks.performance.synthetic import NUM_CATEGORIES, Size

LUA = Path(__file__).with_name("predict.lua")
NUM_EXCLUDED = 200


@dataclass(frozen=True)
class Plan:
    """How long to measure."""

    rounds: int
    seconds: float
    warm_seconds: float
    num_checked: int
    """Customers whose answers are compared."""
    overload_seconds: float
    """Of each phase of the open loop."""


THOROUGH = Plan(rounds=3, seconds=6.0, warm_seconds=3.0, num_checked=1000, overload_seconds=20.0)
QUICK = Plan(rounds=1, seconds=2.0, warm_seconds=1.0, num_checked=200, overload_seconds=4.0)


@dataclass(frozen=True)
class Load:
    """What the client saw in one run, and what it and the server used for it."""

    requests_per_second: float
    """Of those that were answered: neither refused nor failed."""
    p50_ms: float
    p99_ms: float
    num_failed: int
    client_cpu_percent: float
    server_cpu_us_per_request: float
    memory_mib: float
    stolen_percent: float
    """Of the processors' time: what other machines took."""


class Run(NamedTuple):
    """One system under one kind of load."""

    name: str
    server: ServerProcess
    limits_answers: bool = False
    """Whether each request excludes products and asks for one category."""


class Client:
    """Runs wrk again and again, each time from other customers on."""

    def __init__(self, size: Size) -> None:
        """Take what there is to ask for."""
        self._size = size
        self._offset = 0

    def measure(self, run: Run, connections: int, seconds: float, *, watches_memory: bool = False) -> Load:
        """One run of wrk."""
        size = self._size
        self._offset += size.num_customers // 13
        command = ["wrk", "-t1", f"-c{connections}", f"-d{math.ceil(seconds)}s", "--timeout", "20s"]
        command += ["-s", str(LUA), run.server.url, "--"]
        command += [str(size.num_customers), str(size.num_cities), "1", str(self._offset)]
        if run.limits_answers:
            command += [str(NUM_CATEGORIES), str(size.num_items), str(NUM_EXCLUDED)]
        return _watched(run.server, command, watches_memory)

    def interleaved(self, runs: Sequence[Run], connections: int, plan: Plan) -> dict[str, list[Load]]:
        """Each in turn, once a round."""

        def measure_each() -> list[Load]:
            return [self.measure(run, connections, plan.seconds) for run in runs]

        rounds = quietest(measure_each, plan.rounds)
        return {run.name: list(loads) for run, loads in zip(runs, zip(*rounds, strict=True), strict=True)}


def _watched(server: ServerProcess, command: Sequence[str], watches_memory: bool) -> Load:
    memory: list[float] = []
    is_over = threading.Event()

    def watch() -> None:
        while watches_memory and not is_over.wait(0.5):
            memory.append(server.memory_mib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    ticks_before = processor_ticks()
    cpu_before = server.cpu_seconds()
    client_before = resource.getrusage(resource.RUSAGE_CHILDREN)
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    client_after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_after = server.cpu_seconds()
    ticks_after = processor_ticks()
    is_over.set()
    watcher.join()
    result = json.loads(
        next(line for line in output.splitlines() if line.startswith("RESULT ")).removeprefix("RESULT ")
    )
    took = result["duration_us"] / 1e6
    client_cpu = sum(client_after[:2]) - sum(client_before[:2])
    return Load(
        requests_per_second=max(result["requests"] - result["failed"], 0) / took,
        p50_ms=result["p50_us"] / 1000,
        p99_ms=result["p99_us"] / 1000,
        num_failed=result["failed"],
        client_cpu_percent=100 * client_cpu / took,
        server_cpu_us_per_request=1e6 * (cpu_after - cpu_before) / max(result["requests"], 1),
        memory_mib=max(memory, default=math.nan),
        stolen_percent=ticks_after.stolen_percent(ticks_before),
    )


def middle(loads: Sequence[Load], figure: str) -> float:
    """The median of a figure."""
    return float(median(getattr(load, figure) for load in loads))


def figures_of(loads: Sequence[Load]) -> dict[str, float]:
    """What a report says of runs under the same load."""
    return {
        "requests_per_second": round(middle(loads, "requests_per_second"), 1),
        "p50_ms": round(middle(loads, "p50_ms"), 3),
        "p99_ms": round(middle(loads, "p99_ms"), 3),
        "failed_requests": sum(load.num_failed for load in loads),
        "server_cpu_us_per_request": round(middle(loads, "server_cpu_us_per_request"), 1),
        "client_cpu_percent": round(middle(loads, "client_cpu_percent"), 1),
        "stolen_percent": round(max(load.stolen_percent for load in loads), 1),
    }
