"""One synthetic model served by Endcap and by a peer in turn: throughput, latency, memory, cold start and ratios out.

Small (100k products) beside the peer, and with exclusions and a filter beside itself; large (a million) beside the peer,
and overloaded.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.performance.quiet import quietest
from benchmarks.performance.serving_large import measure_large
from benchmarks.performance.serving_load import QUICK, THOROUGH, Client, Load, Plan, Run, figures_of, middle
from benchmarks.performance.serving_systems import (
    ROOT,
    SEED,
    Start,
    compare_answers,
    instance,
    our_start,
    peer_start,
    peer_versions,
    running,
    say,
    write_models,
)
from benchmarks.performance.synthetic import NUM_CATEGORIES, Size, add_items, make_weights, write_release
from benchmarks.report import Report

CONNECTIONS = (1, 8, 32)
MEMORY_RUN = 0
PLAIN, LIMITED = "plain", "200 excluded, one category"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark as told on the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.performance.serving", description=__doc__)
    parser.add_argument("--peer", choices=["tensorflow"], default="tensorflow")
    parser.add_argument("--json", type=Path, help="also write machine, rows and ratios here")
    parser.add_argument("--quick", action="store_true", help="a rough answer in about two minutes")
    parser.add_argument(
        "--only", choices=["small", "filtered", "large"], action="append", help="some of the three parts; may repeat"
    )
    options = parser.parse_args(arguments)
    peer_python = ROOT / ".venv-peers" / options.peer / "bin" / "python"
    if shutil.which("wrk") is None:
        parser.error("wrk is not installed; on Debian: apt-get install wrk")
    if not peer_python.exists():
        parser.error(f"the peer's environment {peer_python.parents[1]} is missing; make it: make bench-peers")
    report = Report(
        title="Serving: top 100 of all products, exact, beside a TensorFlow SavedModel behind Flask and gunicorn",
        libraries=["numpy", "onnxruntime", "uvloop", "httptools", "orjson", "msgspec"],
        peer_libraries=peer_versions(peer_python),
    )
    parts = options.only or ["small", "filtered", "large"]
    plan = QUICK if options.quick else THOROUGH
    with tempfile.TemporaryDirectory(prefix="endcap-bench-") as folder:
        if "small" in parts:
            run_small(Path(folder) / "small", peer_python, plan, report)
        if "filtered" in parts:
            run_filtered(Path(folder) / "filtered", plan, report)
        if "large" in parts:
            measure_large(Path(folder) / "large", peer_python, plan, report)
    report.print()
    if options.json is not None:
        report.write_json(options.json)


def run_small(folder: Path, peer_python: Path, plan: Plan, report: Report) -> None:
    """Measure both systems below `folder` and fill the report."""
    size = Size()
    say("building the peer's SavedModel")
    write_models(folder, peer_python, make_weights(size, SEED), size)
    starts = {"endcap": our_start(folder / "release"), "tensorflow": peer_start(folder, peer_python)}
    say("cold starts")
    cold = _cold_starts(starts, size, max(plan.rounds, 1))
    with running(starts["endcap"]) as ours, running(starts["tensorflow"]) as peer:
        for server in (ours, peer):
            server.wait_for_answer({"instances": [instance(0, size)]})
        say(f"comparing answers for {plan.num_checked:,} customers")
        agreement = compare_answers(ours, peer, size, plan.num_checked)
        loads = _measure_loads([Run("endcap", ours), Run("tensorflow", peer)], size, plan)
    _fill(report, size, loads, cold, agreement)


def run_filtered(folder: Path, plan: Plan, report: Report) -> None:
    """What exclusions and a filter in every request cost Endcap: its own throughput without them is the measure."""
    size = Size()
    folder.mkdir()
    write_release(folder / "release", make_weights(size, SEED), size, SEED)
    add_items(folder / "release", size, SEED)
    client = Client(size)
    with running(our_start(folder / "release")) as server:
        server.wait_for_answer({"instances": [instance(0, size)]})
        runs = [Run(PLAIN, server), Run(LIMITED, server, limits_answers=True)]
        for run in runs:
            client.measure(run, max(CONNECTIONS), plan.warm_seconds)
        say(f"{LIMITED} of {NUM_CATEGORIES}, against plain")
        loads = client.interleaved(runs, max(CONNECTIONS), plan)
        memory = client.measure(runs[1], max(CONNECTIONS), plan.warm_seconds, watches_memory=True).memory_mib
    shape = f"{size.num_items}x{size.dim}"
    for name, found in loads.items():
        report.add(f"{name}, {max(CONNECTIONS)} connections", "endcap", shape, **figures_of(found))
    report.add(f"{LIMITED} of {NUM_CATEGORIES}", "endcap", shape, memory_mib=round(memory, 1))
    rates = {name: middle(found, "requests_per_second") for name, found in loads.items()}
    report.ratios["serving.filtered_rps"] = round(rates[LIMITED] / rates[PLAIN], 3)


def _cold_starts(starts: dict[str, Start], size: Size, rounds: int) -> dict[str, float]:
    """Median seconds from process start to the first correct answer."""
    expected: list[str] | None = None

    def start_each() -> dict[str, float]:
        nonlocal expected
        took = {}
        for name, start in starts.items():
            with running(start) as server:
                answer = server.wait_for_answer({"instances": [instance(1, size)]})
                took[name] = time.perf_counter() - server.started_at
            top = answer["predictions"][0]["product_ids"][:10]
            expected = expected or top
            assert top == expected, f"{name} answers otherwise"
        return took

    start_each()  # files in the page cache, byte code compiled
    found = quietest(start_each, rounds)
    return {name: median(took[name] for took in found) for name in starts}


def _measure_loads(runs: Sequence[Run], size: Size, plan: Plan) -> dict[tuple[str, int], list[Load]]:
    client = Client(size)
    loads: dict[tuple[str, int], list[Load]] = {}
    for run in runs:
        client.measure(run, max(CONNECTIONS), plan.warm_seconds)
    for connections in CONNECTIONS:
        say(f"load with {connections} connections")
        for name, found in client.interleaved(runs, connections, plan).items():
            loads[name, connections] = found
    # In a run of its own: reading a large process's memory map holds it up, which would count more against the faster system.
    for run in runs:
        loads[run.name, MEMORY_RUN] = [client.measure(run, max(CONNECTIONS), plan.warm_seconds, watches_memory=True)]
    return loads


def _fill(
    report: Report,
    size: Size,
    loads: dict[tuple[str, int], list[Load]],
    cold: dict[str, float],
    agreement: dict[str, int],
) -> None:
    shape = f"{size.num_items}x{size.dim}"
    for connections in CONNECTIONS:
        for name in cold:
            report.add(f"predict, {connections} connections", name, shape, **figures_of(loads[name, connections]))
        rates = [middle(loads[name, connections], "requests_per_second") for name in ("endcap", "tensorflow")]
        waits = [middle(loads[name, connections], "p99_ms") for name in ("endcap", "tensorflow")]
        report.ratios[f"serving.rps_c{connections}"] = round(rates[0] / rates[1], 3)
        report.ratios[f"serving.p99_c{connections}"] = round(waits[1] / waits[0], 3)
    memory = {name: middle(loads[name, MEMORY_RUN], "memory_mib") for name in cold}
    for name in cold:
        report.add("footprint", name, shape, memory_mib=round(memory[name], 1), cold_start_seconds=round(cold[name], 3))
    report.add("same answers", "endcap, tensorflow", shape, **agreement)
    report.ratios["serving.memory"] = round(memory["tensorflow"] / memory["endcap"], 3)
    report.ratios["serving.cold_start"] = round(cold["tensorflow"] / cold["endcap"], 3)


if __name__ == "__main__":
    main()
