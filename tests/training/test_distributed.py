"""Two processes that share a batch learn what one learns from the whole of it."""

import json
import os
import socket
import subprocess
import sys

import ibis
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from endcap.contracts.errors import InputError
from endcap.contracts.features import Target
from endcap.features.transforms.target import FittedTarget
from endcap.training.distributed import Ranks, joined, ranks
from tests.training import in_parts

DAYS = [100, 101, 102, 103]
TOWERS = {
    "buyer_tower": [{"units": 6, "batch_norm": True, "l2": 0.01}],
    "product_tower": [{"units": 4, "batch_norm": True}],
    "output_embedding_dim": 7,
    "dropout": 0.0,
}
CASES = {
    "whole_catalog": ({}, {"negatives": "mixed", "new_item_dropout": 0.2}),
    "large_tables": ({"repeat_head": False}, {"whole_catalog": 0, "sparse_rows": 5, "loss": "in_batch", "num_hard": 2}),
    "pairwise": ({"num_members": 2}, {"whole_catalog": 0, "loss": "bpr", "weight_average": 0.0}),
    "ranking": ({"model_type": "ranking"}, {"rating_loss": "huber"}),
    "multitask": ({"model_type": "multitask", "task_weighting": "learned"}, {"rating_loss": "listwise"}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, random_questions, asked, question_table, product_table, fit_features, features):
    """Tables, transforms and cases as files; the last day has a single question, of which one process has nothing."""
    folder = tmp_path_factory.mktemp("in_parts")
    table = question_table([*random_questions, asked("u1", 103, (("p1", 3.0, 1),), ("p2",))])
    products = product_table(DAYS)
    named = features | {"target": {"column": "value"}}
    fitted = fit_features(table, products.slice(36), named)
    values = [[float(int(item[1:])) for item in row] for row in table["targets"].to_pylist()]
    lines = table.append_column("target_values", pa.array(values, pa.list_(pa.float64())))
    target = FittedTarget.fit(
        ibis.memtable(pa.table({"value": [value for row in values for value in row]})), Target(column="value")
    )
    pq.write_table(lines, folder / "lines.parquet")
    pq.write_table(products, folder / "products.parquet")
    (folder / "features.json").write_bytes(msgspec.json.encode(fitted))
    (folder / "target.json").write_bytes(msgspec.json.encode(target))
    # Of some weights, such as a bias before a batch norm, the gradient is nothing but rounding, which Adam would make steps of.
    settings = {"batch_size": 4, "num_negatives": 6, "learning_rate": 0.05, "num_epochs": 2, "optimizer": "sgd"}
    cases = {
        name: {"experiment": "parts", "features": named, "model": TOWERS | model, "training": settings | training}
        for name, (model, training) in CASES.items()
    }
    (folder / "cases.json").write_text(json.dumps(cases))
    return folder


@pytest.fixture(scope="module")
def two(folder):
    """What both processes came to."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    path = os.pathsep.join(part for part in sys.path if part)
    command = [sys.executable, in_parts.__file__, str(folder)]
    both = [
        subprocess.Popen(
            command, env=os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank, "PYTHONPATH": path},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in ("0", "1")
    ]  # fmt: skip
    said = [process.communicate(timeout=200)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], "\n".join(said)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_learn_what_one_does(name, folder, two):
    weights, losses = in_parts.train(folder, json.loads((folder / "cases.json").read_text())[name])
    first, second = (load_file(folder / f"{name}.{rank}.safetensors") for rank in (0, 1))
    assert two[0][name] == two[1][name] == pytest.approx(losses, rel=1e-4)
    for key, tensor in weights.items():
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(first[key], tensor, rtol=1e-3, atol=1e-4, msg=key)


def test_one_that_is_stopped_stops_both_and_both_go_on_to_the_same_bits(folder, two):
    assert two[0]["stopped"] == two[1]["stopped"] == [143, in_parts.STOPPED_AFTER]
    for rank in (0, 1):
        whole, stopped = (load_file(folder / f"{name}.{rank}.safetensors") for name in ("whole_catalog", "stopped"))
        for key, tensor in whole.items():
            assert torch.equal(stopped[key], tensor), key


def test_what_one_says_all_hear(two):
    assert two[0]["any"] == two[1]["any"] == [True, False]


@pytest.mark.parametrize("num", [1, 2, 3, 7])
@pytest.mark.parametrize("num_rows", [0, 1, 6, 20])
def test_parts_are_even_and_leave_nothing_out(num, num_rows):
    rows = np.arange(num_rows)
    parts = [rows[Ranks(rank, num).part(num_rows)] for rank in range(num)]
    assert np.concatenate(parts).tolist() == rows.tolist()
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_alone_nothing_is_shared(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined() as among:
        assert among.is_alone
        assert among.is_first
        assert ranks() is among
        x = torch.tensor([3.0, 1.0])
        assert among.gather(x, 2) is among.gather_any(x) is among.sum(x) is x
        assert among.union([torch.tensor([3, 1]), torch.tensor([1])]).tolist() == [1, 3]


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE='two', expected a number"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK=2 of WORLD_SIZE=2, expected 0 to one less"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": ""}, "no MASTER_ADDR; no MASTER_PORT"),
        ({"WORLD_SIZE": "0"}, "RANK=0 of WORLD_SIZE=0"),
    ],
)
def test_a_malformed_environment_is_refused(environment, found, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=found), joined():
        pass
