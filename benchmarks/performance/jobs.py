"""What a job costs beyond its training, and how fast it ends when it is told to: `python -m benchmarks.performance.jobs`.

Trains the demo's model with and without checkpoints, with one process and with two, by turns, and hits runs of it with
SIGTERM at several moments.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import Report
from endcap.contracts.configuration import Configuration
from endcap.contracts.reporting import Silent
from endcap.contracts.stopping import Stop
from endcap.features.dataset import FeatureTables
from endcap.flows import fitting
from endcap.flows.features import build_features
from endcap.ingest.pipeline import ingest
from endcap.training.checkpoints import Checkpoints
from endcap.training.epochs import Keeping
from endcap.workspace.configuration import load_configuration
from endcap.workspace.layout import Workspace

ROOT = Path(__file__).parents[2]
INVOICES = ROOT / "examples" / "online_retail" / "online_retail.parquet"
OVERRIDES = ("experiment=baseline",)
QUICK = ("training.num_epochs=2",)
OFTEN_STEPS = 50
TOGETHER = "benchmarks.performance.jobs_together"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark as told on the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.performance.jobs", description=__doc__)
    parser.add_argument("--workspace", type=Path, help="an ingested one; by default the demo's invoices are ingested")
    parser.add_argument("--json", type=Path, help="also write machine, rows and ratios here")
    parser.add_argument("--quick", action="store_true", help="two epochs, each measured once")
    parser.add_argument("--only", choices=("processes", "checkpoints", "stops"), help="measure but one of the three")
    options = parser.parse_args(arguments)
    report = Report("Jobs: checkpoints, and the way from SIGTERM to the end", ("endcap", "torch", "safetensors"))
    overrides = [*OVERRIDES, *(QUICK if options.quick else ())]
    with tempfile.TemporaryDirectory(prefix="endcap-bench-") as name:
        folder = Path(name)
        workspace = folder / "workspace"
        if options.workspace is not None:
            shutil.copytree(options.workspace, workspace)
        else:
            ingest(Workspace.init(workspace), "online_retail", INVOICES)
        num_rounds = 1 if options.quick else 3
        if options.only in (None, "checkpoints"):
            measure_checkpoints(report, Workspace.open(workspace), overrides, num_rounds)
        if options.only in (None, "processes"):
            measure_processes(report, workspace, num_rounds)
        if options.only in (None, "stops"):
            measure_stops(report, workspace, overrides, folder)
    report.print()
    if options.json is not None:
        report.write_json(options.json)


def measure_checkpoints(report: Report, workspace: Workspace, overrides: Sequence[str], num_rounds: int) -> None:
    """Seconds of tuning without checkpoints, with those of the configuration, and with one every few steps."""
    kinds: dict[str, list[str]] = {
        "none": [], "as configured": [], f"every {OFTEN_STEPS} steps": [f"training.checkpoint_steps={OFTEN_STEPS}"]
    }  # fmt: skip
    taken: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    for _ in range(num_rounds):
        for kind, more in kinds.items():
            configuration = load_configuration([*overrides, *more])
            tables = build_features(workspace, configuration, Silent())
            taken[kind].append(_tune(tables, configuration, keeps=kind != "none"))
    without = statistics.median(one["seconds"] for one in taken["none"])
    for kind, found in taken.items():
        middle = {name: statistics.median(one[name] for one in found) for name in found[0]}
        report.add(
            "checkpoints", kind, f"{int(middle['num_steps']):,} steps",
            training_seconds=middle["seconds"], num_written=int(middle["num"]), mb_each=middle["mb"],
            ms_each=1000 * middle["writing"] / max(middle["num"], 1), percent_of_time=100 * middle["writing"] / middle["seconds"],
        )  # fmt: skip
        if kind == "as configured":
            report.ratios["training time without checkpoints / with"] = without / middle["seconds"]


class _Counted(Checkpoints):
    """Counts what it writes."""

    num, num_bytes, num_steps = 0, 0, 0

    def _publish(self, name: str, step: int, *rest: Any) -> None:
        super()._publish(name, step, *rest)
        self.num, self.num_steps = self.num + 1, step
        size = sum(path.stat().st_size for path in (self._folder / name).iterdir())
        self.num_bytes = max(self.num_bytes, size)


def _tune(tables: FeatureTables, configuration: Configuration, *, keeps: bool) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="endcap-bench-") as folder:
        counted = _Counted(Path(folder), "tune", configuration.training, Silent())
        started = time.perf_counter()
        trained = fitting.tune(tables, configuration, Silent(), Keeping(counted if keeps else None, Stop())).trained
        seconds = time.perf_counter() - started
    del trained
    return {
        "seconds": seconds, "num": counted.num, "mb": counted.num_bytes / 1e6, "writing": counted.seconds,
        "num_steps": counted.num_steps,
    }  # fmt: skip


def measure_processes(report: Report, workspace: Path, num_rounds: int) -> None:
    """Questions a second of two processes that share the batches of one, beside one with a thread and with two.

    And what each costs its process in processor time, which tells the same on a busy machine.
    """
    torchrun = ("torch.distributed.run", "--nproc-per-node", "2", "-m")
    kinds: dict[str, tuple[tuple[str, ...], int]] = {
        "1 process, 1 thread": ((), 1), "1 process, 2 threads": ((), 2), "2 processes, 1 thread each": (torchrun, 1),
    }  # fmt: skip
    taken: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    for _ in range(num_rounds):
        for kind, (launcher, num_threads) in kinds.items():
            program = [*launcher, TOGETHER, str(workspace), *OVERRIDES, *QUICK, f"training.num_threads={num_threads}"]
            done = subprocess.run(
                [sys.executable, "-m", *program], env=os.environ | {"OMP_NUM_THREADS": str(num_threads)},
                stdout=subprocess.PIPE, text=True, check=True,
            )  # fmt: skip
            taken[kind].append(json.loads(done.stdout))
    rates, costs = {}, {}
    for kind, found in taken.items():
        rates[kind] = statistics.median(one["num_questions"] / one["seconds"] for one in found)
        costs[kind] = statistics.median(1e6 * one["cpu_seconds"] / one["num_questions"] for one in found)
        report.add(
            "the same batches", kind, f"{int(found[0]['num_questions']):,} questions", questions_per_second=rates[kind],
            cpu_us_per_question_of_a_process=costs[kind], last_loss=found[0]["loss"],
        )  # fmt: skip
    one, threads, two = rates.values()
    report.ratios["questions a second, 2 processes / 1 of one thread"] = two / one
    report.ratios["questions a second, 2 processes / 1 of two threads"] = two / threads
    # What two idle cores would come to: neither waits for a core, and their work is the same.
    cpu_of_one, _, cpu_of_two = costs.values()
    report.ratios["processor time of 1 process / of each of 2"] = cpu_of_one / cpu_of_two


def measure_stops(report: Report, workspace: Path, overrides: Sequence[str], folder: Path) -> None:
    """Seconds from SIGTERM to the end of the process: early, in a later step of tuning, and in the evaluation."""
    for system, options, place, seen in (
        ("endcap train", (), "2 s after its start", "run started"),
        ("endcap train", (), "tuning, later", "metric"),
        ("endcap train", (), "evaluation", "exporting"),
        ("--processes 2", ("--processes", "2"), "tuning, later", "metric"),
        ("--processes 2", ("--processes", "2"), "evaluation", "exporting"),
    ):
        copied = folder / "hit"
        shutil.copytree(workspace, copied)
        seconds, code = _hit(copied, [*options, *overrides], seen)
        report.add("SIGTERM", system, place, seconds_to_exit=seconds, exit_code=code)
        shutil.rmtree(copied)


def _hit(workspace: Path, asked: Sequence[str], seen: str) -> tuple[float, int]:
    """Start a run, and send it SIGTERM a little after the first line that names `seen`."""
    command = [sys.executable, "-m", "train.main", *asked, "-w", str(workspace), "--log-format", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            told = json.loads(line)
            if seen in (told["event"], told.get("stage")):
                break
        time.sleep(2.0)
        process.send_signal(signal.SIGTERM)
        started = time.perf_counter()
        process.stdout.read()
        code = process.wait()
        return time.perf_counter() - started, code


if __name__ == "__main__":
    main()
