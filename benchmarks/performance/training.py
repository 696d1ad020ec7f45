"""Purchases and recommendations in files through training and evaluation, by Endcap and by peers in turn: ratios out.

Two towers beside TensorFlow Recommenders, all-item metrics beside RecTools, ALS beside implicit. Every job runs in a
process of its own and is timed without its imports, from the reading of Parquet on; peers keep big blocks of memory
instead of giving them back to the system after each step.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.performance import als
from benchmarks.performance.data import INVOICES, Sample, run_child
from benchmarks.performance.training_jobs import KS
from benchmarks.performance.two_tower_data import write_made_up, write_shop
from benchmarks.report import Report

ROOT = Path(__file__).resolve().parents[2]
PEERS = ("tfrs", "rectools", "implicit")
BATCH, NUM_THREADS, DEPTH = 2048, 2, 100
QUICK_ROWS = 120_000
MADE_UP = (2_000_000, 200_000, 50_000)
LISTS, QUICK_LISTS = (100_000, 20_000), (20_000, 5_000)
MAX_WANTED = 40
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 31)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark as told on the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.performance.training", description=__doc__)
    parser.add_argument("--json", type=Path, help="also write machine, rows and ratios here")
    parser.add_argument("--quick", action="store_true", help="a rough answer: the smaller sizes, each job once")
    parser.add_argument("--only", choices=("two_tower", "evaluation", "als"), help="this part alone")
    options = parser.parse_args(arguments)
    missing = [name for name in PEERS if not peer_python(name).exists()]
    if missing:
        parser.error(f"found no .venv-peers/{', .venv-peers/'.join(missing)}; make them: make bench-peers")
    report = Report(
        title="Training and evaluation beside TensorFlow Recommenders, RecTools and implicit",
        libraries=["torch", "numpy", "pyarrow", "duckdb", "scipy"],
        peer_libraries=peer_libraries(),
    )
    rounds = 1 if options.quick else 3
    with tempfile.TemporaryDirectory(prefix="endcap-bench-") as place:
        folder = Path(place)
        if options.only in (None, "two_tower"):
            num_rows = write_shop(INVOICES, folder / "shop", num_rows=QUICK_ROWS if options.quick else None)
            measure_two_tower(report, folder / "shop", num_rows, rounds, "")
            if not options.quick:
                num_rows = write_made_up(*MADE_UP, folder / "made_up")
                measure_two_tower(report, folder / "made_up", num_rows, rounds, "_2m")
        if options.only in (None, "evaluation"):
            measure_evaluation(report, folder, QUICK_LISTS if options.quick else LISTS, rounds)
    if options.only in (None, "als"):
        als.measure(report, peer_python("implicit"), rounds, als.SIZES[:1] if options.quick else als.SIZES)
    report.print()
    if options.json is not None:
        report.write_json(options.json)


def peer_python(name: str) -> Path:
    """The interpreter of a peer's environment."""
    return ROOT / ".venv-peers" / name / "bin" / "python"


def peer_libraries() -> dict[str, str]:
    """What each peer's requirements pin."""
    files = [ROOT / "benchmarks" / "peers" / name / "requirements.txt" for name in PEERS]
    lines = [line for path in files for line in path.read_text(encoding="utf-8").splitlines() if "==" in line]
    return dict(line.split("==") for line in lines)


def measure_two_tower(report: Report, folder: Path, num_rows: int, rounds: int, suffix: str) -> None:
    """Rows for both sides, and ratios of seconds from Parquet to the end of epoch one and of an epoch's computing alone."""
    arguments = [str(folder), str(BATCH), str(NUM_THREADS)]
    ours = [sys.executable, "-m", "benchmarks.performance.training_jobs", "two_tower", *arguments]
    theirs = [str(peer_python("tfrs")), str(ROOT / "benchmarks" / "peers" / "tfrs" / "two_tower.py"), *arguments]
    samples = in_turn({"endcap": ours, "tensorflow-recommenders": theirs}, rounds, "two towers")
    for system, taken in samples.items():
        report.add(
            f"two towers, batches of {BATCH}",
            system,
            f"{num_rows:,} rows",
            seconds=median(sample.seconds for sample in taken),
            transforms_seconds=median(sample.result["transforms_seconds"] for sample in taken),
            compute_seconds=middle_compute(taken),
            recall_at_100=f"{taken[0].result['recall_at_100']:.3f}",
            peak_mib=max(sample.peak_mib for sample in taken),
        )
    mine, other = samples["endcap"], samples["tensorflow-recommenders"]
    whole = median(sample.seconds for sample in other) / median(sample.seconds for sample in mine)
    report.ratios[f"training.two_tower{suffix}"] = round(whole, 3)
    report.ratios[f"training.two_tower{suffix}_compute"] = round(middle_compute(other) / middle_compute(mine), 3)


def middle_compute(samples: Sequence[Sample]) -> float:
    """Median seconds of the second epoch, in which nothing is transformed or compiled."""
    return median(sample.result["compute_seconds"] for sample in samples)


def measure_evaluation(report: Report, folder: Path, size: tuple[int, int], rounds: int) -> None:
    """Rows for both sides with numbers and with texts as ids, the ratios, and how far apart the metrics are."""
    num_users, num_items = size
    for kind in ("numbers", "texts"):
        recommendations, truth = write_lists(folder, num_users, num_items, as_text=kind == "texts")
        files = [str(recommendations), str(truth)]
        script = ROOT / "benchmarks" / "peers" / "rectools" / "metrics.py"
        ours = [sys.executable, "-m", "benchmarks.performance.training_jobs", "evaluation", *files]
        theirs = [str(peer_python("rectools")), str(script), *files, *map(str, KS)]
        samples = in_turn({"endcap": ours, "rectools": theirs}, rounds, f"evaluation, ids are {kind}")
        values = {system: taken[0].result for system, taken in samples.items()}
        num_compared, largest = largest_difference(values["endcap"], values["rectools"])
        for system, taken in samples.items():
            report.add(
                f"{len(values['endcap'])} metrics, ids are {kind}",
                system,
                f"{num_users:,} lists of {DEPTH}",
                seconds=median(sample.seconds for sample in taken),
                peak_mib=max(sample.peak_mib for sample in taken),
                metrics_compared=num_compared,
                largest_difference=f"{largest:.1e}",
            )
        seconds = {system: median(sample.seconds for sample in taken) for system, taken in samples.items()}
        key = "training.evaluation" + ("_of_texts" if kind == "texts" else "")
        report.ratios[key] = round(seconds["rectools"] / seconds["endcap"], 3)


def largest_difference(ours: Mapping[str, float], theirs: Mapping[str, float]) -> tuple[int, float]:
    """How many metrics both define alike, and how far apart they are at most.

    RecTools divides average precision by all that was wanted, Endcap by what k places can hold of it: these are the same
    from the k on that holds everything.
    """
    alike = [name for name in ours if not name.startswith("map@") or int(name.partition("@")[2]) >= MAX_WANTED]
    return len(alike), max(abs(ours[name] - theirs[name]) for name in alike)


def write_lists(folder: Path, num_users: int, num_items: int, *, as_text: bool) -> tuple[Path, Path]:
    """Made-up recommendations with ranks, and what was bought, both Parquet: distinct products, popular ones more often."""
    rng = np.random.default_rng(7)
    num_drawn = num_items - DEPTH
    item = np.sort((rng.random((num_users, DEPTH)) ** 2 * num_drawn).astype(np.int64), axis=1) + np.arange(DEPTH)
    item = rng.permuted(item, axis=1)
    user = np.arange(num_users) * 3 + 11
    lists = {"user_id": np.repeat(user, DEPTH), "item_id": item.ravel() * 7 + 5}
    num_wanted = np.minimum(rng.geometric(0.1, num_users), MAX_WANTED)
    place = np.repeat(np.arange(num_users), num_wanted)
    # Every third product bought is one of the recommended, so that there are hits.
    bought = (rng.random(len(place)) ** 2 * num_items).astype(np.int64)
    bought = np.where(rng.random(len(place)) < 1 / 3, item[place, rng.integers(0, DEPTH, len(place))], bought)
    pairs = np.unique(place * num_items + bought)
    pairs = rng.permutation(pairs)
    wanted = {"user_id": user[pairs // num_items], "item_id": pairs % num_items * 7 + 5}
    paths = (folder / "recommendations.parquet", folder / "truth.parquet")
    folder.mkdir(exist_ok=True)
    for path, columns in zip(paths, (lists, wanted), strict=True):
        table = pa.table({name: pa.array(values) for name, values in columns.items()})
        if as_text:
            table = pa.table({name: table[name].cast(pa.string()) for name in table.column_names})
        if path is paths[0]:
            table = table.append_column("rank", pa.array(np.tile(np.arange(1, DEPTH + 1), num_users)))
        pq.write_table(table, path)
    return paths


def in_turn(commands: Mapping[str, Sequence[str]], rounds: int, work: str) -> dict[str, list[Sample]]:
    """Run each command `rounds` times, one after the other."""
    samples: dict[str, list[Sample]] = {system: [] for system in commands}
    for number in range(rounds):
        for system, command in commands.items():
            print(f"… {work}, {system}, {number + 1} of {rounds}", file=sys.stderr, flush=True)
            kept = {} if system == "endcap" else KEEP_MEMORY
            samples[system].append(run_child(["env", *(f"{name}={value}" for name, value in kept.items()), *command]))
    return samples


if __name__ == "__main__":
    os.environ.pop("OMP_NUM_THREADS", None)  # each side is told its threads
    main()
