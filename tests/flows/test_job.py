"""A training job as a container runs it: told by its environment alone where to read and where to write."""

import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from endcap.contracts.errors import ConflictError, InputError
from endcap.contracts.events import IMPRESSIONS
from endcap.contracts.reporting import Silent
from endcap.flows import job as job_flow
from endcap.flows.job import run_job
from endcap.flows.job_input import bring_input
from endcap.releases.bundle import open_release
from endcap.workspace import tables
from endcap.workspace.job_environment import read_job_environment
from endcap.workspace.layout import Workspace
from endcap.workspace.manifests import read_manifest
from tests.ingest.fake_bigquery import FakeBigQuery, serving

ROOT = Path(__file__).resolve().parents[2]
KEYS = {"run_id", "request_id", "experiment", "step", "metric", "value", "ts", "level", "event"}
EPOCH_METRICS = {"loss", "ndcg@10", "recall@5", "recall@10", "recall@50", "recall@100", "hit_rate@10", "mrr", "map@10"}
MOMENT = datetime(2011, 4, 1, 12, tzinfo=UTC)


def staged(lines, folder):
    """The shop's lines in the staging form: interactions as a folder of parts, items as a Delta table."""
    interactions = pa.table(
        {
            "user_id": pc.cast(pc.cast(lines["CustomerID"], pa.int64()), pa.string()),
            "item_id": lines["StockCode"],
            "event_type": pa.array(["purchase"] * lines.num_rows),
            "event_time": lines["InvoiceDate"],
            "quantity": lines["Quantity"],
            "price": lines["UnitPrice"],
            "basket_id": lines["InvoiceNo"],
        }
    )
    (folder / "interactions.parquet").mkdir(parents=True)
    half = lines.num_rows // 2
    pq.write_table(interactions[:half], folder / "interactions.parquet" / "part-0.parquet")
    pq.write_table(interactions[half:], folder / "interactions.parquet" / "part-1.parquet")
    items = {row["StockCode"]: row["Description"] for row in lines.to_pylist()}
    write_deltalake(folder / "items.parquet", pa.table({"item_id": ["gone"], "title": ["FROM A VERSION BEFORE"]}))
    catalog = pa.table({"item_id": list(items), "title": list(items.values()), "category_path": ["Gifts"] * len(items)})
    write_deltalake(folder / "items.parquet", catalog, mode="overwrite", schema_mode="overwrite")


def requests(item_ids):
    return [
        {
            "request_id": f"r{number}", "user_key": "0123456789abcdef", "request_time": MOMENT, "release_digest": "d",
            "surface": "home", "item_ids": item_ids, "scores": [0.5, 0.25], "positions": [0, 1],
            "propensities": [0.5, 0.25], "experiment": None, "variant": None,
        }
        for number in range(3)
    ]  # fmt: skip


def feedback(item_id):
    return [{"request_id": "r1", "item_id": item_id, "event_type": "view_item", "event_time": MOMENT, "value": None}]


@pytest.fixture(scope="module")
def job_folder(shop_lines, tmp_path_factory):
    """Staged files and a warehouse's tables, as folders; not to be changed."""
    folder = tmp_path_factory.mktemp("job")
    staged(shop_lines, folder / "staging")
    ids = shop_lines["StockCode"].to_pylist()[:2]
    write_deltalake(folder / "logs" / "requests", pa.Table.from_pylist(requests(ids)[:2]))
    write_deltalake(folder / "logs" / "requests", pa.Table.from_pylist(requests(ids)[2:]), mode="append")
    (folder / "logs" / "feedback").mkdir()
    pq.write_table(pa.Table.from_pylist(feedback(ids[0])), folder / "logs" / "feedback" / "day.parquet")
    return folder


def environment(folder):
    return {
        "STAGING_PREFIX": f"{folder}/staging",
        "REQUESTS_TABLE": f"{folder}/logs/requests",
        "FEEDBACK_TABLE": f"{folder}/logs/feedback",
        "MODEL_DIR": f"{folder}/models",
        "CHECKPOINT_DIR": f"{folder}/checkpoints",
        "EXPERIMENT_NAME": "nightly",
        "RUN_ID": "train-one",
        "REQUEST_ID": "asked-7",
    }


@pytest.fixture(scope="module")
def ran(job_folder, tiny_overrides):
    """What `python -m train.main` of a bare login shell said, with nothing in its environment but the job's."""
    environ = {
        **environment(job_folder),
        "TRAIN_ARGS": " ".join(f"'{text}'" for text in tiny_overrides),
        "ENDCAP_WORKSPACE": f"{job_folder}/workspace",
        "PYTHONPATH": f"{ROOT}/src",
        "HOME": str(job_folder),
        "OMP_NUM_THREADS": "1",  # beside other tests, threads that wait for each other spin
    }
    command = f"eval exec {sys.executable} -m train.main $TRAIN_ARGS --health-port 0"
    return subprocess.run(["bash", "-lc", command], env=environ, capture_output=True, text=True, timeout=280)


def test_the_container_says_json_lines_that_bear_the_runs_names(ran):
    assert (ran.returncode, ran.stderr) == (0, "")
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    for line in lines:
        assert line.keys() >= KEYS
        assert (line["run_id"], line["request_id"], line["experiment"]) == ("train-one", "asked-7", "nightly")
        assert datetime.fromisoformat(line["ts"]).tzinfo is not None
    for epoch in (1, 2):
        assert {line["metric"] for line in lines if line["step"] == epoch} >= EPOCH_METRICS
    tested = {line["metric"] for line in lines if line["step"] == 0}
    assert tested >= {f"all_purchases/{name}" for name in EPOCH_METRICS - {"loss"}}
    assert any(line["event"] == "answering probes" for line in lines)


def test_the_release_and_the_runs_record_stand_at_the_jobs_places(ran, job_folder):
    release = open_release(job_folder / "models" / "train-one")
    assert release.manifest.lineage.run_id == "train-one"
    record = job_folder / "checkpoints" / "train-one" / "record"
    kept = {path.relative_to(record).as_posix() for path in record.rglob("*") if path.is_file()}
    assert kept >= {"manifest.json", "job.json", "checkpoint/model.safetensors", "checkpoint-eval/epochs.json"}
    told = json.loads((record / "job.json").read_text())
    assert (told["model_dir"], told["is_strict"]) == (f"{job_folder}/models", False)
    manifest = read_manifest(Workspace.open(job_folder / "workspace"), "train-one")
    assert manifest.metrics == release.manifest.metrics
    assert json.loads((record / "manifest.json").read_text())["run_id"] == "train-one"


def test_staged_files_and_the_warehouses_logs_are_in_the_tables(ran, job_folder, shop_lines):
    workspace = Workspace.open(job_folder / "workspace")
    items = tables.read_table(workspace, "items", columns=["item_id"])["item_id"].to_pylist()
    assert sorted(items) == sorted(set(shop_lines["StockCode"].to_pylist()))
    shown = tables.read_table(workspace, IMPRESSIONS, columns=["request_id", "propensity", "num_clicks"]).to_pylist()
    assert len(shown) == 6
    assert sum(row["num_clicks"] for row in shown) == 1
    assert {row["propensity"] for row in shown} == {0.5, 0.25}
    assert not list(workspace.scratch.glob("job-*"))


class Heard(Silent):
    def __init__(self):
        self.events = []

    def event(self, event, **fields):
        self.events.append(event)


def test_a_run_that_is_done_does_nothing_and_another_may_not_take_its_name(ran, job_folder, configured, tmp_path):
    job, heard = read_job_environment(environment(job_folder), tmp_path), Heard()
    workspace = Workspace.init(tmp_path / "elsewhere")  # as in a container that was started again
    digest = open_release(job_folder / "models" / "train-one").digest
    done = run_job(job, workspace, configured(), heard)
    assert heard.events == ["nothing to train: this run's release is there already"]
    assert (done.run_id, str(done.place), done.trained) == ("train-one", f"{job_folder}/models/train-one", None)
    assert open_release(job_folder / "models" / "train-one").digest == digest
    with pytest.raises(ConflictError, match=r"configuration: seed differ\. Give this run a RUN_ID of its own"):
        run_job(job, workspace, configured("seed=12"), heard)


def test_what_is_named_and_not_there_is_said(job_folder, tmp_path):
    workspace = Workspace.init(tmp_path / "w")
    for name, said in {
        "STAGING_PREFIX": "There is nothing at .*/nowhere/interactions.parquet",
        "REQUESTS_TABLE": "There is no table at .*/nowhere: .*Set REQUESTS_TABLE",
    }.items():
        given = {"REQUESTS_TABLE": f"{job_folder}/logs/requests"} | {name: f"{tmp_path}/nowhere"}
        with pytest.raises(InputError, match=said):
            bring_input(read_job_environment(given, tmp_path), workspace, Silent())


def test_a_local_job_that_names_no_input_goes_on_with_the_tables_there_are(tmp_path):
    heard = Heard()
    bring_input(read_job_environment({"EXPERIMENT_NAME": "x"}, tmp_path), Workspace.init(tmp_path / "w"), heard)
    assert heard.events == []


def test_logs_come_from_bigquery_where_a_project_is_named(tmp_path, monkeypatch):
    micros = int(MOMENT.timestamp()) * 1_000_000
    rows = {
        "requests": [row | {"request_time": micros} for row in requests(["20001", "20002"])],
        "feedback": [row | {"event_time": micros} for row in feedback("20001")],
    }
    workspace = Workspace.init(tmp_path / "w")
    job = read_job_environment({"PROJECT_ID": "acme-shop", "REQUESTS_TABLE": "recsys.requests"}, tmp_path)
    with serving(FakeBigQuery(tables=rows)) as fake:
        monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", fake.url)
        bring_input(job, workspace, Silent())
        shown = tables.read_table(workspace, IMPRESSIONS, columns=["request_id", "num_clicks"]).to_pylist()
        assert sorted(row["request_id"] for row in shown) == ["r0", "r0", "r1", "r1", "r2", "r2"]
        assert sum(row["num_clicks"] for row in shown) == 1
        fake.tables = {"requests": [], "feedback": []}
        heard = Heard()
        bring_input(job, Workspace.init(tmp_path / "empty"), heard)
        assert heard.events == ["read from the warehouse"] * 2


def test_a_wrong_environment_ends_before_any_work_with_all_of_its_problems(tmp_path):
    environ = {
        "PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT}/src", "MODEL_DIR": "gs://acme-artifacts/models", "REGION": "",
    }  # fmt: skip
    said = subprocess.run(
        [sys.executable, "-m", "train.main", "--workspace", str(tmp_path / "w")],
        env=environ, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr.startswith("error: The job's environment has 12 problems:\n  PROJECT_ID is missing; expected ")
    assert "\n  REGION is set but empty; " in said.stderr
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("store", ["gcs", "s3"])
def test_places_in_an_object_store_that_fails_now_and_then(
    store, request, trained_shop, job_folder, tmp_path, monkeypatch
):
    """Bringing the input and writing what came out; what is between is trained elsewhere in this file."""
    bucket, rules = request.getfixturevalue(f"{store}_location"), request.getfixturevalue(f"{store}_server").rules
    for path in sorted((job_folder / "staging").rglob("*")):
        if path.is_file():
            (bucket / "staging" / path.relative_to(job_folder / "staging").as_posix()).upload_file(path)
    cloud = {
        "PROJECT_ID": "acme-shop", "REGION": "europe-west4", "ARTIFACT_BUCKET": str(bucket), "RUN_ID": "one",
        "STAGING_PREFIX": f"{bucket}/staging", "EXPERIMENT_NAME": "nightly", "DATASET_RECSYS": "recsys",
        "DATASET_DRIFT": "drift", "REQUESTS_TABLE": f"{job_folder}/logs/requests", "DRIFT_TABLE": "drift.hourly",
        "FEEDBACK_TABLE": f"{job_folder}/logs/feedback", "MODEL_DIR": f"{bucket}/models",
        "CHECKPOINT_DIR": f"{bucket}/checkpoints", "VERTEX_EXPERIMENT": "nightly",
    }  # fmt: skip
    started = []

    def trained(workspace, configuration, report, given):
        started.append(given)
        assert tables.current_dataset(workspace).source == "logs+staging"
        return trained_shop.result

    monkeypatch.setattr(job_flow, "train_run", trained)
    shutil.copytree(trained_shop.workspace.runs, tmp_path / "w" / "03_runs")
    job, workspace = read_job_environment(cloud, tmp_path), Workspace.init(tmp_path / "w")
    assert job.is_strict
    rules.chaos(0.1, seed=5)
    done = run_job(job, workspace, trained_shop.configuration, Silent())
    assert len(rules.injected) > 3
    rules.chaos(0.0)
    assert (started[0].run_id, str(started[0].checkpoints)) == ("one", f"{bucket}/checkpoints")
    (bucket / "models" / "one").download_folder(tmp_path / "release")
    assert open_release(tmp_path / "release").digest == trained_shop.result.release.digest
    names = [file.below(bucket) for file in (bucket / "checkpoints").list()]
    assert {"checkpoints/one/record/job.json", "checkpoints/one/record/manifest.json"} <= set(names)
    assert run_job(job, workspace, trained_shop.configuration, Silent()).trained is None
    assert (len(started), str(done.place)) == (1, f"{bucket}/models/one")
