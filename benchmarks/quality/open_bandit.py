"""The Open Bandit logs in, off-policy estimates of one policy from the other's log out, beside what each earned itself.

Two policies were live on the same days of the same campaign: one chose among 34 products uniformly, one by Thompson
sampling. So what one would have earned is known, and estimates from the other's log can be held against it.

    python -m benchmarks.quality.open_bandit DATASET_FOLDER

The folder holds `random_men.parquet` and `bts_men.parquet` of the Open Bandit Dataset (Saito et al., 2021). Thompson
sampling moved during the week; its share of each product by position over all its rows serves as the policy.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.report import Report
from endcap.evaluation.off_policy import Estimate, Log, doubly_robust, fold_rates, ips, snips

COLUMNS = ["item_id", "position", "click", "propensity_score"]
CLIP = 5.0

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def read_log(path: Path) -> tuple[IntArray, IntArray, FloatArray, FloatArray]:
    """Products from 0, positions from 0, clicks, propensities."""
    table = pq.read_table(path, columns=COLUMNS)
    items, positions, clicks, propensities = (table[name].to_numpy() for name in COLUMNS)
    return items, positions - 1, clicks.astype(np.float64), propensities.astype(np.float64)


def shares(items: IntArray, positions: IntArray) -> FloatArray:
    """The share of each product at each position, `[num_positions, num_items]`."""
    counts = np.zeros((int(positions.max()) + 1, int(items.max()) + 1))
    np.add.at(counts, (positions, items), 1.0)
    return counts / counts.sum(axis=1, keepdims=True)


def estimates(path: Path, target: FloatArray, seed: int = 0) -> list[tuple[str, Estimate]]:
    """Every estimate of the policy `target` `[num_positions, num_items]` from the log at `path`."""
    items, positions, clicks, propensities = read_log(path)
    rates = fold_rates(items, clicks, target.shape[1], seed=seed)
    log = Log(
        rewards=clicks,
        propensities=propensities,
        targets=target[positions, items],
        expected=rates[np.arange(len(items)), items],
        expected_target=(rates * target[positions]).sum(axis=1),
    )
    return [
        ("IPS", ips(log)),
        (f"IPS, clip {CLIP:g}", ips(log, clip=CLIP)),
        ("SNIPS", snips(log)),
        ("SNIPS, bootstrap", snips(log, method="bootstrap", seed=seed)),
        ("DR", doubly_robust(log)),
        (f"DR, clip {CLIP:g}", doubly_robust(log, clip=CLIP)),
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    paths = {"uniform": arguments.folder / "random_men.parquet", "Thompson": arguments.folder / "bts_men.parquet"}
    policies = {}
    for name, path in paths.items():
        items, positions, _, _ = read_log(path)
        policies[name] = shares(items, positions)
    policies["uniform"] = np.full_like(policies["Thompson"], 1 / policies["Thompson"].shape[1])
    report = Report("Click rates of one policy, estimated from the other's log", ["numpy", "pyarrow"])
    for logged, other in (("uniform", "Thompson"), ("Thompson", "uniform")):
        clicks = read_log(paths[other])[2]
        own, half = float(clicks.mean()), 1.96 * float(clicks.std()) / len(clicks) ** 0.5
        work = f"{other}, from the {logged} log"
        report.add(work, "its own clicks", f"{len(clicks):,} rows", **_per_mille(own, own - half, own + half),
                   effective_rows=len(clicks))  # fmt: skip
        for name, found in estimates(paths[logged], policies[other]):
            value = found.value
            report.add(work, name, f"{found.num_rows:,} rows", **_per_mille(value.mean, value.low, value.high),
                       effective_rows=round(found.effective_size))  # fmt: skip
            for note in found.notes:
                print(f"{work}, {name}: {note}")
    report.print()
    if arguments.json:
        report.write_json(arguments.json)


def _per_mille(value: float, low: float, high: float) -> dict[str, float]:
    return {"per_mille": 1000 * value, "low_per_mille": 1000 * low, "high_per_mille": 1000 * high}


if __name__ == "__main__":
    main()
