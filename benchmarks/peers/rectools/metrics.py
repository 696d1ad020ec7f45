"""Recommendations and truth as Parquet in, mean metrics at several k and the seconds that RecTools took out, as JSON."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pandas as pd
from rectools.metrics import MAP, MRR, NDCG, HitRate, Precision, Recall, calc_metrics


def main(recommendations: str, truth: str, *ks: str) -> None:
    """Read, measure all metrics in one call, and print them."""
    metrics = {}
    for k in map(int, ks):
        metrics |= {f"recall@{k}": Recall(k), f"precision@{k}": Precision(k), f"hit_rate@{k}": HitRate(k)}
        metrics |= {f"ndcg@{k}": NDCG(k, divide_by_achievable=True), f"mrr@{k}": MRR(k), f"map@{k}": MAP(k)}
    started = time.perf_counter()
    values = calc_metrics(metrics, reco=pd.read_parquet(recommendations), interactions=pd.read_parquet(truth))
    seconds = time.perf_counter() - started
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak_mib = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    result = {name: float(value) for name, value in values.items()}
    print(json.dumps({"seconds": seconds, "peak_mib": peak_mib, "result": result}))


if __name__ == "__main__":
    main(*sys.argv[1:])
