"""Each job's configuration becomes the CustomJobSpec of the official client, strictly, and keeps to what a job needs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.cloud.aiplatform_v1.types import CustomJobSpec, Scheduling
from google.protobuf import json_format

from endcap.contracts.submission import SubmissionConfig
from endcap.flows.submission import plan_vertex
from tests.deploy.dockerfile import ROOT
from tests.deploy.test_terraform import resources

FILES = sorted((ROOT / "deploy" / "vertex").glob("*.yaml"))
REQUIRED = {
    "PROJECT_ID", "REGION", "ARTIFACT_BUCKET", "STAGING_PREFIX", "EXPERIMENT_NAME", "DATASET_RECSYS", "DATASET_DRIFT",
    "REQUESTS_TABLE", "FEEDBACK_TABLE", "DRIFT_TABLE", "MODEL_DIR", "CHECKPOINT_DIR", "WANDB_ENABLED", "VERTEX_EXPERIMENT",
}  # fmt: skip
PLACES = (
    "STAGING_PREFIX", "MODEL_DIR", "CHECKPOINT_DIR", "DATASET_RECSYS", "DATASET_DRIFT", "REQUESTS_TABLE", "FEEDBACK_TABLE",
    "DRIFT_TABLE",
)  # fmt: skip
MACHINES = {
    "cpu": ("n1-standard-8", "", 0, Scheduling.Strategy.STANDARD),
    "l4": ("g2-standard-8", "NVIDIA_L4", 1, Scheduling.Strategy.STANDARD),
    "l4-spot": ("g2-standard-8", "NVIDIA_L4", 1, Scheduling.Strategy.SPOT),
    "t4": ("n1-standard-8", "NVIDIA_TESLA_T4", 1, Scheduling.Strategy.STANDARD),
}


def spec_of(path: Path) -> Any:
    """The file as the client's own message; a field that it doesn't know is an error."""
    text = re.sub(r"\$\{(\w+)\}", lambda match: match[1].lower().replace("_", "-"), path.read_text(encoding="utf-8"))
    message = CustomJobSpec.pb(CustomJobSpec())
    json_format.ParseDict(yaml.safe_load(text), message)
    return CustomJobSpec.wrap(message)


def test_there_is_a_file_for_each_machine() -> None:
    assert {path.stem for path in FILES} == MACHINES.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_configuration_is_a_job_of_the_machine_that_it_names(path: Path) -> None:
    spec = spec_of(path)
    (pool,) = spec.worker_pool_specs
    machine, accelerator, count, strategy = MACHINES[path.stem]
    found = pool.machine_spec
    assert found.machine_type == machine
    assert (found.accelerator_type.name.replace("ACCELERATOR_TYPE_UNSPECIFIED", "")) == accelerator
    assert (found.accelerator_count, pool.replica_count) == (count, 1)
    assert pool.disk_spec.boot_disk_size_gb >= 100
    assert spec.scheduling.strategy == strategy
    assert spec.scheduling.restart_job_on_worker_restart == (strategy == Scheduling.Strategy.SPOT)
    assert spec.service_account == "service-account"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_job_has_the_whole_environment_and_no_secret(path: Path) -> None:
    (pool,) = spec_of(path).worker_pool_specs
    variables = {one.name: one.value for one in pool.container_spec.env}
    assert variables.keys() >= REQUIRED
    assert all(variables.values())
    assert [name for name in variables if name.endswith(("_KEY", "_TOKEN", "_PASSWORD"))] == []
    device = "cpu" if path.stem == "cpu" else "cuda"
    assert list(pool.container_spec.args) == [
        f"training.device={device}",
        "trackers.wandb.api_key=secret://wandb-api-key",
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_job_reads_and_writes_where_endcap_submit_says(path: Path) -> None:
    """So that a run that one of them began goes on under the other."""
    spec = spec_of(path)
    found = {one.name: one.value for one in spec.worker_pool_specs[0].container_spec.env}
    config = SubmissionConfig(project="acme-shop", region="us-central1", bucket="artifact-bucket", image_uri="a/b")
    planned = plan_vertex(config, [], environment={})
    assert {name: found[name] for name in PLACES} == {name: planned.job.environment[name] for name in PLACES}
    assert spec.base_output_directory.output_uri_prefix == planned.config.base_output_directory


def test_terraform_makes_the_tables_and_lets_checkpoints_go_where_jobs_put_them() -> None:
    (pool,) = spec_of(FILES[0]).worker_pool_specs
    found = {one.name: one.value for one in pool.container_spec.env}
    tables = resources("google_bigquery_table")
    for name in ("requests", "feedback", "drift"):
        table = tables[f"google_bigquery_table.{name}"]
        dataset = table["dataset_id"].split(".")[1]
        assert f"{dataset}.{table['table_id']}" == found[f"{name.upper()}_TABLE"]
    rules = resources("google_storage_bucket")["google_storage_bucket.artifacts"]["lifecycle_rule"]
    (prefix,) = [one["condition"][0]["matches_prefix"][0] for one in rules if "matches_prefix" in one["condition"][0]]
    assert f"gs://artifact-bucket/{prefix}" == f"{found['CHECKPOINT_DIR']}/"
