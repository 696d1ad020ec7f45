"""A training submitted: checked, run elsewhere, its metrics fetched."""

from __future__ import annotations

import msgspec
import pytest

from endcap.contracts.errors import InputError
from endcap.contracts.reporting import Silent
from endcap.contracts.submission import MACHINES, SubmissionConfig
from endcap.flows import submission as flow
from endcap.training.launchers.vertex_request import as_mapping
from tests.training.launchers.fake_vertex import PREEMPTED

GIVEN = {"project": "acme-shop", "region": "us-central1", "bucket": "gs://acme", "image_uri": "img.example/train:1"}


def config_of(**more):
    return SubmissionConfig.model_validate({**GIVEN, **more})


def variables(planned):
    return dict(planned.job.environment)


def test_the_environment_follows_from_three_settings():
    planned = flow.plan_vertex(config_of(), ["experiment=best"], "nightly-1", {})
    assert variables(planned) == {
        "PROJECT_ID": "acme-shop",
        "REGION": "us-central1",
        "ARTIFACT_BUCKET": "gs://acme",
        "STAGING_PREFIX": "gs://acme/staging",
        "EXPERIMENT_NAME": "best",
        "DATASET_RECSYS": "recsys",
        "DATASET_DRIFT": "drift",
        "REQUESTS_TABLE": "recsys.requests",
        "FEEDBACK_TABLE": "recsys.feedback",
        "DRIFT_TABLE": "drift.hourly",
        "MODEL_DIR": "gs://acme/endcap/model",
        "CHECKPOINT_DIR": "gs://acme/endcap/checkpoints",
        "VERTEX_EXPERIMENT": "best",
        "RUN_ID": "nightly-1",
    }
    assert planned.job.labels["experiment"] == "best"
    assert planned.buckets == ("acme",)


def test_what_is_set_counts_and_the_submission_s_own_counts_first():
    given = {
        "DATASET_RECSYS": "shop",
        "STAGING_PREFIX": "gs://data/staging",
        "EXPERIMENT_NAME": "Two_Tower",
        "HOME": "x",
    }
    planned = flow.plan_vertex(config_of(env={"STAGING_PREFIX": "gs://mine/in", "EXTRA": "1"}), [], "r", given)
    found = variables(planned)
    assert (found["REQUESTS_TABLE"], found["STAGING_PREFIX"], found["EXTRA"]) == ("shop.requests", "gs://mine/in", "1")
    assert (found["EXPERIMENT_NAME"], found["VERTEX_EXPERIMENT"]) == ("Two_Tower", "two-tower")
    assert "HOME" not in found
    assert planned.buckets == ("acme", "mine")


def test_what_is_checked_is_what_is_trained_whatever_the_image_names():
    arguments = {
        overrides: flow.plan_vertex(config_of(machine=MACHINES["cpu"].model_dump()), overrides, "r", {}).job.arguments
        for overrides in ((), ("seed=3",), ("seed=3", "experiment=best"))
    }
    assert arguments == {
        (): ("experiment=baseline",),
        ("seed=3",): ("experiment=baseline", "seed=3"),
        ("seed=3", "experiment=best"): ("seed=3", "experiment=best"),
    }


def test_wrong_input_is_told_before_anything_is_sent():
    with pytest.raises(InputError, match=r"Did you mean training\.batch_size"):
        flow.plan_vertex(config_of(), ["training.batch_siz=3"], None, {})
    with pytest.raises(InputError, match="offers no NVIDIA_L4"):
        flow.plan_vertex(config_of(region="europe-north1"), [], None, {})
    with pytest.raises(InputError, match="REQUESTS_TABLE is 'requests'"):
        flow.plan_vertex(config_of(), [], None, {"REQUESTS_TABLE": "requests"})
    with pytest.raises(InputError, match="run id 'a/b'"):
        flow.plan_vertex(config_of(), [], "a/b", {})


def test_a_bucket_elsewhere_is_refused_and_nothing_runs(vertex, vertex_config):
    vertex.buckets["data"] = {"name": "data", "location": "EUROPE-WEST4"}
    planned = flow.plan_vertex(vertex_config(), [], None, {"STAGING_PREFIX": "gs://data/staging"})
    with pytest.raises(InputError, match="gs://data lies in europe-west4, and the job would run in us-central1"):
        flow.submit(planned, flow.launcher_for(planned), Silent(), wait=True)
    planned = flow.plan_vertex(vertex_config(), [], None, {"STAGING_PREFIX": "gs://nowhere/staging"})
    with pytest.raises(InputError, match=r"Nothing was submitted\. Where gs://nowhere lies could not be asked"):
        flow.submit(planned, flow.launcher_for(planned), Silent(), wait=True)
    assert vertex.jobs == {}


def test_the_release_s_metrics_are_fetched(vertex, vertex_config, trained_shop, copy_of):
    workspace = copy_of(trained_shop.workspace)
    there = workspace.path / "bucket"

    def release(job):
        env = {each.name: each.value for each in job.job_spec.worker_pool_specs[0].container_spec.env}
        folder = there / env["RUN_ID"]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "manifest.json").write_bytes((trained_shop.result.release.path / "manifest.json").read_bytes())

    vertex.stories.extend([["RUNNING", PREEMPTED], ["RUNNING", "SUCCEEDED"]])
    vertex.on_success = release
    planned = flow.plan_vertex(vertex_config(env={"MODEL_DIR": str(there)}), [], "nightly-1", {}, workspace)
    result = flow.submit(planned, flow.launcher_for(planned), Silent(), wait=True)
    assert result.ended.num_attempts == 2
    assert result.metrics == trained_shop.result.release.manifest.metrics
    assert result.console_url == (
        "https://console.cloud.google.com/vertex-ai/locations/us-central1/training/2?project=acme-shop"
    )
    record = flow.latest_job(workspace, "nightly-1")
    assert record.jobs == list(vertex.jobs)
    attached = flow.plan_attached(vertex_config(), record.jobs[-1], workspace)
    assert attached.job.run_id == "nightly-1"
    again = flow.submit(attached, flow.launcher_for(attached), Silent(), wait=True, attach=record.jobs[-1])
    assert again.metrics == result.metrics
    assert len(vertex.jobs) == 2


def test_without_waiting_it_is_left_to_itself(vertex, vertex_config):
    planned = flow.plan_vertex(vertex_config(), [], "nightly-2", {})
    result = flow.submit(planned, flow.launcher_for(planned), Silent(), wait=False, timeout_s=600)
    assert (result.ended, result.handle) == (None, "projects/acme-shop/locations/us-central1/customJobs/1")
    assert vertex.calls == ["bucket acme", "ListCustomJobs", "CreateCustomJob"]
    sent = as_mapping(vertex.jobs[result.handle])
    assert msgspec.json.encode(planned.request()["job_spec"]["worker_pool_specs"]) == msgspec.json.encode(
        sent["job_spec"]["worker_pool_specs"]
    )
    assert sent["job_spec"]["scheduling"]["timeout"] == "600s"


def test_a_job_that_was_left_is_taken_up_and_goes_on_elsewhere_as_it_was_asked_for(vertex, vertex_config):
    killed = (
        3,
        "The replica workerpool0-0 exited with a non-zero status of 137.",
    )  # by itself it means so on spot alone
    vertex.stories.extend([["RUNNING", "RUNNING", "RUNNING", killed], ["SUCCEEDED"]])
    planned = flow.plan_vertex(vertex_config(strategy="SPOT"), ["seed=3"], "nightly-3", {})
    handle = flow.submit(planned, flow.launcher_for(planned), Silent(), wait=False).handle
    attached = flow.plan_attached(vertex_config(image_uri="img.example/other:2"), handle)
    result = flow.submit(attached, flow.launcher_for(attached), Silent(), wait=True, attach=handle)
    first, second = vertex.jobs.values()
    assert (result.run_id, result.handle, result.ended.num_attempts) == ("nightly-3", second.name, 2)
    assert second.job_spec == first.job_spec
    assert dict(second.labels) == {**first.labels, "endcap_attempt": "2"}


def test_a_machine_without_a_gpu_takes_the_cpu(vertex, vertex_config):
    planned = flow.plan_vertex(vertex_config(machine=MACHINES["cpu"].model_dump()), ["seed=3"], None, {})
    assert planned.job.arguments == ("experiment=baseline", "seed=3")


def test_each_gpu_of_a_machine_gets_a_process(vertex_config):
    four = {"machine_type": "n1-standard-32", "accelerator_type": "NVIDIA_TESLA_T4", "accelerator_count": 4}
    planned = flow.plan_vertex(vertex_config(machine=four, replica_count=2), ["seed=3"], None, {})
    assert planned.job.arguments == ("--processes", "4", "experiment=baseline", "seed=3", "training.device=cuda")
    sent = planned.request()["job_spec"]["worker_pool_specs"]
    assert [pool["container_spec"]["args"] for pool in sent] == [list(planned.job.arguments)] * 2
    on_cpu = flow.plan_vertex(vertex_config(machine=four), ["experiment=best", "training.device=cpu"], None, {})
    assert on_cpu.job.arguments == ("experiment=best", "training.device=cpu")


@pytest.mark.parametrize(("machine", "asked"), [("t4", "cuda"), ("cpu", "auto")])
def test_a_machine_with_a_gpu_asks_for_it(machine, asked, configured, vertex_config):
    config = vertex_config(machine=MACHINES[machine].model_dump())
    assert flow.asking_for_gpu(configured(), config).training.device == asked
    assert flow.asking_for_gpu(configured("training.device=cpu"), config).training.device == "cpu"


def test_here_it_runs_as_a_process(trained_shop, copy_of, tiny_overrides, monkeypatch):
    workspace = copy_of(trained_shop.workspace)
    for name in ("RUN_ID", "PROJECT_ID", "REGION", "MODEL_DIR"):
        monkeypatch.delenv(name, raising=False)
    planned = flow.plan_local(workspace, list(tiny_overrides), environment={})
    assert dict(planned.job.environment) == {}
    result = flow.submit(planned, flow.launcher_for(planned), Silent(), wait=True, timeout_s=120)
    assert result.ended.run_id == trained_shop.result.run_id  # the same data, configuration and code
    assert result.metrics == trained_shop.result.release.manifest.metrics
    with pytest.raises(InputError, match="Nothing is known here of a submission 'other'"):
        flow.latest_job(workspace, "other")
    planned = flow.plan_local(workspace, list(tiny_overrides), "mine", {"EXPERIMENT_NAME": "two-tower"})
    assert dict(planned.job.environment) == {"RUN_ID": "mine"}
