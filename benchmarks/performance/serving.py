"""One synthetic model served by Endcap and by a peer in turn: throughput, latency, memory, cold start and ratios out."""

from __future__ import annotations

import argparse
import json
import math
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.performance.processes import ServerProcess, free_port
from benchmarks.performance.synthetic import Size, city_name, customer_id, make_weights, write_release
from benchmarks.report import Report

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / "benchmarks" / "peers"
LUA = Path(__file__).with_name("predict.lua")
CONNECTIONS = (1, 8, 32)
MEMORY_RUN = 0
SEED = 7
# Scores of the two systems are float32 sums in different orders.
SCORE_TOLERANCE = 2e-5

Start = Callable[[], ServerProcess]


@dataclass(frozen=True)
class Plan:
    """How long to measure."""

    rounds: int
    seconds: float
    warm_seconds: float
    num_checked: int


THOROUGH = Plan(rounds=3, seconds=6.0, warm_seconds=3.0, num_checked=1000)
QUICK = Plan(rounds=1, seconds=2.0, warm_seconds=1.0, num_checked=1000)


@dataclass(frozen=True)
class Load:
    """What the client saw in one run, and what it and the server used for it."""

    requests_per_second: float
    p50_ms: float
    p99_ms: float
    num_failed: int
    client_cpu_percent: float
    server_cpu_us_per_request: float
    memory_mib: float


def our_command(release: Path, port: int) -> list[str]:
    """How a user starts the server, with the interpreter that runs this."""
    return [sys.executable, "-m", "endcap", "serve", str(release), "--port", str(port)]


def instance(number: int, size: Size) -> dict[str, Any]:
    """The features of one customer, as predict.lua writes them."""
    return {"customer_id": customer_id(number), "city": city_name(number % size.num_cities), "age": 18 + number % 60}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark as told on the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.performance.serving", description=__doc__)
    parser.add_argument("--peer", choices=["tensorflow"], default="tensorflow")
    parser.add_argument("--json", type=Path, help="also write machine, rows and ratios here")
    parser.add_argument("--quick", action="store_true", help="a rough answer in about a minute")
    options = parser.parse_args(arguments)
    peer_python = ROOT / ".venv-peers" / options.peer / "bin" / "python"
    if shutil.which("wrk") is None:
        parser.error("wrk is not installed; on Debian: apt-get install wrk")
    if not peer_python.exists():
        parser.error(f"the peer's environment {peer_python.parents[1]} is missing; make it: make bench-peers")
    report = Report(
        title="Serving: 100k products x 32, top 100, exact, beside a TensorFlow SavedModel behind Flask and gunicorn",
        libraries=["numpy", "onnxruntime", "uvloop", "httptools", "orjson", "msgspec"],
        peer_libraries=_peer_versions(peer_python),
    )
    with tempfile.TemporaryDirectory(prefix="endcap-bench-") as folder:
        run(Path(folder), peer_python, QUICK if options.quick else THOROUGH, report)
    report.print()
    if options.json is not None:
        report.write_json(options.json)


def run(folder: Path, peer_python: Path, plan: Plan, report: Report) -> None:
    """Measure both systems below `folder` and fill the report."""
    size = Size()
    weights = make_weights(size, SEED)
    np.savez(folder / "weights.npz", **weights)
    write_release(folder / "release", weights, size, SEED)
    build = PEERS / "tensorflow" / "build_saved_model.py"
    _say("building the peer's SavedModel")
    subprocess.run(
        [peer_python, build, folder / "weights.npz", folder / "saved_model", str(size.top_k)],
        check=True,
        capture_output=True,
    )
    starts = {"endcap": _our_start(folder), "tensorflow": _peer_start(folder, peer_python)}
    _say("cold starts")
    cold = _cold_starts(starts, size, max(plan.rounds, 1))
    with _running(starts["endcap"]) as ours, _running(starts["tensorflow"]) as peer:
        servers = {"endcap": ours, "tensorflow": peer}
        for server in servers.values():
            server.wait_for_answer({"instances": [instance(0, size)]})
        _say(f"comparing answers for {plan.num_checked:,} customers")
        agreement = compare_answers(ours, peer, size, plan.num_checked)
        loads = _measure_loads(servers, size, plan)
    _fill(report, size, loads, cold, agreement)


def compare_answers(ours: ServerProcess, peer: ServerProcess, size: Size, num_checked: int) -> dict[str, int]:
    """How many customers get the same products in the same order; the others must differ within ties alone.

    Raises AssertionError when scores differ by more than the tolerance, or a product is missing that isn't tied.
    """
    numbers = [(place * 7919) % size.num_customers for place in range(num_checked)]
    num_equal = 0
    for start in range(0, num_checked, 50):
        body = {"instances": [instance(number, size) for number in numbers[start : start + 50]]}
        found = [server.ask(body)["predictions"] for server in (ours, peer)]
        for mine, theirs in zip(*found, strict=True):
            num_equal += is_same_answer(mine, theirs)
    return {"compared_customers": num_checked, "same_products_and_order": num_equal}


def is_same_answer(mine: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Whether products and order are equal. Raises AssertionError for a difference that isn't a tie."""
    my_scores, their_scores = np.array(mine["scores"]), np.array(theirs["scores"])
    tolerance = SCORE_TOLERANCE * max(1.0, float(np.abs(their_scores).max()))
    assert np.abs(my_scores - their_scores).max() <= tolerance, "scores differ"
    if mine["product_ids"] == theirs["product_ids"]:
        return True
    score_by_id = dict(zip(mine["product_ids"], my_scores, strict=True))
    for product, score in zip(theirs["product_ids"], their_scores, strict=True):
        # Absent: only a product tied with the last place may be.
        assert abs(score_by_id.get(product, my_scores[-1]) - score) <= tolerance, "products differ beyond ties"
    return False


def _our_start(folder: Path) -> Start:
    def start() -> ServerProcess:
        port = free_port()
        return ServerProcess("endcap", our_command(folder / "release", port), port, {}, folder / "endcap.log", ROOT)

    return start


def _peer_start(folder: Path, peer_python: Path) -> Start:
    def start() -> ServerProcess:
        port = free_port()
        gunicorn = str(peer_python.with_name("gunicorn"))
        command = [gunicorn, "--bind", f"127.0.0.1:{port}", "--workers", "1", "--threads", "4", "app:application"]
        # No GPU is looked for; the log stays readable.
        environment = {
            "SAVED_MODEL": str(folder / "saved_model"),
            "CUDA_VISIBLE_DEVICES": "-1",
            "TF_CPP_MIN_LOG_LEVEL": "2",
        }
        return ServerProcess("tensorflow", command, port, environment, folder / "tensorflow.log", PEERS / "tensorflow")

    return start


@contextmanager
def _running(start: Start) -> Iterator[ServerProcess]:
    server = start()
    try:
        yield server
    finally:
        server.stop()


def _cold_starts(starts: dict[str, Start], size: Size, rounds: int) -> dict[str, float]:
    """Median seconds from process start to the first correct answer."""
    seconds: dict[str, list[float]] = {name: [] for name in starts}
    expected: list[str] | None = None
    # One start each beforehand: files in the page cache, byte code compiled.
    for round_number in range(rounds + 1):
        for name, start in starts.items():
            with _running(start) as server:
                answer = server.wait_for_answer({"instances": [instance(1, size)]})
                took = time.perf_counter() - server.started_at
            top = answer["predictions"][0]["product_ids"][:10]
            expected = expected or top
            assert top == expected, f"{name} answers otherwise"
            if round_number:
                seconds[name].append(took)
    return {name: median(values) for name, values in seconds.items()}


def _measure_loads(servers: dict[str, ServerProcess], size: Size, plan: Plan) -> dict[tuple[str, int], list[Load]]:
    loads: dict[tuple[str, int], list[Load]] = {}
    offset = 0
    for server in servers.values():
        _measure(server, max(CONNECTIONS), plan.warm_seconds, size, offset)
    for connections in CONNECTIONS:
        _say(f"load with {connections} connections")
        for _ in range(plan.rounds):
            for name, server in servers.items():
                offset += size.num_customers // 13
                load = _measure(server, connections, plan.seconds, size, offset)
                loads.setdefault((name, connections), []).append(load)
    # In a run of its own: reading a large process's memory map holds it up, which would count more against the faster system.
    for name, server in servers.items():
        loads[name, MEMORY_RUN] = [
            _measure(server, max(CONNECTIONS), plan.warm_seconds, size, offset, watches_memory=True)
        ]
    return loads


def _measure(
    server: ServerProcess, connections: int, seconds: float, size: Size, offset: int, *, watches_memory: bool = False
) -> Load:
    command = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{math.ceil(seconds)}s",
        "--timeout",
        "20s",
        "-s",
        str(LUA),
        server.url,
    ]
    command += ["--", str(size.num_customers), str(size.num_cities), "1", str(offset)]
    memory: list[float] = []
    is_over = threading.Event()

    def watch() -> None:
        while watches_memory and not is_over.wait(0.5):
            memory.append(server.memory_mib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    cpu_before = server.cpu_seconds()
    client_before = resource.getrusage(resource.RUSAGE_CHILDREN)
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    client_after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_after = server.cpu_seconds()
    is_over.set()
    watcher.join()
    result = json.loads(
        next(line for line in output.splitlines() if line.startswith("RESULT ")).removeprefix("RESULT ")
    )
    took = result["duration_us"] / 1e6
    client_cpu = sum(client_after[:2]) - sum(client_before[:2])
    return Load(
        requests_per_second=result["requests"] / took,
        p50_ms=result["p50_us"] / 1000,
        p99_ms=result["p99_us"] / 1000,
        num_failed=result["failed"],
        client_cpu_percent=100 * client_cpu / took,
        server_cpu_us_per_request=1e6 * (cpu_after - cpu_before) / max(result["requests"], 1),
        memory_mib=max(memory, default=math.nan),
    )


def _fill(
    report: Report,
    size: Size,
    loads: dict[tuple[str, int], list[Load]],
    cold: dict[str, float],
    agreement: dict[str, int],
) -> None:
    shape = f"{size.num_items}x{size.dim}"

    def middle(name: str, connections: int, figure: str) -> float:
        return float(median(getattr(load, figure) for load in loads[name, connections]))

    for connections in CONNECTIONS:
        for name in cold:
            report.add(
                f"predict, {connections} connections",
                name,
                shape,
                requests_per_second=round(middle(name, connections, "requests_per_second"), 1),
                p50_ms=round(middle(name, connections, "p50_ms"), 3),
                p99_ms=round(middle(name, connections, "p99_ms"), 3),
                failed_requests=sum(load.num_failed for load in loads[name, connections]),
                server_cpu_us_per_request=round(middle(name, connections, "server_cpu_us_per_request"), 1),
                client_cpu_percent=round(middle(name, connections, "client_cpu_percent"), 1),
            )
        rates = [middle(name, connections, "requests_per_second") for name in ("endcap", "tensorflow")]
        waits = [middle(name, connections, "p99_ms") for name in ("endcap", "tensorflow")]
        report.ratios[f"serving.rps_c{connections}"] = round(rates[0] / rates[1], 3)
        report.ratios[f"serving.p99_c{connections}"] = round(waits[1] / waits[0], 3)
    memory = {name: middle(name, MEMORY_RUN, "memory_mib") for name in cold}
    for name in cold:
        report.add("footprint", name, shape, memory_mib=round(memory[name], 1), cold_start_seconds=round(cold[name], 3))
    report.add("same answers", "endcap, tensorflow", shape, **agreement)
    report.ratios["serving.memory"] = round(memory["tensorflow"] / memory["endcap"], 3)
    report.ratios["serving.cold_start"] = round(cold["tensorflow"] / cold["endcap"], 3)


def _peer_versions(python: Path) -> dict[str, str]:
    code = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    output = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout
    installed: dict[str, str] = json.loads(output)
    wanted = ("tensorflow", "tensorflow_cpu", "tensorflow-cpu", "flask", "Flask", "gunicorn")
    return {name: number for name, number in installed.items() if name in wanted}


def _say(message: str) -> None:
    print(f"… {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
