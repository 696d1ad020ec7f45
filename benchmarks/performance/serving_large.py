"""A million products served by Endcap and by the peer: throughput, memory, recall and behaviour under overload out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from benchmarks.performance.processes import ServerProcess
from benchmarks.performance.serving_load import Client, Plan, Run, figures_of, middle
from benchmarks.performance.serving_overload import measure_overload
from benchmarks.performance.serving_systems import (
    SCORE_TOLERANCE,
    SEED,
    compare_answers,
    customers_checked,
    instance,
    our_start,
    peer_start,
    running,
    say,
    write_models,
)
from benchmarks.performance.synthetic import Size, Weights, make_weights, query_graph
from benchmarks.report import Report

LARGE = Size(num_items=1_000_000, dim=64)
CONNECTIONS = 32
NUM_RECALLED = 300
_QUERIES_AT_ONCE = 20


def measure_large(folder: Path, peer_python: Path, plan: Plan, report: Report, size: Size = LARGE) -> None:
    """Measure both systems below `folder` and fill the report."""
    say(f"building the peer's SavedModel of {size.num_items:,} products")
    weights = make_weights(size, SEED)
    write_models(folder, peer_python, weights, size)
    client = Client(size)
    shape = f"{size.num_items}x{size.dim}"
    with running(our_start(folder / "release")) as ours:
        with running(peer_start(folder, peer_python)) as peer:
            for server in (ours, peer):
                server.wait_for_answer({"instances": [instance(0, size)]})
            say(f"comparing answers for {plan.num_checked // 4:,} customers, and with every score of {NUM_RECALLED}")
            agreement = compare_answers(ours, peer, size, plan.num_checked // 4)
            recall = recall_of(ours, weights, size, NUM_RECALLED)
            runs = [Run("endcap", ours), Run("tensorflow", peer)]
            for run in runs:
                client.measure(run, CONNECTIONS, plan.warm_seconds)
            say(f"load with {CONNECTIONS} connections")
            loads = client.interleaved(runs, CONNECTIONS, plan)
            memory = {
                run.name: client.measure(run, CONNECTIONS, plan.warm_seconds, watches_memory=True).memory_mib
                for run in runs
            }
        for name, found in loads.items():
            report.add(f"predict, {CONNECTIONS} connections", name, shape, **figures_of(found))
        for name, mib in memory.items():
            report.add("memory", name, shape, memory_mib=round(mib, 1))
        report.add("same answers", "endcap, tensorflow", shape, **agreement)
        report.add("recall of float32 search", "endcap", shape, compared_customers=NUM_RECALLED, recall=recall)
        rates = {name: middle(found, "requests_per_second") for name, found in loads.items()}
        report.ratios["serving.exact_1m_rps"] = round(rates["endcap"] / rates["tensorflow"], 3)
        report.ratios["serving.memory_1m"] = round(memory["tensorflow"] / memory["endcap"], 3)
        measure_overload(ours, rates["endcap"], size, plan.overload_seconds, folder, report)


def recall_of(server: ServerProcess, weights: Weights, size: Size, num_customers: int) -> float:
    """Share of the best products by float32 scores of all that the server answers; raises AssertionError below 1.

    A product counts as one of the best when its score is the last of theirs but for the rounding of float32 sums.
    """
    tower = ort.InferenceSession(query_graph(weights).SerializeToString(), providers=["CPUExecutionProvider"])
    numbers = customers_checked(size, num_customers)
    row_by_id = {item_id: row for row, item_id in enumerate(weights["item_ids"].tolist())}
    num_right = 0
    for start in range(0, num_customers, _QUERIES_AT_ONCE):
        rows = [instance(number, size) for number in numbers[start : start + _QUERIES_AT_ONCE]]
        answers = server.ask({"instances": rows})["predictions"]
        scores_BN = _vectors(tower, rows) @ weights["candidates"].T
        for answer, scores_N in zip(answers, scores_BN, strict=True):
            found = [row_by_id[product] for product in answer["product_ids"]]
            assert len(set(found)) == size.top_k, "a product is missing, or stands there twice"
            last = np.partition(scores_N, size.num_items - size.top_k)[size.num_items - size.top_k]
            num_right += int((scores_N[found] >= last - SCORE_TOLERANCE * max(1.0, abs(float(last)))).sum())
    recall = num_right / (num_customers * size.top_k)
    assert recall == 1.0, f"recall is {recall}"
    return recall


def _vectors(tower: ort.InferenceSession, rows: list[dict[str, Any]]) -> npt.NDArray[np.float32]:
    feeds = {
        "customer_id": np.array([row["customer_id"] for row in rows], dtype=object),
        "city": np.array([row["city"] for row in rows], dtype=object),
        "age": np.array([row["age"] for row in rows], dtype=np.float32),
    }
    vectors: npt.NDArray[np.float32] = tower.run(["vector"], feeds)[0]
    return vectors
