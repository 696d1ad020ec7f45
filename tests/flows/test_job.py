"""A training job as a container runs it: told by its environment alone where to read and where to write."""

import hashlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from endcap.contracts.errors import ConflictError, InputError
from endcap.contracts.events import IMPRESSIONS
from endcap.contracts.reporting import Silent
from endcap.evaluation.metrics import METRICS
from endcap.flows import job as job_flow
from endcap.flows.job import run_job
from endcap.flows.job_input import bring_input
from endcap.releases.bundle import open_release
from endcap.workspace import tables
from endcap.workspace.job_environment import job_workspace, read_job_environment
from endcap.workspace.layout import MARKER, Workspace
from endcap.workspace.locations import Location
from endcap.workspace.manifests import read_manifest
from tests.fault_proxy import CHAOS
from tests.ingest.fake_bigquery import FakeBigQuery, serving
from tests.job_services import job_environment, staged_interactions
from tests.object_stores import IMPATIENT, listing

ROOT = Path(__file__).resolve().parents[2]
KEYS = {"run_id", "request_id", "experiment", "step", "metric", "value", "ts", "level", "event"}
EPOCH_METRICS = {"loss", "auc", *METRICS}
MOMENT = datetime(2011, 4, 1, 12, tzinfo=UTC)


def staged(lines, folder):
    """The shop's lines in the staging form: interactions as a folder of parts, items as a Delta table."""
    interactions = staged_interactions(lines)
    (folder / "interactions.parquet").mkdir(parents=True)
    half = lines.num_rows // 2
    pq.write_table(interactions[:half], folder / "interactions.parquet" / "part-0.parquet")
    pq.write_table(interactions[half:], folder / "interactions.parquet" / "part-1.parquet")
    items = {row["StockCode"]: row["Description"] for row in lines.to_pylist()}
    write_deltalake(folder / "items.parquet", pa.table({"item_id": ["gone"], "title": ["FROM A VERSION BEFORE"]}))
    catalog = pa.table({"item_id": list(items), "title": list(items.values()), "category_path": ["Gifts"] * len(items)})
    write_deltalake(folder / "items.parquet", catalog, mode="overwrite", schema_mode="overwrite")


def requests(item_ids, user_key="0123456789abcdef"):
    return [
        {
            "request_id": f"r{number}", "user_key": user_key, "request_time": MOMENT, "release_digest": "d",
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


@pytest.fixture(scope="module")
def job_bucket(job_folder, gcs_server):
    """The same in a bucket, with a way there for as long as this file's tests run; `models` and `checkpoints` come later."""
    name = f"acme-{secrets.token_hex(6)}"
    gcs_server.make_bucket(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", gcs_server.proxy.url)
        bucket = replace(Location.parse(f"gs://{name}"), patience=IMPATIENT)
        upload(job_folder, bucket)
        yield bucket


def upload(folder, bucket):
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            (bucket / path.relative_to(folder).as_posix()).upload_file(path)


@dataclass(frozen=True)
class Ran:
    returncode: int
    stdout: str
    stderr: str
    faults: dict[str, int]
    workspace: Workspace


@pytest.fixture(scope="module")
def ran(job_bucket, gcs_server, tiny_overrides, tmp_path_factory):
    """What `python -m train.main` of a bare login shell said, with nothing in its environment but the job's.

    A fifth of all requests to the bucket fail in one way or another; `faults` says how many.
    """
    folder = tmp_path_factory.mktemp("ran")
    environ = {
        **job_environment(job_bucket),
        "STORAGE_EMULATOR_HOST": gcs_server.proxy.url,
        "NO_GCE_CHECK": "true",  # nobody but a machine of Google's has to be asked for credentials
        "TRAIN_ARGS": " ".join(f"'{text}'" for text in tiny_overrides),
        "ENDCAP_WORKSPACE": f"{folder}/workspace",
        "PYTHONPATH": f"{ROOT}/src",
        "HOME": str(folder),
        "OMP_NUM_THREADS": "1",  # beside other tests, threads that wait for each other spin
    }
    command = f"eval exec {sys.executable} -m train.main $TRAIN_ARGS --health-port 0"
    gcs_server.rules.chaos(0.2, seed=7)
    said = subprocess.run(["bash", "-lc", command], env=environ, capture_output=True, text=True, timeout=280)
    faults = gcs_server.rules.counts()
    gcs_server.rules.reset()
    return Ran(said.returncode, said.stdout, said.stderr, faults, Workspace.init(folder / "workspace"))


def test_the_container_says_json_lines_that_bear_the_runs_names(ran):
    assert (ran.returncode, ran.stderr) == (0, "")
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    for line in lines:
        assert line.keys() >= KEYS
        assert (line["run_id"], line["request_id"], line["experiment"]) == ("train-one", "asked-7", "nightly")
        assert datetime.fromisoformat(line["ts"]).tzinfo is not None
    for epoch in (1, 2):
        told = [line["metric"] for line in lines if line["step"] == epoch]
        assert set(told) >= EPOCH_METRICS
        assert len(told) == len(set(told))  # the refit's epochs count anew, under names of their own
    assert [line["step"] for line in lines if line["metric"] == "refit/loss"]
    tested = {line["metric"] for line in lines if line["step"] == 0}
    assert tested >= {f"{part}{name}" for name in EPOCH_METRICS - {"loss"} for part in ("", "new_to_customer/")}
    assert any(line["event"] == "answering probes" for line in lines)


def test_the_release_and_the_runs_record_stand_at_the_jobs_places(ran, job_bucket, tmp_path):
    (job_bucket / "models" / "train-one").download_folder(tmp_path / "release")
    release = open_release(tmp_path / "release")  # holds every file against the digest in the manifest
    assert release.manifest.lineage.run_id == "train-one"
    assert release.digest == open_release(ran.workspace.releases / "recommender" / "1").digest
    record = job_bucket / "checkpoints" / "train-one" / "record"
    kept = {file.below(record) for file in record.list()}
    assert kept >= {"manifest.json", "job.json", "checkpoint/model.safetensors", "checkpoint-eval/epochs.json"}
    told = json.loads((record / "job.json").read_bytes())
    assert (told["model_dir"], told["is_strict"]) == (f"{job_bucket}/models", True)
    manifest = read_manifest(ran.workspace, "train-one")
    assert manifest.metrics == release.manifest.metrics
    assert json.loads((record / "manifest.json").read_bytes())["run_id"] == "train-one"


def test_what_is_written_to_a_store_that_fails_is_whole_and_its_manifest_last(ran, job_bucket):
    print(f"\n{listing(job_bucket)}\n{ran.faults}")
    assert sum(ran.faults.values()) > 15
    assert len(ran.faults) >= len(CHAOS) - 1
    for file in job_bucket.list():
        assert hashlib.sha256(file.read_bytes()).hexdigest() == file.stat().sha256
    models, checkpoints = job_bucket / "models", job_bucket / "checkpoints" / "train-one"
    release = {file.below(models / "train-one"): int(file.stat().generation) for file in models.list()}
    assert max(release, key=lambda name: release[name]) == "manifest.json"
    for stage in ("tune", "refit"):
        manifest = json.loads((checkpoints / stage / "finished" / "manifest.json").read_bytes())
        assert (checkpoints / stage).names() == ["finished"]
        assert (checkpoints / stage / "finished").names() == sorted([*manifest["files"], "manifest.json"])
        for name, described in manifest["files"].items():
            data = (checkpoints / stage / "finished" / name).read_bytes()
            assert hashlib.sha256(data).hexdigest() == described["sha256"]


def test_staged_files_and_the_warehouses_logs_are_in_the_tables(ran, shop_lines):
    workspace = ran.workspace
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

    def of(self, start):
        return [event for event in self.events if event.startswith(start)]


def test_a_run_that_is_done_does_nothing_and_another_may_not_take_its_name(ran, job_bucket, configured, tmp_path):
    job, heard = read_job_environment(job_environment(job_bucket), tmp_path), Heard()
    workspace = Workspace.init(tmp_path / "elsewhere")  # as in a container that was started again
    before = listing(job_bucket)
    done = run_job(job, workspace, configured(), heard)
    assert heard.events == ["nothing to train: this run's release is there already"]
    assert (done.run_id, str(done.place), done.trained) == ("train-one", f"{job_bucket}/models/train-one", None)
    with pytest.raises(ConflictError, match=r"configuration: seed differ\. Give this run a RUN_ID of its own"):
        run_job(job, workspace, configured("seed=12"), heard)
    assert listing(job_bucket) == before


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


def test_users_in_requests_are_known_by_the_key_of_the_workspace_that_served_them(tmp_path, monkeypatch):
    served = Workspace.init(tmp_path / "served")
    key = re.search("workspace_key: (.*)", (served.path / MARKER).read_text())[1]
    monkeypatch.setenv("SHOP_KEY", f"{key}\n")
    for name in ("requests", "staging"):
        (tmp_path / name).mkdir()
    bought = {"user_id": ["12001"], "item_id": ["20001"], "event_type": ["purchase"], "event_time": [MOMENT]}
    pq.write_table(pa.table(bought), tmp_path / "staging" / "interactions.parquet")
    rows = requests(["20001"], served.user_key("12001"))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "requests" / "day.parquet")
    given = {"STAGING_PREFIX": f"{tmp_path}/staging", "REQUESTS_TABLE": f"{tmp_path}/requests"}
    by_name = {"USER_KEY_SECRET": "secret://shop-key"}

    def whose(name, **secret):
        job, heard = read_job_environment({**given, **secret}, tmp_path), Heard()
        workspace = job_workspace(job, tmp_path / name)
        bring_input(job, workspace, heard)
        shown = tables.read_table(workspace, IMPRESSIONS, columns=["user_id"])["user_id"].to_pylist()
        return set(shown), heard.of("users in the requests"), heard.of("nobody in the requests is a user")

    assert whose("with", **by_name) == ({"12001"}, ["users in the requests"], [])
    users, known, unknown = whose("without")
    assert (users, known) == ({served.user_key("12001")}, [])
    assert [said.partition("matches. ")[2][:19] for said in unknown] == ["Set USER_KEY_SECRET"]


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


@pytest.mark.parametrize("store", [pytest.param("disk", marks=pytest.mark.slow), "s3"])
def test_places_elsewhere_are_read_and_written_alike(store, request, trained_shop, job_folder, tmp_path, monkeypatch):
    """Bringing the input and writing what came out; what is between is trained elsewhere in this file."""
    place = Location.parse(tmp_path / "artifacts") if store == "disk" else request.getfixturevalue("s3_location")
    upload(job_folder, place)
    started = []

    def trained(workspace, configuration, report, given):
        started.append(given)
        assert tables.current_dataset(workspace).source == "logs+staging"
        return trained_shop.result

    monkeypatch.setattr(job_flow, "train_run", trained)
    shutil.copytree(trained_shop.workspace.runs, tmp_path / "w" / "03_runs")
    job, workspace = read_job_environment(job_environment(place), tmp_path), Workspace.init(tmp_path / "w")
    assert job.is_strict == (store == "s3")
    if store == "s3":
        request.getfixturevalue("s3_server").rules.chaos(0.1, seed=5)
    done = run_job(job, workspace, trained_shop.configuration, Silent())
    if store == "s3":
        assert len(request.getfixturevalue("s3_server").rules.injected) > 3
        request.getfixturevalue("s3_server").rules.chaos(0.0)
    assert (started[0].run_id, str(started[0].checkpoints)) == ("train-one", f"{place}/checkpoints")
    (place / "models" / "train-one").download_folder(tmp_path / "release")
    assert open_release(tmp_path / "release").digest == trained_shop.result.release.digest
    names = [file.below(place) for file in (place / "checkpoints").list()]
    assert {f"checkpoints/train-one/record/{name}.json" for name in ("job", "manifest")} <= set(names)
    assert run_job(job, workspace, trained_shop.configuration, Silent()).trained is None
    assert (len(started), str(done.place)) == (1, f"{place}/models/train-one")
