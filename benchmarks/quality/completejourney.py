"""The Complete Journey in, how a model with categories and demographics does beside every tuned baseline out.

    python -m benchmarks.quality.completejourney [--data FOLDER] [--seeds 7 8 9] [--more KEY=VALUE …] [--json FILE]

The folder holds `transactions.parquet`, `products.parquet` and `demographics.parquet` of the R package of that name (CC0). It
is ingested into a workspace of its own with `examples/completejourney/mapping.yaml`; each seed is a run of `endcap train
experiment=completejourney`, and its figures are those of its release. How much of what is bought later can be reached at all is
counted beside them.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow.compute as pc

from benchmarks.report import Report
from endcap.contracts.errors import InputError
from endcap.contracts.reporting import Silent
from endcap.evaluation.compare import Comparison
from endcap.features.dataset import FeatureTables
from endcap.flows.features import build_features
from endcap.flows.train_run import train_run
from endcap.ingest.pipeline import ingest
from endcap.workspace.configuration import load_configuration
from endcap.workspace.layout import Workspace

DATA: Final = Path("shared/data/completejourney")
MAPPING: Final = Path(__file__).parents[2] / "examples" / "completejourney" / "mapping.yaml"
METRIC: Final = "ndcg@10"


def reach(tables: FeatureTables) -> dict[str, float]:
    """Shares of the test period's pairs of customer and product: bought by the customer before, sold before, never sold."""
    purchases, is_known = tables.purchases_before("test")
    users, items = (purchases[name].to_pylist() for name in ("user_id", "item_id"))
    own = {(user, item) for user, item, known in zip(users, items, is_known, strict=True) if known}
    sold = {item for _, item in own}
    back = {user for user, _ in own}
    asked = {
        (user, item) for user, item, known in zip(users, items, is_known, strict=True) if not known and user in back
    }
    own_share = np.mean([pair in own for pair in asked])
    sold_share = np.mean([pair[1] in sold for pair in asked])
    return {"bought_before": float(own_share), "sold_before": float(sold_share), "never_sold": float(1 - sold_share)}


def _measure(report: Report, comparison: Comparison, seed: int) -> None:
    """Add what each system reached, and the model minus each baseline, customer by customer."""
    for counting, part in comparison.countings.items():
        for system in part.systems:
            found = system.metrics[METRIC]
            size = f"seed {seed}, {part.num_customers:,} customers"
            report.add(str(counting), system.title, size, ndcg_at_10=found.mean, low=found.low, high=found.high)
        for name, differences in part.differences.items():
            gain = differences[METRIC]
            title = f"{counting}: the model minus"
            report.add(title, name, f"seed {seed}", difference=gain.mean, low=gain.low, high=gain.high)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9])
    parser.add_argument("--more", nargs="*", default=[], help="further overrides of the experiment")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not (arguments.data / "transactions.parquet").is_file():
        raise InputError(f"{arguments.data} holds no transactions.parquet. Give the folder of the data with --data.")
    report = Report("What grocers' customers buy next, all products ranked (completejourney)", ["torch", "numpy"])
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace.init(Path(folder) / "shop")
        ingest(workspace, "files", arguments.data, options={"mapping": str(MAPPING)})
        for seed in arguments.seeds:
            overrides = ["experiment=completejourney", f"seed={seed}", *arguments.more]
            configuration = load_configuration(overrides)
            if seed == arguments.seeds[0]:
                tables = build_features(workspace, configuration, Silent())
                asked = pc.sum(pc.list_value_length(tables.table("test")["targets"])).as_py()
                report.add("pairs of the test period", "share", f"{asked:,} pairs", **reach(tables))
            _measure(report, train_run(workspace, configuration, Silent()).comparison, seed)
            report.print()
    if arguments.json:
        report.write_json(arguments.json)


if __name__ == "__main__":
    main()
