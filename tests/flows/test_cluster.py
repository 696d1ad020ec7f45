"""Two machines of a cluster, played by two processes with a workspace each, that are told of each other by CLUSTER_SPEC alone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.releases.bundle import open_release
from tests.flows.live_training import ROOT
from tests.flows.test_job import feedback, requests, staged


@pytest.fixture
def environment(shop_lines, tmp_path):
    """All that a job in a cloud has to have, in folders."""
    staged(shop_lines, tmp_path / "staging")
    item_id = shop_lines["StockCode"][0].as_py()
    for name, rows in {"requests": requests([item_id, item_id]), "feedback": feedback(item_id)}.items():
        (tmp_path / name).mkdir()
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name / "day.parquet")
    return {
        "PROJECT_ID": "local", "REGION": "local", "ARTIFACT_BUCKET": f"{tmp_path}/artifacts", "RUN_ID": "together",
        "STAGING_PREFIX": f"{tmp_path}/staging", "MODEL_DIR": f"{tmp_path}/models", "EXPERIMENT_NAME": "nightly",
        "CHECKPOINT_DIR": f"{tmp_path}/checkpoints", "REQUESTS_TABLE": f"{tmp_path}/requests", "DATASET_RECSYS": "recsys",
        "FEEDBACK_TABLE": f"{tmp_path}/feedback", "DATASET_DRIFT": "drift", "DRIFT_TABLE": "drift.hourly",
        "VERTEX_EXPERIMENT": "nightly", "NO_GCE_CHECK": "true", "OMP_NUM_THREADS": "1",
    }  # fmt: skip


@pytest.mark.slow
def test_two_machines_make_one_release_and_stop_and_go_on_together(environment, tiny_overrides, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        pools = {"workerpool0": [f"127.0.0.1:{free.getsockname()[1]}"], "workerpool1": ["127.0.0.1:1"]}

    def machine(number):
        spec = json.dumps({"cluster": pools, "task": {"type": f"workerpool{number}", "index": 0}})
        own = {"CLUSTER_SPEC": spec, "ENDCAP_WORKSPACE": f"{tmp_path}/machine-{number}"}
        program = [sys.executable, "-m", "train.main", *tiny_overrides, "training.num_epochs=4"]
        return subprocess.Popen(
            program, env=os.environ | environment | own, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )  # fmt: skip

    first, second = machine(0), machine(1)
    for line in first.stdout:
        if json.loads(line)["event"] == "metric":
            second.terminate()
            break
    said = [one.communicate(timeout=120) for one in (first, second)]
    assert [first.returncode, second.returncode] == [143, 143], said
    first, second = machine(0), machine(1)
    said = [one.communicate(timeout=280) for one in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], said
    lines = [[json.loads(line) for line in out.splitlines()] for out, _ in said]
    assert [any(line["event"].startswith("going on") for line in each) for each in lines] == [True, False]
    assert not any(line["event"] == "metric" for line in lines[1])
    release = open_release(tmp_path / "models" / "together")
    assert (release.manifest.lineage.run_id, len(list((tmp_path / "models").iterdir()))) == ("together", 1)
    assert not list((tmp_path / "machine-1" / "04_releases").glob("*/1"))
