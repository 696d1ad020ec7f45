"""A workspace with the demo shop in, the best configuration beside every baseline on its test period out, seed by seed.

    endcap init shop && endcap ingest --source online_retail FILE --workspace shop
    python -m benchmarks.quality.online_retail shop --seeds 7 8 9

Each seed is a training run of its own (`endcap train experiment=best seed=N`), with baselines tuned on the eval period; one that
the workspace holds already is measured again. Intervals are paired customer by customer.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.report import Report
from endcap.contracts.reporting import Silent
from endcap.evaluation.compare import Comparison
from endcap.flows.train_run import train_run
from endcap.workspace.configuration import load_configuration
from endcap.workspace.layout import Workspace

METRIC = "ndcg@10"


def add_rows(report: Report, seed: int, comparison: Comparison) -> None:
    """Add one row a counting and baseline, and keep the worst ratio to the best baseline over the seeds."""
    for counting, part in comparison.countings.items():
        model = part.candidate.metrics[METRIC].mean
        for baseline in part.baselines:
            gap = part.differences[baseline.name][METRIC]
            report.add(
                counting.label, baseline.title, f"seed {seed}, {part.num_customers:,} customers",
                model_percent=100 * model, baseline_percent=100 * baseline.metrics[METRIC].mean,
                difference_percent=100 * gap.mean, low_percent=100 * gap.low, high_percent=100 * gap.high,
            )  # fmt: skip
        key = f"quality.online_retail.{counting}"
        ratio = model / part.best_baseline(METRIC).metrics[METRIC].mean
        report.ratios[key] = min(ratio, report.ratios.get(key, ratio))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--experiment", default="best")
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    workspace = Workspace.open(arguments.workspace)
    report = Report(f"{METRIC} of experiment={arguments.experiment} beside every baseline", ["torch", "numpy"])
    for seed in arguments.seeds:
        configuration = load_configuration([f"experiment={arguments.experiment}", f"seed={seed}"])
        result = train_run(workspace, configuration, Silent())
        print(f"seed {seed}: {result.release.manifest.blessing.status}", flush=True)
        add_rows(report, seed, result.comparison)
    report.print()
    if arguments.json:
        report.write_json(arguments.json)


if __name__ == "__main__":
    main()
