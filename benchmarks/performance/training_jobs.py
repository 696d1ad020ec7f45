"""The name of a piece of training work and its files in, the work done in this process and what it took out, as JSON."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import torch
import torch._dynamo
from ibis.backends.duckdb import Backend  # noqa: F401 - likewise a first query

from endcap.contracts.configuration import ModelConfig, TrainingConfig
from endcap.contracts.features import FeatureConfig
from endcap.evaluation.files import read_file
from endcap.evaluation.lists import number_items, rank_lists, read_lists, read_truth, relevant_sets, wanting_users
from endcap.evaluation.metrics import find_hits, measure, metric_names
from endcap.features.fitted import FittedFeatures, fit
from endcap.models.two_tower import TwoTower
from endcap.training.data import Catalog, Questions, questions_of
from endcap.training.trainer import Trainer

FEATURES = FeatureConfig.model_validate({
    "buyer": {
        "user_id": {"type": "STRING", "is_primary_id": True, "embedding": {"dim": 32}},
        "country": {"type": "STRING", "embedding": {"dim": 8}},
        "event_time_us": {"type": "TIMESTAMP", "cyclical": {"period": ["hour", "day_of_week"]}},
        "days_since_last_purchase": {"type": "FLOAT64", "log": {}, "normalize": {}},
        "num_products": {"type": "INT64", "log": {}, "normalize": {}, "bucketize": {"n": 16, "dim": 8}},
    },
    "product": {
        "item_id": {"type": "STRING", "is_primary_id": True, "embedding": {"dim": 32}},
        "title": {"type": "STRING", "text": {"dim": 32, "min_count": 1, "max_vocab": 10_000}},
        "price": {"type": "FLOAT64", "bucketize": {"n": 16, "dim": 8}},
    },
})  # fmt: skip
MODEL = ModelConfig.model_validate({
    "buyer_tower": [{"units": 64}], "product_tower": [], "output_embedding_dim": 33, "repeat_head": False, "dropout": 0.0
})  # fmt: skip
LEARNING_RATE = 0.1
NUM_TIMED_EPOCHS = 2
TOP = 100
KS = (5, 10, 50, 100)


def train_two_tower(folder: Path, batch_size: int, num_threads: int) -> tuple[float, dict[str, Any]]:
    """Two epochs from Parquet: seconds to the end of the first, and of the second alone, which only computes."""
    settings = TrainingConfig(
        batch_size=batch_size, num_epochs=NUM_TIMED_EPOCHS, loss="in_batch", optimizer="adagrad", schedule="constant",
        learning_rate=LEARNING_RATE, warmup_steps=0, weight_decay=0, weight_average=0, id_dropout=0, history_dropout=0,
        profile_dropout=0, item_id_dropout=0, half_life_days=1e6, sparse_rows=20_000, whole_catalog=0, num_threads=num_threads,
    )  # fmt: skip
    torch.manual_seed(7)
    started = time.perf_counter()
    rows = pq.read_table(folder / "interactions.parquet")
    products = pq.read_table(folder / "products.parquet")
    fitted = fit(FEATURES, ibis.memtable(rows), ibis.memtable(products))
    catalog = Catalog(fitted, products.append_column("day", pa.array(np.zeros(products.num_rows, np.int64))))
    questions = on_one_day(fitted, rows)
    model = TwoTower(fitted.columns("buyer"), fitted.columns("product"), FEATURES.item_id, MODEL)
    end_us = int(questions.bought_us.max())
    trainer = Trainer(model.members[0], settings, catalog, questions, end_us, 7)
    moments = [time.perf_counter()]
    for _ in range(NUM_TIMED_EPOCHS):
        loss = trainer.run_epoch(lambda *_: None)
        moments.append(time.perf_counter())
    result = {
        "transforms_seconds": moments[0] - started,
        "compute_seconds": moments[2] - moments[1],
        "num_steps": len(trainer.losses) // NUM_TIMED_EPOCHS,
        "recall_at_100": _recall(model.eval(), catalog, on_one_day(fitted, pq.read_table(folder / "held_out.parquet"))),
        "loss": loss,
    }
    return moments[1] - started, result


def on_one_day(fitted: FittedFeatures, rows: pa.Table) -> Questions:
    """Each row a question with one product, all before the same catalog, as rows with joined products are."""
    targets = pa.ListArray.from_arrays(
        pa.array(np.arange(rows.num_rows + 1, dtype=np.int32)), rows["item_id"].combine_chunks()
    )
    questions = questions_of(fitted, rows.drop_columns(["item_id"]).append_column("targets", targets))
    return replace(questions, day=np.zeros(len(questions), np.int64))


@torch.no_grad()
def _recall(model: TwoTower, catalog: Catalog, questions: Questions) -> float:
    """Share of held-out purchases whose product stands among the first hundred; products unknown to training miss."""
    products = model.products(catalog.on(0))
    found = 0
    for start in range(0, len(questions), 512):
        rows = np.arange(start, min(start + 512, len(questions)))
        tensors, history = questions.batch(rows)
        score_BN = model.query(tensors, products, history)[0] @ products.vector_ND.T
        score_BN[:, 0] = -torch.inf
        lengths = questions.targets.lengths(rows)
        target_T = questions.targets.take(rows, lengths)
        top_BK = torch.topk(score_BN, TOP).indices[torch.from_numpy(lengths > 0)]
        found += int((top_BK == target_T.unsqueeze(1)).sum())
    return found / len(questions)


def evaluate(recommendations: Path, truth: Path) -> tuple[float, dict[str, float]]:
    """Every ranking metric at several k, from files."""
    started = time.perf_counter()
    wanted, ranked = read_truth(read_file(truth, "truth")), read_lists(read_file(recommendations, "lists"), "lists")
    user_ids = wanting_users(wanted)
    item_ids = number_items(None, [wanted.items, ranked.items])
    relevant = relevant_sets(wanted, user_ids, item_ids)
    lists = rank_lists(ranked, user_ids, item_ids, max(KS))
    hits = find_hits(lists.rankings, relevant, is_checked=True)
    means = {name: float(each.mean()) for name, each in measure(hits, relevant.lengths, metric_names(KS)).items()}
    return time.perf_counter() - started, means


def main() -> None:
    """Do one job and print a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    jobs = parser.add_subparsers(dest="job", required=True)
    two_tower = jobs.add_parser("two_tower")
    two_tower.add_argument("folder", type=Path)
    two_tower.add_argument("batch_size", type=int)
    two_tower.add_argument("num_threads", type=int)
    evaluation = jobs.add_parser("evaluation")
    evaluation.add_argument("recommendations", type=Path)
    evaluation.add_argument("truth", type=Path)
    options = parser.parse_args()
    torch.set_flush_denormal(True)  # before there are other threads: they take it over
    if options.job == "two_tower":
        torch.set_num_threads(options.num_threads)
    seconds, result = (
        train_two_tower(options.folder, options.batch_size, options.num_threads)
        if options.job == "two_tower"
        else evaluate(options.recommendations, options.truth)
    )
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak_mib = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    print(json.dumps({"seconds": seconds, "peak_mib": peak_mib, "result": result}))


if __name__ == "__main__":
    main()
