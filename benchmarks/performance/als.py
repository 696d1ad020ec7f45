"""Made-up purchases through ALS, by Endcap and by implicit in turn: seconds, objectives and their ratio out.

The same algorithm on both sides: 64 factors, three steps of conjugate gradients a row, two threads, single precision.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import scipy.sparse as sp

from benchmarks.report import Report
from endcap.models.als import factorize

ROOT = Path(__file__).resolve().parents[2]
SIZES = ((4_000, 3_600, 260_000), (50_000, 10_000, 2_000_000))
NUM_FACTORS, L2, NUM_EPOCHS, NUM_THREADS = 64, 1.0, 5, 2


def purchases(num_users: int, num_items: int, num_lines: int) -> sp.csr_array:
    """Weights of pairs; products and users are as unequal as a shop's."""
    rng = np.random.default_rng(7)
    items = 1 / np.arange(10, num_items + 10) ** 0.8
    users = rng.pareto(1.5, num_users) + 0.2
    drawn = (
        rng.choice(num_users, num_lines, p=users / users.sum()),
        rng.choice(num_items, num_lines, p=items / items.sum()),
    )
    counts = sp.csr_array((np.ones(num_lines), drawn), shape=(num_users, num_items))
    counts.sum_duplicates()
    counts.data = 1.0 + 10.0 * np.log1p(counts.data)
    return counts


def objective(weights: sp.csr_array, users: np.ndarray, items: np.ndarray) -> float:
    """What both minimize, without forming the dense matrix."""
    users, items = users.astype(np.float64), items.astype(np.float64)
    pairs = weights.tocoo()
    dots = np.einsum("ef,ef->e", users[pairs.row], items[pairs.col])
    everywhere = np.sum((users.T @ users) * (items.T @ items))
    bought = np.sum(pairs.data * (1 - dots) ** 2 - dots**2)
    return float(everywhere + bought + L2 * (np.sum(users**2) + np.sum(items**2)))


def measure(report: Report, peer_python: Path, rounds: int, sizes: tuple[tuple[int, int, int], ...] = SIZES) -> None:
    """Add a row for each system and size, and the ratio of the largest as `training.als`."""
    for size in sizes:
        weights = purchases(*size)
        label = f"{size[0]:,} users, {size[1]:,} items, {weights.nnz:,} pairs"
        seconds: dict[str, list[float]] = {"endcap": [], "implicit": []}
        objectives: dict[str, float] = {}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "weights.npz"
            sp.save_npz(path, sp.csr_matrix(weights.astype(np.float32)), compressed=False)
            for _ in range(rounds):
                start = time.perf_counter()
                users, items = factorize(
                    weights, num_factors=NUM_FACTORS, l2=L2, num_epochs=NUM_EPOCHS, seed=7, num_threads=NUM_THREADS
                )
                seconds["endcap"].append(time.perf_counter() - start)
                command = [peer_python, ROOT / "benchmarks" / "peers" / "implicit" / "als.py", path]
                settings = (NUM_FACTORS, L2, NUM_EPOCHS, NUM_THREADS)
                said = subprocess.run([*command, *map(str, settings)], check=True, capture_output=True, text=True)
                seconds["implicit"].append(json.loads(said.stdout.splitlines()[-1])["seconds"])
                theirs = np.load(f"{path}.factors.npz", allow_pickle=False)
            objectives["endcap"] = objective(weights, users, items)
            objectives["implicit"] = objective(weights, theirs["users"], theirs["items"])
        for system, taken in seconds.items():
            report.add("als", system, label, seconds=median(taken), objective=objectives[system])
        report.ratios["training.als"] = median(seconds["implicit"]) / median(seconds["endcap"])


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write machine, rows and ratios here")
    parser.add_argument("--quick", action="store_true", help="the small size, once")
    parser.add_argument("--peer-python", type=Path, default=ROOT / ".venv-peers" / "implicit" / "bin" / "python")
    options = parser.parse_args()
    report = Report("ALS beside implicit", ("numpy", "scipy", "torch"))
    measure(report, options.peer_python, 1 if options.quick else 3, SIZES[:1] if options.quick else SIZES)
    report.print()
    if options.json:
        report.write_json(options.json)


if __name__ == "__main__":
    main()
